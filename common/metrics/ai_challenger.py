"""The AI Challenger 2017 human keypoint score, as the competition's official evaluator counts it.

OKS of a prediction to a person = mean over the person's VISIBLE joints (flag 1; occluded ones do not count) of exp(-d^2 / (2 (2 sigma)^2 (A
+ 1))), A = area of the person's box in square pixels, 0 without a visible joint. In every image each prediction takes its best person, so
several predictions may take the same one. AP at t = predictions with OKS > t, over the sum of max(persons, predictions) of the images.
Score = mean AP over t = 0.50, 0.55 ... 0.95.
"""

from __future__ import annotations

import numpy as np

from common.errors import DataError
from common.metrics.oks import oks
from common.poses import PoseSet
from common.predictions import Predictions
from common.skeletons import AIC14

THRESHOLDS = np.linspace(0.5, 0.95, 10)
_SIGMA_BY_JOINT = {
    "right_shoulder": 0.01388152,
    "right_elbow": 0.01515228,
    "right_wrist": 0.01057665,
    "left_shoulder": 0.01417709,
    "left_elbow": 0.01497891,
    "left_wrist": 0.01402144,
    "right_hip": 0.03909642,
    "right_knee": 0.03686941,
    "right_ankle": 0.01981803,
    "left_hip": 0.03843971,
    "left_knee": 0.03412318,
    "left_ankle": 0.02415081,
    "head_top": 0.01291456,
    "neck": 0.01236173,
}
AIC_SIGMAS = np.array([_SIGMA_BY_JOINT[joint] for joint in AIC14.joints])
_VISIBLE = 2  # PoseSet's code for the file's flag 1


def aic_map(pose_set: PoseSet, predictions: Predictions) -> dict:
    """The official score of `predictions` against the persons of `pose_set`.

    Returns `score` (mean AP, a fraction), `ap` (10 values, thresholds ascending), `oks` (image by image in the order of the annotations:
    the best OKS of each prediction; a 0 for each person of an image without predictions), `count` (the denominator) and `images_missing`
    (annotated images without any prediction).
    Images are those of the PoseSet and those that its `regions` list without persons, where a prediction only adds to the denominator;
    predictions for any other image are left out, as the evaluator does. No persons and no predictions: every figure is NaN.
    Raises DataError when a skeleton is not AI Challenger's.
    """
    for what, skeleton in (("the ground truth", pose_set.skeleton), ("the prediction file", predictions.skeleton)):
        if skeleton != AIC14:
            raise DataError(f"aic_map needs AI Challenger's 14 joints; {what} has skeleton {skeleton.name}")
    images, person_image = _number(pose_set.image_id, pose_set.regions)
    index, known = _look_up(images, predictions.image_id)
    persons = np.bincount(person_image, minlength=len(images))
    predicted = np.bincount(index[known], minlength=len(images))
    best = _best_oks(pose_set, person_image, persons, predictions.joints[known], index[known])
    count = int(np.maximum(persons, predicted).sum())
    ap = (best[:, None] > THRESHOLDS).sum(0) / count if count else np.full(len(THRESHOLDS), np.nan)
    return {
        "score": float(ap.mean()),
        "ap": ap.tolist(),
        "oks": _by_image(images, pose_set, best, index[known], np.where(predicted == 0, persons, 0)).tolist(),
        "count": count,
        "images_missing": int((predicted == 0).sum()),
    }


def _number(image_id: np.ndarray, regions: dict | None) -> tuple[np.ndarray, np.ndarray]:
    """The sorted image ids, those listed without a person included, and for every person the index of its image."""
    images = np.unique(np.concatenate([image_id, list(regions)]) if regions else image_id)
    return images, np.searchsorted(images, image_id)


def _by_image(
    images: np.ndarray, pose_set: PoseSet, best: np.ndarray, image: np.ndarray, missed: np.ndarray
) -> np.ndarray:
    """OKS of the predictions and zeros of the missed persons, sorted by their image's place in the annotations."""
    listed = np.array(list(pose_set.regions or ()) + pose_set.image_id.tolist(), dtype=images.dtype)
    _, place = np.unique(listed, return_index=True)
    values = np.concatenate([best, np.zeros(missed.sum())])
    where = np.concatenate([place[image], np.repeat(place, missed)]) if len(images) else np.zeros(0)
    return values[np.argsort(where, kind="stable")]


def _look_up(images: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For every wanted id its index in the sorted `images`, and whether it is there."""
    if not len(images) or not len(wanted):
        return np.zeros(len(wanted), np.int64), np.zeros(len(wanted), bool)
    index = np.minimum(np.searchsorted(images, wanted), len(images) - 1)
    return index, images[index] == wanted


def _best_oks(
    pose_set: PoseSet, person_image: np.ndarray, persons: np.ndarray, joints: np.ndarray, image: np.ndarray
) -> np.ndarray:
    """(P,) highest OKS of every prediction over the persons of its image; 0 where the image has none. All pairs at once."""
    order = np.argsort(person_image, kind="stable")
    start = np.cumsum(persons) - persons
    number = persons[image]
    prediction = np.repeat(np.arange(len(image)), number)
    within = np.arange(len(prediction)) - np.repeat(np.cumsum(number) - number, number)
    person = order[start[image[prediction]] + within]
    area = (pose_set.box[:, 2] * pose_set.box[:, 3]).astype(np.float32).astype(np.float64) + 1
    similarity = oks(
        pose_set.joints[person],
        pose_set.visible[person] == _VISIBLE,
        area[person],
        joints[prediction].astype(np.float64),
        AIC_SIGMAS,
    )
    best = np.zeros(len(image))
    np.maximum.at(best, prediction, similarity)
    return best
