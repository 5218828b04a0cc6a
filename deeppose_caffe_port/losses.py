"""Loss layers, and Accuracy. Each takes scores and labels and gives one number."""

from __future__ import annotations

from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor

from deeppose_caffe_port.layers import Layer, Shape, layer

FULL, VALID, BATCH_SIZE, NONE = range(4)  # LossParameter.NormalizationMode


class Loss(Layer):
    """Base: two bottoms, a scalar top, `loss_param`."""

    bottoms = (2, 2)
    standard = VALID  # what a sum is divided by where loss_param does not say it

    def setup(self, shapes: list[Shape]) -> None:
        self.top_shapes = [()]

    def check_labels(self, shapes: list[Shape], axis: int) -> None:
        """DataError unless there is a label for every place of the scores but `axis`."""
        axis = self.axis(axis, shapes[0])
        wanted = prod(shapes[0]) // shapes[0][axis]
        if prod(shapes[1]) != wanted:
            raise self.error(f"needs {wanted} labels for {shapes[0]} along axis {axis}, has {shapes[1]}")

    def normalised(self, total: Tensor, valid: Tensor, batch: int) -> Tensor:
        """A sum over labels divided as loss_param asks; `valid`: which of them count."""
        p = self.param.loss_param
        kind = self.standard
        if p.HasField("normalization"):
            kind = p.normalization
        elif p.HasField("normalize"):
            kind = VALID if p.normalize else BATCH_SIZE
        count = (valid.numel(), int(valid.sum()), batch, 1)[kind]
        return total / max(count, 1)


@layer("EuclideanLoss")
class EuclideanLoss(Loss):
    """sum (a - b)^2 / (2 D): D = all elements in the K2HPD project's Caffe, the batch size in the stock one.

    With `masked`, elements whose label is NaN are left out, of D too.
    """

    def setup(self, shapes: list[Shape]) -> None:
        super().setup(shapes)
        if shapes[0][:1] != shapes[1][:1] or prod(shapes[0]) != prod(shapes[1]):
            raise self.error(f"compares {shapes[0]} with {shapes[1]}, another number of values")

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        difference = a.flatten().float() - b.flatten().float()
        count = a.shape[0] if self.context.euclidean == "stock" else a.numel()
        if self.context.masked:
            known = ~difference.isnan()
            difference = torch.where(known, difference, 0.0)
            if self.context.euclidean != "stock":
                count = known.sum().clamp(min=1)
        return difference.dot(difference) / (2 * count)


@layer("SoftmaxWithLoss")
class SoftmaxWithLoss(Loss):
    """Cross entropy of softmax along `axis` with integer labels."""

    def setup(self, shapes: list[Shape]) -> None:
        super().setup(shapes)
        self.check_labels(shapes, self.param.softmax_param.axis)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        p, axis = self.param.loss_param, self.axis(self.param.softmax_param.axis, x.shape)
        wanted = labels.reshape([n for i, n in enumerate(x.shape) if i != axis]).long()
        ignored = p.ignore_label if p.HasField("ignore_label") else -100
        loss = F.cross_entropy(x.float().movedim(axis, 1), wanted, ignore_index=ignored, reduction="sum")
        return self.normalised(loss, wanted != ignored, x.shape[0])


@layer("SigmoidCrossEntropyLoss")
class SigmoidCrossEntropyLoss(Loss):
    """Cross entropy of sigmoids with targets in [0, 1]."""

    standard = BATCH_SIZE

    def setup(self, shapes: list[Shape]) -> None:
        super().setup(shapes)
        if prod(shapes[0]) != prod(shapes[1]):
            raise self.error(f"compares {shapes[0]} with {shapes[1]}, another number of values")

    def forward(self, x: Tensor, targets: Tensor) -> Tensor:
        p, targets = self.param.loss_param, targets.reshape(x.shape).float()
        valid = targets != p.ignore_label if p.HasField("ignore_label") else torch.ones_like(targets, dtype=torch.bool)
        loss = F.binary_cross_entropy_with_logits(x.float(), targets, reduction="none")
        return self.normalised(torch.where(valid, loss, 0.0).sum(), valid, x.shape[0])


@layer("Accuracy")
class Accuracy(Loss):
    """Share of labels among the `top_k` highest scores."""

    def setup(self, shapes: list[Shape]) -> None:
        super().setup(shapes)
        p = self.param.accuracy_param
        self.check_labels(shapes, p.axis)
        if not 1 <= p.top_k <= shapes[0][p.axis]:
            raise self.error(f"has top_k {p.top_k} of {shapes[0][p.axis]} scores")

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        p = self.param.accuracy_param
        scores = x.movedim(self.axis(p.axis, x.shape), -1).flatten(0, -2)
        wanted = labels.reshape(-1).long()
        hits = (scores.topk(p.top_k, -1).indices == wanted[:, None]).any(-1)
        if p.HasField("ignore_label"):
            hits = hits[wanted != p.ignore_label]
        return hits.float().mean() if hits.numel() else torch.zeros((), device=x.device)
