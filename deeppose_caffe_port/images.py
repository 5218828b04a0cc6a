"""Depth pictures, crops of persons, patches around joints, and the resizing of training and of testing."""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np
from scipy.ndimage import affine_transform

from common.errors import DataError
from common.geometry import box_center, crop_affine, pad_box, warp
from common.images import picture_of, read_image
from common.poses import PoseSet
from deeppose_caffe_port.config import Config


def read_picture(path: str | Path, allow_16bit: bool = False) -> np.ndarray:
    """(H,W,3) uint8 BGR, grey replicated. DataError when it is missing, unreadable, or not 8-bit without leave."""
    return as_picture(read_image(path, unchanged=True), str(path), allow_16bit)


def read_prepared(path: str | Path, config: Config) -> np.ndarray:
    """`read_picture` of what must have the size of the project's pictures. DataError when it has not."""
    image = read_picture(path, config.allow_16bit)
    if (size := image.shape[1::-1]) != config.size:
        raise DataError(f"image {path} is {size}, not {config.size}; set --input_width, --input_height")
    return image


class Unread:
    """Context in which a picture that cannot be read is a warning; `report` names all of them at the end."""

    def __init__(self) -> None:
        self.errors: list[str] = []

    def __enter__(self) -> Unread:
        return self

    def __exit__(self, kind, error, trace) -> bool:
        if not isinstance(error, DataError):
            return False
        self.errors.append(str(error))
        print(f"warning: {error}", file=sys.stderr)
        return True

    def report(self, count: int) -> None:
        """A line on each picture that was left out of `count`; DataError when none is left."""
        if not self.errors:
            return
        said = f"{len(self.errors)} of {count} pictures were left out:\n  " + "\n  ".join(self.errors)
        if len(self.errors) == count:
            raise DataError(said)
        print(f"warning: {said}", file=sys.stderr)


def as_picture(image: np.ndarray, name: str, allow_16bit: bool = False) -> np.ndarray:
    """(H,W), (H,W,3) or (H,W,4) of 8 bits, or 16 where allowed -> (H,W,3) uint8 BGR; DataError for other types."""
    if image.dtype == np.uint16 and allow_16bit:
        image = (image >> 8).astype(np.uint8)
    if image.dtype != np.uint8:
        raise DataError(f"image {name} has {image.dtype.itemsize * 8} bits; convert it to 8, or give --allow_16bit")
    return picture_of(image)


class Pictures:
    """What the networks see of a PoseSet: whole images (K2HPD), or square crops around each person's joints."""

    def __init__(self, pose_set: PoseSet, config: Config):
        self.pose_set, self.config = pose_set, config

    def __len__(self) -> int:
        return len(self.pose_set)

    def matrix(self, row: int) -> np.ndarray:
        """(2,3): image pixels -> pixels of the picture."""
        if self.config.whole_images:
            return np.eye(2, 3)
        box = pad_box(self.pose_set.box[row], ratio=self.config.pad)
        return crop_affine(box_center(box), max(box[2:].max(), 1.0), self.config.size)

    def image(self, row: int) -> np.ndarray:
        """(height, width, 3) uint8 BGR."""
        path = self.pose_set.images[row]
        if not self.config.whole_images:
            return warp(read_image(path), self.matrix(row), self.config.size)
        return read_prepared(path, self.config)


def patch(image: np.ndarray, center: np.ndarray, side: float) -> np.ndarray:
    """The square of 2h+1 pixels around the truncated `center`, h = half the truncated side; black outside the image."""
    half = int(side) // 2
    x, y = (int(c) for c in center)
    height, width = image.shape[:2]
    out = np.zeros((2 * half + 1, 2 * half + 1, 3), np.uint8)
    left, top = max(x - half, 0), max(y - half, 0)
    right, bottom = min(x + half + 1, width), min(y + half + 1, height)
    if right > left and bottom > top:
        out[top - y + half : bottom - y + half, left - x + half : right - x + half] = image[top:bottom, left:right]
    return out


def resize(image: np.ndarray, side: int) -> np.ndarray:
    """(side, side, 3) as the LMDB tool resizes: OpenCV's bilinear."""
    return cv2.resize(image, (side, side), interpolation=cv2.INTER_LINEAR)


def caffe_io_resize(image: np.ndarray, side: int) -> np.ndarray:
    """(side, side, 3) float64 of a float image in [0, 1], as pycaffe's caffe.io.resize_image did on scikit-image of
    2018: bilinear at (i + 0.5) in/out - 0.5, samples outside count as the image's minimum, so borders darken."""
    low, high = image.min(), image.max()
    if image.shape[:2] == (side, side) or high == low:
        return image if high > low else np.full((side, side, image.shape[2]), low)
    scale = np.array([*image.shape[:2], side]) / side
    form = {"output_shape": (side, side, image.shape[2]), "order": 1, "mode": "grid-constant", "cval": 0.0}
    return affine_transform((image - low) / (high - low), scale, scale / 2 - 0.5, **form) * (high - low) + low


def caffe_io_input(picture: np.ndarray, side: int, channel_mean: np.ndarray) -> np.ndarray:
    """(3, side, side) float32 as the test scripts fed it: v/255 by caffe.io's resize, minus channel averages / 255."""
    # the division in float32, as caffe.io.load_image did it
    scaled = caffe_io_resize((picture / np.float32(255)).astype(np.float64), side)
    return (scaled - channel_mean / 255).transpose(2, 0, 1).astype(np.float32)
