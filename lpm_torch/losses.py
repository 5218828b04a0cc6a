"""Losses over sequences of belief maps, and over coordinates for `coord_lpm`."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lpm_torch.config import Config


def training_loss(output, batch: dict[str, Tensor], config: Config) -> Tensor:
    """The loss of a network's second output by the settings; coordinates have one of their own."""
    if config.model == "coord_lpm":
        return coordinate_loss(output, batch["joints"], config.input_width, batch["visible"])
    visible = batch["visible"] if config.masked_loss else None
    return MSESequenceLoss(config.loss_norm)(output.float(), batch["labels"], visible)


def expand_labels(labels: Tensor, count: int) -> Tensor:
    """Labels (B,T,...) -> (B,count,...) for the maps that a network gives to the loss.

    count = T + 1: the first frame's label is prepended (the LSTM machines' first estimate). count = k T: repeated k
    times, for k stages or passes with the frames fastest, or for k readings of a still image. ValueError for any other
    count.
    """
    frames = labels.shape[1]
    if count == frames + 1:
        return torch.cat([labels[:, :1], labels], 1)
    if count % frames:
        raise ValueError(f"{count} belief maps cannot be compared with labels of {frames} frames")
    return labels.repeat(1, count // frames, *[1] * (labels.dim() - 2))


class MSESequenceLoss(nn.Module):
    """Squared error of S belief maps of J channels: half the mean over batch and pixels, summed, times a scale.

    norm `compat`: S/J, MobilePose's formula (an operator-precedence slip that its lr 8e-5 goes with). `mean`: 1/(S J),
    what was evidently meant, smaller by S squared. `caffe`: the number of pixels, which makes it the LPM authors'
    EuclideanLoss layers (sum / 2 B).
    """

    NORMS = ("compat", "mean", "caffe")

    def __init__(self, norm: str = "compat") -> None:
        super().__init__()
        if norm not in self.NORMS:
            raise ValueError(f"loss norm {norm!r} is unknown: use {', '.join(self.NORMS)}")
        self.norm = norm

    def forward(self, maps: Tensor, labels: Tensor, visible: Tensor | None = None) -> Tensor:
        """maps (B,S,J,g,g), labels (B,T,J,g,g) -> scalar. S is T, T + 1 or a multiple of T (see `expand_labels`).

        With `visible` (B,T,J-1) the maps of joints where it is 0 are left out of the sum while the scale stays; the
        background, the last channel, always counts.
        """
        batch, sequence, channels, *grid = maps.shape
        error = maps.float() - expand_labels(labels, sequence)
        if visible is not None:
            counts = F.pad((visible > 0).to(error.dtype), (0, 1), value=1.0)
            error = error * expand_labels(counts, sequence)[..., None, None]
        cells = grid[0] * grid[1]
        scale = {"compat": sequence / channels, "mean": 1 / (sequence * channels), "caffe": cells}[self.norm]
        return scale / (2 * batch * cells) * error.square().sum()


def coordinate_loss(
    output: tuple[Tensor, Tensor], joints: Tensor, size: int, visible: Tensor, *, sigma: float = 1.0
) -> Tensor:
    """DSNT's loss (Nibali et al., arXiv 1801.07372) for `coord_lpm`, meaned over the labelled joints.

    Euclidean distance of the coordinates plus the Jensen-Shannon divergence of each map from a Gaussian of `sigma`
    cells at the target. output: (maps (B,S,J,g,g), coordinates (B,S,J,2)) of CoordLPM; joints (B,T,J,2) pixels of the
    `size` crop (NaN allowed where `visible` (B,T,J) is 0). MobilePose's ancestor scaled its targets into the first
    cells by mistake; here pixel p is (2 p + 1)/size - 1.
    """
    heat, coordinates = (o.float() for o in output)
    sequence = heat.shape[1]
    weight = expand_labels((visible > 0).float(), sequence)
    targets = expand_labels((2 * joints.float() + 1) / size - 1, sequence)
    targets = torch.where(weight[..., None] > 0, targets, 0.0)
    terms = (coordinates - targets).norm(dim=-1) + jensen_shannon(heat, normal_maps(targets, heat.shape[-1], sigma))
    return (terms * weight).sum() / weight.sum().clamp(min=1)


def normal_maps(centres: Tensor, grid: int, sigma: float) -> Tensor:
    """(...,2) coordinates in (-1, 1) -> (...,grid,grid) Gaussians of `sigma` cells, each of sum 1."""
    cells = (2 * torch.arange(grid, device=centres.device, dtype=centres.dtype) + 1) / grid - 1
    x, y = ((cells - centres[..., k : k + 1]) * (grid / 2 / sigma) for k in (0, 1))
    logits = -0.5 * (x[..., None, :].square() + y[..., :, None].square())
    return logits.flatten(-2).softmax(-1).unflatten(-1, logits.shape[-2:])


def jensen_shannon(p: Tensor, q: Tensor) -> Tensor:
    """Jensen-Shannon divergence (natural logarithm) of distributions (...,h,w) -> (...)."""
    middle = torch.log(0.5 * (p + q) + 1e-24)
    return 0.5 * sum((d * (torch.log(d + 1e-24) - middle)).sum((-2, -1)) for d in (p, q))
