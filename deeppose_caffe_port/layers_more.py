"""Caffe layers that other people's nets use, and those of well-known forks: Permute, Normalize (SSD)."""

from __future__ import annotations

import torch
from torch import Tensor

from deeppose_caffe_port.layers import Layer, Shape, layer


@layer("Permute")
class Permute(Layer):
    """Axes in another order; those that are not named follow (SSD)."""

    reshapes = True

    def forward(self, x: Tensor) -> Tensor:
        named = list(self.param.permute_param.order)
        return x.permute(*named, *(i for i in range(x.dim()) if i not in named))


@layer("Crop")
class Crop(Layer):
    """The first bottom cut to the second one's size, on all axes from `axis` on."""

    bottoms, reshapes = (2, 2), True

    def forward(self, x: Tensor, like: Tensor) -> Tensor:
        p = self.param.crop_param
        first = self.axis(p.axis, x.shape)
        offsets = list(p.offset) or [0]
        offsets = offsets * (x.dim() - first) if len(offsets) == 1 else offsets
        if len(offsets) != x.dim() - first or like.dim() != x.dim():
            raise self.error(f"has {len(offsets)} offsets for the axes from {first} on of {tuple(x.shape)}")
        for axis, offset in enumerate(offsets, first):
            x = x.narrow(axis, offset, like.shape[axis])
        return x


@layer("Tile")
class Tile(Layer):
    """The bottom `tiles` times one after another along `axis`."""

    reshapes = True

    def forward(self, x: Tensor) -> Tensor:
        p = self.param.tile_param
        return torch.cat([x] * p.tiles, self.axis(p.axis, x.shape))


@layer("Reduction")
class Reduction(Layer):
    """Sum, sum of magnitudes or squares, or mean over all axes from `axis` on, times `coeff`."""

    reshapes = True

    def forward(self, x: Tensor) -> Tensor:
        p = self.param.reduction_param
        flat = x.flatten(self.axis(p.axis, x.shape))
        total = {1: flat.sum, 2: flat.abs().sum, 3: flat.square().sum, 4: flat.mean}[p.operation]
        return p.coeff * total(-1)


@layer("ArgMax")
class ArgMax(Layer):
    """Indices of the `top_k` largest values of each record, with `out_max_val` the values too; or along `axis`."""

    reshapes = True

    def forward(self, x: Tensor) -> Tensor:
        p = self.param.argmax_param
        if p.HasField("axis"):
            found = x.topk(p.top_k, self.axis(p.axis, x.shape))
            return found.values if p.out_max_val else found.indices.float()
        found = x.flatten(1).topk(p.top_k)
        both = [found.indices.float(), found.values] if p.out_max_val else [found.indices.float()]
        return torch.stack(both, 1).reshape(len(x), len(both), p.top_k, *(1,) * max(x.dim() - 3, 0))


@layer("MVN")
class MVN(Layer):
    """Each channel of each record (or all of them together) minus its mean, by its deviation."""

    def forward(self, x: Tensor) -> Tensor:
        p = self.param.mvn_param
        axes = tuple(range(1 if p.across_channels else 2, x.dim()))
        y = x - x.mean(axes, keepdim=True)
        return y / (y.square().mean(axes, keepdim=True).sqrt() + p.eps) if p.normalize_variance else y


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
