"""Batches in the background: `batches(stream, ...)` through Chainer's MultiprocessIterator (DT) or a pool of processes; the same batches
from both. `in_order` is for scoring. No framework but Chainer is imported, and that only when it is asked for.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import sys
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import numpy as np

from common.errors import DataError
from deeppose_tf.data import Crops, Persons, Stream, example, generator, stack

PREFETCH = 3  # batches that are made ahead (DT)
Batch = tuple[np.ndarray, ...]


def batches(stream: Stream, batch_size: int, *, kind: str = "chainer", workers: int = 1) -> Iterator[Batch]:
    """The stream's samples in its order, `batch_size` at a time (the last may be smaller): crops, targets, valid, boxes.

    The first batch is made when this is called, so that the processes start before a framework's threads do. Close the iterator (or let it
    go) to end the processes. DataError when Chainer is asked for and cannot be imported.
    """
    started = {"chainer": _chainer, "pool": _pool}[kind](stream, batch_size, workers)
    first = next(started, None)
    return itertools.chain([first], started) if first is not None else iter(())


def _chainer(stream: Stream, batch_size: int, workers: int) -> Iterator[Batch]:
    iterator = _multiprocess_iterator()(
        stream, batch_size, repeat=False, shuffle=False, n_processes=workers, n_prefetch=PREFETCH, dataset_timeout=None
    )
    try:
        for samples in iterator:
            yield stack(samples)
    finally:
        iterator.finalize()


def _multiprocess_iterator():
    """Chainer's class. It needs `numpy.distutils` with the standard library's distutils, which setuptools replaces by its own otherwise."""
    os.environ["SETUPTOOLS_USE_DISTUTILS"] = "stdlib"
    if "_distutils_hack" in sys.modules:
        sys.modules["_distutils_hack"].remove_shim()
    import warnings

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Chainer's own age
            from chainer.iterators import MultiprocessIterator
    except Exception as error:  # besides ImportError what an incompatible NumPy or setuptools raises
        raise DataError(
            f"Chainer cannot be imported here ({type(error).__name__}: {error}); install chainer==7.8.1, or use --loader pool"
        ) from error
    # setDaemon is deprecated since Python 3.10
    warnings.filterwarnings("ignore", category=DeprecationWarning, module="chainer")
    return MultiprocessIterator


_stream: Stream | None = None  # of a pool's worker process


def _begin(stream: Stream) -> None:
    global _stream
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends the workers
    import cv2

    cv2.setNumThreads(0)
    _stream = stream


def _part(positions: range) -> Batch:
    return stack([_stream[p] for p in positions])


def _pool(stream: Stream, batch_size: int, workers: int) -> Iterator[Batch]:
    # forked workers would inherit the locks of a framework's threads
    context = multiprocessing.get_context("forkserver" if sys.platform.startswith("linux") else "spawn")
    # not multiprocessing.Pool, which, ended early, hangs now and then on a worker that is just sending a result
    pool = ProcessPoolExecutor(workers, context, _begin, (stream,))
    try:
        ahead: deque = deque()
        for start in range(0, len(stream), batch_size):
            stop = min(start + batch_size, len(stream))
            size = -(-(stop - start) // workers)
            parts = [range(at, min(at + size, stop)) for at in range(start, stop, size)]
            ahead.append([pool.submit(_part, part) for part in parts])
            if len(ahead) > PREFETCH:
                yield _joined(ahead.popleft())
        while ahead:
            yield _joined(ahead.popleft())
    finally:
        pool.shutdown(cancel_futures=True)


def _joined(results: list) -> Batch:
    return tuple(np.concatenate(column) for column in zip(*(result.result() for result in results)))


def in_order(persons: Persons, crops: Crops, batch_size: int) -> Iterator[Batch]:
    """Every person once, in order, made ahead by one thread (OpenCV lets the others run meanwhile)."""

    def make(start: int) -> Batch:
        indices = range(start, min(start + batch_size, len(persons)))
        return stack([example(persons, i, crops, generator(0, 0, i)) for i in indices])

    with ThreadPoolExecutor(1) as executor:
        ahead: deque = deque()
        for start in range(0, len(persons), batch_size):
            ahead.append(executor.submit(make, start))
            if len(ahead) > 1:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
