"""Caffe's protobuf messages, from the table in caffe_messages.txt: nets, solvers, blobs, data records, states.

The classes are made through protobuf's runtime, in a descriptor pool of our own: the default pool would clash with
another `caffe.proto` in the same process (pycaffe, Chainer). Fields that the table lacks survive reading and writing of
binary files. `label_num` of DataParameter is an addition of the K2HPD DeepPose project; permute_param and norm_param
are SSD's; FluidTensor is PaddlePaddle 1.x's.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

_TABLE = Path(__file__).with_suffix(".txt").read_text(encoding="utf-8").replace("\n  ", " ").splitlines()
_ROWS = [line.partition(": ") for line in _TABLE if ": " in line and not line.startswith("#")]
MESSAGES = {name: [field.split() for field in fields.split(", ")] for name, _, fields in _ROWS}
ENUMS = {line.split()[0]: line.split()[2:] for line in _TABLE if " = " in line and not line.startswith("#")}
_SCALARS = {"double": 1, "float": 2, "int64": 3, "int32": 5, "bool": 8, "string": 9, "bytes": 12, "uint32": 13}


@functools.cache
def messages() -> dict[str, Any]:
    """Message classes by name, of the tables above."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    file = descriptor_pb2.FileDescriptorProto(name="pose/caffe.proto", package="caffe", syntax="proto2")
    for name, values in ENUMS.items():
        # an enum in a message of its own: sibling values share their scope's names
        enum = file.message_type.add(name=f"{name}Scope").enum_type.add(name=name)
        for number, label in enumerate(values):
            enum.value.add(name=label, number=number)
    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=name)
        for field in fields:
            _add_field(message, *field)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"caffe.{name}")) for name in MESSAGES}


def _add_field(message, name: str, number: str, kind: str, default: str | None = None) -> None:
    base = kind.rstrip("*")
    field = message.field.add(name=name, number=int(number), label=3 if kind.endswith("*") else 1)
    if base in MESSAGES:
        field.type, field.type_name = 11, f".caffe.{base}"
    elif base in ENUMS:
        field.type, field.type_name = 14, f".caffe.{base}Scope.{base}"
    else:
        field.type = _SCALARS[base]
    if default is not None:
        field.default_value = default
    if kind.endswith("**"):
        field.options.packed = True
