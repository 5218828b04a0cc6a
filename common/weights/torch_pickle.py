"""PyTorch's checkpoint files (`torch.save`, zip and the older stream layout) as numpy arrays, without PyTorch and without running their code.

The pickle inside is read by an unpickler that knows tensors, plain containers and numbers; anything else, such as a class of the writer's
program, becomes a stand-in that holds nothing. Sources: the layouts that torch.serialization documents and the files that torch 2.13 writes.
"""

from __future__ import annotations

import collections
import io
import pickle
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import DataError
from common.files import atomic_write

_STORAGES = {
    "FloatStorage": "<f4", "DoubleStorage": "<f8", "HalfStorage": "<f2", "LongStorage": "<i8", "IntStorage": "<i4", "ShortStorage": "<i2",
    "CharStorage": "i1", "ByteStorage": "u1", "BoolStorage": "?", "BFloat16Storage": "bf16",
}  # fmt: skip
_OLD_MAGIC = 0x1950A86A20F9469CFC6C


class _Unknown:
    """Stands for an object of a class that is not read."""

    def __init__(self, *args: Any, **kwargs: Any):
        pass

    def __setstate__(self, state: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass


class _Storage:
    """A storage whose bytes may come later (old layout); `array` is None until then."""

    def __init__(self, kind: str, count: int):
        self.kind, self.count, self.array = kind, count, None

    def fill(self, data: bytes) -> None:
        """Interpret the bytes; bfloat16 becomes float32."""
        if self.kind == "bf16":
            self.array = (np.frombuffer(data, "<u2", self.count).astype(np.uint32) << 16).view(np.float32)
        else:
            self.array = np.frombuffer(data, self.kind, self.count)


class _Tensor:
    """A tensor as the pickle has it: a view of a storage."""

    def __init__(self, storage: _Storage, offset: int, size: tuple, stride: tuple, *rest: Any):
        self.storage, self.offset, self.size, self.stride = storage, offset, size, stride

    def array(self) -> np.ndarray:
        """The tensor as an array of its own; ValueError when it lies outside its storage."""
        base = self.storage.array
        if min([self.offset, *self.size, *self.stride], default=0) < 0:
            raise ValueError("a tensor has a negative size, stride or offset")
        last = self.offset + sum((n - 1) * s for n, s in zip(self.size, self.stride)) if 0 not in self.size else 0
        if base is None or (0 not in self.size and last >= len(base)):
            raise ValueError(f"a tensor of shape {tuple(self.size)} reaches beyond its storage")
        if 0 in self.size:
            return np.zeros(self.size, base.dtype)
        strides = [s * base.itemsize for s in self.stride]
        return np.array(np.lib.stride_tricks.as_strided(base[self.offset :], self.size, strides))


class _Unpickler(pickle.Unpickler):
    """Knows tensors and plain values only; `load_storage(kind, key, count)` gives the storages."""

    def __init__(self, file, load_storage):
        super().__init__(file, encoding="latin1")
        self._load_storage = load_storage

    def find_class(self, module: str, name: str) -> Any:
        """Stand-ins for tensors and containers; everything else becomes an object that stores nothing and runs nothing."""
        known = {
            ("torch._utils", "_rebuild_tensor_v2"): _Tensor,
            ("torch._utils", "_rebuild_tensor"): _Tensor,
            ("torch._utils", "_rebuild_parameter"): lambda tensor, *rest: tensor,
            ("torch", "Size"): tuple,
            ("collections", "OrderedDict"): collections.OrderedDict,
            ("collections", "defaultdict"): lambda *args: {},
        }
        if (module, name) in known:
            return known[module, name]
        if module in ("torch", "torch.storage") and name in _STORAGES:
            return _STORAGES[name]
        return _Unknown

    def persistent_load(self, pid: Any) -> _Storage:
        """The storage that a tensor refers to."""
        kind, key, _, count = pid[1:5]
        return self._load_storage(kind, str(key), int(count))


def read_torch(path: str | Path) -> Any:
    """What `torch.save` wrote, tensors as numpy arrays (bfloat16 as float32), unknown objects as None. DataError when it cannot be read."""
    path = Path(path)
    if not path.is_file():
        raise DataError(f"checkpoint {path} does not exist")
    try:
        value = _read_zip(path) if zipfile.is_zipfile(path) else _read_stream(path)
        return _plain(value)
    except Exception as error:  # pickle, zipfile and struct each have their own
        raise DataError(
            f"{path} is not a readable PyTorch checkpoint ({type(error).__name__}: {error}); get the file again"
        ) from error


def _read_zip(path: Path) -> Any:
    with zipfile.ZipFile(path) as archive:
        record = next((n for n in archive.namelist() if n.endswith("data.pkl")), None)
        if record is None:
            raise ValueError("the archive has no data.pkl")
        folder, storages = record[: -len("data.pkl")], {}

        def load(kind: str, key: str, count: int) -> _Storage:
            if key not in storages:
                storages[key] = _Storage(kind, count)
                storages[key].fill(archive.read(f"{folder}data/{key}"))
            return storages[key]

        return _Unpickler(io.BytesIO(archive.read(record)), load).load()


def _read_stream(path: Path) -> Any:
    """The layout before PyTorch 1.6: magic number, version, system, object, keys of the storages, their bytes."""
    storages: dict[str, _Storage] = {}

    def load(kind: str, key: str, count: int) -> _Storage:
        return storages.setdefault(key, _Storage(kind, count))

    with open(path, "rb") as file:

        def part() -> Any:
            return _Unpickler(file, load).load()

        if part() != _OLD_MAGIC:
            raise ValueError("neither of PyTorch's two layouts")
        part(), part()
        value = part()
        for key in part():
            count = struct.unpack("<q", file.read(8))[0]
            storage = storages[str(key)]
            size = 2 if storage.kind == "bf16" else np.dtype(storage.kind).itemsize
            if count != storage.count:
                raise ValueError(f"storage {key} has {count} values instead of {storage.count}")
            storage.fill(file.read(count * size))
    return value


def _plain(value: Any) -> Any:
    if isinstance(value, _Tensor):
        return value.array()
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_plain(v) for v in value)
    return None if isinstance(value, _Unknown) else value


def write_torch(path: str | Path, tensors: Mapping[str, np.ndarray]) -> None:
    """A state dict that `torch.load(path, weights_only=True)` reads: an ordered dict of name -> tensor. DataError for another dtype."""
    kinds = {np.dtype(kind).str.lstrip("<|="): name for name, kind in _STORAGES.items() if kind != "bf16"}

    def write(temporary: Path) -> None:
        out = _Opcodes()
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
            for key, (name, array) in enumerate(tensors.items()):
                array = np.asarray(array)
                kind = kinds.get(array.dtype.newbyteorder("<").str.lstrip("<|="))
                if kind is None:
                    raise DataError(f"tensor {name} has dtype {array.dtype}, which PyTorch does not have")
                out.tensor(name, kind, str(key), array.shape)
                archive.writestr(
                    f"archive/data/{key}", np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()
                )
            archive.writestr("archive/data.pkl", out.finish())
            archive.writestr("archive/byteorder", "little")
            archive.writestr("archive/version", "3\n")

    atomic_write(path, write)


class _Opcodes:
    """The pickle of an ordered dict of tensors, opcode by opcode (protocol 2), because its globals are PyTorch's, which is not here."""

    def __init__(self) -> None:
        self._parts = [b"\x80\x02", b"ccollections\nOrderedDict\n", b")R", b"("]

    @staticmethod
    def _text(text: str) -> bytes:
        data = text.encode()
        return b"X" + struct.pack("<I", len(data)) + data

    @staticmethod
    def _int(value: int) -> bytes:
        return b"J" + struct.pack("<i", value) if value < 2**31 else b"\x8a\x08" + struct.pack("<q", value)

    def _tuple(self, values: tuple[int, ...]) -> bytes:
        return b"(" + b"".join(map(self._int, values)) + b"t"

    def tensor(self, name: str, kind: str, key: str, shape: tuple[int, ...]) -> None:
        """Append one name and tensor."""
        count = int(np.prod(shape, dtype=np.int64))
        strides = tuple(int(np.prod(shape[i + 1 :], dtype=np.int64)) for i in range(len(shape)))
        storage = (
            b"("
            + self._text("storage")
            + f"ctorch\n{kind}\n".encode()
            + self._text(key)
            + self._text("cpu")
            + self._int(count)
            + b"tQ"
        )
        hooks = b"ccollections\nOrderedDict\n)R"
        arguments = b"(" + storage + self._int(0) + self._tuple(shape) + self._tuple(strides) + b"\x89" + hooks + b"t"
        self._parts += [self._text(name), b"ctorch._utils\n_rebuild_tensor_v2\n", arguments, b"R"]

    def finish(self) -> bytes:
        """The whole pickle."""
        return b"".join([*self._parts, b"u", b"."])
