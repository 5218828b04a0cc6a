"""Which layer of the LPM authors' Caffe models fills which parameter of our networks.

The training file holds one identical copy per layer of a shared group (conv1_stage2 ... conv1_stage6 are one encoder);
the deploy pair and the pre-model hold fewer copies. The pre-model has one encoder, conv{k}_stage2, for all stages.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from common.errors import DataError
from common.skeletons import CPM14, LPM14
from lpm_torch.weight_files import ANSWERS

# role -> pattern of the Caffe layer's name (groups: gate or number, stage), our name in lpm_official, which carries no
# stage
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
    """Caffe layer name (or that in `lpm`, `lpm_raw`) -> role, gate or number, stage; None outside the table."""
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
    """Caffe layer -> blobs to the parameters of network `model`, whose state_dict is `target` (names, shapes).

    In `lpm` and `lpm_raw` the Scale layers land in the batch normalisations, whose running statistics stay as they are,
    and lpm_raw has no place for {g,i,o}_stage2. For lpm_official their weights must be 1. DataError on a shape that
    differs or on copies that should be equal.
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
    """Permute belief channels from the authors' joint order (CPM14) to ours (LPM14): outputs of conv7 and the last
    generator layer, and the belief inputs of the x-convolutions, which follow `features` image channels.

    naming `person`: channels mean the person's own sides. `penn`: the authors' Penn models, which exchange left and
    right against that.
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
