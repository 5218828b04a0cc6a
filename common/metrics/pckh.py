"""PCKh: PCK in units of the head (Andriluka et al., CVPR 2014), by the head box of MPII, or head to neck.

Arrays: truth and predicted (N,J,2) pixels, labelled (N,J) bool. With a head of size 0 all joints are misses.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from common.metrics.counting import Result, distances, joint_result, mean_of, within
from common.metrics.pck import length_between
from common.skeletons import Skeleton

NOT_IN_MEAN = ("pelvis", "thorax")  # MPII's own evaluation leaves them out of its mean


def pckh(
    truth, predicted, labelled, head_size, threshold: float, skeleton: Skeleton, empty_joint_is_nan: bool = False
) -> Result:
    """PCKh at `threshold` x `head_size` (N,), 0.6 x the head box's diagonal. Total: weighted mean without pelvis,
    thorax.

    `empty_joint_is_nan`: a joint that is nowhere labelled makes both means NaN, as in the evaluation of Simple
    Baselines (compat); otherwise it is left out.
    """
    counted = labelled & np.isfinite(head_size)[:, None]
    hits = within(distances(truth, predicted), head_size[:, None], threshold, exact_at_zero=False)
    include = [joint for joint in skeleton.joints if joint not in NOT_IN_MEAN]
    how = f"hit: distance <= {threshold:g} x head size (0.6 x diagonal of the head box)"
    result = joint_result(hits, counted, skeleton, "weighted", include, how)
    if empty_joint_is_nan and any(np.isnan(result.values[joint]) for joint in include):
        nan, how = float("nan"), f"{result.aggregation}; NaN for a joint nowhere labelled"
        result = replace(result, total=nan, means=dict.fromkeys(result.means, nan), aggregation=how)
    return result


def neck_of(skeleton: Skeleton) -> str:
    """The joint at the lower end of the head: upper_neck where the skeleton has it, else neck; else ValueError."""
    return "upper_neck" if "upper_neck" in skeleton.joints else skeleton.joints[skeleton.index("neck")]


def pckh_neck(
    truth, predicted, labelled, threshold: float, skeleton: Skeleton, symmetric=False, unlabelled_is_miss=False
) -> Result:
    """PCKh with the head measured from head top to neck of the truth (deeppose_tf); joints weigh the same.

    A joint counts when it, head top and neck are labelled. `symmetric`: left and right are averaged first and the total
    is the mean of these groups. `unlabelled_is_miss` counts every joint of every person instead, as the original does
    when it is given NaN (compat).
    """
    truth = np.where(labelled[..., None], truth, np.nan)
    head = length_between(truth, skeleton, "head_top", neck_of(skeleton))
    hits = within(distances(truth, predicted), head[:, None], threshold, exact_at_zero=False)
    counted = np.ones_like(labelled) if unlabelled_is_miss else labelled & np.isfinite(head)[:, None]
    how = f"hit: distance <= {threshold:g} x (head top to neck)"
    result = joint_result(hits, counted, skeleton, "unweighted", how=how)
    if not symmetric:
        return result
    how = f"{how}; total = mean of the {len(result.groups)} groups, each the mean of left and right"
    counts = {g: sum(result.counts[skeleton.joints[i]] for i in members) for g, members in skeleton.groups.items()}
    known = {"values": result.groups, "kind": "part", "counts": counts, "groups": {}, "aggregation": how}
    assert result.tally is not None
    tally = replace(result.tally, columns=skeleton.groups)
    return replace(result, total=mean_of(result.groups.values()), tally=tally, **known)  # type: ignore[arg-type]
