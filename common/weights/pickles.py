"""Pickles of weights without their frameworks and without running their code: PyTorch's, Paddle's, NumPy's.

The unpickler knows tensors, arrays, numbers and plain containers. An object of any other class becomes what it holds
(items, entries, attributes); nothing is called that the file names, and arrays are made from the file's bytes alone.
Sources: the layouts that torch.serialization documents; files of torch 2.13, Paddle 3.3, NumPy 1.26 and 2.
"""

from __future__ import annotations

import collections
import io
import math
import pickle
import re
import struct
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import DataError
from common.files import atomic_write, check_listed

_STORAGES = {
    "FloatStorage": "<f4", "DoubleStorage": "<f8", "HalfStorage": "<f2", "LongStorage": "<i8", "IntStorage": "<i4",
    "ShortStorage": "<i2", "CharStorage": "i1", "ByteStorage": "u1", "BoolStorage": "?", "BFloat16Storage": "bfloat16",
    "ComplexFloatStorage": "<c8", "ComplexDoubleStorage": "<c16",
}  # fmt: skip
_OLD_MAGIC = 0x1950A86A20F9469CFC6C
_EXPANDED = 1 << 22  # values: tensors that repeat their storage (stride 0) are not made larger than this


def from_bfloat16(bits: np.ndarray) -> np.ndarray:
    """uint16 patterns -> float32, exactly."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


class _Object(list):
    """Stands for an object of a class that is not read: its items, as a list, and its entries and attributes."""

    entries: dict

    def __new__(cls, *args: Any):
        made = super().__new__(cls)
        made.entries = {}
        return made

    def __init__(self, *args: Any):
        pass

    __hash__ = object.__hash__  # type: ignore[assignment]  # it may be a key

    def __setitem__(self, key: Any, value: Any) -> None:
        self.entries[key] = value

    def __setstate__(self, state: Any) -> None:
        state = state[0] if isinstance(state, tuple) and state else state
        self.entries.update(state if isinstance(state, dict) else {})


class _DType:
    """numpy.dtype of numbers, texts, or objects."""

    def __init__(self, kind: str, *rest: Any):
        if not re.fullmatch(r"[<>|=]?([?bhilqBHILQefd]|[biufc]\d\d?|[SU]\d{1,9}|O8?)", kind):
            raise pickle.UnpicklingError(f"it has an array of the type {kind!r}")
        self.kind = kind.lstrip("<>|=")

    def __setstate__(self, state: tuple) -> None:
        if state[1] not in ("<", ">", "|", "=") or any(part is not None for part in state[2:5]):
            raise pickle.UnpicklingError("it has an array of records")
        self.kind = state[1] + self.kind


class _Array:
    """numpy.ndarray: made empty, filled by a state."""

    state: Any = ()

    def __init__(self, *args: Any):
        pass

    def __setstate__(self, state: tuple) -> None:
        self.state = state


def _array(data: Any, dtype: _DType, shape: tuple, order: str = "C") -> Any:
    """The array that the bytes are; the one object or the list of an array of objects. ValueError for other bytes."""
    if dtype.kind.strip("|8") == "O" and isinstance(data, list):
        return data if shape else data[0]
    data, kind = data.encode("latin1") if isinstance(data, str) else data, np.dtype(dtype.kind)
    if not isinstance(data, (bytes, bytearray)) or len(data) != math.prod(shape) * kind.itemsize:
        raise ValueError(f"an array of shape {shape} and type {kind} is not of as many bytes")
    return np.array(np.frombuffer(data, kind).reshape(shape, order=order), kind.newbyteorder("="))


def _filled(kind: str, data: bytes) -> np.ndarray:
    return from_bfloat16(np.frombuffer(data, "<u2")) if kind == "bfloat16" else np.frombuffer(data, kind)


def _size(kind: str, count: int) -> int:
    return count * (2 if kind == "bfloat16" else np.dtype(kind).itemsize)


def _tensor(storage: np.ndarray, offset: int, shape: tuple, stride: tuple, *rest: Any) -> np.ndarray:
    """A view of a storage; ValueError when it lies outside."""
    count = math.prod(shape)
    if not count:
        return np.zeros(shape, storage.dtype)
    last = offset + sum((n - 1) * s for n, s in zip(shape, stride, strict=True))
    flat = storage.ndim == 1 and storage.flags.c_contiguous
    if not flat or min(offset, *shape, *stride, 0) < 0 or last >= len(storage):
        raise ValueError(f"a tensor of shape {tuple(shape)} reaches beyond its storage")
    if count > max(len(storage), _EXPANDED):
        raise ValueError(f"a tensor of shape {tuple(shape)} repeats a storage of {len(storage)} values")
    return np.lib.stride_tricks.as_strided(storage[offset:], shape, [s * storage.itemsize for s in stride])


def _bytes(data: Any = b"", encoding: str = "latin1") -> bytes:
    # only latin1, and no number, of which `bytes` would make as many zeros
    return data.encode("latin1") if isinstance(data, str) and encoding in ("latin1", "latin-1") else b"".join([data])


def _reconstructed(kind: type, base: type, state: Any) -> Any:
    made = kind()
    if isinstance(made, _Object):
        made.extend(state if isinstance(state, list) else ())
        made.entries.update(state if isinstance(state, dict) else {})
    return made


_KNOWN: dict[str, Any] = {
    "torch._utils._rebuild_tensor_v2": _tensor, "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_parameter": lambda tensor, *rest: tensor,
    "torch._tensor._rebuild_from_type_v2": lambda rebuild, kind, args, *rest: rebuild(*args), "torch.Size": tuple,
    "torch.device": lambda *parts: ":".join(map(str, parts)), "collections.OrderedDict": collections.OrderedDict,
    "collections.defaultdict": lambda *args: {}, "collections.deque": lambda items=(), length=None: list(items),
    "builtins.tuple": tuple, "builtins.list": list, "builtins.set": set, "builtins.complex": complex,
    "builtins.bytes": _bytes, "builtins.bytearray": _bytes, "_codecs.encode": _bytes,
    "copyreg._reconstructor": _reconstructed, "numpy.dtype": _DType, "numpy.ndarray": _Array,
    "numpy.core.multiarray._reconstruct": _Array,
    "numpy.core.multiarray.scalar": lambda dtype, data: _array(data, dtype, ()).item(),
    "numpy.core.numeric._frombuffer": lambda data, dtype, shape, order: _array(data, dtype, shape, order),
} | {f"torch.{module}{name}": kind for module in ("", "storage.") for name, kind in _STORAGES.items()}  # fmt: skip
_OTHER_NAMES = {"__builtin__.": "builtins.", "copy_reg.": "copyreg.", "numpy._core.": "numpy.core."}


_Python: Any = pickle._Unpickler


class _Unpickler(_Python):
    """Python's own in Python: the one in C sets aside gigabytes when a damaged file asks for them."""

    def __init__(self, data: bytes | io.BytesIO, storage: Callable[[str, str, int], np.ndarray] | None = None):
        super().__init__(io.BytesIO(data) if isinstance(data, bytes) else data, encoding="latin1")
        self._storage = storage

    def find_class(self, module: str, name: str) -> Any:
        """Ours of the known names; of all others a class that keeps what its objects hold and runs nothing."""
        full = f"{module}.{name}"
        for old, new in _OTHER_NAMES.items():
            full = new + full.removeprefix(old) if full.startswith(old) else full
        return _KNOWN.get(full) or type(full, (_Object,), {})

    def persistent_load(self, pid: Any) -> Any:
        """The storage that a tensor refers to; the class of a module that was saved whole."""
        if self._storage is None or pid[0] == "module":
            return pid[1]
        return self._storage(pid[1], str(pid[2]), int(pid[4]))

    def load_build(self) -> None:
        """States are for the stand-ins, so that no file alters a function or class of ours."""
        if isinstance(self.stack[-2], np.ndarray):  # attributes that somebody set on a tensor
            self.stack.pop()
            return
        if not isinstance(self.stack[-2], (_Object, _DType, _Array, collections.OrderedDict)):
            raise pickle.UnpicklingError(f"it has a {type(self.stack[-2]).__name__} with a state")
        super().load_build()

    dispatch = _Python.dispatch | {pickle.BUILD[0]: load_build}


def _plain(root: Any, paddle: bool = False) -> Any:
    """Stand-ins replaced by what they stand for; what the file shares stays shared, so that references cannot multiply.

    `paddle`: a tensor is a pair of its name and an array, bfloat16 is uint16, and a table of names stands beside them.
    """
    done: dict[int, Any] = {}

    def plain(value: Any) -> Any:
        if isinstance(value, (int, float, complex, str, bytes, bytearray)):
            return value
        if done.get(id(value)) is done:
            raise ValueError("something holds itself")
        if id(value) not in done:
            done[id(value)] = done
            done[id(value)] = converted(value)
        return done[id(value)]

    def converted(value: Any) -> Any:
        if isinstance(value, _Array):
            _, shape, dtype, fortran, data = value.state
            return converted(_array(data, dtype, shape, "F" if fortran else "C"))
        if isinstance(value, np.ndarray):
            return from_bfloat16(value) if paddle and value.dtype == np.uint16 else value
        if isinstance(value, _Object):
            return [plain(v) for v in value] or {k: plain(v) for k, v in value.entries.items()} or None
        if isinstance(value, dict):
            return {k: plain(v) for k, v in value.items() if not (paddle and k == "StructuredToParameterName@@")}
        if isinstance(value, (list, tuple, set)):
            items = [plain(v) for v in value]
            named = paddle and len(items) == 2 and isinstance(items[0], str) and isinstance(items[1], np.ndarray)
            return items[1] if named and isinstance(value, tuple) else type(value)(items)
        return None

    return plain(root)


def _read(path: str | Path, what: str, load: Callable[[bytes], Any], paddle: bool = False) -> Any:
    check_zip(path)
    try:
        return _plain(load(Path(path).read_bytes()), paddle)
    except Exception as error:  # pickle, zipfile and struct each have their own
        what = f"{path} is not a readable {what} ({type(error).__name__}: {error})"
        raise DataError(f"{what}; get it again, or save it again") from error


def read_torch(path: str | Path) -> Any:
    """What `torch.save` wrote, zip or the older stream, tensors as arrays (bfloat16 as float32), objects as what they
    hold.

    DataError when it is missing, damaged (checksums of the zip) or hostile, and for a module that was saved whole.
    """
    return _read(path, "PyTorch checkpoint", _load_torch)


def read_paddle(path: str | Path) -> Any:
    """What `paddle.save` wrote (`.pdparams`), tensors as arrays (bfloat16: float32). DataError as `read_torch`."""
    return _read(path, "Paddle file", lambda data: _Unpickler(data).load(), paddle=True)


def read_npy(path: str | Path) -> Any:
    """What `np.save` pickled: a dict or list of arrays, made an array of objects. DataError as `read_torch`."""

    def load(data: bytes) -> Any:
        stream = io.BytesIO(data)
        version = np.lib.format.read_magic(stream)
        (np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0)(stream)
        return _Unpickler(stream).load()

    return _read(path, ".npy file of objects", load)


def check_zip(path: str | Path) -> None:
    """DataError for a missing file, and for a zip that grows or whose checksums are wrong (PyTorch does not look)."""
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path} does not exist")
    with open(path, "rb") as file:
        if file.read(4) != b"PK\3\4":
            return
    try:
        with zipfile.ZipFile(path) as archive:
            check_listed(archive)
            if sum(member.file_size for member in archive.infolist()) > path.stat().st_size:
                raise ValueError("it unpacks to more than its size, which no writer of checkpoints makes")
            if damaged := archive.testzip():
                raise ValueError(f"the checksum of {damaged} is wrong")
    except (zipfile.BadZipFile, OSError, ValueError, EOFError, NotImplementedError, RuntimeError) as error:
        raise DataError(f"{path} is damaged ({error}); get it again") from error


def _load_torch(data: bytes) -> Any:
    value = _load_zip(data) if data[:4] == b"PK\3\4" else _load_stream(data)
    inner = value.values() if isinstance(value, dict) and "state_dict" not in value else ()
    for found in (value, *inner):
        if isinstance(found, _Object) and {"_parameters", "_modules"} <= found.entries.keys():
            name = type(found).__name__
            raise ValueError(f"a whole {name} was saved; in its own program save its state_dict() instead")
    return value


def _load_zip(data: bytes) -> Any:
    storages: dict[str, np.ndarray] = {}
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        record = next((n for n in archive.namelist() if n.endswith("data.pkl")), "")
        folder = record.removesuffix("data.pkl")
        order = f"{folder}byteorder"
        if not record or (order in archive.namelist() and archive.read(order) != b"little"):
            raise ValueError("the archive has no data.pkl, or was written on a big-endian machine")

        def storage(kind: str, key: str, count: int) -> np.ndarray:
            if key not in storages:
                storages[key] = _filled(kind, archive.read(f"{folder}data/{key}")).copy()
            return storages[key]

        return _Unpickler(archive.read(record), storage).load()


def _load_stream(data: bytes) -> Any:
    """The layout before PyTorch 1.6: magic number, version, system, object, keys of the storages, their bytes."""
    storages: dict[str, tuple[str, np.ndarray]] = {}
    stream = io.BytesIO(data)

    def storage(kind: str, key: str, count: int) -> np.ndarray:  # its bytes come later
        if not 0 <= _size(kind, count) <= len(data):
            raise ValueError(f"storage {key} of {count} values is larger than the file")
        return storages.setdefault(key, (kind, np.zeros(count, _filled(kind, b"").dtype)))[1]

    def part() -> Any:
        return _Unpickler(stream, storage).load()

    if part() != _OLD_MAGIC:
        raise ValueError("neither of PyTorch's two layouts")
    _, _, value, keys = part(), part(), part(), part()
    for key in keys:
        kind, array = storages[str(key)]
        if struct.unpack("<q", stream.read(8))[0] != len(array):
            raise ValueError(f"storage {key} has not {len(array)} values")
        array[:] = _filled(kind, stream.read(_size(kind, len(array))))
    return value


_WRITER = """
import sys, numpy, torch
with numpy.load(sys.argv[1]) as file:
    names, *keys = file.files
    torch.save({str(n): torch.from_numpy(file[k]) for n, k in zip(file[names], keys, strict=True)}, sys.argv[2])
"""


def write_torch(path: str | Path, tensors: Mapping[str, np.ndarray]) -> None:
    """A state dict that `torch.load(path, weights_only=True)` reads, written by PyTorch in its own process (not beside
    Paddle).

    DataError where PyTorch is not installed.
    """

    def write(temporary: Path) -> None:
        with tempfile.TemporaryDirectory() as folder:
            np.savez(f"{folder}/tensors.npz", np.array(list(tensors), str), *tensors.values())
            command = [sys.executable, "-c", _WRITER, f"{folder}/tensors.npz", str(temporary)]
            done = subprocess.run(command, capture_output=True, text=True)
        if "No module named 'torch'" in done.stderr:
            what = f"{path}: PyTorch writes its files itself and is not here"
            raise DataError(f"{what}; pip install -r lpm_torch/requirements.txt")
        if done.returncode:
            raise OSError(f"{path} cannot be written: {done.stderr.strip().splitlines()[-1]}")

    atomic_write(path, write)
