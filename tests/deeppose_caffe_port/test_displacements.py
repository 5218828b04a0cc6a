"""Displacements and patch sizes as predictions have them."""

import numpy as np
import pytest

from common.errors import DataError
from deeppose_caffe_port.config import Config
from deeppose_caffe_port.prepare import Displacements


def poses(rng, count: int, joints: int = 15) -> np.ndarray:
    return rng.uniform(60, 180, (count, joints, 2))


def test_displacements_have_the_errors_and_sizes_of_predictions():
    """Every person predicted at half its size, joint 4 too far right: so are all patches drawn for another person."""
    rng = np.random.default_rng(0)
    config = Config(alpha=2.0, displacements=50, predicted_size=True)
    truth = poses(rng, 6)
    side = config.sides(truth)
    middle = truth.mean(1, keepdims=True)
    guess = middle + (truth - middle) / 2
    guess[:, 4] = truth[:, 4] + side[:, None] * [0.25, 0.0]
    drawn = Displacements(truth, guess, config).around(np.array([100.0, 90.0]), 80.0, 4)
    assert len(drawn) == 50
    np.testing.assert_allclose([center for center, _ in drawn], np.full((50, 2), [120.0, 90.0]))
    ratio = config.sides(guess) / side
    assert {round(length / 80, 9) for _, length in drawn} <= set(ratio.round(9))
    plain = Config(alpha=2.0, displacements=3)
    assert {length for _, length in Displacements(truth, guess, plain).around(np.zeros(2), 80.0, 4)} == {80.0}


def test_small_diameters_are_raised():
    config = Config(alpha=2.0, min_diameter=0.25, displacements=2, predicted_size=True)  # pictures of 256 x 212
    joints = np.zeros((1, 15, 2))
    assert config.sides(joints)[0] == 2 * 0.25 * 212
    assert Config(alpha=2.0).sides(joints)[0] == 0
    truth = np.zeros((3, 15, 2))
    truth[:, 12] = [100.0, 0.0]  # the far end of the diameter
    collapsed = Displacements(truth, np.full((3, 15, 2), 100.0), config)
    assert {length for _, length in collapsed.around(np.zeros(2), 110.0, 0)} == {106.0}


def test_displacements_need_a_person_with_a_diameter():
    nowhere = np.full((2, 15, 2), np.nan)
    with pytest.raises(DataError, match="displacements"):
        Displacements(nowhere, nowhere, Config(displacements=1))
