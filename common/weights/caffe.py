"""Caffe's binary files without Caffe: `.caffemodel`, `.binaryproto` (blobs), `.solverstate`; nets of any age."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from common.errors import DataError
from common.files import atomic_write
from common.weights.caffe_messages import messages

_NET = "give a binary .caffemodel (not a prototxt, nor a partial download)"
_MEAN = "make the mean file again (`workflow.py create_lmdb`, or Caffe's compute_image_mean)"
_STATE = "give a binary .solverstate that Caffe or this program wrote"


def _read(path: str | Path, kind: str, remedy: str):
    from google.protobuf.message import DecodeError

    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path} does not exist; {remedy}")
    message = messages()[kind]()
    try:
        message.ParseFromString(path.read_bytes())
    except DecodeError as error:
        raise DataError(f"{path} is not a readable Caffe file with a {kind} ({error}); {remedy}") from error
    return message


def write_message(path: str | Path, message) -> None:
    """Write a protobuf message, such as a NetParameter, atomically; fields that were unknown when it was read are kept."""
    atomic_write(path, lambda temporary: temporary.write_bytes(message.SerializeToString()))


def blob_array(blob, name: str = "blob") -> np.ndarray:
    """A BlobProto as float32 (or float64 where stored so) in its stored shape; legacy blobs have four axes."""
    stored = blob.double_data if len(blob.double_data) else blob.data
    array = np.array(stored, dtype=np.float64 if len(blob.double_data) else np.float32)
    shape = tuple(blob.shape.dim) if blob.HasField("shape") else (blob.num, blob.channels, blob.height, blob.width)
    if array.size == 1 and not any(shape):
        shape = ()  # a blob without axes, of which Caffe writes neither form
    if min(shape, default=0) < 0 or array.size != math.prod(shape):
        raise DataError(f"{name}: {array.size} values for shape {shape}; the file is damaged")
    return array.reshape(shape)


def array_blob(array: np.ndarray, legacy: bool = False):
    """float32 array -> BlobProto; `legacy` writes num, channels, height, width (leading ones 1) as V1 files.

    So is a blob without axes, which OpenCV reads in no other form.
    """
    blob = messages()["BlobProto"]()
    if legacy or not array.ndim:
        blob.num, blob.channels, blob.height, blob.width = (1,) * (4 - array.ndim) + array.shape
    else:
        blob.shape.dim.extend(array.shape)
    data = array.astype("<f4", casting="same_kind").tobytes()
    # merging field 5 as bytes is two orders of magnitude faster than extending the repeated field from numpy
    blob.MergeFromString(b"\x2a" + _varint(len(data)) + data)
    return blob


def _varint(value: int) -> bytes:
    low, rest = value & 127, value >> 7
    return bytes([low | 128]) + _varint(rest) if rest else bytes([low])


def read_net(path: str | Path):
    """A `.caffemodel` as NetParameter. DataError when it is none, or holds Caffe's oldest (V0) layers."""
    net = _read(path, "NetParameter", _NET)
    layers = (*net.layer, *net.layers)
    if not layers:
        raise DataError(f"{path} holds no layers; {_NET}")
    if not any(layer.name for layer in layers):
        what = f"{path}: its layers have no names, as in Caffe's oldest (V0) format"
        raise DataError(f"{what}; run Caffe's upgrade_net_proto_binary first")
    return net


def read_caffemodel(path: str | Path) -> dict[str, list[np.ndarray]]:
    """Layer name -> its blobs in stored shape, of all layers that have any, in file order; new and legacy messages.

    Of layers that share a name the last one counts, as where Caffe loads weights. DataError on a bad file.
    """
    net = read_net(path)
    found = {
        layer.name: [blob_array(b, f"{path}: layer {layer.name}, blob {i}") for i, b in enumerate(layer.blobs)]
        for layer in (*net.layers, *net.layer)
        if layer.blobs
    }
    if not found:
        raise DataError(f"{path} holds layers but no weights; {_NET}")
    return found


def write_caffemodel(path: str | Path, layers: Mapping[str, tuple[str, Sequence[np.ndarray]]], name: str = "") -> None:
    """Write layer name -> (Caffe layer type, blobs) as a new-format `.caffemodel`, atomically."""
    net = messages()["NetParameter"](name=name)
    for layer_name, (kind, blobs) in layers.items():
        net.layer.add(name=layer_name, type=kind).blobs.extend(array_blob(np.asarray(b)) for b in blobs)
    write_message(path, net)


def read_blob(path: str | Path) -> np.ndarray:
    """A `.binaryproto` (a BlobProto, such as a mean image) in its stored shape. DataError when missing or damaged."""
    return blob_array(_read(path, "BlobProto", _MEAN), str(path))


def write_blob(path: str | Path, array: np.ndarray) -> None:
    """Write an array as `.binaryproto`, atomically, with four dimensions, as compute_image_mean does."""
    write_message(path, array_blob(np.asarray(array), legacy=True))


def read_solverstate(path: str | Path) -> tuple[int, str, int, list[np.ndarray]]:
    """(iter, learned_net, current_step, history arrays) of a `.solverstate`. DataError when missing or damaged."""
    state = _read(path, "SolverState", _STATE)
    if not state.HasField("iter"):
        raise DataError(f"{path} is not a .solverstate: it has no field iter; {_STATE}")
    history = [blob_array(b, f"{path}: history {i}") for i, b in enumerate(state.history)]
    return state.iter, state.learned_net, state.current_step, history


def write_solverstate(
    path: str | Path, iteration: int, learned_net: str, current_step: int, history: Sequence[np.ndarray]
) -> None:
    """Write a `.solverstate` that Caffe reads, atomically."""
    state = messages()["SolverState"](iter=iteration, learned_net=learned_net, current_step=current_step)
    state.history.extend(array_blob(np.asarray(h)) for h in history)
    write_message(path, state)


# ---- nets of any age -> the current form (`layer` messages only), as Caffe itself upgrades them on reading ----

# V1 enum value -> type name, where the rule (CamelCase of the words) does not hold
_NAMES = {
    "BNLL": "BNLL", "DATA": "Data", "HDF5_DATA": "HDF5Data", "HDF5_OUTPUT": "HDF5Output", "IM2COL": "Im2col", "LRN": "LRN", "MVN": "MVN",
    "RELU": "ReLU", "SOFTMAX_LOSS": "SoftmaxWithLoss", "TANH": "TanH", "ARGMAX": "ArgMax", "ABSVAL": "AbsVal",
}  # fmt: skip
_V1_OWN = {"blobs_lr", "weight_decay", "param"}


def upgrade_net(net, name: str = "net"):
    """A new NetParameter in the current form; the argument stays as it is. DataError for mixed layers.

    Handled: V1 layers (`layers`, types as enum, `blobs_lr`, `weight_decay`), net inputs as `input` with `input_dim` or
    `input_shape`, data transformations inside `data_param`, learning rates of BatchNorm's three statistics.

    Layers keep their order; inputs of the net become one Input layer in front, named `input` as Caffe does.
    """
    if net.layers and net.layer:
        raise DataError(f"{name} holds both `layers` (V1) and `layer` entries; a net has one of the two forms")
    new = messages()["NetParameter"]()
    new.CopyFrom(net)
    for field in ("layers", "layer", "input", "input_dim", "input_shape"):
        new.ClearField(field)
    if net.input:
        new.layer.append(_input_layer(net, name))
    for layer in net.layer:
        new.layer.append(layer)
    for layer in net.layers:
        new.layer.append(_upgrade_v1(layer))
    for layer in new.layer:
        _move_transform(layer)
        if layer.type == "BatchNorm" and len(layer.param) == 3:
            for spec in layer.param:
                spec.lr_mult = spec.decay_mult = 0
    return new


def _input_layer(net, name: str):
    layer = messages()["LayerParameter"](name="input", type="Input", top=list(net.input))
    if net.input_shape:
        shapes = [list(s.dim) for s in net.input_shape]
    else:
        shapes = [list(net.input_dim[i : i + 4]) for i in range(0, len(net.input_dim), 4)]
    if len(shapes) not in (1, len(net.input)) or any(len(s) == 0 for s in shapes):
        what = f"{name} has {len(net.input)} inputs and {len(shapes)} shapes for them"
        raise DataError(f"{what}; give each input an input_shape")
    for shape in shapes:
        layer.input_param.shape.add(dim=shape)
    return layer


def type_name(number: int) -> str:
    """Caffe's name of a V1 layer type, such as `InnerProduct` for 14."""
    enum = messages()["V1LayerParameter"].DESCRIPTOR.fields_by_name["type"].enum_type
    label = enum.values_by_number[number].name
    return _NAMES.get(label) or "".join(word.capitalize() for word in label.split("_"))


def _upgrade_v1(old):
    layer = messages()["LayerParameter"](type=type_name(old.type))
    for field, value in old.ListFields():
        if hasattr(value, "extend") and field.name not in _V1_OWN:
            getattr(layer, field.name).extend(value)
        elif hasattr(value, "CopyFrom"):
            getattr(layer, field.name).CopyFrom(value)
    layer.name = old.name
    for rate, decay, name in itertools.zip_longest(old.blobs_lr, old.weight_decay, old.param):
        given = {"lr_mult": rate, "decay_mult": decay, "name": name or None}
        layer.param.add(**{key: value for key, value in given.items() if value is not None})
    return layer


def _move_transform(layer) -> None:
    """Fields that moved from the data layers' messages to transform_param in Caffe's history."""
    for name in ("data_param", "image_data_param"):
        if layer.HasField(name):
            old = getattr(layer, name)
            for field in ("scale", "mean_file", "crop_size", "mirror"):
                if old.HasField(field):
                    setattr(layer.transform_param, field, getattr(old, field))
                    old.ClearField(field)
