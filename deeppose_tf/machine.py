"""Where a run computes: TensorFlow's threads and devices, and the processes of a distributed run."""

from __future__ import annotations

import json
import os

from common.errors import DataError
from deeppose_tf.config import Config


def rank_and_world(config: Config) -> tuple[int, int]:
    """Number of this process and how many there are, from TF_CONFIG (`--distribute multiworker`). DataError when it is missing or malformed."""
    if config.distribute != "multiworker":
        return 0, 1
    try:
        content = json.loads(os.environ["TF_CONFIG"])
        workers, task = content["cluster"]["worker"], content["task"]
        if set(content["cluster"]) != {"worker"} or task["type"] != "worker":
            raise ValueError("only workers, no chief or parameter servers")
        rank = int(task["index"])
    except (KeyError, ValueError, TypeError) as error:
        raise DataError(
            f"--distribute multiworker: the variable TF_CONFIG is {'not set' if 'TF_CONFIG' not in os.environ else f'not usable ({error})'}; set it"
            ' in every process to {"cluster": {"worker": ["HOST:PORT", ...]}, "task": {"type": "worker", "index": N}}'
        ) from error
    if config.batch_size % len(workers):
        raise DataError(
            f"--batch_size {config.batch_size} cannot be shared among {len(workers)} workers; use a multiple"
        )
    return rank, len(workers)


def start_tensorflow(config: Config):
    """Import and set up TensorFlow; the run's strategy, None for one device. Call before any other TensorFlow operation."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    # keep freed memory: a step's large tensors would otherwise come as fresh, zeroed pages each time (a twentieth of a CPU step, measured)
    os.environ.setdefault("TF_CPU_ALLOCATOR_USE_BFC", "true")
    import tensorflow as tf

    if config.threads:
        tf.config.threading.set_intra_op_parallelism_threads(config.threads)
        tf.config.threading.set_inter_op_parallelism_threads(max(1, config.threads // 2))
    for device in tf.config.list_physical_devices("GPU"):
        tf.config.experimental.set_memory_growth(device, True)
    if config.distribute == "none":
        return None
    kind = {"mirrored": tf.distribute.MirroredStrategy, "multiworker": tf.distribute.MultiWorkerMirroredStrategy}[
        config.distribute
    ]
    strategy = kind()
    if config.batch_size % strategy.num_replicas_in_sync:
        raise DataError(
            f"--batch_size {config.batch_size} cannot be shared among {strategy.num_replicas_in_sync} devices; use a multiple"
        )
    return strategy
