"""Reported against measured: `python -m common.crosscheck [--house NAME] [--readmes | --check]`.

Prints the lines of `common.reported.compare` as a Markdown table. `--readmes` writes the generated tables of all READMEs
anew (`--check` only says which are out of date): a README marks the places:

    <!-- measured:begin --> <!-- measured:end -->         what was measured, a table a protocol
    <!-- recipes:begin --> <!-- recipes:end -->           the recipes of `common.reproduce` (recipes_by_house: their sums)
    <!-- crosscheck:begin --> <!-- crosscheck:end -->     reported beside measured (in the root's README an overview)
    <!-- figures PATH:begin --> <!-- figures:end -->      a JSON file with `columns`, `rows`, `command`, `note`
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable
from operator import itemgetter
from pathlib import Path
from typing import Any

from common import reproduce
from common.datasets import record
from common.datasets.files import read_json
from common.errors import DataError
from common.files import write_text
from common.reported import boxes_of, compare, figure, load_runs, reported, yes
from common.runs.process import exit_code

ROOT = Path(__file__).resolve().parent.parent
_MARK = re.compile(r"(<!-- (\w+)(?: (\S+))?:begin -->\n)(.*?)(<!-- \2:end -->)", re.DOTALL)


def _measured(line: dict) -> str:
    spread = f" (spread {figure(line['spread'], line['protocol'])})" if line["spread"] is not None else ""
    return figure(line["measured"], line["protocol"]) + spread + between(line["interval"], line["protocol"])


def between(interval: list | None, protocol: str, digits: int = 2) -> str:
    """The 95 % interval of a figure, or nothing."""
    return f" [{', '.join(figure(v, protocol, digits) for v in interval)}]" if interval and None not in interval else ""


COLUMNS: dict[str, Callable[[dict], str]] = {
    **{name: itemgetter(name) for name in ("house", "model", "data", "split", "protocol", "boxes", "centric")},
    "flip test": lambda line: yes(line["flip_test"]),
    "seeds": lambda line: "not stated" if line["seeds"] is None else str(line["seeds"]),
    "images": itemgetter("images"),
    "reported": lambda line: figure(line["reported"], line["protocol"]),
    "measured": _measured,
    "difference": lambda line: figure(line["difference"], line["protocol"], sign="+"),
    "recipe": lambda x: next(
        (r.name for r in reproduce.recipes().values() if f"{x['table']}/{x['model']}" in r.rows), "-"
    ),
    "comparable?": lambda line: {None: "not measured", True: "yes", False: "no"}[line["comparable"]],
    "why, why not": lambda x: x["why"] + (f"; defect of the reported figure: {x['defect']}" if x["defect"] else ""),
}


def table_of(lines: list[dict]) -> str:
    """The lines as a Markdown table."""
    return markdown([list(COLUMNS), *([cell_of(line) for cell_of in COLUMNS.values()] for line in lines)])


def markdown(rows: list[list[str]]) -> str:
    """Rows of cells, the header first, as a Markdown table."""
    lined = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in lined)


def refreshed(text: str, content: Callable[[str, str | None], str | None]) -> str:
    """`text` with every marked place filled by `content(name, path)`; where that is None it stays as it is."""

    def fill(match: re.Match) -> str:
        found = content(match[2], match[3])
        return match[1] + (match[4] if found is None else found + "\n") + match[5]

    return _MARK.sub(fill, text)


def measured(runs: list[dict]) -> str:
    """A table for each data set (drawn or real), split and protocol with a breakdown, a row a run; then commands."""
    tables: dict[tuple, list[tuple[float, list[str]]]] = {}
    for run in runs:
        meta, images = run["meta"], "SYNTHETIC images" if run["meta"].get("synthetic") else "real images"
        for protocol, result in run["protocols"].items():
            parts = result.get("per_group") or result.get("per_part") or {}
            if result["total"] is not None and parts:
                title = f"**{run['dataset']} {run['split']}, {protocol}** ({images}, {result['n']} persons)"
                row = [_label(run), boxes_of(meta) or "not stated", yes(meta.get("flip_test"))]
                row += [
                    f"**{figure(result['total'], protocol, 1)}**" + between(result.get("interval"), protocol, 1),
                    *(figure(v, protocol, 1) for v in parts.values()),
                ]
                tables.setdefault((title, *parts), []).append((result["total"], row))
    blocks = []
    for (title, *names), rows in tables.items():
        header = ["run", "boxes", "flip test", "total", *names]
        ordered = [row for _, row in sorted(rows, key=lambda pair: pair[0])]
        blocks.append(f"{title}\n\n{markdown([header, *ordered])}")
    notes = [f"; {run['meta']['note']}" if run["meta"].get("note") else "" for run in runs]
    commands = dict.fromkeys(f"- {_label(run)}: `{run['command']}`{note}" for run, note in zip(runs, notes))
    return "\n\n".join([*blocks, "\n".join(commands)]) if blocks else "Nothing was measured yet."


def _label(run: dict) -> str:
    parts = [str(run["meta"][k]) for k in ("preset", "weights") if run["meta"].get(k)]
    return run["model"] + (f" ({', '.join(parts)})" if parts else "")


def overview(runs: list[dict]) -> str:
    """Each run by its data set's main protocol."""
    rows = []
    for run in runs:
        main = record(run["dataset"]).main_protocol
        protocol = main if main in run["protocols"] else next(iter(run["protocols"]))
        total, images = run["protocols"][protocol]["total"], "SYNTHETIC" if run["meta"].get("synthetic") else "real"
        order = (run["house"], run["dataset"], total or 0)
        cells = [run["house"], _label(run), run["dataset"], run["split"], images, protocol, figure(total, protocol, 1)]
        rows.append((order, cells))
    table = [["house", "model", "data", "split", "images", "protocol", "measured"]]
    return markdown([*table, *(cells for _, cells in sorted(rows, key=itemgetter(0)))])


def recipes_table() -> str:
    """What makes every figure that the five originals report again, a line a recipe."""
    figures: dict[str, list[str]] = {}
    for entry in reproduce.status(ROOT):
        shown = f"{entry['protocol']} {figure(entry['reported'], entry['protocol'])} ± {entry['band']}"
        figures.setdefault(entry["recipe"], []).append(shown)
    costs = {name: recipe.cost() for name, recipe in reproduce.recipes().items()}
    needs = {n: [*(_hours(c, m, n) for m in c["hours"]), f"{c['memory_gb']:.0f}"] for n, c in costs.items()}
    machines = [f"hours, one {machine}" for machine in next(iter(costs.values()))["hours"]]
    table = [["recipe", "reported, and how far off may pass", *machines, "GPU memory, GB"]]
    return markdown([*table, *([name, ", ".join(figures[name]), *more] for name, more in needs.items())])


def recipes_by_house() -> str:
    """The recipes together, a line a house."""
    found = reproduce.recipes().values()
    table = [["house", "recipes", "figures", *(f"hours, one {gpu}" for gpu in next(iter(found)).cost()["hours"])]]
    for house in dict.fromkeys(recipe.fields["house"] for recipe in found):
        own = [recipe for recipe in found if recipe.fields["house"] == house]
        hours = zip(*(recipe.cost()["hours"].values() for recipe in own))
        count = sum(len(recipe.rows) for recipe in own)
        table.append([house, f"{len(own)}", f"{count}", *(f"{sum(h):.0f}" for h in hours)])
    return markdown(table)


def _hours(cost: dict, machine: str, name: str) -> str:
    hours, parts = f"{cost['hours'][machine]:.1f}", cost["parts"][machine]
    batch = reproduce.recipes()[name].fields["batch"]
    return hours if parts == 1 else f"{hours} (not at once, but batch {batch // parts}, accumulation {parts})"


def figures_table(result: dict) -> str:
    """A JSON file of figures as a Markdown table, its command, and its note; floats with three digits."""

    def cell(value: Any) -> str:
        if isinstance(value, float):
            return f"{value:.0f}" if abs(value) >= 100 else f"{value:#.3g}"
        return "-" if value is None else str(value)

    rows = [[cell(value) for value in row] for row in (result["columns"], *result["rows"])]
    return f"{markdown(rows)}\n\n`{result['command']}`: {result['note']}"


def figures_file(name: str, root: Path = ROOT) -> str:
    """A file of figures as a table, or the word that there is none yet; DataError naming a file of another form."""
    if not (root / name).is_file():
        return "Not measured yet."
    try:
        return figures_table(read_json(root / name))
    except (KeyError, TypeError) as error:
        what = f"{name} is no file of figures ({error!r})"
        raise DataError(f"{what}; write it again with the command that makes it") from error


def _readmes() -> dict[Path, str]:
    """Each README of the repository and what it should say."""
    runs, result = load_runs(ROOT), {}
    for path in (ROOT / "README.md", *sorted(ROOT.glob("*/README.md"))):
        house = None if path.parent in (ROOT, ROOT / "common") else path.parent.name
        lines = compare(runs, house)
        table = table_of([line for line in lines if line["reported"] is not None])
        contents = {
            "crosscheck": table if house else overview(runs),
            "overview": overview([run for run in runs if not run["meta"].get("synthetic")]),
            "recipes": recipes_table(),
            "recipes_by_house": recipes_by_house(),
            "measured": measured([run for run in runs if run["house"] == house]),
        }

        def content(name: str, file: str | None, contents: dict[str, str] = contents) -> str | None:
            return figures_file(file) if name == "figures" and file else contents.get(name)

        result[path] = refreshed(path.read_text(encoding="utf-8"), content)
    return result


def write_readmes(check: bool = False) -> int:
    """Write what is out of date, and say so; with `check` only say so. Exit code 1 when that found any."""
    stale = {path: text for path, text in _readmes().items() if text != path.read_text(encoding="utf-8")}
    said = [f"{path.relative_to(ROOT)} is {'out of date' if check else 'written anew'}" for path in stale]
    print("\n".join(said) or "the tables of all READMEs say what the run files say")
    for path, text in () if check else stale.items():
        write_text(path, text)
    return 1 if check and stale else 0


def main(argv: list[str] | None = None) -> int:
    """Exit code 0; 2 for a bad run file; 1 with `--check` when a README is out of date."""
    description = "What the originals' READMEs report against what was measured here."
    parser = argparse.ArgumentParser(prog="python -m common.crosscheck", description=description)
    parser.add_argument("--results", default=ROOT, help="repository, house, or folder of run files (default: this)")
    parser.add_argument("--house", help="only this directory's tables and runs")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--readmes", action="store_true", help="write the generated tables of all READMEs anew")
    form.add_argument("--check", action="store_true", help="say which READMEs are out of date, and write nothing")
    args, stale = parser.parse_args(argv), 0

    def work() -> None:
        nonlocal stale
        if args.readmes or args.check:
            stale = write_readmes(check=args.check)
            return
        lines = compare(load_runs(args.results), args.house)
        silent = [r for r in reported()[1] if args.house in (None, r["house"])]
        print(table_of(lines), *(f"\n{r['house']}: {r['source']} {r['note']}." for r in silent), sep="\n")

    return exit_code(work) or stale


if __name__ == "__main__":
    sys.exit(main())
