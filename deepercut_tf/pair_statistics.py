"""Mean and deviation of the offsets between a person's joints, which normalise the pairwise targets."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.datasets.files import read_mat
from common.errors import DataError
from common.files import atomic_write
from deepercut_tf.joints import mirror_joints, symmetric_order
from deepercut_tf.targets import pair_id


def ordered_pairs(joints: int) -> np.ndarray:
    """(J(J-1),2) ordered pairs k != m, k-major."""
    return np.array([(k, m) for k in range(joints) for m in range(joints) if k != m], np.int64).reshape(-1, 2)


@dataclass(frozen=True)
class PairStatistics:
    """Offsets k -> m in scaled pixels, a row a pair of `ordered_pairs`; `channel` is the network's output pair."""

    mean: np.ndarray  # (P,2)
    deviation: np.ndarray  # (P,2)
    channel: np.ndarray  # (P,)

    def table(self, joints: int) -> np.ndarray:
        """(2,J,J,2) mean and deviation by joint, as `targets.make_targets` reads them (diagonal 0 and 1)."""
        pairs = ordered_pairs(joints)
        table = np.stack([np.zeros((joints, joints, 2)), np.ones((joints, joints, 2))])
        table[0, pairs[:, 0], pairs[:, 1]], table[1, pairs[:, 0], pairs[:, 1]] = self.mean, self.deviation
        return table


def collect(
    persons: list[np.ndarray], joints: int, widths: list[float] | None = None, all_joints=None, mirror_shift: int = -1
):
    """(mean, deviation, count): (P,2), (P,2), (P,) over persons of rows (id, x, y); the deviation is the population's.

    With `widths` (one a person, of its image) mirrored copies count too, exchanged by `all_joints`. NaN where a pair
    never occurs.
    """
    tables = [_table(p, joints) for p in persons]
    if widths is not None:
        order = symmetric_order(all_joints, joints)
        tables += [_table(mirror_joints(p, w, order, mirror_shift), joints) for p, w in zip(persons, widths)]
    points = np.array(tables).reshape(-1, joints, 2)
    pairs = ordered_pairs(joints)
    offset = points[:, pairs[:, 1]] - points[:, pairs[:, 0]]
    present = np.isfinite(offset[..., 0])
    count = present.sum(0)
    safe = np.where(count, count, np.nan)[:, None]
    mean = np.nansum(offset, axis=0) / safe
    deviation = np.sqrt(np.nansum((offset - mean) ** 2, axis=0) / safe)
    return mean, deviation, count


def _table(person: np.ndarray, joints: int) -> np.ndarray:
    table = np.full((joints, 2), np.nan)
    table[person[:, 0].astype(int)] = person[:, 1:]
    return table


def save_statistics(path: str | Path, mean: np.ndarray, deviation: np.ndarray, joints: int) -> None:
    """The original's .mat: graph (P,2) from 0, means, std_devs (P,2)."""
    from scipy.io import savemat

    content = {"graph": ordered_pairs(joints), "means": mean, "std_devs": deviation}
    atomic_write(path, lambda temporary: savemat(temporary, content, appendmat=False))


def load_statistics(path: str | Path, joints: int, scale: float = 1.0, our_order: bool = True) -> PairStatistics:
    """Read a statistics file; mean and deviation are multiplied by `scale` (the original's global_scale).

    `our_order` false: output channels stand in the order of the file, whose joints count from 1 (Caffe models;
    unverified). DataError when the file is missing, lacks a pair of the `joints`, or a deviation is not positive.
    """
    make = "make it with python deepercut_tf/pairwise_stats.py"
    if not Path(path).is_file():
        raise DataError(f"pairwise statistics {path} do not exist (key pairwise_stats_fn); {make}")
    content = read_mat(Path(path))
    lacking = [name for name in ("graph", "means", "std_devs") if name not in content]
    if lacking:
        raise DataError(f"{path} has no variable {lacking[0]!r}; {make}")
    graph = np.asarray(content["graph"]).astype(int) - (0 if our_order else 1)
    rows = {tuple(pair): i for i, pair in enumerate(graph.tolist())}
    pairs = ordered_pairs(joints)
    missing = [pair for pair in map(tuple, pairs.tolist()) if pair not in rows]
    if missing:
        count = f"{len(missing)} pairs of {len(pairs)} lack"
        raise DataError(f"{path} has no statistics of joints {missing[0]} ({count}); it is of another joint set")
    index = np.array([rows[pair] for pair in map(tuple, pairs.tolist())], int)
    mean, deviation = content["means"][index] * scale, content["std_devs"][index] * scale
    if not (np.isfinite(mean).all() and (deviation > 0).all()):
        raise DataError(f"{path}: field std_devs must be positive and means finite; {make}")
    channel = np.array([pair_id(k, m, joints) for k, m in pairs], int) if our_order else index
    return PairStatistics(mean, deviation, channel)
