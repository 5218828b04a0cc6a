"""Caffe layers without weights (PReLU excepted): pooling, activations, dropout, what joins or reshapes blobs."""

from __future__ import annotations

from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor

from deeppose_caffe_port.layers import Layer, Shape, layer, window

_MANY = 10**6


@layer("Pooling")
class Pooling(Layer):
    """MAX or AVE over windows clipped to the image, as many as Caffe's ceil rule gives."""

    def setup(self, shapes: list[Shape]) -> None:
        p, shape = self.param.pooling_param, shapes[0]
        if len(shape) != 4 or p.pool == 2:
            raise self.error(f"supports MAX and AVE (not STOCHASTIC) on 4 axes, its bottom is {shape}")
        self.whole, self.average = p.global_pooling, p.pool == 1
        self.kernel = shape[2:] if p.global_pooling else window(p, "kernel_size", "kernel_h", "kernel_w", 0, self)
        self.stride = (1, 1) if p.global_pooling else window(p, "stride", "stride_h", "stride_w", 1, self)
        self.pad = (0, 0) if p.global_pooling else window(p, "pad", "pad_h", "pad_w", 0, self)
        if min(self.kernel) < 1 or any(pad >= k for pad, k in zip(self.pad, self.kernel)):
            raise self.error(f"has kernel {self.kernel} and pad {self.pad}; the pad must be smaller than the kernel")
        self.top_shapes = [(*shape[:2], *self.size(shape[2:]))]

    def size(self, size: Shape) -> Shape:
        """Height and width of the top; DataError where Caffe would make a window without a pixel in it."""
        out = []
        for n, k, s, p in zip(size, self.kernel, self.stride, self.pad):
            count = -(-(n + 2 * p - k) // s) + 1
            if max(self.pad) and (count - 1) * s >= n + p:
                count -= 1
            if count < 1 or (count - 1) * s >= n + p:
                window = f"kernel {k}, stride {s}, pad {p} on {n} pixels"
                raise self.error(f"has {window}: an empty window in Caffe; crop its bottom")
            out.append(count)
        return tuple(out)

    def forward(self, x: Tensor) -> Tensor:
        if self.whole:
            return x.mean((2, 3), keepdim=True) if self.average else x.amax((2, 3), keepdim=True)
        if self.average and all(2 * p <= k for p, k in zip(self.pad, self.kernel)):
            return F.avg_pool2d(x, self.kernel, self.stride, self.pad, ceil_mode=True, count_include_pad=True)
        if self.average:
            raise self.error(f"AVE with pad {self.pad} of more than half the kernel {self.kernel} is not supported")
        if all(2 * p <= k for p, k in zip(self.pad, self.kernel)):
            return F.max_pool2d(x, self.kernel, self.stride, self.pad, ceil_mode=True)
        height, width = self.size(x.shape[2:])
        (ph, pw), lowest = self.pad, torch.finfo(x.dtype).min
        padded = F.max_pool2d(F.pad(x, (pw, pw, ph, ph), value=lowest), self.kernel, self.stride, ceil_mode=True)
        return padded[..., :height, :width]


@layer("ReLU")
class ReLU(Layer):
    """max(x, 0) + slope min(x, 0)."""

    inplace = False  # set by the net where nothing else needs the bottom

    def forward(self, x: Tensor) -> Tensor:
        slope = self.param.relu_param.negative_slope
        return F.leaky_relu(x, slope, self.inplace) if slope else F.relu(x, self.inplace)


@layer("PReLU")
class PReLU(Layer):
    """max(x, 0) + a min(x, 0), a learned for each channel or one for all."""

    def setup(self, shapes: list[Shape]) -> None:
        p = self.param.prelu_param
        filler = type(p.filler)()
        filler.CopyFrom(p.filler)
        if not p.HasField("filler"):
            filler.value = 0.25
        self.add_blob("weight", () if p.channel_shared else (shapes[0][1],), filler)

    def forward(self, x: Tensor) -> Tensor:
        return F.prelu(x, self.weight.reshape(-1))


_FUNCTIONS = {"Sigmoid": torch.sigmoid, "TanH": torch.tanh, "AbsVal": torch.abs, "BNLL": F.softplus}


@layer(*_FUNCTIONS)
class Function(Layer):
    """An elementwise function without parameters."""

    def forward(self, x: Tensor) -> Tensor:
        return _FUNCTIONS[self.param.type](x)


@layer("ELU")
class ELU(Layer):
    """x above 0, alpha (exp(x) - 1) below."""

    def forward(self, x: Tensor) -> Tensor:
        return F.elu(x, self.param.elu_param.alpha)


@layer("Power")
class Power(Layer):
    """(shift + scale x)^power."""

    def forward(self, x: Tensor) -> Tensor:
        p = self.param.power_param
        y = p.shift + p.scale * x
        return y if p.power == 1 else y.pow(p.power)


@layer("Dropout")
class Dropout(Layer):
    """Training: x mask / (1 - ratio); testing: x. Masks come from Caffe's stream, or from the device's generator."""

    def forward(self, x: Tensor) -> Tensor:
        ratio, c = self.param.dropout_param.dropout_ratio, self.context
        if not self.training or not ratio:
            return x
        if c.dropout == "torch":
            return F.dropout(x, ratio, training=True)
        # the masks of all processes are drawn everywhere, so that each takes its rows of the whole batch's mask
        mask = torch.from_numpy(c.random.bernoulli((c.world, *x.shape), 1 - ratio)[c.rank])
        return x * mask.to(x.device, x.dtype, non_blocking=True) * (1 / (1 - ratio))


@layer("Softmax")
class Softmax(Layer):
    """Softmax along `axis`."""

    def forward(self, x: Tensor) -> Tensor:
        return x.softmax(self.axis(self.param.softmax_param.axis, x.shape))


@layer("Concat")
class Concat(Layer):
    """Bottoms one after another along `axis`."""

    bottoms = (1, _MANY)

    def setup(self, shapes: list[Shape]) -> None:
        p = self.param.concat_param
        self.along = self.axis(p.concat_dim if p.HasField("concat_dim") else p.axis, shapes[0])
        rest = {(*s[: self.along], *s[self.along + 1 :]) for s in shapes}
        if len(rest) > 1:
            raise self.error(f"joins shapes {shapes}, which differ on another axis than {self.along}")
        first = list(shapes[0])
        first[self.along] = sum(s[self.along] for s in shapes)
        self.top_shapes = [tuple(first)]

    def forward(self, *bottoms: Tensor) -> Tensor:
        return torch.cat(bottoms, self.along)


@layer("Slice")
class Slice(Layer):
    """Parts along `axis`, cut at the slice points or in equal parts."""

    def setup(self, shapes: list[Shape]) -> None:
        p, shape, tops = self.param.slice_param, shapes[0], len(self.param.top)
        self.along = self.axis(p.slice_dim if p.HasField("slice_dim") else p.axis, shape)
        points = [0, *p.slice_point, shape[self.along]]
        if not p.slice_point:
            points = [shape[self.along] * i // tops for i in range(tops + 1)]
        self.parts = [b - a for a, b in zip(points, points[1:])]
        if len(self.parts) != tops or min(self.parts) < 1 or (not p.slice_point and shape[self.along] % tops):
            raise self.error(f"cuts {shape[self.along]} into {self.parts} for {tops} tops")
        self.top_shapes = [(*shape[: self.along], n, *shape[self.along + 1 :]) for n in self.parts]

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return x.split(self.parts, self.along)


@layer("Split")
class Split(Layer):
    """The same blob under several names."""

    def setup(self, shapes: list[Shape]) -> None:
        self.top_shapes = [shapes[0]] * len(self.param.top)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return (x,) * len(self.param.top)


@layer("Silence")
class Silence(Layer):
    """Takes blobs that nobody reads out of the net's outputs."""

    bottoms = (1, _MANY)

    def setup(self, shapes: list[Shape]) -> None:
        self.top_shapes = []

    def forward(self, *bottoms: Tensor) -> tuple:
        return ()


@layer("Eltwise")
class Eltwise(Layer):
    """Product, weighted sum or maximum of bottoms of one shape."""

    bottoms = (2, _MANY)

    def setup(self, shapes: list[Shape]) -> None:
        p = self.param.eltwise_param
        if len(set(shapes)) > 1:
            raise self.error(f"joins shapes {shapes}; they must be equal")
        if p.coeff and len(p.coeff) != len(shapes):
            raise self.error(f"has {len(p.coeff)} coefficients for {len(shapes)} bottoms")

    def forward(self, *bottoms: Tensor) -> Tensor:
        p = self.param.eltwise_param
        out = bottoms[0] * p.coeff[0] if p.coeff and p.operation == 1 else bottoms[0]
        for i, x in enumerate(bottoms[1:], 1):
            out = (out * x, out + (x * p.coeff[i] if p.coeff else x), torch.maximum(out, x))[p.operation]
        return out


@layer("Flatten")
class Flatten(Layer):
    """Axes `axis` to `end_axis` as one."""

    def setup(self, shapes: list[Shape]) -> None:
        p, shape = self.param.flatten_param, shapes[0]
        self.span = self.axis(p.axis, shape), self.axis(p.end_axis, shape)
        first, last = self.span
        self.top_shapes = [(*shape[:first], prod(shape[first : last + 1]), *shape[last + 1 :])]

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(*self.span)


@layer("Reshape")
class Reshape(Layer):
    """Another shape for the axes from `axis` on: 0 keeps an axis, one -1 is what remains."""

    def setup(self, shapes: list[Shape]) -> None:
        self.top_shapes = [self.shape(shapes[0])]

    def shape(self, shape: Shape) -> Shape:
        """The top's shape for a bottom of `shape`."""
        p = self.param.reshape_param
        first = p.axis if p.axis >= 0 else len(shape) + 1 + p.axis
        last = len(shape) if p.num_axes == -1 else first + p.num_axes
        new = [shape[first + i] if d == 0 else d for i, d in enumerate(p.shape.dim)]
        known = prod(d for d in new if d != -1) * prod(shape[:first]) * prod(shape[last:])
        rest = prod(shape) // known if known else 0
        out = (*shape[:first], *(rest if d == -1 else d for d in new), *shape[last:])
        if prod(out) != prod(shape) or new.count(-1) > 1:
            raise self.error(f"makes {out} of {shape}")
        return out

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(self.shape(tuple(x.shape)))
