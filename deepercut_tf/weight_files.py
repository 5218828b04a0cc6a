"""Weights by the original's variable names: TF1 checkpoints (the original's snapshots, slim's ImageNet files), .npz, and our resume states."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path

import numpy as np

from common.errors import DataError
from common.files import atomic_write, write_json
from common.runs.first.checkpoints import CheckpointStore
from common.weights import tf1

SUFFIX = ".state.npz"
_MODEL, _SLOT = "model:", "slot:"


def read_weights(path: str | Path) -> tuple[dict[str, np.ndarray], dict]:
    """({variable name: array}, settings that they were trained with, {} if the file does not say).

    `path`: a TF1 checkpoint (prefix, one of its files, or a folder with a `checkpoint` file), an .npz keyed by variable name, or a resume
    state. DataError when it is missing or none of these.
    """
    path = Path(path)
    if path.suffix == ".npz":
        content = _read_npz(path)
        if "meta" in content:
            meta = json.loads(str(content["meta"]))
            return {k.removeprefix(_MODEL): v for k, v in content.items() if k.startswith(_MODEL)}, meta["config"]
        return content, {}
    card = Path(f"{path}.json")
    settings = {}
    if card.is_file():
        try:
            settings = json.loads(card.read_text(encoding="utf-8")).get("config", {})
        except ValueError as error:
            raise DataError(f"{card} is not readable JSON ({error}); remove it to read the weights alone") from error
    return tf1.read_checkpoint(path, tensorflow), settings


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as data:
            return {name: data[name] for name in data.files}
    except FileNotFoundError as error:
        raise DataError(f"weights {path} do not exist; train first, or give another file") from error
    except (OSError, ValueError, zipfile.BadZipFile, EOFError) as error:
        raise DataError(f"{path} is not a readable .npz of weights ({error}); write it again") from error


def write_weights(path: str | Path, values: dict[str, np.ndarray], card: dict) -> Path:
    """Write weights by name, as .npz if `path` ends so, else as a TF1 checkpoint (V2) that the original reads; the card beside them (JSON)."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npz":
        atomic_write(path, lambda temporary: np.savez(temporary, **values))
    else:
        tf1.write_v2(path, values, tensorflow)
    write_json(f"{path}.json", card)
    return path


def tensorflow():
    """The module, which only checkpoints of TensorFlow 1 need here (Keras also runs on PyTorch). DataError where it is not installed."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        import tensorflow as tf
    except ImportError as error:
        raise DataError(
            f"TensorFlow 1 checkpoints are read and written by TensorFlow, which is not here ({error}); install"
            " deepercut_tf/requirements.txt, or convert them to .npz where it is"
        ) from error
    return tf


def _save_state(path: Path, state: dict) -> None:
    meta = {k: v for k, v in state.items() if k not in ("model", "optimizer")}
    arrays = {_MODEL + k: v for k, v in state["model"].items()} | {_SLOT + k: v for k, v in state["optimizer"].items()}
    with open(path, "wb") as file:
        np.savez(file, meta=np.array(json.dumps(meta)), **arrays)


def _load_state(path: Path) -> dict:
    content = _read_npz(path)
    state = json.loads(str(content.pop("meta")))
    state["model"] = {k.removeprefix(_MODEL): v for k, v in content.items() if k.startswith(_MODEL)}
    state["optimizer"] = {k.removeprefix(_SLOT): v for k, v in content.items() if k.startswith(_SLOT)}
    return state


def open_store(directory: Path, writer: bool = True) -> CheckpointStore:
    """The resume states of one run: last and previous."""
    return CheckpointStore(directory, _save_state, _load_state, suffix=SUFFIX, writer=writer)


def snapshots(directory: Path, prefix: str) -> list[tuple[int, Path]]:
    """(iteration, path without suffix) of the snapshots PREFIX-N in a folder, oldest first."""
    found = [
        (f.name.removesuffix(".index").removeprefix(prefix + "-"), f.with_suffix(""))
        for f in directory.glob(f"{prefix}-*.index")
    ]
    return sorted((int(number), path) for number, path in found if number.isdecimal())


def drop_old_snapshots(directory: Path, prefix: str, keep: int = 5) -> None:
    """Remove all but the newest `keep` snapshots, as the original does."""
    for _, path in snapshots(directory, prefix)[:-keep]:
        for suffix in (".index", ".data-00000-of-00001", ".json"):
            Path(f"{path}{suffix}").unlink(missing_ok=True)


SOURCES = "http://download.tensorflow.org/models/resnet_v1_{50,101,152}_2016_08_28.tar.gz"


def check_weights(given: str) -> None:
    """DataError when the key init_weights names no file; says where ImageNet's weights come from."""
    path = find_snapshot(given)
    if not path.is_file() and tf1.find_checkpoint(path) is None:
        raise DataError(
            f"init_weights {given} does not exist. ImageNet weights: {SOURCES}, unpacked to deepercut_tf/models/pretrained; or give a snapshot,"
            " or take the key out to start from random weights"
        )


def find_snapshot(given: str | Path) -> Path:
    """A weights file as it is given (relative to the working directory, else to this house); in a folder the newest snapshot, else `last`."""
    from deepercut_tf.config import house_path

    path = Path(given)
    if not path.exists() and tf1.find_checkpoint(path) is None:
        path = house_path(str(given))
    if path.is_dir():
        numbered = sorted(
            (int(f.stem.rsplit("-", 1)[1]), f.with_suffix(""))
            for f in path.glob("*-*.index")
            if f.stem.rsplit("-", 1)[1].isdecimal()
        )
        if numbered:
            return numbered[-1][1]
        if (path / f"last{SUFFIX}").is_file():
            return path / f"last{SUFFIX}"
    return path
