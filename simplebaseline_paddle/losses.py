"""The heat-map loss, and the accuracy of heat-maps that both originals print."""

from __future__ import annotations

import numpy as np

from common.codecs import decode_maps


def heatmap_loss(maps, target, weight):
    """0.5 x mean over batch and joints of weight x mean over cells of (maps - target)^2, in float32; a scalar tensor.

    `maps`, `target` (N,K,h,w), `weight` (N,K,1): unlabelled joints are silenced but counted in the mean. For weights of
    0 and 1 it equals Microsoft's; between them the Paddle project's weight is linear, as here, and Microsoft's squared.
    Values of 0.0005 to 0.001 are normal.
    """
    error = (maps.astype("float32") - target).square().mean([2, 3])
    return 0.5 * (error * weight.squeeze(-1)).mean()


def map_accuracy(maps: np.ndarray, target: np.ndarray, compat: bool = False) -> tuple[float, np.ndarray, int]:
    """(mean, (K,) by joint, -1 where no target counts, number of joints that count) of maps (N,K,h,w) and targets.

    A hit: the peaks are less than a twentieth of the map's sides apart. A target counts when its peak lies beyond
    column 1 and row 1. `compat` divides x by the height and y by the width, as the originals do.
    """
    height, width = maps.shape[-2:]
    sides = np.array([height, width] if compat else [width, height]) / 10
    found, truth = decode_maps(maps, 0.0)[0] / sides, decode_maps(target, 0.0)[0]
    counts = (truth > 1).all(-1)
    hits = counts & (np.linalg.norm(found - truth / sides, axis=-1) < 0.5)
    number = counts.sum(0)
    by_joint = np.where(number > 0, hits.sum(0) / np.maximum(number, 1), -1.0)
    valid = by_joint >= 0
    return float(by_joint[valid].mean()) if valid.any() else 0.0, by_joint, int(valid.sum())
