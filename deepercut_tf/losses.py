"""The losses of the original (DeeperCut section 3), with its "sum by non-zero weights"."""

from __future__ import annotations

from keras import ops

from deepercut_tf.config import Config


def weighted_mean(values, weights):
    """Sum of values x weights over the number of non-zero weights, after broadcasting."""
    weights = ops.broadcast_to(weights, ops.shape(values))
    count = ops.sum(ops.cast(weights != 0, values.dtype))
    return ops.sum(values * weights) / ops.maximum(count, 1.0)


def score_loss(logits, targets, weights):
    """Sigmoid cross-entropy."""
    values = ops.maximum(logits, 0.0) - logits * targets + ops.log1p(ops.exp(-ops.abs(logits)))
    return weighted_mean(values, weights)


def offset_loss(predicted, targets, mask, huber: bool):
    """Huber with threshold 1, 0.5 d^2 or |d| - 0.5; or d^2 without a half."""
    difference = ops.abs(predicted - targets)
    small = ops.minimum(difference, 1.0)
    values = small * (difference - 0.5 * small) if huber else ops.square(difference)
    return weighted_mean(values, mask)


def pose_losses(outputs: dict, batch: dict, config: Config) -> dict:
    """{part_loss, part_loss_interm, locref_loss, pairwise_loss, total_loss}, those that the settings have; scalars.

    `outputs` of the network, `batch` of `data.collate`. Weight decay is no part of it (see `engine`).
    """
    score = batch["part_score_targets"], batch["part_score_weights"]
    losses = {"part_loss": score_loss(outputs["part_pred"], *score)}
    if "part_pred_interm" in outputs:
        losses["part_loss_interm"] = score_loss(outputs["part_pred_interm"], *score)
    if config.location_refinement:
        value = offset_loss(outputs["locref"], batch["locref_targets"], batch["locref_mask"], config.locref_huber_loss)
        losses["locref_loss"] = config.locref_loss_weight * value
    if config.pairwise_predict:
        pairs = batch["pairwise_targets"], batch["pairwise_mask"]
        value = offset_loss(outputs["pairwise_pred"], *pairs, config.pairwise_huber_loss)
        losses["pairwise_loss"] = config.pairwise_loss_weight * value
    losses["total_loss"] = sum(losses.values())
    return losses
