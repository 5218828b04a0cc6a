"""Score weights on a labelled split and write the prediction file.

    python simplebaseline_paddle/val.py                   # data/coco, its newest weights; without any, random ones
    python simplebaseline_paddle/val.py --dataset mpii --weights pose-resnet50-mpii-384x384 --data_root DIR
    python simplebaseline_paddle/val.py --weights pose_resnet_50_256x192.pth.tar --preset coco_256x192 \\
        --boxes detections COCO_val2017_detections_AP_H_56_person.json
    python -m paddle.distributed.launch --nproc_per_node 4 simplebaseline_paddle/val.py ...

Our own files bring their settings; the originals' (Fluid folder, .pth.tar) say their depth and joints, the input size
comes from --preset or --input_height and --input_width. Every result states which boxes were used.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from common.poses import PoseSet
from common.predictions import Predictions
from common.runs import scoring, shelf
from common.runs.options import given_of
from common.runs.process import exit_code
from common.runs.settings import resolve
from simplebaseline_paddle.config import DATASETS, HOUSE, PRESETS, SUFFIXES, Config, add_use_options, use_of


def parse_args(argv=None) -> argparse.Namespace:
    """Options."""
    parser = scoring.parser(__doc__)
    parser.option("dataset", choices=DATASETS, default=None, text="data set (default: that of --weights, else coco)")
    parser.option("data_root", default=None)
    parser.option("split", default="valid")
    about = "COCO persons: selected (P's choice of annotated boxes), annotated (all), detections FILE, whole"
    parser.option("boxes", "detections", nargs="+", metavar="WHERE", text=about)
    add_use_options(parser)
    parser.settings(Config, only=("box_threshold",))
    args = parser.parse_args(argv)
    words = getattr(args, "boxes", [None])
    if len(words) != 1 + (words[0] == "detections"):
        parser.error("--boxes: write selected, annotated, whole, or detections FILE")
    args.boxes = words[-1]
    return args


def make_estimator(args: argparse.Namespace, pose_set: PoseSet | None):
    """The network of --weights, else the newest one of the data set, else one with random weights, which is said."""
    from simplebaseline_paddle.estimator import Estimator, PaddleProcess

    options = use_of(args, "boxes", "box_threshold", "limit")
    path = None if args.random_weights else shelf.find_weights(HOUSE, args.weights, SUFFIXES, f"{args.dataset}-*")
    if path is not None:
        return Estimator(path, **options, **given_of(args, "preset", "dataset", "shared_joints"))
    assert pose_set is not None
    scoring.say_random(args.random_weights)
    process, _ = PaddleProcess(options.pop("device"), options.pop("threads")), options.pop("raw_weights")
    from simplebaseline_paddle.model import build_model

    preset = "smoke" if args.preset == "auto" and pose_set.synthetic else args.preset
    given = {"batch_size": 32, "dataset": args.dataset, **options}
    config = resolve(Config, PRESETS.get(preset, {}), given).checked()
    model = build_model(config, len(pose_set.skeleton), config.seed)
    return Estimator.of(model, config, pose_set.skeleton, process)


def load(args: argparse.Namespace, dataset: str) -> PoseSet:
    """The split to score."""
    return Config(dataset=dataset, data_root=args.data_root, limit=args.limit).load(args.split)


def score(args: argparse.Namespace) -> None:
    """Predict, write and score. DataError on bad input."""
    if args.random_weights or not args.weights:
        args.dataset = args.dataset or "coco"
    # where the data set is known, what is missing is said before Paddle is imported
    pose_set = load(args, args.dataset) if args.dataset else None
    estimator = make_estimator(args, pose_set)
    pose_set = load(args, estimator.config.dataset) if pose_set is None else pose_set
    of_a_run = estimator.path and (estimator.path.parent / "log.jsonl").exists()
    standard = (estimator.path.parent if of_a_run else estimator.config.folder) / f"{args.split}.npz"
    predictions = estimator.predict_pose_set(pose_set)
    if not estimator.process.is_main:
        return
    write_official(shelf.result_path(args.out, standard), predictions, args.split)
    scoring.publish(args, predictions, pose_set, standard)


def write_official(out: Path, predictions: Predictions, split: str) -> None:
    """What the originals write, beside ours: `pred.mat` (counted from 1) for MPII, the result JSON for COCO."""
    from common.files import write_json, write_mat
    from common.metrics.coco import coco_results

    if predictions.dataset == "coco":
        file = write_json(out.with_name(f"keypoints_{split}_results.json"), coco_results(predictions))
    elif predictions.dataset == "mpii":
        file = write_mat(out.with_name("pred.mat"), {"preds": predictions.joints + 1.0})
    else:
        return
    print(f"in the originals' form: {file}")


def main(argv=None) -> int:
    """Exit code 0, or 2 with a message on bad input."""
    return exit_code(lambda: score(parse_args(argv)))


if __name__ == "__main__":
    sys.exit(main())
