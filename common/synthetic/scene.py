"""Everything but the people: backgrounds, clutter behind, occluders in front, light, shadow on the ground, the camera's own noise."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from common.synthetic.look import patterns, random_colour, wrinkles
from common.synthetic.shapes import OCCLUDER, Camera, Canvas, Capsule, Light, Skin, draw

_TILE = 320


@lru_cache(maxsize=1)
def _surfaces() -> list[np.ndarray]:
    """Background tiles (320,320) float32 around 0 (contrast only): noise, bricks, planks, foliage, panels. The same in every run."""
    rng = np.random.default_rng(22)
    tiles = []
    for falloff in (0.4, 0.55, 0.7, 0.85):
        tiles.append(sum(falloff**k * _noise(rng, 2 ** (k + 2)) for k in range(6)))
    y, x = np.mgrid[:_TILE, :_TILE]
    for h, w in ((12, 28), (20, 40), (9, 60)):  # bricks, stones, planks
        shift = (y // h % 2) * (w // 2)
        cell = rng.normal(0, 0.5, (_TILE // h + 2, _TILE // w + 3))[y // h, (x + shift) // w]
        joint = (y % h < 2) | ((x + shift) % w < 2)
        tiles.append(np.where(joint, -1.2, cell) + 0.25 * _noise(rng, 80))
    for count, low, high in ((900, 3, 9), (250, 8, 26)):  # foliage, crowd of blobs
        tile = np.zeros((_TILE, _TILE), np.float32)
        places, radii = rng.integers(0, _TILE, (count, 2)).tolist(), rng.integers(low, high, count).tolist()
        for place, r, v in zip(places, radii, rng.normal(0, 1, count).tolist()):
            cv2.ellipse(tile, place, (r, int(r * 0.6) + 1), v * 90, 0, 360, v, -1, cv2.LINE_AA)
        tiles.append(tile)
    tiles.append(((x // 64 + y // 64) % 2) * 1.0 + 0.2 * _noise(rng, 64) - 0.5)
    return [np.ascontiguousarray(t, np.float32) for t in tiles]


def _noise(rng: np.random.Generator, cells: int) -> np.ndarray:
    return cv2.resize(
        rng.normal(0, 1, (cells, cells)).astype(np.float32), (_TILE, _TILE), interpolation=cv2.INTER_CUBIC
    )


@lru_cache(maxsize=1)
def _grain() -> np.ndarray:
    """Sensor noise (1024,1024,3) float32 with standard deviation 1; a random window of it is used for each picture."""
    return np.random.default_rng(23).standard_normal((1024, 1024, 3), np.float32)


def sample_light(rng: np.random.Generator) -> Light:
    """Light from above and the camera's side, any azimuth."""
    direction = np.array([rng.normal(0, 0.7), -abs(rng.normal(0.8, 0.4)), -abs(rng.normal(0.6, 0.4))])
    return Light(direction / np.linalg.norm(direction), rng.uniform(0.25, 0.5), rng.uniform(0.88, 1.1, 3))


def background(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    """(height,width,3) float32 BGR: a wall or sky above a ground, each a coloured surface, with gradients of light."""
    upper, lower = _surface(rng, width, height), _surface(rng, width, height)
    horizon = int(height * rng.uniform(0.25, 0.9))
    picture = upper
    picture[horizon:] = lower[horizon:]
    falloff = np.linspace(rng.uniform(0.75, 1.2), rng.uniform(0.75, 1.2), width, dtype=np.float32)[None, :, None]
    return picture * falloff


def _surface(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    tile = _surfaces()[rng.integers(len(_surfaces()))]
    zoom = rng.uniform(0.5, 2.2) * max(width, height) / _TILE
    side = max(int(min(max(width, height) / zoom, _TILE)), 16)
    top, left = rng.integers(0, _TILE - side + 1, 2)
    patch = tile[top : top + side, left : left + side]
    if rng.random() < 0.5:
        patch = patch[:, ::-1]
    patch = cv2.resize(np.ascontiguousarray(patch), (width, height), interpolation=cv2.INTER_LINEAR)
    first, second = random_colour(rng, 0.55), random_colour(rng, 0.55)
    weight = np.clip(0.5 + patch * rng.uniform(0.1, 0.5), 0, 1)[..., None]
    return first + weight * (second - first) * rng.uniform(0.3, 1.0)


def clutter(rng: np.random.Generator, canvas: Canvas, count: int) -> None:
    """Things behind the people: textured polygons, and tubes shaded like limbs, some of them skin-coloured."""
    height, width = canvas.depth.shape
    for _ in range(count):
        if rng.random() < 0.55:
            _paste(canvas.colour, *_thing(rng, width, height, rng.uniform(0.05, 0.3)))
        else:
            _tube(rng, canvas)
    # a tube may cover another one, never a person
    canvas.depth[:] = np.inf
    canvas.owner[:] = -1


def _tube(rng: np.random.Generator, canvas: Canvas) -> None:
    height, width = canvas.depth.shape
    size = max(width, height)
    start = np.array([rng.uniform(0, width), rng.uniform(0, height)]) / size
    reach = rng.normal(0, 0.12, 2)
    z = 1.0 + rng.uniform(0, 0.05)
    a = np.array([*start, z])
    b = np.array([*(start + reach), z + rng.normal(0, 0.02)])
    radius = rng.uniform(0.01, 0.045)
    skin_like = np.array([120, 155, 205]) * rng.uniform(0.4, 1.1)
    colour = skin_like if rng.random() < 0.4 else random_colour(rng)
    tile = patterns()[rng.integers(len(patterns()))][:64, :128, None]
    texture = colour * wrinkles()[rng.integers(4)][..., None] * (1 - 0.4 * tile * (rng.random() < 0.3))
    tube = Capsule(a, b, (radius, radius * rng.uniform(0.5, 1.0)), 0.0, np.eye(3), Skin(texture.astype(np.float32)))
    draw(canvas, tube, Camera(float(size), 0.0, 0.0), sample_light(rng), -1)


def _thing(rng: np.random.Generator, width: int, height: int, size: float):
    """A textured polygon, box, post or blob: corners (K,2) float pixels and a colour picture of its bounding box."""
    size *= max(width, height)
    centre = np.array([rng.uniform(0, width), rng.uniform(0, height)])
    kind = rng.integers(4)
    if kind == 0:
        corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * [size / 2, size * rng.uniform(0.2, 1)]
    elif kind == 1:  # post
        corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * [size * 0.1, size * 1.6]
    else:
        spokes = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(3, 6) if kind == 2 else 12))
        corners = np.stack([np.cos(spokes), np.sin(spokes)], 1) * size / 2 * rng.uniform(0.7, 1.1, (len(spokes), 1))
    angle = rng.normal(0, 0.15) if kind < 2 else 0.0
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return corners @ turn + centre, _surface(rng, 64, 64) * rng.uniform(0.6, 1.2)


def _polygon_mask(corners: np.ndarray, width: int, height: int):
    """Anti-aliased coverage (h,w) 0..1 of the polygon inside its window, and the window; None when outside."""
    low = np.maximum(np.floor(corners.min(0)).astype(int) - 1, 0)
    high = np.minimum(np.ceil(corners.max(0)).astype(int) + 2, (width, height))
    if (high <= low).any():
        return None
    mask = np.zeros((high[1] - low[1], high[0] - low[0]), np.uint8)
    cv2.fillPoly(mask, [np.round((corners - low) * 16).astype(np.int32)], 255, cv2.LINE_AA, shift=4)
    return mask.astype(np.float32) / 255, (slice(low[1], high[1]), slice(low[0], high[0]))


def _paste(colour: np.ndarray, corners: np.ndarray, fill: np.ndarray):
    found = _polygon_mask(corners, colour.shape[1], colour.shape[0])
    if found is None:
        return None
    mask, window = found
    fill = cv2.resize(fill.astype(np.float32), (mask.shape[1], mask.shape[0]))
    colour[window] += mask[..., None] * (fill - colour[window])
    return mask, window


def occlude(rng: np.random.Generator, canvas: Canvas, size: float, depth: float) -> None:
    """One thing in front of everybody, `size` in fractions of the picture's longer side; marked as OCCLUDER in the canvas."""
    height, width = canvas.depth.shape
    found = _paste(canvas.colour, *_thing(rng, width, height, size))
    if found is not None:
        mask, window = found
        canvas.depth[window][mask > 0.5] = depth
        canvas.owner[window][mask > 0.5] = OCCLUDER


def ground_shadow(canvas: Canvas, centre: np.ndarray, radii: np.ndarray, strength: float) -> None:
    """A soft dark ellipse on the ground, before the people are drawn; `centre` and `radii` in pixels."""
    height, width = canvas.depth.shape
    low = np.maximum(np.floor(centre - 1.5 * radii).astype(int), 0)
    high = np.minimum(np.ceil(centre + 1.5 * radii).astype(int) + 1, (width, height))
    if (high <= low).any():
        return
    x = (np.arange(low[0], high[0], dtype=np.float32) - np.float32(centre[0]))[None] / np.float32(radii[0])
    y = (np.arange(low[1], high[1], dtype=np.float32) - np.float32(centre[1]))[:, None] / np.float32(radii[1])
    shade = 1 - np.float32(strength) * np.exp(-2.5 * (x * x + y * y))
    canvas.colour[low[1] : high[1], low[0] : high[0]] *= shade[..., None]


@dataclass(frozen=True)
class Lens:
    """What the camera does to a picture: defocus (sigma in pixels), exposure (gain and lift), standard deviation of the sensor noise."""

    sigma: float
    gain: float
    lift: float
    noise: float


def sample_lens(rng: np.random.Generator) -> Lens:
    """From sharp and clean to soft and noisy."""
    return Lens(rng.uniform(0.0, 0.9), rng.uniform(0.8, 1.15), rng.uniform(-12, 12), rng.uniform(1, 7))


def develop(rng: np.random.Generator, colour: np.ndarray, lens: Lens) -> np.ndarray:
    """(H,W,3) float32 -> uint8 BGR through the lens; at most 768 pixels a side."""
    if lens.sigma > 0.3:
        colour = cv2.GaussianBlur(colour, (0, 0), lens.sigma)
    height, width = colour.shape[:2]
    top, left = rng.integers(0, 256, 2)
    noise = _grain()[top : top + height, left : left + width]
    return cv2.convertScaleAbs(
        np.maximum(colour * np.float32(lens.gain) + np.float32(lens.lift) + noise * np.float32(lens.noise), 0)
    )
