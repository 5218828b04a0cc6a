"""Devices and processes: the tf.distribute strategy of a run."""

from __future__ import annotations

import json
import os

from common.poses import DataError


def make_strategy(kind: str):
    """(strategy or None, (k, n): this is process k of n). `mirrored`: all GPUs of the machine; `multiworker`: processes of TF_CONFIG.

    DataError when TF_CONFIG is missing or damaged.
    """
    if kind == "none":
        return None, (0, 1)
    import tensorflow as tf

    if kind == "mirrored":
        return tf.distribute.MirroredStrategy(), (0, 1)
    try:
        cluster = json.loads(os.environ["TF_CONFIG"])
        workers, index = len(cluster["cluster"]["worker"]), int(cluster["task"]["index"])
    except (KeyError, ValueError, TypeError) as error:
        raise DataError(f"--distribute multiworker needs TF_CONFIG with cluster.worker and task.index ({error!r})") from error
    return tf.distribute.MultiWorkerMirroredStrategy(), (index, workers)
