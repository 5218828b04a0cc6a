"""Caffe's binary files without Caffe: `.caffemodel`, `.binaryproto` (blobs), `.solverstate`."""

from __future__ import annotations

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


def _write(path: str | Path, message) -> None:
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
    data = np.ascontiguousarray(array, "<f4").tobytes()
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


def write_net(path: str | Path, net) -> None:
    """Write a NetParameter as binary file, atomically; fields that were unknown when it was read are kept."""
    _write(path, net)


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
    _write(path, net)


def read_blob(path: str | Path) -> np.ndarray:
    """A `.binaryproto` (a BlobProto, such as a mean image) in its stored shape. DataError when missing or damaged."""
    return blob_array(_read(path, "BlobProto", _MEAN), str(path))


def write_blob(path: str | Path, array: np.ndarray) -> None:
    """Write an array as `.binaryproto`, atomically, with four dimensions, as compute_image_mean does."""
    _write(path, array_blob(np.asarray(array), legacy=True))


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
    _write(path, state)
