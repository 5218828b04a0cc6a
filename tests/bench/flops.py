"""Multiply-adds of one training sample's forward pass, by one rule for every house: convolutions (transposed ones too)
and matrix products, nothing else; the values that these give, and the network's weights. `gmac`, `activations` and
`parameters` in common/recipes.yaml come from here.

    python tests/bench/flops.py lpm_torch
    python tests/bench/flops.py deeppose_tf | deepercut_tf | simplebaseline_paddle
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import numpy as np

Counts = tuple[float, float, float]  # 10^9 multiply-adds, 10^6 values of a sample, 10^6 weights


def lpm_torch() -> dict[str, Counts]:
    """Networks of MobilePose (256 pixels, clips of 5 frames) and of the authors (368)."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils.flop_counter import FlopCounterMode

    from lpm_torch import layers
    from lpm_torch.config import PRESETS, Config
    from lpm_torch.model import build_network

    class Values(TorchDispatchMode):
        total = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            found = function(*args, **(kwargs or {}))
            if function.overloadpacket in (torch.ops.aten.convolution, torch.ops.aten.mm, torch.ops.aten.addmm):
                self.total += found.numel()
            return found

    layers.worthwhile = lambda *_: False  # what the plain convolution would take
    counted = {}
    for name, preset in (("cpm", "paper"), ("lpm", "paper"), ("lpm_official", "official")):
        config = Config(**{**PRESETS[preset], "model": name})
        side = config.input_width
        with torch.device("meta"):
            model = build_network(config, 14).eval()
            frames, centres = torch.empty(1, config.t, 3, side, side), torch.empty(1, 1, side, side)
        with Values() as values, FlopCounterMode(display=False) as counter:
            model(frames, centres)
        weights = sum(p.numel() for p in model.parameters())
        counted[name] = counter.get_total_flops() / 2e9, values.total / 1e6, weights / 1e6
    return counted


def _tensorflow(model, shape: tuple[int, ...], dtype: str) -> Counts:
    import tensorflow as tf

    graph = tf.function(model).get_concrete_function(tf.TensorSpec(shape, dtype)).graph
    total, values = 0.0, 0
    for operation in graph.get_operations():
        if operation.type in ("Conv2D", "Conv2DBackpropInput", "MatMul"):
            values += int(np.prod([n or 1 for n in operation.outputs[0].shape]))
        if operation.type == "Conv2D":
            height, width, inputs, _ = operation.inputs[1].shape
            total += np.prod(operation.outputs[0].shape) * height * width * inputs
        elif operation.type == "Conv2DBackpropInput":  # a transposed convolution: each input meets the whole kernel
            height, width, outputs, _ = operation.inputs[1].shape
            total += np.prod(operation.inputs[2].shape) * height * width * outputs
        elif operation.type == "MatMul":
            total += np.prod(operation.outputs[0].shape) * operation.inputs[0].shape[-1]
    return float(total) / 1e9, values / 1e6, model.count_params() / 1e6


def deeppose_tf() -> dict[str, Counts]:
    """AlexNet on 227 pixels."""
    from deeppose_tf.config import Config
    from deeppose_tf.model import network_for

    model = network_for(Config(), 14)
    return {"alexnet": _tensorflow(model, (1, *model.input_shape[1:]), model.input_dtype or "float32")}


def deepercut_tf() -> dict[str, Counts]:
    """ResNet-101 with all heads on a picture of 640 x 480."""
    from deepercut_tf.config import Config
    from deepercut_tf.model import build_model

    heads = {"location_refinement": True, "pairwise_predict": True, "intermediate_supervision": True}
    model = build_model(Config(num_joints=14, net_type="resnet_101", **heads), intermediate=True)
    return {"resnet_101": _tensorflow(model, (1, 480, 640, 3), "uint8")}


def simplebaseline_paddle() -> dict[str, Counts]:
    """Every depth and size of the published tables."""
    import paddle
    from paddle import nn

    from simplebaseline_paddle.config import Config
    from simplebaseline_paddle.model import build_model

    counted = {}
    for depth in (50, 101, 152):
        for height, width, joints in ((256, 256, 16), (384, 384, 16), (256, 192, 17), (384, 288, 17)):
            model = build_model(Config(depth=depth, input_height=height, input_width=width), joints)
            model.eval()
            total, values = [0.0], [0]

            def count(layer, inputs, output, total=total, values=values):
                values[0] += int(np.prod(output.shape))
                there = inputs[0] if isinstance(layer, nn.Conv2DTranspose) else output
                total[0] += int(np.prod(there.shape)) * int(np.prod(layer.weight.shape[1:]))

            for layer in model.sublayers():
                if isinstance(layer, (nn.Conv2D, nn.Conv2DTranspose)):
                    layer.register_forward_post_hook(count)
            with paddle.no_grad():
                model(paddle.zeros([1, 3, height, width]))
            counted[f"resnet{depth}_{height}x{width}"] = (
                total[0] / 1e9,
                values[0] / 1e6,
                sum(int(np.prod(p.shape)) for p in model.parameters()) / 1e6,
            )
    return counted


HOUSES = {f.__name__: f for f in (lpm_torch, deeppose_tf, deepercut_tf, simplebaseline_paddle)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("house", choices=HOUSES)
    for name, (gmac, values, weights) in HOUSES[parser.parse_args().house]().items():
        print(f"{name:24} {gmac:8.2f} GMAC, {values:8.2f} million values, {weights:7.2f} million weights")
    return 0


if __name__ == "__main__":
    sys.exit(main())
