"""Stand-in for BVLC AlexNet's weights, so that the imagenet examples run on synthetic data: random, of the smoke preset's width, and marked.

No framework is imported: the layers' shapes follow from AlexNet's table.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from deeppose_tf.config import FC_UNITS, SMOKE, scaled

# name -> (kernel side, filters, groups) at width 1
_CONVOLUTIONS = {
    "conv1": (11, 96, 1),
    "conv2": (5, 256, 2),
    "conv3": (3, 384, 1),
    "conv4": (3, 384, 2),
    "conv5": (3, 256, 2),
}


def stand_in_weights(width: float = SMOKE["width"], seed: int = 1701) -> dict[str, np.ndarray]:
    """He-distributed weights and zero biases of conv1 to fc7 under DT's names."""
    rng = np.random.RandomState(seed)
    shapes, weights, before = {}, {}, 3
    for name, (side, filters, groups) in _CONVOLUTIONS.items():
        shapes[name] = (side, side, before // groups, scaled(filters, width))
        before = shapes[name][-1]
    before *= 36  # 6 x 6 cells
    for name in ("fc6", "fc7"):
        shapes[name] = (before, scaled(FC_UNITS, width))
        before = shapes[name][-1]
    for name, shape in shapes.items():
        weights[f"{name}/weight"] = (rng.standard_normal(shape) * np.sqrt(2 / np.prod(shape[:-1]))).astype(np.float32)
        weights[f"{name}/bias"] = np.zeros(shape[-1], np.float32)
    return weights


def write_stand_in(path: Path) -> None:
    """Write them in the original's old single-file format, with a card that says what they are."""
    from common.files import sha256_of, write_json
    from common.weights.tf1 import write_v1
    from deeppose_tf.weight_files import tensorflow

    path.parent.mkdir(parents=True, exist_ok=True)
    write_v1(path, stand_in_weights(), tensorflow)
    note = "random weights, no ImageNet in them: for synthetic data only"
    write_json(f"{path}.json", {"synthetic": True, "what": note, "width": SMOKE["width"], "sha256": sha256_of(path)})
