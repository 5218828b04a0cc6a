"""Tiny data sets that the program tests share, made once a test process, and the options that make a network tiny."""

import atexit
import functools
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np

from common.datasets import load, synthetic
from common.images import read_image
from common.skeletons import PENN13, skeleton_map

# the smallest networks and crops that still have every layer
TINY = (
    "--channels=0.0625",
    "--input_width=64",
    "--t=2",
    "--workers=0",
    "--threads=1",
    "--preset=none",
    "--valid_split=none",
    "--batch_size=2",
)


@functools.cache
def folder() -> Path:
    """A temporary folder, removed at the end."""
    path = Path(tempfile.mkdtemp(prefix="lpm_torch_"))
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path


@functools.cache
def lsp() -> Path:
    """Synthetic LSP, 16 people, half of them for testing."""
    root = folder() / "LSP"
    synthetic.make("lsp", root, 16, seed=1)
    return root


@functools.cache
def penn() -> Path:
    """Penn Action's layout: people of `lsp` that drift by two pixels a frame; videos 1 and 2 train (7 and 5 frames), 3
    tests (7 frames)."""
    import cv2
    from scipy.io import savemat

    people, root = load("lsp", lsp(), "train"), folder() / "PennAction"
    joints = skeleton_map(people.skeleton, PENN13).apply(people.joints)
    (root / "labels").mkdir(parents=True)
    for video, (frames, side) in enumerate([(7, 1), (5, 1), (7, -1)], start=1):
        image, pose = read_image(people.images[video]), np.nan_to_num(joints[video], nan=20.0)
        drift = np.arange(frames)[:, None] * np.array([2.0, 1.0])
        place = pose + drift[:, None]
        target = root / "frames" / f"{video:04d}"
        target.mkdir(parents=True)
        for k, (dx, dy) in enumerate(drift):
            moved = cv2.warpAffine(
                image, np.array([[1, 0, dx], [0, 1, dy]]), image.shape[1::-1], borderMode=cv2.BORDER_REPLICATE
            )
            cv2.imwrite(str(target / f"{k + 1:06d}.jpg"), moved)
        low, high = place.min(1), place.max(1)
        visibility = np.ones((frames, 13))
        visibility[2, 4] = 0  # an occluded elbow
        labels = {"x": place[..., 0] + 1, "y": place[..., 1] + 1, "visibility": visibility, "train": float(side)}
        labels |= {
            "bbox": np.concatenate([low, high], 1) + 1,
            "dimensions": np.array([[*image.shape[:2], frames]], float),
            "nframes": float(frames),
        }
        savemat(root / "labels" / f"{video:04d}.mat", labels)
    (root / "SYNTHETIC").write_text("made by tests/lpm_torch/tiny.py\n")
    return root


def own(root: Path, joints: list[str], limbs: list | None = None, count: int = 4) -> Path:
    """Data of a user's own in the `json` format, on people of `lsp`: `count` persons in train and valid, with these
    joints (those that LSP lacks lie in the picture's middle).
    """
    import json

    people = load("lsp", lsp(), "train")
    skeleton = {"name": "own", "joints": joints} | ({"limbs": limbs} if limbs else {})
    images = []
    for row in range(count):
        height, width = read_image(people.images[row]).shape[:2]
        place = dict(zip(people.skeleton.joints, np.nan_to_num(people.joints[row], nan=9.0).tolist()))
        points = [[*place.get(name, [width / 2, height / 2]), 2] for name in joints]
        images.append({"file": os.path.relpath(people.images[row], root), "persons": [{"joints": points}]})
    root.mkdir(parents=True, exist_ok=True)
    for split in ("train", "valid"):
        (root / f"{split}.json").write_text(json.dumps({"skeleton": skeleton, "images": images}))
    return root
