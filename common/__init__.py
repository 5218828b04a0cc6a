"""What the five houses share: data sets, geometry, metrics, the prediction file. Framework-free (no torch, tensorflow
or paddle)."""

__version__ = "0.2.0"
