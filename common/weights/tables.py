"""Sorted string tables (LevelDB's file format, which TensorFlow's checkpoints are written in) and their CRC-32C, in NumPy alone.

A table is blocks of (key, value), keys ascending and prefix-compressed, each block followed by its compression type and masked CRC; an index
block of the blocks' last keys; a footer of 48 bytes. Reference: leveldb/doc/table_format.md, tensorflow/core/lib/io/table_format.txt.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Iterable, Iterator

import numpy as np

from common.errors import DataError

_MAGIC = 0xDB4775248B80FB57
_FOOTER = 48
_RESTART = 16  # entries between full keys
_BLOCK = 262144  # bytes after which a block ends
_POLYNOMIAL = 0x82F63B78  # Castagnoli, reflected
_LANES = 4096


@functools.cache
def _byte_table() -> np.ndarray:
    """(256,) uint32: the register after one byte."""
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, (table >> 1) ^ np.uint32(_POLYNOMIAL), table >> 1)
    return table


@functools.cache
def _pair_table() -> np.ndarray:
    """(65536,) uint32: the register after two zero bytes, by its own low 16 bits."""
    table, low = _byte_table(), np.arange(65536, dtype=np.uint32)
    for _ in range(2):
        low = table[low & 0xFF] ^ (low >> 8)
    return low


def crc32c(data: bytes | memoryview | np.ndarray) -> int:
    """CRC-32C of a buffer.

    Long buffers are cut into 4096 lanes that run side by side, two bytes a step; the lanes are joined with the fact that a CRC is linear:
    the register after a lane is that of the lane alone, plus the register before it advanced over as many zero bytes.
    """
    view = np.frombuffer(data, np.uint8) if not isinstance(data, np.ndarray) else data.reshape(-1).view(np.uint8)
    pairs = len(view) // 2
    length = pairs // _LANES  # of a lane, in pairs
    register = 0xFFFFFFFF
    done = 2 * length * _LANES
    if length >= 16:
        words = view[:done].view("<u2").reshape(_LANES, length).T
        table, lanes = _pair_table(), np.zeros(_LANES, np.uint32)
        for row in words:
            lanes = table[(lanes ^ row) & 0xFFFF] ^ (lanes >> 16)
        advance = _zeros_operator(2 * length)
        for lane in lanes.tolist():
            register = _apply(advance, register) ^ lane
    else:
        done = 0
    table = _byte_list()
    for byte in view[done:].tolist():
        register = table[(register ^ byte) & 0xFF] ^ (register >> 8)
    return register ^ 0xFFFFFFFF


@functools.cache
def _byte_list() -> list[int]:
    return _byte_table().tolist()


def _apply(matrix: list[int], vector: int) -> int:
    """A GF(2) matrix, one column an int, times a vector."""
    result, bit = 0, 0
    while vector:
        if vector & 1:
            result ^= matrix[bit]
        vector >>= 1
        bit += 1
    return result


@functools.lru_cache(maxsize=64)
def _zeros_operator(count: int) -> list[int]:
    """The matrix that advances a register over `count` zero bytes, by repeated squaring."""
    table = _byte_list()
    square = [table[(1 << b) & 0xFF] ^ ((1 << b) >> 8) for b in range(32)]
    result = [1 << b for b in range(32)]
    while count:
        if count & 1:
            result = [_apply(square, column) for column in result]
        square = [_apply(square, column) for column in square]
        count >>= 1
    return result


def masked_crc(data) -> int:
    """The CRC as these files store it: rotated and moved, so that the CRC of data that holds CRCs is no special value."""
    value = crc32c(data)
    return (((value >> 15) | (value << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def varint(value: int) -> bytes:
    """Seven bits a byte, lowest first; negative numbers as 64-bit two's complement."""
    value &= 0xFFFFFFFFFFFFFFFF
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def read_varint(data, at: int) -> tuple[int, int]:
    """(value, position behind it); IndexError at the end of `data`, ValueError when it is longer than 64 bits."""
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("a number of more than 64 bits")


def read_table(data: memoryview, name: str) -> Iterator[tuple[bytes, memoryview]]:
    """The (key, value) pairs of a table in a buffer. DataError naming the file when it is none, is cut short or damaged."""
    if len(data) < _FOOTER or struct.unpack("<Q", data[-8:])[0] != _MAGIC:
        raise DataError(
            f"{name} is not a whole TensorFlow checkpoint: it lacks the table's footer; it is cut short, or another kind of file"
        )
    try:
        at = len(data) - _FOOTER
        for _ in range(2):  # the meta index's place, which these files leave empty
            _, at = read_varint(data, at)
        offset, at = read_varint(data, at)
        size, _ = read_varint(data, at)
        for _, handle in _entries(_block(data, offset, size)):
            offset, at = read_varint(handle, 0)
            size, _ = read_varint(handle, at)
            yield from _entries(_block(data, offset, size))
    except (ValueError, IndexError, struct.error) as error:
        raise DataError(f"{name} is damaged ({error}); get it again") from error


def _block(data: memoryview, offset: int, size: int) -> memoryview:
    trailer = data[offset + size : offset + size + 5]
    kind, stored = struct.unpack("<BI", trailer)
    if masked_crc(data[offset : offset + size + 1]) != stored:
        raise ValueError(f"the checksum of the block at {offset} is wrong")
    if kind:
        raise ValueError("its blocks are compressed, which TensorFlow's writers never do")
    return data[offset : offset + size]


def _entries(block: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    end = len(block) - 4 * (1 + struct.unpack("<I", block[-4:])[0])
    at, key = 0, b""
    while at < end:
        shared, at = read_varint(block, at)
        rest, at = read_varint(block, at)
        length, at = read_varint(block, at)
        key = key[:shared] + bytes(block[at : at + rest])
        yield key, block[at + rest : at + rest + length]
        at += rest + length


class _Block:
    """A block of a table while it is built."""

    def __init__(self) -> None:
        self.out, self.restarts, self.count, self.last = bytearray(), [0], 0, b""

    def add(self, key: bytes, value: bytes) -> None:
        """Append an entry; the part of the key that the one before has is left out."""
        shared = 0
        if self.count == _RESTART:
            self.restarts.append(len(self.out))
            self.count = 0
        else:
            while shared < min(len(key), len(self.last)) and key[shared] == self.last[shared]:
                shared += 1
        self.out += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        self.count, self.last = self.count + 1, key

    def finish(self) -> bytes:
        """The block's bytes, with the places where whole keys stand."""
        return bytes(self.out) + struct.pack(f"<{len(self.restarts) + 1}I", *self.restarts, len(self.restarts))


def write_table(file, entries: Iterable[tuple[bytes, bytes]]) -> None:
    """Write (key, value) pairs, keys ascending, as a table to a binary file that is at its beginning. ValueError for unsorted keys."""
    index, block, offset, last = _Block(), _Block(), 0, None

    def put(content: bytes) -> bytes:
        nonlocal offset
        file.write(content + b"\0" + struct.pack("<I", masked_crc(content + b"\0")))
        handle = varint(offset) + varint(len(content))
        offset += len(content) + 5
        return handle

    for key, value in entries:
        if last is not None and key <= last:
            raise ValueError(f"table keys are not ascending: {key!r} after {last!r}")
        block.add(key, value)
        last = key
        if len(block.out) >= _BLOCK:
            index.add(last, put(block.finish()))
            block = _Block()
    if block.out:
        index.add(last, put(block.finish()))
    meta = put(_Block().finish())
    footer = meta + put(index.finish())
    file.write(footer.ljust(_FOOTER - 8, b"\0") + struct.pack("<Q", _MAGIC))
