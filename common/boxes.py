"""`--boxes`: where the persons of a picture are. The whole picture, boxes typed by hand, or a file.

A file is JSON, COCO detections (`[{image_id or file_name, bbox, score}]`) or COCO annotations, or CSV lines
`name,x,y,w,h[,score]`. Boxes are x, y, w, h in pixels of the picture. An entry belongs to the picture of its file name,
or whose name's number is its image id.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from common.datasets import files
from common.errors import DataError

Found = tuple[np.ndarray, np.ndarray]  # boxes (n,4), scores (n,)


class Boxes:
    """The boxes that the values of `--boxes` name. Call it with a picture's name and size (w, h).

    DataError for text that is no box, a file that is none, or values mixed of both kinds. `whole`: no boxes were given.
    """

    def __init__(self, values: Sequence[str] | None, threshold: float = 0.0):
        values = [v for v in values or () if v != "whole"]
        self.file: Path | None = None
        self.typed, self._listed, self.used = np.zeros((0, 4)), {}, 0  # type: ignore[var-annotated]
        if len(values) == 1 and not _is_box(values[0]):
            self.file = Path(values[0])
            self._listed = _by_name(self.file, threshold)
        elif values:
            self.typed = np.array([parse_box(value) for value in values])
        self.whole = not values

    def __call__(self, name: str, size: tuple[int, int]) -> Found:
        """(boxes (n,4), scores (n,)); no boxes for a picture that a file does not list."""
        if self.file is None:
            boxes = np.array([[0.0, 0.0, *size]]) if self.whole else self.typed
            return boxes, np.ones(len(boxes))
        number = re.search(r"(\d+)$", Path(name).stem)
        keys = (name, Path(name).name, str(int(number[1])) if number else "")
        found = next((self._listed[key] for key in keys if key in self._listed), [])
        self.used += len(found)
        return np.array([b for b, _ in found], float).reshape(-1, 4), np.array([s for _, s in found], float)

    def check_used(self) -> None:
        """DataError when a file had boxes, and none for any of the pictures."""
        if self._listed and not self.used:
            first = next(iter(self._listed))
            raise DataError(f"boxes {self.file}: none belongs to any of these pictures; its first picture is {first}")


def parse_box(text: str, where: str = "--boxes") -> list[float]:
    """Text `x,y,w,h` as four numbers; DataError naming `where` for other text or a box without an area."""
    try:
        box = [float(value) for value in text.split(",")]
    except ValueError:
        box = []
    if len(box) != 4 or not all(map(math.isfinite, box)) or min(box[2:]) <= 0:
        raise DataError(f"{where} {text} is not x,y,w,h with positive w and h, `whole`, or a JSON or CSV file")
    return box


def _is_box(text: str) -> bool:
    return "," in text and not Path(text).exists()


def _by_name(path: Path, threshold: float) -> dict[str, list[tuple[list[float], float]]]:
    if not path.is_file():
        raise DataError(f"--boxes {path}: no such file; write whole, x,y,w,h, or a JSON or CSV file")
    entries = _from_csv(path) if path.suffix.lower() == ".csv" else _from_json(path)
    found: dict[str, list[tuple[list[float], float]]] = {}
    for key, box, score in entries:
        if score >= threshold:
            found.setdefault(key, []).append((box, score))
    return found


def _from_csv(path: Path) -> list[tuple[str, list[float], float]]:
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            lines = [(n, row) for n, row in enumerate(csv.reader(file), 1) if row and not row[0].startswith("#")]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"--boxes {path} cannot be read ({error})") from error
    entries = []
    for number, row in lines:
        where = f"{path}, line {number}:"
        if len(row) not in (5, 6):
            raise DataError(f"{where} {len(row)} columns; name, x, y, w, h and perhaps a score are needed")
        score = _number(row[5], f"{where} score") if len(row) == 6 else 1.0
        entries.append((row[0], parse_box(",".join(row[1:5]), where), score))
    return entries


def _from_json(path: Path) -> list[tuple[str, list[float], float]]:
    content, names = files.read_json(path), {}
    if isinstance(content, dict):  # annotations
        images, content = content.get("images"), content.get("annotations")
        names = {str(i.get("id")): str(i.get("file_name")) for i in images or () if isinstance(i, dict)}
    rows = files.rows(f"--boxes {path}", content)
    rows = [row for row in rows if row[1].get("category_id", 1) == 1 and not row[1].get("iscrowd")]
    boxes, scores = files.column(rows, "bbox", (4,)).tolist(), files.column(rows, "score", default=1.0).tolist()
    for (where, _), box in zip(rows, boxes):
        parse_box(",".join(map(str, box)), f"{where}: bbox")
    return [(_key(*row, names), box, score) for row, box, score in zip(rows, boxes, scores)]


def _key(where: str, entry: dict, names: dict[str, str]) -> str:
    if "file_name" in entry:
        return str(entry["file_name"])
    key = entry.get("image_id")
    if isinstance(key, float) and key.is_integer():
        key = int(key)
    if isinstance(key, bool) or not isinstance(key, (int, str)):
        raise DataError(f"{where}: image_id is {key!r}; write a whole number or a file name")
    return names.get(str(key), str(key))


def _number(value: str, where: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise DataError(f"{where} is {value!r}, not a number")
    return number
