"""Convolutional Pose Machines, and `build_network`, which makes any network of this house.

Clips are (B,T,3,S,S), normalised as the data module does it; centre maps (B,1,S,S); belief maps (B,n,joints+1,g,g) with
g = `output_size(S)`, background last. Wei et al., Convolutional Pose Machines (arXiv 1602.00134).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.errors import DataError
from lpm_torch.config import Config
from lpm_torch.hourglass import CoordLPM, RecurrentHourglass
from lpm_torch.layers import PoseMachine, SameConv, add_batch_norm, chain, kaiming_init
from lpm_torch.lstm import LPM, LPMOfficial, LPMRaw


class CPM(PoseMachine):
    """Six stages, every frame on its own; MobilePose's graph. A 2x2 head without padding follows stage 6 (32 -> 31 cells
    for 256 pixels), and with `deep_supervision` (the paper's) every stage, so that all are compared with the labels."""

    STAGES = 6
    pad, centre_pad = 1, 1

    def __init__(self, joints: int, width: float, dropout: float = 0.0, deep_supervision: bool = False) -> None:
        super().__init__(joints, width, dropout)
        self.deep_supervision, c = deep_supervision, self.channels
        self.add_encoder("conv{}_stage2")
        for s in range(2, self.STAGES + 1):
            if s > 2:
                self.add_module(f"conv1_stage{s}", SameConv(c.body, c.feature, 5))
            self.add_generator("Mconv{}" + f"_stage{s}")
        self.final_layer = nn.Conv2d(c.maps, c.maps, 2)

    def output_size(self, size: int) -> int:
        """Side of the belief maps for input side `size`; the head takes one cell away."""
        return super().output_size(size) - 1

    def stage_maps(self, frames: Tensor, centers: Tensor) -> list[Tensor]:
        """(N,3,S,S) images and (N,1,S,S) centre maps -> the maps of the six stages, each (N,maps,g+1,g+1)."""
        maps = [self.first_belief(frames)]
        features = self.pooled_features("conv{}_stage2", frames)
        centre = self.pooled_centre(centers, features.shape[-2:])
        for s in range(2, self.STAGES + 1):
            reader = self.conv4_stage2 if s == 2 else getattr(self, f"conv1_stage{s}")
            generator = self.layers("Mconv{}" + f"_stage{s}", 5)
            maps.append(chain(generator, torch.cat([F.relu(reader(features)), maps[-1], centre], 1), last_relu=False))
        return maps

    def forward(self, frames: Tensor, centers: Tensor, steps: int | None = None) -> tuple[Tensor, Tensor]:
        """(B,T,3,S,S), (B,1,S,S) -> maps of stage 6 (B,T,maps,g,g), twice; with deep supervision the second is of all
        stages (B,6T,maps,g,g), frames fastest. `steps` changes nothing here."""
        batch, count = frames.shape[:2]
        maps = self.stage_maps(frames.flatten(0, 1), centers.repeat_interleave(count, 0))
        kept = maps if self.deep_supervision else maps[-1:]
        heads = [self.final_layer(m).unflatten(0, (batch, count)) for m in kept]
        return heads[-1], torch.cat(heads, 1)


def build_network(config: Config, joints: int) -> nn.Module:
    """The network of a run's settings for so many joints (without background). `t`: clip length of lpm_raw, passes of
    hourglass; the others take clips of any length. DataError where batch normalisation cannot be added."""
    c = config
    more: dict[str, Any] = {"joints": joints, "width": c.channels}
    more |= {} if c.dropout is None else {"dropout": c.dropout}
    build = {
        "cpm": lambda: CPM(**more, deep_supervision=c.deep_supervision),
        "lpm": lambda: LPM(**more),
        "lpm_raw": lambda: LPMRaw(**more, T=c.t),
        "lpm_official": lambda: LPMOfficial(**more),
        "hourglass": lambda: RecurrentHourglass(joints, c.channels, passes=c.t, depth=c.depth, block=c.block),
        "coord_lpm": lambda: CoordLPM(**more),
    }
    model = build[c.model]()
    if c.norm == "batch":
        if not isinstance(model, PoseMachine):
            raise DataError(f"--norm=batch is for the pose machines; {c.model} has its own normalisation")
        add_batch_norm(model)
    if c.init == "kaiming" and isinstance(model, PoseMachine):
        kaiming_init(model)
    return model
