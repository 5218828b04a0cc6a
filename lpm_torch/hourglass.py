"""MobilePose's side networks: `hourglass` (recurrent, on each frame) and `coord_lpm` (coordinate output).

Neither runs in MobilePose itself; graphs and parameter names are the original's, so that its weights would load.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.errors import DataError
from lpm_torch.layers import Channels, SameConv, fit
from lpm_torch.lstm import GATES


class ConvBlock(nn.Module):
    """Batch normalisation, ReLU, 3x3 convolution."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = SameConv(inputs, outputs, 3)

    def forward(self, x: Tensor) -> Tensor:
        """(N,inputs,h,w) -> (N,outputs,h,w)."""
        return self.conv1(F.relu(self.bn1(x)))


class ResidualBlock(nn.Module):
    """Bottleneck 1x1, 3x3, 1x1, each normalised and rectified; the input is added only where the channel counts agree.

    `downsample` exists in the original's checkpoints, which never use it.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        half = outputs // 2
        plan = [(inputs, half, 1), (half, half, 3), (half, outputs, 1)]
        layers = [(nn.Conv2d(a, b, k, padding=k // 2, bias=False), nn.BatchNorm2d(b), nn.ReLU()) for a, b, k in plan]
        self.conv = nn.Sequential(*[layer for group in layers for layer in group])
        self.same = inputs == outputs
        if not self.same:
            self.downsample = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N,inputs,h,w) -> (N,outputs,h,w)."""
        y = self.conv(x)
        return x + y if self.same else y


class InvertedBlock(nn.Module):
    """Inverted residual (MobileNetV2): expand by 2, depthwise 3x3, ReLU6, linear 1x1."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        wide = 2 * inputs
        plan = [(inputs, wide, 1, 1), (wide, wide, 3, wide), (wide, outputs, 1, 1)]  # the last one linear
        convs = [nn.Conv2d(a, b, k, padding=k // 2, groups=g, bias=False) for a, b, k, g in plan]
        layers = [layer for conv in convs for layer in (conv, nn.BatchNorm2d(conv.out_channels), nn.ReLU6())]
        self.conv = nn.Sequential(*layers[:-1])
        self.same = inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """(N,inputs,h,w) -> (N,outputs,h,w)."""
        y = self.conv(x)
        return x + y if self.same else y


BLOCKS: dict[str, type] = {"conv": ConvBlock, "res": ResidualBlock, "inv": InvertedBlock}


class ConvGRUCell(nn.Module):
    """A convolutional GRU step from no state, as the original calls it: update * out, reset without effect.

    The gates' weights cover [input, state] as in the original's checkpoints; the half that would read the zero state is
    skipped.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        for gate in ("reset_gate", "update_gate", "out_gate"):
            layer = SameConv(2 * channels, channels, 3)
            nn.init.orthogonal_(layer.weight)
            nn.init.zeros_(layer.bias)
            self.add_module(gate, layer)

    def forward(self, x: Tensor) -> Tensor:
        """(N,C,h,w) -> (N,C,h,w)."""
        weight = torch.cat([self.update_gate.weight, self.out_gate.weight])[:, : x.shape[1]]
        both = F.conv2d(x, weight, torch.cat([self.update_gate.bias, self.out_gate.bias]), padding=1)
        update, out = both.chunk(2, 1)
        return torch.sigmoid(update) * torch.tanh(out)


class ConvGRU(nn.Module):
    """One-layer container that gives the cell its name in the checkpoints."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.ConvGRUCell_00 = ConvGRUCell(channels)

    def forward(self, x: Tensor) -> Tensor:
        """(N,C,h,w) -> (N,C,h,w)."""
        return self.ConvGRUCell_00(x)


class Hourglass(nn.Module):
    """A recursive hourglass with GRUs: `channels` -> `maps` at the input's size, which 2**(depth+1) must divide.

    layers[d] is [A, GRU, B] of level d+1; level 0, the innermost, has none of its own and uses A and GRU of the
    outermost level and B of the level around it (the original's index -1, kept).
    """

    def __init__(self, block: type[nn.Module], channels: int, maps: int, depth: int) -> None:
        super().__init__()
        outputs = [channels] * (depth - 1) + [maps]
        self.layers = nn.ModuleList(
            nn.ModuleList([block(channels, channels), ConvGRU(channels), block(channels, out)]) for out in outputs
        )

    def forward(self, x: Tensor, level: int | None = None) -> Tensor:
        """(N,channels,h,w) -> (N,maps,h,w)."""
        level = len(self.layers) if level is None else level
        before, memory, _ = self.layers[level - 1]
        x = memory(before(F.max_pool2d(x, 2)))
        if level > 0:
            x = x + self(x, level - 1)
        x = self.layers[max(level - 1, 0)][2](x)
        return F.interpolate(x, scale_factor=2.0, mode="nearest")


class RecurrentHourglass(nn.Module):
    """Stem, an hourglass for the first maps, `passes` passes of another over [features, last maps, centre].

    Frames are processed on their own (folded into the batch); maps are a quarter of the input's side, which
    2**(depth+3) must divide.
    """

    def __init__(
        self, joints: int = 14, width: float = 1.0, passes: int = 5, depth: int = 4, block: str = "res"
    ) -> None:
        super().__init__()
        if block not in BLOCKS:
            raise DataError(f"--block {block!r} is unknown: use one of {', '.join(BLOCKS)}")
        self.passes, self.depth = passes, depth
        body, wide = max(2, round(64 * width)), max(2, round(128 * width))
        maps = joints + 1
        self.channels = Channels(wide, wide, body, maps)
        kind = BLOCKS[block]
        self.conv1 = nn.Conv2d(3, body, 7, stride=2, padding=3)
        self.bn1 = nn.BatchNorm2d(body)
        self.res1, self.res2, self.res3 = kind(body, wide), kind(wide, wide), kind(wide, body)
        self.hg_0 = Hourglass(kind, body + 1, maps, depth)
        self.hg_t = Hourglass(kind, body + maps + 1, maps, depth)

    def output_size(self, size: int) -> int:
        """Side of the belief maps for input side `size`."""
        return size // 4

    def image_maps(self, images: Tensor, centers: Tensor) -> Tensor:
        """(N,3,S,S), (N,1,S,S) -> the maps of every pass (N,passes+1,maps,S/4,S/4)."""
        step = 2 ** (self.depth + 3)
        if images.shape[-1] % step or images.shape[-2] % step:
            got = tuple(images.shape[-2:])
            wanted = f"needs sides that {step} divides, not {got}: change --input_width or --depth"
            raise DataError(f"hourglass of depth {self.depth} {wanted}")
        x = self.res1(F.relu(self.bn1(self.conv1(images))))
        features = self.res3(self.res2(F.max_pool2d(x, 2)))
        centre = F.avg_pool2d(centers, 4)
        maps = [self.hg_0(torch.cat([features, centre], 1))]
        for _ in range(self.passes):
            maps.append(self.hg_t(torch.cat([features, maps[-1], centre], 1)))
        return torch.stack(maps, 1)

    def forward(self, frames: Tensor, centers: Tensor, steps: int | None = None) -> tuple[Tensor, Tensor]:
        """(B,T,3,S,S), (B,1,S,S) -> last pass (B,T,maps,g,g); all (B,(passes+1)T,maps,g,g), frames fastest.

        `steps` is for the LSTM networks and changes nothing here: the number of passes is fixed.
        """
        batch, count = frames.shape[:2]
        maps = self.image_maps(frames.flatten(0, 1), centers.repeat_interleave(count, 0)).unflatten(0, (batch, count))
        return maps[:, :, -1], maps.transpose(1, 2).flatten(1, 2)


def _encoder(c: Channels, inputs: int = 3) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for channels in (inputs, c.body, c.body):
        layers += [SameConv(channels, c.body, 9), nn.ReLU(), nn.MaxPool2d(3, 2)]
    return [*layers, SameConv(c.body, c.feature, 5), nn.ReLU()]


class _Named(nn.Sequential):
    """A sequence one level down, as the original's checkpoints name it."""

    def __init__(self, name: str, layers: list[nn.Module]) -> None:
        super().__init__()
        self.add_module(name, nn.Sequential(*layers))


class CoordLSTM(nn.Module):
    """The gate convolutions of `coord_lpm`, without batch normalisation."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        for q in ("i", "o", "g", "f"):
            self.add_module(f"{q}_x", SameConv(channels, channels, 3))
        for q in ("i", "o", "g", "f"):
            self.add_module(f"{q}_h", SameConv(channels, channels, 3))

    def forward(self, x: Tensor, hidden: Tensor | None, cell: Tensor | None) -> tuple[Tensor, Tensor]:
        """(B,C,g,g) input, state or None (zeros) -> hidden, cell. All gates: sigmoid; h-biases act from the start."""
        parts = ("x",) if hidden is None else ("x", "h")
        weight = torch.cat([torch.cat([getattr(self, f"{q}_{part}").weight for q in GATES]) for part in parts], 1)
        bias = sum(torch.cat([getattr(self, f"{q}_{part}").bias for q in GATES]) for part in ("x", "h"))
        gates = F.conv2d(x if hidden is None else torch.cat([x, hidden], 1), weight, bias, padding=1)
        g, f, i, o = torch.sigmoid(gates).chunk(4, 1)
        new = i * g if cell is None else f * cell + i * g
        return o * torch.tanh(new), new


class CoordStage(nn.Module):
    """Encoder, LSTM and belief generator of one time step."""

    def __init__(self, c: Channels) -> None:
        super().__init__()
        self.encode = _Named("encode", _encoder(c))
        self.lstm = CoordLSTM(c.lstm)
        sizes = [c.lstm, c.body, c.body, c.body, c.body, c.maps]
        convs = [SameConv(a, b, k) for a, b, k in zip(sizes, sizes[1:], (11, 11, 11, 1, 1))]
        layers = [layer for conv in convs for layer in (conv, nn.ReLU())]
        self.generate = _Named("generate", layers[:-1])


class CoordLPM(nn.Module):
    """LSTM Pose Machine without background, ending in soft-max and expected coordinates (DSNT, 1801.07372).

    Coordinates are x, y in (-1, 1): cell k of g lies at (2k + 1)/g - 1.
    """

    def __init__(self, joints: int = 14, width: float = 1.0, dropout: float = 0.5) -> None:
        super().__init__()
        self.channels = c = Channels.scaled(width, joints)
        wide = [SameConv(c.feature, c.head, 9), nn.ReLU(), nn.Dropout(dropout)]
        wide += [SameConv(c.head, c.head, 1), nn.ReLU(), nn.Dropout(dropout)]
        self.process = _Named("process", [*_encoder(c), *wide, SameConv(c.head, c.maps, 1)])
        self.stage = CoordStage(c)
        for name, module in self.named_modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
                nn.init.constant_(module.bias, 1.0 if name.endswith(("f_x", "f_h")) else 0.0)

    def output_size(self, size: int) -> int:
        """Side of the maps for input side `size`."""
        for _ in range(3):
            size = (size - 3) // 2 + 1
        return size

    def forward(
        self, frames: Tensor, centers: Tensor, steps: int | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """(B,T,3,S,S), (B,1,S,S) -> maps (B,T,joints,g,g); (maps, coordinates (B,T+1,joints,2)).

        The pair has the estimate before the first frame in front. `steps` reads a single frame (T = 1) that many times,
        encoded once.
        """
        count = frames.shape[1]
        features = self.stage.encode(frames.transpose(0, 1).flatten(0, 1)).unflatten(0, (count, -1))
        centre = fit(F.avg_pool2d(centers, 9, 8), features.shape[-2:])
        maps = [softmax_maps(self.process(frames[:, 0]))]
        hidden = cell = None
        for feature in features.expand(steps or count, -1, -1, -1, -1):
            hidden, cell = self.stage.lstm(torch.cat([feature, maps[-1], centre], 1), hidden, cell)
            maps.append(softmax_maps(self.stage.generate(hidden)))
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
