"""What a person looks like: skin, hair, face, clothes, as small textures wrapped around the volumes.

Front and back differ (face and hair, shirt front and back), and so do left and right to a smaller degree (breast pocket, watch, parting),
as on real people; nothing about the joints can be read from a colour alone, because every person's colours are drawn anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from common.synthetic.shapes import TEXTURE_COLUMNS, TEXTURE_ROWS, Skin

_HALF = TEXTURE_COLUMNS // 2
_SKIN_BGR = np.array(
    [[180, 200, 235], [150, 180, 225], [125, 160, 210], [100, 135, 190], [70, 100, 155], [50, 70, 110], [40, 52, 80]],
    float,
)
_HAIR_BGR = np.array([[25, 25, 30], [30, 45, 70], [45, 75, 115], [90, 150, 200], [35, 60, 130], [150, 150, 155]], float)


@dataclass(frozen=True)
class Look:
    """Textures by part, and what the shape of the clothes needs."""

    head: Skin
    hair: Skin
    skin: Skin
    nose: Skin
    neck: Skin
    torso: np.ndarray
    hips: np.ndarray
    upper_arm: Skin
    forearm: dict[str, Skin]
    thigh: Skin
    shin: Skin
    shoe: Skin
    long_hair: float  # length below the crown in head heights; 0 = short
    bald: bool
    loose: float  # extra thickness of the clothes, in fractions of stature


@lru_cache(maxsize=1)
def patterns() -> list[np.ndarray]:
    """Pattern tiles (128,256) in 0..1: plain cloth, stripes, checks, dots, blotches. The same in every run."""
    rng = np.random.default_rng(20)
    y, x = np.mgrid[:128, :256].astype(np.float32)
    tiles = [np.zeros((128, 256), np.float32)] * 3
    tiles += [(np.floor(y / w) % 2) for w in (5, 9, 16)]
    tiles += [(np.floor(x / w) % 2) for w in (6, 12)]
    tiles += [0.5 * (np.floor(x / w) % 2) + 0.5 * (np.floor(y / w) % 2) for w in (6, 12)]
    tiles += [((x % w - w / 2) ** 2 + (y % w - w / 2) ** 2 < (w / 3.3) ** 2).astype(np.float32) for w in (8, 14)]
    for cell in (4, 8, 16):
        coarse = rng.random((128 // cell + 1, 256 // cell + 1)).astype(np.float32)
        tiles.append(cv2.resize(coarse, (256, 128), interpolation=cv2.INTER_CUBIC) > 0.5)
    return [np.ascontiguousarray(t, np.float32) for t in tiles]


@lru_cache(maxsize=1)
def wrinkles() -> list[np.ndarray]:
    """Brightness tiles (64,128) around 1 for folds of cloth and unevenness of skin."""
    rng = np.random.default_rng(21)
    tiles = []
    for rows, columns, strength in ((9, 17, 0.22), (5, 21, 0.25), (17, 9, 0.2), (13, 25, 0.18)):
        coarse = rng.normal(0, 1, (rows, columns)).astype(np.float32)
        fine = rng.normal(0, 0.035, (TEXTURE_ROWS, TEXTURE_COLUMNS)).astype(np.float32)
        tiles.append(
            1
            + 0.45 * strength * cv2.resize(coarse, (TEXTURE_COLUMNS, TEXTURE_ROWS), interpolation=cv2.INTER_CUBIC)
            + fine
        )
    return tiles


def random_colour(rng: np.random.Generator, strength: float = 1.0) -> np.ndarray:
    """A colour (3,) BGR: any hue, from grey to strong (`strength` lowers that), from dark to light."""
    hsv = np.array([[[rng.integers(180), 255 * strength * rng.beta(1.2, 1.6), rng.uniform(30, 245)]]]).astype(np.uint8)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)[0, 0].astype(np.float32)


def _cloth(rng: np.random.Generator, plain: float = 0.5) -> np.ndarray:
    """A texture (64,128,3) of one or two colours in a random pattern, with folds."""
    first = random_colour(rng)
    tile = patterns()[rng.integers(3) if rng.random() < plain else rng.integers(3, len(patterns()))]
    top, left = rng.integers(64), rng.integers(128)
    weight = tile[top : top + TEXTURE_ROWS, left : left + TEXTURE_COLUMNS, None]
    texture = first + weight * (random_colour(rng) - first)
    return texture * wrinkles()[rng.integers(len(wrinkles()))][..., None]


def _flat(rng: np.random.Generator, colour: np.ndarray) -> np.ndarray:
    tile = wrinkles()[rng.integers(len(wrinkles()))]
    return (colour.astype(np.float32) * (0.6 + 0.4 * tile[..., None])).astype(np.float32)


def sample_look(rng: np.random.Generator) -> Look:
    """Clothes, skin and hair of one person."""
    tone = _SKIN_BGR[rng.integers(len(_SKIN_BGR))] * rng.uniform(0.9, 1.08, 3)
    hair = _HAIR_BGR[rng.integers(len(_HAIR_BGR))] * rng.uniform(0.8, 1.2)
    bald = rng.random() < 0.06
    skin, shirt, trousers = _flat(rng, tone), _cloth(rng), _cloth(rng, plain=0.8)
    torso = _shirt(rng, shirt, skin)
    sleeve = rng.choice([0.0, 0.55, 1.0, 2.0], p=[0.15, 0.4, 0.1, 0.35])  # in upper-arm lengths
    leg = rng.choice([0.5, 1.0, 2.0], p=[0.3, 0.1, 0.6])  # in thigh lengths
    if rng.random() < 0.12:  # a one-piece suit
        trousers = shirt
    upper_arm = _sleeved(shirt, skin, min(sleeve, 1.0))
    fore = _sleeved(shirt, skin, max(min(sleeve - 1.0, 0.93), 0.0))
    sock = _cloth(rng, 0.9) if rng.random() < 0.5 else skin
    shin = _sleeved(trousers, _sleeved(skin, sock, 0.75), min(max(leg - 1.0, 0.0), 0.95))
    shoe = _flat(rng, random_colour(rng)) if rng.random() < 0.9 else skin
    shoe = shoe.copy()
    shoe[:14] = 0.4 * shoe[:14] + 0.6 * random_colour(rng)
    return Look(
        head=Skin(_face(rng, skin, tone, hair, bald)),
        hair=Skin(_flat(rng, hair)),
        skin=Skin(skin),
        nose=Skin((skin * 1.05).astype(np.float32)),
        neck=Skin(_sleeved(skin, shirt, 1.0 if rng.random() < 0.8 else 0.5)),
        torso=torso,
        hips=_trousers(rng, trousers),
        upper_arm=Skin(upper_arm),
        forearm=_forearms(rng, fore),
        thigh=Skin(_sleeved(trousers, skin, min(leg, 1.0))),
        shin=Skin(shin),
        shoe=Skin(shoe),
        long_hair=0.0 if bald else float(rng.choice([0.0, rng.uniform(0.9, 1.7)], p=[0.6, 0.4])),
        bald=bald,
        loose=rng.uniform(0.002, 0.011),
    )


def _sleeved(cover: np.ndarray, under: np.ndarray, share: float) -> np.ndarray:
    """`cover` over the first `share` of the rows, a hem, `under` below."""
    texture = cover.astype(np.float32).copy()
    row = int(round(share * TEXTURE_ROWS))
    texture[row:] = under[row:]
    if 0 < row < TEXTURE_ROWS:
        texture[max(row - 2, 0) : row] *= 0.75
    return texture


def _forearms(rng: np.random.Generator, texture: np.ndarray) -> dict[str, Skin]:
    left = texture.copy()
    if rng.random() < 0.5:  # a watch, worn on the left
        left[54:60] = rng.choice([25.0, 200.0])
    return {"left": Skin(left), "right": Skin(texture)}


def _shirt(rng: np.random.Generator, shirt: np.ndarray, skin: np.ndarray) -> np.ndarray:
    """Rows 0-63 = neck to waist. Front: neckline, buttons or open jacket, print, pocket on the left. Back: yoke or number."""
    texture = shirt.astype(np.float32).copy()
    front, back = texture[:, :_HALF], texture[:, _HALF:]
    depth = int(rng.integers(3, 15))
    cv2.fillPoly(mask := np.zeros((TEXTURE_ROWS, _HALF), np.uint8), [np.array([[20, 0], [43, 0], [31, depth]])], 1)
    front[mask > 0] = skin[:, :_HALF][mask > 0]
    style = rng.integers(4)
    colour = random_colour(rng)
    if style == 0:  # buttons
        front[depth:, 31:33] *= 0.6
        for row in range(depth + 4, TEXTURE_ROWS, 9):
            front[row : row + 2, 30:34] = colour
    elif style == 1:  # open jacket
        half = int(rng.integers(5, 11))
        front[depth:, 32 - half : 32 + half] = colour
        front[depth:, 32 - half] *= 0.5
        front[depth:, 31 + half] *= 0.5
    elif style == 2:  # print on the chest
        x, y = int(rng.integers(14, 24)), int(rng.integers(14, 26))
        cv2.ellipse(front, (32, y + 6), (32 - x, 8), 0, 0, 360, colour.tolist(), -1)
    if rng.random() < 0.5:  # breast pocket, on the left
        front[16:27, 42:54] *= 0.7
        front[16:18, 42:54] = colour
    if rng.random() < 0.5:
        back[:12] *= 0.65
    else:
        cv2.rectangle(back, (22, 16), (42, 40), colour.tolist(), 3)
    return texture


def _trousers(rng: np.random.Generator, trousers: np.ndarray) -> np.ndarray:
    """Belt above, fly at the front, pockets at the back."""
    texture = trousers.astype(np.float32).copy()
    texture[:7] = random_colour(rng)
    texture[:7, 28:36] = 210
    texture[7:40, 31:33] *= 0.6
    texture[24:40, _HALF + 10 : _HALF + 24] *= 0.75
    texture[24:40, _HALF + 40 : _HALF + 54] *= 0.75
    return texture


def _face(rng: np.random.Generator, skin: np.ndarray, tone: np.ndarray, hair: np.ndarray, bald: bool) -> np.ndarray:
    """Head texture: face on the front half (column 0 = the person's right), hair on the back half and above the brow."""
    texture = skin.copy()
    face = np.ascontiguousarray(texture[:, :_HALF])
    dark, lip = (tone * 0.35).tolist(), (tone * [0.6, 0.55, 0.95]).tolist()
    for x in (19, 45):
        cv2.ellipse(face, (x, 30), (6, 3), 0, 0, 360, (235, 235, 235), -1)
        cv2.circle(face, (x, 30), 3, (30, 30, 30), -1)
        cv2.line(face, (x - 7, 24), (x + 7, 24), (hair * 0.7).tolist(), 2)
    cv2.line(face, (29, 42), (35, 42), dark, 1)
    cv2.ellipse(face, (32, 50), (9, int(rng.integers(1, 4))), 0, 0, 360, lip, -1)
    if rng.random() < 0.18:  # beard
        face[46:] = 0.3 * face[46:] + 0.7 * hair
        cv2.ellipse(face, (32, 50), (7, 2), 0, 0, 360, lip, -1)
    if rng.random() < 0.12:  # glasses
        for x in (19, 45):
            cv2.ellipse(face, (x, 30), (10, 6), 0, 0, 360, (20, 20, 20), 2)
        cv2.line(face, (28, 29), (36, 29), (20, 20, 20), 2)
    texture[:, :_HALF] = face
    if not bald:
        strands = _flat(rng, hair)
        parting = int(rng.integers(9, 16))
        texture[:parting] = strands[:parting]
        texture[: parting + 4, : _HALF // 3] = strands[
            : parting + 4, : _HALF // 3
        ]  # parted on the left: more hair on the right
        texture[:50, _HALF:] = strands[:50, _HALF:]
    return texture.astype(np.float32)
