"""COCO keypoint AP and AR, as pycocotools counts them (a test compares), for any skeleton with OKS constants.

Rescoring and OKS-NMS happen here, when a file is scored, from what it holds (Simple Baselines' evaluation: joints above
0.2 count, poses with OKS above 0.9 to a better one go). A file of final results (a COCO result JSON: `meta["final"]`)
is scored as it is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from common.errors import DataError
from common.metrics.oks import known_sigmas, oks_nms, pairs, rescore, sigmas_of
from common.poses import PoseSet
from common.predictions import Predictions

NAMES = ("AP", "Ap .5", "AP .75", "AP (M)", "AP (L)", "AR", "AR .5", "AR .75", "AR (M)", "AR (L)")
# CrowdPose's three kinds of images by their crowd index, lower bound excluded
CROWD = {"AP (easy)": (-1, 0.1), "AP (medium)": (0.1, 0.8), "AP (hard)": (0.8, 1)}
THRESHOLDS, RECALL = np.linspace(0.5, 0.95, 10), np.linspace(0, 1, 101)
_AREAS = np.array([[0, 1e10], [32**2, 96**2], [96**2, 1e10]])  # all, medium, large, in square pixels
_ALIKE = 0.9  # OKS of two predictions above which the worse one goes
_MOST = 20  # predictions that count in an image
_PERSON = 1  # COCO's category id


@dataclass(frozen=True)
class Matches:
    """Which predictions found a person, for A size ranges (all, medium, large) and T OKS thresholds."""

    images: list  # (I,) ids in ascending order
    image: np.ndarray  # (D,) place in `images` of each prediction that counts, ascending
    score: np.ndarray  # (D,)
    right: np.ndarray  # (A,T,D) bool: found a person that counts; neither right nor wrong: set aside
    wrong: np.ndarray  # (A,T,D) bool
    persons: np.ndarray  # (A,I) how many count


def oks_ap(pose_set: PoseSet, predictions: Predictions) -> dict[str, float]:
    """The ten figures of pycocotools' keypoint evaluation, by the originals' names, as fractions; by crowd index too.

    Ground truth is every row of the PoseSet; rows with `ignore` (crowds, persons without keypoints) absorb predictions
    without reward, crowds any number. Predictions in images that hold nobody are false positives; a joint that is NaN
    goes in as (0, 0). A figure is -1, as in pycocotools, where no counted person has that size (all of them when there
    is none); no predictions at all: 0, where pycocotools would fail. Raises DataError when the skeletons differ, OKS
    constants or areas are missing, a score is no number, or an image is not of the split.
    """
    matches = match(pose_set, predictions)
    figures = _figures(matches, np.ones(len(matches.images), bool))
    if pose_set.crowd_index is not None:
        index = dict(zip(pose_set.image_id.tolist(), pose_set.crowd_index.tolist()))
        for name, (low, high) in CROWD.items():
            chosen = np.array([low < index.get(image, np.nan) <= high for image in matches.images], bool)
            figures[name] = _figures(matches, chosen)["AP"]
    return figures


def _figures(matches: Matches, chosen: np.ndarray) -> dict[str, float]:
    """The ten figures over the `chosen` (I,) images."""
    used = np.flatnonzero(chosen[matches.image])
    if not len(matches.image):
        return dict.fromkeys(NAMES, 0.0)
    used = used[np.argsort(-matches.score[used], kind="stable")]
    precision, recall = np.full((3, 10, 101), -1.0), np.full((3, 10), -1.0)
    for area, persons in enumerate(matches.persons[:, chosen].sum(1)):
        if persons:
            hits, misses = (np.cumsum(part[area][:, used], 1).astype(float) for part in (matches.right, matches.wrong))
            for i in range(len(THRESHOLDS)):
                precision[area, i], recall[area, i] = curve(hits[i], misses[i], persons)
    figures = [f for table in (precision, recall) for f in (table[0], table[0][0], table[0][5], table[1], table[2])]
    return {name: float(np.mean(figure)) for name, figure in zip(NAMES, figures)}


def curve(hits: np.ndarray, misses: np.ndarray, persons: float) -> tuple[np.ndarray, float]:
    """(101,) precision at RECALL, no lower than at a higher one, and the highest; from sums of hits, best first."""
    if not len(hits):
        return np.zeros(len(RECALL)), 0.0
    precision = hits / (hits + misses + np.spacing(1))
    precision = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
    return precision[np.searchsorted(hits / persons, RECALL, side="left")], hits[-1] / persons


def match(pose_set: PoseSet, predictions: Predictions) -> Matches:
    """Every image's matches: predictions in order of score take the person that they fit best and nobody has taken."""
    _check(pose_set, predictions)
    rows, scores = final_people(predictions, sigmas_of(pose_set))
    ids = predictions.image_id[rows].tolist()
    listed = set(pose_set.regions or ()) | set(pose_set.image_id.tolist())
    if pose_set.regions is not None and (foreign := set(ids) - listed):
        what = f"{len(foreign)} images that {pose_set.name}/{pose_set.split} does not list"
        remedy = "give the split that was predicted, and image ids as its annotations have them"
        raise DataError(f"the prediction file has {what}, first image_id {min(foreign, key=str)}; {remedy}")
    images = sorted(listed | set(ids))
    number = {image: i for i, image in enumerate(images)}
    person_image, image = (np.array([number[i] for i in some], np.int64) for some in (pose_set.image_id.tolist(), ids))
    order = np.lexsort((-scores, image))
    rank = _rank(image[order])
    order, rank = order[rank < _MOST], rank[rank < _MOST]
    image, score = image[order], scores[order]
    joints = np.nan_to_num(predictions.joints[rows[order]].astype(np.float64))

    # persons of an image stand in columns, the last one first: of equally good ones pycocotools takes the last
    count, column = np.bincount(person_image, minlength=len(images)), np.zeros(len(person_image), np.int64)
    by_image = np.argsort(person_image, kind="stable")
    column[by_image] = count.max(initial=1) - 1 - _rank(person_image[by_image])
    crowd = pose_set.crowd if pose_set.crowd is not None else pose_set.ignore
    crowd = np.zeros(len(pose_set), bool) if crowd is None else crowd
    area = pose_set.area if pose_set.area is not None else np.zeros(len(pose_set))
    outside = (area < _AREAS[:, :1]) | (area > _AREAS[:, 1:])
    aside = np.ones((3, len(images), count.max(initial=1)), bool)
    aside[:, person_image, column] = outside | crowd | ~(pose_set.visible > 0).any(1)
    crowds = np.zeros(aside.shape[1:], bool)
    crowds[person_image, column] = crowd
    similarity = np.full((len(image), aside.shape[2]), -1.0)
    person, guess = pairs(person_image, image, count)
    similarity[guess, column[person]] = _oks(pose_set, joints, person, guess)

    size = np.prod(np.ptp(joints, axis=1), axis=-1) if len(joints) else np.zeros(0)
    right, found = (np.zeros((3, len(THRESHOLDS), len(image)), bool) for _ in range(2))
    taken = np.zeros((3, len(THRESHOLDS), *aside.shape[1:]), bool)
    least = np.minimum(THRESHOLDS, 1 - 1e-10)[:, None, None]
    for place in range(rank.max(initial=-1) + 1):  # of every image the best prediction, then the next
        now = np.flatnonzero(rank == place)
        here = image[now]
        free = (similarity[now] >= least) & (~taken[:, :, here] | crowds[here])
        counts = np.where(free & ~aside[:, None, here], similarity[now], -1.0)
        set_aside = np.where(free & aside[:, None, here], similarity[now], -1.0)
        right[:, :, now] = hit = counts.max(-1) > 0
        found[:, :, now] = either = hit | (set_aside.max(-1) > 0)
        best = np.where(hit, counts.argmax(-1), set_aside.argmax(-1))
        a, t, d = np.nonzero(either)
        taken[a, t, here[d], best[a, t, d]] = True
    wrong = ~found & ((size >= _AREAS[:, :1]) & (size <= _AREAS[:, 1:]))[:, None]
    return Matches(images, image, score, right, wrong, (~aside).sum(-1))


def _rank(groups: np.ndarray) -> np.ndarray:
    """(N,) 0, 1, ... within each run of equal numbers."""
    return np.arange(len(groups)) - np.searchsorted(groups, groups)


def _oks(pose_set: PoseSet, joints: np.ndarray, person: np.ndarray, guess: np.ndarray) -> np.ndarray:
    """(P,) OKS of pairs; to a person without keypoints by the distance from twice its box."""
    labelled = pose_set.visible > 0
    truth, predicted = np.nan_to_num(pose_set.joints)[person], joints[guess]
    off = predicted - truth
    none = np.flatnonzero(~labelled.any(1)[person])
    x, y, w, h = pose_set.box[person[none]].T
    low, high = np.stack([x - w, y - h], -1)[:, None], np.stack([x + 2 * w, y + 2 * h], -1)[:, None]
    off[none] = np.maximum(0, low - predicted[none]) + np.maximum(0, predicted[none] - high)
    sigmas, area = np.asarray(sigmas_of(pose_set)), np.zeros(len(pose_set)) if pose_set.area is None else pose_set.area
    exponent = (off**2).sum(-1) / (2 * sigmas) ** 2 / (area[person, None] + np.spacing(1)) / 2
    used = (labelled | ~labelled.any(1, keepdims=True))[person]
    return np.where(used, np.exp(-exponent), 0).sum(-1) / used.sum(-1)


def final_people(predictions: Predictions, sigmas: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Rows that survive OKS-NMS and their final scores: images in order of first appearance, best person first.

    Score = box score x mean of the joint scores above 0.2. A file marked `meta["final"]` stays as it is.
    """
    final = predictions.meta.get("final")
    scores = np.asarray(predictions.person_score, np.float64)
    scores = scores if final else rescore(predictions.box_score, predictions.score)
    if count := int((~np.isfinite(scores)).sum()):
        what = f"{count} persons have a score (person_score, or box_score) that is no number"
        raise DataError(f"the prediction file: {what}; write numbers, or leave these persons out")
    if final:
        return np.arange(len(predictions)), scores
    by_image: dict = {}
    for row, image in enumerate(predictions.image_id.tolist()):
        by_image.setdefault(image, []).append(row)
    joints = predictions.joints.astype(np.float64)
    sigmas = known_sigmas(predictions.skeleton) if sigmas is None else sigmas
    some = map(np.array, by_image.values())
    kept = [rows[oks_nms(joints[rows], scores[rows], predictions.area[rows], _ALIKE, sigmas)] for rows in some]
    rows = np.concatenate(kept) if kept else np.zeros(0, np.int64)
    return rows, scores[rows]


def coco_results(predictions: Predictions) -> list[dict]:
    """The results that COCO's servers and pycocotools read: image_id, category_id, keypoints (x, y, score), score."""
    rows, scores = final_people(predictions)
    points = np.concatenate([predictions.joints[rows], predictions.score[rows][..., None]], -1)
    points = np.nan_to_num(points.astype(np.float64), nan=0.0).reshape(len(rows), 3 * len(predictions.skeleton))
    return [
        {"image_id": i, "category_id": _PERSON, "keypoints": p.tolist(), "score": float(s)}
        for i, p, s in zip(predictions.image_id[rows].tolist(), points, scores)
    ]


def _check(pose_set: PoseSet, predictions: Predictions) -> None:
    where = f"{pose_set.name}/{pose_set.split}"
    if predictions.skeleton != pose_set.skeleton:
        both = f"the ground truth has {pose_set.skeleton.name}, the prediction file {predictions.skeleton.name}"
        raise DataError(f"oks_ap needs one skeleton; {both}")
    if sigmas_of(pose_set) is None or (len(pose_set) and pose_set.area is None):
        raise DataError(f"oks_ap needs OKS constants and areas; give {where} the fields sigmas and area")
