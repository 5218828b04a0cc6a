"""From network maps to persons, pairwise statistics and PCK, against what the original produced."""

import json

import numpy as np
import pytest

from deepercut_tf.config import make_config
from deepercut_tf.detections import Detections, Maps, argmax_pose, detect, disc, unpack_maps
from deepercut_tf.eval_pck import per_joint_pck, report
from deepercut_tf.joints import joint_groups
from deepercut_tf.multicut import EPSILON, SUPPRESSED, build_graph, logit_cost
from deepercut_tf.pairwise import (
    SpatialModel,
    assemble,
    load_spatial_model,
    pair_graph,
    save_spatial_model,
    solve_detections,
)
from deepercut_tf.pairwise_stats import collect, load_statistics, ordered_pairs, save_statistics
from deepercut_tf.test_multiperson import group_by_masks
from tests.deepercut_tf.test_multicut import cost_of
from tests.tolerance import close, rounding

pytestmark = pytest.mark.golden


def close_to(found, expected) -> None:
    """Both sides compute in float64, a dozen operations one after another on numbers of the largest's size."""
    size = max(1.0, np.abs(expected).max(initial=0))
    close(found, expected, rounding(size, steps=12, dtype=np.float64))


@pytest.fixture(scope="module")
def stored(golden_dir):
    return np.load(golden_dir / "deepercut_tf" / "multiperson.npz")


@pytest.fixture(scope="module")
def ties(golden_dir):
    return json.loads((golden_dir / "deepercut_tf" / "fixture.json").read_text())["multiperson_with_ties"]


def cases(stored):
    return [(f"m{case['id']:02d}", case) for case in json.loads(str(stored["meta_json"]))]


def detections(stored, name):
    joint = np.repeat(np.arange(len(stored[name + "_det_count"])), stored[name + "_det_count"])
    grid, coord = stored[name + "_det_coord_grid"].reshape(-1, 2), stored[name + "_det_coord"].reshape(-1, 2)
    return Detections(joint, stored[name + "_det_conf"].ravel(), grid, coord, stored[name + "_det_pairwise"])


def spatial_model(stored, name, joints):
    model = SpatialModel.empty(joints)
    for (a, b), low, high, weight in zip(*(stored[f"{name}_sm_{key}"] for key in ("pairs", "Xmin", "Xmax", "w"))):
        model.low[a, b], model.high[a, b], model.weight[a, b] = low, high, weight
    return model


def test_detections(stored, ties):
    for name, case in cases(stored):
        if name in ties:
            continue
        maps = Maps(stored[name + "_scmap"], stored[name + "_locref"], stored[name + "_pairwise_diff"])
        found = detect(maps, case["nms_radius"], case["det_min_score"])
        expected = detections(stored, name)
        assert len(found) == len(expected)
        for key in ("joint", "conf", "grid", "coord", "pairwise") if len(expected) else ():
            close_to(getattr(found, key), getattr(expected, key))
    for key in stored.files:
        if key.startswith("nmsgrid_"):
            np.testing.assert_array_equal(disc(float(key.removeprefix("nmsgrid_"))), stored[key])


def test_pair_graph(stored):
    for name, case in cases(stored):
        found = detections(stored, name)
        pairs, probability = pair_graph(
            found, case["num_joints"], spatial_model(stored, name, case["num_joints"]), case["sparse_graph"]
        )
        used = len(pairs)
        np.testing.assert_array_equal(pairs, stored[name + "_pwidx"][:used])
        close_to(probability, stored[name + "_pw"][:used, 0])
        close_to(found.conf, stored[name + "_unary"][:, 0])
        close_to(found.coord, stored[name + "_pos"])
        if len(found):
            close_to(logit_cost(stored[name + "_pw"]), stored[name + "_solver_pw"])
        # the original allocates all pairs of joints and leaves the rest 0
        assert not stored[name + "_pwidx"][used:].any() and not stored[name + "_pw"][used:].any()


@pytest.mark.exact
def test_spatial_model_files(tmp_path):
    """The files that we write read back the same."""
    model = SpatialModel.empty(5)
    for array in (model.low, model.high, model.weight):
        pairs = np.triu_indices(5, 1)
        array[pairs] = np.random.default_rng(0).standard_normal(array[pairs].shape)
    save_spatial_model(tmp_path, model)
    read = load_spatial_model(tmp_path, 5)
    for key in ("low", "high", "weight"):
        np.testing.assert_array_equal(getattr(read, key), getattr(model, key))


def test_solver_and_persons(stored):
    for name, case in cases(stored):
        joints, found = case["num_joints"], detections(stored, name)
        labelling = solve_detections(found, joints, spatial_model(stored, name, joints), case["sparse_graph"])
        if len(found):
            close_to(logit_cost(found.conf), stored[name + "_solver_unary"][:, 0])
            np.testing.assert_array_equal(labelling[:, 0], stored[name + "_solver_result"][:, 0])
            # what the original hands on: the joint in place of the class, and the same clusters, however numbered
            joint, cluster = stored[name + "_unLab"].T
            np.testing.assert_array_equal(found.joint, joint)
            np.testing.assert_array_equal(
                np.equal.outer(labelling[:, 1], labelling[:, 1]), np.equal.outer(cluster, cluster)
            )
            graph = build_graph(stored[name + "_solver_unary"], stored[name + "_pwidx"], stored[name + "_solver_pw"])
            classes = (labelling[:, 0] == SUPPRESSED).astype(int)  # one class, 0, and number 1 for suppressed
            reached = cost_of(graph, classes, labelling[:, 1].astype(int))
            assert reached <= float(stored[name + "_objective"]) + EPSILON
            own, _ = assemble(found, labelling, joints)
            assert sorted(map(str, np.nan_to_num(own).round(5).tolist())) == sorted(
                map(str, stored[name + "_person_conf_correct"].round(5).tolist())
            )
            labelling = stored[name + "_solver_result"]
            correct, _ = assemble(found, labelling, joints)
            close_to(np.nan_to_num(correct), stored[name + "_person_conf_correct"])
        compat, _ = assemble(found, labelling, joints, "compat")
        close_to(compat, stored[name + "_person_conf"])


def test_argmax_and_arrows(stored):
    for name, case in cases(stored):
        maps = Maps(stored[name + "_scmap"], stored[name + "_locref"], stored[name + "_pairwise_diff"])
        pose = argmax_pose(maps)
        close_to(pose, stored[name + "_argmax_pose"])
        close_to(argmax_pose(Maps(maps.score, 0 * maps.locref)), stored[name + "_argmax_pose_nolocref"])
        # what the original draws: from each joint the offset to every other that its cell predicts
        k, m = stored[name + "_arrow_keys"].T
        close_to(pose[k, :2], stored[name + "_arrow_start"])
        _, width, joints = maps.score.shape
        best = maps.score.reshape(-1, joints).argmax(0)[k]
        place = [ordered_pairs(joints).tolist().index(pair) for pair in stored[name + "_arrow_keys"].tolist()]
        middle = (np.stack([best % width, best // width], axis=1) + 0.5) * case["stride"]
        ends = middle + maps.pairwise[best // width, best % width, place]
        close_to(ends, stored[name + "_arrow_end"])


def test_grouping_by_masks(stored):
    checked = 0
    for name, _ in cases(stored):
        if name + "_segm" not in stored.files:
            continue
        shape = stored[name + "_segm_shape"]
        masks = np.unpackbits(stored[name + "_segm"])[: np.prod(shape)].reshape(shape)
        maps = Maps(stored[name + "_scmap"], stored[name + "_locref"])
        found = group_by_masks(maps, masks)
        close_to(found.reshape(len(found), -1), stored[name + "_segm_keypoints"])
        checked += 1
    assert checked


def test_unpacking(stored, tmp_path):
    """De-normalisation with the statistics at the fixture's global scale, which is read off its first pair."""
    joints = stored["x_scmap"].shape[-1]
    raw, unpacked = stored["x_in_pairwise_pred"][0].astype(float), stored["x_pairwise"].astype(float)
    slope = np.polyfit(raw[..., 0].ravel(), unpacked[..., 0, 0].ravel(), 1)[0]
    save_statistics(tmp_path / "stats.mat", stored["x_means"], stored["x_stds"], joints)
    np.testing.assert_array_equal(ordered_pairs(joints), stored["x_graph"])
    statistics = load_statistics(tmp_path / "stats.mat", joints, scale=slope / stored["x_stds"][0, 0])
    config = make_config({"location_refinement": True, "pairwise_predict": True, "num_joints": joints})
    outputs = {
        "part_prob": stored["x_in_part_prob"],
        "locref": stored["x_in_locref"],
        "pairwise_pred": stored["x_in_pairwise_pred"],
    }
    maps = unpack_maps(outputs, config, statistics)
    np.testing.assert_array_equal(maps.score, stored["x_scmap"])
    # float32: a product of the size of both sides, and a sum
    close(maps.locref, stored["x_locref"], rounding(np.abs(stored["x_locref"]).max()))
    size = np.abs(stored["x_pairwise"]).max() + np.abs(statistics[0]).max()
    close(maps.pairwise, stored["x_pairwise"], rounding(size, terms=2))


def sums_of(count, size):
    """Means of so many offsets between coordinates up to `size`, in float64."""
    return rounding(float(size), terms=np.max(count), steps=3, dtype=np.float64)


def test_pairwise_statistics(golden_dir):
    data = np.load(golden_dir / "deepercut_tf" / "pairwise_stats.npz")
    joints = data["joints"].shape[1]
    from common.skeletons import MPII14

    widths = [float(data["width"])] * len(data["joints"]) if data["mirror"] else None
    mean, deviation, count = collect(list(data["joints"].astype(float)), joints, widths, joint_groups(MPII14)[0])
    assert (count == len(data["joints"]) * (2 if data["mirror"] else 1)).all()
    np.testing.assert_array_equal(ordered_pairs(joints), data["graph"])
    close(mean, data["means"], sums_of(count, data["width"]))
    close(deviation, data["std_devs"], sums_of(count, data["width"]))


def test_collected_offsets(golden_dir):
    """The raw offsets of the target fixtures give the same means and deviations as our table of persons."""
    stored = np.load(golden_dir / "deepercut_tf" / "targets.npz")
    for case in json.loads(str(stored["meta_json"])):
        name = f"t{case['id']:02d}_"
        if name + "collect_keys" not in stored.files:
            continue
        cuts = np.cumsum(stored[name + "njp"])[:-1]
        rows = np.concatenate([stored[name + "joint_id"][:, None], stored[name + "coords"]], axis=1)
        mean, deviation, count = collect(np.split(rows, cuts), case["num_joints"])
        pairs = [tuple(p) for p in ordered_pairs(case["num_joints"]).tolist()]
        values = np.split(stored[name + "collect_vals"], np.cumsum(stored[name + "collect_counts"])[:-1])
        for key, offsets in zip(stored[name + "collect_keys"].tolist(), values):
            row = pairs.index(tuple(key))
            assert count[row] == len(offsets)
            limit = sums_of(count[row], np.abs(rows[:, 1:]).max())
            close(mean[row], offsets.mean(0), limit)
            close(deviation[row], offsets.std(0), limit)
        assert count.sum() == stored[name + "collect_counts"].sum()


def test_eval_pck(golden_dir):
    from common.skeletons import MPII14

    groups, names = joint_groups(MPII14, "mpii")
    for case in json.loads((golden_dir / "deepercut_tf" / "eval_pck.json").read_text()):
        persons = [np.array(p, float).reshape(-1, 3) for p in case["joints"]]
        found = per_joint_pck(persons, case["pred"], len(case["per_joint_pck"]), case["pck_threshold"])
        expected = np.array([np.nan if v is None else v for v in case["per_joint_pck"]], float)
        np.testing.assert_array_equal(np.isnan(found), np.isnan(expected))
        close(np.nan_to_num(found), np.nan_to_num(expected), rounding(100, dtype=np.float64))
        assert report(found, groups, names, skip_missing=False) + "\n" == case["stdout"]
