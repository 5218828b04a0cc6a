"""Devices, processes and signals of a run."""

from __future__ import annotations

import json
import os
import signal
import threading

from common.errors import DataError


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
        raise DataError(
            f"--distribute multiworker needs TF_CONFIG with cluster.worker and task.index ({error!r})"
        ) from error
    return tf.distribute.MultiWorkerMirroredStrategy(), (index, workers)


class Interrupts:
    """Context in which Ctrl-C and SIGTERM set `asked` instead of ending the program, so that a step ends and is saved; a second one ends it."""

    def __enter__(self) -> Interrupts:
        self.asked, self._before = False, {}
        if threading.current_thread() is threading.main_thread():  # Python sets handlers there only
            self._before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *error) -> None:
        self._restore()

    def _note(self, *_) -> None:
        self.asked = True
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
