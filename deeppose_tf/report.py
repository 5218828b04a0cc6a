"""What a network answers for labelled persons, as figures: DT's printed block and its scalars."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from common.metrics import pck, pcp
from common.metrics.counting import Result
from common.skeletons import Skeleton

# DT's names of the parts and of the groups of joints, in its order
PARTS = {"head": "Head", "torso": "Torso", "upper_arm": "U Arm", "forearm": "L Arm"}
PARTS |= {"upper_leg": "U Leg", "lower_leg": "L Leg"}
GROUPS = "head_top neck upper_neck shoulder elbow wrist hip knee ankle thorax pelvis".split()
SCALARS = {"PCP": "mPCP", "PCKh": "PCKh", "SymmetricPCKh": "symPCKh", "PCK": "PCK"}  # DT's names in TensorBoard


@dataclass(frozen=True)
class Evaluation:
    """Truth and prediction of N persons in pixels, with DT's loss."""

    truth: np.ndarray  # (N,J,2)
    joints: np.ndarray  # (N,J,2)
    valid: np.ndarray  # (N,J) bool
    loss: float
    skeleton: Skeleton

    def figures(self) -> dict[str, Result]:
        """DT's metrics by its names; for skeletons without its parts PCK@0.2 of the longer side of the joints' box."""
        given = self.truth, self.joints, self.valid
        try:
            return {
                "PCP": pcp.pcp(*given, self.skeleton),
                "RelaxedPCP": pcp.pcp(*given, self.skeleton, relaxed=True),
                "PCKh": pck.pckh_neck(*given, 0.5, self.skeleton),
                "SymmetricPCKh": pck.pckh_neck(*given, 0.5, self.skeleton, symmetric=True),
            }
        except ValueError:  # a joint that they are made of is not there
            size = pck.extent(np.where(self.valid[..., None], self.truth, np.nan))
            return {"PCK": pck.pck(*given, size, 0.2, self.skeleton)}

    def scalars(self, tag: str) -> dict[str, float]:
        """What DT writes to TensorBoard at an evaluation, as fractions; the first is the main figure."""
        values = {SCALARS[n]: result.total / 100 for n, result in self.figures().items() if n in SCALARS}
        return {f"{tag}/{name}": value for name, value in {**values, "pose_loss": self.loss}.items()}


def block(step: int, tag: str, e: Evaluation) -> str:
    """DT's evaluation block, in fractions, tabs included; then how many persons count where joints are not valid."""
    lines, figures = [f"{len(e.truth)}", f"Step {step} {tag}/pose_loss = {e.loss:.3f}"], e.figures()
    for name, result in figures.items():
        lines.append(f"Step\t {step}\t {tag}/{'' if name == 'PCK' else 'm'}{name}\t {result.total / 100:.3f}")
        if name not in ("PCK", "PCKh"):
            lines += [f"Step {step} {tag}/parts_{name}:", *_table(result)]
    if "PCP" in figures and not e.valid.all():
        counts = figures["PCP"].counts
        lines.append("persons counted: " + ", ".join(f"{label} {counts[part]}" for part, label in PARTS.items()))
    return "\n".join(lines)


def _table(result: Result) -> list[str]:
    if "torso" in result.values:
        columns = {label: result.values[part] for part, label in PARTS.items()} | {"mean": result.total}
    else:
        groups = [group for group in GROUPS if group in result.values]
        columns = {g.removeprefix("upper_").split("_")[0].capitalize(): result.values[g] for g in groups}
    return ["\t".join(columns), "\t".join(f"{value / 100:.3f}" for value in columns.values())]
