"""Pictures of poses: persons drawn on images, truth beside prediction, contact sheets. Images are (H,W,3) uint8 BGR.

Joints are 0-based float pixels with pixel centres at integers; everything is placed to 1/16 of a pixel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from common.errors import DataError
from common.files import atomic_write
from common.skeletons import Skeleton

Color = tuple[int, int, int]

# Blue and orange stay apart for every kind of colour vision; red and green would not.
RIGHT: Color = (32, 120, 255)
LEFT: Color = (255, 170, 40)
MIDDLE: Color = (120, 225, 250)
_OUTLINE: Color = (24, 24, 24)
_PAPER: Color = (250, 250, 250)
_CELL: Color = (236, 236, 236)
_INK: Color = (40, 40, 40)
_SHIFT = 4  # fraction bits of OpenCV's fixed-point coordinates


def draw_pose(
    image: np.ndarray,
    joints: np.ndarray,
    skeleton: Skeleton,
    score: np.ndarray | None = None,
    *,
    min_score: float = 0.0,
    color: Color | None = None,
    numbers: Sequence[int] | None = None,
    width: float | None = None,
) -> np.ndarray:
    """A copy of `image` with one pose (J,2) or several (P,J,2) drawn on it.

    A joint that is NaN or infinite, or whose `score` ((J,) or (P,J)) is NaN or below `min_score`, is left out with its
    limbs. The person's right is orange, the left blue, the middle yellow, unless one BGR `color` is given, or `numbers`
    (P,), each of which has a colour of its own. `width` of the limbs in pixels follows from the sizes of image and
    person unless given. An (H,W) image becomes BGR. ValueError for other shapes.
    """
    canvas = _bgr(image)
    people = np.asarray(joints, np.float64)
    people = people[None] if people.ndim == 2 else people
    if people.ndim != 3 or people.shape[1:] != (len(skeleton), 2):
        needed = f"({len(skeleton)}, 2) or (P, {len(skeleton)}, 2)"
        raise ValueError(f"joints have shape {np.shape(joints)}, skeleton {skeleton.name} needs {needed}")
    with np.errstate(invalid="ignore"):
        # OpenCV's fixed-point coordinates overflow far outside, which would draw the joint somewhere inside
        shown = (np.abs(people) < 100 * max(canvas.shape)).all(-1)
    if score is not None:
        shown &= np.reshape(score, shown.shape) >= min_score
    colors = [color] * len(people) if numbers is None else [person_color(int(n)) for n in numbers]
    for person, seen, own in zip(people, shown, colors):
        if seen.any():
            by_image, extent = 0.018 * math.sqrt(canvas.shape[0] * canvas.shape[1]), np.hypot(*np.ptp(person[seen], 0))
            thick = np.clip(min(by_image, 0.03 * extent) if seen.sum() > 1 else by_image, 1.5, 24.0)
            _draw_person(canvas, person, seen, skeleton, own, float(width or thick))
    return canvas


def person_color(number: int) -> Color:
    """BGR of a person: hues far apart, bright and darker in turn."""
    import cv2

    hue, bright = number * 67 % 180, 255 if number % 2 == 0 else 190
    blue, green, red = cv2.cvtColor(np.array([[[hue, 230, bright]]], np.uint8), cv2.COLOR_HSV2BGR)[0, 0].tolist()
    return blue, green, red


def _bgr(image: np.ndarray) -> np.ndarray:
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] != 3):
        raise ValueError(f"image is {image.dtype} of shape {image.shape}; drawing needs uint8, (H, W, 3) or (H, W)")
    return np.repeat(image[:, :, None], 3, axis=2) if image.ndim == 2 else np.array(image, order="C")


def _side_color(name: str) -> Color:
    return RIGHT if name.startswith("right_") else LEFT if name.startswith("left_") else MIDDLE


def _draw_person(
    canvas: np.ndarray, joints: np.ndarray, seen: np.ndarray, skeleton: Skeleton, color: Color | None, width: float
) -> None:
    border = max(0.75, 0.22 * width)
    limbs = [(a, b) for a, b in skeleton.limbs if seen[a] and seen[b]]
    # a dark rim around the whole person first, so that it stands out from any background and limbs still join without
    # seams
    for a, b in limbs:
        _capsule(canvas, joints[a], joints[b], width / 2 + border, _OUTLINE)
    for joint in joints[seen]:
        _disc(canvas, joint, 0.8 * width + border, _OUTLINE)
    for a, b in limbs:
        # a limb between the middle and a side belongs to the side
        sides = [_side_color(skeleton.joints[i]) for i in (a, b)]
        _capsule(canvas, joints[a], joints[b], width / 2, color or (sides[0] if sides[1] == MIDDLE else sides[1]))
    for i in np.flatnonzero(seen):
        own = color or _side_color(skeleton.joints[i])
        _disc(canvas, joints[i], 0.8 * width, own)
        lighter = np.add(own, 2 * 255) // 3
        _disc(canvas, joints[i], 0.4 * width, lighter.tolist())


def _fixed(points: np.ndarray) -> np.ndarray:
    return np.rint(np.asarray(points) * (1 << _SHIFT)).astype(np.int32)


def _disc(canvas: np.ndarray, center: np.ndarray, radius: float, color: Color) -> None:
    import cv2

    x, y = _fixed(center).tolist()
    cv2.circle(canvas, (x, y), int(_fixed(radius)), color, cv2.FILLED, cv2.LINE_AA, _SHIFT)


def _capsule(canvas: np.ndarray, start: np.ndarray, end: np.ndarray, radius: float, color: Color) -> None:
    # a polygon, because cv2.line knows whole-pixel widths only
    import cv2

    heading = math.atan2(end[1] - start[1], end[0] - start[0])
    arc = np.linspace(-math.pi / 2, math.pi / 2, 7)
    angles = np.concatenate([heading + arc, heading + math.pi + arc])
    centers = np.repeat([end, start], len(arc), axis=0)
    outline = centers + radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    cv2.fillConvexPoly(canvas, _fixed(outline), color, cv2.LINE_AA, _SHIFT)


def truth_and_prediction(
    image: np.ndarray, truth, prediction, skeleton: Skeleton, *, score=None, height: int | None = None
) -> np.ndarray:
    """The image twice: left with the true joints, right with the predicted ones, (J,2) or (P,J,2) in image pixels.

    `height` in pixels enlarges (or reduces) the picture before drawing, so that lines stay crisp on small images;
    the titles come on top of that.
    """
    picture = _resized(_bgr(image), 1.0 if height is None else height / image.shape[0])
    strip = np.full((max(14, picture.shape[0] // 14), picture.shape[1], 3), _PAPER, np.uint8)
    # a pixel's area, not its centre, is what grows with the picture
    grown = np.array(picture.shape[1::-1]) / image.shape[1::-1]
    halves = []
    for joints, own, title in ((truth, None, "truth"), (prediction, score, "prediction")):
        shown = draw_pose(picture, (np.asarray(joints, np.float64) + 0.5) * grown - 0.5, skeleton, own)
        above, high = strip.copy(), len(strip)
        _text(above, title, high // 4, round(0.72 * high), strip.shape[1] - high // 4, high / 36, _INK)
        halves.append(np.vstack([above, shown]))
    gap = np.full((halves[0].shape[0], max(2, picture.shape[1] // 60), 3), _PAPER, np.uint8)
    return np.hstack([halves[0], gap, halves[1]])


def _resized(image: np.ndarray, factor: float) -> np.ndarray:
    import cv2

    height, width = (max(1, round(side * factor)) for side in image.shape[:2])
    if (height, width) == image.shape[:2]:
        return image
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC)


def contact_sheet(
    images: Sequence[np.ndarray], columns: int, cell=(240, 240), captions: Sequence[str] | None = None
) -> np.ndarray:
    """All `images` on one sheet, row by row, each whole in a cell of (width, height) pixels, captions underneath.

    ValueError when there are no images, or captions of another number.
    """
    if not len(images) or columns < 1 or (captions is not None and len(captions) != len(images)):
        given = "no" if captions is None else len(captions)
        raise ValueError(f"contact sheet of {len(images)} images in {columns} columns with {given} captions")
    width, height = cell
    gap, strip = max(4, width // 40), 22 if captions is not None else 0
    rows = math.ceil(len(images) / columns)
    whole = rows * (height + strip + gap) + gap, min(columns, len(images)) * (width + gap) + gap, 3
    sheet = np.full(whole, _PAPER, np.uint8)
    for i, image in enumerate(images):
        top, left = gap + i // columns * (height + strip + gap), gap + i % columns * (width + gap)
        sheet[top : top + height, left : left + width] = _CELL
        small = _resized(_bgr(image), min(width / image.shape[1], height / image.shape[0]))
        y, x = top + (height - small.shape[0]) // 2, left + (width - small.shape[1]) // 2
        sheet[y : y + small.shape[0], x : x + small.shape[1]] = small
        if captions is not None:
            _text(sheet, captions[i], left, top + height + 16, width, 0.45, _INK)
    return sheet


def _text(image: np.ndarray, text: str, left: int, baseline: int, room: int, size: float, color: Color) -> None:
    """One line of text, cut with dots where it is wider than `room` pixels; OpenCV's fonts have ASCII letters only."""
    import cv2

    font, thickness = cv2.FONT_HERSHEY_SIMPLEX, max(1, round(1.6 * size))
    line = text.encode("ascii", "replace").decode()
    while line and cv2.getTextSize(line, font, size, thickness)[0][0] > room:
        text = text[:-1]
        line = text.encode("ascii", "replace").decode() + ".." if text else ""
    cv2.putText(image, line, (left, baseline), font, size, color, thickness, cv2.LINE_AA)


def save_image(path: str | Path, image: np.ndarray) -> None:
    """Write an image in the format of its suffix, at once; DataError for a suffix that OpenCV cannot write."""
    import cv2

    path = Path(path)
    try:
        encoded = cv2.imencode(path.suffix, image)[1]
    except cv2.error as error:
        what = f"image {path}: cannot be written as {path.suffix or 'a file without suffix'}"
        raise DataError(f"{what}; use .png or .jpg") from error
    atomic_write(path, lambda temporary: temporary.write_bytes(encoded.tobytes()))
