"""Score a prediction file.

    python -m common.evaluate --dataset NAME --data_root DIR --split S --predictions FILE [--protocol NAME ...]

prints each figure with its 95 % interval (`common.intervals`), the number of persons, how it was formed, and which
published number it may be compared with, or why with none. Exit code 0 also when nothing may be compared; 2 when the
data, the prediction file or a name is not valid.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from common import datasets, intervals, reported
from common.errors import DataError
from common.files import write_text
from common.importers import align_rows, load_any
from common.metrics import Result
from common.metrics.pck import with_belly
from common.poses import PoseSet
from common.predictions import Predictions
from common.protocols import protocols_for
from common.runs.process import exit_code


def score(pose_set: PoseSet, predictions: Predictions, protocols=None) -> dict[str, Result]:
    """{protocol name: Result} for the named protocols, or all that apply to the data set.

    Predictions are in the PoseSet's skeleton (`common.importers.load_any` sees to it). Without `protocols`, those that
    need every person's row are left out with a warning where the predictions do not have them and others can be scored.
    Raises DataError for a protocol that does not exist or does not apply, or when nothing can be scored.
    """
    chosen = protocols_for(pose_set, protocols)
    if not chosen:
        why = f"skeleton {pose_set.skeleton.name} lacks the joints that they need"
        raise DataError(f"no protocol applies to {pose_set.name}/{pose_set.split}: {why}")
    if predictions.skeleton != pose_set.skeleton:
        what = f"predictions have skeleton {predictions.skeleton.name}, the data {pose_set.skeleton.name}"
        raise DataError(f"{what}; read the file with common.importers.load_any")
    by_row, rows = [p for p in chosen if p.by == "row"], predictions
    if by_row:
        try:
            rows = align_rows(predictions, pose_set)
            joints = np.asarray(rows.joints, np.float64)
            # sub-JHMDB's belly by the official rule where the network has none
            joints = with_belly(joints) if "belly" in rows.meta.get("stand_ins", ()) else joints
            rows = replace(rows, joints=joints)
        except DataError as error:
            if protocols or len(by_row) == len(chosen):
                raise
            chosen = [p for p in chosen if p not in by_row]
            names = ", ".join(p.name for p in by_row)
            warnings.warn(f"left out, because they need every person's row: {names}. {error}", stacklevel=2)
    return {p.name: p.score(pose_set, rows if p.by == "row" else predictions) for p in chosen}


def comparable(pose_set: PoseSet, predictions: Predictions, protocol: str) -> tuple[bool, str]:
    """Whether a figure may stand beside published ones, and the text that says beside which, or why beside none.

    It may when a published table has it and the persons are those of the published split, by count and identity.
    """
    if pose_set.synthetic or predictions.meta.get("synthetic"):
        return False, "not comparable: synthetic data"
    meta = predictions.meta | {"subset": datasets.record(pose_set.name).differs(pose_set)}
    return reported.comparable(pose_set.name, protocol, pose_set.split, meta)


def table(
    pose_set: PoseSet, predictions: Predictions, results: dict[str, Result], verdicts: dict[str, tuple[bool, str]]
) -> str:
    """The results as text for people, a block for each protocol; `verdicts` as `comparable` gives them."""
    origin = "SYNTHETIC data" if pose_set.synthetic else "real data"
    boxes = predictions.meta.get("boxes", "not stated")
    lines = [f"{pose_set.name} {pose_set.split}: {len(pose_set)} persons, {origin}; boxes: {boxes}"]
    if stand_ins := predictions.meta.get("stand_ins"):
        lines.append(f"stand-ins for joints that the network does not predict: {', '.join(stand_ins)}")
    missing = np.isnan(predictions.joints).any(-1).all(0) & (len(predictions) > 0)
    if absent := [joint for joint, never in zip(pose_set.skeleton.joints, missing) if never]:
        lines.append(f"never predicted, so missed wherever they count: {', '.join(absent)}")
    for name, result in results.items():
        between = f"  [{result.interval[0]:.3f}, {result.interval[1]:.3f}]" if result.interval else ""
        lines += ["", f"{name}  {result.total:.3f}{between}  (n = {result.n})"]
        for title, values in (("", result.values), ("", result.groups), ("means: ", result.means)):
            lines += ["  " + title + "  ".join(f"{k} {v:.3f}" for k, v in values.items())] if values else []
        lines += [f"  {result.aggregation}", f"  {verdicts[name][1]}"]
    return "\n".join(lines)


def written(pose_set: PoseSet, predictions: Predictions, results: dict[str, Result], json_out) -> str:
    """The table. `json_out`: {protocol: {total, per_joint or per_part, aggregation, n, ..., comparable, comparison}} as
    strict JSON (NaN is null), at once."""
    verdicts = {name: comparable(pose_set, predictions, name) for name in results}
    if json_out:
        words = {name: dict(zip(("comparable", "comparison"), verdict)) for name, verdict in verdicts.items()}
        entries = {name: result.as_dict() | words[name] for name, result in results.items()}
        write_text(json_out, json.dumps(entries, indent=2, allow_nan=False) + "\n")
    return table(pose_set, predictions, results, verdicts)


def parser(module: str, about: str | None) -> argparse.ArgumentParser:
    """What this command and `common.report` ask alike."""
    form = argparse.RawDescriptionHelpFormatter
    made = argparse.ArgumentParser(prog=f"python -m {module}", description=about, formatter_class=form)
    add = made.add_argument
    add("--dataset", required=True, choices=datasets.NAMES)
    add("--data_root", required=True, help="folder of the data set as published (json: the file or its folder)")
    add("--split", required=True, help="lsp: train, test, A-B; others as `common.datasets check` lists them")
    add("--protocol", action="extend", nargs="+", metavar="NAME", help="default: all that apply")
    add("--category", help="COCO's layout: id or name of the persons' category, where several have keypoints")
    add("--limit", type=int, metavar="N", help="the first N persons, as val.py's --limit")
    number = "draws for the 95 %% intervals; 0: none (default: 1000)"
    add("--bootstrap", type=int, default=1000, metavar="N", help=number)
    add("--seed", type=int, default=0, help="of the draws")
    add("--json", type=Path, metavar="OUT", help="also write the figures to this file")
    return made


def pose_set_of(args: argparse.Namespace) -> PoseSet:
    """The annotated persons that `parser`'s arguments name."""
    options = {} if args.category is None else {"category": args.category}
    return datasets.load(args.dataset, args.data_root, args.split, **options).limit(args.limit)


@contextmanager
def notes() -> Iterator[None]:
    """Inside, warnings wait; afterwards each is a note on standard error, once."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    for note in dict.fromkeys(str(w.message) for w in caught):
        print(f"note: {note}", file=sys.stderr)


def _run(args: argparse.Namespace) -> None:
    with notes():
        pose_set = pose_set_of(args)
        predictions = load_any(args.predictions, pose_set)
        results = score(pose_set, predictions, args.protocol)
        if args.bootstrap > 0:
            draws = intervals.Draws(pose_set, args.bootstrap, args.seed)
            results = intervals.with_intervals(results, predictions, draws)
    print(written(pose_set, predictions, results, args.json))


def main(argv=None) -> int:
    """Entry point; returns the exit code."""
    asked = parser("common.evaluate", "Score a prediction file against a data set, by named protocols.")
    kinds = "our .npz or joints.jsonl, or others': MPII, LSP, Penn .mat, .h5, COCO or AI Challenger result JSON"
    asked.add_argument("--predictions", required=True, help=kinds)
    return exit_code(lambda: _run(asked.parse_args(argv)))


if __name__ == "__main__":
    sys.exit(main())
