"""A person as a list of volumes, and where its joints are in the picture."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from common.synthetic.body import Build, forward
from common.synthetic.look import Look
from common.synthetic.shapes import Camera, Canvas, Capsule, Ellipsoid, Light, Skin, draw

FACING_CAMERA = np.diag([1.0, -1.0, -1.0])  # body axes of an upright person who looks into the camera

# How deep a joint lies under the surface of its own body part, in fractions of stature: what is nearer by a margin hides it
_DEPTHS = (
    "pelvis 7 belly 7 spine 7 thorax 7 neck 6 hip 7.5 shoulder 5 elbow 3 wrist 2.5 hand 2.5 knee 4.2 ankle 3.2 foot 3 "
)
_DEPTHS += "upper_neck 5.5 head_top 5.5 head 6.5 head_centre 6.5 face 2 nose 1.2 eye 1.5 ear 1.5"
_JOINT_DEPTH = dict(zip(_DEPTHS.split()[::2], (float(v) / 100 for v in _DEPTHS.split()[1::2])))
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
        return (1.25 * _JOINT_DEPTH[part] * max(self.build.girth, 1.0) + _MARGIN) * self.build.stature


def pose_figure(build: Build, look: Look, angles: np.ndarray, turn: np.ndarray) -> Figure:
    """Figure with its pelvis at the origin; `turn` (3,3) takes body axes to camera axes."""
    joints, frames = forward(build, angles)
    return Figure(build, look, {k: turn @ v for k, v in joints.items()}, {k: turn @ f for k, f in frames.items()})


def draw_figure(canvas: Canvas, figure: Figure, camera: Camera, light: Light, owner: int) -> None:
    """All volumes, the far ones first so that smooth edges blend with what is behind."""
    volumes = [*_trunk(figure), *_head(figure), *_side(figure, "left", 1.0), *_side(figure, "right", -1.0)]
    for volume in sorted(volumes, key=lambda v: -v.distance):
        draw(canvas, volume, camera, light, owner)


# Slices of the trunk: height on the spine (0 pelvis, 1 neck); then, in fractions of stature, half width, the share of it that
# girth scales, half height, half depth.
_SLICES = (
    (0.8, 0.088, 0.0, 0.058, 0.053),
    (0.66, 0.096, 0.15, 0.078, 0.061),
    (0.5, 0.088, 0.4, 0.08, 0.06),
    (0.34, 0.081, 0.7, 0.08, 0.058),
    (0.2, 0.084, 0.6, 0.07, 0.061),
)


def _trunk(figure: Figure) -> list[Ellipsoid | Capsule]:
    build, look, joints, frames = figure.build, figure.look, figure.joints, figure.frames
    h, g, pad = build.stature, build.girth, look.loose * build.stature
    deep, wide, hips = 0.4 + 0.6 * g, build.shoulder / 0.108 / h, frames["pelvis"]
    volumes: list[Ellipsoid | Capsule] = []
    for height, half, share, tall, thick in _SLICES:
        frame = frames["chest"] if height > 0.46 else frames["belly"]
        centre = joints["belly"] + frame @ [0, (height - 0.46) * build.trunk, 0.004 * h]
        axes = np.array([half * (share * g + (1 - share) * wide), tall, thick * deep]) * h + pad
        rows = [66 * (1 - height + side * axes[1] / build.trunk) for side in (-1, 1)]
        volumes.append(Ellipsoid(centre, axes, frame, Skin(look.torso, *rows)))
    for x, y, z, axes, span in (
        (0.0, 0.006, -0.002, (0.056 + build.hip / h * 0.8, 0.068, 0.066 * deep), (0, 40)),
        (0.042, -0.018, -0.026, (0.046, 0.055, 0.05 * deep), (12, 60)),
        (-0.042, -0.018, -0.026, (0.046, 0.055, 0.05 * deep), (12, 60)),
    ):
        centre = joints["pelvis"] + hips @ np.array([x, y, z]) * h
        volumes.append(Ellipsoid(centre, np.array(axes) * h + pad, hips, Skin(look.hips, *span)))
    return volumes


def _head(figure: Figure) -> list[Ellipsoid | Capsule]:
    look, neck, frame, size = figure.look, figure.joints["upper_neck"], figure.frames["head"], figure.build.head
    h, long = figure.build.stature, figure.look.long_hair
    throat = neck + 0.02 * h * frame[:, 1], figure.joints["neck"]
    blobs = [
        ((0, 0.5, 0.09), (0.345, 0.5, 0.43), look.head),
        ((0, 0.4, 0.5), (0.065, 0.1, 0.1), look.skin),
        ((0.34, 0.46, 0.05), (0.05, 0.12, 0.09), look.skin),
        ((-0.34, 0.46, 0.05), (0.05, 0.12, 0.09), look.skin),
    ]
    if not look.bald:
        blobs.append(((0, 0.6, -0.02), (0.375, 0.43, 0.42), look.hair))
    if long:
        blobs.append(((0, 0.62 - 0.45 * long, -0.16), (0.36, 0.5 * long, 0.25), look.hair))
    return [
        Capsule(*throat, (0.031 * h, 0.037 * h), -0.002 * h, figure.frames["neck"], Skin(look.neck)),
        *(Ellipsoid(neck + size * (frame @ at), np.array(axes) * size, frame, Skin(t)) for at, axes, t in blobs),
    ]


def _side(figure: Figure, side: str, sign: float) -> list[Ellipsoid | Capsule]:
    """Shoulder, arm and leg of one side."""
    build, look, joints, frames = figure.build, figure.look, figure.joints, figure.frames
    h, pad, chest = build.stature, look.loose * build.stature, frames["chest"]
    thick, slim = h * build.girth, h * (0.5 + 0.5 * build.girth)

    def tube(start: str, end: str, radii: tuple[float, float], bulge: float, bone: str, texture: np.ndarray) -> Capsule:
        ends = joints[f"{side}_{start}"], joints[f"{side}_{end}"]
        return Capsule(*ends, radii, bulge, frames[f"{side}_{bone}"], Skin(texture))

    collar = joints["neck"] + chest @ np.array([sign * 0.02 * h, -0.012 * h, 0]), joints[f"{side}_shoulder"]
    deep = 0.036 * h * (0.4 + 0.6 * build.girth) + pad
    palm, shin = frames[f"{side}_hand"], frames[f"{side}_shin"]
    calf = joints[f"{side}_ankle"] + shin @ [0, 0.62 * build.shin, -0.012 * h]
    calf_axes = np.array([0.031, 0.08, 0.032]) * slim + pad / 2
    forearm = look.left_forearm if side == "left" else look.forearm
    return [
        Capsule(*collar, (0.032 * h, deep), 0.004 * h, chest, Skin(look.torso, 0, 10)),
        tube(
            "shoulder", "elbow", (0.032 * slim + pad, 0.025 * slim + pad / 2), 0.003 * slim, "upper_arm", look.upper_arm
        ),
        tube("elbow", "wrist", (0.025 * slim + pad / 2, 0.017 * h), 0.005 * slim, "forearm", forearm),
        Ellipsoid(joints[f"{side}_hand"], np.array([0.022, 0.05, 0.013]) * h, palm, Skin(look.skin)),
        tube("hip", "knee", (0.05 * thick + pad, 0.034 * slim + pad), 0.004 * thick, "thigh", look.thigh),
        tube("knee", "ankle", (0.033 * slim + pad, 0.021 * h + pad / 2), 0.003 * h, "shin", look.shin),
        Ellipsoid(calf, calf_axes, shin, Skin(look.shin, 4, 36)),
        tube("heel", "toe", (0.027 * h, 0.02 * h), 0.004 * h, "foot", look.shoe),
        tube("ankle", "heel", (0.024 * h, 0.024 * h), 0.0, "foot", look.shoe),
    ]
