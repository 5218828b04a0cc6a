"""Which layer of the LPM authors' Caffe models fills which parameter of our networks, and a reference forward pass on the Caffe names.

The training file holds one identical copy per layer of a shared group (conv1_stage2 ... conv1_stage6 are one encoder); the deploy pair and
the pre-model hold fewer copies. The pre-model has one encoder, conv{k}_stage2, for all stages.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from common.errors import DataError
from common.skeletons import CPM14, LPM14
from lpm_torch.weight_files import ANSWERS

# role -> pattern of the Caffe layer's name (groups: gate or number, stage), our name in lpm_official, which carries no stage
_ROLES = {
    "first": (r"conv([1-7])_stage(1)", r"conv(.)_stage1"),
    "encoder": (r"conv([1-4])_stage([2-9]\d*)", r"conv(.)_stage2"),
    "x": (r"([gfio])_x_stage(\d+)", r"(.)_x"),
    "h": (r"([gfio])_h_stage(\d+)", r"(.)_h"),
    "after": (r"([gfio])_stage(\d+)", r"scale_(.)"),
    "generator": (r"M(?:conv|res)([1-5])_stage(\d+)", r"Mres(.)"),
}
BELIEF_REORDER = CPM14.indices(LPM14.joints)  # our channel i <- the authors' channel


@dataclass
class Mapping:
    """Result of `map_caffe`."""

    state: dict[str, Tensor]  # our parameter -> tensor
    sources: dict[str, str]  # our parameter -> "layer/blob"
    missing: list[str] = field(default_factory=list)  # our parameters without a source
    unused: list[str] = field(default_factory=list)  # Caffe layers that fill nothing


def role_of(layer: str) -> tuple[str, str, int] | None:
    """Caffe layer name (or the same name in `lpm`, `lpm_raw`) -> role, gate or number, stage; None for a name outside the table."""
    for role, (pattern, _) in _ROLES.items():
        if match := re.fullmatch(pattern, layer):
            return role, match[1], int(match[2])
    return None


def _our_role(model: str, layer: str) -> tuple[str, str, int] | None:
    if model != "lpm_official":
        return role_of(layer)
    found = ((role, re.fullmatch(own, layer)) for role, (_, own) in _ROLES.items())
    return next(((role, match[1], 0) for role, match in found if match), None)


def _source(model: str, layer: str, blobs: dict[str, list[np.ndarray]]) -> str | None:
    """The Caffe layer that fills our `layer`: the one of the same name, else another copy of its shared group."""
    if layer in blobs and model != "lpm_official":
        return layer
    wanted = _our_role(model, layer)
    if wanted is None or model == "cpm":  # cpm shares names and shapes with the LSTM files, not groups
        return None
    copies = {name: found[2] for name in blobs if (found := role_of(name)) and found[:2] == wanted[:2]}
    first, *others = copies or [""]
    for other in others if model != "lpm_raw" else ():
        if not all(np.array_equal(a, b) for a, b in zip(blobs[first], blobs[other])):
            raise DataError(
                f"layers {first} and {other} differ: weights are not shared over time and {layer} cannot take both"
            )
    return min(copies, key=copies.__getitem__, default=None)


def map_caffe(blobs: dict[str, list[np.ndarray]], model: str, target: dict[str, Tensor]) -> Mapping:
    """Caffe layer -> blobs (vectors flat) to the parameters of network `model`, whose state_dict is `target` (names and shapes).

    In `lpm` and `lpm_raw` the Scale layers land in the batch normalisations, whose running statistics stay as they are, and lpm_raw has no
    place for {g,i,o}_stage2. For lpm_official their weights must be 1. DataError on a shape that differs or on copies that should be equal.
    """
    result, used = Mapping({}, {}), set()
    for name in target:
        layer, part = name.rsplit(".", 1)
        if part in ("running_mean", "running_var", "num_batches_tracked"):
            continue
        source, index = _source(model, layer, blobs), int(part == "bias")
        if source is None or len(blobs[source]) <= index:
            result.missing.append(name)
            continue
        array, wanted = blobs[source][index], tuple(target[name].shape)
        if array.shape != wanted:
            raise DataError(f"layer {source}, blob {index} has shape {array.shape}; {model}'s {name} needs {wanted}")
        result.state[name] = torch.from_numpy(array.astype(np.float32))
        result.sources[name] = f"{source}/{index}"
        used |= {source}
    result.unused = _unused(model, blobs, used)
    return result


def _unused(model: str, blobs: dict[str, list[np.ndarray]], used: set[str]) -> list[str]:
    """Layers that fill nothing and are neither copies of a used one nor the Scale layers that the table drops."""
    shared = model in ("lpm", "lpm_official")
    groups = {found[:2] for name in used if (found := role_of(name)) and shared}
    left = []
    for name, arrays in blobs.items():
        found = role_of(name)
        if found and found[0] == "after":
            if model == "lpm_official" and not np.all(arrays[0] == 1):
                raise DataError(
                    f"layer {name}: the Scale weight is not 1 everywhere, which the authors' network does not have"
                )
            if model == "lpm_raw" and found[2] == 2:
                continue
        if name not in used and not (found and found[:2] in groups):
            left.append(name)
    return left


def reorder(state: dict[str, Tensor], features: int, naming: str = "person") -> dict[str, Tensor]:
    """Permute belief channels from the authors' joint order (CPM14) to ours (LPM14): outputs of conv7 and the last generator layer, and the
    belief inputs of the x-convolutions, which follow `features` image channels.

    naming `person`: channels mean the person's own sides. `penn`: the authors' Penn models, which exchange left and right against that.
    """
    order = [*belief_order(naming), len(LPM14)]
    inputs = [*range(features), *(features + i for i in order), features + len(order)]
    changed = {}
    for name, tensor in state.items():
        layer, part = name.rsplit(".", 1)
        if ANSWERS.fullmatch(layer):
            tensor = tensor[order]
        elif re.fullmatch(r"[gfio]_x(_stage\d+)?", layer) and part == "weight":
            tensor = tensor[:, inputs]
        changed[name] = tensor.contiguous()
    return changed


def belief_order(naming: str) -> Sequence[int]:
    """Our channel i <- the authors' channel; see `reorder`."""
    return [BELIEF_REORDER[i] for i in LPM14.mirror] if naming == "penn" else BELIEF_REORDER


def caffe_forward(blobs: dict[str, list[np.ndarray]], frames: Tensor, center: Tensor) -> Tensor:
    """The authors' network walked layer by layer under its Caffe names: (T,3,S,S) frames, (1,1,S,S) centre map -> (T+1,15,g,g) belief maps.

    Independent of our networks' code, to check a conversion. A stage that the file lacks (deploy pair, pre-model) uses the last before it.
    """

    def layer(pattern: str, t: int) -> list[Tensor]:
        name = pattern.format(t + 2)
        if name not in blobs:
            copies = [s for s in range(2, 100) if pattern.format(s) in blobs]
            if not copies:
                raise DataError(f"the Caffe model has no layer {pattern.format('N')}, so its network cannot be run")
            name = pattern.format(max([s for s in copies if s < t + 2], default=copies[0]))
        return [torch.from_numpy(b.astype(np.float32)) for b in blobs[name]]

    def conv(x: Tensor, pattern: str, t: int, relu: bool = True) -> Tensor:
        weight, bias = layer(pattern, t)
        x = F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2)
        return F.relu(x) if relu else x

    def encode(x: Tensor, t: int) -> Tensor:
        suffix = "1" if t < 0 else "{}"
        for k in range(1, 4):
            x = F.max_pool2d(conv(x, f"conv{k}_stage{suffix}", t), 3, 2, ceil_mode=True)
        return conv(x, f"conv4_stage{suffix}", t)

    x = encode(frames[:1], -1)
    for k in (5, 6):
        x = conv(x, f"conv{k}_stage1", -1)
    maps = [conv(x, "conv7_stage1", -1, relu=False)]
    pooled = F.avg_pool2d(center, 9, 8, ceil_mode=True)
    hidden = cell = torch.zeros(())
    for t in range(len(frames)):
        x = torch.cat([encode(frames[t : t + 1], t), maps[-1], pooled], 1)
        gate = {}
        for q in "gfio" if t else "gio":
            pre = conv(x, f"{q}_x_stage{{}}", t, relu=False)
            if t:
                pre = pre + conv(hidden, f"{q}_h_stage{{}}", t, relu=False)
            scale, shift = layer(f"{q}_stage{{}}", t)
            pre = pre * scale.reshape(-1, 1, 1) + shift.reshape(-1, 1, 1)
            gate[q] = torch.tanh(pre) if q == "g" else torch.sigmoid(pre)
        cell = gate["g"] * gate["i"] + (gate["f"] * cell if t else 0)
        x = hidden = gate["o"] * torch.tanh(cell)
        pattern = "Mconv{}_stage{{}}" if t == 0 and "Mconv1_stage2" in blobs else "Mres{}_stage{{}}"
        for m in range(1, 6):
            x = conv(x, pattern.format(m), t, relu=m < 5)
        maps.append(x)
    return torch.cat(maps)
