"""MobilePose's own crop and augmentation (mode compat), with its truncations: what its networks were trained and scored with.

A `View` is a picture with its joints and box. Each step changes all three as MP does, and keeps the affine map from the first picture's
coordinates, so that a prediction in the crop can be brought back. That map follows the joints' arithmetic before truncation; where it
differs from the pixels' (MP scales joints by x -> f x, not about pixel centres) the joints decide, since they are what a network learns.
Flaws of MP that are kept: the flip is off by one pixel, scaling a video changes only its sharpness, the box of a rotated crop is meaningless.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import cv2
import numpy as np

from common import datasets
from common.geometry import compose_affine, invert_affine
from common.poses import PoseSet
from common.skeletons import LPM14


@dataclass(frozen=True)
class View:
    """A picture and what is known of it, in its pixels."""

    image: np.ndarray  # (H,W,3) uint8
    joints: np.ndarray  # (14,2) float64 in LPM14 order, none NaN (`source_rows`)
    box: np.ndarray  # (4,) x0, y0, x1, y1
    from_source: np.ndarray  # (2,3) source coordinates -> coordinates here


@dataclass(frozen=True)
class Draw:
    """Random numbers of one clip; None = step left out."""

    scale: float | None = None
    flip: bool = False
    angle: float | None = None  # degrees, counter-clockwise
    color: tuple[float, float, float] = (1.0, 1.0, 1.0)  # factors of R, G, B


def draw_video(
    rng: random.Random, p_flip: float, rotate: float, scale: tuple[float, float], jitter: float, augment: bool
) -> Draw:
    """Draws of a video clip in MP's order; all are drawn, whether they are used or not. Without `augment` only the colour factors are used."""
    p_scale, p_flip, p_rotate = (1.0, p_flip, 1.0) if augment else (0.0, 0.0, 0.0)
    scales, flips, rotates = rng.random() < p_scale, rng.random() < p_flip, rng.random() < p_rotate
    factor, angle = rng.uniform(*scale), rng.uniform(-rotate, rotate)
    return Draw(factor if scales else None, flips, angle if rotates else None, _colors(rng, jitter))


def draw_image(rng: random.Random, p_flip: float, rotate: float, jitter: float, augment: bool) -> Draw:
    """Draws of a still image in MP's order: it is never scaled, and the angle is drawn only where it is used."""
    flips = rng.random() < (p_flip if augment else 0.0)
    rotates = rng.random() < (1.0 if augment else 0.0)
    return Draw(None, flips, rng.uniform(-rotate, rotate) if rotates else None, _colors(rng, jitter))


def _colors(rng: random.Random, jitter: float) -> tuple[float, float, float]:
    return rng.uniform(1 - jitter, 1 + jitter), rng.uniform(1 - jitter, 1 + jitter), rng.uniform(1 - jitter, 1 + jitter)


def source_rows(pose_set: PoseSet, joints: np.ndarray) -> tuple[np.ndarray, np.ndarray | None, float]:
    """What MP read from the data set's files: (joints (N,14,2), given boxes (N,4) x0, y0, x1, y1 or None, number of the files' first pixel).

    `joints` are the PoseSet's, in LPM14 order. MP used the files' coordinates as they are, whatever they count from, and took an absent
    joint for the place that the file has there: (-1, -1) in MPII, about (1, 1) in Penn Action, whatever outside the picture in LSPET (here
    (-1, -1), which cuts to the same corner). MPII's are truncated, and come with a square of 200 x scale pixels.
    """
    origin = float(datasets.record(pose_set.name).origin)
    joints = np.nan_to_num(joints + origin, nan=1.0 if pose_set.name == "penn_action" else -1.0)
    if pose_set.name != "mpii" or pose_set.scale is None:
        return joints, None, origin
    center, half = pose_set.center + origin, 100 * pose_set.scale[:, None]
    return np.trunc(joints), np.trunc(np.concatenate([center - half, center + half], axis=1)), origin


def open_view(image: np.ndarray, joints: np.ndarray, pad: float, given: np.ndarray | None = None) -> View:
    """(H,W,3) picture, (14,2) joints -> View with the box that MP crops, whole numbers.

    The box is the extent of the joints, absent ones included, and `pad` pixels more, cut to the picture. `given` (x0, y0, x1, y1), unless
    it is NaN, replaces it.
    """
    height, width = image.shape[:2]
    if given is None or np.isnan(given).any():
        low, high = joints.min(0) - pad, joints.max(0) + pad
        box = np.concatenate([np.maximum(low, 0), np.minimum(high, [width - 1, height - 1])])
    else:
        box = np.clip(given, 0, [width, height, width, height])
    return View(image, joints, np.trunc(box), np.eye(2, 3))


def scale(view: View, factor: float) -> View:
    """The picture resized by `factor` to truncated width and height; joints are cut to the new picture, the box is not."""
    height, width = (int(n * factor) for n in view.image.shape[:2])
    return View(
        image=resize(view.image, max(width, 1), max(height, 1)),
        joints=np.clip(view.joints * factor, 0, [width, height]),
        box=view.box * factor,
        from_source=view.from_source * factor,
    )


def flip(view: View) -> View:
    """The picture mirrored left-right, left and right joints exchanged. Coordinates become w - x, one more than the pixels' own w - 1 - x."""
    width = view.image.shape[1]
    mirror = np.array([[-1.0, 0, width], [0, 1, 0]])
    joints = view.joints[LPM14.mirror] * [-1, 1] + [width, 0]
    x0, y0, x1, y1 = view.box
    return View(
        view.image[:, ::-1],
        joints,
        np.array([width - x1, y0, width - x0, y1]),
        compose_affine(mirror, view.from_source),
    )


def crop(view: View, size: int) -> View:
    """The box cut out, scaled so that its longer side is `size`, and centred on a black square of `size` pixels; joints are whole numbers."""
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
    shift = np.array([[1.0, 0, left], [0, 1, top]])
    return View(canvas, np.trunc(joints), cut.box + [left, top, left, top], compose_affine(shift, cut.from_source))


def rotate(view: View, angle: float) -> View:
    """The picture turned counter-clockwise by `angle` degrees about its middle, black outside; joints are truncated to whole numbers."""
    height, width = view.image.shape[:2]
    x, y = (width - 1) / 2, (height - 1) / 2
    cos, sin = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
    turn = np.array([[cos, sin, x - cos * x - sin * y], [-sin, cos, y + sin * x - cos * y]])
    offset = view.joints - [x, y]
    joints = np.stack(
        [x + cos * offset[:, 0] + sin * offset[:, 1], y - sin * offset[:, 0] + cos * offset[:, 1]], axis=-1
    )
    box = view.box.astype(float)
    for i in (
        0,
        2,
    ):  # MP computes each corner's y from its x after that has been turned, and takes a middle one pixel lower
        box[i] = x + cos * (box[i] - x) + sin * (box[i + 1] - (y + 1))
        box[i + 1] = y + 1 - sin * (box[i] - x) + cos * (box[i + 1] - (y + 1))
    return View(_sample(view.image, invert_affine(turn)), np.trunc(joints), box, compose_affine(turn, view.from_source))


def jitter(image: np.ndarray, factors) -> None:
    """Multiply each channel of an (H,W,3) uint8 picture with its factor, in place; cut to 0..255 and truncated."""
    if any(f != 1 for f in factors):
        table = np.clip(np.arange(256)[:, None] * np.asarray(factors, float), 0, 255).astype(np.uint8)
        cv2.LUT(image, table[None], dst=image)


def transform(view: View, draw: Draw, size: int) -> View:
    """All of MP's steps in its order, without normalisation: scale, flip, crop to `size` pixels, rotate, jitter."""
    if draw.scale is not None:
        view = scale(view, draw.scale)
    if draw.flip:
        view = flip(view)
    view = crop(view, size)
    if draw.angle is not None:
        view = rotate(view, draw.angle)
    jitter(view.image, draw.color)  # the crop is a picture of its own
    return view


def resize(image: np.ndarray, width: int, height: int) -> np.ndarray:
    """scikit-image's anti-aliased linear resize (0.19 to 0.24, mode constant) of an (H,W,3) uint8 picture, truncated to uint8.

    When it shrinks, a Gaussian of sigma (factor - 1) / 2 cut at 4 sigma comes first; pixels outside the picture are black, so an enlarged
    picture is dimmer in its outermost half pixel.
    """
    factors = image.shape[1] / width, image.shape[0] / height
    kernels = [_gaussian(max(0.0, (f - 1) / 2)) for f in factors]
    blurred = cv2.sepFilter2D(image, cv2.CV_32F, *kernels, borderType=cv2.BORDER_CONSTANT)
    resized = cv2.resize(blurred, (width, height), interpolation=cv2.INTER_LINEAR)
    fade_x, fade_y = _fade(width, image.shape[1]), _fade(height, image.shape[0])
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
    """(count,) share of each resized pixel that lies between centres of source pixels; the rest is interpolated with the black outside."""
    place = (np.arange(count) + 0.5) * (source / count) - 0.5
    return np.clip(np.minimum(1 + place, source - place), 0, 1).astype(np.float32)


def _to_bytes(image: np.ndarray) -> np.ndarray:
    # a hair more than the truncated value: sums of float32 weights end just below whole numbers
    return np.clip(image + 1e-3, 0, 255).astype(np.uint8)
