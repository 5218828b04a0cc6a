"""Displacements and patch sizes as predictions have them, and the scaling of a later stage's moves."""

import numpy as np
import pytest

from common.errors import DataError
from deeppose_caffe_port import workflow
from deeppose_caffe_port.config import Config
from deeppose_caffe_port.estimator import Regressor
from deeppose_caffe_port.prepare import _Displacements
from deeppose_caffe_port.prototxts import write_project
from deeppose_caffe_port.stages import best_factors, scale_outputs
from deeppose_caffe_port.weight_files import pick_snapshot


def poses(rng, count: int, joints: int = 15) -> np.ndarray:
    return rng.uniform(60, 180, (count, joints, 2))


def test_best_factors_undo_moves_that_are_too_long():
    """Joint 0 moves twice too far, joint 1 the right way, joint 2 at random far away, joint 3 is labelled nowhere."""
    rng = np.random.default_rng(0)
    errors = rng.normal(0, 10, (400, 4, 2))
    proposed = np.stack([2 * errors[:, 0], errors[:, 1], rng.normal(0, 30, (400, 2)), errors[:, 3]], 1)
    errors[:, 3] = np.nan
    errors[::3, 1] = np.nan
    np.testing.assert_allclose(best_factors(proposed, errors), [0.5, 1.0, 0.0, 0.0], atol=1e-9)


def test_displacements_have_the_errors_and_sizes_of_predictions():
    """Every person predicted at half its size, joint 4 too far right: so are all patches drawn for another person."""
    rng = np.random.default_rng(0)
    config = Config(alpha=2.0, displacements=50, predicted_size=True)
    truth = poses(rng, 6)
    side = config.sides(truth)
    middle = truth.mean(1, keepdims=True)
    guess = middle + (truth - middle) / 2
    guess[:, 4] = truth[:, 4] + side[:, None] * [0.25, 0.0]
    drawn = _Displacements(truth, guess, config).around(np.array([100.0, 90.0]), 80.0, 4)
    assert len(drawn) == 50
    np.testing.assert_allclose([center for center, _ in drawn], np.full((50, 2), [120.0, 90.0]))
    ratio = config.sides(guess) / side
    assert {round(length / 80, 9) for _, length in drawn} <= set(ratio.round(9))
    plain = Config(alpha=2.0, displacements=3)
    assert {length for _, length in _Displacements(truth, guess, plain).around(np.zeros(2), 80.0, 4)} == {80.0}


def test_small_diameters_are_raised():
    config = Config(alpha=2.0, min_diameter=0.25, displacements=2, predicted_size=True)  # pictures of 256 x 212
    joints = np.zeros((1, 15, 2))
    assert config.sides(joints)[0] == 2 * 0.25 * 212
    assert Config(alpha=2.0).sides(joints)[0] == 0
    truth = np.zeros((3, 15, 2))
    truth[:, 12] = [100.0, 0.0]  # the far end of the diameter
    collapsed = _Displacements(truth, np.full((3, 15, 2), 100.0), config)
    assert {length for _, length in collapsed.around(np.zeros(2), 110.0, 0)} == {106.0}


def test_displacements_need_a_person_with_a_diameter():
    nowhere = np.full((2, 15, 2), np.nan)
    with pytest.raises(DataError, match="displacements"):
        _Displacements(nowhere, nowhere, Config(displacements=1))


@pytest.fixture(scope="module")
def refiner(tmp_path_factory):
    """Folder, settings and stage 2 of a small project with random weights and no mean."""
    from common.weights.caffe import write_blob

    folder = tmp_path_factory.mktemp("project")
    config = Config(out=str(folder), preset="smoke", joint_outputs=True, workers=1)
    write_project(config)
    model = config.model_folder(2)
    regressor_side = 48
    write_blob(model / "train_mean.binaryproto", np.zeros((1, 3, regressor_side, regressor_side), np.float32))
    return config, lambda: Regressor(config, 2, None)


def test_scaled_weights_scale_the_moves(refiner, tmp_path):
    """To float32 rounding: factors go into weights and bias, and survive the snapshot file."""
    config, make = refiner
    regressor = make()
    rng = np.random.default_rng(0)
    pictures, joints = [rng.integers(0, 255, (212, 256, 3), np.uint8) for _ in range(2)], poses(rng, 2)
    before = regressor.moves(pictures, joints)
    factors = np.linspace(0, 1, 15)
    scale_outputs(regressor, np.repeat(factors, 2))
    after = regressor.moves(pictures, joints)
    np.testing.assert_allclose(after, factors[None, :, None] * before, rtol=1e-4, atol=1e-5 * np.abs(before).max())
    regressor.net.save(tmp_path / "scaled.caffemodel")
    again = make()
    assert again.net.load(tmp_path / "scaled.caffemodel") == []
    np.testing.assert_array_equal(again.moves(pictures, joints), after)


def test_calibrated_snapshots_are_preferred_unless_older(refiner):
    config, _ = refiner
    folder = config.model_folder(2) / "snapshot"
    folder.mkdir()
    for name in ("deeppose_refine_iter_4", "deeppose_refine_calibrated_iter_4", "deeppose_refine_iter_2"):
        (folder / f"{name}.caffemodel").touch()
    assert pick_snapshot(config, 2).stem == "deeppose_refine_calibrated_iter_4"
    assert pick_snapshot(config, 2, calibrated=False).stem == "deeppose_refine_iter_4"
    (folder / "deeppose_refine_iter_6.caffemodel").touch()
    assert pick_snapshot(config, 2).stem == "deeppose_refine_iter_6"


def test_without_held_out_pictures_it_says_what_to_do(refiner, capsys):
    config, _ = refiner
    words = [f"--out={config.out}", "--preset=smoke", "--joint_outputs"]
    assert workflow.main(["calibrate2", *words]) == 2
    assert "there is no step calibrate2" in capsys.readouterr().err
