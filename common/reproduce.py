"""How each figure that the five READMEs report is made again, and whether this machine has what that takes.

    python -m common.reproduce                                   # every row: done, ready, or what it lacks
    python -m common.reproduce --row simplebaseline_mpii/resnet50_256x256      # data, weights, commands, cost
    python -m common.reproduce --run lpm_torch_lsp/lpm           # do it; stopped anywhere, the same line goes on
    python -m common.reproduce --rehearse all                    # the same commands on drawn people, a step each

Paths of the commands start at the working directory; runs lie in output/reproduce/, rehearsals (always marked
SYNTHETIC, never comparable) in output/rehearsal/, their times beside it. The recipes are `recipes.yaml`, the figures
`reported.yaml`. Exit codes: 0, 2 for bad input or a row out of its band, 130 when stopped.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from common.datasets import record
from common.datasets.files import is_synthetic, read_json
from common.errors import DataError
from common.files import write_json
from common.reported import compare, figure, load_runs, reported
from common.runs.process import exit_code

ROOT = Path(__file__).resolve().parent.parent
PASSES = 3  # forward, and backward worth two
_WEIGHTS = re.compile(r"\{(?:first weights|weights (?!coco_detections)[^}]*)\}|\{run\}-start")
_WORD = re.compile(r"(?:[^\s{]|\{[^}]*\})+")  # braces may hold a blank


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
    def weights(self) -> list[dict]:
        """Files that must be there: first weights, then others."""
        return [_content()["weights"][n] for n in (*self.fields.get("weights", ()), *self.fields.get("needs", ()))]

    def place(self, rehearsed: bool) -> str:
        """The run's folder; its run file and the marks of its steps lie beside it."""
        return f"output/{'rehearsal' if rehearsed else 'reproduce'}/{self.name.replace('/', '-')}"

    def templates(self, rehearsed: bool = False) -> dict[str, list[str]]:
        """Step -> words of its command, with the recipe's own fields filled in; rehearsed with what that adds or
        leaves out."""
        made = {}
        for step, command in self.fields["steps"].items():
            words, more = _WORD.findall(_filled(command, self.fields)), self.fields["rehearse"][step]
            if rehearsed:
                words = [w for w in _without_weights(words) if w != "--resume"]
                words += _WORD.findall(_filled(more or "", self.fields))
            if not rehearsed or more is not None:
                made[step] = words
        return made

    def commands(self, rehearsed: bool = False) -> dict[str, list[str]]:
        """Step -> words of its command, from the working directory."""
        known = {name: entry["folder"] for name, entry in _content()["data"].items()}
        known |= {f"weights {name}": entry["file"] for name, entry in _content()["weights"].items()}
        known |= {f"run {recipe.name}": recipe.place(rehearsed) for recipe in recipes().values()}
        known |= {"run": self.place(rehearsed), "result": self.place(rehearsed) + ".json"}
        known |= {"first weights": self.weights[0]["file"]} if self.weights else {}
        return {step: [_filled(w, known) for w in words] for step, words in self.templates(rehearsed).items()}

    def before(self, rehearsed: bool = False) -> list[Recipe]:
        """Whose runs the commands start from."""
        return [recipe_of(n) for n in re.findall(r"\{run ([^}]+)\}", str(self.templates(rehearsed)))]

    def cost(self) -> dict:
        """Training samples, operations of training, hours on each machine, GB of GPU memory, and in how many parts a
        batch fits into each machine's, by the YAML's rules."""
        content = _content()
        f, share = {**self.fields, **content["networks"][self.fields["network"]]}, content["share_of_peak"]
        operations = 2e9 * f["gmac"] * PASSES * f["persons"]
        hours = {n: operations / (m["tflops"] * 1e12 * share) / 3600 for n, m in content["machines"].items()}
        fixed, sample = f["parameters"] * (2 + f["slots"]), content["kept"] * f["activations"]

        def memory(batch: float) -> float:
            return 4e-3 * (fixed + sample * batch) + 1

        even = [parts for parts in range(1, f["batch"] + 1) if f["batch"] % parts == 0]
        parts = {n: next(p for p in even if memory(f["batch"] / p) <= m["memory_gb"])
                 for n, m in content["machines"].items()}  # fmt: skip
        return {"samples": f["persons"], "operations": operations, "hours": hours, "memory_gb": memory(f["batch"]),
                "parts": parts}  # fmt: skip

    def lacks(self, folder: Path = Path()) -> str | None:
        """What is not there, as `DATA path` or `WEIGHTS path`; None where all is. Drawn people are no data."""
        data = [_content()["data"][name] for name in self.fields["data"]]
        wanted = [("DATA", f"{e['folder']}/{part}".rstrip("/")) for e in data for part in e["needs"] or [""]]
        wanted += [("WEIGHTS", entry["file"]) for entry in self.weights]
        missing = [f"{kind} {path}" for kind, path in wanted if not (folder / path).exists()]
        drawn = [e["folder"] for e in data if is_synthetic(folder / e["folder"])]
        return next(iter([*(f"DATA {place} (SYNTHETIC people lie there)" for place in drawn), *missing]), None)


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
            made.append(Recipe(tuple(row.format(model=model) for row in fields["rows"]), fields))
    return {recipe.name: recipe for recipe in made}


def recipe_of(row: str) -> Recipe:
    """The recipe that answers a row; DataError for an unknown one."""
    for recipe in recipes().values():
        if row in recipe.rows:
            return recipe
    raise DataError(f"--row {row}: no such row; `python -m common.reproduce` lists them as TABLE/MODEL")


def rows() -> list[tuple[dict, str]]:
    """(table, model) of every figure that the five originals' READMEs report."""
    return [(t, model) for t in reported()[0] if t["house"] != "literature" for model in t["rows"]]


def _without_weights(words: list[str]) -> list[str]:
    """Without the words that name weights, which a rehearsal does without, and the options before them."""
    found = {i for i, word in enumerate(words) if _WEIGHTS.search(word)}
    found |= {i - 1 for i in found if words[i].startswith("{")}
    return [word for i, word in enumerate(words) if i not in found]


def _filled(text: str, known: dict) -> str:
    return re.sub(r"\{([^{}]*)\}", lambda match: str(known.get(match[1], match[0])), text)


# ---- what is said of a row -------------------------------------------------------------------------------------------


def answer(table: dict, model: str, runs: list[dict]) -> dict | None:
    """The line of `common.reported.compare` that these runs give a row, a comparable one first; None without any."""
    lines = [x for x in compare(runs) if (x["table"], x["model"]) == (table["table"], model)]
    return max((x for x in lines if x["comparable"] is not None), key=lambda x: x["comparable"], default=None)


def status(folder: Path) -> list[dict]:
    """One entry a row: name, state, reported, measured, recipe, cost."""
    own = folder / "output/reproduce"
    found, entries = load_runs(ROOT) + (load_runs(own) if own.is_dir() else []), []
    for table, model in rows():
        name, line = f"{table['table']}/{model}", answer(table, model, found)
        recipe = recipe_of(name)
        lacking = recipe.lacks(folder)
        measured = line["measured"] if line is not None and line["images"] == "real" else None
        entries.append({
            "row": name, "recipe": recipe.name, "protocol": table["protocol"],
            "reported": table["rows"][model][table["columns"].index("total")],
            "band": recipe.fields["band"], "measured": measured, "proven": proven(table),
            "state": "done" if measured is not None else f"lacks {lacking}" if lacking else "ready", **recipe.cost(),
        })  # fmt: skip
    return entries


def proven(table: dict) -> str:
    """Whose published predictions the protocol was tried on here, and what they score; or why on nobody's."""
    return _content()["proven"][f"{table['dataset']} {table['protocol']}"]


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
    lines += ["Weights:", *(f"  {e['file']}: {e['where']}" for e in recipe.weights)] if recipe.weights else []
    lines += ["Commands:", *(f"  first those of {other.name}" for other in recipe.before())]
    lines += [f"  {' '.join(words)}" for words in recipe.commands().values()]
    if fields["gpus"] > 1:
        how = fields.get("several", "") or f"in front of the training, in place of `python`: {fields['launcher']}"
        lines.append(f"  on the original's {fields['gpus']} GPUs: {how}")
    hours = ", ".join(f"{h:.1f} h on one {name}" for name, h in cost["hours"].items())
    share = f"{_content()['share_of_peak']:.0%} of the peak rate of TF32, assumed, not measured"
    lines.append(f"Cost: {cost['samples']:,} samples, {cost['operations']:.1e} operations: {hours} at {share};")
    lines.append(f"  about {cost['memory_gb']:.0f} GB of GPU memory for {fields['batch']} samples at once")
    for machine, parts in cost["parts"].items():
        if parts > 1:
            how = f"--batch_size {fields['batch'] // parts} --accumulate {parts} does"
            lines.append(f"  does not fit {_content()['machines'][machine]['memory_gb']} GB (one {machine}); {how}")
    for table, model in rows():
        if f"{table['table']}/{model}" in recipe.rows:
            total = table["rows"][model][table["columns"].index("total")]
            expected = f"{table['protocol']} {figure(total, table['protocol'])} within {fields['band']}"
            lines.append(f"Expected: {expected} ({fields['why']})")
            lines.append(f"  protocol {proven(table)}")
            lines += [f"  defect of the reported figure: {table['defect']}"] if table["defect"] else []
    return "\n".join(lines)


# ---- doing it --------------------------------------------------------------------------------------------------------


def perform(recipe: Recipe, folder: Path, rehearsed: bool = False) -> dict:
    """Run the steps that are not done yet, each in its own process from `folder`, after those of the recipes whose runs
    it starts from; {row: its line}. DataError naming the step that failed, or a row that its run file does not answer.
    """
    for other in recipe.before(rehearsed):
        perform(other, folder, rehearsed)
    marks = folder / f"{recipe.place(rehearsed)}.steps"
    marks.parent.mkdir(parents=True, exist_ok=True)
    done = json.loads(marks.read_text()) if marks.exists() else {}
    for step, words in recipe.commands(rehearsed).items():
        if step in done:
            continue
        print(f"== {recipe.name}, {step}: {' '.join(words)}", flush=True)
        began, used = time.monotonic(), sum(os.times()[2:4])
        code = call([sys.executable, str(ROOT / words[1]), *words[2:]], folder)
        if code in (130, -signal.SIGTERM):
            raise KeyboardInterrupt
        if code:
            raise DataError(f"{recipe.name}, step {step}: exit code {code} (see above); the same command goes on there")
        done[step] = [round(time.monotonic() - began), round(sum(os.times()[2:4]) - used)]
        print(f"== {step}: {done[step][0]} s, {done[step][1]} s of processors", flush=True)
        write_json(marks, done)
    return answers(recipe, read_json(folder / f"{recipe.place(rehearsed)}.json"), rehearsed)


def call(words: list[str], folder: Path) -> int:
    """Exit code of a command, in a session of its own: Ctrl-C and SIGTERM reach it once, through us, so that it saves."""
    child = subprocess.Popen(words, cwd=folder, start_new_session=True)
    before = {n: signal.signal(n, lambda *_: child.terminate()) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        return child.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def answers(recipe: Recipe, run: dict, rehearsed: bool) -> dict:
    """{row: its line} of a recipe's run. DataError where it does not answer a row; a rehearsed one must be comparable
    but for its drawn and few people."""
    found, real = {}, {k: v for k, v in run["meta"].items() if k not in ("synthetic", "subset", "missing_rows")}
    for table, model in rows():
        if (row := f"{table['table']}/{model}") in recipe.rows:
            line = answer(table, model, [run])
            as_if = answer(table, model, [{**run, "meta": real}]) if rehearsed else line
            if line is None or as_if is None or (rehearsed and as_if["comparable"] != table["comparable"]):
                why = as_if["why"] if line and as_if else "does not answer it"
                raise DataError(f"{row}: its run file {why}; that is a fault of the recipe")
            found[row] = line
    return found


def verdict(recipe: Recipe, lines: dict) -> list[str]:
    """A row's reported | measured | in the band?, for every row."""
    said = []
    for row, line in lines.items():
        both = line["reported"], line["measured"]
        inside = None not in both and abs(both[0] - both[1]) <= recipe.fields["band"]
        real = line["images"] == "real"
        mark = ("in the band" if inside else "OUT OF THE BAND") if real else "SYNTHETIC, not comparable"
        shown = [figure(value, line["protocol"]) for value in both]
        said.append(f"{row} | {shown[0]} reported | {shown[1]} measured | {mark}")
    return said


def rehearse(names: list[str], folder: Path) -> dict:
    """Draw what is not drawn yet, then every recipe's steps; the file of figures that says how long they took."""
    table: list[list] = []
    for recipe in {recipe_of(name).name: recipe_of(name) for name in names}.values():
        for other in (*recipe.before(True), recipe):
            for data in other.fields["data"]:
                _draw(_content()["data"][data], folder)
        print("\n".join(verdict(recipe, perform(recipe, folder, rehearsed=True))), flush=True)
        times = json.loads((folder / f"{recipe.place(True)}.steps").read_text()).values()
        table.append([recipe.name, len(recipe.rows), *map(sum, zip(*times))])
    total = [sum(column) for column in list(zip(*table))[1:]]
    note = f"{total[0]} figures, {total[2] / 120:.0f} minutes of two cores ({total[1] / 60:.0f} as it ran)"
    result = {"columns": ["rehearsed recipe", "figures", "seconds", "seconds of processors"], "rows": table,
              "command": "python -m common.reproduce --rehearse all", "note": note}  # fmt: skip
    write_json(folder / "output/rehearsal.json", result)
    return result


def _draw(entry: dict, folder: Path) -> None:
    root = folder / entry.get("drawn", entry["folder"])
    if root.exists():
        return
    from common.datasets import load
    from common.datasets.synthetic import make

    make(entry["dataset"], root, entry["count"])
    if entry["dataset"] == "coco":  # person boxes as the detector's file has them: the annotated ones
        drawn, path = load("coco", root, "val2017"), folder / _content()["weights"]["coco_detections"]["file"]
        pairs = zip(drawn.image_id.tolist(), drawn.box.tolist())
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, [{"image_id": i, "category_id": 1, "bbox": box, "score": 0.9} for i, box in pairs])


def main(argv=None) -> int:
    """Exit code as the module says."""
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
        if lacking := recipe.lacks(args.folder):
            raise DataError(f"{args.run} lacks {lacking}; `python -m common.reproduce --row {args.run}` says whence")
        said = verdict(recipe, perform(recipe, args.folder))
        print("\n".join(said))
        if any(line.endswith("OUT OF THE BAND") for line in said):
            raise DataError(f"{args.run}: a figure lies outside its band")
    elif args.rehearse:
        print(rehearse([*recipes()] if args.rehearse == ["all"] else args.rehearse, args.folder)["note"])
    else:
        entries = status(args.folder)
        print(json.dumps(entries, indent=1) if args.json else "\n".join(f"{e['row']:58} {e['state']}" for e in entries))


if __name__ == "__main__":
    sys.exit(main())
