"""The figures that the K2HPD project prints."""

from __future__ import annotations

import numpy as np

from common.metrics.counting import Result, distances, pooled, within
from common.metrics.pck import length_between
from common.metrics.pcp import pcp
from common.skeletons import Skeleton

DIAMETER = ("right_shoulder", "left_hip")
THRESHOLDS = np.arange(1, 16) * 5 / 100  # 0.05 to 0.75


def accuracy(truth, predicted, skeleton: Skeleton) -> Result:
    """What the original's accuracy script prints: total = strict PCP over all limbs, `values` = PDJ at 0.05 to 0.75.

    Every joint counts (the data set marks none as missing), and a normaliser of zero admits exact hits.
    """
    labelled = np.ones(np.shape(truth)[:2], bool)
    parts = pcp(truth, predicted, labelled, skeleton, 0.5, total="weighted", exact_at_zero=True)
    size, distance = length_between(truth, skeleton, *DIAMETER)[:, None], distances(truth, predicted)
    curve = {f"pdj@{t:g}": pooled(within(distance, size, t), labelled) for t in THRESHOLDS}
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
    values = dict(zip(skeleton.joints, shares.tolist()))
    return Result(float(shares.sum()), values, how, n, counts=dict.fromkeys(skeleton.joints, n))
