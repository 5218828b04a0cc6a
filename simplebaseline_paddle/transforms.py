"""Crops, augmentation and targets as both originals make them, in numpy and OpenCV.

Coordinates are 0-based pixels. A person is a centre and a scale (w, h) in units of 200 pixels; only the width of the scale sets the crop.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

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
    scale = min(max(rng.standard_normal() * scale_factor + 1, 1 - scale_factor), 1 + scale_factor)
    rotation = 0.0
    if rng.random() <= ROTATE_PROBABILITY:
        rotation = min(max(rng.standard_normal() * rot_factor, -2 * rot_factor), 2 * rot_factor)
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


def place(
    person: Person, size: tuple[int, int], skeleton: Skeleton, change: Augmentation = Augmentation(), width: float = 0
):
    """Where a crop of `size` lies: (matrix (2,3) from the image to the crop, joints (K,2) in crop pixels, seen (K,)).

    With `change.flip` the matrix starts from the mirrored image, in which column x is column `width` - 1 - x.
    """
    if change.flip:
        person = person.mirrored(width, skeleton)
    matrix = affine(person.center, person.scale * change.scale, change.rotation, size)
    return (
        matrix,
        np.where(person.seen[:, None], person.joints @ matrix[:, :2].T + matrix[:, 2], person.joints),
        person.seen,
    )


def warp(
    image: np.ndarray, matrix: np.ndarray, size: tuple[int, int], reduced: int = 1, out: np.ndarray | None = None
) -> np.ndarray:
    """The crop (H,W,3) uint8 that `matrix` (2,3) cuts out of an image, into `out` if given.

    `image` may have been decoded at 1/`reduced` of its size; cell i of it stands for pixels reduced*i ... reduced*i + reduced-1. With
    reduced = 1 pixels are the originals' bit for bit.
    """
    return cv2.warpAffine(image, _for_reduced(matrix, reduced), size, dst=out, flags=cv2.INTER_LINEAR)


def warp_mirrored(
    image: np.ndarray, matrix: np.ndarray, size: tuple[int, int], reduced: int = 1, out: np.ndarray | None = None
) -> np.ndarray:
    """As `warp` of the mirrored image, which is not made (that costs a tenth of a sample); `matrix` is `place`'s for width 0.

    Positions agree to 1/1000 pixel. OpenCV rounds them to 1/1024 and those, halves up, to 1/32; mirrored halves would go down, hence the
    step. About one pixel in ten thousand then falls on another 32nd and differs by a few grey levels.
    """
    back = cv2.invertAffineTransform(_for_reduced(matrix, reduced))
    back[0] *= -1
    back[0, 2] -= 1 + 1 / 1024
    return cv2.warpAffine(image, back, size, dst=out, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)


def _for_reduced(matrix: np.ndarray, reduced: int) -> np.ndarray:
    if reduced == 1:
        return matrix
    return np.concatenate(
        [matrix[:, :2] * reduced, matrix[:, :2].sum(1, keepdims=True) * (reduced - 1) / 2 + matrix[:, 2:]], axis=1
    )


def crop(
    image: np.ndarray,
    person: Person,
    size: tuple[int, int],
    skeleton: Skeleton,
    change: Augmentation = Augmentation(),
    reduced: int = 1,
    out: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(crop (H,W,3) uint8, joints (K,2) in crop pixels, seen (K,)): `place` and `warp`, with the mirrored image where `change.flip`."""
    matrix, joints, seen = place(person, size, skeleton, change, image.shape[1] * reduced)
    image = cv2.flip(image, 1) if change.flip else image  # fifty times as fast as numpy's reversed copy
    return warp(image, matrix, size, reduced, out), joints, seen


def reduction(scale: np.ndarray, width: int) -> int:
    """How much smaller an image may be decoded (1, 2, 4 or 8) without the crop of `width` pixels being enlarged for it."""
    shrink = PIXEL_STD * scale[0] / width
    return next((r for r in (8, 4, 2) if shrink >= r), 1)


def targets(
    joints: np.ndarray,
    weight: np.ndarray,
    map_size: tuple[int, int],
    sigma: float,
    stride: float = 4.0,
    compat: bool = False,
    out: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Gaussian heat-maps (K,h,w) float32 and weights (K,1) float32 of joints (K,2) in crop pixels with weights (K,).

    The peak is 1 at the whole cell trunc(joint / stride + 0.5); the Gaussian ends 3 sigma away. A joint whose window does not touch the
    map has weight 0. `compat` keeps weight 1 for a window that ends exactly at the map's left or upper edge, as the originals do.
    `out` (K,h,w) float32, zeros: where to put the heat-maps.
    """
    width, height = map_size
    radius = 3 * sigma
    reach = int(radius)
    cells = np.trunc(joints / stride + 0.5)
    maps = np.zeros((len(joints), height, width), np.float32) if out is None else out
    patch, weight = _patch(sigma), np.array(weight, np.float32)
    # joint by joint, because few cells of the maps are not 0: several times as fast as outer products of whole rows and columns
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
def _patch(sigma: float) -> np.ndarray:
    """(2R+1,2R+1) float32: the Gaussian of `sigma` cells around 0 as far as the whole cell R at or within 3 sigma."""
    distance = np.arange(-int(3 * sigma), int(3 * sigma) + 1, dtype=np.float32)
    bell = np.exp(-(distance**2) / np.float32(2 * sigma**2))
    return bell[:, None] * bell


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
