"""One picture and the truth about everybody in it."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from common.synthetic import scene
from common.synthetic.body import POSTURES, rotation, sample_build, sample_pose
from common.synthetic.figure import FACING_CAMERA, Figure, draw_figure, joint_depth, pose_figure
from common.synthetic.look import sample_look
from common.synthetic.shapes import Camera, Canvas, Light

OUTSIDE, COVERED, SELF_OCCLUDED, VISIBLE = range(4)  # what the finished picture shows of a joint


@dataclass(frozen=True)
class Posing:
    """How people are drawn for a data set: spread of the body's rotations in degrees, share of any roll at all, postures, looseness."""

    roll: float = 14.0
    any_roll: float = 0.06
    pitch: float = 10.0
    facing: float = 0.45  # share of people who roughly face the camera; the others turn anywhere
    looseness: float = 1.0
    postures: tuple[str, ...] = POSTURES


@dataclass(frozen=True)
class Truth:
    """One person: image points name -> (2,) pixels, what is seen of each joint, visible pixels, head box, stature in pixels."""

    points: dict[str, np.ndarray]
    states: dict[str, int]
    mask: np.ndarray
    head_box: np.ndarray  # x1, y1, x2, y2
    body_box: np.ndarray  # x1, y1, x2, y2 of the whole body, hidden and outside parts included

    def table(self, names) -> tuple[np.ndarray, np.ndarray]:
        """(J,2) points and (J,) states in the order of `names`."""
        return np.array([self.points[n] for n in names]), np.array([self.states[n] for n in names])

    def mask_box(self) -> np.ndarray:
        """(4,) x, y, w, h of the visible pixels, edges at pixel borders; zeros when nothing is visible."""
        rows, columns = np.flatnonzero(self.mask.any(1)), np.flatnonzero(self.mask.any(0))
        if not len(rows):
            return np.zeros(4)
        return np.array([columns[0], rows[0], columns[-1] + 1 - columns[0], rows[-1] + 1 - rows[0]], float)


@dataclass(frozen=True)
class Picture:
    """A drawn picture: (H,W,3) uint8 BGR, the depth buffer (H,W) float32 metres, and the people in the order in which they were given."""

    image: np.ndarray
    depth: np.ndarray
    people: list[Truth]


@dataclass
class Stage:
    """What stays the same over the frames of a video: background with clutter, light, camera, things in front."""

    background: np.ndarray
    light: Light
    camera: Camera
    lens: scene.Lens
    occluders: list[tuple[int, float, float]] = field(default_factory=list)  # seed, size, depth


def sample_figure(rng: np.random.Generator, posing: Posing) -> Figure:
    """A new person in a new pose, pelvis at the origin of the camera axes."""
    build, look = sample_build(rng), sample_look(rng)
    return pose_figure(build, look, sample_pose(rng, posing.looseness, posing.postures), sample_turn(rng, posing))


def sample_turn(rng: np.random.Generator, posing: Posing) -> np.ndarray:
    """(3,3) body axes -> camera axes: turn about the body's own axis, camera pitch, roll in the picture."""
    yaw = rng.normal(0, 0.6) if rng.random() < posing.facing else rng.uniform(-np.pi, np.pi)
    any_roll = rng.random() < posing.any_roll
    roll = rng.uniform(-np.pi, np.pi) if any_roll else np.radians(rng.normal(0, posing.roll))
    return rotation(2, roll) @ rotation(0, np.radians(rng.normal(0, posing.pitch))) @ FACING_CAMERA @ rotation(1, yaw)


def frame_tightly(
    rng: np.random.Generator, figure: Figure, size: tuple[float, float], margin: tuple[float, float]
) -> tuple[Figure, Camera, int, int]:
    """A camera and a picture size (width, height) for one person, as in pictures cut out around somebody.

    `size`: range of the body's longer side in pixels; `margin`: range of the border, in fractions of it, drawn for each side (negative
    cuts off).
    """
    figure = figure.moved(np.array([0, 0, figure.build.stature * rng.uniform(2.5, 6.0)]))
    box = _body_box(figure, Camera(1.0, 0.0, 0.0))
    extent = box[2:] - box[:2]
    longest = rng.uniform(*size)
    focal = longest / extent.max()
    left, top, right, bottom = longest * rng.uniform(*margin, 4)
    width = int(np.clip(extent[0] * focal + left + right, 48, 768))
    height = int(np.clip(extent[1] * focal + top + bottom, 48, 768))
    return figure, Camera(focal, left - box[0] * focal, top - box[1] * focal), width, height


def make_stage(
    rng: np.random.Generator, width: int, height: int, camera: Camera, clutter: tuple[int, int] = (2, 9)
) -> Stage:
    """Background, clutter and light for a picture of `width` x `height`; no occluders yet."""
    canvas = Canvas.empty(scene.background(rng, width, height))
    scene.clutter(rng, canvas, int(rng.integers(*clutter)))
    return Stage(canvas.colour, scene.sample_light(rng), camera, scene.sample_lens(rng))


def add_occluder(rng: np.random.Generator, stage: Stage, size: tuple[float, float], depth: float) -> None:
    """One more thing in front of everybody, of a size in fractions of the picture's longer side."""
    stage.occluders.append((int(rng.integers(2**31)), rng.uniform(*size), depth))


def render(rng: np.random.Generator, stage: Stage, figures: list[Figure]) -> Picture:
    """Draw everybody, then see what the depth buffer left of each joint."""
    canvas = Canvas.empty(stage.background.copy())
    for figure in figures:
        _shadow(canvas, figure, stage.camera)
    order = sorted(range(len(figures)), key=lambda i: -figures[i].joints["pelvis"][2])
    for i in order:
        draw_figure(canvas, figures[i], stage.camera, stage.light, i)
    for seed, size, depth in stage.occluders:
        scene.occlude(np.random.default_rng(seed), canvas, size, depth)
    people = [_truth(canvas, figure, stage.camera, i) for i, figure in enumerate(figures)]
    return Picture(scene.develop(rng, canvas.colour, stage.lens), canvas.depth, people)


def _shadow(canvas: Canvas, figure: Figure, camera: Camera) -> None:
    """Below the lowest foot, when the person stands on it."""
    lowest = max(("left_heel", "right_heel", "left_toe", "right_toe"), key=lambda n: figure.joints[n][1])
    foot, head = figure.joints[lowest], figure.joints["head_top"]
    if foot[1] - head[1] < 0.5 * figure.build.stature:
        return
    middle = np.array([figure.joints["pelvis"][0], foot[1] + 0.02, figure.joints["pelvis"][2]])
    radii = figure.build.stature * camera.focal / middle[2] * np.array([0.22, 0.06])
    scene.ground_shadow(canvas, camera.project(middle), radii, 0.55)


def _truth(canvas: Canvas, figure: Figure, camera: Camera, owner: int) -> Truth:
    names = [n for n in figure.joints if not n.endswith(("heel", "toe"))]
    joints = np.array([figure.joints[n] for n in names])
    points = camera.project(joints)
    states = _states(canvas, points, joints[:, 2], np.array([joint_depth(figure, n) for n in names]), owner)
    return Truth(
        points=dict(zip(names, points)),
        states=dict(zip(names, states.tolist())),
        mask=canvas.owner == owner,
        head_box=_head_box(figure, camera),
        body_box=_body_box(figure, camera),
    )


def _states(canvas: Canvas, points: np.ndarray, z: np.ndarray, own_depth: np.ndarray, owner: int) -> np.ndarray:
    height, width = canvas.depth.shape
    pixel = np.round(points).astype(int)
    inside = ((points > -0.5) & (points < [width - 0.5, height - 0.5])).all(1)
    x, y = np.clip(pixel[:, 0], 0, width - 1), np.clip(pixel[:, 1], 0, height - 1)
    in_front = canvas.depth[y, x] < z - own_depth
    states = np.where(in_front, np.where(canvas.owner[y, x] == owner, SELF_OCCLUDED, COVERED), VISIBLE)
    return np.where(inside, states, OUTSIDE)


def _head_box(figure: Figure, camera: Camera) -> np.ndarray:
    """Bounding box of the head's ellipsoid (chin to crown, ear to ear)."""
    frame, size = figure.frames["head"], figure.build.head
    centre = figure.joints["head_centre"]
    reach = size * np.sqrt(((frame[:2] * [0.375, 0.5, 0.43]) ** 2).sum(1)) * camera.focal / centre[2]
    middle = camera.project(centre)
    return np.concatenate([middle - reach, middle + reach])


def _body_box(figure: Figure, camera: Camera) -> np.ndarray:
    """(4,) x1, y1, x2, y2 of all joints, widened by about the thickness of the body."""
    points = figure.points()
    pad = 0.045 * figure.build.stature * camera.focal / points[:, 2:3]
    image = camera.project(points)
    return np.concatenate([(image - pad).min(0), (image + pad).max(0)])
