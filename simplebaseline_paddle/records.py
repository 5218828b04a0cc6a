"""PoseSet -> persons with centre and scale, by the originals' rules. No framework."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from common.errors import DataError
from common.poses import PoseSet
from simplebaseline_paddle.config import BOX_PADDING, PIXEL_STD, Config

_SENTINEL = -1.0  # a centre of x = -1 means "missing" in P and T


@dataclass(frozen=True)
class Records:
    """M persons to look at. Coordinates 0-based image pixels; `scale` in units of 200 pixels, padding included."""

    images: list[str]  # (M,)
    image_id: np.ndarray  # (M,)
    rows: np.ndarray  # (M,) row of the PoseSet, -1 for a detection
    center: np.ndarray  # (M,2)
    scale: np.ndarray  # (M,2)
    joints: np.ndarray  # (M,K,2), 0 where not labelled
    seen: np.ndarray  # (M,K) bool
    box_score: np.ndarray  # (M,)
    note: str  # which boxes these are, for every result

    def __len__(self) -> int:
        return len(self.images)

    def select(self, index) -> Records:
        """The persons of an index array, a slice or a mask."""
        index = np.arange(len(self))[index]
        arrays = {
            f: getattr(self, f)[index] for f in ("image_id", "rows", "center", "scale", "joints", "seen", "box_score")
        }
        return replace(self, images=[self.images[i] for i in index], **arrays)

    @property
    def box(self) -> np.ndarray:
        """(M,4) x, y, w, h of the padded boxes."""
        side = self.scale * PIXEL_STD
        return np.concatenate([self.center - side / 2, side], axis=1).astype(np.float64)

    @property
    def area(self) -> np.ndarray:
        """(M,) square pixels of the padded boxes, which OKS-NMS uses."""
        return np.prod(self.scale * PIXEL_STD, axis=1)


def records_for(
    pose_set: PoseSet, config: Config, detections: str | Path | None = None, image_threshold: float = 0.0
) -> Records:
    """The persons of a split that `config.boxes` asks for. DataError when there are none."""
    if config.boxes == "detections":
        if detections is None:
            raise DataError(
                "--boxes=detections needs --detections FILE: a COCO detection JSON, such as COCO_val2017_detections_AP_H_56_person.json"
            )
        records = from_detections(pose_set, detections, config, image_threshold)
    elif pose_set.name == "mpii":
        records = from_mpii(pose_set, config)
    else:
        records = from_boxes(pose_set, config)
    if not len(records):
        raise DataError(
            f"{pose_set.root}: split {pose_set.split} of {pose_set.name} has no person to look at; choose another --split or --boxes"
        )
    return records.select(slice(config.limit))


def _labelled(pose_set: PoseSet, rows, note: str, center, scale) -> Records:
    return Records(
        images=[pose_set.images[i] for i in rows], image_id=pose_set.image_id[rows], rows=rows, center=center, scale=scale,
        joints=np.nan_to_num(pose_set.joints[rows], nan=0.0), seen=pose_set.visible[rows] > 0, box_score=np.ones(len(rows)), note=note,
    )  # fmt: skip


def from_mpii(pose_set: PoseSet, config: Config) -> Records:
    """MPII's own centre and scale: the centre 15 units of scale lower, the scale 1.25 times as large; the box where there are none."""
    rows = np.arange(len(pose_set))
    center, scale = center_and_scale(pose_set.box, config, pose_set.name)
    if pose_set.center is not None:
        given = np.isfinite(pose_set.center).all(1) & np.isfinite(pose_set.scale)
        moved = pose_set.center + np.stack([np.zeros(len(rows)), 15 * pose_set.scale], axis=1)
        center = np.where(given[:, None], moved, center)
        scale = np.where(given[:, None], BOX_PADDING * pose_set.scale[:, None], scale)
    _need_area(pose_set, scale)
    return _labelled(pose_set, rows, "oracle (annotated centre and scale)", center, scale)


def _need_area(pose_set: PoseSet, scale: np.ndarray) -> None:
    bad = ~(np.isfinite(scale) & (scale > 0)).all(1)
    if bad.any():
        row = int(np.argmax(bad))
        raise DataError(
            f"{pose_set.root}: person {row} of {pose_set.split} ({pose_set.images[row]}) has neither a scale nor a box with an area; "
            "correct or remove that entry"
        )


def center_and_scale(
    box: np.ndarray, config: Config, name: str = "coco", compat: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """(N,4) x, y, w, h -> centre (N,2), scale (N,2), float32 for COCO as in the originals: the box grown to the input's aspect, times 1.25.

    `compat` leaves out the padding where the centre's x is -1, which the originals take for "missing".
    """
    kind = np.float32 if name == "coco" else np.float64
    width, height = config.input_size
    aspect = width / height
    center = (box[:, :2] + box[:, 2:] * 0.5).astype(kind)
    w, h = box[:, 2], box[:, 3]
    side = np.stack([np.maximum(w, aspect * h), np.maximum(h, w / aspect)], axis=1)
    scale = (side / PIXEL_STD).astype(kind)
    padding = np.where((center[:, :1] == _SENTINEL) & compat, 1.0, BOX_PADDING)
    return center, (scale * padding).astype(kind)


def from_boxes(pose_set: PoseSet, config: Config) -> Records:
    """Annotated boxes, cleaned for COCO, in the order of the images; for COCO only those of `selected` unless config.boxes is `gt`."""
    compat = config.mode == "compat"
    if pose_set.name == "coco":
        box, keep = clean_boxes(pose_set)
        note = "oracle (all annotated boxes, score 1)"
    else:
        box, keep = pose_set.box, (pose_set.visible > 0).any(1) & ~_ignored(pose_set)
        note = "oracle (annotated boxes)"
    keep &= (box[:, 2:] > 0).all(1) if pose_set.name != "coco" else True
    center, scale = center_and_scale(box, config, pose_set.name, compat)
    if pose_set.name == "coco" and config.boxes == "gt_selected":
        keep = keep & selected(pose_set, center, scale)
        note = "oracle (annotated boxes, the Paddle project's selection, score 1)"
    rows = _by_image(pose_set, np.flatnonzero(keep))
    return _labelled(pose_set, rows, note, center[rows], scale[rows])


def _ignored(pose_set: PoseSet) -> np.ndarray:
    return np.zeros(len(pose_set), bool) if pose_set.ignore is None else pose_set.ignore


def _by_image(pose_set: PoseSet, rows: np.ndarray) -> np.ndarray:
    """Persons of one image together, images in the file's order: an image is then decoded once, and results come out as the originals'."""
    order = pose_set.regions if pose_set.regions is not None else dict.fromkeys(pose_set.image_id.tolist())
    position = {image: i for i, image in enumerate(order)}
    return (
        rows[np.argsort([position[i] for i in pose_set.image_id[rows].tolist()], kind="stable")] if len(rows) else rows
    )


def clean_boxes(pose_set: PoseSet) -> tuple[np.ndarray, np.ndarray]:
    """(N,4) boxes cut to the image and (N,) whether a person counts: no crowd, some joint labelled, an area."""
    x, y, w, h = pose_set.box.T
    width, height = pose_set.image_size.T
    x1, y1 = np.maximum(0, x), np.maximum(0, y)
    x2 = np.minimum(width - 1, x1 + np.maximum(0, w - 1))
    y2 = np.minimum(height - 1, y1 + np.maximum(0, h - 1))
    keep = (pose_set.area > 0) & (x2 >= x1) & (y2 >= y1) & ~_ignored(pose_set)
    return np.stack([x1, y1, x2 - x1, y2 - y1], axis=1), keep


def selected(pose_set: PoseSet, center: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """(N,) P's choice of COCO persons: the labelled joints' mean lies near enough to the box centre for their number."""
    seen = (pose_set.visible > 0)[..., None]
    count = seen.sum((1, 2))
    mean = np.where(seen, np.nan_to_num(pose_set.joints), 0.0).sum(1) / np.maximum(count, 1)[:, None]
    area = np.prod(scale.astype(np.float64), axis=1) * PIXEL_STD**2
    distance = ((mean - center) ** 2).sum(1)
    nearness = np.exp(-distance / (2 * 0.2**2 * np.maximum(area, 1e-12)))
    return (count > 0) & (nearness > 0.0125 * count + 0.45 - 0.0125)


def from_detections(pose_set: PoseSet, path: str | Path, config: Config, image_threshold: float = 0.0) -> Records:
    """The person boxes of a COCO detection file on the split's images: category 1, score at least `image_threshold`, boxes not cut.

    Boxes without an area are left out. DataError when the file is none or is for other images.
    """
    entries = read_detections(Path(path))
    if pose_set.regions is None:
        raise DataError(f"detection files are for COCO; {pose_set.name} has none. Use --boxes=gt")
    unknown = sorted({e["image_id"] for e in entries} - set(pose_set.regions))
    if unknown:
        raise DataError(
            f"detection file {path}: {len(unknown)} images, first image_id {unknown[0]}, are not in {pose_set.name}/{pose_set.split} "
            f"({pose_set.root}); give the file of that split"
        )
    flat = sum(min(e["bbox"][2:]) <= 0 for e in entries)
    kept = [e for e in entries if e["score"] >= image_threshold and min(e["bbox"][2:]) > 0]
    box = np.array([e["bbox"] for e in kept], np.float64).reshape(-1, 4)
    center, scale = center_and_scale(box, config, "coco", config.mode == "compat")
    known = dict(zip(pose_set.image_id.tolist(), pose_set.images))
    folder = Path(pose_set.images[0]).parent if len(pose_set) else Path(pose_set.root)
    joints = len(pose_set.skeleton)
    return Records(
        images=[known.get(e["image_id"], f"{folder}/{e['image_id']:012d}.jpg") for e in kept],
        image_id=np.array([e["image_id"] for e in kept], np.int64), rows=np.full(len(kept), -1), center=center, scale=scale,
        joints=np.zeros((len(kept), joints, 2)), seen=np.ones((len(kept), joints), bool),
        box_score=np.array([e["score"] for e in kept], np.float64),
        note=f"detector ({Path(path).name}, score >= {image_threshold:g}" + (f", {flat} boxes without area left out)" if flat else ")"),
    )  # fmt: skip


def read_detections(path: Path) -> list[dict]:
    """Person entries of a detection file, checked. DataError naming the entry and field."""
    from common.datasets.files import read_json

    if not path.is_file():
        raise DataError(
            f"detection file {path} does not exist; T's download page has COCO_val2017_detections_AP_H_56_person.json"
        )
    entries = read_json(path)
    if not isinstance(entries, list):
        raise DataError(
            f"detection file {path} is no list of {{image_id, category_id, bbox, score}}; give a COCO detection JSON"
        )
    for number, entry in enumerate(entries):
        lacking = [
            f for f in ("image_id", "category_id", "bbox", "score") if not isinstance(entry, dict) or f not in entry
        ]
        if lacking:
            raise DataError(
                f"detection file {path}: entry {number} has no field {lacking[0]}; an entry holds image_id, category_id, bbox, score"
            )
        if not isinstance(entry["bbox"], list) or len(entry["bbox"]) != 4:
            raise DataError(f"detection file {path}: entry {number} has bbox {entry['bbox']!r} instead of [x, y, w, h]")
    return [e for e in entries if e["category_id"] == 1]
