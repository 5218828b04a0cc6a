"""What every Caffe layer is here (`Layer`, the registry), and the layers that hold weights: convolution, inner product,
scale, bias.

A layer is built from its LayerParameter and the shapes of its bottoms; it knows the shapes of its tops, and
`forward(*bottoms)` gives them. `blobs` are its weights in Caffe's order. Shapes are NCHW; semantics are those of Caffe
1.0.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.errors import DataError
from deeppose_caffe_port.random_stream import CaffeRandom, fill

Shape = tuple[int, ...]
LAYERS: dict[str, type[Layer]] = {}


@dataclass
class Context:
    """What all layers of a net share."""

    train: bool  # phase
    random: CaffeRandom
    folder: Path  # relative file names in the prototxt start here; Caffe: the working directory
    euclidean: str = "modified"  # EuclideanLoss divided by all elements (the K2HPD project) or, `stock`, by the batch
    masked: bool = False  # NaN in the labels of EuclideanLoss = not labelled, left out
    dropout: str = "caffe"  # masks from Caffe's CPU stream, or `torch`: the device's own generator
    rank: int = 0  # number of this process; batch statistics and dropout masks span all of them
    world: int = 1


def layer(*names: str):
    """Register a class for Caffe's type names."""

    def register(cls):
        LAYERS.update(dict.fromkeys(names, cls))
        return cls

    return register


class Layer(nn.Module):
    """Base: `param` (LayerParameter), `where` (file, line and name, for messages), `top_shapes`."""

    bottoms: tuple[int, int] = (1, 1)  # fewest and most

    def __init__(self, param, shapes: list[Shape], context: Context, where: str):
        super().__init__()
        self.param, self.context, self.where = param, context, where
        low, high = self.bottoms
        if not low <= len(shapes) <= high:
            wanted = str(low) if low == high else f"{low} to {high}"
            raise self.error(f"needs {wanted} bottoms, has {len(shapes)}")
        self.down = list(param.propagate_down) or [True] * len(shapes)  # whether gradients flow into each bottom
        if len(self.down) != len(shapes):
            raise self.error(f"has {len(self.down)} values of propagate_down for {len(shapes)} bottoms")
        self.blob_names: list[str] = []
        self.top_shapes: list[Shape] = list(shapes[:1])
        self.setup(shapes)

    def setup(self, shapes: list[Shape]) -> None:
        """Make weights and `top_shapes`."""

    @property
    def blobs(self) -> list[Tensor]:
        """The weights in Caffe's order."""
        return [getattr(self, name) for name in self.blob_names]

    def error(self, text: str) -> DataError:
        """The error for something wrong with this layer."""
        return DataError(f"{self.where} ({self.param.type}) {text}")

    def add_blob(self, name: str, shape: Shape, filler) -> None:
        """A weight, filled, as the next of `blobs`; frozen where its lr_mult is 0, as in Caffe."""
        values = torch.from_numpy(fill(filler, shape, self.context.random, self.where))
        weight = nn.Parameter(values, requires_grad=self.spec(len(self.blob_names)).lr_mult != 0)
        self.register_parameter(name, weight)
        self.blob_names.append(name)

    def spec(self, index: int):
        """The ParamSpec of blob `index`; defaults where the prototxt has none."""
        from common.weights.caffe_messages import messages

        return self.param.param[index] if index < len(self.param.param) else messages()["ParamSpec"]()

    def axis(self, axis: int, shape: Shape) -> int:
        """A possibly negative axis as its number; DataError when the shape has no such axis."""
        if not -len(shape) <= axis < len(shape):
            raise self.error(f"has axis {axis}, its bottom {shape} has {len(shape)} axes")
        return axis % len(shape)


def window(param, name: str, h: str, w: str, default: int, owner: Layer) -> tuple[int, int]:
    """(height, width) of a convolution's or pooling's kernel, stride or pad, however the prototxt spells it."""
    given = getattr(param, name)
    values = list(given) if hasattr(given, "__len__") else ([given] if param.HasField(name) else [])
    if param.HasField(h) or param.HasField(w):
        if values:
            raise owner.error(f"has {name} and {h}/{w}; give one of the two")
        return getattr(param, h), getattr(param, w)
    if not values:
        values = [default]
    if len(values) > 2:
        raise owner.error(f"has {len(values)} values of {name}; only two spatial axes are supported")
    return values[0], values[-1]


@layer("Convolution", "Deconvolution")
class Convolution(Layer):
    """Cross-correlation with groups; weight (out, in/group, kh, kw), of Deconvolution (in, out/group, kh, kw)."""

    def setup(self, shapes: list[Shape]) -> None:
        p, shape = self.param.convolution_param, shapes[0]
        if len(shape) != 4 or p.axis not in (1, -3):
            raise self.error(f"supports bottoms of 4 axes with channels on axis 1, its bottom is {shape}")
        self.kernel = window(p, "kernel_size", "kernel_h", "kernel_w", 0, self)
        self.stride = window(p, "stride", "stride_h", "stride_w", 1, self)
        self.pad = window(p, "pad", "pad_h", "pad_w", 0, self)
        self.dilation = (p.dilation[0], p.dilation[-1]) if p.dilation else (1, 1)
        self.group, channels, out = p.group, shape[1], p.num_output
        if min(self.kernel) < 1 or min(self.stride) < 1 or out < 1:
            found = f"{self.kernel}, {self.stride}, {out}"
            raise self.error(f"needs kernel_size, stride and num_output of at least 1, has {found}")
        if channels % self.group or out % self.group:
            raise self.error(f"has group {self.group}, which divides {channels} input or {out} output channels not")
        self.transposed = self.param.type == "Deconvolution"
        weight = (channels, out // self.group) if self.transposed else (out, channels // self.group)
        self.add_blob("weight", (*weight, *self.kernel), p.weight_filler)
        self.bias = None
        if p.bias_term:
            del self.bias
            self.add_blob("bias", (out,), p.bias_filler)
        self.top_shapes = [(shape[0], out, *self._size(shape[2:]))]

    def _size(self, size: Shape) -> Shape:
        extent = [d * (k - 1) + 1 for d, k in zip(self.dilation, self.kernel)]
        if self.transposed:
            return tuple(s * (n - 1) + e - 2 * p for n, s, e, p in zip(size, self.stride, extent, self.pad))
        out = tuple((n + 2 * p - e) // s + 1 for n, s, e, p in zip(size, self.stride, extent, self.pad))
        if min(out) < 1:
            raise self.error(f"has kernel {self.kernel}, larger than its padded bottom {size}")
        return out

    def forward(self, x: Tensor) -> Tensor:
        if self.transposed:
            return F.conv_transpose2d(x, self.weight, self.bias, self.stride, self.pad, 0, self.group, self.dilation)
        return F.conv2d(x, self.weight, self.bias, self.stride, self.pad, self.dilation, self.group)


@layer("InnerProduct")
class InnerProduct(Layer):
    """y = x W^T + b on the bottom flattened from `axis`; weight (out, K), or (K, out) when `transpose`."""

    def setup(self, shapes: list[Shape]) -> None:
        p, shape = self.param.inner_product_param, shapes[0]
        self.from_axis = self.axis(p.axis, shape)
        inputs, self.transpose = prod(shape[self.from_axis :]), p.transpose
        self.add_blob("weight", (inputs, p.num_output) if p.transpose else (p.num_output, inputs), p.weight_filler)
        self.bias = None
        if p.bias_term:
            del self.bias
            self.add_blob("bias", (p.num_output,), p.bias_filler)
        self.top_shapes = [(*shape[: self.from_axis], p.num_output)]

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x.flatten(self.from_axis), self.weight.t() if self.transpose else self.weight, self.bias)


@layer("Scale", "Bias")
class Scale(Layer):
    """y = gamma x + beta, or y = x + beta (Bias): weights along `num_axes` axes from `axis`, or the second bottom."""

    bottoms = (1, 2)

    def setup(self, shapes: list[Shape]) -> None:
        p = self.param.scale_param if self.param.type == "Scale" else self.param.bias_param
        shape, self.is_scale = shapes[0], self.param.type == "Scale"
        first = self.axis(p.axis, shape)
        self.own = len(shapes) == 1
        if self.own:
            size = shape[first:] if p.num_axes == -1 else shape[first : first + p.num_axes]
            filler = type(p.filler)()
            filler.CopyFrom(p.filler)
            if self.is_scale and not p.HasField("filler"):
                filler.value = 1.0
            self.add_blob("weight", size, filler)
        else:
            size = shapes[1]
            if shape[first : first + len(size)] != size:
                raise self.error(
                    f"has a second bottom of shape {size}, which does not fit {shape} from axis {p.axis} on"
                )
        self.per_channel = self.own and first == 1 and len(size) == 1
        self.view = (1,) * first + tuple(size) + (1,) * (len(shape) - first - len(size))
        self.bias = None
        if self.is_scale and p.bias_term:
            del self.bias
            self.add_blob("bias", size, p.bias_filler)

    def forward(self, x: Tensor, factor: Tensor | None = None) -> Tensor:
        weight = (self.weight if factor is None else factor).reshape(self.view)
        if not self.is_scale:
            return x + weight
        y = x * weight
        return y if self.bias is None else y + self.bias.reshape(self.view)


@layer("Input", "DummyData", "MemoryData")
class Source(Layer):
    """Blobs from outside (Input, MemoryData) or from fillers (DummyData)."""

    bottoms = (0, 0)

    def setup(self, shapes: list[Shape]) -> None:
        tops, kind = len(self.param.top), self.param.type
        if kind == "Input":
            found = [tuple(s.dim) for s in self.param.input_param.shape]
        elif kind == "MemoryData":
            m = self.param.memory_data_param
            found = [(m.batch_size, m.channels, m.height, m.width), (m.batch_size,)]
        else:
            found = self._dummy_shapes()
        found = found * tops if len(found) == 1 else found
        if len(found) != tops:
            raise self.error(f"has {tops} tops and {len(found)} shapes; give one shape, or one for each top")
        self.top_shapes = found
        if kind == "DummyData":
            fillers = self.param.dummy_data_param.data_filler
            for i, shape in enumerate(found):
                filler = fillers[min(i, len(fillers) - 1)]
                values = torch.from_numpy(fill(filler, shape, self.context.random, self.where))
                self.register_buffer(f"top{i}", values, persistent=False)

    def _dummy_shapes(self) -> list[Shape]:
        p = self.param.dummy_data_param
        if not p.data_filler:
            p.data_filler.add()
        if p.shape:
            return [tuple(s.dim) for s in p.shape]
        return [(n, p.channels[i], p.height[i], p.width[i]) for i, n in enumerate(p.num)]

    def forward(self, *given: Tensor | None) -> tuple[Tensor, ...]:
        if self.param.type != "DummyData":
            return given
        changing = [f.type != "constant" for f in self.param.dummy_data_param.data_filler]
        for i, shape in enumerate(self.top_shapes):
            number = min(i, len(changing) - 1)
            if self.training and changing[number]:
                values = fill(self.param.dummy_data_param.data_filler[number], shape, self.context.random)
                getattr(self, f"top{i}").copy_(torch.from_numpy(np.ascontiguousarray(values)))
        return tuple(getattr(self, f"top{i}") for i in range(len(self.top_shapes)))
