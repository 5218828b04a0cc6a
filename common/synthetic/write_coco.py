"""COCO keypoints 2017, with segments, crowds and a person detector's boxes."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from common.skeletons import COCO17
from common.synthetic.compose import OUTSIDE, VISIBLE, Picture, Posing, Truth
from common.synthetic.folder import generator, write_jpeg, write_json
from common.synthetic.group import draw_group, draw_group_and_crowd

POSING = Posing(roll=12, any_roll=0.06, pitch=9)
SIZES = ((480, 360), (360, 480), (480, 320))
_TRAIN_SHARE = 3 / 4
_SMALLEST = 25  # visible pixels of an annotated person
_SMALLEST_WITH_KEYPOINTS = 700  # as in COCO, small people have a segment and no keypoints
# COCO's own drawing of a person, joints counted from 1
_LIMBS = (
    (16, 14), (14, 12), (17, 15), (15, 13), (12, 13), (6, 12), (7, 13), (6, 7), (6, 8), (7, 9),
    (8, 10), (9, 11), (2, 3), (1, 2), (1, 3), (2, 4), (3, 5), (4, 6), (5, 7),
)  # fmt: skip


def write_coco(folder: Path, count: int, seed: int) -> None:
    """images/{train,val}2017/%012d.jpg, annotations/person_keypoints_{train,val}2017.json, person_detection_results/COCO_val2017_...json.

    v: 0 outside the picture, 1 hidden, 2 visible; whole-pixel coordinates counted from 0.
    """
    (folder / "annotations").mkdir()
    train = min(max(round(count * _TRAIN_SHARE), 1), count - 1)
    with tqdm(total=count, desc="synthetic coco", unit="image") as bar:
        for split, first, last in (("train2017", 0, train), ("val2017", train, count)):
            images, annotations = [], []
            (folder / "images" / split).mkdir(parents=True)
            for k in range(first, last):
                image, people = _draw(folder / "images" / split, k + 1, generator("coco", seed, k))
                images.append(image)
                annotations += people
                bar.update()
            for number, annotation in enumerate(annotations, 1 + 100_000 * (first > 0)):
                annotation["id"] = number
            write_json(folder / "annotations" / f"person_keypoints_{split}.json", _file(images, annotations))
    detections = _detect(generator("coco", seed, count), images, annotations)
    (folder / "person_detection_results").mkdir()
    write_json(folder / "person_detection_results" / "COCO_val2017_detections_AP_H_56_person.json", detections)


def _file(images: list[dict], annotations: list[dict]) -> dict:
    category = {
        "supercategory": "person",
        "id": 1,
        "name": "person",
        "keypoints": list(COCO17.joints),
        "skeleton": [list(p) for p in _LIMBS],
    }
    info = {"description": "Synthetic stand-in for COCO 2017 keypoints", "version": "1.0", "year": 2017}
    licenses = [{"id": 1, "name": "drawn, no photograph", "url": ""}]
    return {"info": info, "licenses": licenses, "images": images, "annotations": annotations, "categories": [category]}


def _draw(folder: Path, number: int, rng: np.random.Generator) -> tuple[dict, list[dict]]:
    kept: list[dict] = []
    while not any(a["num_keypoints"] for a in kept):
        width, height = SIZES[rng.integers(len(SIZES))]
        count = int(rng.choice([1, 2, 3, 4, 5], p=[0.35, 0.25, 0.2, 0.12, 0.08]))
        if rng.random() < 0.1:
            picture = draw_group_and_crowd(rng, POSING, width, height, count, (0.4, 1.1))
        else:
            picture = draw_group(rng, POSING, width, height, count, (0.3, 1.2), 0.25)
        kept = _annotations(picture, count, number)
    write_jpeg(folder / f"{number:012d}.jpg", picture.image)
    name = f"{number:012d}.jpg"
    blank = {"license": 1, "coco_url": "", "flickr_url": "", "date_captured": "2017-01-01 00:00:00"}
    return {**blank, "file_name": name, "height": height, "width": width, "id": number}, kept


def _annotations(picture: Picture, count: int, image_id: int) -> list[dict]:
    people = [t for t in picture.people[:count] if t.mask.sum() >= _SMALLEST]
    found = [_person(t, image_id) for t in people]
    crowd = (
        np.any([t.mask for t in picture.people[count:]], axis=0)
        if len(picture.people) > count
        else np.zeros((1, 1), bool)
    )
    if crowd.sum() >= _SMALLEST:
        found.append(_crowd(crowd, image_id))
    return found


def _person(truth: Truth, image_id: int) -> dict:
    points, states = truth.table(COCO17.joints)
    area = int(truth.mask.sum())
    v = np.where(states == OUTSIDE, 0, np.where(states == VISIBLE, 2, 1))
    if area < _SMALLEST_WITH_KEYPOINTS:
        v[:] = 0
    table = np.column_stack([np.round(points), v]) * (v > 0)[:, None]
    return {
        "segmentation": _polygons(truth.mask),
        "num_keypoints": int((v > 0).sum()),
        "area": float(area),
        "iscrowd": 0,
        "keypoints": table.astype(int).ravel().tolist(),
        "image_id": image_id,
        "bbox": truth.mask_box().tolist(),
        "category_id": 1,
        "id": 0,
    }


def _polygons(mask: np.ndarray) -> list[list[float]]:
    """Outlines of the visible pixels, holes filled; at twice the resolution, so that they enclose the pixels' centres."""
    double = cv2.resize(mask.astype(np.uint8), None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST)
    outlines, _ = cv2.findContours(double, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    return [((outline.reshape(-1) + 0.5) / 2).tolist() for outline in outlines]


def _crowd(mask: np.ndarray, image_id: int) -> dict:
    """All people of a crowd as one region, run lengths down the columns."""
    flat = mask.ravel(order="F")
    changes = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff(np.concatenate([[0], changes, [len(flat)]])).tolist()
    if flat[0]:
        counts.insert(0, 0)
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return {
        "segmentation": {"counts": counts, "size": list(mask.shape)},
        "num_keypoints": 0,
        "area": float(mask.sum()),
        "iscrowd": 1,
        "keypoints": [0] * 51,
        "image_id": image_id,
        "bbox": [int(columns[0]), int(rows[0]), int(columns[-1] + 1 - columns[0]), int(rows[-1] + 1 - rows[0])],
        "category_id": 1,
        "id": 0,
    }


def _detect(rng: np.random.Generator, images: list[dict], annotations: list[dict]) -> list[dict]:
    """What an imperfect detector would return: jittered boxes, some people missed, doubles, false alarms."""
    found = []
    for a in annotations:
        if a["iscrowd"]:
            continue
        if rng.random() < 0.94:
            found.append(_detection(rng, a["image_id"], a["bbox"], 0.05, (0.6, 0.999)))
        if rng.random() < 0.15:
            found.append(_detection(rng, a["image_id"], a["bbox"], 0.15, (0.1, 0.6)))
    for image in images:
        for _ in range(rng.poisson(0.5)):
            w, h = rng.uniform(0.05, 0.4) * image["width"], rng.uniform(0.1, 0.7) * image["height"]
            box = [rng.uniform(0, image["width"] - w), rng.uniform(0, image["height"] - h), w, h]
            found.append(_detection(rng, image["id"], box, 0.0, (0.01, 0.45)))
    return found


def _detection(
    rng: np.random.Generator, image_id: int, box: list[float], jitter: float, score: tuple[float, float]
) -> dict:
    x, y, w, h = box
    x, y = x + rng.normal(0, jitter) * w, y + rng.normal(0, jitter) * h
    w, h = w * np.exp(rng.normal(0, jitter)), h * np.exp(rng.normal(0, jitter))
    bbox = [round(float(v), 3) for v in (x, y, w, h)]
    return {"bbox": bbox, "category_id": 1, "image_id": image_id, "score": round(float(rng.uniform(*score)), 6)}
