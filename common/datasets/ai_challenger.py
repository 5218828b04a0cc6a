"""AI Challenger 2017, human skeletal keypoints: several persons an image, 14 joints.

`keypoint_{train,validation}_annotations*.json` beside `keypoint_{train,validation}_images*/` (in the folder, or one
level down as they are unpacked), or a lone `keypoint_annotations*.json`, or the file itself as `root`, beside
`images/`. A list of {image_id (no extension), keypoint_annotations {humanK: 14x(x, y, v)}, human_annotations {humanK:
[x1, y1, x2, y2]}}. Coordinates count from 0. v: 1 visible, 2 occluded, 3 not labelled -> `visible` 2, 1, 0.

Splits: `train`, `valid` (= `test`: the official test labels were never published); a lone file is `valid` and `all`.
`person_id` is K, `area` that of the box, by which the official score is normalised. `regions` lists every image, those
without a person included, with nothing in them.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from common.datasets import files, record
from common.datasets.files import column
from common.errors import DataError
from common.poses import PoseSet

_OFFICIAL = {"train": "train", "valid": "validation"}
_VISIBLE = np.array([0, 2, 1, 0], np.int8)  # by v; 0 does not occur


def load(root: Path, split: str) -> PoseSet:
    """One split, joints (N,14,2). Images need not exist. Raises DataMissing or DataError."""
    path, folder = _find(root, split)
    entries = files.rows(path, files.read_json(path))
    names, image_id, people = files.last_of_each(path, entries, files.texts(entries, "image_id")), [], []
    for name, (where, entry) in names.items():
        points, boxes = entry.get("keypoint_annotations"), entry.get("human_annotations")
        if not isinstance(points, dict) or not isinstance(boxes, dict):
            what = f"{where} has no objects keypoint_annotations and human_annotations"
            raise DataError(f"{what}; this is no annotation file")
        image_id += [name] * len(points)
        for who, keypoints in points.items():
            person = {"keypoints": keypoints, "box": boxes.get(who), "id": int(re.sub(r"\D", "", who)[:18] or 0)}
            people.append((f"{where} (image {name}) {who}", person))
    table = column(people, "keypoints", (42,)).reshape(-1, 14, 3)
    files.check_flags(people, "keypoints", table[:, :, 2], (1, 2, 3))
    visible, box = _VISIBLE[table[:, :, 2].astype(int)], column(people, "box", (4,))
    box[:, 2:] -= box[:, :2]
    return record("ai_challenger").pose_set(
        root, split, joints=np.where(visible[..., None] > 0, table[:, :, :2], np.nan), visible=visible,
        images=[f"{folder}/{name}.jpg" for name in image_id], image_id=np.array(image_id, dtype=str),
        person_id=column(people, "id", whole=True), box=box, area=box[:, 2] * box[:, 3],
        regions={name: [] for name in names}, paths={name: f"{folder}/{name}.jpg" for name in names},
        synthetic=files.is_synthetic(root, path.parent),
    )  # fmt: skip


def splits(root: Path) -> list[str]:
    """The splits whose files are there."""
    found = [s for s in _OFFICIAL if _official(root, s)]
    if not found and not _lone(root):
        wanted = "keypoint_{train,validation}_annotations*.json, or keypoint_annotations*.json"
        raise files.missing("ai_challenger", root, wanted)
    return found or ["all"]


def _official(root: Path, split: str) -> Path | None:
    name = f"keypoint_{_OFFICIAL.get(split)}_annotations*.json"
    return next(iter(sorted(root.glob(name)) + sorted(root.glob(f"*/{name}"))), None)


def _lone(root: Path) -> Path | None:
    return root if root.is_file() else next(iter(sorted(root.glob("keypoint_annotations*.json"))), None)


def _find(root: Path, split: str) -> tuple[Path, Path]:
    """Annotation file and image folder of a split; a lone file is everything but `train`."""
    canonical = record("ai_challenger").split(split)
    path = _official(root, canonical)
    if path is not None:
        images = sorted(p for p in path.parent.glob(f"keypoint_{_OFFICIAL[canonical]}_images*") if p.is_dir())
        return path, images[0] if images else path.parent / "images"
    have, lone = splits(root), _lone(root)
    if lone is None or canonical not in ("valid", "all"):
        raise files.unknown_split("ai_challenger", split, ", ".join([*have, "valid"] if lone else have))
    return lone, lone.parent / "images"
