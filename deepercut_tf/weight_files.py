"""Weights by the original's variable names: TF1 checkpoints, .npz, and our resume states."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import numpy as np

from common.datasets import files
from common.errors import DataError
from common.files import atomic_write, write_json
from common.runs.checkpoints import CheckpointStore
from common.runs.converting import card_path, widened
from common.runs.shelf import STATES, find_weights, missing_weights
from common.weights import tf1
from deepercut_tf.config import Config, house_path

NAME = "deepercut_tf"
SUFFIX = ".npz"
_MODEL, _SLOT = "model:", "slot:"
SOURCES = "http://download.tensorflow.org/models/resnet_v1_{50,101,152}_2016_08_28.tar.gz"


def read_weights(path: str | Path) -> tuple[dict[str, np.ndarray], dict]:
    """({variable name: array}, what the file says of itself: `config`, `about` with `skeleton`; {} if it does not).

    `path`: a TF1 checkpoint, an .npz keyed by variable name, or a resume state. DataError when it is none of these.
    """
    path = Path(path)
    if path.suffix != ".npz":
        return tf1.read_checkpoint(path), _read_card(path)
    content = widened(files.read_npz(path, "file of weights"))
    if "meta" not in content:
        return content, _read_card(path)
    about = _meta(path, content)
    model = {name.removeprefix(_MODEL): v for name, v in content.items() if name.startswith(_MODEL)}
    return model or content, _checked_card(path, about)


def _read_card(path: Path) -> dict:
    card = card_path(tf1.find_checkpoint(path) or path)
    return _checked_card(card, files.read_json(card)) if card.is_file() else {}


def _meta(path: Path, content: dict[str, np.ndarray]) -> dict:
    try:
        meta = json.loads(str(content.pop("meta", "")))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: field meta is no JSON ({error}); write it again") from error
    files.fit(meta, {}, f"{path}: field meta")
    return meta


def _checked_card(path: Path, card: dict) -> dict:
    """`config`, without settings that there are no more, and `about` of a card; DataError for the first form's."""
    files.fit(card, {"config?": {}, "about?": {"skeleton": {}}}, f"{path}: ")
    found = {name: card[name] for name in ("config", "about") if name in card}
    if "config" not in found:
        return found
    if "about" not in found or "width" in found["config"]:
        raise DataError(f"{path} was written by this project's first form, which is not read any more; train anew")
    known = {field.name for field in fields(Config)}
    return found | {"config": {name: value for name, value in found["config"].items() if name in known}}


def write_weights(path: str | Path, values: dict[str, np.ndarray], card: dict) -> Path:
    """Write weights with their card: .npz that holds it, else a TF1 checkpoint (V2) with the card beside it."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npz":
        return atomic_write(path, lambda temporary: _write_npz(temporary, values, card))
    tf1.write_v2(path, values)
    write_json(card_path(path), card)
    return path


def _write_npz(path: Path, arrays: dict[str, np.ndarray], meta: dict) -> None:
    with open(path, "wb") as file:
        np.savez(file, **arrays, meta=np.array(json.dumps(meta)))


def _save_state(path: Path, state: dict) -> None:
    meta = {name: value for name, value in state.items() if name not in ("model", "optimizer")}
    arrays = {_MODEL + n: v for n, v in state["model"].items()} | {_SLOT + n: v for n, v in state["optimizer"].items()}
    _write_npz(path, arrays, meta)


def _load_state(path: Path) -> dict:
    content = files.read_npz(path, "resume state")
    state = _meta(path, content)
    for key, prefix in (("model", _MODEL), ("optimizer", _SLOT)):
        state[key] = {name.removeprefix(prefix): v for name, v in content.items() if name.startswith(prefix)}
    return state


def open_store(directory: Path, writer: bool = True) -> CheckpointStore:
    """The resume states of one run: last, previous and, by the validation's main figure, best."""
    return CheckpointStore(directory, _save_state, _load_state, suffix=SUFFIX, writer=writer)


def snapshots(directory: Path, prefix: str = "*") -> list[Path]:
    """The snapshots PREFIX-N in a folder, without suffix, oldest first."""
    found = [f.with_suffix("") for f in directory.glob(f"{prefix}-*.index")]
    numbered = [(int(f.name.rpartition("-")[2]), f) for f in found if f.name.rpartition("-")[2].isdecimal()]
    return [path for _, path in sorted(numbered)]


def drop_old_snapshots(directory: Path, prefix: str, keep: int = 5) -> None:
    """Remove all but the newest `keep` snapshots, as the original does."""
    for path in snapshots(directory, prefix)[:-keep]:
        for file in (f"{path}.index", f"{path}.data-00000-of-00001", card_path(path)):
            Path(file).unlink(missing_ok=True)


def find_snapshot(given: str | Path | None) -> Path:
    """The weights that are named: a file or a checkpoint's prefix (here, else in this house or the repository); a
    folder's best or last state, else its newest snapshot; a shipped name; for None the newest of this house. DataError
    listing what there is."""
    for path in (Path(given), house_path(given)) if given else ():
        states = [path / (name + SUFFIX) for name in STATES]
        inside = [p for p in states if p.is_file()] + snapshots(path)[::-1]
        if inside:
            return inside[0]
        if path.is_file() or tf1.find_checkpoint(path):
            return path
    found = find_weights(NAME, given, (SUFFIX,))
    if found is None:
        raise missing_weights(NAME, (SUFFIX,))
    return found


def check_weights(given: str) -> None:
    """DataError when first weights are not there; says where ImageNet's come from."""
    try:
        find_snapshot(given)
    except DataError as error:
        remedy = f"ImageNet's: {SOURCES}, unpacked to deepercut_tf/models/pretrained; without: random weights"
        raise DataError(f"init_weights: {error}. {remedy}") from error
