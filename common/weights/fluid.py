"""Tensors as PaddlePaddle 1.x ("Fluid") keeps them on disk: one file a variable, or all in one file; numpy only.

A record, little-endian: uint32 0 (version) · uint64 number of LoD levels, each uint64 byte length and that many bytes
of uint64 offsets · uint32 0 (version) · int32 length of a protobuf message {1: data type, 2: dimensions} · the values
in C order. A file of one variable carries its name in the file's name; a combined file holds the records in ascending
order of names, without them. Checked byte by byte against files that PaddlePaddle 1.8.5 wrote; there also the type
codes 2, 3, 5, 6 and 21, the others are Paddle's own table.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path

import numpy as np

from common.errors import DataError
from common.files import atomic_write
from common.weights.caffe_messages import messages
from common.weights.pickles import from_bfloat16

_TYPES = dict(enumerate(("bool", "int16", "int32", "int64", "float16", "float32", "float64"))) | {
    20: "uint8",
    21: "int8",
}
_CODES = {name: code for code, name in _TYPES.items()}
_BFLOAT16 = 22


class _Reader:
    """A position in the bytes of one file; every complaint names both."""

    def __init__(self, path: Path, data: bytes):
        self.path, self.data, self.at = path, data, 0

    def error(self, text: str) -> DataError:
        """The error to raise, with the position."""
        what = f"{self.path}: byte {self.at}: {text}"
        return DataError(f"{what}; this is no (whole) variable of PaddlePaddle 1.x, get the file again")

    def take(self, count: int, what: str) -> bytes:
        """The next bytes; DataError when so many are not left. `what` names them."""
        if count < 0 or self.at + count > len(self.data):
            raise self.error(f"{what} needs {count} bytes, {len(self.data) - self.at} are left")
        self.at += count
        return self.data[self.at - count : self.at]

    def number(self, form: str, what: str) -> int:
        """One number in `struct`'s notation."""
        return struct.unpack(form, self.take(struct.calcsize(form), what))[0]

    def version(self, what: str) -> None:
        """Read a version; DataError for any but 0."""
        found = self.number("<I", what)
        if found:
            self.at -= 4
            raise self.error(f"{what} is {found}, known is 0")


def _descriptor(reader: _Reader) -> tuple[int, list[int]]:
    from google.protobuf.message import DecodeError

    message = messages()["FluidTensor"]()
    try:
        message.ParseFromString(reader.take(reader.number("<i", "descriptor length"), "descriptor"))
    except DecodeError as error:
        raise reader.error(f"the descriptor cannot be read ({error})") from error
    if not message.HasField("data_type") or min(message.dims, default=0) < 0:
        raise reader.error(f"the descriptor has type {message.data_type} and dimensions {list(message.dims)}")
    return message.data_type, list(message.dims)


def _record(reader: _Reader) -> tuple[np.ndarray, list[np.ndarray]]:
    reader.version("LoD version")
    lod = []
    for _ in range(reader.number("<Q", "number of LoD levels")):
        size = reader.number("<Q", "length of a LoD level")
        if size % 8:
            raise reader.error(f"a LoD level of {size} bytes is no list of 64-bit numbers")
        lod.append(np.frombuffer(reader.take(size, "LoD level"), "<u8"))
    reader.version("tensor version")
    code, dims = _descriptor(reader)
    if code not in _TYPES and code != _BFLOAT16:
        raise reader.error(f"data type {code} is unknown")
    kind = np.dtype("<u2") if code == _BFLOAT16 else np.dtype(_TYPES[code]).newbyteorder("<")
    data = reader.take(math.prod(dims) * kind.itemsize, f"data of shape {dims}")
    array = np.frombuffer(data, kind).reshape(dims)
    return from_bfloat16(array) if code == _BFLOAT16 else array.astype(kind.newbyteorder("=")), lod


def read_variable(path: str | Path) -> tuple[np.ndarray, list[np.ndarray]]:
    """One variable's file: (array, LoD levels as offsets). bfloat16 as float32. DataError naming file and byte."""
    path = Path(path)
    if not path.is_file():
        raise DataError(f"variable file {path} does not exist; give a folder of PaddlePaddle 1.x parameters")
    reader = _Reader(path, path.read_bytes())
    result = _record(reader)
    if reader.at != len(reader.data):
        raise reader.error(f"{len(reader.data) - reader.at} bytes follow the variable")
    return result


def is_variable(path: Path) -> bool:
    """Whether a file begins as a variable does (both versions 0, at most a few LoD levels)."""
    with open(path, "rb") as file:
        head = file.read(12)
    return len(head) == 12 and head[:4] == b"\0" * 4 and struct.unpack("<Q", head[4:])[0] < 16


def read_folder(folder: str | Path, names: Iterable[str] | None = None) -> dict[str, np.ndarray]:
    """Variables of a folder by name: those of `names` (DataError without), or every file that is one."""
    folder = Path(folder)
    if not folder.is_dir():
        what = f"{folder} is no folder"
        raise DataError(f"{what}; PaddlePaddle 1.x keeps a checkpoint as a folder with one file a variable")
    if names is None:
        names = sorted(f.name for f in folder.iterdir() if f.is_file() and is_variable(f))
        if not names:
            what = f"{folder} holds no variable of PaddlePaddle 1.x"
            raise DataError(f"{what}; give the folder with files such as conv2d_0.w_0")
    names = list(names)
    missing = [n for n in names if not (folder / n).is_file()]
    if missing:
        what = f"{folder} lacks {len(missing)} of {len(names)} variables, first {missing[0]}"
        raise DataError(f"{what}; unpack the archive again")
    return {n: read_variable(folder / n)[0] for n in names}


def read_combined(path: str | Path, names: Iterable[str]) -> dict[str, np.ndarray]:
    """A combined file, given the names of its variables in any order. DataError for another number."""
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path} does not exist; give the combined parameter file, usually called __params__")
    reader = _Reader(path, path.read_bytes())
    found: dict[str, np.ndarray] = {}
    names = sorted(names, key=lambda n: n.encode())
    for name in names:
        if reader.at == len(reader.data):
            raise reader.error(f"the file ends after {len(found)} of {len(names)} variables")
        found[name] = _record(reader)[0]
    if reader.at != len(reader.data):
        rest = len(reader.data) - reader.at
        raise reader.error(f"{rest} bytes follow the {len(names)} variables that were asked for")
    return found


def _bytes_of(name: str, array: np.ndarray) -> bytes:
    code = _CODES.get(array.dtype.name)
    if code is None:
        raise DataError(f"variable {name} has dtype {array.dtype}; the format knows {', '.join(_CODES)}")
    descriptor = messages()["FluidTensor"](data_type=code, dims=array.shape).SerializeToString()
    data = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()
    return struct.pack("<IQIi", 0, 0, 0, len(descriptor)) + descriptor + data


def write_folder(folder: str | Path, variables: Mapping[str, np.ndarray]) -> None:
    """One file a variable, each whole or absent; what else the folder holds stays."""
    for name, array in variables.items():
        content = _bytes_of(name, np.asarray(array))
        atomic_write(Path(folder) / name, partial(Path.write_bytes, data=content))
