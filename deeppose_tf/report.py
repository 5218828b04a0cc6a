"""What a network answers for labelled persons, as figures: DT's printed block, its scalars, the spread of the poses,
curves.

python deeppose_tf/report.py RUN            # a run's log as RUN/learning_curve.png: accuracy, spread and losses over the steps
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # this folder's data.py must not shadow other modules

from common.errors import DataError
from common.metrics import pck, pcp
from common.metrics.counting import Result
from common.skeletons import Skeleton

THRESHOLDS = tuple(round(0.1 * i, 1) for i in range(1, 11))
PARTS = {
    "head": "Head", "torso": "Torso", "upper_arm": "U Arm", "forearm": "L Arm", "upper_leg": "U Leg", "lower_leg": "L Leg",
}  # fmt: skip
GROUPS = {
    "head_top": "Head", "upper_neck": "Neck", "neck": "Neck", "shoulder": "Shoulder", "elbow": "Elbow", "wrist": "Wrist", "hip": "Hip",
    "knee": "Knee", "ankle": "Ankle", "thorax": "Thorax", "pelvis": "Pelvis",
}  # fmt: skip
COLLAPSED = 0.1  # poses that vary less than this share of the truth's variation are one mean pose
# y axis, factor, {entry of log.jsonl: label} of a learning curve, from top to bottom
PANELS = (
    ("percent", 100.0, {"test/mPCP": "PCP@0.5, mean of the parts", "test/PCKh": "PCKh@0.5, head stick",
                        "test/PCK": "PCK@0.2 of the person's size", "test/spread": "spread, of the truth's"}),
    ("pose loss", 1.0, {"loss": "training batch", "test/pose_loss": "scored persons"}),
)  # fmt: skip


@dataclass(frozen=True)
class Evaluation:
    """Truth and prediction of N persons in pixels with DT's loss; `spread` is how much the predicted poses vary over
    the persons (standard deviation of the shares, mean over joints) as a part of how much the true ones do."""

    truth: np.ndarray  # (N,J,2)
    joints: np.ndarray  # (N,J,2)
    valid: np.ndarray  # (N,J) bool
    loss: float
    spread: float
    skeleton: Skeleton

    @property
    def has_parts(self) -> bool:
        """Whether the skeleton has the joints that DT's metrics are made of."""
        try:
            return bool(self.pcp() and self.pckh())
        except ValueError:
            return False

    def pcp(self, relaxed: bool = False, threshold: float = 0.5) -> Result:
        """PCP by part."""
        return pcp.pcp(self.truth, self.joints, self.valid, self.skeleton, threshold, relaxed)

    def pckh(self, symmetric: bool = False, threshold: float = 0.5) -> Result:
        """PCKh with the head stick."""
        return pck.pckh_neck(self.truth, self.joints, self.valid, threshold, self.skeleton, symmetric)

    def pck(self, threshold: float = 0.2) -> Result:
        """PCK of the longer side of the person's joints, for skeletons without DT's parts."""
        size = pck.extent(np.where(self.valid[..., None], self.truth, np.nan))
        return pck.pck(self.truth, self.joints, self.valid, size, threshold, self.skeleton)

    def scalars(self, tag: str) -> dict[str, float]:
        """What DT writes to TensorBoard at an evaluation, as fractions, and the spread; the first is the main
        figure."""
        if self.has_parts:
            figures = {"mPCP": self.pcp(), "PCKh": self.pckh(), "symPCKh": self.pckh(symmetric=True)}
        else:
            figures = {"PCK": self.pck()}
        values = {name: result.total / 100 for name, result in figures.items()}
        return {f"{tag}/{n}": v for n, v in {**values, "pose_loss": self.loss, "spread": self.spread}.items()}

    def curves(self) -> dict[str, tuple[list, list]]:
        """Figures (percent) at the thresholds 0.1 to 1.0."""
        makers = {"PCK (person's size)": self.pck}
        if self.has_parts:
            relaxed = partial(self.pcp, True)
            makers = {"PCP": partial(self.pcp, False), "relaxed PCP": relaxed, "PCKh": partial(self.pckh, False)}
        return {name: (list(THRESHOLDS), [figure(t).total for t in THRESHOLDS]) for name, figure in makers.items()}


def spread(shares: np.ndarray, targets: np.ndarray, valid: np.ndarray) -> float:
    """How much (N,J,2) outputs vary over the persons, as a part of how much the valid targets do; NaN for fewer than
    two persons."""
    counted = valid.sum(0) > 1
    if len(shares) < 2 or not counted.any():
        return float("nan")
    both = [np.where(valid[..., None], values, np.nan)[:, counted] for values in (shares, targets)]
    own, truth = (np.nanstd(values, axis=0).mean() for values in both)
    return float(own / max(truth, 1e-12))


def block(step: int, tag: str, e: Evaluation) -> str:
    """DT's evaluation block, in fractions, tabs included; then the spread, and how many persons count where joints are
    not valid."""
    lines = [f"{len(e.truth)}", f"Step {step} {tag}/pose_loss = {e.loss:.3f}"]
    lines += _parts(step, tag, e) if e.has_parts else [_mean_line(step, f"{tag}/PCK", e.pck().total)]
    lines.append(f"spread of the poses: {e.spread:.2f} of the truth's")
    if e.spread < COLLAPSED:
        remedy = "train longer, or start from ImageNet weights or with --init he"
        lines.append(f"warning: all persons get nearly the same pose, the mean; {remedy}")
    return "\n".join(lines)


def _parts(step: int, tag: str, e: Evaluation) -> list[str]:
    lines, strict, symmetric = [], e.pcp(), e.pckh(symmetric=True)
    for name, result in (("PCP", strict), ("RelaxedPCP", e.pcp(relaxed=True))):
        lines += [_mean_line(step, f"{tag}/m{name}", result.total), f"Step {step} {tag}/parts_{name}:"]
        names, values = [*PARTS.values(), "mean"], [*(result.values[part] for part in PARTS), result.total]
        lines += ["\t".join(names), _values(values)]
    lines.append(_mean_line(step, f"{tag}/mPCKh", e.pckh().total))
    lines += [_mean_line(step, f"{tag}/mSymmetricPCKh", symmetric.total), f"Step {step} {tag}/parts_SymmetricPCKh:"]
    shown = [group for group in GROUPS if group in symmetric.values]
    lines += ["\t".join(GROUPS[g] for g in shown), _values([symmetric.values[g] for g in shown])]
    if not e.valid.all():
        lines.append("persons counted: " + ", ".join(f"{label} {strict.counts[part]}" for part, label in PARTS.items()))
    return lines


def _mean_line(step: int, name: str, value: float) -> str:
    return f"Step\t {step}\t {name}\t {value / 100:.3f}"


def _values(values: list[float]) -> str:
    return "\t".join(f"{value / 100:.3f}" for value in values)


def plot(path: str | Path, panels: dict[str, dict[str, tuple[list, list]]], xlabel: str, title: str) -> None:
    """Panels {y axis: {label: (xs, ys)}} below each other as a PNG."""
    from matplotlib.figure import Figure

    from common.files import atomic_write

    figure = Figure(figsize=(7, 2 + 2.2 * len(panels)), layout="constrained")
    for axes, (label, lines) in zip(figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0], panels.items()):
        for name, (xs, ys) in lines.items():
            axes.plot(xs, ys, label=name, linewidth=1, marker="o" if len(xs) < 100 else None, markersize=3)
        axes.set(ylabel=label, xlabel=xlabel, ylim=(0, None))
        axes.grid(alpha=0.3)
        axes.legend()
    figure.suptitle(title)
    atomic_write(path, lambda temporary: figure.savefig(temporary, dpi=110, format="png"))


def plot_run(run: Path, out: Path | None = None) -> Path:
    """A run's log over its steps; the picture's path. DataError when there is no log, or none of the figures in it."""
    from common.runs.runlog import read_log

    log, out = run / "log.jsonl", out or run / "learning_curve.png"
    if not log.is_file():
        raise DataError(f"{log} does not exist; give the folder that training wrote to")
    entries = read_log(log)
    panels: dict[str, dict[str, tuple[list, list]]] = {}
    for label, factor, names in PANELS:
        points = {n: [(e["step"], factor * e[n]) for e in entries if isinstance(e.get(n), (int, float))] for n in names}
        lines = {names[n]: ([x for x, _ in found], [y for _, y in found]) for n, found in points.items() if found}
        panels |= {label: lines} if lines else {}
    if not panels:
        raise DataError(f"{log} holds no losses and no scores yet")
    plot(out, panels, "step", run.name)
    return out


def main(argv=None) -> int:
    """Exit code 0, or 2 with a message on bad input."""
    from common.runs.options import Parser
    from common.runs.process import exit_code

    parser = Parser(__doc__)
    parser.source("run", "the run's folder", type=Path)
    parser.option("out", type=Path, default=None, text="the picture (default: RUN/learning_curve.png)")
    args = parser.parse_args(argv)
    return exit_code(lambda: plot_run(args.run, args.out), "learning curve: {}")


if __name__ == "__main__":
    sys.exit(main())
