"""DeeperCut / ArtTrack: single and multi-person pose estimation on TensorFlow; `Estimator`."""


def __getattr__(name: str):
    if name == "Estimator":
        from deepercut_tf.estimator import Estimator

        return Estimator
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
