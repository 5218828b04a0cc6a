"""Reading a picture: an image file, or the bytes of one in an LMDB database.

`python -m common.datasets pack` makes such databases (key: the file's path in the data set's folder), and MobilePose stores
Penn Action so: key `NNNN/FFFFFF.jpg` (frame from 1).
"""

from __future__ import annotations

import io
import os
import struct
import warnings
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from itertools import islice
from pathlib import Path

import cv2
import numpy as np

from common.errors import DataError, DataWarning

PREFIX = "lmdb:"


def read_image(path: str | Path, whole: bool = False, upright: bool = False, unchanged: bool = False) -> np.ndarray:
    """An image file, or one in a database, `lmdb:PATH?KEY`, as (H,W,3) uint8 BGR; DataError: missing or unreadable.

    A file that is cut off is read as far as it goes, with a DataWarning; an error where it must be `whole`. EXIF
    orientation is ignored, as annotations are in stored pixels; `upright`: as a viewer shows it. `unchanged`: with the file's
    own channels and bits.
    """
    data = _stored(str(path)) if str(path).startswith(PREFIX) else _read(path)
    cut_off = _cut_off(data)
    # a JPEG's end mark, without which OpenCV reads nothing
    image = _decode(data + b"\xff\xd9" if cut_off else data, upright, unchanged)
    if image is None:
        raise DataError(f"image {shown(path)} cannot be decoded; {_LIST}")
    if cut_off:
        if whole:
            raise DataError(f"image {shown(path)} is cut off: the end of the file is missing; {_LIST}")
        warnings.warn(f"image {shown(path)} is cut off: the end of the file is missing", DataWarning, stacklevel=2)
    return image


def picture_of(image: str | Path | np.ndarray) -> np.ndarray:
    """What users show a network, as (H,W,3) uint8 BGR: a file as a viewer shows it, an array as it is, grey or with alpha
    too. DataError as `read_image`, or for an array that is no picture."""
    if not isinstance(image, np.ndarray):
        return read_image(image, whole=True, upright=True)
    channels = image.shape[2] if image.ndim == 3 else 1
    if image.ndim not in (2, 3) or channels not in (1, 3, 4) or not image.size or image.dtype != np.uint8:
        raise DataError(f"an array of shape {image.shape}, {image.dtype}, is no picture; give (H,W,3) uint8 BGR")
    return image if channels == 3 else cv2.cvtColor(image, cv2.COLOR_GRAY2BGR if channels == 1 else cv2.COLOR_BGRA2BGR)


def _read(path: str | Path) -> bytes:
    try:
        with open(path, "rb") as file:  # not cv2.imread, which crashes on names that are no UTF-8
            return file.read()
    # ValueError: no file can have such a name
    except (OSError, ValueError) as error:
        state = "cannot be read" if os.path.exists(path) else "does not exist"
        raise DataError(f"image {shown(path)} {state} ({getattr(error, 'strerror', error)}); {_LIST}") from None


def image_size(path: str | Path) -> tuple[int, int]:
    """(width, height) of what `read_image` reads, from a file's head alone where that will do; its DataErrors."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            return image.size
    except (OSError, ValueError, Image.DecompressionBombError):  # a frame in a database, or OpenCV's alone, if any
        height, width = read_image(path).shape[:2]
        return width, height


def image_sizes(paths: Sequence[str | Path]) -> np.ndarray:
    """(N,2) `image_size` of every picture, each looked at once; NaN of those that cannot be read."""
    known: dict[str | Path, tuple[float, float]] = dict.fromkeys(paths, (np.nan, np.nan))
    for path in known:
        with suppress(DataError):
            known[path] = image_size(path)
    return np.array([known[path] for path in paths], np.float64).reshape(-1, 2)


def shown(name: str | Path) -> str:
    """A file's name for people, also one that is no UTF-8."""
    try:
        return os.fsencode(name).decode(errors="replace")
    except UnicodeEncodeError:  # half a character, as JSON may hold
        return str(name).encode(errors="replace").decode()


_LIST = "give another; of a data set `python -m common.datasets check NAME ROOT` lists all such"
_PNG = b"\x89PNG\r\n\x1a\n"


def _decode(data: bytes, upright: bool = False, unchanged: bool = False) -> np.ndarray | None:
    if data.startswith(_PNG) and _asks_too_much(data):
        return None
    how = cv2.IMREAD_COLOR if upright else cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    how = cv2.IMREAD_UNCHANGED if unchanged else how
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), how)
    except cv2.error:  # an empty file, or more pixels than OpenCV takes
        return None
    if image is None or not upright or not data.startswith(b"RIFF"):
        return image
    from PIL import Image

    turn = 0
    with suppress(Exception):  # whatever damaged EXIF raises
        turn = range(1, 9).index(Image.open(io.BytesIO(data)).getexif()[0x112])  # OpenCV does not look at a WebP's
    image = image.transpose(1, 0, 2) if turn >= 4 else image
    return np.ascontiguousarray(image[:: -1 if turn % 4 >= 2 else 1, :: -1 if turn % 4 in (1, 2) else 1])


def _asks_too_much(data: bytes) -> bool:
    """Whether a PNG states more pixels than it can hold, or a part of gigabytes: OpenCV takes the memory first."""
    width, height, depth, kind = struct.unpack(">IIBB", data[16:26]) if len(data) >= 26 else (0, 0, 0, 0)
    bits = width * height * depth * {2: 3, 4: 2, 6: 4}.get(kind, 1)
    at, longest = len(_PNG), 0
    while at + 8 <= len(data) and data[at - 8 : at - 4] != b"IEND":  # anything may follow that
        length = int.from_bytes(data[at : at + 4], "big")
        at, longest = at + length + 12, max(longest, length)
    # deflate saves at most 1 : 1032; the part in which a file is cut off may be longer than what is left of it
    return bits > 8 * 1040 * len(data) or longest > max(len(data), 1 << 26)


def _cut_off(data: bytes) -> bool:
    """Whether the end mark is missing: after a JPEG's last scan (whose data cannot hold one), or of a PNG."""
    if data.startswith(b"\xff\xd8"):
        return data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda")
    return data.startswith(_PNG) and b"IEND" not in data


def reference(path: Path | str, key: str) -> str:
    """The frame reference that `read_image` understands."""
    return f"{PREFIX}{path}?{key}"


_AGAIN = "make it again with `python -m common.datasets pack`"


def exists(path: str) -> bool:
    """Whether an image file is there, or the database of a reference holds its key."""
    if not path.startswith(PREFIX):
        return os.path.isfile(path)  # Path's raises for names that no file can have
    try:
        return bool(_stored(path))
    except DataError:
        return False


def needed_lmdb(what: str | Path):
    """The package lmdb; DataError saying `what` needs it where it is not installed."""
    try:
        import lmdb
    except ImportError as error:
        raise DataError(f"{what} needs the package lmdb (pip install lmdb)") from error
    return lmdb


def _stored(frame: str) -> bytes:
    path, _, key = frame.removeprefix(PREFIX).rpartition("?")
    lmdb = needed_lmdb(f"reading {path}")
    try:
        with _open(path, os.getpid()).begin() as transaction:
            data = transaction.get(key.encode())
    except lmdb.Error as error:
        raise DataError(f"LMDB {path} cannot be read ({error}); {_AGAIN}") from error
    if data is None:
        raise DataError(f"LMDB {path}: frame {key} is missing; {_AGAIN}")
    return data


@lru_cache(maxsize=8)
def _open(path: str, process: int):
    # `process` is part of the cache's key: an environment must not be used in a forked worker
    lmdb = needed_lmdb(f"reading {path}")
    try:
        env = lmdb.open(path, subdir=Path(path).is_dir(), readonly=True, lock=False, readahead=False, max_readers=1024)
        file = Path(path, "data.mdb") if Path(path).is_dir() else Path(path)
        if file.stat().st_size < (env.info()["last_pgno"] + 1) * env.stat()["psize"]:
            raise lmdb.Error("its end is missing")  # reading there would end the process
        return env
    except lmdb.Error as error:
        raise DataError(f"LMDB {path} cannot be opened ({error}); {_AGAIN}") from error


def write_lmdb(path: Path, items) -> int:
    """Write (key, bytes) pairs into a new LMDB folder `path`, complete or not at all; returns how many."""
    import shutil

    lmdb = needed_lmdb(f"writing {path}")
    if path.exists():
        raise DataError(f"{path} exists already; remove it or choose another folder")
    path.parent.mkdir(parents=True, exist_ok=True)
    items, temporary = iter(items), path.with_name(f"{path.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    count = 0
    try:
        # the map is sparse on disk, so its size is only an upper bound
        with lmdb.open(str(temporary), map_size=1 << 40, lock=False) as database:
            for part in iter(lambda: list(islice(items, 1000)), []):
                with database.begin(write=True) as transaction:
                    for key, data in part:
                        transaction.put(key.encode(), data)
                count += len(part)
        os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return count
