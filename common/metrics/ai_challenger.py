"""The AI Challenger 2017 human keypoint score, as the competition's official evaluator counts it.

OKS of a prediction to a person = mean over the person's VISIBLE joints (flag 1; occluded ones do not count) of exp(-d^2
/ (2 (2 sigma)^2 (A + 1))), A = area of the person's box in square pixels, 0 without a visible joint. In every image
each person takes its best prediction (the organisers' evaluator since October 2017; before, each prediction took its
best person, so that one person found twice counted as two). AP at t = those with OKS > t, over the sum of max(persons,
predictions) of the images. Score = mean AP over t = 0.50, 0.55 ... 0.95.
"""

from __future__ import annotations

import numpy as np

from common.errors import DataError
from common.metrics.oks import oks, pairs, sigmas_of
from common.poses import PoseSet
from common.predictions import Predictions
from common.skeletons import AIC14

THRESHOLDS = np.linspace(0.5, 0.95, 10)
_VISIBLE = 2  # PoseSet's code for the file's flag 1


def aic_map(pose_set: PoseSet, predictions: Predictions, best_of: str = "person") -> dict:
    """The official score of `predictions` against the persons of `pose_set`; `best_of` "prediction": withdrawn.

    Returns `score` (mean AP, a fraction), `ap` (10 values, thresholds ascending), `oks` (image by image in the order of
    the annotations: the best OKS of each person, or of each prediction and a 0 for each person of an image without
    any), `count` (the denominator) and `images_missing` (annotated images without any prediction) and `unknown` (images
    with predictions that are not annotated). Images are those of the PoseSet and those that its `regions` list without
    persons, where a prediction only adds to the denominator; predictions for any other image are left out, as the
    evaluator does. No persons and no predictions: every figure is NaN. DataError for another skeleton.
    """
    for what, skeleton in (("the ground truth", pose_set.skeleton), ("the prediction file", predictions.skeleton)):
        if skeleton != AIC14:
            raise DataError(f"aic_map needs AI Challenger's 14 joints; {what} has skeleton {skeleton.name}")
    listed = dict.fromkeys([*(pose_set.regions or ()), *pose_set.image_id.tolist()])
    number = {image: k for k, image in enumerate(listed)}
    person_image = np.array([number[i] for i in pose_set.image_id.tolist()], np.int64)
    guess_image = np.array([number.get(i, -1) for i in predictions.image_id.tolist()], np.int64)
    known = guess_image >= 0
    joints, guess_image = predictions.joints[known], guess_image[known]
    persons, guesses = (np.bincount(i, minlength=len(number)) for i in (person_image, guess_image))
    person, guess = pairs(person_image, guess_image, persons)
    similarity = _oks(pose_set, joints, person, guess)
    if best_of == "person":
        best, image = np.zeros(len(person_image)), person_image
        np.maximum.at(best, person, similarity)
    else:
        best = np.zeros(len(guess_image) + int(persons[guesses == 0].sum()))
        np.maximum.at(best, guess, similarity)
        image = np.concatenate([guess_image, person_image[guesses[person_image] == 0]])
    count = int(np.maximum(persons, guesses).sum())
    ap = (best[:, None] > THRESHOLDS).sum(0) / count if count else np.full(len(THRESHOLDS), np.nan)
    return {
        "score": float(ap.mean()),
        "ap": ap.tolist(),
        "oks": best[np.argsort(image, kind="stable")].tolist(),
        "count": count,
        "images_missing": int((guesses == 0).sum()),
        "unknown": len(set(predictions.image_id[~known].tolist())),
    }


def _oks(pose_set: PoseSet, joints: np.ndarray, person: np.ndarray, guess: np.ndarray) -> np.ndarray:
    """(P,) OKS of the pairs; the evaluator holds areas in single precision."""
    area = (pose_set.box[:, 2] * pose_set.box[:, 3]).astype(np.float32).astype(np.float64) + 1
    visible, sigmas = pose_set.visible[person] == _VISIBLE, sigmas_of(pose_set)
    return oks(pose_set.joints[person], visible, area[person], joints[guess].astype(np.float64), sigmas)
