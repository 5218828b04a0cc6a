"""PoseSet -> clips -> crops, augmentation, targets -> PyTorch batches.

A clip is `t` consecutive frames of a video, or one still image that the network reads `t` times (it is decoded, warped and stored once).
One affine warp does crop, scale, rotation and flip together; the same matrix moves the joints, and its inverse brings predictions back.
Every draw comes from a generator keyed by (seed, epoch, row): batches do not depend on the number of workers, and a resumed run sees
what the uninterrupted one would have seen. In mode compat crops and augmentation are MobilePose's own (lpm_torch/transforms.py).
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
from common.geometry import apply_affine, box_center, crop_affine, invert_affine, pad_box, warp
from common.images import read_image
from common.poses import PoseSet
from common.skeletons import LPM14, PENN13, skeleton_map
from lpm_torch import transforms
from lpm_torch.config import MEANS, OFFICIAL_MEAN, OFFICIAL_STD, Config, half_pixel

CENTER_SIGMA = 21.0  # pixels of the crop, whatever its size (MP and LP)


def to_lpm(pose_set: PoseSet) -> tuple[np.ndarray, np.ndarray]:
    """Joints (N,14,2) and visibility (N,14) in the network's own order (LPM14)."""
    joints, visible = skeleton_map(pose_set.skeleton, LPM14).apply(pose_set.joints, pose_set.visible)
    if pose_set.skeleton is PENN13:
        joints[:, LPM14.index("neck")], visible[:, LPM14.index("neck")] = penn_neck(pose_set)
    return joints, visible


def penn_neck(pose_set: PoseSet) -> tuple[np.ndarray, np.ndarray]:
    """MP's stand-in for the neck that Penn Action lacks, between head and shoulders: (N,2) and (N,) visibility, the least of the three."""
    index = PENN13.indices(("head", "left_shoulder", "right_shoulder"))
    head, left, right = (pose_set.joints[:, i] for i in index)
    neck = np.stack(
        [0.5 * head[:, 0] + 0.25 * (left + right)[:, 0], 0.2 * head[:, 1] + 0.4 * (left + right)[:, 1]], axis=-1
    )
    return neck, pose_set.visible[:, index].min(-1)


def make_clips(pose_set: PoseSet, t: int, every_frame: bool = False) -> np.ndarray:
    """Rows of each clip, (C, T): non-overlapping windows of one video's frames; (N, 1) for still images.

    A tail shorter than t is dropped (MP); with `every_frame` a last window covers it, overlapping the one before (or repeating the first
    frame of a video shorter than t).
    """
    if pose_set.sequence is None:
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


class ClipDataset(Dataset):
    """Clips of a PoseSet as network input. Items are dicts of arrays:

    frames (T,S,S,3) uint8 RGB · labels (T,15,g,g) float32 · center (1,S,S) float32 · joints (T,14,2) crop pixels, NaN = unlabelled (in mode compat
    MobilePose's place for it) · visible (T,14) int8 · to_image (T,2,3) crop -> image · box (T,4) x0, y0, x1, y1 of the padded person box in the
    crop (in mode compat cut to the picture, as MobilePose does) · rows (T,) rows of the PoseSet. T is 1 for still images.
    """

    def __init__(
        self,
        pose_set: PoseSet,
        config: Config,
        grid: int,
        augmentation: Augmentation | None = None,
        subset: int | None = None,
        every_frame: bool = False,
    ):
        """`grid` = side of the network's belief maps for `config.resolution`; `every_frame` as in `make_clips`."""
        self.pose_set, self.config, self.grid = pose_set, config, grid
        self.augmentation = augmentation or Augmentation()
        self.clips = make_clips(pose_set, config.t, every_frame)[:subset]
        self.joints, self.visible = to_lpm(pose_set)
        self.mirror = LPM14.mirror
        self.boxes = pad_box(pose_set.box, config.pad_pixels, config.pad_ratio)
        self.sources = transforms.source_rows(pose_set, self.joints) if config.mode == "compat" else None

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, key) -> dict[str, np.ndarray]:
        epoch, index = key if isinstance(key, tuple) else (0, key)
        rows, size = self.clips[index], self.config.resolution
        compat = self.config.mode == "compat"
        frames, joints, visible, to_image, box = (self._mobilepose_crops if compat else self._crops)(
            rows, epoch, int(index)
        )
        taught = np.ones_like(visible) if compat else visible
        return {
            "frames": frames,
            "labels": belief_labels(
                joints, taught, size, self.grid, self.config.sigma, self.config.background, half_pixel(self.config)
            ),
            "center": center_map(joints, size, transposed=self.config.center_map == "compat"),
            "joints": joints.astype(np.float32),
            "visible": visible,
            "to_image": to_image.astype(np.float32),
            "box": box.astype(np.float32),
            "rows": rows.astype(np.int64),
        }

    def _crops(self, rows: np.ndarray, epoch: int, index: int) -> tuple[np.ndarray, ...]:
        """(frames, joints, visible, to_image, box) of one clip."""
        draw = self._draw(np.random.Generator(np.random.Philox(key=self.config.seed, counter=[0, 0, epoch, index])))
        size = self.config.resolution
        frames = np.empty((len(rows), size, size, 3), np.uint8)
        matrices = np.empty((len(rows), 2, 3))
        for i, row in enumerate(rows):
            matrices[i] = self._crop(self.boxes[row], draw)
            image = warp(read_image(self.pose_set.images[row]), matrices[i], (size, size))
            cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=frames[i])
            transforms.jitter(frames[i], draw["color"])
        joints, visible = self._targets(rows, matrices, draw["flip"])
        box = self.boxes[rows]
        corners = apply_affine(matrices, np.stack([box[:, :2], box[:, :2] + box[:, 2:]], axis=1))
        return frames, joints, visible, invert_affine(matrices), corners.reshape(-1, 4)

    def _mobilepose_crops(self, rows: np.ndarray, epoch: int, index: int) -> tuple[np.ndarray, ...]:
        """The same in mode compat: an absent joint has a place too, a flip does not swap `visible`, and colours vary in evaluation as well."""
        c, rng = self.config, random.Random(f"{self.config.seed} {epoch} {index}")
        augment = self.augmentation != Augmentation()
        if self.pose_set.sequence is None:
            draw = transforms.draw_image(rng, c.p_flip, c.rotate, c.jitter, augment)
        else:
            draw = transforms.draw_video(rng, c.p_flip, c.rotate, (c.scale_low, c.scale_high), c.jitter, augment)
        joints, given, origin = self.sources
        views = []
        for row in rows:
            image = cv2.cvtColor(read_image(self.pose_set.images[row]), cv2.COLOR_BGR2RGB)
            view = transforms.open_view(image, joints[row], c.pad_pixels, None if given is None else given[row])
            views.append(transforms.transform(view, draw, c.resolution))
        to_image = invert_affine(np.stack([view.from_source for view in views]))
        to_image[..., 2] -= origin
        images, places, boxes = (np.stack([getattr(v, name) for v in views]) for name in ("image", "joints", "box"))
        return images, places, self.visible[rows], to_image, boxes

    def _draw(self, rng: np.random.Generator) -> dict:
        """The random numbers of one clip, all drawn always and in one order, shared by its frames."""
        a = self.augmentation
        return {
            "flip": bool(rng.random() < a.p_flip),
            "angle": rng.uniform(-a.rotate, a.rotate),
            "scale": rng.uniform(*a.scale),
            "shift": rng.uniform(-a.shift, a.shift, 2),
            "color": rng.uniform(1 - a.jitter, 1 + a.jitter, 3),
        }

    def _crop(self, box: np.ndarray, draw: dict) -> np.ndarray:
        side = max(box[2:].max(), 1.0) / draw["scale"]
        size = self.config.resolution
        return crop_affine(box_center(box) + draw["shift"] * side, side, (size, size), draw["angle"], draw["flip"])

    def _targets(self, rows: np.ndarray, matrices: np.ndarray, flip: bool) -> tuple[np.ndarray, np.ndarray]:
        joints, visible = apply_affine(matrices, self.joints[rows]), self.visible[rows]
        return (joints[:, self.mirror], visible[:, self.mirror]) if flip else (joints, visible)


def belief_labels(
    joints: np.ndarray,
    visible: np.ndarray,
    size: int,
    grid: int,
    sigma: float,
    background: bool,
    half_pixel: bool = False,
) -> np.ndarray:
    """(...,14,2) crop pixels -> (...,15,grid,grid): a Gaussian a joint, last channel background (zeros in MP, 1 - max in LP).

    Pixels become cells by the factor grid/size (MP), with `half_pixel` so that a cell stands for the middle of its square (LP). As in MP a
    joint left of or above the first cell has no Gaussian.
    """
    shift = 0.5 if half_pixel else 0.0
    cells = (joints + shift) * (grid / size) - shift
    with np.errstate(invalid="ignore"):
        present = (visible > 0) & (cells > 0).all(-1)  # NaN is not above 0
    maps = gaussian_maps(cells, present, (grid, grid), sigma)
    rest = 1 - maps.max(-3, keepdims=True) if background else np.zeros_like(maps[..., :1, :, :])
    return np.concatenate([maps, np.maximum(rest, 0)], axis=-3)


def center_map(joints: np.ndarray, size: int, transposed: bool) -> np.ndarray:
    """(T,14,2) crop pixels -> (1,size,size) Gaussian at the middle of the joints' range over all frames; MP wrote it transposed."""
    points = joints.reshape(-1, 2)
    points = points[np.isfinite(points).all(-1)]
    low, high = (points.min(0), points.max(0)) if len(points) else (np.zeros(2), np.full(2, size - 1.0))
    middle = (np.maximum(low, 0) + np.minimum(high, size - 1)) / 2
    points = middle[::-1] if transposed else middle
    # only the square in which the Gaussian is above its threshold of 0.01: a quarter of a map of 256 pixels
    reach = CENTER_SIGMA * math.sqrt(-2 * math.log(0.01)) + 1
    (left, top), (right, bottom) = (np.clip(points + sign * reach, 0, size).astype(int).tolist() for sign in (-1, 1))
    result = np.zeros((1, size, size), np.float32)
    corner = np.array([left, top])
    result[:, top : bottom + 1, left : right + 1] = gaussian_maps(
        (points - corner)[None],
        np.ones(1, bool),
        (min(bottom + 1, size) - top, min(right + 1, size) - left),
        CENTER_SIGMA,
    )
    return result


def normalisation(config: Config) -> tuple[tuple, tuple, bool]:
    """(mean, std, bgr) of the network input, in units of [0, 1]."""
    if config.model == "lpm_official":
        return OFFICIAL_MEAN, OFFICIAL_STD, True
    mean, std = MEANS[config.dataset]
    return mean, std, False


def prepare(batch: dict[str, torch.Tensor], device: torch.device, config: Config) -> dict[str, torch.Tensor]:
    """Move a batch to the device; frames become (B,T,3,S,S) float32, normalised there (a quarter of the bytes to transfer)."""
    batch = {k: v.to(device, non_blocking=True) for k, v in batch.items()}
    mean, std, bgr = normalisation(config)
    frames = batch["frames"].permute(0, 1, 4, 2, 3).float().div_(255)
    frames = frames.flip(2) if bgr else frames
    shape = (1, 1, 3, 1, 1)
    batch["frames"] = (frames - frames.new_tensor(mean).view(shape)) / (frames.new_tensor(std).view(shape) + 1e-8)
    return batch


class EpochSampler(Sampler):
    """Keys (epoch, index) in an order fixed by (seed, epoch), split over `world` processes, starting `skip` items into the epoch."""

    def __init__(self, length: int, seed: int, shuffle: bool, rank: int = 0, world: int = 1):
        self.length, self.seed, self.shuffle, self.rank, self.world = length, seed, shuffle, rank, world
        self.epoch, self.skip = 0, 0

    def __iter__(self):
        order = (
            np.random.default_rng((self.seed, self.epoch)).permutation(self.length)
            if self.shuffle
            else np.arange(self.length)
        )
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
    """Batches of `config.batch_size` clips with `config.workers` processes; set `loader.sampler.epoch` (and `.skip`) before each epoch."""
    sampler = EpochSampler(len(dataset), config.seed, shuffle, rank, world)
    return DataLoader(
        dataset,
        batch_size=config.batch_size,
        sampler=sampler,
        num_workers=config.workers,
        drop_last=shuffle and len(dataset) >= config.batch_size * world,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=False,
        worker_init_fn=_quiet_worker if config.workers else None,
        generator=torch.Generator(),  # else every start of an iterator draws from the generator that dropout uses
    )
