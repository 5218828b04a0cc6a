"""Score a checkpoint on a labelled split and write the prediction file.

    python simplebaseline_paddle/val.py                                                    # data/coco, newest checkpoint of train.py
    python simplebaseline_paddle/val.py --dataset mpii --checkpoint pose-resnet50-mpii-384x384 --data_root DIR
    python simplebaseline_paddle/val.py --checkpoint pose_resnet_50_256x192.pth.tar --preset coco_256x192 \\
        --boxes detections --detections COCO_val2017_detections_AP_H_56_person.json
    python -m paddle.distributed.launch --nproc_per_node 4 simplebaseline_paddle/val.py ...

Checkpoints of train.py bring their settings; the originals' files (Fluid folder, .pth.tar) say their depth and joints, the input size comes
from --preset or --height and --width. Every result states which boxes were used. On CPUs the network runs in Paddle's predictor with oneDNN.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)

from common.evaluate import add_scoring_arguments, publish  # noqa: E402
from common.poses import PoseSet  # noqa: E402
from common.predictions import Predictions, predictions_for  # noqa: E402
from common.runs.first.process import exit_code  # noqa: E402
from common.runs.first.session import swapped_weights  # noqa: E402
from simplebaseline_paddle.arguments import IGNORED, TRAINING_ONLY, drop_ignored, plain_switches, switches  # noqa: E402
from simplebaseline_paddle.config import BOXES, DATASETS, PRESETS, Config, data_root, run_directory  # noqa: E402
from simplebaseline_paddle.infer import ENGINES  # noqa: E402

PROTOCOL = {
    "mpii": "pckh@0.5",
    "coco": "oks_ap",
    "lsp": "pck_torso@0.2",
    "lspet": "pck_torso@0.2",
    "penn_action": "pck_box@0.2",
    "ai_challenger": "aic_map",
}
# options that win over a checkpoint's own settings
_OVERRIDES = (
    "kp_dim",
    "depth",
    "height",
    "width",
    "colour",
    "mode",
    "boxes",
    "style",
    "flip_test",
    "shift_heatmap",
    "post_process",
    "workers",
    "limit",
)


def common_arguments(parser: argparse.ArgumentParser) -> None:
    """What every program that runs a checkpoint asks for."""
    add = parser.add_argument
    add(
        "--checkpoint",
        help="Fluid folder, .pdparams or .pth.tar (default: best, else last of train.py's output folder)",
    )
    add("--model_save_dir", default="output", help="as in train.py (default: output)")
    add(
        "--preset",
        choices=("auto", *PRESETS),
        default="auto",
        help="settings of a file that has none: auto is smoke on synthetic data, else paper",
    )
    add("--kp_dim", "--joints", type=int, help="joints (default: the checkpoint's, which it must equal)")
    add("--depth", type=int, help="layers of the ResNet (default: the checkpoint's, which it must equal)")
    add("--height", type=int, help="input height (default: the checkpoint's)")
    add("--width", type=int, help="input width (default: the checkpoint's)")
    add(
        "--style",
        choices=("pytorch", "caffe"),
        help="place of the stride, which weights do not show (default: the checkpoint's, else pytorch)",
    )
    add("--colour", choices=("bgr", "rgb"), help="channel order (default: the checkpoint's, else bgr)")
    add("--mode", choices=("correct", "compat"), help="data handling (default: the checkpoint's, which it must equal)")
    add(
        "--weights",
        choices=("averaged", "raw"),
        default="averaged",
        help="the moving average where the checkpoint has one (default)",
    )
    add("--random_weights", action="store_true", help="the network with fresh random weights (a baseline)")
    add(
        "--engine",
        choices=ENGINES,
        default="auto",
        help="predictor (auto), tensorrt on GPUs, eager; bf16: twice as fast on newer CPUs, a little less exact",
    )
    add("--use_gpu", action=argparse.BooleanOptionalAction, help="compute on the GPU (default: where there is one)")
    add("--threads", type=int, default=0, help="CPU threads; 0 leaves Paddle's choice")
    add("--workers", type=int, help="loader processes (default: the checkpoint's, else 2)")
    add(
        "--batch_size",
        type=int,
        default=32,
        help="persons a batch (default: 32; the original's 128 needs more memory, with equal results)",
    )
    add("--limit", type=int, help="the first N persons only")
    for name, text in (("flip_test", "average with the mirrored image"), ("shift_heatmap", "shift its maps by one cell"),
                       ("post_process", "quarter-cell refinement")):  # fmt: skip
        add(f"--{name}", action=argparse.BooleanOptionalAction, default=True, help=f"{text} (default: on)")


def parse_args(argv=None) -> argparse.Namespace:
    """Options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--dataset", choices=DATASETS, default="coco", help="data set (default: coco)")
    add("--data_root", help="its folder (default: data/DATASET)")
    add("--split", default="valid", help="split to score (default: valid)")
    common_arguments(parser)
    add(
        "--boxes",
        choices=BOXES,
        help="COCO persons: the Paddle project's selection of annotated boxes (default), all of them, or --detections",
    )
    add("--detections", help="COCO detection JSON; implies --boxes detections")
    add("--image_threshold", type=float, default=0.0, help="least score of a detection (default: 0)")
    add("--oks_threshold", type=float, default=0.9, help="OKS above which the worse of two poses goes (default: 0.9)")
    add(
        "--joint_threshold",
        type=float,
        default=0.2,
        help="joint score above which a joint counts in a person's score (default: 0.2)",
    )
    add_scoring_arguments(parser, "output/simplebase-DATASET/SPLIT.npz", "simplebaseline_paddle")
    names = switches() | {"random_weights"}
    given = drop_ignored(sys.argv[1:] if argv is None else argv, ignored=IGNORED | TRAINING_ONLY)
    args = parser.parse_args(plain_switches(given, names))
    if args.detections and args.boxes is None:
        args.boxes = "detections"
    return args


def averaged_weights(model, ema):
    """Inside, `model` has the moving average's weights (`ema` may be None); the training weights come back afterwards."""
    return swapped_weights(model.state_dict(), model.set_state_dict, ema and ema.shadow)


def pick_checkpoint(args: argparse.Namespace) -> Path | None:
    """The checkpoint that the options name; without one the best of the run directory, else the last, else None."""
    if args.checkpoint:
        return Path(args.checkpoint)
    directory = run_directory(Config(dataset=args.dataset or "mpii", model_save_dir=args.model_save_dir))
    return next(
        (directory / f"{n}.pdparams" for n in ("best", "last") if (directory / f"{n}.pdparams").is_file()), None
    )


def load_model(args: argparse.Namespace, joints: int | None, synthetic: bool = False):
    """(network, settings, checkpoint or None): of the checkpoint, or fresh random weights where there is none, which is said.

    DataError when a checkpoint of another joint count, depth or mode is given.
    """
    from common.runs.first.settings import resolve
    from simplebaseline_paddle.checkpoint import load_network
    from simplebaseline_paddle.model import build_model

    options = {k: getattr(args, k, None) for k in _OVERRIDES}
    options |= {"kp_dim": args.kp_dim or joints, "model_save_dir": args.model_save_dir, "dataset": args.dataset}
    preset = PRESETS[("smoke" if synthetic else "paper") if args.preset == "auto" else args.preset]
    path = pick_checkpoint(args)
    if path is not None:
        model, config = load_network(path, options, preset, args.weights == "averaged")
        if args.random_weights:
            model = build_model(config, config.seed)
        return model, config, path
    if not args.random_weights:
        train = f"python {ROOT / 'simplebaseline_paddle/train.py'} --dataset {args.dataset}"
        print(
            f"NO CHECKPOINT: scoring an untrained network with random weights. Make one with `{train}`, or give --checkpoint",
            file=sys.stderr,
        )
    config = resolve(Config, preset, {k: v for k, v in options.items() if v is not None}).checked()
    return build_model(config, config.seed), config, None


def predict_records(
    model,
    config: Config,
    pose_set: PoseSet,
    records,
    machine,
    engine: str = "auto",
    batch_size: int = 32,
    picture: Path | None = None,
):
    """(Predictions for the persons of `records`, the PoseSet to score them against).

    In a distributed run every process predicts its share and the first gets all of them, each person once; the others get only theirs.
    """
    import numpy as np

    from simplebaseline_paddle.data import PersonDataset, make_loader
    from simplebaseline_paddle.engine import predict
    from simplebaseline_paddle.infer import make_forward
    from simplebaseline_paddle.pictures import heatmap_grid, save_grid

    dataset = PersonDataset(records, pose_set.skeleton, config, training=False)
    loader = make_loader(dataset, batch_size, False, machine.rank, machine.world)
    forward = make_forward(model, config.input_size, engine, machine.gpu, machine.threads)
    shape = (len(records), len(pose_set.skeleton))
    joints, score, count = np.full((*shape, 2), np.nan), np.zeros(shape, np.float32), np.zeros(shape[0], np.int64)
    for index, found, confidence, images, maps in predict(
        forward, loader, records, config, pose_set.skeleton, machine.is_main
    ):
        joints[index], score[index] = found, confidence
        np.add.at(count, index, 1)
        if picture and machine.is_main:
            save_grid(picture, heatmap_grid(images[:8], maps[:8]))
            picture = None
    if machine.world > 1:
        joints, score, count = gather(joints, score, count)
    if machine.is_main and (count != 1).any():
        raise RuntimeError(
            f"person {np.argmax(count != 1)} was predicted {count[np.argmax(count != 1)]} times instead of once"
        )
    return assemble(config, pose_set, records, joints, score)


def gather(joints, score, count):
    """Every process's share, put together; a person that is nobody's keeps NaN."""
    import numpy as np
    import paddle

    parts: list = []
    paddle.distributed.all_gather_object(parts, (joints, score, count))
    out_joints, out_score = np.full_like(joints, np.nan), np.zeros_like(score)
    for own_joints, own_score, own_count in parts:
        out_joints[own_count > 0], out_score[own_count > 0] = own_joints[own_count > 0], own_score[own_count > 0]
    return out_joints, out_score, sum(part[2] for part in parts)


def assemble(config: Config, pose_set: PoseSet, records, joints, score) -> tuple[Predictions, PoseSet]:
    """Predictions and the PoseSet to score them against: for COCO the whole split (so that persons not looked at count as missed).

    With a limit, only the images that were looked at.
    """
    meta = {
        "model": config.name,
        "boxes": records.note,
        "flip_test": config.flip_test,
        "mode": config.mode,
        "settings": asdict(config),
    }
    boxes = {"box": records.box, "box_score": records.box_score, "area": records.area}
    if pose_set.name != "coco":
        kept = pose_set.select(records.rows)
        return predictions_for(
            kept, joints, score, meta, **{**boxes, "area": kept.area if kept.area is not None else records.area}
        ), kept
    import numpy as np

    person = np.where(records.rows >= 0, pose_set.person_id[records.rows], -1 - np.arange(len(records)))
    predictions = Predictions(
        skeleton=pose_set.skeleton, joints=joints.astype(np.float32), score=score.astype(np.float32), person_score=score.mean(1), **boxes,
        image_id=records.image_id, person_id=person, frame=np.full(len(records), -1), dataset=pose_set.name, split=pose_set.split,
        meta={"synthetic": pose_set.synthetic, **meta},
    )  # fmt: skip
    return predictions, pose_set if config.limit is None else pose_set.select(
        np.isin(pose_set.image_id, records.image_id)
    )


def score_and_write(
    args: argparse.Namespace, config: Config, checkpoint: Path | None, predictions: Predictions, pose_set: PoseSet
) -> None:
    """Write the prediction file, print the originals' table and the protocols' figures, and write them as JSON if asked."""
    from common.files import sha256_of, versions

    trained = checkpoint if not args.random_weights else None
    hashed = sha256_of(trained) if trained and trained.is_file() else None
    predictions.meta |= {
        "house": "simplebaseline_paddle",
        "checkpoint": str(trained or "random weights"),
        "weights_hash": hashed,
        "versions": versions(),
    }
    out = Path(args.out) if args.out else run_directory(config) / f"{args.split}.npz"
    for path in write_official(out, predictions, pose_set, args):
        print(f"in the originals' form: {path}")
    results = publish(
        out,
        predictions,
        pose_set,
        args.protocol,
        args.json,
        lambda results: rescored(results, pose_set, predictions, args),
    )
    if args.result:
        write_result(args, config, predictions, results)
    print("\n" + original_table(config, results))


def write_result(args: argparse.Namespace, config: Config, predictions: Predictions, results: dict) -> None:
    """The run file for the tables; without folders of this machine."""
    from common.reported import save_run

    folders = ("data_root", "model_save_dir", "checkpoint", "pretrained_model")
    meta = {k: v for k, v in predictions.meta.items() if k not in ("settings", "checkpoint")}
    meta["settings"] = {k: v for k, v in predictions.meta["settings"].items() if k not in folders}
    root = [f"--data_root {'DIR' if Path(args.data_root).is_absolute() else args.data_root}"] if args.data_root else []
    words = [
        f"--dataset {args.dataset}",
        *root,
        f"--split {args.split}",
        *([] if config.flip_test else ["--no-flip_test"]),
    ]
    words += [f"--boxes {config.boxes}"] if args.dataset == "coco" else []
    # the published tables tell P's networks from T's, which have the same shape
    model = ("paddle_" if args.checkpoint and Path(args.checkpoint).is_dir() else "") + config.name
    save_run(
        args.result, house="simplebaseline_paddle", model=model, dataset=predictions.dataset, split=predictions.split,
        protocols={name: result.as_dict() for name, result in results.items()}, meta=meta | {"seed": config.seed},
        command=" ".join(["python simplebaseline_paddle/val.py", *words]),
    )  # fmt: skip
    print(f"run file: {args.result}")


def rescored(results: dict, pose_set: PoseSet, predictions: Predictions, args: argparse.Namespace) -> dict:
    """The results with COCO's at the thresholds of the options; the registered protocol has the originals' 0.9 and 0.2."""
    from dataclasses import replace

    from common.metrics.coco import oks_ap

    if "oks_ap" not in results or (args.oks_threshold, args.joint_threshold) == (0.9, 0.2):
        return results
    figures = oks_ap(pose_set, predictions, args.oks_threshold, args.joint_threshold)
    how = f"{results['oks_ap'].aggregation}; OKS-NMS at {args.oks_threshold:g}, joints above {args.joint_threshold:g}"
    return results | {"oks_ap": replace(results["oks_ap"], total=figures["AP"], values=figures, aggregation=how)}


def write_official(out: Path, predictions: Predictions, pose_set: PoseSet, args: argparse.Namespace) -> list[Path]:
    """The files that the originals write, beside ours: `pred.mat` (counted from 1) for MPII, the result JSON for COCO."""
    from common.files import atomic_write, write_json

    if pose_set.name == "coco":
        from common.metrics.coco import coco_results

        path = out.with_name(f"keypoints_{args.split}_results.json")
        return [write_json(path, coco_results(predictions, args.oks_threshold, args.joint_threshold))]
    if pose_set.name != "mpii":
        return []
    import scipy.io

    path = out.with_name("pred.mat")
    return [atomic_write(path, lambda temporary: scipy.io.savemat(temporary, {"preds": predictions.joints + 1.0}))]


def original_table(config: Config, results: dict) -> str:
    """The line that the Paddle project prints, with three decimals; empty when none of its figures was asked for."""
    columns = {}
    if "pckh@0.5" in results:
        groups = {"head_top": "Head", **{n: n.title() for n in ("shoulder", "elbow", "wrist", "hip", "knee", "ankle")}}
        result = results["pckh@0.5"]
        columns |= {title: result.groups[name] for name, title in groups.items() if name in result.groups} | {
            "Mean": result.total
        }
    if "mean@0.1:compat" in results:
        columns["Mean@0.1"] = results["mean@0.1:compat"].total
    if "oks_ap" in results:
        columns |= results["oks_ap"].values
    if not columns:
        return ""
    cells = [f"SIMPLEBASE RESNET{config.depth}", *[f"{value:.3f}" for value in columns.values()]]
    return "\n".join("| " + " | ".join(row) + " |" for row in (["Arch", *columns], ["---"] * len(cells), cells))


def run(args: argparse.Namespace) -> None:
    """Predict, write and score. DataError on bad input."""
    from simplebaseline_paddle.machine import Machine
    from simplebaseline_paddle.records import records_for
    from simplebaseline_paddle.sources import load_pose_set

    pose_set = load_pose_set(args.dataset, args.data_root, args.split)
    synthetic = (data_root(args.data_root, args.dataset) / "SYNTHETIC").exists()
    machine = Machine(args.use_gpu, args.threads)
    model, config, checkpoint = load_model(args, len(pose_set.skeleton), synthetic)
    records = records_for(pose_set, config, args.detections, args.image_threshold)
    if machine.is_main:
        print(f"{config.name}, {len(records)} persons, boxes: {records.note}")
    picture = run_directory(config) / "visualization@val.jpg"
    predictions, truth = predict_records(
        model, config, pose_set, records, machine, args.engine, args.batch_size, picture
    )
    if machine.is_main:
        score_and_write(args, config, checkpoint, predictions, truth)


def main(argv=None) -> int:
    """Exit code 0, or 2 with a message on bad input."""
    return exit_code(lambda: run(parse_args(argv)))


if __name__ == "__main__":
    sys.exit(main())
