"""Caffe's binary files without Caffe: weights (`.caffemodel`), blobs (`.binaryproto`), solver states (`.solverstate`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from common.errors import DataError
from common.weights.caffe_messages import messages

_REMEDY = "give a binary .caffemodel (not a prototxt, nor a partial download)"


def parse_net(data: bytes, name: str = "data"):
    """Bytes -> NetParameter. DataError naming `name` when they are not one, are cut short, or hold the oldest (V0) layer format."""
    from google.protobuf.message import DecodeError

    net = messages()["NetParameter"]()
    try:
        net.ParseFromString(data)
    except DecodeError as error:
        raise DataError(f"{name} is not a Caffe NetParameter file ({error}); {_REMEDY}") from error
    if not net.layer and not net.layers:
        raise DataError(f"{name} holds no layers; {_REMEDY}")
    named = [layer for layer in (*net.layer, *net.layers) if layer.name]
    if not named:
        raise DataError(
            f"{name}: its layers have no names, as in Caffe's oldest (V0) format; run Caffe's upgrade_net_proto_binary first"
        )
    return net


def read_net(path: str | Path):
    """A `.caffemodel` as NetParameter; DataError when it is missing or no such file."""
    path = Path(path)
    if not path.is_file():
        raise DataError(f"Caffe model {path} does not exist")
    return parse_net(path.read_bytes(), str(path))


def blob_array(blob, name: str = "blob") -> np.ndarray:
    """A BlobProto as float32 (or float64 where stored so) in its stored shape; legacy blobs have num, channels, height, width."""
    shape = tuple(blob.shape.dim) if blob.HasField("shape") else (blob.num, blob.channels, blob.height, blob.width)
    stored = blob.double_data if len(blob.double_data) else blob.data
    array = np.array(stored, dtype=np.float64 if len(blob.double_data) else np.float32)
    if array.size != int(np.prod(shape)):
        raise DataError(f"{name}: {array.size} values for shape {shape}; the file is damaged")
    return array.reshape(shape)


def array_blob(array: np.ndarray, legacy: bool = False):
    """float32 array -> BlobProto; `legacy` writes num, channels, height, width (missing leading ones are 1) as V1 files have them."""
    blob = messages()["BlobProto"]()
    if legacy:
        blob.num, blob.channels, blob.height, blob.width = (1,) * (4 - array.ndim) + array.shape
    else:
        blob.shape.dim.extend(array.shape)
    data = np.ascontiguousarray(array, "<f4").tobytes()
    # merging field 5 as bytes is two orders of magnitude faster than extending the repeated field from numpy
    blob.MergeFromString(b"\x2a" + _varint(len(data)) + data)
    return blob


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def read_caffemodel(path: str | Path) -> dict[str, list[np.ndarray]]:
    """Layer name -> its blobs in stored shape, of all layers that have any, in file order; new (`layer`) and legacy (`layers`) messages.

    DataError on a missing, damaged or foreign file and on a layer name that occurs twice with blobs.
    """
    net = read_net(path)
    found: dict[str, list[np.ndarray]] = {}
    for layer in (*net.layers, *net.layer):
        if not layer.blobs:
            continue
        if layer.name in found:
            raise DataError(f"{path}: layer {layer.name} occurs twice with weights")
        found[layer.name] = [
            blob_array(blob, f"{path}: layer {layer.name}, blob {i}") for i, blob in enumerate(layer.blobs)
        ]
    if not found:
        raise DataError(f"{path} holds layers but no weights; {_REMEDY}")
    return found


def write_caffemodel(path: str | Path, layers: Mapping[str, tuple[str, Sequence[np.ndarray]]], name: str = "") -> None:
    """Write layer name -> (Caffe layer type, blobs) as a new-format `.caffemodel`, atomically. Caffe needs no more than names and blobs."""
    from common.files import atomic_write

    net = messages()["NetParameter"](name=name)
    for layer_name, (kind, blobs) in layers.items():
        layer = net.layer.add(name=layer_name, type=kind)
        layer.blobs.extend(array_blob(np.asarray(b)) for b in blobs)
    atomic_write(path, lambda temporary: temporary.write_bytes(net.SerializeToString()))


def _read_message(path: str | Path, kind: str, remedy: str):
    from google.protobuf.message import DecodeError

    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path} does not exist; {remedy}")
    message = messages()[kind]()
    try:
        message.ParseFromString(path.read_bytes())
    except DecodeError as error:
        raise DataError(f"{path} is not a readable {kind} file ({error}); {remedy}") from error
    return message


def read_blob(path: str | Path) -> np.ndarray:
    """A `.binaryproto` (a BlobProto, such as a mean image) as array in its stored shape. DataError when missing or damaged."""
    blob = _read_message(
        path, "BlobProto", "make the mean file again (`workflow.py create_lmdb`, or Caffe's compute_image_mean)"
    )
    return blob_array(blob, str(path))


def write_blob(path: str | Path, array: np.ndarray) -> None:
    """Write an array as `.binaryproto`, atomically, with the four legacy dimensions that Caffe's compute_image_mean gives."""
    from common.files import atomic_write

    data = array_blob(np.asarray(array), legacy=True).SerializeToString()
    atomic_write(path, lambda temporary: temporary.write_bytes(data))


def read_solverstate(path: str | Path) -> tuple[int, str, int, list[np.ndarray]]:
    """(iter, learned_net, current_step, history arrays) of a `.solverstate`. DataError when missing or damaged."""
    state = _read_message(path, "SolverState", "give a binary .solverstate that Caffe or this program wrote")
    if not state.HasField("iter"):
        raise DataError(f"{path} is not a .solverstate: it has no field iter")
    return (
        state.iter,
        state.learned_net,
        state.current_step,
        [blob_array(b, f"{path}: history {i}") for i, b in enumerate(state.history)],
    )


def write_solverstate(
    path: str | Path, iteration: int, learned_net: str, current_step: int, history: Sequence[np.ndarray]
) -> None:
    """Write a `.solverstate` that Caffe reads, atomically."""
    from common.files import atomic_write

    state = messages()["SolverState"](iter=iteration, learned_net=learned_net, current_step=current_step)
    state.history.extend(array_blob(np.asarray(h)) for h in history)
    atomic_write(path, lambda temporary: temporary.write_bytes(state.SerializeToString()))


def write_net(path: str | Path, net) -> None:
    """Write a NetParameter as binary file, atomically; fields that were unknown when it was read are kept."""
    from common.files import atomic_write

    atomic_write(path, lambda temporary: temporary.write_bytes(net.SerializeToString()))
