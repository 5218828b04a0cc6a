"""A person as a list of textured tubes: body, skin, hair, face, clothes, and where the joints are in the picture.

Front and back differ (face and hair, a print on the shirt), as on real people; nothing about the joints can be read from
a colour alone: every person's are drawn anew.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np

from common.skeletons import group_name
from common.synthetic.body import TABLES, Build, forward
from common.synthetic.shapes import TEXTURE_COLUMNS, TEXTURE_ROWS, Camera, Canvas, Light, Tube, draw

_HALF = TEXTURE_COLUMNS // 2


@dataclass(frozen=True)
class Look:
    """Textures (64,128,3) float32 by part of the body, and what the shape of hair and clothes needs."""

    textures: dict[str, np.ndarray]
    long_hair: float  # length below the crown in head heights; 0 = short
    loose: float  # extra thickness of the clothes, in fractions of stature


def random_colour(rng: np.random.Generator, strength: float = 1.0) -> np.ndarray:
    """A colour (3,) BGR: any hue, from grey to strong (`strength` lowers that), from dark to light."""
    hsv = np.array([[[rng.integers(180), 255 * strength * rng.beta(1.2, 1.6), rng.uniform(30, 245)]]]).astype(np.uint8)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)[0, 0].astype(np.float32)


def cloth(rng: np.random.Generator, colour: np.ndarray | None = None) -> np.ndarray:
    """A texture with folds: the plain `colour`, or two colours, plain, in stripes, checks or blotches."""

    def smooth(rows: int) -> np.ndarray:
        cells = rng.normal(0, 1, (rows, 2 * rows)).astype(np.float32)
        return cv2.resize(cells, (TEXTURE_COLUMNS, TEXTURE_ROWS), interpolation=cv2.INTER_CUBIC)

    first, width = random_colour(rng) if colour is None else colour, rng.integers(5, 17)
    y, x = np.mgrid[:TEXTURE_ROWS, :TEXTURE_COLUMNS] // width % 2
    pattern = (0 * x, 0 * x, y, x, (x + y) / 2, smooth(width) > 0)[rng.integers(6) if colour is None else 0]
    folds = 1 + smooth(9) * (0.1 if colour is None else 0.04) + rng.normal(0, 0.03, (TEXTURE_ROWS, 1))
    return ((first + pattern[..., None] * (random_colour(rng) - first)) * folds[..., None]).astype(np.float32)


def sample_look(rng: np.random.Generator) -> Look:
    """Clothes, skin and hair of one person."""
    tone = TABLES["skins"][rng.integers(len(TABLES["skins"]))] * rng.uniform(0.9, 1.08, 3)
    hair = TABLES["hairs"][rng.integers(len(TABLES["hairs"]))] * rng.uniform(0.8, 1.2, 1)
    skin, strands, shirt, trousers = cloth(rng, tone), cloth(rng, hair), cloth(rng), cloth(rng)
    sleeve = rng.choice([0.0, 0.55, 1.0, 2.0], p=[0.15, 0.4, 0.1, 0.35])  # in upper-arm lengths
    leg = rng.choice([0.5, 1.0, 2.0], p=[0.3, 0.1, 0.6])  # in thigh lengths
    torso, place = shirt.copy(), (int(rng.integers(24, 48)), 22)  # a print in front, more often on the left
    cv2.ellipse(torso, place, (int(rng.integers(5, 15)), 8), 0, 0, 360, random_colour(rng).tolist(), -1)
    textures = {
        "head": _face(rng, skin, tone, hair, strands), "hair": strands, "skin": skin,
        "neck": _over(skin, shirt, 0.75), "torso": torso, "hips": trousers,
        "upper_arm": _over(shirt, skin, min(sleeve, 1.0)),
        "forearm": _over(shirt, skin, max(min(sleeve - 1.0, 0.93), 0.0)),
        "thigh": _over(trousers, skin, min(leg, 1.0)),
        "shin": _over(trousers, skin, min(max(leg - 1.0, 0.0), 0.95)), "shoe": cloth(rng, random_colour(rng)),
    }  # fmt: skip
    return Look(textures, rng.uniform(0.9, 1.7) if rng.random() < 0.4 else 0.0, rng.uniform(0.002, 0.011))


def _over(cover: np.ndarray, under: np.ndarray, share: float) -> np.ndarray:
    """`cover` over the first `share` of the rows, `under` below."""
    row = round(share * TEXTURE_ROWS)
    return np.concatenate([cover[:row], under[row:]])


def _face(rng: np.random.Generator, skin, tone, hair, strands) -> np.ndarray:
    """Head texture: face on the front half (column 0 = the person's right), hair on the back half and above."""
    face = _over(strands, skin, rng.uniform(0.14, 0.25))[:, :_HALF].copy()
    cv2.ellipse(face, (32, 50), (9, int(rng.integers(1, 4))), 0, 0, 360, (tone * [0.6, 0.55, 0.95]).tolist(), -1)
    for x in (19, 45):
        cv2.ellipse(face, (x, 30), (6, 3), 0, 0, 360, (235, 235, 235), -1)
        cv2.circle(face, (x, 30), 3, (30, 30, 30), -1)
        cv2.line(face, (x - 7, 24), (x + 7, 24), (hair * 0.7).tolist(), 2)
    return np.hstack([face, _over(strands, skin, 0.8)[:, _HALF:]])


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
    h, pad, deep = build.stature, look.loose * build.stature, 0.4 + 0.6 * build.girth
    wide, tubes = (build.shoulder / 0.108 / h + build.girth) / 2, []
    for height, half, thick, part in TABLES["trunk_slices"]:
        frame, radius = frames["chest" if height > 0.46 else "belly" if height else "pelvis"], thick * deep * h + pad
        middle = joints["pelvis"] if not height else joints["belly"] + frame @ [0, (height - 0.46) * build.trunk, 0]
        reach = max(half * wide * h + pad - radius, 0.0) * frame[:, 0]
        rows = tuple(66 * (1 - height + sign * radius / build.trunk) for sign in (-1, 1))
        tubes.append(Tube(middle - reach, middle + reach, (radius, radius), frame, look.textures[part], rows))
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
    h, chest = build.stature, frames["chest"]
    units = {"bone": h, "limb": h * (0.5 + 0.5 * build.girth), "leg": h * build.girth}

    def radius(share: float, unit: str, cloth: float) -> float:
        return share * units[unit] + cloth * look.loose * h

    collar = joints["neck"] + chest @ np.array([sign * 0.02 * h, -0.012 * h, 0]), joints[f"{side}_shoulder"]
    tubes = [Tube(*collar, (0.034 * h, radius(0.036, "limb", 1)), chest, look.textures["torso"], (0, 10))]
    for start, end, first, last, bone, part in TABLES["side_tubes"]:
        ends = joints[f"{side}_{start}"], joints[f"{side}_{end}"]
        tubes.append(Tube(*ends, (radius(*first), radius(*last)), frames[f"{side}_{bone}"], look.textures[part]))
    return tubes
