"""Reported against measured: `python -m common.crosscheck [--results DIR] [--house NAME] [--markdown | --json | --html]`.

What READMEs and papers print is data in `reported.yaml`, with protocol, source and known defects. What was measured lies in one JSON file a
run, HOUSE/results/NAME.json (`save_run` writes it):

    {"house": "lpm_torch", "model": "cpm", "dataset": "lsp", "split": "test",
     "protocols": {"pck_torso@0.2": {"total": 61.2, "per_joint": {...}, "aggregation": "...", "n": 1000}},   as `common.evaluate --json`
     writes it "meta": {"boxes": "oracle", "flip_test": false, "synthetic": false, "seed": 1, "preset": "paper"},      of the prediction
     file "command": "python lpm_torch/val.py ..."}

A run answers the reported rows of its house (and of the literature) that have its data set and its model's name; a row without a run says
so. Runs that differ in `meta.seed` alone are one line: mean, number of seeds, and spread (largest minus smallest).
"""

from __future__ import annotations

import argparse
import functools
import html
import json
import os
import sys
from pathlib import Path

from common.errors import DataError

_BOXES = {
    "oracle": "oracle",
    "gt": "oracle",
    "ground": "oracle",
    "annotated": "oracle",
    "detector": "detector",
    "detections": "detector",
    "none": "none",
}
_ALIASES = {
    "head": ("head_top",),
    "neck": ("upper_neck",),
}  # names of README columns -> the joint that stands in the results
_RUN_FIELDS = ("house", "model", "dataset", "split", "protocols", "meta", "command")
HEADER = ("house", "model", "data", "split", "protocol", "boxes", "centric", "flip test", "seeds", "images")
FIGURES = ("reported", "measured", "difference", "comparable?", "why, why not")


@functools.cache
def reported() -> tuple[list[dict], list[dict]]:
    """The tables of `reported.yaml`, defaults filled in, and the READMEs that print no figure."""
    import yaml

    with open(Path(__file__).with_name("reported.yaml"), encoding="utf-8") as file:
        content = yaml.safe_load(file)
    return [content["defaults"] | table for table in content["tables"]], content["without_figures"]


def comparable(dataset: str, protocol: str, split: str, meta: dict) -> tuple[bool, str]:
    """Whether a figure may stand beside a published one, and beside which; or why beside none.

    `meta` is the prediction file's: `boxes` (oracle or detector), `flip_test`, `synthetic`, `stand_ins`, `missing_rows`. What it does not
    state is no obstacle, but the text asks for it.
    """
    tables = [t for t in reported()[0] if t["dataset"] == dataset and t["protocol"] == protocol]
    if not tables:
        return False, f"not comparable: no published table known here uses {protocol} on {dataset}"
    obstacles = {t["table"]: obstacle(t, split, meta) for t in tables}
    free = [t for t in tables if obstacles[t["table"]] is None]
    if not free:
        return False, "not comparable: " + "; ".join(f"{name}: {why}" for name, why in obstacles.items())
    return True, "comparable with " + "; ".join(
        f"{t['table']} ({_range(t)}, {t['source']}; {t['why']}{_unstated(t, meta)})" for t in free
    )


def obstacle(table: dict, split: str, meta: dict) -> str | None:
    """What keeps a run on `split` with this `meta` from being compared with a reported table; None when nothing does."""
    boxes = boxes_of(meta)
    checks = (
        (meta.get("synthetic"), "scored on synthetic images"),
        (not table["comparable"], table["why"]),
        (split not in table["splits"], f"published on split {table['splits'][0]}, this is {split}"),
        (meta.get("missing_rows"), f"{meta.get('missing_rows')} persons are not predicted"),
        (meta.get("stand_ins"), f"stand-ins take the place of {', '.join(meta.get('stand_ins') or ())}"),
        (boxes and boxes != table["boxes"], f"published with boxes: {table['boxes']}, these are {boxes}"),
        (
            _differ(meta.get("flip_test"), table["flip_test"]),
            f"published {'with' if table['flip_test'] else 'without'} flip test, this is the other way",
        ),
    )
    return next((why for found, why in checks if found), None)


def _differ(ours: bool | None, theirs: bool | None) -> bool:
    return ours is not None and theirs is not None and bool(ours) != theirs


def boxes_of(meta: dict) -> str | None:
    """`oracle`, `detector` or `none` from what the file says of its boxes; None when it says nothing known."""
    words = str(meta.get("boxes", "")).lower().replace("-", " ").replace("_", " ").split()
    return next((_BOXES[w] for w in words if w in _BOXES), None)


def _unstated(table: dict, meta: dict) -> str:
    asked = []
    if boxes_of(meta) is None and table["dataset"] not in ("lsp", "lspet"):
        asked.append(f"boxes: {table['boxes']}")
    if meta.get("flip_test") is None and table["flip_test"] is not None:
        asked.append(f"flip test: {_yes(table['flip_test'])}")
    return f"; if {', '.join(asked)}, which the file does not state" if asked else ""


def _range(table: dict) -> str:
    totals = sorted(row[table["columns"].index("total")] for row in table["rows"].values())
    return (
        _figure(totals[0], table["unit"])
        if len(totals) == 1
        else f"{_figure(totals[0], table['unit'])} to {_figure(totals[-1], table['unit'])}"
    )


def save_run(
    path: str | Path, *, house: str, model: str, dataset: str, split: str, protocols: dict, meta: dict, command: str
) -> None:
    """Write one run in the layout above, whole or not at all. `protocols` as `common.evaluate` writes it; NaN must be None already."""
    path = Path(path)
    run = {
        "house": house,
        "model": model,
        "dataset": dataset,
        "split": split,
        "protocols": protocols,
        "meta": meta,
        "command": command,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(run, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def load_runs(folder: str | Path) -> list[dict]:
    """Every run file of a repository (HOUSE/results/*.json), of a house (results/*.json), or of a folder of run files; DataError for a bad
    one.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(
            f"results folder {folder} does not exist; give the repository, a house or a folder of run files"
        )
    paths = next(
        (
            found
            for found in (sorted(folder.glob(p)) for p in ("*/results/*.json", "results/*.json", "*.json"))
            if found
        ),
        [],
    )
    return [_load_run(path) for path in paths]


def _load_run(path: Path) -> dict:
    try:
        run = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(f"{path} is not readable JSON ({error}); write it again with the house's val.py") from error
    lacking = [f for f in _RUN_FIELDS if not isinstance(run, dict) or f not in run]
    if lacking:
        raise DataError(
            f"{path} lacks the field {lacking[0]!r}; a run file has {', '.join(_RUN_FIELDS)} (see common/crosscheck.py)"
        )
    bad = [name for name, result in run["protocols"].items() if not isinstance(result, dict) or "total" not in result]
    if bad:
        raise DataError(f"{path}: field protocols: {bad[0]!r} has no total; write it as common.evaluate --json does")
    return run


def compare(runs: list[dict], house: str | None = None) -> list[dict]:
    """One line for every reported figure, answered or not, and one for every measured figure that nothing was reported for.

    Keys: those of HEADER and FIGURES in plain words, `table`, `source`, `defect`, `spread`, `commands`, and `columns` {name: [reported,
    measured]}.
    """
    groups = _groups([r for r in runs if house in (None, r["house"])])
    lines, answered = [], set()
    for table in reported()[0]:
        if house not in (None, table["house"]):
            continue
        for model, values in table["rows"].items():
            matching = [k for k, g in groups.items() if _answers(g[0], table, model)]
            answered |= {(k, table["protocol"]) for k in matching}
            lines += [_line(table, model, values, groups[k]) for k in matching] or [_line(table, model, values, [])]
    for key, group in groups.items():
        lines += [_measured_line(name, group) for name in group[0]["protocols"] if (key, name) not in answered]
    return lines


def _groups(runs: list[dict]) -> dict[str, list[dict]]:
    """Runs that differ in nothing but the seed, together."""
    groups: dict[str, list[dict]] = {}
    for run in runs:
        settings = {
            k: run["meta"].get(k)
            for k in ("preset", "synthetic", "boxes", "flip_test", "mode", "weights", "missing_rows")
        }
        key = json.dumps([run["house"], run["model"], run["dataset"], run["split"], settings, sorted(run["protocols"])])
        groups.setdefault(key, []).append(run)
    return groups


def _answers(run: dict, table: dict, model: str) -> bool:
    same_house = table["house"] in (run["house"], "literature")
    return (
        same_house
        and run["dataset"] == table["dataset"]
        and run["model"] == model
        and table["protocol"] in run["protocols"]
    )


def _line(table: dict, model: str, values: list, group: list[dict]) -> dict:
    total = values[table["columns"].index("total")]
    line = {
        "table": table["table"],
        "house": table["house"],
        "model": model,
        "data": table["dataset"],
        "split": table["splits"][0],
        "protocol": table["protocol"],
        "boxes": table["boxes"],
        "centric": table["centric"],
        "flip_test": table["flip_test"],
        "seeds": table["seeds"],
        "images": "real",
        "unit": table["unit"],
        "reported": total,
        "measured": None,
        "difference": None,
        "spread": None,
        "comparable": None,
        "why": f"not measured; {table['why']}",
        "source": table["source"],
        "defect": table["defect"],
        "columns": {name: [value, None] for name, value in zip(table["columns"], values)},
        "commands": [],
    }
    if group:
        line |= _measurement(table["protocol"], group)
        line["difference"] = None if line["measured"] is None else line["measured"] - total
        results = [run["protocols"][table["protocol"]] for run in group]
        line["columns"] = {
            name: [value, _mean([_column(r, name) for r in results])] for name, value in zip(table["columns"], values)
        }
        hindrance = obstacle(table, group[0]["split"], group[0]["meta"])
        line["comparable"] = hindrance is None
        line["why"] = hindrance or table["why"] + _unstated(table, group[0]["meta"])
    return line


def _measurement(protocol: str, group: list[dict]) -> dict:
    """The columns that describe what was measured rather than what was reported."""
    meta = group[0]["meta"]
    totals = [run["protocols"][protocol]["total"] for run in group]
    known = [t for t in totals if t is not None]
    return {
        "split": group[0]["split"],
        "boxes": boxes_of(meta) or "not stated",
        "flip_test": meta.get("flip_test"),
        "seeds": len(group),
        "images": "synthetic" if meta.get("synthetic") else "real",
        "measured": _mean(totals),
        "spread": max(known) - min(known) if len(known) > 1 else None,
        "commands": sorted({run["command"] for run in group}),
    }


def _measured_line(protocol: str, group: list[dict]) -> dict:
    run = group[0]
    line = {
        "table": None,
        "house": run["house"],
        "model": run["model"],
        "data": run["dataset"],
        "protocol": protocol,
        "centric": "person",
    }
    line |= {
        "unit": "fraction" if protocol in ("oks_ap", "aic_map") else "percent",
        "reported": None,
        "difference": None,
        "comparable": False,
    }
    line |= {
        "source": None,
        "defect": None,
        "columns": {},
        "why": f"no table reports {run['model']} with this protocol",
    }
    return line | _measurement(protocol, group)


def _column(result: dict, name: str) -> float | None:
    """A README's column in a result: its total, or the part, group or joint of that name (head also as head_top)."""
    if name == "total":
        return result["total"]
    for wanted in (name, *_ALIASES.get(name, ())):
        for by in ("per_part", "per_group", "per_joint"):
            if wanted in result.get(by, {}):
                return result[by][wanted]
    return None


def _mean(values: list) -> float | None:
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if known else None


def _figure(value: float | None, unit: str, signed: bool = False) -> str:
    if value is None:
        return "-"
    return f"{value:{'+' if signed else ''}.{3 if unit == 'fraction' else 2}f}"


def _yes(value: bool | None) -> str:
    return "not stated" if value is None else "yes" if value else "no"


def _cells(line: dict) -> list[str]:
    measured = _figure(line["measured"], line["unit"]) + (
        f" (spread {_figure(line['spread'], line['unit'])})" if line["spread"] is not None else ""
    )
    verdict = {None: "not measured", True: "yes", False: "no"}[line["comparable"]]
    why = line["why"] + (f"; defect of the reported figure: {line['defect']}" if line["defect"] else "")
    seeds = "not stated" if line["seeds"] is None else str(line["seeds"])
    about = [
        line["house"],
        line["model"],
        line["data"],
        line["split"],
        line["protocol"],
        line["boxes"],
        line["centric"],
        _yes(line["flip_test"]),
        seeds,
    ]
    figures = [
        _figure(line["reported"], line["unit"]),
        measured,
        _figure(line["difference"], line["unit"], signed=True),
        verdict,
        why,
    ]
    return [*about, line["images"], *figures]


def markdown(lines: list[dict]) -> str:
    """The lines as a Markdown table."""
    rows = [HEADER + FIGURES, ("---",) * len(HEADER + FIGURES), *map(_cells, lines)]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)


def as_html(lines: list[dict]) -> str:
    """The lines as an HTML page."""
    head = "".join(f"<th>{name}</th>" for name in HEADER + FIGURES)
    body = "\n".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in _cells(line)) + "</tr>" for line in lines
    )
    style = "body{font-family:sans-serif}td,th{border-bottom:1px solid #ccc;padding:.2em .6em;text-align:left;vertical-align:top}"
    page = '<!doctype html><html lang="en"><meta charset="utf-8"><title>Reported and measured</title>'
    return f"{page}<style>{style}</style><table><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table></html>"


def as_text(lines: list[dict]) -> str:
    """The lines for a terminal: what is compared, the figures in columns, the reason on its own line."""
    blocks = []
    for line in lines:
        cells = dict(zip(HEADER + FIGURES, _cells(line)))
        title = f"{cells['house']} {cells['model']}, {cells['data']} {cells['split']}, {cells['protocol']}"
        setting = f"boxes {cells['boxes']}, {cells['centric']}-centric, flip test {cells['flip test']}, seeds {cells['seeds']}"
        setting += f", {cells['images']} images"
        figures = "   ".join(f"{name} {cells[name]}" for name in FIGURES[:4])
        blocks.append(f"{title}\n  {figures}\n  {setting}\n  {cells[FIGURES[4]]}")
    return "\n".join(blocks)


def main(argv=None) -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m common.crosscheck",
        description="What the originals' READMEs report against what was measured here.",
    )
    parser.add_argument(
        "--results",
        default=Path(__file__).parents[1],
        help="repository, house, or folder of run files (default: this repository)",
    )
    parser.add_argument("--house", help="only this directory's tables and runs")
    form = parser.add_mutually_exclusive_group()
    for name in ("markdown", "json", "html"):
        form.add_argument(f"--{name}", action="store_true")
    args = parser.parse_args(argv)
    try:
        lines = compare(load_runs(args.results), args.house)
    except DataError as error:
        print(f"crosscheck: {error}", file=sys.stderr)
        return 2
    silent = [r for r in reported()[1] if args.house in (None, r["house"])]
    if args.json:
        print(json.dumps({"lines": lines, "without_figures": silent}, indent=1))
    elif args.html:
        print(as_html(lines))
    else:
        print(markdown(lines) if args.markdown else as_text(lines))
        print("".join(f"\n{r['house']}: {r['source']} {r['note']}." for r in silent))
    return 0


if __name__ == "__main__":
    sys.exit(main())
