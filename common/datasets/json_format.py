"""`json`: one simple format for a user's own data.

    {
      "skeleton": {"name": "horse", "joints": ["nose", "left_front_hoof", "right_front_hoof", ...],
                   "limbs": [["nose", "left_front_hoof"], ...]},
      "images": [
        {"file": "pictures/a.jpg",
         "persons": [{"joints": [[x, y, v], ..., null], "box": [x, y, w, h]}]}
      ]
    }

`skeleton` is that, or the name of a known one ("coco17", "lsp14", ...). Joint names that begin with left_ and right_ (the person's own
side) are each other's mirror image; a skeleton without sides is its own. `limbs`, for drawing, is optional: pairs of joint names or of
indices counted from 0. A person's `joints` stand in the skeleton's order: [x, y, v], [x, y] (the same as v = 2) or null (not
labelled); v is 0 not labelled, 1 occluded, 2 visible. Coordinates are pixels counted from 0. Optional, for all persons or none:
`head_size` (pixels), `area` (square pixels). Optional per person: `box` (tight around the joints otherwise), `id` (its place in the image
otherwise), `ignore` (true: no metric counts it). Optional for all images or none: `width` and `height`. `file` is relative to the folder
of the JSON file and is the `image_id`.

`root` is the file itself, or a folder with `SPLIT.json` or `annotations/SPLIT.json`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from common.datasets import files
from common.datasets.about import DataSet
from common.errors import DataError
from common.poses import PoseSet, box_of_joints
from common.skeletons import Skeleton, from_card


def load(root: str | Path, split: str) -> PoseSet:
    """One file of the format above. A skeleton of the user's own lives in the PoseSet (and in prediction files) alone.

    Raises DataMissing, or DataError naming file, field and remedy. Images need not exist.
    """
    root = Path(root)
    path = _find(root, split)
    content = files.read_json(path)
    images = content.get("images") if isinstance(content, dict) else None
    if not isinstance(images, list):
        raise DataError(f"{path}: no list `images`; the format is described in common/datasets/json_format.py")
    skeleton = from_card(content.get("skeleton"), f"{path}: field skeleton")
    rows = [
        (i, k, image, person) for i, image in enumerate(images) for k, person in enumerate(_persons(path, i, image))
    ]
    table = np.array(
        [_joints(path, f"images[{i}].persons[{k}]", person, skeleton) for i, k, _, person in rows], np.float64
    ).reshape(len(rows), len(skeleton), 3)
    visible = table[:, :, 2].astype(np.int8)
    joints = np.where(visible[..., None] > 0, table[:, :, :2], np.nan)
    persons = [(f"{path}: images[{i}].persons[{k}]", person) for i, k, _, person in rows]
    sizes = [(f"{path}: images[{i}]", image) for i, _, image, _ in rows]
    width, height = _optional(sizes, "width"), _optional(sizes, "height")
    ignore = np.array([bool(person.get("ignore", False)) for _, person in persons], bool)
    base = path.parent.parent if path.parent.name == "annotations" and path.parent != root else path.parent
    return PoseSet(
        name="json",
        skeleton=skeleton,
        split=split,
        images=[f"{base}/{image['file']}" for _, _, image, _ in rows],
        image_id=np.array([image["file"] for _, _, image, _ in rows], dtype=str),
        person_id=np.array(
            [_number(where, "id", person.get("id", k)) for (where, person), (_, k, _, _) in zip(persons, rows)],
            np.int64,
        ),
        joints=joints,
        visible=visible,
        box=_boxes(persons, joints),
        head_size=_optional(persons, "head_size"),
        area=_optional(persons, "area"),
        image_size=None if width is None or height is None else np.stack([width, height], axis=1),
        ignore=ignore if ignore.any() else None,
        synthetic=files.is_synthetic(root, base),
        root=str(root),
    )


def splits(root: str | Path) -> list[str]:
    """The names of the JSON files that are there."""
    root = Path(root)
    if root.is_file():
        return [root.stem]
    found = sorted(p.stem for folder in (root, root / "annotations") for p in folder.glob("*.json"))
    if not found:
        raise files.missing("json", root, "SPLIT.json or annotations/SPLIT.json")
    return found


def _find(root: Path, split: str) -> Path:
    if root.is_file():
        return root
    folder = files.first_existing((root, root / "annotations"), f"{split}.json")
    if folder is None:
        raise files.unknown_split("json", split, ", ".join(splits(root)) + f" (from the .json files in {root})")
    return folder / f"{split}.json"


def _persons(path: Path, index: int, image) -> list:
    if not isinstance(image, dict) or not isinstance(image.get("file"), str):
        raise DataError(
            f"{path}: images[{index}] has no text `file`; write the image's path, relative to the JSON file"
        )
    persons = image.get("persons", [])
    if not isinstance(persons, list) or not all(isinstance(p, dict) for p in persons):
        raise DataError(f"{path}: images[{index}].persons is not a list of objects")
    return persons


def _joints(path: Path, where: str, person: dict, skeleton: Skeleton) -> list:
    points = person.get("joints")
    if not isinstance(points, list) or len(points) != len(skeleton):
        found = len(points) if isinstance(points, list) else "no"
        raise DataError(
            f"{path}: {where}.joints has {found} joints, skeleton {skeleton.name} has {len(skeleton)}; write null for one without label"
        )
    table = []
    for name, point in zip(skeleton.joints, points):
        row = (
            [np.nan, np.nan, 0]
            if point is None
            else [*point, 2]
            if isinstance(point, list) and len(point) == 2
            else point
        )
        try:
            x, y, v = map(float, row)
        except (TypeError, ValueError):
            x = y = v = np.nan
        if v not in (0, 1, 2) or (v > 0 and not (np.isfinite(x) and np.isfinite(y))):
            raise DataError(
                f"{path}: {where}.joints, {name}: {point} is neither [x, y, v] with v in 0, 1, 2, nor [x, y], nor null"
            )
        table.append((x, y, v))
    return table


def _number(where: str, field: str, value) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not np.isfinite(value):
        raise DataError(f"{where}.{field} is {value!r}; write a number")
    return value


def _optional(rows: list[tuple[str, dict]], field: str) -> np.ndarray | None:
    """A number per row, None when no row has it; DataError when only some have."""
    having = [field in item for _, item in rows]
    if not any(having):
        return None
    if not all(having):
        raise DataError(f"{rows[having.index(False)][0]} has no {field}, others have; give it everywhere or nowhere")
    return np.array([_number(where, field, item[field]) for where, item in rows], np.float64)


def _boxes(persons: list[tuple[str, dict]], joints: np.ndarray) -> np.ndarray:
    box = box_of_joints(joints)
    for row, (where, person) in enumerate(persons):
        given = person.get("box")
        if given is not None:
            if not isinstance(given, list) or len(given) != 4:
                raise DataError(f"{where}.box is {given!r}; write [x, y, w, h]")
            box[row] = [_number(where, "box", value) for value in given]
    return box


RECORDS = {
    "json": DataSet(
        name="json",
        skeleton=None,
        origin=0,
        source="Write your own in the format that common/datasets/json_format.py describes",
        terms="your own",
        splits={},
        published="",
        crops="as the file gives them",
        measures="""pck_box@0.2 pck_torso@0.2 auc_torso pckh@0.5 pckh@0.1 pckh_neck@0.5 pckh_neck_symmetric@0.5
 pcp_strict@0.5 pcp_relaxed@0.5 pdj@0.2 oks_ap""",
        load=load,
        list_splits=splits,
        many_persons=True,
        by_image=True,
    )
}
