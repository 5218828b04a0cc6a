"""Mean and deviation of the offsets between a person's joints, over a training set: writes `pairwise_stats_fn`.

    python deepercut_tf/pairwise_stats.py --config deepercut_tf/models/coco/train/pose_cfg.yaml

Offsets are in unscaled pixels (loading multiplies by global_scale); with `mirror` mirrored copies count too. Every
image counts once; no image is decoded. A pair that never occurs gets mean 0 and deviation 1, with a warning.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import numpy as np

from common.datasets.files import read_numbers
from common.errors import DataError
from common.files import write_mat
from common.runs.process import exit_code
from deepercut_tf.config import Config, settings_of, settings_parser
from deepercut_tf.items import load_items
from deepercut_tf.joints import mirror_joints, symmetric_order


def ordered_pairs(joints: int) -> np.ndarray:
    """(P,2) the P = J(J-1) ordered pairs k != m, k-major: the order of the network's channels."""
    return np.argwhere(~np.eye(joints, dtype=bool))


def collect(
    persons: list[np.ndarray], joints: int, widths: list[float] | None = None, all_joints=None, mirror_shift: int = -1
):
    """(mean, deviation, count): (P,2), (P,2), (P,) over persons of rows (id, x, y); the deviation is the population's.

    With `widths` (one a person, of its image) mirrored copies count too, exchanged by `all_joints`. NaN where a pair
    never occurs.
    """
    if widths is not None:
        order = symmetric_order(all_joints, joints)
        persons = persons + [mirror_joints(p, w, order, mirror_shift) for p, w in zip(persons, widths)]
    points = np.full((len(persons), joints, 2), np.nan)
    for table, person in zip(points, persons):
        table[person[:, 0].astype(int)] = person[:, 1:]
    start, end = ordered_pairs(joints).T
    offset = points[:, end] - points[:, start]
    count = np.isfinite(offset[..., 0]).sum(0)
    safe = np.where(count, count, np.nan)[:, None]
    mean = np.nansum(offset, axis=0) / safe
    return mean, np.sqrt(np.nansum((offset - mean) ** 2, axis=0) / safe), count


def save_statistics(path: str | Path, mean: np.ndarray, deviation: np.ndarray, joints: int) -> Path:
    """The original's .mat: graph (P,2) from 0, means, std_devs (P,2)."""
    return write_mat(path, {"graph": ordered_pairs(joints), "means": mean, "std_devs": deviation})


def load_statistics(path: str | Path, joints: int, scale: float = 1.0) -> np.ndarray:
    """(2,J,J,2) mean and deviation of the offsets k -> m times `scale` (the original's global_scale); diagonal 0 and 1.

    DataError when the file is missing, of another joint set, or a deviation is not positive.
    """
    make = "make it with python deepercut_tf/pairwise_stats.py"
    if not Path(path).is_file():
        raise DataError(f"pairwise statistics {path} do not exist (key pairwise_stats_fn); {make}")
    found, *values = read_numbers(Path(path), "graph", "means", "std_devs")
    try:
        graph = np.reshape(found, (-1, 2)).astype(int)
        values = np.reshape(values, (2, len(graph), 2))
    except ValueError as error:
        raise DataError(f"{path}: graph, means, std_devs are no tables of the same pairs ({error}); {make}") from error
    if {*map(tuple, graph.tolist())} != {*map(tuple, ordered_pairs(joints).tolist())}:
        raise DataError(f"{path} is of another joint set: field graph must hold all pairs of {joints} joints; {make}")
    table = np.stack([np.zeros((joints, joints, 2)), np.ones((joints, joints, 2))])
    table[:, graph[:, 0], graph[:, 1]] = values * scale
    if not (np.isfinite(table).all() and (table[1] > 0).all()):
        raise DataError(f"{path}: field std_devs must be positive and means finite; {make}")
    return table


def run(config: Config) -> Path:
    """Collect and write; returns the file. DataError on bad input."""
    from deepercut_tf.data import size_of

    item_set, config = load_items(config)
    items = [item for item in item_set.items if item.persons]
    persons = [person for item in items for person in item.persons]
    widths = [float(size_of(item)[1]) for item in items for _ in item.persons] if config.mirror else None
    mean, deviation, count = collect(persons, config.num_joints, widths, config.all_joints, item_set.mirror_shift)
    rare = ordered_pairs(config.num_joints)[count == 0].tolist()
    if rare:
        what = f"{len(rare)} pairs of joints never occur together, first {rare[0]}"
        print(f"warning: {what}: mean 0, deviation 1", file=sys.stderr)
    mean, deviation = np.nan_to_num(mean), np.where(np.nan_to_num(deviation) > 0, deviation, 1.0)
    print(f"{len(persons)} persons in {len(items)} images, {int(count.sum())} pairs")
    return save_statistics(config.out or config.pairwise_stats_fn, mean, deviation, config.num_joints)


def main(argv=None) -> int:
    """Exit code 0, or 2 with a message on bad input."""
    return exit_code(lambda: run(settings_of(settings_parser(__doc__).parse_args(argv))), "{}")


if __name__ == "__main__":
    sys.exit(main())
