"""Score a checkpoint on labelled persons: the original's printed block, the protocols of common.evaluate, and the prediction file.

    python deeppose_tf/val.py -s out/lsp_alexnet_scratch/checkpoint-10000 --csv datasets/lsp_ext/test_joints.csv
    python deeppose_tf/val.py -s out/mine/best.npz --dataset lspet --data_root DIR --split 4001-5000 --ext 1.5 --json scores.json
    python deeppose_tf/val.py --o_dir out/smoke --ext 1.0 1.2 1.4 1.6 1.8 2.0 --curves curves.png

Crops come from the annotated joints (oracle boxes), extended by --ext, as in the original. The protocols score the first extension given.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)

from common.errors import DataError  # noqa: E402
from common.evaluate import add_scoring_arguments  # noqa: E402
from common.poses import PoseSet  # noqa: E402
from common.runs.first.process import exit_code  # noqa: E402
from deeppose_tf.restore import load_network, newest, snapshot_arguments  # noqa: E402

SWEEP = (1.0, 1.2, 1.4, 1.6, 1.8, 2.0)  # of the original's test_snapshot
SWEEP_HEIGHT = 400  # it reduces higher pictures of both data sets


def parse_args(argv=None) -> argparse.Namespace:
    """Options; those left out come from the checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    snapshot_arguments(parser)
    add = parser.add_argument
    add("--csv", type=Path, help="labelled persons (default: the checkpoint's test CSV)")
    add("--img_path_prefix", help="folder before the image paths of the CSV (default: the checkpoint's)")
    add("--dataset", choices=("lsp", "lspet", "mpii"), help="instead of --csv: a data set of common.datasets")
    add("--data_root", type=Path, help="its folder")
    add("--split", default="test", help="its split (default: test)")
    add("--ext", type=float, nargs="+", help="box extensions (default: the checkpoint's largest)")
    add("--downscale_height", type=int, help="reduce higher pictures first (default: as in training)")
    add_scoring_arguments(parser, "output/deeppose_tf/NAME.npz", "deeppose_tf")
    add("--curves", type=Path, help="also draw PCP and PCKh over their thresholds (PNG)")
    add(
        "--model_name",
        help="the network's name in that table (default: alexnet_scratch or alexnet_imagenet, as it was trained)",
    )
    add("--random_weights", action="store_true", help="fresh random weights instead of the checkpoint's (a baseline)")
    args = parser.parse_args(argv)
    if args.dataset and not args.data_root:
        parser.error("--dataset needs --data_root")
    return args


def labelled_persons(args: argparse.Namespace, config) -> PoseSet:
    """The persons that the options name."""
    from common import datasets
    from deeppose_tf.sources import read_csv

    if args.dataset:
        return datasets.load(args.dataset, args.data_root, args.split).limit(args.limit)
    path = args.csv or Path(config.test_csv_fn)
    prefix = config.img_path_prefix if args.img_path_prefix is None else args.img_path_prefix
    if not path.is_file():
        from deeppose_tf.prepare import ready_csv

        ready_csv(path, config.dataset_name)
    return read_csv(
        path, config.dataset_name, prefix=prefix, ignore_label=config.ignore_label, mode=config.mode, limit=args.limit
    )


def check_skeleton(pose_set: PoseSet, config) -> None:
    """DataError when the data have other joints than the network."""
    if pose_set.skeleton != config.skeleton:
        raise DataError(
            f"{pose_set.root} has joints {pose_set.skeleton.name}, the network answers {config.skeleton.name}; give other persons"
        )


def sweep(
    model, mode: str, pose_set: PoseSet, extensions, *, downscale_height: int | None = None, batch_size: int = 128
) -> dict:
    """{extension: (Evaluation, joints (N,J,2) in stored pixels)}, and under `persons` who was scored; extension None is the tight box."""
    from deeppose_tf.data import Crops, Persons
    from deeppose_tf.engine import forward
    from deeppose_tf.report import evaluate

    persons = Persons(pose_set, mode, downscale_height=downscale_height, cache_mb=512)
    if persons.dropped:
        print(f"left out: {persons.dropped_text()}")
    found, network = {}, forward(model)
    for extension in extensions:
        crops = Crops.for_testing(mode, None if extension is None else (extension, extension))
        found[extension] = evaluate(network, persons, pose_set, crops, batch_size)
    return {"persons": persons, "by_extension": found}


def print_sweep(step: int, found: dict, tag: str = "test") -> None:
    """The original's blocks, one an extension."""
    from deeppose_tf.report import block

    for extension, (evaluation, _) in found.items():
        print(f"\n{'=' * 20}\nBBOX EXTENSION: {extension}\n{block(step, tag, evaluation)}")


def step_of(path: Path) -> int:
    """The step of a checkpoint, 0 for files that hold none."""
    from deeppose_tf.weight_files import read_weights

    return int(read_weights(path).get("global_iter_counter", 0))


def run(args: argparse.Namespace) -> None:
    """Score and write what was asked for."""
    from deeppose_tf.report import curves, plot_curves, to_predictions

    snapshot = args.snapshot or newest(args.o_dir)
    dataset_name = {"lsp": "lsp", "lspet": "lsp", "mpii": "mpii", None: None}[args.dataset]
    model, config, place = load_network(snapshot, dataset_name, args.mode, args.random_weights)
    pose_set = labelled_persons(args, config)
    check_skeleton(pose_set, config)
    height = args.downscale_height or (config.downscale_height if config.should_downscale_images else None)
    extensions = args.ext or [config.bbox_extension_max if config.extension else None]
    result = sweep(model, config.mode, pose_set, extensions, downscale_height=height, batch_size=args.batch_size)
    print_sweep(step_of(place), result["by_extension"])
    evaluation, joints = result["by_extension"][extensions[0]]
    meta = describe(place, config, extensions[0], args.random_weights)
    predictions = to_predictions(pose_set, result["persons"], joints, evaluation.boxes, meta)
    if args.curves:
        plot_curves(
            args.curves,
            curves(evaluation),
            title=f"{place.name}, {pose_set.name} {pose_set.split}, {len(evaluation.truth)} persons",
        )
        print(f"curves: {args.curves}")
    write_scores(args, config, pose_set, predictions)


def describe(place: Path, config, extension: float | None, random_weights: bool = False) -> dict:
    """The prediction file's meta."""
    import keras

    from common.files import sha256_of, versions

    weights = place if place.is_file() else place.with_name(place.name + ".index")
    return {
        "house": "deeppose_tf", "model": config.net_type, "boxes": f"oracle (tight box of the annotated joints x {extension or 1})",
        "flip_test": False, "mode": config.mode, "checkpoint": str(place), "weights_hash": sha256_of(weights), "settings": asdict(config),
        "versions": versions(), "backend": keras.backend.backend(), "seed": config.seed, "random_weights": random_weights,
    }  # fmt: skip


def write_scores(args: argparse.Namespace, config, pose_set: PoseSet, predictions) -> None:
    """Prediction file, protocol table, and the optional JSON files."""
    from common.evaluate import publish
    from common.reported import save_run

    out = args.out or ROOT / "output" / "deeppose_tf" / f"{pose_set.name}_{pose_set.split}.npz"
    results = publish(out, predictions, pose_set, args.protocol, args.json)
    if args.result:
        kept = ("boxes", "flip_test", "synthetic", "seed", "mode", "backend", "random_weights", "missing_rows")
        meta = {k: predictions.meta[k] for k in kept if k in predictions.meta} | {
            "note": f"width {config.width:g}, mode {config.mode}"
        }
        name = args.model_name or ("alexnet_imagenet" if config.snapshot and not config.resume else "alexnet_scratch")
        save_run(
            args.result, house="deeppose_tf", model=name, dataset=pose_set.name, split=pose_set.split,
            protocols={name: result.as_dict() for name, result in results.items()}, meta=meta, command="python " + " ".join(sys.argv),
        )  # fmt: skip


def main(argv=None) -> int:
    """Exit code 0, or 2 with a message on bad input."""
    args = parse_args(argv)
    return exit_code(lambda: run(args))


if __name__ == "__main__":
    sys.exit(main())
