"""Object keypoint similarity, suppression and rescoring: against the original's answers and against definitions written out by hand."""

import json

import numpy as np
import pytest

from common.metrics.oks import COCO_SIGMAS, oks, oks_nms, pose_oks, rescore
from tests.tolerance import rounding

EXACT = rounding(1, terms=17, steps=4, dtype=np.float64)  # similarities


def cases(golden_dir):
    path = golden_dir / "simplebaseline_paddle" / "coco" / "oks_nms.json"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    found = json.loads(path.read_text())
    assert found
    for case in found:
        points = np.array([p["keypoints"] for p in case["people"]])
        score, area = (np.array([p[key] for p in case["people"]]) for key in ("score", "area"))
        yield case, points, score, area


@pytest.mark.golden
def test_matrices_are_the_originals(golden_dir):
    for case, points, _, area in cases(golden_dir):
        # 1e-12: both sides are float64, the sum over joints is ordered differently
        np.testing.assert_allclose(pose_oks(points[..., :2], area), case["oks"], rtol=0, atol=EXACT)


@pytest.mark.golden
def test_kept_rows_are_the_originals(golden_dir):
    for case, points, score, area in cases(golden_dir):
        for threshold, kept in case["keep"].items():
            assert oks_nms(points[..., :2], score, area, float(threshold)).tolist() == kept


def test_oks_written_out():
    rng = np.random.default_rng(3)
    truth, predicted = rng.uniform(0, 100, (2, 17, 2)), rng.uniform(0, 100, (3, 17, 2))
    counted, area = rng.random((2, 17)) > 0.4, np.array([900.0, 2500.0])
    expected = np.zeros((2, 3))
    for g in range(2):
        for p in range(3):
            terms = [
                np.exp(-((truth[g, j] - predicted[p, j]) ** 2).sum() / (2 * area[g] * (2 * COCO_SIGMAS[j]) ** 2))
                for j in range(17)
                if counted[g, j]
            ]
            expected[g, p] = np.mean(terms)
    np.testing.assert_allclose(
        oks(truth[:, None], counted[:, None], area[:, None], predicted[None]), expected, rtol=0, atol=EXACT
    )


def test_degenerate_similarity():
    truth = np.zeros((1, 17, 2))
    counted = np.ones((1, 17), bool)
    assert oks(truth, counted, np.array([100.0]), truth).item() == 1
    assert oks(truth, ~counted, np.array([100.0]), truth).item() == 0
    assert oks(truth, counted, np.array([100.0]), np.full_like(truth, np.nan)).item() == 0
    assert oks(truth, counted, np.array([0.0]), truth).item() == 1
    assert oks(truth, counted, np.array([0.0]), truth + 1).item() == 0
    assert oks(truth[:0], counted[:0], np.zeros(0), truth[:0]).shape == (0,)


def test_suppression_order_and_ties():
    joints, area = np.zeros((3, 17, 2)), np.full(3, 100.0)
    joints[2] += 100
    assert oks_nms(joints, np.array([0.5, 0.5, 0.9]), area, 0.9).tolist() == [2, 1]  # of equal scores the later row
    assert oks_nms(joints, np.array([0.6, 0.5, 0.9]), area, 1.0).tolist() == [
        2,
        0,
        1,
    ]  # dropped only ABOVE the threshold
    assert oks_nms(joints[:0], np.zeros(0), area[:0], 0.9).tolist() == []
    assert oks_nms(joints[:1], np.ones(1), area[:1], 0.9).tolist() == [0]


def test_rescore():
    score = np.array([[0.1, 0.4, 0.8], [0.2, 0.1, 0.0], [np.nan, 0.6, np.nan]])
    np.testing.assert_allclose(rescore(np.array([0.5, 1.0, 2.0]), score), [0.3, 0.0, 1.2], rtol=0, atol=EXACT)
    assert rescore(np.zeros(0), np.zeros((0, 17))).shape == (0,)
