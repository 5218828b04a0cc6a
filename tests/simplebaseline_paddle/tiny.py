"""A small network, and its trainings on made-up data."""

from dataclasses import replace

import numpy as np

from common import datasets
from common.weights.pickles import read_paddle
from simplebaseline_paddle import train
from simplebaseline_paddle.config import Config
from simplebaseline_paddle.engine import Trainer
from simplebaseline_paddle.estimator import PaddleProcess
from tests.tolerance import close, rounding

SMALL = (
    "--depth 18 --base_width 16 --input_height 64 --input_width 64 --sigma 1 --deconv_filters 16,16,16 --batch_size 4"
    " --lr_epochs 1 --ema 0.9 --workers 0 --preset paper --pretrained_model none"
).split()
LAYERS = 3 * 25  # convolutions, batch norms and sums in a row of ResNet-18 with its head
CONFIG = Config(base_width=16, depth=18, input_height=64, input_width=64, sigma=1, deconv_filters="16,16,16", workers=0)


def run(root, out, *more):
    """train.py's exit code."""
    return train.main(["--dataset=mpii", f"--data_root={root}", f"--out={out}", "--valid_split=none", *SMALL, *more])


def state_of(out):
    return read_paddle(out / "last.pdparams")


def trainer_of(mpii, persons=8, **settings):
    """A Trainer on the first persons."""
    config = replace(CONFIG, **settings)
    pose_set = datasets.load("mpii", mpii, "train").limit(persons)
    return Trainer(config, pose_set, PaddleProcess("cpu"))


def same_but_for_rounding(found, expected, loss, rate, steps):
    """Weights after some steps of plain momentum. A joint's bias has moved by means of differences to the target,
    which cancel: their size shows in the loss, half their mean square."""
    moved = rate * steps * np.sqrt(2 * loss) / len(expected["final_layer.bias"])
    for name, value in expected.items():
        close(found[name], value, rounding(np.abs(value).max() + moved, steps=LAYERS), name)
