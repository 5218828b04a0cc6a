"""What a person looks like: skin, hair, face, clothes, as small textures wrapped around the volumes.

Front and back differ (face and hair, shirt front and back), and so do left and right to a smaller degree (breast
pocket, watch, parting), as on real people; nothing about the joints can be read from a colour alone: every person's
colours are drawn anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from common.synthetic.shapes import TEXTURE_COLUMNS, TEXTURE_ROWS

_HALF = TEXTURE_COLUMNS // 2
_SKINS = ("180 200 235", "150 180 225", "125 160 210", "100 135 190", "70 100 155", "50 70 110", "40 52 80")  # BGR
_HAIRS = ("25 25 30", "30 45 70", "45 75 115", "90 150 200", "35 60 130", "150 150 155")


@dataclass(frozen=True)
class Look:
    """Textures (64,128,3) float32 by part of the body, and what the shape of hair and clothes needs."""

    textures: dict[str, np.ndarray]
    long_hair: float  # length below the crown in head heights; 0 = short
    bald: bool
    loose: float  # extra thickness of the clothes, in fractions of stature


@lru_cache(maxsize=1)
def patterns() -> list[np.ndarray]:
    """Pattern tiles (128,256) in 0..1: plain cloth, stripes, checks, dots, blotches. The same in every run."""
    rng = np.random.default_rng(20)
    y, x = np.mgrid[:128, :256].astype(np.float32)
    tiles = [np.zeros((128, 256), np.float32)] * 3
    tiles += [np.floor(y / w) % 2 for w in (5, 9, 16)]
    tiles += [np.floor(x / w) % 2 for w in (6, 12)]
    tiles += [0.5 * (np.floor(x / w) % 2) + 0.5 * (np.floor(y / w) % 2) for w in (6, 12)]
    tiles += [(x % w - w / 2) ** 2 + (y % w - w / 2) ** 2 < (w / 3.3) ** 2 for w in (8, 14)]
    for cell in (4, 8, 16):
        coarse = rng.random((128 // cell + 1, 256 // cell + 1)).astype(np.float32)
        tiles.append(cv2.resize(coarse, (256, 128), interpolation=cv2.INTER_CUBIC) > 0.5)
    return [np.ascontiguousarray(t, np.float32) for t in tiles]


@lru_cache(maxsize=1)
def wrinkles() -> list[np.ndarray]:
    """Brightness tiles (64,128,1) around 1 for folds of cloth and unevenness of skin."""
    rng = np.random.default_rng(21)
    tiles = []
    for rows, columns, strength in ((9, 17, 0.22), (5, 21, 0.25), (17, 9, 0.2), (13, 25, 0.18)):
        folds = rng.normal(0, 0.45 * strength, (rows, columns)).astype(np.float32)
        fine = rng.normal(1, 0.035, (TEXTURE_ROWS, TEXTURE_COLUMNS)).astype(np.float32)
        folds = cv2.resize(folds, (TEXTURE_COLUMNS, TEXTURE_ROWS), interpolation=cv2.INTER_CUBIC)
        tiles.append((folds + fine)[..., None])
    return tiles


def random_colour(rng: np.random.Generator, strength: float = 1.0) -> np.ndarray:
    """A colour (3,) BGR: any hue, from grey to strong (`strength` lowers that), from dark to light."""
    hsv = np.array([[[rng.integers(180), 255 * strength * rng.beta(1.2, 1.6), rng.uniform(30, 245)]]]).astype(np.uint8)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)[0, 0].astype(np.float32)


def _cloth(rng: np.random.Generator, plain: float = 0.5) -> np.ndarray:
    """A texture of one or two colours in a random pattern, with folds."""
    first = random_colour(rng)
    tile = patterns()[rng.integers(3) if rng.random() < plain else rng.integers(3, len(patterns()))]
    top, left = rng.integers(64), rng.integers(128)
    weight = tile[top : top + TEXTURE_ROWS, left : left + TEXTURE_COLUMNS, None]
    texture = first + weight * (random_colour(rng) - first)
    return texture * wrinkles()[rng.integers(len(wrinkles()))]


def _flat(rng: np.random.Generator, colour: np.ndarray) -> np.ndarray:
    tile = wrinkles()[rng.integers(len(wrinkles()))]
    return (colour * (0.6 + 0.4 * tile)).astype(np.float32)


def sample_look(rng: np.random.Generator) -> Look:
    """Clothes, skin and hair of one person."""
    tone, hair = (np.array(table[rng.integers(len(table))].split(), float) for table in (_SKINS, _HAIRS))
    tone, hair, bald = tone * rng.uniform(0.9, 1.08, 3), hair * rng.uniform(0.8, 1.2), rng.random() < 0.06
    skin, shirt, trousers = _flat(rng, tone), _cloth(rng), _cloth(rng, plain=0.8)
    if rng.random() < 0.12:  # a one-piece suit
        trousers = shirt
    sleeve = rng.choice([0.0, 0.55, 1.0, 2.0], p=[0.15, 0.4, 0.1, 0.35])  # in upper-arm lengths
    leg = rng.choice([0.5, 1.0, 2.0], p=[0.3, 0.1, 0.6])  # in thigh lengths
    sock = _cloth(rng, 0.9) if rng.random() < 0.5 else skin
    shoe = _flat(rng, random_colour(rng)) if rng.random() < 0.9 else skin.copy()
    shoe[:14] = 0.4 * shoe[:14] + 0.6 * random_colour(rng)
    forearm = _over(shirt, skin, max(min(sleeve - 1.0, 0.93), 0.0))
    watch = forearm.copy()
    if rng.random() < 0.5:
        watch[54:60] = rng.choice([25.0, 200.0])
    textures = {
        "head": _face(rng, skin, tone, hair, bald),
        "hair": _flat(rng, hair),
        "skin": skin,
        "neck": _over(skin, shirt, 1.0 if rng.random() < 0.8 else 0.5),
        "torso": _shirt(rng, shirt, skin),
        "hips": _hips(rng, trousers),
        "upper_arm": _over(shirt, skin, min(sleeve, 1.0)),
        "right_forearm": forearm,
        "left_forearm": watch,
        "thigh": _over(trousers, skin, min(leg, 1.0)),
        "shin": _over(trousers, _over(skin, sock, 0.75), min(max(leg - 1.0, 0.0), 0.95)),
        "shoe": shoe,
    }
    long_hair = rng.uniform(0.9, 1.7) if not bald and rng.random() < 0.4 else 0.0
    return Look(textures, long_hair, bald, rng.uniform(0.002, 0.011))


def _over(cover: np.ndarray, under: np.ndarray, share: float) -> np.ndarray:
    """`cover` over the first `share` of the rows, a hem, `under` below."""
    texture = cover.astype(np.float32).copy()
    row = round(share * TEXTURE_ROWS)
    texture[row:] = under[row:]
    if 0 < row < TEXTURE_ROWS:
        texture[max(row - 2, 0) : row] *= 0.75
    return texture


def _shirt(rng: np.random.Generator, shirt: np.ndarray, skin: np.ndarray) -> np.ndarray:
    """Rows 0-63 = neck to waist. Front: neckline, buttons, jacket or print, pocket on the left. Back: yoke, number."""
    texture = shirt.astype(np.float32).copy()
    front, back = texture[:, :_HALF], texture[:, _HALF:]
    depth, style, colour = int(rng.integers(3, 15)), rng.integers(4), random_colour(rng)
    cv2.fillPoly(mask := np.zeros((TEXTURE_ROWS, _HALF), np.uint8), [np.array([[20, 0], [43, 0], [31, depth]])], 1)
    front[mask > 0] = skin[:, :_HALF][mask > 0]
    if style == 0:  # buttons
        front[depth:, 31:33] *= 0.6
        for row in range(depth + 4, TEXTURE_ROWS, 9):
            front[row : row + 2, 30:34] = colour
    elif style == 1:  # open jacket
        half = int(rng.integers(5, 11))
        front[depth:, 32 - half : 32 + half] = colour
        front[depth:, [32 - half, 31 + half]] *= 0.5
    elif style == 2:  # print on the chest
        cv2.ellipse(
            front, (32, int(rng.integers(20, 32))), (int(rng.integers(8, 18)), 8), 0, 0, 360, colour.tolist(), -1
        )
    if rng.random() < 0.5:  # breast pocket
        front[16:27, 42:54] *= 0.7
        front[16:18, 42:54] = colour
    if rng.random() < 0.5:
        back[:12] *= 0.65
    else:
        cv2.rectangle(back, (22, 16), (42, 40), colour.tolist(), 3)
    return texture


def _hips(rng: np.random.Generator, trousers: np.ndarray) -> np.ndarray:
    """Belt above, fly at the front, pockets at the back."""
    texture = trousers.astype(np.float32).copy()
    texture[:7] = random_colour(rng)
    texture[:7, 28:36] = 210
    texture[7:40, 31:33] *= 0.6
    for left in (_HALF + 10, _HALF + 40):
        texture[24:40, left : left + 14] *= 0.75
    return texture


def _face(rng: np.random.Generator, skin: np.ndarray, tone: np.ndarray, hair: np.ndarray, bald: bool) -> np.ndarray:
    """Head texture: face on the front half (column 0 = the person's right), hair on the back half and above."""
    texture = skin.copy()
    face = np.ascontiguousarray(texture[:, :_HALF])
    glasses, lip = rng.random() < 0.12, (tone * [0.6, 0.55, 0.95]).tolist()
    if rng.random() < 0.18:  # beard
        face[46:] = 0.3 * face[46:] + 0.7 * hair
    cv2.ellipse(face, (32, 50), (9, int(rng.integers(1, 4))), 0, 0, 360, lip, -1)
    cv2.line(face, (29, 42), (35, 42), (tone * 0.35).tolist(), 1)
    for x in (19, 45):
        cv2.ellipse(face, (x, 30), (6, 3), 0, 0, 360, (235, 235, 235), -1)
        cv2.circle(face, (x, 30), 3, (30, 30, 30), -1)
        cv2.line(face, (x - 7, 24), (x + 7, 24), (hair * 0.7).tolist(), 2)
        if glasses:
            cv2.ellipse(face, (x, 30), (10, 6), 0, 0, 360, (20, 20, 20), 2)
    texture[:, :_HALF] = face
    if not bald:
        strands = _flat(rng, hair)
        parting = int(rng.integers(9, 16))
        texture[:parting] = strands[:parting]
        right = _HALF // 3  # parted on the left: more hair on the right
        texture[: parting + 4, :right] = strands[: parting + 4, :right]
        texture[:50, _HALF:] = strands[:50, _HALF:]
    return texture
