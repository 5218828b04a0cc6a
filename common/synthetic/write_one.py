"""One person a picture or film, in the files that the authors publish: LSP, LSPET, K2HPD, Penn Action and JHMDB."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from common.skeletons import JHMDB15, K2HPD15, LSP14, PENN13
from common.synthetic import compose
from common.synthetic.body import HIGH, LOW, POSTURES, rotation, sample_build, sample_pose
from common.synthetic.compose import COVERED, OUTSIDE, VISIBLE, Picture, Posing, box_of
from common.synthetic.figure import Figure, pose_figure, sample_look
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
    """(212,256) depth of a back wall, and of the floor under the person."""
    (width, height), foot = _SIZE, figure.points()[:, 1].max() + 0.03
    x, y = (np.arange(width) - _CAMERA.cx) / _CAMERA.focal, (np.arange(height) - _CAMERA.cy) / _CAMERA.focal
    wall = (figure.joints["pelvis"][2] + rng.uniform(0.5, 2.5)) / (1 + x * rng.normal(0, 0.25))
    floor = np.where(y > 0, foot / np.maximum(y, 1e-3), np.inf)
    return np.minimum(wall, floor[:, None])


def _sense(rng: np.random.Generator, depth: np.ndarray) -> np.ndarray:
    """The camera: noise that grows with distance, no reading beyond its range and here and there, 8 bits."""
    noisy = depth + rng.normal(0, 0.0015, depth.shape) * np.minimum(depth, 9.0) ** 2
    lost = (rng.random(depth.shape) < 0.01) | (noisy < _NEAR) | (noisy > _FAR)
    grey = 1 + 254 * (np.clip(noisy, _NEAR, _FAR) - _NEAR) / (_FAR - _NEAR)
    return np.where(lost, 0, np.round(grey)).astype(np.uint8)


# Penn Action and JHMDB: videos of one person who moves smoothly
_ACTIVE = ("stand", "walk", "run", "reach", "throw", "squat", "kick", "star", "split")
_POSING = Posing(roll=10, any_roll=0.06, pitch=8, facing=0.4, looseness=0.9, postures=_ACTIVE)
_PENN_SIZES = ((480, 270), (480, 360), (320, 240))
_ACTIONS = ("baseball_pitch", "bowl", "jump_rope", "jumping_jacks", "squat", "tennis_serve")
_KEY_EVERY = 9  # frames between the poses that the motion passes through


def sample_motion(rng: np.random.Generator, posing: Posing, frames: int) -> list[Figure]:
    """The same person in `frames` frames: angles and turn follow a cubic spline through drawn poses."""
    from scipy.interpolate import CubicSpline

    build, look, turn = sample_build(rng), sample_look(rng), compose.sample_turn(rng, posing)
    keys = max(2, -(-(frames - 1) // _KEY_EVERY) + 1)
    poses = np.array([sample_pose(rng, posing.looseness, posing.postures) for _ in range(keys)])
    poses[1:] = 0.45 * poses[0] + 0.55 * poses[1:]
    path = np.column_stack([poses, np.cumsum(rng.normal(0, 0.25, keys))])
    path = CubicSpline(np.linspace(0, 1, keys), path, bc_type="natural")(np.linspace(0, 1, frames))
    angles = np.clip(path[:, :-1], np.radians(LOW), np.radians(HIGH))
    return [pose_figure(build, look, a, turn @ rotation(1, y)) for a, y in zip(angles, path[:, -1])]


def _film(rng: np.random.Generator, frames: int, size: tuple[int, int]) -> Iterator[Picture]:
    """One video: fixed camera, background and light, one person on a straight way, sometimes something in front."""
    (width, height), figures = size, sample_motion(rng, _POSING, frames)
    focal, stature = 1.2 * width, figures[0].build.stature
    z = focal * stature / (rng.uniform(0.6, 0.95) * height)
    way = np.linspace(0, 1, frames)
    x = (rng.uniform(-0.22, 0.22, (2, 1)) * [1 - way, way]).sum(0) * width * z / focal
    z = z * (1 + rng.uniform(-0.12, 0.12) * way)
    # the body's middle, not its pelvis, stays near the picture's; on a line, or the camera would seem to shake
    middle = [(f.points()[:, 1].min() + f.points()[:, 1].max()) / 2 for f in figures]
    y = rng.normal(0, 0.03) * stature - np.polyval(np.polyfit(way, middle, 1), way)
    stage = compose.make_stage(rng, size, Camera(focal, (width - 1) / 2, (height - 1) / 2), clutter=(3, 12))
    if rng.random() < 0.3:
        compose.add_occluder(rng, stage, (0.06, 0.2), 1.0)
    for figure, place in zip(figures, np.column_stack([x, y, z])):
        yield compose.render(rng, stage, [figure.moved(place)])


def write_penn_action(folder: Path, count: int, seed: int) -> None:
    """frames/NNNN/000001.jpg ..., labels/NNNN.mat; coordinates counted from 1, odd videos train, even ones test.

    visibility 1 = visible; hidden joints keep their true place; those outside the frame are at (1, 1), as the tool has
    it. `bbox`: x1, y1, x2, y2 of the person's visible pixels; of the whole body where nothing shows.
    """
    for k, rng in each("penn_action", count, seed, "video"):
        width, height = _PENN_SIZES[rng.integers(len(_PENN_SIZES))]
        people, corners = [], []
        for i, picture in enumerate(_film(rng, int(rng.integers(20, 41)), (width, height)), 1):
            write_image(folder / "frames" / f"{k + 1:04d}" / f"{i:06d}.jpg", picture.image)
            people.append(picture.people[0])
            x, y, w, h = box_of(people[-1].mask)
            corners.append([x, y, x + w - 1, y + h - 1] if w else people[-1].body_box)
        points, states = (np.array(column) for column in zip(*(person.table(PENN13.joints) for person in people)))
        points[states == OUTSIDE] = 0.0
        x, y = points.transpose(2, 0, 1) + 1
        label = {"action": _ACTIONS[rng.integers(len(_ACTIONS))], "pose": "front", "x": x, "y": y}
        label |= {"visibility": (states == VISIBLE).astype(np.uint8), "bbox": np.array(corners) + 1}
        label |= {"train": np.int32(1 if k % 2 == 0 else -1), "nframes": np.uint16(len(people))}
        label |= {"dimensions": np.array([[height, width, len(people)]], np.uint16)}
        write_mat(folder / "labels" / f"{k + 1:04d}.mat", label)


def write_jhmdb(folder: Path, count: int, seed: int) -> None:
    """Rename_Images/ACTION/VIDEO/00001.png ..., joint_positions and puppet_mask .mat per video, sub_splits."""
    videos: dict[str, list[str]] = {}
    for k, rng in each("jhmdb", count, seed, "video"):
        action = ("catch", "golf", "jump")[k // 2 % 3]
        video = f"synthetic_{action}_{k:03d}"
        videos.setdefault(action, []).append(video)
        points, parts = [], []
        for i, picture in enumerate(_film(rng, int(rng.integers(15, 31)), (320, 240)), 1):
            write_image(folder / "Rename_Images" / action / video / f"{i:05d}.png", picture.image)
            points.append(picture.people[0].table(JHMDB15.joints)[0])
            parts.append(picture.people[0].mask)
        position = np.array(points).transpose(2, 1, 0) + 1.0
        world = (position - np.array([160.5, 120.5])[:, None, None]) / np.array([320.0, 240.0])[:, None, None]
        placing = {"pos_img": position, "pos_world": world, "scale": np.ones((1, len(points))), "viewpoint": "S"}
        write_mat(folder / "joint_positions" / action / video / "joint_positions.mat", placing)
        mask = {"part_mask": np.array(parts).transpose(1, 2, 0).astype(np.uint8)}
        write_mat(folder / "puppet_mask" / action / video / "puppet_mask.mat", mask)

    # each split tests on another third of an action's videos, or on every other one where it has fewer than three
    (folder / "sub_splits").mkdir()
    for number in (1, 2, 3):
        for action, names in sorted(videos.items()):
            held_out = names[number - 1 :: 3] if len(names) > 2 else names[number % 2 :: 2]
            text = "".join(f"{v}.avi {2 if v in held_out else 1}\n" for v in names)
            (folder / "sub_splits" / f"{action}_test_split_{number}.txt").write_text(text)
