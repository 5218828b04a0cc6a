"""Score the stages on any labelled split and write the prediction file (the original's pyaccuracy.py, on all lines and in batches).

    python deeppose_caffe_port/val.py                                              # both stages, data/K2HPD, last snapshots
    python deeppose_caffe_port/val.py --dataset=lspet --data_dir=DIR --split=4001-5000 --stage=1
    python deeppose_caffe_port/val.py --rate=40 --seed=1                           # about one image in 40, as the original drew them

Pictures are K2HPD's whole images, of other data sets crops around the annotated joints (oracle boxes).
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)

from common.poses import DataError  # noqa: E402
from common.settings import add_arguments  # noqa: E402
from deeppose_caffe_port.config import Config, settle  # noqa: E402

_OWN = ("stage", "out", "json", "protocol", "rate", "seed", "random_weights", "result", "note")


def parse_args(argv=None) -> tuple[argparse.Namespace, dict]:
    """(own options, project settings given)."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--stage", type=int, choices=(1, 2), default=2, help="1: stage 1 alone; 2: both (default)")
    add("--out", help="prediction file (default: PROJECT/output/SPLIT_stageN.npz)")
    add("--json", help="also write the scores here, as `common.evaluate --json`")
    add("--result", help="also write a run file for common.crosscheck here, such as deeppose_caffe_port/results/lspet.json")
    add("--note", help="a remark that goes into it, such as how the networks were trained")
    add("--protocol", nargs="*", help="protocols of common.evaluate (default: all that apply)")
    add("--rate", type=int, default=1, help="keep one image in RATE, drawn at random (default: 1, all)")
    add("--seed", type=int, default=0, help="seed of --rate (default: 0)")
    add("--random_weights", action="store_true", help="the same networks with fresh random weights (a baseline)")
    add_arguments(parser, Config)
    given = vars(parser.parse_args(argv))
    return argparse.Namespace(**{name: given.pop(name) for name in _OWN}), given


def chosen(pose_set, rate: int, seed: int):
    """The rows that randint(1, rate) == 1 keeps, with Python 2's generator as the original has it."""
    from deeppose_caffe_port.prepare import Python2Random

    generator = Python2Random(seed)
    return pose_set if rate <= 1 else pose_set.select([i for i in range(len(pose_set)) if generator.randint(1, rate) == 1])


def predict_pose_set(cascade, pose_set, config: Config):
    """Predictions of a PoseSet after each stage, in its image pixels."""
    import numpy as np

    from common.predictions import predictions_for
    from deeppose_caffe_port import engine
    from deeppose_caffe_port.images import Pictures

    pictures = Pictures(pose_set, config)
    parts = list(engine.predict(cascade, pictures))
    found = [np.concatenate(stage) for stage in zip(*(joints for _, joints in parts))]
    boxes = "none (whole images)" if config.whole_images else "oracle (annotated joints)"
    meta = {"house": "deeppose_caffe_port", "boxes": boxes, "flip_test": False, "mode": config.mode, "preset": config.preset}
    return [predictions_for(pose_set, joints, meta={**meta, "model": name}) for joints, name in zip(found, stage_names(len(found)))]


def stage_names(count: int) -> list[str]:
    """Names of the outputs of a cascade."""
    return ["deeppose"] + [f"deeppose_refine{i if count > 2 else ''}" for i in range(1, count)]


def score(config: Config, own: argparse.Namespace, refine: bool) -> dict:
    """Predict, write the last stage's file, print the figures; returns {protocol: Result} of each stage by its name."""
    from common.checkpoints import sha256_of, versions
    from common.evaluate import comparable, table, write_json
    from common.evaluate import score as evaluate
    from common.predictions import save_predictions
    from deeppose_caffe_port.cascade import load_cascade, pick_snapshot
    from deeppose_caffe_port.import_data import load_split

    pose_set = chosen(load_split(config, 1), own.rate, own.seed)
    if not len(pose_set):
        print("no image was drawn: nothing to score")
        return {}
    cascade = load_cascade(config, refine, own.random_weights)
    stages = predict_pose_set(cascade, pose_set, config)
    files = [] if own.random_weights else [pick_snapshot(config, s) for s in ((1, 2) if refine else (1,))]
    for predictions in stages:
        predictions.meta |= {"weights": "random"} if own.random_weights else {"checkpoint": list(map(str, files))}
        predictions.meta |= {"weights_hash": [sha256_of(f) for f in files], "versions": versions()} | (
            {"rate": own.rate, "rate_seed": own.seed} if own.rate > 1 else {}
        )
    last = stages[-1]
    out = Path(own.out) if own.out else config.project / "output" / f"{pose_set.split}_stage{1 + refine}.npz"
    save_predictions(out, last)
    print(f"predictions: {out}")
    results = {p.meta["model"]: evaluate(pose_set, p, own.protocol) for p in stages}
    verdicts = {name: comparable(pose_set, last, name) for name in results[last.meta["model"]]}
    if own.json:
        write_json(own.json, results[last.meta["model"]], verdicts)
    if own.result:
        save_result(own.result, pose_set, last, results[last.meta["model"]], own.note)
    print(table(pose_set, last, results[last.meta["model"]], verdicts))
    if len(stages) > 1:
        print("\n" + gains(pose_set, [p.joints for p in stages], results))
    return results


def save_result(path: str, pose_set, predictions, results: dict, note: str | None) -> None:
    """A run file for the README's table."""
    from common.crosscheck import save_run

    protocols = {name: result.as_dict() for name, result in results.items()}
    words = [w for w in sys.argv[1:] if not w.startswith(("--note", "--result"))]
    command = "python deeppose_caffe_port/" + shlex.join(["val.py", *words])
    meta = {k: v for k, v in predictions.meta.items() if k not in ("versions", "checkpoint")} | ({"note": note} if note else {})
    save_run(path, house="deeppose_caffe_port", model=predictions.meta["model"], dataset=pose_set.name, split=pose_set.split,
             protocols=protocols, meta=meta, command=command)  # fmt: skip


def gains(pose_set, stages, results: dict) -> str:
    """What each stage adds: mean distance by joint in image pixels, and every protocol's total."""
    import numpy as np

    errors = [np.nanmean(np.linalg.norm(joints - pose_set.joints, axis=-1), axis=0) for joints in stages]
    names = list(results)
    lines = ["mean distance in image pixels by stage (gain of the last over the first)"]
    for joint, values in zip((*pose_set.skeleton.joints, "all"), zip(*(np.append(e, np.nanmean(e)) for e in errors))):
        lines.append(f"  {joint:16s}" + " ".join(f"{v:8.3f}" for v in values) + f"   {values[0] - values[-1]:+.3f}")
    lines.append("protocol totals: " + ", ".join(names))
    for protocol in results[names[0]]:
        lines.append(f"  {protocol:24s}" + " ".join(f"{results[n][protocol].total:8.3f}" for n in names))
    return "\n".join(lines)


def main(argv=None) -> int:
    """Exit code 0, or 2 with a message on bad input."""
    own, given = parse_args(argv)
    try:
        from deeppose_caffe_port.import_data import load_split

        config = settle(given)
        load_split(config, 1)  # says what data is missing before PyTorch is imported
        score(config, own, refine=own.stage == 2)
    except (DataError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
