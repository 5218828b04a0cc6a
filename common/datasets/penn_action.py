"""Penn Action: 2326 videos with 13 joints, a box and a visibility flag in every frame.

`labels/NNNN.mat` (x, y, visibility (n,13); bbox (n,4) x1, y1, x2, y2; train 1 or -1; dimensions h, w, n) and
`frames/NNNN/FFFFFF.jpg`, frames from 1. Coordinates count from 1: they were annotated so, then scaled with the video. x
and y come in any numeric type, uint8 and uint16 among them. visibility 1 = visible; 0 = hidden, and then x == y near
the corner is the annotation tool's placeholder (188 000 cases), not a place: such a joint is unlabelled (`visible` 0),
the other hidden ones are 1. bbox is one row short in 1154 and 1865; the last row stands for the missing one.

Splits: `train`, `test` (= `valid`) by the field train, `all`. One row a frame in the order of videos and frames:
`sequence` the video's number, `frame` from 0, `image_id` NNNN/FFFFFF. Where there is no `frames/` but MobilePose's
`train.lmdb`/`valid.lmdb`, `images` refer to those (`lmdb:PATH?NNNN/FFFFFF.jpg`, read by `common.images.read_image`).
"""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np

from common import images
from common.datasets import files, record
from common.errors import DataError
from common.poses import PoseSet
from common.skeletons import PENN13

_FIELDS = ("x", "y", "visibility", "train", "bbox", "dimensions")
_SIDE = {"train": (1,), "test": (-1,), "all": (1, -1)}


def load(root: Path, split: str) -> PoseSet:
    """Every frame of a split, joints (N,13,2). Frames need not exist. Raises DataMissing or DataError."""
    paths = sorted((root / "labels").glob("*.mat"))
    if not paths:
        raise files.missing("penn_action", root, "labels/0001.mat and so on")
    side = _SIDE.get(record("penn_action").split(split))
    if side is None:
        raise files.unknown_split("penn_action", split, ", ".join(_SIDE))
    videos = [v for v in (_read_video(path) for path in paths) if v["train"] in side]
    if not videos:
        raise DataError(f"no video under {root / 'labels'} belongs to split {split}; its field `train` says 1 or -1")
    count = np.array([len(v["joints"]) for v in videos])
    image_id = [f"{v['name']}/{k:06d}" for v, n in zip(videos, count) for k in range(1, n + 1)]
    return record("penn_action").pose_set(
        root,
        split,
        **{field: np.concatenate([v[field] for v in videos]) for field in ("joints", "visible", "box")},
        images=_images(root, np.repeat([v["train"] for v in videos], count), image_id),
        image_id=np.array(image_id),
        sequence=np.repeat([int(v["name"]) for v in videos], count),
        frame=np.concatenate([np.arange(n) for n in count]),
        image_size=np.repeat([v["size"] for v in videos], count, axis=0),
    )


def splits(root: Path) -> list[str]:
    """What `check` looks through."""
    return ["all"]


def _images(root: Path, side: np.ndarray, image_id: list[str]) -> list[str]:
    databases = {1: root / "train.lmdb", -1: root / "valid.lmdb"}
    if (root / "frames").exists() or not any(path.exists() for path in databases.values()):
        return [f"{root}/frames/{name}.jpg" for name in image_id]
    return [images.reference(databases[s], f"{name}.jpg") for s, name in zip(side.tolist(), image_id)]


def _read_video(path: Path) -> dict:
    x, y, seen, train, corners, dimensions = files.read_numbers(path, *_FIELDS)
    if x.ndim != 2 or x.shape[1] != len(PENN13) or not x.shape == y.shape == seen.shape:
        shapes = f"{x.shape}, {y.shape}, {seen.shape}; expected (n, 13) each"
        raise DataError(f"{path}: x, y and visibility have shapes {shapes}. Download it again")
    if not path.stem.isdigit() or train.size != 1 or train.item() not in (1, -1) or dimensions.size < 2:
        what = "the file is not called by a number, or its field train is not 1 or -1, or dimensions not h, w, n"
        raise DataError(f"{path}: {what}; download it again")
    hidden, joints = seen == 0, np.stack([x, y], axis=-1) - 1
    placeholder = hidden & (x == y)
    joints[placeholder] = np.nan
    if not np.isfinite(joints[~placeholder]).all():
        raise DataError(f"{path}: x or y holds something else than finite numbers; download it again")
    visible = np.where(placeholder, 0, np.where(hidden, 1, 2)).astype(np.int8)
    found = {"name": path.stem, "train": int(train.item()), "joints": joints, "visible": visible}
    return found | {"box": _boxes(path, corners, len(x)), "size": dimensions.ravel()[1::-1]}


def _boxes(path: Path, corners: np.ndarray, count: int) -> np.ndarray:
    if corners.ndim != 2 or corners.shape[1] != 4 or not 1 <= len(corners) <= count:
        raise DataError(f"{path}: bbox has shape {corners.shape}; expected ({count}, 4). Download it again")
    if len(corners) < count:
        what = f"bbox has {len(corners)} rows for {count} frames; the last one is repeated"
        warnings.warn(f"{path}: {what}", stacklevel=4)
        corners = np.concatenate([corners, np.repeat(corners[-1:], count - len(corners), axis=0)])
    return np.concatenate([corners[:, :2] - 1, corners[:, 2:] - corners[:, :2]], axis=1)
