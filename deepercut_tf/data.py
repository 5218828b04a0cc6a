"""Images -> network batches: sampling order, scale jitter, mirroring, resizing, targets, padding; and the tf.data
pipeline over them.

Everything but `tf_dataset` is NumPy and Pillow. A draw (order, mirror flag, scale) depends on the seed and its number
alone, so a run goes on from any iteration with the same data. Resizing is Pillow's bilinear filter to (int(W s), int(H
s)), as the original's.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np

from common.errors import DataError
from common.images import read_image
from deepercut_tf.config import Config
from deepercut_tf.items import Item, ItemSet
from deepercut_tf.joints import mirror_joints, symmetric_order
from deepercut_tf.targets import Targets, make_targets, map_size

SMALLEST = 100  # training leaves out images with a shorter side (unscaled pixels)


@dataclass
class Sample:
    """One image as the network reads it, (H,W,3) uint8 RGB; the file's point p is at scale * (p - origin) in it."""

    image: np.ndarray
    targets: Targets
    index: int
    scale: float
    origin: tuple[float, float] = (0.0, 0.0)


def image_size(item: Item) -> tuple[int, int]:
    """Height and width of an image, from the annotations or the file's header; DataError when there is neither."""
    if item.size is not None:
        return item.size
    from PIL import Image

    try:
        with Image.open(item.image) as file:
            return file.height, file.width
    except OSError as error:
        remedy = "put it there or take it out of the data set"
        raise DataError(f"image {item.image} cannot be read ({error}); {remedy}") from error


def make_sample(
    item_set: ItemSet, index: int, config: Config, scale: float, mirror: bool, statistics: np.ndarray | None = None,
    angle: float = 0.0, spot: tuple[float, float, float] | None = None, image: np.ndarray | None = None,
) -> Sample:  # fmt: skip
    """Read image `index`, crop, resize, mirror, turn by `angle` degrees, and make its targets; `spot`: see `Draw`."""
    item = item_set.items[index]
    image = (read_image(item.image) if image is None else image)[..., ::-1]
    persons, window = item.persons, _whole(image)
    if config.crop:
        window = _box_window(image, item, config)
    elif config.crop_size and spot is not None:
        window = _square_window(image, item, config.crop_size / scale, spot)
    origin = float(window[1].start), float(window[0].start)
    if window != _whole(image):
        image, persons = image[window], [np.concatenate([p[:, :1], p[:, 1:] - origin], axis=1) for p in persons]
    width = image.shape[1]
    image = resize(image, scale)
    if mirror:
        order = symmetric_order(config.all_joints, config.num_joints)
        persons = [mirror_joints(p, width, order, item_set.mirror_shift) for p in persons]
        image = image[:, ::-1]
    upright = image.shape[0], image.shape[1]
    matrix, turned = rotation(upright, angle)
    if angle:
        image = turn(image, matrix, turned, np.round(config.mean_rgb).tolist())
    scaled = [(p[:, 0].astype(int), p[:, 1:] * scale @ matrix[:, :2].T + matrix[:, 2]) for p in persons]
    size = map_size(*image.shape[:2])
    targets = make_targets(scaled, size, scale, config, statistics)
    mask = ignore_mask(item_set, item, config)
    if mask is not None:
        shown = mask[window][:, ::-1] if mirror and config.mode == "correct" else mask[window]
        if angle:
            shown = turn(score_mask(shown, upright), matrix, turned, 0)
        weights = np.broadcast_to(score_weights(shown, size)[..., None], targets.score.shape)
        targets = replace(targets, weights=weights)
    return Sample(np.ascontiguousarray(image), targets, index, scale, origin)


def rotation(size: tuple[int, int], angle: float) -> tuple[np.ndarray, tuple[int, int]]:
    """(2,3) matrix turning a picture (h,w) by `angle` degrees, and the new size, no side above the old longer one."""
    height, width = size
    cosine, sine = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    box = height * abs(cosine) + width * abs(sine), width * abs(cosine) + height * abs(sine)
    high, wide = (min(int(np.ceil(side - 1e-9)), max(size)) for side in box)
    linear = np.array([[cosine, sine], [-sine, cosine]])
    middle, new_middle = (np.array([w - 1, h - 1]) / 2 for h, w in (size, (high, wide)))
    return np.concatenate([linear, (new_middle - linear @ middle)[:, None]], axis=1), (high, wide)


def turn(image: np.ndarray, matrix: np.ndarray, size: tuple[int, int], fill) -> np.ndarray:
    """Warp a picture to `size` (h,w) by `rotation`'s matrix; `fill` where nothing was. Masks (two axes) stay 0 and
    1."""
    import cv2

    method = cv2.INTER_LINEAR if image.ndim == 3 else cv2.INTER_NEAREST
    return cv2.warpAffine(np.ascontiguousarray(image), matrix, size[::-1], flags=method, borderValue=fill)


def resize(image: np.ndarray, scale: float) -> np.ndarray:
    """(H,W,3) uint8 by `scale`, sides cut to whole pixels, at least one; the same array for 1."""
    if scale == 1:
        return image
    from PIL import Image

    width, height = (max(int(side * scale), 1) for side in image.shape[1::-1])
    return np.asarray(Image.fromarray(np.ascontiguousarray(image)).resize((width, height), Image.Resampling.BILINEAR))


def _whole(image: np.ndarray) -> tuple[slice, slice]:
    return slice(0, image.shape[0]), slice(0, image.shape[1])


def _box_window(image: np.ndarray, item: Item, config: Config) -> tuple[slice, slice]:
    """Rows and columns of the item's crop, widened by crop_pad."""
    if item.crop is None:
        raise DataError(f"{item.image}: crop needs that field of the .mat file, or a folder's image with one person")
    height, width = image.shape[:2]
    x1, y1, x2, y2 = (int(v) for v in item.crop - 1)
    x1, x2 = max(x1 - config.crop_pad, 0), min(x2 + config.crop_pad, width - 1)
    y1, y2 = max(y1 - config.crop_pad, 0), min(y2 + config.crop_pad, height - 1)
    if x2 < x1 or y2 < y1:
        raise DataError(f"{item.image}: field crop {item.crop.tolist()} lies outside its {width}x{height} pixels")
    return slice(y1, y2 + 1), slice(x1, x2 + 1)


def _square_window(image: np.ndarray, item: Item, side: float, spot: tuple[float, float, float]) -> tuple[slice, slice]:
    """Rows and columns of a square of `side` pixels about the person that `spot` picks, inside the picture."""
    choice, shift, shape = spot[0], np.array(spot[1:]), np.array(image.shape[1::-1])
    if item.persons:
        points = item.persons[int(choice * len(item.persons))][:, 1:]
        middle = (points.min(0) + points.max(0)) / 2 + shift * side / 2
    else:
        middle = (0.5 + shift) * shape
    side = max(int(side), 1)
    first = np.clip(np.round(middle - side / 2).astype(int), 0, np.maximum(shape - side, 0))
    last = np.minimum(first + side, shape)
    return slice(int(first[1]), int(last[1])), slice(int(first[0]), int(last[0]))


def ignore_mask(item_set: ItemSet, item: Item, config: Config) -> np.ndarray | None:
    """(H,W) uint8, 1 where people are who are not annotated (mode correct: crowds too); None where there are none."""
    regions = [r for r in item_set.regions(item) if config.mode == "correct" or not r.get("iscrowd")]
    if not regions:
        return None
    from pycocotools import mask

    return mask.decode(mask.merge([{"size": r["size"], "counts": r["counts"]} for r in regions]))


def score_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The mask (H,W) uint8 at another size (h,w)."""
    from PIL import Image

    return np.asarray(Image.fromarray(np.ascontiguousarray(mask)).resize(size[::-1], Image.Resampling.NEAREST))


def score_weights(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(h,w) float32, 0 where the mask lies, resized to the map as the original did (8-bit bilinear, so 0 or 1)."""
    from PIL import Image

    small = Image.fromarray(np.ascontiguousarray(mask)).resize((size[1], size[0]), Image.Resampling.BILINEAR)
    return 1 - np.asarray(small, np.float32)


# ---- which image comes when ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Draw:
    """What one step trains on: images (one, or consecutive frames of a video), a scale, a mirror flag, an angle in
    degrees. `number` counts all draws.

    `spot`, for crop_size: which person (0 to 1), and how far the square's middle is from the person's, in halves of its
    side (-0.5 to 0.5).
    """

    number: int
    indices: tuple[int, ...]
    scale: float
    mirror: bool
    angle: float = 0.0
    spot: tuple[float, float, float] | None = None


class Sampler:
    """Endless order of a data set: a permutation an epoch, of twice the images when mirrored copies are used."""

    def __init__(self, item_set: ItemSet, config: Config):
        self.items, self.config = item_set.items, config
        self.size = len(self.items) * (2 if config.mirror else 1)
        self.sequences = item_set.sequences
        self._epoch, self._order = -1, np.zeros(0, int)

    def draws(self, start: int = 0) -> Iterator[Draw]:
        """Accepted draws from number `start` on. DataError when a whole epoch has no image that may be trained on."""
        number, refused = start, 0
        while refused <= self.size:
            draw = self._draw(number)
            number += 1
            accepted = all(self._accepts(self.items[i], draw.scale) for i in draw.indices)
            refused = 0 if accepted else refused + 1
            if accepted:
                yield draw
        limit = self.config.max_input_size
        raise DataError(f"no image has {SMALLEST} pixels a side and fits max_input_size {limit}; change that key")

    def _draw(self, number: int) -> Draw:
        epoch, place = divmod(number, self.size)
        if epoch != self._epoch:
            generator = np.random.default_rng([self.config.seed, 0, epoch])
            self._order = generator.permutation(self.size) if self.config.shuffle else np.arange(self.size)
            self._epoch = epoch
        index = int(self._order[place])
        low, high = self.config.scale_jitter_lo, self.config.scale_jitter_up
        scale = self.config.global_scale
        if low is not None and high is not None:
            scale *= np.random.default_rng([self.config.seed, 1, number]).uniform(low, high)
        mirror, index = index >= len(self.items), index % len(self.items)
        reach = self.config.rotate
        angle = np.random.default_rng([self.config.seed, 2, number]).uniform(-reach, reach) if reach else 0.0
        spot = None
        if self.config.crop_size:
            choice, *shift = np.random.default_rng([self.config.seed, 3, number]).uniform(size=3)
            spot = (choice, shift[0] - 0.5, shift[1] - 0.5)
        return Draw(number, self._frames(index), scale, mirror, float(angle), spot)

    def _frames(self, index: int) -> tuple[int, ...]:
        """The image, or with video_batch the `batch_size` frames from it on, shifted back or repeated to fit."""
        if not self.config.video_batch:
            return (index,)
        item, count = self.items[index], self.config.batch_size
        if item.sequence is None or item.frame is None or not 0 <= item.sequence < len(self.sequences):
            raise DataError(f"{item.image}: video_batch needs the fields seq_id and frame_id of the .mat file")
        frames = self.sequences[item.sequence]
        start = max(min(item.frame, len(frames) - count), 0)
        return tuple(frames[min(start + i, len(frames) - 1)] for i in range(count))

    def _accepts(self, item: Item, scale: float) -> bool:
        height, width = map(float, image_size(item))
        if self.config.crop and self.config.mode == "correct" and item.crop is not None:
            (x1, y1, x2, y2), pad = item.crop, 2 * self.config.crop_pad
            height, width = min(y2 - y1 + 1 + pad, height), min(x2 - x1 + 1 + pad, width)
        elif self.config.crop_size:
            height, width = (min(side, self.config.crop_size / scale) for side in (height, width))
        limit = self.config.max_input_size
        return min(image_size(item)) >= SMALLEST and (limit is None or height * scale * width * scale <= limit**2)


# ---- batches ---------------------------------------------------------------------------------------------------------


def collate(samples: list[Sample], config: Config, bucket: int = 0) -> dict[str, np.ndarray]:
    """Samples as one batch: the original's keys, each (B,...). Smaller images are padded with the mean pixel at the
    right and bottom, to multiples of `bucket` if given; weights and masks are 0 there. A batch of one image without
    `bucket` is that image.

    `part_score_weights` are the loss weights: 1 (0 on padding) unless `weigh_part_predictions`.
    """
    height, width = (max(s.image.shape[axis] for s in samples) for axis in (0, 1))
    if bucket:
        height, width = (-(-side // bucket) * bucket for side in (height, width))
    shape = map_size(height, width)
    inputs = np.empty((len(samples), height, width, 3), np.uint8)
    inputs[:] = np.round(config.mean_rgb).astype(np.uint8)
    batch = {"inputs": inputs}
    for i, sample in enumerate(samples):
        inputs[i, : sample.image.shape[0], : sample.image.shape[1]] = sample.image
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
    item_set: ItemSet,
    config: Config,
    statistics: np.ndarray | None,
    start=0,
    workers=2,
    share: tuple[int, int] = (0, 1),
) -> Iterator[dict[str, np.ndarray]]:
    """Endless batches (`collate`) with `draw`, the number of the next draw. `share` (k, n): of n workers' batches the
    k-th only, each reading its own images.

    With `batch_size` > 1 a batch has so many draws, with `video_batch` so many frames of one. A damaged image is left
    out with a warning.
    """
    draws = Sampler(item_set, config).draws(start)
    per_batch = 1 if config.video_batch else config.batch_size

    def build(chosen: list[Draw]) -> dict[str, np.ndarray] | None:
        made = [_sample_or_none(item_set, i, config, draw, statistics) for draw in chosen for i in draw.indices]
        samples = [sample for sample in made if sample is not None]
        return collate(samples, config, config.bucket) if samples else None

    with ThreadPoolExecutor(max(workers, 1)) as pool:
        ahead: list = []
        failed = 0
        while True:
            while len(ahead) < 2 * max(workers, 1):
                group = [[next(draws) for _ in range(per_batch)] for _ in range(share[1])]
                ahead.append((group[-1][-1].number + 1, pool.submit(build, group[share[0]])))
            number, result = ahead.pop(0)
            batch = result.result()
            failed = 0 if batch is not None else failed + 1
            if failed > len(item_set):
                raise DataError(f"no image of {item_set.root} can be read; run `python -m common.datasets check` on it")
            if batch is not None:
                yield {**batch, "draw": np.array(number)}


def _sample_or_none(item_set: ItemSet, index: int, config: Config, draw: Draw, statistics) -> Sample | None:
    try:
        image = read_image(item_set.items[index].image)
    except DataError as error:
        warnings.warn(f"left out: {error}", stacklevel=2)
        return None
    more = (statistics, draw.angle, draw.spot, image)
    return make_sample(item_set, index, config, draw.scale, draw.mirror, *more)


def batch_channels(config: Config) -> dict[str, int]:
    """Name -> channels of every map of a batch."""
    joints = config.num_joints
    channels = {"part_score_targets": joints, "part_score_weights": joints}
    if config.location_refinement:
        channels |= {"locref_targets": 2 * joints, "locref_mask": 2 * joints}
    if config.pairwise_predict:
        pairs = 2 * joints * (joints - 1)
        channels |= {"pairwise_targets": pairs, "pairwise_mask": pairs}
    return channels


def batch_spec(config: Config) -> dict:
    """tf.TensorSpec of every part of a batch: any number of images of any size, so that one compiled step serves
    all."""
    import tensorflow as tf

    any_size = (None, None, None)
    maps = {n: tf.TensorSpec((*any_size, count), tf.float32) for n, count in batch_channels(config).items()}
    return maps | {"inputs": tf.TensorSpec((*any_size, 3), tf.uint8)}


def tf_dataset(item_set: ItemSet, config: Config, *more):
    """The same as a prefetched tf.data.Dataset."""
    import tensorflow as tf

    signature = batch_spec(config) | {"draw": tf.TensorSpec((), tf.int64)}
    made = tf.data.Dataset.from_generator(lambda: batches(item_set, config, *more), output_signature=signature)
    return made.prefetch(4)
