"""Caffe layers without weights: pooling, elementwise functions, dropout, what joins or reshapes blobs."""

from __future__ import annotations

import math
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor

from deeppose_caffe_port.layers import LARGEST, MANY, Layer, Shape, function, layer


@layer("Pooling")
class Pooling(Layer):
    """MAX or AVE over windows clipped to the image, as many as Caffe's ceil rule gives."""

    def setup(self, shapes: list[Shape]) -> None:
        p, shape = self.param.pooling_param, shapes[0]
        if len(shape) != 4 or p.pool == 2:
            raise self.error(f"supports MAX and AVE (not STOCHASTIC) on 4 axes, its bottom is {shape}")
        self.average, self.ceil, self.whole = p.pool == 1, p.ceil_mode and p.round_mode == 0, p.global_pooling
        self.kernel = self.window(p, "kernel_size", "kernel", 0)
        self.stride, self.pad = self.window(p, "stride", "stride", 1), self.window(p, "pad", "pad", 0)
        if self.whole and (any(self.kernel) or any(self.pad) or self.stride != (1, 1)):
            raise self.error("has global_pooling and a window of its own; give one of the two")
        self.kernel = shape[2:] if self.whole else self.kernel
        if min(*self.kernel, *self.stride) < 1 or any(pad >= k for pad, k in zip(self.pad, self.kernel)):
            raise self.error(f"has kernel {self.kernel} and pad {self.pad}; the pad must be smaller than the kernel")
        self.far = any(2 * pad > k for pad, k in zip(self.pad, self.kernel))  # which PyTorch's own pooling refuses
        if self.far and self.average:
            raise self.error(f"AVE with pad {self.pad} of more than half the kernel {self.kernel} is not supported")
        self.top_shapes = [(*shape[:2], *self.size(shape[2:]))]

    def size(self, size: Shape) -> Shape:
        """Height and width of the top; DataError where Caffe would make a window without a pixel in it."""
        out = []
        for n, k, s, pad in zip(size, self.kernel, self.stride, self.pad):
            count = (-(-(n + 2 * pad - k) // s) if self.ceil else (n + 2 * pad - k) // s) + 1
            if max(self.pad) and (count - 1) * s >= n + pad:
                count -= 1
            if count < 1 or (count - 1) * s >= n + pad:
                window = f"kernel {k}, stride {s}, pad {pad} on {n} pixels"
                raise self.error(f"has {window}: an empty window in Caffe; crop its bottom")
            out.append(count)
        return tuple(out)

    def forward(self, x: Tensor) -> Tensor:
        if self.whole:
            return x.mean((2, 3), keepdim=True) if self.average else x.amax((2, 3), keepdim=True)
        if self.average:
            return F.avg_pool2d(x, self.kernel, self.stride, self.pad, self.ceil, count_include_pad=True)
        if not self.far:
            return F.max_pool2d(x, self.kernel, self.stride, self.pad, ceil_mode=self.ceil)
        (height, width), (ph, pw), lowest = self.size(x.shape[2:]), self.pad, torch.finfo(x.dtype).min
        padded = F.pad(x, (pw, pw, ph, ph), value=lowest)
        return F.max_pool2d(padded, self.kernel, self.stride, ceil_mode=self.ceil)[..., :height, :width]


@layer("ReLU")
class ReLU(Layer):
    """max(x, 0) + slope min(x, 0)."""

    inplace = False  # set by the net where nothing else needs the bottom

    def forward(self, x: Tensor) -> Tensor:
        slope = self.param.relu_param.negative_slope
        return F.leaky_relu(x, slope, self.inplace) if slope else F.relu(x, self.inplace)


@function("Power", reshapes=False)
def _power(m: Layer, x: Tensor) -> Tensor:
    """(shift + scale x)^power."""
    p = m.param.power_param
    y = p.shift + p.scale * x
    return y if p.power == 1 else y.pow(p.power)


@function("Exp", "Log", reshapes=False)
def _exponential(m: Layer, x: Tensor) -> Tensor:
    """base^(shift + scale x), or log_base(shift + scale x); base -1 is e."""
    p = m.param.exp_param if m.kind == "Exp" else m.param.log_param
    y, rate = p.shift + p.scale * x, 1.0 if p.base == -1 else math.log(p.base)
    return (y * rate).exp() if m.kind == "Exp" else y.log() / rate


@function("MVN", reshapes=False)
def _normalised(m: Layer, x: Tensor) -> Tensor:
    """Each channel of each record (or all of them together) minus its mean, by its deviation."""
    p = m.param.mvn_param
    axes = tuple(range(1 if p.across_channels else 2, x.dim()))
    y = x - x.mean(axes, keepdim=True)
    return y / (y.square().mean(axes, keepdim=True).sqrt() + p.eps) if p.normalize_variance else y


_FUNCTIONS = {
    "Sigmoid": lambda m, x: torch.sigmoid(x),
    "TanH": lambda m, x: torch.tanh(x),
    "AbsVal": lambda m, x: torch.abs(x),
    "BNLL": lambda m, x: F.softplus(x),
    "ELU": lambda m, x: F.elu(x, m.param.elu_param.alpha),
    "Threshold": lambda m, x: (x > m.param.threshold_param.threshold).to(x.dtype),
    "Softmax": lambda m, x: x.softmax(m.axis(m.param.softmax_param.axis, x.shape)),
}


@function(*_FUNCTIONS, reshapes=False)
def _elementwise(m: Layer, x: Tensor) -> Tensor:
    """A function that keeps the shape."""
    return _FUNCTIONS[m.kind](m, x)


@function("Dropout", reshapes=False)
def _dropout(m: Layer, x: Tensor) -> Tensor:
    """Training: x mask / (1 - ratio); testing: x. Masks come from Caffe's stream, or from the device's generator."""
    ratio, c = m.param.dropout_param.dropout_ratio, m.context
    if not m.training or not ratio:
        return x
    if c.dropout == "torch":
        return F.dropout(x, ratio, training=True)
    # the masks of all processes are drawn everywhere, so that each takes its rows of the whole batch's mask
    mask = torch.from_numpy(c.random.bernoulli((c.world, *x.shape), 1 - ratio)[c.rank])
    return x * mask.to(x.device, x.dtype, non_blocking=True) * (1 / (1 - ratio))


@function("Concat", bottoms=(1, MANY))
def _concat(m: Layer, *bottoms: Tensor) -> Tensor:
    """Bottoms one after another along `axis`."""
    p = m.param.concat_param
    return torch.cat(bottoms, m.axis(p.concat_dim if p.HasField("concat_dim") else p.axis, bottoms[0].shape))


@function("Slice")
def _slice(m: Layer, x: Tensor) -> tuple[Tensor, ...]:
    """Parts along `axis`, cut at the slice points or in equal parts."""
    p, tops = m.param.slice_param, len(m.param.top)
    along = m.axis(p.slice_dim if p.HasField("slice_dim") else p.axis, x.shape)
    size = x.shape[along]
    points = [0, *p.slice_point, size] if p.slice_point else [size // tops * i for i in range(tops + 1)]
    parts = [b - a for a, b in zip(points, points[1:])]
    if len(parts) != tops or sum(parts) != size or min(parts) < 1:
        raise m.error(f"cuts {size} into {parts} for {tops} tops")
    return x.split(parts, along)


@function("Split", "Silence", bottoms=(1, MANY))
def _split(m: Layer, *bottoms: Tensor) -> tuple[Tensor, ...]:
    """The same blob under several names; under none (Silence), so that it is no output of the net."""
    return bottoms[:1] * len(m.param.top)


@layer("Eltwise")
class Eltwise(Layer):
    """Product, weighted sum or maximum of bottoms of one shape."""

    bottoms = (2, MANY)

    def setup(self, shapes: list[Shape]) -> None:
        p = self.param.eltwise_param
        if len(set(shapes)) > 1:
            raise self.error(f"joins shapes {shapes}; they must be equal")
        if p.coeff and (len(p.coeff) != len(shapes) or p.operation != 1):
            raise self.error(f"has {len(p.coeff)} coefficients for {len(shapes)} bottoms; only SUM takes them, all")

    def forward(self, *bottoms: Tensor) -> Tensor:
        p = self.param.eltwise_param
        out = bottoms[0] * p.coeff[0] if p.coeff else bottoms[0]
        for i, x in enumerate(bottoms[1:], 1):
            out = (out * x, out + (x * p.coeff[i] if p.coeff else x), torch.maximum(out, x))[p.operation]
        return out


@function("Flatten")
def _flatten(m: Layer, x: Tensor) -> Tensor:
    """Axes `axis` to `end_axis` as one."""
    p = m.param.flatten_param
    return x.flatten(m.axis(p.axis, x.shape), m.axis(p.end_axis, x.shape))


@function("Reshape")
def _reshape(m: Layer, x: Tensor) -> Tensor:
    """Another shape for the axes from `axis` on: 0 keeps an axis, one -1 is what remains."""
    p, shape = m.param.reshape_param, x.shape
    first = p.axis if p.axis >= 0 else len(shape) + 1 + p.axis
    last = len(shape) if p.num_axes == -1 else first + p.num_axes
    new = [shape[first + i] if d == 0 else d for i, d in enumerate(p.shape.dim)]
    out = (*shape[:first], *new, *shape[last:])
    if new.count(-1) > 1 or (-1 not in new and prod(out) != prod(shape)):
        raise m.error(f"makes {out} of {tuple(shape)}")
    return x.reshape(out)


@function("Permute")
def _permute(m: Layer, x: Tensor) -> Tensor:
    """Axes in another order; those that are not named follow (SSD)."""
    named = list(m.param.permute_param.order)
    return x.permute(*named, *(i for i in range(x.dim()) if i not in named))


@function("Crop", bottoms=(2, 2))
def _crop(m: Layer, x: Tensor, like: Tensor) -> Tensor:
    """The first bottom cut to the second one's size, on all axes from `axis` on."""
    p = m.param.crop_param
    first = m.axis(p.axis, x.shape)
    offsets = list(p.offset) or [0]
    offsets = offsets * (x.dim() - first) if len(offsets) == 1 else offsets
    if len(offsets) != x.dim() - first or like.dim() != x.dim():
        raise m.error(f"has {len(offsets)} offsets for the axes from {first} on of {tuple(x.shape)}")
    for axis, offset in enumerate(offsets, first):
        x = x.narrow(axis, offset, like.shape[axis])
    return x


@function("Tile")
def _tile(m: Layer, x: Tensor) -> Tensor:
    """The bottom `tiles` times one after another along `axis`."""
    p = m.param.tile_param
    if not 1 <= p.tiles <= LARGEST // x.numel():
        raise m.error(f"has {p.tiles} tiles of {tuple(x.shape)}, none or more values than any known network")
    return torch.cat([x] * p.tiles, m.axis(p.axis, x.shape))


@function("Reduction")
def _reduction(m: Layer, x: Tensor) -> Tensor:
    """Sum, sum of magnitudes or squares, or mean over all axes from `axis` on, times `coeff`."""
    p = m.param.reduction_param
    flat = x.flatten(m.axis(p.axis, x.shape))
    total = {1: flat.sum, 2: flat.abs().sum, 3: flat.square().sum, 4: flat.mean}[p.operation]
    return p.coeff * total(-1)


@function("ArgMax")
def _arg_max(m: Layer, x: Tensor) -> Tensor:
    """Indices of the `top_k` largest values of each record, with `out_max_val` the values too; or along `axis`."""
    p = m.param.argmax_param
    if p.HasField("axis"):
        found = x.topk(p.top_k, m.axis(p.axis, x.shape))
        return found.values if p.out_max_val else found.indices.float()
    found = x.flatten(1).topk(p.top_k)
    both = [found.indices.float(), found.values] if p.out_max_val else [found.indices.float()]
    return torch.stack(both, 1).reshape(len(x), len(both), p.top_k, *(1,) * max(x.dim() - 3, 0))
