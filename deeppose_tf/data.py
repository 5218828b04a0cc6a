"""PoseSet -> persons -> crops, augmentation, targets. No framework, so that loader processes import none.

Crops come from the annotated joints (oracle boxes), in training and in scoring, as in DT. In mode compat every step is
DT's: whole-pixel boxes that slide at the left and top border, targets cut to whole pixels of the crop, no half-pixel
shift. In mode correct boxes are intersected with the picture, targets keep their fractions, and pixel centres are at
integers throughout. A target is a share of the crop, (J,2) in about [-0.5, 0.5]. Random numbers of a sample come from
a generator keyed by (seed, epoch, person): batches do not depend on the number of workers, nor on a resume.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from common.errors import DataError
from common.images import image_sizes, read_image
from common.poses import PoseSet, box_of_joints
from common.runs.process import keep_memory
from common.skeletons import Skeleton
from deeppose_tf.config import IM_SIZE, OUTSIDE_LIMIT, UNPROJECT_LIMIT, Config


class Persons:
    """The persons of a PoseSet that can be used, in pixels of the (possibly reduced) pictures.

    rows (N,) of the PoseSet · joints (N,J,2) · valid (N,J) bool · tight (N,4) box x, y, w, h of the valid joints ·
    factor (N,) by which the picture is reduced · size (N,2) its width and height then · left_out: who is not, in words.
    """

    def __init__(self, pose_set: PoseSet, mode: str, min_dim: float = 0, height: int | None = None):
        """Pictures higher than `height` are reduced to it. DataError when no person is left."""
        self.paths = [str(path) for path in pose_set.images]
        size = np.nan_to_num(image_sizes(self.paths))  # 0 where it cannot be read
        unread = dict.fromkeys(path for path, (width, _) in zip(self.paths, size) if not width)
        factor = np.maximum(size[:, 1] / height, 1.0) if height else np.ones(len(size))
        size = np.rint(size * (1 / factor)[:, None])  # as OpenCV rounds
        shift = half_pixel(mode)
        joints = (pose_set.joints + shift) / factor[:, None, None] - shift
        joints, valid, outside = _inside(joints, pose_set.visible > 0, size, mode)
        tight = box_of_joints(np.where(valid[..., None], joints, np.nan))
        reasons = {
            f"in a picture that cannot be read ({names_of(unread)})": size[:, 0] == 0,
            "with a joint right of or below the image": outside,
            "without a valid joint": ~valid.any(1),
            f"smaller than {min_dim:g} pixels": (tight[:, 2:] < min_dim).any(1),
        }
        gone, counts = np.zeros(len(joints), bool), []
        for reason, rows in reasons.items():
            counts.append((int((rows & ~gone).sum()), reason))
            gone |= rows
        self.left_out = ", ".join(f"{count} {reason}" for count, reason in counts if count)
        self.rows = np.flatnonzero(~gone)
        if not len(self.rows):
            raise DataError(f"{pose_set.root}: none of {len(joints)} persons can be used: {self.left_out or 'no data'}")
        self.joints, self.valid, self.tight = joints[self.rows], valid[self.rows], tight[self.rows]
        self.factor, self.size = factor[self.rows], size[self.rows].astype(int)

    def __len__(self) -> int:
        return len(self.rows)

    def image(self, index: int) -> np.ndarray:
        """The (possibly reduced) picture of a person, (H,W,3) uint8 BGR. DataError when it is not whole."""
        image, factor = read_image(self.paths[self.rows[index]], whole=True), self.factor[index]
        if factor == 1.0:
            return image
        import cv2

        return cv2.resize(image, None, fx=1 / factor, fy=1 / factor)


def names_of(paths: Iterable[str], most: int = 5) -> str:
    """The first of some files, for a message."""
    paths = list(paths)
    return ", ".join(paths[:most]) + (" ..." if len(paths) > most else "")


def half_pixel(mode: str) -> float:
    """What lies between a pixel's edge and its coordinate."""
    return 0.5 if mode == "correct" else 0.0


def _inside(joints: np.ndarray, valid: np.ndarray, size: np.ndarray, mode: str):
    """Joints, validity, and the persons to drop, after the rule for joints outside the picture.

    Compat drops a person with a joint more than 3 pixels right of or below it and clips all others, however far left or
    above they are. Correct makes joints more than 3 pixels outside on any side invalid and moves none.
    """
    limit = size[:, None, :]
    if mode == "compat":
        beyond = (joints - limit > OUTSIDE_LIMIT).any(-1) & valid
        return np.clip(joints, 0, limit), valid, beyond.any(1)
    beyond = ((joints - (limit - 1) > OUTSIDE_LIMIT) | (joints < -OUTSIDE_LIMIT)).any(-1)
    return joints, valid & ~beyond, np.zeros(len(joints), bool)


@dataclass(frozen=True)
class Crops:
    """How a crop is cut and varied; the fields as in `Config`. Without anything random: extension (f, f)."""

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


def draw_box(tight: np.ndarray, crops: Crops, rng: np.random.RandomState) -> np.ndarray:
    """The tight box (4,) extended and shifted at random: two draws for the extension, then two for the shift."""
    if crops.extension is None:
        return tight
    low, high = crops.extension
    side = tight[2:]
    factors = low + (high - low) * rng.rand(2)
    pad = side * (factors - 1) / 2
    origin = tight[:2] - pad
    if crops.shift is not None:
        # never so far that the tight box leaves the crop
        room = np.minimum(np.divide(pad, side, out=np.zeros(2), where=side > 0), crops.shift)
        origin = origin + room * side * (2 * rng.rand(2) - 1)
    return np.concatenate([origin, side * factors])


def pixel_box(box: np.ndarray, size: np.ndarray, mode: str) -> tuple[int, ...]:
    """Whole-pixel x, y, w, h inside a picture of `size` (width, height) for a box in pixels."""
    if mode == "compat":
        low = np.trunc(box[:2])
        side = np.ceil(box[2:] + (box[:2] - low))
        low = np.clip(low, 0, size - 1)
        side = np.clip(side, 1, size - low)
    else:
        low = np.clip(np.floor(box[:2] + 0.5), 0, size - 1)
        side = np.clip(np.ceil(box[:2] + box[2:] + 0.5), low + 1, size) - low
    return tuple(int(v) for v in (*low, *side))


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
    """Crop and targets turned about the crop's centre, counter-clockwise as seen, filled with the border's pixels."""
    import cv2

    middle, shift = (IM_SIZE - 1) / 2, half_pixel(mode)
    matrix = cv2.getRotationMatrix2D((middle, middle), degrees, 1.0)
    turned = cv2.warpAffine(image, matrix, (IM_SIZE, IM_SIZE), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    pixels = ((targets + 0.5) * IM_SIZE - shift) @ matrix[:, :2].T + matrix[:, 2]
    return turned, (pixels + shift) / IM_SIZE - 0.5


def example(persons: Persons, index: int, crops: Crops, rng: np.random.RandomState) -> tuple[np.ndarray, ...]:
    """One sample: crop (227,227,3) uint8 BGR, targets (J,2) float32 with 0 where invalid, valid (J,) bool, crop box
    (4,) int64. DataError when its picture cannot be read."""
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
    return ((values + 0.5) * box[:, None, 2:] + box[:, None, :2] - half_pixel(mode)).astype(np.float32)


class Stream:
    """The samples of a run, one after another over all epochs: number k is person `order(k // N)[k % N]`. Picklable.

    Process `rank` of `world` reads its part of each of `steps` batches of `batch_size`, from number `first` on. A
    sample is an `example` and the row of a person who should have been it and whose picture cannot be read, else -1:
    the next person of the epoch stands in. An error is an answer too: Chainer would wait for ever for who raised it.
    """

    def __init__(self, persons: Persons, crops: Crops, seed: int, first: int, steps, batch_size=1, rank=0, world=1):
        self.persons, self.crops, self.seed, self.first, self.steps = persons, crops, seed, first, steps
        self.batch_size, self.rank, self.own = batch_size, rank, batch_size // world
        self._order: tuple[int, np.ndarray] = (-1, np.zeros(0, int))

    def __setstate__(self, state: dict) -> None:
        keep_memory()  # loader processes are spawned, which inherit nothing
        self.__dict__.update(state)

    def __len__(self) -> int:
        return self.steps * self.own

    def number(self, position: int) -> int:
        """Which of all samples stands at a position of this process."""
        step, place = divmod(position, self.own)
        return self.first + step * self.batch_size + self.rank * self.own + place

    def __getitem__(self, position: int) -> tuple[np.ndarray, ...] | Exception:
        try:
            return self._sample(*divmod(self.number(position), len(self.persons)))
        except Exception as error:  # of any kind: it is raised in the main process
            return error

    def _sample(self, epoch: int, place: int) -> tuple[np.ndarray, ...]:
        unread = -1
        for index in np.roll(self.order(epoch), -place).tolist():
            try:
                sample = example(self.persons, index, self.crops, generator(self.seed, epoch, index))
                return *sample, np.array(unread)
            except DataError:
                unread = int(self.persons.rows[index]) if unread < 0 else unread
        raise DataError("not one picture of the training persons can be read")

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
    """Samples -> batch: crops (B,227,227,3) uint8, targets (B,J,2), valid (B,J), boxes (B,4), what else they hold."""
    return tuple(np.stack(column) for column in zip(*samples))
