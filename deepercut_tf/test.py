"""Predict one person in every image of a data set: writes predictions.mat for eval_pck.py.

    cd deepercut_tf/models/mpii/test && python ../../../test.py
    python deepercut_tf/test.py --config FILE --weights SNAPSHOT --cache --vis FOLDER

`joints` in predictions.mat: one (J,3) array of x, y, probability an image, in the data set's order, in image pixels;
NaN for an image that cannot be read.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import numpy as np

from common.files import write_mat
from common.runs.options import Parser
from common.runs.process import exit_code
from deepercut_tf.config import as_cfg, settings_of, settings_parser


def testing_parser(about: str | None) -> Parser:
    """The parser of test.py and test_multiperson.py: the original's --cache and --novis, and --vis."""
    parser = settings_parser(about)
    parser.option("cache", type=bool, default=False, text="also write the maps to scoremap_dir", group="output")
    parser.option("vis", default=None, metavar="FOLDER", text="folder for drawings", group="output")
    quiet = "as in the original; nothing is shown unless --vis is given"
    parser.option("novis", type=bool, default=False, text=quiet, group="output")
    return parser


def run(args: argparse.Namespace) -> Path:
    """Predict and write; returns the file. DataError on bad input."""
    from common.draw import draw_pose, save_image
    from deepercut_tf.detections import argmax_pose
    from deepercut_tf.estimator import Estimator
    from deepercut_tf.items import load_items

    item_set, config = load_items(settings_of(args))
    estimator = Estimator(config.weights, people="one", **as_cfg(config))
    joints = np.empty((1, len(item_set)), object)
    for i in range(len(item_set)):
        joints[0, i] = np.full((config.num_joints, 3), np.nan)
    for i, item, image in item_set.pictures("test"):
        maps, scale = estimator.maps(image)
        name = f"{i:06d}_{Path(item.image).stem}"
        pose = joints[0, i] = argmax_pose(maps) / [scale, scale, 1]
        if args.cache:
            write_mat(Path(config.scoremap_dir) / f"{name}.mat", {"scoremaps": maps.score})
            write_mat(Path(config.scoremap_dir) / f"{name}_locreg.mat", {"locreg_pred": maps.locref})
        if args.vis:
            drawing = draw_pose(image, pose[:, :2], estimator.skeleton, pose[:, 2])
            save_image(Path(args.vis) / f"{name}.png", drawing)
    return write_mat(Path(config.out or "predictions.mat").absolute(), {"joints": joints})


def main(argv=None) -> int:
    """Exit code 0, or 2 with a message on bad input."""
    return exit_code(lambda: run(testing_parser(__doc__).parse_args(argv)), "{}")


if __name__ == "__main__":
    sys.exit(main())
