"""LSTM Pose Machines: `lpm`, `lpm_raw` (MobilePose's graphs and names), `lpm_official` (the authors').

Clips are (B,T,3,S,S), centre maps (B,1,S,S), belief maps (B,n,joints+1,g,g). Luo et al., LSTM Pose Machines (arXiv
1712.06316). Everything that does not depend on the recurrent state is computed for all frames of a clip in one call,
and the convolutions of the four gates are one convolution each, with the weights concatenated at run time: the
parameters keep the originals' names.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.errors import DataError
from lpm_torch.layers import (
    Channels,
    PoseMachine,
    SameConv,
    add_encoder,
    add_generator,
    add_initial,
    chain,
    first_belief,
)

GATES = ("g", "f", "i", "o")


class State(NamedTuple):
    """What a recurrent network carries from frame to frame, all of one batch."""

    belief: Tensor  # (B,maps,g,g) belief maps of the previous frame (before the first frame: of ConvNet1)
    hidden: Tensor  # (B,C,g,g)
    cell: Tensor  # (B,C,g,g)
    steps: Tensor  # (B,1,1,1) number of frames seen


class Stage(NamedTuple):
    """The layers that process one frame."""

    encoder: list[nn.Module]
    x: dict[str, nn.Module]  # gate -> convolution of [features, belief, centre]
    h: dict[str, nn.Module]  # gate -> convolution of the hidden state
    after: dict[str, nn.Module]  # gate -> batch normalisation (MobilePose) or bias (authors)
    generator: list[nn.Module]


class GateWeights(NamedTuple):
    """The convolutions of all gates of a stage as one, split by what they read."""

    image: Tensor
    centre: Tensor
    belief: Tensor
    recurrent: Tensor | None  # belief maps and hidden state; None where the stage has no h-convolutions
    bias_x: Tensor
    bias_h: Tensor | None


class RecurrentPoseMachine(PoseMachine):
    """ConvNet1 on the first frame, then ConvNet2, a ConvLSTM step, ConvNet3 per frame. Subclasses name the layers."""

    belief_relu = True
    dropout_kind = staticmethod(F.dropout2d)

    def __init__(self, joints: int, width: float, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.channels = Channels.scaled(width, joints + 1)
        add_initial(self, self.channels)

    def stage(self, t: int) -> Stage:
        """The layers of frame t (0-based)."""
        raise NotImplementedError

    def gate(self, stage: Stage, name: str, pre: Tensor) -> Tensor:
        """A gate's value from its pre-activation."""
        raise NotImplementedError

    def cell(self, stage: Stage, gates: dict[str, Tensor], cell: Tensor | None) -> tuple[Tensor, Tensor]:
        """Gate pre-activations and previous cell -> hidden state h = o tanh(c) and cell c = i g + f c_prev."""
        q = {name: self.gate(stage, name, pre) for name, pre in gates.items()}
        new = q["i"] * q["g"]
        if cell is not None:
            new = new + q["f"] * cell
        return q["o"] * torch.tanh(new), new

    def gate_weights(self, stage: Stage) -> GateWeights:
        """Concatenate the stage's gate convolutions along the output channels and split them by input."""
        weight, bias = (torch.cat([getattr(m, p) for m in stage.x.values()]) for p in ("weight", "bias"))
        image, belief, centre = weight.split([self.channels.feature, self.channels.maps, 1], 1)
        if not stage.h:
            return GateWeights(image, centre, belief, None, bias, None)
        hidden, bias_h = (torch.cat([getattr(m, p) for m in stage.h.values()]) for p in ("weight", "bias"))
        return GateWeights(image, centre, belief, torch.cat([belief, hidden], 1), bias, bias_h)

    def inputs(self, stage: Stage, weights: GateWeights, frames: Tensor, centers: Tensor) -> Tensor:
        """(T,B,3,S,S) frames -> (T,B,gates*C,g,g): the part of the gates' pre-activations that no state enters."""
        x = self.pooled_features(stage.encoder[:3], frames.flatten(0, 1))
        features = F.relu(stage.encoder[3](x))
        centre = self.pooled_centre(centers, features.shape[-2:])
        image = F.conv2d(features, weights.image, weights.bias_x, padding=1)
        return image.unflatten(0, frames.shape[:2]) + F.conv2d(centre, weights.centre, padding=1)

    def advance(
        self, stage: Stage, weights: GateWeights, x: Tensor, belief: Tensor, hidden: Tensor | None, cell: Tensor | None
    ):
        """One ConvLSTM step and ConvNet3 -> belief, hidden, cell; hidden and cell are None at the first frame."""
        if hidden is None:
            gates = x + F.conv2d(belief, weights.belief, padding=1)
        else:
            gates = x + F.conv2d(torch.cat([belief, hidden], 1), weights.recurrent, weights.bias_h, padding=1)
        hidden, cell = self.cell(stage, dict(zip(stage.x, gates.chunk(len(stage.x), 1))), cell)
        return chain(stage.generator, hidden, self.belief_relu), hidden, cell

    def start(self, belief: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Hidden state and cell before a clip; None where the first frame has no h-convolutions and no f gate."""
        return None, None

    def clip_inputs(self, frames: Tensor, centers: Tensor, steps: int) -> list[tuple[Stage, GateWeights, Tensor]]:
        """Layers, joined weights and input part of every step; layers that all frames share are one call."""
        stage = self.stage(0)
        weights = self.gate_weights(stage)
        # Time first, so that every frame's slice is contiguous.
        inputs = list(self.inputs(stage, weights, frames.transpose(0, 1), centers))
        return [(stage, weights, x) for x in (inputs * steps if len(inputs) == 1 else inputs)]

    def forward(self, frames: Tensor, centers: Tensor, steps: int | None = None) -> tuple[Tensor, Tensor]:
        """(B,T,3,S,S), (B,1,S,S) -> maps (B,T,maps,g,g); the same after ConvNet1's first map (B,T+1,maps,g,g).

        `steps` reads a single frame (T = 1) that many times, as a clip of equal frames, but encodes it once.
        """
        beliefs = [self.initial(frames[:, 0])]
        hidden, cell = self.start(beliefs[0])
        for stage, weights, x in self.clip_inputs(frames, centers, steps or 1):
            belief, hidden, cell = self.advance(stage, weights, x, beliefs[-1], hidden, cell)
            beliefs.append(belief)
        maps = torch.stack(beliefs, 1)
        return maps[:, 1:], maps

    def initial(self, frame: Tensor) -> Tensor:
        """ConvNet1's belief maps of (B,3,S,S)."""
        return first_belief(self, frame, self.belief_relu, self.dropout_kind)

    def init_state(self, frame: Tensor, center: Tensor) -> State:
        """State before a sequence's first frame (B,3,S,S): ConvNet1's maps and zeros. `center` is not read."""
        belief = self.initial(frame)
        return State(belief, *self.zeros(belief), belief.new_zeros(len(belief), 1, 1, 1))

    def zeros(self, belief: Tensor) -> tuple[Tensor, Tensor]:
        """Hidden state and cell: two tensors, as torch.export takes one tensor given twice for one input."""
        shape = (len(belief), self.channels.lstm, *belief.shape[-2:])
        return belief.new_zeros(shape), belief.new_zeros(shape)

    def step(self, frame: Tensor, center: Tensor, state: State) -> tuple[Tensor, State]:
        """One frame (B,3,S,S) with its centre map (B,1,S,S) -> its belief maps (B,maps,g,g) and the next state."""
        stage = self.stage(1)
        weights = self.gate_weights(stage)
        x = self.inputs(stage, weights, frame[None], center)[0]
        x = x + self.missing_bias(weights, state)
        belief, hidden, cell = self.advance(stage, weights, x, state.belief, state.hidden, state.cell)
        return belief, State(belief, hidden, cell, state.steps + 1)

    def missing_bias(self, weights: GateWeights, state: State) -> Tensor:
        """What to add at the first frame so that a step from the zero state equals the clip's first frame."""
        return state.steps.new_zeros(())


class LPM(RecurrentPoseMachine):
    """LSTM Pose Machine with weights shared over time; MobilePose's graph, 12 068 062 parameters at width 1.

    Deviations of that graph from the paper, kept: sigmoid also on the g gate, batch normalisation after the sigmoids,
    ReLU on belief maps.
    """

    def __init__(self, joints: int = 14, width: float = 1.0, dropout: float = 0.5) -> None:
        super().__init__(joints, width, dropout)
        c = self.channels
        add_encoder(self, c, "conv{}_stage6")
        add_generator(self, c, "Mres{}_stage6")
        add_gates(self, c, 6)

    def stage(self, t: int) -> Stage:
        """The layers of any frame."""
        return named_stage(self, 6, GATES, "Mres{}_stage6")

    def start(self, belief: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Zeros: the f gate and the biases of the h-convolutions act from the first frame on."""
        return self.zeros(belief)

    def gate(self, stage: Stage, name: str, pre: Tensor) -> Tensor:
        """BN(sigmoid(pre))."""
        value = torch.sigmoid(pre)
        return stage.after[name](value) if stage.after else value


class LPMRaw(LPM):
    """`lpm` with its own layers per frame, 42 691 626 parameters at width 1, T = 5; clips may be shorter.

    The first frame has neither h-convolutions nor an f gate nor batch normalisation.
    """

    def __init__(self, joints: int = 14, width: float = 1.0, dropout: float = 0.0, T: int = 5) -> None:
        RecurrentPoseMachine.__init__(self, joints, width, dropout)
        self.T = T
        c = self.channels
        for s in range(2, T + 2):
            add_encoder(self, c, "conv{}" + f"_stage{s}")
            add_gates(self, c, s, first=s == 2)
            add_generator(self, c, self.generator_pattern(s))

    def start(self, belief: Tensor) -> tuple[None, None]:
        """The first frame has no state."""
        return None, None

    @staticmethod
    def generator_pattern(s: int) -> str:
        """The first frame's ConvNet3 has a name of its own."""
        return ("Mconv{}" if s == 2 else "Mres{}") + f"_stage{s}"

    def stage(self, t: int) -> Stage:
        """The layers of frame t."""
        s = t + 2
        return named_stage(self, s, ("g", "i", "o") if s == 2 else GATES, self.generator_pattern(s))

    def clip_inputs(self, frames: Tensor, centers: Tensor, steps: int) -> list[tuple[Stage, GateWeights, Tensor]]:
        """As the weights differ between frames, every frame is a call of its own."""
        if frames.shape[1] == 1:
            frames = frames.expand(-1, steps, -1, -1, -1)
        if frames.shape[1] > self.T:
            remedy = "give shorter clips or a larger --t"
            raise DataError(f"lpm_raw was built for {self.T} frames and got {frames.shape[1]}: {remedy}")
        made = []
        for t in range(frames.shape[1]):
            weights = self.gate_weights(stage := self.stage(t))
            made.append((stage, weights, self.inputs(stage, weights, frames[None, :, t], centers)[0]))
        return made

    def step(self, frame: Tensor, center: Tensor, state: State) -> tuple[Tensor, State]:
        """Not defined: the weights belong to frame positions of a clip."""
        why = "has separate weights for every frame of a clip and cannot follow a video"
        raise DataError(f"lpm_raw {why}; use lpm or lpm_official")


def add_gates(module: nn.Module, c: Channels, s: int, first: bool = False) -> None:
    """Gate convolutions and batch normalisations of one stage, in the original's order of parameters."""
    for q in GATES:
        if first and q == "f":
            continue
        module.add_module(f"{q}_x_stage{s}", SameConv(c.lstm, c.lstm, 3))
        if not first:
            module.add_module(f"{q}_h_stage{s}", SameConv(c.lstm, c.lstm, 3))
            module.add_module(f"{q}_stage{s}", nn.BatchNorm2d(c.lstm))


def named_stage(net: PoseMachine, s: int, gates: tuple[str, ...], generator: str) -> Stage:
    """The layers with suffix `_stage{s}`; h-convolutions and normalisations where all four gates exist."""
    full = len(gates) == len(GATES)
    x = {q: getattr(net, f"{q}_x_stage{s}") for q in gates}
    h = {q: getattr(net, f"{q}_h_stage{s}") for q in gates} if full else {}
    after = {q: getattr(net, f"{q}_stage{s}") for q in gates} if full else {}
    return Stage(net.layers("conv{}" + f"_stage{s}", 4), x, h, after, net.layers(generator, 5))


class GateBias(nn.Module):
    """The learnable per-channel bias before a gate's nonlinearity (a Caffe Scale layer whose weight is fixed to 1)."""

    def __init__(self, channels: int, value: float) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.full((channels,), value))


class LPMOfficial(RecurrentPoseMachine):
    """The authors' network: 368 pixels, ceil-mode pools, tanh on g, gate biases, linear maps, any clip length.

    Layers are named as in the Caffe files, one a group: conv1..7_stage1, conv1..4_stage2, {g,f,i,o}_{x,h},
    scale_{g,f,i,o}, Mres1..5. Initial values as in the training prototxt: Gaussian weights of std 0.01, biases 0, gate
    biases g 0, f 1, i 1.4, o 0.2.
    """

    ceil = True
    belief_relu = False
    dropout_kind = staticmethod(F.dropout)
    GATE_BIAS = {"g": 0.0, "f": 1.0, "i": 1.4, "o": 0.2}

    def __init__(self, joints: int = 14, width: float = 1.0, dropout: float = 0.5) -> None:
        super().__init__(joints, width, dropout)
        c = self.channels
        add_encoder(self, c, "conv{}_stage2")
        for q in GATES:
            self.add_module(f"{q}_x", SameConv(c.lstm, c.lstm, 3))
            self.add_module(f"{q}_h", SameConv(c.lstm, c.lstm, 3))
            self.add_module(f"scale_{q}", GateBias(c.lstm, self.GATE_BIAS[q]))
        add_generator(self, c, "Mres{}")
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)
                nn.init.zeros_(module.bias)

    def stage(self, t: int) -> Stage:
        """The layers of any frame."""
        x, h, after = ({q: getattr(self, name.format(q)) for q in GATES} for name in ("{}_x", "{}_h", "scale_{}"))
        return Stage(self.layers("conv{}_stage2", 4), x, h, after, self.layers("Mres{}", 5))

    def missing_bias(self, weights: GateWeights, state: State) -> Tensor:
        """`step` adds the h-convolutions' biases always; at the first frame they are taken away again."""
        assert weights.bias_h is not None
        return (state.steps.clamp(max=1) - 1) * weights.bias_h[:, None, None]

    def gate(self, stage: Stage, name: str, pre: Tensor) -> Tensor:
        """tanh (g) or sigmoid (f, i, o) of pre + bias."""
        return (torch.tanh if name == "g" else torch.sigmoid)(pre + stage.after[name].bias[:, None, None])
