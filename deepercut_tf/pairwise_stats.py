"""Mean and deviation of the offsets between the joints of a person, over a training set: writes `pairwise_stats_fn`.

    python deepercut_tf/pairwise_stats.py --config deepercut_tf/models/coco/train/pose_cfg.yaml

Offsets are in unscaled pixels (loading multiplies by global_scale); with `mirror` mirrored copies count too. Every
image counts once; no image is decoded. A pair that never occurs gets mean 0 and deviation 1, with a warning.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from common.runs.process import exit_code
from deepercut_tf.config import settings_of, settings_parser


def run(args: argparse.Namespace) -> Path:
    """Collect and write; returns the file. DataError on bad input."""
    import numpy as np

    from deepercut_tf.data import image_size
    from deepercut_tf.items import load_items
    from deepercut_tf.pair_statistics import collect, ordered_pairs, save_statistics

    item_set, config = load_items(settings_of(args))
    items = [item for item in item_set.items if item.persons]
    persons = [person for item in items for person in item.persons]
    widths = [float(image_size(item)[1]) for item in items for _ in item.persons] if config.mirror else None
    mean, deviation, count = collect(persons, config.num_joints, widths, config.all_joints, item_set.mirror_shift)
    rare = np.flatnonzero(count == 0)
    if len(rare):
        first = ordered_pairs(config.num_joints)[rare[0]].tolist()
        print(
            f"warning: {len(rare)} pairs of joints never occur together, first {first}: mean 0, deviation 1",
            file=sys.stderr,
        )
    mean, deviation = np.nan_to_num(mean), np.where(np.nan_to_num(deviation) > 0, deviation, 1.0)
    path = Path(config.out or config.pairwise_stats_fn)
    save_statistics(path, mean, deviation, config.num_joints)
    print(f"{len(persons)} persons in {len(items)} images, {int(count.sum())} pairs")
    return path


def main(argv=None) -> int:
    """Exit code 0, or 2 with a message on bad input."""
    return exit_code(lambda: run(settings_parser(__doc__).parse_args(argv)), "{}")


if __name__ == "__main__":
    sys.exit(main())
