"""DeepPose stage 1 (Toshev and Szegedy, CVPR 2014) on TensorFlow and Keras 3, after asanakoy/deeppose_tf (DT).

from deeppose_tf import Estimator
"""


def __getattr__(name: str):
    if name == "Estimator":
        from deeppose_tf.estimator import Estimator

        return Estimator
    raise AttributeError(f"module {__name__} has no attribute {name}")
