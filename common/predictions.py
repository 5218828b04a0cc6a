"""The prediction file: what a house writes and `common.evaluate` scores. A `.npz` without pickle."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from common.datasets.files import read_npz
from common.errors import DataError
from common.files import atomic_write
from common.geometry import touching
from common.poses import PoseSet, box_of_joints
from common.skeletons import Skeleton, from_card


@dataclass
class Predictions:
    """N predicted persons; row i of every array is one. Coordinates: 0-based image pixels; NaN = not predicted."""

    skeleton: Skeleton
    joints: np.ndarray  # (N,J,2) float32
    score: np.ndarray  # (N,J) float32
    person_score: np.ndarray  # (N,)
    box: np.ndarray  # (N,4) x, y, w, h that the crop came from
    box_score: np.ndarray  # (N,)
    area: np.ndarray  # (N,) square pixels, for OKS-NMS
    image_id: np.ndarray  # (N,)
    person_id: np.ndarray  # (N,) -1: found in the picture, not known which annotated person this is
    frame: np.ndarray  # (N,) -1 for still images
    dataset: str = ""
    split: str = ""
    meta: dict = field(default_factory=dict)  # model, weights_hash, settings, versions, boxes, flip_test, synthetic

    def __len__(self) -> int:
        return len(self.joints)

    def select(self, rows) -> Predictions:
        """The rows given by a slice, an index array or a boolean mask."""
        return replace(self, **{name: np.asarray(getattr(self, name))[rows] for name in _ARRAYS})


@dataclass
class People:
    """The P persons found in one picture. Coordinates: 0-based image pixels; NaN = not found."""

    joints: np.ndarray  # (P,J,2) float32
    score: np.ndarray  # (P,J)
    box: np.ndarray  # (P,4) x, y, w, h that was looked at, or around the joints
    person_score: np.ndarray  # (P,)
    id: np.ndarray  # (P,) -1 without tracking

    @classmethod
    def of(cls, joints, score=None, box=None, person_score=None) -> People:
        """From (P,J,2) joints; scores default to 1 (0: not found), a person's to their mean, boxes to tight ones."""
        joints = np.asarray(joints, np.float32)
        score = np.asarray(np.isfinite(joints).all(-1) if score is None else score, np.float32)
        if person_score is None:
            person_score = score.mean(1) if score.shape[1] else np.ones(len(joints))
        box = box_of_joints(joints) if box is None else np.asarray(box, np.float64).reshape(-1, 4)
        return cls(joints, score, box, np.asarray(person_score, np.float32), np.full(len(joints), -1, np.int64))

    @classmethod
    def by_picture(cls, joints, score, views: Sequence[tuple[np.ndarray, np.ndarray]]) -> list[People]:
        """From joints (P,J,2) and scores (P,J) or None of all persons: those of each picture and its boxes (n,4). Nobody is
        where a box does not touch its picture."""
        found, start = [], 0
        for image, box in views:
            rows, there = slice(start, start := start + len(box)), touching(box, image.shape[1], image.shape[0])
            one = np.where(there[:, None, None], joints[rows], np.nan)
            found.append(cls.of(one, None if score is None else np.where(there[:, None], score[rows], 0), box))
        return found

    def __len__(self) -> int:
        return len(self.joints)


def predictions_for(
    pose_set: PoseSet, joints: np.ndarray, score: np.ndarray | None = None, meta: dict | None = None, **overrides
) -> Predictions:
    """Predictions row-aligned with `pose_set`, (N,J,2) joints in image pixels, (N,J) scores (default 1)."""
    n, j = joints.shape[:2]
    score = np.ones((n, j), np.float32) if score is None else score.astype(np.float32)
    rows: dict[str, Any] = {field: getattr(pose_set, field) for field in ("skeleton", "box", "image_id", "person_id")}
    rows |= {"joints": joints.astype(np.float32), "score": score, "box_score": np.ones(n, np.float32)}
    rows["person_score"] = np.nanmean(score, axis=1) if j else np.zeros(n, np.float32)
    rows["area"] = pose_set.area if pose_set.area is not None else pose_set.box[:, 2] * pose_set.box[:, 3]
    rows["frame"] = pose_set.frame if pose_set.frame is not None else np.full(n, -1)
    rows |= {"dataset": pose_set.name, "split": pose_set.split}
    rows["meta"] = {"synthetic": pose_set.synthetic, **(meta or {})}
    return Predictions(**(rows | overrides))


_ARRAYS = ("joints", "score", "person_score", "box", "box_score", "area", "image_id", "person_id", "frame")


def save_predictions(path: str | Path, predictions: Predictions) -> None:
    """Write the `.npz`, whole or not at all."""
    arrays = {name: np.asarray(getattr(predictions, name)) for name in _ARRAYS}
    for name, array in arrays.items():
        if array.dtype == object:
            raise ValueError(f"prediction field {name} has dtype object; use numbers or strings")
        if len(array) != len(predictions):
            raise ValueError(f"prediction field {name} has {len(array)} rows, joints have {len(predictions)}")
    skeleton = predictions.skeleton
    texts: dict[str, Any] = {"skeleton": skeleton.name, "dataset": predictions.dataset, "split": predictions.split}
    # so that a user's own skeleton can be read anywhere
    texts |= {"joint_names": skeleton.joints, "limbs": np.reshape(skeleton.limbs, (-1, 2))}
    texts["meta"] = json.dumps(predictions.meta, sort_keys=True)

    def write(temporary: Path) -> None:
        with open(temporary, "wb") as file:
            np.savez_compressed(file, **arrays, **{name: np.array(text) for name, text in texts.items()})

    atomic_write(path, write)


def load_predictions(path: str | Path) -> Predictions:
    """Read a prediction file of ours. DataError naming the file and the field when it is not one."""
    stored = read_npz(path, "prediction file")
    if missing := [n for n in (*_ARRAYS, "skeleton") if n not in stored]:
        fields = f"{', '.join(_ARRAYS)}, skeleton, dataset, split, meta"
        raise DataError(f"prediction file {path} lacks the field {missing[0]!r}; a prediction file has {fields}")
    try:
        meta = json.loads(str(stored.get("meta", "{}")))
        if not isinstance(meta, dict):
            raise ValueError("it is no object with named entries")
    except (ValueError, RecursionError) as error:
        raise DataError(f"prediction file {path}: field meta: {error}") from error
    card: Any = str(stored["skeleton"])
    if "joint_names" in stored:  # a foreign writer may leave them out for a known skeleton
        limbs = stored["limbs"].tolist() if "limbs" in stored else []
        card = {"name": card, "joints": stored["joint_names"].ravel().tolist(), "limbs": limbs}
    skeleton = from_card(card, f"prediction file {path}: field skeleton (with joint_names, limbs)")
    n, j = len(np.atleast_1d(stored["joints"])), len(skeleton)
    shapes = {"joints": (n, j, 2), "score": (n, j), "box": (n, 4)}
    for name in _ARRAYS:
        shape, wanted = stored[name].shape, shapes.get(name, (n,))
        if shape != wanted:
            need = f"{n} rows of skeleton {skeleton.name} need {wanted}"
            raise DataError(f"prediction file {path}: field {name} has shape {shape}; {need}")
        if stored[name].dtype.kind not in ("iufUS" if name == "image_id" else "iuf"):
            raise DataError(f"prediction file {path}: field {name} holds {stored[name].dtype}; write numbers")
    texts = {field: str(stored.get(field, "")) for field in ("dataset", "split")}
    return Predictions(skeleton=skeleton, meta=meta, **texts, **{name: stored[name] for name in _ARRAYS})
