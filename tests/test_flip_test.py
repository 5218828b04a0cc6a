"""`--flip_test` of the two regressors: whatever the network answers, a mirrored picture has the mirrored answer, about the
axis at which the house mirrors its training targets, in both modes."""

from types import SimpleNamespace

import numpy as np
import pytest

from common.skeletons import LSP14
from deeppose_caffe_port import prepare
from deeppose_caffe_port.estimator import Estimator as CaffeEstimator
from deeppose_tf.config import IM_SIZE, Config
from deeppose_tf.data import mirror_targets
from deeppose_tf.estimator import Estimator as TensorFlowEstimator
from tests.tolerance import close, rounding

JOINTS = len(LSP14)


def looked(pictures, low, high) -> np.ndarray:
    """(n,J,2) answers from `low` to `high` that depend on every picture's left and right side."""
    sides = np.stack([np.asarray(p, float)[:, : p.shape[1] // 3].reshape(-1)[: 2 * JOINTS] for p in pictures]) / 255
    return (low + (high - low) * sides).reshape(-1, JOINTS, 2)


def pictures(size: tuple[int, int]) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (3, size[1], size[0], 3), np.uint8)


@pytest.mark.parametrize("mode", ["correct", "compat"])
def test_deeppose_tf(mode):
    own = TensorFlowEstimator.of(None, Config(mode=mode, flip_test=True), LSP14)
    own.__dict__["_call"] = lambda crops: looked(crops, -0.5, 0.5).astype(np.float32)
    crops = pictures((IM_SIZE, IM_SIZE))
    one, other = own.shares(crops), own.shares(crops[:, :, ::-1])
    valid = np.ones(JOINTS, bool)
    expected = np.stack([mirror_targets(shares, valid, LSP14.flip_pairs, mode)[0] for shares in one])
    close(other, expected, rounding(1.0, terms=4))
    assert np.abs(one - own._call(crops)).max() > 0.01, "the mirrored picture has no say"


@pytest.mark.parametrize("mode", ["correct", "compat"])
def test_deeppose_caffe_port(mode):
    size = (256, 212)
    own = CaffeEstimator.__new__(CaffeEstimator)
    own.config = SimpleNamespace(flip_test=True, mode=mode, size=size, joints=LSP14)
    own._joints = lambda seen: looked(seen, 0, 200)
    seen = pictures(size)
    one, other = own.joints(seen), own.joints(seen[:, :, ::-1])
    for here, there in zip(one, other):
        # compat writes whole numbers: compared are its values, not its text
        line = prepare.mirrored(prepare.Line("1.jpg", here.ravel(), ""), own.config)
        close(there, line.values.reshape(-1, 2), rounding(256.0, terms=4, dtype=np.float64))
    assert np.abs(one - own._joints(seen)).max() > 1, "the mirrored picture has no say"
