"""A process of test_programs.py's distributed run: two steps on pictures of one size, then its weights. Arguments: settings (JSON), OUT.npz.

Frozen statistics and the score loss alone, so that the mean of two workers' gradients is the gradient of the batch of both pictures.
"""

import json
import sys

import numpy as np

from deepercut_tf import model
from deepercut_tf.config import make_config
from deepercut_tf.items import load_items
from deepercut_tf.machine import make_strategy
from deepercut_tf.run import Run
from deepercut_tf.train import iterate


def main() -> None:
    """See above."""
    model.UNITS["resnet_50"] = (1, 1, 1, 1)
    strategy, share = make_strategy("multiworker")
    item_set, config = load_items(make_config(json.loads(sys.argv[1])))
    run = Run(config, item_set, strategy, share)
    run.begin(None)
    iterate(run, None, None)
    np.savez(sys.argv[2], **run.weights())


if __name__ == "__main__":
    main()
