"""The page: figures, differences, charts, kinds of errors, groups, pictures, table, origin; one HTML file."""

from __future__ import annotations

import base64
import json
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from markupsafe import Markup

from common import datasets, evaluate
from common.errors import DataError
from common.files import git_sha, sha256_of
from common.images import read_image
from common.intervals import Draws, interval
from common.poses import PoseSet, box_of_joints
from common.predictions import Predictions
from common.protocols import protocols_of
from common.report import charts
from common.report.diagnosis import KINDS, Judged, Persons, calibration, dispute, file_label, judge, persons_of
from common.reported import figure

_SIDE = 480  # pixels of a picture's longer side on the page
_FRACTION = ("oks_ap", "aic_map")


def page(
    pose_set: PoseSet,
    files: Sequence[tuple[Path, Predictions]],
    protocols: Sequence[str] | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
    pictures: int = 24,
) -> str:
    """The whole page as HTML. DataError as in `evaluate.score`, or when no person can be counted."""
    from jinja2 import Environment, FileSystemLoader

    persons, draws = persons_of(pose_set), Draws(pose_set, bootstrap, seed)
    if not len(persons.rows):
        raise DataError(f"{pose_set.name}/{pose_set.split} has no person with a labelled joint; give another split")
    judged: list[Judged] = []
    for path, predictions in files:
        results = evaluate.score(pose_set, predictions, protocols)
        name = file_label(path, [one.name for one in judged])
        judged.append(judge(name, persons, predictions, results))
        judged[-1].samples = {n: draws.of(n, r, predictions) for n, r in results.items()}
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    parts = {
        "title": f"{pose_set.name} {pose_set.split}: {', '.join(one.name for one in judged)}",
        "about": _about(pose_set, persons, draws),
        "names": [one.name for one in judged],
        "figures": _figures(judged, pose_set),
        "differences": _differences(judged),
        "joints": _by_joint(judged),
        "curves": _curves(pose_set, judged, draws),
        "kinds": KINDS,
        "failures": [_failures(one, persons) for one in judged],
        "groups": _groups(persons, judged, draws),
        "calibration": _calibration(persons, judged),
        "cards": _cards(persons, judged, pictures),
        "table": _table(persons, judged),
        "origins": [_origin(path, one, pose_set) for (path, _), one in zip(files, judged)],
        "commands": _commands(pose_set, files, judged, draws),
    }
    return environment.get_template("page.html.j2").render(parts)


def _about(pose_set: PoseSet, persons: Persons, draws: Draws) -> dict:
    record = datasets.record(pose_set.name)
    return {
        "data": pose_set.name,
        "split": pose_set.split,
        "persons": len(persons.rows),
        "images": len(set(pose_set.image_id.tolist()) | set(pose_set.regions or ())),
        "synthetic": pose_set.synthetic,
        "differs": record.differs(pose_set),
        "source": record.source,
        "draws": draws.number,
        "what": draws.what,
        "seed": draws.seed,
        "commit": git_sha(),
    }


def _between(value: float | None, between: tuple[float, float] | None, protocol: str) -> str:
    if value is None or not np.isfinite(value):
        return "-"
    return figure(value, protocol, 1) + (f" [{', '.join(figure(v, protocol, 1) for v in between)}]" if between else "")


def _total(samples: dict | None) -> np.ndarray | None:
    return samples["total"] if samples else None


def _figures(judged: list[Judged], pose_set: PoseSet) -> list[dict]:
    """A row a protocol: every file's figure with its interval, how it is formed, and what it may stand beside."""
    rows = []
    for name in judged[0].results:
        have = [one for one in judged if name in one.results]
        verdicts = dict.fromkeys(evaluate.comparable(pose_set, one.predictions, name)[1] for one in have)
        cells = {one.name: _between(one.results[name].total, interval(_total(one.samples[name])), name) for one in have}
        first = have[0].results[name]
        parts = {
            e: {one.name: _between(one.results[name].values.get(e), None, name) for one in have} for e in first.values
        }
        row = {"name": name, "cells": cells, "n": first.n, "how": first.aggregation}
        rows.append(row | {"verdicts": list(verdicts), "parts": parts})
    return rows


def _differences(judged: list[Judged]) -> list[dict]:
    """Every pair of files by every protocol that both have draws of: second minus first, on the same draws."""
    rows = []
    for name in judged[0].results:
        for i, first in enumerate(judged):
            for second in judged[i + 1 :]:
                one, other = _total(first.samples.get(name)), _total(second.samples.get(name))
                if one is None or other is None or (between := interval(other - one)) is None:
                    continue
                better = second.name if between[0] > 0 else first.name if between[1] < 0 else None
                word = f"{better} is better" if better else "may be chance"
                value = second.results[name].total - first.results[name].total
                shown = f"{figure(value, name, 1, '+')} [{', '.join(figure(v, name, 1, '+') for v in between)}]"
                rows.append(
                    {
                        "protocol": name,
                        "first": first.name,
                        "second": second.name,
                        "shown": shown,
                        "word": word,
                        "better": bool(better),
                    }
                )
    return rows


def _by_joint(judged: list[Judged]) -> charts.Chart | None:
    """The main protocol's entries with their intervals."""
    name = next(iter(judged[0].results))
    entries = [e for e in (judged[0].samples[name] or {}) if e != "total"]
    if not entries:
        return None
    series = []
    for one in judged:
        samples, values = one.samples[name] or {}, one.results[name].values
        between = [interval(samples.get(e)) or (np.nan, np.nan) for e in entries]
        series.append((one.name, np.array([values[e] for e in entries], np.float64), np.array(between)))
    return charts.whiskers([e.replace("_", " ") for e in entries], series, f"{name}, percent", f"{name} by joint")


def _curves(pose_set: PoseSet, judged: list[Judged], draws: Draws) -> list[charts.Chart]:
    made, families = [], set()
    for name, protocol in protocols_of(pose_set.name).items():
        family = name.split("@")[0].split("_")[0]
        if name not in judged[0].results or family in families or name.endswith(":compat"):
            continue
        families.add(family)
        if name == "oks_ap":
            tables = [draws.precision_recall(one.predictions) for one in judged]
            precision = [t.precision(np.ones(len(draws.unit))) for t in tables]
            for row, where in ((0, "OKS 0.50"), (5, "OKS 0.75"), (slice(None), "the mean of OKS 0.50 to 0.95")):
                lines = [
                    (one.name, tables[0].recall, np.atleast_2d(p[row]).mean(0)) for one, p in zip(judged, precision)
                ]
                made.append(charts.curves(lines, "recall", "precision", f"Precision over recall at {where}"))
        elif np.isfinite(protocol.threshold) and judged[0].results[name].tally is not None:
            thresholds = np.linspace(0, 2.5 * protocol.threshold, 16)
            lines = []
            for one in judged:
                rows = replace(one.predictions, joints=one.predictions.joints.astype(np.float64))
                lines.append((one.name, thresholds, [protocol.count(pose_set, rows, t).total for t in thresholds]))
            made.append(
                charts.curves(
                    lines,
                    f"threshold ({name} is at {protocol.threshold:g})",
                    "percent",
                    f"{name.split('@')[0]} over its threshold",
                )
            )
    return made


def _failures(one: Judged, persons: Persons) -> dict:
    """Shares of every kind, in percent, of all labelled joints and of each."""
    joints = persons.pose_set.skeleton.joints
    counts = np.stack([(one.kind == code).sum(0) for code in range(len(KINDS))], 1)
    shares = 100 * counts / np.maximum(counts.sum(1, keepdims=True), 1)
    total = 100 * counts.sum(0) / max(counts.sum(), 1)
    rows = [
        ("all joints", int(counts.sum()), total),
        *zip((j.replace("_", " ") for j in joints), counts.sum(1).tolist(), shares),
    ]
    return {"name": one.name, "rows": rows, "extra": one.extra, "unfound": int(np.isnan(one.joints).all((1, 2)).sum())}


def _groups(persons: Persons, judged: list[Judged], draws: Draws) -> list[dict]:
    """What is right in each group of persons, with intervals."""

    def shown(one: Judged, mask: np.ndarray) -> str:
        part, whole = np.zeros((2, len(persons.pose_set)))
        part[persons.rows], whole[persons.rows] = one.right * mask, one.counted * mask
        if not whole.sum():
            return "-"
        return _between(100 * part.sum() / whole.sum(), interval(100 * draws.ratio(part, whole)), "")

    return [
        {
            "name": name,
            "rows": [(label, int(mask.sum()), [shown(one, mask) for one in judged]) for label, mask in group.items()],
        }
        for name, group in persons.groups.items()
    ]


def _calibration(persons: Persons, judged: list[Judged]) -> list[charts.Chart]:
    made = []
    for one in judged:
        if (bins := calibration(one, persons)) is None:
            continue
        score, good, count = bins
        inside = 0 <= score.min() and score.max() <= 1
        error = f", mean gap {np.average(np.abs(score - good), weights=count):.2f}" if inside else ""
        title = f"{one.name}: score of a joint and share of joints near the truth{error}"
        made.append(
            charts.curves([(one.name, score, good)], "score of the joint", "share near the truth", title, inside)
        )
    return made


# ---- pictures and table ----------------------------------------------------------------------------------------------


def _cards(persons: Persons, judged: list[Judged], number: int) -> dict[str, list[dict]]:
    """The best, worst and most disputed persons, each of a picture of its own."""
    seen = persons.labelled
    quality = np.mean([(one.similarity * seen).sum(1) / seen.sum(1) for one in judged], 0)
    argued, telling = dispute(persons, judged), seen.mean(1) >= min(0.7, seen.mean(1).max())  # most joints labelled
    quality, argued = np.where(telling, quality, np.nan), np.where(telling, argued, 0.0)
    orders = {"Best": np.argsort(-quality, kind="stable"), "Worst": np.argsort(quality, kind="stable")}
    if len(judged) > 1:
        orders["Most disputed"] = np.argsort(-argued, kind="stable")
    made: dict[str, list[dict]] = {}
    for name, order in orders.items():
        made[name], used = [], set()
        for person in order.tolist():
            image = persons.pose_set.image_id[persons.rows[person]]
            if len(made[name]) >= number // len(orders):
                break
            if image not in used and telling[person] and not (name == "Most disputed" and argued[person] == 0):
                used.add(image)
                made[name].append(_card(persons, judged, person))
    return made


def _card(persons: Persons, judged: list[Judged], person: int) -> dict:
    """A picture cut around the true and predicted joints as a JPEG, and all poses as paths over it."""
    row, poses = persons.rows[person], [persons.truth[person], *(one.joints[person] for one in judged)]
    left, top, width, height = box_of_joints(poses[0][None])[0]
    reach = max(width, height, 16)
    near = [
        np.where(np.abs(p - (left + width / 2, top + height / 2)).max(-1, keepdims=True) < 1.5 * reach, p, np.nan)
        for p in poses
    ]
    left, top, width, height = box_of_joints(np.concatenate(near)[None])[0]
    left, top, width, height = left - 0.15 * reach, top - 0.15 * reach, width + 0.3 * reach, height + 0.3 * reach
    jpeg, shape = None, (max(1, int(width)), max(1, int(height)))
    try:
        image = read_image(persons.pose_set.images[row])
        left, top = max(int(left), 0), max(int(top), 0)
        image = image[top : top + shape[1] + 1, left : left + shape[0] + 1]
        shape = image.shape[1], image.shape[0]
        jpeg = _jpeg(image)
    except DataError:
        pass  # the page works without pictures
    shares = ", ".join(f"{one.name} {_percent(one.share[person])}" for one in judged)
    image_id = Path(str(persons.pose_set.images[row])).name
    offset = (left - 0.5, top - 0.5)
    return {
        "image": image_id,
        "caption": f"right of this person: {shares}",
        "jpeg": jpeg,
        "size": shape,
        "line": max(shape) / 150,
        "poses": [_paths(persons, pose - offset) for pose in poses],
    }


def _percent(value: float) -> str:
    return f"{value:.0f} %" if np.isfinite(value) else "nothing counted"


def _jpeg(image: np.ndarray) -> str | None:
    import cv2

    if not image.size:
        return None
    scale = min(1.0, _SIDE / max(image.shape[:2]))
    small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) if scale < 1 else image
    return base64.b64encode(cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 78])[1].tobytes()).decode()


def _paths(persons: Persons, pose: np.ndarray) -> dict[str, str]:
    """SVG paths: limbs of the right side, the other limbs, joints."""
    skeleton, shown = persons.pose_set.skeleton, np.isfinite(pose).all(-1)
    lines: dict[str, list[str]] = {"right": [], "other": []}
    for a, b in skeleton.limbs:
        if shown[a] and shown[b]:
            side = "right" if any(skeleton.joints[i].startswith("right_") for i in (a, b)) else "other"
            lines[side].append(f"M{pose[a, 0]:.1f} {pose[a, 1]:.1f}L{pose[b, 0]:.1f} {pose[b, 1]:.1f}")
    dots = "".join(f"M{x:.1f} {y:.1f}h0" for x, y in pose[shown])
    return {name: "".join(parts) for name, parts in lines.items()} | {"dots": dots}


def _table(persons: Persons, judged: list[Judged]) -> Markup:
    """All persons as JSON for the page's script: {columns: [[key, title, whether a number]], rows}."""
    pose_set, rows, seen = persons.pose_set, persons.rows, persons.labelled
    columns = [
        ("image", "image", False),
        ("person", "person", True),
        ("size", "size, px", True),
        ("rotation", "rotation, degrees", True),
    ]
    columns += [("labelled", "labelled joints", True), ("occluded", "occluded", True)]
    values: list = [[Path(pose_set.images[row]).name for row in rows], pose_set.person_id[rows].tolist()]
    values += [
        _numbers(persons.size),
        _numbers(persons.rotation),
        seen.sum(1).tolist(),
        (pose_set.visible[rows] == 1).sum(1).tolist(),
    ]
    for i, one in enumerate(judged):
        letter = chr(ord("a") + i)
        columns.append((letter, f"{one.name}: right, %", True))
        values.append(_numbers(one.share))
        for kind in KINDS[1:]:
            columns.append((f"{kind}_{letter}", f"{one.name}: {kind}", True))
            values.append((one.kind == KINDS.index(kind)).sum(1).tolist())
    if len(judged) > 1:
        columns.append(("dispute", "disagreement", True))
        values.append(_numbers(dispute(persons, judged), 2))
    content = json.dumps({"columns": columns, "rows": list(zip(*values))}, separators=(",", ":"))
    return Markup(content.replace("<", "\\u003c"))


def _numbers(values: np.ndarray, digits: int = 0) -> list:
    rounded = [round(v, digits) if np.isfinite(v) else None for v in values.tolist()]
    return [int(v) if digits == 0 and v is not None else v for v in rounded]


# ---- where it comes from ---------------------------------------------------------------------------------------------


def _origin(path: Path, one: Judged, pose_set: PoseSet) -> dict:
    meta, known = one.predictions.meta, {}
    for key in (
        "house",
        "model",
        "preset",
        "weights",
        "weights_hash",
        "mode",
        "flip_test",
        "boxes",
        "seed",
        "git_sha",
        "imported",
    ):
        if meta.get(key) is not None:
            known[key.replace("_", " ")] = meta[key]
    known["stand-ins for joints that the network lacks"] = ", ".join(meta.get("stand_ins", [])) or "none"
    known["persons without a prediction"] = meta.get("missing_rows", 0)
    settings = json.dumps(meta.get("settings", {}), indent=1, sort_keys=True)
    return {"name": one.name, "file": path.name, "sha256": sha256_of(path), "known": known, "settings": settings}


def _commands(pose_set: PoseSet, files, judged: list[Judged], draws: Draws) -> list[str]:
    """The command that prints every figure again."""
    what = ["--dataset", pose_set.name, "--data_root", "DIR", "--split", pose_set.split]
    more = ["--bootstrap", str(draws.number), "--seed", str(draws.seed)]
    return [f"python -m common.evaluate {shlex.join([*what, '--predictions', path.name, *more])}" for path, _ in files]
