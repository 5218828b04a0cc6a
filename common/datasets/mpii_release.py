"""The MPII Human Pose release file (`mpii_human_pose_v1_u12_1.mat`) and `gt_valid.mat` as arrays.

Everything here is in the file's own frame: pixel coordinates counted from 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.datasets import files
from common.errors import DataError

JOINTS = 16


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
