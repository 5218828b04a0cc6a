"""A contact sheet of annotated images, to see at a glance whether annotations and images belong together."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np

from common import datasets, draw, images
from common.errors import DataError
from common.poses import PoseSet, box_of_joints

_CONTEXT = 0.35  # margin around the box, as a share of its longer side


def browse(
    name: str, root: str | Path, out: str | Path, split: str | None = None, count: int = 24, seed: int = 0, **options
) -> tuple[list[str], list[str]]:
    """Write a PNG of `count` persons, chosen at random (seeded) among those with an image; what `check` returns too.

    Without `split` the first one is taken that has images; `options` are the loader's. DataError without any image.
    """
    for one in [split] if split else datasets.splits(name, root):
        pose_set = datasets.load(name, root, one, **options)
        order = np.random.default_rng(seed).permutation(np.flatnonzero((pose_set.visible > 0).any(1)))
        there = (r for r in order if images.exists(pose_set.images[r]))
        if rows := sorted(islice(there, count)):
            tiles, captions = zip(*(_tile(pose_set, row) for row in rows))
            draw.save_image(out, draw.contact_sheet(tiles, columns=6, captions=captions))
            return [f"{out}: {len(rows)} persons of {name}"], []
    raise DataError(f"no image of {name} is under {root}, so there is nothing to draw; `check` lists what is missing")


def _tile(pose_set: PoseSet, row: int) -> tuple[np.ndarray, str]:
    """The surroundings of one person with everybody in that image drawn, and a caption."""
    image = images.read_image(pose_set.images[row])
    height, width = image.shape[:2]
    together = np.flatnonzero(pose_set.image_id == pose_set.image_id[row])
    drawn = draw.draw_pose(image, pose_set.joints[together], pose_set.skeleton)
    box = np.stack([box_of_joints(pose_set.joints[row : row + 1])[0], pose_set.box[row]])
    low, high = np.nanmin(box[:, :2], axis=0), np.nanmax(box[:, :2] + box[:, 2:], axis=0)
    margin = _CONTEXT * (high - low).max()
    x0, y0 = np.clip(np.floor(low - margin), 0, (width - 1, height - 1)).astype(int)
    x1, y1 = np.clip(np.ceil(high + margin) + 1, (x0 + 1, y0 + 1), (width, height)).astype(int)
    return drawn[y0:y1, x0:x1], f"{pose_set.image_id[row]} {pose_set.person_id[row]}"
