"""What the distance metrics share: distances, hits, percentages, and their `Result`."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from common.skeletons import Skeleton


@dataclass(frozen=True)
class Tally:
    """What a figure was counted from, row by row, so that `common.intervals` can count resampled rows."""

    hits: np.ndarray  # (N,K) whether a column of a row is right, or what share of it
    counted: np.ndarray  # (N,K) bool
    columns: dict[str, list[int]]  # entry of `Result.values` -> the columns whose mean it is
    pooled: list[int] | None  # the total is hits / counted of these columns; None: the mean of the entries


@dataclass(frozen=True)
class Result:
    """One figure with its breakdown: percentages, unless `aggregation` says otherwise (AP, AR, a loss)."""

    total: float
    values: dict[str, float]  # by joint, or by part, group or named figure
    aggregation: str  # how `total` is formed, in one sentence
    n: int  # persons of whom at least one joint or part was counted
    kind: str = "joint"  # what `values` is by: joint or part
    counts: dict[str, int] = field(default_factory=dict)  # how many persons each of `values` was counted on
    groups: dict[str, float] = field(default_factory=dict)  # left and right averaged: shoulder, knee ...
    means: dict[str, float] = field(default_factory=dict)  # the ways of forming a total that are in use, by name
    tally: Tally | None = field(default=None, compare=False, repr=False)  # None: no sum over rows
    interval: tuple[float, float] | None = None  # of `total`, 95 %, see `common.intervals`

    def as_dict(self) -> dict:
        """For JSON: total, per_joint or per_part, aggregation, n; counts, per_group, means if any. NaN is null."""
        found = {"total": self.total, f"per_{self.kind}": self.values, "aggregation": self.aggregation, "n": self.n}
        between = list(self.interval) if self.interval else None
        extra = {"interval": between, "counts": self.counts, "per_group": self.groups, "means": self.means}
        return _plain(found | {name: value for name, value in extra.items() if value})


def _plain(value):
    if isinstance(value, dict):
        return {name: _plain(entry) for name, entry in value.items()}
    if isinstance(value, list):
        return [_plain(entry) for entry in value]
    if isinstance(value, (str, int, np.integer)):
        return value if isinstance(value, str) else int(value)
    return None if math.isnan(value) else float(value)


def distances(truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """(...,2) and (...,2) -> (...) Euclidean distance in their unit, float64; NaN where either is missing."""
    difference = np.asarray(predicted, np.float64) - np.asarray(truth, np.float64)
    return np.hypot(difference[..., 0], difference[..., 1])


def within(distance: np.ndarray, size: np.ndarray, threshold: float, exact_at_zero: bool = True) -> np.ndarray:
    """Whether `distance` <= `threshold` x `size`, inclusive; False where either is NaN.

    At `size` 0 an exact hit is one when `exact_at_zero`, else nothing is (metrics that are defined as a quotient).
    """
    near = distance <= threshold * size
    return near if exact_at_zero else near & (size > 0)


def percentages(hits: np.ndarray, counted: np.ndarray) -> np.ndarray:
    """(N,K) hits and (N,K) what counts -> (K,) percent, NaN for a column in which nothing counts."""
    with np.errstate(invalid="ignore"):
        return 100.0 * (hits & counted).sum(0) / counted.sum(0)


def mean_of(values) -> float:
    """Mean of the entries that are not NaN; NaN when there is none."""
    values = np.asarray(list(values), np.float64)
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")


def pooled(hits: np.ndarray, counted: np.ndarray) -> float:
    """Percent of all that counts, whatever column it is in; NaN when nothing does."""
    total = int(counted.sum())
    return 100.0 * int((hits & counted).sum()) / total if total else float("nan")


_SENTENCES = {
    "weighted": "total = hits / counted joints, all joints pooled",
    "unweighted": "total = mean of the joints' percentages",
}


def joint_result(hits, counted, skeleton: Skeleton, total: str = "weighted", without=(), how: str = "") -> Result:
    """(N,J) hits and (N,J) counted joints -> Result by joint.

    `total` is `weighted` (every counted joint weighs the same) or `unweighted` (every joint name weighs the same); both
    are in `means`. The joints named in `without` do not enter `groups`, `means`, `total` and `n`. `how` opens the
    aggregation sentence.
    """
    left_out = [joint for joint in skeleton.joints if joint in without]
    columns = [i for i, joint in enumerate(skeleton.joints) if joint not in left_out]
    by_joint = percentages(hits, counted)
    groups = {g: [i for i in members if i in columns] for g, members in skeleton.groups.items()}
    means = {"weighted": pooled(hits[:, columns], counted[:, columns]), "unweighted": mean_of(by_joint[columns])}
    entries = {joint: [i] for i, joint in enumerate(skeleton.joints) if total == "weighted" or i in columns}
    return Result(
        total=means[total],
        values=dict(zip(skeleton.joints, by_joint.tolist())),
        aggregation=f"{how}; {_SENTENCES[total]}" + (f" without {' and '.join(left_out)}" if left_out else ""),
        n=int(counted[:, columns].any(1).sum()),
        counts=dict(zip(skeleton.joints, counted.sum(0).tolist())),
        groups={group: mean_of(by_joint[members]) for group, members in groups.items() if members},
        means=means,
        tally=Tally(hits, counted, entries, columns if total == "weighted" else None),
    )
