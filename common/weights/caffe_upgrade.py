"""Caffe nets of any age -> the current form (`layer` messages only), as Caffe itself upgrades them on reading.

Handled: V1 layers (`layers`, types as enum, `blobs_lr`, `weight_decay`), net inputs as `input` with `input_dim` or
`input_shape`, data transformations inside `data_param`, learning rates of BatchNorm's three statistics. V0 nets are
refused by the reader.
"""

from __future__ import annotations

import itertools

from common.errors import DataError
from common.weights.caffe_messages import messages

# V1 enum value -> type name, where the rule (CamelCase of the words) does not hold
_NAMES = {
    "BNLL": "BNLL", "DATA": "Data", "HDF5_DATA": "HDF5Data", "HDF5_OUTPUT": "HDF5Output", "IM2COL": "Im2col", "LRN": "LRN", "MVN": "MVN",
    "RELU": "ReLU", "SOFTMAX_LOSS": "SoftmaxWithLoss", "TANH": "TanH", "ARGMAX": "ArgMax", "ABSVAL": "AbsVal",
}  # fmt: skip
_V1_OWN = {"blobs_lr", "weight_decay", "param"}


def upgrade_net(net, name: str = "net"):
    """A new NetParameter in the current form; the argument stays as it is. DataError for mixed layers.

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
        if layer.type == "BatchNorm":
            _freeze_statistics(layer)
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
    """scale, mean_file, crop_size and mirror moved from the data layers' messages to transform_param in Caffe's
    history."""
    for name in ("data_param", "image_data_param"):
        if layer.HasField(name):
            old = getattr(layer, name)
            for field in ("scale", "mean_file", "crop_size", "mirror"):
                if old.HasField(field):
                    setattr(layer.transform_param, field, getattr(old, field))
                    old.ClearField(field)


def _freeze_statistics(layer) -> None:
    for spec in layer.param:
        if len(layer.param) == 3:
            spec.lr_mult = spec.decay_mult = 0
