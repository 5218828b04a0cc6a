"""PoseSet -> clips -> crops, augmentation, targets -> PyTorch batches.

A clip is `t` consecutive frames of a video, or one still image that the network reads `t` times (it is decoded, warped
and stored once). One affine warp does crop, scale, rotation and flip together; the same matrix moves the joints, and
its inverse brings predictions back. Every draw comes from a generator keyed by (seed, epoch, row): batches do not
depend on the number of workers, and a resumed run sees what the uninterrupted one would have seen. In mode compat crops
and augmentation are MobilePose's own, with its truncations (second half of this file).
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from common.codecs import gaussian_maps
from common.datasets import record
from common.geometry import apply_affine, box_center, compose_affine, crop_affine, invert_affine, pad_box, warp
from common.images import read_image
from common.poses import PoseSet
from common.runs.process import default_workers
from common.skeletons import LPM14, PENN13, skeleton_map
from lpm_torch.config import MEANS, OFFICIAL_MEAN, OFFICIAL_STD, Config, half_pixel, network_skeleton

CENTER_SIGMA = 21.0  # pixels of the crop, whatever its size (MP and LP)


def to_network(pose_set: PoseSet) -> tuple[np.ndarray, np.ndarray]:
    """Joints (N,J,2) and visibility (N,J) in the order of the network for this data set (`config.network_skeleton`)."""
    target = network_skeleton(pose_set.skeleton)
    joints, visible = skeleton_map(pose_set.skeleton, target).apply(pose_set.joints, pose_set.visible)
    if pose_set.skeleton == PENN13:
        joints[:, target.index("neck")], visible[:, target.index("neck")] = penn_neck(pose_set)
    return joints, visible


def penn_neck(pose_set: PoseSet) -> tuple[np.ndarray, np.ndarray]:
    """MP's stand-in for Penn Action's neck: (N,2), (N,) visibility, the least of head and shoulders."""
    index = PENN13.indices(("head", "left_shoulder", "right_shoulder"))
    head, left, right = (pose_set.joints[:, i] for i in index)
    neck = [0.5, 0.2] * head + [0.25, 0.4] * (left + right)
    return neck, pose_set.visible[:, index].min(-1)


def make_clips(pose_set: PoseSet, t: int, every_frame: bool = False) -> np.ndarray:
    """Rows of each clip, (C, T): non-overlapping windows of one video's frames; (N, 1) for still images.

    A tail shorter than t is dropped (MP); with `every_frame` a last window covers it, overlapping the one before (or
    repeating the first frame of a video shorter than t).
    """
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


@dataclass(frozen=True)
class Augmentation:
    """Ranges of the random crop; `Augmentation()` is none."""

    p_flip: float = 0.0
    rotate: float = 0.0
    scale: tuple[float, float] = (1.0, 1.0)
    jitter: float = 0.0
    shift: float = 0.0

    @classmethod
    def from_config(cls, config: Config) -> Augmentation:
        """The training ranges of a run."""
        return cls(config.p_flip, config.rotate, (config.scale_low, config.scale_high), config.jitter, config.shift)


NONE = Augmentation()


class ClipDataset(Dataset):
    """Clips of a PoseSet as network input. Items are dicts of arrays, J being the network's joints:

    frames (T,S,S,3) uint8 RGB · labels (T,J+1,g,g) float32 · center (1,S,S) float32 · joints (T,J,2) crop pixels, NaN =
    unlabelled (in mode compat MobilePose's place for it) · visible (T,J) int8 · to_image (T,2,3) crop -> image · box
    (T,4) x0, y0, x1, y1 of the padded person box in the crop (in mode compat cut to the picture, as MobilePose does) ·
    rows (T,) rows of the PoseSet. T is 1 for still images.
    """

    def __init__(self, pose_set: PoseSet, config: Config, grid: int, augmentation=NONE, every_frame: bool = False):
        """`grid` = side of the network's belief maps for the input's size; `every_frame` as in `make_clips`."""
        self.pose_set, self.config, self.grid, self.augmentation = pose_set, config, grid, augmentation
        self.clips = make_clips(pose_set, config.t, every_frame)
        self.joints, self.visible = to_network(pose_set)
        self.mirror = network_skeleton(pose_set.skeleton).mirror
        self.boxes = pad_box(pose_set.box, config.pad_pixels, config.pad_ratio)
        self.compat = config.mode == "compat"
        if self.compat:
            self.places, self.given, self.origin = source_rows(pose_set, self.joints)

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, key) -> dict[str, np.ndarray]:
        epoch, index = key if isinstance(key, tuple) else (0, key)
        c, rows = self.config, self.clips[index]
        make = self._mobilepose_crops if self.compat else self._crops
        frames, joints, visible, to_image, box = make(rows, epoch, int(index))
        taught = np.ones_like(visible) if self.compat else visible
        return {
            "frames": frames,
            "labels": belief_labels(joints, taught, c.input_width, self.grid, c.sigma, c.background, half_pixel(c)),
            "center": center_map(joints, c.input_width, transposed=c.center_map == "compat"),
            "joints": joints.astype(np.float32),
            "visible": visible,
            "to_image": to_image.astype(np.float32),
            "box": box.astype(np.float32),
            "rows": rows.astype(np.int64),
        }

    def _crops(self, rows: np.ndarray, epoch: int, index: int) -> tuple[np.ndarray, ...]:
        """(frames, joints, visible, to_image, box) of a clip; its frames share the random numbers, all drawn always."""
        a, size = self.augmentation, self.config.input_width
        rng = np.random.Generator(np.random.Philox(key=self.config.seed, counter=[0, 0, epoch, index]))
        flip, angle, scale = bool(rng.random() < a.p_flip), rng.uniform(-a.rotate, a.rotate), rng.uniform(*a.scale)
        shift, color = rng.uniform(-a.shift, a.shift, 2), rng.uniform(1 - a.jitter, 1 + a.jitter, 3)
        frames = np.empty((len(rows), size, size, 3), np.uint8)
        matrices = np.empty((len(rows), 2, 3))
        for i, row in enumerate(rows):
            side = max(self.boxes[row, 2:].max(), 1.0) / scale
            center = box_center(self.boxes[row]) + shift * side
            matrices[i] = crop_affine(center, side, (size, size), angle, flip)
            image = warp(read_image(self.pose_set.images[row]), matrices[i], (size, size))
            cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=frames[i])
            jitter(frames[i], color)
        joints, visible, box = apply_affine(matrices, self.joints[rows]), self.visible[rows], self.boxes[rows]
        if flip:
            joints, visible = joints[:, self.mirror], visible[:, self.mirror]
        corners = apply_affine(matrices, np.stack([box[:, :2], box[:, :2] + box[:, 2:]], axis=1))
        return frames, joints, visible, invert_affine(matrices), corners.reshape(-1, 4)

    def _mobilepose_crops(self, rows: np.ndarray, epoch: int, index: int) -> tuple[np.ndarray, ...]:
        """In mode compat: absent joints have a place, a flip leaves `visible`, colours vary in evaluation too."""
        c, rng = self.config, random.Random(f"{self.config.seed} {epoch} {index}")
        augment, video = self.augmentation != NONE, self.pose_set.sequence is not None
        draw = random_draw(rng, c, augment, video)
        views = []
        for row in rows:
            image = cv2.cvtColor(read_image(self.pose_set.images[row]), cv2.COLOR_BGR2RGB)
            given = None if self.given is None else self.given[row]
            view = open_view(image, self.places[row], c.pad_pixels, given)
            views.append(transform(view, draw, c.input_width, self.mirror))
        to_image = invert_affine(np.stack([view.from_source for view in views]))
        to_image[..., 2] -= self.origin
        images, places, boxes = (np.stack([getattr(v, name) for v in views]) for name in ("image", "joints", "box"))
        return images, places, self.visible[rows], to_image, boxes


def belief_labels(joints: np.ndarray, visible: np.ndarray, size: int, grid: int, sigma: float, background: bool,
                  half_pixel: bool = False) -> np.ndarray:  # fmt: skip
    """(...,J,2) crop pixels -> (...,J+1,grid,grid): a Gaussian a joint; background last (zeros in MP, 1 - max in LP).

    Pixels become cells by the factor grid/size (MP), with `half_pixel` so that a cell stands for the middle of its
    square (LP). As in MP a joint left of or above the first cell has no Gaussian.
    """
    shift = 0.5 if half_pixel else 0.0
    cells = (joints + shift) * (grid / size) - shift
    with np.errstate(invalid="ignore"):
        present = (visible > 0) & (cells > 0).all(-1)  # NaN is not above 0
    maps = gaussian_maps(cells, present, (grid, grid), sigma)
    rest = 1 - maps.max(-3, keepdims=True) if background else np.zeros_like(maps[..., :1, :, :])
    return np.concatenate([maps, np.maximum(rest, 0)], axis=-3)


def center_map(joints: np.ndarray, size: int, transposed: bool) -> np.ndarray:
    """(T,J,2) crop pixels -> (1,size,size) Gaussian at the middle of all joints' range; MP wrote it transposed."""
    points = joints.reshape(-1, 2)
    points = points[np.isfinite(points).all(-1)]
    low, high = (points.min(0), points.max(0)) if len(points) else (np.zeros(2), np.full(2, size - 1.0))
    middle = (np.maximum(low, 0) + np.minimum(high, size - 1)) / 2
    points = middle[::-1] if transposed else middle
    # only the square in which the Gaussian is above its threshold of 0.01: a quarter of a map of 256 pixels
    reach = CENTER_SIGMA * math.sqrt(-2 * math.log(0.01)) + 1
    low = np.clip(points - reach, 0, size).astype(int)
    right, bottom = np.minimum(np.clip(points + reach, 0, size).astype(int) + 1, size) - low
    result = np.zeros((1, size, size), np.float32)
    part = gaussian_maps((points - low)[None], np.ones(1, bool), (bottom, right), CENTER_SIGMA)
    result[:, low[1] : low[1] + bottom, low[0] : low[0] + right] = part
    return result


def normalisation(config: Config) -> tuple[tuple, tuple, bool]:
    """(mean, std, bgr) of the network input, in units of [0, 1]."""
    if config.model == "lpm_official":
        return OFFICIAL_MEAN, OFFICIAL_STD, True
    mean, std = MEANS.get("lsp" if config.dataset == "lspet" else config.dataset, MEANS["mpii"])
    return mean, std, False


def prepare(batch: dict[str, torch.Tensor], device: torch.device, config: Config) -> dict[str, torch.Tensor]:
    """A batch on the device; frames become (B,T,3,S,S) float32, normalised there (fewer bytes to transfer)."""
    batch = {k: v.to(device, non_blocking=True) for k, v in batch.items()}
    mean, std, bgr = normalisation(config)
    frames = batch["frames"].permute(0, 1, 4, 2, 3).float().div_(255)
    frames = frames.flip(2) if bgr else frames
    shape = (1, 1, 3, 1, 1)
    batch["frames"] = (frames - frames.new_tensor(mean).view(shape)) / (frames.new_tensor(std).view(shape) + 1e-8)
    return batch


class EpochSampler(Sampler):
    """Keys (epoch, index) in an order fixed by (seed, epoch), split over `world` processes, from item `skip` on."""

    def __init__(self, length: int, seed: int, shuffle: bool, rank: int = 0, world: int = 1):
        self.length, self.seed, self.shuffle, self.rank, self.world = length, seed, shuffle, rank, world
        self.epoch, self.skip = 0, 0

    def __iter__(self):
        order = np.arange(self.length)
        if self.shuffle:
            order = np.random.default_rng((self.seed, self.epoch)).permutation(self.length)
        own = order[self.rank :: self.world]
        if self.shuffle:
            own = own[: self.length // self.world]
        return iter([(self.epoch, int(i)) for i in own[self.skip :]])

    def __len__(self) -> int:
        count = self.length // self.world if self.shuffle else len(range(self.rank, self.length, self.world))
        return max(count - self.skip, 0)


def _quiet_worker(_: int) -> None:
    cv2.setNumThreads(0)
    torch.set_num_threads(1)


def make_loader(dataset: ClipDataset, config: Config, shuffle: bool, rank: int = 0, world: int = 1) -> DataLoader:
    """Batches of `config.batch_size` clips; set `loader.sampler.epoch` (and `.skip`) before each epoch."""
    workers = default_workers() if config.workers is None else config.workers
    return DataLoader(
        dataset,
        batch_size=config.batch_size,
        sampler=EpochSampler(len(dataset), config.seed, shuffle, rank, world),
        num_workers=workers,
        drop_last=shuffle and len(dataset) >= config.batch_size * world,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=_quiet_worker if workers else None,
        generator=torch.Generator(),  # else every start of an iterator draws from the generator that dropout uses
    )


# ---- mode compat -----------------------------------------------------------------------------------------------------
# Each step changes picture, joints and box as MP does, and keeps the affine map from the first picture's coordinates,
# so that a prediction in the crop can be brought back. That map follows the joints' arithmetic before truncation; where
# it differs from the pixels' (MP scales joints by x -> f x, not about pixel centres) the joints decide, since they are
# what a network learns. Flaws of MP that are kept: the flip is off by one pixel, scaling a video changes only its
# sharpness, the box of a rotated crop is meaningless.


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
    """Random numbers in MP's order. Without `augment` only the colour factors are used.

    Of a video clip all are drawn, used or not; a still image is never scaled, and its angle is drawn only where it is
    used.
    """
    share = 1.0 if augment else 0.0
    scales = rng.random() < share if video else False
    flips, rotates = rng.random() < share * config.p_flip, rng.random() < share
    factor = rng.uniform(config.scale_low, config.scale_high) if video else None
    angle = rng.uniform(-config.rotate, config.rotate) if video or rotates else None
    color = tuple(rng.uniform(1 - config.jitter, 1 + config.jitter) for _ in range(3))
    return Draw(factor if scales else None, flips, angle if rotates else None, color)


def source_rows(pose_set: PoseSet, joints: np.ndarray) -> tuple[np.ndarray, np.ndarray | None, float]:
    """What MP read: joints (N,J,2), boxes (N,4) x0, y0, x1, y1 or None, the number of the files' first pixel.

    `joints` are the PoseSet's, in the network's order. MP used the files' coordinates as they are, and took an absent
    joint for the place that the file has there: (-1, -1) in MPII, about (1, 1) in Penn Action, outside the picture in
    LSPET (here (-1, -1)). MPII's are truncated, and come with a square of 200 x scale pixels.
    """
    origin = float(record(pose_set.name).origin)
    joints = np.nan_to_num(joints + origin, nan=1.0 if pose_set.name == "penn_action" else -1.0)
    if pose_set.name != "mpii" or pose_set.scale is None or pose_set.center is None:
        return joints, None, origin
    center, half = pose_set.center + origin, 100 * pose_set.scale[:, None]
    return np.trunc(joints), np.trunc(np.concatenate([center - half, center + half], axis=1)), origin


def open_view(image: np.ndarray, joints: np.ndarray, pad: float, given: np.ndarray | None = None) -> View:
    """(H,W,3) picture, (J,2) joints -> View with the box that MP crops, whole numbers.

    It is the extent of the joints, absent ones too, and `pad` pixels more, cut to the picture, or `given` unless NaN.
    """
    height, width = image.shape[:2]
    if given is None or np.isnan(given).any():
        low, high = joints.min(0) - pad, joints.max(0) + pad
        box = np.concatenate([np.maximum(low, 0), np.minimum(high, [width - 1, height - 1])])
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
    x0, y0, x1, y1 = view.box.astype(int)
    width, height = max(x1 - x0, 1), max(y1 - y0, 1)
    part = view.image[y0 : y0 + height, x0 : x0 + width]
    moved = compose_affine(np.array([[1.0, 0, -x0], [0, 1, -y0]]), view.from_source)
    cut = View(part, np.trunc(view.joints) - [x0, y0], np.array([0.0, 0.0, width, height]), moved)
    cut = scale(cut, size / max(width, height))
    inner_height, inner_width = cut.image.shape[:2]
    left, top = (size - inner_width) // 2, (size - inner_height) // 2
    canvas = np.zeros((size, size, 3), np.uint8)
    canvas[top : top + inner_height, left : left + inner_width] = cut.image
    joints = np.clip(cut.joints + [left, top], [left, top], [left + inner_width, top + inner_height])
    moved = compose_affine(np.array([[1.0, 0, left], [0, 1, top]]), cut.from_source)
    return View(canvas, np.trunc(joints), cut.box + [left, top, left, top], moved)


def rotate(view: View, angle: float) -> View:
    """The picture turned counter-clockwise by `angle` degrees about its middle, black outside; joints truncated."""
    height, width = view.image.shape[:2]
    x, y = (width - 1) / 2, (height - 1) / 2
    cos, sin = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
    turn = np.array([[cos, sin, x - cos * x - sin * y], [-sin, cos, y + sin * x - cos * y]])
    dx, dy = (view.joints - [x, y]).T
    joints = np.stack([x + cos * dx + sin * dy, y - sin * dx + cos * dy], axis=-1)
    box = view.box.astype(float)
    # MP computes each corner's y from its x after that has been turned, and takes a middle one pixel lower
    for i in (0, 2):
        box[i] = x + cos * (box[i] - x) + sin * (box[i + 1] - (y + 1))
        box[i + 1] = y + 1 - sin * (box[i] - x) + cos * (box[i + 1] - (y + 1))
    image = _sample(view.image, invert_affine(turn))
    return View(image, np.trunc(joints), box, compose_affine(turn, view.from_source))


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
    """scikit-image's anti-aliased linear resize (0.19 to 0.24, constant) of (H,W,3) uint8, truncated to uint8.

    When it shrinks, a Gaussian of sigma (factor - 1) / 2 cut at 4 sigma comes first; pixels outside the picture are
    black, so an enlarged picture is dimmer in its outermost half pixel.
    """
    sizes = ((width, image.shape[1]), (height, image.shape[0]))
    kernels = [_gaussian(max(0.0, (before / after - 1) / 2)) for after, before in sizes]
    blurred = cv2.sepFilter2D(image, cv2.CV_32F, *kernels, borderType=cv2.BORDER_CONSTANT)
    resized = cv2.resize(blurred, (width, height), interpolation=cv2.INTER_LINEAR)
    fade_x, fade_y = (_fade(after, before) for after, before in sizes)
    return _to_bytes(resized * (fade_y[:, None, None] * fade_x[:, None]))


def _sample(image: np.ndarray, to_image: np.ndarray) -> np.ndarray:
    """Linear interpolation of an (H,W,3) picture at `to_image` (2,3) of each pixel, black outside, truncated to uint8.

    Not cv2.warpAffine: that rounds places to 1/32 pixel, which is up to 4 grey values away from scikit-image.
    """
    height, width = image.shape[:2]
    x, y = (m[0] * np.arange(width) + m[1] * np.arange(height)[:, None] + m[2] for m in to_image)
    x, y = np.clip(x, -1, width).astype(np.float32), np.clip(y, -1, height).astype(np.float32)
    left, top = np.floor(x), np.floor(y)
    right_share, lower_share = (x - left)[..., None], (y - top)[..., None]
    padded = np.zeros((height + 3, width + 3, 3), np.float32)
    padded[1:-2, 1:-2] = image
    pixels, row = padded.reshape(-1, 3), width + 3
    corner = ((top + 1) * row + left + 1).astype(np.int64)
    upper = pixels[corner] * (1 - right_share) + pixels[corner + 1] * right_share
    lower = pixels[corner + row] * (1 - right_share) + pixels[corner + row + 1] * right_share
    return _to_bytes(upper * (1 - lower_share) + lower * lower_share)


def _gaussian(sigma: float) -> np.ndarray:
    if sigma == 0:
        return np.ones(1, np.float32)
    steps = np.arange(-int(4 * sigma + 0.5), int(4 * sigma + 0.5) + 1)
    weights = np.exp(-(steps**2) / (2 * sigma**2))
    return (weights / weights.sum()).astype(np.float32)


def _fade(count: int, source: int) -> np.ndarray:
    """(count,) share of each resized pixel between centres of source pixels; the rest mixes with the black outside."""
    place = (np.arange(count) + 0.5) * (source / count) - 0.5
    return np.clip(np.minimum(1 + place, source - place), 0, 1).astype(np.float32)


def _to_bytes(image: np.ndarray) -> np.ndarray:
    # a hair more than the truncated value: sums of float32 weights end just below whole numbers
    return np.clip(image + 1e-3, 0, 255).astype(np.uint8)
