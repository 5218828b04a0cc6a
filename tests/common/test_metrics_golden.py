"""The metrics against what the original programs answered ($GOLDEN_DIR). Decisions and counts are compared exactly;
percentages to float64, which is rounding of the last division alone."""

import json

import numpy as np
import pytest

from common import datasets
from common.codecs import decode_maps
from common.evaluate import score
from common.metrics import mobilepose, pck, pcp
from common.metrics.counting import distances, percentages, pooled, within
from common.predictions import predictions_for
from common.skeletons import CPM14, JHMDB15, K2HPD15, LPM14, LSP14, MPII14, MPII16, PENN13, skeleton_map
from tests.tolerance import rounding

pytestmark = pytest.mark.golden
ROUNDING = rounding(100, terms=1000, dtype=np.float64)  # a percentage of 1000 sticks or joints


def _arrays(path):
    if not path.exists():
        pytest.skip(f"this set of fixtures has no {path.name} in {path.parent.name}")
    with np.load(path, allow_pickle=False) as data:
        return {name: data[name] for name in data.files}


def _counts(result, joints):
    return [round(result.values[j] * result.counts[j] / 100) if result.counts[j] else 0 for j in joints]


# MobilePose and LSTM Pose Machines


def _decoded(maps):
    """(B,T,K,h,w) -> (B*T,K,2) points in cells."""
    points, _ = decode_maps(maps)
    return points.reshape(-1, *points.shape[2:])


def _check_extent(labels, outputs, visible, threshold, accuracy, groups):
    truth, predicted = _decoded(labels), _decoded(outputs)
    joints = len(LPM14)
    # all channels, the empty background with them, make the extent
    result = mobilepose.extent_accuracy(
        truth[:, :joints], predicted[:, :joints], visible.reshape(-1, joints) > 0, pck.extent(truth), threshold, LPM14
    )
    assert result.total == pytest.approx(100 * float(accuracy), rel=0, abs=ROUNDING)
    rows = ("head_top", "shoulder", "elbow", "wrist", "hip", "knee", "ankle")
    np.testing.assert_allclose([result.groups[g] for g in rows], 100 * groups[:, 0], rtol=0, atol=ROUNDING)


def test_mobilepose_accuracy(golden_dir):
    data = _arrays(golden_dir / "lpm_torch" / "metrics.npz")
    radii = [name.removeprefix("acc_r") for name in data if name.startswith("acc_r")]
    assert radii
    for r in radii:
        _check_extent(data["labels"], data["outputs"], data["vis"], float(r), data[f"acc_r{r}"], data[f"eval_r{r}"])


def test_mobilepose_accuracy_of_images_and_six_stages(golden_dir):
    data = _arrays(golden_dir / "lpm_torch" / "metrics.npz")
    labels, outputs = data["labels"], data["outputs"]
    stages = labels.shape[1]
    checked = 0
    if "acc_image_r01" in data:
        visible = np.repeat(data["vis_image"][:, None], stages, axis=1)
        _check_extent(labels, outputs, visible, 0.1, data["acc_image_r01"], data["eval_image_r01"])
        checked += 1
    if "acc_6stage_r01" in data:
        first = [np.concatenate([a[:, :1], a], axis=1) for a in (labels, outputs, data["vis"])]
        _check_extent(*first, 0.1, data["acc_6stage_r01"], data["eval_6stage_r01"])
        checked += 1
    if not checked:
        pytest.skip("this set has neither the image case nor the six-stage case")


def test_mobilepose_coordinate_accuracy(golden_dir):
    data = _arrays(golden_dir / "lpm_torch" / "metrics.npz")
    r = json.loads((golden_dir / "lpm_torch" / "fixture.json").read_text())["metrics"]["coord_r"]
    name = next(n for n in data if n.startswith("coord_acc_r"))
    # (B,J,2) and (B,stages,J,2): every joint of every stage counts, within r of the truth's extent
    near = within(
        distances(data["coord_gt"][:, None], data["coord_in"]), pck.extent(data["coord_gt"])[:, None, None], r
    )
    assert pooled(near, np.ones_like(near)) == pytest.approx(100 * float(data[name]), rel=0, abs=ROUNDING)


def test_mobilepose_penn_script(golden_dir):
    data = _arrays(golden_dir / "lpm_torch" / "octave.npz")
    joints, box = len(LPM14), data["penn_test_in_box"]
    side = np.maximum(box[:, 2] - box[:, 0], box[:, 3] - box[:, 1])
    result = mobilepose.penn_table(
        data["penn_test_in_gt"][:, :joints], data["penn_test_in_pred"][:, :joints], data["penn_test_in_vis"] == 1, side
    )
    columns = list(mobilepose.penn_columns())
    assert [result.counts[c] for c in columns] == data["penn_test_obj"].tolist()
    assert _counts(result, columns) == data["penn_test_detected"].tolist()
    assert result.total == pytest.approx(100 * float(data["penn_test_acc"]), rel=0, abs=ROUNDING)


def test_official_penn_counts(golden_dir):
    data = _arrays(golden_dir / "lpm_torch" / "octave.npz")
    label, predicted, box = (
        data["off_in_label"].transpose(2, 1, 0),
        data["off_in_pred"].transpose(2, 1, 0),
        data["off_in_bbox"],
    )
    truth, visible = label[..., :2], label[..., 2] == 1
    sizes = [
        np.maximum(box[:, 2] - box[:, 0], box[:, 3] - box[:, 1]),
        pck.official_penn_torso(truth, predicted, PENN13),
    ]
    for variant, size in enumerate(sizes):
        result = pck.pck(truth, predicted, visible, size, 0.2, PENN13)
        assert list(result.counts.values()) == data[f"off_obj{variant}"].tolist()
        assert _counts(result, PENN13.joints) == data[f"off_det{variant}"].tolist()


def test_jhmdb_counts_and_belly(golden_dir):
    data = _arrays(golden_dir / "lpm_torch" / "octave.npz")
    truth, predicted, box = (
        data["off_in_jlabel"].transpose(2, 1, 0),
        data["off_in_jpred"].transpose(2, 1, 0),
        data["off_in_bbox"],
    )
    size = np.maximum(box[:, 2] - box[:, 0], box[:, 3] - box[:, 1])
    result = pck.pck(truth, predicted, np.ones(truth.shape[:2], bool), size, 0.2, JHMDB15)
    assert list(result.counts.values()) == data["off_jobj"].tolist()
    assert _counts(result, JHMDB15.joints) == data["off_jdet"].tolist()
    mapped = pck.with_belly(skeleton_map(CPM14, JHMDB15).apply(data["off_in_jp14"].transpose(2, 1, 0)))
    np.testing.assert_allclose(mapped, data["off_jmap"].transpose(2, 1, 0), rtol=0, atol=ROUNDING)


# deeppose_tf

SKELETONS = {"lsp": LSP14, "mpii": MPII16}
_LIMBS = [f"{side}_{part}" for side in ("right", "left") for part in ("upper_arm", "forearm", "upper_leg", "lower_leg")]
STICKS = ["head", "torso", *_LIMBS]
PARTS = ["head", "torso", "upper_arm", "forearm", "upper_leg", "lower_leg"]
_SIDES = [
    f"{side}_{part}" for side in ("right", "left") for part in ("shoulder", "elbow", "wrist", "hip", "knee", "ankle")
]


def _canonical(skeleton):
    return ["head_top", pck.neck_of(skeleton), *_SIDES, *(j for j in ("thorax", "pelvis") if j in skeleton.joints)]


def _deeppose(golden_dir):
    data = _arrays(golden_dir / "deeppose_tf" / "metrics.npz")
    found = {key: s for key, s in SKELETONS.items() if f"{key}/gt_px" in data}
    assert found
    return data, found


def test_deeppose_decisions(golden_dir):
    data, found = _deeppose(golden_dir)
    for key, skeleton in found.items():
        truth, predicted = data[f"{key}/gt_px"], data[f"{key}/pred_px"]
        labelled = np.ones(truth.shape[:2], bool)
        for relaxed, name in ((False, "pcp"), (True, "relaxed")):
            tally = pcp.pcp(truth, predicted, labelled, skeleton, 0.5, relaxed).tally
            order = [list(pcp.sticks_of(skeleton)).index(s) for s in STICKS]
            assert np.array_equal(tally.hits[:, order], data[f"{key}/{name}_match"].astype(bool)), (key, name)
        result = pck.pckh_neck(truth, predicted, labelled, 0.5, skeleton)
        expected = data[f"{key}/pckh_match"].sum(0)
        assert _counts(result, _canonical(skeleton)) == expected.tolist()


def test_deeppose_means_and_parts(golden_dir):
    data, found = _deeppose(golden_dir)
    for key, skeleton in found.items():
        truth, predicted = data[f"{key}/gt_px"], data[f"{key}/pred_px"]
        everything = np.ones(truth.shape[:2], bool)
        for relaxed, name in ((False, "pcp"), (True, "relaxed_pcp")):
            result = pcp.pcp(truth, predicted, everything, skeleton, relaxed=relaxed)
            expected = [*(result.values[p] for p in PARTS), result.total]
            np.testing.assert_allclose(expected, 100 * data[f"{key}/{name}_per_part"], rtol=0, atol=ROUNDING)
            if not relaxed:
                assert result.total == pytest.approx(100 * float(data[f"{key}/mPCP"]), rel=0, abs=ROUNDING)
        joints = pck.pckh_neck(truth, predicted, everything, 0.5, skeleton)
        assert joints.total == pytest.approx(100 * float(data[f"{key}/mPCKh"]), rel=0, abs=ROUNDING)
        symmetric = pck.pckh_neck(truth, predicted, everything, 0.5, skeleton, symmetric=True)
        assert symmetric.total == pytest.approx(100 * float(data[f"{key}/mSymmetricPCKh"]), rel=0, abs=ROUNDING)
        names = [n.lower() for n in data[f"{key}/sym_pckh_names"]]
        groups = [{"head": "head_top", "neck": pck.neck_of(skeleton)}.get(n, n) for n in names]
        np.testing.assert_allclose(
            [symmetric.values[g] for g in groups], 100 * data[f"{key}/sym_pckh"], rtol=0, atol=ROUNDING
        )


def test_deeppose_curves(golden_dir):
    data, found = _deeppose(golden_dir)
    for key, skeleton in found.items():
        truth, predicted = data[f"{key}/gt_px"], data[f"{key}/pred_px"]
        everything = np.ones(truth.shape[:2], bool)
        for i, t in enumerate(data["thresholds"]):
            for relaxed, name in ((False, "pcp"), (True, "relaxed")):
                sticks = pcp.pcp(truth, predicted, everything, skeleton, float(t), relaxed).groups
                np.testing.assert_allclose(
                    [sticks[s] for s in STICKS], 100 * data[f"{key}/{name}_curve"][i], rtol=0, atol=ROUNDING
                )
            joints = pck.pckh_neck(truth, predicted, everything, float(t), skeleton).values
            np.testing.assert_allclose(
                [joints[j] for j in _canonical(skeleton)], 100 * data[f"{key}/pckh_curve"][i], rtol=0, atol=ROUNDING
            )


@pytest.mark.parametrize("as_miss", [True, False])
def test_deeppose_invisible_joints(golden_dir, as_miss):
    """Invisible joints as the original's functions treat NaN (misses), and left out, which is the correct figure."""
    data, found = _deeppose(golden_dir)
    prefix = "nan_{}_per_" if as_miss else "derived_masked_{}"
    for key, skeleton in found.items():
        truth, predicted, labelled = data[f"{key}/gt_px"], data[f"{key}/pred_px"], data[f"{key}/visible"]
        for relaxed, name in ((False, "pcp"), (True, "relaxed_pcp")):
            tally = pcp.pcp(truth, predicted, labelled, skeleton, 0.5, relaxed).tally
            figures = dict(zip(pcp.sticks_of(skeleton), percentages(tally.hits, tally.counted | as_miss)))
            expected = data[f"{key}/" + prefix.format(name) + ("stick" if as_miss else "")]
            np.testing.assert_allclose([figures[s] for s in STICKS], 100 * expected, rtol=0, atol=ROUNDING)
        result = pck.pckh_neck(truth, predicted, labelled, 0.5, skeleton)
        joints = (
            np.array(_counts(result, _canonical(skeleton))) / len(truth) * 100
            if as_miss
            else [result.values[j] for j in _canonical(skeleton)]
        )
        expected = data[f"{key}/" + prefix.format("pckh") + ("joint" if as_miss else "")]
        np.testing.assert_allclose(joints, 100 * expected, rtol=0, atol=ROUNDING)


def test_deeppose_boundary_is_inclusive(golden_dir):
    data = _arrays(golden_dir / "deeppose_tf" / "metrics.npz")
    truth = data["boundary/gt_px"]
    labelled = np.ones(truth.shape[:2], bool)
    for case in ("eq", "gt"):
        predicted = data[f"boundary/{case}/pred_px"]
        for relaxed, name in ((False, "pcp"), (True, "relaxed")):
            sticks = pcp.pcp(truth, predicted, labelled, LSP14, relaxed=relaxed).groups
            np.testing.assert_array_equal([sticks[s] for s in STICKS], 100 * data[f"boundary/{case}/{name}"])
        joints = pck.pckh_neck(truth, predicted, labelled, 0.5, LSP14).values
        np.testing.assert_array_equal([joints[j] for j in _canonical(LSP14)], 100 * data[f"boundary/{case}/pckh"])


# pose-tensorflow, Simple Baselines, K2HPD


def test_deepercut_eval_pck(golden_dir):
    path = golden_dir / "deepercut_tf" / "eval_pck.json"
    if not path.exists():
        pytest.skip("this set of fixtures has no eval_pck.json")
    content = json.loads(path.read_text())
    cases = content if isinstance(content, list) else [content]
    assert cases
    for case in cases:
        predicted = np.array(case["pred"], float)[..., :2]
        truth = np.full((len(predicted), len(MPII14), 2), np.nan)
        for person, joints in zip(truth, case["joints"]):
            for number, x, y in joints:
                person[number] = x, y
        labelled = np.isfinite(truth).all(-1)
        result = pck.pck(truth, predicted, labelled, pck.extent(truth), case["pck_threshold"], MPII14, "unweighted")
        expected = [np.nan if v is None else v for v in case["per_joint_pck"]]
        np.testing.assert_allclose(list(result.values.values()), expected, rtol=0, atol=ROUNDING)
        if np.isfinite(expected).all():  # where a joint never occurs the original prints nan, we average the others
            groups = ("ankle", "knee", "hip", "wrist", "elbow", "shoulder", "upper_neck", "head_top")
            row = "".join(f" & {v:.1f}" for v in (*(result.groups[g] for g in groups), result.total))
            assert row == case["stdout"].splitlines()[1]


def test_simple_baselines_mpii(golden_dir):
    root = golden_dir / "simplebaseline_paddle" / "mpii"
    if not root.is_dir():
        pytest.skip("this set of fixtures has no mpii folder")
    expected = json.loads((root / "expected.json").read_text())
    pose_set = datasets.load("mpii", root, "valid")
    predictions = predictions_for(pose_set, _arrays(root / "preds.npz")["preds"][..., :2])
    results = score(pose_set, predictions, ["pckh@0.5", "pckh@0.1", "mean@0.1:compat"])
    table, compat = results["pckh@0.5"], expected["compat"]
    for name in (n for n in compat if not n.startswith("Mean")):
        group = {"Head": "head_top"}.get(name, name.lower())
        assert table.groups[group] == pytest.approx(compat[name], rel=0, abs=ROUNDING), name
    assert table.total == pytest.approx(compat["Mean"], rel=0, abs=ROUNDING)
    assert results["mean@0.1:compat"].total == pytest.approx(compat["Mean@0.1"], rel=0, abs=ROUNDING)
    assert results["pckh@0.1"].total == pytest.approx(expected["correct_mean_at_0p10"], rel=0, abs=ROUNDING)
    labelled = pose_set.visible > 0
    curve = [
        pck.pckh(pose_set.joints, predictions.joints, labelled, pose_set.head_size, t, pose_set.skeleton).total
        for t in expected["all_thresholds"]
    ]
    np.testing.assert_allclose(curve, expected["mean_curve"], rtol=0, atol=ROUNDING)


def test_k2hpd_accuracy_and_loss(golden_dir):
    data = _arrays(golden_dir / "deeppose_caffe_port" / "dataprep" / "expected" / "arrays.npz")
    if "met/label" not in data:
        pytest.skip("this set of fixtures has no met/* arrays")
    truth, predicted = data["met/label"], data["met/predict"]
    result = pcp.k2hpd_accuracy(truth, predicted, K2HPD15)
    assert result.total == pytest.approx(100 * float(data["met/pcp"]), rel=0, abs=ROUNDING)
    np.testing.assert_allclose(
        [result.values[f"pdj@{t:g}"] for t in data["met/lambdas"]], 100 * data["met/pdj"], rtol=0, atol=ROUNDING
    )
    loss, size = float(data["met/loss"]), rounding(float(data["met/loss"]), terms=truth.size, dtype=np.float64)
    assert pcp.k2hpd_loss(truth, predicted, K2HPD15).total == pytest.approx(loss, rel=0, abs=size)
