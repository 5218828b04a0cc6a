"""What the two demos do: predict.py on one picture with the demo's settings."""

from __future__ import annotations

import argparse
from pathlib import Path

from deepercut_tf import predict

HERE = Path(__file__).resolve().parent


def demo(about: str, picture: str, settings: str, people: str, argv=None) -> int:
    """Parse the options and predict. `picture`, `settings`: defaults, files of this folder; `people`: one or all.

    Exit code 0, or 2 with a message on bad input.
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image", default=str(HERE / picture), help=f"picture (default: demo/{picture})")
    parser.add_argument("--config", default=str(HERE / settings), help=f"settings (default: demo/{settings})")
    parser.add_argument("--weights", help="weights (default: the key init_weights of the settings)")
    parser.add_argument(
        "--out", default="output/demo", help="folder for the drawing and joints.jsonl (default: output/demo)"
    )
    args = parser.parse_args(argv)
    weights = ["--weights", args.weights] if args.weights else []
    return predict.main([args.image, "--config", args.config, "--out", args.out, "--people", people, *weights])
