"""`json`: the one simple format for a user's own data that common/README.md describes ("Your own data").

`root` is the file itself, or a folder with `SPLIT.json` or `annotations/SPLIT.json`. `image_id` is `file`; `regions`
lists every image, those without a person included.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from common.datasets import files, record
from common.datasets.files import Row, column, short
from common.errors import DataError
from common.poses import PoseSet, box_of_joints
from common.skeletons import Skeleton, from_card


def load(root: Path, split: str) -> PoseSet:
    """One file of the format above. A skeleton of the user's own lives in the PoseSet (and in prediction files) alone.

    Raises DataMissing, or DataError naming file, field and remedy. Images need not exist.
    """
    path = _find(root, split)
    content = files.read_json(path)
    images = files.rows(path, content, "images")
    names = files.texts(images, "file")
    skeleton = from_card(content.get("skeleton"), f"{path}: field skeleton")
    people, image_of = [], []
    for image, (where, entry) in enumerate(images):
        found = files.rows(where, {"persons": [], **entry}, "persons")
        people += [(name, {"id": k, **row}) for k, (name, row) in enumerate(found)]
        image_of += [image] * len(found)
    table = [{"joints": _points(where, person.get("joints"), skeleton)} for where, person in people]
    points = column([(where, row) for (where, _), row in zip(people, table)], "joints", (len(skeleton), 3))
    visible = points[:, :, 2].astype(np.int8)
    joints = np.where(visible[..., None] > 0, points[:, :, :2], np.nan)
    box, boxed = box_of_joints(joints), [i for i, (_, person) in enumerate(people) if person.get("box") is not None]
    box[boxed] = column([people[i] for i in boxed], "box", (4,))
    sizes = [_optional(images, field) for field in ("width", "height")]
    for where, person in people:
        files.fit(person, {"ignore?": bool}, f"{where}.")
    ignore = np.array([person.get("ignore", False) for _, person in people], bool)
    base = path.parent.parent if path.parent.name == "annotations" and path.parent != root else path.parent
    return record("json").pose_set(
        root, split, joints, visible, skeleton=skeleton, images=[f"{base}/{names[i]}" for i in image_of],
        image_id=np.array([names[i] for i in image_of], dtype=str), person_id=column(people, "id", whole=True),
        box=box, head_size=_optional(people, "head_size"), area=_optional(people, "area"),
        image_size=None if sizes[0] is None or sizes[1] is None else np.stack(sizes, 1)[image_of],
        ignore=ignore if ignore.any() else None, regions={name: [] for name in names},
        paths={name: f"{base}/{name}" for name in names}, sigmas=_sigmas(path, content, skeleton),
        synthetic=files.is_synthetic(root, base),
    )  # fmt: skip


def splits(root: Path) -> list[str]:
    """The names of the JSON files that are there."""
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


def _points(where: str, points, skeleton: Skeleton) -> list:
    """Rows x, y, v of a person's joints as its JSON has them; zeros for one that is not labelled."""
    if not isinstance(points, list) or len(points) != len(skeleton):
        found = len(points) if isinstance(points, list) else "no"
        what = f"has {found} joints, skeleton {skeleton.name} has {len(skeleton)}; write null for one without label"
        raise DataError(f"{where}.joints {what}")
    table = []
    for name, point in zip(skeleton.joints, points):
        row = [0, 0, 0] if point is None else [*point, 2] if isinstance(point, list) and len(point) == 2 else point
        if isinstance(row, list) and len(row) == 3 and row[2] == 0:
            row = [0, 0, 0]  # whatever stands for the place of a joint without label
        if not files.is_numbers(row, 3) or row[2] not in (0, 1, 2):
            what = "neither [x, y, v] with v in 0, 1, 2, nor [x, y], nor null"
            raise DataError(f"{where}.joints, {name}: {short(point)} is {what}")
        table.append(row)
    return table


def _optional(rows: list[Row], field: str) -> np.ndarray | None:
    """A number per row, None when no row has it; DataError when only some have."""
    having = [field in item for _, item in rows]
    if any(having) and not all(having):
        raise DataError(f"{rows[having.index(False)][0]} has no {field}, others have; give it everywhere or nowhere")
    return column(rows, field) if any(having) else None


def _sigmas(path: Path, content: dict, skeleton: Skeleton) -> np.ndarray | None:
    if content.get("sigmas") is None:
        return None
    sigmas = column([(str(path), content)], "sigmas", (len(skeleton),))[0]
    if (sigmas <= 0).any():
        raise DataError(f"{path}.sigmas holds a number that is not positive; write one such as 0.05 for every joint")
    return sigmas
