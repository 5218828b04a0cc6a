"""The drawn people: joint limits, anatomy, what hides what, smooth motion."""

from __future__ import annotations

import numpy as np
import pytest

from common.skeletons import SKELETONS
from common.synthetic.body import DOF, HIGH, LOW, forward, sample_build, sample_pose
from common.synthetic.compose import (
    COVERED,
    OUTSIDE,
    SELF_OCCLUDED,
    VISIBLE,
    Posing,
    draw_group,
    make_stage,
    render,
    sample_figure,
)
from common.synthetic.figure import FACING_CAMERA, pose_figure, sample_look
from common.synthetic.shapes import Camera
from common.synthetic.write_many import _coco_crowd, _crowd_index
from common.synthetic.write_one import sample_motion
from tests.tolerance import rounding

EXACT = rounding(1, terms=9, steps=8, dtype=np.float64)  # products of rotations

BUILT_IN = tuple(SKELETONS.values())  # before a test registers a user's own
CAMERA = Camera(400.0, 119.5, 159.5)
SIDES = ("left", "right")
BONES = (
    ("shoulder", "elbow", "upper_arm"),
    ("elbow", "wrist", "forearm"),
    ("hip", "knee", "thigh"),
    ("knee", "ankle", "shin"),
)


def _angles(**degrees) -> np.ndarray:
    angles = np.zeros(len(DOF))
    for name, value in {"left_shoulder_abduct": 20, "right_shoulder_abduct": 20, **degrees}.items():
        angles[DOF[name]] = np.radians(value)
    return angles


def _show(*placed, width=240, height=320):
    """A picture of figures given as (angles, turn, position)."""
    rng = np.random.default_rng(5)
    figures = [
        pose_figure(sample_build(rng), sample_look(rng), angles, turn).moved(np.array(at, float))
        for angles, turn, at in placed
    ]
    return render(rng, make_stage(rng, (width, height), CAMERA), figures)


def test_poses_keep_the_joint_limits_and_bone_lengths():
    rng = np.random.default_rng(0)
    low, high = np.radians(LOW), np.radians(HIGH)
    for _ in range(50):
        build, angles = sample_build(rng), sample_pose(rng, looseness=1.5)
        assert (angles >= low - 1e-9).all() and (angles <= high + 1e-9).all()
        joints, frames = forward(build, angles)
        for side in SIDES:
            for a, b, length in BONES:
                assert np.linalg.norm(joints[f"{side}_{a}"] - joints[f"{side}_{b}"]) == pytest.approx(
                    getattr(build, length), rel=0, abs=EXACT
                )
        for frame in frames.values():
            np.testing.assert_allclose(frame @ frame.T, np.eye(3), rtol=0, atol=EXACT)
            assert np.linalg.det(frame) == pytest.approx(1, rel=0, abs=EXACT)


def test_anatomy_bends_the_right_way():
    build = sample_build(np.random.default_rng(1))
    rest, _ = forward(build, _angles())
    bent, _ = forward(
        build, _angles(left_elbow=90, left_knee=90, right_hip_flex=80, right_shoulder_flex=90, spine_flex=40)
    )
    assert rest["left_wrist"][0] > 0 > rest["right_wrist"][0], "x is the person's left"
    assert rest["nose"][2] > rest["head_centre"][2], "z is the front"
    assert bent["left_ankle"][2] < rest["left_ankle"][2] - 0.2, "a knee bends backwards"
    assert bent["left_wrist"][2] > rest["left_wrist"][2] + 0.1, "an elbow bends forwards"
    assert bent["right_knee"][2] > 0.2 and bent["right_elbow"][2] > 0.2
    assert bent["head_top"][2] > 0.2, "the trunk bends forwards"


def test_every_joint_of_every_skeleton_is_drawn():
    joints, _ = forward(sample_build(np.random.default_rng(2)), _angles())
    assert {name for s in BUILT_IN for name in s.joints} <= set(joints)


def test_front_and_back_view_hide_the_right_joints():
    away = np.diag([-1.0, -1.0, 1.0])
    front = _show((_angles(), FACING_CAMERA, (0, 0, 3.0))).people[0]
    back = _show((_angles(), away, (0, 0, 3.0))).people[0]
    assert front.points["left_shoulder"][0] > front.points["right_shoulder"][0]
    assert back.points["left_shoulder"][0] < back.points["right_shoulder"][0]
    for name in ("nose", "left_eye", "right_eye"):
        assert front.states[name] == VISIBLE and back.states[name] == SELF_OCCLUDED
    for name in [f"{s}_{p}" for s in SIDES for p in ("shoulder", "elbow", "wrist", "hip", "knee", "ankle")]:
        assert front.states[name] == VISIBLE and back.states[name] == VISIBLE, name


def test_side_view_hides_the_far_side():
    side = FACING_CAMERA @ np.array(
        [[0, 0, 1.0], [0, 1, 0], [-1, 0, 0]]
    )  # looks to the picture's right: the right side is near
    person = _show((_angles(left_shoulder_abduct=0, right_shoulder_abduct=0), side, (0, 0, 3.0))).people[0]
    assert person.points["nose"][0] > person.points["head_centre"][0]
    near, far = [person.states[f"{s}_hip"] for s in ("right", "left")]
    assert near == VISIBLE and far == SELF_OCCLUDED
    assert person.states["left_ear"] == SELF_OCCLUDED and person.states["right_ear"] == VISIBLE


def test_people_hide_people_and_the_picture_ends_somewhere():
    both = _show((_angles(), FACING_CAMERA, (0, 0, 4.0)), (_angles(), FACING_CAMERA, (0, 0, 3.0))).people
    assert both[0].states["pelvis"] == COVERED and both[1].states["pelvis"] == VISIBLE
    assert both[0].states["thorax"] == COVERED
    assert not (both[0].mask & both[1].mask).any()
    cut = _show((_angles(), FACING_CAMERA, (0, 0.9, 3.0))).people[0]
    assert cut.states["left_ankle"] == OUTSIDE and cut.states["head_top"] == VISIBLE


def test_things_in_front_hide_joints():
    rng = np.random.default_rng(8)
    hidden = 0
    for _ in range(12):
        figure = sample_figure(rng, Posing()).moved(np.array([0, 0, 3.0]))
        stage = make_stage(rng, (240, 320), CAMERA)
        free = render(rng, stage, [figure]).people[0]
        stage.occluders.append((int(rng.integers(2**31)), 0.5, 1.0))
        covered = render(rng, stage, [figure]).people[0]
        assert free.points.keys() == covered.points.keys() and all(
            (free.points[n] == covered.points[n]).all() for n in free.points
        )
        changed = [n for n in free.states if free.states[n] != covered.states[n]]
        assert all(covered.states[n] == COVERED for n in changed)
        hidden += len(changed)
    assert hidden > 10


def test_motion_is_smooth_and_keeps_the_body():
    rng = np.random.default_rng(9)
    for _ in range(4):
        figures = sample_motion(rng, Posing(), 30)
        build = figures[0].build
        assert all(f.build is build and f.look is figures[0].look for f in figures)
        path = np.array([f.points() for f in figures])
        speed = np.linalg.norm(np.diff(path, axis=0), axis=-1).max()
        jerk = np.linalg.norm(np.diff(path, n=2, axis=0), axis=-1).max()
        assert 0.005 < speed < 0.25 * build.stature and jerk < 0.1 * build.stature


def test_crowd_region_is_the_crowd():
    mask_module = pytest.importorskip("pycocotools.mask")
    picture = draw_group(np.random.default_rng(3), Posing(), (480, 360), 2, (0.5, 0.6), 0.0, crowd=True)
    mask = np.any([t.mask for t in picture.people[2:]], axis=0)
    for drawn in (mask, np.roll(mask, -np.flatnonzero(mask.any(0))[0], axis=1), np.ones((3, 4), bool)):
        crowd = _coco_crowd(drawn, SKELETONS["coco17"])
        region = mask_module.decode(mask_module.frPyObjects(crowd["segmentation"], *drawn.shape)).astype(bool)
        np.testing.assert_array_equal(region, drawn)
        assert crowd["area"] == region.sum() and crowd["num_keypoints"] == 0


def test_crowd_index_counts_others_joints_in_ones_box():
    """CrowdPose's definition on two boxes by hand: 1 of 2 foreign joints in the first box, none in the second."""

    def person(box, *joints):
        return {"bbox": box, "num_keypoints": len(joints), "keypoints": [v for x, y in joints for v in (x, y, 2)]}

    left = person([0, 0, 10, 10], (1, 1), (9, 9))
    right = person([8, 0, 10, 8], (8.5, 2), (15, 3))
    assert _crowd_index([left]) == 0
    assert _crowd_index([left, right]) == pytest.approx((1 / 2 + 0) / 2, rel=0, abs=EXACT)
    unlabelled = {"bbox": [0, 0, 99, 99], "num_keypoints": 0, "keypoints": [0, 0, 0]}
    assert _crowd_index([left, right, unlabelled]) == _crowd_index([left, right])
    assert _crowd_index([person([0, 0, 9, 9], (1, 1)), *[person([1, 1, 2, 2], (2, 2), (2, 2))] * 3]) == 1
