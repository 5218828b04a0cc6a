"""`--flip_test` of three houses: whatever the network answers, a mirrored picture has the mirrored answer, about the
axis at which the house mirrors its training targets; of the regressors in both modes."""

from types import SimpleNamespace

import numpy as np
import pytest

from common.skeletons import LSP14
from deepercut_tf.config import make_config
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


def deepercut(**settings) -> DeeperCutEstimator:
    own = DeeperCutEstimator.__new__(DeeperCutEstimator)
    own.config = with_joints(make_config({"location_refinement": True, **settings}), LSP14)
    own.skeleton, own.statistics = LSP14, np.stack([np.zeros((JOINTS, JOINTS, 2)), np.ones((JOINTS, JOINTS, 2))])
    return own


def test_deepercut_tf():
    """A mirrored picture of whole cells has the mirrored answer, whatever the network."""
    own = deepercut(flip_test=True)

    def network(seen):
        cells = map_size(*seen.shape[1:3])
        rng = np.random.default_rng(int(seen[0, :, : seen.shape[2] // 3].sum()))
        return {"part_prob": rng.random((1, *cells, JOINTS)), "locref": rng.normal(size=(1, *cells, 2 * JOINTS))}

    own._network = network
    image = pictures((64, 48))[0]
    one, other = own.single(image), own.single(np.ascontiguousarray(image[:, ::-1]))
    expected = one[symmetric_order(own.config.all_joints, JOINTS)] * [-1, 1, 1] + [64 - 1, 0, 0]
    close(other, expected, rounding(64.0, terms=8, dtype=np.float64))


@pytest.mark.parametrize(("scale", "width"), [(1.0, 96), (1.0, 151), (0.8, 151), (0.8, 154)])
def test_a_network_of_deepercut_tf_that_is_right_stays_right(scale, width):
    """Maps as it learns them, of a picture and of its mirror image, at any scale and width, have the same offsets."""
    own = deepercut(global_scale=scale, pairwise_predict=True)
    order, height, seen_widths = symmetric_order(own.config.all_joints, JOINTS), 90, []
    joints = np.random.default_rng(0).uniform((20, 20), (width - 20, height - 20), (JOINTS, 2))
    rows = np.column_stack([np.arange(JOINTS), joints])

    def network(seen):
        seen_widths.append(seen.shape[2])
        mirrored = len(seen_widths) == 3  # after the plain picture, and that of the flip test
        person = mirror_joints(rows, width, order) if mirrored else rows
        places = person[:, 1:] * scale + [(seen.shape[2] - int(width * scale)) * mirrored, 0]
        given = [(person[:, 0].astype(int), places)]
        made = make_targets(given, map_size(*seen.shape[1:3]), scale, own.config, own.statistics)
        return {"part_prob": made.score[None], "locref": made.locref[None], "pairwise_pred": made.pairwise[None]}

    own._network = network
    image = np.zeros((height, width, 3), np.uint8)
    plain, _ = own.maps(image)
    own.config.flip_test = True
    found, _ = own.maps(image)
    assert len(seen_widths) == 3 and seen_widths[1] == seen_widths[2] == -(-seen_widths[0] // 16) * 16
    both = found.score == 1  # cells that have the joint in both
    assert both.any((0, 1)).all()
    close(found.locref[both], plain.locref[both], rounding(width, terms=8))
    pairs = np.repeat(both, JOINTS - 1, axis=-1)
    close(found.pairwise[pairs], plain.pairwise[pairs], rounding(width, terms=8))
