"""MPII Human Pose: the authors' release file, and the JSON form with `gt_valid.mat` that most later work is trained and scored with.

All these files count pixels from 1; everything is shifted by 1 here, once. Joints are person-centric.

JSON form, `annot/` or the folder itself: `{train,valid,trainval,test}.json`, a list of {image, center [x,y], scale, joints 16x[x,y],
joints_vis 16x0/1} (no joints in test). joints_vis says "annotated", not "not occluded", so `visible` is 0 or 2. Missing joints are
(-1,-1). For `valid`, joints and head boxes come from `gt_valid.mat` beside the JSON when it is there: published scores are counted
against it, and it differs from valid.json in 13 joints (one coordinate is 0 there). Our converter also stores `head_box` and `visible`
per person.

Release form: `mpii_human_pose_v1_u12_1.mat`. Splits `train`, `valid`, `trainval` (annotated persons of training images), `test` (persons
of the others, without joints) and `all` (every annotated person). Who belongs to `valid` is not in the release: it is found with
gt_valid.mat when that is there; without it `valid` is an error and `train` is all of `trainval`. `deeppose_tf_train` and `deeppose_tf_test`
are asanakoy/deeppose_tf's: a random tenth of the persons with all 16 joints is test, so photographs are shared between the two.

PoseSet: `center` and `scale` as published (centre moved by the 1 pixel only; not lowered by 15*scale, not enlarged by 1.25; NaN where the
file has -1 or nothing), `head_size` = 0.6 x diagonal of the head box, `box` = square of side 200*scale about the centre, or tight around
the joints without those. `image_id` is the file name, `person_id` the row in the JSON or the index in the image's annorect.

`python -m common.datasets.mpii convert RELEASE.mat OUT_DIR` writes the JSON form, `... diff A.json B.json` compares two such files.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import numpy as np

from common.datasets import files, mpii_release
from common.datasets.about import DataSet, Split
from common.errors import DataError
from common.poses import PoseSet, box_of_joints
from common.skeletons import MPII16

RELEASE = "mpii_human_pose_v1_u12_1.mat"
HEAD_FACTOR = 0.6  # evalMPII's scaling of the head-box diagonal ("SC_BIAS"), Andriluka et al., CVPR 2014
_JSON_SPLITS = ("train", "valid", "trainval", "test")


def load(root: str | Path, split: str) -> PoseSet:
    """One split of MPII, joints (N,16,2); see the module's text for layouts and conventions. `val` means `valid`. Images need not exist."""
    root, split = Path(root), "valid" if split == "val" else split
    annotations = files.first_existing((root / "annot", root), f"{split}.json")
    if annotations is not None:
        return _load_json(root, annotations / f"{split}.json", split)
    release = _find_release(root)
    if release is not None:
        return _load_release(root, release, split)
    truth = _find_ground_truth(root)
    if split == "valid" and truth is not None:
        return _load_ground_truth(root, truth)
    if truth is not None or any(
        (folder / f"{s}.json").exists() for folder in (root / "annot", root) for s in _JSON_SPLITS
    ):
        raise files.unknown_split(
            "mpii",
            split,
            ", ".join(splits(root)) + f" (from the JSON files there; with {RELEASE} also train, trainval, test, all)",
        )
    raise files.missing("mpii", root, f"annot/{split}.json (or {split}.json), or {RELEASE}")


def splits(root: str | Path) -> list[str]:
    """What `check` looks through: the JSON files without the joint one, or the whole release file."""
    root = Path(root)
    found = [s for s in ("train", "valid", "test") if files.first_existing((root / "annot", root), f"{s}.json")]
    if found:
        return found
    if _find_release(root):
        return ["all"]
    if _find_ground_truth(root):
        return ["valid"]
    raise files.missing("mpii", root, f"annot/train.json, annot/valid.json or {RELEASE}")


def _find_release(root: Path) -> Path | None:
    folder = files.first_existing(
        (root, root / "annot", root / "mpii_human_pose_v1_u12_2", root / "mpii_human_pose_v1_u12_1"), RELEASE
    )
    return folder / RELEASE if folder else None


def _find_ground_truth(root: Path) -> Path | None:
    folder = files.first_existing((root / "annot", root), "gt_valid.mat")
    return folder / "gt_valid.mat" if folder else None


def _make(root: Path, split: str, names, person_id, joints, visible, center, scale, head_box) -> PoseSet:
    """A PoseSet from columns in the files' frame (counted from 1, anything in unlabelled joints)."""
    joints = np.where(visible[..., None] > 0, joints - 1, np.nan)
    half = 100 * scale[:, None]
    square = np.concatenate([center - 1 - half, 2 * half, 2 * half], axis=1)
    box = np.where(np.isfinite(square).all(1, keepdims=True), square, box_of_joints(joints))
    diagonal = None if head_box is None else np.hypot(head_box[:, 2] - head_box[:, 0], head_box[:, 3] - head_box[:, 1])
    known = np.isfinite(center).any()
    return PoseSet(
        name="mpii",
        skeleton=MPII16,
        split=split,
        images=[f"{root}/images/{name}" for name in names],
        image_id=np.array(names, dtype=str),
        person_id=np.asarray(person_id, np.int64),
        joints=joints,
        visible=visible.astype(np.int8),
        box=box,
        head_size=None if diagonal is None else HEAD_FACTOR * diagonal,
        center=center - 1 if known else None,
        scale=scale if known else None,
        synthetic=files.is_synthetic(root),
        root=str(root),
    )


def _column(path: Path, entries: list, field: str, shape: tuple, default=None) -> np.ndarray:
    """One field of every entry as (N, *shape) float64; DataError naming the first entry that lacks it or has another shape."""
    try:
        values = np.array(
            [entry[field] if default is None else entry.get(field, default) for entry in entries], np.float64
        )
    except (KeyError, TypeError, ValueError):
        values = np.empty(0)
    if values.shape == (len(entries), *shape):
        return values
    for row, entry in enumerate(entries):
        if not isinstance(entry, dict) or np.shape(entry.get(field, default)) != shape:
            raise DataError(
                f"{path}: entry {row} has no {field} of shape {shape}; an entry holds image, center, scale, joints and joints_vis"
            )
    raise DataError(f"{path}: field {field} holds something else than numbers")


def _load_json(root: Path, path: Path, split: str) -> PoseSet:
    entries = files.read_json(path)
    if not isinstance(entries, list) or not all(
        isinstance(entry, dict) and isinstance(entry.get("image"), str) for entry in entries
    ):
        raise DataError(f"{path} is not a list of persons with an `image` each; this is not the JSON form of MPII")
    n = len(entries)
    names = [entry["image"] for entry in entries]
    center, scale = _column(path, entries, "center", (2,)), _column(path, entries, "scale", ())
    center[center[:, 0] == -1] = np.nan
    scale[~(scale > 0)] = np.nan
    if n and "joints" not in entries[0]:
        joints, visible = np.zeros((n, 16, 2)), np.zeros((n, 16))
    else:
        joints, visible = _column(path, entries, "joints", (16, 2)), 2 * _column(path, entries, "joints_vis", (16,))
        if not np.isin(visible, (0, 2)).all():
            raise DataError(
                f"{path}: joints_vis of entry {np.argwhere(~np.isin(visible, (0, 2)))[0][0]} is neither 0 nor 1"
            )
        if n and "visible" in entries[0]:
            visible = _column(path, entries, "visible", (16,))
    head_box = _column(path, entries, "head_box", (4,)) if n and "head_box" in entries[0] else None
    truth_path = path.with_name("gt_valid.mat")
    if split == "valid" and truth_path.exists():
        truth = mpii_release.read_ground_truth(truth_path)
        if len(truth.joints) != n:
            raise DataError(f"{truth_path} has {len(truth.joints)} persons, {path.name} {n}; take both from one source")
        if (truth.labelled != (visible > 0)).any():
            row = np.argwhere(truth.labelled != (visible > 0))[0][0]
            raise DataError(
                f"{truth_path}: jnt_missing of person {row} contradicts joints_vis in {path.name}; take both from one source"
            )
        joints, head_box = truth.joints, truth.head_box
    return _make(root, split, names, np.arange(n), joints, visible, center, scale, head_box)


def _load_ground_truth(root: Path, path: Path) -> PoseSet:
    """The validation persons from gt_valid.mat alone, enough for scoring: no centre, no scale, image names only with valid_images.txt."""
    truth = mpii_release.read_ground_truth(path)
    n = len(truth.joints)
    listing = path.with_name("valid_images.txt")
    names = (
        listing.read_text(encoding="utf-8").split()
        if listing.exists()
        else [f"valid_person_{row:05d}.jpg" for row in range(n)]
    )
    if len(names) != n:
        raise DataError(f"{listing} has {len(names)} lines, {path.name} {n} persons; take both from one source")
    nothing = np.full(n, np.nan)
    return _make(
        root,
        "valid",
        names,
        np.arange(n),
        truth.joints,
        2 * truth.labelled,
        np.stack([nothing] * 2, 1),
        nothing,
        truth.head_box,
    )


def _load_release(root: Path, path: Path, split: str) -> PoseSet:
    persons = mpii_release.read_release(path)
    trainval = persons.train & persons.annotated
    truth = _find_ground_truth(root)
    if split in ("train", "valid") and truth is not None:
        valid = mpii_release.rows_of_list(persons, truth)
        rows = valid if split == "valid" else np.setdiff1d(np.flatnonzero(trainval), valid)
    elif split == "valid":
        raise DataError(
            f"{path} does not say which persons are the validation split; put gt_valid.mat (or annot/valid.json) beside it"
        )
    elif split == "train":
        warnings.warn(
            f"{path} has no gt_valid.mat beside it: split train holds the official validation persons too", stacklevel=3
        )
        rows = trainval
    elif split in ("trainval", "test", "all"):
        rows = {"trainval": trainval, "test": ~persons.train, "all": persons.annotated}[split]
    elif split in ("deeppose_tf_train", "deeppose_tf_test"):
        whole = np.flatnonzero((persons.visible > 0).all(1))
        rows = whole[mpii_release.random_tenth(len(whole))[split.endswith("test")]]
    else:
        raise files.unknown_split(
            "mpii", split, "train, valid, trainval, test, all, deeppose_tf_train, deeppose_tf_test"
        )
    p = persons.select(rows)
    return _make(root, split, p.image.tolist(), p.person, p.joints, p.visible, p.center, p.scale, p.head_box)


RECORDS = {
    "mpii": DataSet(
        name="mpii",
        skeleton=MPII16,
        origin=1,
        source="Get it from its authors: http://human-pose.mpi-inf.mpg.de",
        terms="annotations: Simplified BSD License; cite Andriluka et al., CVPR 2014",
        splits={"train": Split(22246), "valid": Split(2958, 2729, "3edda659de753b04")},
        published="valid",
        crops="annotated centre and scale",
        measures="""pckh@0.5 pckh@0.1 mean@0.1:compat=pckh_nan@0.11 pckh_neck@0.5 pckh_neck_symmetric@0.5 pcp_strict@0.5
 pck_box@0.2=eval_pck@0.2 pck_extent@0.2:compat""",
        load=load,
        list_splits=splits,
        many_persons=True,
        aliases={"val": "valid"},
    )
}


if __name__ == "__main__":
    from common.datasets.mpii_convert import main

    sys.exit(main())
