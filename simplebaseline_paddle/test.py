"""The original's command for pictures without annotation: predict.py on a folder, each picture looked at as a whole.

python simplebaseline_paddle/test.py --checkpoint PATH [--image_dir DIR] [--dataset mpii] [--flip_test no]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from common.runs.shelf import REPOSITORY
from simplebaseline_paddle import predict


def main(argv=None) -> int:
    """Exit code of predict.py, whose SOURCE is --image_dir; --dataset is mpii unless given, as in the original."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--image_dir", default=str(REPOSITORY / "data/mpii/images/test"))
    given, rest = parser.parse_known_args(argv)
    return predict.main([given.image_dir, "--dataset", "mpii", *rest])


if __name__ == "__main__":
    sys.exit(main())
