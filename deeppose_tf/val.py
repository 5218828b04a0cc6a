"""Score a network on labelled persons: the original's printed block, common.evaluate's protocols, prediction file.

    python deeppose_tf/val.py -s out/lsp_alexnet_scratch/checkpoint-10000 --csv datasets/lsp_ext/test_joints.csv
    python deeppose_tf/val.py --weights out/mine --dataset lspet --data_root DIR --split 4001-5000 --json scores.json
    python deeppose_tf/val.py --ext 1.0 1.2 1.4 1.6 1.8 2.0

Crops come from the annotated joints (oracle boxes), extended by --ext, as in the original. The protocols score the
first extension given. What is not given is the checkpoint's: its test persons, extension and picture height.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # this folder's data.py must not shadow other modules

from common.errors import DataError
from common.poses import PoseSet
from common.runs import scoring
from common.runs.options import given_of
from common.runs.process import exit_code
from deeppose_tf import weight_files
from deeppose_tf.config import HOUSE, Config
from deeppose_tf.csv_files import load_split

_DATA = ("dataset", "data_root", "test_csv_fn", "img_path_prefix")


def persons(args: argparse.Namespace, trained: Config) -> PoseSet:
    """The persons that the options name, else those that the training scored."""
    given = given_of(args, *_DATA)
    # another place of the data replaces the checkpoint's whole description of it
    base = {"train_csv_fn": None, "test_csv_fn": None, "data_root": None} if given.keys() - {"img_path_prefix"} else {}
    split = {"valid_split": args.split} if getattr(args, "split", None) else {}
    pose_set = load_split(replace(trained, **{**base, **given, **split}, limit=args.limit).checked(), "test")
    if pose_set is None:
        raise DataError("--split none: name the persons to score")
    return pose_set


def show(estimator, pose_set: PoseSet, extensions, height: int | None = None) -> list:
    """Print the original's block for every box extension; [(Evaluation, Predictions)]."""
    from deeppose_tf.report import block

    found = []
    for extension in extensions:
        if not 1 <= extension <= 100:
            raise DataError(f"--ext {extension}: a box is extended by a factor of 1 to 100")
        found.append(estimator.evaluate(pose_set, extension, height))
        print(f"\n{'=' * 20}\nBBOX EXTENSION: {extension}\n{block(estimator.step, 'test', found[-1][0])}")
    if pose_set.synthetic:
        print("SYNTHETIC data: these figures say nothing about photographs")
    return found


def run(args: argparse.Namespace) -> None:
    """Score and write what was asked for."""
    from deeppose_tf.estimator import Estimator

    place = weight_files.find(args.weights)
    if place is None and not args.random_weights:
        scoring.say_random(False)
        args.random_weights = True
    options = given_of(
        args, "mode", "flip_test", "amp", "random_weights", "shared_joints", "device", "threads", "batch_size"
    )
    estimator = Estimator(place, **options)
    pose_set = persons(args, estimator.config)
    _, predictions = show(estimator, pose_set, getattr(args, "ext", [estimator.extension]))[0]
    at = estimator.place
    folder = at.parent if at and (at.parent / "index.json").exists() else Path("output") / HOUSE / "val"
    scoring.publish(args, predictions, pose_set, folder / f"{pose_set.name}_{pose_set.split}.npz")


def main(argv=None) -> int:
    """Exit code 0, or 2 with a message on bad input."""
    parser = scoring.parser(__doc__, but=("raw_weights",))
    parser.also("weights", "-s", "snapshot")
    parser.settings(Config, only=_DATA, default="the checkpoint's")
    parser.options("split", "mode", "flip_test", "amp")
    parser.option("batch_size", type=int, default=128)
    parser.option("ext", type=float, nargs="+", text="box extensions (default: the checkpoint's largest)", group="data")
    return exit_code(lambda: run(parser.parse_args(argv)))


if __name__ == "__main__":
    sys.exit(main())
