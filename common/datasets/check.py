"""What is wrong with a data set on disk (counts, unreadable images, impossible values, with remedies); a sheet of it."""

from __future__ import annotations

import os
import warnings
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np

from common import datasets, draw, images
from common.errors import DataError, DataWarning
from common.poses import PoseSet, box_of_joints

_SHOWN = 5
_CONTEXT = 0.35  # margin around a box on the sheet, as a share of its longer side
_FAR = 0.5  # of the image's longer side: farther outside no annotator can have meant a place


def check(
    name: str, root: str | Path, split: str | None = None, limit: int | None = None, **options
) -> tuple[list[str], list[str]]:
    """(facts, problems), a line each, about one split or all of them. At most `limit` images a split are opened.

    A damaged annotation file is a problem; DataMissing and unknown names or splits are raised.
    """
    facts: list[str] = []
    problems: list[str] = []
    for one in [split] if split else datasets.splits(name, root):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                pose_set = datasets.load(name, root, one, **options)
            except DataError as error:
                if split or type(error) is not DataError:
                    raise
                problems.append(f"{one}: {error}")
                continue
        found = annotation_problems(pose_set), *image_problems(pose_set, limit)
        for warning in caught:
            suspicious = issubclass(warning.category, DataWarning)
            (problems if suspicious else facts).append(f"{one}: {'' if suspicious else 'note: '}{warning.message}")
        facts += [f"{one}: {line}" for line in describe(pose_set)]
        problems += [f"{one}: {line}" for lines in found for line in lines]
    return facts, problems


def describe(pose_set: PoseSet) -> list[str]:
    """Counts of persons, images, videos and joints by visibility."""
    counted = pose_set.counted
    flags = np.bincount(pose_set.visible[counted].ravel(), minlength=3)
    drawn = " (synthetic)" if pose_set.synthetic else ""
    lines = [f"{len(pose_set)} persons in {len(set(pose_set.images))} images{drawn}"]
    if pose_set.sequence is not None:
        lines.append(f"{len(np.unique(pose_set.sequence))} videos")
    if not counted.all():
        lines.append(f"{(~counted).sum()} of these persons are crowds or have no joint: no metric counts them")
    lines.append(f"joints: {flags[2]} visible, {flags[1]} occluded, {flags[0]} not labelled ({pose_set.skeleton.name})")
    return lines


def _listing(pose_set: PoseSet, tests) -> list[str]:
    """A line for every test (bool by person, what is wrong) that finds somebody."""
    lines = []
    for bad, text in tests:
        rows = np.flatnonzero(bad)
        shown = [f"{pose_set.image_id[r]}/{pose_set.person_id[r]}" for r in rows[:_SHOWN]]
        more = ", ..." if len(rows) > _SHOWN else ""
        lines += [f"{len(rows)} (image/person {', '.join(shown)}{more}) persons {text}"] if len(rows) else []
    return lines


def annotation_problems(pose_set: PoseSet) -> list[str]:
    """Values that cannot be true, found without opening an image."""
    if not len(pose_set):
        return ["no person at all; the annotation file is empty, download it again"]
    counted, box = pose_set.counted, pose_set.box
    boxed, labelled = np.isfinite(box).all(1) & (box[:, 2:] > 0).all(1), (pose_set.visible > 0).any(1)
    tests = [
        (~boxed, "have an empty box: they cannot be cropped by it; correct or remove them in the annotation file"),
        (~labelled, "have no labelled joint: they count in no metric; remove them or mark them to be ignored"),
    ]
    if pose_set.head_size is not None:
        wrong = "have no head size: PCKh counts all their joints as wrong; correct the head box"
        tests.append((~(pose_set.head_size > 0), wrong))
    if pose_set.area is not None:
        tests.append((~(pose_set.area > 0), "have no area: OKS is undefined for them; correct the annotation file"))
    lines = _listing(pose_set, [(counted & bad, text) for bad, text in tests])
    if suspects := _as_corners(pose_set, np.flatnonzero(counted & labelled & boxed)):
        what = f"{suspects} boxes fit their persons as x1, y1, x2, y2"
        lines.append(f"{what}: x, y, width, height is expected; write them so")
    keys = set(zip(pose_set.image_id.tolist(), pose_set.person_id.tolist()))
    if shared := len(pose_set) - len(keys):
        lines.append(f"{shared} persons share image and person number with another; give each its own")
    return lines


def _as_corners(pose_set: PoseSet, rows: np.ndarray) -> int:
    """How many of these boxes, read as two corners, hold all their joints; 0 unless nearly all do, far tighter."""
    tight, (first, second) = box_of_joints(pose_set.joints[rows]), np.split(pose_set.box[rows], 2, axis=1)
    inside = ((first <= tight[:, :2] + 1) & (tight[:, :2] + tight[:, 2:] <= second + 1)).all(1)
    tighter = np.prod(second - first, axis=1)[inside].sum() < 0.7 * np.prod(second, axis=1)[inside].sum()
    return int(inside.sum()) if len(rows) > 1 and inside.mean() > 0.9 and tighter else 0


def image_problems(pose_set: PoseSet, limit: int | None) -> tuple[list[str], list[str]]:
    """Lines about missing and unreadable images (at most `limit` are opened), and about what does not fit those."""
    from tqdm import tqdm

    paths = list(dict.fromkeys(pose_set.images))
    present = [path for path in paths if images.exists(path)]
    lines = []
    there = set(present)
    if absent := [path for path in paths if path not in there]:
        many = f"{len(absent)} of {len(paths)} images are missing"
        lines.append(f"{many} (first: {absent[0]}): unpack them there (scoring works without)")
    opened = present[:limit]
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        bar = tqdm(pool.map(_size, opened), total=len(opened), desc="images", unit="image", disable=not opened)
        sizes = dict(zip(opened, bar))
    if unreadable := [path for path, size in sizes.items() if size is None]:
        many = f"{len(unreadable)} images cannot be decoded or are cut off"
        lines.append(f"{many} (first: {unreadable[0]}): copy or download them again")
    return lines, size_problems(pose_set, {path: size for path, size in sizes.items() if size is not None})


def _size(path: str) -> tuple[int, int] | None:
    try:
        height, width = images.read_image(path, whole=True).shape[:2]
    except DataError:
        return None
    return width, height


def size_problems(pose_set: PoseSet, sizes: dict[str, tuple[int, int]]) -> list[str]:
    """Joints far outside their image, and images of another size than annotated. `sizes`: path -> (width, height)."""
    annotated = np.full((len(pose_set), 2), np.nan) if pose_set.image_size is None else pose_set.image_size
    found = np.array([sizes.get(p, (np.nan, np.nan)) for p in pose_set.images], np.float64).reshape(-1, 2)
    size = np.where(np.isfinite(found), found, annotated)
    with np.errstate(invalid="ignore"):
        outside = np.maximum(-pose_set.joints, pose_set.joints - (size[:, None] - 1)).max(-1)
        far = (outside > _FAR * size.max(1)[:, None]).any(1)
    other = (np.isfinite(annotated) & np.isfinite(found) & (annotated != found)).any(1)
    wrong = "are in images of another size than annotated: download the images again"
    away = "have a joint far outside the image: wrong images or flags; compare with `browse`"
    return _listing(pose_set, [(other, wrong), (far, away)])


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
