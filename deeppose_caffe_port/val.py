"""Score the stages on any labelled split and write the prediction file (the original's pyaccuracy.py, on all lines).

    python deeppose_caffe_port/val.py                         # newest project, its data set's test split, all stages
    python deeppose_caffe_port/val.py --weights=PROJECT --data_root=DIR --split=4001-5000 --stage=1

Pictures are K2HPD's whole images, of other data sets crops around the annotated joints.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from common.runs import scoring
from common.runs.options import given_of
from common.runs.process import exit_code
from common.runs.shelf import run_folder
from deeppose_caffe_port.config import HOUSE, parse, settle
from deeppose_caffe_port.prepare import load_split
from deeppose_caffe_port.weight_files import as_packed, find_project, opened

_SETTINGS = ("dataset", "data_root", "mode", "preset", "snapshot1", "snapshot2", "allow_16bit", "amp", "flip_test", "batch_size",
             "workers", "seed")  # fmt: skip
_DATA = ("dataset", "data_root")


def parse_args(argv=None) -> tuple[dict, argparse.Namespace]:
    """(settings given, the other options)."""
    parser = scoring.parser(__doc__, but=("raw_weights",))
    parser.option("split", text="split to score (default: the project's, else the data set's test split)", default=None)
    text = "the last stage to apply (default: all trained)"
    parser.option("stage", type=int, text=text, group="network", default=None)
    given, own = parse(parser, argv, only=_SETTINGS)
    return given, argparse.Namespace(**own)


def persons(given: dict, own: argparse.Namespace, project: Path | None):
    """The persons to score, of the project's data set unless another is given."""
    config = settle({"out": str(project)} if project else {})
    if given.get("dataset", config.dataset) != config.dataset or config.valid_split == "none":
        config = replace(config, valid_split="auto")
    changes = {"valid_split": own.split, "limit": own.limit, **{n: given.get(n) for n in _DATA}}
    return load_split(replace(config, **{n: v for n, v in changes.items() if v is not None}), 1)


@as_packed()
def run(given: dict, own: argparse.Namespace) -> None:
    """Score; what data is missing is said before PyTorch is imported."""
    own.weights = opened(own.weights)
    project = find_project(own.weights)
    pose_set = persons(given, own, project)
    from common.skeletons import card
    from deeppose_caffe_port.estimator import Estimator

    settings = given_of(own, "device", "threads")
    settings |= {name: v for name, v in given.items() if project is None or name not in _DATA}
    random = own.random_weights or (project is None and own.weights is None)
    if random:
        scoring.say_random(own.random_weights)
        settings |= {} if project else {"skeleton": card(pose_set.skeleton)}
    estimator = Estimator(own.weights or project, stage=own.stage, random_weights=random, **settings)
    predictions = estimator.predict_pose_set(pose_set, own.shared_joints)
    folder = (project or run_folder(HOUSE, "random")) / "output"
    scoring.publish(own, predictions, pose_set, folder / f"{pose_set.split}_{predictions.meta['model']}.npz")


def main(argv=None) -> int:
    """Exit code 0, or 2 with a message on bad input."""
    given, own = parse_args(argv)
    return exit_code(lambda: run(given, own))


if __name__ == "__main__":
    sys.exit(main())
