"""What every val.py does around its network: what to score, prediction file, figures, run file for the tables.

predictions = estimator.predict_pose_set(pose_set)
results = publish(args, predictions, pose_set, standard=folder / "valid.npz")
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Iterable
from pathlib import Path

from common.files import git_sha, sha256_of, versions
from common.metrics import Result
from common.poses import PoseSet
from common.predictions import Predictions, save_predictions
from common.runs.options import SCORING, Parser
from common.runs.shelf import result_path


def parser(about: str | None, but: Iterable[str] = ()) -> Parser:
    """The parser of a val.py, without the house's data set and settings, nor those of `but`."""
    made = Parser(about)
    made.options(*(name for name in SCORING if name not in but))
    made.option("limit", type=int, metavar="N", default=None)
    return made


def say_random(asked: bool) -> None:
    """That the weights are random, `asked` for or for want of others."""
    why = "" if asked else "NO WEIGHTS: none are given and no run is here; "
    print(f"{why}what follows is of RANDOM weights, a baseline", file=sys.stderr)


def describe(house: str, model: str, weights: Path | None, settings: dict, **more) -> dict:
    """`Estimator.meta`: what a prediction file says about the network; no folder of this machine in it.

    `weights` None: random ones. `more`: `boxes`, `flip_test`, `mode`, `seed` and what else a house tells.
    """
    kept = {n: v for n, v in settings.items() if not (isinstance(v, (str, Path)) and os.sep in str(v))}
    trained: dict[str, str | None] = {"weights": "random"}
    if weights:
        files = (weights, Path(f"{weights}.data-00000-of-00001"))
        trained = {"weights": weights.name, "weights_hash": next((sha256_of(f) for f in files if f.is_file()), None)}
    about = {"house": house, "model": model, "settings": kept, "versions": versions(), "git_sha": git_sha()}
    return {**about, **trained, **more}


def publish(args: argparse.Namespace, predictions: Predictions, pose_set: PoseSet, standard: Path) -> dict[str, Result]:
    """Save the prediction file, score and print it, write `--json` and `--result`; {protocol: Result}.

    `args` are those of `parser`; `standard` is the prediction file without `--out`. DataError as `evaluate.score`.
    """
    from common import datasets, evaluate, intervals
    from common.reported import save_run

    out = result_path(args.out, standard)
    if differs := datasets.record(pose_set.name).differs(pose_set):
        predictions.meta["subset"] = differs  # so that no table compares it later
    save_predictions(out, predictions)
    print(f"predictions: {out}")
    results = evaluate.score(pose_set, predictions, args.protocol)
    results = intervals.with_intervals(results, predictions, intervals.Draws(pose_set))
    print(evaluate.written(pose_set, predictions, results, args.json))
    if args.result:
        meta = dict(predictions.meta)
        network = {name: meta.pop(name) for name in ("house", "model")}
        data = {"dataset": predictions.dataset, "split": predictions.split}
        figures = {name: result.as_dict() for name, result in results.items()}
        save_run(args.result, **network, **data, protocols=figures, meta=meta, command=command_line())
        print(f"run file: {args.result}")
    return results


def command_line(words: list[str] | None = None) -> str:
    """This call as somebody else would type it: folders of this machine as DIR, files by their names."""

    def elsewhere(word: str) -> str:
        name, given, value = word.rpartition("=")
        short = "DIR" if Path(value).is_dir() else Path(value).name
        return name + given + short if os.path.isabs(value) else word

    programme, *rest = sys.argv if words is None else words
    spec = getattr(sys.modules["__main__"], "__spec__", None) if words is None else None
    program = f"-m {spec.name}" if spec else "/".join(Path(programme).parts[-2:])
    return f"python {program} {shlex.join(map(elsewhere, rest))}"
