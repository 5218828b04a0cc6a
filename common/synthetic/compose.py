"""One picture and the truth about everybody in it; backgrounds, clutter, occluders, light and lens."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

import cv2
import numpy as np

from common.synthetic.body import POSTURES, rotation, sample_build, sample_pose
from common.synthetic.figure import FACING_CAMERA, Figure, cloth, draw_figure, pose_figure, random_colour, sample_look
from common.synthetic.shapes import BACKGROUND, OCCLUDER, Camera, Canvas, Light, Tube, draw

OUTSIDE, COVERED, SELF_OCCLUDED, VISIBLE = range(4)  # what the finished picture shows of a joint


@dataclass(frozen=True)
class Posing:
    """How people are drawn for a data set: spread of rotations in degrees, share of any roll, postures, looseness."""

    roll: float = 14.0
    any_roll: float = 0.06
    pitch: float = 10.0
    facing: float = 0.45  # share of people who roughly face the camera; the others turn anywhere
    looseness: float = 1.0
    postures: tuple[str, ...] = POSTURES


@dataclass(frozen=True)
class Truth:
    """One person: name -> (2,) pixels, what is seen of each joint, visible pixels; boxes are x1, y1, x2, y2.

    `body_box` holds the whole body, hidden and outside parts included.
    """

    points: dict[str, np.ndarray]
    states: dict[str, int]
    mask: np.ndarray
    head_box: np.ndarray
    body_box: np.ndarray

    def table(self, names: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
        """(J,2) points and (J,) states in the order of `names`."""
        return np.array([self.points[n] for n in names]), np.array([self.states[n] for n in names])


def box_of(mask: np.ndarray) -> np.ndarray:
    """(4,) x, y, w, h of the pixels of a mask, edges at pixel borders; zeros when there are none."""
    return np.array(cv2.boundingRect(mask.astype(np.uint8)), float)


@dataclass(frozen=True)
class Picture:
    """(H,W,3) uint8 BGR, depth buffer (H,W) float32 metres, people in the order of the figures."""

    image: np.ndarray
    depth: np.ndarray
    people: list[Truth]


@dataclass
class Stage:
    """What stays the same over the frames of a video: background with clutter, light, camera, things in front."""

    background: np.ndarray
    light: Light
    camera: Camera
    lens: np.ndarray  # see _develop; from sharp and clean to soft and noisy
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
) -> tuple[Figure, Camera, tuple[int, int]]:
    """A camera and a picture size (width, height) for one person, as in pictures cut out around somebody.

    `size`: range of the body's longer side in pixels; `margin`: range of the border, in fractions of it, for each side
    (negative cuts off).
    """
    figure = figure.moved([0, 0, figure.build.stature * rng.uniform(2.5, 6.0)])
    box = _body_box(figure, Camera(1.0, 0.0, 0.0))
    extent = box[2:] - box[:2]
    longest = rng.uniform(*size)
    focal = longest / extent.max()
    left, top, right, bottom = longest * rng.uniform(*margin, 4)
    width, height = np.clip(extent * focal + [left + right, top + bottom], 48, 768).astype(int).tolist()
    return figure, Camera(focal, left - box[0] * focal, top - box[1] * focal), (width, height)


def make_stage(rng: np.random.Generator, size: tuple[int, int], camera: Camera, clutter=(2, 9)) -> Stage:
    """Background, clutter and light for a picture of `size` (width, height); no occluders yet."""
    canvas = Canvas.empty(_background(rng, *size))
    _clutter(rng, canvas, int(rng.integers(*clutter)))
    light, lens = _sample_light(rng), rng.uniform([0.0, 0.8, -12, 1], [0.9, 1.15, 12, 7])
    return Stage(canvas.colour, light, camera, lens)


def add_occluder(rng: np.random.Generator, stage: Stage, size: tuple[float, float], depth: float) -> None:
    """One more thing in front of everybody, of a size in fractions of the picture's longer side."""
    stage.occluders.append((int(rng.integers(2**31)), rng.uniform(*size), depth))


def render(rng: np.random.Generator, stage: Stage, figures: list[Figure]) -> Picture:
    """Draw everybody, then see what the depth buffer left of each joint."""
    canvas = Canvas.empty(stage.background)
    for i in sorted(range(len(figures)), key=lambda i: -figures[i].joints["pelvis"][2]):
        draw_figure(canvas, figures[i], stage.camera, stage.light, i)
    for seed, size, depth in stage.occluders:
        solid = _thing(np.random.default_rng(seed), canvas, size) > 0.5
        canvas.depth[solid], canvas.owner[solid] = depth, OCCLUDER
    people = [_truth(canvas, figure, stage.camera, i) for i, figure in enumerate(figures)]
    return Picture(_develop(rng, canvas.colour, stage.lens), canvas.depth, people)


def _truth(canvas: Canvas, figure: Figure, camera: Camera, owner: int) -> Truth:
    names = [n for n in figure.joints if not n.endswith(("heel", "toe"))]
    joints, depths = np.array([figure.joints[n] for n in names]), np.array([figure.joint_depth(n) for n in names])
    points, end = camera.project(joints), np.array(canvas.depth.shape[::-1]) - 0.5
    x, y = np.clip(np.round(points), 0, end - 0.5).astype(int).T
    in_front = canvas.depth[y, x] < joints[:, 2] - depths
    states = np.where(in_front, np.where(canvas.owner[y, x] == owner, SELF_OCCLUDED, COVERED), VISIBLE)
    states = np.where(((points > -0.5) & (points < end)).all(1), states, OUTSIDE)
    # the head's ellipsoid, chin to crown and ear to ear
    head, centre = figure.frames["head"][:2] * [0.375, 0.5, 0.43], figure.joints["head_centre"]
    reach = figure.build.head * np.sqrt((head**2).sum(1)) * camera.focal / centre[2]
    middle = camera.project(centre)
    boxes = np.concatenate([middle - reach, middle + reach]), _body_box(figure, camera)
    return Truth(dict(zip(names, points)), dict(zip(names, states.tolist())), canvas.owner == owner, *boxes)


def _body_box(figure: Figure, camera: Camera) -> np.ndarray:
    """(4,) x1, y1, x2, y2 of all joints, widened by about the thickness of the body."""
    points = figure.points()
    pad = 0.045 * figure.build.stature * camera.focal / points[:, 2:3]
    image = camera.project(points)
    return np.concatenate([(image - pad).min(0), (image + pad).max(0)])


_APART = 0.5  # metres between the pelvises of two people, so that bodies do not run through each other
_CROWD = Posing(postures=("stand", "walk", "sit", "hands_on_hips"), looseness=0.6, any_roll=0.0)


def draw_group(rng: np.random.Generator, posing: Posing, size: tuple[int, int], count: int, share: tuple[float, float],
               occluded: float, crowd: bool = False) -> Picture:  # fmt: skip
    """A picture of `count` people on one ground; the first is near the middle, with a stature of `share` of the height.

    About half of the others stand close to somebody, so that people hide each other. `occluded`: chance of each of two
    things in front. `crowd`: 6 to 14 more people far behind, the last in `people`.
    """
    (width, height), focal = size, 1.1 * max(size)
    ground = rng.uniform(0.9, 1.9)  # metres below the camera

    def stand(figure: Figure, x: float, z: float) -> Figure:
        return figure.moved([x, ground - figure.points()[:, 1].max(), z])

    first = sample_figure(rng, posing)
    z = focal * first.build.stature / (rng.uniform(*share) * height)
    figures, places = [stand(first, 0.0, z)], [np.array([0.0, z])]
    for _ in range(count - 1):
        for _ in range(20):  # until there is room: close to somebody, or anywhere in view
            depth = z * rng.uniform(0.8, 2.2)
            place = np.array([rng.uniform(-0.5, 0.5) * width * depth / focal, depth])
            if rng.random() < 0.5:
                place = places[rng.integers(len(places))] + rng.normal(0, [0.5, 0.8])
            place[1] = max(place[1], 1.2)
            if min(np.linalg.norm(place - other) for other in places) > _APART:
                break
        places.append(place)
        figures.append(stand(sample_figure(rng, posing), *place))
    x, far = rng.uniform(-0.3, 0.3) * width, z * rng.uniform(2.5, 4.0)
    for _ in range(rng.integers(6, 15) if crowd else 0):
        depth = far * rng.uniform(0.9, 1.25)
        figures.append(stand(sample_figure(rng, _CROWD), (x + rng.normal(0, 0.13) * width) * depth / focal, depth))

    seen = Camera(focal, 0, 0).project(figures[0].points())
    aim = size * np.array([rng.uniform(0.25, 0.75), np.clip(rng.normal(0.52, 0.08), 0.35, 0.7)])
    stage = make_stage(rng, size, Camera(focal, *(aim - (seen.min(0) + seen.max(0)) / 2)), clutter=(3, 14))
    for _ in range(2):
        if rng.random() < occluded:
            add_occluder(rng, stage, (0.08, 0.3), 0.5)
    return render(rng, stage, figures)


_TILE = 320


@lru_cache(maxsize=1)
def _surfaces() -> list[np.ndarray]:
    """Background tiles (320,320) float32 around 0 (contrast only): noise from smooth to rough, bricks and planks."""
    rng = np.random.default_rng(22)

    def noise(cells: int) -> np.ndarray:
        coarse = rng.normal(0, 1, (cells, cells)).astype(np.float32)
        return cv2.resize(coarse, (_TILE, _TILE), interpolation=cv2.INTER_CUBIC)

    tiles = [sum(falloff**k * noise(2 ** (k + 2)) for k in range(6)) for falloff in (0.4, 0.6, 0.8, 1)]
    y, x = np.mgrid[:_TILE, :_TILE]
    for h, w in ((12, 28), (20, 40), (9, 60)):
        shifted = x + (y // h % 2) * (w // 2)
        cell = rng.normal(0, 0.5, (_TILE // h + 2, _TILE // w + 3))[y // h, shifted // w]
        tiles.append(np.where((y % h < 2) | (shifted % w < 2), -1.2, cell) + 0.25 * noise(80))
    return [np.ascontiguousarray(t, np.float32) for t in tiles]


def _sample_light(rng: np.random.Generator) -> Light:
    """Light from above and the camera's side, any azimuth."""
    direction = np.array([rng.normal(0, 0.7), -abs(rng.normal(0.8, 0.4)), -abs(rng.normal(0.6, 0.4))])
    return Light(direction / np.linalg.norm(direction), rng.uniform(0.25, 0.5))


def _background(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    """(height,width,3) float32 BGR: a wall or sky above a ground, each a coloured surface, with a gradient of light."""
    picture, lower = _surface(rng, width, height), _surface(rng, width, height)
    horizon = int(height * rng.uniform(0.25, 0.9))
    picture[horizon:] = lower[horizon:]
    return picture * np.linspace(*rng.uniform(0.75, 1.2, 2), width, dtype=np.float32)[None, :, None]


def _surface(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    tile = _surfaces()[rng.integers(len(_surfaces()))]
    side = int(_TILE / rng.uniform(1.0, 2.2))
    top, left = rng.integers(0, _TILE - side + 1, 2)
    patch = cv2.resize(tile[top : top + side, left : left + side], (width, height), interpolation=cv2.INTER_LINEAR)
    first, second = random_colour(rng, 0.55), random_colour(rng, 0.55)
    weight = np.clip(0.5 + patch * rng.uniform(0.1, 0.5), 0, 1)[..., None]
    return first + weight * (second - first) * rng.uniform(0.3, 1.0)


def _clutter(rng: np.random.Generator, canvas: Canvas, count: int) -> None:
    """Things behind the people: textured polygons, and tubes shaded like limbs, some of them skin-coloured."""
    height, width = canvas.depth.shape
    size = max(width, height)
    for _ in range(count):
        if rng.random() < 0.55:
            _thing(rng, canvas, rng.uniform(0.05, 0.3))
            continue
        start, radius = np.array([*rng.uniform(0, [width, height]) / size, 1.0]), rng.uniform(0.01, 0.045)
        texture = cloth(rng, np.array([120, 155, 205]) * rng.uniform(0.4, 1.1) if rng.random() < 0.4 else None)
        tube = Tube(start, start + rng.normal(0, [0.12, 0.12, 0.02]), (radius, 0.7 * radius), np.eye(3), texture)
        draw(canvas, tube, Camera(size, 0, 0), _sample_light(rng), BACKGROUND)


def _thing(rng: np.random.Generator, canvas: Canvas, size: float) -> np.ndarray:
    """Pastes a textured polygon or post, `size` in the picture's longer side; its coverage (H,W) 0..1."""
    height, width = canvas.depth.shape
    spokes = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(4, 12)))
    shape = [0.2, 1.6] if rng.random() < 0.3 else rng.uniform(0.4, 1, 2)
    corners = np.stack([np.cos(spokes), np.sin(spokes)], 1) * shape * size * max(width, height) / 2
    corners = corners + rng.uniform(0, [width, height])
    low, high = np.floor(corners.min(0)), np.ceil(corners.max(0))
    # the texture spans the thing's own box, wherever the picture ends
    move = np.column_stack([np.diag((high - low) / 64), low])
    fill = (_surface(rng, 64, 64) * rng.uniform(0.6, 1.2)).astype(np.float32)
    fill = cv2.warpAffine(fill, move, (width, height), borderMode=cv2.BORDER_REPLICATE)
    mask = np.zeros((height, width), np.uint8)
    cv2.fillPoly(mask, [np.round(corners * 16).astype(np.int32)], 255, cv2.LINE_AA, shift=4)
    cover = mask.astype(np.float32) / 255
    canvas.colour += cover[..., None] * (fill - canvas.colour)
    return cover


def _develop(rng: np.random.Generator, colour: np.ndarray, lens: np.ndarray) -> np.ndarray:
    """(H,W,3) float32 -> uint8 BGR through a lens: defocus (sigma in pixels), gain, lift, noise."""
    sigma, gain, lift, noise = lens.astype(np.float32)
    if sigma > 0.3:
        colour = cv2.GaussianBlur(colour, (0, 0), float(sigma))
    grain = rng.standard_normal(colour.shape, np.float32)
    return cv2.convertScaleAbs(np.maximum(colour * gain + lift + grain * noise, 0))
