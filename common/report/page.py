"""The page: what the template `page.html.j2` shows, as plain tables, charts and pictures; one HTML file."""

from __future__ import annotations

import base64
import io
import itertools
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
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
from common.report.diagnosis import KINDS, Judged, Persons, calibration, dispute, judge, persons_of
from common.reported import figure

_SIDE = 480  # pixels of a picture's longer side on the page
_KNOWN = (
    "house model preset weights weights_hash mode flip_test boxes seed git_sha imported stand_ins missing_rows".split()
)


def page(persons: Persons, draws: Draws, judged: list[Judged], pictures: int = 24) -> str:
    """The whole page as HTML, of what `judge_all` finds."""
    from jinja2 import Environment, FileSystemLoader

    pose_set = persons.pose_set
    template = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True)
    return template.get_template("page.html.j2").render(
        pose_set=pose_set, persons=persons, judged=judged, draws=draws, kinds=KINDS,
        record=datasets.record(pose_set.name), commit=git_sha(), known=_KNOWN, sha256=sha256_of,
        figures=[_figure(name, judged, pose_set) for name in judged[0].results],
        differences=list(differences(judged)), joints=_by_joint(judged),
        curves=list(_curves(pose_set, judged, draws)), groups=_groups(persons, judged, draws),
        calibration=list(_calibration(persons, judged)), cards=_cards(persons, judged, pictures),
        table=_table(persons, judged),
    )  # fmt: skip


def judge_all(pose_set: PoseSet, files: Sequence[tuple[Path, Predictions]], protocols: Sequence[str] | None = None,
              bootstrap: int = 1000, seed: int = 0) -> tuple[Persons, Draws, list[Judged]]:  # fmt: skip
    """What the page shows of every file. DataError as in `evaluate.score`, or when no person can be counted."""
    persons, draws = persons_of(pose_set), Draws(pose_set, bootstrap, seed)
    if not len(persons.rows):
        raise DataError(f"{pose_set.name}/{pose_set.split} has no person with a labelled joint; give another split")
    judged = [judge(path, persons, found, evaluate.score(pose_set, found, protocols), draws) for path, found in files]
    for number, one in enumerate(judged):
        if one.name in (other.name for other in judged[:number]):
            one.name = f"{one.name} ({number + 1})"
    return persons, draws, judged


def _shown(value: float | None, between: tuple[float, float] | None, protocol: str, sign: str = "") -> str:
    if value is None or not np.isfinite(value):
        return "-"
    low_high = f" [{', '.join(figure(v, protocol, 1, sign) for v in between)}]" if between else ""
    return figure(value, protocol, 1, sign) + low_high


def _figure(name: str, judged: list[Judged], pose_set: PoseSet) -> dict:
    """One protocol: every file's figure with its interval, its parts, and what it may stand beside."""
    results = [one.results.get(name) for one in judged]
    first, between = judged[0].results[name], [interval(one.draws(name)) for one in judged]
    return {
        "name": name,
        "n": first.n,
        "how": first.aggregation,
        "cells": [_shown(result.total if result else None, b, name) for result, b in zip(results, between)],
        "parts": {e: [_shown(r.values.get(e) if r else None, None, name) for r in results] for e in first.values},
        "verdicts": dict.fromkeys(evaluate.comparable(pose_set, one.predictions, name)[1] for one in judged),
    }


def differences(judged: list[Judged]) -> Iterator[tuple[str, str, str, str, str | None]]:
    """Every pair of files by every protocol that both have draws of: second minus first on the same draws, and which is
    better, if that is no chance."""
    for name, (first, second) in itertools.product(judged[0].results, itertools.combinations(judged, 2)):
        one, other = first.draws(name), second.draws(name)
        between = interval(other - one) if one is not None and other is not None else None
        if between:
            better = second.name if between[0] > 0 else first.name if between[1] < 0 else None
            gain = second.results[name].total - first.results[name].total
            yield name, first.name, second.name, _shown(gain, between, name, "+"), better


def _by_joint(judged: list[Judged]) -> Chart | None:
    """The main protocol's entries with their intervals."""
    name = next(iter(judged[0].results))
    entries = [e for e in judged[0].samples[name] or () if e != "total"]
    series = []
    for one in judged if entries else ():
        between = [interval(one.draws(name, e)) or (np.nan, np.nan) for e in entries]
        series.append((one.name, np.array([one.results[name].values[e] for e in entries], float), np.array(between)))
    labels = [e.replace("_", " ") for e in entries]
    return whiskers(labels, series, f"{name}, percent", f"{name} by joint or part") if entries else None


def _curves(pose_set: PoseSet, judged: list[Judged], draws: Draws) -> Iterator[Chart]:
    """The first protocol of each family over its threshold; precision over recall."""
    families = set()
    for name, protocol in protocols_of(pose_set.name).items():
        family, everybody = name.split("@")[0].split("_")[0], np.ones(len(draws.unit))
        if name not in judged[0].results or family in families or name.endswith(":compat"):
            continue
        families.add(family)
        if name == "oks_ap":
            tables = [(one.name, draws.precision_recall(one.predictions)) for one in judged]
            precision = [(label, table.recall, table.precision(everybody)) for label, table in tables]
            for row, where in ((0, "OKS 0.50"), (5, "OKS 0.75"), (slice(None), "OKS 0.50 to 0.95, the mean")):
                lines = [(label, recall, np.atleast_2d(p[row]).mean(0)) for label, recall, p in precision]
                yield curves(lines, "recall", "precision", f"Precision over recall at {where}")
        elif np.isfinite(protocol.threshold) and judged[0].results[name].tally is not None:
            thresholds, lines = np.linspace(0, 2.5 * protocol.threshold, 16), []
            for one in judged:
                rows = replace(one.predictions, joints=one.predictions.joints.astype(np.float64))
                lines.append((one.name, thresholds, [protocol.count(pose_set, rows, t).total for t in thresholds]))
            what = f"threshold ({name} is at {protocol.threshold:g})"
            yield curves(lines, what, "percent", f"{name.split('@')[0]} over its threshold")


def _groups(persons: Persons, judged: list[Judged], draws: Draws) -> dict[str, dict[str, tuple[int, list[str]]]]:
    """What is right in each group of persons, with intervals."""

    def shown(one: Judged, mask: np.ndarray) -> str:
        part, whole = np.zeros((2, len(persons.pose_set)))
        part[persons.rows], whole[persons.rows] = one.right * mask, one.counted * mask
        share = 100 * part.sum() / whole.sum() if whole.sum() else None
        return _shown(share, interval(100 * draws.ratio(part, whole)), "")

    return {
        name: {label: (int(mask.sum()), [shown(one, mask) for one in judged]) for label, mask in group.items()}
        for name, group in persons.groups.items()
    }


def _calibration(persons: Persons, judged: list[Judged]) -> Iterator[Chart]:
    for one in judged:
        if bins := calibration(one, persons):
            score, good, count = bins
            inside = 0 <= score.min() and score.max() <= 1
            gap = f", mean gap {np.average(np.abs(score - good), weights=count):.2f}" if inside else ""
            lines, title = [(one.name, score, good)], f"{one.name}: a joint's score and the share near the truth{gap}"
            yield curves(lines, "score of the joint", "share near the truth", title, inside)


# ---- pictures and table ----------------------------------------------------------------------------------------------


def _cards(persons: Persons, judged: list[Judged], number: int) -> dict[str, list[dict]]:
    """The best, worst and most disputed persons, each of a picture of its own; most of their joints are labelled."""
    seen = persons.labelled
    quality = np.mean([(one.similarity * seen).sum(1) / seen.sum(1) for one in judged], 0)
    argued, telling = dispute(persons, judged), seen.mean(1) >= min(0.7, seen.mean(1).max())
    orders = {"Best": -quality, "Worst": quality} | ({"Most disputed": -argued} if len(judged) > 1 else {})
    made: dict[str, list[dict]] = {}
    for name, order in orders.items():
        images: dict = {}
        for person in np.argsort(order, kind="stable").tolist():
            if telling[person] and (name != "Most disputed" or argued[person] > 0):
                images.setdefault(persons.pose_set.image_id[persons.rows[person]], person)
        made[name] = [_card(persons, judged, person) for person in list(images.values())[: number // len(orders)]]
    return made


def _card(persons: Persons, judged: list[Judged], person: int) -> dict:
    """A picture cut around the true and predicted joints as a JPEG, and all poses as paths over it."""
    row, poses = persons.rows[person], [persons.truth[person], *(one.joints[person] for one in judged)]
    low, size = np.split(box_of_joints(poses[0][None])[0], 2)
    reach, middle = max(*size, 16), low + size / 2
    near = [np.where(np.abs(p - middle).max(-1, keepdims=True) < 1.5 * reach, p, np.nan) for p in poses]
    low, size = np.split(box_of_joints(np.concatenate(near)[None])[0], 2)
    start, end = np.floor(low - 0.15 * reach).astype(int), np.ceil(low + size + 0.15 * reach).astype(int)
    jpeg = None
    with suppress(DataError):  # the page works without pictures
        image = read_image(persons.pose_set.images[row])
        start, end = np.clip(start, 0, None), np.minimum(end, image.shape[1::-1])
        jpeg = _jpeg(image[start[1] : end[1], start[0] : end[0]])
    shares = ", ".join(f"{one.name} {_shown(one.share[person], None, '')} %" for one in judged)
    return {
        "image": Path(str(persons.pose_set.images[row])).name,
        "caption": f"right of this person: {shares}",
        "jpeg": jpeg,
        "size": np.maximum(end - start, 1).tolist(),
        "poses": [_paths(persons, pose - start + 0.5) for pose in poses],
    }


def _jpeg(image: np.ndarray) -> str | None:
    if not image.size:
        return None
    scale = min(1.0, _SIDE / max(image.shape[:2]))
    small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) if scale < 1 else image
    return base64.b64encode(cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 78])[1].tobytes()).decode()


def _paths(persons: Persons, pose: np.ndarray) -> dict[str, str]:
    """SVG paths: limbs of the right side, the other limbs, joints."""
    skeleton, shown = persons.pose_set.skeleton, np.isfinite(pose).all(-1)
    lines = {"right": "", "other": "", "dots": "".join(f"M{x:.1f} {y:.1f}h0" for x, y in pose[shown])}
    for a, b in skeleton.limbs:
        if shown[a] and shown[b]:
            right = any(skeleton.joints[i].startswith("right_") for i in (a, b))
            lines["right" if right else "other"] += "M{:.1f} {:.1f}L{:.1f} {:.1f}".format(*pose[a], *pose[b])
    return lines


def _table(persons: Persons, judged: list[Judged]) -> Markup:
    """All persons as JSON for the page's script: {columns: [[key, title, whether a number]], rows}."""
    pose_set, rows = persons.pose_set, persons.rows
    table: dict[tuple[str, str], Sequence] = {
        ("person", "person"): pose_set.person_id[rows],
        ("size", "size, px"): persons.size,
        ("rotation", "rotation, degrees"): persons.rotation,
        ("labelled", "labelled joints"): persons.labelled.sum(1),
        ("occluded", "occluded"): (pose_set.visible[rows] == 1).sum(1),
    }
    for letter, one in zip("abcdefghijklmnopqrstuvwxyz", judged):
        table[letter, f"{one.name}: right, %"] = one.share
        for code, kind in list(enumerate(KINDS))[1:]:
            table[f"{kind}_{letter}", f"{one.name}: {kind}"] = (one.kind == code).sum(1)
    if len(judged) > 1:
        table["dispute", "disagreement, %"] = 100 * dispute(persons, judged)
    names = [Path(pose_set.images[row]).name for row in rows]
    values = [[int(round(v)) if np.isfinite(v) else None for v in column] for column in table.values()]
    columns = [("image", "image", False), *((key, title, True) for key, title in table)]
    content = json.dumps({"columns": columns, "rows": list(zip(names, *values))}, separators=(",", ":"))
    return Markup(content.replace("<", "\\u003c"))


# ---- charts as SVG that takes its colours from the page: series in `--c0`, `--c1` ..., text in the page's, grid in `--line` --

# colours that stand for the page's until the file is written
_INK, _GRID, _SERIES = "#010203", "#040506", [f"#0700{i:02x}" for i in range(8)]
_DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 2)), (0, (8, 2)), (0, (3, 3)))


Chart = tuple[str, Markup]  # title, drawing


def curves(series: Sequence[tuple[str, Any, Any]], x: str, y: str, title: str, diagonal: bool = False) -> Chart:
    """Lines (label, x values, y values) over one pair of axes; marks where there are at most a dozen values."""

    def draw(axes) -> None:
        if diagonal:
            axes.plot([0, 1], [0, 1], color=_GRID, linewidth=1)
        for i, (label, xs, ys) in enumerate(series):
            mark = {"marker": "osD^vP*X"[i % 8], "markersize": 4} if len(xs) <= 12 else {}
            axes.plot(xs, ys, label=label, color=_SERIES[i % 8], linestyle=_DASHES[i % 8], linewidth=1.8, **mark)
        axes.set(xlabel=x, ylabel=y)
        axes.set_ylim(bottom=0)
        if len(series) > 1:
            axes.legend(frameon=False, labelcolor=_INK, fontsize=9)

    return _svg(draw, (5.2, 3.4), title)


def whiskers(names: Sequence[str], series: Sequence[tuple[str, np.ndarray, np.ndarray]], x: str, title: str) -> Chart:
    """One row a name: points (label, (K,) values, (K,2) intervals), file under file."""

    def draw(axes) -> None:
        for i, (label, values, between) in enumerate(series):
            rows = np.arange(len(names)) + (i - (len(series) - 1) / 2) * 0.7 / max(len(series), 1)
            off = np.abs(between - values[:, None]).T
            form = {"fmt": "osD^vP*X"[i % 8], "markersize": 4, "elinewidth": 1.4, "color": _SERIES[i % 8]}
            axes.errorbar(values, rows, xerr=off, label=label, **form)
        axes.set_yticks(np.arange(len(names)), names)
        axes.invert_yaxis()
        axes.set_xlabel(x)
        if len(series) > 1:
            axes.legend(frameon=False, labelcolor=_INK, fontsize=9, loc="lower left", bbox_to_anchor=(0, 1), ncols=3)

    size = (6.4, 0.9 + (0.15 + 0.1 * len(series)) * len(names))
    return _svg(draw, size, title)


def _svg(draw, size: tuple[float, float], title: str) -> Chart:
    import matplotlib
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    axes = figure.add_subplot()
    draw(axes)
    axes.grid(color=_GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(colors=_INK, labelsize=9)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set(color=_INK, fontsize=9)
    for spine in axes.spines.values():
        spine.set(color=_GRID)
    file = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": title}):
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    text = file.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(
        r'<svg [^>]*?viewBox="([^"]*)"[^>]*>', rf'<svg viewBox="\1" role="img" aria-label="{title}">', text, count=1
    )
    text = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", text)
    for i, color in enumerate(_SERIES):
        text = text.replace(color, f"var(--c{i})")
    return title, Markup(text.replace(_INK, "currentColor").replace(_GRID, "var(--line)"))
