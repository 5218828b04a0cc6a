"""The original's demo: joints of one person in a picture, with the settings of demo/pose_cfg.yaml. Same as predict.py with them.

    python deepercut_tf/demo/singleperson.py --image photo.jpg --weights SNAPSHOT --out output/demo
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[0] = str(HERE.parent.parent)

from deepercut_tf import predict  # noqa: E402


def main(argv=None) -> int:
    """Exit code 0, or 2 with a message on bad input."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image", default=str(HERE / "image.png"), help="picture (default: demo/image.png)")
    parser.add_argument("--config", default=str(HERE / "pose_cfg.yaml"), help="settings (default: demo/pose_cfg.yaml)")
    parser.add_argument("--weights", help="weights (default: the key init_weights of the settings)")
    parser.add_argument("--out", default="output/demo", help="folder for the drawing and joints.jsonl (default: output/demo)")
    args = parser.parse_args(argv)
    weights = ["--weights", args.weights] if args.weights else []
    return predict.main([args.image, "--config", args.config, "--out", args.out, "--people", "one", *weights])


if __name__ == "__main__":
    sys.exit(main())
