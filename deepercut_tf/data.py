"""Images -> network batches: order, scale jitter, mirroring, resizing, targets, padding; and tf.data over them.

A draw (order, mirror flag, scale, angle) depends on the seed and its number alone, so a run goes on from any iteration
with the same data. Resizing is Pillow's bilinear filter to (int(W s), int(H s)), as the original's.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import cv2
import numpy as np

from common.errors import DataError
from common.images import image_size, read_image
from deepercut_tf.config import Config
from deepercut_tf.items import Item, ItemSet
from deepercut_tf.joints import mirror_joints, symmetric_order
from deepercut_tf.targets import Targets, make_targets, map_size

SMALLEST = 100  # in mode compat training leaves out images with a shorter side (unscaled pixels)


@dataclass
class Sample:
    """One image as the network reads it, (H,W,3) uint8 RGB, with its targets."""

    image: np.ndarray
    targets: Targets


@dataclass(frozen=True)
class Draw:
    """One image of a data set, its scale, mirror flag and angle in degrees; `number` counts all draws of a run."""

    index: int
    scale: float = 1.0
    mirror: bool = False
    angle: float = 0.0
    number: int = 0


def size_of(item: Item) -> tuple[int, int]:
    """Height and width of an image, from the annotations or the file; DataError when it is in neither."""
    return item.size or image_size(item.image)[::-1]


def make_sample(
    item_set: ItemSet, draw: Draw, config: Config, statistics: np.ndarray | None = None, image: np.ndarray | None = None
) -> Sample:
    """Read the image (unless given, BGR), crop, resize, mirror, turn it as drawn, and make its targets."""
    item, scale, angle = item_set.items[draw.index], draw.scale, draw.angle
    image = read_image(item.image) if image is None else image
    persons, mask = item.persons, ignore_mask(item_set, item, config)
    if config.crop:
        window = crop_window(image, item, config)
        image, first = image[window], (window[1].start, window[0].start)
        persons = [np.concatenate([p[:, :1], p[:, 1:] - first], axis=1) for p in persons]
        mask = None if mask is None else mask[window]
    width = image.shape[1]
    image = resize(image, scale)
    if draw.mirror:
        order = symmetric_order(config.all_joints, config.num_joints)
        persons = [mirror_joints(p, width, order, item_set.mirror_shift) for p in persons]
        image = cv2.flip(image, 1)
        mask = mask[:, ::-1] if mask is not None and config.mode == "correct" else mask
    matrix = np.eye(2, 3)
    if angle:
        matrix, size = rotation(image.shape[:2], angle)
        image = turn(image, matrix, size, np.round(config.mean_pixel)[::-1].tolist())
        mask = None if mask is None else turn(mask, matrix * [scale, scale, 1], size, 0)
    scaled = [(p[:, 0].astype(int), p[:, 1:] * scale @ matrix[:, :2].T + matrix[:, 2]) for p in persons]
    cells = map_size(*image.shape[:2])
    targets = make_targets(scaled, cells, scale, config, statistics)
    if mask is not None:
        weights = np.broadcast_to(score_weights(mask, cells)[..., None], targets.score.shape)
        targets = replace(targets, weights=weights)
    return Sample(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), targets)


def rotation(size: tuple[int, int], angle: float) -> tuple[np.ndarray, tuple[int, int]]:
    """(2,3) matrix turning a picture (h,w) by `angle` degrees, and the new size, no side above the old longer one."""
    height, width = size
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), angle, 1.0)
    box = np.abs(matrix[:, :2]) @ [width, height]
    wide, high = (min(int(np.ceil(side - 1e-9)), max(size)) for side in box)
    matrix[:, 2] += (wide - width) / 2, (high - height) / 2
    return matrix, (high, wide)


def turn(image: np.ndarray, matrix: np.ndarray, size: tuple[int, int], fill) -> np.ndarray:
    """Warp a picture to `size` (h,w) by a (2,3) matrix; `fill` where nothing was. Masks (two axes) stay 0 and 1."""
    method = cv2.INTER_LINEAR if image.ndim == 3 else cv2.INTER_NEAREST
    return cv2.warpAffine(np.ascontiguousarray(image), matrix, size[::-1], flags=method, borderValue=fill)


def resize(image: np.ndarray, scale: float) -> np.ndarray:
    """(H,W,3) uint8 by `scale`, sides cut to whole pixels, at least one; the same array for 1."""
    if scale == 1:
        return image
    from PIL import Image

    width, height = (max(int(side * scale), 1) for side in image.shape[1::-1])
    return np.asarray(Image.fromarray(np.ascontiguousarray(image)).resize((width, height), Image.Resampling.BILINEAR))


def crop_window(image: np.ndarray, item: Item, config: Config) -> tuple[slice, slice]:
    """Rows and columns of the item's crop, widened by crop_pad. DataError where it has none or lies outside."""
    if item.crop is None:
        raise DataError(f"{item.image}: crop needs that field of the .mat file, or a folder's image with one person")
    height, width = image.shape[:2]
    x1, y1, x2, y2 = (int(v) for v in item.crop - 1)
    x1, x2 = max(x1 - config.crop_pad, 0), min(x2 + config.crop_pad, width - 1)
    y1, y2 = max(y1 - config.crop_pad, 0), min(y2 + config.crop_pad, height - 1)
    if x2 < x1 or y2 < y1:
        raise DataError(f"{item.image}: field crop {item.crop.tolist()} lies outside its {width}x{height} pixels")
    return slice(y1, y2 + 1), slice(x1, x2 + 1)


def ignore_mask(item_set: ItemSet, item: Item, config: Config) -> np.ndarray | None:
    """(H,W) uint8, 1 where people are who are not annotated (mode correct: crowds too); None where there are none."""
    regions = [r for r in item_set.regions(item) if config.mode == "correct" or not r.get("iscrowd")]
    if not regions:
        return None
    from pycocotools import mask

    return mask.decode(mask.merge([{"size": r["size"], "counts": r["counts"]} for r in regions]))


def score_weights(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(h,w) float32, 0 where the mask lies, resized to the map as the original did (8-bit bilinear, so 0 or 1)."""
    from PIL import Image

    small = Image.fromarray(np.ascontiguousarray(mask)).resize((size[1], size[0]), Image.Resampling.BILINEAR)
    return 1 - np.asarray(small, np.float32)


# ---- which image comes when ------------------------------------------------------------------------------------------


class Sampler:
    """Endless order of a data set: a permutation an epoch, of twice the images when mirrored copies are used."""

    def __init__(self, item_set: ItemSet, config: Config):
        self.item_set, self.items, self.config = item_set, item_set.items, config
        self.size = len(self.items) * (2 if config.mirror else 1)
        self._epoch, self._order = -1, np.zeros(0, int)

    def draws(self, start: int = 0) -> Iterator[Draw]:
        """Accepted draws from number `start` on. DataError when a whole epoch has no image that may be trained on."""
        number, refused = start, 0
        while refused <= self.size:
            draw = self._draw(number)
            number += 1
            accepted = self.accepts(self.items[draw.index], draw.scale)
            refused = 0 if accepted else refused + 1
            if accepted:
                yield draw
        least = f" and has {SMALLEST} pixels a side" if self.config.mode == "compat" else ""
        raise DataError(f"no image fits max_input_size {self.config.max_input_size}{least}; change that key")

    def _draw(self, number: int) -> Draw:
        config, (epoch, place) = self.config, divmod(number, self.size)
        if epoch != self._epoch:
            generator = np.random.default_rng([config.seed, 0, epoch])
            self._order = generator.permutation(self.size) if config.shuffle else np.arange(self.size)
            self._epoch = epoch
        mirror, index = divmod(int(self._order[place]), len(self.items))
        scale, angle = config.global_scale, 0.0
        if config.scale_jitter_lo is not None and config.scale_jitter_up is not None:
            jitter = np.random.default_rng([config.seed, 1, number])
            scale *= jitter.uniform(config.scale_jitter_lo, config.scale_jitter_up)
        if config.rotate:
            angle = float(np.random.default_rng([config.seed, 2, number]).uniform(-config.rotate, config.rotate))
        return Draw(index, scale, bool(mirror), angle, number)

    def accepts(self, item: Item, scale: float) -> bool:
        """Whether an image may be trained on at this scale: not too small, not too large."""
        try:
            height, width = map(float, size_of(item))
        except DataError as error:
            self.item_set.note(item, error)
            return False
        if self.config.mode == "compat" and min(height, width) < SMALLEST:
            return False
        if self.config.crop and self.config.mode == "correct" and item.crop is not None:
            (x1, y1, x2, y2), pad = item.crop, 2 * self.config.crop_pad
            height, width = min(y2 - y1 + 1 + pad, height), min(x2 - x1 + 1 + pad, width)
        limit = self.config.max_input_size
        return limit is None or height * scale * width * scale <= limit**2


# ---- batches ---------------------------------------------------------------------------------------------------------


def collate(samples: list[Sample], config: Config, bucket: int = 0) -> dict[str, np.ndarray]:
    """Samples as one batch: the original's keys, each (B,...). Smaller images are padded with the mean pixel at the
    right and bottom, to multiples of `bucket` if given; weights and masks are 0 there."""
    height, width = (max(s.image.shape[axis] for s in samples) for axis in (0, 1))
    if bucket:
        height, width = (-(-side // bucket) * bucket for side in (height, width))
    shape = map_size(height, width)
    batch = {"inputs": (inputs := np.empty((len(samples), height, width, 3), np.uint8))}
    for i, sample in enumerate(samples):
        down, right = height - sample.image.shape[0], width - sample.image.shape[1]
        # many times as fast as numpy's assignment of three values; OpenCV rounds them
        cv2.copyMakeBorder(sample.image, 0, down, 0, right, cv2.BORDER_CONSTANT, inputs[i], config.mean_pixel)
        for name, value in _named_targets(sample.targets, config).items():
            place = batch.setdefault(name, np.zeros((len(samples), *shape, value.shape[-1]), np.float32))
            place[i, : value.shape[0], : value.shape[1]] = value
    return batch


def _named_targets(targets: Targets, config: Config) -> dict[str, np.ndarray]:
    weights = targets.weights if config.weigh_part_predictions else np.ones_like(targets.score)
    named = {"part_score_targets": targets.score, "part_score_weights": weights}
    named |= {"locref_targets": targets.locref, "locref_mask": targets.locref_mask}
    named |= {"pairwise_targets": targets.pairwise, "pairwise_mask": targets.pairwise_mask}
    return {name: value for name, value in named.items() if value is not None}


def batches(
    item_set: ItemSet, config: Config, statistics: np.ndarray | None, start=0, workers=2, share=(0, 1)
) -> Iterator[dict[str, np.ndarray]]:
    """Endless batches (`collate`) of `batch_size` draws from number `start` on, with `draw`, the next one's number.
    `share` (k, n): the k-th of n processes, each reading its own images. A damaged image is left out."""
    draws = Sampler(item_set, config).draws(start)

    def build(chosen: list[Draw]) -> dict[str, np.ndarray] | None:
        read = [(draw, item_set.read(item_set.items[draw.index])) for draw in chosen]
        samples = [make_sample(item_set, d, config, statistics, image) for d, image in read if image is not None]
        return collate(samples, config, config.bucket) if samples else None

    with ThreadPoolExecutor(max(workers, 1)) as pool:
        ahead: list = []
        failed = 0
        while failed <= len(item_set):
            while len(ahead) < 2 * max(workers, 1):
                group = [[next(draws) for _ in range(config.batch_size)] for _ in range(share[1])]
                ahead.append((group[-1][-1].number + 1, pool.submit(build, group[share[0]])))
            number, result = ahead.pop(0)
            batch = result.result()
            failed = 0 if batch is not None else failed + 1
            if batch is not None:
                yield {**batch, "draw": np.array(number)}
    raise DataError(f"no image of {item_set.root} can be read; run `python -m common.datasets check` on it")


def batch_spec(config: Config) -> dict:
    """tf.TensorSpec of every part of a batch: any number of images of any size, for one compiled step."""
    import tensorflow as tf

    joints = config.num_joints
    channels = {"part_score_targets": joints, "part_score_weights": joints}
    if config.location_refinement:
        channels |= dict.fromkeys(("locref_targets", "locref_mask"), 2 * joints)
    if config.pairwise_predict:
        channels |= dict.fromkeys(("pairwise_targets", "pairwise_mask"), 2 * joints * (joints - 1))
    maps = {name: tf.TensorSpec((None, None, None, count), tf.float32) for name, count in channels.items()}
    return maps | {"inputs": tf.TensorSpec((None, None, None, 3), tf.uint8)}


def tf_dataset(item_set: ItemSet, config: Config, *more):
    """The same as a prefetched tf.data.Dataset."""
    import tensorflow as tf

    signature = batch_spec(config) | {"draw": tf.TensorSpec((), tf.int64)}
    made = tf.data.Dataset.from_generator(lambda: batches(item_set, config, *more), output_signature=signature)
    return made.prefetch(4)
