"""A person as a list of tubes, and where its joints are in the picture."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from common.synthetic.body import Build, forward, table
from common.synthetic.look import Look
from common.synthetic.shapes import Camera, Canvas, Light, Tube, draw

FACING_CAMERA = np.diag([1.0, -1.0, -1.0])  # body axes of an upright person who looks into the camera

# How deep a joint lies under the surface of its own body part, in % of stature: what is nearer by a margin hides it
_JOINT_DEPTH = table(
    "pelvis 7, belly 7, spine 7, thorax 7, neck 6, hip 7.5, shoulder 5, elbow 3, wrist 2.5, hand 2.5, knee 4.2, "
    "ankle 3.2, foot 3, upper_neck 5.5, head_top 5.5, head 6.5, head_centre 6.5, face 2, nose 1.2, eye 1.5, ear 1.5"
)
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
        part = name.removeprefix("left_").removeprefix("right_")
        return (0.0125 * _JOINT_DEPTH[part][0] * max(self.build.girth, 1.0) + _MARGIN) * self.build.stature


def pose_figure(build: Build, look: Look, angles: np.ndarray, turn: np.ndarray) -> Figure:
    """Figure with its pelvis at the origin; `turn` (3,3) takes body axes to camera axes."""
    joints, frames = forward(build, angles)
    return Figure(build, look, {k: turn @ v for k, v in joints.items()}, {k: turn @ f for k, f in frames.items()})


def draw_figure(canvas: Canvas, figure: Figure, camera: Camera, light: Light, owner: int) -> None:
    """All tubes, the far ones first so that smooth edges blend with what is behind."""
    tubes = [*_trunk(figure), *_head(figure), *_side(figure, "left", 1.0), *_side(figure, "right", -1.0)]
    for tube in sorted(tubes, key=lambda t: -t.middle[2]):
        draw(canvas, tube, camera, light, owner)


# Slices of the trunk, each a tube from side to side: height on the spine (0 pelvis, 1 neck); then, in fractions of
# stature, half width, the share of it that girth scales, half depth.
_SLICES = (
    (0.8, 0.09, 0.0, 0.053),
    (0.66, 0.096, 0.15, 0.061),
    (0.5, 0.088, 0.4, 0.06),
    (0.34, 0.081, 0.7, 0.058),
    (0.2, 0.084, 0.6, 0.061),
)


def _trunk(figure: Figure) -> list[Tube]:
    build, look, joints, frames = figure.build, figure.look, figure.joints, figure.frames
    h, g, pad = build.stature, build.girth, look.loose * build.stature
    deep, wide, hips = 0.4 + 0.6 * g, build.shoulder / 0.108 / build.stature, frames["pelvis"]
    tubes = []

    def across(
        centre: np.ndarray, half: float, thick: float, frame: np.ndarray, part: str, rows: tuple[float, float]
    ) -> None:
        reach = max(half - thick, 0.0) * frame[:, 0]
        tubes.append(Tube(centre - reach, centre + reach, (thick, thick), 0.0, frame, look.textures[part], rows))

    for height, half, share, thick in _SLICES:
        frame, radius = frames["chest"] if height > 0.46 else frames["belly"], thick * deep * h + pad
        centre = joints["belly"] + frame @ [0, (height - 0.46) * build.trunk, 0.004 * h]
        top, bottom = (66 * (1 - height + sign * radius / build.trunk) for sign in (-1, 1))
        across(centre, half * (share * g + (1 - share) * wide) * h + pad, radius, frame, "torso", (top, bottom))
    across(joints["pelvis"], (0.056 + build.hip / h * 0.8) * h + pad, 0.064 * deep * h + pad, hips, "hips", (0, 40))
    for x in (-0.042, 0.042):
        centre = joints["pelvis"] + hips @ np.array([x, -0.018, -0.026]) * h
        across(centre, 0.0, 0.05 * deep * h + pad, hips, "hips", (12, 60))
    return tubes


def _head(figure: Figure) -> list[Tube]:
    look, neck, frame, size = figure.look, figure.joints["upper_neck"], figure.frames["head"], figure.build.head
    h, bone = figure.build.stature, figure.frames["neck"]

    def tube(start: tuple, end: tuple, radius: float, part: str) -> Tube:
        top, low = (neck + size * (frame @ np.array(at)) for at in (start, end))
        return Tube(top, low, (radius * size, radius * size), 0.0, frame, look.textures[part])

    throat = neck + 0.02 * h * frame[:, 1], figure.joints["neck"]
    tubes = [
        Tube(*throat, (0.031 * h, 0.037 * h), -0.002 * h, bone, look.textures["neck"]),
        tube((0, 0.64, 0.09), (0, 0.36, 0.09), 0.36, "head"),
        tube((0, 0.46, 0.42), (0, 0.38, 0.47), 0.07, "skin"),
        *(tube((x, 0.52, 0.05), (x, 0.41, 0.05), 0.06, "skin") for x in (0.34, -0.34)),
    ]
    if not look.bald:
        tubes.append(tube((0, 0.64, 0.0), (0, 0.56, -0.06), 0.385, "hair"))
    if look.long_hair:
        tubes.append(tube((0, 0.5, -0.16), (0, 0.87 - 0.95 * look.long_hair, -0.16), 0.27, "hair"))
    return tubes


def _side(figure: Figure, side: str, sign: float) -> list[Tube]:
    """Shoulder, arm and leg of one side."""
    build, look, joints, frames = figure.build, figure.look, figure.joints, figure.frames
    h, pad, chest = build.stature, look.loose * build.stature, frames["chest"]
    thick, slim = h * build.girth, h * (0.5 + 0.5 * build.girth)

    def tube(start: str, end: str, radii: tuple[float, float], bulge: float, bone: str, part: str) -> Tube:
        ends = joints[f"{side}_{start}"], joints[f"{side}_{end}"]
        return Tube(*ends, radii, bulge, frames[f"{side}_{bone}"], look.textures[part])

    collar = joints["neck"] + chest @ np.array([sign * 0.02 * h, -0.012 * h, 0]), joints[f"{side}_shoulder"]
    deep, shin = 0.036 * h * (0.4 + 0.6 * build.girth) + pad, frames[f"{side}_shin"]
    above, below = (joints[f"{side}_ankle"] + shin @ [0, at * build.shin, -0.012 * h] for at in (0.75, 0.5))
    radius = 0.031 * slim + pad / 2
    return [
        Tube(*collar, (0.032 * h, deep), 0.004 * h, chest, look.textures["torso"], (0, 10)),
        tube("shoulder", "elbow", (0.032 * slim + pad, 0.025 * slim + pad / 2), 0.003 * slim, "upper_arm", "upper_arm"),
        tube("elbow", "wrist", (0.025 * slim + pad / 2, 0.017 * h), 0.005 * slim, "forearm", f"{side}_forearm"),
        tube("wrist", "hand", (0.017 * h, 0.019 * h), 0.003 * h, "hand", "skin"),
        tube("hip", "knee", (0.05 * thick + pad, 0.034 * slim + pad), 0.004 * thick, "thigh", "thigh"),
        tube("knee", "ankle", (0.033 * slim + pad, 0.021 * h + pad / 2), 0.003 * h, "shin", "shin"),
        Tube(above, below, (radius, radius), 0.0, shin, look.textures["shin"], (4, 36)),
        tube("heel", "toe", (0.027 * h, 0.02 * h), 0.004 * h, "foot", "shoe"),
        tube("ankle", "heel", (0.024 * h, 0.024 * h), 0.0, "foot", "shoe"),
    ]
