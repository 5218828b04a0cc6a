"""MPII release file -> the JSON form (train/valid/trainval.json), and a comparison of two such JSON files."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

import numpy as np

from common.datasets import files, mpii_release
from common.datasets.mpii_release import Persons
from common.errors import DataError


def convert(release: Path, out: Path, valid: Path | None = None, train: Path | None = None) -> dict[str, int]:
    """Write the annotated persons of training images as JSON into `out`; returns file name -> number of persons.

    Always `trainval.json`. With `valid` (gt_valid.mat, a JSON of that form, or a text file of image names) also `valid.json`, in the
    list's order, and `train.json`, the others. Which persons the published split took is not in the release, and its train.json (22246
    persons) leaves some out by a rule that was never published: give `train`, a list of the same kinds, to take exactly those.
    Coordinates stay as in the release, counted from 1. Beside the usual fields each person has `head_box` [x1,y1,x2,y2] and `visible` (0,
    1, 2).
    """
    if train and not valid:
        raise DataError("a list for train needs one for valid as well (--valid)")
    persons = mpii_release.read_release(release)
    candidates = persons.train & persons.annotated
    parts = {"trainval": np.flatnonzero(candidates)}
    if valid:
        parts["valid"] = mpii_release.rows_of_list(persons, valid)
        others = np.setdiff1d(parts["trainval"], parts["valid"])
        parts["train"] = mpii_release.rows_of_list(persons, train) if train else others
    out.mkdir(parents=True, exist_ok=True)
    for name, rows in parts.items():
        _write(out / f"{name}.json", _entries(persons.select(rows)))
    return {f"{name}.json": len(rows) for name, rows in parts.items()}


def _entries(persons: Persons) -> list[dict]:
    joints = np.where(persons.visible[..., None] > 0, persons.joints, -1.0).tolist()
    center = np.where(np.isfinite(persons.center), persons.center, -1.0).tolist()
    scale = np.where(np.isfinite(persons.scale), persons.scale, -1.0).tolist()
    head = np.where(np.isfinite(persons.head_box), persons.head_box, 0.0).tolist()
    columns = zip(
        persons.image.tolist(),
        center,
        scale,
        joints,
        (persons.visible > 0).astype(int).tolist(),
        head,
        persons.visible.tolist(),
        strict=True,
    )
    names = ("image", "center", "scale", "joints", "joints_vis", "head_box", "visible")
    return [dict(zip(names, row)) for row in columns]


def _write(path: Path, entries: list[dict]) -> None:
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(entries), encoding="utf-8")
    os.replace(temporary, path)


def diff(first: Path, second: Path, tolerance: float = 0.01) -> list[str]:
    """What differs between two JSON annotation files, one line each; empty when they say the same. Persons are matched by image and
    centre.
    """
    tables = []
    for path in (first, second):
        entries = files.read_json(path)
        tables.append({(e["image"], *np.round(e["center"], 1)): e for e in entries})
        if len(tables[-1]) != len(entries):
            raise DataError(
                f"{path}: {len(entries) - len(tables[-1])} persons share image and centre with another; they cannot be matched"
            )
    a, b = tables
    lines = [
        f"only in {path}: {key[0]} at {key[1:]}"
        for path, mine, other in ((first, a, b), (second, b, a))
        for key in mine
        if key not in other
    ]
    for key in a.keys() & b.keys():
        lines += [f"{key[0]} at {key[1:]}: {what}" for what in _differences(a[key], b[key], tolerance)]
    return lines


def _differences(a: dict, b: dict, tolerance: float) -> list[str]:
    found = []
    if abs(a["scale"] - b["scale"]) > tolerance:
        found.append(f"scale {a['scale']} | {b['scale']}")
    seen_a, seen_b = np.array(a["joints_vis"], bool), np.array(b["joints_vis"], bool)
    if (seen_a != seen_b).any():
        found.append(f"annotated joints differ: {np.flatnonzero(seen_a != seen_b).tolist()}")
    distance = np.abs(np.array(a["joints"]) - np.array(b["joints"])).max(1)
    moved = np.flatnonzero((distance > tolerance) & seen_a & seen_b)
    return found + [f"joint {j} at {a['joints'][j]} | {b['joints'][j]}" for j in moved]


def main(arguments: list[str] | None = None) -> int:
    """`python -m common.datasets.mpii convert|diff`; 0 done or equal, 1 the files differ, 2 bad input."""
    parser = argparse.ArgumentParser(prog="python -m common.datasets.mpii", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser(
        "convert", help="release .mat -> trainval.json, and with --valid train.json and valid.json"
    )
    one.add_argument("release", type=Path, help="mpii_human_pose_v1_u12_1.mat")
    one.add_argument("out", type=Path, help="folder for the JSON files")
    kinds = "gt_valid.mat, a JSON of this form, or a text file of image names"
    one.add_argument("--valid", type=Path, help=f"who is the validation split, which the release does not say: {kinds}")
    one.add_argument("--train", type=Path, help=f"take only these for train.json: {kinds}")
    two = commands.add_parser("diff", help="compare two JSON files person by person")
    two.add_argument("first", type=Path)
    two.add_argument("second", type=Path)
    two.add_argument("--tolerance", type=float, default=0.01, help="pixels (default %(default)s)")
    given = parser.parse_args(arguments)
    try:
        for path in filter(None, (getattr(given, n, None) for n in ("release", "valid", "train", "first", "second"))):
            if not path.is_file():
                raise DataError(f"{path} does not exist")
        if given.command == "convert":
            for name, count in convert(given.release, given.out, given.valid, given.train).items():
                print(f"{given.out / name}: {count} persons")
            if not given.valid:
                print("no train.json and valid.json: the release does not say who is in them (--valid gt_valid.mat)")
            return 0
        lines = diff(given.first, given.second, given.tolerance)
    except DataError as error:
        print(error, file=sys.stderr)
        return 2
    print("\n".join(lines) or "no difference")
    return 1 if lines else 0
