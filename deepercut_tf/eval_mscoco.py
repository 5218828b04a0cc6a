"""COCO's keypoint evaluation of a result file of test_multiperson.py.

    python deepercut_tf/eval_mscoco.py --config FILE --pred predictions.json

Scores are kept; the original cut coordinates to whole pixels and, with its constant score of 1, made AP depend on the
order of the persons (--mode compat repeats that on its file NAME-0.json).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from common.errors import DataError
from common.runs.process import exit_code
from deepercut_tf.config import as_cfg, require, settings_of, settings_parser


def parse_args(argv=None) -> argparse.Namespace:
    """Options."""
    parser = settings_parser(__doc__)
    parser.option("pred", default="predictions.json", metavar="FILE", text="COCO result file", group="data")
    return parser.parse_args(argv)


def as_the_original(entries: list[dict]) -> list[dict]:
    """Coordinates cut to whole pixels, v = 1 where it was positive."""
    cut = []
    for entry in entries:
        points = entry["keypoints"]
        table = [[int(x), int(y), int(v > 0)] for x, y, v in zip(points[::3], points[1::3], points[2::3])]
        cut.append({**entry, "keypoints": [v for row in table for v in row]})
    return cut


def run(args: argparse.Namespace) -> dict[str, float]:
    """The ten figures. DataError on bad input."""
    from dataclasses import replace

    from common.datasets import coco
    from common.datasets.files import read_json
    from common.files import write_json
    from common.importers import load_any
    from common.metrics.coco import oks_ap
    from common.skeletons import COCO17
    from deepercut_tf.joints import AIC17

    config = settings_of(args)
    require(config, "train_split", why="eval_mscoco.py")
    cfg = as_cfg(config)
    joints = AIC17 if cfg.dataset_type == "aic" else COCO17
    truth = coco.load(config.data_path.absolute(), cfg.dataset_phase, joints)
    # COCO's evaluator knows 17 places, not what ai2coco put there
    truth = replace(truth, skeleton=COCO17)
    path = Path(args.pred)
    if not path.is_file():
        raise DataError(f"{path} does not exist; write it with python deepercut_tf/test_multiperson.py, or give --pred")
    if cfg.mode == "compat":
        path = write_json(path.with_name(f"{path.stem}-0.json"), as_the_original(read_json(path)))
    return oks_ap(truth, load_any(path, truth))


def main(argv=None) -> int:
    """Exit code 0, or 2 with a message on bad input."""
    figures = lambda: "\n".join(f"{name:10} {value:.3f}" for name, value in run(parse_args(argv)).items())  # noqa: E731
    return exit_code(figures, "{}")


if __name__ == "__main__":
    sys.exit(main())
