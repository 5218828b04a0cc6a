"""Baselines that see no image: what a figure must beat before it says anything.

    python -m common.baselines --dataset lspet --data_root DIR --train 1-4000 --split 4001-5000 --house HOUSE

scores the mean pose by every protocol that applies; `--result FILE` writes a run file beside its own.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from common import datasets
from common.errors import DataError
from common.geometry import box_center
from common.poses import PoseSet
from common.predictions import Predictions, predictions_for
from common.runs.options import Parser
from common.runs.process import exit_code
from common.runs.scoring import publish


def mean_pose(train: PoseSet, test: PoseSet, house: str = "common") -> Predictions:
    """The training set's mean pose, placed into each test person's box.

    Poses are averaged relative to the box centre in units of its longer side (as square crops see them), over the
    labelled joints; a joint that is never labelled in training is NaN. DataError for different skeletons.
    """
    if train.skeleton != test.skeleton:
        what = f"the mean pose of {train.skeleton.name} cannot be placed into {test.skeleton.name}"
        raise DataError(f"{what}; take both splits from one data set")
    relative = (train.joints - box_center(train.box)[:, None]) / _side(train)
    count = np.isfinite(relative).sum(0)
    with np.errstate(invalid="ignore"):
        mean = np.nansum(relative, axis=0) / np.where(count > 0, count, np.nan)
    joints = box_center(test.box)[:, None] + mean * _side(test)
    meta = {"house": house, "model": "mean pose", "boxes": "oracle (annotated)", "flip_test": False}
    return predictions_for(test, joints, meta=meta)


def _side(pose_set: PoseSet) -> np.ndarray:
    return np.maximum(pose_set.box[:, 2:].max(-1), 1.0)[:, None, None]


def _run(args) -> None:
    train, test = (datasets.load(args.dataset, args.data_root, split) for split in (args.train, args.split))
    publish(args, mean_pose(train, test, args.house), test, Path("output") / args.house / "mean_pose.npz")


def main(argv: list[str] | None = None) -> int:
    """Entry point; exit code 2 on bad input."""
    parser = Parser((__doc__ or "").split("\n")[0])
    for name in ("dataset", "data_root", "train", "split"):
        parser.option(name, required=True, text="split to average" if name == "train" else "")
    parser.option("house", default="common", text="whose results the run file stands beside")
    parser.options("out", "protocol", "json", "result")
    return exit_code(lambda: _run(parser.parse_args(argv)))


if __name__ == "__main__":
    sys.exit(main())
