"""The original's command for pictures without annotation: every picture of a folder, each looked at as a whole.

    python simplebaseline_paddle/test.py --checkpoint PATH [--image_dir DIR] [--dataset mpii] [--flip_test no]

Writes joints.jsonl (image pixels) and a drawing for each picture; the original drew cells of the map into pictures of 384x384 alone, and
nothing at all without the flip test. Any file name will do. predict.py, which does the work, also takes boxes and videos.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)

from common.runs.first.process import exit_code  # noqa: E402
from simplebaseline_paddle import predict  # noqa: E402
from simplebaseline_paddle.arguments import drop_ignored, plain_switches, switches  # noqa: E402
from simplebaseline_paddle.config import DATASETS  # noqa: E402
from simplebaseline_paddle.val import common_arguments  # noqa: E402


def parse_args(argv=None) -> argparse.Namespace:
    """Options, as predict.py has them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", choices=DATASETS, default="mpii", help="whose joints (default: mpii)")
    parser.add_argument("--image_dir", help="folder of pictures (default: data/mpii/images/test)")
    common_arguments(parser)
    predict.own_arguments(parser)
    parser.set_defaults(out="output/test")
    return parser.parse_args(
        plain_switches(drop_ignored(sys.argv[1:] if argv is None else argv), switches() | {"random_weights"})
    )


def run(args: argparse.Namespace) -> Path:
    """Predict the pictures of the folder; returns the folder of the answers. DataError when there are none."""
    args.source = args.image_dir or str(ROOT / "data/mpii/images/test")
    args.out = str(ROOT / args.out) if args.out == "output/test" else args.out
    return predict.run(args)


def main(argv=None) -> int:
    """Exit code 0, or 2 with a message on bad input."""
    return exit_code(lambda: run(parse_args(argv)), "joints and drawings are in {}")


if __name__ == "__main__":
    sys.exit(main())
