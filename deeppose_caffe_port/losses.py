"""Loss layers, and Accuracy. Each takes scores and labels and gives one number."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from deeppose_caffe_port.layers import Layer, function

FULL, VALID, BATCH_SIZE, NONE = range(4)  # LossParameter.NormalizationMode


def _check_labels(m: Layer, x: Tensor, labels: Tensor, axis: int) -> None:
    """DataError unless there is a label for every place of the scores but along `axis`."""
    wanted = x.numel() // x.shape[axis]
    if labels.numel() != wanted:
        raise m.error(f"needs {wanted} labels for {tuple(x.shape)} along axis {axis}, has {tuple(labels.shape)}")


def _check_alike(m: Layer, a: Tensor, b: Tensor) -> None:
    if a.numel() != b.numel() or a.shape[:1] != b.shape[:1]:
        raise m.error(f"compares {tuple(a.shape)} with {tuple(b.shape)}, another number of values")


def _normalised(m: Layer, total: Tensor, valid: Tensor, batch: int, kind: int) -> Tensor:
    """A sum over labels divided as loss_param asks, without it as `kind`; `valid`: which of them count."""
    p = m.param.loss_param
    if p.HasField("normalization"):
        kind = p.normalization
    elif p.HasField("normalize"):
        kind = VALID if p.normalize else BATCH_SIZE
    count = (valid.numel(), int(valid.sum()), batch, 1)[kind]
    return total / max(count, 1)


@function("EuclideanLoss", bottoms=(2, 2))
def _euclidean(m: Layer, a: Tensor, b: Tensor) -> Tensor:
    """sum (a - b)^2 / (2 D): D = all elements in the K2HPD project's Caffe, the batch size in the stock one.

    `absolute`: sum |a - b| / D, D all elements. With `masked`, elements whose label is NaN are left out, of D too.
    """
    _check_alike(m, a, b)
    difference = a.flatten().float() - b.flatten().float()
    count = a.shape[0] if m.context.euclidean == "stock" else a.numel()
    if m.context.masked:
        known = ~difference.isnan()
        difference = torch.where(known, difference, 0.0)
        if m.context.euclidean != "stock":
            count = known.sum().clamp(min=1)
    if m.context.euclidean == "absolute":
        return difference.abs().sum() / count
    return difference.dot(difference) / (2 * count)


@function("SoftmaxWithLoss", bottoms=(2, 2))
def _softmax_loss(m: Layer, x: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy of softmax along `axis` with integer labels."""
    p, axis = m.param.loss_param, m.axis(m.param.softmax_param.axis, x.shape)
    _check_labels(m, x, labels, axis)
    wanted = labels.reshape([n for i, n in enumerate(x.shape) if i != axis]).long()
    ignored = p.ignore_label if p.HasField("ignore_label") else -100
    loss = F.cross_entropy(x.float().movedim(axis, 1), wanted, ignore_index=ignored, reduction="sum")
    return _normalised(m, loss, wanted != ignored, x.shape[0], VALID)


@function("SigmoidCrossEntropyLoss", bottoms=(2, 2))
def _sigmoid_loss(m: Layer, x: Tensor, targets: Tensor) -> Tensor:
    """Cross entropy of sigmoids with targets in [0, 1]."""
    _check_alike(m, x, targets)
    p, targets = m.param.loss_param, targets.reshape(x.shape).float()
    valid = targets != p.ignore_label if p.HasField("ignore_label") else torch.ones_like(targets, dtype=torch.bool)
    loss = F.binary_cross_entropy_with_logits(x.float(), targets, reduction="none")
    return _normalised(m, torch.where(valid, loss, 0.0).sum(), valid, x.shape[0], BATCH_SIZE)


@function("Accuracy", bottoms=(2, 2))
def _accuracy(m: Layer, x: Tensor, labels: Tensor) -> Tensor:
    """Share of labels among the `top_k` highest scores."""
    p = m.param.accuracy_param
    axis = m.axis(p.axis, x.shape)
    _check_labels(m, x, labels, axis)
    if not 1 <= p.top_k <= x.shape[axis]:
        raise m.error(f"has top_k {p.top_k} of {x.shape[axis]} scores")
    wanted = labels.reshape(-1).long()
    hits = (x.movedim(axis, -1).flatten(0, -2).topk(p.top_k, -1).indices == wanted[:, None]).any(-1)
    if p.HasField("ignore_label"):
        hits = hits[wanted != p.ignore_label]
    return hits.float().mean() if hits.numel() else torch.zeros((), device=x.device)
