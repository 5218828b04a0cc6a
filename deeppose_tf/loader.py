"""Batches in the background: `batches(stream, ...)` through Chainer's MultiprocessIterator (DT) or a pool of processes;
the same batches from both. `in_order` is for scoring. No framework but Chainer is imported, and that only when it is
asked for.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import warnings
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool

import numpy as np

from common.errors import DataError, DataWarning
from deeppose_tf.data import Crops, Persons, Stream, example, generator, stack

PREFETCH = 3  # batches that are made ahead (DT)
START = "spawn"  # forked workers would inherit the locks of a framework's threads
WATCH = 1.0  # seconds of waiting after which workers are looked at
Batch = tuple[np.ndarray, ...]


def batches(stream: Stream, batch_size: int, *, kind: str = "chainer", workers: int = 1) -> Iterator[Batch]:
    """The stream's samples in its order, `batch_size` at a time (the last may be smaller), as `data.stack` has them.

    Close the iterator (or let it go) to end the processes. DataError when no picture can be read, for a worker that
    died, or when Chainer is asked for and cannot be imported.
    """
    return {"chainer": _chainer, "pool": _pool}[kind](stream, batch_size, workers)


def _worker_died() -> DataError:
    what = "a loader process was ended from outside, perhaps for lack of memory"
    return DataError(f"{what}; give fewer --workers, and go on with --resume")


class _Answers:
    """A stream whose errors are answers: Chainer would wait for ever for a worker that raised one."""

    def __init__(self, stream: Stream):
        self.stream = stream

    def __len__(self) -> int:
        return len(self.stream)

    def __getitem__(self, position: int):
        try:
            return self.stream[position]
        except Exception as error:  # of any kind: it is raised in the main process
            return error


def _chainer(stream: Stream, batch_size: int, workers: int) -> Iterator[Batch]:
    kind = _multiprocess_iterator()
    before = multiprocessing.get_start_method(allow_none=True)
    iterator = kind(_Answers(stream), batch_size, repeat=False, shuffle=False, n_processes=workers,
                    n_prefetch=PREFETCH, dataset_timeout=None)  # fmt: skip
    try:
        multiprocessing.set_start_method(START, force=True)  # Chainer's pool begins with the first batch
        samples = next(iterator, None)
        multiprocessing.set_start_method(before, force=True)
        processes = list(
            iterator._prefetch_loop._pool._pool
        )  # which replaces those that die, but not what they had to do
        iterator._comm.dataset_timeout = WATCH
        while samples is not None:
            for error in samples:
                if isinstance(error, Exception):
                    raise error
            yield stack(samples)
            samples = _next(iterator, processes)
    finally:
        multiprocessing.set_start_method(before, force=True)
        iterator.finalize()


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
            raise _worker_died()
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
    """Chainer's class. It needs `numpy.distutils` with the standard library's distutils, which setuptools replaces by
    its own otherwise."""
    os.environ["SETUPTOOLS_USE_DISTUTILS"] = "stdlib"
    if "_distutils_hack" in sys.modules:
        sys.modules["_distutils_hack"].remove_shim()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Chainer's own age
            from chainer.iterators import MultiprocessIterator
    except Exception as error:  # besides ImportError what an incompatible NumPy or setuptools raises
        what = f"Chainer cannot be imported here ({type(error).__name__}: {error})"
        raise DataError(f"{what}; install chainer==7.8.1, or use --loader pool") from error
    # setDaemon is deprecated since Python 3.10
    warnings.filterwarnings("ignore", category=DeprecationWarning, module="chainer")
    return MultiprocessIterator


_stream: Stream | None = None  # of a pool's worker process


def _begin(stream: Stream) -> None:
    global _stream
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends the workers, by SIGTERM where a pool is broken
    import cv2

    cv2.setNumThreads(0)
    _stream = stream


def _sample(position: int) -> tuple[np.ndarray, ...]:
    assert _stream is not None
    return _stream[position]


def _pool(stream: Stream, batch_size: int, workers: int) -> Iterator[Batch]:
    # not multiprocessing.Pool, which, ended early, hangs now and then on a worker that is just sending a result
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context(START), _begin, (stream,))
    try:
        ahead: deque = deque()
        for start in range(0, len(stream), batch_size):
            ahead.append([pool.submit(_sample, p) for p in range(start, min(start + batch_size, len(stream)))])
            if len(ahead) > PREFETCH:
                yield _joined(pool, ahead.popleft())
        while ahead:
            yield _joined(pool, ahead.popleft())
    except BrokenProcessPool as error:
        raise _worker_died() from error
    finally:
        pool.shutdown(cancel_futures=True)


def _joined(pool: ProcessPoolExecutor, results: list[Future]) -> Batch:
    while wait(results, WATCH).not_done:
        processes = list((pool._processes or {}).values())
        if not all(process.is_alive() for process in processes):
            # ended while it sent a result, a worker would be waited for for ever: nobody may be left who could send the
            # rest
            for process in processes:
                process.kill()
            pool._result_queue._writer.close()  # type: ignore[attr-defined]
    return stack([result.result() for result in results])


def in_order(persons: Persons, crops: Crops, batch_size: int) -> Iterator[Batch]:
    """Every person once, in order, whose picture can be read, and which one it is; the next batch is made meanwhile by
    a thread (OpenCV lets the others run)."""

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
        for start in range(batch_size, len(persons) + batch_size, batch_size):
            batch = ahead.result()
            ahead = executor.submit(make, start) if start < len(persons) else ahead
            if batch is not None:
                yield batch
