"""PDJ, the percentage of detected joints: within a share of the torso (Sapp and Taskar 2013, Toshev and Szegedy 2014).

The diameter runs from one shoulder to the opposite hip; which pair differs between code bases, so it is an argument.
With LSP's pair the count is that of torso PCK; the two names are kept because papers report by them. Also here: the
figures that the K2HPD project prints.
"""

from __future__ import annotations

import numpy as np

from common.metrics.counting import Result, distances, pooled, within
from common.metrics.pck import length_between, pck
from common.metrics.pcp import pcp
from common.skeletons import Skeleton

LSP_DIAMETER = ("left_shoulder", "right_hip")
K2HPD_DIAMETER = ("right_shoulder", "left_hip")
K2HPD_THRESHOLDS = np.arange(1, 16) * 5 / 100  # 0.05 to 0.75


def pdj(truth, predicted, labelled, skeleton: Skeleton, threshold: float, diameter: tuple[str, str]) -> Result:
    """PDJ at `threshold` x the true distance between the joints of `diameter`; joints pooled."""
    size = length_between(np.where(labelled[..., None], truth, np.nan), skeleton, *diameter)
    how = f"hit: distance <= {threshold:g} x ({diameter[0]} to {diameter[1]})"
    return pck(truth, predicted, labelled, size, threshold, skeleton, "weighted", how)


def pdj_neck_to_hips(truth, predicted, labelled, skeleton: Skeleton, threshold: float) -> Result:
    """PDJ with the normaliser of other evaluations of K2HPD, neck to the middle of the hips."""
    truth = np.where(labelled[..., None], truth, np.nan)
    hips = truth[:, skeleton.indices(("right_hip", "left_hip"))].mean(1)
    size = distances(truth[:, skeleton.index("neck")], hips)
    how = f"hit: distance <= {threshold:g} x (neck to middle of hips), on {len(skeleton)} joints"
    return pck(truth, predicted, labelled, size, threshold, skeleton, "weighted", how)


def k2hpd_accuracy(truth, predicted, skeleton: Skeleton) -> Result:
    """What the original's accuracy script prints: total = strict PCP over all limbs, `values` = PDJ at 0.05 to 0.75.

    Every joint counts (the data set marks none as missing), and a normaliser of zero admits exact hits.
    """
    labelled = np.ones(np.shape(truth)[:2], bool)
    parts = pcp(truth, predicted, labelled, skeleton, 0.5, total="weighted", exact_at_zero=True)
    size = length_between(truth, skeleton, *K2HPD_DIAMETER)[:, None]
    distance = distances(truth, predicted)
    curve = {f"pdj@{t:g}": pooled(within(distance, size, t), labelled) for t in K2HPD_THRESHOLDS}
    how = "total = strict PCP@0.5, all sticks pooled, every joint counted"
    how += "; pdj@t = hits / all joints within t x (right shoulder to left hip)"
    return Result(parts.total, curve, how, len(labelled), kind="part", counts=dict.fromkeys(curve, labelled.size))


def euclidean_loss(truth, predicted, skeleton: Skeleton) -> Result:
    """The loss of the K2HPD project: sum of squared distances / 2 / persons / coordinates, in px^2.

    `values` holds each joint's share; they add up to the total. NaN without persons, and for a prediction of NaN.
    """
    squared = distances(truth, predicted) ** 2
    n, joints = squared.shape
    shares = squared.sum(0) / (2 * n * 2 * joints) if n else np.full(joints, np.nan)
    how = "total = sum of squared distances / 2 / persons / coordinates of a person, in square pixels"
    return Result(
        float(shares.sum()),
        dict(zip(skeleton.joints, shares.tolist())),
        how,
        n,
        counts=dict.fromkeys(skeleton.joints, n),
    )
