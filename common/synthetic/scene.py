"""Everything but the people: backgrounds, clutter behind, occluders in front, light, the camera's noise."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np

from common.synthetic.look import cloth, random_colour
from common.synthetic.shapes import BACKGROUND, OCCLUDER, Camera, Canvas, Light, Tube, draw

_TILE = 320


@lru_cache(maxsize=1)
def _surfaces() -> list[np.ndarray]:
    """Background tiles (320,320) float32 around 0 (contrast only): noise, bricks and planks, foliage."""
    rng = np.random.default_rng(22)

    def noise(cells: int) -> np.ndarray:
        coarse = rng.normal(0, 1, (cells, cells)).astype(np.float32)
        return cv2.resize(coarse, (_TILE, _TILE), interpolation=cv2.INTER_CUBIC)

    tiles = [sum(falloff**k * noise(2 ** (k + 2)) for k in range(6)) for falloff in (0.4, 0.6, 0.8)]
    y, x = np.mgrid[:_TILE, :_TILE]
    for h, w in ((12, 28), (20, 40), (9, 60)):
        shifted = x + (y // h % 2) * (w // 2)
        cell = rng.normal(0, 0.5, (_TILE // h + 2, _TILE // w + 3))[y // h, shifted // w]
        tiles.append(np.where((y % h < 2) | (shifted % w < 2), -1.2, cell) + 0.25 * noise(80))
    for count, largest in ((900, 9), (250, 26)):
        tiles.append(np.zeros((_TILE, _TILE), np.float32))
        for _ in range(count):
            place, r, v = rng.integers(0, _TILE, 2).tolist(), int(rng.integers(3, largest)), float(rng.normal())
            cv2.ellipse(tiles[-1], place, (r, int(r * 0.6) + 1), v * 90, 0, 360, v, -1, cv2.LINE_AA)
    return [np.ascontiguousarray(t, np.float32) for t in tiles]


def sample_light(rng: np.random.Generator) -> Light:
    """Light from above and the camera's side, any azimuth."""
    direction = np.array([rng.normal(0, 0.7), -abs(rng.normal(0.8, 0.4)), -abs(rng.normal(0.6, 0.4))])
    return Light(direction / np.linalg.norm(direction), rng.uniform(0.25, 0.5), rng.uniform(0.88, 1.1, 3))


def background(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
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


def clutter(rng: np.random.Generator, canvas: Canvas, count: int) -> None:
    """Things behind the people: textured polygons, and tubes shaded like limbs, some of them skin-coloured."""
    for _ in range(count):
        if rng.random() < 0.55:
            _thing(rng, canvas, rng.uniform(0.05, 0.3))
        else:
            _tube(rng, canvas)


def _tube(rng: np.random.Generator, canvas: Canvas) -> None:
    height, width = canvas.depth.shape
    size = max(width, height)
    start = np.array([*rng.uniform(0, [width, height]) / size, 1.0 + rng.uniform(0, 0.05)])
    end, radius = start + rng.normal(0, [0.12, 0.12, 0.02]), rng.uniform(0.01, 0.045)
    texture = cloth(rng, np.array([120, 155, 205]) * rng.uniform(0.4, 1.1) if rng.random() < 0.4 else None)
    tube = Tube(start, end, (radius, radius * rng.uniform(0.5, 1)), np.eye(3), texture)
    draw(canvas, tube, Camera(size, 0, 0), sample_light(rng), BACKGROUND)


def _thing(rng: np.random.Generator, canvas: Canvas, size: float) -> np.ndarray:
    """Pastes a textured box, post or polygon, `size` in the picture's longer side; its coverage (H,W) 0..1."""
    height, width = canvas.depth.shape
    size *= max(width, height)
    if (kind := rng.integers(3)) < 2:
        half = [size / 2, size * rng.uniform(0.2, 1)] if kind == 0 else [size * 0.1, size * 1.6]
        corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * half
    else:
        spokes = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(3, 12)))
        corners = np.stack([np.cos(spokes), np.sin(spokes)], 1) * size / 2 * rng.uniform(0.7, 1.1, (len(spokes), 1))
    corners = corners @ cv2.getRotationMatrix2D((0, 0), rng.normal(0, 9), 1)[:, :2] + rng.uniform(0, [width, height])
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


def occlude(rng: np.random.Generator, canvas: Canvas, size: float, depth: float) -> None:
    """One thing in front of everybody, `size` in the picture's longer side; OCCLUDER in the canvas."""
    solid = _thing(rng, canvas, size) > 0.5
    canvas.depth[solid] = depth
    canvas.owner[solid] = OCCLUDER


def develop(rng: np.random.Generator, colour: np.ndarray, lens: np.ndarray) -> np.ndarray:
    """(H,W,3) float32 -> uint8 BGR through a lens: defocus (sigma in pixels), gain, lift, noise."""
    sigma, gain, lift, noise = lens.astype(np.float32)
    if sigma > 0.3:
        colour = cv2.GaussianBlur(colour, (0, 0), float(sigma))
    grain = rng.standard_normal(colour.shape, np.float32)
    return cv2.convertScaleAbs(np.maximum(colour * gain + lift + grain * noise, 0))
