"""Shaded, textured volumes in a depth buffer: ellipsoids and tapered capsules, one numpy pass over each one's bounding box.

Camera axes: x right, y down, z away from the camera, metres; image coordinates 0-based pixels, pixel centres at integers. Each
volume is projected with the scale of its own depth (its inner perspective is neglected; joints are projected exactly).
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

BACKGROUND, OCCLUDER = -1, -2
TEXTURE_ROWS, TEXTURE_COLUMNS = 64, 128  # columns 0-63: the front half, right to left; 64-127: the back half


@dataclass
class Canvas:
    """The picture being drawn: colour (H,W,3) float32 BGR 0-255, depth (H,W) float32 metres (inf = nothing), owner (H,W)."""

    colour: np.ndarray
    depth: np.ndarray
    owner: np.ndarray

    @classmethod
    def empty(cls, colour: np.ndarray) -> Canvas:
        """A canvas whose picture is a copy of `colour`, infinitely far away."""
        shape = colour.shape[:2]
        return cls(colour.astype(np.float32), np.full(shape, np.inf, np.float32), np.full(shape, BACKGROUND, np.int16))


@dataclass(frozen=True)
class Camera:
    """Pinhole: focal length in pixels, principal point in pixels."""

    focal: float
    cx: float
    cy: float

    def project(self, point: np.ndarray) -> np.ndarray:
        """(...,3) camera coordinates -> (...,2) pixels."""
        return self.focal * point[..., :2] / point[..., 2:3] + [self.cx, self.cy]


@dataclass(frozen=True)
class Light:
    """One distant light: direction towards it (3,) in camera axes, ambient share, and BGR tint."""

    direction: np.ndarray
    ambient: float
    tint: np.ndarray


@dataclass(frozen=True)
class Skin:
    """A texture (64,128,3) float32 and the rows of it that the volume shows, from its top (or first end) to its bottom."""

    texture: np.ndarray
    first: float = 0.0
    last: float = TEXTURE_ROWS - 1.0


@dataclass(frozen=True)
class Ellipsoid:
    """Half axes (3,) along the columns of `frame` (3,3), centre (3,), all in camera axes and metres."""

    centre: np.ndarray
    axes: np.ndarray
    frame: np.ndarray
    skin: Skin

    @property
    def distance(self) -> float:
        """Metres from the camera plane to the centre."""
        return float(self.centre[2])


@dataclass(frozen=True)
class Capsule:
    """A limb from `start` to `end` with radii at both and `bulge` metres more in the middle; `frame` gives its left and front."""

    start: np.ndarray
    end: np.ndarray
    radii: tuple[float, float]
    bulge: float
    frame: np.ndarray
    skin: Skin

    @property
    def distance(self) -> float:
        """Metres from the camera plane to the middle."""
        return float(self.start[2] + self.end[2]) / 2


def draw(canvas: Canvas, volume: Ellipsoid | Capsule, camera: Camera, light: Light, owner: int) -> None:
    """Blend a volume into the canvas where it is nearer than what is there."""
    if volume.distance < 0.3:
        return
    if isinstance(volume, Ellipsoid):
        found = _raster_ellipsoid(canvas, volume, camera)
    else:
        found = _raster_capsule(canvas, volume, camera)
    if found is None:
        return
    window, cover, z, normal, across, down, front = found
    shade = light.ambient + (1 - light.ambient) * np.maximum(0.35 + 0.65 * _dot(light.direction, normal), 0.0)
    colour = _sample(volume.skin, across, down, front) * shade[..., None] * light.tint.astype(np.float32)

    depth, target = canvas.depth[window], canvas.colour[window]
    alpha = cover * (z < depth)
    target += alpha[..., None] * (colour - target)
    solid = alpha > 0.5
    np.copyto(depth, z, where=solid)
    np.copyto(canvas.owner[window], owner, where=solid)


def _dot(vector: np.ndarray, field) -> np.ndarray:
    """Dot product of a vector (3,) with three arrays, in float32."""
    a, b, c = vector.astype(np.float32)
    return a * field[0] + b * field[1] + c * field[2]


def _window(canvas: Canvas, low: np.ndarray, high: np.ndarray):
    """Slices of the bounding box cut at the picture, with its x (1,w) and y (h,1) coordinates; None when it lies outside."""
    height, width = canvas.depth.shape
    x0, y0 = np.maximum(np.floor(low - 1).astype(int), 0)
    x1, y1 = np.minimum(np.ceil(high + 2).astype(int), (width, height))
    if x1 <= x0 or y1 <= y0:
        return None
    x, y = np.arange(x0, x1, dtype=np.float32)[None], np.arange(y0, y1, dtype=np.float32)[:, None]
    return (slice(y0, y1), slice(x0, x1)), x, y


def _raster_ellipsoid(canvas: Canvas, volume: Ellipsoid, camera: Camera):
    """Where a line of sight (taken parallel to z) meets the ellipsoid: quadric in z, by its Schur complement in x, y."""
    scale = np.float32(camera.focal / volume.centre[2])
    middle = camera.project(volume.centre)
    frame, axes = volume.frame.astype(np.float32), volume.axes.astype(np.float32)
    reach = scale * np.sqrt(((frame[:2] * axes) ** 2).sum(1))
    found = _window(canvas, middle - reach, middle + reach)
    if found is None:
        return None
    window, x, y = found
    x, y = (x - np.float32(middle[0])) / scale, (y - np.float32(middle[1])) / scale
    quadric = ((frame / axes**2) @ frame.T).astype(np.float32)
    b, c = quadric[:2, 2], quadric[2, 2]
    m = quadric[:2, :2] - np.outer(b, b) / c
    gx, gy = m[0, 0] * x + m[0, 1] * y, m[1, 0] * x + m[1, 1] * y
    inside = 1.0 - (gx * x + gy * y)
    cover = np.clip(inside / (2.0 * np.sqrt(gx * gx + gy * gy) + 1e-6) * scale + 0.5, 0.0, 1.0)
    z = -(b[0] * x + b[1] * y) / c - np.sqrt(np.maximum(inside, 0.0) / c)
    place = (x, y, z)
    across, up, front = (_dot(frame[:, k] / axes[k], place) for k in range(3))
    normal = _unit([_dot(row, place) for row in quadric])
    return window, cover, z + np.float32(volume.centre[2]), normal, across, (1.0 - up) / 2, front


def _raster_capsule(canvas: Canvas, volume: Capsule, camera: Camera):
    """A tapered tube with round ends: distance to the projected axis against the radius at that place."""
    a, b = camera.project(volume.start), camera.project(volume.end)
    sa, sb = float(camera.focal / volume.start[2]), float(camera.focal / volume.end[2])
    ra, rb = volume.radii[0] * sa, volume.radii[1] * sb
    thick = max(ra, rb) + volume.bulge * max(sa, sb)
    found = _window(canvas, np.minimum(a, b) - thick, np.maximum(a, b) + thick)
    if found is None:
        return None
    window, x, y = found
    x, y = x - np.float32(a[0]), y - np.float32(a[1])
    d = (b - a).astype(np.float32)
    length2 = float(d @ d)
    if length2 > 1e-3:
        t = np.clip((x * d[0] + y * d[1]) / np.float32(length2), 0.0, 1.0)
    else:  # seen end on: only the nearer end shows
        t = np.full(np.broadcast_shapes(x.shape, y.shape), float(volume.end[2] < volume.start[2]), np.float32)
    ox, oy = x - t * d[0], y - t * d[1]
    scale = np.float32((sa + sb) / 2)
    radius = np.float32(ra) + t * np.float32(rb - ra) + np.float32(4 * volume.bulge) * scale * t * (1.0 - t)
    off2 = ox * ox + oy * oy
    cover = np.clip(radius - np.sqrt(off2) + 0.5, 0.0, 1.0)
    height = np.sqrt(np.maximum(radius * radius - off2, 0.0))
    z = np.float32(volume.start[2]) + t * np.float32(volume.end[2] - volume.start[2]) - height / scale
    # the outward normal, leaned along a tube that points towards or away from the camera
    axis = (volume.end - volume.start) / (np.linalg.norm(volume.end - volume.start) + 1e-9)
    normal = (ox / radius, oy / radius, -height / radius)
    along = _dot(axis, normal)
    normal = _unit([n - along * np.float32(k) for n, k in zip(normal, axis)])
    return window, cover, z, normal, _dot(volume.frame[:, 0], normal), t, _dot(volume.frame[:, 2], normal)


def _unit(field):
    norm = 1.0 / (np.sqrt(field[0] ** 2 + field[1] ** 2 + field[2] ** 2) + 1e-3)
    return [part * norm for part in field]


def _sample(skin: Skin, across, down, front) -> np.ndarray:
    """Texture colours (h,w,3): `across` -1 (person's right) to 1 (left), `down` 0 to 1, front half where `front` > 0."""
    half = np.float32(TEXTURE_COLUMNS // 2)
    columns = np.clip(across, -1.0, 1.0) * (half / 2 - 1) + (half / 2 - 0.5) + half * (front <= 0)
    rows = skin.first + np.clip(down, 0.0, 1.0) * (skin.last - skin.first)
    columns, rows = (a.astype(np.float32) for a in np.broadcast_arrays(columns, rows))
    return cv2.remap(skin.texture, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
