"""Score a checkpoint on any labelled split and write the prediction file.

    python lpm_torch/val.py --model=cpm --dataset=LSP --data_dir=DIR --split=4001-5000 --checkpoint_name=best
    python lpm_torch/val.py --model=lpm                                   # data/PennAction, newest best checkpoint

The network, its options and the crop come from the checkpoint; files of the original take MobilePose's settings. Crops come from the
annotated joints (oracle boxes), as in the original.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)

from common.errors import DataError  # noqa: E402
from common.evaluate import add_scoring_arguments  # noqa: E402
from common.poses import PoseSet  # noqa: E402
from common.predictions import Predictions, predictions_for  # noqa: E402
from common.runs.first.process import exit_code  # noqa: E402
from common.runs.first.session import swapped_weights  # noqa: E402
from lpm_torch.config import DATASETS, MODELS, PRESETS, Config  # noqa: E402

# groups of the original's log; the neck is in none of its figures
GROUPS = {
    "head_top": "Head",
    "head": "Head",
    "shoulder": "Shoulder",
    "elbow": "Elbow",
    "wrist": "Wrist",
    "hip": "Hip",
    "knee": "Knee",
    "ankle": "Ank",
}
SCORED = (
    "head_top",
    "head",
    *(f"{s}_{g}" for s in ("left", "right") for g in ("shoulder", "elbow", "wrist", "hip", "knee", "ankle")),
)


def parse_args(argv=None) -> argparse.Namespace:
    """Options; those left out come from the checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    common_arguments(parser)
    add_scoring_arguments(parser, "output/MODEL/DATASET/SPLIT.npz", "lpm_torch")
    parser.add_argument(
        "--flip_test",
        action=argparse.BooleanOptionalAction,
        help="average with the mirrored image (default: the checkpoint's)",
    )
    return parser.parse_args(argv)


def common_arguments(parser: argparse.ArgumentParser, datasets: tuple[str, ...] = DATASETS) -> None:
    """What every program that scores a checkpoint asks for."""
    add = parser.add_argument
    add("--model", default="lpm", choices=MODELS, help="network (default: lpm)")
    add("--dataset", default="PennAction", choices=datasets, help="data set (default: PennAction)")
    add("--data_dir", default="data", help="as in train.py (default: data)")
    add("--split", default="valid", help="split to score (default: valid)")
    add("--checkpoint_name", "--checkpoint", help="path, or a name in the model directory (default: best, else last)")
    add("--model_dir", default="experiments", help="as in train.py (default: experiments)")
    add("--mode", choices=("correct", "compat"), help="data handling (default: the checkpoint's, which it must equal)")
    add("--limit", "--subset_size", type=int, help="the first N clips (official protocol: videos) only")
    add(
        "--weights",
        choices=("averaged", "raw"),
        default="averaged",
        help="the moving average where the checkpoint has one (default)",
    )
    add("--random_weights", action="store_true", help="the checkpoint's network with fresh random weights (a baseline)")
    for name, kind, text in (("t", int, "frames in a clip"), ("batch_size", int, "clips a batch"), ("workers", int, "loader processes"),
                             ("threads", int, "CPU threads"), ("amp", str, "off, bf16 or fp16"), ("gpus", str, "CUDA device"),
                             ("pck_r", float, "threshold of the accuracy")):  # fmt: skip
        add(
            f"--{name}",
            type=kind,
            choices=("off", "bf16", "fp16") if name == "amp" else None,
            help=f"{text} (default: the checkpoint's)",
        )


def averaged_weights(model, ema):
    """Inside, `model` has the moving average's weights (`ema` may be None); the training weights come back afterwards."""
    return swapped_weights(model.state_dict(), model.load_state_dict, ema and ema.shadow)


def predict_pose_set(
    model, config: Config, pose_set: PoseSet, device, limit: int | None = None, losses: list | None = None
) -> tuple[Predictions, PoseSet]:
    """Predictions for every row of `pose_set`, in its own skeleton and image pixels, and the rows that they belong to (fewer with `limit`).

    Mode compat leaves out the frames after a video's last whole clip, as MP does. `losses` receives the loss of every batch.
    """
    import numpy as np

    from common.skeletons import LPM14
    from lpm_torch.data import ClipDataset, make_loader
    from lpm_torch.engine import predict

    dataset = ClipDataset(
        pose_set, config, model.output_size(config.resolution), subset=limit, every_frame=config.mode == "correct"
    )
    if not len(dataset):
        raise DataError(
            f"{pose_set.root}: split {pose_set.split} has no clip of {config.t} frames; give a smaller --t or another --split"
        )
    joints = np.full((len(pose_set), len(LPM14), 2), np.nan, np.float32)
    score = np.zeros((len(pose_set), len(LPM14)), np.float32)
    for rows, found, confidence in predict(
        model, make_loader(dataset, config, shuffle=False), device, config, losses=losses
    ):
        joints[rows], score[rows] = found, confidence
    done = np.unique(dataset.clips)
    kept = pose_set.select(done)
    # what the figure depends on; folders of this machine say nothing elsewhere
    settings = {
        name: value
        for name, value in asdict(config).items()
        if not name.endswith("_dir") and name not in ("init_weight", "checkpoint_name")
    }
    meta = {
        "model": config.model,
        "boxes": "oracle (annotated boxes)",
        "flip_test": config.flip_test,
        "settings": settings,
    }
    return to_predictions(kept, joints[done], score[done], LPM14, meta, _crop_boxes(kept, config)), kept


def to_predictions(pose_set: PoseSet, joints, score, skeleton, meta: dict, box) -> Predictions:
    """Joints (N,J,2) and scores (N,J) of `skeleton`, in image pixels, as predictions in the data set's own skeleton."""
    import numpy as np

    from common.skeletons import skeleton_map

    to_own = skeleton_map(skeleton, pose_set.skeleton)
    none = np.zeros(len(score), np.float32)
    own_score = np.stack([score[:, list(s)].mean(-1) if s else none for s in to_own.sources], axis=-1)
    return predictions_for(pose_set, to_own.apply(joints), own_score, meta, box=box)


def _crop_boxes(pose_set: PoseSet, config: Config):
    from common.geometry import box_with_aspect, pad_box

    return box_with_aspect(pad_box(pose_set.box, config.pad_pixels, config.pad_ratio), 1.0)


def load_model(path: Path, args: argparse.Namespace):
    """(model, config, device) of a checkpoint; options given on the command line win over its settings where the weights allow it.

    Normalisation stays that of the data set that the checkpoint was trained on. DataError when it is of another network, mode or joint
    order (which `test.py --protocol=official` alone can read).
    """
    from lpm_torch.checkpoint import card_settings, config_of, joint_order_of, load_weights, read_checkpoint
    from lpm_torch.machine import Machine
    from lpm_torch.model import build_model
    from lpm_torch.run import model_arguments

    state = read_checkpoint(path)
    if joint_order_of(path) != "lpm14" and getattr(args, "protocol", None) != "official":
        raise DataError(
            f"{path} answers in the joint order {joint_order_of(path)} of the authors' models; convert it with `convert.py --reorder`"
        )
    # of files that hold weights alone
    settings = {
        **PRESETS["official" if args.model == "lpm_official" else "paper"],
        "model": args.model,
        **card_settings(path),
    }
    config = config_of(state, **{"dataset": args.dataset if args.dataset in DATASETS else "PennAction", **settings})
    known = state.get("config") or card_settings(path)
    for field in ("model", "mode"):
        wanted, stored = getattr(args, field, None), getattr(config, field)
        if field in known and wanted not in (None, stored):
            raise DataError(
                f"{path} is a checkpoint of --{field}={stored}, not of {wanted}; run with --{field}={stored}, or give another checkpoint"
            )
        config = replace(config, **({field: wanted} if wanted else {}))
    given = {k: getattr(args, k, None) for k in ("t", "batch_size", "workers", "threads", "amp", "flip_test", "pck_r")}
    config = replace(config, gpus=args.gpus, **{k: v for k, v in given.items() if v is not None})
    machine = Machine(config)
    model = build_model(**model_arguments(config))
    if not getattr(args, "random_weights", False):
        load_weights(model, path, averaged=getattr(args, "weights", "averaged") == "averaged")
    return model.to(machine.device), config, machine.device


def pick_checkpoint(args: argparse.Namespace) -> Path:
    """The checkpoint that the options name; without one the best of the model directory, else the last."""
    from lpm_torch.checkpoint import find_checkpoint
    from lpm_torch.run import run_directory

    directory = run_directory(Config(model=args.model, dataset=args.dataset, model_dir=args.model_dir))
    if args.checkpoint_name:
        return find_checkpoint(args.checkpoint_name, directory)
    for name in ("best", "last"):
        if (directory / f"{name}.pth.tar").is_file():
            return directory / f"{name}.pth.tar"
    raise DataError(
        f"no checkpoint in {directory}. Make one with `python {ROOT / 'lpm_torch/train.py'} --model={args.model} --dataset={args.dataset}`, or give"
        " --checkpoint_name PATH; the authors' Caffe models come in through lpm_torch/convert.py"
    )


def valid_accuracy(predictions: Predictions, pose_set: PoseSet, config: Config):
    """The accuracy that a training run watches, a `Result`: PCK at `pck_r` x the extent of the annotated joints, without the neck.

    Mode compat counts as MP did: at 0.2 of an extent that reaches to the crop's origin, as a mean over batches.
    """
    from common.metrics import counting, pck
    from common.protocols import protocols_for

    if config.mode == "compat":
        return protocols_for(pose_set, ["pck_extent@0.2:compat"])[0].score(pose_set, predictions)
    size = pck.extent(pose_set.joints)[:, None]
    hits = counting.within(counting.distances(pose_set.joints, predictions.joints), size, config.pck_r)
    scored = [joint for joint in pose_set.skeleton.joints if joint in SCORED]
    how = f"hit: distance <= {config.pck_r:g} x extent of the annotated joints"
    return counting.joint_result(hits, (pose_set.visible > 0) & (size > 0), pose_set.skeleton, include=scored, how=how)


def group_line(result) -> str:
    """The groups of a result in one line, as MP logs them."""
    return "|".join(f"{GROUPS[name]}={value:.2f}" for name, value in result.groups.items() if name in GROUPS)


def run(args: argparse.Namespace, words: list[str]) -> None:
    """Predict, write and score; `words` is the command line. DataError on bad input."""
    from lpm_torch.sources import load_pose_set

    pose_set = load_pose_set(args.dataset, args.data_dir, args.split)
    path = pick_checkpoint(args)
    model, config, device = load_model(path, args)
    predictions, pose_set = predict_pose_set(model, config, pose_set, device, args.limit)
    accuracy = valid_accuracy(predictions, pose_set, config)
    print(f"Valid Accuracy: {accuracy.total:.2f} ({accuracy.aggregation})\n{group_line(accuracy)}")
    out = args.out or ROOT / "output" / args.model / args.dataset / f"{args.split}.npz"
    results = score_and_write(path, predictions, pose_set, out, args.protocol, args.json)
    if args.result:
        write_result(args.result, config, predictions, results, words)


def main(argv=None) -> int:
    """Exit code 0, or 2 with a message on bad input."""
    args = parse_args(argv)
    return exit_code(lambda: run(args, sys.argv[1:] if argv is None else argv))


def score_and_write(
    checkpoint: Path,
    predictions: Predictions,
    pose_set: PoseSet,
    out: Path,
    protocols: list[str] | None = None,
    json_out: Path | None = None,
) -> dict:
    """Write the prediction file, print the protocols' figures (None: all that apply), write them as JSON if asked, and return them."""
    from common.evaluate import publish
    from common.files import sha256_of, versions

    # no folder of this machine in files that travel
    predictions.meta |= {
        "house": "lpm_torch",
        "checkpoint": checkpoint.name,
        "weights_hash": sha256_of(checkpoint),
        "versions": versions(),
    }
    return publish(out, predictions, pose_set, protocols, json_out)


def write_result(path: str, config: Config, predictions: Predictions, results: dict, words: list[str]) -> None:
    """One run for the tables of the README: figures, how they were made, and the command."""
    from common.reported import save_run

    save_run(
        path, house="lpm_torch", model=config.model, dataset=predictions.dataset, split=predictions.split,
        protocols={name: result.as_dict() for name, result in results.items()},
        meta={**predictions.meta, "seed": config.seed, "mode": config.mode}, command=" ".join(["python lpm_torch/val.py", *words]),
    )  # fmt: skip
    print(f"run file: {path}")


if __name__ == "__main__":
    sys.exit(main())
