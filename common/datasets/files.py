"""What the loaders share: finding files, messages for absent data, readers that name file, entry and field."""

from __future__ import annotations

import io
import json
import os
import struct
import warnings
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from common.errors import DataError, DataMissing, DataWarning
from common.files import check_listed

Row = tuple[str, dict]  # what messages call an object of a JSON file (`FILE: annotations[3]`), and the object


def missing(name: str, root: Path, wanted: str) -> DataMissing:
    """The error for a data set that is not under `root`; `wanted` says which files were looked for."""
    from common.datasets import record

    found = "" if root.exists() else " (that folder does not exist)"
    return DataMissing(
        f"data set {name} is not in {root}{found}: looked for {wanted}. {record(name).source}, "
        f"or make the synthetic stand-in: python -m common.datasets.synthetic {name} {root}"
    )


def unknown_split(name: str, split: str, known: str) -> DataError:
    """The error for a split that the data set does not have."""
    return DataError(f"data set {name} has no split {split!r}; known: {known}")


def first_existing(folders: Iterable[Path], name: str) -> Path | None:
    """The first of `folders` that holds `name`, or None."""
    return next((folder for folder in folders if (folder / name).exists()), None)


def is_synthetic(*folders: Path) -> bool:
    """Whether one of these folders was drawn by common.datasets.synthetic (has a file SYNTHETIC)."""
    return any((folder / "SYNTHETIC").exists() for folder in folders)


def read_mat(path: Path, field: str | None = None, **options):
    """A Matlab file (v5 to v7.2) as dict, or its variable `field`; DataError when it has none."""
    import scipy.io

    try:
        with open(path, "rb") as file:
            data = file.read()
        # as scipy tells the formats apart, whatever the text before says
        if 0 not in data[:4] and data[125 if data[126:127] == b"I" else 124] == 1:
            _check_elements(data[128:], "<" if data[126:128] == b"IM" else ">")
        content = scipy.io.loadmat(io.BytesIO(data), **options)
    except Exception as error:  # scipy raises many kinds for damaged files, zlib.error among them
        what = f"{type(error).__name__}: {error}"
        raise DataError(f"{path} is not a readable Matlab file ({what}); download or write it again") from error
    if field is None:
        return content
    if field not in content:
        have = ", ".join(k for k in content if not k.startswith("__")) or "none"
        raise DataError(f"{path} has no variable {field!r} (it has {have}); this is not the data set's annotation file")
    return content[field]


def read_numbers(path: Path, *fields: str) -> list[np.ndarray]:
    """Variables of a Matlab file as float64 arrays; DataError for one that is absent or holds no numbers."""
    content = read_mat(path, variable_names=fields)
    for field in fields:
        if field not in content or content[field].dtype.kind not in "iufb":
            what = "no variable" if field not in content else "another kind of variable"
            raise DataError(f"{path} has {what} {field!r} where numbers are expected; download it again")
    return [content[field].astype(np.float64) for field in fields]


_PLENTY = 2**30  # bytes
_MAT_TYPES = {*range(1, 8), 9, *range(12, 19)}
_MATRIX, _COMPRESSED = 14, 15


def _check_elements(data: bytes | memoryview, order: str) -> int:
    """How many Matlab elements these are. ValueError for one of unknown type, beyond its parent's end, or an array
    without its numbers: on such files scipy ends the process."""
    position, count, data = 0, 0, memoryview(data)
    while position < len(data):
        kind, size = struct.unpack_from(f"{order}II", data, position)
        small = kind >> 16  # up to four bytes stand beside the type
        room = 4 if small else len(data) - position - 8
        if kind & 0xFFFF not in _MAT_TYPES or (small or size) > room:
            raise ValueError(f"element of type {kind} and {size} bytes where {room} are left")
        body = data[position + 8 : position + 8 + size]
        if kind == _COMPRESSED:
            stream = zlib.decompressobj()  # two of Penn Action's files lack the checksum at a stream's end
            _check_elements(stream.decompress(body, max(_PLENTY, 100 * size)), order)
            if stream.unconsumed_tail:
                raise ValueError("it would unpack to gigabytes")
        elif kind == _MATRIX and size:
            parts, flags = _check_elements(body, order), struct.unpack_from(f"{order}8xI", body)[0]
            wanted = 4 + (flags >> 11 & 1)  # flags, size, name, numbers, imaginary parts
            if 6 <= flags & 0xFF <= 15 and parts != wanted:
                raise ValueError(f"array of {parts} elements with flags {flags:#x}")
        position += 8 if small else 8 + size + (0 if kind == _COMPRESSED else -size % 8)
        count += 1
    return count


def read_npz(path: str | Path, kind: str) -> dict[str, np.ndarray]:
    """The arrays of an `.npz`; DataError when it is none, holds objects, or would unpack to far more than its size."""
    try:
        with zipfile.ZipFile(path) as archive:
            check_listed(archive)
            check_size(sum(member.file_size for member in archive.infolist()), path)
            # whole members, for the zip's checksums: numpy alone stops reading before it gets to them
            members = {name: io.BytesIO(archive.read(name)) for name in archive.namelist()}
        return {name.removesuffix(".npy"): np.lib.format.read_array(data) for name, data in members.items()}
    except Exception as error:  # numpy and zipfile raise many kinds for damaged files
        raise DataError(f"{path} is not a readable {kind} ({error}); write it again") from error


def check_size(size: int, path: str | Path) -> None:
    """ValueError when a file would unpack to gigabytes, and to far more than packing explains."""
    if size > max(_PLENTY, 100 * os.path.getsize(path)):
        raise ValueError(f"it would unpack to {size} bytes")


def read_json(path: str | Path, schema=None):
    """A JSON file, as `schema` says where there is one (see `fit`); DataError naming the file and the line or field."""
    try:
        content = json.loads(Path(path).read_bytes().decode("utf-8-sig"))
    # ValueError: no UTF-8, no JSON, or a number of thousands of digits
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} is not readable JSON ({error}); download or write it again") from error
    if schema is not None:
        fit(content, schema, f"{path}: ")
    return content


def read_lines(path: str | Path) -> list[Row]:
    """A joints.jsonl: its objects, each with its name for messages. DataError for a file that is none."""
    try:
        text = Path(path).read_bytes().decode("utf-8-sig")
        lines = ((f"{path}: line[{i}]", line) for i, line in enumerate(text.splitlines(), 1) if line.strip())
        entries = [(where, json.loads(line)) for where, line in lines]
    except (OSError, ValueError, RecursionError) as error:
        what = f"is not readable as lines of JSON ({error})"
        raise DataError(f"{path} {what}; a result file is a list, or joints.jsonl") from error
    for where, entry in entries:
        if not isinstance(entry, dict) or not ("persons" in entry or "error" in entry):
            wanted = "expected joints.jsonl, or a list of results (is this an annotation file?)"
            raise DataError(f"{where} has no list `persons`; {wanted}")
    return entries


def fit(value, schema, where: str) -> None:
    """DataError, beginning with `where`, unless `value` is as `schema` says: a type or several; [SCHEMA], a list of
    such; {FIELD: SCHEMA}, an object with these fields (`FIELD?`: may be absent; `*`: all others are such)."""
    kind = type(schema) if isinstance(schema, (list, dict)) else schema
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        words = {list: "a list", dict: "an object", str: "a text", bool: "true or false"}
        names = ", ".join(words.get(k, "a number") for k in (kind if isinstance(kind, tuple) else (kind,)))
        raise DataError(f"{where.rstrip('. ')} is {short(value)}; write {names}")
    if isinstance(schema, list):
        for i, item in enumerate(value):
            fit(item, schema[0], f"{where.rstrip('.')}[{i}].")
    elif isinstance(schema, dict) and isinstance(value, dict):
        named = {field.rstrip("?"): inner for field, inner in schema.items() if field != "*"}
        rest = dict.fromkeys(value.keys() - named.keys(), schema["*"]) if "*" in schema else {}
        for field, inner in (named | rest).items():
            if field in value:
                fit(value[field], inner, f"{where}{field}.")
            elif f"{field}?" not in schema:
                raise DataError(f"{where}{field} is missing; write it, or the file again")


def rows(path: str | Path, content, field: str = "") -> list[Row]:
    """The objects of a JSON list, or of the list `content[field]`, each with its name for messages."""
    found = content if not field else content.get(field) if isinstance(content, dict) else None
    if not isinstance(found, list):
        raise DataError(f"{path}: no list{f' `{field}`' if field else ''}, but {short(found)}; take another file")
    # of an object of this file, or the file
    stem = f"{path}{'.' if str(path).endswith(']') else ': '}{field or 'entry '}"
    named = [(f"{stem}[{i}]", entry) for i, entry in enumerate(found)]
    for name, entry in named:
        if not isinstance(entry, dict):
            raise DataError(f"{name} is {short(entry)}; write an object with named fields")
    return named


def last_of_each(path: str | Path, rows: list[Row], names: list) -> dict:
    """name -> row; a warning where several rows have one name, of which the last counts."""
    found = dict(zip(names, rows))
    if len(found) < len(rows):
        what = f"{len(rows) - len(found)} of the {len(rows)} entries name an image again"
        warnings.warn(f"{path}: {what}; the last entry of an image counts", DataWarning, stacklevel=4)
    return found


def column(rows: list[Row], field: str, shape: tuple[int, ...] = (), whole: bool = False, default=None) -> np.ndarray:
    """One field of every row: (N, *shape) float64, or int64 where `whole`; `default` where a row has none.

    DataError naming the first row whose value is not that many finite numbers (whole: of 64 bits).
    """
    values = [row.get(field) for _, row in rows]
    if default is not None:
        values = [default if v is None or v == [] else v for v in values]
    found = _numbers(values, shape, whole)
    if found is not None:
        return found
    bad = next((i for i, value in enumerate(values) if _numbers([value], shape, whole) is None), 0)
    inside = (_odd(values[bad]) or [""])[0] if shape else ""
    wanted = f"{'whole' if whole else 'finite'} number{'s' if shape else ''}"
    wanted = f"{' x '.join(map(str, shape))} {wanted}" if shape else f"a {wanted}"
    what = short(values[bad]) + (f" with {inside} in it" if inside and values[bad] is not None else "")
    raise DataError(f"{rows[bad][0]}.{field} is {what}; write {wanted}")


def _odd(value) -> list:
    """What is no finite number in nested lists, each as messages show it."""
    if isinstance(value, list):
        return [word for item in value for word in _odd(item)]
    return [] if is_numbers([value]) else [short(value)]


def _numbers(values: list, shape: tuple[int, ...], whole: bool) -> np.ndarray | None:
    if not values:
        return np.zeros((0, *shape), np.int64 if whole else np.float64)
    try:
        found = np.array(values)
    except (ValueError, OverflowError):  # rows of different lengths
        return None
    if found.shape != (len(values), *shape) or found.dtype.kind not in "iuf" or not np.isfinite(found).all():
        return None
    if whole and ((found != np.floor(found)).any() or (np.abs(found.astype(np.float64)) >= 2.0**63).any()):
        return None
    return found.astype(np.int64 if whole else np.float64)


def is_numbers(value, count: int | None = None) -> bool:
    """Whether a JSON value is a list of (`count`) finite numbers."""
    found = _numbers([value], (len(value),), False) if isinstance(value, list) and value else None
    return found is not None and count in (None, len(value))


def check_flags(rows: list[Row], field: str, flags: np.ndarray, allowed: tuple[int, ...]) -> None:
    """DataError naming the row whose (N,J) `flags` hold another number than those allowed."""
    for row, joint in np.argwhere(~np.isin(flags, allowed))[:1]:
        words = f"{flags[row, joint]:g}; write one of {', '.join(map(str, allowed))}"
        raise DataError(f"{rows[row][0]}.{field}: the flag of joint {joint} is {words}")


def texts(rows: list[Row], field: str) -> list[str]:
    """One field of every row; DataError naming the first that is not a text."""
    for name, row in rows:
        if not isinstance(row.get(field), str) or not row[field]:
            raise DataError(f"{name}.{field} is {short(row.get(field))}; write a text")
    return [row[field] for _, row in rows]


def short(value) -> str:
    """A value as messages show it."""
    if isinstance(value, (list, dict)):
        words = json.dumps(value, default=str)
        return words if len(words) < 60 else f"a {'list' if isinstance(value, list) else 'object'} of {len(value)}"
    words = "missing or null" if value is None else repr(value)
    return words if len(words) < 60 else words[:56] + " ..."
