"""Find persons' joints in pictures, folders, videos or cameras; draw them and write them as JSON lines.

    python lpm_torch/predict.py photo.jpg --weights=PATH
    python lpm_torch/predict.py folder/ --boxes=40,20,180,360     # pictures that have nothing to do with each other
    python lpm_torch/predict.py frames/ --track                   # a folder that holds the frames of a video
    python lpm_torch/predict.py clip.mp4 --smooth                 # carries the LSTM's state from frame to frame
    python lpm_torch/predict.py 0                                 # first camera; stop with Ctrl-C

A person is looked for in --boxes, or in those of a --detector, without them in the whole picture. In a video the box follows the last pose, and
everything starts again when the person is lost.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from common.runs import predicting
from common.runs.options import given_of
from common.runs.predicting import Answers, Source
from common.runs.process import exit_code
from lpm_torch.config import HOUSE, Config, weights_path

SETTINGS = ("model", "t", "input_width", "flip_test", "amp")


def run(args: argparse.Namespace) -> Path:
    """Write joints.jsonl and the drawings (pictures, or one video); returns the folder."""
    source = Source(args.source, args.recursive, args.limit)
    given = given_of(args, *SETTINGS, "device", "threads")
    path = weights_path(args.weights, given.get("model"))  # what is missing is said before PyTorch is imported
    from lpm_torch.estimator import Estimator

    estimator = Estimator(path, raw_weights=args.raw_weights, **given)
    # the margin around a followed person is the estimator's own
    with Answers(args, source, estimator.skeleton, HOUSE, padding=0.0) as answers:
        look = estimator.stream() if answers.follows_boxes else estimator
        for batch in answers.track(source):
            if answers.lost and answers.follows_boxes:
                look = estimator.stream()
            for picture, people in zip(batch, look.predict_many([(p.image, p.boxes) for p in batch])):
                answers.write(picture, people)
    return answers.folder


def main(argv=None) -> int:
    """Exit code 0, 2 with a message on bad input, 130 when it was stopped."""
    parser = predicting.parser(__doc__)
    parser.settings(Config, only=SETTINGS, default="the checkpoint's")
    parser.also("weights", "checkpoint_name", "checkpoint")
    return exit_code(lambda: run(parser.parse_args(argv)), "joints and drawings are in {}")


if __name__ == "__main__":
    sys.exit(main())
