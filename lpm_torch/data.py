"""PoseSet -> clips -> crops, augmentation, targets -> PyTorch batches.

A clip is `t` consecutive frames of a video, or one still image that the network reads `t` times (it is decoded, warped
and stored once). One affine warp does crop, scale, rotation and flip together; the same matrix moves the joints, and
its inverse brings predictions back. Every draw comes from a generator keyed by (seed, epoch, row): batches do not
depend on the number of workers, and a resumed run sees what the uninterrupted one would have seen. In mode compat crops
and augmentation are MobilePose's own, with its truncations (second half of this file).
"""

from __future__ import annotations

import functools
import random
import sys
import warnings
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from common.codecs import gaussian_maps
from common.datasets import record
from common.errors import DataError, DataWarning
from common.geometry import apply_affine, box_center, compose_affine, crop_affine, invert_affine, pad_box, warp
from common.images import read_image
from common.metrics.mobilepose import with_penn_neck
from common.poses import PoseSet, box_of_joints
from common.runs.process import default_workers, quiet_worker
from common.skeletons import LPM14, PENN13, skeleton_map
from lpm_torch.config import MEANS, OFFICIAL_MEAN, OFFICIAL_STD, Config, half_pixel, network_skeleton

GIVE_UP = 100  # clips one after the other that cannot be read
CENTER_SIGMA = 21.0  # pixels of the crop, whatever its size (MP and LP)


def to_network(pose_set: PoseSet) -> tuple[np.ndarray, np.ndarray]:
    """Joints (N,J,2) and visibility (N,J) in the network's order, with MP's stand-in for Penn Action's neck."""
    joints, visible = pose_set.joints, pose_set.visible
    if pose_set.skeleton == PENN13:
        return with_penn_neck(joints, visible)
    return skeleton_map(pose_set.skeleton, network_skeleton(pose_set.skeleton)).apply(joints, visible)


def crop_boxes(pose_set: PoseSet) -> np.ndarray:
    """(N,4) x, y, w, h of the annotated boxes; for an empty one (185 in Penn Action) the joints' extent, said aloud."""
    box = pose_set.box
    empty = ~(np.isfinite(box).all(1) & (box[:, 2:] > 0).all(1))
    if not empty.any():
        return box
    what = f"{empty.sum()} persons of split {pose_set.split} have an empty box and are cropped about their joints"
    warnings.warn(f"{pose_set.root}: {what}", DataWarning, stacklevel=1)
    around = box_of_joints(pose_set.joints)
    return np.where((empty & np.isfinite(around).all(1))[:, None], around, np.nan_to_num(box))


def make_clips(pose_set: PoseSet, t: int, every_frame: bool = False) -> np.ndarray:
    """Rows of each clip, (C, T): non-overlapping windows of one video's frames; (N, 1) for still images. A tail shorter
    than t is dropped (MP); with `every_frame` a last window covers it, overlapping the one before."""
    if pose_set.sequence is None or pose_set.frame is None:
        return np.arange(len(pose_set))[:, None]
    clips = []
    for sequence in np.unique(pose_set.sequence):
        rows = np.flatnonzero(pose_set.sequence == sequence)
        rows = rows[np.argsort(pose_set.frame[rows], kind="stable")]
        clips.append(rows[: len(rows) // t * t].reshape(-1, t))
        if every_frame and len(rows) % t:
            clips.append(rows[np.maximum(np.arange(len(rows) - t, len(rows)), 0)][None])
    return np.concatenate(clips) if clips else np.zeros((0, t), int)


class ClipDataset(Dataset):
    """Clips of a PoseSet as network input. Items are dicts of arrays, J being the network's joints:

    frames (T,S,S,3) uint8 RGB · labels (T,J+1,g,g) float32 · center (2,) · joints (T,J,2) crop pixels, NaN =
    unlabelled (in mode compat MobilePose's place for it) · visible (T,J) int8 · to_image (T,2,3) crop -> image · box
    (T,4) x0, y0, x1, y1 of the padded person box in the crop (in mode compat cut to the picture, as MobilePose does) ·
    rows (T,) rows of the PoseSet · unread (T,) rows whose picture cannot be read, and -1. T is 1 for still images.
    """

    def __init__(self, pose_set: PoseSet, config: Config, grid: int, augment=False, every_frame=False):
        """`grid`: side of the belief maps; `every_frame` as in `make_clips`. DataError when there is no clip."""
        self.pose_set, self.grid, self.augment = pose_set, grid, augment
        plain: dict[str, Any] = {"p_flip": 0.0, "rotate": 0.0, "scale_low": 1.0, "scale_high": 1.0, "shift": 0.0}
        plain |= {} if config.mode == "compat" else {"jitter": 0.0}  # MobilePose varies colours in evaluation too
        self.config = config if augment else replace(config, **plain)
        self.clips = make_clips(pose_set, config.t, every_frame)
        if not len(self.clips):
            what = f"split {pose_set.split} has no clip of {config.t} frames; give a smaller --t or another split"
            raise DataError(f"{pose_set.root}: {what}")
        joints, self.visible = to_network(pose_set)
        self.mirror = network_skeleton(pose_set.skeleton).mirror
        boxes = pad_box(crop_boxes(pose_set), config.pad_pixels, config.pad_ratio)
        self.centers, self.sides = box_center(boxes), np.maximum(boxes[:, 2:].max(1), 1.0)
        # joints, and two corners of the box
        self.points = np.concatenate([joints, boxes[:, None, :2], boxes[:, None, :2] + boxes[:, None, 2:]], axis=1)
        self.compat = config.mode == "compat"
        if self.compat:
            self.places, self.given, self.origin = source_rows(pose_set, joints)

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, key) -> dict[str, np.ndarray]:
        """Frames that cannot be read are black and without labels; in training the next clip stands for theirs."""
        epoch, index = key if isinstance(key, tuple) else (0, key)
        lost: list[int] = []
        for turn in range(min(len(self), GIVE_UP)):
            index = (index + bool(turn)) % len(self)
            c, rows = self.config, self.clips[index]
            images = [self._read(int(row), lost) for row in rows]
            bad = np.array([row in lost for row in rows])
            if not (self.augment and bad.any()):
                break
        else:
            raise DataError(f"{self.pose_set.root}: the pictures cannot be read; see the warnings above")
        make = self._mobilepose_crops if self.compat else self._crops
        frames, joints, visible, to_image, box = make(images, rows, epoch, index)
        unread = np.full(len(rows), -1)
        unread[: len(lost)] = lost[: len(rows)]
        taught = np.ones_like(visible) if self.compat else visible
        return {
            "frames": frames,
            "labels": belief_labels(joints, taught, c.input_width, self.grid, c.sigma, c.background, half_pixel(c)),
            "center": center_place(joints, c.input_width, transposed=c.center_map == "compat"),
            "joints": joints.astype(np.float32),
            "visible": np.where(bad[:, None], 0, visible).astype(np.int8),
            "to_image": to_image.astype(np.float32),
            "box": box.astype(np.float32),
            "rows": rows.astype(np.int64),
            "unread": unread,
        }

    def _read(self, row: int, lost: list[int]) -> np.ndarray:
        try:
            return read_image(self.pose_set.images[row])
        except DataError as error:
            warnings.warn(str(error), DataWarning, stacklevel=2)
            lost.append(row)
            return np.zeros((256, 256, 3), np.uint8)

    def _crops(self, images: list, rows: np.ndarray, epoch: int, index: int) -> tuple[np.ndarray, ...]:
        """(frames, joints, visible, to_image, box) of a clip; its frames share the random numbers, all drawn always."""
        c, size = self.config, self.config.input_width
        rng = np.random.Generator(np.random.Philox(key=c.seed, counter=[0, 0, epoch, index]))
        draws = iter(rng.random(8).tolist())  # few calls of numpy, each of which costs more than its numbers

        def uniform(low: float, high: float) -> float:
            return low + (high - low) * next(draws)

        flip, angle = uniform(0, 1) < c.p_flip, uniform(-c.rotate, c.rotate)
        scale, shift = uniform(c.scale_low, c.scale_high), np.array([uniform(-c.shift, c.shift) for _ in "xy"])
        r, g, b = (uniform(1 - c.jitter, 1 + c.jitter) for _ in "rgb")
        color = np.array([[0, 0, r], [0, g, 0], [b, 0, 0]])  # from the file's BGR
        frames = np.empty((len(rows), size, size, 3), np.uint8)
        matrices = np.empty((len(rows), 2, 3))
        for i, row in enumerate(rows):
            side = self.sides[row] / scale
            matrices[i] = crop_affine(self.centers[row] + shift * side, side, (size, size), angle, flip)
            # rounded (`jitter` truncates, as MP does), and five times as fast as a table of 256 values a channel
            cv2.transform(warp(images[i], matrices[i], (size, size)), color, dst=frames[i])
        points, visible = apply_affine(matrices, self.points[rows]), self.visible[rows]
        joints, corners = points[:, :-2], points[:, -2:]
        if flip:
            joints, visible = joints[:, self.mirror], visible[:, self.mirror]
        return frames, joints, visible, invert_affine(matrices), corners.reshape(-1, 4)

    def _mobilepose_crops(self, images: list, rows: np.ndarray, epoch: int, index: int) -> tuple[np.ndarray, ...]:
        """In mode compat: absent joints have a place, a flip leaves `visible`, colours vary in evaluation too."""
        c, rng = self.config, random.Random(f"{self.config.seed} {epoch} {index}")
        draw = random_draw(rng, c, self.augment, self.pose_set.sequence is not None)
        views = []
        for image, row in zip(images, rows):
            given = None if self.given is None else self.given[row]
            view = open_view(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), self.places[row], c.pad_pixels, given)
            views.append(transform(view, draw, c.input_width, self.mirror))
        to_image = invert_affine(np.stack([view.from_source for view in views]))
        to_image[..., 2] -= self.origin
        frames, places, boxes = (np.stack([getattr(v, name) for v in views]) for name in ("image", "joints", "box"))
        return frames, places, self.visible[rows], to_image, boxes


def belief_labels(joints: np.ndarray, visible: np.ndarray, size: int, grid: int, sigma: float, background: bool,
                  half_pixel: bool = False) -> np.ndarray:  # fmt: skip
    """(...,J,2) crop pixels -> (...,J+1,grid,grid): a Gaussian a joint, none left of or above the first cell (MP);
    background last (zeros in MP, 1 - max in LP). With `half_pixel` a cell is the middle of its square (LP)."""
    shift = 0.5 if half_pixel else 0.0
    cells = (joints + shift) * (grid / size) - shift
    with np.errstate(invalid="ignore"):
        present = (visible > 0) & (cells > 0).all(-1)  # NaN is not above 0
    maps = np.zeros((*present.shape[:-1], present.shape[-1] + 1, grid, grid), np.float32)
    gaussian_maps(cells, present, (grid, grid), sigma, out=maps[..., :-1, :, :])
    if background:
        np.subtract(1, maps[..., :-1, :, :].max(-3), out=maps[..., -1, :, :])
    return maps


def center_place(joints: np.ndarray, size: int, transposed: bool) -> np.ndarray:
    """(T,J,2) crop pixels -> (2,) float64 column and row: the middle of all joints' range; MP exchanged the two."""
    points = joints.reshape(-1, 2)
    points = points[np.isfinite(points).all(-1)]
    low, high = (points.min(0), points.max(0)) if len(points) else (np.zeros(2), np.full(2, size - 1.0))
    middle = (np.maximum(low, 0) + np.minimum(high, size - 1)) / 2
    return middle[[1, 0]] if transposed else middle


def center_maps(places: torch.Tensor, size: int) -> torch.Tensor:
    """(B,2) places -> (B,1,size,size) float32 Gaussians about them, on their device, as `gaussian_maps` makes them."""
    cells = torch.arange(size, device=places.device)
    columns, rows = torch.exp((cells - places.double()[..., None]) ** 2 / (-2 * CENTER_SIGMA**2)).float().unbind(1)
    maps = (rows[:, :, None] * columns[:, None])[:, None]
    return maps.mul_(maps >= 0.01)


def normalisation(config: Config) -> tuple[tuple, tuple, bool]:
    """(mean, std, bgr) of the network input, in units of [0, 1]."""
    if config.model == "lpm_official":
        return OFFICIAL_MEAN, OFFICIAL_STD, True
    mean, std = MEANS.get("lsp" if config.dataset == "lspet" else config.dataset, MEANS["mpii"])
    return mean, std, False


def prepare(batch: dict[str, torch.Tensor], device: torch.device, config: Config) -> dict[str, torch.Tensor]:
    """A batch on the device; frames become (B,T,3,S,S) float32, normalised there (fewer bytes to transfer), and
    centres their maps (B,1,S,S)."""
    batch = {k: v.to(device, non_blocking=True) for k, v in batch.items()}
    batch["center"] = center_maps(batch["center"], batch["frames"].shape[-2])
    mean, std, bgr = normalisation(config)
    frames = batch["frames"].permute(0, 1, 4, 2, 3).float().div_(255)
    frames = frames.flip(2) if bgr else frames
    batch["frames"] = (frames - by_channel(mean, device)) / (by_channel(std, device) + 1e-8)
    return batch


@functools.cache
def by_channel(values: tuple[float, ...], device: torch.device) -> torch.Tensor:
    """(3,1,1) numbers of the channels, sent once: such a copy waits until the device has done all its work."""
    return torch.tensor(values).view(3, 1, 1).to(device)


def say_unread(pose_set: PoseSet, rows: set[int]) -> None:
    """Name the pictures that could not be read, at the end of the work; DataError when they are all."""
    if rows and len(rows) == len(pose_set):
        raise DataError(f"{pose_set.root}: the pictures cannot be read; see the warnings above")
    if rows:
        names = ", ".join(str(pose_set.images[row]) for row in sorted(rows)[:5]) + (" ..." if len(rows) > 5 else "")
        print(f"warning: {len(rows)} pictures could not be read and were left out: {names}", file=sys.stderr)


class EpochSampler(Sampler):
    """Keys (epoch, index) in an order fixed by (seed, epoch), split over `world` processes, from item `skip` on."""

    def __init__(self, length: int, seed: int, rank: int = 0, world: int = 1):
        self.length, self.seed, self.rank, self.world = length, seed, rank, world
        self.epoch, self.skip = 0, 0

    def __iter__(self):
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.length)
        own = order[self.rank :: self.world][: self.length // self.world]
        return iter([(self.epoch, int(i)) for i in own[self.skip :]])

    def __len__(self) -> int:
        return max(self.length // self.world - self.skip, 0)


def make_loader(dataset: ClipDataset, config: Config, shuffle: bool, rank: int = 0, world: int = 1) -> DataLoader:
    """Batches of `config.batch_size` clips; set `loader.sampler.epoch` (and `.skip`) before each epoch to shuffle."""
    workers = default_workers() if config.workers is None else config.workers
    own = torch.Generator()  # else every start of an iterator draws from the generator that dropout uses
    return DataLoader(
        dataset, batch_size=config.batch_size,
        sampler=EpochSampler(len(dataset), config.seed, rank, world) if shuffle else None, num_workers=workers,
        drop_last=shuffle and len(dataset) >= config.batch_size * world, pin_memory=torch.cuda.is_available(),
        persistent_workers=shuffle and workers > 0, worker_init_fn=quiet_worker if workers else None, generator=own,
    )  # fmt: skip


# ---- mode compat -----------------------------------------------------------------------------------------------------
# Each step changes picture, joints and box as MP does, and keeps the affine map from the first picture's coordinates,
# so that a prediction can be brought back; it follows the joints' arithmetic before truncation, not the pixels'. Kept
# flaws: the flip is off by one pixel, scaling a video changes only its sharpness, a rotated crop's box is meaningless.


@dataclass(frozen=True)
class View:
    """A picture and what is known of it, in its pixels."""

    image: np.ndarray  # (H,W,3) uint8
    joints: np.ndarray  # (J,2) float64 in the network's order, none NaN (`source_rows`)
    box: np.ndarray  # (4,) x0, y0, x1, y1
    from_source: np.ndarray  # (2,3) source coordinates -> coordinates here


@dataclass(frozen=True)
class Draw:
    """Random numbers of one clip; None = step left out."""

    scale: float | None = None
    flip: bool = False
    angle: float | None = None  # degrees, counter-clockwise
    color: tuple[float, ...] = (1.0, 1.0, 1.0)  # factors of R, G, B


def random_draw(rng: random.Random, config: Config, augment: bool, video: bool) -> Draw:
    """Random numbers in MP's order; without `augment` only the colour factors are used. A still image is never scaled,
    and its angle is drawn only where it is used."""
    share = 1.0 if augment else 0.0
    scales = rng.random() < share if video else False
    flips, rotates = rng.random() < share * config.p_flip, rng.random() < share
    factor = rng.uniform(config.scale_low, config.scale_high) if video else None
    angle = rng.uniform(-config.rotate, config.rotate) if video or rotates else None
    color = tuple(rng.uniform(1 - config.jitter, 1 + config.jitter) for _ in range(3))
    return Draw(factor if scales else None, flips, angle if rotates else None, color)


def source_rows(pose_set: PoseSet, joints: np.ndarray) -> tuple[np.ndarray, np.ndarray | None, float]:
    """What MP read: joints (N,J,2), boxes (N,4) x0, y0, x1, y1 or None, the number of the files' first pixel. It took
    an absent joint for the place that the file has there: about (1, 1) in Penn Action, (-1, -1) elsewhere. MPII's are
    truncated, and come with a square of 200 x scale pixels."""
    origin = float(record(pose_set.name).origin)
    joints = np.nan_to_num(joints + origin, nan=1.0 if pose_set.name == "penn_action" else -1.0)
    if pose_set.name != "mpii" or pose_set.scale is None or pose_set.center is None:
        return joints, None, origin
    center, half = pose_set.center + origin, 100 * pose_set.scale[:, None]
    return np.trunc(joints), np.trunc(np.concatenate([center - half, center + half], axis=1)), origin


def open_view(image: np.ndarray, joints: np.ndarray, pad: float, given: np.ndarray | None = None) -> View:
    """With the box that MP crops: `given` unless NaN, else the joints' extent and `pad` pixels, cut to the picture."""
    height, width = image.shape[:2]
    if given is None or np.isnan(given).any():
        low, high = np.maximum(joints.min(0) - pad, 0), np.minimum(joints.max(0) + pad, [width - 1, height - 1])
        box = np.concatenate([low, high])
    else:
        box = np.clip(given, 0, [width, height, width, height])
    return View(image, joints, np.trunc(box), np.eye(2, 3))


def scale(view: View, factor: float) -> View:
    """The picture resized to truncated width and height; joints are cut to the new picture, the box is not."""
    height, width = (int(n * factor) for n in view.image.shape[:2])
    joints = np.clip(view.joints * factor, 0, [width, height])
    image = resize(view.image, max(width, 1), max(height, 1))
    return View(image, joints, view.box * factor, view.from_source * factor)


def flip(view: View, mirror: np.ndarray = LPM14.mirror) -> View:
    """The picture mirrored, joints exchanged by `mirror` (J,); x becomes w - x, one more than the pixels' w - 1 - x."""
    width = view.image.shape[1]
    joints = view.joints[mirror] * [-1, 1] + [width, 0]
    x0, y0, x1, y1 = view.box
    moved = compose_affine(np.array([[-1.0, 0, width], [0, 1, 0]]), view.from_source)
    return View(view.image[:, ::-1], joints, np.array([width - x1, y0, width - x0, y1]), moved)


def crop(view: View, size: int) -> View:
    """The box cut out, its longer side scaled to `size`, centred on a black square; joints are whole numbers."""
    corner, far = view.box.astype(int).reshape(2, 2)
    width, height = np.maximum(far - corner, 1)
    part = view.image[corner[1] : corner[1] + height, corner[0] : corner[0] + width]
    moved = view.from_source - np.pad(corner[:, None], ((0, 0), (2, 0)))
    cut = View(part, np.trunc(view.joints) - corner, np.array([0.0, 0.0, width, height]), moved)
    cut = scale(cut, size / max(width, height))
    inner = np.array(cut.image.shape[1::-1])
    (left, top), (right, bottom) = low, high = (size - inner) // 2, (size - inner) // 2 + inner
    canvas = np.zeros((size, size, 3), np.uint8)
    canvas[top:bottom, left:right] = cut.image
    joints = np.trunc(np.clip(cut.joints + low, low, high))
    return View(canvas, joints, cut.box + [*low, *low], cut.from_source + np.pad(low[:, None], ((0, 0), (2, 0))))


def rotate(view: View, angle: float) -> View:
    """The picture turned counter-clockwise by `angle` degrees about its middle, black outside; joints truncated."""
    from scipy import ndimage  # a quarter of a second that nothing else needs

    height, width = view.image.shape[:2]
    x, y = (width - 1) / 2, (height - 1) / 2
    cos, sin = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
    turn = np.array([[cos, sin, x - cos * x - sin * y], [-sin, cos, y + sin * x - cos * y]])
    box = view.box.astype(float)
    # MP computes each corner's y from its x after that has been turned, and takes a middle one pixel lower
    for i in (0, 2):
        box[i] = x + cos * (box[i] - x) + sin * (box[i + 1] - (y + 1))
        box[i + 1] = y + 1 - sin * (box[i] - x) + cos * (box[i + 1] - (y + 1))
    (a, b, dx), (c, d, dy) = invert_affine(turn)  # rows come first there
    matrix, how = [[d, c], [b, a]], {"output": np.float64, "order": 1, "mode": "grid-constant"}
    planes = [ndimage.affine_transform(plane, matrix, [dy, dx], **how) for plane in np.moveaxis(view.image, -1, 0)]
    joints = np.trunc(apply_affine(turn, view.joints))
    image = np.clip(np.stack(planes, axis=-1), 0, 255).astype(np.uint8)
    return View(image, joints, box, compose_affine(turn, view.from_source))


def jitter(image: np.ndarray, factors) -> None:
    """Multiply each channel of an (H,W,3) uint8 picture with its factor, in place; cut to 0..255 and truncated."""
    if any(f != 1 for f in factors):
        table = np.clip(np.arange(256)[:, None] * np.asarray(factors, float), 0, 255).astype(np.uint8)
        cv2.LUT(image, table[None], dst=image)


def transform(view: View, draw: Draw, size: int, mirror: np.ndarray = LPM14.mirror) -> View:
    """All of MP's steps in its order, without normalisation: scale, flip, crop to `size` pixels, rotate, jitter."""
    if draw.scale is not None:
        view = scale(view, draw.scale)
    if draw.flip:
        view = flip(view, mirror)
    view = crop(view, size)
    if draw.angle is not None:
        view = rotate(view, draw.angle)
    jitter(view.image, draw.color)  # the crop is a picture of its own
    return view


def resize(image: np.ndarray, width: int, height: int) -> np.ndarray:
    """scikit-image's anti-aliased linear resize of (H,W,3) uint8, black outside, truncated to uint8."""
    from scipy import ndimage  # a quarter of a second that nothing else needs

    factors = np.array(image.shape[:2]) / (height, width)
    sigma = (*np.maximum(0, (factors - 1) / 2), 0)
    blurred = ndimage.gaussian_filter(image.astype(np.float64), sigma, mode="constant")
    resized = ndimage.zoom(blurred, (*(1 / factors), 1), order=1, mode="grid-constant", grid_mode=True)
    return np.clip(resized, 0, 255).astype(np.uint8)
