"""LSTM Pose Machines: `lpm`, `lpm_raw` (MobilePose's graphs and names), `lpm_official` (the authors').

Clips are (B,T,3,S,S), centre maps (B,1,S,S), belief maps (B,n,joints+1,g,g). Luo et al., LSTM Pose Machines (arXiv
1712.06316). ConvNet2 reads all frames of a clip in one call where they share its weights.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.errors import DataError
from lpm_torch.layers import PoseMachine, SameConv, chain


class State(NamedTuple):
    """What a recurrent network carries from frame to frame, all of one batch."""

    belief: Tensor  # (B,maps,g,g) belief maps of the previous frame (before the first frame: of ConvNet1)
    hidden: Tensor | None  # (B,C,g,g); None before a first frame without h-convolutions
    cell: Tensor | None  # (B,C,g,g)


class RecurrentPoseMachine(PoseMachine):
    """ConvNet1 on the first frame, then ConvNet2, a ConvLSTM step, ConvNet3 per frame. Subclasses name the layers and
    what stands behind a gate's convolutions (`after`)."""

    NAMES: dict[str, str] = {}

    def names(self, t: int) -> dict[str, str]:
        """Patterns of the names of frame t's layers (0-based): encoder, x, generator, and where it has them h, after."""
        return self.NAMES

    def after(self, gate: str) -> nn.Module:
        """A new layer of that kind."""
        return nn.BatchNorm2d(self.channels.lstm)

    def gate(self, name: str, after: nn.Module | None, pre: Tensor) -> Tensor:
        """A gate's value from its pre-activation: BN(sigmoid(pre))."""
        value = torch.sigmoid(pre)
        return after(value) if after else value

    def add_gates(self, names: dict[str, str]) -> None:
        """The layers of one stage's gates, in the originals' order of parameters; without h-convolutions no f gate."""
        size = self.channels.lstm
        for q in "gfio" if "h" in names else "gio":
            self.add_module(names["x"].format(q), SameConv(size, size, 3))
            if "h" in names:
                self.add_module(names["h"].format(q), SameConv(size, size, 3))
                self.add_module(names["after"].format(q), self.after(q))

    def features(self, t: int, frames: Tensor) -> Tensor:
        """ConvNet2 of frame t: (N,3,S,S) -> (N,feature,g,g)."""
        pattern = self.names(t)["encoder"]
        return F.relu(getattr(self, pattern.format(4))(self.pooled_features(pattern, frames)))

    def advance(self, t: int, features: Tensor, centers: Tensor, state: State) -> State:
        """Frame t's ConvLSTM step, c = i g + f c_prev, h = o tanh(c), and ConvNet3."""
        names, q = self.names(t), {}
        x = torch.cat([features, state.belief, self.pooled_centre(centers, features.shape[-2:])], 1)
        for name in "gfio" if "h" in names else "gio":
            pre = getattr(self, names["x"].format(name))(x)
            if state.hidden is not None:
                pre = pre + getattr(self, names["h"].format(name))(state.hidden)
            after = getattr(self, names["after"].format(name)) if "after" in names else None
            q[name] = self.gate(name, after, pre)
        cell = q["i"] * q["g"]
        if state.cell is not None:
            cell = cell + q["f"] * state.cell
        hidden = q["o"] * torch.tanh(cell)
        return State(chain(self.layers(names["generator"], 5), hidden, self.belief_relu), hidden, cell)

    def encode(self, frames: Tensor) -> list[Tensor]:
        """ConvNet2 of every frame of clips (B,T,3,S,S)."""
        features = self.features(0, frames.transpose(0, 1).flatten(0, 1))
        return list(features.unflatten(0, (frames.shape[1], -1)))

    def forward(self, frames: Tensor, centers: Tensor, steps: int | None = None) -> tuple[Tensor, Tensor]:
        """(B,T,3,S,S), (B,1,S,S) -> maps (B,T,maps,g,g); the same after ConvNet1's (B,T+1,maps,g,g). `steps` reads a
        single frame (T = 1) that many times."""
        state = self.init_state(frames[:, 0], centers)
        beliefs, features = [state.belief], self.encode(frames)
        for t, part in enumerate(features * (steps or 1) if len(features) == 1 else features):
            state = self.advance(t, part, centers, state)
            beliefs.append(state.belief)
        maps = torch.stack(beliefs, 1)
        return maps[:, 1:], maps

    def init_state(self, frame: Tensor, center: Tensor) -> State:
        """State before a sequence's first frame (B,3,S,S): ConvNet1's maps. `center` is not read."""
        return State(self.first_belief(frame), None, None)

    def step(self, frame: Tensor, center: Tensor, state: State) -> tuple[Tensor, State]:
        """One frame (B,3,S,S) with its centre map (B,1,S,S) -> its belief maps (B,maps,g,g) and the next state."""
        state = self.advance(0, self.features(0, frame), center, state)
        return state.belief, state


class LPM(RecurrentPoseMachine):
    """LSTM Pose Machine with weights shared over time, MobilePose's graph. Against the paper: sigmoid also on the g
    gate, batch normalisation after the sigmoids, ReLU on belief maps."""

    belief_relu = True
    NAMES = {"encoder": "conv{}_stage6", "generator": "Mres{}_stage6"}
    NAMES |= {"x": "{}_x_stage6", "h": "{}_h_stage6", "after": "{}_stage6"}

    def __init__(self, joints: int, width: float, dropout: float = 0.5) -> None:
        super().__init__(joints, width, dropout)
        self.add_encoder(self.NAMES["encoder"])
        self.add_generator(self.NAMES["generator"])
        self.add_gates(self.NAMES)

    def init_state(self, frame: Tensor, center: Tensor) -> State:
        """With zeros: the f gate and the biases of the h-convolutions act from the first frame on."""
        belief = self.first_belief(frame)
        zeros = belief.new_zeros(len(belief), self.channels.lstm, *belief.shape[-2:])
        return State(belief, zeros, zeros)


class LPMRaw(RecurrentPoseMachine):
    """`lpm` with its own layers per frame; clips may be shorter than T. The first frame has neither h-convolutions nor
    an f gate nor batch normalisation."""

    belief_relu = True

    def __init__(self, joints: int, width: float, dropout: float = 0.0, T: int = 5) -> None:
        super().__init__(joints, width, dropout)
        self.T = T
        for t in range(T):
            names = self.names(t)
            self.add_encoder(names["encoder"])
            self.add_gates(names)
            self.add_generator(names["generator"])

    def names(self, t: int) -> dict[str, str]:
        """Frame t is the original's stage t + 2."""
        s = f"_stage{t + 2}"
        gates = {"x": "{}_x" + s, "h": "{}_h" + s, "after": "{}" + s} if t else {"x": "{}_x" + s}
        return {"encoder": "conv{}" + s, **gates, "generator": ("Mres{}" if t else "Mconv{}") + s}

    def encode(self, frames: Tensor) -> list[Tensor]:
        """As the weights differ between frames, every frame is a call of its own."""
        if frames.shape[1] > self.T:
            remedy = "give shorter clips or a larger --t"
            raise DataError(f"lpm_raw was built for {self.T} frames and got {frames.shape[1]}: {remedy}")
        return [self.features(t, frame) for t, frame in enumerate(frames.unbind(1))]

    def forward(self, frames: Tensor, centers: Tensor, steps: int | None = None) -> tuple[Tensor, Tensor]:
        """As its parents'."""
        still = frames.shape[1] == 1
        return super().forward(frames.expand(-1, steps or 1, -1, -1, -1) if still else frames, centers)

    def step(self, frame: Tensor, center: Tensor, state: State) -> tuple[Tensor, State]:
        """Not defined: the weights belong to frame positions of a clip."""
        raise DataError("lpm_raw has other weights for every frame and cannot follow a video; use lpm or lpm_official")


class GateBias(nn.Module):
    """The learnable per-channel bias before a gate's nonlinearity (a Caffe Scale layer whose weight is fixed to 1)."""

    def __init__(self, channels: int, value: float) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.full((channels,), value))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bias[:, None, None]


class LPMOfficial(RecurrentPoseMachine):
    """The authors' network: 368 pixels, ceil-mode pools, tanh on g, gate biases, linear maps, any clip length.

    Layers are named as in the Caffe files, one a group; initial values are the training prototxt's.
    """

    ceil = True
    drop = staticmethod(F.dropout)
    GATE_BIAS = {"g": 0.0, "f": 1.0, "i": 1.4, "o": 0.2}
    NAMES = {"encoder": "conv{}_stage2", "x": "{}_x", "h": "{}_h", "after": "scale_{}", "generator": "Mres{}"}

    def __init__(self, joints: int, width: float, dropout: float = 0.5) -> None:
        super().__init__(joints, width, dropout)
        self.add_encoder(self.NAMES["encoder"])
        self.add_gates(self.NAMES)
        self.add_generator(self.NAMES["generator"])
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)
                nn.init.zeros_(module.bias)

    def after(self, gate: str) -> nn.Module:
        """A bias."""
        return GateBias(self.channels.lstm, self.GATE_BIAS[gate])

    def gate(self, name: str, after: nn.Module | None, pre: Tensor) -> Tensor:
        """tanh (g) or sigmoid (f, i, o) of pre + bias."""
        return (torch.tanh if name == "g" else torch.sigmoid)(after(pre) if after else pre)
