"""Can the golden tests still fail? Changes every floating-point number of the fixtures by about 5 %, each by its own,
and runs them.

    python tests/perturb.py [PATH under tests/ ...]     default: all; the fixtures: $GOLDEN_DIR, or tests/golden

Numbers in npz, npy, json, csv and txt files (in texts: those with a decimal point) are multiplied by 1 + 0.05 n, n
normal and at least 0.2 in size; whole numbers, names, pictures and the originals' own binary files stay. Which tests
read such numbers is watched, not asked: a plugin (this file, by `pytest -p tests.perturb`) notes the files that are
opened under $GOLDEN_DIR, of an npz the arrays that are read, by each test and by the pytest fixtures that it uses.
Programs that a test starts are not watched; files with changed numbers that a test file opens at import (for the names
of its cases) are printed. Prints the tests that read changed numbers and still pass; ends with 1 if they are more than
5 %. Tests of the mark `exact` compare names, shapes, whole numbers, or our own results with each other alone: those of
them that read changed numbers are printed too, and not counted.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
RELATIVE, AT_LEAST, ENOUGH = 0.05, 0.2, 0.95
# One process a framework: two of them in one can crash.
GROUPS = (
    ("tests/common", "tests/lpm_torch", "tests/deeppose_caffe_port"),
    ("tests/deeppose_tf", "tests/deepercut_tf"),
    ("tests/simplebaseline_paddle",),
)
DECIMAL = re.compile(r"(?<![\w.])-?\d+\.\d+(?:[eE][-+]?\d+)?(?![\w.])")


# The changed copy


def factors(rng: np.random.Generator, shape=()) -> np.ndarray:
    n = rng.standard_normal(shape)
    return 1 + RELATIVE * np.copysign(np.maximum(np.abs(n), AT_LEAST), n)


def changed(value, rng: np.random.Generator):
    """A JSON value with every floating-point number changed."""
    if isinstance(value, dict):
        return {k: changed(v, rng) for k, v in value.items()}
    if isinstance(value, list):
        return [changed(v, rng) for v in value]
    return value * float(factors(rng)) if isinstance(value, float) else value


def changed_array(array: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    if array.dtype.kind == "f":
        return (array * factors(rng, array.shape)).astype(array.dtype)
    if array.dtype.kind == "U" and array.ndim == 1:  # lines of a file, not names
        lines = array.tolist()
        return np.array([changed_text(line, rng) if "," in line else line for line in lines])
    if array.dtype.kind == "U" and array.shape == ():
        try:
            before = json.loads(str(array))
        except json.JSONDecodeError:  # another text, a net's description
            return array
        after = changed(before, rng)
        return array if after == before else np.array(json.dumps(after))
    return array


def changed_text(text: str, rng: np.random.Generator) -> str:
    return DECIMAL.sub(lambda found: repr(float(found[0]) * float(factors(rng))), text)


def change_folder(folder: pathlib.Path, seed: int) -> list[str]:
    """Changes the files in place; the names (an array of an npz as file:array) of those in which a number changed."""
    rng, names = np.random.default_rng(seed), []
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = path.relative_to(folder).as_posix()
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as stored:
                before = dict(stored)
            after = {key: changed_array(array, rng) for key, array in before.items()}
            np.savez(path, **after)
            names += [f"{name}:{k}" for k in after if not np.array_equal(before[k], after[k], _nan(before[k]))]
        elif path.suffix == ".npy":
            array = np.load(path, allow_pickle=False)
            np.save(path, changed_array(array, rng))
            names += [name] if array.dtype.kind == "f" else []
        elif path.suffix in (".json", ".csv", ".txt"):
            before = path.read_text()
            if path.suffix == ".json":
                after = json.dumps(changed(json.loads(before), rng))
                same = json.loads(after) == json.loads(before)
            else:
                after = changed_text(before, rng)
                same = after == before
            if not same:
                path.write_text(after)
                names.append(name)
    return names


def _nan(array: np.ndarray) -> bool:
    return array.dtype.kind == "f"


# The plugin: which test reads what


class Watch:
    """Notes what is opened under the fixtures' folder, for whoever is at work: a module, a pytest fixture or a test."""

    def __init__(self, folder: pathlib.Path):
        self.folder = str(folder) + os.sep
        self.at_work: list[str] = []
        self.read: dict[str, set[str]] = {}
        self.outcomes: dict[str, dict] = {}
        self.of_item: dict[str, list[str]] = {}
        self.exact: set[str] = set()
        watch, original = self, np.lib.npyio.NpzFile.__getitem__

        def noted(npz, key):
            name = getattr(npz.zip, "filename", None)
            if isinstance(name, str):
                watch.note(name, key.removesuffix(".npy"))
            return original(npz, key)

        np.lib.npyio.NpzFile.__getitem__ = noted
        sys.addaudithook(self.audit)

    def audit(self, event: str, arguments: tuple) -> None:
        if event == "open" and self.at_work and isinstance(arguments[0], str | os.PathLike):
            name = os.fspath(arguments[0])
            if isinstance(name, str) and not name.endswith(".npz"):
                self.note(name)

    def note(self, name: str, array: str = "") -> None:
        name = os.path.abspath(name)
        if self.at_work and name.startswith(self.folder):
            name = pathlib.Path(name[len(self.folder) :]).as_posix()
            self.read.setdefault(self.at_work[-1], set()).add(f"{name}:{array}" if array else name)

    def working(self, name: str):
        self.at_work.append(name)
        try:
            return (yield)
        finally:
            self.at_work.pop()

    @pytest.hookimpl(wrapper=True)
    def pytest_make_collect_report(self, collector):
        return (yield from self.working(f"module {collector.nodeid}"))

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef):
        return (yield from self.working(f"fixture {fixturedef.baseid}::{fixturedef.argname}"))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item):
        return (yield from self.working(f"test {item.nodeid}"))

    def pytest_collection_modifyitems(self, items):
        for item in items:
            fixtures = getattr(item, "_fixtureinfo", None)
            used = [d for defs in fixtures.name2fixturedefs.values() for d in defs] if fixtures else []
            self.of_item[item.nodeid] = [f"test {item.nodeid}", *(f"fixture {d.baseid}::{d.argname}" for d in used)]
            if item.get_closest_marker("exact"):
                self.exact.add(item.nodeid)

    def pytest_runtest_logreport(self, report):
        place = self.outcomes.setdefault(report.nodeid, {"outcome": "passed", "why": ""})
        if report.outcome != "passed":
            place["outcome"] = report.outcome
            crash = getattr(report.longrepr, "reprcrash", None)
            place["why"] = getattr(crash, "message", "").split("\n")[0]

    def pytest_sessionfinish(self):
        tests = {
            name: {
                **outcome,
                "exact": name in self.exact,
                "read": sorted(set().union(*(self.read.get(part, ()) for part in self.of_item.get(name, ())))),
            }
            for name, outcome in self.outcomes.items()
        }
        imports = {name: sorted(read) for name, read in self.read.items() if name.startswith("module ")}
        pathlib.Path(os.environ["POSE_WATCHED"]).write_text(json.dumps({"tests": tests, "imports": imports}))


def pytest_configure(config):
    if os.environ.get("POSE_WATCHED"):
        config.pluginmanager.register(Watch(pathlib.Path(os.environ["GOLDEN_DIR"]).absolute()))


# The command


def watched(folder: pathlib.Path, paths: list[str]) -> tuple[dict[str, dict], dict[str, list[str]]]:
    """Runs the golden tests of `paths` on the fixtures in `folder`: what each read and whether it passed; what modules
    read at import."""
    with tempfile.TemporaryDirectory() as place:
        result = pathlib.Path(place) / "watched.json"
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-m",
            "golden",
            "-p",
            "tests.perturb",
            "-p",
            "no:cacheprovider",
        ]
        environment = {**os.environ, "GOLDEN_DIR": str(folder), "POSE_WATCHED": str(result)}
        environment.pop("POSE_SHARES", None)
        run = subprocess.run([*command, *paths], cwd=ROOT, env=environment, capture_output=True, text=True)
        if not result.is_file():
            raise SystemExit(
                f"pytest ended with {run.returncode} and told nothing:\n{run.stdout[-3000:]}{run.stderr[-3000:]}"
            )
        found = json.loads(result.read_text())
        return found["tests"], found["imports"]


def judge(tests: dict[str, dict], names: list[str]) -> tuple[dict[str, dict], dict[str, dict]]:
    """(tests that read a changed number, those of them that passed); without the `exact` ones."""
    known = set(names)
    readers = {
        n: t for n, t in tests.items() if t["outcome"] != "skipped" and not t["exact"] and known & set(t["read"])
    }
    return readers, {n: t for n, t in readers.items() if t["outcome"] == "passed"}


def report(tests: dict[str, dict], names: list[str]) -> bool:
    """Prints one line a test that should have failed; whether enough failed."""
    readers, passed = judge(tests, names)
    known = set(names)
    for name, test in passed.items():
        print(f"passes: {name}  reads {', '.join(sorted(known & set(test['read']))[:4])}")
    for name, test in tests.items():
        if test["exact"] and known & set(test["read"]):
            print(f"exact, {test['outcome']}: {name}")
    others = sum(not t["why"].startswith(("AssertionError", "assert", "Failed")) for t in readers.values() if t["why"])
    count, failed = len(readers), len(readers) - len(passed)
    share = failed / count if count else 1.0
    print(
        f"{failed} of {count} golden tests that read changed numbers fail ({share:.0%}), "
        f"{others} of them not by an assertion"
    )
    return share >= ENOUGH


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="*", help="test folders or files; default: all")
    parser.add_argument("--seed", type=int, default=0, help="of the changes (default 0)")
    parser.add_argument("--keep", help="write what every test read and its outcome into this JSON file")
    options = parser.parse_args(arguments)
    asked = [path.rstrip("/") for path in options.paths]
    source = pathlib.Path(os.environ.get("GOLDEN_DIR") or ROOT / "tests" / "golden")
    tests: dict[str, dict] = {}
    with tempfile.TemporaryDirectory() as place:
        folder = pathlib.Path(place).resolve() / "golden"
        shutil.copytree(source, folder, copy_function=shutil.copyfile)
        names = change_folder(folder, options.seed)
        print(f"{len(names)} files and arrays changed")
        for group in GROUPS:
            paths = [a for a in asked if any(a == g or a.startswith(g + "/") for g in group)] if asked else list(group)
            if paths:
                found, imports = watched(folder, paths)
                tests |= found
                for module, read in imports.items():
                    if seen := set(read) & set(names):
                        print(f"at import: {module.removeprefix('module ')} opens {', '.join(sorted(seen))}")
    if options.keep:
        pathlib.Path(options.keep).write_text(json.dumps(tests, indent=1))
    return 0 if report(tests, names) else 1


if __name__ == "__main__":
    sys.exit(main())
