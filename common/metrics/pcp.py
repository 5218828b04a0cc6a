"""PCP, the percentage of correct parts: ends within a share of its length (Ferrari et al., CVPR 2008).

Strict: both ends; relaxed: the mean of both ends' distances. Ten sticks in six parts: head, torso, upper_arm, forearm,
upper_leg and lower_leg. Arrays: truth and predicted (N,J,2) in one unit, labelled (N,J) bool. A stick of length 0 is a
miss (the metric is a quotient).
"""

from __future__ import annotations

import numpy as np

from common.metrics.counting import Result, Tally, distances, mean_of, percentages, pooled, within
from common.metrics.pck import neck_of
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
