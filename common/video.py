"""Pictures in, from a video, a folder, an image, a camera or an address; video out; joints smoothed over time."""

from __future__ import annotations

import errno
import math
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from common.errors import DataError
from common.files import publish, temporary_name

DEFAULT_FPS = 25.0
MOST_FPS = 120.0  # above it the time stamps are asked
_COMMON = "avc1 h264 hevc hvc1 hev1 mp4v fmp4 xvid divx mjpg jpeg mpg1 mpg2 vp80 vp90 vp08 vp09".split()
_IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm"}
_ADDRESS = re.compile(r"(rtsp|rtmp|https?)://", re.IGNORECASE)


class Frames:
    """What `frames` returns: iterate for (name, image, seconds), with `fps` and `count` (None where not known)."""

    def __init__(self, read: Callable[[], Iterator[tuple[str, np.ndarray, float]]], fps: float, count: int | None):
        self._read, self.fps, self.count = read, fps, count

    def __iter__(self) -> Iterator[tuple[str, np.ndarray, float]]:
        return self._read()


def frames(source: str | Path) -> Frames:
    """The pictures of a video, (H,W,3) uint8 BGR, upright as a viewer shows them; names are `STEM_000000`.

    A number (`0`) gives that camera, and an rtsp or http address that stream, until it stops, as `camera_000000`. `fps`
    is the video's own, where it states a plausible one; times are those of its frames, from the first on. DataError at
    once when the source is missing or cannot be opened, and while iterating, after the good pictures, when a video ends
    before the length that it states.
    """
    path = Path(source)
    if str(source).isdecimal() and not path.exists():
        return _live(int(str(source)), f"camera {source}", "check that it is connected and free")
    if _ADDRESS.match(str(source)):
        return _live(str(source), f"stream {source}", "check the address, and that it can be reached from here")
    if not path.is_file():
        kinds = "a video, an image, a folder of images, a camera number or an rtsp or http address"
        raise DataError(f"source {path} does not exist; give {kinds}")
    return _video(path)


def pictures_in(folder: Path, recursive: bool) -> list[Path]:
    """The images of a folder (`recursive`: and of those in it) in natural order. DataError when there are none."""
    found = folder.rglob("*") if recursive else folder.iterdir()
    files = [f for f in found if is_picture(f) and f.is_file()]
    if not files:
        kinds = ", ".join(sorted(_IMAGE_SUFFIXES))
        raise DataError(f"folder {folder} holds no images ({kinds}); give a folder of images, an image or a video")

    def natural(path: Path) -> list[tuple[int, int | str]]:
        parts = filter(None, re.split(r"(\d+)", str(path.relative_to(folder))))
        return [(0, int(part)) if part.isdecimal() else (1, part.lower()) for part in parts]

    return sorted(files, key=natural)


def is_picture(path: Path) -> bool:
    """Whether a name is that of an image."""
    return path.suffix.lower() in _IMAGE_SUFFIXES


def _open(source: int | str, what: str, remedy: str) -> Any:
    capture = cv2.VideoCapture(source)
    if not capture.isOpened():
        raise DataError(f"{what} cannot be opened; {remedy}")
    capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 1)
    return capture


def _live(source: int | str, what: str, remedy: str) -> Frames:
    capture = _open(source, what, remedy)
    fps, began = capture.get(cv2.CAP_PROP_FPS), time.monotonic()
    fps = fps if 1 <= fps <= MOST_FPS else DEFAULT_FPS
    return Frames(lambda: _read_all(capture, "camera", fps, lambda: time.monotonic() - began), fps, None)


def _video(path: Path) -> Frames:
    readable = f"`ffmpeg -i {path.name} readable.mp4`"
    about = (str(path), f"video {path}", f"it is no video, truncated or of unknown codec: try {readable}")
    capture = _open(*about)
    stated, rate = capture.get(cv2.CAP_PROP_FRAME_COUNT), capture.get(cv2.CAP_PROP_FPS)
    codec = int(capture.get(cv2.CAP_PROP_FOURCC)).to_bytes(4, "little").decode("latin1").lower()
    fps = rate if 1 <= rate <= MOST_FPS else _measured(capture)
    capture.release()

    def read() -> Iterator[tuple[str, np.ndarray, float]]:
        capture = _open(*about)
        done, at, gap = 0, -1 / fps, 0.0
        for item in _read_all(capture, path.stem, fps, lambda: capture.get(cv2.CAP_PROP_POS_MSEC) / 1000):
            yield item
            done, at, gap = done + 1, item[2], max(gap, item[2] - at)
        if done == 0 and codec not in _COMMON:
            raise DataError(f"video {path}: OpenCV has no decoder here for its codec {codec}; convert it: {readable}")
        # a number of frames computed from the duration says nothing where they do not come regularly: the time does
        length = max(stated / rate, 0) if rate > 0 else 0
        if done == 0 or (done < stated and length - at > max(2.5 / fps, 0.01 * length, 2 * gap)):
            what = f"video {path} ends after {done} of {int(stated)} frames: it is truncated or damaged"
            raise DataError(f"{what}; get it again, or save what can be read with {readable}")

    return Frames(read, fps, int(stated) if stated > 0 else None)


def _measured(capture: Any) -> float:
    """Frames a second by the time stamps of the first ones, as browsers' recordings state 1000."""
    times = [capture.get(cv2.CAP_PROP_POS_MSEC) / 1000 for _ in range(64) if capture.grab()]
    gaps = np.diff(times)
    return float(np.clip(1 / np.median(gaps[gaps > 0]), 1, 1000)) if (gaps > 0).any() else DEFAULT_FPS


def _read_all(capture: Any, stem: str, fps: float, clock: Callable) -> Iterator[tuple[str, np.ndarray, float]]:
    number, first, last = 0, 0.0, 0.0
    # OpenCV's reader of AVI trips over a damaged chunk: its missing frames are said
    try:
        while (read := capture.read())[0]:
            now = clock()
            first = first if number else now
            last = now - first if not number or now - first > last else last + 1 / fps
            yield f"{stem}_{number:06d}", read[1], last
            number += 1
    except cv2.error:
        pass
    finally:
        capture.release()


class VideoWriter:
    """Write an `.mp4` (MPEG-4 part 2): `with VideoWriter(path, fps) as out: out.write(image)`.

    The file appears when the block ends, with what was written, also where an error ended it. The first (H,W,3) uint8
    BGR image sets the size, odd sizes grow by one pixel, which the codec needs. DataError for another suffix or size,
    OSError where the disk is full.
    """

    def __init__(self, path: str | Path, fps: float = DEFAULT_FPS):
        self.path, self.fps = Path(path), fps
        if self.path.suffix.lower() != ".mp4":
            raise DataError(f"video {self.path}: only .mp4 is written; choose a name ending in .mp4")
        self._temporary = temporary_name(self.path)
        self._writer: Any = None
        self._image = np.zeros(0)
        self._shape: tuple[int, ...] = ()
        self._count = 0

    def __enter__(self) -> VideoWriter:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        return self

    def write(self, image: np.ndarray, time: float = 0.0) -> None:
        """Append one image; the one before it is shown up to its `time` in seconds, a minute at most."""
        height, width = image.shape[:2]
        odd = (width % 2, height % 2)
        if self._writer is None:
            self._shape, size = image.shape, (width + odd[0], height + odd[1])
            self._writer = cv2.VideoWriter(str(self._temporary), cv2.VideoWriter_fourcc(*"mp4v"), self.fps, size)
            if not self._writer.isOpened():
                what = f"video {self.path}: OpenCV cannot write {width}x{height} MPEG-4 there"
                raise DataError(f"{what}; check the folder and its free space")
        if image.shape != self._shape:
            what = f"video {self.path}: an image has shape {image.shape}, the first had {self._shape}"
            raise DataError(f"{what}; write images of one size")
        waited = round(min(time * self.fps - self._count, 60 * self.fps)) if self._count else 0
        for _ in range(waited):
            self._writer.write(self._image)
        self._image = cv2.copyMakeBorder(image, 0, odd[1], 0, odd[0], cv2.BORDER_REPLICATE)
        self._writer.write(self._image)
        self._count += 1 + max(waited, 0)

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        try:
            if self._writer is not None:
                self._writer.release()
                # OpenCV does not say that the disk is full
                written = cv2.VideoCapture(str(self._temporary)).get(cv2.CAP_PROP_FRAME_COUNT)
                if written != self._count:
                    why = f"{written:.0f} of {self._count} frames were written: is the disk full?"
                    raise OSError(errno.ENOSPC, why, str(self.path))
                publish(self._temporary, self.path)
            elif kind is None:
                raise DataError(f"video {self.path}: no image was written; the source gave none")
        finally:
            self._temporary.unlink(missing_ok=True)


class OneEuroFilter:
    """The 1 Euro filter (Casiez, Roussel and Vogel, CHI 2012, algorithm 1), on all joints of a person at once.

    A low-pass filter whose cutoff frequency rises with the speed: still joints stop trembling, fast ones are not held
    back. Joints are pixels, time is in seconds, `min_cutoff` and `derivative_cutoff` in Hz, `beta` in 1/pixel. Lower
    `min_cutoff` against trembling, raise `beta` against lag. A NaN joint stays NaN; when it returns, the time since it
    was last seen counts as its sampling period, so that the longer it was away, the less of the old position remains.
    """

    def __init__(self, min_cutoff: float = 1.0, beta: float = 0.02, derivative_cutoff: float = 1.0):
        self.min_cutoff, self.beta, self.derivative_cutoff = min_cutoff, beta, derivative_cutoff
        self._value = self._speed = self._seen = np.zeros(0)  # _seen: when each coordinate was last seen, NaN: never

    def __call__(self, joints: np.ndarray, time: float) -> np.ndarray:
        """Smoothed joints, of one shape (usually (J,2)) in every call, at rising times."""
        new = np.asarray(joints, np.float64)
        if not len(self._value):
            self._value, self._speed, self._seen = (np.full(new.shape, v) for v in (np.nan, 0.0, np.nan))
        visible = np.isfinite(new)
        again = visible & np.isfinite(self._value)
        period = np.where(again, time - self._seen, 1.0)
        jump = np.where(again, new - self._value, 0.0)
        speed = self._speed + _smoothing(self.derivative_cutoff, period) * (jump / period - self._speed)
        value = self._value + _smoothing(self.min_cutoff + self.beta * np.abs(speed), period) * jump
        self._speed = np.where(again, speed, self._speed)
        self._value = np.where(again, value, np.where(visible, new, self._value))
        self._seen = np.where(visible, time, self._seen)
        return np.where(visible, self._value, np.nan)


def _smoothing(cutoff: float | np.ndarray, period: np.ndarray) -> np.ndarray:
    """Weight of the new value in an exponential low-pass filter of this cutoff (Hz), sampled every `period` seconds."""
    return 1 / (1 + 1 / (2 * math.pi * cutoff * period))
