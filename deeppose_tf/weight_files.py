"""Weights of AlexNet in whatever file they come -> DT's names (`conv1/weight` HWIO, `fc6/weight` 9216 x 4096 with rows in H, W, C order).

Accepted: TensorFlow 1 checkpoints, old and new; `.npy` dictionaries layer -> weights and biases; `.caffemodel`; our own checkpoints (`.npz`)
and weight exports (`.weights.h5`).
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np

from common.errors import DataError
from deeppose_tf.config import IMAGENET_WEIGHTS

ACCEPTED = (
    "a TensorFlow 1 checkpoint (old single file, or the prefix of an .index/.data pair), a .npy dictionary of layers,"
    " a .caffemodel of BVLC AlexNet, or a checkpoint of ours (.npz, .weights.h5)"
)


def missing_text(path: Path) -> str:
    """What to say where ImageNet weights are not there."""
    gone = (
        " The original's bvlc_alexnet.tf was a download linked in its README; that link is dead. BVLC AlexNet itself is described at"
        " https://github.com/BVLC/caffe/tree/master/models/bvlc_alexnet."
        if path.name == IMAGENET_WEIGHTS.name
        else ""
    )
    return f"weight file {path} does not exist.{gone} Accepted: {ACCEPTED}"


def find_weights(path: str | Path) -> Path | None:
    """The file behind a name: as it is, with .npz, or the prefix of a TensorFlow checkpoint; None when there is none."""
    from common.weights.tf1 import find_checkpoint

    path = Path(path)
    for candidate in (path, path.with_name(path.name + ".npz")):
        if candidate.is_file():
            return candidate
    return find_checkpoint(path)


def read_weights(path: str | Path) -> dict[str, np.ndarray]:
    """Every variable of a weight file by DT's names, slots and counter included. DataError when it is missing, damaged or of unknown kind."""
    place = find_weights(path)
    if place is None:
        raise DataError(missing_text(Path(path)))
    if place.suffix == ".npz":
        from deeppose_tf.checkpoint import load_state

        return variables_of(load_state(place))
    if place.suffix == ".npy":
        return _read_npy(place)
    if place.suffix == ".caffemodel":
        return from_caffe(_read_caffe(place))
    if place.name.endswith(".weights.h5"):
        return _read_h5(place)
    from common.weights.tf1 import read_checkpoint

    return read_checkpoint(place, tensorflow)


def tensorflow():
    """The module, which only checkpoints of TensorFlow 1 need here (Keras also runs on PyTorch). DataError where it is not installed."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        import tensorflow as tf
    except ImportError as error:
        raise DataError(
            f"TensorFlow 1 checkpoints are read and written by TensorFlow, which is not here ({error}); install"
            " deeppose_tf/requirements.txt, or convert them to .npz where it is"
        ) from error
    return tf


def variables_of(state: dict) -> dict[str, np.ndarray]:
    """The variables of one of our states under the names that DT's checkpoint would give them."""
    return {
        **state["model"],
        **state["unused"],
        **state["optimizer"],
        "global_iter_counter": np.array(state["step"], np.int32),
    }


def _read_npy(path: Path) -> dict[str, np.ndarray]:
    """layer -> {weights, biases} or [w, b], as caffe-tensorflow and the AlexNet of M. Guerzhoy are published."""
    from common.weights.pickles import read_npy

    try:
        found = {}
        for layer, blobs in read_npy(path).items():
            weight, bias = (blobs["weights"], blobs["biases"]) if isinstance(blobs, dict) else blobs
            found[f"{layer}/weight"], found[f"{layer}/bias"] = (
                np.asarray(weight, np.float32),
                np.asarray(bias, np.float32),
            )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{path} is not a .npy dictionary of layers ({type(error).__name__}: {error}); {ACCEPTED}"
        ) from error
    return found


def _read_caffe(path: Path) -> dict[str, list[np.ndarray]]:
    from common.weights.caffe import read_caffemodel

    return read_caffemodel(path)


def from_caffe(layers: dict[str, list[np.ndarray]]) -> dict[str, np.ndarray]:
    """Caffe's blobs -> DT's: convolutions OIHW -> HWIO, fc6's columns from C, H, W to H, W, C order, dense layers transposed.

    fc6's spatial side is 6 and its channels follow from its size (256 in AlexNet).
    """
    found = {}
    for name, blobs in layers.items():
        if len(blobs) != 2:
            continue
        weight, bias = np.asarray(blobs[0], np.float32), np.asarray(blobs[1], np.float32).reshape(-1)
        if name.startswith("conv"):
            weight = weight.transpose(2, 3, 1, 0)
        else:
            weight = weight.reshape(len(bias), -1)
            if name == "fc6" and weight.shape[1] % 36 == 0:
                weight = weight.reshape(len(bias), -1, 6, 6).transpose(0, 2, 3, 1).reshape(len(bias), -1)
            weight = weight.T
        found[f"{name}/weight"], found[f"{name}/bias"] = np.ascontiguousarray(weight), bias
    return found


def to_caffe(weights: dict[str, np.ndarray]) -> dict[str, tuple[str, list[np.ndarray]]]:
    """Inverse of `from_caffe`, with layer types, for `common.weights.caffe.write_caffemodel`."""
    found = {}
    for name in dict.fromkeys(n.split("/")[0] for n in weights):
        weight, bias = weights[f"{name}/weight"], weights[f"{name}/bias"]
        if name.startswith("conv"):
            found[name] = "Convolution", [np.ascontiguousarray(weight.transpose(3, 2, 0, 1)), bias]
            continue
        weight = weight.T
        if name == "fc6":
            weight = weight.reshape(len(bias), 6, 6, -1).transpose(0, 3, 1, 2).reshape(len(bias), -1)
        found[name] = "InnerProduct", [np.ascontiguousarray(weight), bias]
    return found


def _read_h5(path: Path) -> dict[str, np.ndarray]:
    """Keras's weight file of one of our networks."""
    import h5py

    found = {}
    try:
        with h5py.File(path, "r") as file:
            for layer, group in file["layers"].items():
                for i, what in enumerate(("weight", "bias")):
                    if str(i) in group.get("vars", {}):
                        found[f"{_layer_name(layer, group)}/{what}"] = group["vars"][str(i)][...]
    except (OSError, KeyError) as error:
        raise DataError(f"{path} is not a Keras weight file ({error}); {ACCEPTED}") from error
    return found


def _layer_name(key: str, group) -> str:
    """The layer's own name, which Keras keeps as an attribute beside its automatic key."""
    name = group["vars"].attrs.get("name", group.attrs.get("name", key))
    return name.decode() if isinstance(name, bytes) else str(name)


def fit(
    weights: dict[str, np.ndarray], own: dict[str, np.ndarray], layers=None
) -> tuple[dict[str, np.ndarray], dict[str, list[str]]]:
    """The variables of `weights` that fit `own` (of `layers`, if given), and a report: restored, missing and mismatched names."""
    report: dict[str, list[str]] = {"restored": [], "missing": [], "mismatched": []}
    chosen = {}
    for name, value in own.items():
        if layers is not None and name.split("/")[0] not in layers:
            continue
        if name not in weights:
            report["missing"].append(name)
        elif weights[name].shape != value.shape:
            report["mismatched"].append(f"{name} {weights[name].shape} instead of {value.shape}")
        else:
            report["restored"].append(name)
            chosen[name] = weights[name]
    return chosen, report


def card_of(path: str | Path) -> dict:
    """The card (JSON) beside a weight file, {} where there is none."""
    card = Path(f"{path}.json")
    try:
        return json.loads(card.read_text(encoding="utf-8")) if card.is_file() else {}
    except ValueError as error:
        raise DataError(
            f"{card} is not readable JSON ({error}); remove it or write it again with deeppose_tf/convert.py"
        ) from error
