"""MobilePose's side networks: `hourglass` (recurrent, on each frame) and `coord_lpm` (coordinate output).

Neither runs in MobilePose itself; graphs and parameter names are the original's, so that its weights would load.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.errors import DataError
from lpm_torch.layers import SameConv, channels, fit


class ConvBlock(nn.Module):
    """Batch normalisation, ReLU, 3x3 convolution."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = SameConv(inputs, outputs, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv1(F.relu(self.bn1(x)))


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1, each normalised; the input is added where channel counts agree (`downsample` is never used).
    `inverted` (MobileNetV2): wide and depthwise in the middle, ReLU6, the last one linear."""

    def __init__(self, inputs: int, outputs: int, inverted: bool = False) -> None:
        super().__init__()
        inner = 2 * inputs if inverted else outputs // 2
        layers: list[nn.Module] = []
        for a, b, kernel in ((inputs, inner, 1), (inner, inner, 3), (inner, outputs, 1)):
            groups = inner if inverted and kernel == 3 else 1
            layers.append(nn.Conv2d(a, b, kernel, padding=kernel // 2, groups=groups, bias=False))
            layers += [nn.BatchNorm2d(b), nn.ReLU6() if inverted else nn.ReLU()]
        self.conv = nn.Sequential(*(layers[:-1] if inverted else layers))
        self.same = inputs == outputs
        if not self.same and not inverted:
            self.downsample = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return x + y if self.same else y


BLOCKS: dict[str, Any] = {"conv": ConvBlock, "res": Bottleneck, "inv": partial(Bottleneck, inverted=True)}


class ConvGRU(nn.Module):
    """A convolutional GRU step from no state, as the original calls it: update * out, reset without effect."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        gates = {q: SameConv(2 * channels, channels, 3) for q in ("reset_gate", "update_gate", "out_gate")}
        for layer in gates.values():
            nn.init.orthogonal_(layer.weight)
            nn.init.zeros_(layer.bias)
        self.ConvGRUCell_00 = nn.ModuleDict(gates)

    def forward(self, x: Tensor) -> Tensor:
        layers = [self.ConvGRUCell_00[q] for q in ("update_gate", "out_gate")]
        update, out = (F.conv2d(x, layer.weight[:, : x.shape[1]], layer.bias, padding=1) for layer in layers)
        return torch.sigmoid(update) * torch.tanh(out)


class Hourglass(nn.Module):
    """A recursive hourglass with GRUs. layers[d] is [A, GRU, B] of level d+1; level 0, the innermost, uses A and GRU of
    the outermost level and B of the level around it, as in the original."""

    def __init__(self, block, channels: int, maps: int, depth: int) -> None:
        super().__init__()
        outputs = [channels] * (depth - 1) + [maps]
        self.layers = nn.ModuleList(
            nn.ModuleList([block(channels, channels), ConvGRU(channels), block(channels, out)]) for out in outputs
        )

    def forward(self, x: Tensor, level: int | None = None) -> Tensor:
        level = len(self.layers) if level is None else level
        before, memory, _ = self.layers[level - 1]
        x = memory(before(F.max_pool2d(x, 2)))
        if level > 0:
            x = x + self(x, level - 1)
        x = self.layers[max(level - 1, 0)][2](x)
        return F.interpolate(x, scale_factor=2.0, mode="nearest")


class RecurrentHourglass(nn.Module):
    """Stem, an hourglass for the first maps, `passes` passes of another over [features, last maps, centre]; every frame
    on its own. Maps are a quarter of the input's side."""

    def __init__(self, joints: int, width: float, passes: int, depth: int, block: str) -> None:
        super().__init__()
        self.passes, self.depth = passes, depth
        body, wide, maps = max(2, round(64 * width)), max(2, round(128 * width)), joints + 1
        kind = BLOCKS[block]
        self.conv1 = nn.Conv2d(3, body, 7, stride=2, padding=3)
        self.bn1 = nn.BatchNorm2d(body)
        self.res1, self.res2, self.res3 = kind(body, wide), kind(wide, wide), kind(wide, body)
        self.hg_0 = Hourglass(kind, body + 1, maps, depth)
        self.hg_t = Hourglass(kind, body + maps + 1, maps, depth)

    def output_size(self, size: int) -> int:
        """Side of the maps for input side `size`. DataError where the hourglass cannot halve it so often."""
        step = 2 ** (self.depth + 3)
        if size % step:
            raise DataError(f"--input_width {size}: an hourglass of depth {self.depth} needs a multiple of {step}")
        return size // 4

    def image_maps(self, images: Tensor, centers: Tensor) -> Tensor:
        """(N,3,S,S), (N,1,S,S) -> the maps of every pass (N,passes+1,maps,S/4,S/4)."""
        self.output_size(images.shape[-1])
        x = self.res1(F.relu(self.bn1(self.conv1(images))))
        features = self.res3(self.res2(F.max_pool2d(x, 2)))
        centre = F.avg_pool2d(centers, 4)
        maps = [self.hg_0(torch.cat([features, centre], 1))]
        for _ in range(self.passes):
            maps.append(self.hg_t(torch.cat([features, maps[-1], centre], 1)))
        return torch.stack(maps, 1)

    def forward(self, frames: Tensor, centers: Tensor, steps: int | None = None) -> tuple[Tensor, Tensor]:
        """(B,T,3,S,S), (B,1,S,S) -> last pass (B,T,maps,g,g); all (B,(passes+1)T,maps,g,g), frames fastest."""
        batch, count = frames.shape[:2]
        maps = self.image_maps(frames.flatten(0, 1), centers.repeat_interleave(count, 0)).unflatten(0, (batch, count))
        return maps[:, :, -1], maps.transpose(1, 2).flatten(1, 2)


def _encoder(c) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for inputs in (3, c.body, c.body):
        layers += [SameConv(inputs, c.body, 9), nn.ReLU(), nn.MaxPool2d(3, 2)]
    return [*layers, SameConv(c.body, c.feature, 5), nn.ReLU()]


def _named(name: str, layers: list[nn.Module]) -> nn.Sequential:
    """A sequence one level down, as the original's checkpoints name it."""
    outer = nn.Sequential()
    outer.add_module(name, nn.Sequential(*layers))
    return outer


class CoordLPM(nn.Module):
    """LSTM Pose Machine without background, ending in soft-max and expected coordinates (DSNT, 1801.07372): x, y in
    (-1, 1), cell k of g at (2k + 1)/g - 1."""

    def __init__(self, joints: int, width: float, dropout: float = 0.5) -> None:
        super().__init__()
        c = channels(width, joints)
        wide = [SameConv(c.feature, c.head, 9), nn.ReLU(), nn.Dropout(dropout)]
        wide += [SameConv(c.head, c.head, 1), nn.ReLU(), nn.Dropout(dropout)]
        self.process = _named("process", [*_encoder(c), *wide, SameConv(c.head, c.maps, 1)])
        sizes = [c.lstm, c.body, c.body, c.body, c.body, c.maps]
        convs = [SameConv(a, b, k) for a, b, k in zip(sizes, sizes[1:], (11, 11, 11, 1, 1))]
        lstm = {f"{q}_{part}": SameConv(c.lstm, c.lstm, 3) for part in "xh" for q in "iogf"}
        generate = [layer for conv in convs for layer in (conv, nn.ReLU())][:-1]
        parts = {"encode": _named("encode", _encoder(c)), "lstm": nn.ModuleDict(lstm)}
        self.stage = nn.ModuleDict({**parts, "generate": _named("generate", generate)})
        for name, module in self.named_modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
                nn.init.constant_(module.bias, 1.0 if name.endswith(("f_x", "f_h")) else 0.0)

    def output_size(self, size: int) -> int:
        for _ in range(3):
            size = (size - 3) // 2 + 1
        return size

    def forward(self, frames: Tensor, centers: Tensor, steps: int | None = None):
        """(B,T,3,S,S), (B,1,S,S) -> maps (B,T,joints,g,g); (maps, coordinates (B,T+1,joints,2)), with the estimate
        before the first frame. `steps` reads a single frame (T = 1) that many times."""
        count, lstm = frames.shape[1], self.stage["lstm"]
        features = self.stage["encode"](frames.transpose(0, 1).flatten(0, 1)).unflatten(0, (count, -1))
        centre = fit(F.avg_pool2d(centers, 9, 8), features.shape[-2:])
        maps, hidden, cell = [softmax_maps(self.process(frames[:, 0]))], None, 0.0
        for feature in features.expand(steps or count, -1, -1, -1, -1):
            x = torch.cat([feature, maps[-1], centre], 1)
            hidden = torch.zeros_like(x) if hidden is None else hidden
            # all gates sigmoid, without normalisation
            i, o, g, f = (torch.sigmoid(lstm[f"{q}_x"](x) + lstm[f"{q}_h"](hidden)) for q in "iogf")
            cell = f * cell + i * g
            hidden = o * torch.tanh(cell)
            maps.append(softmax_maps(self.stage["generate"](hidden)))
        heat = torch.stack(maps, 1)
        return heat[:, 1:], (heat, expected_coordinates(heat))


def softmax_maps(x: Tensor) -> Tensor:
    """(...,h,w) -> the same, each map a distribution over its cells."""
    return x.flatten(-2).softmax(-1).unflatten(-1, x.shape[-2:])


def expected_coordinates(heat: Tensor) -> Tensor:
    """(...,h,w) maps that sum to 1 -> (...,2) expected x, y in (-1, 1)."""
    h, w = heat.shape[-2:]
    xs, ys = ((2 * torch.arange(n, device=heat.device, dtype=heat.dtype) + 1) / n - 1 for n in (w, h))
    return torch.stack([(heat.sum(-2) * xs).sum(-1), (heat.sum(-1) * ys).sum(-1)], -1)
