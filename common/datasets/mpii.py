"""MPII Human Pose: the authors' release file, and the JSON form with `gt_valid.mat` of most later work.

All these files count pixels from 1; everything is shifted by 1 here, once. Joints are person-centric.

JSON form, `annot/` or the folder itself: `{train,valid,trainval,test}.json`, a list of {image, center [x,y], scale,
joints 16x[x,y], joints_vis 16x0/1} (no joints in test). joints_vis says "annotated", not "not occluded", so `visible`
is 0 or 2. Missing joints are (-1,-1). For `valid`, joints and head boxes come from `gt_valid.mat` beside the JSON when
it is there: published scores are counted against it, and it differs from valid.json in 13 joints (one coordinate is 0
there). A file may also hold `head_box` and `visible` (0, 1, 2) of its persons.

Release form: `mpii_human_pose_v1_u12_1.mat`. Splits `train`, `valid`, `trainval` (annotated persons of training
images), `test` (persons of the others, without joints) and `all` (every annotated person). Who belongs to `valid` is
not in the release: it is found with gt_valid.mat when that is there; without it `valid` is an error and `train` is all
of `trainval`. `deeppose_tf_train` and `deeppose_tf_test` are asanakoy/deeppose_tf's: a random tenth of the persons with
all 16 joints is test, so photographs are shared between the two.

PoseSet: `center` and `scale` as published (centre moved by the 1 pixel only; not lowered by 15*scale, not enlarged by
1.25; NaN where the file has -1 or nothing), `head_size` = 0.6 x diagonal of the head box, `box` = square of side
200*scale about the centre, or tight around the joints without those. `image_id` is the file name, `person_id` the row
in the JSON or the index in the image's annorect.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np

from common.datasets import files
from common.datasets import mpii_release as release_file
from common.datasets.about import DataSet, Split
from common.datasets.files import column
from common.errors import DataError
from common.poses import PoseSet, box_of_joints
from common.skeletons import MPII16

RELEASE = "mpii_human_pose_v1_u12_1.mat"
HEAD_FACTOR = 0.6  # evalMPII's scaling of the head-box diagonal ("SC_BIAS"), Andriluka et al., CVPR 2014
_JSON_SPLITS = ("train", "valid", "trainval", "test")


def load(root: str | Path, split: str) -> PoseSet:
    """One split of MPII, joints (N,16,2); see the module's text. `val` means `valid`. Images need not exist."""
    root, split = Path(root), RECORD.split(split)
    annotations = _find(root, f"{split}.json")
    if annotations:
        return _load_json(root, annotations, split)
    release = _find_release(root)
    if release:
        return _load_release(root, release, split)
    truth = _find(root, "gt_valid.mat")
    if split == "valid" and truth:
        return _load_ground_truth(root, truth)
    if truth or any(_find(root, f"{s}.json") for s in _JSON_SPLITS):
        more = f" (from the JSON files there; with {RELEASE} also train, trainval, test, all)"
        raise files.unknown_split("mpii", split, ", ".join(splits(root)) + more)
    raise files.missing("mpii", root, f"annot/{split}.json (or {split}.json), or {RELEASE}")


def splits(root: str | Path) -> list[str]:
    """What `check` looks through: the JSON files without the joint one, or the whole release file."""
    root = Path(root)
    found = [s for s in ("train", "valid", "test") if _find(root, f"{s}.json")]
    found = found or (["all"] if _find_release(root) else ["valid"] if _find(root, "gt_valid.mat") else [])
    if not found:
        raise files.missing("mpii", root, f"annot/train.json, annot/valid.json or {RELEASE}")
    return found


def _find(root: Path, name: str) -> Path | None:
    folder = files.first_existing((root / "annot", root), name)
    return folder / name if folder else None


def _find_release(root: Path) -> Path | None:
    names = ("", "annot", "mpii_human_pose_v1_u12_2", "mpii_human_pose_v1_u12_1")
    folder = files.first_existing([root / name for name in names], RELEASE)
    return folder / RELEASE if folder else None


def _make(root: Path, split: str, names, person_id, joints, visible, center, scale, head_box) -> PoseSet:
    """A PoseSet from columns in the files' frame (counted from 1, anything in unlabelled joints)."""
    joints = np.where(visible[..., None] > 0, joints - 1, np.nan)
    half = 100 * scale[:, None]
    square = np.concatenate([center - 1 - half, 2 * half, 2 * half], axis=1)
    box = np.where(np.isfinite(square).all(1, keepdims=True), square, box_of_joints(joints))
    diagonal = None if head_box is None else np.hypot(head_box[:, 2] - head_box[:, 0], head_box[:, 3] - head_box[:, 1])
    known = np.isfinite(center).any()
    return RECORD.pose_set(
        root,
        split,
        joints,
        visible,
        images=[f"{root}/images/{name}" for name in names],
        image_id=np.array(names, dtype=str),
        person_id=np.asarray(person_id, np.int64),
        box=box,
        head_size=None if diagonal is None else HEAD_FACTOR * diagonal,
        center=center - 1 if known else None,
        scale=scale if known else None,
    )


def _load_json(root: Path, path: Path, split: str) -> PoseSet:
    entries = files.rows(path, files.read_json(path))
    names, n = files.texts(entries, "image"), len(entries)
    fields = entries[0][1].keys() if entries else set()
    center, scale = column(entries, "center", (2,)), column(entries, "scale")
    center[center[:, 0] == -1] = np.nan
    scale[scale <= 0] = np.nan
    if entries and "joints" not in fields:
        joints, visible = np.zeros((n, 16, 2)), np.zeros((n, 16))
    else:
        joints, visible = column(entries, "joints", (16, 2)), 2 * column(entries, "joints_vis", (16,))
        odd = np.argwhere(~np.isin(visible, (0, 2)))
        if len(odd):
            raise DataError(f"{entries[odd[0][0]][0]}.joints_vis is neither 0 nor 1 for joint {odd[0][1]}")
        if "visible" in fields:
            visible = column(entries, "visible", (16,))
    head_box = column(entries, "head_box", (4,)) if "head_box" in fields else None
    truth_path = path.with_name("gt_valid.mat")
    if split == "valid" and truth_path.exists():
        truth = release_file.read_ground_truth(truth_path)
        if len(truth.joints) != n:
            raise DataError(f"{truth_path} has {len(truth.joints)} persons, {path.name} {n}; take both from one source")
        if (truth.labelled != (visible > 0)).any():
            row = np.argwhere(truth.labelled != (visible > 0))[0][0]
            where = f"{truth_path}: jnt_missing of person {row}"
            raise DataError(f"{where} contradicts joints_vis in {path.name}; take both from one source")
        joints, head_box = truth.joints, truth.head_box
    return _make(root, split, names, np.arange(n), joints, visible, center, scale, head_box)


def _load_ground_truth(root: Path, path: Path) -> PoseSet:
    """The validation persons from gt_valid.mat alone, enough for scoring: image names only with valid_images.txt."""
    truth = release_file.read_ground_truth(path)
    n, listing = len(truth.joints), path.with_name("valid_images.txt")
    names = [f"valid_person_{row:05d}.jpg" for row in range(n)]
    if listing.exists():
        names = listing.read_text(encoding="utf-8").split()
    if len(names) != n:
        raise DataError(f"{listing} has {len(names)} lines, {path.name} {n} persons; take both from one source")
    center, scale, visible = np.full((n, 2), np.nan), np.full(n, np.nan), 2 * truth.labelled
    return _make(root, "valid", names, np.arange(n), truth.joints, visible, center, scale, truth.head_box)


def _load_release(root: Path, path: Path, split: str) -> PoseSet:
    persons = release_file.read_release(path)
    trainval, truth = persons.train & persons.annotated, _find(root, "gt_valid.mat")
    if split in ("train", "valid") and truth is not None:
        valid = release_file.rows_of_ground_truth(persons, truth)
        rows = valid if split == "valid" else np.setdiff1d(np.flatnonzero(trainval), valid)
    elif split == "valid":
        which = "which persons are the validation split; put gt_valid.mat (or annot/valid.json) beside it"
        raise DataError(f"{path} does not say {which}")
    elif split in ("deeppose_tf_train", "deeppose_tf_test"):
        whole = np.flatnonzero((persons.visible > 0).all(1))
        rows = whole[release_file.random_tenth(len(whole))[split.endswith("test")]]
    elif split in ("train", "trainval", "test", "all"):
        rows = {"test": ~persons.train, "all": persons.annotated}.get(split, trainval)
        if split == "train":
            what = "has no gt_valid.mat beside it: split train holds the official validation persons too"
            warnings.warn(f"{path} {what}", stacklevel=3)
    else:
        known = "train, valid, trainval, test, all, deeppose_tf_train, deeppose_tf_test"
        raise files.unknown_split("mpii", split, known)
    p = persons.select(rows)
    return _make(root, split, p.image.tolist(), p.person, p.joints, p.visible, p.center, p.scale, p.head_box)


RECORD = DataSet(
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
    aliases={"val": "valid"},
)
