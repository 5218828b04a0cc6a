"""The original's demo: joints of one person in a picture, by predict.py with the settings of demo/pose_cfg.yaml.

python deepercut_tf/demo/singleperson.py --image photo.jpg --weights SNAPSHOT --out output/demo
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent.parent)

from common.runs.options import Parser
from deepercut_tf import predict

HERE = Path(__file__).resolve().parent


def main(argv=None, about=__doc__, picture="image.png", settings="pose_cfg.yaml", people="one") -> int:
    """Exit code 0, or 2 with a message on bad input."""
    parser = Parser(about)
    parser.option("image", default=str(HERE / picture), metavar="FILE", text=f"picture (default: demo/{picture})")
    parser.option("config", default=str(HERE / settings), metavar="FILE", text=f"settings (default: demo/{settings})")
    parser.options("weights")
    parser.option("out", default="output/demo", metavar="FOLDER", text="folder of joints.jsonl and the drawing")
    args = parser.parse_args(argv)
    weights = ["--weights", args.weights] if args.weights else []
    return predict.main([args.image, "--config", args.config, "--out", args.out, "--people", people, *weights])


if __name__ == "__main__":
    sys.exit(main())
