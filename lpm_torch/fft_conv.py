"""Wide convolutions in the frequency domain (overlap-save), for float32 on CPUs: fewer multiplications.

A 9x9 convolution costs 81 multiplications an output, channel and input channel; on tiles of 40 pixels the spectrum
costs about 6. The kernel's transform is paid once a call, which is why it needs many tiles.
"""

from __future__ import annotations

import functools
import math

import torch
import torch.nn.functional as F
from torch import Tensor

TILES = (16, 20, 24, 32, 40, 48)
# Of the direct convolution's work. Measured (Intel, one thread; training): 0.9 times as fast at 0.27, 1.5 times at
# 0.24, twice at 0.14.
PAYS = 0.25


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
    if x.device.type != "cpu" or x.dtype != torch.float32:
        return False
    if torch.is_autocast_enabled("cpu") or torch.compiler.is_compiling():
        return False
    outputs, inputs, kernel, _ = weight.shape
    if kernel < 9 or inputs != outputs or inputs < 64 or x.shape[-1] < 2 * kernel:
        return False
    return _plan(len(x), *x.shape[-2:], inputs, kernel)[1] < PAYS


@functools.lru_cache
def _waves(n: int, kernel: int) -> tuple[Tensor, Tensor]:
    """cos and sin of 2 pi (k u + l v) / n: (n (n/2+1), kernel^2), frequencies (k, l) by positions (u, v)."""
    with torch.inference_mode(False):  # kept for later calls, which may want gradients
        row = torch.arange(n, dtype=torch.float64)[:, None] * torch.arange(kernel, dtype=torch.float64)
        phase = row[:, None, :, None] + row[: n // 2 + 1][None, :, None, :]
        angle = (2 * math.pi / n * phase).reshape(n * (n // 2 + 1), kernel**2)
        return angle.cos().float(), angle.sin().float()


def fft_conv2d(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """`F.conv2d(x, weight, bias, padding=k // 2)` for odd square k: (N,C,H,W) -> (N,O,H,W)."""
    (count, _, height, width), (outputs, inputs, kernel, _) = x.shape, weight.shape
    n = _plan(count, height, width, inputs, kernel)[0]
    step, pad = n - kernel + 1, kernel // 2
    rows, columns = math.ceil(height / step), math.ceil(width / step)
    x = F.pad(x, (pad, columns * step - width + pad, pad, rows * step - height + pad))
    tiles = x.unfold(2, n, step).unfold(3, n, step)
    spectra = torch.fft.rfft2(tiles).permute(4, 5, 0, 2, 3, 1).reshape(n * (n // 2 + 1), -1, inputs)
    cos, sin = _waves(n, kernel)
    flat = weight.permute(2, 3, 1, 0).reshape(kernel**2, inputs * outputs)
    transfer = torch.complex(cos @ flat, sin @ flat).view(-1, inputs, outputs)
    y = torch.bmm(spectra, transfer).view(n, n // 2 + 1, count, rows, columns, outputs).permute(2, 5, 3, 4, 0, 1)
    y = torch.fft.irfft2(y, (n, n))[..., :step, :step]
    y = y.permute(0, 1, 2, 4, 3, 5).reshape(count, outputs, rows * step, columns * step)
    return y[..., :height, :width] + bias[:, None, None]
