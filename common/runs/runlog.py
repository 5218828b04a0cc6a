"""The log of a training run: one line of JSON per call, and the same in TensorBoard where that is installed.

A folder holds `config.json` (settings, versions, commit; one entry per start), `log.jsonl` and TensorBoard's event
files. The event files are written with TensorBoard's record writer alone: its higher-level writers import TensorFlow
wherever that is installed, and tensorboardX imports torch.
"""

from __future__ import annotations

import json
import math
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common.datasets.files import read_json
from common.errors import DataError
from common.files import git_sha, remove_leftovers, versions, write_json, write_text, writing

FILES = ("config.json", "log.jsonl", "events.out.tfevents.*")


class RunLog:
    """Log of one run in `directory`. `config` is stored and printed with versions and commit.

    `resume_step` None starts a new run, whose folder has no earlier log (`files.set_aside`). A number (the `step` of the
    checkpoint that is resumed) goes on with the log, dropping entries of later steps, so that no step appears twice;
    log what belongs to a step before saving its checkpoint. Steps count updates. One process alone has a RunLog.
    """

    def __init__(self, directory: str | Path, *, config: dict, resume_step: int | None = None, announce=print):
        self.directory = Path(directory)
        self.directory.mkdir(parents=True, exist_ok=True)
        remove_leftovers(self.directory, FILES)
        path = self.directory / "log.jsonl"
        if resume_step is not None and path.exists():
            kept = "".join(json.dumps(entry) + "\n" for entry in read_log(path) if entry["step"] <= resume_step)
            write_text(path, kept)
        _describe(self.directory / "config.json", config, resume_step, announce)
        self._lines = open(path, "a", encoding="utf-8")
        self._events = _open_events(self.directory, announce)
        self._event(file_version="brain.Event:2")
        if resume_step is not None:  # TensorBoard forgets what the killed run wrote from this step on
            self._event(step=resume_step + 1, session_log={"status": "START"})

    def scalars(self, step: int, **values: float) -> None:
        """Log numbers, such as `loss=…`, of one step. NaN and infinity become null in log.jsonl."""
        if reserved := {"step", "time"} & values.keys():
            raise ValueError(f"a log line has its own {reserved.pop()!r}; log the value under another name")
        numbers = {name: float(value) for name, value in values.items()}
        finite = {name: value if math.isfinite(value) else None for name, value in numbers.items()}
        values_of = [{"tag": name, "simple_value": value} for name, value in numbers.items()]
        with writing(self.directory / "log.jsonl"):
            self._lines.write(json.dumps({"step": int(step), "time": round(time.time(), 3), **finite}) + "\n")
            self._lines.flush()
            self._event(step=int(step), summary={"value": values_of})

    def close(self) -> None:
        """Close the files; every line was already flushed when it was written."""
        with writing(self.directory / "log.jsonl"):
            self._lines.close()
            if self._events:
                self._events[0].close()

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _event(self, **fields: Any) -> None:
        if self._events:
            writer, message = self._events
            writer.write(message(wall_time=time.time(), **fields).SerializeToString())
            writer.flush()


def read_log(path: str | Path) -> list[dict]:
    """The entries of a `log.jsonl`, oldest first. A last line cut by a kill is left out; DataError for other faults."""
    entries = []
    lines = Path(path).read_text(encoding="utf-8", errors="replace").split("\n")
    for number, line in enumerate(lines[:-1], 1):  # what follows the last line break is empty or cut short
        try:
            entry = json.loads(line)
            entry["step"] = int(entry["step"])
        except (ValueError, KeyError, TypeError, RecursionError, OverflowError) as error:
            what = f"line {number} is not a log entry with a field step ({error})"
            raise DataError(f"{path}: {what}; remove that line to go on") from error
        entries.append(entry)
    return entries


def _describe(path: Path, config: dict, resume_step: int | None, announce: Callable[[str], Any]) -> None:
    found, commit = versions(), git_sha()
    start = {"config": config, "versions": found, "git_sha": commit, "resume_step": resume_step, "time": time.time()}
    starts = read_json(path, {"starts": list})["starts"] if path.exists() else []
    write_json(path, {"starts": [*starts, start]})
    announce(f"commit {commit}, " + ", ".join(f"{name} {version}" for name, version in found.items()))
    announce("config: " + ", ".join(f"{name}={value}" for name, value in config.items()))


def _open_events(directory: Path, announce: Callable[[str], Any]) -> tuple[Any, Any] | None:
    """TensorBoard's record writer on a new event file, and its Event message."""
    try:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.summary.writer.record_writer import RecordWriter
    except ImportError as error:
        announce(f"TensorBoard is not installed ({error}): logging to {directory / 'log.jsonl'} only")
        return None
    # TensorBoard reads a folder's event files in the order of their names, so the time comes first and to the
    # nanosecond
    name = f"events.out.tfevents.{time.time_ns()}.{socket.gethostname()}.{os.getpid()}"
    return RecordWriter(open(directory / name, "wb")), Event
