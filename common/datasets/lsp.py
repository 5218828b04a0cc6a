"""Leeds Sports Pose (`lsp`) and its extended training set (`lspet`), as Sam Johnson and Mark Everingham publish them.

`joints.mat` with the variable `joints`, beside `images/`. The two data sets' flags have opposite meanings:

- LSP, (3, 14, N): rows x, y, flag. Flag 1 = OCCLUDED, the coordinates are annotated all the same. Images im0001.jpg ...
- LSPET, (14, 3, N): columns x, y, flag. Flag 1 = usable, 0 = the coordinates mean nothing. Images im00001.jpg ...

Coordinates are taken as stored: joints as small as -0.1 (LSPET) and 0.25 (LSP) would lie outside the image if they
counted from 1, and neither DeepPose's nor MobilePose's preparation shifts them.

`root`: the data set's folder, a folder that holds it (names in `_FOLDERS`), or MobilePose's `joints_2000.mat` +
`images_2000/` and `joints_10000.mat` + `images_10000/`.

Splits of lsp: `train` = images 1..1000, `test` = `valid` = the rest, `all`; in MobilePose's joint layout `train` = all
of LSPET followed by LSP 1..1000. Splits of lspet: `train` = `all`. Both: `A-B` or `A-B,C-D`, image numbers from 1, ends
included. A file of at most 1000 images (the synthetic stand-in, a fixture) is split in halves.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np

from common.datasets import files, record
from common.errors import DataError, DataMissing
from common.poses import PoseSet, concatenate

_FOLDERS = {
    "lsp": ("", "lsp", "LSP", "lsp_dataset", "lsp_dataset_original", "lsp_small"),
    "lspet": ("", "lspet", "lsp_ext", "LSPET", "lspet_dataset"),
}
_MOBILEPOSE = {"lsp": "2000", "lspet": "10000"}
_DIGITS = {"lsp": 4, "lspet": 5}
_TRAIN_IMAGES = 1000


def load(root: Path, split: str, name: str = "lsp") -> PoseSet:
    """LSP or LSPET: one person an image, joints (N,14,2) in person-centric LSP order, tight boxes.

    `visible`: LSP 1 or 2, LSPET 0 or 2. `image_id` is the image number, `person_id` 0; in MobilePose's joint train
    split `image_id` is `lspet/NUMBER` or `lsp/NUMBER`. Images need not exist. Raises DataMissing or DataError.
    """
    if name == "lsp" and split == "train" and all((root / f"joints_{n}.mat").exists() for n in _MOBILEPOSE.values()):
        parts = [_load_one(root, "all", "lspet"), _load_one(root, "train", "lsp")]
        ids = [np.array([f"{part.name}/{k}" for k in part.image_id]) for part in parts]
        return concatenate([replace(p, name="lsp", split="train", image_id=i) for p, i in zip(parts, ids)])
    return _load_one(root, split, name)


def splits(root: Path, name: str = "lsp") -> list[str]:
    """What `check` looks through."""
    _find(root, name)
    return ["all"]


def _load_one(root: Path, split: str, name: str) -> PoseSet:
    annotations, images = _find(root, name)
    joints, visible = _read(annotations, name)
    ranges = [_bounds(name, part.strip(), len(joints), annotations) for part in split.split(",")]
    numbers = np.concatenate([np.arange(first, last + 1) for first, last in ranges])
    if len(np.unique(numbers)) < len(numbers):
        raise DataError(f"split {split!r} has images twice; write ranges that do not overlap, such as 1-4000,5001-8000")
    joints, visible = joints[numbers - 1], visible[numbers - 1]
    paths = [f"{images}/im{k:0{_DIGITS[name]}d}.jpg" for k in numbers]
    synthetic = files.is_synthetic(root, annotations.parent)
    return record(name).pose_set(root, split, joints, visible, images=paths, image_id=numbers, synthetic=synthetic)


def _find(root: Path, name: str) -> tuple[Path, Path]:
    """Annotation file and image folder of whichever layout is under `root`."""
    size = _MOBILEPOSE[name]
    if (root / f"joints_{size}.mat").exists():
        return root / f"joints_{size}.mat", root / f"images_{size}"
    folder = files.first_existing([root / f for f in _FOLDERS[name]], "joints.mat")
    if folder is None:
        other = f"joints_{size}.mat and images_{size}/, or a folder {_FOLDERS[name][1]}/ with them"
        raise files.missing(name, root, f"joints.mat and images/ (or {other})")
    return folder / "joints.mat", folder / "images"


def _read(path: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    """(N,14,2) joints and (N,14) visibility from either file; the shape of the array tells the two data sets apart."""
    stored = files.read_mat(path, "joints")
    shape = stored.shape
    kind = {(3, 14): "lsp", (14, 3): "lspet"}.get(shape[:2]) if len(shape) == 3 else None
    if kind is None or stored.dtype.kind not in "iuf":
        raise DataError(f"{path}: joints has shape {shape}; LSP has numbers (3, 14, N), LSPET (14, 3, N)")
    if kind != name:
        what = f"{path}: joints has shape {shape}"
        raise DataError(f"{what}, which is {kind}: its flags mean the opposite. Load it as {kind}")
    table = stored.transpose((2, 1, 0) if kind == "lsp" else (2, 0, 1)).astype(np.float64)
    flag, joints = table[:, :, 2], table[:, :, :2].copy()
    files.check_flags([(f"{path}: person {k}", {}) for k in range(len(flag))], "joints", flag, (0, 1))
    visible = np.where(flag == 1, 1, 2) if kind == "lsp" else np.where(flag == 1, 2, 0)
    joints[visible == 0] = np.nan
    if not np.isfinite(joints[visible > 0]).all():
        raise DataError(f"{path}: joints has a usable joint without coordinates; download it again")
    return joints, visible.astype(np.int8)


def _bounds(name: str, split: str, count: int, path: Path) -> tuple[int, int]:
    """First and last image number of one part of a split, from 1, both included."""
    train = count if name == "lspet" else _TRAIN_IMAGES if count > _TRAIN_IMAGES else count // 2
    named = {"train": (1, train), "all": (1, count)} | ({"test": (train + 1, count)} if name == "lsp" else {})
    if found := named.get(record(name).split(split)):
        return found
    match = re.fullmatch(r"(\d{1,9})-(\d{1,9})", split)
    if not match:
        raise files.unknown_split(name, split, ", ".join(named) + " or ranges of image numbers such as 1-100,201-300")
    first, last = int(match[1]), int(match[2])
    if first < 1 or last < first:
        raise DataError(f"split {split!r} is an empty range; write first-last, counted from 1")
    if last > count:
        what = f"goes beyond the {count} images annotated in {path}"
        raise DataError(f"split {split} {what}; choose a range within 1-{count}")
    return first, last


def which(root: str | Path) -> str:
    """`lsp` or `lspet`: whichever `root` holds, told by the shape of its `joints.mat`; lsp where both are."""
    root = Path(root)
    try:
        annotations, _ = _find(root, "lsp")
    except DataMissing:
        _find(root, "lspet")
        return "lspet"
    return "lspet" if files.read_mat(annotations, "joints").shape[:2] == (14, 3) else "lsp"
