"""Boxes, affine crops and their inverse, flips. 0-based pixels, pixel centres at integers, x right, y down.

An affine map is a (2,3) float64 matrix M with p' = M @ (x, y, 1); stacks (...,2,3) work everywhere but in `warp`.
"""

from __future__ import annotations

import math

import cv2
import numpy as np

from common.errors import DataError


def crop_affine(center, side, size, rotation: float = 0.0, flip: bool = False) -> np.ndarray:
    """The map that takes a box of an image to a crop of `size` = (width, height) pixels.

    `center` (x, y) is the middle of the box and lands in the middle of the crop; `side` = (w, h) or one number is the
    box in image pixels; `rotation` in degrees turns the picture counter-clockwise as seen; `flip` mirrors the crop
    left-right afterwards.
    """
    # written out in plain numbers: a loader calls this for every crop, and numpy's calls on 2x2 arrays cost more than
    # the sums
    (width, height), (x, y) = size, (float(v) for v in center)
    side_w, side_h = (float(v) for v in side) if np.ndim(side) else (float(side),) * 2
    angle = math.radians(rotation)
    cos, sin = math.cos(angle), math.sin(angle)
    across, down = (-width if flip else width) / side_w, height / side_h
    a, b, c, d = across * cos, across * sin, -down * sin, down * cos
    return np.array([[a, b, (width - 1) / 2 - (a * x + b * y)], [c, d, (height - 1) / 2 - (c * x + d * y)]])


def apply_affine(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """(...,2,3) maps on (...,K,2) points; NaN stays NaN."""
    return points @ np.swapaxes(matrix[..., :2], -1, -2) + matrix[..., None, :, 2]


def invert_affine(matrix: np.ndarray) -> np.ndarray:
    """The inverse map(s), (...,2,3) float64; zeros where there is none."""
    # not by LAPACK, which wakes threads that then spin in every loader process
    flat = np.asarray(matrix, np.float64).reshape(-1, 2, 3)
    return np.array([cv2.invertAffineTransform(one) for one in flat]).reshape(np.shape(matrix))


def compose_affine(second: np.ndarray, first: np.ndarray) -> np.ndarray:
    """The map that does `first`, then `second`."""
    linear = second[..., :2] @ first[..., :2]
    return np.concatenate([linear, second[..., :2] @ first[..., 2:] + second[..., 2:]], axis=-1)


def warp(image: np.ndarray, matrix: np.ndarray, size: tuple[int, int], fill=0) -> np.ndarray:
    """Resample `image` through `matrix` (image -> crop) into `size` = (width, height), bilinear, `fill` outside.

    When the crop shrinks the picture by two or more, the picture is first reduced by the whole part of that factor with
    area averaging, which keeps fine texture from aliasing; the map is adjusted so that geometry is unchanged (`fill`
    may come in one crop pixel early at the right and bottom edge, where a part cell is left over).
    """
    # 1e-6: a crop of exactly 1/8 should be reduced by 8 whatever the last digit of the determinant
    (a, b, _), (c, d, _) = matrix.tolist()
    shrink = int(1 / max(math.sqrt(abs(a * d - b * c)), 1e-6) + 1e-6)
    if shrink >= 2 and min(image.shape[:2]) >= 2 * shrink:
        height, width = (image.shape[0] // shrink) * shrink, (image.shape[1] // shrink) * shrink
        image = cv2.resize(image[:height, :width], (width // shrink, height // shrink), interpolation=cv2.INTER_AREA)
        # cell i of the reduced image averages pixels shrink*i .. shrink*i + shrink-1
        matrix = compose_affine(matrix, np.array([[shrink, 0, (shrink - 1) / 2], [0, shrink, (shrink - 1) / 2]]))
    border = fill if isinstance(fill, (tuple, list)) else (fill,) * 3
    return cv2.warpAffine(image, matrix, size, flags=cv2.INTER_LINEAR, borderValue=border)  # constant border


LARGEST = 1e6  # pixels of a box


def checked_boxes(boxes, image: np.ndarray) -> np.ndarray:
    """Boxes as (n,4) float64 x, y, w, h; None: the whole of a picture (H,W,...). DataError for what is no box."""
    found = np.asarray([[0, 0, image.shape[1], image.shape[0]]] if boxes is None else boxes, np.float64)
    if found.size % 4 or not (np.abs(found) < LARGEST).all() or not (found.reshape(-1, 4)[:, 2:] > 0).all():
        raise DataError(f"boxes {found.tolist()} are not x, y, w, h in pixels with positive w and h")
    return found.reshape(-1, 4)


def touching(boxes: np.ndarray, width: int, height: int) -> np.ndarray:
    """(n,) bool: which boxes (n,4) x, y, w, h have something of a picture of this size in them."""
    return ((boxes[:, :2] < (width, height)) & (boxes[:, :2] + boxes[:, 2:] > 0)).all(1)


def box_center(box: np.ndarray) -> np.ndarray:
    """(...,4) x, y, w, h -> (...,2) centre."""
    return box[..., :2] + box[..., 2:] / 2


def pad_box(box: np.ndarray, pixels: float = 0.0, ratio: float = 0.0) -> np.ndarray:
    """Grow (...,4) boxes on every side by `pixels` plus `ratio` x the longer side."""
    margin = pixels + ratio * box[..., 2:].max(-1, keepdims=True)
    return np.concatenate([box[..., :2] - margin, box[..., 2:] + 2 * margin], axis=-1)


def box_with_aspect(box: np.ndarray, aspect: float) -> np.ndarray:
    """The smallest box of width/height = `aspect` with the same centre that contains (...,4) `box`."""
    height = np.maximum(box[..., 3], box[..., 2] / aspect)
    side = np.stack([height * aspect, height], axis=-1)
    return np.concatenate([box_center(box) - side / 2, side], axis=-1)
