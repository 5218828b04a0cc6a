"""A person as a kinematic tree: joint limits, proportions, forward kinematics.

Body axes: x to the person's left, y up, z to the front (right-handed); lengths in metres, angles in radians inside, degrees in the tables.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# Degrees of freedom with their anatomical limits in degrees. Flexion is forward, abduction outward, twist inward (arm) or outward (leg).
_TRUNK_LIMITS = {
    "spine_flex": (-25, 75), "spine_side": (-30, 30), "spine_twist": (-40, 40),
    "neck_flex": (-35, 45), "neck_side": (-30, 30), "neck_twist": (-65, 65),
}  # fmt: skip
_SIDE_LIMITS = {
    "shoulder_flex": (-50, 175), "shoulder_abduct": (-10, 150), "shoulder_twist": (-70, 80), "elbow": (0, 145), "wrist": (-40, 40),
    "hip_flex": (-25, 120), "hip_abduct": (-12, 55), "hip_twist": (-30, 40), "knee": (0, 145), "ankle": (-30, 35),
}  # fmt: skip
LIMITS = {
    **_TRUNK_LIMITS,
    **{f"{side}_{name}": limit for side in ("left", "right") for name, limit in _SIDE_LIMITS.items()},
}
DOF = {name: i for i, name in enumerate(LIMITS)}
_LOW, _HIGH = np.array(list(LIMITS.values()), float).T

# Postures: mean angles in degrees; "near_" and "far_" are the two sides in an order drawn for each pose.
# Angles not named are 0 (arms a little away).
_POSTURES = {
    "stand": {},
    "walk": {"near_hip_flex": 28, "far_hip_flex": -14, "near_knee": 18, "far_knee": 30, "near_shoulder_flex": -25, "far_shoulder_flex": 30},
    "run": {"near_hip_flex": 70, "far_hip_flex": -15, "near_knee": 80, "far_knee": 55, "near_shoulder_flex": -35, "far_shoulder_flex": 50,
            "near_elbow": 90, "far_elbow": 95, "spine_flex": 15},
    "reach": {"near_shoulder_flex": 150, "far_shoulder_flex": 140, "near_elbow": 25, "far_elbow": 30, "near_hip_flex": 10},
    "throw": {"near_shoulder_abduct": 110, "near_elbow": 80, "far_shoulder_flex": 70, "far_elbow": 30, "spine_twist": 25,
              "near_hip_flex": 35, "near_knee": 40, "far_hip_abduct": 20},
    "sit": {"near_hip_flex": 88, "far_hip_flex": 80, "near_knee": 85, "far_knee": 90, "near_shoulder_flex": 40, "far_shoulder_flex": 35,
            "near_elbow": 60, "far_elbow": 60, "spine_flex": 10},
    "squat": {"near_hip_flex": 100, "far_hip_flex": 95, "near_knee": 110, "far_knee": 110, "near_hip_abduct": 25, "far_hip_abduct": 25,
              "spine_flex": 30, "near_shoulder_flex": 70, "far_shoulder_flex": 60},
    "kick": {"near_hip_flex": 85, "near_knee": 20, "far_knee": 15, "near_shoulder_abduct": 50, "far_shoulder_abduct": 70,
             "near_elbow": 40, "far_elbow": 50},
    "split": {"near_hip_flex": 95, "far_hip_flex": -20, "near_hip_abduct": 20, "far_hip_abduct": 35,
              "near_shoulder_abduct": 120, "far_shoulder_abduct": 120},
    "tuck": {"near_hip_flex": 112, "far_hip_flex": 110, "near_knee": 125, "far_knee": 125, "spine_flex": 55, "near_shoulder_flex": 80,
             "far_shoulder_flex": 80, "near_elbow": 50, "far_elbow": 50},
    "star": {"near_shoulder_abduct": 120, "far_shoulder_abduct": 120, "near_hip_abduct": 40, "far_hip_abduct": 40},
    "hands_on_hips": {"near_shoulder_abduct": 45, "far_shoulder_abduct": 45, "near_shoulder_twist": 60, "far_shoulder_twist": 60,
                      "near_elbow": 100, "far_elbow": 100},
}  # fmt: skip
POSTURES = tuple(_POSTURES)


def rotation(axis: int, angle: float) -> np.ndarray:
    """(3,3) right-handed rotation about axis 0 (x), 1 (y) or 2 (z) by `angle` radians."""
    c, s = np.cos(angle), np.sin(angle)
    matrix = np.eye(3)
    i, j = ((1, 2), (2, 0), (0, 1))[axis]
    matrix[i, i] = matrix[j, j] = c
    matrix[i, j], matrix[j, i] = -s, s
    return matrix


@dataclass(frozen=True)
class Build:
    """Lengths of one person in metres and thickness factors."""

    stature: float
    upper_arm: float
    forearm: float
    thigh: float
    shin: float
    trunk: float
    neck: float
    head: float  # chin to crown
    shoulder: float  # half the distance of the shoulder joints
    hip: float  # half the distance of the hip joints
    girth: float


def sample_build(rng: np.random.Generator) -> Build:
    """Adult proportions (fractions of stature from anthropometric tables) with 6 % spread; one in eight is a child with a larger head."""
    child = rng.random() < 0.125
    h = rng.normal(1.25, 0.1) if child else np.clip(rng.normal(1.71, 0.09), 1.45, 2.0)
    vary = np.clip(rng.normal(1, 0.06, 6), 0.85, 1.15)
    leg, arm, broad = vary[0], vary[1], np.clip(rng.normal(1, 0.1), 0.8, 1.2)
    return Build(
        stature=h,
        upper_arm=0.172 * h * arm,
        forearm=0.155 * h * arm * vary[2],
        thigh=0.245 * h * leg,
        shin=0.243 * h * leg * vary[3],
        trunk=0.295 * h * vary[4],
        neck=0.052 * h * vary[5],
        head=(0.165 if child else 0.133) * h,
        shoulder=0.108 * h * broad,
        hip=0.052 * h * np.clip(rng.normal(1, 0.07), 0.85, 1.2),
        girth=np.clip(rng.normal(1.05, 0.17), 0.78, 1.55),
    )


def sample_pose(rng: np.random.Generator, looseness: float = 1.0, postures: tuple[str, ...] = POSTURES) -> np.ndarray:
    """(D,) angles in radians in the order of `DOF`: a posture, its sides in random order, plus noise, cut at the joint limits.

    `looseness` scales the noise (1: about 25 degrees at shoulders, 18 at hips). Poses whose limbs run through the trunk or each other are
    drawn again, up to eight times.
    """
    for _ in range(8):
        angles = _draw_pose(rng, looseness, postures)
        if not _collides(angles):
            break
    return angles


def _draw_pose(rng: np.random.Generator, looseness: float, postures: tuple[str, ...]) -> np.ndarray:
    sides = ("left", "right") if rng.random() < 0.5 else ("right", "left")
    degrees = np.zeros(len(DOF))
    for side in sides:
        degrees[DOF[f"{side}_shoulder_abduct"]] = 15
        degrees[DOF[f"{side}_elbow"]] = 18
        degrees[DOF[f"{side}_hip_abduct"]] = 5
    for name, value in _POSTURES[postures[rng.integers(len(postures))]].items():
        degrees[DOF[name.replace("near", sides[0]).replace("far", sides[1])]] = value
    spread = np.array([_SPREAD[name.removeprefix("left_").removeprefix("right_")] for name in DOF])
    degrees += looseness * spread * rng.normal(size=len(DOF))
    # knees and elbows bend one way only: fold the noise instead of piling it up at the limit
    fold = [DOF[f"{s}_{j}"] for s in sides for j in ("knee", "elbow")]
    degrees[fold] = np.abs(degrees[fold])
    if rng.random() < 0.12 * looseness:  # an arm anywhere within its limits
        arm = [DOF[f"{sides[0]}_{j}"] for j in ("shoulder_flex", "shoulder_abduct", "shoulder_twist", "elbow")]
        degrees[arm] = rng.uniform(_LOW[arm], _HIGH[arm])
    return np.radians(np.clip(degrees, _LOW, _HIGH))


_SPREAD = {
    "spine_flex": 14, "spine_side": 9, "spine_twist": 12, "neck_flex": 14, "neck_side": 9, "neck_twist": 25,
    "shoulder_flex": 30, "shoulder_abduct": 24, "shoulder_twist": 28, "elbow": 30, "wrist": 15,
    "hip_flex": 18, "hip_abduct": 11, "hip_twist": 12, "knee": 20, "ankle": 12,
}  # fmt: skip

_MEAN_BUILD = Build(1.7, 0.292, 0.264, 0.417, 0.413, 0.5, 0.088, 0.226, 0.184, 0.088, 1.0)


def _collides(angles: np.ndarray) -> bool:
    """True when a hand or knee lies inside the trunk, or the two legs run through each other (checked on the mean build)."""
    joints, _ = forward(_MEAN_BUILD, angles)
    trunk = [joints["pelvis"], joints["belly"], joints["thorax"], joints["head"]]
    for side in ("left", "right"):
        for part in ("elbow", "wrist", "hand", "knee"):
            if min(np.linalg.norm(joints[f"{side}_{part}"] - p) for p in trunk) < 0.14:
                return True
    legs = [np.array([joints[f"{s}_{p}"] for p in ("knee", "ankle")]) for s in ("left", "right")]
    points = [np.concatenate([leg, leg.mean(0, keepdims=True)]) for leg in legs]
    return bool(np.linalg.norm(points[0][:, None] - points[1][None], axis=-1).min() < 0.09)


def forward(build: Build, angles: np.ndarray) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Joint positions (3,) in metres from the pelvis, and bone frames (3,3; columns = bone's left, up, front), both in body axes.

    The names cover every joint of every skeleton in `common.skeletons`, plus `head_centre`, toes and heels for drawing.
    """
    a = dict(zip(DOF, angles))
    frames = {"pelvis": np.eye(3)}
    half = rotation(0, a["spine_flex"] / 2) @ rotation(2, a["spine_side"] / 2) @ rotation(1, a["spine_twist"] / 2)
    frames["belly"], frames["chest"] = half, half @ half
    bend = rotation(0, a["neck_flex"]) @ rotation(2, a["neck_side"]) @ rotation(1, a["neck_twist"])
    frames["neck"] = frames["chest"] @ rotation(0, a["neck_flex"] / 2)
    frames["head"] = frames["chest"] @ bend
    joints = _trunk_joints(build, frames)
    for side, sign in (("left", 1.0), ("right", -1.0)):
        _arm(build, a, side, sign, joints, frames)
        _leg(build, a, side, sign, joints, frames)
    return joints, frames


def _trunk_joints(build: Build, frames: dict) -> dict[str, np.ndarray]:
    joints = {"pelvis": np.zeros(3)}
    joints["belly"] = frames["belly"] @ [0, 0.46 * build.trunk, 0.0]
    joints["neck"] = joints["belly"] + frames["chest"] @ [0, 0.54 * build.trunk, 0]
    joints["thorax"] = joints["belly"] + frames["chest"] @ [0, 0.46 * build.trunk, 0]
    joints["spine"] = joints["belly"]
    joints["upper_neck"] = joints["neck"] + frames["neck"] @ [0, build.neck, 0.006 * build.stature]
    at = {
        "head_top": (0, 1.0, 0.05), "head_centre": (0, 0.5, 0.09), "head": (0, 0.5, 0.09), "face": (0, 0.42, 0.45), "nose": (0, 0.4, 0.56),
        "left_eye": (0.15, 0.52, 0.43), "right_eye": (-0.15, 0.52, 0.43), "left_ear": (0.34, 0.46, 0.05), "right_ear": (-0.34, 0.46, 0.05),
    }  # fmt: skip
    for name, offset in at.items():
        joints[name] = joints["upper_neck"] + build.head * (frames["head"] @ offset)
    return joints


def _arm(build: Build, a: dict, side: str, sign: float, joints: dict, frames: dict) -> None:
    lift = 0.02 * build.stature * np.sin(max(a[f"{side}_shoulder_flex"], a[f"{side}_shoulder_abduct"], 0) / 2)
    upper = (
        frames["chest"] @ rotation(0, -a[f"{side}_shoulder_flex"]) @ rotation(2, sign * a[f"{side}_shoulder_abduct"])
    )
    upper = upper @ rotation(1, -sign * a[f"{side}_shoulder_twist"])
    fore = upper @ rotation(0, -a[f"{side}_elbow"])
    hand = fore @ rotation(0, -a[f"{side}_wrist"])
    shoulder = joints["thorax"] + frames["chest"] @ [sign * build.shoulder, lift, 0]
    elbow = shoulder + upper @ [0, -build.upper_arm, 0]
    wrist = elbow + fore @ [0, -build.forearm, 0]
    joints.update({f"{side}_shoulder": shoulder, f"{side}_elbow": elbow, f"{side}_wrist": wrist})
    joints[f"{side}_hand"] = wrist + hand @ [0, -0.05 * build.stature, 0]
    frames.update({f"{side}_upper_arm": upper, f"{side}_forearm": fore, f"{side}_hand": hand})


def _leg(build: Build, a: dict, side: str, sign: float, joints: dict, frames: dict) -> None:
    thigh = (
        rotation(0, -a[f"{side}_hip_flex"])
        @ rotation(2, sign * a[f"{side}_hip_abduct"])
        @ rotation(1, sign * a[f"{side}_hip_twist"])
    )
    shin = thigh @ rotation(0, a[f"{side}_knee"])
    foot = shin @ rotation(0, a[f"{side}_ankle"])
    hip = np.array([sign * build.hip, 0.0, 0.0])
    knee = hip + thigh @ [0, -build.thigh, 0]
    ankle = knee + shin @ [0, -build.shin, 0]
    h = build.stature
    joints.update({f"{side}_hip": hip, f"{side}_knee": knee, f"{side}_ankle": ankle})
    joints[f"{side}_heel"] = ankle + foot @ [0, -0.025 * h, -0.02 * h]
    joints[f"{side}_toe"] = ankle + foot @ [0, -0.03 * h, 0.095 * h]
    joints[f"{side}_foot"] = ankle + foot @ [0, -0.025 * h, 0.045 * h]
    frames.update({f"{side}_thigh": thigh, f"{side}_shin": shin, f"{side}_foot": foot})
