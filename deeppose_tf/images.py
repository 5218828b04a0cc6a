"""Images of persons: sizes from the file's header, and a bounded store of decoded pictures. DT keeps every picture in memory."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

from common.errors import DataError
from common.images import read_image

_JPEG_SIZES = {0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF}


def image_size(path: str | Path) -> tuple[int, int]:
    """(width, height) of a JPEG or PNG without decoding it, of any other image by decoding. DataError when it is missing or damaged."""
    try:
        with open(path, "rb") as file:
            start = file.read(24)
            if start[:8] == b"\x89PNG\r\n\x1a\n" and len(start) == 24:
                return struct.unpack(">II", start[16:24])
            found = _jpeg_size(file) if start[:2] == b"\xff\xd8" else None
    except OSError as error:
        raise DataError(
            f"image {path} cannot be opened ({error.strerror}); check --img_path_prefix and the paths in the CSV"
        ) from error
    if found:
        return found
    height, width = read_image(path).shape[:2]
    return width, height


def _jpeg_size(file) -> tuple[int, int] | None:
    """Walk the segments to the frame header; None when there is none."""
    file.seek(2)
    while True:
        marker = file.read(2)
        while marker[1:] == b"\xff":  # fill bytes
            marker = b"\xff" + file.read(1)
        if len(marker) < 2 or marker[0] != 0xFF:
            return None
        head = file.read(7)
        if len(head) < 7:
            return None
        length, _, height, width = struct.unpack(">HBHH", head)
        if marker[1] in _JPEG_SIZES:
            return width, height
        file.seek(length - 7, 1)


class ImageStore:
    """Decoded pictures, BGR uint8, at most `megabytes` of them; later ones are decoded again each time.

    Nothing is ever thrown out: every epoch visits each picture once in a new order, where the oldest is as likely to be next as any.
    """

    def __init__(self, megabytes: int):
        self.room = megabytes * 2**20
        self.limit = self.room
        self._kept: dict[tuple[str, float], np.ndarray] = {}

    def __getstate__(self) -> dict:
        return {"room": self.limit, "limit": self.limit, "_kept": {}}

    def read(self, path: str, factor: float = 1.0) -> np.ndarray:
        """The picture, reduced by `factor` (bilinear, as DT does) when that is above 1. DataError when it cannot be decoded."""
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
