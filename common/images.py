"""Reading a picture: an image file, or a video frame in an LMDB database.

MobilePose stores Penn Action so: key `NNNN/FFFFFF.jpg` (frame from 1), value the JPEG file's bytes.
"""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

import numpy as np

from common.errors import DataError

PREFIX = "lmdb:"


def read_image(path: str | Path) -> np.ndarray:
    """An image file, or a frame `lmdb:PATH?KEY`, as (H,W,3) uint8 BGR; DataError when it is missing or unreadable.

    EXIF orientation is ignored: annotations are in stored pixels.
    """
    if str(path).startswith(PREFIX):
        return read_frame(str(path))
    import cv2

    # os.path, because making a Path costs a tenth of decoding a small picture
    data = cv2.imread(str(path), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION) if os.path.isfile(path) else None
    if data is None:
        state = "cannot be decoded" if os.path.exists(path) else "does not exist"
        raise DataError(f"image {path} {state}; run `python -m common.datasets check NAME ROOT` to list all such files")
    return data


def reference(path: Path | str, key: str) -> str:
    """The frame reference that `read_image` understands."""
    return f"{PREFIX}{path}?{key}"


def read_frame(frame: str) -> np.ndarray:
    """(H,W,3) uint8 BGR image of a reference `lmdb:PATH?KEY`; DataError when the database, the key or the image is not readable."""
    import cv2

    path, key = _split(frame)
    with _open(path, os.getpid()).begin() as transaction:
        data = transaction.get(key.encode())
    if data is None:
        raise DataError(
            f"LMDB {path} has no frame {key}; make it again with `python -m common.datasets.penn_action make_lmdb`"
        )
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    if image is None:
        raise DataError(
            f"LMDB {path}: frame {key} cannot be decoded; make it again with `python -m common.datasets.penn_action make_lmdb`"
        )
    return image


def has_frame(frame: str) -> bool:
    """Whether the database of a reference holds its key."""
    path, key = _split(frame)
    with _open(path, os.getpid()).begin() as transaction:
        return transaction.cursor().set_key(key.encode())


def _split(frame: str) -> tuple[str, str]:
    path, _, key = frame.removeprefix(PREFIX).rpartition("?")
    return path, key


@lru_cache(maxsize=8)
def _open(path: str, process: int):
    # `process` is part of the cache's key: an environment must not be used in a forked worker
    try:
        import lmdb
    except ImportError as error:
        raise DataError(
            f"reading frames from {path} needs the package lmdb (pip install lmdb), or the folder frames/ beside it"
        ) from error
    try:
        return lmdb.open(path, subdir=Path(path).is_dir(), readonly=True, lock=False, readahead=False, max_readers=1024)
    except lmdb.Error as error:
        raise DataError(
            f"LMDB {path} cannot be opened ({error}); make it again with `python -m common.datasets.penn_action make_lmdb`"
        ) from error


def write_lmdb(path: Path, items) -> int:
    """Write (key, bytes) pairs into a new LMDB folder `path`, complete or not at all; returns how many."""
    import shutil

    import lmdb

    if path.exists():
        raise DataError(f"{path} exists already; remove it or choose another folder")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    count = 0
    # the map is sparse on disk, so its size is only an upper bound
    with lmdb.open(str(temporary), map_size=1 << 40, lock=False) as database:
        transaction = database.begin(write=True)
        for key, data in items:
            transaction.put(key.encode(), data)
            count += 1
            if count % 1000 == 0:
                transaction.commit()
                transaction = database.begin(write=True)
        transaction.commit()
    os.replace(temporary, path)
    return count
