"""Score weights on a labelled data set and write the prediction file.

python deepercut_tf/val.py --weights output/deepercut_tf/smoke      # settings and data set are in the file
python deepercut_tf/val.py --weights RUN --dataset coco --data_root DIR --split val2017 --people all
python deepercut_tf/val.py --weights RUN --boxes annotated          # one person in every annotated box
python deepercut_tf/val.py --config FILE --weights snapshot-1030000 # the original's weights need its pose_cfg.yaml
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from common.boxes import Boxes
from common.errors import DataError
from common.runs import scoring
from common.runs.process import exit_code
from common.runs.shelf import find_weights
from deepercut_tf.config import PREDICTION, Config, add_file_options, make_config, predicting_settings
from deepercut_tf.weight_files import NAME, SUFFIX


def where(boxes: str):
    """`--boxes` for `Estimator.predict_pose_set`; DataError for what it was called in the first form."""
    if boxes in ("oracle", "gt", "none"):
        raise DataError(f"--boxes {boxes} is called --boxes {'whole' if boxes == 'none' else 'annotated'} now")
    return boxes if boxes in ("whole", "annotated") else Boxes([boxes])


def evaluated_split(config: Config, given: str | None, learnt: str | None) -> str:
    """`given`, or the settings' valid_split or dataset_phase, or the published split, but not the one `learnt`."""
    from common.datasets import NAMES, record

    known = record(config.dataset if config.dataset in NAMES else "coco")
    named = [s for s in (config.valid_split, config.train_split, known.published) if s not in (None, "", "none")]
    split = given or next((s for s in named if learnt is None or known.split(s) != known.split(learnt)), None)
    if split is None:
        raise DataError(f"data set {config.dataset} has no split to score by default; say which: --split NAME")
    return split


def run(args: argparse.Namespace):
    """Predict, write, score. DataError on bad input."""
    from deepercut_tf.estimator import Estimator
    from deepercut_tf.items import items_of, load_pose_set
    from deepercut_tf.joints import NETWORK_SKELETONS

    boxes, options, skeleton = where(args.boxes), predicting_settings(args), None
    given = args.weights or options.get("weights") or options.get("init_weights")
    weights = None if args.random_weights else given or find_weights(NAME, None, (SUFFIX,))
    if weights is None:
        scoring.say_random(args.random_weights)
        options.setdefault("net_type", "resnet_50")
        config = make_config(options)
        pose_set = load_pose_set(config, evaluated_split(config, args.split, None))
        skeleton = NETWORK_SKELETONS.get(config.dataset, pose_set.skeleton)
    how = {"people": args.people if boxes == "whole" else "one", "random_weights": weights is None}
    estimator = Estimator(weights, skeleton=skeleton, device=args.device, threads=args.threads, **how, **options)
    config = estimator.config
    split = evaluated_split(config, args.split, estimator.about.get("split"))
    pose_set = load_pose_set(config, split)
    whole = len(pose_set)
    if config.data_range and split == config.train_split:
        learnt = items_of(pose_set, pose_set.skeleton, config.coco_only_images_with_people).items
        learnt = learnt[slice(*map(int, config.data_range))]
        pose_set = pose_set.select([row for item in learnt for row in item.rows])
    if len(pose_set) < whole or args.limit:
        pose_set = replace(pose_set.limit(args.limit), regions=None)  # the images of these persons alone
    predictions = estimator.predict_pose_set(pose_set, boxes, args.shared_joints)
    standard = Path("output") / NAME / pose_set.name / f"{pose_set.split}.npz"
    return scoring.publish(args, predictions, pose_set, standard)


def main(argv=None) -> int:
    """Exit code 0, or 2 with a message on bad input."""
    parser = scoring.parser(__doc__)
    parser.option("split", default=None, text="split to score (default: the validation split, else the published one)")
    boxes = "whole, annotated (one person in each box), or a JSON or CSV file of detections"
    parser.option("boxes", default="whole", metavar="WHERE", text=boxes)
    people = "auto: all with pairwise terms"
    parser.option("people", choices=("auto", "one", "all"), default="auto", text=people, group="data")
    add_file_options(parser)
    parser.settings(Config, only=("dataset", "data_root", *PREDICTION), default="the weights'")
    return exit_code(lambda: run(parser.parse_args(argv)))


if __name__ == "__main__":
    sys.exit(main())
