"""The registry of named protocols: the promised names, what each counts, and known answers from published predictions ($POSE_DATA)."""

import json
from dataclasses import replace

import numpy as np
import pytest

from common import datasets
from common.datasets import NAMES
from common.errors import DataError
from common.evaluate import score
from common.importers import load_any
from common.poses import PoseSet, box_of_joints
from common.predictions import predictions_for
from common.protocols import protocols_for, protocols_of
from common.skeletons import COCO17, JHMDB15, K2HPD15, LSP14, MPII16, PENN13
from tests.tolerance import rounding

EXACT = rounding(100, terms=1000, dtype=np.float64)  # percentages of at most 1000 joints

SKELETONS = {"lsp": LSP14, "lspet": LSP14, "mpii": MPII16, "penn_action": PENN13, "jhmdb": JHMDB15, "k2hpd": K2HPD15}


def make_set(name, n=12, seed=0, **fields):
    """A PoseSet of n persons with every joint visible; `fields` replaces or adds."""
    rng = np.random.default_rng(seed)
    skeleton = fields.pop("skeleton", SKELETONS.get(name))
    joints = (
        rng.integers(80, 880, (n, len(skeleton), 2)) / 4
    )  # quarters of a pixel: exact in the float32 of prediction files
    rows = {
        "name": name,
        "skeleton": skeleton,
        "split": "test",
        "images": [f"{i}.jpg" for i in range(n)],
        "image_id": np.arange(n),
        "person_id": np.zeros(n, np.int64),
        "joints": joints,
        "visible": np.full((n, len(skeleton)), 2, np.int8),
        "box": box_of_joints(joints),
    }
    if name == "mpii":
        rows |= {"head_size": rng.uniform(20, 30, n), "center": joints.mean(1), "scale": rng.uniform(0.8, 1.5, n)}
    if name == "penn_action":
        rows |= {
            "sequence": np.repeat(np.arange(n), 6)[:n],
            "frame": np.tile(np.arange(6), n)[:n],
            "image_size": np.full((n, 2), 240),
        }
    return PoseSet(**{**rows, **fields})


def hide(pose_set, visible):
    """The set with another visibility; unlabelled joints become NaN, as a PoseSet wants them."""
    return replace(
        pose_set, visible=visible.astype(np.int8), joints=np.where((visible > 0)[..., None], pose_set.joints, np.nan)
    )


PROMISED = {
    "lsp": "pck_torso@0.2 auc_torso pcp_strict@0.5 pcp_relaxed@0.5 pckh_neck@0.5 pckh_neck_symmetric@0.5 pdj@0.2 pck_extent@0.2:compat",
    "mpii": "pckh@0.5 pckh@0.1 mean@0.1:compat pckh_neck@0.5 pckh_neck_symmetric@0.5 pcp_strict@0.5 pck_box@0.2 pck_extent@0.2:compat",
    "coco": "oks_ap",
    "penn_action": "pck_box@0.2 pck_torso@0.2 penn_mobilepose@0.2:compat",
    "jhmdb": "pck_box@0.2 pck_torso@0.2",
    "k2hpd": "pdj@0.05 pdj@0.1 pdj@0.15 pdj@0.2 pdj@0.25 pdj@0.3 pdj@0.35 pdj@0.4 pdj@0.45 pdj@0.5 pcp_strict@0.5",
    "ai_challenger": "aic_map",
}


@pytest.mark.parametrize("name", PROMISED)
def test_promised_names(name):
    assert set(PROMISED[name].split()) <= set(protocols_of(name))


def test_every_data_set_has_protocols_and_a_setting():
    for dataset in NAMES:
        assert datasets.record(dataset).name == dataset
        assert datasets.record(dataset).main_protocol in protocols_of(dataset)
        for name, protocol in protocols_of(dataset).items():
            assert name == protocol.name and protocol.by in ("row", "image")


@pytest.mark.parametrize("name", SKELETONS)
def test_perfect_predictions_reach_the_top(name):
    pose_set = make_set(name)
    results = score(pose_set, predictions_for(pose_set, pose_set.joints))
    assert list(results) == list(protocols_of(name))
    for protocol, result in results.items():
        # 1e-6: prediction files store float32
        assert result.total == pytest.approx(0.0 if protocol.startswith("loss") else 100.0, rel=0, abs=EXACT), protocol
        assert result.n > 0 and result.aggregation


@pytest.mark.parametrize("name", SKELETONS)
def test_no_persons(name):
    pose_set = make_set(name).select(slice(0))
    for result in score(pose_set, predictions_for(pose_set, pose_set.joints)).values():
        assert np.isnan(result.total) and result.n == 0


def test_unknown_and_inapplicable_protocols():
    with pytest.raises(DataError, match="data set lsp has no protocol 'pckh@0.5'; it has pck_torso@0.2"):
        protocols_for(make_set("lsp"), ["pckh@0.5"])
    bare = make_set("mpii", head_size=None)
    with pytest.raises(DataError, match="pckh@0.5 needs head_size"):
        protocols_for(bare, ["pckh@0.5"])
    assert "pckh@0.5" not in [p.name for p in protocols_for(bare)] and "pckh_neck@0.5" in [
        p.name for p in protocols_for(bare)
    ]


def test_own_data_gets_what_its_joints_allow():
    names = [p.name for p in protocols_for(make_set("json", skeleton=LSP14))]
    assert "pck_torso@0.2" in names and "pcp_strict@0.5" in names and "oks_ap" not in names and "pckh@0.5" not in names
    names = [p.name for p in protocols_for(make_set("json", skeleton=COCO17, area=np.ones(12)))]
    assert "oks_ap" in names and "pck_torso@0.2" in names and "pcp_strict@0.5" not in names


def test_ignored_persons_are_not_counted():
    pose_set = make_set("lsp")
    wrong = pose_set.joints.copy()
    wrong[:6] += 1000
    everyone = score(pose_set, predictions_for(pose_set, wrong), ["pck_torso@0.2"])["pck_torso@0.2"]
    ignoring = replace(pose_set, ignore=np.arange(12) < 6)
    others = score(ignoring, predictions_for(ignoring, wrong), ["pck_torso@0.2"])["pck_torso@0.2"]
    assert (everyone.total, everyone.n) == (50.0, 12) and (others.total, others.n) == (100.0, 6)


def test_occluded_joints_count_on_lsp_and_not_on_penn_action():
    for name, expected in (("lsp", 1), ("penn_action", 0)):
        protocol = "pck_torso@0.2" if name == "lsp" else "pck_box@0.2"
        pose_set = make_set(name, n=1)
        visible = pose_set.visible.copy()
        visible[0, pose_set.skeleton.index("left_knee")] = 1
        occluded = hide(pose_set, visible)
        assert (
            score(occluded, predictions_for(occluded, occluded.joints), [protocol])[protocol].counts["left_knee"]
            == expected
        )


def test_mobilepose_drops_occluded_joints_on_lsp_only():
    visible = make_set("lsp").visible.copy()
    visible[:, LSP14.index("left_knee")] = 1
    for name, expected in (("lsp", 0), ("lspet", 12)):
        pose_set = hide(make_set(name), visible)
        result = score(pose_set, predictions_for(pose_set, pose_set.joints), ["pck_extent@0.2:compat"])[
            "pck_extent@0.2:compat"
        ]
        assert result.counts["left_knee"] == expected and "neck" not in result.values


def test_mobilepose_threshold_is_wider_than_torso_pck():
    pose_set = make_set("lsp", n=60)
    noisy = pose_set.joints + np.random.default_rng(3).normal(0, 20, pose_set.joints.shape)
    results = score(pose_set, predictions_for(pose_set, noisy))
    assert results["pck_extent@0.2:compat"].total > results["pck_torso@0.2"].total + 10


def test_mean_at_a_tenth_is_really_eleven_hundredths():
    pose_set = make_set("mpii", n=40)
    shifted = pose_set.joints.copy()
    shifted[..., 0] += 0.105 * pose_set.head_size[:, None]
    results = score(pose_set, predictions_for(pose_set, shifted))
    assert results["pckh@0.1"].total == 0.0 and results["mean@0.1:compat"].total == 100.0
    assert "0.11" in results["mean@0.1:compat"].aggregation and set(results["pckh@0.5"].means) == {
        "weighted",
        "unweighted",
    }


def test_box_pck_of_mpii_is_around_fourteen_joints():
    pose_set = make_set("mpii", n=1)
    joints = pose_set.joints.copy()
    joints[0, MPII16.index("pelvis")] = 5000  # outside the box that counts, and not scored
    far = replace(pose_set, joints=joints)
    missing = joints.copy()
    missing[0, MPII16.indices(["pelvis", "thorax"])] = np.nan
    result = score(far, predictions_for(far, missing), ["pck_box@0.2"])["pck_box@0.2"]
    assert result.total == 100.0 and "pelvis" not in result.values
    assert score(far, predictions_for(far, missing + 45), ["pck_box@0.2"])["pck_box@0.2"].total == 0.0


def test_penn_torso_falls_back_on_the_prediction():
    pose_set = make_set("penn_action", n=1)
    joints = pose_set.joints.copy()
    joints[0, PENN13.index("left_hip")] = joints[0, PENN13.index("right_shoulder")]
    degenerate = replace(pose_set, joints=joints)
    predicted = joints.copy()
    predicted[0, PENN13.index("left_hip")] += (100, 0)
    result = score(degenerate, predictions_for(degenerate, predicted), ["pck_torso@0.2"])["pck_torso@0.2"]
    assert result.values["head"] == 100.0 and result.values["left_hip"] == 0.0


def test_penn_torso_with_hidden_ends_falls_back_too():
    pose_set = make_set("penn_action", n=6)
    visible = pose_set.visible.copy()
    visible[:, PENN13.index("left_hip")] = 0
    hidden = hide(pose_set, visible)
    joints = pose_set.joints.copy()
    assert score(hidden, predictions_for(hidden, joints), ["pck_torso@0.2"])["pck_torso@0.2"].counts["head"] == 6
    joints[:3] = np.nan  # no prediction to measure: counted, and missed
    result = score(hidden, predictions_for(hidden, joints), ["pck_torso@0.2"])["pck_torso@0.2"]
    assert (result.total, result.n) == (50.0, 6)


def test_mobilepose_penn_leaves_tails_out():
    pose_set = make_set("penn_action", n=12)  # two videos of six frames: one of each is a tail
    result = score(pose_set, predictions_for(pose_set, pose_set.joints))
    assert (
        result["penn_mobilepose@0.2:compat"].n == result["pck_extent@0.2:compat"].n == 10
        and result["pck_box@0.2"].n == 12
    )


@pytest.mark.parametrize("protocol", ["penn_mobilepose@0.2:compat", "pck_extent@0.2:compat"])
def test_mobilepose_measures_from_the_placeholders_of_hidden_joints(protocol):
    """A hidden joint's placeholder lies in the picture's corner: the crop reaches there, and with it grows what counts as a hit."""
    pose_set = make_set("penn_action", n=10)
    pose_set = replace(pose_set, joints=pose_set.joints + 3000, image_size=None)
    visible = pose_set.visible.copy()
    visible[:, PENN13.index("left_ankle")] = 0
    far_off = predictions_for(pose_set, pose_set.joints + 300)
    assert score(pose_set, far_off, [protocol])[protocol].total == 0
    hidden = hide(pose_set, visible)
    assert score(hidden, far_off, [protocol])[protocol].total > 0


def test_belly_of_a_network_without_one():
    pose_set = make_set("jhmdb", n=3)
    shoulders, hips = (
        pose_set.joints[:, JHMDB15.indices((f"right_{p}", f"left_{p}"))].mean(1) for p in ("shoulder", "hip")
    )
    joints = pose_set.joints.copy()
    joints[:, JHMDB15.index("belly")] = shoulders + [0.5, 0.65] * (hips - shoulders)
    pose_set = replace(pose_set, joints=joints, box=np.ones_like(pose_set.box))  # only hits within 0.2 px count
    midpoint = joints.copy()
    midpoint[:, JHMDB15.index("belly")] = (shoulders + hips) / 2
    for stand_ins, expected in ((["belly"], 100.0), ([], 0.0)):
        predictions = predictions_for(pose_set, midpoint, meta={"stand_ins": stand_ins})
        assert score(pose_set, predictions, ["pck_box@0.2"])["pck_box@0.2"].values["belly"] == expected


def test_predictions_for_other_persons_are_refused():
    pose_set = make_set("lsp")
    predictions = predictions_for(pose_set, pose_set.joints, image_id=pose_set.image_id + 100)
    with pytest.raises(DataError, match="missing"):
        score(pose_set, predictions)


def test_shuffled_rows_give_the_same_figures():
    pose_set = make_set("lsp", n=30)
    noisy = pose_set.joints + np.random.default_rng(3).normal(0, 20, pose_set.joints.shape)
    order = np.random.default_rng(4).permutation(30)
    shuffled = predictions_for(pose_set.select(order), noisy[order])
    assert (
        score(pose_set, shuffled)["pck_torso@0.2"] == score(pose_set, predictions_for(pose_set, noisy))["pck_torso@0.2"]
    )


# Known answers: predictions that others published, scored elsewhere. Compared to the last digit that is printed there.


def _digits(values):
    return max(len(repr(v).split(".")[1]) for v in values)


def _printed_alike(found, expected, digits):
    return abs(found - expected) <= 0.5 * 10.0**-digits + 1e-9


@pytest.mark.data
def test_known_answers_mpii(pose_data):
    expected = json.loads((pose_data / "eval_refs" / "expected.json").read_text())["mpii_valid_pckh"]
    pose_set = datasets.load("mpii", pose_data / "mpii", "valid")
    means = {
        "Mean_weighted14": ("pckh@0.5", "weighted"),
        "Mean_unweighted14": ("pckh@0.5", "unweighted"),
        "Mean_weighted14_at_0p1": ("pckh@0.1", "weighted"),
    }
    assert expected
    for name, table in expected.items():
        folder = pose_data / "mpii" / "annot" if ":" in name else pose_data / "eval_refs" / "mpii"
        results = score(pose_set, load_any(folder / name.split(":")[0], pose_set))
        digits = _digits(table.values())
        for row, value in table.items():
            if row in means:
                protocol, mean = means[row]
                found = results[protocol].means[mean]
            else:
                found = results["pckh@0.5"].groups[{"Head": "head_top"}.get(row, row.lower())]
            assert _printed_alike(found, value, digits), (name, row, found, value)


@pytest.mark.data
def test_known_answers_lsp(pose_data):
    expected = json.loads((pose_data / "eval_refs" / "expected.json").read_text())["lsp_test_cpm"]
    pose_set = datasets.load("lsp", pose_data / "lsp_small", "test")
    assert expected
    for name, table in expected.items():
        [path] = (pose_data / "eval_refs" / "lsp_cpm").glob(f"*{name}.mat")
        results = score(pose_set, load_any(path, pose_set))
        joints = table["PCK@0.2_per_joint"]
        found = list(results["pck_torso@0.2"].values.values())
        assert len(found) == len(joints) and all(_printed_alike(f, e, _digits(joints)) for f, e in zip(found, joints))
        assert _printed_alike(results["pck_torso@0.2"].total, table["total"], _digits([table["total"]]))
        parts = table["PCP_strict@0.5"]
        assert all(
            _printed_alike(results["pcp_strict@0.5"].values[p], v, _digits(parts.values())) for p, v in parts.items()
        )
