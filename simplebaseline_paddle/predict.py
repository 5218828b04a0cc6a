"""Find the joints of people in images, folders, videos or a camera; draw them and write them as JSON lines.

python simplebaseline_paddle/predict.py photo.jpg --weights PATH               # one person, the whole picture
python simplebaseline_paddle/predict.py photo.jpg --boxes 40,20,180,360 --boxes 300,25,150,340
python simplebaseline_paddle/predict.py folder/ --boxes detections.json --box_threshold 0.3
python simplebaseline_paddle/predict.py clip.mp4 --smooth
python simplebaseline_paddle/predict.py photo.jpg --detector yolo11n.onnx
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from common.runs import predicting
from common.runs.process import exit_code
from simplebaseline_paddle.config import DATASETS, HOUSE, add_use_options, use_of


def predict(args: argparse.Namespace) -> Path:
    """Write what `common.runs.predicting` says for every picture; returns the folder. DataError on bad input."""
    from simplebaseline_paddle.estimator import Estimator

    source = predicting.Source(args.source, args.recursive, args.limit)
    estimator = Estimator(args.weights, **use_of(args, "preset", "dataset"))
    with predicting.Answers(args, source, estimator.skeleton, HOUSE) as answers:
        for batch in answers.track(source):
            for picture, people in zip(batch, estimator.predict_many([(p.image, p.boxes) for p in batch])):
                answers.write(picture, people)
    return answers.folder


def main(argv=None) -> int:
    """Exit code 0, or 2 with a message on bad input."""
    parser = predicting.parser(__doc__)
    about = "whose newest weights, and whose joints where a file of the originals does not say"
    parser.option("dataset", choices=DATASETS, default=None, text=about)
    add_use_options(parser)
    return exit_code(lambda: predict(parser.parse_args(argv)), "joints and drawings are in {}")


if __name__ == "__main__":
    sys.exit(main())
