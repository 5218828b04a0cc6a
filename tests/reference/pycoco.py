"""pycocotools' evaluation of a PoseSet and results: the peer that common.metrics.coco is compared with."""

from __future__ import annotations

import contextlib
import io

import numpy as np

from common.metrics.coco import NAMES
from common.poses import PoseSet


def score_results(truth: dict, results: list[dict], sigmas=None) -> dict[str, float]:
    """The ten figures for annotations and results in COCO's JSON form."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = truth
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(results), "keypoints")
        if sigmas is not None:
            evaluation.params.kpt_oks_sigmas = np.asarray(sigmas)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return dict(zip(NAMES, (float(v) for v in evaluation.stats)))


def ground_truth(pose_set: PoseSet, predicted_images: set) -> dict:
    """The PoseSet as a COCO annotation dictionary; ids start at 1 as pycocotools takes 0 for none."""
    listed = set(pose_set.regions or ()) | set(pose_set.image_id.tolist()) | predicted_images
    ignore = np.zeros(len(pose_set), bool) if pose_set.ignore is None else pose_set.ignore
    crowd = ignore if pose_set.crowd is None else pose_set.crowd
    area = np.zeros(len(pose_set)) if pose_set.area is None else pose_set.area
    points = np.concatenate([np.nan_to_num(pose_set.joints, nan=0.0), pose_set.visible[..., None]], -1)
    number, boxes = (pose_set.visible > 0).sum(1), pose_set.box
    annotations = [
        {"id": i + 1, "category_id": 1, "image_id": image, "keypoints": points[i].ravel().tolist()}
        | {"num_keypoints": int(number[i]), "bbox": boxes[i].tolist(), "area": float(area[i]), "iscrowd": int(crowd[i])}
        for i, image in enumerate(pose_set.image_id.tolist())
    ]
    images = [{"id": i} for i in sorted(listed)]
    return {"info": {}, "images": images, "annotations": annotations, "categories": [{"id": 1, "name": "person"}]}
