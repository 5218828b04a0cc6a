"""Pictures of poses: persons drawn on images, truth beside prediction, contact sheets. Images are (H,W,3) uint8 BGR.

Joints are 0-based float pixels with pixel centres at integers; everything is placed to 1/16 of a pixel.

    python -m common.draw SHEET.png PICTURE... --lines NAME=joints.jsonl ...

puts pictures beside what each network (or, by common.exchange, the truth) says of them on one sheet.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from common.datasets.files import read_lines
from common.errors import DataError
from common.files import atomic_write
from common.images import read_image
from common.runs.process import exit_code
from common.skeletons import Skeleton, from_card

Color = tuple[int, int, int]

# Blue and orange stay apart for every kind of colour vision; red and green would not.
RIGHT: Color = (32, 120, 255)
LEFT: Color = (255, 170, 40)
MIDDLE: Color = (120, 225, 250)
# A person among several has one of these: Okabe and Ito's palette, made for every kind of colour vision.
_PALETTE = ((178, 114, 0), (0, 159, 230), (115, 158, 0), (167, 121, 204), (233, 180, 86), (0, 94, 213), (66, 228, 240))
SIDES = (RIGHT, LEFT, MIDDLE)
_OUTLINE: Color = (24, 24, 24)
_PAPER: Color = (250, 250, 250)
_CELL: Color = (236, 236, 236)
_INK: Color = (40, 40, 40)
_SHIFT = 4  # fraction bits of OpenCV's fixed-point coordinates


def draw_pose(image: np.ndarray, joints: np.ndarray, skeleton: Skeleton, score: np.ndarray | None = None, *,
              min_score: float = 0.0, hollow=False, color: Color | None = None, numbers: Sequence[int] | None = None,
              boxes: np.ndarray | None = None, labels: Sequence[str] | None = None, numbered=False,
              width: float | None = None) -> np.ndarray:  # fmt: skip
    """A copy of `image` with one pose (J,2) or several (P,J,2) drawn on it.

    A joint that is NaN or infinite is left out with its limbs, and so is one whose `score` ((J,) or (P,J)) is NaN or
    below `min_score`, unless these are to be `hollow` rings. The person's right is orange, the left blue, the middle
    yellow, unless one BGR `color` is given, or `numbers` (P,), each of which has a colour of its own: its right darker,
    its left lighter. `boxes` (P,4) x, y, w, h, `labels` (P,) and the joints' numbers (`numbered`, see `legend`) are
    drawn too. `width` of the limbs in pixels follows from the sizes of image and person unless given. An (H,W) image becomes BGR. ValueError for other shapes.
    """
    canvas = _bgr(image)
    people = np.asarray(joints, np.float64)
    people = people[None] if people.ndim == 2 else people
    if people.ndim != 3 or people.shape[1:] != (len(skeleton), 2):
        needed = f"({len(skeleton)}, 2) or (P, {len(skeleton)}, 2)"
        raise ValueError(f"joints have shape {np.shape(joints)}, skeleton {skeleton.name} needs {needed}")
    with np.errstate(invalid="ignore"):
        # OpenCV's fixed-point coordinates overflow far outside, which would draw the joint somewhere inside
        placed = (np.abs(people) < 100 * max(canvas.shape)).all(-1)
    sure = placed if score is None else placed & (np.reshape(score, placed.shape) >= min_score)
    shades = [(color,) * 3 if color else SIDES] * len(people)
    if numbers is not None:
        shades = [person_shades(int(n)) for n in numbers]
    sizes = [float(width or _width(canvas, person, seen)) for person, seen in zip(people, placed)]
    for row, box in enumerate([] if boxes is None else boxes):
        _draw_box(canvas, np.asarray(box), max(1.0, sizes[row] / 3), shades[row][2])
    for person, seen, known, own, size in zip(people, placed, sure, shades, sizes):
        for joint in person[seen & ~known] if hollow else ():
            _ring(canvas, joint, size, own[2])
        if known.any():
            _draw_person(canvas, person, known, skeleton, own, size)
        for i in np.flatnonzero(known) if numbered else ():
            _tag(canvas, str(i), person[i] + size, max(8.0, 2.5 * size), own[_side(skeleton.joints[i])])
    for row, label in enumerate(labels or ()):
        above = people[row][placed[row]].min(0, initial=np.inf) - (0, 2 * sizes[row])
        corner = above if boxes is None else np.asarray(boxes[row][:2])
        high = np.clip(4.0 * sizes[row], 11, max(11, 0.035 * math.sqrt(canvas.shape[0] * canvas.shape[1])))
        if label and np.isfinite(corner).all():
            _tag(canvas, label, corner, float(high), shades[row][2])
    return canvas


def _width(canvas: np.ndarray, person: np.ndarray, seen: np.ndarray) -> float:
    by_image = 0.018 * math.sqrt(canvas.shape[0] * canvas.shape[1])
    by_person = 0.025 * np.hypot(*np.ptp(person[seen], 0)) if seen.sum() > 1 else by_image
    return float(np.clip(min(by_image, by_person), 1.5, 48.0))


def person_shades(number: int) -> tuple[Color, Color, Color]:
    """BGR of a person's right, left and middle: shades of one colour."""
    own = np.array(_PALETTE[number % len(_PALETTE)], np.float64)
    right, left, middle = (np.rint(shade).astype(int).tolist() for shade in (0.62 * own, 0.5 * own + 127, own))
    return tuple(right), tuple(left), tuple(middle)


def _bgr(image: np.ndarray) -> np.ndarray:
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] != 3):
        raise ValueError(f"image is {image.dtype} of shape {image.shape}; drawing needs uint8, (H, W, 3) or (H, W)")
    return np.repeat(image[:, :, None], 3, axis=2) if image.ndim == 2 else np.array(image, order="C")


def _side(name: str) -> int:
    """Which of three shades a joint has."""
    return 0 if name.startswith("right_") else 1 if name.startswith("left_") else 2


def _draw_person(
    canvas: np.ndarray, joints: np.ndarray, seen: np.ndarray, skeleton: Skeleton, shades: Sequence[Color], width: float
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
        side = min(_side(skeleton.joints[a]), _side(skeleton.joints[b]))
        _capsule(canvas, joints[a], joints[b], width / 2, shades[side])
    for i in np.flatnonzero(seen):
        own = shades[_side(skeleton.joints[i])]
        _disc(canvas, joints[i], 0.8 * width, own)
        lighter = np.add(own, 2 * 255) // 3
        _disc(canvas, joints[i], 0.4 * width, lighter.tolist())


def _ring(canvas: np.ndarray, center: np.ndarray, width: float, color: Color) -> None:
    x, y = _fixed(center).tolist()
    for thick, own in ((0.9 * width, _OUTLINE), (0.4 * width, color)):
        cv2.circle(canvas, (x, y), int(_fixed(0.8 * width)), own, max(1, round(thick)), cv2.LINE_AA, _SHIFT)


def _draw_box(canvas: np.ndarray, box: np.ndarray, width: float, color: Color) -> None:
    if not np.isfinite(box).all():
        return
    low, high = _fixed(box[:2]).tolist(), _fixed(box[:2] + box[2:] - 1).tolist()
    for thick, own in ((2 * width, _OUTLINE), (width, color)):
        cv2.rectangle(canvas, low, high, own, max(1, round(thick)), cv2.LINE_AA, _SHIFT)


def _tag(canvas: np.ndarray, text: str, corner: np.ndarray, height: float, color: Color) -> None:
    """Text on a ground of the person's colour, its lower left at `corner`, pushed into the picture."""
    font, scale = cv2.FONT_HERSHEY_SIMPLEX, height / 34
    thickness = max(1, round(2 * scale))
    wide, high = cv2.getTextSize(text, font, scale, thickness)[0]
    gap = max(2, high // 3)
    left = int(np.clip(corner[0], 0, max(0, canvas.shape[1] - wide - 2 * gap)))
    low = int(np.clip(corner[1], high + 2 * gap, canvas.shape[0]))
    cv2.rectangle(canvas, (left, low - high - 2 * gap), (left + wide + 2 * gap, low), color, cv2.FILLED)
    ink = _OUTLINE if np.dot(color, (0.11, 0.59, 0.3)) > 120 else _PAPER
    cv2.putText(canvas, text, (left + gap, low - gap), font, scale, ink, thickness, cv2.LINE_AA)


def legend(skeleton: Skeleton, height: int = 480, several: bool = False) -> np.ndarray:
    """The joints' numbers and names, each beside its side's colour, on a panel of this height in pixels; its shade
    where `several` persons have a colour each."""
    shades = [(grey,) * 3 for grey in (80, 205, 140)] if several else SIDES
    lines = [(f"{i} {name}", shades[_side(name)]) for i, name in enumerate(skeleton.joints)]
    step = min(height / (len(lines) + 1), 24 + height / 60)  # readable beside a large picture, and no wider than it
    panel = np.full((height, round(12 * step), 3), _PAPER, np.uint8)
    for row, (text, color) in enumerate(lines):
        middle = (row + 0.5) * step
        _disc(panel, np.array([0.8 * step, middle]), 0.32 * step, _OUTLINE)
        _disc(panel, np.array([0.8 * step, middle]), 0.27 * step, color)
        _text(panel, text, round(1.5 * step), round(middle + 0.25 * step), round(10.3 * step), step / 38, _INK)
    return panel


def _fixed(points: np.ndarray) -> np.ndarray:
    return np.rint(np.asarray(points) * (1 << _SHIFT)).astype(np.int32)


def _disc(canvas: np.ndarray, center: np.ndarray, radius: float, color: Color) -> None:
    x, y = _fixed(center).tolist()
    cv2.circle(canvas, (x, y), int(_fixed(radius)), color, cv2.FILLED, cv2.LINE_AA, _SHIFT)


def _capsule(canvas: np.ndarray, start: np.ndarray, end: np.ndarray, radius: float, color: Color) -> None:
    ends = _fixed(start).tolist(), _fixed(end).tolist()
    cv2.line(canvas, *ends, color, max(1, round(2 * radius)), cv2.LINE_AA, _SHIFT)


def truth_and_prediction(image, truth, prediction, skeleton: Skeleton, height: int | None = None) -> np.ndarray:
    """The image twice: left with the true joints, right with the predicted ones, (J,2) or (P,J,2) in image pixels.

    `height` in pixels enlarges (or reduces) the picture before drawing, so that lines stay crisp on small images;
    the titles come on top of that.
    """
    picture = _resized(_bgr(image), 1.0 if height is None else height / image.shape[0])
    strip = np.full((max(14, picture.shape[0] // 14), picture.shape[1], 3), _PAPER, np.uint8)
    # a pixel's area, not its centre, is what grows with the picture
    grown = np.array(picture.shape[1::-1]) / image.shape[1::-1]
    halves = []
    for joints, title in ((truth, "truth"), (prediction, "prediction")):
        shown = draw_pose(picture, (np.asarray(joints, np.float64) + 0.5) * grown - 0.5, skeleton)
        above, high = strip.copy(), len(strip)
        _text(above, title, high // 4, round(0.72 * high), strip.shape[1] - high // 4, high / 36, _INK)
        halves.append(np.vstack([above, shown]))
    return beside(*halves)


def beside(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Two pictures of one height with a gap between them."""
    return np.hstack([left, np.full((len(left), max(2, left.shape[1] // 60), 3), _PAPER, np.uint8), right])


def _resized(image: np.ndarray, factor: float) -> np.ndarray:
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
    font, thickness = cv2.FONT_HERSHEY_SIMPLEX, max(1, round(1.6 * size))
    line = text.encode("ascii", "replace").decode()
    while line and cv2.getTextSize(line, font, size, thickness)[0][0] > room:
        text = text[:-1]
        line = text.encode("ascii", "replace").decode() + ".." if text else ""
    cv2.putText(image, line, (left, baseline), font, size, color, thickness, cv2.LINE_AA)


def save_image(path: str | Path, image: np.ndarray) -> None:
    """Write an image in the format of its suffix, at once; DataError for a suffix that OpenCV cannot write."""
    path = Path(path)
    try:
        encoded = cv2.imencode(path.suffix, image)[1]
    except cv2.error as error:
        what = f"image {path}: cannot be written as {path.suffix or 'a file without suffix'}"
        raise DataError(f"{what}; use .png or .jpg") from error
    atomic_write(path, lambda temporary: temporary.write_bytes(encoded.tobytes()))


def drawn_line(image: np.ndarray, line: dict, min_score: float) -> np.ndarray:
    """A picture with the persons of its line in joints.jsonl."""
    skeleton = from_card({"name": line["skeleton"], "joints": line["joint_names"]}, "joints.jsonl: field skeleton")
    points = [[p or (None, None, None) for p in one["joints"]] for one in line["persons"]]
    table = np.array(points, np.float64).reshape(-1, len(skeleton), 3)
    numbers = range(len(table)) if len(table) > 1 else None
    return draw_pose(image, table[..., :2], skeleton, table[..., 2], min_score=min_score, numbers=numbers)


def _sheet(args: argparse.Namespace) -> None:
    columns = {}
    for name, _, file in (text.partition("=") for text in args.lines):
        lines = [line for _, line in read_lines(file) if "persons" in line]
        columns[name] = {Path(line["image"]).name: line for line in lines}
    images, captions = [], []
    for path in map(Path, args.pictures):
        image = read_image(path, upright=True)
        found = {name: lines.get(path.name) for name, lines in columns.items()}
        images += [image, *(drawn_line(image, f, args.min_score) if f else image for f in found.values())]
        captions += [path.name, *(name if f else f"{name}: nothing" for name, f in found.items())]
    save_image(args.sheet, contact_sheet(images, 1 + len(columns), (320, 320), captions))
    print(f"{args.sheet}: {len(args.pictures)} pictures beside {', '.join(columns)}")


def main(argv=None) -> int:
    """Exit code 0, or 2 with a message on bad input."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="python -m common.draw", description=__doc__, formatter_class=form)
    parser.add_argument("sheet", metavar="SHEET.png")
    parser.add_argument("pictures", nargs="+", metavar="PICTURE")
    parser.add_argument("--lines", action="extend", nargs="+", default=[], metavar="NAME=FILE", help="a column each")
    parser.add_argument("--min_score", type=float, default=0.1, help="joints below are not drawn (default: 0.1)")
    return exit_code(lambda: _sheet(parser.parse_args(argv)))


if __name__ == "__main__":
    sys.exit(main())
