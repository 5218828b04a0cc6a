"""Debug pictures of a training run: what a batch's first clip should look like, and what the network makes of it."""

from __future__ import annotations

import numpy as np
import torch

from common.draw import contact_sheet, save_image, truth_and_prediction
from common.skeletons import LPM14
from lpm_torch.config import ROOT, Config
from lpm_torch.data import normalisation
from lpm_torch.engine import decode

SIDE = 256  # pixels of each half


def crops(frames: torch.Tensor, config: Config) -> np.ndarray:
    """Normalised frames (T,3,S,S) as (T,S,S,3) uint8 BGR pictures again."""
    mean, std, bgr = normalisation(config)
    shape = (1, 3, 1, 1)
    pixels = frames.cpu() * torch.tensor(std).view(shape) + torch.tensor(mean).view(shape)
    pixels = pixels if bgr else pixels.flip(1)
    return (pixels * 255).round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()


def debug_pictures(maps: torch.Tensor, batch: dict[str, torch.Tensor], config: Config) -> list[np.ndarray]:
    """One BGR picture a map of the batch's first clip, truth left, prediction right; still images have several maps of one frame.

    maps (B,T,15,g,g); `batch` as `data.prepare` returns it.
    """
    pictures, truth = crops(batch["frames"][0], config), batch["joints"][0].cpu().numpy()
    found = decode(maps[0].detach(), config)[0]
    last = len(pictures) - 1
    return [
        truth_and_prediction(pictures[min(t, last)], truth[min(t, last)], joints, LPM14, height=SIDE)
        for t, joints in enumerate(found)
    ]


def write_debug(
    maps: torch.Tensor, batch: dict[str, torch.Tensor], config: Config, folder: str, iteration: int
) -> np.ndarray:
    """Write output/MODEL/DATASET/FOLDER/ITERATION_stage_T_.jpg for every map and return all of them as one sheet."""
    pictures = debug_pictures(maps, batch, config)
    out = ROOT / "output" / config.model / config.dataset / folder
    for t, picture in enumerate(pictures):
        save_image(out / f"{iteration}_stage_{t}_.jpg", picture)
    return contact_sheet(pictures, columns=1, cell=(2 * SIDE, SIDE))
