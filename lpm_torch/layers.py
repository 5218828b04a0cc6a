"""What the pose machines share: named layers, pooling, the first belief maps."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lpm_torch.fft_conv import fft_conv2d, worthwhile


class Channels(NamedTuple):
    """Channel counts of a network; `width` 1.0 gives the original's 128, 512, 32 and (lstm) 48."""

    body: int  # encoders and belief generators
    head: int  # the two wide layers before the first belief map
    feature: int  # image features that meet the belief maps
    maps: int  # belief maps: joints and background

    @property
    def lstm(self) -> int:
        """Features, previous belief maps and the centre map."""
        return self.feature + self.maps + 1

    @classmethod
    def scaled(cls, width: float, maps: int) -> Channels:
        """The original's counts times `width`."""
        body, head, feature = (max(1, round(n * width)) for n in (128, 512, 32))
        return cls(body, head, feature, maps)


class SameConv(nn.Conv2d):
    """A stride-1 convolution that keeps the size (odd kernels); computed through spectra where that is faster."""

    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__(inputs, outputs, kernel, padding=kernel // 2)

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if worthwhile(x, weight):
            return fft_conv2d(x, weight, bias)
        return super()._conv_forward(x, weight, bias)


class NormalisedConv(SameConv):
    """A convolution followed by batch normalisation (`<name>.norm`)."""

    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__(inputs, outputs, kernel)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(N,inputs,H,W) -> (N,outputs,H,W)."""
        return self.norm(super().forward(x))


def add_batch_norm(model: PoseMachine) -> None:
    """Normalise the hidden layers of the encoders, of ConvNet1 and of the belief generators: no original has this, but
    without it the up to 30 layers hardly learn from scratch. The 5x5 and 3x3 convolutions, which feed concatenations
    and gates, stay as they are.
    """
    for name, layer in list(model.named_children()):
        hidden = isinstance(layer, nn.Conv2d) and layer.out_channels != model.channels.maps
        if hidden and layer.kernel_size[0] in (1, 9, 11):
            setattr(model, name, NormalisedConv(layer.in_channels, layer.out_channels, layer.kernel_size[0]))


def add_convs(module: nn.Module, pattern: str, channels: list[int], kernels: list[int], first: int = 1) -> None:
    """Register a chain of convolutions as `pattern` with {} replaced by first, first+1, ..."""
    for k, kernel in enumerate(kernels):
        module.add_module(pattern.format(k + first), SameConv(channels[k], channels[k + 1], kernel))


def chain(layers: list[nn.Module], x: Tensor, last_relu: bool) -> Tensor:
    """Convolutions with ReLU between them, and after the last if asked."""
    for layer in layers[:-1]:
        x = F.relu(layer(x))
    x = layers[-1](x)
    return F.relu(x) if last_relu else x


def fit(x: Tensor, size: torch.Size) -> Tensor:
    """Crop or zero-pad at the right and bottom to `size` (h, w): centre map and features may differ by a cell."""
    extra = [int(size[1]) - x.shape[-1], int(size[0]) - x.shape[-2]]
    return F.pad(x, (0, extra[0], 0, extra[1])) if any(extra) else x


class PoseMachine(nn.Module):
    """What all pose machines here share: named layers, pooling, the first belief maps."""

    pad, ceil = 0, False  # of every 3/2 max pool
    centre_pad = 0

    def layers(self, pattern: str, count: int, first: int = 1) -> list[nn.Module]:
        """The layers registered by `add_convs`."""
        return [getattr(self, pattern.format(k)) for k in range(first, first + count)]

    def pool(self, x: Tensor) -> Tensor:
        """Max pool 3, stride 2."""
        return F.max_pool2d(x, 3, 2, self.pad, ceil_mode=self.ceil)

    def pooled_features(self, layers: list[nn.Module], frames: Tensor) -> Tensor:
        """(N,3,S,S) -> (N,body,S/8,S/8): three times convolution, ReLU, pool."""
        for layer in layers:
            frames = self.pool(F.relu(layer(frames)))
        return frames

    def pooled_centre(self, centers: Tensor, size: torch.Size) -> Tensor:
        """(B,1,S,S) -> (B,1,*size): average pool 9, stride 8."""
        return fit(F.avg_pool2d(centers, 9, 8, self.centre_pad, ceil_mode=self.ceil), size)

    def output_size(self, size: int) -> int:
        """Side of the belief maps for input side `size`."""
        for _ in range(3):
            rounded = size + 2 * self.pad - 3 + (1 if self.ceil else 0)
            size = rounded // 2 + 1
        return size


def add_initial(module: nn.Module, c: Channels) -> None:
    """ConvNet1: conv1_stage1 ... conv7_stage1."""
    add_encoder(module, c, "conv{}_stage1")
    add_convs(module, "conv{}_stage1", [c.feature, c.head, c.head, c.maps], [9, 1, 1], first=5)


def add_encoder(module: nn.Module, c: Channels, pattern: str) -> None:
    """ConvNet2: four layers from pixels to features."""
    add_convs(module, pattern, [3, c.body, c.body, c.body, c.feature], [9, 9, 9, 5])


def add_generator(module: nn.Module, c: Channels, pattern: str) -> None:
    """ConvNet3: five layers from the LSTM's channels to belief maps."""
    add_convs(module, pattern, [c.lstm, c.body, c.body, c.body, c.body, c.maps], [11, 11, 11, 1, 1])


def first_belief(net: PoseMachine, images: Tensor, last_relu: bool = False, dropout=F.dropout2d) -> Tensor:
    """ConvNet1: (N,3,S,S) -> (N,maps,g,g), with dropout after the fifth and sixth layer."""
    x = net.pooled_features(net.layers("conv{}_stage1", 3), images)
    _, _, _, fourth, fifth, sixth, last = net.layers("conv{}_stage1", 7)
    x = F.relu(fifth(F.relu(fourth(x))))
    x = dropout(x, net.dropout, net.training)
    x = dropout(F.relu(sixth(x)), net.dropout, net.training)
    x = last(x)
    return F.relu(x) if last_relu else x
