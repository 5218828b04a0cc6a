"""PoseSet -> persons -> crops, augmentation, targets. NumPy and OpenCV alone, so that loader processes import no
framework.

Crops come from the annotated joints (oracle boxes), in training and in scoring, as in DT. In mode compat every step is
DT's: whole-pixel boxes that slide at the left and top border, targets cut to whole pixels of the crop, no half-pixel
shift. In mode correct boxes are intersected with the picture, targets keep their fractions, and pixel centres are at
integers throughout.

A target is a share of the crop, (J,2) in about [-0.5, 0.5]. Every random number of a sample comes from a generator
keyed by (seed, epoch, person), whatever process draws it: batches do not depend on the number of workers, and a resumed
run sees what it would have seen.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from common.errors import DataError
from common.images import read_image
from common.poses import PoseSet
from common.skeletons import Skeleton
from deeppose_tf.config import IM_SIZE, OUTSIDE_LIMIT, UNPROJECT_LIMIT, Config


def image_size(path: str) -> tuple[int, int]:
    """(width, height) of an image, from a file's header alone where that will do. DataError when it is missing or
    damaged."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            return image.size
    except (OSError, ValueError):  # a frame in a database, or what OpenCV alone can read, if anything
        height, width = read_image(path).shape[:2]
        return width, height


class ImageStore:
    """Decoded pictures, BGR uint8, at most `megabytes` of them; later ones are decoded again each time.

    Nothing is ever thrown out: every epoch visits each picture once in a new order, where the oldest is as likely to be
    next as any.
    """

    def __init__(self, megabytes: int):
        self.room = megabytes * 2**20
        self.limit = self.room
        self._kept: dict[tuple[str, float], np.ndarray] = {}

    def __getstate__(self) -> dict:
        return {"room": self.limit, "limit": self.limit, "_kept": {}}

    def read(self, path: str, factor: float = 1.0) -> np.ndarray:
        """The picture, reduced by `factor` (bilinear, as DT does) when that is above 1. DataError when it cannot be
        decoded."""
        kept = self._kept.get((path, factor))
        if kept is not None:
            return kept
        image = reduced(read_image(path), factor)
        if image.nbytes <= self.room:
            self.room -= image.nbytes
            self._kept[path, factor] = image
        return image


def reduced(image: np.ndarray, factor: float) -> np.ndarray:
    """(H,W,3) resized by 1/factor; the picture itself for factor 1."""
    if factor == 1.0:
        return image
    import cv2

    return cv2.resize(image, None, fx=1 / factor, fy=1 / factor)


def reduced_size(width: int, height: int, factor: float) -> tuple[int, int]:
    """Width and height of `reduced`'s result: OpenCV rounds half to even."""
    return (width, height) if factor == 1.0 else (round(width * (1 / factor)), round(height * (1 / factor)))


class Persons:
    """The persons of a PoseSet that can be used, in pixels of the (possibly reduced) pictures.

    rows (N,) of the PoseSet · joints (N,J,2) · valid (N,J) bool · tight (N,4) box x, y, w, h of the valid joints ·
    factor (N,) by which the picture is reduced · size (N,2) its width and height afterwards · dropped: reason -> number
    of persons left out.
    """

    def __init__(self, pose_set: PoseSet, mode: str, min_dim: float = 0, height: int | None = None, cache_mb=0):
        """Pictures higher than `height` are reduced to it. DataError when an image is missing or when no person is
        left."""
        self.paths, self.mode, self.store = [str(p) for p in pose_set.images], mode, ImageStore(cache_mb)
        sizes = _sizes(self.paths, pose_set.root)
        factor = np.ones(len(sizes))
        if height:
            factor = np.maximum(sizes[:, 1] / height, 1.0)
        size = np.array([reduced_size(int(w), int(h), f) for (w, h), f in zip(sizes, factor)])
        joints, valid = to_reduced(pose_set.joints, factor, mode), pose_set.visible > 0
        joints, valid, outside = _inside(joints, valid, size, mode)
        tight = _tight_boxes(joints, valid)
        reasons = {
            "with a joint right of or below the image": outside,
            "without a valid joint": ~valid.any(1),
            f"smaller than {min_dim:g} pixels": (np.nan_to_num(tight[:, 2:], nan=np.inf) < min_dim).any(1),
        }
        gone, self.dropped = np.zeros(len(joints), bool), dict[str, int]()
        for reason, rows in reasons.items():
            self.dropped[reason] = int((rows & ~gone).sum())
            gone |= rows
        self.dropped = {reason: count for reason, count in self.dropped.items() if count}
        self.rows = np.flatnonzero(~gone)
        if not len(self.rows):
            raise DataError(f"{pose_set.root}: none of {len(joints)} persons can be used: {self.dropped_text()}")
        self.joints, self.valid, self.tight = joints[self.rows], valid[self.rows], tight[self.rows]
        self.factor, self.size = factor[self.rows], size[self.rows]

    def __len__(self) -> int:
        return len(self.rows)

    def dropped_text(self) -> str:
        """What was left out, for people."""
        return ", ".join(f"{count} {reason}" for reason, count in self.dropped.items())

    def image(self, index: int) -> np.ndarray:
        """The (possibly reduced) picture of a person, (H,W,3) uint8 BGR."""
        return self.store.read(self.paths[self.rows[index]], float(self.factor[index]))


def _sizes(paths: list[str], source: str) -> np.ndarray:
    """(N,2) width and height of the image files; DataError with their number when some are missing."""
    known: dict[str, tuple[int, int]] = {}
    errors: list[DataError] = []
    for path in dict.fromkeys(paths):
        try:
            known[path] = image_size(path)
        except DataError as error:
            errors.append(error)
    if errors:
        raise DataError(f"{source}: {len(errors)} of {len(set(paths))} images cannot be read, the first: {errors[0]}")
    return np.array([known[path] for path in paths])


def to_reduced(joints: np.ndarray, factor: np.ndarray, mode: str) -> np.ndarray:
    """(N,J,2) pixels of the stored picture -> of the one reduced by `factor` (N,)."""
    shift = _half(mode)
    return (joints + shift) / factor[:, None, None] - shift


def to_stored(joints: np.ndarray, factor: np.ndarray, mode: str) -> np.ndarray:
    """Inverse of `to_reduced`."""
    shift = _half(mode)
    return (joints + shift) * factor[:, None, None] - shift


def _half(mode: str) -> float:
    return 0.5 if mode == "correct" else 0.0


def _inside(joints: np.ndarray, valid: np.ndarray, size: np.ndarray, mode: str):
    """Joints, validity, and the persons to drop, after the rule for joints outside the picture.

    Compat drops a person with a joint more than 3 pixels right of or below it and clips all others, however far left or
    above they are. Correct makes joints more than 3 pixels outside on any side invalid and moves none.
    """
    limit = size[:, None, :]
    with np.errstate(invalid="ignore"):
        beyond = (joints - limit > OUTSIDE_LIMIT).any(-1) & valid
        if mode == "compat":
            return np.clip(joints, 0, limit), valid, beyond.any(1)
        beyond = ((joints - (limit - 1) > OUTSIDE_LIMIT) | (joints < -OUTSIDE_LIMIT)).any(-1) & valid
    return joints, valid & ~beyond, np.zeros(len(joints), bool)


def _tight_boxes(joints: np.ndarray, valid: np.ndarray) -> np.ndarray:
    low = np.where(valid[..., None], joints, np.inf).min(1)
    high = np.where(valid[..., None], joints, -np.inf).max(1)
    with np.errstate(invalid="ignore"):
        box = np.concatenate([low, high - low], axis=-1)
    return np.where(np.isfinite(box).all(-1, keepdims=True), box, np.nan)


@dataclass(frozen=True)
class Crops:
    """How a crop is cut and varied; the fields as in `Config`."""

    mode: str = "correct"
    extension: tuple[float, float] | None = None
    shift: float | None = None
    fliplr: bool = False
    rotate_range: float = 0.0
    pairs: tuple[tuple[int, int], ...] = ()

    @classmethod
    def for_training(cls, config: Config, skeleton: Skeleton) -> Crops:
        """Training crops of a run."""
        turn = config.rotate_range if config.rotate else 0.0
        pairs = tuple(skeleton.flip_pairs)
        return cls(config.mode, config.extension, config.shift, config.fliplr, turn, pairs)

    @classmethod
    def for_scoring(cls, mode: str, extension: float | None) -> Crops:
        """Crops without anything random: the tight box extended by one factor, None: as it is."""
        return cls(mode, None if extension is None else (extension, extension))


def draw_box(tight: np.ndarray, crops: Crops, rng: np.random.RandomState) -> np.ndarray:
    """The tight box (4,) extended and shifted at random: two draws for the extension, then two for the shift."""
    x, y, w, h = (float(v) for v in tight)
    if crops.extension is None:
        return np.array([x, y, w, h])
    low, high = crops.extension
    factors = low + (high - low) * np.array([rng.rand(), rng.rand()])
    pad = np.array([w, h]) * (factors - 1) / 2
    origin, side = np.array([x, y]) - pad, np.array([w, h]) * factors
    if crops.shift is not None:
        tight_side = np.array([w, h])
        # never so far that the tight box leaves the crop
        room = np.minimum(np.divide(pad, tight_side, out=np.zeros(2), where=tight_side > 0), crops.shift)
        origin = origin + room * tight_side * (2 * np.array([rng.rand(), rng.rand()]) - 1)
    return np.concatenate([origin, side])


def pixel_box(box: np.ndarray, size: np.ndarray, mode: str) -> tuple[int, ...]:
    """Whole-pixel x, y, w, h inside a picture of `size` (width, height) for a box in pixels."""
    if mode == "compat":
        x, y = (int(v) for v in box[:2])  # towards zero
        w, h = (int(np.ceil(box[2 + i] + (box[i] - v))) for i, v in enumerate((x, y)))
        x, y = (int(np.clip(v, 0, size[i] - 1)) for i, v in enumerate((x, y)))
        return x, y, *(int(np.clip(v, 1, size[i] - o)) for i, (v, o) in enumerate(((w, x), (h, y))))
    low = np.clip(np.floor(box[:2] + 0.5), 0, size - 1)
    high = np.clip(np.ceil(box[:2] + box[2:] + 0.5), low + 1, size)
    return tuple(int(v) for v in (*low, *(high - low)))


def crop_targets(joints: np.ndarray, box: tuple[int, ...], mode: str) -> np.ndarray:
    """(J,2) picture pixels -> targets. Compat: clipped to the crop, in whole pixels of the 227-pixel input."""
    origin, side = np.array(box[:2]), np.array(box[2:])
    if mode == "correct":
        return (joints - origin + 0.5) / side - 0.5
    inside = np.clip(joints, origin, origin + side - 1) - origin
    return np.trunc(np.clip(inside * (IM_SIZE / side), 0, IM_SIZE - 1)) / IM_SIZE - 0.5


def mirror_targets(targets: np.ndarray, valid: np.ndarray, pairs, mode: str) -> tuple[np.ndarray, np.ndarray]:
    """Targets (J,2) and validity (J,) of the mirrored crop, pairs exchanged."""
    order = np.arange(len(targets))
    for a, b in pairs:
        order[[a, b]] = b, a
    mirrored = targets[order].copy()
    # pixel x -> 226 - x; compat has no half-pixel shift, so that its crops are mirrored about another axis than their
    # targets' zero
    mirrored[:, 0] = -mirrored[:, 0] - (0.0 if mode == "correct" else 1 / IM_SIZE)
    return mirrored, valid[order]


def rotate_crop(image: np.ndarray, targets: np.ndarray, degrees: float, mode: str) -> tuple[np.ndarray, np.ndarray]:
    """Crop and targets turned about the crop's centre, counter-clockwise as seen; the border's pixels fill what was
    outside."""
    import cv2

    middle = (IM_SIZE - 1) / 2
    matrix = cv2.getRotationMatrix2D((middle, middle), degrees, 1.0)
    turned = cv2.warpAffine(image, matrix, (IM_SIZE, IM_SIZE), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    pixels = (targets + 0.5) * IM_SIZE - _half(mode)
    pixels = pixels @ matrix[:, :2].T + matrix[:, 2]
    return turned, (pixels + _half(mode)) / IM_SIZE - 0.5


def example(persons: Persons, index: int, crops: Crops, rng: np.random.RandomState) -> tuple[np.ndarray, ...]:
    """One sample: crop (227,227,3) uint8 BGR, targets (J,2) float32 with 0 where invalid, valid (J,) bool, crop box
    (4,) int64."""
    import cv2

    box = pixel_box(draw_box(persons.tight[index], crops, rng), persons.size[index], crops.mode)
    x, y, w, h = box
    image = cv2.resize(persons.image(index)[y : y + h, x : x + w], (IM_SIZE, IM_SIZE))
    targets, valid = crop_targets(persons.joints[index], box, crops.mode), persons.valid[index]
    if crops.fliplr and rng.randint(0, 2) == 1:
        image = cv2.flip(image, 1)
        targets, valid = mirror_targets(targets, valid, crops.pairs, crops.mode)
    if crops.rotate_range:
        image, targets = rotate_crop(image, targets, rng.uniform(-crops.rotate_range, crops.rotate_range), crops.mode)
    targets = np.where(valid[:, None], targets, 0.0).astype(np.float32)
    return image, targets, valid, np.array(box)


def unproject(values: np.ndarray, box: np.ndarray, mode: str) -> np.ndarray:
    """(N,J,2) shares of crops (N,4) -> float32 pixels of the pictures that they were cut from.

    Compat cuts boxes to whole pixels first and raises ValueError for shares outside +-0.501.
    """
    box = np.asarray(box)
    if mode == "compat":
        if np.nanmax(np.abs(values), initial=0.0) > UNPROJECT_LIMIT:
            raise ValueError(f"a share of the crop is outside +-{UNPROJECT_LIMIT}")
        box = box.astype(int)
    shift = _half(mode)
    return ((values + 0.5) * box[:, None, 2:] + box[:, None, :2] - shift).astype(np.float32)


class Stream:
    """The samples of a run, one after another over all epochs: number k is person `order(k // N)[k % N]`. Picklable.

    Process `rank` of `world` reads its part of each of `steps` batches of `batch_size`, from number `first` on.
    """

    def __init__(
        self, persons: Persons, crops: Crops, seed: int, first: int, steps: int, batch_size=1, rank=0, world=1
    ):
        self.persons, self.crops, self.seed, self.first, self.steps = persons, crops, seed, first, steps
        self.batch_size, self.rank, self.own = batch_size, rank, batch_size // world
        self._order: tuple[int, np.ndarray] = (-1, np.zeros(0, int))

    def __len__(self) -> int:
        return self.steps * self.own

    def number(self, position: int) -> int:
        """Which of all samples stands at a position of this process."""
        step, place = divmod(position, self.own)
        return self.first + step * self.batch_size + self.rank * self.own + place

    def __getitem__(self, position: int) -> tuple[np.ndarray, ...]:
        epoch, place = divmod(self.number(position), len(self.persons))
        index = int(self.order(epoch)[place])
        return example(self.persons, index, self.crops, generator(self.seed, epoch, index))

    def order(self, epoch: int) -> np.ndarray:
        """(N,) the persons of an epoch, shuffled."""
        if self._order[0] != epoch:
            rng = np.random.RandomState(np.random.Philox(key=self.seed, counter=[1, 0, epoch, 0]))
            self._order = epoch, rng.permutation(len(self.persons))
        return self._order[1]


def generator(seed: int, epoch: int, index: int) -> np.random.RandomState:
    """The generator of one sample. RandomState, because its streams are frozen over NumPy's versions."""
    return np.random.RandomState(np.random.Philox(key=seed, counter=[0, 0, epoch, index]))


def stack(samples: list[tuple[np.ndarray, ...]]) -> tuple[np.ndarray, ...]:
    """Samples -> batch: crops (B,227,227,3) uint8, targets (B,J,2), valid (B,J), boxes (B,4)."""
    return tuple(np.stack(column) for column in zip(*samples))
