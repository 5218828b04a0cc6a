"""What the five houses share: data sets, geometry, metrics, the prediction file. Without any framework."""

__version__ = "0.2.0"
