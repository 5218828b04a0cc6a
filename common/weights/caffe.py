"""Caffe's binary weight files (`.caffemodel`, NetParameter messages) without Caffe: read, write, and the message classes.

The messages are built from the table below through protobuf's runtime, in a descriptor pool of our own: the default pool would clash with
another `caffe.proto` in the same process (pycaffe, Chainer). Fields that the table lacks survive reading and writing as unknown fields.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from common.poses import DataError

# message -> "field number type", * repeated, ** repeated and packed; types are protobuf's scalars, messages or enums of these tables
MESSAGES = {
    "BlobShape": "dim 1 int64**",
    "BlobProto": "num 1 int32, channels 2 int32, height 3 int32, width 4 int32, data 5 float**, diff 6 float**, shape 7 BlobShape,"
    " double_data 8 double**, double_diff 9 double**",
    "BlobProtoVector": "blobs 1 BlobProto*",
    "NetParameter": "name 1 string, layers 2 V1LayerParameter*, input 3 string*, input_dim 4 int32*, force_backward 5 bool,"
    " debug_info 7 bool, input_shape 8 BlobShape*, layer 100 LayerParameter*",
    "LayerParameter": "name 1 string, type 2 string, bottom 3 string*, top 4 string*, loss_weight 5 float*, blobs 7 BlobProto*,"
    " phase 10 Phase, propagate_down 11 bool*",
    "V1LayerParameter": "bottom 2 string*, top 3 string*, name 4 string, type 5 LayerType, blobs 6 BlobProto*, blobs_lr 7 float*,"
    " weight_decay 8 float*, loss_weight 35 float*, param 1001 string*",
}
ENUMS = {
    "Phase": "TRAIN=0 TEST=1",
    "LayerType": "NONE=0 CONCAT=3 CONVOLUTION=4 DATA=5 DROPOUT=6 EUCLIDEAN_LOSS=7 FLATTEN=8 INNER_PRODUCT=14 LRN=15 POOLING=17 RELU=18"
    " SIGMOID=19 SOFTMAX=20 SOFTMAX_LOSS=21 SPLIT=22 TANH=23 ELTWISE=25 SLICE=33",
}
_REMEDY = "give a binary .caffemodel (not a prototxt, nor a partial download)"


@functools.cache
def messages() -> dict[str, type]:
    """Message classes by name, of the tables above."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    file = descriptor_pb2.FileDescriptorProto(name="pose/caffe.proto", package="caffe", syntax="proto2")
    for name, values in ENUMS.items():
        enum = file.enum_type.add(name=name)
        for value in values.split():
            label, number = value.split("=")
            enum.value.add(name=label, number=int(number))
    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=name)
        for field in fields.split(", "):
            _add_field(message, *field.split())
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"caffe.{name}")) for name in MESSAGES}


def _add_field(message, name: str, number: str, kind: str) -> None:
    base = kind.rstrip("*")
    field = message.field.add(name=name, number=int(number), label=3 if kind.endswith("*") else 1)
    if base in MESSAGES or base in ENUMS:
        field.type, field.type_name = (11 if base in MESSAGES else 14), f".caffe.{base}"
    else:
        field.type = {"double": 1, "float": 2, "int64": 3, "int32": 5, "bool": 8, "string": 9}[base]
    if kind.endswith("**"):
        field.options.packed = True


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
        raise DataError(f"{name}: its layers have no names, as in Caffe's oldest (V0) format; run Caffe's upgrade_net_proto_binary first")
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
        found[layer.name] = [blob_array(blob, f"{path}: layer {layer.name}, blob {i}") for i, blob in enumerate(layer.blobs)]
    if not found:
        raise DataError(f"{path} holds layers but no weights; {_REMEDY}")
    return found


def write_caffemodel(path: str | Path, layers: Mapping[str, tuple[str, Sequence[np.ndarray]]], name: str = "") -> None:
    """Write layer name -> (Caffe layer type, blobs) as a new-format `.caffemodel`, atomically. Caffe needs no more than names and blobs."""
    from common.checkpoints import atomic_write

    net = messages()["NetParameter"](name=name)
    for layer_name, (kind, blobs) in layers.items():
        layer = net.layer.add(name=layer_name, type=kind)
        layer.blobs.extend(array_blob(np.asarray(b)) for b in blobs)
    atomic_write(path, lambda temporary: temporary.write_bytes(net.SerializeToString()))
