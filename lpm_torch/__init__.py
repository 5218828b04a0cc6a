"""Convolutional Pose Machines and LSTM Pose Machines in PyTorch; `Estimator` is a trained one."""


def __getattr__(name: str):
    if name == "Estimator":
        from lpm_torch.estimator import Estimator

        return Estimator
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
