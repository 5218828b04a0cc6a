"""What was reported and what was measured: the published tables, the run files, and which may stand beside which.

What READMEs and papers print is data in `reported.yaml`, with protocol, source and known defects. What was measured
lies in one JSON file a run, HOUSE/results/NAME.json (`save_run` writes it):

    {"house": "lpm_torch", "model": "cpm", "dataset": "lsp", "split": "test",
     "protocols": {"pck_torso@0.2": {"total": 61.2, "per_joint": {...}, "aggregation": "...", "n": 1000}},
     "meta": {"boxes": "oracle", "flip_test": false, "synthetic": false, "seed": 1, "preset": "paper"},
     "command": "python lpm_torch/val.py ..."}

A run answers the reported rows of its house (and of the literature) that have its data set and its model's name. Runs
that differ in `meta.seed` alone are one line: mean, number of seeds, spread.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path

from common.datasets.files import read_json
from common.errors import DataError
from common.files import write_text

_BOXES = dict.fromkeys(("oracle", "gt", "ground", "annotated"), "oracle")
_BOXES |= {"detector": "detector", "detections": "detector", "none": "none"}
_NUMBER = (float, int, type(None))
_TEXTS: dict = dict.fromkeys(("house", "model", "dataset", "split"), str)
_RUN = _TEXTS | {"protocols": {"*": {"total": _NUMBER}}, "meta": {}, "command": str}
_SETTINGS = ("preset", "synthetic", "boxes", "flip_test", "mode", "weights", "missing_rows")  # of one line's runs


@functools.cache
def reported() -> tuple[list[dict], list[dict]]:
    """The tables of `reported.yaml`, defaults filled in, and the READMEs that print no figure."""
    import yaml

    with open(Path(__file__).with_name("reported.yaml"), encoding="utf-8") as file:
        content = yaml.safe_load(file)
    return [content["defaults"] | table for table in content["tables"]], content["without_figures"]


def comparable(dataset: str, protocol: str, split: str, meta: dict) -> tuple[bool, str]:
    """Whether a figure may stand beside a published one, and beside which; or why beside none.

    `meta` is the prediction file's: `boxes` (oracle or detector), `flip_test`, `synthetic`, `stand_ins`,
    `missing_rows`. What it does not state is no obstacle, but the text asks for it.
    """
    tables = [t for t in reported()[0] if t["dataset"] == dataset and t["protocol"] == protocol]
    if not tables:
        return False, f"not comparable: no published table known here uses {protocol} on {dataset}"
    obstacles = [obstacle(table, split, meta) for table in tables]
    free = [table for table, why in zip(tables, obstacles) if why is None]
    if not free:
        return False, "not comparable: " + "; ".join(f"{t['table']}: {why}" for t, why in zip(tables, obstacles))
    beside = [f"{t['table']} ({_range(t)}, {t['source']}; {t['why']}{_unstated(t, meta)})" for t in free]
    return True, "comparable with " + "; ".join(beside)


def obstacle(table: dict, split: str, meta: dict) -> str | None:
    """What keeps a run on `split` with this `meta` from comparison with a reported table; None when nothing does."""
    boxes, flips = boxes_of(meta), (meta.get("flip_test"), table["flip_test"])
    if meta.get("synthetic"):
        return "scored on synthetic images"
    if not table["comparable"]:
        return table["why"]
    if split not in table["splits"]:
        return f"published on split {table['splits'][0]}, this is {split}"
    if meta.get("subset"):
        return meta["subset"]
    if meta.get("missing_rows"):
        return f"{meta['missing_rows']} persons are not predicted"
    if stand_ins := [joint for joint in meta.get("stand_ins") or () if joint not in table["stand_ins"]]:
        return f"stand-ins take the place of {', '.join(stand_ins)}"
    if boxes and boxes != table["boxes"]:
        return f"published with boxes: {table['boxes']}, these are {boxes}"
    if None not in flips and bool(flips[0]) != flips[1]:
        return f"published {'with' if flips[1] else 'without'} flip test, this is the other way"
    return None


def boxes_of(meta: dict) -> str | None:
    """`oracle`, `detector` or `none` from what the file says of its boxes; None when it says nothing known."""
    words = str(meta.get("boxes", "")).lower().replace("-", " ").replace("_", " ").split()
    return next((_BOXES[w] for w in words if w in _BOXES), None)


def _unstated(table: dict, meta: dict) -> str:
    asked = []
    if boxes_of(meta) is None and table["dataset"] not in ("lsp", "lspet"):
        asked.append(f"boxes: {table['boxes']}")
    if meta.get("flip_test") is None and table["flip_test"] is not None:
        asked.append(f"flip test: {yes(table['flip_test'])}")
    return f"; if {', '.join(asked)}, which the file does not state" if asked else ""


def _range(table: dict) -> str:
    totals = [row[table["columns"].index("total")] for row in table["rows"].values()]
    return " to ".join(dict.fromkeys(figure(t, table["protocol"]) for t in (min(totals), max(totals))))


def save_run(path: str | Path, **run) -> None:
    """Write one run in the layout above, at once. `protocols` as common.evaluate writes it, NaN as None already."""
    run = {field: run[field] for field in _RUN}
    write_text(path, json.dumps(run, indent=1, allow_nan=False) + "\n")


def load_runs(folder: str | Path) -> list[dict]:
    """The run files of a repository (HOUSE/results/*.json), a house, or a folder; DataError for a bad one."""
    folder = Path(folder)
    if not folder.is_dir():
        remedy = "give the repository, a house or a folder of run files"
        raise DataError(f"results folder {folder} does not exist; {remedy}")
    found = (sorted(folder.glob(pattern)) for pattern in ("*/results/*.json", "results/*.json", "*.json"))
    return [read_json(path, _RUN) for path in next(filter(None, found), [])]


def compare(runs: list[dict], house: str | None = None) -> list[dict]:
    """One line for every reported figure, answered or not, and for every figure that nothing was reported for."""
    groups: dict[str, list[dict]] = {}  # runs that differ in nothing but the seed
    for run in runs:
        if house in (None, run["house"]):
            settings = [run["meta"].get(name) for name in _SETTINGS]
            same = [run["house"], run["model"], run["dataset"], run["split"], settings, sorted(run["protocols"])]
            groups.setdefault(json.dumps(same), []).append(run)

    lines, answered = [], set()
    for table in reported()[0]:
        if house not in (None, table["house"]):
            continue
        for model, values in table["rows"].items():
            matching = [key for key, group in groups.items() if _answers(group[0], table, model)]
            answered |= {(key, table["protocol"]) for key in matching}
            total = values[table["columns"].index("total")]
            lines += [_line(table, model, total, group) for group in [groups[key] for key in matching] or [[]]]
    for key, group in groups.items():
        run = group[0]
        for protocol in (p for p in run["protocols"] if (key, p) not in answered):
            table = dict.fromkeys(_KEPT) | {"house": run["house"], "protocol": protocol, "centric": "person"}
            why = f"no table reports {run['model']} with this protocol"
            table |= {"dataset": run["dataset"], "splits": [run["split"]], "comparable": False, "why": why}
            lines.append(_line(table, run["model"], None, group))
    return lines


def _answers(run: dict, table: dict, model: str) -> bool:
    asked = (table["dataset"], model, table["house"] in (run["house"], "literature"))
    return (run["dataset"], run["model"], True) == asked and table["protocol"] in run["protocols"]


_KEPT = ("table", "house", "protocol", "boxes", "centric", "flip_test", "seeds", "defect")


def _line(table: dict, model: str, total: float | None, group: list[dict]) -> dict:
    line = {name: table[name] for name in _KEPT}
    line |= {"model": model, "data": table["dataset"], "split": table["splits"][0], "images": "real"}
    line |= {"reported": total, "why": f"not measured; {table['why']}"}
    line |= dict.fromkeys(("measured", "interval", "difference", "spread", "comparable"))
    if not group:
        return line

    meta, results = group[0]["meta"], [run["protocols"][table["protocol"]] for run in group]
    known = [result["total"] for result in results if result["total"] is not None]
    mean = sum(known) / len(known) if known else None
    hindrance = obstacle(table, group[0]["split"], meta)
    line |= {"split": group[0]["split"], "boxes": boxes_of(meta) or "not stated", "flip_test": meta.get("flip_test")}
    line |= {"seeds": len(group), "images": "synthetic" if meta.get("synthetic") else "real", "measured": mean}
    return line | {
        "interval": results[0].get("interval") if len(group) == 1 else None,
        "difference": None if mean is None or total is None else mean - total,
        "spread": max(known) - min(known) if len(known) > 1 else None,
        "comparable": hindrance is None,
        "why": hindrance or table["why"] + _unstated(table, meta),
    }


def figure(value: float | None, protocol: str, digits: int = 2, sign: str = "") -> str:
    """A figure with its digits: three for a fraction, `digits` for a percentage; `-` where there is none."""
    digits = 3 if protocol.startswith(("oks_ap", "aic_map")) else digits
    return "-" if value is None else f"{value:{sign}.{digits}f}"


def yes(value: bool | None) -> str:
    """`yes`, `no`, or that it is not stated."""
    return "not stated" if value is None else "yes" if value else "no"
