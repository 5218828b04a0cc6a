"""A person as a kinematic tree: joint limits, proportions, forward kinematics (tables: `body.yaml`).

Body axes: x to the person's left, y up, z to the front (right-handed); lengths in metres, angles in radians.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml

with open(Path(__file__).with_name("body.yaml"), encoding="utf-8") as _file:
    TABLES = yaml.safe_load(_file)
_FREEDOMS = TABLES["trunk"] | {f"{s}_{name}": row for s in ("left", "right") for name, row in TABLES["side"].items()}
DOF = {name: i for i, name in enumerate(_FREEDOMS)}
LOW, HIGH, _SPREAD = np.array(list(_FREEDOMS.values()), float).T  # degrees
POSTURES = tuple(TABLES["postures"])


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
    """Lengths of one person in metres and a thickness factor; `head` chin to crown, `shoulder`, `hip` half widths."""

    stature: float
    upper_arm: float
    forearm: float
    thigh: float
    shin: float
    trunk: float
    neck: float
    head: float
    shoulder: float
    hip: float
    girth: float


def sample_build(rng: np.random.Generator) -> Build:
    """Adult proportions (fractions of stature from anthropometric tables) with 6 % spread; one in eight is a child."""
    child = rng.random() < 0.125
    h = rng.normal(1.25, 0.1) if child else np.clip(rng.normal(1.71, 0.09), 1.45, 2.0)
    leg, arm, fore, shin, trunk, neck = np.clip(rng.normal(1, 0.06, 6), 0.85, 1.15)
    arms, legs = (0.172 * h * arm, 0.155 * h * arm * fore), (0.245 * h * leg, 0.243 * h * leg * shin)
    shoulder = 0.108 * h * np.clip(rng.normal(1, 0.1), 0.8, 1.2)
    hip = 0.052 * h * np.clip(rng.normal(1, 0.07), 0.85, 1.2)
    girth = np.clip(rng.normal(1.05, 0.17), 0.78, 1.55)
    head = (0.165 if child else 0.133) * h
    return Build(h, *arms, *legs, 0.295 * h * trunk, 0.052 * h * neck, head, shoulder, hip, girth)


def sample_pose(rng: np.random.Generator, looseness: float = 1.0, postures: tuple[str, ...] = POSTURES) -> np.ndarray:
    """(D,) angles in radians in the order of `DOF`: a posture, its sides in random order, plus noise, within limits.

    `looseness` scales the noise.
    """
    sides = ("left", "right") if rng.random() < 0.5 else ("right", "left")
    degrees = looseness * _SPREAD * rng.normal(size=len(DOF))
    for name, values in (TABLES["arms_away"] | TABLES["postures"][postures[rng.integers(len(postures))]]).items():
        names = [f"{side}_{name}" for side in sides] if len(values) == 2 else [name]
        degrees[[DOF[n] for n in names]] += values
    # knees and elbows bend one way only: fold the noise instead of piling it up at the limit
    fold = [DOF[f"{side}_{joint}"] for side in sides for joint in ("knee", "elbow")]
    degrees[fold] = np.abs(degrees[fold])
    return np.radians(np.clip(degrees, LOW, HIGH))


def forward(build: Build, angles: np.ndarray) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Joints (3,) in metres from the pelvis, and bone frames (3,3; columns = bone's left, up, front), in body axes.

    The names cover every joint of every skeleton in `common.skeletons`, plus `head_centre`, toes and heels for drawing.
    """
    a = dict(zip(DOF, angles))
    h, half = build.stature, rotation(0, a["spine_flex"] / 2) @ rotation(2, a["spine_side"] / 2)
    half = half @ rotation(1, a["spine_twist"] / 2)
    chest = half @ half
    head = chest @ rotation(0, a["neck_flex"]) @ rotation(2, a["neck_side"]) @ rotation(1, a["neck_twist"])
    neck = chest @ rotation(0, a["neck_flex"] / 2)
    frames = {"pelvis": np.eye(3), "belly": half, "chest": chest, "neck": neck, "head": head}

    joints = {"pelvis": np.zeros(3), "belly": half @ [0, 0.46 * build.trunk, 0]}
    joints["spine"] = joints["belly"]
    joints["neck"] = joints["belly"] + chest @ [0, 0.54 * build.trunk, 0]
    joints["thorax"] = joints["belly"] + chest @ [0, 0.46 * build.trunk, 0]
    joints["upper_neck"] = joints["neck"] + neck @ [0, build.neck, 0.006 * h]
    for name, offset in TABLES["head"].items():
        joints[name] = joints["upper_neck"] + build.head * (head @ offset)

    for side, sign in (("left", 1.0), ("right", -1.0)):
        _add_side(joints, frames, build, {name: a[f"{side}_{name}"] for name in TABLES["side"]}, side, sign)
    return joints, frames


def _add_side(joints: dict, frames: dict, build: Build, a: dict[str, float], side: str, sign: float) -> None:
    """Arm and leg of one side; `a` are its own angles."""
    h, chest = build.stature, frames["chest"]
    lift = 0.02 * h * np.sin(max(a["shoulder_flex"], a["shoulder_abduct"], 0) / 2)
    upper = chest @ rotation(0, -a["shoulder_flex"]) @ rotation(2, sign * a["shoulder_abduct"])
    upper = upper @ rotation(1, -sign * a["shoulder_twist"])
    fore = upper @ rotation(0, -a["elbow"])
    hand = fore @ rotation(0, -a["wrist"])
    thigh = rotation(0, -a["hip_flex"]) @ rotation(2, sign * a["hip_abduct"]) @ rotation(1, sign * a["hip_twist"])
    shin = thigh @ rotation(0, a["knee"])
    foot = shin @ rotation(0, a["ankle"])
    bones = {"upper_arm": upper, "forearm": fore, "hand": hand, "thigh": thigh, "shin": shin, "foot": foot}

    points = {"shoulder": joints["thorax"] + chest @ [sign * build.shoulder, lift, 0]}
    points["elbow"] = points["shoulder"] - build.upper_arm * upper[:, 1]
    points["wrist"] = points["elbow"] - build.forearm * fore[:, 1]
    points["hand"] = points["wrist"] - 0.05 * h * hand[:, 1]
    points["hip"] = np.array([sign * build.hip, 0.0, 0.0])
    points["knee"] = points["hip"] - build.thigh * thigh[:, 1]
    points["ankle"] = points["knee"] - build.shin * shin[:, 1]
    for name, y, z in (("heel", -0.025, -0.02), ("toe", -0.03, 0.095), ("foot", -0.025, 0.045)):
        points[name] = points["ankle"] + foot @ [0, y * h, z * h]
    joints |= {f"{side}_{name}": point for name, point in points.items()}
    frames |= {f"{side}_{name}": frame for name, frame in bones.items()}
