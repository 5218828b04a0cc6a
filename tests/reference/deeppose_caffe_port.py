"""A Caffe net as a user of PyTorch would write it: an nn.Sequential of PyTorch's own layers."""

from __future__ import annotations

import torch
from torch import nn


def network_texts(stage: int, batch_size: int) -> tuple[str, str, int]:
    """Prototxts of a stage of preset paper: deployed, in training on given batches (without its loss); the side of a
    picture."""
    from google.protobuf import text_format

    from deeppose_caffe_port.config import PRESETS
    from deeppose_caffe_port.prototxts import network

    shape, outputs = PRESETS["paper"][stage], (30, 2)[stage - 1]
    dims = f"dim: [{batch_size}, 3, {shape.side}, {shape.side}]"
    head = f'layer {{ name: "data" type: "Input" top: "data" input_param {{ shape {{ {dims} }} }} }}\n'
    body = network(shape, stage, outputs, 15, "train_test")
    del body.layer[:2], body.layer[-1]  # data and loss
    deploy = text_format.MessageToString(network(shape, stage, outputs, 15, "deploy"))
    return deploy, head + text_format.MessageToString(body), shape.side


def plain_module(net):
    """The same net as a user would write it: nn.Sequential of PyTorch's own layers, with the same weights."""
    modules: list[nn.Module] = []
    for layer in net.order:
        kind, p = layer.param.type, layer.param
        if kind == "Convolution":
            blob = layer.weight
            module = nn.Conv2d(
                blob.shape[1] * layer.group, blob.shape[0], layer.kernel, layer.stride, layer.pad, groups=layer.group
            )
        elif kind == "BatchNorm":
            module = nn.BatchNorm2d(len(layer.mean_sum), eps=layer.eps)
        elif kind == "ReLU":
            module = nn.ReLU(inplace=True)
        elif kind == "LRN":
            module = nn.LocalResponseNorm(layer.size, layer.alpha, layer.beta, layer.k)
        elif kind == "Pooling":
            module = nn.MaxPool2d(layer.kernel, layer.stride, ceil_mode=True)
        elif kind == "InnerProduct":
            modules += [nn.Flatten()] if p.name == "fc6" else []
            module = nn.Linear(layer.weight.shape[1], layer.weight.shape[0])
        elif kind == "Dropout":
            module = nn.Dropout(p.dropout_param.dropout_ratio)
        else:
            continue
        if kind in ("Convolution", "InnerProduct"):
            with torch.no_grad():
                module.weight.copy_(layer.weight)
                module.bias.copy_(layer.bias)
        modules.append(module)
    return nn.Sequential(*modules)
