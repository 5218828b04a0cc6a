"""Several people a picture: MPII, every data set in COCO's layout, AI Challenger and the simple `json` format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np

from common.skeletons import AIC14, COCO17, CROWDPOSE14, MPII16, Skeleton
from common.synthetic.compose import OUTSIDE, VISIBLE, Picture, Posing, Truth, box_of, draw_group
from common.synthetic.folder import each, generator, save_json, train_count, write_image, write_mat

_POSING = Posing(roll=12, any_roll=0.06, pitch=9)
_SIZES = ((480, 360), (360, 480), (480, 300))
_SMALLEST = 25  # visible pixels of an annotated person in COCO
_SMALLEST_WITH_KEYPOINTS = 700  # as in COCO, small people have a segment and no keypoints


def _draw(
    rng: np.random.Generator, counts=(0.35, 0.3, 0.2, 0.15), share=(0.4, 1.15), smallest=500, occluded=0.2, crowd=0.0
) -> tuple[Picture, list[Truth], np.ndarray]:
    """A picture, those of its people who show `smallest` pixels (at least one), and the crowd's pixels (H,W).

    `counts`: chances of 1, 2, ... people; `share`: stature in the picture's height; `crowd`: chance of a far crowd.
    """
    people: list[Truth] = []
    while not people:
        size = _SIZES[rng.integers(len(_SIZES))]
        count = 1 + int(rng.choice(len(counts), p=counts))
        picture = draw_group(rng, _POSING, size, count, share, occluded, crowd=rng.random() < crowd)
        people = [t for t in picture.people[:count] if t.mask.sum() >= smallest]
    far = [np.zeros(size[::-1], bool), *(t.mask for t in picture.people[count:])]
    return picture, people, np.any(far, axis=0)


def _integers(truth: Truth, skeleton: Skeleton, flags: list[int], shown: int) -> list[int]:
    """x, y, v of every joint in whole pixels; `flags` by state; a place only where v is at most `shown` and not 0."""
    points, states = truth.table(skeleton.joints)
    v = np.take(flags, states)
    known = (v > 0) & (v <= shown)
    return np.column_stack([np.round(points) * known[:, None], v]).astype(int).ravel().tolist()


def write_coco(folder: Path, count: int, seed: int) -> None:
    """images/{train,val}2017/%012d.jpg, annotations/person_keypoints_{train,val}2017.json and a detector's boxes."""
    train = train_count(count, 3 / 4)
    splits = {"train2017": range(train), "val2017": range(train, count)}
    files = coco_layout("coco", count, seed, COCO17, splits, lambda split, k: f"images/{split}/{k:012d}.jpg", folder)
    for split, file in files.items():
        save_json(folder / "annotations" / f"person_keypoints_{split}.json", file)
    boxes = _detect(generator("coco", seed, count), files["val2017"])
    save_json(folder / "person_detection_results" / "COCO_val2017_detections_AP_H_56_person.json", boxes)


def write_crowdpose(folder: Path, count: int, seed: int) -> None:
    """images/%06d.jpg, annotations/crowdpose_{train,val,trainval,test}.json, 5 : 1 : 4; no segments, areas, crowds."""
    train = train_count(count, 1 / 2)
    val = min(round(count / 10), count - train - 1)
    splits = {"train": range(train), "val": range(train, train + val), "test": range(train + val, count)}
    files = coco_layout("crowdpose", count, seed, CROWDPOSE14, splits, lambda _, k: f"images/{k + 100_000}.jpg", folder)
    for file in files.values():
        people = [person for person in file["annotations"] if not person["iscrowd"]]
        file["annotations"] = [{k: v for k, v in p.items() if k not in ("segmentation", "area")} for p in people]
    both = {part: files["train"][part] + files["val"][part] for part in ("images", "annotations")}
    for split, file in (files | {"trainval": files["train"] | both}).items():
        if file["images"]:
            save_json(folder / "annotations" / f"crowdpose_{split}.json", file)


def coco_layout(
    name: str, count: int, seed: int, skeleton: Skeleton, splits: dict[str, range], path_of: Any, folder: Path
) -> dict[str, dict]:
    """Draws `count` pictures to `folder / path_of(split, number)`, from 1; each split's file in COCO's layout.

    v: 0 outside the picture, 1 hidden, 2 visible; whole-pixel coordinates counted from 0. Every image has its
    `crowdIndex` as CrowdPose defines it: the mean over people of others' joints in a person's box per joint of their
    own, at most 1.
    """
    joints = {"keypoints": list(skeleton.joints), "skeleton": [[a + 1, b + 1] for a, b in skeleton.limbs]}
    head = {
        "info": {"description": f"Synthetic stand-in for {name}", "version": "1.0", "year": 2017},
        "licenses": [{"id": 1, "name": "drawn, no photograph", "url": ""}],
        "categories": [{"id": 1, "name": "person", "supercategory": "person", **joints}],
    }
    files: dict[str, dict] = {split: {**head, "images": [], "annotations": []} for split in splits}
    for k, rng in each(name, count, seed):
        split = next(split for split, numbers in splits.items() if k in numbers)
        found: list[dict] = []
        while not any(person["num_keypoints"] for person in found):
            picture, people, crowd = _draw(rng, (0.35, 0.25, 0.2, 0.12, 0.08), (0.3, 1.2), _SMALLEST, 0.25, 0.1)
            found = [_coco_person(t, skeleton) for t in people]
        if crowd.sum() >= _SMALLEST:
            found.append(_coco_crowd(crowd, skeleton))
        path = folder / path_of(split, k + 1)
        write_image(path, picture.image)
        height, width = picture.image.shape[:2]
        image = {"id": k + 1, "file_name": path.name, "width": width, "height": height, "license": 1}
        files[split]["images"].append(image | {"crowdIndex": _crowd_index(found)})
        first = 1 + 100_000 * list(splits).index(split) + len(files[split]["annotations"])
        for number, person in enumerate(found, first):
            files[split]["annotations"].append(person | {"id": number, "image_id": k + 1, "category_id": 1})
    return files


def _coco_person(truth: Truth, skeleton: Skeleton) -> dict:
    area = int(truth.mask.sum())
    keypoints = _integers(truth, skeleton, [0, 1, 1, 2] if area >= _SMALLEST_WITH_KEYPOINTS else [0] * 4, 2)
    # outlines at twice the resolution, so that they enclose the pixels' centres; holes are filled
    double = cv2.resize(truth.mask.astype(np.uint8), None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST)
    outlines, _ = cv2.findContours(double, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    segment = [((outline.reshape(-1) + 0.5) / 2).tolist() for outline in outlines]
    return _annotation(segment, float(area), 0, keypoints, box_of(truth.mask).tolist())


def _coco_crowd(mask: np.ndarray, skeleton: Skeleton) -> dict:
    """All people of the crowd in the distance as one region, run lengths down the columns."""
    flat = np.concatenate([[False], mask.ravel(order="F")])  # the first run is of zeros, and may be empty
    changes = np.concatenate([[0], np.flatnonzero(np.diff(flat)), [mask.size]])
    segment = {"counts": np.diff(changes).tolist(), "size": list(mask.shape)}
    return _annotation(segment, float(mask.sum()), 1, [0] * (3 * len(skeleton)), box_of(mask).astype(int).tolist())


def _annotation(segment, area: float, crowd: int, keypoints: list[int], box: list) -> dict:
    found = {"segmentation": segment, "num_keypoints": int(np.count_nonzero(keypoints[2::3])), "area": area}
    return {**found, "iscrowd": crowd, "keypoints": keypoints, "bbox": box}


def _crowd_index(people: list[dict]) -> float:
    tables = [np.reshape(p["keypoints"], (-1, 3)) for p in people if p["num_keypoints"]]
    boxes = [np.array(p["bbox"]) for p in people if p["num_keypoints"]]
    shares = []
    for i, (own, (x, y, w, h)) in enumerate(zip(tables, boxes)):
        rest = np.concatenate([np.zeros((0, 3)), *tables[:i], *tables[i + 1 :]])
        inside = (rest[:, 2] > 0) & (rest[:, :2] >= [x, y]).all(1) & (rest[:, :2] < [x + w, y + h]).all(1)
        shares.append(inside.sum() / (own[:, 2] > 0).sum())
    return round(min(float(np.mean(shares)), 1.0), 4)


def _detect(rng: np.random.Generator, file: dict) -> list[dict]:
    """What an imperfect detector would return: jittered boxes, some people missed, some found twice, and nobody else."""
    found = []
    for person in file["annotations"]:
        for least, jitter in (
            () if person["iscrowd"] else ((0.6, 0.05), (0.1, 0.15))[: rng.choice(3, p=[0.06, 0.8, 0.14])]
        ):
            x, y, w, h = person["bbox"] * np.array([1, 1, *np.exp(rng.normal(0, jitter, 2))])
            box = np.round([x + jitter * w * rng.normal(), y + jitter * h * rng.normal(), w, h], 3).tolist()
            score = round(least + 0.4 * rng.random(), 6)
            found.append({"bbox": box, "category_id": 1, "image_id": person["image_id"], "score": score})
    return found


def write_ai_challenger(folder: Path, count: int, seed: int) -> None:
    """The two official folders, train and validation, each with its annotation file and its images.

    v: 1 visible, 2 hidden, 3 outside the picture with place 0, 0; whole-pixel coordinates counted from 0, boxes x1, y1,
    x2, y2.
    """
    train = train_count(count, 3 / 4)
    parts = {"train_20170902": range(train), "validation_20170911": range(train, count)}
    entries: dict[str, list] = {part: [] for part in parts}

    def place(part: str, kind: str) -> Path:
        split, day = part.split("_")
        return folder / f"ai_challenger_keypoint_{part}" / f"keypoint_{split}_{kind}_{day}"

    for k, rng in each("ai_challenger", count, seed):
        picture, people, _ = _draw(rng)
        part = next(part for part, numbers in parts.items() if k in numbers)
        name = f"{seed:020x}{k:020x}"
        write_image(place(part, "images") / f"{name}.jpg", picture.image)
        keypoints, boxes = {}, {}
        for number, truth in enumerate(people, 1):
            keypoints[f"human{number}"] = _integers(truth, AIC14, [3, 2, 2, 1], 2)
            x, y, w, h = box_of(truth.mask).astype(int).tolist()
            boxes[f"human{number}"] = [x, y, x + w, y + h]
        entry = {"url": "", "image_id": name, "keypoint_annotations": keypoints, "human_annotations": boxes}
        entries[part].append(entry)
    for part, content in entries.items():
        save_json(place(part, "annotations").with_suffix(".json"), content)


def write_json(folder: Path, count: int, seed: int) -> None:
    """images/ with train.json and valid.json as common.datasets.json_format reads them: COCO's joints, 3 decimals."""
    entries = []
    for k, rng in each("json", count, seed):
        picture, people, _ = _draw(rng)
        file = f"images/{k + 1:05d}.jpg"
        write_image(folder / file, picture.image)
        height, width = picture.image.shape[:2]
        persons = []
        for truth in people:
            points, states = truth.table(COCO17.joints)
            rows = zip(np.round(points, 3).tolist(), states.tolist())
            joints = [None if state == OUTSIDE else [*point, 2 if state == VISIBLE else 1] for point, state in rows]
            persons.append({"joints": joints, "box": box_of(truth.mask).tolist(), "area": float(truth.mask.sum())})
        entries.append({"file": file, "width": width, "height": height, "persons": persons})
    train = train_count(count, 3 / 4)
    for split, part in (("train", entries[:train]), ("valid", entries[train:])):
        save_json(folder / f"{split}.json", {"skeleton": COCO17.name, "images": part})


_MPII_NAMES = "rank rkne rhip lhip lkne lank pelv thor neck head rwri relb rsho lsho lelb lwri".split()
_NOTHING = np.zeros((0, 0))  # Matlab's []


def write_mpii(folder: Path, count: int, seed: int) -> None:
    """images/, annot/{train,valid,trainval}.json, annot/gt_valid.mat, mpii_human_pose_v1_u12_1.mat; counted from 1.

    Joints outside the picture are not labelled; the release file tells visible from occluded ones. The first two thirds
    of the pictures are train; there is no test split.
    """
    pictures = []
    for k, rng in each("mpii", count, seed):
        picture, people, _ = _draw(rng, (0.6, 0.28, 0.12), (0.5, 1.15), 400)
        write_image(folder / "images" / f"{k + 1:09d}.jpg", picture.image)
        pictures.append((f"{k + 1:09d}.jpg", [_mpii_person(t) for t in people]))
    train = train_count(count, 2 / 3)
    for split, part in (("train", pictures[:train]), ("valid", pictures[train:]), ("trainval", pictures)):
        rows = [_mpii_row(name, person) for name, people in part for person in people]
        save_json(folder / "annot" / f"{split}.json", rows)
    valid = [person for _, people in pictures[train:] for person in people]
    truth = {
        "jnt_missing": (~np.array([p["labelled"] for p in valid])).T.astype(np.uint8),
        "pos_gt_src": np.array([p["joints"] for p in valid]).transpose(1, 2, 0),
        "headboxes_src": np.array([p["head"].reshape(2, 2) for p in valid]).transpose(1, 2, 0),
        "dataset_joints": np.array([_MPII_NAMES], object),
    }
    write_mat(folder / "annot" / "gt_valid.mat", truth)
    write_mat(folder / "mpii_human_pose_v1_u12_1.mat", {"RELEASE": _mpii_release(pictures)})


def _mpii_person(truth: Truth) -> dict:
    """What the files say of one person, in their frame (counted from 1), to three decimals; unlabelled joints -1."""
    points, states = truth.table(MPII16.joints)
    labelled = states != OUTSIDE
    x1, y1, x2, y2 = truth.body_box
    scale = max(x2 - x1, y2 - y1) / 200
    # the release's centre lies above the body's middle: the customary programs lower it by 15 * scale
    center = np.round([(x1 + x2) / 2 + 1, (y1 + y2) / 2 - 15 * scale + 1], 3).tolist()
    joints = np.where(labelled[:, None], np.round(points + 1, 3), -1.0)
    known = {"joints": joints, "labelled": labelled, "seen": states == VISIBLE, "head": np.round(truth.head_box + 1, 3)}
    return known | {"scale": round(float(scale), 5), "center": center}


def _mpii_row(name: str, person: dict) -> dict:
    labels = {"joints_vis": person["labelled"].astype(int).tolist(), "joints": person["joints"].tolist()}
    return labels | {"image": name, "scale": person["scale"], "center": person["center"]}


def _struct(rows: list[dict]) -> np.ndarray:
    """A 1 x N Matlab struct array; 0 x 0 where there are no rows."""
    if not rows:
        return _NOTHING
    array = np.empty((1, len(rows)), [(name, object) for name in rows[0]])
    array[0] = [tuple(row.values()) for row in rows]
    return array


def _mpii_release(pictures: list[tuple[str, list[dict]]]) -> dict:
    entries, single = [], np.empty((len(pictures), 1), object)
    for k, (name, people) in enumerate(pictures):
        persons = _struct([_mpii_rect(person) for person in people])
        entries.append({"image": {"name": name}, "annorect": persons, "frame_sec": _NOTHING, "vididx": _NOTHING})
        # persons with enough room around them, numbered from 1
        single[k, 0] = np.array([[1.0]]) if len(people) == 1 else _NOTHING
    trained = np.ones((1, len(pictures)))
    return {"annolist": _struct(entries), "img_train": trained, "version": "12", "single_person": single}


def _mpii_rect(person: dict) -> dict:
    rows = zip(range(16), person["joints"].tolist(), person["seen"].tolist(), person["labelled"])
    points = [{"x": x, "y": y, "id": float(j), "is_visible": float(seen)} for j, (x, y), seen, known in rows if known]
    corners, center = zip(("x1", "y1", "x2", "y2"), person["head"].tolist()), zip("xy", person["center"])
    annopoints = {"point": _struct(points)}
    return {**dict(corners), "annopoints": annopoints, "scale": person["scale"], "objpos": dict(center)}
