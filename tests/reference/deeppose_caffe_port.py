"""A Caffe net as a user of PyTorch would write it: an nn.Sequential of PyTorch's own layers."""

from __future__ import annotations

import torch
from torch import nn


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
