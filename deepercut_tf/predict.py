"""Find joints in pictures, folders, videos or a camera; write and draw them.

python deepercut_tf/predict.py photo.jpg --weights RUN       # all persons with pairwise terms, else one
python deepercut_tf/predict.py clip.mp4 --weights RUN --smooth
python deepercut_tf/predict.py photo.jpg --weights RUN --boxes 10,20,80,200   # one person in each box
python deepercut_tf/predict.py photo.jpg --config FILE --weights snapshot-1030000   # the original's weights need both
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from common.runs import predicting
from common.runs.process import exit_code
from deepercut_tf.config import PREDICTION, Config, add_file_options, predicting_settings


def run(args: argparse.Namespace) -> Path:
    """Predict and write; returns the folder. DataError on bad input."""
    from deepercut_tf.estimator import Estimator

    source = predicting.Source(args.source, args.recursive, args.limit)
    options = predicting_settings(args)
    estimator = Estimator(args.weights, people=args.people, device=args.device, threads=args.threads, **options)
    padding = 0.2 if args.boxes or args.detector else None  # without boxes the whole picture is looked at each time
    with predicting.Answers(args, source, estimator.skeleton, "deepercut_tf", padding) as answers:
        for batch in answers.track(source):
            for picture, people in zip(batch, estimator.predict_many([(p.image, p.boxes) for p in batch])):
                answers.write(picture, people)
    return answers.folder


def main(argv=None) -> int:
    """Exit code 0, 130 when stopped, or 2 with a message on bad input."""
    parser = predicting.parser(__doc__)
    people = "auto: all with pairwise terms"
    parser.option("people", choices=("auto", "one", "all"), default="auto", text=people, group="data")
    add_file_options(parser)
    parser.settings(Config, only=PREDICTION, default="the weights'")
    return exit_code(lambda: run(parser.parse_args(argv)), "joints and drawings are in {}")


if __name__ == "__main__":
    sys.exit(main())
