"""Pictures in, from a video, a folder, an image, a camera or an address; video out; joints smoothed over time."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import DataError
from common.files import publish, temporary_name

DEFAULT_FPS = 25.0
_IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm"}
_ADDRESS = re.compile(r"(rtsp|rtmp|https?)://", re.IGNORECASE)


class Frames:
    """What `frames` returns: iterate for (index, name, image), with `fps` and `count` (None where not known)."""

    def __init__(self, read: Callable[[], Iterator[tuple[str, np.ndarray]]], fps: float, count: int | None):
        self._read, self.fps, self.count = read, fps, count

    def __iter__(self) -> Iterator[tuple[int, str, np.ndarray]]:
        for index, (name, image) in enumerate(self._read()):
            yield index, name, image


def frames(source: str | Path) -> Frames:
    """The pictures of a video, (H,W,3) uint8 BGR, upright as a viewer shows them; names are `STEM_000000`.

    A number (`0`) gives that camera, and an rtsp or http address that stream, until it stops, as `camera_000000`. `fps`
    is the video's own, 25 where it states none. DataError at once when the source is missing or cannot be opened, and
    while iterating, after the good pictures, when a video ends before the length that it states.
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


def read_upright(path: Path) -> np.ndarray:
    """(H,W,3) uint8 BGR as a viewer shows it; DataError when it cannot be decoded."""
    import cv2

    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise DataError(f"image {path} cannot be decoded; replace it or take it out of the folder")
    return image


def _open(source: int | str, what: str, remedy: str) -> tuple[Any, float]:
    """OpenCV's capture and its frames a second."""
    import cv2

    capture = cv2.VideoCapture(source)
    if not capture.isOpened():
        raise DataError(f"{what} cannot be opened; {remedy}")
    return capture, _plausible(capture.get(cv2.CAP_PROP_FPS))


def _plausible(fps: float) -> float:
    return fps if 0 < fps <= 1000 else DEFAULT_FPS


def _live(source: int | str, what: str, remedy: str) -> Frames:
    capture, fps = _open(source, what, remedy)
    return Frames(lambda: _read_all(capture, "camera"), fps, None)


def _video(path: Path) -> Frames:
    import cv2

    readable = f"`ffmpeg -i {path.name} readable.mp4`"
    about = (str(path), f"video {path}", f"it is no video, truncated or of unknown codec: try {readable}")
    capture, fps = _open(*about)
    stated = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    capture.release()

    def read() -> Iterator[tuple[str, np.ndarray]]:
        done = 0
        for item in _read_all(_open(*about)[0], path.stem):
            yield item
            done += 1
        # some containers state a length computed from the duration, which is off by a frame or two
        if done == 0 or stated - done > max(2, 0.01 * stated):
            what = f"video {path} ends after {done} of {stated} frames: it is truncated or damaged"
            raise DataError(f"{what}; get it again, or save what can be read with {readable}")

    return Frames(read, fps, stated if stated > 0 else None)


def _read_all(capture: Any, stem: str) -> Iterator[tuple[str, np.ndarray]]:
    number = 0
    try:
        while (read := capture.read())[0]:
            yield f"{stem}_{number:06d}", read[1]
            number += 1
    finally:
        capture.release()


class VideoWriter:
    """Write an `.mp4` (MPEG-4 part 2): `with VideoWriter(path, fps) as out: out.write(image)`.

    The file appears when the block ends without an exception, complete; else there is none. The first (H,W,3) uint8 BGR
    image sets the size, odd sizes grow by one pixel, which the codec needs. DataError for another suffix or size.
    """

    def __init__(self, path: str | Path, fps: float = DEFAULT_FPS):
        self.path, self.fps = Path(path), _plausible(fps)
        if self.path.suffix.lower() != ".mp4":
            raise DataError(f"video {self.path}: only .mp4 is written; choose a name ending in .mp4")
        self._temporary = temporary_name(self.path)
        self._writer: Any = None
        self._shape: tuple[int, ...] = ()

    def __enter__(self) -> VideoWriter:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        return self

    def write(self, image: np.ndarray) -> None:
        """Append one image."""
        import cv2

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
        self._writer.write(cv2.copyMakeBorder(image, 0, odd[1], 0, odd[0], cv2.BORDER_REPLICATE))

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        try:
            if self._writer is not None:
                self._writer.release()
            if kind is None:
                if self._writer is None:
                    raise DataError(f"video {self.path}: no image was written; the source gave none")
                publish(self._temporary, self.path)
        finally:
            self._temporary.unlink(missing_ok=True)


class OneEuroFilter:
    """The 1 Euro filter (Casiez, Roussel and Vogel, CHI 2012, algorithm 1), on all joints of a person at once.

    A low-pass filter whose cutoff frequency rises with the speed: still joints stop trembling, fast ones are not held
    back. Joints are pixels, time is in seconds, `min_cutoff` and `derivative_cutoff` in Hz, `beta` in 1/pixel. Lower
    `min_cutoff` against trembling, raise `beta` against lag. A NaN joint stays NaN; when it returns, the time since it
    was last seen counts as its sampling period, so that the longer it was away, the less of the old position remains.
    """

    def __init__(
        self, fps: float = DEFAULT_FPS, *, min_cutoff: float = 1.0, beta: float = 0.02, derivative_cutoff: float = 1.0
    ):
        if min(fps, min_cutoff, derivative_cutoff) <= 0 or beta < 0:
            given = f"fps {fps}, min_cutoff {min_cutoff} and derivative_cutoff {derivative_cutoff}"
            raise ValueError(f"{given} must be > 0, beta {beta} >= 0")
        self.fps, self.min_cutoff, self.beta, self.derivative_cutoff = fps, min_cutoff, beta, derivative_cutoff
        self._value: np.ndarray | None = None  # filtered position, NaN before a coordinate was first seen
        self._now = 0.0

    def __call__(self, joints: np.ndarray, time: float | None = None) -> np.ndarray:
        """Smoothed joints, of one shape (usually (J,2)) in every call; `time`: default one frame after the last."""
        new = np.asarray(joints, np.float64)
        if self._value is None:
            self._value, self._speed = np.full(new.shape, np.nan), np.zeros(new.shape)
            self._seen = np.full(new.shape, np.nan)  # when each coordinate was last seen
            self._now = 0.0 if time is None else time
        elif new.shape != self._value.shape:
            raise ValueError(f"joints have shape {new.shape}, this filter was started with {self._value.shape}")
        else:
            previous, self._now = self._now, self._now + 1 / self.fps if time is None else time
            if self._now <= previous:
                raise ValueError(f"time {self._now} does not come after {previous}")
        visible = np.isfinite(new)
        again = visible & np.isfinite(self._value)
        period = np.where(again, self._now - self._seen, 1.0)
        jump = np.where(again, new - self._value, 0.0)
        speed = self._speed + _smoothing(self.derivative_cutoff, period) * (jump / period - self._speed)
        value = self._value + _smoothing(self.min_cutoff + self.beta * np.abs(speed), period) * jump
        self._speed = np.where(again, speed, self._speed)
        self._value = np.where(again, value, np.where(visible, new, self._value))
        self._seen = np.where(visible, self._now, self._seen)
        return np.where(visible, self._value, np.nan)


def _smoothing(cutoff: float | np.ndarray, period: np.ndarray) -> np.ndarray:
    """Weight of the new value in an exponential low-pass filter of this cutoff (Hz), sampled every `period` seconds."""
    return 1 / (1 + 1 / (2 * math.pi * cutoff * period))
