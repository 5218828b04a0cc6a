"""Losses over sequences of belief maps, and over coordinates for `coord_lpm`."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lpm_torch.config import Config
from lpm_torch.hourglass import softmax_maps


def training_loss(output, batch: dict[str, Tensor], config: Config) -> Tensor:
    """The loss of a network's second output by the settings."""
    if config.model == "coord_lpm":
        return coordinate_loss(output, batch["joints"], config.input_width, batch["visible"])
    visible = batch["visible"] if config.masked_loss else None
    return sequence_loss(output, batch["labels"], config.loss_norm, visible)


def expand_labels(labels: Tensor, count: int) -> Tensor:
    """Labels (B,T,...) -> (B,count,...) for the maps of the loss: count = T + 1: the first frame's label is prepended
    (the LSTM machines' first estimate); k T: repeated, for k stages, passes, or readings of a still image."""
    frames = labels.shape[1]
    if count == frames + 1:
        return torch.cat([labels[:, :1], labels], 1)
    assert count % frames == 0, f"{count} belief maps cannot be compared with labels of {frames} frames"
    return labels.repeat(1, count // frames, *[1] * (labels.dim() - 2))


def sequence_loss(maps: Tensor, labels: Tensor, norm: str = "compat", visible: Tensor | None = None) -> Tensor:
    """Squared error of maps (B,S,J,g,g) from labels (B,T,J,g,g): half the mean over batch and pixels, summed, scaled.

    norm `compat`: S/J, MobilePose's formula (a slip of precedence that its lr 8e-5 goes with). `mean`: 1/(S J), what was
    meant. `caffe`: the number of pixels, as the LPM authors' EuclideanLoss layers (sum / 2 B). With `visible` (B,T,J-1)
    the maps of joints where it is 0 are left out; the background, the last channel, always counts.
    """
    batch, sequence, channels, height, width = maps.shape
    error = maps.float() - expand_labels(labels, sequence)
    if visible is not None:
        counts = F.pad((visible > 0).to(error.dtype), (0, 1), value=1.0)
        error = error * expand_labels(counts, sequence)[..., None, None]
    scales = {"compat": sequence / channels, "mean": 1 / (sequence * channels), "caffe": height * width}
    return scales[norm] / (2 * batch * height * width) * error.square().sum()


def coordinate_loss(output: tuple[Tensor, Tensor], joints: Tensor, size: int, visible: Tensor) -> Tensor:
    """DSNT's loss (Nibali et al., arXiv 1801.07372) for `coord_lpm`, meaned over the labelled joints: Euclidean distance
    of the coordinates plus the Jensen-Shannon divergence of each map from a Gaussian of one cell at the target.

    output: (maps (B,S,J,g,g), coordinates (B,S,J,2)); joints (B,T,J,2) pixels of the `size` crop: p is (2 p + 1)/size - 1.
    """
    heat, coordinates = (o.float() for o in output)
    sequence, grid = heat.shape[1], heat.shape[-1]
    weight = expand_labels((visible > 0).float(), sequence)
    targets = expand_labels((2 * joints.float() + 1) / size - 1, sequence)
    targets = torch.where(weight[..., None] > 0, targets, 0.0)
    cells = (2 * torch.arange(grid, device=heat.device) + 1) / grid - 1
    x, y = ((cells - targets[..., k : k + 1]).mul(grid / 2).square() for k in (0, 1))
    wanted = softmax_maps(-0.5 * (x[..., None, :] + y[..., :, None]))
    middle = torch.log((heat + wanted) / 2 + 1e-24)
    divergence = sum((d * (torch.log(d + 1e-24) - middle)).sum((-2, -1)) for d in (heat, wanted)) / 2
    terms = (coordinates - targets).norm(dim=-1) + divergence
    return (terms * weight).sum() / weight.sum().clamp(min=1)
