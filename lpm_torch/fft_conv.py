"""Wide convolutions in the frequency domain (overlap-save), for float32 on CPUs: fewer multiplications.

A 9x9 convolution costs 81 multiplications an output, channel and input channel; on tiles of 40 pixels the spectrum
costs about 6. The kernel's transform is paid once a call, which is why it needs many tiles: the frames of a clip in one
call.
"""

from __future__ import annotations

import functools
import math

import torch
import torch.nn.functional as F
from torch import Tensor

TILES = (16, 20, 24, 32, 40, 48)


@functools.lru_cache
def _plan(count: int, height: int, width: int, channels: int, kernel: int) -> tuple[int, float]:
    """(tile side with the least work, its share of the direct convolution's); transforms are a few dozen passes."""
    direct = count * height * width * kernel**2 * channels**2
    best = (0, math.inf)
    for n in TILES:
        tiles = count * math.ceil(height / (n - kernel + 1)) * math.ceil(width / (n - kernel + 1))
        frequencies = n * (n // 2 + 1)
        work = frequencies * channels * (4 * tiles * channels + 2 * kernel**2 * channels + 400 * tiles)
        best = min(best, (n, work / direct), key=lambda entry: entry[1])
    return best


def worthwhile(x: Tensor, weight: Tensor) -> bool:
    """Whether `fft_conv2d` is faster: float32 on a CPU, eager, a large square kernel, many channels and tiles."""
    if (
        x.device.type != "cpu"
        or x.dtype != torch.float32
        or torch.is_autocast_enabled("cpu")
        or torch.compiler.is_compiling()
    ):
        return False
    outputs, inputs, kernel, _ = weight.shape
    if kernel < 9 or inputs != outputs or inputs < 64 or x.shape[-1] < 2 * kernel:
        return False
    return _plan(len(x), *x.shape[-2:], inputs, kernel)[1] < 0.3  # measured: 1.6 times as fast there, 3 times at 0.1


@functools.lru_cache
def _waves(n: int, kernel: int) -> tuple[Tensor, Tensor]:
    """cos and sin of 2 pi (k u + l v) / n: (n (n/2+1), kernel^2), frequencies (k, l) by positions (u, v)."""
    with torch.inference_mode(False):  # kept for later calls, which may want gradients
        row = torch.arange(n, dtype=torch.float64)[:, None] * torch.arange(kernel, dtype=torch.float64)
        phase = row[:, None, :, None] + row[: n // 2 + 1][None, :, None, :]
        angle = (2 * math.pi / n * phase).reshape(n * (n // 2 + 1), kernel**2)
        return angle.cos().float(), angle.sin().float()


def _spectra(x: Tensor, n: int, step: int, pad: int, keep: int) -> Tensor:
    """Tiles of x (N,C,H,W), `keep` pixels every `step`, zero-padded to n -> (frequencies, tiles, C) complex."""
    rows, columns = (math.ceil(s / step) for s in x.shape[-2:])
    x = F.pad(
        x, (pad, columns * step - x.shape[-1] + keep - step - pad, pad, rows * step - x.shape[-2] + keep - step - pad)
    )
    tiles = x.unfold(2, keep, step).unfold(3, keep, step)
    return torch.fft.rfft2(tiles, (n, n)).permute(4, 5, 0, 2, 3, 1).reshape(n * (n // 2 + 1), -1, x.shape[1])


def _convolve(spectra: Tensor, weight: Tensor, n: int, count: int, height: int, width: int) -> Tensor:
    """Spectra of the input's tiles and a kernel (O,C,k,k) -> (N,O,H,W)."""
    outputs, inputs, kernel, _ = weight.shape
    step = n - kernel + 1
    rows, columns = math.ceil(height / step), math.ceil(width / step)
    cos, sin = _waves(n, kernel)
    flat = weight.permute(2, 3, 1, 0).reshape(kernel**2, inputs * outputs)
    transfer = torch.complex(cos @ flat, sin @ flat).view(-1, inputs, outputs)
    y = torch.bmm(spectra, transfer).view(n, n // 2 + 1, count, rows, columns, outputs).permute(2, 5, 3, 4, 0, 1)
    y = torch.fft.irfft2(y, (n, n))[..., :step, :step]
    return y.permute(0, 1, 2, 4, 3, 5).reshape(count, outputs, rows * step, columns * step)[..., :height, :width]


class _FFTConv2d(torch.autograd.Function):
    """The convolution and its gradients, both through spectra of tiles."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """(N,C,H,W), (O,C,k,k), (O,) -> (N,O,H,W), zero-padded to the same size."""
        kernel = weight.shape[-1]
        n = _plan(len(x), *x.shape[-2:], weight.shape[1], kernel)[0]
        spectra = _spectra(x, n, n - kernel + 1, kernel // 2, n)
        ctx.save_for_backward(spectra, weight)
        ctx.n, ctx.wants_x = n, ctx.needs_input_grad[0]
        return _convolve(spectra, weight, n, len(x), *x.shape[-2:]) + bias[:, None, None]

    @staticmethod
    def backward(ctx, grad: Tensor):
        """Gradients of input (None when nobody asks), weight and bias."""
        spectra, weight = ctx.saved_tensors
        outputs, inputs, kernel, _ = weight.shape
        n, step, size = ctx.n, ctx.n - kernel + 1, grad.shape[-2:]
        # kernel: correlation of each input tile with its output tile's gradient, at the kernel's lags
        own = _spectra(grad, n, step, 0, step)
        product = torch.bmm(spectra.transpose(1, 2), own.conj())
        cos, sin = _waves(n, kernel)
        twice = torch.full((n, n // 2 + 1, 1), 2.0 / n**2)  # the other half of the spectrum is conjugate
        twice[:, 0] = 1.0 / n**2
        twice[:, n // 2] = 1.0 / n**2
        twice = twice.view(-1, 1)
        product = product.view(len(cos), inputs * outputs)
        lags = (cos * twice).t() @ product.real - (sin * twice).t() @ product.imag
        grad_weight = lags.view(kernel, kernel, inputs, outputs).permute(3, 2, 0, 1)
        grad_x = None
        if ctx.wants_x:
            turned = weight.flip(2, 3).transpose(0, 1)
            grad_x = _convolve(_spectra(grad, n, step, kernel // 2, n), turned, n, len(grad), *size)
        return grad_x, grad_weight, grad.sum((0, 2, 3))


def fft_conv2d(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """`F.conv2d(x, weight, bias, padding=k // 2)` for odd square k: (N,C,H,W) -> (N,O,H,W), differentiable once."""
    return _FFTConv2d.apply(x, weight, bias)
