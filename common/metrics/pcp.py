"""PCP, the percentage of correct parts: ends within a share of its length (Ferrari et al., CVPR 2008).

Strict: both ends; relaxed: the mean of both ends' distances. Ten sticks in six parts: head, torso, upper_arm, forearm,
upper_leg and lower_leg. Arrays: truth and predicted (N,J,2) in one unit, labelled (N,J) bool. A stick of length 0 is a
miss (the metric is a quotient).
"""

from __future__ import annotations

import numpy as np

from common.metrics.counting import Result, Tally, distances, mean_of, percentages, pooled, within
from common.metrics.pck import length_between, neck_of
from common.skeletons import Skeleton

Stick = tuple[str, tuple[str, ...], tuple[str, ...]]  # part, joints whose middle is one end, those of the other


def sticks_of(skeleton: Skeleton) -> dict[str, Stick]:
    """The ten sticks by name, from the joint names.

    The torso runs from thorax to pelvis, from neck to spine (K2HPD), or from the middle of the shoulders to that of the
    hips, in this order of preference (deeppose_tf's and K2HPD's definitions).
    """
    have = set(skeleton.joints)
    middles = ("right_shoulder", "left_shoulder"), ("right_hip", "left_hip")
    torsos = (("thorax",), ("pelvis",)), (("neck",), ("spine",)), middles
    torso = next((ends for ends in torsos if have.issuperset(ends[0] + ends[1])), middles)
    head = next((name for name in ("head_top", "head") if name in have), "head_top")
    hand = "wrist" if "right_wrist" in have else "hand"
    foot = "ankle" if "right_ankle" in have else "foot"
    sticks: dict[str, Stick] = {"head": ("head", (head,), (neck_of(skeleton),)), "torso": ("torso", *torso)}
    limbs = ("upper_arm", "shoulder", "elbow"), ("forearm", "elbow", hand)
    for part, first, second in (*limbs, ("upper_leg", "hip", "knee"), ("lower_leg", "knee", foot)):
        for side in ("right_", "left_"):
            sticks[side + part] = (part, (side + first,), (side + second,))
    skeleton.indices(name for _, a, b in sticks.values() for name in a + b)
    return sticks


def pcp(truth, predicted, labelled, skeleton: Skeleton, threshold: float = 0.5, relaxed: bool = False,
        total: str = "parts", exact_at_zero: bool = False) -> Result:  # fmt: skip
    """PCP by part, each part the mean of its left and right stick.

    `total`: `parts`, the mean of the six parts (deeppose_tf), or `weighted`, all counted sticks pooled (K2HPD, LSP
    toolkit); `means` has both and `unweighted`, the mean of the ten sticks. A stick counts when all joints that it is
    made of are labelled. `exact_at_zero`: K2HPD's form, in which a stick of length 0 admits an exact hit.
    """
    sticks = sticks_of(skeleton)

    def ends(joints: np.ndarray) -> list[np.ndarray]:
        both = ([stick[end] for stick in sticks.values()] for end in (1, 2))
        return [np.stack([joints[:, skeleton.indices(names)].mean(1) for names in side], axis=1) for side in both]

    true_a, true_b = ends(np.where(labelled[..., None], truth, np.nan))
    pred_a, pred_b = ends(np.asarray(predicted, np.float64))
    length, first, second = distances(true_a, true_b), distances(true_a, pred_a), distances(true_b, pred_b)
    error = (first + second) / 2 if relaxed else np.maximum(first, second)
    hits, counted = within(error, length, threshold, exact_at_zero), np.isfinite(length)
    by_stick = percentages(hits, counted)
    members: dict[str, list[int]] = {}
    for i, (part, _, _) in enumerate(sticks.values()):
        members.setdefault(part, []).append(i)
    parts = {part: mean_of(by_stick[columns]) for part, columns in members.items()}
    means = {"parts": mean_of(parts.values()), "weighted": pooled(hits, counted), "unweighted": mean_of(by_stick)}
    sentence = {
        "parts": "total = mean of the six parts, each the mean of left and right",
        "weighted": "total = hits / counted sticks, all ten sticks pooled",
    }
    rule = "mean of both ends' distances" if relaxed else "both ends' distances"
    return Result(
        total=means[total],
        values=parts,
        kind="part",
        aggregation=f"hit: {rule} <= {threshold:g} x stick length; {sentence[total]}",
        n=int(counted.any(1).sum()),
        counts={part: int(counted[:, columns].sum()) for part, columns in members.items()},
        groups=dict(zip(sticks, by_stick.tolist())),
        means=means,
        tally=Tally(hits, counted, members, list(range(len(sticks))) if total == "weighted" else None),
    )


K2HPD_DIAMETER = ("right_shoulder", "left_hip")
_K2HPD_THRESHOLDS = np.arange(1, 16) * 5 / 100  # 0.05 to 0.75


def k2hpd_accuracy(truth, predicted, skeleton: Skeleton) -> Result:
    """What the original's accuracy script prints: total = strict PCP over all limbs, `values` = PDJ at 0.05 to 0.75.

    Every joint counts (the data set marks none as missing), and a normaliser of zero admits exact hits.
    """
    labelled = np.ones(np.shape(truth)[:2], bool)
    parts = pcp(truth, predicted, labelled, skeleton, 0.5, total="weighted", exact_at_zero=True)
    size, distance = length_between(truth, skeleton, *K2HPD_DIAMETER)[:, None], distances(truth, predicted)
    curve = {f"pdj@{t:g}": pooled(within(distance, size, t), labelled) for t in _K2HPD_THRESHOLDS}
    how = "total = strict PCP@0.5, all sticks pooled, every joint counted"
    how += "; pdj@t = hits / all joints within t x (right shoulder to left hip)"
    return Result(parts.total, curve, how, len(labelled), kind="part", counts=dict.fromkeys(curve, labelled.size))


def k2hpd_loss(truth, predicted, skeleton: Skeleton) -> Result:
    """The loss of the K2HPD project: sum of squared distances / 2 / persons / coordinates, in px^2.

    `values` holds each joint's share; they add up to the total. NaN without persons, and for a prediction of NaN.
    """
    squared = distances(truth, predicted) ** 2
    n, joints = squared.shape
    shares = squared.sum(0) / (2 * n * 2 * joints) if n else np.full(joints, np.nan)
    how = "total = sum of squared distances / 2 / persons / coordinates of a person, in square pixels"
    values = dict(zip(skeleton.joints, shares.tolist()))
    return Result(float(shares.sum()), values, how, n, counts=dict.fromkeys(skeleton.joints, n))
