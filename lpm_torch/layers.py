"""What the pose machines share: named layers, pooling, ConvNet1."""

from __future__ import annotations

from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lpm_torch.fft_conv import fft_conv2d, worthwhile


def channels(width: float, maps: int) -> SimpleNamespace:
    """Channel counts: `body` of encoders and generators, `head` of the wide layers before the first belief map,
    `feature` of the image features, `maps`, `lstm` of all that meets; `width` 1.0 is the original's 128, 512, 32."""
    body, head, feature = (max(1, round(n * width)) for n in (128, 512, 32))
    return SimpleNamespace(body=body, head=head, feature=feature, maps=maps, lstm=feature + maps + 1)


class SameConv(nn.Conv2d):
    """A stride-1 convolution that keeps the size (odd kernels), through spectra where that is faster; then `norm`."""

    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__(inputs, outputs, kernel, padding=kernel // 2)
        self.norm: nn.Module | None = None

    def forward(self, x: Tensor) -> Tensor:
        """(N,inputs,H,W) -> (N,outputs,H,W)."""
        y = fft_conv2d(x, self.weight, self.bias) if worthwhile(x, self.weight) else super().forward(x)
        return y if self.norm is None else self.norm(y)


def chain(layers: list[nn.Module], x: Tensor, last_relu: bool) -> Tensor:
    """Convolutions with ReLU between them, and after the last if asked."""
    for layer in layers[:-1]:
        x = F.relu(layer(x))
    x = layers[-1](x)
    return F.relu(x) if last_relu else x


def fit(x: Tensor, size: torch.Size) -> Tensor:
    """Crop or zero-pad at the right and bottom to `size` (h, w): centre map and features may differ by a cell."""
    return F.pad(x, (0, int(size[1]) - x.shape[-1], 0, int(size[0]) - x.shape[-2]))


class PoseMachine(nn.Module):
    """A network that begins with ConvNet1 and reads its layers by their names; subclasses add the others."""

    pad, ceil, centre_pad = 0, False, 0  # of the 3/2 max pools, and of the centre map's average pool
    belief_relu = False  # whether belief maps are rectified
    drop = staticmethod(F.dropout2d)

    def __init__(self, joints: int, width: float, dropout: float) -> None:
        super().__init__()
        self.dropout, self.channels = dropout, channels(width, joints + 1)
        c = self.channels
        self.add_encoder("conv{}_stage1")
        self.add_convs("conv{}_stage1", [c.feature, c.head, c.head, c.maps], [9, 1, 1], first=5)

    def add_convs(self, pattern: str, sizes: list[int], kernels: list[int], first: int = 1) -> None:
        """Register a chain of convolutions as `pattern` with {} replaced by first, first+1, ..."""
        for k, kernel in enumerate(kernels):
            self.add_module(pattern.format(k + first), SameConv(sizes[k], sizes[k + 1], kernel))

    def add_encoder(self, pattern: str) -> None:
        """ConvNet2: four layers from pixels to features."""
        c = self.channels
        self.add_convs(pattern, [3, c.body, c.body, c.body, c.feature], [9, 9, 9, 5])

    def add_generator(self, pattern: str) -> None:
        """ConvNet3: five layers from the LSTM's channels to belief maps."""
        c = self.channels
        self.add_convs(pattern, [c.lstm, c.body, c.body, c.body, c.body, c.maps], [11, 11, 11, 1, 1])

    def layers(self, pattern: str, count: int, first: int = 1) -> list[nn.Module]:
        """The layers registered by `add_convs`."""
        return [getattr(self, pattern.format(k)) for k in range(first, first + count)]

    def pooled_features(self, pattern: str, frames: Tensor) -> Tensor:
        """(N,3,S,S) -> (N,body,S/8,S/8): three times convolution, ReLU, max pool 3/2. The ReLU comes last, which is the
        same and has a quarter of the cells to look at: a tenth of a training step on a CPU.
        """
        for layer in self.layers(pattern, 3):
            frames = F.relu(F.max_pool2d(layer(frames), 3, 2, self.pad, ceil_mode=self.ceil))
        return frames

    def pooled_centre(self, centers: Tensor, size: torch.Size) -> Tensor:
        """(B,1,S,S) -> (B,1,*size): average pool 9, stride 8."""
        return fit(F.avg_pool2d(centers, 9, 8, self.centre_pad, ceil_mode=self.ceil), size)

    def output_size(self, size: int) -> int:
        """Side of the belief maps for input side `size`."""
        for _ in range(3):
            size = (size + 2 * self.pad - 3 + self.ceil) // 2 + 1
        return size

    def first_belief(self, images: Tensor) -> Tensor:
        """ConvNet1: (N,3,S,S) -> (N,maps,g,g), with dropout after the fifth and sixth layer."""
        x = self.pooled_features("conv{}_stage1", images)
        fourth, fifth, sixth, last = self.layers("conv{}_stage1", 4, first=4)
        x = F.relu(fifth(F.relu(fourth(x))))
        x = self.drop(x, self.dropout, self.training)
        x = self.drop(F.relu(sixth(x)), self.dropout, self.training)
        return chain([last], x, self.belief_relu)


def add_batch_norm(model: PoseMachine) -> None:
    """Normalise the hidden layers, but not those that feed concatenations and gates: no original has this, but without
    it the up to 30 layers hardly learn from scratch."""
    for layer in model.children():
        if isinstance(layer, SameConv) and layer.out_channels != model.channels.maps:
            if layer.kernel_size[0] in (1, 9, 11):
                layer.norm = nn.BatchNorm2d(layer.out_channels)


def kaiming_init(model: PoseMachine) -> None:
    """He et al.'s normal initialisation of every convolution, biases 0 (arXiv 1502.01852); PyTorch's default shrinks
    the signal by about sqrt(6) a layer. Layers that give belief maps start small, with a bias that keeps ReLU alive."""
    maps = model.channels.maps
    for name, module in model.named_modules():
        if not isinstance(module, nn.Conv2d):
            continue
        nn.init.zeros_(module.bias)
        if name == "final_layer":
            # every channel starts as the mean of its own four cells, so that deep supervision reaches the right maps
            module.weight.data.copy_(torch.eye(maps)[:, :, None, None].expand(-1, -1, 2, 2) / 4)
        elif module.out_channels == maps and module.kernel_size == (1, 1):
            nn.init.normal_(module.weight, std=0.01)
            nn.init.constant_(module.bias, 0.01)
        else:
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
