"""The distance metrics: worked examples, what happens when something is missing, and invariances."""

import json
import warnings
from dataclasses import replace

import hypothesis.extra.numpy as npst
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.metrics import mobilepose, pck, pcp
from common.metrics.counting import Result
from common.skeletons import COCO17, CPM14, K2HPD15, LPM14, LSP14, MPII16, PENN13, mirror_name
from tests.tolerance import rounding

EXACT = rounding(100, terms=1000, dtype=np.float64)  # percentages of at most 1000 joints


def _people(n, skeleton=LSP14, seed=0, noise=6.0):
    """n persons about 100 px tall, their predictions with Gaussian errors, and a mask in which a tenth of the joints is not labelled."""
    rng = np.random.default_rng(seed)
    truth = rng.uniform(0, 100, (n, len(skeleton), 2))
    return truth, truth + rng.normal(0, noise, truth.shape), rng.random(truth.shape[:2]) > 0.1


def _torso(truth, skeleton=LSP14):
    return pck.length_between(truth, skeleton, "left_shoulder", "right_hip")


def _all_metrics(truth, predicted, labelled, skeleton=LSP14):
    """Every distance metric on LSP's joints, by name; persons have the size that the ground truth gives them."""
    known = np.where(labelled[..., None], truth, np.nan)
    return {
        "pck": pck.pck(truth, predicted, labelled, _torso(known, skeleton), 0.2, skeleton),
        "auc": pck.auc(truth, predicted, labelled, _torso(known, skeleton), skeleton),
        "pck_box": pck.pck(truth, predicted, labelled, pck.extent(known), 0.1, skeleton, "unweighted"),
        "pckh": pck.pckh(truth, predicted, labelled, pck.extent(known) / 5, 0.5, skeleton),
        "pckh_neck": pck.pckh_neck(truth, predicted, labelled, 0.5, skeleton),
        "pckh_neck_symmetric": pck.pckh_neck(truth, predicted, labelled, 0.5, skeleton, symmetric=True),
        "pcp": pcp.pcp(truth, predicted, labelled, skeleton),
        "pcp_relaxed": pcp.pcp(truth, predicted, labelled, skeleton, relaxed=True, total="weighted"),
        "pdj": pck.pdj(truth, predicted, labelled, skeleton, 0.2, ("left_shoulder", "right_hip")),
        "extent": mobilepose.extent_accuracy(truth, predicted, labelled, pck.extent(known), 0.1, skeleton, batch=4),
    }


ALL = sorted(_all_metrics(*_people(3)))


def _same(a: Result, b: Result, names=lambda name: name):
    np.testing.assert_allclose(a.total, b.total, rtol=0, atol=EXACT)
    for field in ("values", "counts", "groups"):
        first, second = getattr(a, field), getattr(b, field)
        assert {names(n) for n in first} == set(second)
        np.testing.assert_allclose([first[n] for n in first], [second[names(n)] for n in first], rtol=0, atol=EXACT)


def test_pck_counts_inclusively_and_by_person_size():
    truth = np.zeros((2, 14, 2))
    truth[:, LSP14.index("right_hip")] = [[0, 50], [0, 100]]
    predicted = truth + [10, 0]  # exactly 0.2 x 50 for the first person
    result = pck.pck(truth, predicted, np.ones((2, 14), bool), _torso(truth), 0.2, LSP14)
    assert result.total == 100.0 and result.n == 2 and result.counts["neck"] == 2
    predicted[0, :, 0] += 1e-6
    assert pck.pck(truth, predicted, np.ones((2, 14), bool), _torso(truth), 0.2, LSP14).total == 50.0


def test_auc_of_a_step():
    truth, labelled = np.zeros((1, 14, 2)), np.ones((1, 14), bool)
    size = np.array([100.0])
    assert pck.auc(truth, truth, labelled, size, LSP14).total == pytest.approx(100.0, rel=0, abs=EXACT)
    # distance 10 of size 100: right from threshold 0.10 on, so 10 of 20 intervals and half of the one before
    assert pck.auc(truth, truth + [10, 0], labelled, size, LSP14).total == pytest.approx(52.5, rel=0, abs=EXACT)
    assert pck.auc(truth, truth + [30, 0], labelled, size, LSP14).total == 0.0


def test_weighted_and_unweighted_means_differ_and_are_named():
    truth = np.zeros((4, 14, 2))
    predicted, labelled = truth.copy(), np.zeros((4, 14), bool)
    labelled[:, 0], labelled[0, 1] = True, True  # four ankles, all right; one knee, wrong
    predicted[:, 1] = 99
    result = pck.pck(truth, predicted, labelled, np.full(4, 10.0), 0.2, LSP14)
    assert result.means == {"weighted": 80.0, "unweighted": 50.0} and result.total == 80.0
    assert np.isnan(result.values["neck"]) and np.isnan(result.groups["elbow"])


def test_pckh_mean_leaves_pelvis_and_thorax_out():
    truth, _, _ = _people(5, MPII16)
    labelled, predicted = np.ones((5, 16), bool), truth.copy()
    predicted[:, MPII16.indices(["pelvis", "thorax"])] += 1000
    result = pck.pckh(truth, predicted, labelled, np.full(5, 10.0), 0.5, MPII16)
    assert result.total == 100.0 and result.values["pelvis"] == 0.0 and "pelvis" not in result.groups
    assert "without pelvis and thorax" in result.aggregation


def test_pckh_of_a_joint_nowhere_labelled():
    truth, predicted, _ = _people(5, MPII16)
    labelled = np.ones((5, 16), bool)
    labelled[:, 0] = False
    assert np.isfinite(pck.pckh(truth, predicted, labelled, np.full(5, 10.0), 0.5, MPII16).total)
    assert np.isnan(pck.pckh(truth, predicted, labelled, np.full(5, 10.0), 0.5, MPII16, empty_joint_is_nan=True).total)


def test_strict_pcp_needs_both_ends_relaxed_their_mean():
    truth, _, _ = _people(1)
    truth[0, LSP14.index("right_elbow")], truth[0, LSP14.index("right_wrist")] = (0, 0), (100, 0)
    predicted = truth.copy()
    predicted[0, LSP14.index("right_wrist")] = (100, 60)  # 0.6 of the forearm; mean of both ends 0.3
    everything = np.ones((1, 14), bool)
    assert pcp.pcp(truth, predicted, everything, LSP14).groups["right_forearm"] == 0.0
    assert pcp.pcp(truth, predicted, everything, LSP14).values["forearm"] == 50.0
    assert pcp.pcp(truth, predicted, everything, LSP14, relaxed=True).groups["right_forearm"] == 100.0


def test_sticks_follow_from_names():
    assert pcp.sticks_of(LSP14)["torso"] == ("torso", ("right_shoulder", "left_shoulder"), ("right_hip", "left_hip"))
    assert pcp.sticks_of(MPII16)["torso"] == ("torso", ("thorax",), ("pelvis",))
    assert pcp.sticks_of(MPII16)["head"] == ("head", ("head_top",), ("upper_neck",))
    assert pcp.sticks_of(K2HPD15)["left_lower_leg"] == ("lower_leg", ("left_knee",), ("left_foot",))
    assert pcp.sticks_of(K2HPD15)["torso"] == ("torso", ("neck",), ("spine",))
    with pytest.raises(ValueError, match="has no joint 'neck'"):
        pcp.sticks_of(COCO17)


def test_penn_script_scores_other_joints_than_it_prints():
    columns = mobilepose.penn_columns()
    assert (
        columns["head"] == "right_ankle" and columns["right_hip"] == "neck" and columns["left_shoulder"] == "left_ankle"
    )
    assert "right_knee" not in columns.values() and len(set(columns.values())) == len(PENN13)


def test_penn_neck_is_visible_only_with_head_and_both_shoulders():
    joints = np.zeros((2, 13, 2))
    joints[:, PENN13.index("head")] = (10, 20)
    joints[:, PENN13.index("left_shoulder")], joints[:, PENN13.index("right_shoulder")] = (0, 40), (20, 60)
    visible = np.ones((2, 13), bool)
    visible[1, PENN13.index("left_shoulder")] = False
    mapped, seen = mobilepose.with_penn_neck(joints, visible)
    np.testing.assert_allclose(mapped[:, LPM14.index("neck")], [(10, 44)] * 2, rtol=0, atol=EXACT)
    assert seen[:, LPM14.index("neck")].tolist() == [True, False] and mapped[0, LPM14.index("head_top")].tolist() == [
        10,
        20,
    ]


def test_tails_of_videos_are_left_out():
    sequence, frame = np.array([7] * 12 + [3] * 4), np.array([*range(12), *range(4)])
    assert mobilepose.whole_clips(sequence, frame).tolist() == [True] * 10 + [False] * 6


def test_batches_weigh_the_last_small_one_like_the_others():
    truth = np.zeros((5, 14, 2))
    predicted = truth.copy()
    predicted[4] = 99  # alone in the second batch
    visible = np.ones((5, 14), bool)
    accuracy = mobilepose.extent_accuracy(truth, predicted, visible, np.full(5, 10.0), 0.2, LPM14, batch=4)
    assert accuracy.total == 50.0 and accuracy.means["weighted"] == 80.0
    visible[4] = False  # nothing visible in it: left out
    assert mobilepose.extent_accuracy(truth, predicted, visible, np.full(5, 10.0), 0.2, LPM14, batch=4).total == 100.0
    visible[4, LPM14.index("right_ankle")] = True  # a group without any visible joint counts as 0 in its batch
    assert (
        mobilepose.extent_accuracy(truth, predicted, visible, np.full(5, 10.0), 0.2, LPM14, batch=4).groups["elbow"]
        == 50.0
    )


def test_extent_is_measured_from_the_origin_of_the_square_canvas():
    joints = np.array([[[100.0, 50.0], [140.0, 90.0]]])
    box = np.array([[80.0, 20.0, 100.0, 120.0]])  # the canvas is 120 wide: 10 px of border left and right
    assert mobilepose.extent_from_origin(joints, box).tolist() == [70.0]
    cut = mobilepose.crop_box(joints, np.array([[200, 150]]))
    assert cut.tolist() == [[14.0, 0.0, 185.0, 149.0]]


def test_k2hpd_loss_and_zero_diameter():
    truth = np.zeros((2, 15, 2))
    truth[1] = np.arange(30).reshape(15, 2)
    predicted = truth.copy()
    predicted[1, 0] += (3, 4)
    assert pcp.k2hpd_loss(truth, predicted, K2HPD15).total == pytest.approx(25 / 2 / 2 / 30, rel=0, abs=EXACT)
    # the first person has diameter 0 and no stick has a length: exact hits count in the original's form
    result = pcp.k2hpd_accuracy(truth, truth, K2HPD15)
    assert result.total == 100.0 and set(result.values.values()) == {100.0}
    assert pcp.pcp(truth, truth, np.ones((2, 15), bool), K2HPD15).total == 50.0


@pytest.mark.parametrize("name", ALL)
def test_perfect_predictions(name):
    truth, _, labelled = _people(20)
    assert _all_metrics(truth, truth, labelled)[name].total == pytest.approx(100.0, rel=0, abs=EXACT)


@pytest.mark.parametrize("name", ALL)
def test_missing_predictions_are_misses(name):
    truth, predicted, labelled = _people(60)
    missing = np.random.default_rng(1).random(labelled.shape) < 0.3
    far = np.where(missing[..., None], 1e6, predicted)
    holes = np.where(missing[..., None], np.nan, predicted)
    _same(_all_metrics(truth, holes, labelled)[name], _all_metrics(truth, far, labelled)[name])
    assert _all_metrics(truth, np.full_like(truth, np.nan), labelled)[name].total == 0.0


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("case", ["no persons", "nothing labelled"])
def test_nothing_to_count_is_nan_without_warnings(name, case):
    truth, predicted, labelled = _people(0 if case == "no persons" else 5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = _all_metrics(truth, predicted, labelled & False)[name]
    assert np.isnan(result.total) and result.n == 0
    text = json.dumps(result.as_dict(), allow_nan=False)
    assert json.loads(text)["total"] is None


@pytest.mark.parametrize("name", ALL)
def test_unlabelled_coordinates_do_not_matter(name):
    truth, predicted, labelled = _people(30)
    _same(
        _all_metrics(np.where(labelled[..., None], truth, np.nan), predicted, labelled)[name],
        _all_metrics(truth, predicted, labelled)[name],
    )


def test_zero_normalisers():
    truth, _, _ = _people(3)
    truth[0] = 5.0  # all joints in one place: every length is 0
    everything = np.ones((3, 14), bool)
    results = _all_metrics(truth, truth, everything)
    for name in ("pck", "pck_box", "pdj", "auc", "extent"):  # a multiple of zero still admits an exact hit
        assert results[name].total == pytest.approx(100.0, rel=0, abs=EXACT), name
    for name in ("pckh", "pckh_neck", "pckh_neck_symmetric", "pcp", "pcp_relaxed"):  # a quotient by zero does not
        assert results[name].total == pytest.approx(200 / 3, rel=0, abs=EXACT), name
    zero_head = pck.pckh(truth, truth, everything, np.zeros(3), 0.5, LSP14)
    assert zero_head.total == 0.0 and zero_head.n == 3


def test_a_person_without_normaliser_is_not_counted():
    truth, predicted, _ = _people(3)
    labelled = np.ones((3, 14), bool)
    labelled[0, LSP14.index("right_hip")] = False
    results = _all_metrics(truth, predicted, labelled)
    assert results["pck"].n == results["pdj"].n == 2 and results["pck"].counts["neck"] == 2
    assert results["pcp"].n == 3 and results["pcp"].counts["torso"] == 2 and results["pcp"].counts["upper_leg"] == 5


def test_json_form():
    truth, predicted, labelled = _people(4)
    by_joint = _all_metrics(truth, predicted, labelled)["pck"].as_dict()
    assert set(by_joint) == {"total", "per_joint", "aggregation", "n", "counts", "per_group", "means"} and list(
        by_joint["per_joint"]
    ) == list(LSP14.joints)
    assert "per_part" in _all_metrics(truth, predicted, labelled)["pcp"].as_dict()


# Invariances

coordinates = npst.arrays(np.float64, (6, 14, 2), elements=st.integers(-200, 200).map(float))
masks = npst.arrays(bool, (6, 14))
errors = npst.arrays(np.float64, (6, 14, 2), elements=st.integers(-30, 30).map(float))


@settings(max_examples=30)
@given(coordinates, errors, masks, st.integers(-500, 500), st.integers(-500, 500))
def test_translation_changes_nothing(truth, error, labelled, dx, dy):
    before = _all_metrics(truth, truth + error, labelled)
    after = _all_metrics(truth + [dx, dy], truth + error + [dx, dy], labelled)
    for name in ALL:
        _same(before[name], after[name])


@settings(max_examples=30)
@given(coordinates, errors, masks, st.sampled_from([0.125, 0.5, 2.0, 16.0]))
def test_scaling_with_the_normaliser_changes_nothing(truth, error, labelled, factor):
    """Powers of two, so that no comparison at the boundary changes by rounding."""
    before = _all_metrics(truth, truth + error, labelled)
    after = _all_metrics(truth * factor, (truth + error) * factor, labelled)
    for name in ALL:
        _same(before[name], after[name])


@settings(max_examples=30)
@given(coordinates, errors, masks)
def test_a_mirrored_person_gives_mirrored_figures(truth, error, labelled):
    """x -> -x and the names of the sides exchanged; metrics whose normaliser is one-sided are asked for the other diagonal's."""
    mirrored = LSP14.mirror
    flipped, flipped_error = truth[:, mirrored] * [-1, 1], error[:, mirrored] * [-1, 1]
    before = _all_metrics(truth, truth + error, labelled)
    after = _all_metrics(flipped, flipped + flipped_error, labelled[:, mirrored])

    for name in ("pck_box", "pckh", "pckh_neck", "pckh_neck_symmetric", "pcp", "pcp_relaxed", "extent"):
        _same(before[name], after[name], mirror_name)
    other = pck.pdj(flipped, flipped + flipped_error, labelled[:, mirrored], LSP14, 0.2, ("right_shoulder", "left_hip"))
    _same(before["pdj"], other, mirror_name)


@settings(max_examples=30)
@given(coordinates, errors, masks)
def test_the_order_of_joints_changes_nothing(truth, error, labelled):
    order = [LSP14.index(name) for name in CPM14.joints]
    for name, result in _all_metrics(truth[:, order], (truth + error)[:, order], labelled[:, order], CPM14).items():
        _same(_all_metrics(truth, truth + error, labelled)[name], result)


@settings(max_examples=30)
@given(coordinates, errors, masks)
def test_larger_thresholds_hit_more(truth, error, labelled):
    size = _torso(np.where(labelled[..., None], truth, np.nan))
    totals = [pck.pck(truth, truth + error, labelled, size, t, LSP14).total for t in (0.05, 0.1, 0.2, 0.5)]
    assert np.isnan(totals).all() or np.all(np.diff(totals) >= 0)


def _pck_one_by_one(truth, predicted, labelled, threshold):
    """PCK written as a loop over persons and joints."""
    hits = counts = 0
    for person, guess, known in zip(truth, predicted, labelled):
        a, b = LSP14.index("left_shoulder"), LSP14.index("right_hip")
        if not (known[a] and known[b]):
            continue
        size = np.sqrt(((person[a] - person[b]) ** 2).sum())
        for j in range(len(LSP14)):
            if known[j]:
                counts += 1
                hits += bool(np.sqrt(((person[j] - guess[j]) ** 2).sum()) <= threshold * size)
    return 100 * hits / counts


def test_agrees_with_a_loop_over_persons():
    truth, predicted, labelled = _people(200, noise=15)
    result = _all_metrics(truth, predicted, labelled)["pck"]
    assert result.total == pytest.approx(_pck_one_by_one(truth, predicted, labelled, 0.2), rel=0, abs=EXACT)
    assert replace(result, total=0.0).as_dict()["total"] == 0.0
