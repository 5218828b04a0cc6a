"""People of other tools to ours and back: `python -m common.exchange SOURCE TARGET --source KIND --target KIND`.

| KIND | is | third number of a joint |
|---|---|---|
| `jsonl` | joints.jsonl, as every predict.py writes it; common.evaluate scores it | score, visibility |
| `json` | one's own data (`--dataset json`) | visibility |
| `coco` | COCO annotations, as CVAT and Label Studio export them | visibility |
| `ultralytics` | folder of labels or results, a .txt a picture; joint names from a data.yaml in it or above | either |
| `openpose` | folder of NAME_keypoints.json, BODY_25 | score |
| `mediapipe` | JSON list or lines {image, pose_landmarks: [[{x, y, visibility}, ...], ...]} | score |
| `deeplabcut` | .csv, or .h5 (read only), of one or several animals | score |
| `mmpose` | folder of a JSON a picture, or one of a video, as its inferencer writes them | score |

Joints go by name. Visibility (0 not labelled, 1 occluded, 2 visible) is kept wherever the target can hold it; elsewhere
a labelled joint has score 1. Pictures whose sizes a format needs and does not hold are looked for in `--images`.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import pickle
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from common.datasets.files import read_json, read_lines
from common.errors import DataError
from common.files import write_json, write_text
from common.images import image_size
from common.poses import box_of_joints
from common.runs.process import exit_code
from common.skeletons import COCO17, MEDIAPIPE33, OPENPOSE25, SKELETONS, Skeleton, card, from_card
from common.video import is_picture

# {"image": name, "size": (w, h) or None, "persons": [{"joints": (J,4) x, y in pixels from 0, score, visibility (NaN, NaN,
# 0, 0: none), "box": [x, y, w, h], "score", "id"}, ...]}
Picture = dict[str, Any]
People = tuple[Skeleton, list[Picture]]
Found = tuple[str, Any, list[dict]]  # a picture's name, its size where the file says it, its persons
_HALF = 0.5  # shares of a picture count from its border, pixels from the middle of the first


def person(points: Iterable, labels: bool = False, **more: Any) -> dict:
    """From J times [x, y], [x, y, score] or (`labels`) [x, y, visibility]; None, or NaN or null in it, is no joint."""
    rest = [2.0 if labels else 1.0]
    rows = [[None] * 3 if p is None else [*p, *rest][:3] for p in points]
    x, y, third = np.array(rows, np.float64).reshape(-1, 3).T
    joints = np.column_stack([x, y, *((np.ones(len(x)), third) if labels else (third, np.full(len(x), 2.0)))])
    joints[~np.isfinite(joints).all(1) | (labels & (third == 0))] = np.nan, np.nan, 0, 0
    return {"joints": joints, "box": None, "score": 1.0, "id": -1} | {n: v for n, v in more.items() if v is not None}


def sure(points: Iterable, **more: Any) -> dict:
    """`person` of J times [x, y, score], where score 0 is no joint."""
    table = np.array(points, np.float64).reshape(-1, 3)
    return person(np.where(table[:, 2:] > 0, table, np.nan), **more)


def plain_name(name: str) -> str:
    """`LeftWrist`, `wrist_L`, `L wrist` -> left_wrist."""
    words = [word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+", name)]
    sides = {"l": "left", "left": "left", "r": "right", "right": "right"}
    side, rest = [sides[w] for w in words if w in sides][:1], [w for w in words if w not in sides]
    return "_".join([*side, *rest]) if rest else name


def named(joints: Iterable, where: Path, name: str = "own") -> Skeleton:
    """The known skeleton with these joints in this order, else one of its own."""
    names = tuple(plain_name(str(joint)) for joint in joints)
    known = next((s for s in SKELETONS.values() if s.joints == names), None)
    return known or from_card({"name": name, "joints": list(names)}, f"{where}: names of joints")


# ---- reading: (path, the skeleton that was asked for) -> skeleton, pictures ------------------------------------------


def _files(path: Path, pattern: str) -> list[Path]:
    found = [path] if path.is_file() else sorted(path.rglob(pattern))
    if not found:
        raise DataError(f"{path} holds no {pattern}; give the folder that holds them")
    return found


def _size(entry: dict) -> tuple[int, int] | None:
    return (entry["width"], entry["height"]) if entry.get("width") else None


def _read_jsonl(path: Path, skeleton: Skeleton | None) -> tuple[Skeleton, list[Found]]:
    lines, found = [line for _, line in read_lines(path) if "error" not in line], []
    for line in lines:
        people = [person(p["joints"], box=p["box"], score=p["score"], id=p["id"]) for p in line["persons"]]
        for one, entry in zip(people, line["persons"]):
            one["joints"][:, 3] = entry.get("visible", one["joints"][:, 3])
        found.append((line["image"], line.get("size"), people))
    names = {"name": lines[0]["skeleton"], "joints": lines[0]["joint_names"]}
    return from_card(names, f"{path}: field skeleton"), found


def _read_json(path: Path, skeleton: Skeleton | None) -> tuple[Skeleton, list[Found]]:
    content, found = read_json(path), []
    for image in content["images"]:
        people = [person(p["joints"], True, box=p.get("box"), id=p.get("id")) for p in image.get("persons", [])]
        found.append((image["file"], _size(image), people))
    return from_card(content["skeleton"], f"{path}: field skeleton"), found


def _read_coco(path: Path, skeleton: Skeleton | None) -> tuple[Skeleton, list[Found]]:
    content = read_json(path)
    category = next((c for c in content["categories"] if c.get("keypoints")), None)
    if category is None:
        raise DataError(f"{path}: field categories: none has keypoints; export persons with named points")
    found: dict[Any, Found] = {i["id"]: (i["file_name"], _size(i), []) for i in content["images"]}
    for entry in content["annotations"]:
        if entry["category_id"] == category["id"] and entry.get("keypoints") and not entry.get("iscrowd"):
            points = np.reshape(entry["keypoints"], (-1, 3))
            found[entry["image_id"]][2].append(person(points, True, box=entry.get("bbox")))
    return skeleton or named(category["keypoints"], path, category["name"]), list(found.values())


def _read_ultralytics(path: Path, skeleton: Skeleton | None) -> tuple[Skeleton, list[Found]]:
    import yaml

    notes = [f for folder in (path, *path.absolute().parents[:2]) for f in sorted(folder.glob("*.yaml"))]
    names = (yaml.safe_load(notes[0].read_text(encoding="utf-8")) or {}).get("kpt_names") if notes else None
    skeleton, found = skeleton or (named(names[0], notes[0]) if names else COCO17), []
    for file in _files(path, "*.txt"):
        people = [_labels(file, line, len(skeleton)) for line in file.read_text().splitlines() if line.strip()]
        found.append((file.stem, None, people))
    return skeleton, found


def _labels(file: Path, line: str, joints: int) -> dict:
    values = np.array(line.split(), np.float64)
    columns = 2 if len(values) == 5 + 2 * joints else 3
    end = 5 + columns * joints
    score = values[end : end + 1].tolist()  # results may end in the box's score and a number
    if not end <= len(values) <= end + 2:
        raise DataError(f"{file}: {len(values)} numbers in a line; {joints} joints need {5 + 3 * joints}")
    points = values[5:end].reshape(joints, columns)
    points[(points[:, :2] <= 0).all(1)] = np.nan
    labels = not score and bool(np.isin(np.nan_to_num(points[:, 2:]), (0, 1, 2)).all())
    box = [*(values[1:3] - values[3:5] / 2), *values[3:5]]
    return person(points, labels, box=box, score=score[0] if score else None, shares=True)


def _read_openpose(path: Path, skeleton: Skeleton | None) -> tuple[Skeleton, list[Found]]:
    found = []
    for file in _files(path, "*_keypoints.json"):
        points = [p["pose_keypoints_2d"] for p in read_json(file)["people"]]
        people = [sure(p, score=float(np.mean(p[2::3]))) for p in points]
        found.append((file.stem.removesuffix("_keypoints"), None, people))
    return OPENPOSE25, found


def _read_mediapipe(path: Path, skeleton: Skeleton | None) -> tuple[Skeleton, list[Found]]:
    text, found = path.read_text(encoding="utf-8-sig").strip(), []
    for entry in json.loads(text) if text.startswith("[") else map(json.loads, text.splitlines()):
        poses: list = next((entry[k] for k in ("pose_landmarks", "poseLandmarks", "landmarks") if entry.get(k)), [])
        poses = poses if isinstance((poses or [[]])[0], list) else [poses]
        people = [sure([[p["x"], p["y"], p.get("visibility", 1.0)] for p in pose], shares=True) for pose in poses]
        found.append((entry["image"], entry.get("size"), people))
    return MEDIAPIPE33, found


def _read_deeplabcut(path: Path, skeleton: Skeleton | None) -> tuple[Skeleton, list[Found]]:
    table = _hdf5_rows(path) if path.suffix.lower() in (".h5", ".hdf5") else list(csv.reader(path.open(newline="")))
    heads = {row[0]: row for row in table[:4] if row[0] in ("individuals", "bodyparts", "coords")}
    first = next(i for i, word in enumerate(heads["coords"]) if word in ("x", "y", "likelihood"))
    animals = heads.get("individuals", len(heads["coords"]) * [""])
    columns = list(zip(animals, heads["bodyparts"], heads["coords"]))[first:]
    who, parts = (list(dict.fromkeys(column[k] for column in columns)) for k in (0, 1))
    found, stem = [], path.stem.split("DLC")[0]
    for row in table[len(heads) + 1 :]:
        index = "/".join(str(cell) for cell in row[:first] if cell != "")
        cells = {column: float(v) if v != "" else np.nan for column, v in zip(columns, row[first:])}
        points = np.array([[[cells.get((a, p, c), 1.0) for c in ("x", "y", "likelihood")] for p in parts] for a in who])
        there = np.isfinite(points).all(2).any(1)
        people = [person(p, score=float(np.nanmean(p[:, 2])), id=n) for n, p in enumerate(points) if there[n]]
        found.append((f"{stem}_{int(index):06d}" if index.isdecimal() else index, None, people))
    return named(parts, path), found


class _Texts(pickle.Unpickler):
    """Texts and containers only: no class is made, nothing runs."""

    def find_class(self, module: str, name: str):
        raise DataError(f"a DeepLabCut table names its columns by {module}.{name}; export it as .csv")


def _hdf5_rows(path: Path) -> list[list]:
    """pandas' two layouts of a DeepLabCut table (table, fixed) as the lines of its CSV file."""
    import h5py

    def text(value: Any) -> str:
        return value.decode() if isinstance(value, bytes) else str(value)

    def levels(group, axis: str) -> list[list[str]]:
        if axis in group:
            return [[text(v) for v in group[axis]]]
        parts = ((group[f"{axis}_level{k}"], group[f"{axis}_label{k}"]) for k in range(group.attrs[f"{axis}_nlevels"]))
        return [[text(words[i]) for i in places] for words, places in parts]

    with h5py.File(path, "r") as file:
        group = next(iter(file.values()))
        if "table" in group:
            table, kinds = group["table"][:], bytes(group["table"].attrs["values_block_0_kind"])
            heads: list = list(zip(*_Texts(io.BytesIO(kinds)).load()))
            index, values = [[text(i) for i in table["index"]]], table["values_block_0"]
        else:
            heads, index, values = levels(group, "axis0"), levels(group, "axis1"), group["block0_values"][:]
    names = ["scorer", *(["individuals"] if len(heads) == 4 else []), "bodyparts", "coords"]
    lines = [[*place, *("" if np.isnan(v) else v for v in row)] for place, row in zip(zip(*index), values)]
    return [*([name, *(len(index) - 1) * [""], *head] for name, head in zip(names, heads)), *lines]


def _read_mmpose(path: Path, skeleton: Skeleton | None) -> tuple[Skeleton, list[Found]]:
    found = []
    for file in _files(path, "*.json"):
        content = read_json(file)
        frames = [(file.stem, content)]
        if isinstance(content, dict):
            names = content.get("meta_info", {}).get("keypoint_id2name")
            skeleton = skeleton or (named(names.values(), file) if names else None)
            frames = [(f"{file.stem}_{f['frame_id']:06d}", f["instances"]) for f in content["instance_info"]]
        for name, instances in frames:
            people = []
            for one in instances:
                x0, y0, x1, y1 = np.ravel(one.get("bbox", 4 * [np.nan])).tolist()
                points = np.column_stack([one["keypoints"], one["keypoint_scores"]])
                people.append(sure(points, box=[x0, y0, x1 - x0, y1 - y0], score=one.get("bbox_score")))
            found.append((name, None, people))
    return skeleton or COCO17, found


# ---- writing: (path, skeleton, pictures) -----------------------------------------------------------------------------


def _plain(values: Iterable, digits: int = 4) -> list:
    return [round(float(v), digits) if np.isfinite(v) else None for v in values]


def _points(one: dict, third: int) -> list[list[float]]:
    """J times x, y and score (2) or visibility (3), zeros where there is none."""
    return np.nan_to_num(one["joints"][:, [0, 1, third]]).round(4).tolist()


def _sized(picture: Picture) -> np.ndarray:
    if not picture["size"]:
        raise DataError(f"the size of picture {picture['image']} is not known and needed; give --images its folder")
    return np.array(picture["size"])


def _width_height(picture: Picture) -> dict:
    return dict(zip(("width", "height"), picture["size"] or ()))


def _write_jsonl(path: Path, skeleton: Skeleton, pictures: list[Picture]) -> None:
    lines = []
    for index, picture in enumerate(pictures):
        line = picture | {"index": index, "skeleton": skeleton.name, "joint_names": skeleton.joints, "persons": []}
        for one in picture["persons"]:
            joints = [_plain(row) if np.isfinite(row).all() else None for row in one["joints"][:, :3]]
            visible = one["joints"][:, 3].astype(int).tolist()
            line["persons"].append({**one, "box": _plain(one["box"]), "joints": joints, "visible": visible})
        lines.append(json.dumps(line) + "\n")
    write_text(path, "".join(lines))


def _write_json(path: Path, skeleton: Skeleton, pictures: list[Picture]) -> None:
    images = []
    for picture in pictures:
        people = []
        for number, one in enumerate(picture["persons"]):
            box, number = _plain(one["box"]), one["id"] if one["id"] >= 0 else number
            people.append({"id": number, "box": box, "area": 0.53 * box[2] * box[3], "joints": _points(one, 3)})
        images.append({"file": picture["image"], **_width_height(picture), "persons": people})
    write_json(path, {"skeleton": card(skeleton), "images": images})


def _write_coco(path: Path, skeleton: Skeleton, pictures: list[Picture]) -> None:
    limbs = [[a + 1, b + 1] for a, b in skeleton.limbs]
    images: list[dict] = []
    entries: list[dict] = []
    for number, picture in enumerate(pictures, 1):
        images.append({"id": number, "file_name": picture["image"], **_width_height(picture)})
        for one in picture["persons"]:
            box, points = _plain(one["box"]), _points(one, 3)
            entry = {"id": len(entries) + 1, "image_id": number, "category_id": 1, "iscrowd": 0, "bbox": box}
            entry |= {"area": 0.53 * box[2] * box[3], "num_keypoints": sum(v > 0 for *_, v in points)}
            entries.append(entry | {"keypoints": [value for point in points for value in point]})
    category = {"id": 1, "name": "person", "keypoints": skeleton.joints, "skeleton": limbs}
    write_json(path, {"images": images, "annotations": entries, "categories": [category]})


def _write_ultralytics(path: Path, skeleton: Skeleton, pictures: list[Picture]) -> None:
    notes = {"kpt_shape": [len(skeleton), 3], "flip_idx": skeleton.mirror.tolist(), "names": {0: "person"}}
    # JSON is YAML, but for its texts as keys
    write_text(path / "data.yaml", re.sub(r'"(\d+)":', r"\1:", json.dumps(notes | {"kpt_names": {0: skeleton.joints}})))
    for picture in pictures:
        scale, lines = np.array(_sized(picture)), []
        for one in picture["persons"]:
            x, y, w, h = np.array(one["box"]) / [*scale, *scale]
            points = np.nan_to_num((one["joints"][:, :2] + _HALF) / scale)
            joints = (f"{a:.6f} {b:.6f} {v:.0f}" for (a, b), v in zip(points, one["joints"][:, 3]))
            lines.append(f"0 {x + w / 2:.6f} {y + h / 2:.6f} {w:.6f} {h:.6f} {' '.join(joints)}\n")
        write_text(path / "labels" / f"{Path(picture['image']).stem}.txt", "".join(lines))


def _write_openpose(path: Path, skeleton: Skeleton, pictures: list[Picture]) -> None:
    for picture in pictures:
        people = [
            {"person_id": [p["id"]], "pose_keypoints_2d": np.ravel(_points(p, 2)).tolist()} for p in picture["persons"]
        ]
        write_json(path / f"{Path(picture['image']).stem}_keypoints.json", {"version": 1.3, "people": people})


def _write_mediapipe(path: Path, skeleton: Skeleton, pictures: list[Picture]) -> None:
    entries: list[dict] = []
    for picture in pictures:
        entries.append({"image": picture["image"], "size": _sized(picture).tolist(), "pose_landmarks": []})
        for one in picture["persons"]:
            rows = np.column_stack([(one["joints"][:, :2] + _HALF) / _sized(picture), one["joints"][:, 2]])
            pose = [dict(zip(("x", "y", "visibility"), row)) for row in np.nan_to_num(rows).tolist()]
            entries[-1]["pose_landmarks"].append(pose)
    write_json(path, entries)


def _write_deeplabcut(path: Path, skeleton: Skeleton, pictures: list[Picture]) -> None:
    most = max((len(p["persons"]) for p in pictures), default=1)
    columns = [(f"person{k}", j, c) for k in range(most) for j in skeleton.joints for c in ("x", "y", "likelihood")]
    rows: list[list] = [["scorer", *len(columns) * ["export"]]]
    rows += [[name, *head] for name, head in zip(("individuals", "bodyparts", "coords"), zip(*columns))]
    rows = rows if most > 1 else [rows[0], *rows[2:]]
    for picture in pictures:
        joints = [row for one in picture["persons"] for row in one["joints"][:, :3]]
        cells = [value for row in joints for value in (_plain(row) if np.isfinite(row).all() else 3 * [""])]
        rows.append([picture["image"], *cells, *(len(columns) - len(cells)) * [""]])
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    write_text(path, text.getvalue())


def _write_mmpose(path: Path, skeleton: Skeleton, pictures: list[Picture]) -> None:
    for picture in pictures:
        people = []
        for one in picture["persons"]:
            (x, y, w, h), points = one["box"], np.array(_points(one, 2))
            about = {"bbox": [[x, y, x + w, y + h]], "bbox_score": one["score"]}
            people.append(about | {"keypoints": points[:, :2], "keypoint_scores": points[:, 2]})
        write_json(path / f"{Path(picture['image']).stem}.json", people)


_NAMES = ("jsonl", "json", "coco", "ultralytics", "openpose", "mediapipe", "deeplabcut", "mmpose")
KINDS: dict[str, tuple[Callable, Callable]] = {n: (globals()[f"_read_{n}"], globals()[f"_write_{n}"]) for n in _NAMES}
_FIXED = {"openpose": OPENPOSE25, "mediapipe": MEDIAPIPE33}  # kinds whose joints are always these


def read(path: str | Path, kind: str, images: str | Path | None = None, skeleton: str | None = None) -> People:
    """The people of `path`. `images`: a folder where pictures of the files' names or stems lie, for sizes and suffixes;
    `skeleton`: a known one's name, for files that do not name their joints. DataError naming the file and what is wrong
    with it."""
    if not Path(path).exists():
        raise DataError(f"{path} does not exist; give the file or folder that --source {kind} means")
    asked = from_card(skeleton, "--skeleton") if skeleton else None
    remedy = "give --source the kind that it is"
    try:
        found, pictures = KINDS[kind][0](Path(path), asked)
    except (KeyError, TypeError, ValueError, IndexError, StopIteration, OSError) as error:
        why = f"{type(error).__name__}: {error}"
        raise DataError(f"{path} is not readable as {kind} ({why}); {remedy}") from error
    if odd := {len(one["joints"]) for _, _, people in pictures for one in people} - {len(found)}:
        what = f"persons of {odd.pop()} joints, and {found.name} has {len(found)}"
        raise DataError(f"{path} holds {what}; name the file's joints by --skeleton, or {remedy}")
    files = sorted(filter(is_picture, Path(images).rglob("*"))) if images else []
    known, made = {key: file for file in files for key in (file.stem, file.name)}, []
    for name, size, people in pictures:
        file = known.get(Path(name).name) or known.get(Path(name).stem)
        if file and images and not size:
            name, size = file.relative_to(images).as_posix(), image_size(file)
        made.append({"image": name, "size": tuple(size) if size else None, "persons": people})
        for one in people:
            if one.pop("shares", False):
                scale = _sized(made[-1])
                one["joints"][:, :2] = one["joints"][:, :2] * scale - _HALF
                one["box"] = one["box"] and (np.array(one["box"]) * np.tile(scale, 2)).tolist()
            if one["box"] is None or not np.isfinite(one["box"]).all():
                one["box"] = box_of_joints(one["joints"][None, :, :2])[0].tolist()
    return found, made


def write(path: str | Path, kind: str, people: People) -> None:
    """Write people in their skeleton, or the kind's own by joint name: joints that they do not have are not there."""
    source, pictures = people
    target, made = _FIXED.get(kind, source), []
    order = [source.joints.index(joint) if joint in source.joints else len(source) for joint in target.joints]
    for picture in pictures:
        joints = [np.vstack([one["joints"], [np.nan, np.nan, 0, 0]])[order] for one in picture["persons"]]
        made.append(picture | {"persons": [one | {"joints": j} for one, j in zip(picture["persons"], joints)]})
    KINDS[kind][1](Path(path), target, made)


def main(argv=None) -> int:
    """Exit code 0, or 2 with a message on bad input."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="python -m common.exchange", description=__doc__, formatter_class=form)
    parser.add_argument("path", metavar="SOURCE")
    parser.add_argument("out", metavar="TARGET")
    for end in ("source", "target"):
        parser.add_argument(f"--{end}", choices=KINDS, required=True, metavar="KIND", help=f"kind of the {end}")
    parser.add_argument("--images", metavar="FOLDER", help="pictures, where sizes or suffixes are needed")
    parser.add_argument("--skeleton", help="joints of a file that does not name them, such as coco17")
    args = parser.parse_args(argv)

    def work() -> str:
        people = read(args.path, args.source, args.images, args.skeleton)
        write(args.out, args.target, people)
        return f"{args.out}: {sum(len(p['persons']) for p in people[1])} persons in {len(people[1])} pictures"

    return exit_code(work, "{}")


if __name__ == "__main__":
    sys.exit(main())
