"""Every generated table of the READMEs: `python -m common.tables [--check]` writes them anew from the run files (HOUSE/results/*.json).

A README marks the places, and what stands between the marks is replaced:
    <!-- measured:begin --> <!-- measured:end -->         what was measured, a table a protocol with a column for every group or part
    <!-- quickstart:begin --> <!-- quickstart:end -->     examples/quickstart.json, rows of out/quickstart/report.json (one or several `--only` runs)
    <!-- crosscheck:begin --> <!-- crosscheck:end -->     reported | measured | difference | comparable? | why not (short in the root's README)
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path

from common.checkpoints import atomic_write
from common.crosscheck import boxes_of, compare, load_runs, markdown

ROOT = Path(__file__).resolve().parent.parent
_SHORT = ("house", "model", "data", "split", "protocol", "reported", "measured", "difference", "comparable?")


def measured(runs: list[dict]) -> str:
    """Markdown: for each data set, split and protocol with a breakdown, one row a run, columns total and groups (or parts); then the commands."""
    blocks, tables = [], {}
    for run in runs:
        for name, result in run["protocols"].items():
            columns = result.get("per_group") or result.get("per_part") or {}
            if result["total"] is not None and columns:
                tables.setdefault((run["dataset"], run["split"], name, tuple(columns)), []).append((run, result, columns))
    for (dataset, split, protocol, names), rows in tables.items():
        images = "SYNTHETIC images" if rows[0][0]["meta"].get("synthetic") else "real images"
        lines = [f"**{dataset} {split}, {protocol}** ({images}, {rows[0][1]['n']} persons)", ""]
        lines += [_row(["run", "boxes", "flip test", "total", *names]), _row(["---"] * (4 + len(names)))]
        for run, result, columns in sorted(rows, key=lambda row: row[1]["total"]):
            meta = run["meta"]
            about = [_label(run), boxes_of(meta) or "not stated", {True: "yes", False: "no", None: "not stated"}[meta.get("flip_test")]]
            lines.append(_row([*about, f"**{result['total']:.1f}**", *("-" if columns[n] is None else f"{columns[n]:.1f}" for n in names)]))
        blocks.append("\n".join(lines))
    commands = dict.fromkeys(f"- {_label(run)}: `{run['command']}`" + _note(run) for run in runs)
    return "\n\n".join([*blocks, "\n".join(commands)]) if blocks else "Nothing was measured yet."


def _label(run: dict) -> str:
    parts = [str(run["meta"][k]) for k in ("preset", "weights") if run["meta"].get(k)]
    return run["model"] + (f" ({', '.join(parts)})" if parts else "")


def _note(run: dict) -> str:
    return f"; {run['meta']['note']}" if run["meta"].get("note") else ""


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def short(lines: list[dict]) -> str:
    """The cross-check table without the columns that describe the setting."""
    rows = [row.split(" | ") for row in markdown(lines).splitlines()]
    keep = [rows[0].index(name) for name in (f"| {_SHORT[0]}", *_SHORT[1:])]
    return "\n".join("| " + " | ".join(row[i].removeprefix("| ") for i in keep) + " |" for row in rows)


def quickstart(path: Path = ROOT / "examples" / "quickstart.json") -> str:
    """The quickstart's report as a Markdown table."""
    names = ("house", "model", "dataset", "n", "protocol", "score", "mean pose", "random weights", "minutes")
    rows = [[f"{row[n]:.1f}" if isinstance(row[n], float) else str(row[n]) for n in names] for row in json.loads(path.read_text(encoding="utf-8"))]
    return "\n".join(map(_row, [["house", "network", "synthetic", "persons", "protocol", "trained", *names[6:]], ["---"] * len(names), *rows]))


def refreshed(text: str, generated: dict[str, str]) -> str:
    """`text` with every marked place filled; places without both marks stay as they are."""
    for name, content in generated.items():
        pattern = re.compile(rf"(<!-- {name}:begin -->\n).*?(<!-- {name}:end -->)", re.DOTALL)
        text = pattern.sub(lambda match, content=content: f"{match[1]}{content}\n{match[2]}", text)
    return text


def readmes() -> dict[Path, str]:
    """Each README of the repository and what it should say."""
    runs, first_run = load_runs(ROOT), quickstart()
    result = {}
    for path in (ROOT / "README.md", *sorted(ROOT.glob("*/README.md"))):
        house = None if path.parent == ROOT else path.parent.name
        lines = compare(runs, house)
        table = short(lines) if house is None else markdown([line for line in lines if line["reported"] is not None])
        own = [run for run in runs if run["house"] == house]
        result[path] = refreshed(path.read_text(encoding="utf-8"), {"crosscheck": table, "measured": measured(own), "quickstart": first_run})
    return result


def main(argv=None) -> int:
    """Exit code 0, or 1 with `--check` when a README is out of date."""
    parser = argparse.ArgumentParser(prog="python -m common.tables", description="Write the generated tables of all READMEs from the run files.")
    parser.add_argument("--check", action="store_true", help="change nothing; exit code 1 when a table is out of date")
    args = parser.parse_args(argv)
    stale = [path for path, text in readmes().items() if text != path.read_text(encoding="utf-8")]
    for path in stale:
        print(f"{path.relative_to(ROOT)} is out of date" if args.check else f"{path.relative_to(ROOT)} is written anew")
        if not args.check:
            text = readmes()[path]
            atomic_write(path, lambda temporary, text=text: temporary.write_text(text, encoding="utf-8"))
    return 1 if args.check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
