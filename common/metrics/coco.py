"""COCO keypoint AP and AR: pycocotools underneath, for any skeleton with OKS constants.

Rescoring and OKS-NMS happen here, when a file is scored, from what it holds (Simple Baselines' evaluation: joints above
0.2 count, poses with OKS above 0.9 to a better one go). A file of final results (a COCO result JSON: `meta["final"]`)
is scored as it is.
"""

from __future__ import annotations

import contextlib
import io

import numpy as np

from common.errors import DataError
from common.metrics.oks import known_sigmas, oks_nms, rescore, sigmas_of
from common.poses import PoseSet
from common.predictions import Predictions

NAMES = ("AP", "Ap .5", "AP .75", "AP (M)", "AP (L)", "AR", "AR .5", "AR .75", "AR (M)", "AR (L)")
# CrowdPose's three kinds of images by their crowd index, lower bound excluded
CROWD = {"AP (easy)": (-1, 0.1), "AP (medium)": (0.1, 0.8), "AP (hard)": (0.8, 1)}
_PERSON = 1  # COCO's category id


def oks_ap(
    pose_set: PoseSet, predictions: Predictions, nms_threshold: float = 0.9, joint_threshold: float = 0.2
) -> dict[str, float]:
    """The ten figures of pycocotools' keypoint evaluation, by the originals' names, as fractions; by crowd index too.

    Ground truth is every row of the PoseSet; rows with `ignore` (crowds, persons without keypoints) absorb predictions
    without reward, crowds any number. Predictions in images that hold nobody are false positives; a joint that is NaN
    goes in as (0, 0). A figure is -1, as in pycocotools, where no counted person has that size (all of them when there
    is none); no predictions at all: 0, where pycocotools would fail. Raises DataError when the skeletons differ, OKS
    constants or areas are missing, a score is no number, or an image is not of the split.
    """
    _check(pose_set, predictions)
    results = coco_results(predictions, nms_threshold, joint_threshold, sigmas_of(pose_set))
    truth = ground_truth(pose_set, {r["image_id"] for r in results})
    figures = score_results(truth, results, sigmas_of(pose_set))
    if pose_set.crowd_index is None:
        return figures
    index = dict(zip(pose_set.image_id.tolist(), pose_set.crowd_index.tolist()))
    for name, (low, high) in CROWD.items():
        images = [image for image, value in index.items() if low < value <= high]
        figures[name] = score_results(truth, results, sigmas_of(pose_set), images)["AP"] if images else -1.0
    return figures


def score_results(truth: dict, results: list[dict], sigmas=None, images: list | None = None) -> dict[str, float]:
    """The ten figures for annotations and results in COCO's JSON form; `images`: only these."""
    if not results:
        return dict.fromkeys(NAMES, 0.0)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = evaluated(truth, results, sigmas, images)
        evaluation.accumulate()
        evaluation.summarize()
    return dict(zip(NAMES, (float(v) for v in evaluation.stats)))


def evaluated(truth: dict, results: list[dict], sigmas=None, images: list | None = None, by_size: bool = True):
    """pycocotools' COCOeval with every image's matches made, nothing summed yet; results must not be empty."""
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError as error:
        what = "oks_ap needs the package pycocotools"
        raise DataError(f"{what}, which cannot be imported ({error}): pip install pycocotools==2.0.11") from None
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = truth
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(results), "keypoints")
        if sigmas is not None:
            evaluation.params.kpt_oks_sigmas = np.asarray(sigmas)
        if images is not None:
            evaluation.params.imgIds = images
        if not by_size:
            evaluation.params.areaRng, evaluation.params.areaRngLbl = evaluation.params.areaRng[:1], ["all"]
        evaluation.evaluate()
    return evaluation


def final_people(
    predictions: Predictions, nms_threshold: float = 0.9, joint_threshold: float = 0.2, sigmas: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Rows that survive OKS-NMS and their final scores: images in order of first appearance, best person first.

    Score = box score x mean of the joint scores above `joint_threshold`. A file marked `meta["final"]` stays as it is.
    """
    if predictions.meta.get("final"):
        return np.arange(len(predictions)), np.asarray(predictions.person_score, np.float64)
    scores = rescore(predictions.box_score, predictions.score, joint_threshold)
    by_image: dict = {}
    for row, image in enumerate(predictions.image_id.tolist()):
        by_image.setdefault(image, []).append(row)
    joints = predictions.joints.astype(np.float64)
    sigmas = known_sigmas(predictions.skeleton) if sigmas is None else sigmas
    kept = [
        rows[oks_nms(joints[rows], scores[rows], predictions.area[rows], nms_threshold, sigmas)]
        for rows in map(np.array, by_image.values())
    ]
    rows = np.concatenate(kept) if kept else np.zeros(0, np.int64)
    return rows, scores[rows]


def coco_results(
    predictions: Predictions, nms_threshold: float = 0.9, joint_threshold: float = 0.2, sigmas=None
) -> list[dict]:
    """The results that COCO's servers and pycocotools read: image_id, category_id, keypoints (x, y, score), score."""
    rows, scores = final_people(predictions, nms_threshold, joint_threshold, sigmas)
    if not np.isfinite(scores).all():
        count = int((~np.isfinite(scores)).sum())
        what = f"{count} persons have a score (person_score, or box_score) that is no number"
        raise DataError(f"the prediction file: {what}; write numbers, or leave these persons out")
    points = np.concatenate([predictions.joints[rows], predictions.score[rows][..., None]], -1)
    points = np.nan_to_num(points.astype(np.float64), nan=0.0).reshape(len(rows), 3 * len(predictions.skeleton))
    return [
        {"image_id": i, "category_id": _PERSON, "keypoints": p.tolist(), "score": float(s)}
        for i, p, s in zip(predictions.image_id[rows].tolist(), points, scores)
    ]


def _check(pose_set: PoseSet, predictions: Predictions) -> None:
    if predictions.skeleton != pose_set.skeleton:
        both = f"the ground truth has {pose_set.skeleton.name}, the prediction file {predictions.skeleton.name}"
        raise DataError(f"oks_ap needs one skeleton; {both}")
    where = f"{pose_set.name}/{pose_set.split}"
    if sigmas_of(pose_set) is None:
        what = f"for skeleton {pose_set.skeleton.name}, which has none"
        raise DataError(f"oks_ap needs OKS constants {what}; give {where} a field sigmas")
    if len(pose_set) and pose_set.area is None:
        raise DataError(f"oks_ap needs the area of every person; {where} has none. Give every person a field area")


def ground_truth(pose_set: PoseSet, predicted_images: set) -> dict:
    """The PoseSet as a COCO annotation dictionary; ids start at 1 as pycocotools takes 0 for none."""
    listed = set(pose_set.regions or ()) | set(pose_set.image_id.tolist())
    foreign = predicted_images - listed
    if pose_set.regions is not None and foreign:
        what = f"{len(foreign)} images that {pose_set.name}/{pose_set.split} does not list"
        remedy = "give the split that was predicted, and image ids as its annotations have them"
        raise DataError(f"the prediction file has {what}, first image_id {min(foreign, key=str)}; {remedy}")
    ignore = np.zeros(len(pose_set), bool) if pose_set.ignore is None else pose_set.ignore
    crowd = ignore if pose_set.crowd is None else pose_set.crowd
    area = np.zeros(len(pose_set)) if pose_set.area is None else pose_set.area
    points = np.concatenate([np.nan_to_num(pose_set.joints, nan=0.0), pose_set.visible[..., None]], -1)
    number, boxes = (pose_set.visible > 0).sum(1), pose_set.box
    annotations = [
        {"id": i + 1, "category_id": _PERSON, "image_id": image, "keypoints": points[i].ravel().tolist()}
        | {"num_keypoints": int(number[i]), "bbox": boxes[i].tolist(), "area": float(area[i]), "iscrowd": int(crowd[i])}
        for i, image in enumerate(pose_set.image_id.tolist())
    ]
    images = [{"id": i} for i in sorted(listed | predicted_images)]
    return {"info": {}, "images": images, "annotations": annotations, "categories": [{"id": _PERSON, "name": "person"}]}
