"""What a network answers for labelled persons, as figures: DT's printed block, its scalars, threshold curves, and the spread of the poses."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from common.errors import DataError
from common.metrics import pckh, pcp
from common.metrics.counting import Result
from common.poses import PoseSet
from common.predictions import Predictions, predictions_for
from common.skeletons import Skeleton
from deeppose_tf.config import OUTPUT_LIMIT
from deeppose_tf.data import Crops, Persons, unproject

THRESHOLDS = tuple(round(0.1 * i, 1) for i in range(1, 11))
PARTS = {
    "head": "Head",
    "torso": "Torso",
    "upper_arm": "U Arm",
    "forearm": "L Arm",
    "upper_leg": "U Leg",
    "lower_leg": "L Leg",
}
GROUPS = {
    "head_top": "Head", "upper_neck": "Neck", "neck": "Neck", "shoulder": "Shoulder", "elbow": "Elbow", "wrist": "Wrist", "hip": "Hip",
    "knee": "Knee", "ankle": "Ankle", "thorax": "Thorax", "pelvis": "Pelvis",
}  # fmt: skip
COLLAPSED = 0.1  # poses that vary less than this share of the truth's variation are one mean pose


@dataclass(frozen=True)
class Evaluation:
    """Truth and prediction of N persons in pixels with DT's loss; `spread` is how much the predicted poses vary over the persons (standard
    deviation of the shares, mean over joints) as a part of how much the true ones do."""

    truth: np.ndarray  # (N,J,2)
    joints: np.ndarray  # (N,J,2)
    valid: np.ndarray  # (N,J) bool
    loss: float
    spread: float
    skeleton: Skeleton
    boxes: np.ndarray  # (N,4) of the crops, in pixels of the (possibly reduced) pictures

    def pcp(self, relaxed: bool = False, threshold: float = 0.5) -> Result:
        """PCP by part."""
        return pcp.pcp(self.truth, self.joints, self.valid, self.skeleton, threshold, relaxed)

    def pckh(self, symmetric: bool = False, threshold: float = 0.5) -> Result:
        """PCKh with the head stick."""
        return pckh.pckh_neck(self.truth, self.joints, self.valid, threshold, self.skeleton, symmetric)


def evaluate(
    run, persons: Persons, pose_set: PoseSet, crops: Crops, batch_size: int = 128
) -> tuple[Evaluation, np.ndarray]:
    """Predict all persons with `run` = `engine.forward(model)`; also the joints in pixels of the stored pictures (N,J,2).

    Mode correct compares with the annotation; compat, as DT does, in the reduced pictures with the truth as it was cut for the network.
    """
    from deeppose_tf.engine import predict

    batches = list(predict(run, persons, crops, batch_size))
    shares, targets, valid, boxes, joints = (
        np.concatenate([getattr(b, name) for b in batches])
        for name in ("shares", "targets", "valid", "boxes", "joints")
    )
    if crops.mode == "compat":
        truth = unproject(targets, boxes, "compat")
        found = unproject(np.clip(shares, -OUTPUT_LIMIT, OUTPUT_LIMIT), boxes, "compat")
    else:
        truth, found = pose_set.joints[persons.rows], joints
    error = (np.square(shares - targets) * valid[..., None]).sum((1, 2)) / np.maximum(valid.sum(1), 1)
    return Evaluation(
        truth, found, valid, float(error.mean()), spread(shares, targets, valid), pose_set.skeleton, boxes
    ), joints


def spread(shares: np.ndarray, targets: np.ndarray, valid: np.ndarray) -> float:
    """How much (N,J,2) outputs vary over the persons, as a part of how much the valid targets do; NaN for fewer than two persons."""
    if len(shares) < 2:
        return float("nan")
    truth = np.where(valid[..., None], targets, np.nan)
    counted = valid.sum(0) > 1
    if not counted.any():
        return float("nan")
    own = np.nanstd(np.where(valid[..., None], shares, np.nan)[:, counted], axis=0).mean()
    return float(own / max(np.nanstd(truth[:, counted], axis=0).mean(), 1e-12))


def block(step: int, tag: str, e: Evaluation) -> str:
    """DT's evaluation block, in fractions, tabs included; then the spread, and how many persons count where joints are not valid."""
    strict, relaxed, symmetric = e.pcp(), e.pcp(relaxed=True), e.pckh(symmetric=True)
    lines = [f"{len(e.truth)}", f"Step {step} {tag}/pose_loss = {e.loss:.3f}"]
    for name, result in (("PCP", strict), ("RelaxedPCP", relaxed)):
        lines += [_mean_line(step, f"{tag}/m{name}", result.total), f"Step {step} {tag}/parts_{name}:"]
        names, values = [*PARTS.values(), "mean"], [*(result.values[part] for part in PARTS), result.total]
        lines += ["\t".join(names), _values(values)]
    lines.append(_mean_line(step, f"{tag}/mPCKh", e.pckh().total))
    lines += [_mean_line(step, f"{tag}/mSymmetricPCKh", symmetric.total), f"Step {step} {tag}/parts_SymmetricPCKh:"]
    shown = [group for group in GROUPS if group in symmetric.values]
    lines += ["\t".join(GROUPS[g] for g in shown), _values([symmetric.values[g] for g in shown])]
    if not e.valid.all():
        lines.append("persons counted: " + ", ".join(f"{label} {strict.counts[part]}" for part, label in PARTS.items()))
    lines.append(f"spread of the poses: {e.spread:.2f} of the truth's")
    if e.spread < COLLAPSED:
        lines.append(
            "warning: all persons get nearly the same pose, the mean; train longer, or start from ImageNet weights or with --init he"
        )
    return "\n".join(lines)


def _mean_line(step: int, name: str, value: float) -> str:
    return f"Step\t {step}\t {name}\t {value / 100:.3f}"


def _values(values: list[float]) -> str:
    return "\t".join(f"{value / 100:.3f}" for value in values)


def scalars(tag: str, e: Evaluation) -> dict[str, float]:
    """What DT writes to TensorBoard at an evaluation, as fractions, and the spread."""
    return {
        f"{tag}/pose_loss": e.loss, f"{tag}/mPCP": e.pcp().total / 100, f"{tag}/PCKh": e.pckh().total / 100,
        f"{tag}/symPCKh": e.pckh(symmetric=True).total / 100, f"{tag}/spread": e.spread,
    }  # fmt: skip


def curves(e: Evaluation) -> dict[str, list[float]]:
    """PCP, relaxed PCP and PCKh (percent) at the thresholds 0.1 to 1.0."""
    return {
        "PCP": [e.pcp(threshold=t).total for t in THRESHOLDS],
        "relaxed PCP": [e.pcp(relaxed=True, threshold=t).total for t in THRESHOLDS],
        "PCKh (head stick)": [e.pckh(threshold=t).total for t in THRESHOLDS],
    }


def plot_curves(
    path,
    lines: dict[str, list[float]],
    xs=THRESHOLDS,
    xlabel: str = "threshold",
    ylabel: str = "percent",
    title: str = "",
) -> None:
    """Lines over `xs` as a PNG."""
    from matplotlib.figure import Figure

    from common.files import atomic_write

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot(xlabel=xlabel, ylabel=ylabel, title=title)
    for name, values in lines.items():
        axes.plot(xs, values, marker="o", markersize=3, label=name)
    axes.grid(alpha=0.3)
    axes.legend()
    atomic_write(path, lambda temporary: figure.savefig(temporary, dpi=120))


def to_predictions(
    pose_set: PoseSet, persons: Persons, joints: np.ndarray, boxes: np.ndarray, meta: dict
) -> Predictions:
    """The prediction file's content, a row for every person of the PoseSet; who was left out is NaN. Boxes are those of the crops."""
    everyone = np.full((len(pose_set), *joints.shape[1:]), np.nan, np.float32)
    everyone[persons.rows] = joints
    cut = np.full((len(pose_set), 4), np.nan)
    cut[persons.rows] = boxes * persons.factor[:, None]
    score = np.where(np.isfinite(everyone[..., 0]), 1.0, 0.0)
    lacking = len(pose_set) - len(persons)
    return predictions_for(
        pose_set, everyone, score, {**meta, **({"missing_rows": lacking} if lacking else {})}, box=cut
    )


def require_pixels(pose_set: PoseSet) -> None:
    """DataError when no picture of a set exists, which scoring a network needs."""
    from pathlib import Path

    if not any(Path(str(p)).exists() for p in pose_set.images[:50]):
        raise DataError(
            f"{pose_set.root}: its images are not there (the first: {pose_set.images[0]}); put them beside the annotations"
        )
