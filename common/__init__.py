"""What the five houses share: data sets, geometry, metrics, the prediction file. Without any framework."""

import os

__version__ = "0.2.0"
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(1 << 27))  # OpenCV's own limit lets a small file ask for 3 GB
