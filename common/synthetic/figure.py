"""A person as a list of tubes, and where its joints are in the picture."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from common.skeletons import group_name
from common.synthetic.body import TABLES, Build, forward
from common.synthetic.look import Look
from common.synthetic.shapes import Camera, Canvas, Light, Tube, draw

FACING_CAMERA = np.diag([1.0, -1.0, -1.0])  # body axes of an upright person who looks into the camera

_MARGIN = 0.025


@dataclass(frozen=True)
class Figure:
    """One posed person in camera axes: joints name -> (3,) and bone frames name -> (3,3), with build and look."""

    build: Build
    look: Look
    joints: dict[str, np.ndarray]
    frames: dict[str, np.ndarray]

    def moved(self, offset) -> Figure:
        """The same figure shifted by `offset` (3,) metres."""
        return replace(self, joints={k: v + offset for k, v in self.joints.items()})

    def points(self) -> np.ndarray:
        """(M,3) of all joints, toes and heels included."""
        return np.array(list(self.joints.values()))

    def joint_depth(self, name: str) -> float:
        """Metres below the own surface within which something in front does not hide the joint."""
        depth = TABLES["joint_depth"][group_name(name)]
        return (0.0125 * depth * max(self.build.girth, 1.0) + _MARGIN) * self.build.stature


def pose_figure(build: Build, look: Look, angles: np.ndarray, turn: np.ndarray) -> Figure:
    """Figure with its pelvis at the origin; `turn` (3,3) takes body axes to camera axes."""
    joints, frames = forward(build, angles)
    return Figure(build, look, {k: turn @ v for k, v in joints.items()}, {k: turn @ f for k, f in frames.items()})


def draw_figure(canvas: Canvas, figure: Figure, camera: Camera, light: Light, owner: int) -> None:
    """All tubes, the far ones first so that smooth edges blend with what is behind."""
    tubes = [*_trunk(figure), *_head(figure), *_side(figure, "left", 1.0), *_side(figure, "right", -1.0)]
    for tube in sorted(tubes, key=lambda t: -(t.start + t.end)[2]):
        draw(canvas, tube, camera, light, owner)


def _trunk(figure: Figure) -> list[Tube]:
    build, look, joints, frames = figure.build, figure.look, figure.joints, figure.frames
    h, pad, deep, hips = build.stature, look.loose * build.stature, 0.4 + 0.6 * build.girth, frames["pelvis"]
    wide = (build.shoulder / 0.108 / h + build.girth) / 2
    tubes = []

    def across(centre: np.ndarray, half: float, thick: float, frame: np.ndarray, part: str, rows) -> None:
        reach = max(half - thick, 0.0) * frame[:, 0]
        tubes.append(Tube(centre - reach, centre + reach, (thick, thick), frame, look.textures[part], rows))

    for height, half, thick in TABLES["trunk_slices"]:
        frame, radius = frames["chest"] if height > 0.46 else frames["belly"], thick * deep * h + pad
        centre = joints["belly"] + frame @ [0, (height - 0.46) * build.trunk, 0.004 * h]
        rows = tuple(66 * (1 - height + sign * radius / build.trunk) for sign in (-1, 1))
        across(centre, half * wide * h + pad, radius, frame, "torso", rows)
    across(joints["pelvis"], 0.056 * h + 0.8 * build.hip + pad, 0.064 * deep * h + pad, hips, "hips", (0, 40))
    for x in (-0.042, 0.042):
        centre = joints["pelvis"] + hips @ np.array([x, -0.018, -0.026]) * h
        across(centre, 0.0, 0.05 * deep * h + pad, hips, "hips", (12, 60))
    return tubes


def _head(figure: Figure) -> list[Tube]:
    look, neck, frame, size = figure.look, figure.joints["upper_neck"], figure.frames["head"], figure.build.head
    h, throat = figure.build.stature, neck + 0.02 * figure.build.stature * frame[:, 1]
    tubes = [Tube(throat, figure.joints["neck"], (0.03 * h, 0.036 * h), figure.frames["neck"], look.textures["neck"])]
    hair = [((0, 0.5, -0.16), (0, 0.87 - 0.95 * look.long_hair, -0.16), 0.27, "hair")] if look.long_hair else []
    for start, end, radius, part in (*TABLES["head_tubes"], *hair):
        top, low = (neck + size * (frame @ np.array(at)) for at in (start, end))
        tubes.append(Tube(top, low, (radius * size, radius * size), frame, look.textures[part]))
    return tubes


def _side(figure: Figure, side: str, sign: float) -> list[Tube]:
    """Shoulder, arm and leg of one side."""
    build, look, joints, frames = figure.build, figure.look, figure.joints, figure.frames
    h, pad, chest = build.stature, look.loose * build.stature, frames["chest"]
    thick, slim = h * build.girth, h * (0.5 + 0.5 * build.girth)

    def tube(start: str, end: str, first: float, last: float, bone: str, part: str) -> Tube:
        ends = joints[f"{side}_{start}"], joints[f"{side}_{end}"]
        return Tube(*ends, (first, last), frames[f"{side}_{bone}"], look.textures[part])

    collar = joints["neck"] + chest @ np.array([sign * 0.02 * h, -0.012 * h, 0]), joints[f"{side}_shoulder"]
    return [
        Tube(*collar, (0.034 * h, 0.036 * slim + pad), chest, look.textures["torso"], (0, 10)),
        tube("shoulder", "elbow", 0.033 * slim + pad, 0.026 * slim + pad / 2, "upper_arm", "upper_arm"),
        tube("elbow", "wrist", 0.027 * slim + pad / 2, 0.018 * h, "forearm", f"{side}_forearm"),
        tube("wrist", "hand", 0.018 * h, 0.021 * h, "hand", "skin"),
        tube("hip", "knee", 0.052 * thick + pad, 0.036 * slim + pad, "thigh", "thigh"),
        tube("knee", "ankle", 0.035 * slim + pad, 0.022 * h + pad / 2, "shin", "shin"),
        tube("heel", "toe", 0.028 * h, 0.022 * h, "foot", "shoe"),
        tube("ankle", "heel", 0.024 * h, 0.024 * h, "foot", "shoe"),
    ]
