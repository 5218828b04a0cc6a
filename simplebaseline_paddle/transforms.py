"""Crops, augmentation and targets as both originals make them, in numpy and OpenCV.

Coordinates are 0-based pixels. A person is a centre and a scale (w, h) in units of 200 pixels; only the width of the scale sets the crop.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from common.skeletons import Skeleton
from simplebaseline_paddle.config import FLIP_PROBABILITY, MEAN, PIXEL_STD, ROTATE_PROBABILITY, STD


def affine(center, scale, rotation: float, size: tuple[int, int], inverse: bool = False) -> np.ndarray:
    """(2,3) float64 map from the image to a crop of `size` = (width, height), or back; `rotation` in degrees.

    Three pairs of points fix it: the centre, the middle of the box's (turned) upper edge at half its WIDTH, and the corner that makes a
    right angle; float32 as in the originals, whose pixels depend on it.
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


def to_image(cells: np.ndarray, center: np.ndarray, scale: np.ndarray, map_size: tuple[int, int]) -> np.ndarray:
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


def draw_augmentation(rng, scale_factor: float, rot_factor: float) -> Augmentation:
    """Random scale, rotation and mirror. `rng` has `standard_normal()` and `random()`; the order of draws is the originals'."""
    scale = float(np.clip(rng.standard_normal() * scale_factor + 1, 1 - scale_factor, 1 + scale_factor))
    rotation = 0.0
    if rng.random() <= ROTATE_PROBABILITY:
        rotation = float(np.clip(rng.standard_normal() * rot_factor, -2 * rot_factor, 2 * rot_factor))
    return Augmentation(scale, rotation, rng.random() <= FLIP_PROBABILITY)


@dataclass(frozen=True)
class Person:
    """Where one person is in an image: `center` (2,), `scale` (2,), `joints` (K,2), `seen` (K,) bool."""

    center: np.ndarray
    scale: np.ndarray
    joints: np.ndarray
    seen: np.ndarray

    def mirrored(self, width: int, skeleton: Skeleton) -> Person:
        """The same person in the mirrored image of `width` pixels; unlabelled joints go to 0."""
        seen = self.seen[skeleton.mirror]
        joints = np.where(seen[:, None], self.joints[skeleton.mirror], 0.0)
        joints[:, 0] = np.where(seen, width - 1 - joints[:, 0], 0.0)
        return Person(np.array([width - 1 - self.center[0], self.center[1]]), self.scale, joints, seen)


def crop(
    image: np.ndarray, person: Person, size: tuple[int, int], skeleton: Skeleton, change: Augmentation = Augmentation(), reduced: int = 1
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(crop (H,W,3) uint8, joints (K,2) in crop pixels, seen (K,)).

    `image` may have been decoded at 1/`reduced` of its size; cell i of it stands for pixels reduced*i ... reduced*i + reduced-1. With
    reduced = 1 pixels are the originals' bit for bit.
    """
    if change.flip:
        image = cv2.flip(image, 1)  # fifty times as fast as numpy's reversed copy
        person = person.mirrored(image.shape[1] * reduced, skeleton)
    matrix = affine(person.center, person.scale * change.scale, change.rotation, size)
    joints = np.where(person.seen[:, None], person.joints @ matrix[:, :2].T + matrix[:, 2], person.joints)
    if reduced > 1:
        matrix = np.concatenate([matrix[:, :2] * reduced, matrix[:, :2].sum(1, keepdims=True) * (reduced - 1) / 2 + matrix[:, 2:]], axis=1)
    return cv2.warpAffine(image, matrix, size, flags=cv2.INTER_LINEAR), joints, person.seen


def reduction(scale: np.ndarray, width: int) -> int:
    """How much smaller an image may be decoded (1, 2, 4 or 8) without the crop of `width` pixels being enlarged for it."""
    shrink = PIXEL_STD * scale[0] / width
    return next((r for r in (8, 4, 2) if shrink >= r), 1)


def targets(
    joints: np.ndarray, weight: np.ndarray, map_size: tuple[int, int], sigma: float, stride: float = 4.0, compat: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Gaussian heat-maps (K,h,w) float32 and weights (K,1) float32 of joints (K,2) in crop pixels with weights (K,).

    The peak is 1 at the whole cell trunc(joint / stride + 0.5); the Gaussian ends 3 sigma away. A joint whose window does not touch the
    map has weight 0. `compat` keeps weight 1 for a window that ends exactly at the map's left or upper edge, as the originals do.
    """
    width, height = map_size
    cell = np.trunc(joints / stride + 0.5)
    radius = 3 * sigma
    low, high = cell - radius, cell + radius + 1
    gone = (low >= (width, height)).any(1) | ((high < 0) if compat else (high <= 0)).any(1)
    weight = np.where(gone, 0.0, weight).astype(np.float32)
    distance = [np.arange(n, dtype=np.float32) - cell[:, axis, None].astype(np.float32) for axis, n in enumerate((width, height))]
    bell = [np.where(np.abs(d) <= radius, np.exp(-(d**2) / np.float32(2 * sigma**2)), np.float32(0)) for d in distance]
    rows = bell[1] * (weight > 0.5)[:, None]
    return rows[:, :, None] * bell[0][:, None, :], weight[:, None]


def normalise(images, colour: str = "bgr"):
    """(N,H,W,3) uint8 BGR, numpy or Paddle, -> (N,3,H,W) float32 network input: x/255, minus mean, over standard deviation.

    `bgr` puts ImageNet's RGB constants on B, G, R planes in this order, as the released weights were trained; `rgb` exchanges the planes.
    """
    mean, std = (np.array(values, np.float32) for values in (MEAN, STD))
    if isinstance(images, np.ndarray):
        # the same arithmetic, done once for each of the 256 values
        table = (np.arange(256, dtype=np.float32)[:, None] / np.float32(255) - mean) / std
        planes = range(3) if colour == "bgr" else (2, 1, 0)
        return np.stack([table[:, c][images[..., plane]] for c, plane in enumerate(planes)], axis=1)
    import paddle

    planes = images.transpose([0, 3, 1, 2]).astype("float32")  # first, because Paddle has no `flip` of uint8
    planes = planes.flip(1) if colour == "rgb" else planes
    mean, std = (paddle.to_tensor(values.reshape(1, 3, 1, 1), place=images.place) for values in (mean, std))
    return (planes / 255.0 - mean) / std


def flip_back(maps: np.ndarray, mirror: np.ndarray, shift: bool) -> np.ndarray:
    """Heat-maps (N,K,h,w) of a mirrored image in the frame of the image; `mirror` (K,) exchanges left and right.

    `shift` moves them one cell to the right (column 0 stays), because cells count from the crop's edge.
    """
    maps = maps[:, mirror, :, ::-1]
    return np.concatenate([maps[..., :1], maps[..., :-1]], axis=-1) if shift else np.ascontiguousarray(maps)
