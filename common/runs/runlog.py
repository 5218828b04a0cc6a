"""The log of a training run: one line of JSON per call, and the same in TensorBoard where that is installed.

A folder holds `config.json` (settings, versions, commit; one entry per start), `log.jsonl` and TensorBoard's event files. The event
files are written with TensorBoard's record writer alone, because its higher-level writers import TensorFlow wherever it is installed.
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

import numpy as np

from common.errors import DataError
from common.files import atomic_write, git_sha, remove_leftovers, set_aside, versions, write_json

_FILES = ("config.json", "log.jsonl", "events.out.tfevents.*")


def check_finite(name: str, value: Any, step: int | None = None) -> float:
    """`value` (a scalar) as a float; FloatingPointError naming it and the step when it is NaN or infinite."""
    number = float(value)
    if not math.isfinite(number):
        where = "" if step is None else f" at step {step}"
        raise FloatingPointError(
            f"{name} is {number}{where}: training diverged; lower the learning rate or clip gradients, and resume from a checkpoint"
        )
    return number


class RunLog:
    """Log of one run in `directory`. `config` is stored and printed with versions and commit.

    `resume_step` None starts a new run: an earlier run's files move to `old_N`. A number (the `step` of the checkpoint that is resumed)
    goes on with the log, dropping entries of later steps, so that no step appears twice; log what belongs to a step before saving
    its checkpoint. Steps count updates. In a distributed run one process alone has a RunLog.
    """

    def __init__(
        self,
        directory: str | Path,
        *,
        config: dict,
        resume_step: int | None = None,
        announce: Callable[[str], Any] = print,
    ):
        self.directory = Path(directory)
        self.directory.mkdir(parents=True, exist_ok=True)
        remove_leftovers(self.directory, _FILES)
        if resume_step is None:
            target = set_aside(self.directory, _FILES)
            if target:
                announce(f"{self.directory} held an earlier run's log; it is in {target} now")
        self._path = self.directory / "log.jsonl"
        if resume_step is not None and self._path.exists():
            _drop_later(self._path, resume_step)
        self._describe(config, resume_step, announce)
        self._lines = open(self._path, "a", encoding="utf-8")
        self._events = _open_events(self.directory, resume_step, announce)

    def scalars(self, step: int, **values: float) -> None:
        """Log numbers, such as `loss=…`, of one step. NaN and infinity become null in log.jsonl, which JSON has no other word for."""
        numbers = {name: float(value) for name, value in values.items()}
        self._line(step, {name: value if math.isfinite(value) else None for name, value in numbers.items()})
        if self._events:
            self._events.scalars(step, numbers)

    def text(self, tag: str, text: str, step: int) -> None:
        """Log a text (Markdown in TensorBoard)."""
        self._line(step, {tag: text})
        if self._events:
            self._events.text(step, tag, text)

    def image(self, tag: str, image: np.ndarray, step: int) -> None:
        """Show an (H,W,3) or (H,W) uint8 BGR image in TensorBoard; log.jsonl keeps none."""
        if self._events:
            self._events.image(step, tag, image)

    def close(self) -> None:
        """Close the files; every line was already flushed when it was written."""
        self._lines.close()
        if self._events:
            self._events.close()

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _line(self, step: int, values: dict) -> None:
        reserved = {"step", "time"} & values.keys()
        if reserved:
            raise ValueError(f"a log line has its own {reserved.pop()!r}; log the value under another name")
        self._lines.write(json.dumps({"step": int(step), "time": round(time.time(), 3), **values}) + "\n")
        self._lines.flush()

    def _describe(self, config: dict, resume_step: int | None, announce: Callable[[str], Any]) -> None:
        start = {
            "config": config,
            "versions": versions(),
            "git_sha": git_sha(),
            "resume_step": resume_step,
            "time": round(time.time(), 3),
        }
        path = self.directory / "config.json"
        starts = _read_starts(path) if path.exists() else []
        write_json(path, {"starts": [*starts, start]})
        announce(
            f"commit {start['git_sha']}, "
            + ", ".join(f"{name} {version}" for name, version in start["versions"].items())
        )
        announce("config: " + ", ".join(f"{name}={value}" for name, value in config.items()))


def _read_starts(path: Path) -> list[dict]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))["starts"]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: field starts cannot be read ({error}); move the file away to go on") from error


def read_log(path: str | Path) -> list[dict]:
    """The entries of a `log.jsonl`, oldest first. A last line cut short by a kill is left out; DataError for any other bad line."""
    lines = Path(path).read_text(encoding="utf-8").split("\n")
    entries = []
    for number, line in enumerate(lines[:-1], 1):  # what follows the last line break is empty or cut short
        try:
            entry = json.loads(line)
            entry["step"] = int(entry["step"])
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{path}: line {number} is not a log entry with a field step ({error}); remove that line to go on"
            ) from error
        entries.append(entry)
    return entries


def _drop_later(path: Path, step: int) -> None:
    kept = "".join(json.dumps(entry) + "\n" for entry in read_log(path) if entry["step"] <= step)
    atomic_write(path, lambda temporary: temporary.write_text(kept, encoding="utf-8"))


def _open_events(directory: Path, resume_step: int | None, announce: Callable[[str], Any]) -> _EventFile | None:
    try:
        from tensorboard.compat.proto import event_pb2, summary_pb2, tensor_pb2, types_pb2
        from tensorboard.summary.writer.record_writer import RecordWriter
    except ImportError as error:
        announce(f"TensorBoard is not installed ({error}): logging to {directory / 'log.jsonl'} only, without images")
        return None
    return _EventFile(directory, resume_step, RecordWriter, event_pb2, summary_pb2, tensor_pb2, types_pb2)


class _EventFile:
    """TensorBoard's event file: length-prefixed, checksummed protobuf records, flushed one by one."""

    def __init__(
        self, directory: Path, resume_step: int | None, record_writer, event_pb2, summary_pb2, tensor_pb2, types_pb2
    ):
        self._event_pb2, self._summary_pb2, self._tensor_pb2, self._types_pb2 = (
            event_pb2,
            summary_pb2,
            tensor_pb2,
            types_pb2,
        )
        # TensorBoard reads a folder's event files in the order of their names, so the time comes first and to the nanosecond
        name = f"events.out.tfevents.{time.time_ns()}.{socket.gethostname()}.{os.getpid()}"
        self._writer = record_writer(open(directory / name, "wb"))
        self._write(file_version="brain.Event:2")
        if resume_step is not None:
            # tells TensorBoard to forget what the killed run wrote from this step on
            start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            self._write(step=resume_step + 1, session_log=start)

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Numbers by tag, one summary."""
        self._summary(
            step, [self._summary_pb2.Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
        )

    def text(self, step: int, tag: str, text: str) -> None:
        """A text for TensorBoard's text tab."""
        plugin = self._summary_pb2.SummaryMetadata.PluginData(plugin_name="text")
        tensor = self._tensor_pb2.TensorProto(dtype=self._types_pb2.DT_STRING, string_val=[text.encode("utf-8")])
        metadata = self._summary_pb2.SummaryMetadata(plugin_data=plugin)
        self._summary(step, [self._summary_pb2.Summary.Value(tag=tag, metadata=metadata, tensor=tensor)])

    def image(self, step: int, tag: str, image: np.ndarray) -> None:
        """A picture, (H,W,3) uint8 BGR, as PNG."""
        import cv2

        encoded = cv2.imencode(".png", image)[1].tobytes()
        picture = self._summary_pb2.Summary.Image(
            height=image.shape[0], width=image.shape[1], colorspace=3, encoded_image_string=encoded
        )
        self._summary(step, [self._summary_pb2.Summary.Value(tag=tag, image=picture)])

    def close(self) -> None:
        """Close the file."""
        self._writer.close()

    def _summary(self, step: int, values: list) -> None:
        self._write(step=int(step), summary=self._summary_pb2.Summary(value=values))

    def _write(self, **fields: Any) -> None:
        self._writer.write(self._event_pb2.Event(wall_time=time.time(), **fields).SerializeToString())
        self._writer.flush()
