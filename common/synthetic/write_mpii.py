"""MPII: the JSON form with gt_valid.mat, and the authors' release file, over the same pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from tqdm import tqdm

from common.skeletons import MPII16
from common.synthetic.compose import OUTSIDE, VISIBLE, Posing, Truth
from common.synthetic.folder import generator, write_jpeg, write_json, write_mat
from common.synthetic.group import draw_group

_POSING = Posing(roll=14, any_roll=0.08, pitch=10, looseness=1.05)
_SIZES = ((480, 360), (480, 270), (360, 480))
_TRAIN_SHARE = 2 / 3
_SHORT_NAMES = "rank rkne rhip lhip lkne lank pelv thor neck head rwri relb rsho lsho lelb lwri".split()


def write_mpii(folder: Path, count: int, seed: int) -> None:
    """images/, annot/{train,valid,trainval}.json, annot/gt_valid.mat and mpii_human_pose_v1_u12_1.mat; coordinates counted from 1.

    Joints outside the picture are not labelled; the release file tells visible from occluded ones. The first two thirds of the pictures
    are train; there is no test split.
    """
    (folder / "images").mkdir()
    (folder / "annot").mkdir()
    train = min(max(round(count * _TRAIN_SHARE), 1), count - 1)
    pictures = []
    for k in tqdm(range(count), desc="synthetic mpii", unit="image"):
        people = _draw(folder / "images" / f"{k + 1:09d}.jpg", generator("mpii", seed, k))
        pictures.append((f"{k + 1:09d}.jpg", people))
    parts = {"train": pictures[:train], "valid": pictures[train:], "trainval": pictures}
    for split, part in parts.items():
        write_json(
            folder / "annot" / f"{split}.json",
            [_json_entry(name, person) for name, people in part for person in people],
        )
    write_mat(
        folder / "annot" / "gt_valid.mat", _ground_truth([person for _, people in parts["valid"] for person in people])
    )
    write_mat(folder / "mpii_human_pose_v1_u12_1.mat", {"RELEASE": _release(pictures)})


def _draw(path: Path, rng: np.random.Generator) -> list[dict]:
    people: list[dict] = []
    while not people:
        width, height = _SIZES[rng.integers(len(_SIZES))]
        picture = draw_group(
            rng, _POSING, width, height, int(rng.choice([1, 2, 3], p=[0.6, 0.28, 0.12])), (0.5, 1.15), 0.2
        )
        people = [_person(t) for t in picture.people if t.mask.sum() > 400]
    write_jpeg(path, picture.image)
    return people


def _person(truth: Truth) -> dict:
    """What the files say of one person, in their frame (counted from 1), to three decimals; unlabelled joints -1."""
    points, states = truth.table(MPII16.joints)
    labelled = states != OUTSIDE
    x1, y1, x2, y2 = truth.body_box
    scale = max(x2 - x1, y2 - y1) / 200
    # the release's centre lies above the body's middle: the customary programs lower it by 15 * scale
    center = np.array([(x1 + x2) / 2, (y1 + y2) / 2 - 15 * scale]) + 1
    return {
        "joints": np.where(labelled[:, None], np.round(points + 1, 3), -1.0),
        "labelled": labelled,
        "seen": states == VISIBLE,
        "head": np.round(truth.head_box + 1, 3),
        "center": np.round(center, 3),
        "scale": round(float(scale), 5),
    }


def _json_entry(name: str, person: dict) -> dict:
    return {
        "joints_vis": person["labelled"].astype(int).tolist(),
        "joints": person["joints"].tolist(),
        "image": name,
        "scale": person["scale"],
        "center": person["center"].tolist(),
    }


def _ground_truth(people: list[dict]) -> dict:
    joints = np.array([p["joints"] for p in people]).transpose(1, 2, 0)
    names = np.empty((1, 16), object)
    names[0] = [np.array([n]) for n in _SHORT_NAMES]
    return {
        "jnt_missing": (~np.array([p["labelled"] for p in people])).T.astype(np.uint8),
        "pos_gt_src": joints,
        "headboxes_src": np.array([p["head"].reshape(2, 2) for p in people]).transpose(1, 2, 0),
        "dataset_joints": names,
    }


def _struct(rows: list[dict]) -> np.ndarray:
    """A 1 x N Matlab struct array."""
    array = np.empty((1, len(rows)), [(name, object) for name in rows[0]])
    for i, row in enumerate(rows):
        array[0, i] = tuple(row.values())
    return array


def _release(pictures: list[tuple[str, list[dict]]]) -> dict:
    entries, single = [], np.empty((len(pictures), 1), object)
    for k, (name, people) in enumerate(pictures):
        nothing = np.zeros((0, 0))
        entries.append(
            {
                "image": {"name": name},
                "annorect": _struct([_rect(p) for p in people]),
                "frame_sec": nothing,
                "vididx": nothing,
            }
        )
        # persons with enough room around them, numbered from 1
        single[k, 0] = np.array([[1.0]]) if len(people) == 1 else np.zeros((0, 0))
    return {
        "annolist": _struct(entries),
        "img_train": np.ones((1, len(pictures))),
        "version": "12",
        "single_person": single,
    }


def _rect(person: dict) -> dict:
    rows = [
        {"x": x, "y": y, "id": float(j), "is_visible": float(person["seen"][j])}
        for j, (x, y) in enumerate(person["joints"].tolist())
        if person["labelled"][j]
    ]
    points = {"point": _struct(rows)} if rows else np.zeros((0, 0))
    corners = dict(zip(("x1", "y1", "x2", "y2"), person["head"].tolist()))
    x, y = person["center"].tolist()
    return {**corners, "annopoints": points, "scale": person["scale"], "objpos": {"x": x, "y": y}}
