"""Object keypoint similarity (OKS), suppression of duplicate poses by it, and rescoring of detector boxes.

OKS is the COCO keypoint task's overlap of two poses: the mean over joints of exp(-d^2 / (2 k^2 A)), k = 2 sigma of the
joint, A the person's area in square pixels. Suppression and rescoring: Xiao, Wu and Wei, "Simple Baselines for Human
Pose Estimation and Tracking", ECCV 2018, section 4.
"""

from __future__ import annotations

import numpy as np

from common import datasets
from common.errors import DataError
from common.poses import PoseSet
from common.predictions import Predictions
from common.skeletons import AIC14, Skeleton

AIC_THRESHOLDS = np.linspace(0.5, 0.95, 10)
COCO_SIGMAS = np.array(datasets.record("coco").sigmas)


def sigmas_of(pose_set: PoseSet) -> np.ndarray | None:
    """(J,) the file's own constants, or the known ones of its skeleton; None where there are none."""
    return known_sigmas(pose_set.skeleton) if pose_set.sigmas is None else pose_set.sigmas


def known_sigmas(skeleton: Skeleton) -> np.ndarray | None:
    """(J,) the constants of the data set that has these joints; None where none has them."""
    known = (datasets.record(name) for name in datasets.NAMES)
    return next((np.array(r.sigmas) for r in known if r.sigmas and r.skeleton == skeleton), None)


def oks(
    truth: np.ndarray, counted: np.ndarray, area: np.ndarray, predicted: np.ndarray, sigmas: np.ndarray = COCO_SIGMAS
) -> np.ndarray:
    """OKS of predicted against true poses, any leading shape that broadcasts.

    `truth` and `predicted` (...,J,2) pixels, `counted` (...,J) bool: the joints that the mean is taken over, `area`
    (...) square pixels. A predicted joint that is NaN has similarity 0, a person without any counted joint has OKS 0;
    at area 0 only an exact hit counts. Returns (...).
    """
    squared = ((truth - predicted) ** 2).sum(-1)
    exponent = squared / (8 * sigmas**2 * (np.asarray(area)[..., None] + np.spacing(1)))
    similarity = np.nan_to_num(np.exp(-exponent), nan=0.0)
    counted = np.broadcast_to(counted, similarity.shape)
    number = counted.sum(-1)
    return np.where(number > 0, (similarity * counted).sum(-1) / np.maximum(number, 1), 0.0)


def pose_oks(joints: np.ndarray, area: np.ndarray, sigmas=COCO_SIGMAS) -> np.ndarray:
    """(N,N) OKS between the predicted poses of one image, (N,J,2), over all joints, with the mean of the two areas."""
    everything = np.ones(joints.shape[1], bool)
    return oks(joints[:, None], everything, (area[:, None] + area[None]) / 2, joints[None], sigmas)


def oks_nms(joints, person_score, area, threshold: float, sigmas=COCO_SIGMAS) -> np.ndarray:
    """Greedy suppression within one image: indices kept, best first; `threshold` of OKS with a kept one.

    `joints` (N,J,2), `person_score` (N,), `area` (N,). Equal scores: the later row first, as in the original.
    """
    order = np.argsort(person_score, kind="stable")[::-1]
    if len(order) < 2:
        return order
    table, keep = pose_oks(joints, area, sigmas), []
    while len(order):
        keep.append(order[0])
        order = order[1:][table[order[0], order[1:]] <= threshold]
    return np.array(keep)


def rescore(box_score: np.ndarray, score: np.ndarray, above: float = 0.2) -> np.ndarray:
    """(N,) score of a person: box score x mean of the joint scores (N,J) above `above`; 0 where none is."""
    used = score > above
    total = np.where(used, score, 0).sum(1, dtype=np.float64)
    return box_score * total / np.maximum(used.sum(1), 1)


def pairs(person_image: np.ndarray, guess_image: np.ndarray, persons: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Every person with every prediction of its image, as two arrays of rows."""
    order, start = np.argsort(person_image, kind="stable"), np.cumsum(persons) - persons
    number = persons[guess_image]
    guess = np.repeat(np.arange(len(guess_image)), number)
    within = np.arange(len(guess)) - np.repeat(np.cumsum(number) - number, number)
    return order[start[guess_image[guess]] + within], guess


def aic_map(pose_set: PoseSet, predictions: Predictions, best_of: str = "person") -> dict:
    """The AI Challenger 2017 score of `predictions`, as the competition's official evaluator counts it.

    OKS of a prediction to a person = mean over the person's VISIBLE joints (flag 1; occluded ones do not count) of
    exp(-d^2 / (2 (2 sigma)^2 (A + 1))), A = area of the person's box, 0 without a visible joint. In every image each
    person takes its best prediction (the organisers' evaluator since October 2017); `best_of` "prediction": each
    prediction took its best person, so that one person found twice counted as two. AP at t = those with OKS > t, over
    the sum of max(persons, predictions) of the images. Score = mean AP over t = 0.50, 0.55 ... 0.95.

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
    # the evaluator holds areas in single precision
    area = (pose_set.box[:, 2] * pose_set.box[:, 3]).astype(np.float32).astype(np.float64)[person] + 1
    counted, predicted = pose_set.visible[person] == 2, joints[guess].astype(np.float64)
    similarity = oks(pose_set.joints[person], counted, area, predicted, sigmas_of(pose_set))
    if best_of == "person":
        best, image = np.zeros(len(person_image)), person_image
        np.maximum.at(best, person, similarity)
    else:
        best = np.zeros(len(guess_image) + int(persons[guesses == 0].sum()))
        np.maximum.at(best, guess, similarity)
        image = np.concatenate([guess_image, person_image[guesses[person_image] == 0]])
    count = int(np.maximum(persons, guesses).sum())
    ap = (best[:, None] > AIC_THRESHOLDS).sum(0) / count if count else np.full(len(AIC_THRESHOLDS), np.nan)
    return {
        "score": float(ap.mean()), "ap": ap.tolist(), "oks": best[np.argsort(image, kind="stable")].tolist(),
        "count": count, "images_missing": int((guesses == 0).sum()),
        "unknown": len(set(predictions.image_id[~known].tolist())),
    }  # fmt: skip
