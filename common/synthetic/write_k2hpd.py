"""K2HPD: depth pictures of one person in a room, as a time-of-flight camera sees them."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from common.skeletons import K2HPD15
from common.synthetic.body import POSTURES
from common.synthetic.compose import OUTSIDE, Posing, make_stage, render, sample_figure
from common.synthetic.figure import Figure
from common.synthetic.folder import generator, write_png
from common.synthetic.shapes import Camera

_WIDTH, _HEIGHT = 256, 212
_CAMERA = Camera(183.0, 127.5, 105.5)  # Kinect v2's 365 pixels at half its resolution
_NEAR, _FAR = 0.5, 4.5  # metres: the camera's range
_TRAIN_SHARE = 0.6
_POSING = Posing(roll=8, any_roll=0.05, pitch=8, facing=0.6, postures=tuple(p for p in POSTURES if p != "tuck"))


def write_k2hpd(folder: Path, count: int, seed: int) -> None:
    """train_annos.txt, test_annos.txt and depth_data/depth_images/%08d.png, 8-bit grey, 256x212; coordinates counted from 0.

    Grey value 0 = no reading, 1 to 255 = 0.5 m to 4.5 m. Every joint is inside the picture.
    """
    images = folder / "depth_data" / "depth_images"
    images.mkdir(parents=True)
    lines = []
    for k in tqdm(range(count), desc="synthetic k2hpd", unit="image"):
        image, points = _draw(generator("k2hpd", seed, k))
        write_png(images / f"{k:08d}.png", image)
        lines.append(f"{k:08d}.png {','.join(f'{v:.3f}' for v in points.ravel())}\n")
    train = min(max(round(count * _TRAIN_SHARE), 1), count - 1)
    (folder / "train_annos.txt").write_text("".join(lines[:train]))
    (folder / "test_annos.txt").write_text("".join(lines[train:]))


def _draw(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(212,256) uint8 and (15,2) joints."""
    stage = make_stage(rng, _WIDTH, _HEIGHT, _CAMERA, clutter=(0, 1))
    states = np.array([OUTSIDE])
    while (states == OUTSIDE).any():
        figure = _stand(rng, sample_figure(rng, _POSING))
        picture = render(rng, stage, [figure])
        points, states = picture.people[0].table(K2HPD15.joints)
    depth = np.minimum(picture.depth, _room(rng, figure))
    return _sense(rng, depth), points


def _stand(rng: np.random.Generator, figure: Figure) -> Figure:
    z = rng.uniform(1.8, 3.2)
    middle = (figure.points().min(0) + figure.points().max(0)) / 2
    return figure.moved(np.array([rng.normal(0, 0.3), rng.normal(0.05, 0.1), z]) - [middle[0], middle[1], 0])


def _room(rng: np.random.Generator, figure: Figure) -> np.ndarray:
    """(212,256) depth of a back wall, the floor under the person, and some furniture, mostly behind."""
    x = (np.arange(_WIDTH) - _CAMERA.cx)[None] / _CAMERA.focal
    y = (np.arange(_HEIGHT) - _CAMERA.cy)[:, None] / _CAMERA.focal
    person = figure.joints["pelvis"][2]
    wall = (person + rng.uniform(0.5, 2.5)) / (1 + x * rng.normal(0, 0.25)) + 0 * y
    floor = np.where(y > 0, (figure.points()[:, 1].max() + 0.03) / np.maximum(y, 1e-3), np.inf)
    depth = np.minimum(wall, floor)
    for _ in range(rng.integers(0, 4)):
        box = np.array(
            [rng.uniform(-20, _WIDTH), rng.uniform(30, _HEIGHT), rng.uniform(15, 80), rng.uniform(20, 120)]
        ).astype(int)
        left, top = max(box[0], 0), box[1]
        behind = person + rng.uniform(0.25, 1.5)
        part = depth[top : top + box[3], left : box[0] + box[2]]
        np.minimum(part, behind, out=part)
    return depth


def _sense(rng: np.random.Generator, depth: np.ndarray) -> np.ndarray:
    """The camera: noise that grows with distance, no reading beyond its range and at many edges, 8 bits."""
    noisy = depth + rng.normal(0, 0.0015, depth.shape) * np.minimum(depth, 9.0) ** 2
    near, far = cv2.erode(depth, np.ones((3, 3))), cv2.dilate(depth, np.ones((3, 3)))
    lost = (far - near > 0.15) & (rng.random(depth.shape) < 0.4)
    lost |= rng.random(depth.shape) < 0.002
    grey = 1 + 254 * (noisy - _NEAR) / (_FAR - _NEAR)
    return np.where(lost | (noisy < _NEAR) | (noisy > _FAR), 0, np.clip(np.round(grey), 1, 255)).astype(np.uint8)
