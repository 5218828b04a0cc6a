"""Parameter names: ours (= Microsoft's), PaddlePaddle 1.x's counters, and what a set of tensors says about its network. No framework.

Nothing is transposed between the three: convolutions are (out, in, h, w), transposed ones (in, out, h, w) everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from common.errors import DataError
from simplebaseline_paddle.config import BLOCKS

# Ours -> PyTorch's and P's suffixes of a batch norm: gain, offset, running mean, running variance
BATCH_NORM = (
    ("weight", "weight", "w_0"),
    ("bias", "bias", "b_0"),
    ("_mean", "running_mean", "w_1"),
    ("_variance", "running_var", "w_2"),
)
_TO_TORCH = {"_mean": "running_mean", "_variance": "running_var"}
_FROM_TORCH = {v: k for k, v in _TO_TORCH.items()}


def to_torch(name: str) -> str:
    """`bn1._mean` -> `bn1.running_mean`."""
    head, _, last = name.rpartition(".")
    return f"{head}.{_TO_TORCH.get(last, last)}"


def from_torch(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A PyTorch state dict under our names: no `module.`, no `num_batches_tracked`."""
    out = {}
    for name, tensor in tensors.items():
        head, _, last = name.removeprefix("module.").rpartition(".")
        if last != "num_batches_tracked":
            out[f"{head}.{_FROM_TORCH.get(last, last)}" if head else last] = tensor
    return out


def layers(depth: int, deconvs: int = 3) -> list[tuple[str, str, str]]:
    """(kind, convolution, its batch norm) in P's construction order, kinds `conv` and `deconv`: a block's shortcut after its main convolutions.

    The last convolution, which has no batch norm, is not among them.
    """
    count = 2 if depth < 50 else 3
    found = [("conv", "conv1", "bn1")]
    for stage, blocks in enumerate(BLOCKS[depth], 1):
        for b in range(blocks):
            block = f"layer{stage}.{b}"
            found += [("conv", f"{block}.conv{i}", f"{block}.bn{i}") for i in range(1, count + 1)]
            if b == 0 and (depth >= 50 or stage > 1):
                found.append(("conv", f"{block}.downsample.0", f"{block}.downsample.1"))
    return found + [("deconv", f"deconv_layers.{3 * i}", f"deconv_layers.{3 * i + 1}") for i in range(deconvs)]


def fluid_names(depth: int) -> dict[str, str]:
    """P's name -> ours, in graph order, for a network whose graph was built first in its process (counters from 0)."""
    table, counts = {}, {"conv": 0, "deconv": 0}
    for i, (kind, conv, norm) in enumerate(layers(depth)):
        prefix = "conv2d" if kind == "conv" else "conv2d_transpose"
        table[f"{prefix}_{counts[kind]}.w_0"] = f"{conv}.weight"
        counts[kind] += 1
        table |= {f"batch_norm_{i}.{fluid}": f"{norm}.{ours}" for ours, _, fluid in BATCH_NORM}
    last = f"conv2d_{counts['conv']}"
    return {**table, f"{last}.w_0": "final_layer.weight", f"{last}.b_0": "final_layer.bias"}


def from_fluid(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The network's tensors of a P checkpoint under our names; optimiser state and strangers are left out. DataError when it fits no depth."""
    depth = fluid_depth(tensors)
    return {ours: tensors[fluid] for fluid, ours in fluid_names(depth).items() if fluid in tensors}


def fluid_depth(names) -> int:
    """The depth whose last convolution has the one bias among `names`. DataError when none has."""
    for depth in BLOCKS:
        last = f"conv2d_{sum(kind == 'conv' for kind, *_ in layers(depth))}.b_0"
        if last in names:
            return depth
    raise DataError(
        "no depth of PoseResNet has this folder's variables (no conv2d_N.b_0 with N = 20, 36, 53, 104 or 155): "
        "is it the backbone alone (give it as --pretrained_model), or of another network?"
    )


def is_backbone(name: str) -> bool:
    """Whether a tensor of ours belongs to the ResNet."""
    return name.startswith(("conv1.", "bn1.", "layer"))


def describe(tensors: Mapping[str, np.ndarray]) -> dict:
    """Settings of the network that tensors (under our names) belong to: depth, kp_dim, deconv_filters, deconv_kernels, deconv_bias, final_kernel,
    base_width.

    The stride's place (`style`) leaves no trace. DataError when they are no PoseResNet.
    """
    blocks = tuple(len({n.split(".")[1] for n in tensors if n.startswith(f"layer{s}.")}) for s in (1, 2, 3, 4))
    bottleneck = any(n.endswith(".conv3.weight") for n in tensors)
    depth = next((d for d, b in BLOCKS.items() if b == blocks and (d >= 50) == bottleneck), None)
    if depth is None or "final_layer.weight" not in tensors:
        raise DataError(
            f"these tensors are no PoseResNet: blocks {blocks}, "
            + ("no final_layer" if depth else "which no depth has")
        )
    shapes = [
        np.shape(tensors[f"deconv_layers.{3 * i}.weight"])
        for i in range(9)
        if f"deconv_layers.{3 * i}.weight" in tensors
    ]
    return {
        "depth": depth, "kp_dim": int(np.shape(tensors["final_layer.weight"])[0]), "deconv_filters": ",".join(str(s[1]) for s in shapes),
        "deconv_kernels": ",".join(str(s[2]) for s in shapes), "deconv_bias": "deconv_layers.0.bias" in tensors,
        "final_kernel": int(np.shape(tensors["final_layer.weight"])[2]), "base_width": int(np.shape(tensors["conv1.weight"])[0]),
    }  # fmt: skip
