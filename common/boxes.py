"""Where the persons of a picture are: `--boxes` (the whole picture, boxes typed by hand, or a file) or `--detector`.

A file is JSON, COCO detections (`[{image_id or file_name, bbox, score}]`) or COCO annotations, or CSV lines
`name,x,y,w,h[,score]`. Boxes are x, y, w, h in pixels of the picture. An entry belongs to the picture of its file name,
or whose name's number is its image id.

`--detector FILE.onnx`: a detector that people have at hand, run by ONNX Runtime.

| exported by | outputs | input |
|---|---|---|
| Ultralytics, detect, segment or pose | (1, 4 + classes + more, N): middle, size, class scores | RGB / 255, centred |
| the same with NMS inside, or end to end | (1, N, 6 or more): corners, score, class | RGB / 255, centred |
| YOLOX, decoded or not | (1, cells, 5 + classes): middle, size, objectness, class scores | BGR, top left |
| MMDeploy (RTMDet, YOLOX) | `dets` (1, N, 5): corners, score; `labels` (1, N) | BGR normalised (YOLOX: plain), top left |
| torchvision | boxes (N, 4), labels (N,) where 1 is the person, scores (N,) | RGB / 255, the picture as it is |

Which one a file is is read off its outputs. Pictures are scaled into the file's input with their shape kept, the rest
grey. The person is the class of that name where the file names its classes (Ultralytics does), else the first.
"""

from __future__ import annotations

import ast
import csv
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from common.datasets import files
from common.errors import DataError
from common.geometry import LARGEST

Found = tuple[np.ndarray, np.ndarray]  # boxes (n,4), scores (n,)


class Boxes:
    """The boxes that the values of `--boxes` name. Call it with a picture's name and size (w, h).

    DataError for text that is no box, a file that is none, or values mixed of both kinds. `whole`: no boxes were given.
    """

    def __init__(self, values: Sequence[str] | None, threshold: float = 0.0):
        values = [v for v in values or () if v != "whole"]
        self.file: Path | None = None
        self.typed, self._listed, self.used = np.zeros((0, 4)), {}, 0  # type: ignore[var-annotated]
        if len(values) == 1 and ("," not in values[0] or Path(values[0]).exists()):
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
    box = _numbers(text.split(","))
    if len(box) != 4 or min(box[2:]) <= 0 or max(map(abs, box)) >= LARGEST:
        more = ", `whole`, or a JSON or CSV file" if where == "--boxes" else ""
        raise DataError(f"{where} {text} is not x,y,w,h in pixels with positive w and h{more}")
    return box


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
    headed = bool(lines) and [word.strip() for word in lines[0][1][1:5]] == ["x", "y", "w", "h"]
    for number, row in lines[headed:]:
        where = f"{path}, line {number}:"
        if len(row) not in (5, 6):
            raise DataError(f"{where} {len(row)} columns; name, x, y, w, h and perhaps a score are needed")
        score = _numbers(row[5:] or ["1"])
        if not score:
            raise DataError(f"{where} score is {row[5]!r}, not a number")
        entries.append((row[0], parse_box(",".join(row[1:5]), where), score[0]))
    return entries


def _from_json(path: Path) -> list[tuple[str, list[float], float]]:
    content, names, wanted = files.read_json(path), {}, 1
    listed = isinstance(content, dict)  # annotations
    if listed:
        images = files.rows(path, content, "images")
        names = dict(zip(files.column(images, "id", whole=True).tolist(), files.texts(images, "file_name")))
        kinds = files.rows(path, content, "categories") if content.get("categories") else []
        persons = [row for row in kinds if row[1].get("keypoints") or row[1].get("name") == "person"]
        wanted = int(files.column(persons[:1], "id", whole=True)[0]) if persons else 1
    entries = [
        (where, {"category_id": wanted, "score": 1.0, **entry})
        for where, entry in files.rows(path, content, "annotations" if listed else "")
        if not entry.get("iscrowd")
    ]
    category = files.column(entries, "category_id", whole=True)
    people = [row for row, number in zip(entries, category) if number == wanted]
    if entries and not people:
        found = sorted(set(category.tolist()))[:5]
        raise DataError(f"{path}: field category_id is {found}, of persons it is {wanted}; write that number")
    boxes, score = files.column(people, "bbox", (4,)), files.column(people, "score")
    for where, _ in (row for row, box in zip(people, boxes) if min(box[2:]) <= 0 or abs(box).max() >= LARGEST):
        raise DataError(f"{where}.bbox is no box; write x, y, w, h in pixels with positive w and h")
    keys = [_picture(row, names) for row in people]
    return list(zip(keys, boxes.tolist(), score.tolist()))


def _picture(row: files.Row, names: dict[int, str]) -> str:
    """The name or number of the picture that an entry belongs to."""
    key = row[1].get("file_name", row[1].get("image_id"))
    if isinstance(key, str):
        return key
    number = int(files.column([row], "image_id", whole=True)[0])
    return names.get(number, str(number))


def _numbers(words: list[str]) -> list[float]:
    """Words as finite numbers; nothing where one of them is none."""
    try:
        found = [float(word) for word in words]
    except ValueError:
        return []
    return found if all(map(math.isfinite, found)) else []


# ---- detectors ----

_OVERLAP = 0.65  # of two boxes of one person, where the file leaves suppression to its user
_STRIDES = (8, 16, 32)
_SIDE = 640  # of the input where the file takes any
_GREY = 114
_MEAN, _STD = (103.53, 116.28, 123.675), (57.375, 57.12, 58.395)  # RTMDet's, of blue, green, red


class Detector:
    """Call it with a picture (H,W,3) uint8 BGR; `layout` says what the file was taken for, `person` which class.

    DataError for a file that ONNX Runtime cannot load, or whose inputs and outputs are of no layout above.
    """

    def __init__(self, path: str | Path, threshold: float = 0.3, device: str | None = None, threads: int | None = None):
        self.path, self.threshold = Path(path), threshold
        if not self.path.is_file():
            raise DataError(f"--detector {path}: no such file; give an .onnx file of a person detector")
        self._session = _session(self.path, device, threads)
        inputs = self._session.get_inputs()
        shape = [d if isinstance(d, int) else None for d in inputs[0].shape]
        if len(inputs) != 1 or len(shape) not in (3, 4) or shape[-3] not in (3, None):
            what = ", ".join(f"{i.name} {i.shape}" for i in inputs)
            raise DataError(f"--detector {path} takes {what}; one input (1, 3, height, width) is needed")
        self._input, self._rank, self._size = inputs[0], len(shape), shape[-2:]
        self._meta = dict(self._session.get_modelmeta().custom_metadata_map)
        names = _plain(self._meta.get("names"), {})
        self.names = dict(enumerate(names)) if isinstance(names, list) else names
        grey = np.full((_SIDE, _SIDE, 3), _GREY, np.uint8)
        self._as, self.layout = "", ""
        self._as, self.layout = self._recognise(*self._outputs(grey)[:2])
        self.person = self._person()

    def __call__(self, image: np.ndarray) -> Found:
        """The persons' boxes, the surest first, cut at the picture's border, and their scores."""
        outputs, shape, scale, offset = self._outputs(image)
        corners, score, kind = self._boxes(outputs, shape)
        kept = (kind == self.person) & (score >= self.threshold) & np.isfinite(corners).all(1)
        corners, score = (corners[kept] - np.tile(offset, 2)) / scale, score[kept]
        height, width = image.shape[:2]
        corners = np.clip(corners, 0, [width, height, width, height])
        boxes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], 1).astype(np.float64)
        order = np.argsort(-score, kind="stable")
        order = order[(boxes[order, 2:] > 1).all(1)]
        if self._as in ("ultralytics", "yolox") and len(order):
            chosen = cv2.dnn.NMSBoxes(boxes[order].tolist(), score[order].tolist(), 0.0, _OVERLAP)
            order = order[np.sort(np.reshape(chosen, -1).astype(np.int64))]
        return boxes[order], score[order].astype(np.float64)

    def _outputs(self, image: np.ndarray) -> tuple[dict[str, np.ndarray], tuple[int, int], float, np.ndarray]:
        """Outputs by name, (height, width) of the input, and how the picture lies in it: scale, offset (x, y)."""
        stated = _plain(self._meta.get("imgsz"), [_SIDE, _SIDE])
        free = image.shape[:2] if self._as == "torchvision" else stated
        height, width = (int(own or other) for own, other in zip(self._size, free))
        scale = min(height / image.shape[0], width / image.shape[1])
        size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
        centred = self._as in ("ultralytics", "nms")
        left, top = ((width - size[0]) // 2, (height - size[1]) // 2) if centred else (0, 0)
        canvas = np.full((height, width, 3), _GREY, np.uint8)
        how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        canvas[top : top + size[1], left : left + size[0]] = cv2.resize(image, size, interpolation=how)
        values = canvas.astype(np.float32)
        if self._as == "mmdeploy" and not self._is_yolox():
            values = (values - np.float32(_MEAN)) / np.float32(_STD)
        elif self._as not in ("mmdeploy", "yolox"):
            values = values[..., ::-1] / 255
        values = np.ascontiguousarray(values.transpose(2, 0, 1))
        kind = {"tensor(float16)": np.float16, "tensor(uint8)": np.uint8}.get(self._input.type, np.float32)
        values = canvas.transpose(2, 0, 1)[::-1].copy() if kind is np.uint8 else values.astype(kind)
        try:
            outputs = self._session.run(None, {self._input.name: values[None] if self._rank == 4 else values})
        except Exception as error:  # its exceptions have no common class
            what = f"cannot be run on one picture of {width} x {height} ({str(error).splitlines()[0]})"
            raise DataError(f"--detector {self.path} {what}; export it for one picture") from error
        names = [o.name for o in self._session.get_outputs()]
        return dict(zip(names, outputs)), (height, width), scale, np.array([left, top], np.float64)

    def _is_yolox(self) -> bool:
        return "yolox" in self.path.name.lower()

    def _recognise(self, outputs: dict[str, np.ndarray], shape: tuple[int, int]) -> tuple[str, str]:
        """Key and words of the layout."""
        arrays, cells = list(outputs.values()), len(_cells(shape)[0])
        first = arrays[0].shape
        if {"dets", "labels"} <= outputs.keys():
            kind = "YOLOX: plain pixels" if self._is_yolox() else "RTMDet: normalised pixels"
            return "mmdeploy", f"MMDeploy ({kind})"
        if len(arrays) >= 3 and any(a.ndim == 2 and a.shape[1] == 4 for a in arrays):
            return "torchvision", "torchvision (boxes, labels, scores)"
        if len(first) == 3 and first[0] == 1:
            if first[1] == cells and first[2] >= 6 and "names" not in self._meta:
                return "yolox", "YOLOX"
            if (first[2] == cells or first[1] < first[2]) and first[1] >= 5:
                return "ultralytics", f"Ultralytics {'pose' if self._classes(first[1]) < first[1] - 4 else 'detect'}"
            if first[2] >= 6:
                return "nms", f"Ultralytics {'pose' if first[2] > 6 else 'detect'} with NMS inside"
        found = ", ".join(f"{name} {array.shape}" for name, array in outputs.items())
        known = "Ultralytics detect or pose, YOLOX, MMDeploy (dets, labels), torchvision (boxes, labels, scores)"
        raise DataError(f"--detector {self.path} has outputs {found}, which is none of: {known}")

    def _classes(self, channels: int) -> int:
        """How many class scores follow the four numbers of a box."""
        return len(self.names) or (1 if channels == 56 else channels - 4)

    def _person(self) -> int:
        named = [number for number, name in self.names.items() if str(name).lower() == "person"]
        if not named and len(self.names) > 1:
            have = ", ".join(map(str, list(self.names.values())[:8]))
            raise DataError(f"--detector {self.path} has classes {have}, and no person; give a person detector")
        return named[0] if named else 1 if self._as == "torchvision" else 0

    def _boxes(self, outputs: dict[str, np.ndarray], shape: tuple[int, int]) -> tuple[np.ndarray, ...]:
        """Corners (n,4) in pixels of the input, scores (n,), classes (n,)."""
        arrays = [np.asarray(a, np.float64) if a.dtype.kind == "f" else a for a in outputs.values()]
        if self._as == "mmdeploy":
            dets = np.asarray(outputs["dets"], np.float64).reshape(-1, 5)
            return dets[:, :4], dets[:, 4], outputs["labels"].reshape(-1)
        if self._as == "torchvision":
            boxes = next(a for a in arrays if a.ndim == 2 and a.shape[1] == 4)
            labels = next(a for a in arrays if a.dtype.kind in "iu")
            return boxes, next(a for a in arrays if a.dtype.kind == "f" and a.ndim == 1), labels
        rows = arrays[0][0]
        if self._as == "nms":
            return rows[:, :4], rows[:, 4], rows[:, 5].round().astype(np.int64)
        rows = rows.T if self._as == "ultralytics" else rows
        middle, size = rows[:, :2], rows[:, 2:4]
        if self._as == "yolox" and np.abs(middle).mean() < max(shape) / max(_STRIDES) / 2:  # not decoded: in cells
            places, stride = _cells(shape)
            middle, size = (middle + places) * stride, np.exp(np.minimum(size, 20)) * stride
        if self._as == "ultralytics":
            scores = rows[:, 4 : 4 + self._classes(rows.shape[1])]
        else:
            scores = rows[:, 4:5] * rows[:, 5 : 5 + len(self.names) if self.names else None]
        return np.concatenate([middle - size / 2, middle + size / 2], 1), scores.max(1), scores.argmax(1)


def _session(path: Path, device: str | None, threads: int | None) -> Any:
    try:
        import onnxruntime
    except ImportError:
        raise DataError(f"--detector {path} needs the package onnxruntime: pip install onnxruntime==1.31.1") from None
    gpu = () if str(device).startswith("cpu") else ("CUDAExecutionProvider",)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    options.log_severity_level = 3
    providers = [p for p in (*gpu, "CPUExecutionProvider") if p in onnxruntime.get_available_providers()]
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # its exceptions have no common class
        reason = str(error).splitlines()[0]
        raise DataError(f"--detector {path} is not loadable by ONNX Runtime ({reason}); export it again") from error


def _cells(shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """(N,2) x, y of the cells of all strides and (N,1) their strides, in the order of the outputs."""
    grids = [np.indices((shape[0] // s, shape[1] // s))[::-1].reshape(2, -1).T for s in _STRIDES]
    strides = np.repeat(_STRIDES, [len(g) for g in grids])[:, None]
    return np.concatenate(grids), strides


def _plain(text: str | None, default: Any) -> Any:
    """A Python literal, as Ultralytics writes its notes."""
    try:
        return ast.literal_eval(text) if text else default
    except (ValueError, SyntaxError):
        return default
