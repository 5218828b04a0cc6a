"""DeepPose in two stages on Caffe's own files, in PyTorch. `from deeppose_caffe_port import Estimator`."""


def __getattr__(name: str):
    if name == "Estimator":
        from deeppose_caffe_port.estimator import Estimator

        return Estimator
    raise AttributeError(f"module {__name__} has no attribute {name}")
