"""Random rotation and zoom of training batches, on the device (the original trains on the pictures as they are, and mirrored).

Labels of both stages are offsets from the centre of what the network sees, so turning the picture about its centre turns the labels with it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from common.errors import DataError


@dataclass(frozen=True)
class Augment:
    """Ranges: `rotate` degrees to either side, `zoom` as a factor either way; `aspect` is width / height of the pictures before they were resized."""

    rotate: float = 0.0
    zoom: float = 1.0
    aspect: float = 1.0

    def __post_init__(self) -> None:
        if not (0 <= self.rotate <= 180 and self.zoom >= 1):
            raise DataError(
                f"--rotate={self.rotate} --zoom={self.zoom}: give 0 to 180 degrees and a factor of at least 1"
            )

    def __bool__(self) -> bool:
        return self.rotate != 0 or self.zoom != 1

    def __call__(self, pixels: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Pixels (B,C,H,W), labels (B,2J,1,1) as x, y from the centre in pixels of the unresized picture -> both turned, float32.

        Every record draws its own angle and factor from PyTorch's generator. The centre is taken as that of the labels, half a pixel from
        the image's; what turns in from outside repeats the border, because black corners would tell the network the angle.
        """
        count = len(pixels)
        angle = (2 * torch.rand(count, device=pixels.device) - 1) * math.radians(self.rotate)
        factor = torch.exp((2 * torch.rand(count, device=pixels.device) - 1) * math.log(self.zoom))
        cos, sin = torch.cos(angle), torch.sin(angle)
        # from places in the new picture to those in the old one, in units of half its width and height
        zero = torch.zeros_like(cos)
        rows = [torch.stack([cos, sin / self.aspect, zero], 1), torch.stack([-sin * self.aspect, cos, zero], 1)]
        grid = F.affine_grid(torch.stack(rows, 1) / factor[:, None, None], list(pixels.shape), align_corners=False)
        turned = F.grid_sample(pixels.float(), grid, mode="bilinear", padding_mode="border", align_corners=False)
        x, y = labels.reshape(count, -1, 2).unbind(-1)
        cos, sin = (factor * cos)[:, None], (factor * sin)[:, None]
        return turned, torch.stack([cos * x - sin * y, sin * x + cos * y], -1).reshape(labels.shape)
