"""Find joints in images, folders, videos or a camera; draw them and write them as JSON lines.

    python deeppose_tf/predict.py photo.jpg --boxes 40,20,180,360
    python deeppose_tf/predict.py folder/ --weights out/mine --boxes boxes.csv   # lines: file name, x, y, w, h
    python deeppose_tf/predict.py clip.mp4 -s CHECKPOINT --smooth                # without a box: the whole picture

The box is the crop that the network sees: give boxes with some margin around the joints, as in training.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # this folder's data.py must not shadow other modules

from common.runs import predicting
from common.runs.options import given_of
from common.runs.process import exit_code
from deeppose_tf.config import HOUSE


def run(args: argparse.Namespace) -> Path:
    """Write joints.jsonl and the drawings (pictures, or one video); returns the folder."""
    from deeppose_tf.estimator import Estimator

    source = predicting.Source(args.source, args.recursive, args.limit)
    estimator = Estimator(args.weights, **given_of(args, "mode", "flip_test", "amp", "device", "threads"))
    with predicting.Answers(args, source, estimator.skeleton, HOUSE) as answers:
        for batch in answers.track(source):
            for picture, people in zip(batch, estimator.predict_many([(p.image, p.boxes) for p in batch])):
                answers.write(picture, people)
    return answers.folder


def main(argv=None) -> int:
    """Exit code 0, or 2 with a message on bad input."""
    parser = predicting.parser(__doc__, but=("raw_weights", "min_score"))
    parser.also("weights", "-s", "snapshot")
    parser.also("boxes", "bbox")
    parser.options("mode", "flip_test", "amp")
    return exit_code(lambda: run(parser.parse_args(argv)), "joints and drawings are in {}")


if __name__ == "__main__":
    sys.exit(main())
