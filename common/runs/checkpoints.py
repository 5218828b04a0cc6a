"""Checkpoints that survive a kill at any moment, for every framework: the caller writes and reads its own format.

A run continues bit for bit when its state holds everything that the next step depends on; `make_state` lists it. The
store keeps `last` and `previous` (the one before), `best` by a metric and, every N, numbered ones. All are complete
files at every moment: a file is written under a temporary name, flushed to the disk and renamed.
"""

from __future__ import annotations

import json
import math
import os
import random
import re
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from common import files
from common.datasets.files import fit, read_json
from common.errors import DataError
from common.runs.runlog import FILES as LOG_FILES

STATE_FORMAT = 2
_RESUME_FIELDS = ("format", "epoch", "batch", "step", "model", "config", "about")


def collect_random_state() -> dict:
    """State of Python's `random` and numpy's global generator, in plain Python values, which fit every format."""
    kind, keys, position, has_gauss, cached = np.random.get_state()
    version, internal, gauss = random.getstate()
    numpy_state = [kind, np.asarray(keys).tolist(), int(position), int(has_gauss), float(cached)]
    return {"python": [version, list(internal), gauss], "numpy": numpy_state}


def restore_random_state(state: dict) -> None:
    """Undo `collect_random_state`."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    kind, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((kind, np.array(keys, np.uint32), position, has_gauss, cached))


def make_state(trained: dict, *, epoch: int, batch: int, step: int, config: dict, about: dict) -> dict:
    """Everything that a resumed run needs, and what everybody needs who uses its weights, under shared names.

    `trained` is `Trainer.state()`: `model` and whatever else the framework's next step depends on. `epoch` counts
    finished epochs, `batch` the batches done of this one, `step` all updates so far; `config` are the settings, among
    them `mode`; `about` says what the network answers and learnt from: `skeleton` (`common.skeletons.card`), `dataset`,
    `split`, `synthetic`. `best_metric` is filled in by the store.
    """
    place = {"format": STATE_FORMAT, "epoch": epoch, "batch": batch, "step": step, "best_metric": None}
    origin = {"config": config, "about": about, "versions": files.versions(), "git_sha": files.git_sha()}
    return {**place, **origin, "random": collect_random_state(), **trained}


def check_stored(content: dict, source: str | Path) -> None:
    """DataError unless what a checkpoint or card says of itself is None, or has the form that `make_state` gives it."""
    known = {name: value for name, value in content.items() if value is not None}
    fit(known, {"config?": {}, "about?": {}, "ema?": {"shadow": {}}}, f"{source}: ")
    try:
        json.dumps([known.get("config"), known.get("about")])
    except (TypeError, ValueError, RecursionError) as error:
        raise DataError(f"{source}: fields config and about hold more than plain values ({error})") from error


def check_compatible(stored: dict, wanted: dict, fields: Iterable[str], source: str | Path = "checkpoint") -> None:
    """DataError naming the first of `fields` whose value in the `stored` settings differs from `wanted`."""
    for field in fields:
        if field not in stored:
            what = f"its config has no field {field!r} (this run has {wanted[field]!r})"
            raise DataError(f"{source}: {what}; use a checkpoint written by this program")
        if _comparable(stored[field]) != _comparable(wanted[field]):
            what = f"field {field!r} is {stored[field]!r} in the checkpoint and {wanted[field]!r} in this run"
            raise DataError(f"{source}: {what}; run with --{field} {stored[field]}, or give another checkpoint")


def _comparable(value: Any) -> Any:
    # a tuple comes back from JSON as a list
    return [_comparable(v) for v in value] if isinstance(value, (tuple, list)) else value


class CheckpointStore:
    """The checkpoints of one run in `directory`: `last`, `previous`, `best` and `epoch_000010`, each with `suffix`.

    `save_fn(path, state)` and `load_fn(path) -> state` are the framework's. `mode` says whether a `max` or a `min`
    metric is best. With `every` > 0, a numbered copy is kept every so many of `unit` (`epoch`, or `step`), the newest
    `keep` of them (0: all); `numbered` is its name where an original has another, such as `checkpoint-{}`. `index.json`
    holds each file's hash, because some formats load flipped bits without complaint. One process writes; in a
    distributed run the others pass `writer=False` and call `begin` after the writer did.
    """

    def __init__(
        self, directory: str | Path, save_fn: Callable, load_fn: Callable[[Path], dict], *, suffix: str, mode="max",
        every=0, unit="epoch", keep=0, numbered="", writer=True, announce: Callable[[str], Any] = print
    ):  # fmt: skip
        if mode not in ("max", "min") or unit not in ("epoch", "step"):
            raise ValueError(f"mode is max or min, unit is epoch or step; not {mode!r}, {unit!r}")
        self.directory, self.suffix = Path(directory), suffix
        self.save_fn, self.load_fn, self.announce = save_fn, load_fn, announce
        self.mode, self.every, self.unit, self.keep, self.writer = mode, every, unit, keep, writer
        self._numbered = numbered or unit + "_{:06d}"
        self.best_metric: float | None = None
        self._fresh = False

    def path(self, name: str) -> Path:
        """File of `last`, `previous`, `best` or a numbered checkpoint; it need not exist."""
        return self.directory / (name + self.suffix)

    def begin(self, resume: str | Path | None = None, barrier: Callable[[], object] | None = None) -> dict | None:
        """The state to go on from, or None for a new run.

        `resume` None: a new run, for which `make_room` moves an earlier one. `auto`: the newest good checkpoint here,
        None when there is none. A path: that file. DataError when none can be read.

        `barrier`, where several processes share the folder, waits for all of them: the writer goes first.
        """
        if barrier and not self.writer:
            barrier()
        if str(resume) == "auto":
            state = self._resume_newest()
        else:
            state = self._go_on(resume, self.load(resume)) if resume else None
            self._fresh = not resume or Path(resume).resolve().parent != self.directory.resolve()
        if barrier and self.writer:
            barrier()
        return state

    def load(self, path: str | Path) -> dict:
        """Read and check one state file; DataError naming it when it is missing, damaged or not a state of ours."""
        path = Path(path)
        if not path.is_file():
            raise DataError(f"checkpoint {path} does not exist; see {path.parent} for others, or start a new run")
        known = self._index() if path.resolve().parent == self.directory.resolve() else {}
        if known and files.sha256_of(path) not in known:
            what = "is damaged or not from this run: index.json does not list its SHA-256"
            raise DataError(f"checkpoint {path} {what}; use another one")
        try:
            state = self.load_fn(path)
        except Exception as error:  # every format has its own errors for a damaged file
            what = f"cannot be read ({type(error).__name__}: {error})"
            raise DataError(f"checkpoint {path} {what}; use another one") from error
        state = state if isinstance(state, dict) else {}
        if str(state.get("format")) == "1":
            what = "was written by this project's first form, which no run can go on from"
            raise DataError(f"checkpoint {path} {what}; start a new run, or give it as --weights")
        if missing := [f for f in _RESUME_FIELDS if f not in state]:
            what = f"has no field {missing[0]!r}, so no run can go on from it"
            raise DataError(f"checkpoint {path} {what}; use it as initial weights instead")
        check_stored(state, path)
        if str(state["format"]) != str(STATE_FORMAT):
            what = f"field format is {state['format']}, this program reads {STATE_FORMAT}"
            raise DataError(f"checkpoint {path}: {what}; use the version that wrote it")
        return state

    def make_room(self) -> None:
        """Where a new run begins, move an earlier one's files to `old_N`; only once all that the new one needs is read."""
        if self._fresh and self.writer:
            target = files.set_aside(self.directory, (*self._names(), "index.json", *LOG_FILES))
            if target:
                self.announce(f"{self.directory} held an earlier run; it is in {target} now")
        self._fresh = False

    def save(self, state: dict, metric: float | None = None) -> bool:
        """Write `state` (from `make_state`); True when `metric` is the best so far. NaN is never best."""
        if not self.writer:
            raise ValueError("this store was opened with writer=False; only one process of a run saves")
        self.make_room()
        self.directory.mkdir(parents=True, exist_ok=True)
        files.remove_leftovers(self.directory, (*self._names(), "index.json"))
        best = False
        if metric is not None and self.improves(metric):
            best, self.best_metric = True, float(metric)
        last = self.path("last")
        temporary = files.temporary_name(last)
        try:
            with files.writing(last):
                self.save_fn(temporary, {**state, "best_metric": self.best_metric})
                files.flush(temporary)
                self._note(temporary, state, metric)
                self._put(temporary, last, best, state)
        finally:
            temporary.unlink(missing_ok=True)
        return best

    def _put(self, temporary: Path, last: Path, best: bool, state: dict) -> None:
        # `last` is replaced at the very end: a run killed before that goes on from the old one and makes the other
        # files anew.
        if last.exists():
            _link(last, self.path("previous"))
        if best:
            _link(temporary, self.path("best"))
        if self.numbered_due(state):
            _link(temporary, self.path(self._numbered.format(state[self.unit])))
            for file in self.numbered()[: -self.keep] if self.keep else ():
                file.unlink()
        files.publish(temporary, last)

    def numbered(self) -> list[Path]:
        """The numbered checkpoints, oldest first."""
        begin = self._numbered.partition("{")[0]
        pattern = re.compile(rf"{re.escape(begin)}(\d+){re.escape(self.suffix)}")
        found = [(int(m[1]), f) for f in self.directory.glob(f"{begin}*") if (m := pattern.fullmatch(f.name))]
        return [file for _, file in sorted(found)]

    def _names(self) -> list[str]:
        numbered = self._numbered.partition("{")[0] + "*"
        return [name + self.suffix for name in ("last", "previous", "best", numbered, "unreadable_*")]

    def numbered_due(self, place: dict) -> bool:
        """Whether a numbered checkpoint belongs to this place: a state, or the fields of a `session.Position`."""
        count = place[self.unit]
        return bool(self.every and count) and count % self.every == 0 and (self.unit == "step" or place["batch"] == 0)

    def improves(self, metric: float) -> bool:
        """Whether a figure is better than the best so far; NaN never is."""
        if math.isnan(metric) or self.best_metric is None:
            return not math.isnan(metric)
        return metric > self.best_metric if self.mode == "max" else metric < self.best_metric

    def _resume_newest(self) -> dict | None:
        problems = []
        for file in (self.path("last"), self.path("previous"), *reversed(self.numbered()), self.path("best")):
            if not file.exists():
                continue
            try:
                state = self.load(file)
            except DataError as error:
                problems.append((file, error))
                self.announce(f"warning: {error}")
                continue
            for bad, _ in problems if self.writer else ():  # out of the way, so that it never becomes `previous`
                os.replace(bad, bad.with_name("unreadable_" + bad.name))
            return self._go_on(file, state)
        if problems:
            what = f"no checkpoint in {self.directory} can be read ({problems[0][1]})"
            raise DataError(f"{what}; start a new run without --resume")
        self._fresh = True
        self.announce(f"no checkpoint in {self.directory}: starting a new run")
        return None

    def _go_on(self, path: str | Path, state: dict) -> dict:
        self.best_metric = state.get("best_metric")
        self.announce(f"resuming from {path}: epoch {state['epoch']}, batch {state['batch']}, step {state['step']}")
        return state

    def _index(self) -> dict[str, dict]:
        path = self.directory / "index.json"
        try:
            return read_json(path, {"files": dict})["files"] if path.exists() else {}
        except DataError as error:
            self.announce(f"warning: {error}; hashes are not checked")
            return {}

    def _note(self, temporary: Path, state: dict, metric: float | None) -> None:
        # before the file gets its name, so that a kill in between leaves no file without a hash
        entry = {"epoch": state["epoch"], "batch": state["batch"], "step": state["step"]}
        entry["metric"] = metric if metric is not None and math.isfinite(metric) else None
        files.write_json(self.directory / "index.json", {"files": {**self._index(), files.sha256_of(temporary): entry}})


def _link(source: Path, target: Path) -> None:
    """Give a finished file a second name, atomically; a copy where the file system has no hard links."""

    def link_or_copy(temporary: Path) -> None:
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)

    files.atomic_write(target, link_or_copy)
