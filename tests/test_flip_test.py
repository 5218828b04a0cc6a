"""`--flip_test` of three houses: whatever the network answers, a mirrored picture has the mirrored answer, about the
axis at which the house mirrors its training targets, in both modes."""

from types import SimpleNamespace

import numpy as np
import pytest

from common.skeletons import LSP14
from deepercut_tf.config import make_config
from deepercut_tf.detections import Maps, with_mirrored
from deepercut_tf.estimator import Estimator as DeeperCutEstimator
from deepercut_tf.joints import mirror_joints, symmetric_order, with_joints
from deepercut_tf.targets import make_targets, map_size
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


def test_deepercut_tf():
    """A mirrored picture of whole cells has the mirrored answer, whatever the network."""
    own = DeeperCutEstimator.__new__(DeeperCutEstimator)
    own.config, own.statistics = with_joints(make_config({"location_refinement": True, "flip_test": True}), LSP14), None

    def network(seen):
        cells = map_size(*seen.shape[1:3])
        rng = np.random.default_rng(int(seen[0, :, : seen.shape[2] // 3].sum()))
        return {"part_prob": rng.random((1, *cells, JOINTS)), "locref": rng.normal(size=(1, *cells, 2 * JOINTS))}

    own._network = network
    image = np.ascontiguousarray(pictures((64, 48))[0])
    one, other = own.single(image), own.single(np.ascontiguousarray(image[:, ::-1]))
    expected = one[symmetric_order(own.config.all_joints, JOINTS)] * [-1, 1, 1] + [64 - 1, 0, 0]
    close(other, expected, rounding(64.0, terms=8, dtype=np.float64))
    assert len(own.single(np.ascontiguousarray(image[:, :50]))) == JOINTS, "a picture that ends within a cell"


def test_offsets_of_mirrored_maps():
    """Maps that are right for a picture and maps that are right for its mirror image are the same offsets."""
    config = with_joints(make_config({"location_refinement": True, "pairwise_predict": True}), LSP14)
    order, (width, height) = symmetric_order(config.all_joints, JOINTS), (96, 64)
    statistics = np.stack([np.zeros((JOINTS, JOINTS, 2)), np.ones((JOINTS, JOINTS, 2))])
    joints = np.random.default_rng(0).uniform((10, 10), (width - 10, height - 10), (JOINTS, 2))
    rows = np.column_stack([np.arange(JOINTS), joints])
    seen = []
    for person in (rows, mirror_joints(rows, width, order)):
        made = make_targets(
            [(person[:, 0].astype(int), person[:, 1:])], map_size(height, width), 1.0, config, statistics
        )
        locref, pairwise = (m.reshape(*m.shape[:2], -1, 2) for m in (made.locref, made.pairwise))
        seen.append(Maps(made.score, locref * np.float32(config.locref_stdev), pairwise))
    found = with_mirrored(*seen, order)
    both = found.score == 1  # cells that have the joint in both
    assert both.any((0, 1)).all()
    tolerance = rounding(width, terms=8)
    close(found.locref[both], seen[0].locref[both], tolerance)
    pairs = np.repeat(both, JOINTS - 1, axis=-1)
    close(found.pairwise[pairs], seen[0].pairwise[pairs], tolerance)
