"""Penn Action and JHMDB: videos of one moving person."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from tqdm import tqdm

from common.skeletons import JHMDB15, PENN13
from common.synthetic.compose import OUTSIDE, VISIBLE, Posing, Truth
from common.synthetic.folder import generator, write_jpeg, write_mat, write_png
from common.synthetic.motion import film

_ACTIVE = ("stand", "walk", "run", "reach", "throw", "squat", "kick", "star", "split")
_POSING = Posing(roll=10, any_roll=0.06, pitch=8, facing=0.4, looseness=0.9, postures=_ACTIVE)
_PENN_SIZES = ((480, 270), (480, 360), (320, 240))
_ACTIONS = ("baseball_pitch", "bowl", "jump_rope", "jumping_jacks", "squat", "tennis_serve")


def write_penn(folder: Path, count: int, seed: int) -> None:
    """frames/NNNN/000001.jpg ..., labels/NNNN.mat; coordinates counted from 1, odd videos train, even ones test.

    visibility 1 = visible; hidden joints keep their true place; joints outside the frame are at the annotation tool's placeholder (1, 1).
    """
    (folder / "labels").mkdir()
    for k in tqdm(range(count), desc="synthetic penn_action", unit="video"):
        rng = generator("penn_action", seed, k)
        width, height = _PENN_SIZES[rng.integers(len(_PENN_SIZES))]
        frames = folder / "frames" / f"{k + 1:04d}"
        frames.mkdir(parents=True)
        people = []
        for i, picture in enumerate(film(rng, _POSING, int(rng.integers(20, 41)), width, height, (0.6, 0.95))):
            write_jpeg(frames / f"{i + 1:06d}.jpg", picture.image)
            people.append(picture.people[0])
        label = _penn_label(people, width, height, train=k % 2 == 0)
        label["action"] = _ACTIONS[rng.integers(len(_ACTIONS))]
        write_mat(folder / "labels" / f"{k + 1:04d}.mat", label)


def _penn_label(people: list[Truth], width: int, height: int, train: bool) -> dict:
    tables = [person.table(PENN13.joints) for person in people]
    points, states = (np.array(column) for column in zip(*tables))
    points[states == OUTSIDE] = 0.0  # the annotation tool's placeholder, 1, 1 in the file
    corners = np.array([_corners(person) for person in people])
    return {
        "pose": "front",
        "x": points[:, :, 0] + 1,
        "y": points[:, :, 1] + 1,
        "visibility": (states == VISIBLE).astype(np.uint8),
        "train": np.int32(1 if train else -1),
        "bbox": corners + 1,
        "dimensions": np.array([[height, width, len(people)]], np.uint16),
        "nframes": np.uint16(len(people)),
    }


def _corners(person: Truth) -> np.ndarray:
    """x1, y1, x2, y2 of the person's visible pixels, pixel centres; of the whole body where nothing shows."""
    x, y, w, h = person.mask_box()
    return np.array([x, y, x + w - 1, y + h - 1]) if w else person.body_box


def write_jhmdb(folder: Path, count: int, seed: int) -> None:
    """Rename_Images/ACTION/VIDEO/00001.png ..., joint_positions and puppet_mask .mat per video, three splits in sub_splits."""
    names = []
    for k in tqdm(range(count), desc="synthetic jhmdb", unit="video"):
        rng = generator("jhmdb", seed, k)
        action = ("catch", "golf", "jump")[k // 2 % 3]
        video = f"synthetic_{action}_{k:03d}"
        names.append((action, video))
        frames, joints, masks = (
            folder / part / action / video for part in ("Rename_Images", "joint_positions", "puppet_mask")
        )
        for path in (frames, joints, masks):
            path.mkdir(parents=True)
        points, parts = [], []
        for i, picture in enumerate(film(rng, _POSING, int(rng.integers(15, 31)), 320, 240, (0.6, 0.95))):
            write_png(frames / f"{i + 1:05d}.png", picture.image)
            points.append(picture.people[0].table(JHMDB15.joints)[0])
            parts.append(picture.people[0].mask)
        position = np.array(points).transpose(2, 1, 0) + 1.0
        world = (position - np.array([160.5, 120.5])[:, None, None]) / np.array([320.0, 240.0])[:, None, None]
        placing = {"pos_img": position, "pos_world": world, "scale": np.ones((1, len(points))), "viewpoint": "S"}
        write_mat(joints / "joint_positions.mat", placing)
        write_mat(masks / "puppet_mask.mat", {"part_mask": np.array(parts).transpose(1, 2, 0).astype(np.uint8)})
    _write_splits(folder, names)


def _write_splits(folder: Path, names: list[tuple[str, str]]) -> None:
    """Three splits; each tests on another third of every action's videos, or on every other one where an action has fewer than three."""
    (folder / "sub_splits").mkdir()
    for number in (1, 2, 3):
        for action in sorted({a for a, _ in names}):
            videos = [v for a, v in names if a == action]
            held_out = videos[number - 1 :: 3] if len(videos) > 2 else videos[number % 2 :: 2]
            text = "".join(f"{v}.avi {2 if v in held_out else 1}\n" for v in videos)
            (folder / "sub_splits" / f"{action}_test_split_{number}.txt").write_text(text)
