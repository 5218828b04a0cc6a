"""A person as a list of textured tubes: body, skin, hair, face, clothes, and where the joints are in the picture.

Front and back differ (face and hair, neckline and number), and so do left and right to a smaller degree (breast pocket,
watch), as on real people; nothing about the joints can be read from a colour alone: every person's are drawn anew.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

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


@lru_cache(maxsize=1)
def patterns() -> list[np.ndarray]:
    """Pattern tiles (64,128,1) in 0..1: plain (a third of them), stripes, checks, dots, blotches; the same each run."""
    y, x = np.mgrid[:TEXTURE_ROWS, :TEXTURE_COLUMNS].astype(np.float32)
    tiles = [np.floor(y / w) % 2 for w in (5, 9, 16)] + [np.floor(x / w) % 2 for w in (6, 12)]
    tiles += [0.5 * (np.floor(x / w) % 2) + 0.5 * (np.floor(y / w) % 2) for w in (6, 12)]
    tiles += [(x % w - w / 2) ** 2 + (y % w - w / 2) ** 2 < (w / 3.3) ** 2 for w in (8, 14)]
    tiles += [_smooth(np.random.default_rng(cell), cell, 2 * cell) > 0 for cell in (4, 8, 16)]
    return [np.ascontiguousarray(t, np.float32)[..., None] for t in tiles + [np.zeros_like(x)] * 6]


def _smooth(rng: np.random.Generator, rows: int, columns: int) -> np.ndarray:
    """(64,128) smooth noise around 0 of so many cells."""
    cells = rng.normal(0, 1, (rows, columns)).astype(np.float32)
    return cv2.resize(cells, (TEXTURE_COLUMNS, TEXTURE_ROWS), interpolation=cv2.INTER_CUBIC)


def random_colour(rng: np.random.Generator, strength: float = 1.0) -> np.ndarray:
    """A colour (3,) BGR: any hue, from grey to strong (`strength` lowers that), from dark to light."""
    hsv = np.array([[[rng.integers(180), 255 * strength * rng.beta(1.2, 1.6), rng.uniform(30, 245)]]]).astype(np.uint8)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)[0, 0].astype(np.float32)


def cloth(rng: np.random.Generator, colour: np.ndarray | None = None) -> np.ndarray:
    """A texture with folds: two colours in a random pattern, or the plain `colour`, with less of them."""
    first = random_colour(rng) if colour is None else colour
    weight = patterns()[rng.integers(len(patterns()))] if colour is None else 0.0
    folds = _smooth(rng, 9, 17) * (0.1 if colour is None else 0.04) + rng.normal(1, 0.03, (TEXTURE_ROWS, 1))
    return ((first + weight * (random_colour(rng) - first)) * folds[..., None]).astype(np.float32)


def sample_look(rng: np.random.Generator) -> Look:
    """Clothes, skin and hair of one person."""
    tone = _one_of(rng, "skins") * rng.uniform(0.9, 1.08, 3)
    hair = _one_of(rng, "hairs") * rng.uniform(0.8, 1.2)
    skin, strands, shirt, trousers = cloth(rng, tone), cloth(rng, hair), cloth(rng), cloth(rng)
    sleeve = rng.choice([0.0, 0.55, 1.0, 2.0], p=[0.15, 0.4, 0.1, 0.35])  # in upper-arm lengths
    leg = rng.choice([0.5, 1.0, 2.0], p=[0.3, 0.1, 0.6])  # in thigh lengths
    forearm = _over(shirt, skin, max(min(sleeve - 1.0, 0.93), 0.0))
    watch = forearm.copy()
    watch[54:60] = rng.choice([25.0, 200.0])
    textures = {
        "head": _face(rng, skin, tone, hair, strands),
        "hair": strands,
        "skin": skin,
        "neck": _over(skin, shirt, 0.75),
        "torso": _shirt(rng, shirt, skin),
        "hips": trousers,
        "upper_arm": _over(shirt, skin, min(sleeve, 1.0)),
        "right_forearm": forearm,
        "left_forearm": watch,
        "thigh": _over(trousers, skin, min(leg, 1.0)),
        "shin": _over(trousers, skin, min(max(leg - 1.0, 0.0), 0.95)),
        "shoe": cloth(rng, random_colour(rng)),
    }
    return Look(textures, rng.uniform(0.9, 1.7) if rng.random() < 0.4 else 0.0, rng.uniform(0.002, 0.011))


def _one_of(rng: np.random.Generator, table: str) -> np.ndarray:
    return np.array(TABLES[table][rng.integers(len(TABLES[table]))])


def _over(cover: np.ndarray, under: np.ndarray, share: float) -> np.ndarray:
    """`cover` over the first `share` of the rows, `under` below."""
    row = round(share * TEXTURE_ROWS)
    return np.concatenate([cover[:row], under[row:]])


def _shirt(rng: np.random.Generator, shirt: np.ndarray, skin: np.ndarray) -> np.ndarray:
    """Rows 0-63 = neck to waist. Front: neckline, open jacket or print, pocket on the left. Back: a number's frame."""
    front, back, colour = shirt[:, :_HALF].copy(), shirt[:, _HALF:].copy(), random_colour(rng)
    depth = int(rng.integers(3, 15))
    cv2.fillPoly(mask := np.zeros((TEXTURE_ROWS, _HALF), np.uint8), [np.array([[20, 0], [43, 0], [31, depth]])], 1)
    front[mask > 0] = skin[:, :_HALF][mask > 0]
    if rng.random() < 0.3:
        front[depth:, 25:39] = colour
    elif rng.random() < 0.5:
        cv2.ellipse(front, (32, 26), (int(rng.integers(8, 18)), 8), 0, 0, 360, colour.tolist(), -1)
    if rng.random() < 0.5:
        front[16:27, 42:54] *= 0.7
        cv2.rectangle(back, (22, 16), (42, 40), colour.tolist(), 3)
    return np.hstack([front, back])


def _face(
    rng: np.random.Generator, skin: np.ndarray, tone: np.ndarray, hair: np.ndarray, strands: np.ndarray
) -> np.ndarray:
    """Head texture: face on the front half (column 0 = the person's right), hair on the back half and above."""
    face = skin[:, :_HALF].copy()
    if rng.random() < 0.18:  # beard
        face[46:] = 0.3 * face[46:] + 0.7 * hair
    cv2.ellipse(face, (32, 50), (9, int(rng.integers(1, 4))), 0, 0, 360, (tone * [0.6, 0.55, 0.95]).tolist(), -1)
    cv2.line(face, (29, 42), (35, 42), (tone * 0.35).tolist(), 1)
    for x in (19, 45):
        cv2.ellipse(face, (x, 30), (6, 3), 0, 0, 360, (235, 235, 235), -1)
        cv2.circle(face, (x, 30), 3, (30, 30, 30), -1)
        cv2.line(face, (x - 7, 24), (x + 7, 24), (hair * 0.7).tolist(), 2)
    parting = int(rng.integers(9, 16))
    face[:parting] = strands[:parting, :_HALF]
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
    h, chest = build.stature, frames["chest"]
    units = {"bone": h, "limb": h * (0.5 + 0.5 * build.girth), "leg": h * build.girth}

    def radius(share: float, unit: str, cloth: float) -> float:
        return share * units[unit] + cloth * look.loose * h

    collar = joints["neck"] + chest @ np.array([sign * 0.02 * h, -0.012 * h, 0]), joints[f"{side}_shoulder"]
    tubes = [Tube(*collar, (0.034 * h, radius(0.036, "limb", 1)), chest, look.textures["torso"], (0, 10))]
    for start, end, first, last, bone, part in TABLES["side_tubes"]:
        texture = look.textures[f"{side}_{part}" if part == "forearm" else part]
        ends = joints[f"{side}_{start}"], joints[f"{side}_{end}"]
        tubes.append(Tube(*ends, (radius(*first), radius(*last)), frames[f"{side}_{bone}"], texture))
    return tubes
