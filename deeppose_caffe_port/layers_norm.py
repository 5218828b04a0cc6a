"""BatchNorm with Caffe's three statistics, and local response normalisation written for speed."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from deeppose_caffe_port.layers import Layer, Scale, Shape, layer


@layer("BatchNorm")
class BatchNorm(Layer):
    """Blobs: accumulated mean, accumulated (unbiased) variance, and the factor that both are divided by.

    A Scale layer that follows it is computed in the same pass when `forward` is given it. In several processes the
    batch is theirs together.
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
        self._accumulate(mean, variance)
        return y

    @torch.no_grad()
    def _accumulate(self, mean: Tensor, variance: Tensor) -> None:
        self.factor.mul_(self.fraction).add_(1)
        self.mean_sum.mul_(self.fraction).add_(mean.detach())
        self.variance_sum.mul_(self.fraction).add_(variance.detach())

    def _across_processes(self, x: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
        from torch.distributed.nn.functional import all_reduce

        total = all_reduce if self.context.world > 1 else torch.clone
        axes, view = [a for a in range(x.dim()) if a != 1], [1, -1] + [1] * (x.dim() - 2)
        mean = total(x.sum(axes)) / count
        centred = x - mean.view(view)
        variance = total(centred.square().sum(axes)) / count
        return centred * torch.rsqrt(variance + self.eps).view(view), mean, variance * (count / max(count - 1, 1))


class _AcrossChannels(torch.autograd.Function):
    """x (k + alpha/n sum x'^2)^-beta over n neighbouring channels, with one saved map besides x."""

    @staticmethod
    def forward(ctx, x: Tensor, size: int, alpha: float, beta: float, k: float) -> Tensor:
        base = window_sum(x * x, size).mul_(alpha / size).add_(k)
        ctx.save_for_backward(x, base)
        ctx.settings = size, alpha, beta
        return negative_power(base, beta).mul_(x)

    @staticmethod
    def backward(ctx, dy: Tensor):
        x, base = ctx.saved_tensors
        size, alpha, beta = ctx.settings
        power = negative_power(base, beta)
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
        root = base.sqrt()
        return root.mul_(root.sqrt()).reciprocal_()
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
        if torch.compiler.is_compiling() or torch.onnx.is_in_onnx_export():
            return F.local_response_norm(x, self.size, self.alpha, self.beta, self.k)
        return _AcrossChannels.apply(x, self.size, self.alpha, self.beta, self.k)
