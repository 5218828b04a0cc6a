"""The training loss, in `keras.ops`, and the weight decay that DT logs."""

from __future__ import annotations

from keras import ops

from deeppose_tf.config import WEIGHT_DECAY_LOGGED


def per_example_loss(predicted, targets, valid, kind: str = "squared"):
    """(N,) sums of squared (or `absolute`) errors over the valid coordinates, over the number of valid joints; 0 without any.

    predicted (N,2J), targets (N,J,2), valid (N,J). DT's `joint_euclidean_loss`: no square root, despite its name.
    """
    valid = ops.cast(valid, "float32")
    error = ops.reshape(predicted, ops.shape(targets)) - targets
    total = ops.sum((ops.abs if kind == "absolute" else ops.square)(error) * valid[..., None], axis=(1, 2))
    return total / ops.maximum(ops.sum(valid, axis=1), 1.0)


def pose_loss(predicted, targets, valid, mode: str = "correct", kind: str = "squared"):
    """Mean of `per_example_loss`; an example without a valid joint makes it NaN in mode compat, else is left out."""
    losses = per_example_loss(predicted, targets, valid, kind)
    counted = ops.cast(ops.any(ops.cast(valid, "bool"), axis=1), "float32")
    if mode == "compat":
        return ops.mean(ops.where(counted > 0, losses, float("nan")))
    return ops.sum(losses) / ops.maximum(ops.sum(counted), 1.0)


def weight_decay_term(weights: dict):
    """What DT adds to the loss it logs: 0.0005 / 2 times the sum of all squared weights, also of the unused head."""
    return WEIGHT_DECAY_LOGGED / 2 * sum(ops.sum(ops.square(ops.convert_to_tensor(w))) for w in weights.values())
