"""Baselines that see no image: what a figure must beat before it says anything.

`python -m common.baselines --dataset lspet --data_root DIR --train 1-4000 --split 4001-5000 --house HOUSE [--result
FILE]` scores the mean pose by every protocol that applies and, with `--result`, writes a run file beside its own.
"""

from __future__ import annotations

import argparse
import sys

import numpy as np

from common.errors import DataError
from common.geometry import box_center
from common.poses import PoseSet
from common.predictions import Predictions, predictions_for
from common.runs.process import exit_code


def mean_pose(train: PoseSet, test: PoseSet) -> Predictions:
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
    return predictions_for(test, joints, meta={"model": "mean pose", "boxes": "oracle (annotated)", "flip_test": False})


def _side(pose_set: PoseSet) -> np.ndarray:
    return np.maximum(pose_set.box[:, 2:].max(-1), 1.0)[:, None, None]


def main(argv: list[str] | None = None) -> int:
    """Entry point; exit code 2 on bad input."""
    about = (__doc__ or "").split("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m common.baselines", description=about)
    for name in ("dataset", "data_root", "train", "split"):
        parser.add_argument(f"--{name}", required=True, help="split to average" if name == "train" else None)
    parser.add_argument("--house", default="common", help="whose results the run file stands beside (default: common)")
    parser.add_argument("--result", help="write a run file for common.crosscheck")
    args = parser.parse_args(argv)
    return exit_code(lambda: _score(args))


def _score(args: argparse.Namespace) -> None:
    from common import datasets
    from common.evaluate import comparable, score, table
    from common.reported import save_run

    train, test = (datasets.load(args.dataset, args.data_root, split) for split in (args.train, args.split))
    predictions = mean_pose(train, test)
    results = score(test, predictions)
    print(table(test, predictions, results, {name: comparable(test, predictions, name) for name in results}))
    if args.result:
        words = [f"--{name} {getattr(args, name)}" for name in ("dataset", "train", "split", "house")]
        command = " ".join(["python -m common.baselines --data_root DIR", *words])
        figures = {name: result.as_dict() for name, result in results.items()}
        meta = {name: predictions.meta[name] for name in ("boxes", "flip_test", "synthetic")}
        known = {"house": args.house, "model": "mean pose", "dataset": args.dataset, "split": args.split}
        save_run(args.result, **known, protocols=figures, meta=meta, command=command)


if __name__ == "__main__":
    sys.exit(main())
