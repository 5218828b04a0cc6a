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

_TYPES = dict(enumerate("bool int16 int32 int64 float16 float32 float64".split())) | {20: "uint8", 21: "int8"}
_CODES = {name: code for code, name in _TYPES.items()}
_BFLOAT16 = 22


class _Reader:
    """A position in the bytes of one file; every complaint names both."""

    def __init__(self, path: Path):
        self.path, self.data, self.at = path, path.read_bytes(), 0

    def error(self, text: str) -> DataError:
        """The error to raise, with the position."""
        what = f"{self.path}: byte {self.at}: {text}"
        return DataError(f"{what}; this is no (whole) variable of PaddlePaddle 1.x, get the file again")

    def take(self, count: int) -> bytes:
        """The next bytes; DataError when so many are not left."""
        if not 0 <= count <= len(self.data) - self.at:
            raise self.error(f"{count} bytes are needed, {len(self.data) - self.at} are left")
        self.at += count
        return self.data[self.at - count : self.at]

    def number(self, form: str) -> int:
        """One number in `struct`'s notation."""
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def version(self) -> None:
        """Read a version; DataError for any but 0."""
        if found := self.number("<I"):
            raise self.error(f"the version is {found}, known is 0")

    def record(self) -> tuple[np.ndarray, list[np.ndarray]]:
        """The next variable and its LoD levels."""
        from google.protobuf.message import DecodeError

        self.version()
        lod = [np.frombuffer(self.take(self.number("<Q") & ~7), "<u8") for _ in range(self.number("<Q"))]
        self.version()
        tensor = messages()["FluidTensor"]()
        try:
            tensor.ParseFromString(self.take(self.number("<i")))
        except DecodeError as error:
            raise self.error(f"the descriptor cannot be read ({error})") from error
        code, dims = tensor.data_type, list(tensor.dims)
        if (code not in _TYPES and code != _BFLOAT16) or not tensor.HasField("data_type") or min(dims, default=0) < 0:
            raise self.error(f"the data type is {code} and the dimensions {dims}")
        kind = np.dtype("<u2") if code == _BFLOAT16 else np.dtype(_TYPES[code]).newbyteorder("<")
        array = np.frombuffer(self.take(math.prod(dims) * kind.itemsize), kind).reshape(dims)
        return from_bfloat16(array) if code == _BFLOAT16 else array.astype(kind.newbyteorder("=")), lod


def read_variable(path: str | Path) -> tuple[np.ndarray, list[np.ndarray]]:
    """One variable's file: (array, LoD levels as offsets). bfloat16 as float32. DataError naming file and byte."""
    reader = _Reader(Path(path))
    result = reader.record()
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
    found = {f.name for f in folder.iterdir() if f.is_file() and is_variable(f)} if folder.is_dir() else set()
    wanted = sorted(found) if names is None else list(names)
    missing = [n for n in wanted if n not in found]
    if missing or not found:
        what = f"{folder} lacks {len(missing)} of {len(wanted)} variables, first {(missing or ['conv2d_0.w_0'])[0]}"
        raise DataError(f"{what}; PaddlePaddle 1.x keeps a checkpoint as a folder with one file a variable")
    return {n: read_variable(folder / n)[0] for n in wanted}


def read_combined(path: str | Path, names: Iterable[str]) -> dict[str, np.ndarray]:
    """A combined file, given the names of its variables in any order. DataError for another number."""
    reader = _Reader(Path(path))
    found: dict[str, np.ndarray] = {}
    names = sorted(names, key=lambda n: n.encode())
    for name in names:
        if reader.at == len(reader.data):
            raise reader.error(f"the file ends after {len(found)} of {len(names)} variables")
        found[name] = reader.record()[0]
    if reader.at != len(reader.data):
        rest = len(reader.data) - reader.at
        raise reader.error(f"{rest} bytes follow the {len(names)} variables that were asked for")
    return found


def write_folder(folder: str | Path, variables: Mapping[str, np.ndarray]) -> None:
    """One file a variable, each whole or absent; what else the folder holds stays."""
    for name, value in variables.items():
        array = np.asarray(value)
        code = _CODES.get(array.dtype.name)
        if code is None:
            raise DataError(f"variable {name} has dtype {array.dtype}; the format knows {', '.join(_CODES)}")
        descriptor = messages()["FluidTensor"](data_type=code, dims=array.shape).SerializeToString()
        data = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()
        content = struct.pack("<IQIi", 0, 0, 0, len(descriptor)) + descriptor + data
        atomic_write(Path(folder) / name, partial(Path.write_bytes, data=content))
