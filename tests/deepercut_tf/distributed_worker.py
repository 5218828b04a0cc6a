"""A process of test_programs.py's distributed run: two steps on pictures of one size, then its weights. Arguments:
settings (JSON), OUT.npz.

Frozen statistics and the score loss alone, so that the mean of two workers' gradients is the gradient of the batch of
both pictures.
"""

import json
import sys

import numpy as np

from deepercut_tf import engine, model
from deepercut_tf.config import make_config
from deepercut_tf.engine import Machine
from deepercut_tf.items import load_items
from deepercut_tf.train import train


def main() -> None:
    """See above."""
    model.UNITS["resnet_50"] = (1, 1, 1, 1)
    item_set, config = load_items(make_config(json.loads(sys.argv[1])))
    machine, found = Machine(), []
    snapshot = engine.Trainer.snapshot
    engine.Trainer.snapshot = lambda self, folder: (found.append(self.weights()), snapshot(self, folder))
    train(config, item_set, machine)
    np.savez(sys.argv[2], **found[-1])


if __name__ == "__main__":
    main()
