"""AI Challenger 2017, human skeletal keypoints: several persons an image, 14 joints.

`keypoint_{train,validation}_annotations*.json` beside `keypoint_{train,validation}_images*/` (in the folder, or one level down as they
are unpacked), or a lone `keypoint_annotations*.json`, or the file itself as `root`, beside `images/`. A list of {image_id (no extension),
keypoint_annotations {humanK: 14x(x, y, v)}, human_annotations {humanK: [x1, y1, x2, y2]}}. Coordinates are taken as stored (counted from
0). v: 1 visible, 2 occluded, 3 not labelled -> `visible` 2, 1, 0.

Splits: `train`, `valid` (= `validation`, `test`: the official test labels were never published); a lone file is `valid` and `all`. Rows
in the file's order; `person_id` is K, `area` that of the box, by which the official score is normalised. `regions` lists every image,
those without a person included, with nothing in them.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from common.datasets import files
from common.datasets.about import DataSet, Split
from common.errors import DataError
from common.poses import PoseSet
from common.skeletons import AIC14

_OFFICIAL = {"train": "train", "valid": "validation", "validation": "validation", "test": "validation"}
_VISIBLE = np.array([0, 2, 1, 0], np.int8)  # by v; 0 does not occur


def load(root: str | Path, split: str) -> PoseSet:
    """One split, joints (N,14,2). Images need not exist. Raises DataMissing or DataError."""
    root = Path(root)
    path, folder = _find(root, split)
    entries = files.read_json(path)
    try:
        people = [
            (e["image_id"], who, points, e["human_annotations"][who])
            for e in entries
            for who, points in e["keypoint_annotations"].items()
        ]
        n = len(people)
        table = np.array([p[2] for p in people], np.float64).reshape(n, 14, 3)
        corners = np.array([p[3] for p in people], np.float64).reshape(n, 4)
        person_id = np.array([int(re.sub(r"\D", "", p[1])) for p in people], np.int64)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise DataError(
            f"{path} is not an AI Challenger annotation file, or a person has no box or not 14x3 numbers ({type(error).__name__}: {error})"
        ) from error
    flag = table[:, :, 2]
    if not np.isin(flag, (1, 2, 3)).all():
        person = people[np.argwhere(~np.isin(flag, (1, 2, 3)))[0][0]]
        raise DataError(f"{path}: image {person[0]}, {person[1]}: a joint has v outside 1..3; correct the file")
    visible = _VISIBLE[flag.astype(int)]
    box = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)
    return PoseSet(
        name="ai_challenger",
        skeleton=AIC14,
        split=split,
        images=[f"{folder}/{p[0]}.jpg" for p in people],
        image_id=np.array([p[0] for p in people], dtype=str),
        person_id=person_id,
        joints=np.where(visible[..., None] > 0, table[:, :, :2], np.nan),
        visible=visible,
        box=box,
        area=box[:, 2] * box[:, 3],
        regions={e["image_id"]: [] for e in entries},
        synthetic=files.is_synthetic(root, path.parent),
        root=str(root),
    )


def splits(root: str | Path) -> list[str]:
    """The splits whose files are there."""
    root = Path(root)
    found = [s for s in ("train", "valid") if _official(root, s)]
    if not found and not _lone(root):
        raise files.missing(
            "ai_challenger", root, "keypoint_{train,validation}_annotations*.json, or keypoint_annotations*.json"
        )
    return found or ["all"]


def _official(root: Path, split: str) -> Path | None:
    name = f"keypoint_{_OFFICIAL[split]}_annotations*.json"
    return next(iter(sorted(root.glob(name)) + sorted(root.glob(f"*/{name}"))), None)


def _lone(root: Path) -> Path | None:
    if root.is_file():
        return root
    return next(iter(sorted(root.glob("keypoint_annotations*.json"))), None)


def _find(root: Path, split: str) -> tuple[Path, Path]:
    """Annotation file and image folder of a split."""
    if split not in (*_OFFICIAL, "all"):
        raise files.unknown_split("ai_challenger", split, ", ".join((*_OFFICIAL, "all")))
    path = _official(root, split) if split != "all" else None
    if path is not None:
        images = sorted(p for p in path.parent.glob(f"keypoint_{_OFFICIAL[split]}_images*") if p.is_dir())
        return path, images[0] if images else path.parent / "images"
    lone = _lone(root)
    if lone is None or split == "train":
        if splits(root):  # raises when there is nothing at all
            raise files.unknown_split("ai_challenger", split, ", ".join(splits(root)))
    return lone, lone.parent / "images"


# the official evaluator's, by joint of AIC14
_SIGMAS = (
    0.01388152, 0.01515228, 0.01057665, 0.01417709, 0.01497891, 0.01402144, 0.03909642,
    0.03686941, 0.01981803, 0.03843971, 0.03412318, 0.02415081, 0.01291456, 0.01236173,
)  # fmt: skip
RECORDS = {
    "ai_challenger": DataSet(
        name="ai_challenger",
        skeleton=AIC14,
        origin=0,
        source="No official page is known; use a copy that you have",
        terms="research use; cite Wu et al., arXiv 1711.06475",
        splits={"train": Split(images=210000), "valid": Split(images=30000)},
        published="valid",
        crops="detector or annotated: the prediction file says which",
        measures="aic_map aic_map:compat",
        load=load,
        list_splits=splits,
        many_persons=True,
        by_image=True,
        aliases={"validation": "valid", "test": "valid"},
        sigmas=_SIGMAS,
    )
}
