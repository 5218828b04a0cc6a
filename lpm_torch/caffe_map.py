"""Which layer of the LPM authors' Caffe models fills which parameter of our networks.

The training file holds one identical copy per layer of a shared group (conv1_stage2 ... conv1_stage6 are one encoder);
the deploy pair and the pre-model hold fewer copies. The pre-model has one encoder, conv{k}_stage2, for all stages.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from common.errors import DataError
from common.skeletons import CPM14, LPM14
from lpm_torch.weight_files import ANSWERS

Blobs = dict[str, list[np.ndarray]]

# role -> pattern of its layers' names, Caffe's and ours: (gate or number, stage); lpm_official's carry no stage
_ROLES = {
    "first": r"conv([1-7])_stage(1)",
    "encoder": r"conv([1-4])_stage([2-9]\d*)",
    "x": r"([gfio])_x(?:_stage(\d+))?",
    "h": r"([gfio])_h(?:_stage(\d+))?",
    "after": r"(?:scale_)?([gfio])(?:_stage(\d+))?",
    "generator": r"M(?:conv|res)([1-5])(?:_stage(\d+))?",
}
BELIEF_REORDER = CPM14.indices(LPM14.joints)  # our channel i <- the authors' channel


def role_of(layer: str) -> tuple[str, str, int] | None:
    """A layer's role, gate or number, and stage; None outside the table."""
    for role, pattern in _ROLES.items():
        if match := re.fullmatch(pattern, layer):
            return role, match[1], int(match[2] or 0)
    return None


def _source(model: str, layer: str, blobs: Blobs) -> str | None:
    """The Caffe layer that fills our `layer`: the one of the same name, else another copy of its shared group."""
    wanted = role_of(layer)
    if wanted is None or model == "cpm":  # cpm shares names and shapes with the LSTM files, not groups
        return layer if layer in blobs else None
    copies = {name: found[2] for name in blobs if (found := role_of(name)) and found[:2] == wanted[:2]}
    first, *others = copies or [""]
    for other in others if model != "lpm_raw" else ():
        if not all(np.array_equal(a, b) for a, b in zip(blobs[first], blobs[other])):
            why = f"weights are not shared over time and {layer} cannot take both"
            raise DataError(f"layers {first} and {other} differ: {why}")
    return layer if layer in copies else min(copies, key=copies.__getitem__, default=None)


def map_caffe(blobs: Blobs, model: str, target: Mapping[str, Tensor]) -> tuple[dict, dict[str, str], list[str]]:
    """Caffe layer -> blobs to the parameters of network `model`, whose state_dict is `target` (names, shapes).

    Returns our tensors by name, their sources "layer/blob" by name, and our parameters without a source. In `lpm` and
    `lpm_raw` the Scale layers land in the batch normalisations; for lpm_official their weights must be 1. DataError on
    a shape that differs or on copies that should be equal.
    """
    state, sources, missing = {}, {}, []
    for name, own in target.items():
        layer, part = name.rsplit(".", 1)
        if part in ("running_mean", "running_var", "num_batches_tracked"):
            continue
        source, index = _source(model, layer, blobs), int(part == "bias")
        if source is None or len(blobs[source]) <= index:
            missing.append(name)
            continue
        array, wanted = blobs[source][index], tuple(own.shape)
        if array.shape != wanted:
            raise DataError(f"layer {source}, blob {index} has shape {array.shape}; {model}'s {name} needs {wanted}")
        if layer.startswith("scale_") and not np.all(blobs[source][0] == 1):
            raise DataError(f"layer {source}: its Scale weight is not 1 everywhere, as the authors' network has it")
        state[name] = torch.from_numpy(array.astype(np.float32))
        sources[name] = f"{source}/{index}"
    return state, sources, missing


def reorder(state: Mapping[str, Tensor], features: int, naming: str = "person") -> dict[str, Tensor]:
    """Permute belief channels, answered or read behind `features` image channels, from the authors' joint order (CPM14)
    to ours (LPM14). naming `penn`: the authors' Penn models, which exchange left and right."""
    order = [*belief_order(naming), len(LPM14)]
    inputs = [*range(features), *(features + i for i in order), features + len(order)]
    changed = {}
    for name, tensor in state.items():
        layer, part = name.rsplit(".", 1)
        if ANSWERS.fullmatch(layer):
            tensor = tensor[order]
        elif re.fullmatch(_ROLES["x"], layer) and part == "weight":
            tensor = tensor[:, inputs]
        changed[name] = tensor.contiguous()
    return changed


def belief_order(naming: str) -> Sequence[int]:
    """Our channel i <- the authors' channel; see `reorder`."""
    return [BELIEF_REORDER[i] for i in LPM14.mirror] if naming == "penn" else BELIEF_REORDER
