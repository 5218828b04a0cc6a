"""Several persons from ideal maps, the fit of the pairwise model, multi-scale maps, and empty answers."""

import json

import numpy as np
import pytest

from common.errors import DataError
from deepercut_tf.config import make_config
from deepercut_tf.detections import Detections, Maps, argmax_pose, detect, unpack_maps
from deepercut_tf.estimator import Estimator
from deepercut_tf.pairwise import SpatialModel, assemble, pair_graph, solve_detections
from deepercut_tf.targets import make_targets
from deepercut_tf.train_spatial_model import fit, fit_logistic, owners, training_pairs
from tests.bench import deepercut_tf as bench
from tests.tolerance import close, rounding

JOINTS = 5
SHAPE = np.array([[0, -60], [-25, -20], [25, -20], [-15, 40], [15, 40]], float)


def persons_at(*centres, rng=None, spread=0.0):
    noise = rng.normal(0, spread, (len(centres), JOINTS, 2)) if rng is not None else np.zeros((len(centres), JOINTS, 2))
    return [SHAPE + np.array(c) + n for c, n in zip(centres, noise)]


def ideal_maps(persons, size=(30, 60), noise=None):
    """What a perfect network answers: targets as maps, with deviation 1 and mean 0 of the statistics."""
    config = make_config(
        {
            "num_joints": JOINTS,
            "pos_dist_thresh": 12,
            "location_refinement": True,
            "pairwise_predict": True,
            "locref_stdev": 1.0,
        }
    )
    statistics = np.stack([np.zeros((JOINTS, JOINTS, 2)), np.ones((JOINTS, JOINTS, 2))])
    targets = make_targets([(np.arange(JOINTS), p) for p in persons], size, 1.0, config, statistics)
    locref, pairwise = targets.locref.reshape(*size, JOINTS, 2), targets.pairwise.reshape(*size, -1, 2).astype(float)
    if noise is not None:
        pairwise = pairwise + noise.normal(0, 4, pairwise.shape)
    # the nearest cell is the surest
    return Maps(targets.score * (0.95 - 0.01 * np.linalg.norm(locref, axis=-1)), locref, pairwise)


@pytest.fixture(scope="module")
def model():
    """The pairwise model, fitted on noisy pictures of one to three persons."""
    rng, parts = np.random.default_rng(0), []
    for _ in range(25):
        centres = [(x + rng.uniform(-15, 15), 120 + rng.uniform(-25, 25)) for x in (90, 230, 370)[: rng.integers(1, 4)]]
        persons = persons_at(*centres, rng=rng, spread=4)
        found = detect(ideal_maps(persons, noise=rng), 3.0, 0.5)
        rows = [np.concatenate([np.arange(JOINTS)[:, None], p], axis=1) for p in persons]
        parts.append(training_pairs(found, owners(found, rows, 17), JOINTS))
    fitted, shared = fit(*(np.concatenate(c) for c in zip(*parts)), JOINTS)
    assert not shared
    return fitted


def find_people(found, model, mode="correct", joints=JOINTS):
    """(P,J,2) joints and (P,J) scores."""
    return assemble(found, solve_detections(found, joints, model), joints, mode)


def test_two_people_and_no_more(model):
    """Both persons whole, at their places, nobody besides; the same without one's head."""
    persons = persons_at((100, 120), (240, 130))
    joints, score = find_people(detect(ideal_maps(persons), 3.0, 0.5), model)
    assert len(joints) == 2 and (score > 0).all()
    close(joints[np.argsort(joints[:, 0, 0])], persons, rounding(np.max(persons)))  # offsets are kept in float32
    maps = ideal_maps(persons)
    maps.score[:, 20:, 0] = 0
    joints, score = find_people(detect(maps, 3.0, 0.5), model)
    assert sorted((score > 0).sum(1).tolist()) == [4, 5] and np.isnan(joints).sum() == 2


def test_a_stray_detection_is_no_person(model):
    """An improbable joint far from everybody is suppressed; in mode compat it comes out as a person of its own, as in
    the original.
    """
    maps = ideal_maps(persons_at((100, 120)))
    maps.score[25, 55, 2] = 0.3
    found = detect(maps, 3.0, 0.2)
    assert len(find_people(found, model)[0]) == 1
    assert len(find_people(found, model, mode="compat")[0]) == 2


def test_nobody(model):
    """No detections: no persons; one joint of one person is a person of one joint, whose score says that most are
    missing.
    """
    estimator = Estimator.__new__(Estimator)
    keys = {"num_joints": JOINTS, "min_person_joints": 1, "nms_radius": 3, "det_min_score": 0.5, "global_scale": 0.5}
    estimator.config, estimator.spatial, estimator.skeleton = make_config(keys), model, range(JOINTS)
    people = estimator.people_of(ideal_maps([]), 0.5)
    assert len(people) == 0 and people.joints.shape == (0, JOINTS, 2)
    maps = ideal_maps(persons_at((100, 120)))
    maps.score[..., 1:] = 0
    people = estimator.people_of(maps, 0.5)
    assert (people.score > 0).sum(1).tolist() == [1]
    close(people.person_score[0], people.score[0, 0] / JOINTS, rounding(people.score[0, 0]))
    close(people.joints[0, 0], [200, 120], rounding(200))
    estimator.config = make_config({**keys, "min_person_joints": 3})
    assert len(estimator.people_of(maps, 0.5)) == 0


def test_one_joint_and_one_cell():
    """A single joint and maps of a single cell keep their axes."""
    maps = Maps(np.full((1, 1, 1), 0.7), np.full((1, 1, 1, 2), 0.25), np.zeros((1, 1, 0, 2)))
    assert argmax_pose(maps).tolist() == [[4.25, 4.25, 0.7]]
    joints, _ = find_people(detect(maps, 5.0, 0.2), SpatialModel.empty(1), joints=1)
    close(joints, [[[4.25, 4.25]]], rounding(4.25, dtype=np.float64))


def test_a_missing_pair_is_named():
    found = Detections(np.array([0, 1]), np.full(2, 0.9), np.zeros((2, 2)), np.ones((2, 2)), np.ones((2, 2, 2)))
    with pytest.raises(DataError, match="spatial_model_cidx_1_2.mat"):
        pair_graph(found, 2, SpatialModel.empty(2))


def test_ties_come_in_row_order():
    score = np.full((3, 12, 1), 0.5)
    found = detect(Maps(score, np.zeros((3, 12, 1, 2))), 5.0, 0.2)
    # the disc of 5 cells around column 6 leaves the last cell of row 1
    assert found.grid.tolist() == [[4, 4], [52, 4], [92, 12]]


def test_logistic_regression():
    """The gradient of the penalised likelihood is 0 at the answer, which is near the weights that made the labels."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4000, 3))
    y = (x @ np.array([2.0, -1, 0]) + 0.5 + rng.logistic(size=len(x)) > 0).astype(float)
    weight = fit_logistic(x, y, penalty=1e-4)
    p = 1 / (1 + np.exp(-(x @ weight[:3] + weight[3])))
    # the last step was below 1e-8, the curvature is a quarter an example at most
    close(x.T @ (p - y) + 1e-4 * len(x) * weight[:3], np.zeros(3), 1e-8 * len(x) / 4)
    assert abs((p - y).sum()) < 1e-8 * len(x) / 4
    design = np.concatenate([x, np.ones((len(x), 1))], axis=1)
    spread = np.sqrt(np.diag(np.linalg.inv((design * (p * (1 - p))[:, None]).T @ design)))
    close(weight, [2, -1, 0, 0.5], 5 * spread)
    separable = fit_logistic(np.array([[0.0], [1.0]]), np.array([0.0, 1.0]))
    assert np.isfinite(separable).all() and separable[0] > 0


def test_too_few_pairs_are_refused():
    with pytest.raises(DataError, match="train the network longer"):
        fit(np.zeros((3, 2), int), np.zeros((3, 8)), np.array([True, False, False]), 2)


def test_bench_writes_figures(tmp_path, monkeypatch):
    """A table of numbers with the command that makes it; what it times is a crowd that the detector finds whole."""
    monkeypatch.setattr(bench, "ORIGINAL_SOLVER", {20: 1.0})
    for what in ("solver", "people"):
        assert bench.main([what, "--runs", "1", "--json", str(tmp_path / "f.json")]) == 0
        figures = json.loads((tmp_path / "f.json").read_text())
        assert (
            figures["command"] == f"python tests/bench/deepercut_tf.py {what} --runs 1"
            and "1 thread of" in figures["note"]
        )
        assert all(len(row) == len(figures["columns"]) and row[-1] > 0 for row in figures["rows"])
    config, known, outputs = bench.crowd(2)
    assert len(detect(unpack_maps(outputs, config, known), 5.0, 0.2)) == 2 * 17
