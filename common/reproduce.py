"""How each figure that the five READMEs report is made again, and whether this machine has what that takes.

    python -m common.reproduce                                   # every row: done, ready, or what it lacks
    python -m common.reproduce --row simplebaseline_mpii/resnet50_256x256      # data, weights, commands, cost
    python -m common.reproduce --run lpm_torch_lsp/lpm           # do it; stopped anywhere, the same line goes on
    python -m common.reproduce --rehearse all                    # the same commands on drawn people, a step each

Paths of the commands start at the working directory; runs lie in output/reproduce/, rehearsals (always marked
SYNTHETIC, never comparable) in output/rehearsal/. The recipes are `recipes.yaml`, the figures `reported.yaml`.
Exit codes: 0, 2 for bad input or a row out of its band, 130 when stopped.
"""

from __future__ import annotations

import argparse
import functools
import json
import re
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from common.datasets import record
from common.errors import DataError
from common.files import write_json, write_text
from common.reported import compare, figure, load_runs, reported

ROOT = Path(__file__).resolve().parent.parent
BACKWARD = 2  # passes that the backward pass is worth


@dataclass(frozen=True)
class Recipe:
    """One training and its scoring, which answer one row of the published tables or several."""

    rows: tuple[str, ...]  # TABLE/MODEL
    fields: dict  # what recipes.yaml says, the model's own fields over the recipe's

    @property
    def name(self) -> str:
        """The first row's name."""
        return self.rows[0]

    @property
    def weights(self) -> list[str]:
        """Names of the files that must be there: first weights, then others."""
        return [*self.fields.get("weights", ()), *self.fields.get("needs", ())]

    def commands(self, rehearsed: bool = False) -> dict[str, list[str]]:
        """Step -> words of its command, from the working directory; rehearsed with what that adds, or left out."""
        run = f"output/{'rehearsal' if rehearsed else 'reproduce'}/{self.name.replace('/', '-')}"
        known = {name: entry["folder"] for name, entry in _content()["data"].items()}
        known |= {f"weights {name}": entry["file"] for name, entry in _content()["weights"].items()}
        known |= {"run": run, "result": f"{run}.json"}
        if self.fields.get("weights"):
            known["first weights"] = known[f"weights {self.fields['weights'][0]}"]
        made = {}
        for step, command in self.fields["steps"].items():
            words = re.findall(r"(?:[^\s{]|\{[^}]*\})+", command)  # braces may hold a blank
            if rehearsed:
                more = self.fields["rehearse"][step]
                if more is None:
                    continue
                words = [w for w in _without_weights(words) if w != "--resume"] + more.split()
            made[step] = shlex.split(" ".join(_filled(word, known | self.fields) for word in words))
        return made

    def cost(self) -> dict:
        """Training samples, operations of training (forward and backward), hours on each machine."""
        operations = 2e9 * self.fields["gmac"] * (1 + BACKWARD) * self.fields["persons"]
        share = _content()["share_of_peak"]
        hours = {n: operations / (m["tflops"] * 1e12 * share) / 3600 for n, m in _content()["machines"].items()}
        return {"samples": self.fields["persons"], "operations": operations, "hours": hours}

    def lacks(self, folder: Path = Path()) -> str | None:
        """What is not there, as `DATA path` or `WEIGHTS path`; None where all is."""
        for name in self.fields["data"]:
            entry = _content()["data"][name]
            for part in entry["needs"] or [""]:
                if not (folder / entry["folder"] / part).exists():
                    return f"DATA {entry['folder']}/{part}".rstrip("/")
        for name in self.weights:
            if not (folder / _content()["weights"][name]["file"]).exists():
                return f"WEIGHTS {_content()['weights'][name]['file']}"
        return None


@functools.cache
def _content() -> dict:
    import yaml

    return yaml.safe_load((ROOT / "common" / "recipes.yaml").read_text(encoding="utf-8"))


@functools.cache
def recipes() -> dict[str, Recipe]:
    """Name -> recipe, in the order of the file."""
    made = []
    for entry in _content()["recipes"]:
        for model, own in entry["models"].items():
            fields = {**entry, **own, "model": model}
            rows = tuple(row.format(model=model) for row in fields["rows"])
            made.append(Recipe(rows, fields))
    return {recipe.name: recipe for recipe in made}


def recipe_of(row: str) -> Recipe:
    """The recipe of a row or of several rows' first; DataError for an unknown one."""
    for recipe in recipes().values():
        if row in recipe.rows:
            return recipe
    raise DataError(f"--row {row}: no such row; `python -m common.reproduce` lists them as TABLE/MODEL")


def rows() -> list[tuple[dict, str]]:
    """(table, model) of every figure that the five originals' READMEs report."""
    return [(t, model) for t in reported()[0] if t["house"] != "literature" for model in t["rows"]]


_WEIGHTS = re.compile(r"\{(?:first weights|weights (?!coco_detections)[^}]*)\}")


def _without_weights(words: list[str]) -> list[str]:
    """Without the words that name weights, which a rehearsal does without, and the options before them."""
    found = {i for i, word in enumerate(words) if _WEIGHTS.search(word)}
    found |= {i - 1 for i in found if words[i].startswith("{")}
    return [word for i, word in enumerate(words) if i not in found]


def _filled(word: str, known: dict) -> str:
    return re.sub(r"\{([^}]*)\}", lambda match: str(known[match[1]]), word)


# ---- what is said of a row -------------------------------------------------------------------------------------------


def answer(table: dict, model: str, runs: list[dict]) -> dict | None:
    """The line of `common.reported.compare` that these runs give a row; None where none of them answers it."""
    lines = (x for x in compare(runs) if (x["table"], x["model"]) == (table["table"], model))
    return next((x for x in lines if x["comparable"] is not None), None)


def status(folder: Path) -> list[dict]:
    """One entry a row: name, state, reported, measured, recipe, cost."""
    found = load_runs(ROOT) + (load_runs(folder / "output/reproduce") if (folder / "output/reproduce").is_dir() else [])
    entries = []
    for table, model in rows():
        name, line = f"{table['table']}/{model}", answer(table, model, found)
        recipe = recipe_of(name)
        lacking = recipe.lacks(folder)
        measured = line["measured"] if line is not None and line["images"] == "real" else None
        entries.append({
            "row": name, "recipe": recipe.name, "protocol": table["protocol"],
            "reported": table["rows"][model][table["columns"].index("total")],
            "band": recipe.fields["band"], "measured": measured,
            "state": "done" if measured is not None else f"lacks {lacking}" if lacking else "ready", **recipe.cost(),
        })  # fmt: skip
    return entries


def explain(row: str) -> str:
    """The recipe of a row for a reader."""
    recipe = recipe_of(row)
    fields, cost = recipe.fields, recipe.cost()
    lines = [f"{row} (one training answers {', '.join(recipe.rows)})", "", "Data:"]
    for name in fields["data"]:
        entry = _content()["data"][name]
        about = record(entry["dataset"])
        lines.append(f"  {entry['folder']} ({entry['size']}): {about.source}; {about.terms}")
        lines.append(f"    python -m common.datasets check {entry['dataset']} {entry['folder']}")
    entries = [_content()["weights"][name] for name in recipe.weights]
    lines += ["Weights:", *(f"  {e['file']}: {e['where']}" for e in entries)] if entries else []
    lines.append("Commands:")
    lines += [f"  {shlex.join(words)}" for words in recipe.commands().values()]
    if fields["gpus"] > 1:
        how = fields.get("several", "") or f"in front of the training, in place of `python`: {fields['launcher']}"
        lines.append(f"  on the original's {fields['gpus']} GPUs: {how}")
    hours = ", ".join(f"{h:.1f} h on one {name}" for name, h in cost["hours"].items())
    share = f"{_content()['share_of_peak']:.0%} of the peak rate of TF32, assumed, not measured"
    lines.append(f"Cost: {cost['samples']:,} samples, {cost['operations']:.1e} operations: {hours} at {share}")
    for table, model in rows():
        if f"{table['table']}/{model}" in recipe.rows:
            total = table["rows"][model][table["columns"].index("total")]
            expected = f"{table['protocol']} {figure(total, table['protocol'])} within {fields['band']}"
            lines.append(f"Expected: {expected} ({fields['why']})")
            if table["defect"]:
                lines.append(f"  defect of the reported figure: {table['defect']}")
    return "\n".join(lines)


# ---- doing it --------------------------------------------------------------------------------------------------------


def perform(recipe: Recipe, folder: Path, rehearsed: bool = False) -> dict:
    """Run the steps that are not done yet, each in its own process from `folder`; {row: its line}. DataError naming
    the step that failed, with its log; a mark beside the run folder says which are done."""
    done_file = folder / f"output/{'rehearsal' if rehearsed else 'reproduce'}/{recipe.name.replace('/', '-')}.steps"
    done = done_file.read_text().split() if done_file.exists() else []
    done_file.parent.mkdir(parents=True, exist_ok=True)
    for step, words in recipe.commands(rehearsed).items():
        if step in done:
            continue
        print(f"== {recipe.name}, {step}: {shlex.join(words)}", flush=True)
        began = time.monotonic()
        code = subprocess.run([sys.executable, str(ROOT / words[1]), *words[2:]], cwd=folder).returncode
        if code == 130:
            raise KeyboardInterrupt
        if code:
            raise DataError(f"{recipe.name}, step {step}: exit code {code} (see above); the same command goes on there")
        print(f"== {step}: {time.monotonic() - began:.0f} s", flush=True)
        write_text(done_file, "\n".join([*done, step]) + "\n")
        done.append(step)
    runs = load_runs(done_file.parent)
    return {f"{t['table']}/{m}": answer(t, m, runs) for t, m in rows() if f"{t['table']}/{m}" in recipe.rows}


def verdict(recipe: Recipe, lines: dict) -> list[str]:
    """A row's reported | measured | in the band?, for every row that was answered."""
    said = []
    for row, line in lines.items():
        if line is None:
            raise DataError(f"{row}: its run file does not answer this row; that is a fault of the recipe")
        measured, reported_ = line["measured"], line["reported"]
        inside = measured is not None and abs(measured - reported_) <= recipe.fields["band"]
        mark = (
            "SYNTHETIC, not comparable" if line["images"] != "real" else "in the band" if inside else "OUT OF THE BAND"
        )
        shown = [figure(value, line["protocol"]) for value in (reported_, measured)]
        said.append(f"{row} | {shown[0]} reported | {shown[1]} measured | {mark}")
    return said


def rehearse(names: list[str], folder: Path) -> dict:
    """Draw what is not drawn yet, then every recipe's steps; {recipe: seconds}."""
    seconds: dict[str, int] = {}
    for name in names:
        recipe, began = recipe_of(name), time.monotonic()
        before = recipe.fields.get("after")  # whose weights stand in for ImageNet's
        if before and recipe_of(before).name not in seconds:
            seconds |= rehearse([before], folder)
        for data in recipe.fields["data"]:
            _draw(_content()["data"][data], folder)
        print("\n".join(verdict(recipe, perform(recipe, folder, rehearsed=True))), flush=True)
        seconds[recipe.name] = round(time.monotonic() - began)
        write_json(folder / "output/rehearsal-times.json", seconds)
    return seconds


def _draw(entry: dict, folder: Path) -> None:
    root = folder / entry.get("drawn", entry["folder"])
    if root.exists():
        return
    from common.datasets.synthetic import main

    if main([entry["dataset"], str(root), "--count", str(entry["count"])]):
        raise DataError(f"{root}: drawing the stand-in of {entry['dataset']} failed")
    if entry["dataset"] == "coco":
        _detections(root, folder / _content()["weights"]["coco_detections"]["file"])


def _detections(root: Path, path: Path) -> None:
    """Person boxes as the detector's file has them: the annotated ones of the drawn pictures."""
    from common.datasets import load

    drawn = load("coco", root, "val2017")
    boxes = [
        {"image_id": int(i), "category_id": 1, "bbox": box.tolist(), "score": 0.9}
        for i, box in zip(drawn.image_id, drawn.box)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, boxes)


def main(argv=None) -> int:
    """Exit code as the module says."""
    from common.runs.process import exit_code

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--row", metavar="TABLE/MODEL", help="print the recipe of a row")
    choice.add_argument("--run", metavar="TABLE/MODEL", help="do it; the same command goes on after a stop")
    choice.add_argument("--rehearse", metavar="TABLE/MODEL", nargs="+", help="on drawn people, a step each; `all`")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--folder", type=Path, default=Path(), help="where data and runs lie (default: here)")
    return exit_code(lambda: _main(parser.parse_args(argv)))


def _main(args: argparse.Namespace) -> None:
    if args.row:
        print(explain(args.row))
    elif args.run:
        recipe = recipe_of(args.run)
        lacking = recipe.lacks(args.folder)
        if lacking:
            raise DataError(f"{args.run} lacks {lacking}; `python -m common.reproduce --row {args.run}` says whence")
        said = verdict(recipe, perform(recipe, args.folder))
        print("\n".join(said))
        if any(line.endswith("OUT OF THE BAND") for line in said):
            raise DataError(f"{args.run}: a figure lies outside its band")
    elif args.rehearse:
        seconds = rehearse([*recipes()] if args.rehearse == ["all"] else args.rehearse, args.folder)
        print(f"{len(seconds)} recipes rehearsed in {sum(seconds.values())} s")
    else:
        entries = status(args.folder)
        if args.json:
            print(json.dumps(entries, indent=1))
        else:
            print("\n".join(f"{e['row']:58} {e['state']}" for e in entries))


if __name__ == "__main__":
    sys.exit(main())
