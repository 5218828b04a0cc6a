"""Weights by DT's names (`conv1/weight` HWIO, `fc6/weight` 9216 x 4096 with rows in H, W, C order): our `.npz` without
pickle; also read are TensorFlow 1 checkpoints, `.npy` dictionaries layer -> weights and biases, `.caffemodel`.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from common.datasets.files import read_json, read_npz
from common.errors import DataError
from common.runs import shelf
from common.runs.checkpoints import STATE_FORMAT, CheckpointStore, collect_random_state
from common.runs.converting import card_path, widened
from common.runs.process import Process
from common.weights.tf1 import find_checkpoint, read_checkpoint
from deeppose_tf.config import HOUSE, IMAGENET_WEIGHTS, Config

SUFFIX = ".npz"
ACCEPTED = (
    "a TensorFlow 1 checkpoint (old single file, or the prefix of an .index/.data pair), a .npy dictionary of layers,"
    " a .caffemodel of BVLC AlexNet, or a checkpoint of ours (.npz)"
)
DEAD_LINK = (
    " The original's download of it is dead; BVLC AlexNet itself is described at"
    " https://github.com/BVLC/caffe/tree/master/models/bvlc_alexnet."
)
_GROUPS = ("model", "optimizer", "unused", "dropout")


# ---- our own ---------------------------------------------------------------------------------------------------------


def save_state(path: Path, state: dict) -> None:
    """Write a state: the arrays of its groups under `group|name`, the rest as JSON. OSError naming the file."""
    arrays = {f"{group}|{name}": np.asarray(value) for group in _GROUPS for name, value in state[group].items()}
    rest = {key: value for key, value in state.items() if key not in _GROUPS}
    try:
        with open(path, "wb") as file:
            np.savez(file, **arrays, state=np.array(json.dumps(rest)))
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror}: the checkpoint cannot be written", str(path)) from error


def load_state(path: Path) -> dict:
    """Read a state, or make one of another program's weight file. DataError when it is damaged or not ours."""
    if path.suffix != SUFFIX:
        return state_of(read_weights(path))
    arrays = widened(read_npz(path, "checkpoint of deeppose_tf"))
    try:
        state = json.loads(str(arrays.pop("state")))
        state |= {"step": int(state["step"]), "about": {**state["about"]}, "config": {**state["config"]}}
        state |= {group: {} for group in _GROUPS}
        for key, value in arrays.items():
            group, name = key.split("|")
            state[group][name] = value
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
        what = f"{path} is not a whole checkpoint of deeppose_tf ({type(error).__name__}: {error})"
        raise DataError(f"{what}; use another one") from error
    return state


def state_of(variables: dict[str, np.ndarray]) -> dict:
    """A state from variables by DT's names, which hold no settings, random numbers and place in the epoch."""
    try:
        step = int(variables.get("global_iter_counter", 0))
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError(f"variable global_iter_counter is no whole number ({error}); use another checkpoint") from error
    slots = {name: value for name, value in variables.items() if name.count("/") == 2}
    unused = {name: value for name, value in variables.items() if name.startswith("fc8/") and name not in slots}
    left = {*slots, *unused, "global_iter_counter"}
    model = {name: value for name, value in variables.items() if name not in left}
    groups = {"model": model, "optimizer": slots, "unused": unused, "dropout": {}, "random": collect_random_state()}
    place = {"format": STATE_FORMAT, "epoch": 0, "batch": step, "step": step, "config": {}, "about": {}, "losses": []}
    return {**place, **groups}


def variables_of(state: dict) -> dict[str, np.ndarray]:
    """The variables of a state under the names that DT's checkpoint would give them."""
    step = np.array(state["step"], np.int32)
    return {**state["model"], **state["unused"], **state["optimizer"], "global_iter_counter": step}


def open_store(folder: Path, config: Config, process: Process) -> CheckpointStore:
    """The store of one run: last, previous, best by the first figure, and `checkpoint-STEP` as DT has it."""

    def load(path: Path) -> dict:
        state = load_state(path)
        about = {"batch_size": config.batch_size, **state.get("about", {})}
        return {**state, "about": about, **({"step": 0} if config.reset_iter_counter else {})}

    return CheckpointStore(folder, save_state, load, suffix=SUFFIX, every=config.snapshot_step, unit="step",
                           keep=config.keep, numbered="checkpoint-{}", writer=process.is_main)  # fmt: skip


# ---- finding and reading ---------------------------------------------------------------------------------------------


def find(given: str | Path | None) -> Path | None:
    """The file behind `--weights`: as it is, with .npz, the index of a TensorFlow checkpoint's prefix, one of the
    shelf; DT's folder `out/` is `output/deeppose_tf/` here. None given: the newest of this house, None when there is
    none. DataError when a given one is not there."""
    path = Path(given or "")
    if str(given) in shelf.shipped(HOUSE) and not path.exists():
        return shelf.shipped(HOUSE)[str(given)]
    places = [path] if path.name else []
    if path.parts[:1] == ("out",):
        places += [base / HOUSE / Path(*path.parts[1:]) for base in (Path("output"), shelf.REPOSITORY / "output")]
    for place in places:
        for file in (place, place.with_name(place.name + SUFFIX)):
            if file.is_file():
                return file
        if checkpoint := find_checkpoint(place):
            return checkpoint if checkpoint.is_file() else checkpoint.with_name(checkpoint.name + ".index")
    if given is None or path.is_dir() or str(given) == path.name and not path.suffix:
        return shelf.find_weights(HOUSE, given, (SUFFIX,))
    gone = DEAD_LINK if path.name == IMAGENET_WEIGHTS.name else ""
    raise DataError(f"weight file {path} does not exist.{gone} Accepted: {ACCEPTED}")


def read_weights(place: Path) -> dict[str, np.ndarray]:
    """Every variable of a file by DT's names, slots and counter too. DataError when it is damaged or foreign."""
    if place.suffix == SUFFIX:
        return variables_of(load_state(place))
    if place.suffix == ".npy":
        return _read_npy(place)
    if place.suffix == ".caffemodel":
        from common.weights.caffe import read_caffemodel

        try:
            return from_caffe(read_caffemodel(place))
        except (ValueError, ZeroDivisionError) as error:
            raise DataError(f"{place} has layers of other shapes than AlexNet's ({error}); {ACCEPTED}") from error
    return read_checkpoint(place)


def _read_npy(path: Path) -> dict[str, np.ndarray]:
    """layer -> {weights, biases} or [w, b], as caffe-tensorflow and the AlexNet of M. Guerzhoy are published."""
    from common.weights.pickles import read_npy

    found: dict[str, np.ndarray] = {}
    try:
        for layer, blobs in read_npy(path).items():
            weight, bias = (blobs["weights"], blobs["biases"]) if isinstance(blobs, dict) else blobs
            found |= {f"{layer}/weight": np.asarray(weight, np.float32), f"{layer}/bias": np.asarray(bias, np.float32)}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        what = f"{path} is not a .npy dictionary of layers ({type(error).__name__}: {error})"
        raise DataError(f"{what}; {ACCEPTED}") from error
    return found


def from_caffe(layers: dict[str, list[np.ndarray]]) -> dict[str, np.ndarray]:
    """Caffe's blobs -> DT's: convolutions OIHW -> HWIO, dense layers transposed, fc6's columns (its side is 6) from C,
    H, W to H, W, C order."""
    found = {}
    for name, blobs in layers.items():
        if len(blobs) != 2:
            continue
        weight, bias = np.asarray(blobs[0], np.float32), np.asarray(blobs[1], np.float32).reshape(-1)
        if name.startswith("conv"):
            weight = weight.transpose(2, 3, 1, 0)
        elif name == "fc6" and weight.size % (36 * len(bias)) == 0:
            weight = weight.reshape(len(bias), -1, 6, 6).transpose(2, 3, 1, 0).reshape(-1, len(bias))
        else:
            weight = weight.reshape(len(bias), -1).T
        found[f"{name}/weight"], found[f"{name}/bias"] = np.ascontiguousarray(weight), bias
    return found


def fitting(weights: dict[str, np.ndarray], own: dict[str, np.ndarray], layers=None):
    """Those of `weights` that fit `own` (of `layers`, if given), names that are missing, what has another shape."""
    wanted = {name: value for name, value in own.items() if layers is None or name.split("/")[0] in layers}
    found = {name: weights[name] for name in wanted if name in weights}
    missing = [name for name in wanted if name not in found]
    good = {n: v for n, v in found.items() if v.shape == own[n].shape and v.dtype.kind in "fiu"}
    other = [f"{n} {v.shape} {v.dtype} instead of {own[n].shape}" for n, v in found.items() if n not in good]
    return good, missing, other


def is_stand_in(place: Path) -> bool:
    """Whether the card (JSON) beside a weight file says that it holds random weights for synthetic data."""
    card = card_path(place)
    return card.is_file() and bool(read_json(card, {"synthetic?": bool}).get("synthetic"))
