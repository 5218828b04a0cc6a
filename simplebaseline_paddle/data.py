"""Persons -> crops, augmentation, targets as both originals make them -> Paddle batches.

Coordinates are 0-based pixels. A person is a centre and a scale (w, h) in units of 200 pixels; only the width of the
scale sets the crop. Images travel as uint8 and are normalised where the network runs. Every draw comes from a generator
keyed by (seed, epoch, person): batches depend neither on the number of workers nor on a resume.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias

import cv2
import numpy as np

from common.errors import DataError
from common.images import read_image
from common.skeletons import Skeleton
from simplebaseline_paddle.config import FLIP_PROBABILITY, MEAN, PIXEL_STD, ROTATE_PROBABILITY, STD, STRIDE, Config
from simplebaseline_paddle.records import Person, Records

Array: TypeAlias = np.ndarray
Size = tuple[int, int]  # (width, height)
_REDUCED = {2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4, 8: cv2.IMREAD_REDUCED_COLOR_8}


def affine(center, scale, rotation: float, size: Size, inverse: bool = False) -> Array:
    """(2,3) float64 map from the image to a crop of `size` = (width, height), or back; `rotation` in degrees.

    Three pairs of points fix it: the centre, the middle of the box's (turned) upper edge at half its WIDTH, and the
    corner that makes a right angle; float32 as in the originals, whose pixels depend on it.
    """
    width, height = size
    angle = np.pi * rotation / 180
    sine, cosine = np.sin(angle), np.cos(angle)
    half = -0.5 * PIXEL_STD * scale[0]
    source, target = np.zeros((3, 2), np.float32), np.zeros((3, 2), np.float32)
    source[0] = center
    source[1] = np.asarray(center) + (-half * sine, half * cosine)
    target[0] = (width * 0.5, height * 0.5)
    target[1] = (width * 0.5, height * 0.5 - width * 0.5)
    for points in (source, target):
        direction = points[0] - points[1]
        points[2] = points[1] + np.array([-direction[1], direction[0]], np.float32)
    return cv2.getAffineTransform(target, source) if inverse else cv2.getAffineTransform(source, target)


def to_image(cells: Array, center: Array, scale: Array, map_size: Size) -> Array:
    """Heat-map cells (...,K,2) -> image pixels, float64: the inverse of `affine` without rotation, for whole batches.

    `center` and `scale` (...,2); one factor, from the width of the scale, for both axes.
    """
    factor = PIXEL_STD * np.asarray(scale, np.float64)[..., None, :1] / map_size[0]
    return (cells - np.asarray(map_size) * 0.5) * factor + np.asarray(center, np.float64)[..., None, :]


@dataclass(frozen=True)
class Augmentation:
    """What one training sample is changed by; the default is nothing."""

    scale: float = 1.0
    rotation: float = 0.0  # degrees
    flip: bool = False


AS_IT_IS = Augmentation()


def draw_augmentation(rng, scale_factor: float, rot_factor: float) -> Augmentation:
    """Random scale, rotation, mirror, drawn in the originals' order; `rng` has `standard_normal` and `random`."""
    scale = min(max(rng.standard_normal() * scale_factor + 1, 1 - scale_factor), 1 + scale_factor)
    rotation = 0.0
    if rng.random() <= ROTATE_PROBABILITY:
        rotation = min(max(rng.standard_normal() * rot_factor, -2 * rot_factor), 2 * rot_factor)
    return Augmentation(scale, rotation, rng.random() <= FLIP_PROBABILITY)


def place(
    person: Person, size: Size, skeleton: Skeleton, change: Augmentation = AS_IT_IS, width: int = 0
) -> tuple[Array, Array, Array]:
    """Where a crop of `size` lies: (matrix (2,3) from the image to the crop, joints (K,2) in crop pixels, seen (K,)).

    With `change.flip` the matrix starts from the mirrored image, in which column x is column `width` - 1 - x.
    """
    if change.flip:
        person = person.mirrored(width, skeleton)
    matrix = affine(person.center, person.scale * change.scale, change.rotation, size)
    moved = person.joints @ matrix[:, :2].T + matrix[:, 2]
    return matrix, np.where(person.seen[:, None], moved, person.joints), person.seen


def warp(image: Array, matrix: Array, size: Size, reduced: int = 1, out: Array | None = None) -> Array:
    """The crop (H,W,3) uint8 that `matrix` (2,3) cuts out of an image, into `out` if given.

    `image` may have been decoded at 1/`reduced` of its size; cell i of it stands for pixels reduced*i ... reduced*i +
    reduced-1. With reduced = 1 pixels are the originals' bit for bit.
    """
    return cv2.warpAffine(image, _for_reduced(matrix, reduced), size, dst=out, flags=cv2.INTER_LINEAR)


def warp_mirrored(image: Array, matrix: Array, size: Size, reduced: int = 1, out: Array | None = None) -> Array:
    """As `warp` of the mirrored image, which is not made (a tenth of a sample); `matrix` is `place`'s for width 0.

    Positions agree to 1/1000 pixel. OpenCV rounds them to 1/1024 and those, halves up, to 1/32; mirrored halves would
    go down, hence the step. About one pixel in ten thousand then falls on another 32nd and differs by a few grey
    levels.
    """
    back = cv2.invertAffineTransform(_for_reduced(matrix, reduced))
    back[0] *= -1
    back[0, 2] -= 1 + 1 / 1024
    return cv2.warpAffine(image, back, size, dst=out, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)


def _for_reduced(matrix: Array, reduced: int) -> Array:
    half = (reduced - 1) / 2
    return matrix @ np.array([[reduced, 0, half], [0, reduced, half], [0, 0, 1]])


def crop(
    image: Array, person: Person, size: Size, skeleton: Skeleton, change: Augmentation = AS_IT_IS, reduced: int = 1
) -> tuple[Array, Array, Array]:
    """(crop (H,W,3) uint8, joints (K,2) in crop pixels, seen (K,)): `place` and `warp`, mirroring the image."""
    matrix, joints, seen = place(person, size, skeleton, change, image.shape[1] * reduced)
    image = cv2.flip(image, 1) if change.flip else image  # fifty times as fast as numpy's reversed copy
    return warp(image, matrix, size, reduced), joints, seen


def reduction(scale: Array, width: int) -> int:
    """How much smaller an image may be decoded (1, 2, 4 or 8) and a crop of `width` pixels not be enlarged."""
    shrink = PIXEL_STD * scale[0] / width
    return next((r for r in (8, 4, 2) if shrink >= r), 1)


def targets(joints: Array, weight: Array, map_size: Size, sigma: float, stride: float = STRIDE, compat: bool = False,
            out: Array | None = None) -> tuple[Array, Array]:  # fmt: skip
    """Gaussian heat-maps (K,h,w) float32 and weights (K,1) float32 of joints (K,2) in crop pixels with weights (K,).

    The peak is 1 at the whole cell trunc(joint / stride + 0.5); the Gaussian ends 3 sigma away. A joint whose window
    does not touch the map has weight 0. `compat` keeps weight 1 for a window that ends exactly at the map's left or
    upper edge, as the originals do. `out` (K,h,w) float32, zeros: where to put the heat-maps.
    """
    width, height = map_size
    radius = 3 * sigma
    reach = int(radius)
    cells = np.trunc(joints / stride + 0.5)
    maps = np.zeros((len(joints), height, width), np.float32) if out is None else out
    patch, weight = _patch(sigma), np.array(weight, np.float32)
    # joint by joint, because few cells are not 0: several times as fast as outer products of rows and columns
    for joint, (x, y) in enumerate(cells.tolist()):
        high = min(x, y) + radius + 1
        if x - radius >= width or y - radius >= height or high < 0 or (high == 0 and not compat):
            weight[joint] = 0
        elif weight[joint] > 0.5:
            left, top = int(x) - reach, int(y) - reach
            rows, columns = slice(max(top, 0), top + len(patch)), slice(max(left, 0), left + len(patch))
            inside = maps[joint, rows, columns]
            inside[...] = patch[rows.start - top :, columns.start - left :][: inside.shape[0], : inside.shape[1]]
    return maps, weight[:, None]


@lru_cache
def _patch(sigma: float) -> Array:
    """(2R+1,2R+1) float32: the Gaussian of `sigma` cells around 0 as far as the whole cell R at or within 3 sigma."""
    distance = np.arange(-int(3 * sigma), int(3 * sigma) + 1, dtype=np.float32)
    bell = np.exp(-(distance**2) / np.float32(2 * sigma**2))
    return bell[:, None] * bell


def normalise(images, colour: str = "bgr"):
    """(N,H,W,3) uint8 BGR, numpy or Paddle, -> (N,3,H,W) float32 input: x/255, minus mean, over deviation.

    `bgr` puts ImageNet's RGB constants on B, G, R planes in this order, as the released weights were trained; `rgb`
    exchanges the planes.
    """
    mean, std = (np.array(values, np.float32) for values in (MEAN, STD))
    if isinstance(images, np.ndarray):
        # the same arithmetic, done once for each of the 256 values
        table = (np.arange(256, dtype=np.float32)[:, None] / np.float32(255) - mean) / std
        planes = range(3) if colour == "bgr" else (2, 1, 0)
        return np.stack([table[:, c][images[..., plane]] for c, plane in enumerate(planes)], axis=1)
    import paddle

    pixels = images.transpose([0, 3, 1, 2]).astype("float32")  # first, because Paddle has no `flip` of uint8
    pixels = pixels.flip(1) if colour == "rgb" else pixels
    low, by = (paddle.to_tensor(values.reshape(1, 3, 1, 1), place=images.place) for values in (mean, std))
    return (pixels / 255.0 - low) / by


def flip_back(maps: Array, mirror: Array, shift: bool) -> Array:
    """Heat-maps (N,K,h,w) of a mirrored image in the frame of the image; `mirror` (K,) exchanges left and right.

    `shift` moves them one cell to the right (column 0 stays), because cells count from the crop's edge.
    """
    maps = maps[:, mirror, :, ::-1]
    return np.concatenate([maps[..., :1], maps[..., :-1]], axis=-1) if shift else np.ascontiguousarray(maps)


# ---- batches ---------------------------------------------------------------------------------------------------------


def read_reduced(path: str, factor: int) -> tuple[Array, int]:
    """(image, factor): a JPEG decoded at 1/`factor` of its size, others whole (1). DataError as `read_image`."""
    if factor > 1 and path.lower().endswith((".jpg", ".jpeg")) and Path(path).is_file():
        image = cv2.imread(path, _REDUCED[factor] | cv2.IMREAD_IGNORE_ORIENTATION)
        if image is not None:
            return image, factor
    return read_image(path), 1


class PersonDataset:
    """Persons as network input, a batch at a time: the key is a list of (epoch, index).

    An item is a dict of arrays: image (N,H,W,3) uint8 BGR and index (N,), for training also target (N,K,h,w) and weight
    (N,K,1). Where a picture cannot be read it is the text `error`: in worker processes, Paddle's loader answers an
    exception by hanging or dying.
    """

    def __init__(self, records: Records, skeleton: Skeleton, config: Config, training: bool):
        self.records, self.skeleton, self.config, self.training = records, skeleton, config, training
        self.augmented = training and config.augmentation != "none"
        self.fast = training and config.fast_decode and config.mode == "correct"
        self._last: tuple = (None, None)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, keys: list[tuple[int, int]]) -> dict:
        try:
            return self._batch(keys)
        except DataError as error:
            return {"index": np.zeros(1, np.int64), "error": [str(error)]}

    def _batch(self, keys: list[tuple[int, int]]) -> dict[str, Array]:
        config, (width, height) = self.config, self.config.input_size
        images = np.empty((len(keys), height, width, 3), np.uint8)
        batch: dict[str, Array] = {"image": images, "index": np.array([index for _, index in keys], np.int64)}
        # before any picture: decoding pushes all this out of the processor's caches, and it takes several times as long
        plans = [self._plan(epoch, index) for epoch, index in keys]
        found = [self._cut(plan, out) for plan, out in zip(plans, images)]
        if self.training:
            width, height = config.map_size
            maps = batch["target"] = np.zeros((len(keys), len(self.skeleton), height, width), np.float32)
            how: dict = {"map_size": config.map_size, "sigma": config.sigma, "compat": config.mode == "compat"}
            batch["weight"] = np.stack([targets(*one, out=out, **how)[1] for one, out in zip(found, maps)])
        return batch

    def _plan(self, epoch: int, index: int) -> tuple:
        """(path, factor of `read_reduced`, person, augmentation, `place`'s answer or None where it needs the width)."""
        person, size = self.records.person(index), self.config.input_size
        change = self.draw(epoch, index) if self.augmented else AS_IT_IS
        factor = reduction(person.scale * change.scale, size[0]) if self.fast else 1
        known = place(person, size, self.skeleton, change) if self.fast or not change.flip else None
        return self.records.images[index], factor, person, change, known

    def _cut(self, plan: tuple, out: Array) -> tuple[Array, Array]:
        """Fill `out` with a planned crop; returns (joints in crop pixels, seen)."""
        path, factor, person, change, known = plan
        size = self.config.input_size
        image, factor = self._image(path, factor)
        if known is None:
            out[...], joints, seen = crop(image, person, size, self.skeleton, change, factor)
        else:
            matrix, joints, seen = known
            (warp_mirrored if change.flip else warp)(image, matrix, size, factor, out)
        return joints, seen

    def draw(self, epoch: int, index: int) -> Augmentation:
        """What a person is changed by in an epoch."""
        rng = np.random.Generator(np.random.Philox(key=self.config.seed, counter=[0, 0, epoch, index]))
        return draw_augmentation(rng, *self.config.augmentation_factors)

    def _image(self, path: str, factor: int) -> tuple[Array, int]:
        """The image. In scoring it is kept for the next person, as those of one image follow each other."""
        if self.training:
            return read_reduced(path, factor)
        if self._last[0] != (path, factor):
            self._last = ((path, factor), read_reduced(path, factor))
        return self._last[1]


@dataclass
class EpochBatches:
    """Batches of (epoch, index) in an order fixed by (seed, epoch), `world` processes' share, from batch `skip` on.

    Training batches are shuffled, whole and of equal number in every process: process r takes every world-th person of
    each global batch. Otherwise every person comes exactly once in one of the processes. Each is a list of one key,
    because Paddle's loader asks the data set for each key of a list by itself.
    """

    length: int
    batch: int
    shuffle: bool
    seed: int = 0
    rank: int = 0
    world: int = 1
    epoch: int = 0
    skip: int = 0

    def __iter__(self) -> Iterator[list]:
        for indices in self._indices()[self.skip :]:
            yield [[(self.epoch, int(i)) for i in indices]]

    def _indices(self) -> list[Array]:
        if self.shuffle:
            order = np.random.default_rng((self.seed, self.epoch)).permutation(self.length)
            whole = (order[b * self.batch : (b + 1) * self.batch] for b in range(self.total))
            return [persons[self.rank :: self.world] for persons in whole]
        own = np.array_split(np.arange(self.length), self.world)[self.rank]  # neighbours share images
        return [own[i : i + self.batch] for i in range(0, len(own), self.batch)]

    @property
    def total(self) -> int:
        """Batches of a whole epoch."""
        if self.shuffle:
            return max(self.length // self.batch, int(self.length > 0 and self.world == 1))
        return len(self._indices())

    def __len__(self) -> int:
        return max(self.total - self.skip, 0)


def load_batches(dataset: PersonDataset, sampler: EpochBatches, workers: int) -> Iterator[dict]:
    """Batches as dicts of tensors, from `workers` processes, 0: this one. DataError when a picture is unreadable."""
    import paddle

    batches: Any = (dataset[keys] for (keys,) in sampler)
    if workers:
        how: Any = {"collate_fn": lambda items: items[0], "worker_init_fn": _quiet, "use_buffer_reader": False}
        how |= {"dataset": dataset, "batch_sampler": sampler, "num_workers": workers}
        batches = iter(paddle.io.DataLoader(**how))
    try:
        for batch in batches:
            if "error" in batch:
                raise DataError(batch["error"][0])
            yield batch if workers else {name: paddle.to_tensor(array) for name, array in batch.items()}
    finally:
        if workers:  # Paddle ends them itself only behind the last batch
            batches._try_shutdown_all()


def _quiet(_: int) -> None:
    cv2.setNumThreads(0)
    # Ctrl-C reaches workers too: the training process ends them when its step is done
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
