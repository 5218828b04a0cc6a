"""Every generated table of the READMEs: `python -m common.tables [--check]` writes them anew from the run files (HOUSE/results/*.json).

A README marks the places, and what stands between the marks is replaced:
    <!-- measured:begin --> <!-- measured:end -->         what was measured, a table a protocol with a column for every group or part
    <!-- quickstart:begin --> <!-- quickstart:end -->     examples/quickstart.json, a copy of out/quickstart/report.json
    <!-- crosscheck:begin --> <!-- crosscheck:end -->     reported | measured | difference | comparable? | why not (in the root's README `overview`)
    <!-- figures PATH:begin --> <!-- figures:end -->      a JSON file (PATH from the repository) with `columns`, `rows`, `command`, `note`: benchmarks, trials
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path

from common.crosscheck import boxes_of, compare, load_runs, markdown
from common.errors import DataError
from common.files import atomic_write

ROOT = Path(__file__).resolve().parent.parent
_SHORT = ("house", "model", "data", "split", "protocol", "reported", "measured", "difference", "comparable?")
_MAIN = {"k2hpd": "pdj@0.5"}  # the protocol that stands for a run in the overview, where that is not its first
_FRACTIONS = ("oks_ap", "aic_map")  # every other protocol gives percentages
_FIGURES = re.compile(r"(<!-- figures (\S+):begin -->\n).*?(<!-- figures:end -->)", re.DOTALL)


def measured(runs: list[dict]) -> str:
    """Markdown: for each data set (drawn or real), split and protocol with a breakdown, a row a run, columns total and groups (or parts); then commands."""
    blocks, tables = [], {}
    for run in runs:
        for name, result in run["protocols"].items():
            columns = result.get("per_group") or result.get("per_part") or {}
            if result["total"] is not None and columns:
                key = (run["dataset"], run["split"], bool(run["meta"].get("synthetic")), name, tuple(columns))
                tables.setdefault(key, []).append((run, result, columns))
    for (dataset, split, synthetic, protocol, names), rows in tables.items():
        images = "SYNTHETIC images" if synthetic else "real images"
        lines = [f"**{dataset} {split}, {protocol}** ({images}, {rows[0][1]['n']} persons)", ""]
        lines += [_row(["run", "boxes", "flip test", "total", *names]), _row(["---"] * (4 + len(names)))]
        digits = 3 if protocol in _FRACTIONS else 1
        for run, result, columns in sorted(rows, key=lambda row: row[1]["total"]):
            meta = run["meta"]
            about = [
                _label(run),
                boxes_of(meta) or "not stated",
                {True: "yes", False: "no", None: "not stated"}[meta.get("flip_test")],
            ]
            lines.append(
                _row(
                    [
                        *about,
                        f"**{result['total']:.{digits}f}**",
                        *("-" if columns[n] is None else f"{columns[n]:.{digits}f}" for n in names),
                    ]
                )
            )
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


def overview(runs: list[dict], lines: list[dict]) -> str:
    """Each run by its data set's main protocol, and how many reported figures of each project were measured; `lines` as
    `common.crosscheck.compare` gives them.
    """

    def main_result(run: dict) -> tuple[str, dict]:
        name = _MAIN.get(run["dataset"], next(iter(run["protocols"])))
        return name, run["protocols"][name]

    table = [["house", "model", "data", "split", "images", "protocol", "measured"], ["---"] * 7]
    for run in sorted(runs, key=lambda r: (r["house"], r["dataset"], main_result(r)[1]["total"] or 0)):
        name, result = main_result(run)
        total = "-" if result["total"] is None else f"{result['total']:.{3 if name in _FRACTIONS else 1}f}"
        images = "SYNTHETIC" if run["meta"].get("synthetic") else "real"
        table.append([run["house"], _label(run), run["dataset"], run["split"], images, name, total])
    counts = [["figures reported by", "how many", "measured here", "of these comparable"], ["---"] * 4]
    for house in dict.fromkeys(line["house"] for line in lines if line["reported"] is not None):
        own = [line for line in lines if line["house"] == house and line["reported"] is not None]
        known = [line for line in own if line["measured"] is not None]
        counts.append([house, str(len(own)), str(len(known)), str(sum(bool(line["comparable"]) for line in known))])
    return "\n".join([*map(_row, table), "", *map(_row, counts)])


def originals(lines: list[dict]) -> str:
    """Folded: every figure that the five originals report, without the columns that describe its setting."""
    own = [line for line in lines if line["reported"] is not None and line["house"] != "literature"]
    rows = [row.split(" | ") for row in markdown(own).splitlines()]
    keep = [rows[0].index(name) for name in (f"| {_SHORT[0]}", *_SHORT[1:])]
    table = "\n".join(_row([row[i].removeprefix("| ") for i in keep]) for row in rows)
    return f"<details><summary>Every figure that the five originals report</summary>\n\n{table}\n\n</details>"


def quickstart_table(result: dict) -> str:
    """A report.json of the quickstart as a Markdown table and a line about time and memory."""
    names = ("house", "model", "dataset", "n", "protocol", "score", "mean pose", "random weights", "minutes")
    table = [["house", "network", "synthetic", "persons", "protocol", "trained", *names[6:]], ["---"] * len(names)]
    figures = names[5:8]
    for row in result["rows"]:
        # OKS AP is a fraction, the others are percentages
        digits = {n: 3 if n in figures and row["protocol"] == "oks_ap" else 1 for n in names}
        table.append([f"{row[n]:.{digits[n]}f}" if isinstance(row[n], float) else str(row[n]) for n in names])
    needs = f"{result['minutes']:.1f} minutes on {result['cores']} cores, largest process {result['largest_process_gb']:.1f} GB, Python {result['python']}."
    return "\n".join([*map(_row, table), "", needs])


def refreshed(text: str, generated: dict[str, str]) -> str:
    """`text` with every marked place filled; places without both marks stay as they are."""
    for name, content in generated.items():
        pattern = re.compile(rf"(<!-- {name}:begin -->\n).*?(<!-- {name}:end -->)", re.DOTALL)
        text = pattern.sub(lambda match, content=content: f"{match[1]}{content}\n{match[2]}", text)
    return text


def figures_table(result: dict) -> str:
    """A JSON file of figures as a Markdown table, its command, and its note; floats with three digits."""
    lines = [
        _row(result["columns"]),
        _row(["---"] * len(result["columns"])),
        *(_row([_cell(v) for v in row]) for row in result["rows"]),
    ]
    return "\n".join([*lines, "", f"`{result['command']}`: {result['note']}"])


def _cell(value) -> str:
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 100 else f"{value:#.3g}"
    return "-" if value is None else str(value)


def with_figures(text: str, root: Path = ROOT) -> str:
    """`text` with every `figures` mark filled from its file, or with the word that there is none yet. DataError naming a file of another form."""

    def fill(match: re.Match) -> str:
        path = root / match[2]
        if not path.is_file():
            return f"{match[1]}Not measured yet.\n{match[3]}"
        try:
            return match[1] + figures_table(json.loads(path.read_text(encoding="utf-8"))) + "\n" + match[3]
        except (OSError, ValueError, KeyError) as error:
            raise DataError(
                f"{match[2]} is no file of figures ({error!r}); write it again with the command that makes it"
            ) from error

    return _FIGURES.sub(fill, text)


def readmes() -> dict[Path, str]:
    """Each README of the repository and what it should say."""
    runs = load_runs(ROOT)
    first_run = quickstart_table(json.loads((ROOT / "examples" / "quickstart.json").read_text(encoding="utf-8")))
    result = {}
    for path in (ROOT / "README.md", *sorted(ROOT.glob("*/README.md"))):
        house = None if path.parent == ROOT else path.parent.name
        lines = compare(runs, house)
        if house is None:
            table = f"{overview(runs, lines)}\n\n{originals(lines)}"
        else:
            table = markdown([line for line in lines if line["reported"] is not None])
        own = [run for run in runs if run["house"] == house]
        text = refreshed(
            path.read_text(encoding="utf-8"), {"crosscheck": table, "measured": measured(own), "quickstart": first_run}
        )
        result[path] = with_figures(text)
    return result


def main(argv=None) -> int:
    """Exit code 0, or 1 with `--check` when a README is out of date."""
    parser = argparse.ArgumentParser(
        prog="python -m common.tables", description="Write the generated tables of all READMEs from the run files."
    )
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
