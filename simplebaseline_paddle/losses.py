"""The heat-map loss: half the mean squared error, unlabelled joints silenced but counted in the mean."""

from __future__ import annotations


def heatmap_loss(maps, target, weight=None):
    """0.5 x mean over batch and joints of weight x mean over cells of (maps - target)^2, in float32; a scalar tensor.

    `maps`, `target` (N,K,h,w), `weight` (N,K,1) or None for all ones. For weights of 0 and 1 it equals Microsoft's; between them the
    Paddle project's weight is linear, as here, and Microsoft's squared. Values of 0.0005 to 0.001 are normal.
    """
    error = (maps.astype("float32") - target).square().mean([2, 3])
    return 0.5 * (error if weight is None else error * weight.squeeze(-1)).mean()
