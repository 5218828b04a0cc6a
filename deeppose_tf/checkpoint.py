"""Checkpoints of this house: NumPy's `.npz` without pickle, the weights under DT's names, Adagrad's accumulators as `NAME/Adagrad`.

Any backend reads them, and `convert.py` writes them as TensorFlow 1 checkpoints. A numbered one is `checkpoint-STEP.npz`, as DT's are.
"""

from __future__ import annotations

import json
import os
import re
import zipfile
from pathlib import Path

import numpy as np

from common.errors import DataError
from common.files import atomic_write
from common.runs.first.checkpoints import CheckpointStore

SUFFIX = ".npz"
# What weights were trained to read and to answer.
MEANING_FIELDS = ("mode", "gcn", "dataset_name")
# The settings that decide which tensors a network has.
GRAPH_FIELDS = ("net_type", "n_joints", "width", "conv1_padding")
_GROUPS = ("model", "optimizer", "unused", "dropout")


def save_state(path: Path, state: dict) -> None:
    """Write a state: the arrays of its groups under `group|name`, the rest as JSON."""
    arrays = {f"{group}|{name}": np.asarray(value) for group in _GROUPS for name, value in state[group].items()}
    rest = {key: value for key, value in state.items() if key not in _GROUPS}
    with open(path, "wb") as file:
        np.savez(file, **arrays, state=np.array(json.dumps(rest)))


def load_state(path: Path) -> dict:
    """Read a state. DataError when it is cut short, damaged or not ours."""
    try:
        with np.load(path, allow_pickle=False) as file:
            state = json.loads(str(file["state"]))
            state |= {group: {} for group in _GROUPS}
            for key in file.files:
                if "|" in key:
                    group, name = key.split("|")
                    state[group][name] = file[key]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(
            f"{path} is not a whole checkpoint of deeppose_tf ({type(error).__name__}: {error}); use another one"
        ) from error
    return state


def open_store(directory: Path, writer: bool = True) -> CheckpointStore:
    """The store of one run: last, previous and best by the test metric."""
    return CheckpointStore(directory, save_state, load_state, suffix=SUFFIX, writer=writer)


def numbered(directory: Path) -> list[Path]:
    """The numbered checkpoints of a run, oldest first."""
    found = [
        (int(m[1]), f)
        for f in Path(directory).glob("checkpoint-*.npz")
        if (m := re.fullmatch(r"checkpoint-(\d+)\.npz", f.name))
    ]
    return [file for _, file in sorted(found)]


def keep_numbered(directory: Path, step: int, keep: int) -> Path:
    """Give the last state a second name, `checkpoint-STEP.npz`, and remove the oldest beyond `keep` (0: none)."""
    target, source = directory / f"checkpoint-{step}{SUFFIX}", directory / f"last{SUFFIX}"

    def link(temporary: Path) -> None:
        try:
            os.link(source, temporary)
        except OSError:  # a file system without hard links
            temporary.write_bytes(source.read_bytes())

    atomic_write(target, link)
    for file in numbered(directory)[:-keep] if keep else ():
        file.unlink()
    return target
