"""AI Challenger and the simple `json` format: several people a picture, as in COCO."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from tqdm import tqdm

from common.skeletons import AIC14, COCO17
from common.synthetic.compose import OUTSIDE, VISIBLE, Picture, Truth
from common.synthetic.folder import generator, write_jpeg, write_json
from common.synthetic.group import draw_group
from common.synthetic.write_coco import POSING, SIZES

_TRAIN_SHARE = 3 / 4
_SMALLEST = 500  # visible pixels of an annotated person


def write_ai_challenger(folder: Path, count: int, seed: int) -> None:
    """The two official folders, train and validation, each with its annotation file and its images.

    v: 1 visible, 2 hidden, 3 outside the picture with place 0, 0; whole-pixel coordinates counted from 0, boxes x1, y1, x2, y2 of the
    visible part.
    """
    train = _train_count(count)
    with tqdm(total=count, desc="synthetic ai_challenger", unit="image") as bar:
        for split, day, first, last in (("train", "20170902", 0, train), ("validation", "20170911", train, count)):
            part = folder / f"ai_challenger_keypoint_{split}_{day}"
            images = part / f"keypoint_{split}_images_{day}"
            images.mkdir(parents=True)
            entries = []
            for k in range(first, last):
                picture, people = _draw(generator("ai_challenger", seed, k))
                name = hashlib.sha1(f"synthetic {seed} {k}".encode()).hexdigest()
                write_jpeg(images / f"{name}.jpg", picture.image)
                entries.append(_challenger_entry(name, people))
                bar.update()
            write_json(part / f"keypoint_{split}_annotations_{day}.json", entries)


def _train_count(count: int) -> int:
    return min(max(round(count * _TRAIN_SHARE), 1), count - 1)


def _draw(rng: np.random.Generator) -> tuple[Picture, list[Truth]]:
    """A picture with at least one person large enough to be annotated."""
    people: list[Truth] = []
    while not people:
        width, height = SIZES[rng.integers(len(SIZES))]
        picture = draw_group(
            rng, POSING, width, height, int(rng.choice([1, 2, 3, 4], p=[0.35, 0.3, 0.2, 0.15])), (0.4, 1.15), 0.2
        )
        people = [t for t in picture.people if t.mask.sum() >= _SMALLEST]
    return picture, people


def _challenger_entry(name: str, people: list[Truth]) -> dict:
    keypoints, boxes = {}, {}
    for number, truth in enumerate(people, 1):
        points, states = truth.table(AIC14.joints)
        v = np.where(states == OUTSIDE, 3, np.where(states == VISIBLE, 1, 2))
        table = np.column_stack([np.round(points) * (v < 3)[:, None], v])
        x, y, w, h = truth.mask_box().astype(int).tolist()
        keypoints[f"human{number}"] = table.astype(int).ravel().tolist()
        boxes[f"human{number}"] = [x, y, x + w, y + h]
    return {"url": "", "image_id": name, "keypoint_annotations": keypoints, "human_annotations": boxes}


def write_json_format(folder: Path, count: int, seed: int) -> None:
    """images/ with train.json and valid.json in the format of common.datasets.json_format, COCO's 17 joints, three decimals."""
    (folder / "images").mkdir()
    train = _train_count(count)
    entries = []
    for k in tqdm(range(count), desc="synthetic json", unit="image"):
        picture, people = _draw(generator("json", seed, k))
        write_jpeg(folder / "images" / f"{k + 1:05d}.jpg", picture.image)
        height, width = picture.image.shape[:2]
        entries.append(
            {
                "file": f"images/{k + 1:05d}.jpg",
                "width": width,
                "height": height,
                "persons": [_json_person(t) for t in people],
            }
        )
    for split, part in (("train", entries[:train]), ("valid", entries[train:])):
        write_json(folder / f"{split}.json", {"skeleton": COCO17.name, "images": part})


def _json_person(truth: Truth) -> dict:
    points, states = truth.table(COCO17.joints)
    rows = zip(np.round(points, 3).tolist(), states.tolist())
    joints = [None if state == OUTSIDE else [*point, 2 if state == VISIBLE else 1] for point, state in rows]
    return {"joints": joints, "box": truth.mask_box().tolist(), "area": float(truth.mask.sum())}
