"""Persons -> crops, augmentation, targets as both originals make them -> Paddle batches.

Coordinates are 0-based pixels. A person is a centre and a scale (w, h) in units of 200 pixels; only the width of the
scale sets the crop. Images travel as uint8 and are normalised where the network runs. Every draw comes from a generator
keyed by (seed, epoch, person): batches depend neither on the number of workers nor on a resume.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias

import cv2
import numpy as np

from common.errors import DataError, DataWarning
from common.images import read_image
from common.runs.process import quiet_worker
from common.skeletons import Skeleton
from simplebaseline_paddle.config import FLIP_PROBABILITY, MEAN, PIXEL_STD, ROTATE_PROBABILITY, STD, STRIDE, Config
from simplebaseline_paddle.records import Person, Records

Array: TypeAlias = np.ndarray
Size = tuple[int, int]  # (width, height)
MANY = 32  # pictures of which one must be readable


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
    """Heat-map cells (...,K,2) -> image pixels, float64: `affine`'s inverse; `center`, `scale` (...,2), no rotation."""
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


def crop(image: Array, person: Person, size: Size, skeleton: Skeleton, change=AS_IT_IS, out=None) -> tuple:
    """(crop (H,W,3) uint8, joints (K,2) in crop pixels, seen (K,)) by an `Augmentation`; pixels are the originals' bit
    for bit. `out` (H,W,3) uint8: where they are written."""
    if change.flip:  # by OpenCV, fifty times as fast as numpy's reversed copy
        image, person = cv2.flip(image, 1), person.mirrored(image.shape[1], skeleton)
    matrix = affine(person.center, person.scale * change.scale, change.rotation, size)
    moved = person.joints @ matrix[:, :2].T + matrix[:, 2]
    return cv2.warpAffine(image, matrix, size, out, cv2.INTER_LINEAR), moved, person.seen


def targets(joints: Array, weight: Array, map_size: Size, sigma: float, stride=STRIDE, compat=False, out=None) -> tuple:
    """Gaussian heat-maps (K,h,w) float32 and weights (K,1) float32 of joints (K,2) in crop pixels with weights (K,).

    The peak is 1 at the whole cell trunc(joint / stride + 0.5); the Gaussian ends 3 sigma away. A joint whose window
    does not touch the map has weight 0. `compat` keeps weight 1 for a window that ends exactly at the map's left or
    upper edge, as the originals do. `out`: zeros (K,h,w) to write to.
    """
    (width, height), radius, reach, patch = map_size, 3 * sigma, int(3 * sigma), _patch(sigma)
    cells = np.trunc(joints / stride + 0.5)
    maps = np.zeros((len(joints), height, width), np.float32) if out is None else out
    weight = np.array(weight, np.float32)
    side = len(patch)
    # joint by joint, because few cells are not 0: several times as fast as outer products of rows and columns
    for joint, ((x, y), wanted) in enumerate(zip(cells.tolist(), weight.tolist())):
        high = min(x, y) + radius + 1
        if x - radius >= width or y - radius >= height or high < 0 or (high == 0 and not compat):
            weight[joint] = 0
        elif wanted > 0.5:
            left, top = int(x) - reach, int(y) - reach
            inside = maps[joint, max(top, 0) : top + side, max(left, 0) : left + side]
            whole = inside.shape == patch.shape
            inside[...] = patch if whole else patch[max(-top, 0) :, max(-left, 0) :][: len(inside), : inside.shape[1]]
    return maps, weight[:, None]


@lru_cache
def _patch(sigma: float) -> Array:
    """(2R+1,2R+1) float32: the Gaussian of `sigma` cells around 0 as far as the whole cell R at or within 3 sigma."""
    distance = np.arange(-int(3 * sigma), int(3 * sigma) + 1, dtype=np.float32)
    bell = np.exp(-(distance**2) / np.float32(2 * sigma**2))
    return bell[:, None] * bell


def normalise(images, colour: str = "bgr"):
    """(N,H,W,3) uint8 BGR tensor -> (N,3,H,W) float32 input: x/255, minus mean, over deviation.

    `bgr` puts ImageNet's RGB constants on B, G, R planes in this order, as the released weights were trained; `rgb`
    exchanges the planes.
    """
    import paddle

    pixels = images.transpose([0, 3, 1, 2]).astype("float32")  # first, because Paddle has no `flip` of uint8
    pixels = pixels.flip(1) if colour == "rgb" else pixels
    # a graph that is being traced needs constants of its own
    mean, std = (_by_channel if paddle.in_dynamic_mode() else _by_channel.__wrapped__)(paddle.get_device())
    return (pixels / 255.0 - mean) / std


@lru_cache(maxsize=8)
def _by_channel(device: str) -> list:
    """Mean and deviation, (1,3,1,1), sent once to a device: such a copy waits until that has done all its work."""
    import paddle

    return [paddle.to_tensor(np.array(values, np.float32).reshape(1, 3, 1, 1)) for values in (MEAN, STD)]


def flip_back(maps: Array, mirror: Array, shift: bool) -> Array:
    """Heat-maps (N,K,h,w) of a mirrored image in the frame of the image; `mirror` (K,) exchanges left and right.

    `shift` moves them one cell to the right (column 0 stays), as cells count from the crop's edge.
    """
    maps = maps[:, mirror, :, ::-1]
    return np.concatenate([maps[..., :1], maps[..., :-1]], axis=-1) if shift else np.ascontiguousarray(maps)


# ---- batches ---------------------------------------------------------------------------------------------------------


class PersonDataset:
    """Persons as network input, a batch at a time: the key is a list of (epoch, index).

    An item is a dict of arrays: image (N,H,W,3) uint8 BGR, index (N,) and read (N,) bool, for training also target
    (N,K,h,w) and weight (N,K,1). A person whose picture cannot be read is black and without joints; `troubles` says so
    in words, and of pictures that are cut off.
    """

    def __init__(self, records: Records, skeleton: Skeleton, config: Config, training: bool):
        self.records, self.skeleton, self.config, self.training = records, skeleton, config, training
        self.troubles: dict[str, None] = {}  # of all batches
        self._last: tuple = (None, None)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, keys: list[tuple[int, int]]) -> dict:
        config, (width, height) = self.config, self.config.input_size
        # every array is written once, where it stays: new memory costs as much as what is written there
        images = np.zeros((len(keys), height, width, 3), np.uint8)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", DataWarning)
            joints, seen, read = zip(*(self._sample(*key, out) for key, out in zip(keys, images)))
        batch = {"image": images, "index": np.array([index for _, index in keys], np.int64), "read": np.array(read)}
        if self.training:
            maps = np.zeros((len(keys), len(self.skeleton), *config.map_size[::-1]), np.float32)
            how: dict = {"map_size": config.map_size, "sigma": config.sigma, "compat": config.mode == "compat"}
            weight = [targets(at, shown, **how, out=out)[1] for at, shown, out in zip(joints, seen, maps)]
            batch |= {"target": maps, "weight": np.array(weight)}
        return batch | {"troubles": [str(warning.message) for warning in caught]}

    def _sample(self, epoch: int, index: int, out: Array) -> tuple[Array, Array, bool]:
        """Joints and which are seen, and whether there is a picture; its pixels are written to `out`."""
        person = self.records.person(index)
        try:
            image = self._image(self.records.images[index])
        except DataError as error:
            warnings.warn(str(error), DataWarning, stacklevel=2)
            return person.joints, np.zeros_like(person.seen), False
        return *crop(image, person, self.config.input_size, self.skeleton, self.draw(epoch, index), out)[1:], True

    def draw(self, epoch: int, index: int) -> Augmentation:
        """What a person is changed by in an epoch."""
        if not (self.training and self.config.augment):
            return AS_IT_IS
        rng = np.random.Generator(np.random.Philox(key=self.config.seed, counter=[0, 0, epoch, index]))
        return draw_augmentation(rng, self.config.scale_factor, self.config.rot_factor)

    def _image(self, path: str) -> Array:
        if self._last[0] != path:  # in scoring, the persons of one image follow each other
            self._last = path, read_image(path)
        return self._last[1]

    def report(self) -> None:
        """Count and name, at the end, the pictures that could not be read."""
        if self.troubles:
            names = "\n  ".join(text.partition(";")[0] for text in self.troubles)
            print(f"warning: {len(self.troubles)} pictures are damaged or missing:\n  {names}", file=sys.stderr)


def shuffled_batches(length: int, batch: int, seed: int, epoch: int, rank: int = 0, world: int = 1) -> list[Array]:
    """An epoch's training batches in an order fixed by (seed, epoch), whole; every process takes a part of each."""
    order = np.random.default_rng((seed, epoch)).permutation(length)
    count = max(length // batch, int(length > 0 and world == 1))
    return [order[b * batch : (b + 1) * batch][rank::world] for b in range(count)]


def plain_batches(length: int, batch: int, rank: int = 0, world: int = 1) -> list[Array]:
    """Batches in which every person comes once, in one of the processes; neighbours, as they share images."""
    own = np.array_split(np.arange(length), world)[rank]
    return [own[i : i + batch] for i in range(0, len(own), batch)]


def load_batches(dataset: PersonDataset, batches: list[Array], workers: int, epoch: int = 0) -> Iterator[dict]:
    """Batches as dicts of tensors, from `workers` processes, 0: this one. DataError when no picture can be read."""
    import paddle

    # a list of one key each, as Paddle's loader asks the data set for each key of a list by itself
    keys = [[[(epoch, int(index)) for index in batch]] for batch in batches]
    found: Any = (dataset[key] for (key,) in keys)
    if workers:
        how: Any = {"collate_fn": lambda items: items[0], "worker_init_fn": quiet_worker, "use_buffer_reader": False}
        found = iter(paddle.io.DataLoader(dataset, batch_sampler=keys, num_workers=workers, **how))
    tried, read = 0, False
    try:
        for batch in found:
            for text in batch.pop("troubles"):
                if text not in dataset.troubles:
                    print(f"warning: {text}", file=sys.stderr)
                dataset.troubles[text] = None
            tried, read = tried + len(batch["read"]), read or bool(batch["read"].any())
            if not read and tried >= min(MANY, sum(map(len, batches))):
                raise DataError(f"not one of {tried} pictures can be read: {next(iter(dataset.troubles))}")
            yield batch if workers else {name: paddle.to_tensor(array) for name, array in batch.items()}
    finally:
        if workers:  # Paddle ends them itself only behind the last batch
            found._try_shutdown_all()
