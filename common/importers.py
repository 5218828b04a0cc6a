"""Prediction files of every kind that people publish, read by what is in them, as `Predictions` for one PoseSet.

| content | is | frame of the file |
|---|---|---|
| our `.npz` | `common.predictions` | 0-based |
| lines of JSON with `persons` | our `joints.jsonl`, as every predict.py writes it | 0-based |
| `.mat` or `.h5` with `preds` | MPII, (N,16,2) in any axis order (Simple Baselines, Tompson) | MPII's own |
| `.mat` with `pos_pred_src` | MPII's `gt_valid.mat`, which carries Tompson's predictions, (16,2,N) | MPII's own |
| `.mat` with `prediction_all` | LSP, (14,2,N) in any axis order (Convolutional Pose Machines) | LSP's own |
| `.mat` with `pred` | MobilePose's Penn Action test, (N,15,2), columns y, x | 256-pixel crops |
| JSON list with `keypoints` | COCO results | COCO's own |
| JSON list with `keypoint_annotations` | AI Challenger submission | AI Challenger's own |

Files in a data set's own frame move exactly as its loader moves the annotations. Anything else is a DataError naming
file, entry, field and remedy. Persons whose file does not say which annotated person they are have `person_id` -1: they
are scored by image only.
"""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np

from common import datasets
from common.datasets import files
from common.datasets.files import Row, column, short, texts
from common.errors import DataError
from common.metrics.mobilepose import crop_box, whole_clips
from common.poses import PoseSet, box_of_joints
from common.predictions import Predictions, load_predictions, predictions_for
from common.skeletons import AIC14, LPM14, LSP14, MPII16, PENN13, Skeleton, from_card, skeleton_map

_KINDS = "our .npz or joints.jsonl, .mat/.h5 with preds, pos_pred_src, prediction_all or pred, COCO or AIC JSON"
# variable of a Matlab or HDF5 file -> the joints that it holds, and whose first pixel
_VARIABLES = {"preds": (MPII16, "mpii"), "pos_pred_src": (MPII16, "mpii"), "prediction_all": (LSP14, "lsp")}


def load_any(path: str | Path, pose_set: PoseSet) -> Predictions:
    """Predictions for `pose_set` from any file listed above; which one it is is read off the content, not the name.

    Row i belongs to row i of the PoseSet, except for data sets that are scored by image, whose files may hold any
    number of persons. Joints come in the PoseSet's skeleton, those of others' files in full precision; NaN where the
    file has none. Raises DataError naming the file, the field and the remedy.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"prediction file {path} does not exist; write it with a house's val.py or give {_KINDS}")
    with open(path, "rb") as file:
        head = file.read(512).removeprefix(b"\xef\xbb\xbf").lstrip()
    if head.startswith(b"PK"):
        return _own(path, pose_set)
    if head.startswith(b"\x89HDF") or b"MATLAB 7.3" in head:  # Matlab's v7.3 is HDF5 behind a 512-byte header
        return _arrays(path, _read_hdf5(path), pose_set)
    if head.startswith(b"MATLAB"):
        return _arrays(path, files.read_mat(path), pose_set)
    if head.startswith(b"{"):
        return _lines(path, pose_set)
    if head.startswith(b"["):
        return _results(path, pose_set)
    raise DataError(f"{path} is no prediction file that is known here; expected {_KINDS}")


# ---- our own ---------------------------------------------------------------------------------------------------------


def _own(path: Path, pose_set: PoseSet) -> Predictions:
    predictions = load_predictions(path)
    if predictions.dataset and predictions.dataset != pose_set.name:
        other = f"field dataset is {predictions.dataset!r}, the ground truth is {pose_set.name!r}"
        raise DataError(f"{path}: {other}; give that data set, or predict again")
    predictions = _in_skeleton(predictions, pose_set.skeleton, path)
    if not datasets.record(pose_set.name).by_image:
        return align_rows(predictions, pose_set, path)
    _listed([f"{path}: person[{i}]" for i in range(len(predictions))], predictions.image_id.tolist(), pose_set)
    return predictions


def align_rows(predictions: Predictions, pose_set: PoseSet, path: str | Path = "the prediction file") -> Predictions:
    """The predictions in the PoseSet's order, by (image_id, person_id, frame); DataError: one is missing, or twice."""
    frame = pose_set.frame if pose_set.frame is not None else np.full(len(pose_set), -1)
    wanted = list(zip(pose_set.image_id.tolist(), pose_set.person_id.tolist(), frame.tolist()))
    found = list(zip(predictions.image_id.tolist(), predictions.person_id.tolist(), predictions.frame.tolist()))
    if found == wanted:
        return predictions
    if (predictions.person_id < 0).any():
        what = "it does not say which annotated persons its persons are"
        raise DataError(f"{path}: {what}; write it with val.py, or score it by image")
    row = {key: i for i, key in enumerate(found)}
    if len(row) < len(found):
        what = "fields image_id, person_id, frame name the same person more than once"
        raise DataError(f"{path}: {what}; write one row a person")
    missing = [key for key in wanted if key not in row]
    if missing:
        what = f"{len(missing)} of the {len(wanted)} persons of {pose_set.name}/{pose_set.split} are missing"
        first = f"first (image, person, frame) {missing[0]}"
        remedy = "predict the whole split (no --limit), or give the split that was predicted"
        raise DataError(f"{path}: field image_id: {what}, {first}; {remedy}")
    return predictions.select(np.array([row[key] for key in wanted], np.int64))


def _in_skeleton(predictions: Predictions, target: Skeleton, path: Path) -> Predictions:
    """The predictions with the joints of `target`; which ones are stand-ins is said in `meta["stand_ins"]`."""
    if predictions.skeleton == target:
        return predictions
    mapping = skeleton_map(predictions.skeleton, target)
    if not any(mapping.sources):
        what = f"field skeleton is {predictions.skeleton.name}, which has no joint of {target.name}"
        raise DataError(f"{path}: {what}; give the matching data set")
    none = np.zeros(len(predictions), np.float32)
    score = np.stack([predictions.score[:, list(s)].min(1) if s else none for s in mapping.sources], 1)
    stand_ins = [joint for joint, synthetic in zip(target.joints, mapping.synthetic) if synthetic]
    meta = predictions.meta | {"mapped_from": predictions.skeleton.name}
    meta |= {"stand_ins": stand_ins} if stand_ins else {}
    joints = mapping.apply(predictions.joints.astype(np.float64)).astype(np.float32)
    return replace(predictions, skeleton=target, joints=joints, score=score.astype(np.float32), meta=meta)


def _lines(path: Path, pose_set: PoseSet) -> Predictions:
    """`joints.jsonl`. Where pictures hold one annotated person each, that is the best one found."""
    rows = files.read_lines(path)
    cards = {(str(e.get("skeleton")), json.dumps(e.get("joint_names"))) for _, e in rows if "error" not in e}
    if len(cards) != 1:
        raise DataError(f"{path}: {len(cards)} skeletons; a joints.jsonl has one skeleton and joint_names in all lines")
    name, joint_names = cards.pop()
    skeleton = from_card({"name": name, "joints": json.loads(joint_names)}, f"{path}: fields skeleton, joint_names")
    image_of = _image_finder(path, pose_set)
    images, people = [], []
    for where, entry in rows:
        for person_where, person in files.rows(where, entry, "persons") if "error" not in entry else []:
            images.append(image_of(where, entry))
            people.append((person_where, person))
    joints = [_with_nan(where, person, len(skeleton)) for where, person in people]
    points = column(list(zip([w for w, _ in people], joints)), "joints", (len(skeleton), 3))
    score = column(people, "score", default=1.0)
    points[points == _NULL] = np.nan
    found = _by_image(path, "joints.jsonl", pose_set, images, points, score, skeleton)
    found = _in_skeleton(replace(found, meta=found.meta | {"boxes": "not stated"}), pose_set.skeleton, path)
    alone = len(set(pose_set.image_id.tolist())) == len(pose_set)
    return _best_of_each(found, pose_set) if alone and not datasets.record(pose_set.name).by_image else found


_NULL = -(2.0**60)  # stands for null while the numbers are checked


def _with_nan(where: str, person: dict, joints: int) -> dict:
    points = person.get("joints")
    points = [[None] * 3 if p is None else p for p in points] if isinstance(points, list) else None
    if points is None or len(points) != joints or not all(isinstance(p, list) for p in points):
        raise DataError(f"{where}.joints is {short(person.get('joints'))}; write {joints} times [x, y, score] or null")
    return {"joints": [[_NULL if v is None else v for v in point] for point in points]}


def _image_finder(path: Path, pose_set: PoseSet):
    """A function that finds the image id of a line: by path, its last parts if unique, or id."""
    known: dict[str, object] = {}
    for image_id, file in (pose_set.paths or dict(zip(pose_set.image_id.tolist(), pose_set.images))).items():
        parts = Path(file).parts
        for name in {str(image_id), file, *("/".join(parts[-k:]) for k in (1, 2, 3))}:
            known[name] = image_id if known.get(name, image_id) == image_id else None

    def find(where: str, entry: dict):
        name = texts([(where, entry)], "image")[0]
        parts = Path(name).parts
        for guess in (name, *("/".join(parts[-k:]) for k in (3, 2, 1)), Path(name).stem):
            if known.get(guess) is not None:
                return known[guess]
        split = f"{pose_set.name}/{pose_set.split}"
        raise DataError(f"{where}.image is {name!r}, which is no image of {split}; give the split that was predicted")

    return find


def _best_of_each(found: Predictions, pose_set: PoseSet) -> Predictions:
    """One row for every annotated person: the best person found in its picture, NaN where nobody was."""
    best = {found.image_id[row]: row for row in np.argsort(found.person_score, kind="stable").tolist()}
    rows = np.array([best.get(image, -1) for image in pose_set.image_id], np.int64)
    joints, score = np.full(pose_set.joints.shape, np.nan), np.zeros(pose_set.joints.shape[:2])
    joints[rows >= 0], score[rows >= 0] = found.joints[rows[rows >= 0]], found.score[rows[rows >= 0]]
    missing = int((rows < 0).sum())
    return predictions_for(pose_set, joints, score, found.meta | ({"missing_rows": missing} if missing else {}))


# ---- Matlab and HDF5 -------------------------------------------------------------------------------------------------


def _read_hdf5(path: Path) -> dict[str, np.ndarray]:
    import h5py

    try:
        with h5py.File(path, "r") as file:
            arrays = {k: v for k, v in file.items() if isinstance(v, h5py.Dataset)}
            files.check_size(sum(v.nbytes for v in arrays.values()), path)
            return {k: np.array(v) for k, v in arrays.items()}
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, MemoryError) as error:
        raise DataError(f"{path} is not a readable HDF5 file ({error}); download or write it again") from error


def _arrays(path: Path, content: dict[str, np.ndarray], pose_set: PoseSet) -> Predictions:
    """A Matlab or HDF5 file by its variables."""
    for field, (skeleton, dataset) in _VARIABLES.items():
        if field in content:
            _need_skeleton(path, field, skeleton, pose_set)
            joints = _as_rows(content[field], len(pose_set), len(skeleton), f"{path}: field {field}", pose_set)
            joints -= datasets.record(dataset).origin
            if skeleton == MPII16:
                # pelvis and thorax of a file of 14-joint predictions that fills both with one point (Tompson's does)
                pair = MPII16.indices(["pelvis", "thorax"])
                if len(joints) and (joints[:, pair[0]] == joints[:, pair[1]]).all(-1).mean() > 0.5:
                    joints[:, pair] = np.nan
            return _aligned(path, f"{field} ({skeleton.name})", joints, pose_set)
    if "pred" in content:
        joints, box, missing = _read_pred(path, content["pred"], pose_set)
        predictions = _aligned(path, "pred (MobilePose)", joints, pose_set)
        return replace(predictions, box=box, meta={**predictions.meta, "boxes": "oracle", "missing_rows": missing})
    have = ", ".join(k for k in content if not k.startswith("__")) or "nothing"
    known = ", ".join((*_VARIABLES, "pred"))
    raise DataError(f"{path} holds {have}, none of the known variables {known}; save the joints under one of these")


def _need_skeleton(path: Path, field: str, skeleton: Skeleton, pose_set: PoseSet) -> None:
    if pose_set.skeleton != skeleton:
        other = f"the ground truth {pose_set.name} has {pose_set.skeleton.name}"
        what = f"field {field} holds joints of {skeleton.name}, {other}"
        raise DataError(f"{path}: {what}; give the data set that the file was made for")


def _as_rows(array: np.ndarray, rows: int, joints: int, where: str, pose_set: PoseSet) -> np.ndarray:
    """(N,J,2) float64 from an array with these three axes in any order; the usual orders first."""
    if array.dtype.kind not in "iuf":
        raise DataError(f"{where} holds something else than numbers ({array.dtype}); write the joints as numbers")
    for order in ((0, 1, 2), (2, 1, 0), (2, 0, 1), (0, 2, 1), (1, 0, 2), (1, 2, 0)):
        if array.ndim == 3 and tuple(array.shape[i] for i in order) == (rows, joints, 2):
            return array.transpose(order).astype(np.float64)
    wanted = f"{pose_set.name}/{pose_set.split} needs {rows} persons x {joints} joints x 2 in any order"
    remedy = "Give the split that was predicted, or predict every person of it in the order of the annotation file"
    raise DataError(f"{where} has shape {array.shape}; {wanted}. {remedy}")


def _aligned(path: Path, kind: str, joints: np.ndarray, pose_set: PoseSet) -> Predictions:
    score = np.where(np.isnan(joints).any(-1), 0, 1).astype(np.float32)
    meta = {"model": path.stem, "imported": kind, "final": True}
    predictions = predictions_for(pose_set, joints, score, meta, person_score=np.ones(len(joints), np.float32))
    return replace(predictions, joints=joints)  # in the file's own precision


# ---- MobilePose's pred.mat -------------------------------------------------------------------------------------------

_CROP = 256


def _read_pred(path: Path, pred: np.ndarray, pose_set: PoseSet) -> tuple[np.ndarray, np.ndarray, int]:
    """(M,13,2) joints in 0-based frame pixels of all rows, (M,4) crops x, y, w, h, and how many are left out (NaN).

    Its test program writes `pred` (N,15,2): the arg-max of each map times 256/31, columns y, x, channels in its order
    with the background last; N = frames of whole clips of five, videos and frames in order (taken to be sorted). The
    crop is the extent of the stored joints, placeholders of hidden ones included, and 256/3 px around it, within the
    frame, scaled so that its longer side is 256 and centred on a square canvas. The file does not hold its crops, so
    they are made again from the label files, which `pose_set` comes from.
    """
    if pose_set.skeleton != PENN13 or pose_set.sequence is None or pose_set.frame is None:
        other = f"the ground truth is {pose_set.name} ({pose_set.skeleton.name})"
        raise DataError(f"{path}: field pred is MobilePose's for Penn Action; {other}. Give penn_action")
    whole = whole_clips(pose_set.sequence, pose_set.frame)
    rows = {int(whole.sum()): np.flatnonzero(whole), len(pose_set): np.arange(len(pose_set))}
    if pred.ndim != 3 or pred.shape[1:] not in ((len(LPM14) + 1, 2), (len(LPM14), 2)) or len(pred) not in rows:
        wanted = f"({int(whole.sum())}, 15, 2), the frames of whole clips of five, or all {len(pose_set)} frames"
        what = f"has shape {pred.shape}; {pose_set.name}/{pose_set.split} needs {wanted}"
        raise DataError(f"{path}: field pred {what}. Give the split that was predicted")
    covered, stored = rows[len(pred)], np.empty(pose_set.joints.shape)
    for sequence in np.unique(pose_set.sequence):
        video = pose_set.sequence == sequence
        x, y = files.read_numbers(Path(pose_set.root) / "labels" / f"{int(sequence):04d}.mat", "x", "y")
        stored[video] = np.stack([x, y], -1)[pose_set.frame[video]]
    # the original takes stored coordinates, which count from 1, for array indices
    box, origin = crop_box(stored, pose_set.image_size), datasets.record("penn_action").origin
    factor = _CROP / box[:, 2:].max(1, keepdims=True)
    offset = np.trunc((_CROP - np.trunc(box[:, 2:] * factor)) / 2)
    points = pred[:, : len(LPM14), ::-1].astype(np.float64) - offset[covered, None]
    points = points / factor[covered, None] + box[covered, None, :2] - origin
    joints = np.full(pose_set.joints.shape, np.nan)
    joints[covered] = skeleton_map(LPM14, PENN13).apply(points)
    box[:, :2] -= origin
    return joints, box, len(pose_set) - len(covered)


# ---- result lists ----------------------------------------------------------------------------------------------------


def _results(path: Path, pose_set: PoseSet) -> Predictions:
    rows = files.rows(path, files.read_json(path))
    if not rows:
        return _by_image(path, "empty JSON", pose_set, [], np.zeros((0, len(pose_set.skeleton), 3)), np.zeros(0))
    if "keypoint_annotations" in rows[0][1]:
        return _ai_challenger(path, rows, pose_set)
    if "keypoints" in rows[0][1]:
        return _coco(path, rows, pose_set)
    what = "has neither 'keypoints' (COCO results) nor 'keypoint_annotations' (AI Challenger)"
    raise DataError(f"{rows[0][0]} {what}; expected {_KINDS}")


def _coco(path: Path, rows: list[Row], pose_set: PoseSet) -> Predictions:
    wanted = 1 if pose_set.category is None else pose_set.category
    category = column(rows, "category_id", whole=True, default=wanted)
    others = sorted(set(category[category != wanted].tolist()))
    if not (category == wanted).any():
        what = f"field category_id is {', '.join(map(str, others))} everywhere"
        right = f"the persons of {pose_set.name}/{pose_set.split} have {wanted}"
        raise DataError(f"{path}: {what}; {right}. Write that number")
    if others:
        text = f"{(category != wanted).sum()} of the {len(rows)} results are of other categories ({others})"
        warnings.warn(f"{path}: {text} than {wanted} and left out", stacklevel=3)
    rows = [row for row, k in zip(rows, category.tolist()) if k == wanted]
    named = pose_set.image_id.dtype.kind in "US"
    images = texts(rows, "image_id") if named else column(rows, "image_id", whole=True).tolist()
    _listed([where for where, _ in rows], images, pose_set)
    points = column(rows, "keypoints", (3 * len(pose_set.skeleton),)).reshape(len(rows), -1, 3)
    return _by_image(path, "COCO results", pose_set, images, points, column(rows, "score"))


def _listed(names: list[str], images: list, pose_set: PoseSet) -> None:
    """DataError naming the first row whose image the PoseSet does not list."""
    listed = set(images) if pose_set.regions is None else set(pose_set.regions) | set(pose_set.image_id.tolist())
    for where, image in zip(names, images):
        if image not in listed:
            what = f"is {image}, which {pose_set.name}/{pose_set.split} does not list"
            raise DataError(f"{where}.image_id {what}; give the split that was predicted, and ids as its annotations")


def _ai_challenger(path: Path, rows: list[Row], pose_set: PoseSet) -> Predictions:
    _need_skeleton(path, "keypoint_annotations", AIC14, pose_set)
    last = files.last_of_each(path, rows, [image.split(".")[0] for image in texts(rows, "image_id")])
    images, people = [], []
    for image, (where, entry) in last.items():
        found = entry.get("keypoint_annotations")
        if not isinstance(found, dict):
            raise DataError(f"{where}.keypoint_annotations is {short(found)}; write {{'human1': [x, y, v, ...], ...}}")
        images += [image] * len(found)
        people += [(f"{where}.keypoint_annotations", {who: numbers}, who) for who, numbers in found.items()]
    points = [column([(where, person)], who, (3 * len(AIC14),))[0] for where, person, who in people]
    table = np.array(points, np.float64).reshape(len(people), len(AIC14), 3)
    table[..., :2] -= datasets.record("ai_challenger").origin
    table[..., 2] = table[..., 2] != 3  # flag 3 = not labelled
    return _by_image(path, "AI Challenger results", pose_set, images, table, np.ones(len(people)))


def _by_image(
    path: Path, kind: str, pose_set: PoseSet, images: list, points: np.ndarray, scores: np.ndarray, skeleton=None
) -> Predictions:
    """Predictions of persons that the file does not tell apart; ids take the PoseSet's type."""
    box, unknown = box_of_joints(points[..., :2]), np.full(len(points), -1)
    ids = np.array(images, dtype=str if pose_set.image_id.dtype.kind in "US" else pose_set.image_id.dtype)
    found = points[..., :2], points[..., 2].astype(np.float32), scores, box, scores, box[:, 2] * box[:, 3]
    meta = {"model": path.stem, "imported": kind, "final": True, "synthetic": pose_set.synthetic}
    whose: dict = {"dataset": pose_set.name, "split": pose_set.split, "meta": meta}
    return Predictions(skeleton or pose_set.skeleton, *found, ids, unknown, unknown, **whose)
