"""COCO's keypoint evaluation of a result file of test_multiperson.py; scores and fractions of pixels are kept.

python deepercut_tf/eval_mscoco.py --config FILE --pred predictions.json
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from common.errors import DataError
from common.runs.process import exit_code
from deepercut_tf.config import require, settings_of, settings_parser


def run(args: argparse.Namespace) -> str:
    """The ten figures, a line each. DataError on bad input."""
    from common.datasets import coco
    from common.importers import load_any
    from common.metrics.coco import oks_ap
    from common.skeletons import COCO17
    from deepercut_tf.joints import AIC17

    config = settings_of(args)
    require(config, "train_split", why="eval_mscoco.py")
    skeleton = AIC17 if config.dataset == "aic" else COCO17
    # COCO's evaluator knows 17 places, not what ai2coco put there
    truth = replace(coco.load(config.data_path.absolute(), str(config.train_split), skeleton), skeleton=COCO17)
    if not args.pred.is_file():
        make = "python deepercut_tf/test_multiperson.py"
        raise DataError(f"{args.pred} does not exist; write it with {make}, or give --pred")
    return "\n".join(f"{name:10} {value:.3f}" for name, value in oks_ap(truth, load_any(args.pred, truth)).items())


def main(argv=None) -> int:
    """Exit code 0, or 2 with a message on bad input."""
    parser = settings_parser(__doc__)
    parser.option("pred", type=Path, default="predictions.json", metavar="FILE", text="COCO result file", group="data")
    return exit_code(lambda: run(parser.parse_args(argv)), "{}")


if __name__ == "__main__":
    sys.exit(main())
