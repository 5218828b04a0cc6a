"""Damaged files of every format that is read: each ends as a result or an error that names it; never as a traceback, a crash, a hang,
gigabytes, or other values where the format has checksums.

1 000 cases in `tests/run.sh`, 20 000 with --full. FUZZ_SEED and FUZZ_CASES give others; the table of all counts is written to FUZZ_OUT. One
case again: `python -m tests.fuzz.worker GROUP FOLDER TARGET SEED CASE`.
"""

import importlib.util
import json
import os
import select
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SHARES = {"common": 0.72, "torch": 0.14, "tensorflow": 0.1, "paddle": 0.04}
NEEDS = {"common": "h5py", "torch": "torch", "tensorflow": "tensorflow", "paddle": "paddle"}
SECONDS = 300  # for one case that waits for something; worker.py counts those of the processor


class Worker:
    """A process of its own that reads; started anew after a crash or a hang."""

    def __init__(self, group: str, folder: Path):
        self.group, self.folder = group, folder
        self.targets = self.start(first=True)

    def start(self, first: bool = False) -> dict:
        command = [sys.executable, "-m", "tests.fuzz.worker", self.group, str(self.folder)]
        variables = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=variables, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        return self.answer(1800)

    def answer(self, seconds: float) -> dict:
        """What it says within the time."""
        ready, _, _ = select.select([self.process.stdout], [], [], seconds)
        line = self.process.stdout.readline() if ready else ""
        if line:
            return json.loads(line)
        if not ready:
            self.process.kill()
        self.process.wait()
        hangs = not ready or self.process.returncode == -signal.SIGPROF
        return {"kind": "hang" if hangs else "crash", "text": f"exit {self.process.returncode}"}

    def run(self, target: str, seed: int, case: int) -> dict:
        """One case."""
        try:
            self.process.stdin.write(json.dumps([target, seed, case]) + "\n")
            found = self.answer(SECONDS)
        except BrokenPipeError:
            found = {"kind": "crash", "text": "before the case"}
        if self.process.poll() is not None:
            self.start()
        return found


def campaign(group: str, folder: Path, seed: int, cases: int) -> tuple[dict[str, Counter], list[str]]:
    """Counts of outcomes by target, and what is not allowed."""
    worker = Worker(group, folder)
    assert "kind" not in worker.targets, (
        f"the undamaged files of {group} are not read: python -m tests.fuzz.worker {group} {folder} x 0 0"
    )
    names = list(worker.targets)
    counts: dict[str, Counter] = {name: Counter() for name in names}
    bad = []
    for case in range(cases):
        name = names[case % len(names)]
        found = worker.run(name, seed, case)
        counts[name][found["kind"]] += 1
        if found["kind"] not in ("read", "refused", "unnamed"):
            bad.append(f"{found['kind']}: {group} {name!r} {seed} {case} ({found.get('file')}): {found.get('text')}")
    worker.process.stdin.close()
    worker.process.wait(60)
    return counts, bad


def _check(group: str, folder: Path, total: int) -> None:
    if importlib.util.find_spec(NEEDS[group]) is None:
        pytest.skip(f"{NEEDS[group]} is not installed")
    seed, cases = int(os.environ.get("FUZZ_SEED", 1)), int(int(os.environ.get("FUZZ_CASES", total)) * SHARES[group])
    counts, bad = campaign(group, folder, seed, cases)
    table = "".join(
        f"{group} | {name} | " + ", ".join(f"{n} {kind}" for kind, n in sorted(c.items())) + "\n"
        for name, c in counts.items()
    )
    if os.environ.get("FUZZ_OUT"):
        with open(os.environ["FUZZ_OUT"], "a") as file:
            file.write(table + "".join(line + "\n" for line in bad))
    assert not bad, f"{len(bad)} of {cases}:\n" + "\n".join(bad[:20])


@pytest.mark.slow
@pytest.mark.parametrize("group", SHARES)
def test_damaged_files(tmp_path, group):
    _check(group, tmp_path, 1000)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("group", SHARES)
def test_many_damaged_files(tmp_path, group):
    _check(group, tmp_path, 20000)
