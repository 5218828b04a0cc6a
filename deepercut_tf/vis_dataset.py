"""What the network is trained on: writes each training picture with its score targets over it.

python deepercut_tf/vis_dataset.py --config FILE --out output/vis_dataset --limit 20
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)

from common.runs.first.process import exit_code  # noqa: E402
from deepercut_tf.options import settings_of, settings_parser  # noqa: E402


def parse_args(argv=None) -> argparse.Namespace:
    """Options."""
    parser = settings_parser(__doc__, limit="number of pictures (default: 20)")
    parser.add_argument(
        "--out", default="output/vis_dataset", help="folder for the pictures (default: output/vis_dataset)"
    )
    parser.set_defaults(limit=20)
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> Path:
    """Write the pictures; returns the folder. DataError on bad input."""
    from itertools import islice

    from common.draw import save_image
    from deepercut_tf.config import require
    from deepercut_tf.data import Sampler, make_sample
    from deepercut_tf.items import load_items
    from deepercut_tf.pictures import score_picture

    item_set, config = load_items(settings_of(args))
    require(config, "pos_dist_thresh", why="training")
    for draw in islice(Sampler(item_set, config).draws(), args.limit):
        sample = make_sample(
            item_set, draw.indices[0], config, draw.scale, draw.mirror, angle=draw.angle, spot=draw.spot
        )
        save_image(Path(args.out) / f"{draw.number:06d}.png", score_picture(sample.image, sample.targets.score.max(-1)))
    return Path(args.out)


def main(argv=None) -> int:
    """Exit code 0, or 2 with a message on bad input."""
    args = parse_args(argv)
    return exit_code(lambda: run(args), "{}")


if __name__ == "__main__":
    sys.exit(main())
