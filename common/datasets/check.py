"""What is wrong with a data set on disk: counts, missing or unreadable images, values that cannot be true, each with the remedy."""

from __future__ import annotations

import os
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from common import datasets, images
from common.errors import DataError
from common.images import read_image
from common.poses import PoseSet

_SHOWN = 5
_FAR = 0.5  # of the image's longer side: farther outside no annotator can have meant a place


def check(
    name: str, root: str | Path, split: str | None = None, limit: int | None = None
) -> tuple[list[str], list[str]]:
    """(facts, problems), a line each, about one split or all of them. At most `limit` images a split are opened (None: all); 0 opens none.

    A damaged annotation file is a problem; DataMissing and an unknown name or split are raised.
    """
    facts, problems = [], []
    names = [split] if split else datasets.splits(name, root)
    for one in names:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                pose_set = datasets.load(name, root, one)
            except DataError as error:
                if split or type(error) is not DataError:
                    raise
                problems.append(f"{one}: {error}")
                continue
        facts += [f"{one}: note: {w.message}" for w in caught]
        facts += [f"{one}: {line}" for line in describe(pose_set)]
        problems += [f"{one}: {line}" for line in annotation_problems(pose_set)]
        found, sizes = image_problems(pose_set, limit)
        problems += [f"{one}: {line}" for line in found + size_problems(pose_set, sizes)]
    return facts, problems


def describe(pose_set: PoseSet) -> list[str]:
    """Counts of persons, images, videos and joints by visibility."""
    counted = ~_ignored(pose_set)
    flags = np.bincount(pose_set.visible[counted].ravel(), minlength=3)
    lines = [
        f"{len(pose_set)} persons in {len(set(pose_set.images))} images{' (synthetic)' if pose_set.synthetic else ''}"
    ]
    if pose_set.sequence is not None:
        lines.append(f"{len(np.unique(pose_set.sequence))} videos")
    if not counted.all():
        lines.append(f"{(~counted).sum()} of these persons are crowds or have no joint: no metric counts them")
    lines.append(f"joints: {flags[2]} visible, {flags[1]} occluded, {flags[0]} not labelled ({pose_set.skeleton.name})")
    return lines


def _ignored(pose_set: PoseSet) -> np.ndarray:
    return np.zeros(len(pose_set), bool) if pose_set.ignore is None else pose_set.ignore


def _listing(pose_set: PoseSet, rows: np.ndarray) -> str:
    shown = [f"{pose_set.image_id[r]}/{pose_set.person_id[r]}" for r in rows[:_SHOWN]]
    return f"{len(rows)} (image/person {', '.join(shown)}{', ...' if len(rows) > _SHOWN else ''})"


def annotation_problems(pose_set: PoseSet) -> list[str]:
    """Values that cannot be true, found without opening an image."""
    if not len(pose_set):
        return ["no person at all; the annotation file is empty, download it again"]
    counted = ~_ignored(pose_set)
    box_ok = np.isfinite(pose_set.box).all(1) & (pose_set.box[:, 2:] > 0).all(1)
    tests = [
        (
            counted & ~box_ok,
            "persons have an empty box",
            "cropping skips them; correct or remove them in the annotation file",
        ),
        (
            counted & ~(pose_set.visible > 0).any(1),
            "persons have no labelled joint",
            "they count in no metric; remove them or mark them to be ignored",
        ),
    ]
    if pose_set.head_size is not None:
        tests.append(
            (
                counted & ~(pose_set.head_size > 0),
                "persons have no head size",
                "PCKh counts all their joints as wrong; correct the head box",
            )
        )
    if pose_set.area is not None:
        tests.append(
            (
                counted & ~(pose_set.area > 0),
                "persons have no area",
                "OKS is undefined for them; correct the annotation file",
            )
        )
    lines = [f"{_listing(pose_set, np.flatnonzero(bad))} {what}: {remedy}" for bad, what, remedy in tests if bad.any()]
    keys = [f"{i}/{p}" for i, p in zip(pose_set.image_id.tolist(), pose_set.person_id.tolist())]
    if len(set(keys)) < len(keys):
        lines.append(
            f"{len(keys) - len(set(keys))} persons share image and person number with another; give each its own"
        )
    return lines


def image_problems(pose_set: PoseSet, limit: int | None) -> tuple[list[str], dict[str, tuple[int, int]]]:
    """Lines about missing and unreadable images, and path -> (width, height) of those opened."""
    from tqdm import tqdm

    paths = list(dict.fromkeys(pose_set.images))
    present = [p for p in paths if _exists(p)]
    lines = []
    if len(present) < len(paths):
        here = set(present)
        absent = [p for p in paths if p not in here]
        lines.append(
            f"{len(absent)} of {len(paths)} images are missing (first: {absent[0]}): unpack them there (scoring works without)"
        )
    sizes: dict[str, tuple[int, int]] = {}
    unreadable = []
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        opened = present[:limit]
        for path, size in zip(
            opened, tqdm(pool.map(_size, opened), total=len(opened), desc="images", unit="image", disable=not opened)
        ):
            if size is None:
                unreadable.append(path)
            else:
                sizes[path] = size
    if unreadable:
        lines.append(
            f"{len(unreadable)} images cannot be decoded (first: {unreadable[0]}): copy or download them again"
        )
    return lines, sizes


def _exists(path: str) -> bool:
    try:
        return images.has_frame(path) if path.startswith(images.PREFIX) else Path(path).is_file()
    except DataError:
        return False


def _size(path: str) -> tuple[int, int] | None:
    try:
        height, width = read_image(path).shape[:2]
    except DataError:
        return None
    return width, height


def size_problems(pose_set: PoseSet, sizes: dict[str, tuple[int, int]]) -> list[str]:
    """Joints far outside their image, and images of another size than annotated. `sizes`: path -> (width, height) of opened images."""
    annotated = np.full((len(pose_set), 2), np.nan) if pose_set.image_size is None else pose_set.image_size
    found = np.array([sizes.get(p, (np.nan, np.nan)) for p in pose_set.images], np.float64).reshape(-1, 2)
    lines = []
    other = np.flatnonzero((np.isfinite(annotated) & np.isfinite(found) & (annotated != found)).any(1))
    if len(other):
        lines.append(
            f"{_listing(pose_set, other)} persons are in images of another size than annotated: download the images again"
        )
    size = np.where(np.isfinite(found), found, annotated)
    with np.errstate(invalid="ignore"):
        outside = np.maximum(-pose_set.joints, pose_set.joints - (size[:, None] - 1)).max(-1)
        far = np.flatnonzero((outside > _FAR * size.max(1)[:, None]).any(1))
    if len(far):
        lines.append(
            f"{_listing(pose_set, far)} persons have a joint far outside the image: wrong images or flags; compare with `browse`"
        )
    return lines
