"""Convolutional Pose Machines, and `build_model`, which makes any network of this house by its name.

Clips are (B,T,3,S,S), normalised as the data module does it; centre maps (B,1,S,S); belief maps (B,n,joints+1,g,g) with
g = `output_size(S)`, background last. Wei et al., Convolutional Pose Machines (arXiv 1602.00134).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.errors import DataError
from lpm_torch.config import MODELS, Config
from lpm_torch.hourglass import CoordLPM, RecurrentHourglass
from lpm_torch.layers import (
    Channels,
    PoseMachine,
    SameConv,
    add_batch_norm,
    add_encoder,
    add_generator,
    add_initial,
    chain,
    first_belief,
)
from lpm_torch.lstm import LPM, LPMOfficial, LPMRaw


class CPM(PoseMachine):
    """Six stages, every frame on its own; MobilePose's graph, 31 220 781 parameters at width 1.

    A 2x2 head without padding follows stage 6 (32 -> 31 cells for 256 pixels). With `deep_supervision` (the paper's
    intermediate supervision) the same head is applied to the maps of every stage, so that all are compared with the
    same labels and the parameters stay those of the original.
    """

    STAGES = 6
    pad, centre_pad = 1, 1

    def __init__(
        self, joints: int = 14, width: float = 1.0, dropout: float = 0.0, deep_supervision: bool = False
    ) -> None:
        super().__init__()
        self.deep_supervision, self.dropout = deep_supervision, dropout
        self.channels = c = Channels.scaled(width, joints + 1)
        add_initial(self, c)
        add_encoder(self, c, "conv{}_stage2")
        for s in range(2, self.STAGES + 1):
            if s > 2:
                self.add_module(f"conv1_stage{s}", SameConv(c.body, c.feature, 5))
            add_generator(self, c, "Mconv{}" + f"_stage{s}")
        self.final_layer = nn.Conv2d(c.maps, c.maps, 2)

    def output_size(self, size: int) -> int:
        """Side of the belief maps for input side `size`; the head takes one cell away."""
        return super().output_size(size) - 1

    def stage_maps(self, frames: Tensor, centers: Tensor) -> list[Tensor]:
        """(N,3,S,S) images and (N,1,S,S) centre maps -> the maps of the six stages, each (N,maps,g+1,g+1)."""
        belief = first_belief(self, frames)
        features = self.pooled_features(self.layers("conv{}_stage2", 3), frames)
        centre = self.pooled_centre(centers, features.shape[-2:])
        # One convolution for the five stages' own features, which all read the same input.
        readers = [self.conv4_stage2] + [getattr(self, f"conv1_stage{s}") for s in range(3, self.STAGES + 1)]
        weight, bias = torch.cat([r.weight for r in readers]), torch.cat([r.bias for r in readers])
        joined = F.conv2d(features, weight, bias, padding=2)
        maps = [belief]
        for s, own in enumerate(F.relu(joined).chunk(len(readers), 1), start=2):
            generator = self.layers("Mconv{}" + f"_stage{s}", 5)
            belief = chain(generator, torch.cat([own, belief, centre], 1), last_relu=False)
            maps.append(belief)
        return maps

    def forward(self, frames: Tensor, centers: Tensor, steps: int | None = None) -> tuple[Tensor, Tensor]:
        """(B,T,3,S,S), (B,1,S,S) -> maps of stage 6 (B,T,maps,g,g), twice. `steps` changes nothing here.

        With deep supervision the second is (B,6T,maps,g,g): all frames of stage 1, then of stage 2, ... stage 6.
        """
        batch, count = frames.shape[:2]
        maps = self.stage_maps(frames.flatten(0, 1), centers.repeat_interleave(count, 0))
        kept = maps if self.deep_supervision else maps[-1:]
        heads = [self.final_layer(m).unflatten(0, (batch, count)) for m in kept]
        return heads[-1], torch.cat(heads, 1)


def build_model(
    name: str,
    *,
    joints: int = 14,
    T: int = 5,
    width: float = 1.0,
    dropout: float | None = None,
    block: str = "res",
    depth: int = 4,
    deep_supervision: bool = False,
    init: str = "default",
    norm: str = "none",
) -> nn.Module:
    """A network by its name in `MODELS`; options that a network does not have are ignored.

    joints: without background. T: clip length of lpm_raw, number of passes of hourglass; the others take clips of any
    length. dropout: None for the network's own. init: `default` (the original's: PyTorch's, or the prototxt's for
    lpm_official) or `kaiming` (of the pose machines). norm: `batch` adds batch normalisation to the hidden layers of
    the pose machines (not in any original). DataError for an unknown name or value.
    """
    if name not in MODELS:
        reason = "; the original lists lpm_new but never defines it" if name == "lpm_new" else ""
        raise DataError(f"--model {name!r} is not a network of this house{reason}: use one of {', '.join(MODELS)}")
    if init not in ("default", "kaiming"):
        raise DataError(f"init {init!r} is unknown: use default or kaiming")
    rate = {} if dropout is None else {"dropout": dropout}
    build = {
        "cpm": lambda: CPM(joints, width, **rate, deep_supervision=deep_supervision),
        "lpm": lambda: LPM(joints, width, **rate),
        "lpm_raw": lambda: LPMRaw(joints, width, **rate, T=T),
        "lpm_official": lambda: LPMOfficial(joints, width, **rate),
        "hourglass": lambda: RecurrentHourglass(joints, width, passes=T, depth=depth, block=block),
        "coord_lpm": lambda: CoordLPM(joints, width),
    }
    model = build[name]()
    if norm == "batch":
        if not isinstance(model, PoseMachine):
            raise DataError(f"--norm=batch is for the pose machines; {name} has its own normalisation")
        add_batch_norm(model)
    if init == "kaiming" and isinstance(model, PoseMachine):
        kaiming_init(model)
    return model


def build_network(config: Config, joints: int) -> nn.Module:
    """The network of a run's settings."""
    return build_model(
        config.model, joints=joints, T=config.t, width=config.channels, dropout=config.dropout, block=config.block,
        depth=config.depth, deep_supervision=config.deep_supervision, init=config.init, norm=config.norm,
    )  # fmt: skip


def kaiming_init(model: PoseMachine) -> None:
    """He et al.'s normal initialisation (fan-in, ReLU gain) of every convolution, biases 0 (arXiv 1502.01852).

    PyTorch's default shrinks the signal by about sqrt(6) a layer, which the up to 30 unnormalised layers of a pose
    machine do not survive. Layers that give belief maps (`joints + 1` outputs) start small instead, std 0.01, with a
    positive bias that keeps their ReLU alive.
    """
    maps = model.channels.maps
    head = getattr(model, "final_layer", None)
    for module in model.modules():
        if not isinstance(module, nn.Conv2d):
            continue
        if module.out_channels == maps and module.kernel_size == (1, 1):
            nn.init.normal_(module.weight, std=0.01)
            nn.init.constant_(module.bias, 0.01)
        elif head is not None and module is head:
            # every channel starts as the mean of its own four cells, so that deep supervision reaches the right maps
            module.weight.data.copy_(torch.eye(maps)[:, :, None, None].expand(-1, -1, 2, 2) / 4)
            nn.init.zeros_(module.bias)
        else:
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
