"""Shaded, textured tubes in a depth buffer, one numpy pass over each one's bounding box.

Camera axes: x right, y down, z away from the camera, metres; image coordinates 0-based pixels, pixel centres at
integers. Each tube is projected with the scale of its own depth (its inner perspective is neglected; joints are
projected exactly).
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

BACKGROUND, OCCLUDER = -1, -2
TEXTURE_ROWS, TEXTURE_COLUMNS = 64, 128  # columns 0-63: the front half, right to left; 64-127: the back half


@dataclass
class Canvas:
    """The picture being drawn: colour (H,W,3) float32 BGR 0-255, depth (H,W) metres (inf = nothing), owner (H,W)."""

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
    """One distant light: direction towards it (3,) in camera axes, and the share that comes from everywhere."""

    direction: np.ndarray
    ambient: float


@dataclass(frozen=True)
class Tube:
    """A tapered tube with round ends from `start` to `end` (3,), with the radii at both.

    `frame` (3,3): its own left, up, front in camera axes. The texture (64,128,3) float32 lies around it, in these
    `rows`.
    """

    start: np.ndarray
    end: np.ndarray
    radii: tuple[float, float]
    frame: np.ndarray
    texture: np.ndarray
    rows: tuple[float, float] = (0.0, TEXTURE_ROWS - 1.0)


def draw(canvas: Canvas, tube: Tube, camera: Camera, light: Light, owner: int) -> None:
    """Blend a tube into the canvas where it is nearer: distance to the axis against the radius at that place."""
    if min(tube.start[2], tube.end[2]) < 0.2:
        return
    a, b = camera.project(tube.start), camera.project(tube.end)
    scales = camera.focal / tube.start[2], camera.focal / tube.end[2]
    thick, (height, width) = max(tube.radii) * max(scales), canvas.depth.shape
    x0, y0 = np.maximum(np.floor(np.minimum(a, b) - thick - 1).astype(int), 0)
    x1, y1 = np.minimum(np.ceil(np.maximum(a, b) + thick + 2).astype(int), (width, height))
    if x1 <= x0 or y1 <= y0:
        return
    window = slice(y0, y1), slice(x0, x1)
    x = np.arange(x0, x1, dtype=np.float32)[None] - np.float32(a[0])
    y = np.arange(y0, y1, dtype=np.float32)[:, None] - np.float32(a[1])

    dx, dy = (b - a).astype(np.float32)
    length2 = dx * dx + dy * dy
    if length2 > 1e-3:
        t = np.clip((x * dx + y * dy) / length2, 0.0, 1.0)
    else:  # seen end on: only the nearer end shows
        t = np.full(np.broadcast_shapes(x.shape, y.shape), float(tube.end[2] < tube.start[2]), np.float32)
    ra, rb, scale = np.array([tube.radii[0] * scales[0], tube.radii[1] * scales[1], sum(scales) / 2], np.float32)
    radius, ox, oy = ra + t * (rb - ra), x - t * dx, y - t * dy
    off2 = ox * ox + oy * oy
    rise = np.sqrt(np.maximum(radius * radius - off2, 0.0))
    z = np.float32(tube.start[2]) + t * np.float32(tube.end[2] - tube.start[2]) - rise / scale

    place = (x - dx / 2) / scale, (y - dy / 2) / scale, z - np.float32((tube.start[2] + tube.end[2]) / 2)
    normal = ox / radius, oy / radius, -rise / radius
    lit = np.maximum(0.35 + 0.65 * _dot(light.direction, normal), 0.0)
    colour = _colours(tube, place) * (light.ambient + (1 - light.ambient) * lit)[..., None]
    depth, target = canvas.depth[window], canvas.colour[window]
    alpha = np.clip(radius - np.sqrt(off2) + 0.5, 0.0, 1.0) * (z < depth)
    target += alpha[..., None] * (colour - target)
    np.copyto(depth, z, where=alpha > 0.5)
    np.copyto(canvas.owner[window], owner, where=alpha > 0.5)


def _dot(vector: np.ndarray, field: tuple | list) -> np.ndarray:
    """Dot product of a vector (3,) with three arrays, in float32."""
    a, b, c = vector.astype(np.float32)
    return a * field[0] + b * field[1] + c * field[2]


def _colours(tube: Tube, place: tuple) -> np.ndarray:
    """Texture colours (h,w,3) where the surface is `place` metres from the middle."""
    extent = np.abs(tube.frame.T @ (tube.end - tube.start)) / 2 + sum(tube.radii) / 2
    left, up, front = (_dot(tube.frame[:, k] / extent[k], place) for k in range(3))
    half = np.float32(TEXTURE_COLUMNS // 2)
    columns = np.clip(left, -1.0, 1.0) * (half / 2 - 1) + (half / 2 - 0.5) + half * (front <= 0)
    rows = tube.rows[0] + np.clip((1.0 - up) / 2, 0.0, 1.0) * (tube.rows[1] - tube.rows[0])
    return cv2.remap(tube.texture, columns.astype(np.float32), rows.astype(np.float32), cv2.INTER_LINEAR)
