"""DeepPose stage 1 (Toshev and Szegedy, CVPR 2014) on TensorFlow and Keras 3, after asanakoy/deeppose_tf."""
