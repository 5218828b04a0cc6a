"""Prediction files of every kind that people publish, read by what is in them, as `Predictions` for one PoseSet.

| content | is | frame of the file |
|---|---|---|
| our `.npz` | `common.predictions` | 0-based |
| `.mat` or `.h5` with `preds` | MPII, (N,16,2) in any axis order (bearpaw, Simple Baselines' `pred.mat`, Tompson's `.h5`) | MPII's own |
| `.mat` with `pos_pred_src` | MPII's `gt_valid.mat`, which carries Tompson's predictions, (16,2,N) | MPII's own |
| `.mat` with `prediction_all` | LSP, (14,2,N) in any axis order (Convolutional Pose Machines) | LSP's own |
| `.mat` with `pred` | MobilePose's Penn Action test, (N,15,2), columns y, x (`common.penn_crops`) | 256-pixel crops |
| JSON list with `keypoints` | COCO results | COCO's own |
| JSON list with `keypoint_annotations` | AI Challenger submission | AI Challenger's own |

Files in a data set's own frame move exactly as its loader moves the annotations (`common.datasets.ORIGIN`). Anything else is a DataError
naming file, field and remedy.
"""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from common.datasets import ORIGIN
from common.errors import DataError
from common.poses import PoseSet, box_of_joints
from common.predictions import Predictions, load_predictions, predictions_for
from common.skeletons import AIC14, COCO17, LSP14, MPII16, Skeleton, skeleton_map

_KINDS = "our .npz, .mat/.h5 with preds, pos_pred_src, prediction_all or pred, COCO or AI Challenger result JSON"
_MANY_PERSONS = ("coco", "ai_challenger", "json")  # scored by image, not (json: not always) row by row


def load_any(path: str | Path, pose_set: PoseSet) -> Predictions:
    """Predictions for `pose_set` from any file listed above; which one it is is read off the content, not the name.

    Row i belongs to row i of the PoseSet, except for COCO and AI Challenger, which are scored by image and may hold any number of persons.
    Joints come in the PoseSet's skeleton, those of others' files in full precision; NaN where the file has none. Raises DataError naming
    the file, the field and the remedy.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"prediction file {path} does not exist; write it with a house's val.py or give {_KINDS}")
    with open(path, "rb") as file:
        head = file.read(512)
    if head.startswith(b"PK"):
        return _own(path, pose_set)
    if head.startswith(b"\x89HDF"):
        return _arrays(path, _read_hdf5(path), pose_set)
    if head.startswith(b"MATLAB"):
        # Matlab's v7.3 is HDF5 behind a 512-byte header
        return _arrays(path, _read_hdf5(path) if b"MATLAB 7.3" in head else _read_mat(path), pose_set)
    if head.lstrip()[:1] in (b"[", b"{"):
        return _json(path, pose_set)
    raise DataError(f"{path} is no prediction file that is known here; expected {_KINDS}")


def _own(path: Path, pose_set: PoseSet) -> Predictions:
    predictions = load_predictions(path)
    if predictions.dataset and predictions.dataset != pose_set.name:
        raise DataError(
            f"{path}: field dataset is {predictions.dataset!r}, the ground truth is {pose_set.name!r}; give that data set, or predict again"
        )
    predictions = _in_skeleton(predictions, pose_set.skeleton, path)
    return predictions if pose_set.name in _MANY_PERSONS else align_rows(predictions, pose_set, path)


def align_rows(predictions: Predictions, pose_set: PoseSet, path: str | Path = "the prediction file") -> Predictions:
    """The predictions in the PoseSet's row order, found by (image_id, person_id, frame); DataError when a person is missing or occurs
    twice.
    """
    frame = pose_set.frame if pose_set.frame is not None else np.full(len(pose_set), -1)
    wanted = list(zip(pose_set.image_id.tolist(), pose_set.person_id.tolist(), frame.tolist()))
    found = list(zip(predictions.image_id.tolist(), predictions.person_id.tolist(), predictions.frame.tolist()))
    if found == wanted:
        return predictions
    row = {key: i for i, key in enumerate(found)}
    if len(row) < len(found):
        raise DataError(
            f"{path}: fields image_id, person_id, frame name the same person more than once; write one row a person"
        )
    missing = [key for key in wanted if key not in row]
    if missing:
        raise DataError(
            f"{path}: field image_id: {len(missing)} of the {len(wanted)} persons of {pose_set.name}/{pose_set.split} are missing, first "
            f"(image, person, frame) {missing[0]}; predict the whole split (no --limit), or give the split that was predicted"
        )
    return _take(predictions, np.array([row[key] for key in wanted], np.int64))


def _take(predictions: Predictions, rows: np.ndarray) -> Predictions:
    names = ("joints", "score", "person_score", "box", "box_score", "area", "image_id", "person_id", "frame")
    return replace(predictions, **{n: getattr(predictions, n)[rows] for n in names})


def _in_skeleton(predictions: Predictions, target: Skeleton, path: Path) -> Predictions:
    """The predictions with the joints of `target`; which ones are stand-ins is said in `meta["stand_ins"]`."""
    if predictions.skeleton == target:
        return predictions
    mapping = skeleton_map(predictions.skeleton, target)
    if not any(mapping.sources):
        raise DataError(
            f"{path}: field skeleton is {predictions.skeleton.name}, which has no joint of {target.name}; give the matching data set"
        )
    score = [
        predictions.score[:, list(s)].min(1) if s else np.zeros(len(predictions), np.float32) for s in mapping.sources
    ]
    stand_ins = [joint for joint, synthetic in zip(target.joints, mapping.synthetic) if synthetic]
    meta = {
        **predictions.meta,
        "mapped_from": predictions.skeleton.name,
        **({"stand_ins": stand_ins} if stand_ins else {}),
    }
    joints = mapping.apply(predictions.joints.astype(np.float64)).astype(np.float32)
    return replace(predictions, skeleton=target, joints=joints, score=np.stack(score, 1).astype(np.float32), meta=meta)


def _read_mat(path: Path) -> dict[str, np.ndarray]:
    import scipy.io

    try:
        return {k: v for k, v in scipy.io.loadmat(path).items() if not k.startswith("__")}
    except Exception as error:  # scipy raises many kinds for damaged files, zlib.error among them
        raise DataError(
            f"{path} is not a readable Matlab file ({type(error).__name__}: {error}); download or write it again"
        ) from error


def _read_hdf5(path: Path) -> dict[str, np.ndarray]:
    try:
        import h5py
    except ImportError:
        raise DataError(f"{path} is an HDF5 file, which needs the package h5py: pip install h5py") from None
    try:
        with h5py.File(path, "r") as file:
            return {k: np.array(v) for k, v in file.items() if isinstance(v, h5py.Dataset)}
    except OSError as error:
        raise DataError(f"{path} is not a readable HDF5 file ({error}); download or write it again") from error


def _arrays(path: Path, content: dict[str, np.ndarray], pose_set: PoseSet) -> Predictions:
    """A Matlab or HDF5 file by its variables."""
    for field, skeleton, dataset in (
        ("preds", MPII16, "mpii"),
        ("pos_pred_src", MPII16, "mpii"),
        ("prediction_all", LSP14, "lsp"),
    ):
        if field in content:
            _need_skeleton(path, field, skeleton, pose_set)
            joints = (
                _as_rows(content[field], len(pose_set), len(skeleton), f"{path}: field {field}", pose_set)
                - ORIGIN[dataset]
            )
            if skeleton == MPII16:
                _drop_placeholders(joints)
            return _aligned(path, f"{field} ({skeleton.name})", joints, pose_set)
    if "pred" in content:
        from common.penn_crops import read_pred

        joints, box, missing = read_pred(path, content["pred"], pose_set)
        predictions = _aligned(path, "pred (MobilePose)", joints, pose_set)
        return replace(predictions, box=box, meta={**predictions.meta, "boxes": "oracle", "missing_rows": missing})
    have = ", ".join(content) or "nothing"
    raise DataError(
        f"{path} holds {have}, none of the known variables preds, pos_pred_src, prediction_all, pred; save the joints under one of these"
    )


def _need_skeleton(path: Path, field: str, skeleton: Skeleton, pose_set: PoseSet) -> None:
    if pose_set.skeleton != skeleton:
        raise DataError(
            f"{path}: field {field} holds joints of {skeleton.name}, the ground truth {pose_set.name} has {pose_set.skeleton.name}; "
            "give the data set that the file was made for"
        )


def _as_rows(array: np.ndarray, rows: int, joints: int, where: str, pose_set: PoseSet) -> np.ndarray:
    """(N,J,2) float64 from an array with these three axes in any order; the usual orders are tried first where sizes are ambiguous."""
    for order in ((0, 1, 2), (2, 1, 0), (2, 0, 1), (0, 2, 1), (1, 0, 2), (1, 2, 0)):
        if array.ndim == 3 and tuple(array.shape[i] for i in order) == (rows, joints, 2):
            return array.transpose(order).astype(np.float64)
    raise DataError(
        f"{where} has shape {array.shape}; {pose_set.name}/{pose_set.split} needs {rows} persons x {joints} joints x 2 in any order. "
        "Give the split that was predicted, or predict every person of it in the order of the annotation file"
    )


def _drop_placeholders(joints: np.ndarray) -> None:
    """Pelvis and thorax become NaN where a file of 14-joint predictions fills both with one point (Tompson's does)."""
    pair = MPII16.indices(["pelvis", "thorax"])
    same = (joints[:, pair[0]] == joints[:, pair[1]]).all(-1)
    if len(joints) and same.mean() > 0.5:
        joints[:, pair] = np.nan


def _aligned(path: Path, kind: str, joints: np.ndarray, pose_set: PoseSet) -> Predictions:
    score = np.where(np.isnan(joints).any(-1), 0, 1).astype(np.float32)
    meta = {"model": path.stem, "imported": kind, "final": True}
    predictions = predictions_for(pose_set, joints, score, meta, person_score=np.ones(len(joints), np.float32))
    return replace(predictions, joints=joints)  # in the file's own precision


def _json(path: Path, pose_set: PoseSet) -> Predictions:
    try:
        with open(path, encoding="utf-8") as file:
            entries = json.load(file)
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(f"{path} is not readable JSON ({error}); write it again") from error
    if not isinstance(entries, list):
        raise DataError(
            f"{path} is a JSON {type(entries).__name__}; a result file is a list (is this the annotation file?)"
        )
    if not entries:
        return _unaligned(path, "empty JSON", pose_set, [], np.zeros((0, len(pose_set.skeleton), 3)), np.zeros(0))
    if isinstance(entries[0], dict) and "keypoint_annotations" in entries[0]:
        return _ai_challenger(path, entries, pose_set)
    if isinstance(entries[0], dict) and "keypoints" in entries[0]:
        return _coco(path, entries, pose_set)
    raise DataError(
        f"{path}: the first entry has neither 'keypoints' (COCO results) nor 'keypoint_annotations' (AI Challenger); expected {_KINDS}"
    )


def _coco(path: Path, entries: list[dict], pose_set: PoseSet) -> Predictions:
    _need_skeleton(path, "keypoints", COCO17, pose_set)
    people = [e for e in entries if e.get("category_id", 1) == 1]
    points = _points(path, "keypoints", [(str(e.get("image_id")), e.get("keypoints")) for e in people], len(COCO17))
    try:
        images, scores = [e["image_id"] for e in people], np.array([e["score"] for e in people], np.float64)
    except KeyError as error:
        raise DataError(
            f"{path}: an entry lacks the field {error}; COCO results have image_id, category_id, keypoints, score"
        ) from None
    return _unaligned(path, "COCO results", pose_set, images, points, scores)


def _ai_challenger(path: Path, entries: list[dict], pose_set: PoseSet) -> Predictions:
    _need_skeleton(path, "keypoint_annotations", AIC14, pose_set)
    try:
        people = [(str(e["image_id"]).split(".")[0], p) for e in entries for p in e["keypoint_annotations"].values()]
    except (KeyError, AttributeError) as error:
        raise DataError(
            f"{path}: an entry has no usable image_id and keypoint_annotations ({error}); see the AI Challenger result format"
        ) from None
    points = _points(path, "keypoint_annotations", people, len(AIC14))
    points[..., :2] -= ORIGIN["ai_challenger"]
    points[..., 2] = points[..., 2] != 3  # flag 3 = not labelled
    return _unaligned(
        path, "AI Challenger results", pose_set, [image for image, _ in people], points, np.ones(len(people))
    )


def _points(path: Path, field: str, people: list[tuple[str, list]], joints: int) -> np.ndarray:
    """(P,J,3) from flat lists of x, y, value; DataError naming the first image whose list has another length."""
    for image, numbers in people:
        if not isinstance(numbers, list) or len(numbers) != 3 * joints:
            size = len(numbers) if isinstance(numbers, list) else "no"
            raise DataError(
                f"{path}: field {field} of image {image} has {size} numbers, expected {3 * joints} (x, y, value of {joints} joints)"
            )
    try:
        return np.array([p for _, p in people], np.float64).reshape(-1, joints, 3)
    except (TypeError, ValueError) as error:
        raise DataError(
            f"{path}: field {field} holds something that is not a number ({error}); write numbers only"
        ) from error


def _unaligned(
    path: Path, kind: str, pose_set: PoseSet, images: list, points: np.ndarray, scores: np.ndarray
) -> Predictions:
    """Predictions by image; ids take the PoseSet's type, person ids count within the file."""
    try:
        image_id = np.array(images, dtype=None if pose_set.image_id.dtype.kind in "US" else pose_set.image_id.dtype)
    except (TypeError, ValueError):
        bad = next(i for i in itertools.chain(images) if not isinstance(i, int))
        raise DataError(f"{path}: field image_id has {bad!r}; {pose_set.name} has whole numbers") from None
    if pose_set.image_id.dtype.kind in "US":
        image_id = image_id.astype(str)
    box = box_of_joints(points[..., :2])
    return Predictions(
        skeleton=pose_set.skeleton,
        joints=points[..., :2],
        score=points[..., 2].astype(np.float32),
        person_score=scores,
        box=box,
        box_score=scores,
        area=box[:, 2] * box[:, 3],
        image_id=image_id,
        person_id=np.arange(len(points)),
        frame=np.full(len(points), -1),
        dataset=pose_set.name,
        split=pose_set.split,
        meta={"model": path.stem, "imported": kind, "final": True, "synthetic": pose_set.synthetic},
    )
