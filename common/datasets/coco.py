"""COCO person keypoints (2014 and 2017) as the consortium publishes them.

`annotations/person_keypoints_{train,val}{2014,2017}.json` (or such files beside the images), images in `images/SPLIT/` or `SPLIT/`.
Coordinates are taken as stored (counted from 0). v: 0 not labelled, 1 labelled but occluded, 2 visible, the same numbers as `visible`.
Boxes x, y, w, h.

Splits: `train2017`, `val2017`, ... as the files are called; `train`, `val` (or `valid`) mean 2017, or 2014 where only that is there.

Every annotation is a row. Crowds and persons without a keypoint have `ignore` True: scoring sets them aside and training drops them.
`regions` covers every image of the split, those without a person included: image id -> list of RLE {size, counts, iscrowd, id} of these
same annotations, `id` being the row's `person_id`. The RLE is made when it is asked for, by pycocotools.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from common.datasets import files
from common.errors import DataError
from common.poses import PoseSet
from common.skeletons import COCO17, Skeleton

_ALIASES = {"train": ("train2017", "train2014"), "val": ("val2017", "val2014"), "valid": ("val2017", "val2014")}
_PREFIX = "person_keypoints_"


class Regions(Mapping):
    """Image id -> RLE list of the crowds and unannotated persons in it, converted from polygons on demand."""

    def __init__(self, sizes: dict[int, tuple[int, int]], segments: dict[int, list[dict]]) -> None:
        self._sizes, self._segments = sizes, segments

    def __len__(self) -> int:
        return len(self._sizes)

    def __iter__(self):
        return iter(self._sizes)

    def __getitem__(self, image_id) -> list[dict]:
        width, height = self._sizes[image_id]
        return [
            {**_rle(a["segmentation"], height, width), "iscrowd": int(a.get("iscrowd", 0)), "id": a["id"]}
            for a in self._segments.get(image_id, ())
        ]


def _rle(segmentation, height: int, width: int) -> dict:
    from pycocotools import mask

    if isinstance(segmentation, list):
        polygons = [p for p in segmentation if len(p) >= 6]
        return (
            mask.merge(mask.frPyObjects(polygons, height, width))
            if polygons
            else mask.encode(np.zeros((height, width), np.uint8, order="F"))
        )
    return mask.frPyObjects(segmentation, height, width) if isinstance(segmentation["counts"], list) else segmentation


def load(root: str | Path, split: str, skeleton: Skeleton = COCO17) -> PoseSet:
    """One split of COCO keypoints, joints (N,17,2); `image_id` and `person_id` are COCO's image and annotation ids, `area` is the
    segment's. `skeleton`: the joints in the 17 places, where a converter put others there.

    Images need not exist. Raises DataMissing or DataError.
    """
    root = Path(root)
    path = _find(root, split)
    year_split = path.stem.removeprefix(_PREFIX)
    content = files.read_json(path)
    for field in ("images", "annotations"):
        if not isinstance(content, dict) or not isinstance(content.get(field), list):
            raise DataError(f"{path} has no list `{field}`; this is not a COCO annotation file")
    _check_category(path, content, skeleton)
    folder = files.first_existing((root / "images", root), year_split) or root / "images"
    try:
        return _build(root, f"{folder}/{year_split}", split, content, skeleton)
    except KeyError as error:
        raise DataError(f"{path}: an image or annotation has no field or target {error}; download it again") from error
    except ValueError as error:
        raise DataError(
            f"{path}: {error}; an annotation needs 17x3 keypoints with v in 0..2 and a box of 4 numbers"
        ) from error


def _check_category(path: Path, content: dict, skeleton: Skeleton) -> None:
    """DataError when the file's category names other joints than `skeleton`. No names, or mere numbers (k0, k1 ...), are taken for what was asked."""
    named = [c["keypoints"] for c in content.get("categories") or () if isinstance(c, dict) and c.get("keypoints")]
    for names in named:
        plain = tuple(str(n).strip().lower().replace(" ", "_").replace("-", "_") for n in names)
        numbered = len(plain) == len(skeleton) and all(re.fullmatch(r"\D*\d+", n) for n in plain)
        if plain != skeleton.joints and not numbered:
            raise DataError(
                f"{path}: field categories has the {len(names)} keypoints {', '.join(map(str, names))}; expected {', '.join(skeleton.joints)}."
                " Other joint sets: the format `json` (common/datasets/json_format.py); files of deepercut_tf's ai2coco: its dataset_type aic"
            )


def splits(root: str | Path) -> list[str]:
    """The keypoint files that are there."""
    root = Path(root)
    found = sorted(
        {
            p.stem.removeprefix(_PREFIX)
            for folder in (root / "annotations", root)
            for p in folder.glob(_PREFIX + "*.json")
        }
    )
    if not found:
        raise files.missing("coco", root, f"annotations/{_PREFIX}val2017.json and the like")
    return found


def _find(root: Path, split: str) -> Path:
    have = splits(root)
    wanted = next((s for s in _ALIASES.get(split, (split,)) if s in have), None)
    if wanted is None:
        raise files.unknown_split("coco", split, ", ".join(have) + " (from the files in annotations/)")
    name = f"{_PREFIX}{wanted}.json"
    return files.first_existing((root / "annotations", root), name) / name


def _build(root: Path, folder: str, split: str, content: dict, skeleton: Skeleton) -> PoseSet:
    images = {i["id"]: i for i in content["images"]}
    rows = content["annotations"]
    n = len(rows)
    # extensions are missing in files that deepercut's AI Challenger converter wrote
    names = {k: i["file_name"] if Path(i["file_name"]).suffix else i["file_name"] + ".jpg" for k, i in images.items()}
    sizes = {k: (i["width"], i["height"]) for k, i in images.items()}
    points = [a.get("keypoints") or [0] * 51 for a in rows]
    for annotation, numbers in zip(rows, points):
        if len(numbers) != 51:
            raise ValueError(f"annotation {annotation['id']} has {len(numbers)} numbers in keypoints")
    table = np.array(points, np.float64).reshape(n, 17, 3)
    visible = table[:, :, 2].astype(np.int8)
    if not np.isin(table[:, :, 2], (0, 1, 2)).all():
        raise ValueError("a keypoint has v outside 0..2")
    crowd = np.array([bool(a.get("iscrowd", 0)) for a in rows], bool)
    ignore = crowd | ~(visible > 0).any(1)
    segments: dict[int, list[dict]] = {}
    for row in np.flatnonzero(ignore):
        segments.setdefault(rows[row]["image_id"], []).append(rows[row])
    return PoseSet(
        name="coco",
        skeleton=skeleton,
        split=split,
        images=[f"{folder}/{names[a['image_id']]}" for a in rows],
        image_id=np.array([a["image_id"] for a in rows], np.int64),
        person_id=np.array([a["id"] for a in rows], np.int64),
        joints=np.where(visible[..., None] > 0, table[:, :, :2], np.nan),
        visible=visible,
        box=np.array([a["bbox"] for a in rows], np.float64).reshape(n, 4),
        area=np.array([a["area"] for a in rows], np.float64),
        image_size=np.array([sizes[a["image_id"]] for a in rows], np.float64).reshape(n, 2),
        ignore=ignore,
        regions=Regions(sizes, segments),
        synthetic=files.is_synthetic(root),
        root=str(root),
    )
