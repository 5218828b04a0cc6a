"""Find the joints of persons in pictures, folders, videos or a camera; draw them and write them as JSON lines (the
original's pytest.py).

    python deeppose_caffe_port/predict.py picture.png                            # all stages of the newest project
    python deeppose_caffe_port/predict.py picture.png --weights=PROJECT --stage=1 --snapshot1=MODEL1.caffemodel
    python deeppose_caffe_port/predict.py clip.mp4 --weights=PROJECT --boxes=40,20,180,360 --smooth

K2HPD's network takes whole depth images of its size. For the others a person is looked for in each of --boxes, without
them in the whole picture; in a video the box follows the last pose.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from common.runs import predicting
from common.runs.options import given_of
from common.runs.process import exit_code
from deeppose_caffe_port.config import HOUSE, parse

_SETTINGS = ("dataset", "mode", "snapshot1", "snapshot2", "amp", "flip_test", "workers")


def parse_args(argv=None) -> tuple[dict, argparse.Namespace]:
    """(settings given, the other options)."""
    parser = predicting.parser(__doc__, but=("raw_weights", "min_score"))
    text = "the last stage to apply (default: all trained)"
    parser.option("stage", type=int, text=text, group="network", default=None)
    given, own = parse(parser, argv, only=_SETTINGS)
    return given, argparse.Namespace(**own)


def run(given: dict, own: argparse.Namespace) -> Path:
    """Write joints.jsonl and the drawings (pictures, or one video); returns the folder."""
    source = predicting.Source(own.source, own.recursive, own.limit)
    from deeppose_caffe_port.estimator import Estimator

    estimator = Estimator(own.weights, stage=own.stage, **given_of(own, "device", "threads"), **given)
    # boxes are padded as in training, so the next one is that of the joints; whole pictures are not followed
    answers = predicting.Answers(own, source, estimator.skeleton, HOUSE, padding=0.0)
    answers.padding = None if estimator.config.whole_images else answers.padding
    with answers:
        for batch in answers.track(source):
            for picture, people in zip(batch, estimator.predict_many([(p.image, p.boxes) for p in batch])):
                answers.write(picture, people)
                if source.count == 1:  # as the original, which reads one
                    print(f"{picture.name}\n{people.joints.round(2)}")
    return answers.folder


def main(argv=None) -> int:
    """Exit code 0, or 2 with a message on bad input."""
    given, own = parse_args(argv)
    return exit_code(lambda: run(given, own), "joints and drawings are in {}")


if __name__ == "__main__":
    sys.exit(main())
