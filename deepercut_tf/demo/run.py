"""What the two demos do: predict.py on one picture with the demo's settings."""

from __future__ import annotations

from pathlib import Path

from common.runs.options import Parser
from deepercut_tf import predict

HERE = Path(__file__).resolve().parent


def demo(about: str | None, picture: str, settings: str, people: str, argv=None) -> int:
    """Parse the options and predict. `picture`, `settings`: defaults, files of this folder; `people`: one or all.

    Exit code 0, or 2 with a message on bad input.
    """
    parser = Parser(about)
    parser.option("image", default=str(HERE / picture), metavar="FILE", text=f"picture (default: demo/{picture})")
    parser.option("config", default=str(HERE / settings), metavar="FILE", text=f"settings (default: demo/{settings})")
    parser.options("weights")
    parser.option("out", default="output/demo", metavar="FOLDER", text="folder of joints.jsonl and the drawing")
    args = parser.parse_args(argv)
    weights = ["--weights", args.weights] if args.weights else []
    return predict.main([args.image, "--config", args.config, "--out", args.out, "--people", people, *weights])
