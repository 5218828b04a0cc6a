"""One person a picture: LSP, LSPET and K2HPD's depth pictures, in the files that their authors publish."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from common.skeletons import K2HPD15, LSP14
from common.synthetic import compose
from common.synthetic.body import POSTURES
from common.synthetic.compose import COVERED, OUTSIDE, VISIBLE, Posing
from common.synthetic.figure import Figure
from common.synthetic.folder import each, train_count, write_image, write_mat
from common.synthetic.shapes import Camera

_LSP = Posing(roll=20, any_roll=0.08, pitch=14, looseness=1.1)
_LSPET = Posing(roll=35, any_roll=0.4, pitch=22, facing=0.3, looseness=1.35)


def write_lsp(folder: Path, count: int, seed: int) -> None:
    """im0001.jpg ..., joints (3,14,N): rows x, y, flag with 1 = occluded. Every joint is inside and annotated."""
    table = _cut_out(folder, "lsp", count, seed, _LSP, (0.04, 0.25), 0.35)
    table[:, :, 2] = table[:, :, 2] != VISIBLE
    write_mat(folder / "joints.mat", {"joints": table.transpose(2, 1, 0)})


def write_lspet(folder: Path, count: int, seed: int) -> None:
    """im00001.jpg ..., joints (14,3,N): columns x, y, flag with 1 = usable.

    Joints that lie outside or under something else have flag 0 and a meaningless place left of and above the picture.
    """
    table = _cut_out(folder, "lspet", count, seed, _LSPET, (-0.03, 0.2), 0.45)
    usable = ~np.isin(table[:, :, 2:], (OUTSIDE, COVERED))
    table = np.where(usable, table, -np.abs(table) - 5)
    table[:, :, 2:] = usable
    write_mat(folder / "joints.mat", {"joints": table.transpose(1, 2, 0)})


def _cut_out(
    folder: Path, name: str, count: int, seed: int, posing: Posing, margin: tuple[float, float], occluded: float
) -> np.ndarray:
    """Pictures of one person, longer side 120 to 190 pixels, `occluded` at times; (N,14,3) x, y, state."""
    digits = 4 if name == "lsp" else 5
    table = []
    for k, rng in each(name, count, seed):
        figure, camera, size = compose.frame_tightly(rng, compose.sample_figure(rng, posing), (120, 190), margin)
        stage = compose.make_stage(rng, size, camera)
        if rng.random() < occluded:
            compose.add_occluder(rng, stage, (0.08, 0.25), 1.0)
        picture = compose.render(rng, stage, [figure])
        write_image(folder / "images" / f"im{k + 1:0{digits}d}.jpg", picture.image)
        table.append(np.column_stack(picture.people[0].table(LSP14.joints)))
    return np.array(table)


# K2HPD: a person in a room, as a time-of-flight camera sees them
_SIZE = 256, 212
_CAMERA = Camera(183.0, 127.5, 105.5)  # Kinect v2's 365 pixels at half its resolution
_NEAR, _FAR = 0.5, 4.5  # metres: the camera's range
_DEPTH = Posing(roll=8, any_roll=0.05, pitch=8, facing=0.6, postures=tuple(p for p in POSTURES if p != "tuck"))


def write_k2hpd(folder: Path, count: int, seed: int) -> None:
    """train_annos.txt, test_annos.txt and depth_data/depth_images/%08d.png, 8-bit grey, 256x212; coordinates from 0.

    Grey value 0 = no reading, 1 to 255 = 0.5 m to 4.5 m. Every joint is inside the picture.
    """
    lines = []
    for k, rng in each("k2hpd", count, seed):
        stage = compose.make_stage(rng, _SIZE, _CAMERA, clutter=(0, 1))
        states = np.array([OUTSIDE])
        while (states == OUTSIDE).any():
            figure = compose.sample_figure(rng, _DEPTH)
            middle = (figure.points().min(0) + figure.points().max(0)) / 2 * [1, 1, 0]
            depth = rng.uniform(1.8, 3.2)
            figure = figure.moved([rng.normal(0, 0.3), rng.normal(0.05, 0.1), depth] - middle)
            picture = compose.render(rng, stage, [figure])
            points, states = picture.people[0].table(K2HPD15.joints)
        grey = _sense(rng, np.minimum(picture.depth, _room(rng, figure)))
        write_image(folder / "depth_data" / "depth_images" / f"{k:08d}.png", grey)
        lines.append(f"{k:08d}.png {','.join(f'{v:.3f}' for v in points.ravel())}\n")
    train = train_count(count, 0.6)
    (folder / "train_annos.txt").write_text("".join(lines[:train]))
    (folder / "test_annos.txt").write_text("".join(lines[train:]))


def _room(rng: np.random.Generator, figure: Figure) -> np.ndarray:
    """(212,256) depth of a back wall, the floor under the person, and some furniture behind."""
    width, height = _SIZE
    x = (np.arange(width) - _CAMERA.cx)[None] / _CAMERA.focal
    y = (np.arange(height) - _CAMERA.cy)[:, None] / _CAMERA.focal
    person = figure.joints["pelvis"][2]
    wall = (person + rng.uniform(0.5, 2.5)) / (1 + x * rng.normal(0, 0.25)) + 0 * y
    floor = np.where(y > 0, (figure.points()[:, 1].max() + 0.03) / np.maximum(y, 1e-3), np.inf)
    depth = np.minimum(wall, floor)
    for _ in range(rng.integers(0, 4)):
        left, top, wide, high = rng.uniform([-20, 30, 15, 20], [width, height, 80, 120]).astype(int)
        part = depth[top : top + high, max(left, 0) : left + wide]
        np.minimum(part, person + rng.uniform(0.25, 1.5), out=part)
    return depth


def _sense(rng: np.random.Generator, depth: np.ndarray) -> np.ndarray:
    """The camera: noise that grows with distance, no reading beyond its range and at many edges, 8 bits."""
    noisy = depth + rng.normal(0, 0.0015, depth.shape) * np.minimum(depth, 9.0) ** 2
    edge = cv2.dilate(depth, np.ones((3, 3))) - cv2.erode(depth, np.ones((3, 3))) > 0.15
    lost = rng.random(depth.shape) < np.where(edge, 0.4, 0.002)
    grey = 1 + 254 * (noisy - _NEAR) / (_FAR - _NEAR)
    return np.where(lost | (noisy < _NEAR) | (noisy > _FAR), 0, np.clip(np.round(grey), 1, 255)).astype(np.uint8)
