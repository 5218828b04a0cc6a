"""What every Caffe layer is here (`Layer`, the registry), and the layers that hold weights or statistics, LRN too.

A layer is built from its LayerParameter and the shapes of its bottoms; it knows the shapes of its tops, and
`forward(*bottoms)` gives them. `blobs` are its weights in Caffe's order. Shapes are NCHW; semantics are those of Caffe
1.0.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.errors import DataError
from common.weights.caffe_messages import messages
from deeppose_caffe_port.random_stream import CaffeRandom, fill

Shape = tuple[int, ...]
LAYERS: dict[str, type[Layer]] = {}
MANY = 10**6
LARGEST = 2**30  # values of a blob


@dataclass
class Context:
    """What all layers of a net share."""

    train: bool  # phase
    random: CaffeRandom
    folder: Path  # relative file names in the prototxt start here; Caffe: the working directory
    euclidean: str = "modified"  # EuclideanLoss divided by all elements (the K2HPD project) or, `stock`, by the batch; or `absolute` errors
    masked: bool = False  # NaN in the labels of EuclideanLoss = not labelled, left out
    dropout: str = "caffe"  # masks from Caffe's CPU stream, or `torch`: the device's own generator
    rank: int = 0  # number of this process; batch statistics and dropout masks span all of them
    world: int = 1
    data: bool = True  # whether data layers read theirs; else the caller gives what they would put out


def layer(*names: str):
    """Register a class for Caffe's type names."""

    def register(cls):
        LAYERS.update(dict.fromkeys(names, cls))
        return cls

    return register


def function(*names: str, bottoms: tuple[int, int] = (1, 1), reshapes: bool = True):
    """Register a function of (layer, *bottoms) as a layer without weights; see Layer for `bottoms` and `reshapes`."""

    def register(forward):
        fields = {"forward": forward, "bottoms": bottoms, "reshapes": reshapes, "__doc__": forward.__doc__}
        return layer(*names)(type(names[0], (Layer,), fields))

    return register


class Layer(nn.Module):
    """Base: `param` (LayerParameter), `where` (file, line and name, for messages), `top_shapes`."""

    bottoms: tuple[int, int] = (1, 1)  # fewest and most
    reshapes = False  # whether a pass over zeros finds the tops' shapes; else `setup`, or they are the first bottom's

    def __init__(self, param, shapes: list[Shape], context: Context, where: str):
        super().__init__()
        self.param, self.context, self.where, self.kind = param, context, where, param.type
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
        if self.reshapes:
            self.top_shapes = self._tried(shapes)

    def setup(self, shapes: list[Shape]) -> None:
        """Make weights, and `top_shapes` where neither rule above holds."""

    def _tried(self, shapes: list[Shape]) -> list[Shape]:
        try:  # views of one zero: PyTorch's own `meta` tensors take half a second to load
            tops = self(*(torch.zeros(()).expand(s) for s in shapes))
        except (RuntimeError, IndexError) as error:
            raise self.error(f"cannot take bottoms of shapes {shapes} ({error})") from error
        return [tuple(t.shape) for t in ((tops,) if isinstance(tops, Tensor) else tops)]

    @property
    def blobs(self) -> list[Tensor]:
        """The weights in Caffe's order."""
        return [getattr(self, name) for name in self.blob_names]

    def error(self, text: str) -> DataError:
        """The error for something wrong with this layer."""
        return DataError(f"{self.where} ({self.param.type}) {text}")

    def add_blob(self, name: str, shape: Shape, param, field: str, standard: float = 0.0) -> None:
        """A weight as the next of `blobs`, filled as `field` of `param` says, else with `standard`."""
        if prod(shape) > LARGEST:
            raise self.error(f"has a weight of {prod(shape)} values, more than any known network")
        given = param.HasField(field)
        filler = getattr(param, field) if given else messages()["FillerParameter"](value=standard)
        values = torch.from_numpy(fill(filler, shape, self.context.random, self.where))
        weight = nn.Parameter(values, requires_grad=self.spec(len(self.blob_names)).lr_mult != 0)
        self.register_parameter(name, weight)
        self.blob_names.append(name)

    def add_bias(self, size: Shape, param) -> None:
        """`bias`: the next of `blobs` where `param` wants it, else None."""
        if param.bias_term:
            self.add_blob("bias", size, param, "bias_filler")
        else:
            self.bias = None

    def spec(self, index: int):
        """The ParamSpec of blob `index`; defaults where the prototxt has none."""
        return self.param.param[index] if index < len(self.param.param) else messages()["ParamSpec"]()

    def axis(self, axis: int, shape: Shape) -> int:
        """A possibly negative axis as its number; DataError when the shape has no such axis."""
        if not -len(shape) <= axis < len(shape):
            raise self.error(f"has axis {axis}, its bottom {shape} has {len(shape)} axes")
        return axis % len(shape)

    def window(self, param, name: str, short: str, default: int) -> tuple[int, int]:
        """(height, width) of a convolution's or pooling's kernel, stride or pad (field `name`, or `short`_h, _w)."""
        given = getattr(param, name)
        values = list(given) if hasattr(given, "__len__") else ([given] if param.HasField(name) else [])
        if param.HasField(f"{short}_h") or param.HasField(f"{short}_w"):
            if values:
                raise self.error(f"has {name} and {short}_h or _w; give one of the two")
            values = [getattr(param, f"{short}_h"), getattr(param, f"{short}_w")]
        if len(values) > 2:
            raise self.error(f"has {len(values)} values of {name}; only two spatial axes are supported")
        return (values[0], values[-1]) if values else (default, default)


@layer("Convolution", "Deconvolution", "ConvolutionDepthwise", "DepthwiseConvolution")
class Convolution(Layer):
    """Cross-correlation with groups; weight (out, in/group, kh, kw), of Deconvolution (in, out/group, kh, kw)."""

    def setup(self, shapes: list[Shape]) -> None:
        p, shape = self.param.convolution_param, shapes[0]
        if len(shape) != 4 or p.axis not in (1, -3):
            raise self.error(f"supports bottoms of 4 axes with channels on axis 1, its bottom is {shape}")
        self.kernel = self.window(p, "kernel_size", "kernel", 0)
        self.stride = self.window(p, "stride", "stride", 1)
        self.pad = self.window(p, "pad", "pad", 0)
        self.dilation = (p.dilation[0], p.dilation[-1]) if p.dilation else (1, 1)
        channels, out = shape[1], p.num_output
        self.group = channels if "Depthwise" in self.kind else p.group
        least = min(*self.kernel, *self.stride, *self.dilation, self.group, out)
        if least < 1 or len(p.dilation) > 2:
            raise self.error("needs kernel_size, stride, dilation, group and num_output of at least 1, on two axes")
        if channels % self.group or out % self.group:
            raise self.error(f"has group {self.group}, which divides {channels} input or {out} output channels not")
        self.transposed = self.kind == "Deconvolution"
        weight = (channels, out // self.group) if self.transposed else (out, channels // self.group)
        self.add_blob("weight", (*weight, *self.kernel), p, "weight_filler")
        self.add_bias((out,), p)
        size = []
        for n, k, s, pad, d in zip(shape[2:], self.kernel, self.stride, self.pad, self.dilation):
            extent = d * (k - 1) + 1
            size.append(s * (n - 1) + extent - 2 * pad if self.transposed else (n + 2 * pad - extent) // s + 1)
        if min(size) < 1:
            raise self.error(f"has kernel {self.kernel}, larger than its padded bottom {shape[2:]}")
        self.top_shapes = [(shape[0], out, *size)]

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
        if p.num_output < 1:
            raise self.error("needs num_output of at least 1")
        size = (inputs, p.num_output) if p.transpose else (p.num_output, inputs)
        self.add_blob("weight", size, p, "weight_filler")
        self.add_bias((p.num_output,), p)
        self.top_shapes = [(*shape[: self.from_axis], p.num_output)]

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight.t() if self.transpose else self.weight
        return F.linear(x.flatten(self.from_axis), weight, self.bias)


@layer("Scale", "Bias")
class Scale(Layer):
    """y = gamma x + beta, or y = x + beta (Bias): weights along `num_axes` axes from `axis`, or the second bottom."""

    bottoms = (1, 2)

    def setup(self, shapes: list[Shape]) -> None:
        self.is_scale = self.kind == "Scale"
        p, shape = self.param.scale_param if self.is_scale else self.param.bias_param, shapes[0]
        first, own = self.axis(p.axis, shape), len(shapes) == 1
        size = (shape[first:] if p.num_axes == -1 else shape[first : first + p.num_axes]) if own else shapes[1]
        if shape[first : first + len(size)] != size:
            raise self.error(f"has a second bottom of shape {size}, which does not fit {shape} from axis {p.axis} on")
        if own:
            self.add_blob("weight", size, p, "filler", standard=float(self.is_scale))
        self.per_channel = own and first == 1 and len(size) == 1
        self.view = (1,) * first + tuple(size) + (1,) * (len(shape) - first - len(size))
        self.bias = None
        if self.is_scale:
            del self.bias
            self.add_bias(size, p)

    def forward(self, x: Tensor, factor: Tensor | None = None) -> Tensor:
        weight = (self.weight if factor is None else factor).reshape(self.view)
        if not self.is_scale:
            return x + weight
        y = x * weight
        return y if self.bias is None else y + self.bias.reshape(self.view)


@layer("PReLU")
class PReLU(Layer):
    """max(x, 0) + a min(x, 0), a learned for each channel or one for all."""

    def setup(self, shapes: list[Shape]) -> None:
        p = self.param.prelu_param
        channels = () if p.channel_shared else (shapes[0][self.axis(1, shapes[0])],)
        self.add_blob("weight", channels, p, "filler", 0.25)

    def forward(self, x: Tensor) -> Tensor:
        return F.prelu(x, self.weight.reshape(-1))


@layer("Normalize")
class Normalize(Layer):
    """x / sqrt(sum x^2 + eps) over the channels of each place (or all of a record), times a learned scale (SSD)."""

    def setup(self, shapes: list[Shape]) -> None:
        p = self.param.norm_param
        self.add_blob("weight", () if p.channel_shared else (shapes[0][1],), p, "scale_filler", 1.0)

    def forward(self, x: Tensor) -> Tensor:
        p = self.param.norm_param
        axes = tuple(range(1, x.dim())) if p.across_spatial else (1,)
        y = x * (x.square().sum(axes, keepdim=True) + p.eps).rsqrt()
        return y * self.weight.reshape(-1, *(1,) * (x.dim() - 2))


@layer("BatchNorm")
class BatchNorm(Layer):
    """Blobs: accumulated mean, accumulated (unbiased) variance, and the factor that both are divided by.

    A Scale layer that follows is computed along when `forward` is given it. Several processes have one batch together.
    """

    def setup(self, shapes: list[Shape]) -> None:
        p = self.param.batch_norm_param
        channels = shapes[0][1] if len(shapes[0]) > 1 else 1
        self.eps, self.fraction = p.eps, p.moving_average_fraction
        self.global_stats = p.use_global_stats if p.HasField("use_global_stats") else not self.context.train
        for name, size in (("mean_sum", channels), ("variance_sum", channels), ("factor", 1)):
            self.register_buffer(name, torch.zeros(size))
            self.blob_names.append(name)
        self.register_buffer("ones", torch.ones(channels), persistent=False)

    def spec(self, index: int):
        """The three statistics are never learned, whatever the prototxt says."""
        spec = type(super().spec(index))()
        spec.CopyFrom(super().spec(index))
        spec.lr_mult = 0.0
        return spec

    def forward(self, x: Tensor, scale: Scale | None = None) -> Tensor:
        weight, bias = (None, None) if scale is None else (scale.weight, scale.bias)
        if self.global_stats:
            share = torch.where(self.factor == 0, torch.zeros_like(self.factor), 1 / self.factor)
            return F.batch_norm(x, self.mean_sum * share, self.variance_sum * share, weight, bias, False, 0.0, self.eps)
        per_channel = x.numel() // x.shape[1]
        if self.context.world > 1 or per_channel == 1:  # torch refuses a single value
            y, mean, variance = self._across_processes(x, per_channel * self.context.world)
            y = y if scale is None else scale(y)
        else:
            mean, variance = torch.zeros_like(self.mean_sum), torch.zeros_like(self.variance_sum)
            # momentum 1: the buffers receive this batch's mean and unbiased variance
            y = F.batch_norm(x, mean, variance, weight, bias, True, 1.0, self.eps)
        with torch.no_grad():
            self.factor.mul_(self.fraction).add_(1)
            self.mean_sum.mul_(self.fraction).add_(mean)
            self.variance_sum.mul_(self.fraction).add_(variance)
        return y

    def _across_processes(self, x: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
        from torch.distributed.nn.functional import all_reduce

        total = all_reduce if self.context.world > 1 else torch.clone
        axes, view = [a for a in range(x.dim()) if a != 1], [1, -1] + [1] * (x.dim() - 2)
        mean = total(x.sum(axes)) / count
        centred = x - mean.view(view)
        variance = total(centred.square().sum(axes)) / count
        return centred * torch.rsqrt(variance + self.eps).view(view), mean, variance * (count / max(count - 1, 1))


class _AcrossChannels(torch.autograd.Function):
    """x (k + alpha/n sum x'^2)^-beta over n neighbouring channels, with two saved maps besides x."""

    @staticmethod
    def forward(ctx, x: Tensor, size: int, alpha: float, beta: float, k: float) -> Tensor:
        base = window_sum(x * x, size).mul_(alpha / size).add_(k)
        power = negative_power(base, beta)
        ctx.save_for_backward(x, base, power)
        ctx.settings = size, alpha, beta
        return power * x

    @staticmethod
    def backward(ctx, dy: Tensor):
        x, base, power = ctx.saved_tensors
        size, alpha, beta = ctx.settings
        inner = (dy * x).mul_(power).div_(base)
        dx = window_sum(inner, size).mul_(x).mul_(-2 * alpha * beta / size)
        return dx.addcmul_(dy, power), None, None, None, None


def window_sum(x: Tensor, size: int) -> Tensor:
    """Sum over `size` (odd) neighbouring channels of (N,C,...), zero outside."""
    out = x.clone()
    for shift in range(1, size // 2 + 1):
        out[:, shift:] += x[:, :-shift]
        out[:, :-shift] += x[:, shift:]
    return out


def negative_power(base: Tensor, beta: float) -> Tensor:
    """base^-beta; by square roots for the usual beta = 0.75, which is several times as fast."""
    if beta == 0.75:
        root = base.rsqrt()
        return root.sqrt().mul_(root)
    return base.pow(-beta)


@layer("LRN")
class LRN(Layer):
    """Local response normalisation across channels, or within each channel over a square of pixels."""

    def setup(self, shapes: list[Shape]) -> None:
        p = self.param.lrn_param
        self.size, self.alpha, self.beta, self.k = p.local_size, p.alpha, p.beta, p.k
        self.within = p.norm_region == 1
        if self.size % 2 == 0:
            raise self.error(f"has local_size {self.size}; Caffe takes odd sizes only")

    def forward(self, x: Tensor) -> Tensor:
        if self.within:
            # the average counts padding, as Caffe's pooling does; k does not enter there
            mean = F.avg_pool2d(x * x, self.size, stride=1, padding=self.size // 2)
            return x * (1 + self.alpha * mean).pow(-self.beta)
        if torch.compiler.is_compiling():
            return F.local_response_norm(x, self.size, self.alpha, self.beta, self.k)
        # sums of squares and their roots need more than bf16's eight bits
        return _AcrossChannels.apply(x.float(), self.size, self.alpha, self.beta, self.k).to(x.dtype)
