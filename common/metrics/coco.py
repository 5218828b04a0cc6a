"""COCO keypoint AP and AR: pycocotools underneath, fed from a PoseSet and a prediction file.

Rescoring and OKS-NMS happen here, when a file is scored, from what it holds (Simple Baselines' evaluation: joints above 0.2 count, poses
with OKS above 0.9 to a better one go). A file of final results (a COCO result JSON: `meta["final"]`) is scored as it is.
"""

from __future__ import annotations

import contextlib
import io

import numpy as np

from common.errors import DataError
from common.metrics.oks import oks_nms, rescore
from common.poses import PoseSet
from common.predictions import Predictions
from common.skeletons import COCO17

NAMES = ("AP", "Ap .5", "AP .75", "AP (M)", "AP (L)", "AR", "AR .5", "AR .75", "AR (M)", "AR (L)")
_PERSON = 1  # COCO's category id


def oks_ap(
    pose_set: PoseSet, predictions: Predictions, nms_threshold: float = 0.9, joint_threshold: float = 0.2
) -> dict[str, float]:
    """The ten figures of pycocotools' keypoint evaluation, by the originals' names, as fractions.

    Ground truth is every row of the PoseSet; rows with `ignore` (crowds, persons without keypoints; `regions` says which) absorb
    predictions without reward. Predictions in images that hold nobody are false positives; a joint that is NaN goes in as (0, 0). A figure
    is -1, as in pycocotools, where no counted person has that size (all of them when there is none); no predictions at all: 0, where
    pycocotools would fail. Raises DataError when the skeleton is not COCO's, areas are missing, or an image is not of the split.
    """
    _check(pose_set, predictions)
    results = coco_results(predictions, nms_threshold, joint_threshold)
    truth = ground_truth(pose_set, {r["image_id"] for r in results})
    return score_results(truth, results)


def score_results(truth: dict, results: list[dict]) -> dict[str, float]:
    """The ten figures for an annotation dictionary and a result list, both in COCO's JSON form."""
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError as error:
        raise DataError(
            f"oks_ap needs the package pycocotools, which cannot be imported ({error}): pip install pycocotools==2.0.11"
        ) from None
    if not results:
        return dict.fromkeys(NAMES, 0.0)
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = truth
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(results), "keypoints")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return dict(zip(NAMES, (float(v) for v in evaluation.stats)))


def final_people(
    predictions: Predictions, nms_threshold: float = 0.9, joint_threshold: float = 0.2
) -> tuple[np.ndarray, np.ndarray]:
    """Rows that survive OKS-NMS and their final scores: images in order of first appearance, best person first.

    Score = box score x mean of the joint scores above `joint_threshold`. A file marked `meta["final"]` keeps its rows, order and person
    scores.
    """
    if predictions.meta.get("final"):
        return np.arange(len(predictions)), np.asarray(predictions.person_score, np.float64)
    scores = rescore(predictions.box_score, predictions.score, joint_threshold)
    _, first, group = np.unique(predictions.image_id, return_index=True, return_inverse=True)
    rows_of = (
        np.split(np.argsort(group, kind="stable"), np.cumsum(np.bincount(group, minlength=len(first)))[:-1])
        if len(first)
        else []
    )
    kept = []
    for image in np.argsort(first):
        rows = rows_of[image]
        kept.append(
            rows[
                oks_nms(
                    predictions.joints[rows].astype(np.float64), scores[rows], predictions.area[rows], nms_threshold
                )
            ]
        )
    rows = np.concatenate(kept) if kept else np.zeros(0, np.int64)
    return rows, scores[rows]


def coco_results(predictions: Predictions, nms_threshold: float = 0.9, joint_threshold: float = 0.2) -> list[dict]:
    """The result list that COCO's servers and pycocotools read: image_id, category_id, keypoints (x, y, joint score each), score."""
    rows, scores = final_people(predictions, nms_threshold, joint_threshold)
    points = np.concatenate([predictions.joints[rows], predictions.score[rows][..., None]], -1)
    points = np.nan_to_num(points.astype(np.float64), nan=0.0).reshape(len(rows), 3 * len(COCO17))
    ids = predictions.image_id[rows].tolist()
    return [
        {"image_id": i, "category_id": _PERSON, "keypoints": p.tolist(), "score": float(s)}
        for i, p, s in zip(ids, points, scores)
    ]


def _check(pose_set: PoseSet, predictions: Predictions) -> None:
    for what, skeleton in (("the ground truth", pose_set.skeleton), ("the prediction file", predictions.skeleton)):
        if skeleton != COCO17:
            raise DataError(
                f"oks_ap needs COCO's 17 joints; {what} has skeleton {skeleton.name}. Score it with that data set's own protocols"
            )
    if len(pose_set) and pose_set.area is None:
        raise DataError(
            f"oks_ap needs the area of every person; {pose_set.name}/{pose_set.split} has none. Load it with common.datasets.coco"
        )


def ground_truth(pose_set: PoseSet, predicted_images: set) -> dict:
    """The PoseSet as a COCO annotation dictionary; ids start at 1 because pycocotools takes a match with id 0 for none."""
    listed = set(pose_set.regions or ()) | set(pose_set.image_id.tolist())
    if pose_set.regions is not None and predicted_images - listed:
        raise DataError(
            f"the prediction file has {len(predicted_images - listed)} images that {pose_set.name}/{pose_set.split} does not list, first "
            f"image_id {min(predicted_images - listed, key=str)}; give the split that was predicted"
        )
    crowd = _crowds(pose_set)
    points = np.concatenate([np.nan_to_num(pose_set.joints, nan=0.0), pose_set.visible[..., None]], -1).reshape(
        len(pose_set), 3 * len(COCO17)
    )
    annotations = [
        {
            "id": i + 1,
            "category_id": _PERSON,
            "image_id": image,
            "keypoints": points[i].tolist(),
            "num_keypoints": int((pose_set.visible[i] > 0).sum()),
            "bbox": pose_set.box[i].tolist(),
            "area": float(pose_set.area[i]),
            "iscrowd": int(crowd[i]),
        }
        for i, image in enumerate(pose_set.image_id.tolist())
    ]
    images = [{"id": i} for i in sorted(listed | predicted_images)]
    return {"info": {}, "images": images, "annotations": annotations, "categories": [{"id": _PERSON, "name": "person"}]}


def _crowds(pose_set: PoseSet) -> np.ndarray:
    """(N,) bool: rows to be set aside that several predictions may match. A single person without keypoints is set aside too but is no
    crowd.
    """
    if pose_set.ignore is None:
        return np.zeros(len(pose_set), bool)
    single = set()
    for image in np.unique(pose_set.image_id[pose_set.ignore]).tolist() if pose_set.regions is not None else ():
        single |= {region["id"] for region in pose_set.regions.get(image, ()) if not region["iscrowd"]}
    return pose_set.ignore & ~np.isin(pose_set.person_id, list(single))
