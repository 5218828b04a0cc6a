"""Skeletons: what is derived from the names, and the maps between them."""

import json

import numpy as np
import pytest

from common.errors import DataError
from common.skeletons import (
    AIC14,
    COCO17,
    CPM14,
    JHMDB15,
    LPM14,
    LSP14,
    MPII14,
    MPII16,
    PENN13,
    SKELETONS,
    Skeleton,
    card,
    from_card,
    group_name,
    joint_order,
    mirror_name,
    skeleton_map,
)
from tests.tolerance import rounding

EXACT = rounding(100, terms=4, dtype=np.float64)  # means of pixels

ALL = list(SKELETONS.values())


def named_limbs(skeleton):
    return {frozenset((skeleton.joints[a], skeleton.joints[b])) for a, b in skeleton.limbs}


@pytest.mark.parametrize("skeleton", ALL, ids=lambda s: s.name)
def test_mirror_is_its_own_inverse_and_changes_the_side(skeleton):
    assert np.array_equal(skeleton.mirror[skeleton.mirror], np.arange(len(skeleton)))
    for i, m in enumerate(skeleton.mirror):
        assert skeleton.joints[m] == mirror_name(skeleton.joints[i])
        assert (i == m) == (not skeleton.joints[i].startswith(("left_", "right_")))
    assert sorted(i for pair in skeleton.flip_pairs for i in pair) == [
        i for i, m in enumerate(skeleton.mirror) if i != m
    ]


@pytest.mark.parametrize("skeleton", ALL, ids=lambda s: s.name)
def test_groups_hold_every_joint_once(skeleton):
    assert sorted(i for members in skeleton.groups.values() for i in members) == list(range(len(skeleton)))
    assert all(group_name(skeleton.joints[i]) == name for name, members in skeleton.groups.items() for i in members)


@pytest.mark.parametrize("skeleton", ALL, ids=lambda s: s.name)
def test_limbs_are_distinct_and_mirror_each_other(skeleton):
    limbs = named_limbs(skeleton)
    assert len(limbs) == len(skeleton.limbs) and all(len(limb) == 2 for limb in limbs)
    assert {frozenset(mirror_name(j) for j in limb) for limb in limbs} == limbs


@pytest.mark.parametrize("skeleton", [s for s in ALL if s not in (COCO17, PENN13)], ids=lambda s: s.name)
def test_limbs_join_all_joints_where_there_is_a_neck(skeleton):
    reached = {skeleton.limbs[0][0]}
    for _ in skeleton.joints:
        reached |= {i for limb in skeleton.limbs for i in limb if reached & set(limb)}
    assert reached == set(range(len(skeleton)))


def test_limbs_of_known_skeletons():
    assert {
        frozenset(("right_knee", "right_ankle")),
        frozenset(("neck", "head_top")),
        frozenset(("left_hip", "left_shoulder")),
    } <= named_limbs(LSP14)
    assert {
        frozenset(("thorax", "pelvis")),
        frozenset(("pelvis", "left_hip")),
        frozenset(("thorax", "upper_neck")),
    } <= named_limbs(MPII16)
    assert frozenset(("left_hip", "left_shoulder")) not in named_limbs(MPII16)
    assert {
        frozenset(("nose", "left_eye")),
        frozenset(("left_eye", "left_ear")),
        frozenset(("left_hip", "right_hip")),
    } <= named_limbs(COCO17)
    assert {frozenset(("neck", "belly")), frozenset(("face", "neck"))} <= named_limbs(JHMDB15)


def test_orders_of_the_papers():
    # LSP's and MPII's readme, MobilePose's and CPM's code: index -> name of a few joints that tell the orders apart
    for skeleton, places in (
        (LSP14, {0: "right_ankle", 6: "right_wrist", 11: "left_wrist", 13: "head_top"}),
        (MPII16, {6: "pelvis", 7: "thorax", 8: "upper_neck", 9: "head_top", 10: "right_wrist", 15: "left_wrist"}),
        (LPM14, {6: "left_elbow", 7: "left_wrist", 8: "neck", 9: "head_top", 10: "right_wrist", 13: "left_shoulder"}),
        (CPM14, {0: "head_top", 2: "right_shoulder", 7: "left_wrist", 13: "left_ankle"}),
        (COCO17, {0: "nose", 5: "left_shoulder", 16: "right_ankle"}),
        (PENN13, {0: "head", 1: "left_shoulder", 12: "right_ankle"}),
        (JHMDB15, {0: "neck", 2: "face", 14: "left_ankle"}),
        (AIC14, {0: "right_shoulder", 12: "head_top", 13: "neck"}),
    ):
        assert {i: skeleton.joints[i] for i in places} == places
    assert LPM14.flip_pairs == [(0, 5), (1, 4), (2, 3), (6, 11), (7, 10), (12, 13)]


def test_bad_skeletons_are_refused():
    with pytest.raises(ValueError, match="occurs twice"):
        Skeleton("x", ("neck", "neck"))
    with pytest.raises(ValueError, match="left_knee has no counterpart"):
        Skeleton("x", ("left_knee", "neck"))
    with pytest.raises(ValueError, match="lsp14 has no joint 'pelvis'"):
        LSP14.index("pelvis")
    with pytest.raises(ValueError, match="limb"):
        Skeleton("x", ("a", "b"), ((0, 2),))


@pytest.mark.parametrize(
    "joints", [("left_a", "right_a", "b"), ("right_a", "left_a", "b"), ("a", "b", "c")], ids=("left", "right", "none")
)
def test_a_card_is_plain_json_and_gives_the_skeleton_back(joints):
    own = Skeleton("own", joints, ((0, 2), (2, 1)))
    back = from_card(json.loads(json.dumps(card(own))), "file x: field skeleton")
    assert back == own and back.limbs == own.limbs and back.flip_pairs == own.flip_pairs
    named = from_card({"name": "own", "joints": joints, "limbs": [[joints[0], "b"], [2, 1]]}, "x")
    assert named == own and named.flip_pairs == own.flip_pairs
    for known in ALL:
        assert from_card(card(known), "x") is known is from_card(known.name, "x")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("lsp", "where: 'lsp' is not known; write lsp14"),
        (None, "where must be"),
        ({"name": "x", "joints": []}, "where must be"),
        ({"name": "x", "joints": ["a", 1]}, "where.joints holds"),
        ({"name": "x", "joints": ["a", "left_b"]}, "where: .*left_b has no counterpart"),
        ({"name": "lsp14", "joints": ["a"]}, "'lsp14' is taken"),
        ({"name": "x", "joints": ["a", "b"], "limbs": [["a", "c"]]}, "where.limbs has"),
        ({"name": "x", "joints": ["a", "b"], "limbs": [[0, 0]]}, "where: .*limb"),
        ({"name": "x", "joints": ["a", "b"], "limbs": 3}, "where.limbs has 3"),
        ({"name": "x", "joints": ["left_a", "right_a"], "flip_pairs": []}, "where.flip_pairs contradicts"),
    ],
)
def test_a_malformed_card_names_the_place(content, message):
    with pytest.raises(DataError, match=message):
        from_card(content, "where")


def test_map_by_name_keeps_the_place_of_every_shared_joint():
    joints = np.arange(2 * 14 * 2, dtype=float).reshape(2, 14, 2)
    mapped = skeleton_map(LSP14, LPM14).apply(joints)
    for name in LPM14.joints:
        assert np.array_equal(mapped[:, LPM14.index(name)], joints[:, LSP14.index(name)])
    assert np.array_equal(skeleton_map(LPM14, LSP14).apply(mapped), joints)
    assert not skeleton_map(LSP14, LPM14).synthetic.any()


def test_map_marks_stand_ins_and_absent_joints():
    into = skeleton_map(LSP14, MPII16)
    stand_ins = {MPII16.joints[i] for i in np.flatnonzero(into.synthetic)}
    assert stand_ins == {"pelvis", "thorax", "upper_neck"}
    joints = np.random.default_rng(0).uniform(0, 100, (14, 2))
    visible = np.full(14, 2, np.int8)
    visible[LSP14.index("left_hip")] = 1
    mapped, seen = into.apply(joints, visible)
    assert np.allclose(
        mapped[MPII16.index("pelvis")], joints[LSP14.indices(["left_hip", "right_hip"])].mean(0), rtol=0, atol=EXACT
    )
    assert seen[MPII16.index("pelvis")] == 1 and seen.dtype == np.int8

    mapped, seen = skeleton_map(LSP14, COCO17).apply(joints, visible)
    assert np.isnan(mapped[COCO17.index("left_eye")]).all() and seen[COCO17.index("left_eye")] == 0


def test_a_stand_in_of_an_unlabelled_source_is_unlabelled():
    joints = np.ones((1, 14, 2))
    visible = np.full((1, 14), 2, np.int8)
    joints[0, LSP14.index("left_hip")], visible[0, LSP14.index("left_hip")] = np.nan, 0
    mapped, seen = skeleton_map(LSP14, MPII16).apply(joints, visible)
    assert np.isnan(mapped[0, MPII16.index("pelvis")]).all() and seen[0, MPII16.index("pelvis")] == 0


def test_mpii14_is_mpii16_in_lsp_order():
    assert [n.replace("upper_neck", "neck") for n in MPII14.joints] == list(LSP14.joints)


def test_joint_order_is_by_name_and_refuses_other_skeletons():
    order = joint_order(LSP14, LPM14)
    assert [LSP14.joints[i] for i in order] == list(LPM14.joints)
    with pytest.raises(
        DataError, match=r"lsp14 \(14 joints\), the data have coco17 \(17 joints\); --shared_joints lets the 12"
    ):
        joint_order(LSP14, COCO17)
    order = joint_order(LSP14, COCO17, shared_joints=True)
    assert order[COCO17.index("left_eye")] == -1 and order[COCO17.index("left_hip")] == LSP14.index("left_hip")
    with pytest.raises(DataError, match="answers skeleton one"):
        joint_order(Skeleton("one", ("thumb",)), COCO17, shared_joints=True)
