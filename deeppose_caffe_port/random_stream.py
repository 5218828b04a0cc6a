"""Caffe's CPU random numbers and weight fillers: the same MT19937 words, in the same order, for the same seed."""

from __future__ import annotations

import math
import os

import numpy as np

from common.errors import DataError

_WORDS = np.float32(4294967296.0)


class CaffeRandom:
    """The process-wide generator of Caffe's CPU mode. A negative seed asks for a different stream in every run."""

    def __init__(self, seed: int = -1):
        self.reseed(seed % 2**32 if seed >= 0 else int.from_bytes(os.urandom(4), "little"))

    def reseed(self, seed: int) -> None:
        """Start the stream of another seed."""
        self.seed, self._state = seed, np.random.RandomState(seed)

    def words(self, count: int) -> np.ndarray:
        """(count,) uint32: the next words of the stream."""
        return self._state.randint(0, 2**32, size=count, dtype=np.uint32)

    def uniform(self, shape, low: float, high: float) -> np.ndarray:
        """float32 in [low, high], computed in float32 as boost's uniform_real does; rejected words are drawn again."""
        low, end = np.float32(low), np.nextafter(np.float32(high), np.float32(np.inf), dtype=np.float32)
        wanted, parts = int(np.prod(shape)), []
        while wanted:
            values = self.words(wanted).astype(np.float32)
            values /= _WORDS
            values *= end - low
            values += low
            parts.append(values[values < end])
            wanted -= len(parts[-1])
        return np.concatenate(parts or [np.zeros(0, np.float32)]).reshape(shape)

    def bernoulli(self, shape, probability: float) -> np.ndarray:
        """bool, true with `probability`; one word an element."""
        limit = np.float32(probability) * np.float32(4294967295.0)
        return (self.words(int(np.prod(shape))).astype(np.float32) <= limit).reshape(shape)

    def gaussian(self, shape, mean: float, std: float) -> np.ndarray:
        """float32 normal numbers: Caffe's distribution, not its numbers, which depend on the version of boost."""
        return self._state.normal(mean, std, size=shape).astype(np.float32)

    def get_state(self) -> list:
        """The state as plain values, for a checkpoint."""
        kind, keys, position, has_gauss, cached = self._state.get_state()
        return [kind, keys.tolist(), int(position), int(has_gauss), float(cached)]

    def set_state(self, state: list) -> None:
        """Undo `get_state`."""
        kind, keys, position, has_gauss, cached = state
        self._state.set_state((kind, np.array(keys, np.uint32), position, has_gauss, cached))


def fill(filler, shape, random: CaffeRandom, where: str = "layer") -> np.ndarray:
    """float32 values of a FillerParameter for a blob of `shape`. DataError naming `where` for an unknown filler."""
    count = int(np.prod(shape))
    if filler.type == "constant":
        return np.full(shape, filler.value, np.float32)
    if filler.type == "uniform":
        return random.uniform(shape, filler.min, filler.max)
    if filler.type == "gaussian":
        values = random.gaussian(shape, filler.mean, filler.std)
        return values if filler.sparse < 0 else values * random.bernoulli(shape, filler.sparse / shape[0])
    if filler.type == "bilinear":  # of a Deconvolution that makes pictures larger
        half = math.ceil(shape[-1] / 2)
        near = 1 - np.abs(np.arange(shape[-1]) / half - (2 * half - 1 - half % 2) / (2 * half))
        return np.broadcast_to(np.float32(near[:, None] * near), shape).copy()
    if filler.type in ("xavier", "msra"):
        fan_in = count // shape[0] if count else 1
        fan_out = count // shape[1] if len(shape) > 1 else count
        fan = np.float32((fan_in, fan_out, (fan_in + fan_out) / 2)[filler.variance_norm])
        if filler.type == "msra":
            return random.gaussian(shape, 0.0, float(np.sqrt(np.float32(2) / fan)))
        scale = np.sqrt(np.float32(3) / fan)
        return random.uniform(shape, -scale, scale)
    known = "constant, uniform, gaussian, xavier, msra, bilinear"
    raise DataError(f"{where}: unknown filler {filler.type!r}; known: {known}")
