"""JHMDB and its part with the whole body in view (sub-JHMDB): clips with 15 joints and a puppet mask.

Official folders: `joint_positions/ACTION/VIDEO/joint_positions.mat` (pos_img (2,15,n)),
`puppet_mask/ACTION/VIDEO/puppet_mask.mat` (part_mask (h,w,n)), `sub_splits/ACTION_test_split_K.txt` (or
`splits/ACTION_test_splitK.txt` of the whole JHMDB; lines `VIDEO.avi 1` for train, 2 for test) and
`Rename_Images/ACTION/VIDEO/00001.png`. Coordinates count from 1. Every joint is annotated, so all are visible. `box`
runs from the first to the last row and column of the mask (w and h are differences, as the benchmark's code takes
them); without puppet_mask/ it is tight around the joints, with a warning. `sequence` is ACTION/VIDEO.

Or a COCO-style JSON, `{train,test}_jhmdb_subK.json` or `SubK_{train,test}.json`, in the folder or `annotations/`; it
counts from 1 too, file names are relative to the folder (or Rename_Images/); `sequence` is their folder.

Splits: `train1`, `test1`, ... `train3`, `test3`; `train`, `test` (= `valid`) mean the first. `frame` counts from 0.
"""

from __future__ import annotations

import re
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from common.datasets import files, record
from common.datasets.coco import read
from common.errors import DataError
from common.poses import PoseSet, box_of_joints
from common.skeletons import JHMDB15

_CODES = {"train": "1", "test": "2"}


def load(root: Path, split: str) -> PoseSet:
    """Every frame of a split, joints (N,15,2). Frames need not exist. Raises DataMissing or DataError."""
    canonical = record("jhmdb").split(split)
    if canonical not in (have := splits(root)):
        raise files.unknown_split("jhmdb", split, ", ".join(have) + " (train, test, valid: the first)")
    side, number = canonical[:-1], canonical[-1]
    table = _find_json(root, side, number)
    return _load_json(root, table, split) if table else _load_official(root, side, number, split)


def splits(root: Path) -> list[str]:
    """The splits whose lists or JSON are there; `check` goes through all, although the three overlap."""
    official = (root / "joint_positions").is_dir()
    pairs = [(side, k) for k in "123" for side in _CODES]
    found = [f"{side}{k}" for side, k in pairs if _find_json(root, side, k) or (official and _split_lists(root, k))]
    if not found:
        wanted = "joint_positions/ with sub_splits/*_test_split_1.txt and so on, or test_jhmdb_sub1.json"
        raise files.missing("jhmdb", root, wanted)
    return found


def _find_json(root: Path, side: str, number: str) -> Path | None:
    names = (f"{side}_jhmdb_sub{number}.json", f"Sub{number}_{side}.json")
    candidates = (folder / name for folder in (root, root / "annotations") for name in names)
    return next((path for path in candidates if path.exists()), None)


def _split_lists(root: Path, number: str) -> list[Path]:
    lists = (sorted((root / folder).glob(f"*_split*{number}.txt")) for folder in ("sub_splits", "splits"))
    return next(filter(None, lists), [])


def _videos(lists: list[Path], code: str) -> list[str]:
    """ACTION/VIDEO of every video that the lists give this code."""
    found = []
    for path in lists:
        action = re.sub(r"_(test_)?split_?\d$", "", path.stem)
        for number, line in enumerate(path.read_bytes().decode("utf-8", "replace").splitlines(), 1):
            words = line.split()
            if words and (len(words) != 2 or words[1] not in ("0", "1", "2")):
                wanted = "expected `VIDEO.avi 1` (train) or `VIDEO.avi 2` (test)"
                raise DataError(f"{path} line {number}: {wanted}, found {line!r}")
            if words and words[1] == code:
                found.append(f"{action}/{words[0].removesuffix('.avi')}")
    return found


def _load_official(root: Path, side: str, number: str, split: str) -> PoseSet:
    videos = _videos(_split_lists(root, number), _CODES[side])
    if not videos:
        raise DataError(f"the split lists under {root} name no video for {split}; download them again")
    joints = [_read_joints(root / "joint_positions" / video / "joint_positions.mat") for video in videos]
    count = [len(j) for j in joints]
    if (root / "puppet_mask").is_dir():
        masks = (root / "puppet_mask" / video / "puppet_mask.mat" for video in videos)
        box = [_mask_boxes(path, n) for path, n in zip(masks, count)]
    else:
        what = "boxes are tight around the joints, and box-normalised scores are not the benchmark's"
        warnings.warn(f"{root} has no puppet_mask/: {what}", stacklevel=3)
        box = [box_of_joints(j) for j in joints]
    image_id = [f"{video}/{k:05d}" for video, n in zip(videos, count) for k in range(1, n + 1)]
    return record("jhmdb").pose_set(
        root, split, joints=np.concatenate(joints), visible=np.full((len(image_id), len(JHMDB15)), 2),
        images=[f"{root}/Rename_Images/{name}.png" for name in image_id], image_id=np.array(image_id),
        box=np.concatenate(box), sequence=np.repeat(videos, count),
        frame=np.concatenate([np.arange(n) for n in count]),
    )  # fmt: skip


def _read_joints(path: Path) -> np.ndarray:
    stored = np.atleast_3d(*files.read_numbers(path, "pos_img"))  # Matlab drops the last axis of a single frame
    if stored.ndim != 3 or stored.shape[:2] != (2, len(JHMDB15)) or not np.isfinite(stored).all():
        what = f"has shape {stored.shape} or holds NaN; expected (2, 15, n) numbers"
        raise DataError(f"{path}: pos_img {what}. Download it again")
    return stored.transpose(2, 1, 0) - 1


def _mask_boxes(path: Path, count: int) -> np.ndarray:
    """(n,4) x, y, w, h of the non-zero pixels of each frame; NaN for an empty mask."""
    mask = np.atleast_3d(*files.read_numbers(path, "part_mask")) != 0
    if mask.ndim != 3 or mask.shape[2] != count or not mask.size:
        raise DataError(f"{path}: part_mask has shape {mask.shape}, the joints {count} frames; download both again")
    corners = []
    for axis in (0, 1):  # collapsing rows leaves columns, i.e. x first
        line = mask.any(axis)
        corners.append((line.argmax(0), len(line) - 1 - line[::-1].argmax(0)))
    (x0, x1), (y0, y1) = corners
    box = np.stack([x0, y0, x1 - x0, y1 - y0], axis=1).astype(np.float64)
    box[~mask.any((0, 1))] = np.nan
    return box


def _load_json(root: Path, path: Path, split: str) -> PoseSet:
    folder = root / "Rename_Images" if (root / "Rename_Images").is_dir() else root
    found = read("jhmdb", path, root, split, str(folder), JHMDB15, None, area=False)
    names = [Path(image).relative_to(folder) for image in found.images]
    if odd := [name for name in names if not re.fullmatch(r"\d{1,9}", name.stem)]:
        raise DataError(f"{path}: file_name {odd[0]} is no frame number such as 00001.png")
    fields: dict[str, Any] = dict.fromkeys(("area", "ignore", "crowd", "regions", "paths", "category"))
    fields |= {"joints": found.joints - 1, "box": found.box - [1, 1, 0, 0]}
    fields |= {"sequence": np.array([str(name.parent) for name in names])}
    return replace(found, frame=np.array([int(name.stem) - 1 for name in names], np.int64), **fields)
