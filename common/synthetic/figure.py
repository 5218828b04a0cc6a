"""A person as a list of volumes, and where its joints are in the picture."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from common.synthetic.body import Build, forward
from common.synthetic.look import Look
from common.synthetic.shapes import Camera, Canvas, Capsule, Ellipsoid, Light, Skin, draw

FACING_CAMERA = np.diag([1.0, -1.0, -1.0])  # body axes of an upright person who looks into the camera

# How deep a joint lies under the surface of its own body part, in fractions of stature: what is nearer than this by a margin hides it.
_JOINT_DEPTH = {
    "pelvis": 0.07, "belly": 0.07, "spine": 0.07, "thorax": 0.07, "neck": 0.06, "hip": 0.075, "shoulder": 0.05, "elbow": 0.03,
    "wrist": 0.025, "hand": 0.025, "knee": 0.042, "ankle": 0.032, "foot": 0.03, "upper_neck": 0.055, "head_top": 0.055,
    "head": 0.065, "head_centre": 0.065, "face": 0.02, "nose": 0.012, "eye": 0.015, "ear": 0.015,
}  # fmt: skip
_MARGIN = 0.025


@dataclass(frozen=True)
class Figure:
    """One posed person in camera axes: joints name -> (3,) and bone frames name -> (3,3), with build and look."""

    build: Build
    look: Look
    joints: dict[str, np.ndarray]
    frames: dict[str, np.ndarray]

    def moved(self, offset: np.ndarray) -> Figure:
        """The same figure shifted by `offset` metres."""
        return Figure(self.build, self.look, {k: v + offset for k, v in self.joints.items()}, self.frames)

    def points(self) -> np.ndarray:
        """(M,3) of all joints, toes and heels included."""
        return np.array(list(self.joints.values()))


def pose_figure(build: Build, look: Look, angles: np.ndarray, turn: np.ndarray) -> Figure:
    """Figure with its pelvis at the origin; `turn` (3,3) takes body axes to camera axes."""
    joints, frames = forward(build, angles)
    return Figure(build, look, {k: turn @ v for k, v in joints.items()}, {k: turn @ f for k, f in frames.items()})


def draw_figure(canvas: Canvas, figure: Figure, camera: Camera, light: Light, owner: int) -> None:
    """All volumes, the far ones first so that smooth edges blend with what is behind."""
    for volume in sorted(_volumes(figure), key=lambda v: -v.distance):
        draw(canvas, volume, camera, light, owner)


def joint_depth(figure: Figure, name: str) -> float:
    """Metres below the own surface within which something in front does not hide the joint."""
    part = name.removeprefix("left_").removeprefix("right_")
    return (1.25 * _JOINT_DEPTH[part] * max(figure.build.girth, 1.0) + _MARGIN) * figure.build.stature


def _volumes(figure: Figure) -> list[Ellipsoid | Capsule]:
    volumes = [*_trunk(figure), *_head(figure)]
    for side in ("left", "right"):
        volumes += [*_arm(figure, side), *_leg(figure, side)]
    return volumes


# Slices of the trunk: height on the spine (0 pelvis, 1 neck); then, in fractions of stature, half width (with the share of it that girth
# scales), half height, half depth.
_SLICES = ((0.8, 0.088, 0.0, 0.058, 0.053), (0.66, 0.096, 0.15, 0.078, 0.061), (0.5, 0.088, 0.4, 0.08, 0.06),
           (0.34, 0.081, 0.7, 0.08, 0.058), (0.2, 0.084, 0.6, 0.07, 0.061))  # fmt: skip


def _trunk(figure: Figure) -> list[Ellipsoid | Capsule]:
    build, look, joints, frames = figure.build, figure.look, figure.joints, figure.frames
    h, g, t, pad = build.stature, build.girth, build.trunk, look.loose * build.stature
    deep, wide = 0.4 + 0.6 * g, build.shoulder / 0.108 / h
    chest, hips = frames["chest"], frames["pelvis"]
    volumes: list[Ellipsoid | Capsule] = []
    for height, half, share, tall, thick in _SLICES:
        frame = chest if height > 0.46 else frames["belly"]
        centre = joints["belly"] + frame @ np.array([0, (height - 0.46) * t, 0.004 * h])
        axes = np.array([half * (share * g + (1 - share) * wide), tall, thick * deep]) * h + pad
        rows = [66 * (1 - height + side * axes[1] / t) for side in (-1, 1)]
        volumes.append(Ellipsoid(centre, axes, frame, Skin(look.torso, *rows)))

    def low(offset, axes, rows):
        return Ellipsoid(
            joints["pelvis"] + hips @ (np.array(offset) * h), np.array(axes) * h + pad, hips, Skin(look.hips, *rows)
        )

    volumes.append(low((0, 0.006, -0.002), (0.056 + build.hip / h * 0.8, 0.068, 0.066 * deep), (0, 40)))
    for sign, side in ((1.0, "left"), (-1.0, "right")):
        volumes.append(low((sign * 0.042, -0.018, -0.026), (0.046, 0.055, 0.05 * deep), (12, 60)))
        collar = joints["neck"] + chest @ np.array([sign * 0.02 * h, -0.012 * h, 0])
        radii = (0.032 * h, 0.036 * h * deep + pad)
        volumes.append(Capsule(collar, joints[f"{side}_shoulder"], radii, 0.004 * h, chest, Skin(look.torso, 0, 10)))
    return volumes


def _head(figure: Figure) -> list[Ellipsoid | Capsule]:
    look, joints, frame, size = figure.look, figure.joints, figure.frames["head"], figure.build.head
    h = figure.build.stature

    def blob(offset, axes, skin):
        return Ellipsoid(joints["upper_neck"] + size * (frame @ np.array(offset)), np.array(axes) * size, frame, skin)

    top = joints["upper_neck"] + 0.02 * h * frame[:, 1]
    volumes = [
        Capsule(top, joints["neck"], (0.031 * h, 0.037 * h), -0.002 * h, figure.frames["neck"], look.neck),
        blob((0, 0.5, 0.09), (0.345, 0.5, 0.43), look.head),
        blob((0, 0.4, 0.5), (0.065, 0.1, 0.1), look.nose),
        blob((0.34, 0.46, 0.05), (0.05, 0.12, 0.09), look.skin),
        blob((-0.34, 0.46, 0.05), (0.05, 0.12, 0.09), look.skin),
    ]
    if not look.bald:
        volumes.append(blob((0, 0.6, -0.02), (0.375, 0.43, 0.42), look.hair))
    if look.long_hair:
        volumes.append(blob((0, 0.62 - 0.45 * look.long_hair, -0.16), (0.36, 0.5 * look.long_hair, 0.25), look.hair))
    return volumes


def _arm(figure: Figure, side: str) -> list[Ellipsoid | Capsule]:
    build, look, joints, frames = figure.build, figure.look, figure.joints, figure.frames
    h, g, pad = build.stature, 0.5 + 0.5 * build.girth, figure.look.loose * build.stature
    shoulder, elbow, wrist, hand = (joints[f"{side}_{p}"] for p in ("shoulder", "elbow", "wrist", "hand"))
    upper, fore, palm = (frames[f"{side}_{p}"] for p in ("upper_arm", "forearm", "hand"))
    return [
        Capsule(shoulder, elbow, (0.032 * h * g + pad, 0.025 * h * g + pad / 2), 0.003 * h * g, upper, look.upper_arm),
        Capsule(elbow, wrist, (0.025 * h * g + pad / 2, 0.017 * h), 0.005 * h * g, fore, look.forearm[side]),
        Ellipsoid(hand, np.array([0.022, 0.05, 0.013]) * h, palm, look.skin),
    ]


def _leg(figure: Figure, side: str) -> list[Ellipsoid | Capsule]:
    build, look, joints, frames = figure.build, figure.look, figure.joints, figure.frames
    h, g, pad = build.stature, build.girth, figure.look.loose * build.stature
    hip, knee, ankle, heel, toe = (joints[f"{side}_{p}"] for p in ("hip", "knee", "ankle", "heel", "toe"))
    thigh, shin, foot = (frames[f"{side}_{p}"] for p in ("thigh", "shin", "foot"))
    calf = ankle + shin @ np.array([0, 0.62 * build.shin, -0.012 * h])
    return [
        Capsule(hip, knee, (0.05 * h * g + pad, 0.034 * h * (0.5 + 0.5 * g) + pad), 0.004 * h * g, thigh, look.thigh),
        Capsule(knee, ankle, (0.033 * h * (0.5 + 0.5 * g) + pad, 0.021 * h + pad / 2), 0.003 * h, shin, look.shin),
        Ellipsoid(
            calf,
            np.array([0.031 * h, 0.08 * h, 0.032 * h]) * (0.5 + 0.5 * g) + pad / 2,
            shin,
            Skin(look.shin.texture, 4, 36),
        ),
        Capsule(heel, toe, (0.027 * h, 0.02 * h), 0.004 * h, foot, look.shoe),
        Capsule(ankle, heel, (0.024 * h, 0.024 * h), 0.0, foot, look.shoe),
    ]
