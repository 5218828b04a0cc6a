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

from common.evaluate import add_scoring_arguments  # noqa: E402
from common.runs.first.process import exit_code  # noqa: E402
from common.runs.first.settings import add_arguments  # noqa: E402
from deeppose_caffe_port.config import Config, settle  # noqa: E402

_OWN = ("stage", "out", "json", "protocol", "rate", "seed", "random_weights", "result", "note")


def parse_args(argv=None) -> tuple[argparse.Namespace, dict]:
    """(own options, project settings given)."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--stage", type=int, help="the last stage to apply; 1: stage 1 alone (default: all)")
    add_scoring_arguments(parser, "PROJECT/output/SPLIT_stageN.npz", "deeppose_caffe_port")
    add("--note", help="a remark that goes into it, such as how the networks were trained")
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
    return (
        pose_set if rate <= 1 else pose_set.select([i for i in range(len(pose_set)) if generator.randint(1, rate) == 1])
    )


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
    meta = {
        "house": "deeppose_caffe_port",
        "boxes": boxes,
        "flip_test": False,
        "mode": config.mode,
        "preset": config.preset,
    }
    return [
        predictions_for(pose_set, joints, meta={**meta, "model": name}) for joints, name in zip(found, cascade.names)
    ]


def score(config: Config, own: argparse.Namespace, stage: int | None = None) -> dict:
    """Predict, write the last stage's file, print the figures; returns {protocol: Result} of each stage by its name."""
    from common.crosscheck import figures_table
    from common.evaluate import publish
    from common.evaluate import score as evaluate
    from common.files import sha256_of, versions, write_json
    from deeppose_caffe_port.cascade import load_cascade, pick_snapshot
    from deeppose_caffe_port.import_data import load_split

    pose_set = chosen(load_split(config, 1), own.rate, own.seed)
    if not len(pose_set):
        print("no image was drawn: nothing to score")
        return {}
    cascade = load_cascade(config, stage, own.random_weights)
    last = stage or config.stages
    stages = predict_pose_set(cascade, pose_set, config)
    files = [] if own.random_weights else [pick_snapshot(config, s) for s in range(1, last + 1)]
    for predictions in stages:
        predictions.meta |= {"weights": "random"} if own.random_weights else {"checkpoint": list(map(str, files))}
        predictions.meta |= {"weights_hash": [sha256_of(f) for f in files], "versions": versions()} | (
            {"rate": own.rate, "rate_seed": own.seed} if own.rate > 1 else {}
        )
    out = Path(own.out) if own.out else config.project / "output" / f"{pose_set.split}_stage{last}.npz"
    final = stages[-1]
    results = {p.meta["model"]: evaluate(pose_set, p, own.protocol) for p in stages[:-1]}
    results[final.meta["model"]] = publish(out, final, pose_set, own.protocol, own.json)
    if own.result:
        save_result(own.result, pose_set, final, results[final.meta["model"]], own.note)
    if len(stages) > 1:
        table = gains(pose_set, [p.joints for p in stages], results)
        print("\n" + figures_table(table))
        if own.result:
            write_json(Path(own.result).parent / "gain" / Path(own.result).name, table)
    return results


def save_result(path: str, pose_set, predictions, results: dict, note: str | None) -> None:
    """A run file for the README's table."""
    from common.reported import save_run

    protocols = {name: result.as_dict() for name, result in results.items()}
    meta = {k: v for k, v in predictions.meta.items() if k not in ("versions", "checkpoint")} | (
        {"note": note} if note else {}
    )
    save_run(path, house="deeppose_caffe_port", model=predictions.meta["model"], dataset=pose_set.name, split=pose_set.split,
             protocols=protocols, meta=meta, command=command_line())  # fmt: skip


def command_line() -> str:
    """This call, without the options that only say where its record goes."""
    words, kept = iter(sys.argv[1:]), []
    for word in words:
        name, given, _ = word.partition("=")
        if name not in ("--note", "--result"):
            kept.append(word)
        elif not given:
            next(words)
    return "python deeppose_caffe_port/" + shlex.join(["val.py", *kept])


def gains(pose_set, stages, results: dict) -> dict:
    """What each stage adds: mean distance by joint in image pixels, then every protocol's total, as a table for `common.crosscheck`."""
    import numpy as np

    errors = [np.nanmean(np.linalg.norm(joints - pose_set.joints, axis=-1), axis=0) for joints in stages]
    names = list(results)
    columns = zip(*(np.append(e, np.nanmean(e)) for e in errors))
    rows = [
        [joint, *map(float, values), float(values[0] - values[-1])]
        for joint, values in zip((*pose_set.skeleton.joints, "mean"), columns)
    ]
    for protocol in results[names[0]]:
        totals = [results[name][protocol].total for name in names]
        rows.append([protocol, *totals, totals[-1] - totals[0]])
    kind = "SYNTHETIC images" if pose_set.synthetic else "real images"
    note = f"mean distance in pixels of the image by joint, then totals of protocols; {pose_set.name} {pose_set.split}, {len(pose_set)} persons, {kind}"
    return {"columns": ["", *names, "gain"], "rows": rows, "command": command_line(), "note": note}


def run(own: argparse.Namespace, config: Config) -> None:
    """Score; says what data is missing before PyTorch is imported."""
    from deeppose_caffe_port.import_data import load_split

    load_split(config, 1)
    score(config, own, own.stage)


def main(argv=None) -> int:
    """Exit code 0, or 2 with a message on bad input."""
    own, given = parse_args(argv)
    return exit_code(lambda: run(own, settle(given)))


if __name__ == "__main__":
    sys.exit(main())
