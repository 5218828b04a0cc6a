"""Simple Baselines for human pose estimation in PaddlePaddle: `from simplebaseline_paddle import Estimator`."""


def __getattr__(name: str):
    if name == "Estimator":
        from simplebaseline_paddle.estimator import Estimator

        return Estimator
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
