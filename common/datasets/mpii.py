"""MPII Human Pose: the authors' release file, and the JSON form with `gt_valid.mat` of most later work.

All these files count pixels from 1; everything is shifted by 1 here, once. Joints are person-centric.

JSON form, `annot/` or the folder itself: `{train,valid,trainval,test}.json`, a list of {image, center [x,y], scale,
joints 16x[x,y], joints_vis 16x0/1} (no joints in test). joints_vis says "annotated", not "not occluded", so `visible`
is 0 or 2. Missing joints are (-1,-1). For `valid`, joints and head boxes come from `gt_valid.mat` beside the JSON when
it is there: published scores are counted against it, and it differs from valid.json in 13 joints (one coordinate is 0
there). A file may also hold `head_box` and `visible` (0, 1, 2) of its persons.

Release form: `mpii_human_pose_v1_u12_1.mat`. Splits `trainval` (annotated persons of training images), `test` (persons
of the others, without joints) and `all` (every annotated person); it does not say who belongs to `train` or `valid`.
`deeppose_tf_train`, `deeppose_tf_test`: asanakoy/deeppose_tf's random split of the persons with all 16 joints.

PoseSet: `center` and `scale` as published (NaN where the file has -1 or nothing), `head_size` = 0.6 x diagonal of the
head box, `box` = square of side 200*scale about the centre, or tight around the joints without those. `image_id` is the
file name, `person_id` the row in the JSON or the index in the image's annorect.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.datasets import files, record
from common.datasets.files import column
from common.errors import DataError
from common.poses import PoseSet, box_of_joints

RELEASE = "mpii_human_pose_v1_u12_1.mat"
JOINTS = 16
HEAD_FACTOR = 0.6  # evalMPII's scaling of the head-box diagonal ("SC_BIAS"), Andriluka et al., CVPR 2014


def load(root: Path, split: str) -> PoseSet:
    """One split of MPII, joints (N,16,2); see the module's text. `val` means `valid`. Images need not exist."""
    split = record("mpii").split(split)
    annotations, truth = _find(root, f"{split}.json"), _find(root, "gt_valid.mat")
    if annotations:
        return _load_json(root, annotations, split)
    if release := _find(root, RELEASE):
        return _load_release(root, release, split)
    if split == "valid" and truth:
        return _load_ground_truth(root, truth)
    more = f" (from the JSON files there; with {RELEASE} also trainval, test, all)"
    raise files.unknown_split("mpii", split, ", ".join(splits(root)) + more)


def splits(root: Path) -> list[str]:
    """What `check` looks through: the JSON files without the joint one, or the whole release file."""
    found = [s for s in ("train", "valid", "test") if _find(root, f"{s}.json")]
    found = found or (["all"] if _find(root, RELEASE) else ["valid"] if _find(root, "gt_valid.mat") else [])
    if not found:
        raise files.missing("mpii", root, f"annot/train.json, annot/valid.json or {RELEASE}")
    return found


def _find(root: Path, name: str) -> Path | None:
    folders = ("annot", "", "mpii_human_pose_v1_u12_2", "mpii_human_pose_v1_u12_1")
    folder = files.first_existing([root / folder for folder in folders], name)
    return folder / name if folder else None


def _make(root: Path, split: str, names, person_id, joints, visible, center, scale, head_box) -> PoseSet:
    """A PoseSet from columns in the files' frame (counted from 1, anything in unlabelled joints)."""
    joints = np.where(visible[..., None] > 0, joints - 1, np.nan)
    half = 100 * scale[:, None]
    square = np.concatenate([center - 1 - half, 2 * half, 2 * half], axis=1)
    box = np.where(np.isfinite(square).all(1, keepdims=True), square, box_of_joints(joints))
    diagonal = None if head_box is None else np.hypot(head_box[:, 2] - head_box[:, 0], head_box[:, 3] - head_box[:, 1])
    known = np.isfinite(center).any()
    return record("mpii").pose_set(
        root, split, joints, visible, images=[f"{root}/images/{name}" for name in names],
        image_id=np.array(names, dtype=str), person_id=np.asarray(person_id, np.int64), box=box,
        head_size=None if diagonal is None else HEAD_FACTOR * diagonal, center=center - 1 if known else None,
        scale=scale if known else None,
    )  # fmt: skip


def _load_json(root: Path, path: Path, split: str) -> PoseSet:
    entries = files.rows(path, files.read_json(path))
    names, n = files.texts(entries, "image"), len(entries)
    fields = entries[0][1].keys() if entries else {"joints"}
    center, scale = column(entries, "center", (2,)), column(entries, "scale")
    center[center[:, 0] == -1] = np.nan
    scale[scale <= 0] = np.nan
    joints, visible = np.zeros((n, 16, 2)), np.zeros((n, 16))
    if "joints" in fields:
        joints, labelled = column(entries, "joints", (16, 2)), column(entries, "joints_vis", (16,))
        files.check_flags(entries, "joints_vis", labelled, (0, 1))
        visible = column(entries, "visible", (16,)) if "visible" in fields else 2 * labelled
        files.check_flags(entries, "visible", visible, (0, 1, 2))
    head_box = column(entries, "head_box", (4,)) if "head_box" in fields else None
    truth_path = path.with_name("gt_valid.mat")
    if split == "valid" and truth_path.exists():
        truth = read_ground_truth(truth_path)
        if len(truth.joints) != n:
            raise DataError(f"{truth_path} has {len(truth.joints)} persons, {path.name} {n}; take both from one source")
        if len(odd := np.argwhere(truth.labelled != (visible > 0))):
            where = f"{truth_path}: jnt_missing of person {odd[0][0]}"
            raise DataError(f"{where} contradicts joints_vis in {path.name}; take both from one source")
        joints, head_box = truth.joints, truth.head_box
    return _make(root, split, names, np.arange(n), joints, visible, center, scale, head_box)


def _load_ground_truth(root: Path, path: Path) -> PoseSet:
    """The validation persons from gt_valid.mat alone, enough for scoring: image names only with valid_images.txt."""
    truth = read_ground_truth(path)
    n, listing = len(truth.joints), path.with_name("valid_images.txt")
    names = [f"valid_person_{row:05d}.jpg" for row in range(n)]
    if listing.exists():
        names = listing.read_text(encoding="utf-8").split()
    if len(names) != n:
        raise DataError(f"{listing} has {len(names)} lines, {path.name} {n} persons; take both from one source")
    center, scale, visible = np.full((n, 2), np.nan), np.full(n, np.nan), 2 * truth.labelled
    return _make(root, "valid", names, np.arange(n), truth.joints, visible, center, scale, truth.head_box)


def _load_release(root: Path, path: Path, split: str) -> PoseSet:
    persons = read_release(path)
    whole = np.flatnonzero((persons.visible > 0).all(1))
    rest, tenth = random_tenth(len(whole))
    rows = {"trainval": persons.train & persons.annotated, "test": ~persons.train, "all": persons.annotated}
    rows |= {"deeppose_tf_train": whole[rest], "deeppose_tf_test": whole[tenth]}
    if split not in rows:
        more = f"{', '.join(rows)} (train, valid: put annot/train.json, annot/valid.json there)"
        raise files.unknown_split("mpii", split, more)
    p = persons.select(rows[split])
    return _make(root, split, p.image.tolist(), p.person, p.joints, p.visible, p.center, p.scale, p.head_box)


# ---- the release file and gt_valid.mat as arrays, in their own frame: pixel coordinates counted from 1 -----------------


@dataclass(frozen=True)
class Persons:
    """N persons of the release, in the order of `annolist` and `annorect`, counted from 1; NaN = nothing there."""

    image: np.ndarray  # (N,) file name
    person: np.ndarray  # (N,) index in the image's annorect, from 0
    train: np.ndarray  # (N,) bool: img_train
    joints: np.ndarray  # (N,16,2)
    visible: np.ndarray  # (N,16) 0 no such point, 1 is_visible is 0 or empty, 2 it is 1 or the person has no such field
    head_box: np.ndarray  # (N,4) x1, y1, x2, y2
    center: np.ndarray  # (N,2) objpos
    scale: np.ndarray  # (N,)
    flagged: np.ndarray  # (N,) bool: whether the person's points have the field is_visible

    def __len__(self) -> int:
        return len(self.image)

    def select(self, rows) -> Persons:
        """The rows given by a slice, an index array or a mask."""
        return Persons(**{name: value[rows] for name, value in vars(self).items()})

    @property
    def annotated(self) -> np.ndarray:
        """(N,) whether the person has any joint."""
        return (self.visible > 0).any(1)


def random_tenth(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices (rest, chosen) of `count` things, a tenth of which is chosen at random, in random order:
    asanakoy/deeppose_tf's own split of the persons with all 16 joints into training and test (NumPy's legacy generator,
    seed 1701).
    """
    order = np.random.RandomState(1701).permutation(count)
    return order[int(0.1 * count) :], order[: int(0.1 * count)]


def read_release(path: Path) -> Persons:
    """Every person of the release file, annotated or not. DataError when it is not that file."""
    release = files.read_mat(path, "RELEASE", struct_as_record=False, squeeze_me=True)
    try:
        rows = [
            (str(entry.image.name), index, bool(train), *_person(rect))
            for entry, train in zip(np.atleast_1d(release.annolist), np.atleast_1d(release.img_train), strict=True)
            for index, rect in enumerate(_structs(entry, "annorect"))
        ]
    except (AttributeError, TypeError, ValueError, IndexError) as error:
        what = f"{path}: RELEASE is not laid out as in the MPII release ({error})"
        raise DataError(f"{what}; take mpii_human_pose_v1_u12_1.mat") from error
    if not rows:
        raise DataError(f"{path}: RELEASE.annolist holds no person; take mpii_human_pose_v1_u12_1.mat")
    return Persons(*(np.array(column) for column in zip(*rows)))


def _structs(parent, field: str) -> list:
    """Matlab's struct array, single struct or empty matrix as a list."""
    return [item for item in np.atleast_1d(getattr(parent, field, None)) if hasattr(item, "_fieldnames")]


def _number(parent, field: str, default=np.nan) -> float:
    """A scalar that may be absent, an empty matrix or a one-character string, as is_visible and scale are at times."""
    value = getattr(parent, field, default)
    value = np.asarray(float(value or "nan") if isinstance(value, str) else value, np.float64).ravel()
    return float(value[0]) if value.size else np.nan


def _person(rect) -> tuple:
    joints, visible = np.full((JOINTS, 2), np.nan), np.zeros(JOINTS, np.int8)
    points = [point for parent in _structs(rect, "annopoints") for point in _structs(parent, "point")]
    for point in points:
        if point.id not in range(JOINTS):
            raise ValueError(f"joint id {point.id}")
        joint = int(point.id)
        joints[joint] = _number(point, "x"), _number(point, "y")
        if not np.isfinite(joints[joint]).all():
            raise ValueError(f"joint {joint} without coordinates")
        visible[joint] = 2 if _number(point, "is_visible", 1) == 1 else 1
    head = [_number(rect, corner) for corner in ("x1", "y1", "x2", "y2")]
    position = next(iter(_structs(rect, "objpos")), None)
    flagged = any(hasattr(point, "is_visible") for point in points)
    return joints, visible, head, [_number(position, "x"), _number(position, "y")], _number(rect, "scale"), flagged


@dataclass(frozen=True)
class GroundTruth:
    """`gt_valid.mat`: what the usual PCKh programs score the validation persons against. Coordinates count from 1."""

    joints: np.ndarray  # (N,16,2)
    labelled: np.ndarray  # (N,16) bool
    head_box: np.ndarray  # (N,4) x1, y1, x2, y2


def read_ground_truth(path: Path) -> GroundTruth:
    """Read `gt_valid.mat`; DataError when a variable is missing or has another shape."""
    names = {"jnt_missing": (JOINTS,), "pos_gt_src": (JOINTS, 2), "headboxes_src": (2, 2)}
    missing, joints, head_box = found = files.read_numbers(path, *names)
    for array, (name, shape) in zip(found, names.items()):
        if array.shape != (*shape, joints.shape[-1]):
            remedy = "take gt_valid.mat from the simple-baselines annotations"
            raise DataError(f"{path}: {name} is {array.shape}, expected {(*shape, 'N')}; {remedy}")
    truth = GroundTruth(joints.transpose(2, 0, 1), missing.T == 0, head_box.reshape(4, -1).T)
    for person in np.flatnonzero(~np.isfinite(truth.joints[truth.labelled]).all(-1)):
        row = np.repeat(np.arange(len(truth.joints)), truth.labelled.sum(1))[person]
        what = f"pos_gt_src of person {row} has a labelled joint without coordinates"
        raise DataError(f"{path}: {what}; download it again")
    return truth
