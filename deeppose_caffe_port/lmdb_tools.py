"""The project's LMDB tool and Caffe's compute_image_mean: lists of images with labels -> LMDB of Datums -> mean file."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from tqdm import tqdm

from common.errors import DataError
from common.weights.caffe import write_blob
from common.weights.caffe_messages import messages
from deeppose_caffe_port.images import read_picture, resize

_COMMIT = 1000


def datum(image: np.ndarray, labels: np.ndarray) -> bytes:
    """(H,W,3) uint8 BGR and (L,) labels as a serialised Datum."""
    height, width, channels = image.shape
    record = messages()["Datum"](
        channels=channels, height=height, width=width, encoded=False, float_data=labels.tolist()
    )
    record.data = np.ascontiguousarray(image.transpose(2, 0, 1)).tobytes()
    return record.SerializeToString()


def write_lmdb(records: Iterator[tuple[bytes, bytes]], target: Path, capacity: int, replace: bool = False) -> int:
    """Write an LMDB folder whole or not at all; returns the number of records. DataError when it exists already and must not be replaced."""
    import lmdb

    if target.exists() and not replace:
        raise DataError(f"LMDB {target} exists already; remove it, or give --replace")
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".tmp{os.getpid()}.{target.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    count = 0
    try:
        with lmdb.open(str(temporary), map_size=capacity, subdir=True) as environment:
            transaction = environment.begin(write=True)
            for key, value in records:
                transaction.put(key, value)
                count += 1
                if count % _COMMIT == 0:
                    transaction.commit()
                    transaction = environment.begin(write=True)
            transaction.commit()
        (temporary / "lock.mdb").unlink(missing_ok=True)
        if target.exists():
            shutil.rmtree(target)
        os.replace(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return count


def convert_imageset(names: list[str], labels: np.ndarray, target: Path, side: int, *, root: Path = Path("."), skip_unreadable: bool = False,
                     allow_16bit: bool = False, workers: int = 2, replace: bool = False) -> int:  # fmt: skip
    """Images resized to side x side and their labels as LMDB, keys `%08d_PATH`; returns the number of records.

    An unreadable image is an error; with `skip_unreadable` it is named and skipped, and its number is not used again (as in the original).
    """

    def make(index: int) -> tuple[bytes, bytes] | None:
        try:
            image = read_picture(root / names[index], allow_16bit)
        except DataError as error:
            if not skip_unreadable:
                raise
            print(f"skipped: {error}")
            return None
        return f"{index:08d}_{names[index]}".encode(), datum(resize(image, side), labels[index])

    def records() -> Iterator[tuple[bytes, bytes]]:
        with ThreadPoolExecutor(max(workers, 1)) as pool:
            # in portions, so that a large data set is never in memory as a whole
            for start in tqdm(range(0, len(names), _COMMIT), desc=target.name, unit="k images", dynamic_ncols=True):
                yield from filter(None, pool.map(make, range(start, min(start + _COMMIT, len(names)))))

    capacity = 2 * len(names) * (3 * side * side + 8192) + (64 << 20)
    return write_lmdb(records(), target, capacity, replace)


def compute_image_mean(lmdb_folder: Path, out: Path) -> np.ndarray:
    """Mean image (C,H,W) float32 of an LMDB, written as `.binaryproto`; a float32 running sum, as Caffe forms it."""
    from deeppose_caffe_port.data import LmdbSource

    source = LmdbSource(lmdb_folder, 1)
    total = np.zeros(source.shape, np.float32)
    for index in range(len(source)):
        pixels, _ = source.record(index)
        if pixels.shape != source.shape:
            raise DataError(
                f"LMDB {lmdb_folder}: record {index} has shape {pixels.shape}, the first {source.shape}; resize all images alike"
            )
        total += pixels
    total /= np.float32(len(source))
    write_blob(out, total)
    for channel, value in enumerate(total.mean((1, 2))):
        print(f"mean_value channel [{channel}]: {value:.5f}")
    return total
