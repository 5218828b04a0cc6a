"""Score a checkpoint on any labelled split and write the prediction file.

    python lpm_torch/val.py --dataset=lsp --data_root=DIR --split=4001-5000 --weights=output/lpm_torch/cpm-lsp
    python lpm_torch/val.py --model=lpm                        # data/PennAction, the newest best lpm
    python lpm_torch/val.py --random_weights                   # a baseline

The network, its options and the crop come from the checkpoint; files of the original take MobilePose's settings. Crops
are about the annotated boxes (oracle), in mode compat about the annotated joints, as in the original.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from common.poses import PoseSet
from common.runs import scoring
from common.runs.options import Parser, given_of
from common.runs.process import exit_code
from common.skeletons import LPM14
from lpm_torch.config import HOUSE, Config, load_pose_set, weights_path

if TYPE_CHECKING:
    from lpm_torch.estimator import Estimator

# settings that a user may ask for against the checkpoint's
NETWORK = ("model", "mode", "t", "input_width", "flip_test", "amp")
MACHINE = ("batch_size", "workers", "gpus", "model_dir")


def parser(about: str | None) -> Parser:
    """What every program here that scores weights asks for."""
    made = scoring.parser(about)
    made.settings(Config, only=("dataset", "data_root"), default="the checkpoint's")
    made.settings(Config, only=NETWORK, default="the checkpoint's")
    made.settings(Config, only=MACHINE)
    made.also("weights", "checkpoint_name", "checkpoint")
    made.option("split", default="valid")
    return made


def open_weights(args: argparse.Namespace) -> tuple[Estimator, PoseSet]:
    """The network and the data set that the options name: without --dataset, the one that it learnt from."""
    given = given_of(args, *NETWORK, *MACHINE[:-1], "device", "threads")
    dataset, root = getattr(args, "dataset", None), getattr(args, "data_root", None)
    path = weights_path(args.weights, given.get("model"), dataset or "penn_action", getattr(args, "model_dir", None))
    # where the data set is known, what is missing is said before PyTorch is imported
    pose_set = load_pose_set(dataset or "penn_action", root, args.split) if dataset or path is None else None
    from lpm_torch.estimator import Estimator

    if args.random_weights or path is None:
        scoring.say_random(args.random_weights)
    estimator = Estimator(
        path, random_weights=args.random_weights or path is None, raw_weights=args.raw_weights,
        shared_joints=args.shared_joints, dataset=dataset,
        skeleton=pose_set.skeleton if path is None and pose_set else LPM14, **given,
    )  # fmt: skip
    pose_set = pose_set or load_pose_set(estimator.config.dataset, root, args.split)
    return estimator, pose_set.limit(args.limit)


def run(args: argparse.Namespace) -> None:
    """Predict, write and score. DataError on bad input."""
    estimator, pose_set = open_weights(args)
    pose_set = estimator.scored(pose_set)
    standard = Path("output") / HOUSE / f"{estimator.config.model}-{pose_set.name}" / f"{pose_set.split}.npz"
    scoring.publish(args, estimator.predict_pose_set(pose_set), pose_set, standard)


def main(argv=None) -> int:
    """Exit code 0, or 2 with a message on bad input."""
    return exit_code(lambda: run(parser(__doc__).parse_args(argv)))


if __name__ == "__main__":
    sys.exit(main())
