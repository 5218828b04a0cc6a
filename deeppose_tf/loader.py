"""Batches in the background, for training by Chainer's MultiprocessIterator as in DT, for scoring by a thread."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing import resource_tracker

import numpy as np
from tqdm import tqdm

from common.errors import DataError, DataWarning
from deeppose_tf.data import Crops, Persons, Stream, example, generator, stack

PREFETCH = 3  # batches that are made ahead (DT)
WATCH = 1.0  # seconds of waiting after which workers are looked at
Batch = tuple[np.ndarray, ...]


def batches(stream: Stream, batch_size: int, workers: int = 1) -> Iterator[Batch]:
    """The stream's samples in its order, `batch_size` at a time (the last may be smaller), as `data.stack` has them.

    Close the iterator (or let it go) to end the processes. DataError when no picture can be read, for a worker that
    died, or where Chainer cannot be imported.
    """
    iterator = _multiprocess_iterator()(stream, batch_size, repeat=False, shuffle=False, n_processes=workers,
                                        n_prefetch=PREFETCH, dataset_timeout=None)  # fmt: skip
    try:
        with _spawned():
            samples = next(iterator, None)  # the pool begins with the first batch
        processes = _processes(iterator)
        iterator._comm.dataset_timeout = WATCH
        while samples is not None:
            for error in samples:
                if isinstance(error, Exception):
                    raise error
            yield stack(samples)
            samples = _next(iterator, processes)
    finally:
        _processes(iterator)  # some may still be starting
        iterator.finalize()


def _processes(iterator) -> list:
    """Those of the pool; it has to end them by SIGKILL, as they do not hear SIGTERM."""
    pool = iterator._prefetch_loop._pool
    for process in pool._pool if pool else ():
        process.terminate = process.kill
    return list(pool._pool) if pool else []


@contextmanager
def _spawned():
    """Inside, processes are spawned, as forked ones would inherit the locks of a framework's threads, and inherit that
    SIGINT and SIGTERM are blocked: sent to the whole group (`timeout`, SLURM), they are for the main process alone,
    which ends the step and saves."""
    before = multiprocessing.get_start_method(allow_none=True)
    multiprocessing.set_start_method("spawn", force=True)
    resource_tracker.ensure_running()  # which unblocks them when it starts
    heard = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, heard)
        multiprocessing.set_start_method(before, force=True)


def _next(iterator, processes: list):
    """The next samples, None at the end. DataError when one of the processes died, had it work to do or not."""
    while True:
        samples, waited = None, False
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", iterator.TimeoutWarning)
                samples = next(iterator, None)
        except iterator.TimeoutWarning:
            waited = True
        if any(not process.is_alive() for process in processes):
            _abandon(iterator)
            what = "a loader process was ended from outside, perhaps for lack of memory"
            raise DataError(f"{what}; give fewer --workers, and go on with --resume")
        if not waited:
            return samples


def _abandon(iterator) -> None:
    """End the pool of an iterator without waiting for it: whoever was killed may hold a lock of it for ever."""
    pool = iterator._prefetch_loop._pool
    iterator._comm.terminate()
    iterator._finalized = True
    pool._terminate.cancel()
    pool._worker_handler._state = "TERMINATE"  # no new processes
    for process in pool._pool:
        process.kill()


def _multiprocess_iterator():
    """Chainer's class, which needs the standard library's distutils; setuptools replaces it by its own otherwise."""
    os.environ["SETUPTOOLS_USE_DISTUTILS"] = "stdlib"
    if "_distutils_hack" in sys.modules:
        sys.modules["_distutils_hack"].remove_shim()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Chainer's own age
            from chainer.iterators import MultiprocessIterator
    except Exception as error:  # besides ImportError what an incompatible NumPy or setuptools raises
        what = f"Chainer cannot be imported here ({type(error).__name__}: {error})"
        raise DataError(f"{what}; install deeppose_tf/requirements.txt") from error
    # setDaemon is deprecated since Python 3.10
    warnings.filterwarnings("ignore", category=DeprecationWarning, module="chainer")
    return MultiprocessIterator


def in_order(persons: Persons, crops: Crops, batch_size: int) -> Iterator[Batch]:
    """Every person once, in order, whose picture can be read, and which one it is; a thread makes the next batch."""

    def make(start: int) -> Batch | None:
        samples = []
        for i in range(start, min(start + batch_size, len(persons))):
            try:
                samples.append((*example(persons, i, crops, generator(0, 0, i)), np.array(i)))
            except DataError as error:
                warnings.warn(str(error), DataWarning, stacklevel=2)
        return stack(samples) if samples else None

    with ThreadPoolExecutor(1) as executor:
        ahead = executor.submit(make, 0)
        starts = range(batch_size, len(persons) + batch_size, batch_size)
        for start in tqdm(starts, "predict", leave=False, disable=None):
            batch = ahead.result()
            ahead = executor.submit(make, start) if start < len(persons) else ahead
            if batch is not None:
                yield batch
