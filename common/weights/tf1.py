"""TensorFlow 1 checkpoints without TensorFlow: variables by name, from and to both formats of `tf.train.Saver`.

V1 (TensorFlow up to 0.11): one file, a table of SavedTensorSlices messages. V2 (0.12 and later): `PREFIX.index`, a table of BundleEntryProto
messages, beside `PREFIX.data-00000-of-00001`, the raw bytes. Checksums are verified. Sources: tensorflow/core/util/saved_tensor_slice.proto,
tensor_bundle.proto, tensor_slice_reader.cc. Variables that were saved in slices (partitioned variables) are refused.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from common.errors import DataError
from common.weights.tables import masked_crc, read_table, read_varint, varint, write_table

# TensorFlow's DataType -> NumPy
_TYPES = {
    1: "<f4",
    2: "<f8",
    3: "<i4",
    4: "u1",
    5: "<i2",
    6: "i1",
    9: "<i8",
    10: "?",
    17: "<u2",
    19: "<f2",
    22: "<u4",
    23: "<u8",
}
_NUMBERS = {np.dtype(name): number for number, name in _TYPES.items()}
# V1 stores values in typed repeated fields of TensorProto: DataType -> (field, how an item is coded)
_VALUE_FIELDS = {
    1: (5, "<f4"),
    2: (6, "<f8"),
    3: (7, "varint"),
    4: (7, "varint"),
    5: (7, "varint"),
    6: (7, "varint"),
    9: (10, "varint"),
    10: (11, "varint"),
}
_REMEDY = "give the prefix (checkpoint-7) of an .index and .data pair, or an old single-file checkpoint"


def find_checkpoint(path: str | Path) -> tuple[Path, str] | None:
    """(prefix or file, `V1` or `V2`) for a prefix, one of its files, a single file, or a folder with a `checkpoint` index; None when nothing fits."""
    path = Path(path)
    if path.is_dir() and (path / "checkpoint").is_file():
        named = re.search(r'^model_checkpoint_path: "(.*)"', (path / "checkpoint").read_text(errors="replace"), re.M)
        return find_checkpoint(path / named[1]) if named else None
    prefix = Path(re.sub(r"\.(index|meta|data-\d{5}-of-\d{5})$", "", str(path)))
    if prefix.with_name(prefix.name + ".index").is_file():
        return prefix, "V2"
    return (path, "V1") if path.is_file() else None


def read_checkpoint(path: str | Path) -> dict[str, np.ndarray]:
    """Variable name -> array, of either format. DataError when it is missing, no checkpoint, cut short, damaged or sliced."""
    found = find_checkpoint(path)
    if found is None:
        raise DataError(f"TensorFlow checkpoint {path} does not exist; {_REMEDY}")
    place, kind = found
    try:
        return _read_v2(place) if kind == "V2" else _read_v1(place)
    except (OSError, ValueError, IndexError, KeyError, struct.error) as error:
        raise DataError(
            f"TensorFlow checkpoint {place} cannot be read ({type(error).__name__}: {error}); {_REMEDY}"
        ) from error


# ---- protocol buffers, the few messages that are needed -------------------------------------------------------------------------


def _fields(message) -> Iterator[tuple[int, int | memoryview]]:
    """(field number, value) of a message: numbers for varint and fixed fields, buffers for the rest."""
    at = 0
    while at < len(message):
        tag, at = read_varint(message, at)
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            value, at = read_varint(message, at)
        elif wire == 2:
            length, at = read_varint(message, at)
            value, at = message[at : at + length], at + length
            if len(value) != length:
                raise ValueError("a message is cut short")
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
            value, at = int.from_bytes(message[at : at + size], "little"), at + size
        else:
            raise ValueError(f"wire type {wire}")
        yield number, value


def _first(message, number: int, default=None):
    return next((value for found, value in _fields(message) if found == number), default)


def _field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def _shape(message) -> tuple[int, ...]:
    """TensorShapeProto."""
    return tuple(_first(dim, 1, 0) for number, dim in _fields(message) if number == 2)


def _shape_message(shape: tuple[int, ...]) -> bytes:
    return b"".join(_field(2, _field(1, size)) for size in shape)


# ---- V2 -------------------------------------------------------------------------------------------------------------------------


def _read_v2(prefix: Path) -> dict[str, np.ndarray]:
    index = prefix.with_name(prefix.name + ".index")
    entries = {key.decode(): bytes(value) for key, value in read_table(memoryview(index.read_bytes()), str(index))}
    header = entries.pop("", b"")
    shards = _first(header, 1, 1)
    if _first(header, 2, 0):
        raise ValueError("it was written on a big-endian machine")
    data = {}
    for shard in range(shards):
        path = prefix.with_name(f"{prefix.name}.data-{shard:05d}-of-{shards:05d}")
        if not path.is_file():
            raise DataError(f"TensorFlow checkpoint {prefix} lacks its file {path.name}; put it beside {index.name}")
        data[shard] = np.memmap(path, np.uint8, "r") if path.stat().st_size else np.zeros(0, np.uint8)
    return {
        name: array for name, entry in entries.items() if (array := _read_entry(name, entry, data, prefix)) is not None
    }


def _read_entry(name: str, entry: bytes, data: dict[int, np.ndarray], prefix: Path) -> np.ndarray | None:
    """The array of a BundleEntryProto; None for strings (TensorFlow 2's object graph)."""
    found = dict(_fields(entry))
    if found.get(1) not in _TYPES:
        return None
    if 7 in found:
        raise ValueError(f"variable {name} was saved in slices")
    kind, shape = np.dtype(_TYPES[found[1]]), _shape(found.get(2, b""))
    offset, size = found.get(4, 0), found.get(5, 0)
    stored = data[found.get(3, 0)][offset : offset + size]
    if len(stored) != size or size != kind.itemsize * int(np.prod(shape, dtype=np.int64)):
        raise DataError(
            f"TensorFlow checkpoint {prefix}: variable {name} has {len(stored)} of {size} bytes; the data file is cut short"
        )
    if masked_crc(stored) != found.get(6, 0):
        raise DataError(f"TensorFlow checkpoint {prefix}: variable {name} has a wrong checksum; the file is damaged")
    return np.array(stored).view(kind).reshape(shape)


def write_v2(prefix: str | Path, variables: Mapping[str, np.ndarray]) -> Path:
    """Write `PREFIX.index` and `PREFIX.data-00000-of-00001`, each whole or not at all, the index last; returns the prefix."""
    from common.files import atomic_write

    prefix = Path(prefix)
    arrays = {name: _stored(name, variables[name]) for name in sorted(variables, key=str.encode)}
    entries, offset = [(b"", _field(1, 1) + _field(3, _field(1, 1)))], 0
    for name, array in arrays.items():
        entry = _field(1, _NUMBERS[array.dtype]) + _field(2, _shape_message(array.shape))
        entry += (_field(4, offset) if offset else b"") + _field(5, array.nbytes)
        entries.append((name.encode(), entry + varint(6 << 3 | 5) + struct.pack("<I", masked_crc(array))))
        offset += array.nbytes

    def write_data(path: Path) -> None:
        with open(path, "wb") as file:
            for array in arrays.values():
                file.write(array.tobytes())

    def write_index(path: Path) -> None:
        with open(path, "wb") as file:
            write_table(file, entries)

    atomic_write(prefix.with_name(prefix.name + ".data-00000-of-00001"), write_data)
    atomic_write(prefix.with_name(prefix.name + ".index"), write_index)
    return prefix


def _stored(name: str, value: np.ndarray) -> np.ndarray:
    array = np.asarray(value, order="C")
    array = array.astype(array.dtype.newbyteorder("<"), copy=False)
    if array.dtype not in _NUMBERS:
        raise ValueError(f"variable {name} has dtype {array.dtype}, which checkpoints do not hold")
    return array


# ---- V1 -------------------------------------------------------------------------------------------------------------------------


def _read_v1(path: Path) -> dict[str, np.ndarray]:
    with open(path, "rb") as file:
        data = np.memmap(file, np.uint8, "r") if os.fstat(file.fileno()).st_size else np.zeros(0, np.uint8)
    declared, found = {}, {}
    for key, value in read_table(memoryview(data), str(path)):
        if not key:
            declared = _declared(_first(value, 1, b""))
            continue
        slice_message = _first(value, 2)
        if slice_message is None:
            continue
        name = bytes(_first(slice_message, 1, b"")).decode()
        kind, shape = declared[name]
        found[name] = _values(name, _first(slice_message, 3, b""), kind, shape)
    missing = [name for name in declared if name not in found]
    if missing or not declared:
        raise DataError(
            f"TensorFlow checkpoint {path}: {f'variable {missing[0]} has no values' if missing else 'it holds no variables'}; {_REMEDY}"
        )
    return found


def _declared(meta) -> dict[str, tuple[int, tuple[int, ...]]]:
    """Name -> (DataType, shape) from SavedTensorSliceMeta."""
    result = {}
    for number, tensor in _fields(meta):
        if number == 1:
            found = dict(_fields(tensor))
            result[bytes(found[1]).decode()] = found.get(3, 0), _shape(found.get(2, b""))
    return result


def _values(name: str, tensor, kind: int, shape: tuple[int, ...]) -> np.ndarray:
    """The values of a TensorProto."""
    if kind not in _VALUE_FIELDS:
        raise ValueError(f"variable {name} has data type {kind}")
    field, coding = _VALUE_FIELDS[kind]
    count, dtype = int(np.prod(shape, dtype=np.int64)), np.dtype(_TYPES[kind])
    parts = []
    for number, value in _fields(tensor):
        if number == 4:  # tensor_content: raw bytes
            parts.append(np.frombuffer(value, dtype))
        elif number == field and coding != "varint":
            parts.append(
                np.frombuffer(value, coding) if not isinstance(value, int) else np.array([value], "<u4").view("<f4")
            )
        elif number == field:
            parts.append(np.array(_varints(value), np.uint64).astype(np.int64).astype(dtype))
    values = np.concatenate(parts) if parts else np.zeros(0, dtype)
    if values.size != count:
        raise ValueError(
            f"variable {name} has {values.size} values for shape {shape}: it was saved in slices, or the file is damaged"
        )
    return values.astype(dtype).reshape(shape)


def _varints(value) -> list[int]:
    """A packed run of varints, or the single one of an unpacked field."""
    if isinstance(value, int):
        return [value]
    numbers, at = [], 0
    while at < len(value):
        number, at = read_varint(value, at)
        numbers.append(number)
    return numbers


def write_v1(path: str | Path, variables: Mapping[str, np.ndarray]) -> Path:
    """Write an old single-file checkpoint, whole or not at all; float32, float64, int32, int64 and bool variables."""
    from common.files import atomic_write

    arrays = {name: _stored(name, value) for name, value in variables.items()}
    meta = b"".join(
        _field(
            1,
            _field(1, n.encode())
            + _field(2, _shape_message(a.shape))
            + _field(3, _NUMBERS[a.dtype])
            + _field(4, _full_slice(a.ndim)),
        )
        for n, a in arrays.items()
    )
    entries = [(b"", _field(1, meta + _field(2, _field(1, 1))))]
    keyed = sorted((_slice_key(name, array.ndim), name) for name, array in arrays.items())

    def rows() -> Iterator[tuple[bytes, bytes]]:
        yield from entries
        for key, name in keyed:
            array = arrays[name]
            tensor = (
                _field(1, _NUMBERS[array.dtype]) + _field(2, _shape_message(array.shape)) + _value_bytes(name, array)
            )
            yield key, _field(2, _field(1, name.encode()) + _field(2, _full_slice(array.ndim)) + _field(3, tensor))

    def write(temporary: Path) -> None:
        with open(temporary, "wb") as file:
            write_table(file, rows())

    return atomic_write(path, write)


def _full_slice(rank: int) -> bytes:
    """TensorSliceProto of a whole variable: one empty extent a dimension."""
    return _field(1, b"") * rank


def _value_bytes(name: str, array: np.ndarray) -> bytes:
    number = _NUMBERS[array.dtype]
    if number not in _VALUE_FIELDS:
        raise ValueError(f"variable {name} has dtype {array.dtype}, which old checkpoints do not hold")
    field, coding = _VALUE_FIELDS[number]
    if coding == "varint":
        return _field(field, b"".join(varint(int(v)) for v in array.ravel()))
    return _field(field, array.tobytes())


def _slice_key(name: str, rank: int) -> bytes:
    """The table key of a whole variable in TensorFlow's ordered code: 0, name, rank, and (0, -1) a dimension."""
    escaped = name.encode().replace(b"\0", b"\0\xff").replace(b"\xff", b"\xff\0")
    key = _ordered_number(0) + escaped + b"\0\1" + _ordered_number(rank)
    return key + (_ordered_signed(0) + _ordered_signed(-1)) * rank


def _ordered_number(value: int) -> bytes:
    digits = value.to_bytes((value.bit_length() + 7) // 8, "big")
    return bytes([len(digits)]) + digits


def _ordered_signed(value: int) -> bytes:
    """Signed numbers of -64 to 63 take one byte: 0x80 exclusive-or the number."""
    return bytes([(value & 0xFF) ^ 0x80])
