"""PCK, the percentage of correct keypoints: a joint is right within a share of a person's size (Yang and Ramanan, PAMI
2013).

What "size" is makes the metric: torso (LSP and its toolkit), longer side of a box (Penn Action, sub-JHMDB,
pose-tensorflow's eval_pck), head (PCKh: Andriluka et al., CVPR 2014), a diagonal of the trunk (PDJ: Sapp and Taskar
2013, Toshev and Szegedy 2014). Arrays: truth and predicted (N,J,2) in one unit, labelled (N,J) bool, size (N,) in that
unit.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from common.metrics.counting import Result, Tally, distances, joint_result, mean_of, percentages, pooled, within
from common.poses import box_of_joints
from common.skeletons import JHMDB15, Skeleton

AUC_THRESHOLDS = np.arange(21) / 100  # 0 to 0.2 in steps of 0.01, the range of the LSP toolkit
NOT_IN_MEAN = ("pelvis", "thorax")  # MPII's own evaluation leaves them out of its mean


def length_between(joints: np.ndarray, skeleton: Skeleton, first: str, second: str) -> np.ndarray:
    """(N,J,2) -> (N,) distance between two joints by name; NaN where one is missing."""
    return distances(joints[:, skeleton.index(first)], joints[:, skeleton.index(second)])


def longer_side(box: np.ndarray) -> np.ndarray:
    """(N,4) boxes x, y, w, h -> (N,) max(w, h)."""
    return np.maximum(box[:, 2], box[:, 3])


def extent(joints: np.ndarray) -> np.ndarray:
    """(N,J,2) -> (N,) longer side of the tight box around a person's joints, NaN without any."""
    return longer_side(box_of_joints(joints))


def official_penn_torso(truth: np.ndarray, predicted: np.ndarray, skeleton: Skeleton) -> np.ndarray:
    """(N,) right shoulder to left hip; under 1 px: the prediction's (LSTM Pose Machines' benchmark).

    Under 1 px is what Penn Action's placeholders of hidden joints give; NaN counts as such. 0: neither has one.
    """
    torso = length_between(truth, skeleton, "right_shoulder", "left_hip")
    own = length_between(predicted, skeleton, "right_shoulder", "left_hip")
    return np.where(torso >= 1, torso, np.nan_to_num(own))


def pck(truth, predicted, labelled, size, threshold: float, skeleton: Skeleton, total: str = "weighted", how: str = "",
        without=(), exact_at_zero: bool = True) -> Result:  # fmt: skip
    """PCK at `threshold` x `size`, inclusive. Persons whose `size` is NaN are not counted; at size 0 exact hits are.

    `total`, `without`: see `counting.joint_result`; `exact_at_zero`: `counting.within`. Empty input gives NaN figures.
    """
    counted = labelled & np.isfinite(size)[:, None]
    hits = within(distances(truth, predicted), size[:, None], threshold, exact_at_zero)
    what = f"hit: distance <= {threshold:g} x {how or 'size'}"
    return joint_result(hits, counted, skeleton, total, without, what)


def auc(truth, predicted, labelled, size, skeleton: Skeleton) -> Result:
    """Area under the PCK curve up to 0.2, 100 for a curve of 100 % (trapezoids; LSP toolkit)."""
    counted = labelled & np.isfinite(size)[:, None]
    distance = distances(truth, predicted)
    curves = [within(distance, size[:, None], t) for t in AUC_THRESHOLDS]
    by_joint = _area(np.array([percentages(hits, counted) for hits in curves]))
    total = float(_area(np.array([pooled(hits, counted) for hits in curves])))
    columns = {joint: [i] for i, joint in enumerate(skeleton.joints)}
    return Result(
        total=total,
        values=dict(zip(skeleton.joints, by_joint.tolist())),
        aggregation="area under the PCK curve from 0 to 0.2 (21 thresholds, trapezoids), "
        "100 = perfect; total from the curve of all joints pooled",
        n=int(counted.any(1).sum()),
        counts=dict(zip(skeleton.joints, counted.sum(0).tolist())),
        groups={group: mean_of(by_joint[members]) for group, members in skeleton.groups.items()},
        means={"weighted": total, "unweighted": mean_of(by_joint)},
        tally=Tally(_area(np.array(curves, np.float64)), counted, columns, list(range(len(skeleton)))),
    )


def _area(curve: np.ndarray) -> np.ndarray:
    return ((curve[1:] + curve[:-1]) / 2).mean(0)


def with_belly(joints: np.ndarray) -> np.ndarray:
    """(N,15,2) joints in sub-JHMDB's order -> the same with the belly, which networks of 14 joints do not have, where
    the official evaluation (LSTM Pose Machines) puts it: from the middle of the shoulders half of the way to that of
    the hips in x, 0.65 in y.
    """
    sides = ((f"right_{part}", f"left_{part}") for part in ("shoulder", "hip"))
    shoulders, hips = (joints[:, JHMDB15.indices(pair)].mean(1) for pair in sides)
    joints = np.array(joints, np.float64)
    joints[:, JHMDB15.index("belly")] = shoulders + [0.5, 0.65] * (hips - shoulders)
    return joints


def pckh(
    truth, predicted, labelled, head_size, threshold: float, skeleton: Skeleton, empty_joint_is_nan: bool = False
) -> Result:
    """PCKh at `threshold` x `head_size` (N,), 0.6 x the head box's diagonal; at size 0 all joints are misses. Total:
    weighted mean without pelvis, thorax.

    `empty_joint_is_nan`: a joint that is nowhere labelled makes both means NaN, as in the evaluation of Simple
    Baselines (compat); otherwise it is left out.
    """
    how = "head size (0.6 x diagonal of the head box)"
    result = pck(truth, predicted, labelled, head_size, threshold, skeleton, "weighted", how, NOT_IN_MEAN, False)
    empty = any(not count for joint, count in result.counts.items() if joint not in NOT_IN_MEAN)
    if not (empty_joint_is_nan and empty):
        return result
    nan, how = float("nan"), f"{result.aggregation}; NaN for a joint nowhere labelled"
    return replace(result, total=nan, means=dict.fromkeys(result.means, nan), aggregation=how)


def neck_of(skeleton: Skeleton) -> str:
    """The joint at the lower end of the head: upper_neck where the skeleton has it, else neck; else ValueError."""
    return "upper_neck" if "upper_neck" in skeleton.joints else skeleton.joints[skeleton.index("neck")]


def pckh_neck(truth, predicted, labelled, threshold: float, skeleton: Skeleton, symmetric=False) -> Result:
    """PCKh with the head measured from head top to neck of the truth (deeppose_tf); joints weigh the same.

    A joint counts when it, head top and neck are labelled. `symmetric`: left and right are averaged first and the total
    is the mean of these groups.
    """
    head = length_between(np.where(labelled[..., None], truth, np.nan), skeleton, "head_top", neck_of(skeleton))
    result = pck(truth, predicted, labelled, head, threshold, skeleton, "unweighted", "(head top to neck)", (), False)
    if not symmetric:
        return result
    how = result.aggregation.partition(";")[0]
    how += f"; total = mean of the {len(result.groups)} groups, each the mean of left and right"
    counts = {g: sum(result.counts[skeleton.joints[i]] for i in members) for g, members in skeleton.groups.items()}
    total, tally = mean_of(result.groups.values()), result.tally
    tally = replace(tally, columns=skeleton.groups) if tally else None
    return Result(total, result.groups, how, result.n, "part", counts, means=result.means, tally=tally)


def pdj(truth, predicted, labelled, skeleton: Skeleton, threshold: float, diameter: tuple[str, str]) -> Result:
    """PDJ at `threshold` x the true distance between the joints of `diameter`, one shoulder and the opposite hip (which
    pair differs between code bases); joints pooled."""
    size = length_between(np.where(labelled[..., None], truth, np.nan), skeleton, *diameter)
    return pck(truth, predicted, labelled, size, threshold, skeleton, how=f"({diameter[0]} to {diameter[1]})")
