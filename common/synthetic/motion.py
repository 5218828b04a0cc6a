"""Smooth motion: one person over the frames of a video."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from common.synthetic.body import LIMITS, rotation, sample_build, sample_pose
from common.synthetic.compose import Picture, Posing, add_occluder, make_stage, render, sample_turn
from common.synthetic.figure import Figure, pose_figure
from common.synthetic.look import sample_look
from common.synthetic.shapes import Camera

_KEY_EVERY = 9  # frames between the poses that the motion passes through
_LOW, _HIGH = np.radians(np.array(list(LIMITS.values()), float)).T


def sample_motion(rng: np.random.Generator, posing: Posing, frames: int) -> list[Figure]:
    """The same person in `frames` frames: joint angles and turn follow a cubic spline through drawn poses, within the joint limits."""
    from scipy.interpolate import CubicSpline

    build, look, turn = sample_build(rng), sample_look(rng), sample_turn(rng, posing)
    keys = max(2, -(-(frames - 1) // _KEY_EVERY) + 1)
    start = sample_pose(rng, posing.looseness, posing.postures)
    poses = [start] + [
        0.45 * start + 0.55 * sample_pose(rng, posing.looseness, posing.postures) for _ in range(keys - 1)
    ]
    yaw = np.cumsum(rng.normal(0, 0.25, keys))
    time = np.linspace(0, 1, keys)
    path = CubicSpline(time, np.column_stack([poses, yaw]), bc_type="natural")(np.linspace(0, 1, frames))
    angles = np.clip(path[:, :-1], _LOW, _HIGH)
    return [pose_figure(build, look, a, turn @ rotation(1, y)) for a, y in zip(angles, path[:, -1])]


def place(
    rng: np.random.Generator, figures: list[Figure], width: int, height: int, share: tuple[float, float]
) -> tuple[list[Figure], Camera]:
    """A fixed camera and a straight way for the person, who mostly stays inside; stature is `share` of the picture's height."""
    focal = 1.2 * width
    stature = figures[0].build.stature
    z = focal * stature / (rng.uniform(*share) * height)
    x0, x1 = rng.uniform(-0.22, 0.22, 2) * width * z / focal
    way = np.linspace(0, 1, len(figures))
    z = z * (1 + rng.uniform(-0.12, 0.12) * way)
    # the body's middle, not its pelvis, is kept near the middle of the picture; a straight line, or the camera would seem to shake
    low, high = np.array([f.points()[:, 1].min() for f in figures]), np.array([f.points()[:, 1].max() for f in figures])
    lift = -np.polyval(np.polyfit(way, (low + high) / 2, 1 if len(way) > 1 else 0), way) + rng.normal(0, 0.03) * stature
    x = x0 + (x1 - x0) * way
    moved = [f.moved(np.array([x[i], lift[i], z[i]])) for i, f in enumerate(figures)]
    return moved, Camera(focal, (width - 1) / 2, (height - 1) / 2)


def film(
    rng: np.random.Generator, posing: Posing, frames: int, width: int, height: int, share: tuple[float, float]
) -> Iterator[Picture]:
    """The pictures of one video, one after another: fixed background and light, one moving person, sometimes something in front."""
    figures, camera = place(rng, sample_motion(rng, posing, frames), width, height, share)
    stage = make_stage(rng, width, height, camera, clutter=(3, 12))
    if rng.random() < 0.3:
        add_occluder(rng, stage, (0.06, 0.2), 1.0)
    for figure in figures:
        yield render(rng, stage, [figure])
