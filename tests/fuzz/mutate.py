"""Damage to the content of a file, drawn from a random generator: bytes, JSON trees, words of a text, arrays."""

from __future__ import annotations

import copy
import io
import json
import math
import pickle
import re
import struct
import zipfile
from collections.abc import Callable
from random import Random
from typing import Any

import numpy as np

SIZES = [0, 1, 127, 255, 1 << 15, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 40, (1 << 63) - 1, (1 << 64) - 1]
WORDS = [
    "nan", "inf", "-inf", "-1", "0", "", "x", "1e999", "1e308", "9" * 5000, "0x1f", "1_0", "1,5", "None", "null", "true", '"', "'",
    "../../x", "/etc/hostname", "%(a)s", "${a}", "\\", "\t", "é", "\u2028", "{", "}", "[", "]", ":", "&a [*a]", "*a", "!!python/name:os.system",
    "2147483648", "99999999999999999999", "-0", "x" * 60000,
]  # fmt: skip


def strange(rng: Random) -> Any:
    """A value that a field of JSON does not expect."""
    return rng.choice([
        math.nan, math.inf, -math.inf, -1, 0, 1.5, 1e308, -1e308, 1e-320, 1 << 31, 1 << 63, 10**30, None, True, False, "", "x", "nan", "-1",
        "\ud800", "é" * 40, "x" * 50000, "../../x", "/etc/hostname", "a\0b", [], {}, [[]], [None], [1, 2, 3], {"a": 1}, [0] * 51, [[0, 0]] * 16,
    ])  # fmt: skip


# ---- bytes -----------------------------------------------------------------------------------------------------------


def _place(rng: Random, size: int) -> int:
    """Heads and tails of files matter most."""
    return rng.choice([rng.randrange(size), rng.randrange(min(size, 200)), size - 1 - rng.randrange(min(size, 120))])


def _cut(rng: Random, data: bytes) -> bytes:
    return data[: rng.choice([0, rng.randrange(min(len(data), 64)), rng.randrange(len(data)), len(data) - 1])]


def _flip(rng: Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice([1, 1, 1, 3, 30])):
        changed[_place(rng, len(data))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _number(rng: Random, data: bytes) -> bytes:
    """A length or a count that lies."""
    size = rng.choice([1, 2, 4, 4, 8])
    at = max(min(_place(rng, len(data)), len(data) - size), 0)
    order = rng.choice(["little", "little", "big"])
    found = int.from_bytes(data[at : at + size], order)  # type: ignore[arg-type]
    value = rng.choice([*SIZES, found + 1, found - 1, found * 2, found + (1 << 16)]) % (1 << 8 * size)
    return data[:at] + value.to_bytes(size, order) + data[at + size :]  # type: ignore[arg-type]


def _replaced(rng: Random, data: bytes) -> bytes:
    at, size = _place(rng, len(data)), rng.choice([0, 1, 2, 8, 64, 1000])
    new = rng.choice(
        [b"", b"\0" * size, b"\xff" * size, rng.randbytes(rng.choice([1, 4, 16, 300])), data[at : at + size] * 3]
    )
    return data[:at] + new + data[at + size :]


def _other_file(rng: Random, data: bytes) -> bytes:
    lfs = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
    page = b"<!DOCTYPE html><html><body>Not found</body></html>\n"
    return rng.choice(
        [
            lfs,
            page,
            bytes(len(data)),
            rng.randbytes(500),
            data[:16] + rng.randbytes(400),
            data * 2,
            data.replace(b"\n", b"\r\n"),
        ]
    )


def of_bytes(rng: Random, data: bytes) -> bytes:
    """Cut, flipped, lengthened, with wrong numbers, or another file altogether."""
    if not data:
        return rng.randbytes(20)
    return rng.choice([_cut, _cut, _flip, _flip, _flip, _number, _number, _number, _replaced, _replaced, _other_file])(
        rng, data
    )


# ---- text and trees --------------------------------------------------------------------------------------------------


def of_text(rng: Random, data: bytes) -> bytes:
    """Another word, lines gone or moved, another encoding, endless nesting; or bytes."""
    how = rng.randrange(12)
    if how < 6:
        for _ in range(rng.choice([1, 1, 3])):
            words = list(re.finditer(rb"[\w.+/-]+", data)) or [re.match(b"", data)]
            found = rng.choice(words)
            data = data[: found.start()] + rng.choice(WORDS).encode() + data[found.end() :]  # type: ignore[union-attr]
        return data
    if how < 9:
        lines = data.split(b"\n")
        at, to = rng.randrange(len(lines)), rng.randrange(len(lines))
        if how == 6:
            del lines[at]
        elif how == 7:
            lines.insert(to, lines[at] * rng.choice([1, 2, 500]))
        else:
            lines[at], lines[to] = lines[to], lines[at]
        return b"\n".join(lines)
    if how == 9:
        coded = [
            b"\xef\xbb\xbf" + data,
            data.decode("utf-8", "replace").encode("utf-16"),
            data + b"\xff\xfe\xe4",
            data[:9] + b"\0" + data[9:],
        ]
        return rng.choice(coded)
    if how == 10:
        return rng.choice(
            [
                b"",
                b"\n",
                b"#",
                b"null",
                data + rng.choice([b"{", b"[", b"- ", b"a: {", b"a {"]) * rng.choice([300, 30000]),
            ]
        )
    return of_bytes(rng, data)


def _nodes(tree: Any) -> list[tuple[Any, Any]]:
    """(container, key) of every node but the root."""
    found, left = [], [tree]
    while left:
        node = left.pop()
        keys = list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()
        found += [(node, key) for key in keys]
        left += [node[key] for key in keys]
    return found


def of_json(rng: Random, data: bytes) -> bytes:
    """One node, or that field everywhere, of another type, gone, doubled or renamed; or text that is hardly JSON."""
    if rng.random() < 0.25:
        deep = [
            b"[" * 100000,
            b'{"a":' * 3000 + b"1" + b"}" * 3000,
            b"[]",
            b"{}",
            b"null",
            b"[null]",
            b"[{}]",
            b"7" * 5000,
            data + data,
        ]
        return rng.choice([of_bytes(rng, data), of_text(rng, data), rng.choice(deep)])
    tree = json.loads(data)
    nodes = _nodes(tree)
    if not nodes:
        return json.dumps(strange(rng)).encode()
    by_name: dict[Any, list] = {}
    for container, key in nodes:
        by_name.setdefault(key if isinstance(key, str) else "#", []).append((container, key))
    place, key = rng.choice(by_name[rng.choice(sorted(by_name))])
    how, value = rng.randrange(8), strange(rng)
    if how < 3:
        place[key] = value
    elif how == 3:
        del place[key]
    elif how == 4:
        place[key] = rng.choice([[place[key]], {"a": place[key]}, str(place[key]), copy.deepcopy(place)])
    elif how == 5 and isinstance(place, list):
        place.insert(key, rng.choice([value, copy.deepcopy(place[key])]))
    elif how == 6 and isinstance(place, dict):
        place[rng.choice([key + "x", key.upper(), ""])] = place.pop(key)
    else:
        for other, name in nodes:
            if name == key and name in (other if isinstance(other, dict) else range(len(other))):
                other[name] = value
    text = json.dumps(tree)
    return text.replace("Infinity", rng.choice(["Infinity", "1e999", "9" * 5000])).encode()


# ---- arrays ----------------------------------------------------------------------------------------------------------


def of_array(rng: Random, array: np.ndarray) -> np.ndarray:
    """Of another type or shape, or with odd values."""
    how = rng.randrange(3)
    with np.errstate(all="ignore"):
        try:
            if how == 0:
                kind = rng.choice(["i1", "u2", "i8", "f2", "f8", "c16", "?", "U8", "S4", "M8[s]", "V4"])
                return np.zeros(array.shape, kind) if kind in ("M8[s]", "V4") else array.astype(kind)
            if how == 1:
                shapes = [
                    array.T,
                    array.ravel(),
                    array[:-1],
                    array[..., None],
                    array[None],
                    np.repeat(array, 2, -1),
                    array[:0],
                    array.ravel()[0],
                ]
                return np.array(rng.choice(shapes))
            changed, value = array.copy(), rng.choice([math.nan, math.inf, -1, 0, 1e30, 255])
            flat = changed.reshape(-1)
            flat[rng.randrange(flat.size) if rng.random() < 0.5 else slice(None)] = np.array(value).astype(array.dtype)
            return changed
        except (ValueError, TypeError, IndexError, np.exceptions.AxisError, OverflowError):
            return np.array("text")


def _mapping(rng: Random, content: dict) -> dict:
    content, key = dict(content), rng.choice(sorted(content))
    how = rng.randrange(8)
    texts = [name for name, value in content.items() if np.ndim(value) == 0 and str(value).startswith("{")]
    if texts and how < 4:  # what the file says of itself
        changed = of_json(rng, str(content[texts[0]]).encode()).decode("utf-8", "replace").rstrip("\0")
        return content | {texts[0]: np.array(changed)}
    if how == 0:
        del content[key]
    elif how == 1:
        content[key + "x"] = content.pop(key)
    elif how == 2:
        other = rng.choice(sorted(content))
        content[key], content[other] = content[other], content[key]
    else:
        content[key] = of_array(rng, np.asarray(content[key]))
    return content


def _header(shape: tuple, kind: str) -> bytes:
    text = f"{{'descr': {kind!r}, 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


def of_npz(rng: Random, data: bytes) -> bytes:
    """Bytes; other arrays; or an archive whose members lie about their size."""
    how = rng.randrange(10)
    if how < 4:
        return of_bytes(rng, data)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    if how < 8:
        arrays = {n.removesuffix(".npy"): np.load(io.BytesIO(b), allow_pickle=True) for n, b in members.items()}
        made = io.BytesIO()
        np.savez(made, **_mapping(rng, arrays))
        return made.getvalue()
    name = rng.choice(sorted(members))
    shapes = [
        ((10**9, 10**3), "<f8"),
        ((1 << 40, 1 << 40), "<f4"),
        ((3 * 10**8,), "<f8"),
        ((-1, 5), "<f8"),
        ((2,), "|O"),
        (("a",), "<f8"),
    ]
    members[name] = rng.choice(
        [
            b"",
            of_bytes(rng, members[name]),
            *(_header(*s) + bytes(80) for s in shapes),
            _header((1 << 28,), "<f8") + bytes(1 << 25),
        ]
    )
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, content in members.items():
            archive.writestr(member, content)
    return made.getvalue()


def of_mat(rng: Random, data: bytes) -> bytes:
    """Bytes, or a variable or a field of a record that is another."""
    import scipy.io

    if rng.random() < 0.5:
        return of_bytes(rng, data)
    content = {k: v for k, v in scipy.io.loadmat(io.BytesIO(data)).items() if not k.startswith("__")}
    places: list[tuple[Any, Any]] = [(content, key) for key in content]
    for container, key in places:  # grows while it is walked
        value = container[key]
        if isinstance(value, np.ndarray) and value.dtype.names and value.size and len(places) < 500:
            places += [(value, name) for name in value.dtype.names]
        elif isinstance(value, np.ndarray) and value.dtype == object and value.size and len(places) < 500:
            places += [(value, index) for index in list(np.ndindex(value.shape))[:20]]
    container, key = rng.choice(places)
    try:
        if rng.random() < 0.2 and isinstance(container, dict):
            del container[key]
        elif isinstance(container, np.ndarray) and container.dtype.names:
            field = np.empty(container.shape, object)
            field.fill(of_array(rng, np.asarray(container[key].flat[0])))
            container[key] = field
        else:
            container[key] = of_array(rng, np.asarray(container[key]))
        made = io.BytesIO()
        scipy.io.savemat(made, content)
        return made.getvalue()
    except (TypeError, ValueError, IndexError, KeyError):
        return of_bytes(rng, data)


def of_tree(rng: Random, data: bytes) -> bytes:
    """Another node in what a pickle, or a PyTorch file of the older layout, holds."""
    if by_torch := not data.startswith(b"\x80\x04"):
        import torch  # never beside Paddle
    tree = torch.load(io.BytesIO(data), weights_only=False) if by_torch else pickle.loads(data)
    place, key = rng.choice(_nodes(tree))
    how = rng.randrange(5)
    if how < 3:
        place[key] = rng.choice([strange(rng), np.ones(3), np.zeros((2, 2), "c8"), ("x", np.ones(2)), b"x"])
    elif how == 3:
        del place[key]
    elif isinstance(place, dict):
        place[rng.choice([5, None, f"{key}x", ("a", 1)])] = place.pop(key)
    made = io.BytesIO()
    torch.save(tree, made, _use_new_zipfile_serialization=False) if by_torch else pickle.dump(tree, made, 4)
    return made.getvalue()


KINDS: dict[str, Callable[[Random, bytes], bytes]] = {
    "bytes": of_bytes, "text": of_text, "json": of_json, "npz": of_npz, "mat": of_mat, "tree": of_tree,
}  # fmt: skip
