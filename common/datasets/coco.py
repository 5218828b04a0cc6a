"""COCO person keypoints (2014 and 2017) as the consortium publishes them, and other data in that layout.

`annotations/person_keypoints_{train,val}{2014,2017}.json` (or such files beside the images), images in `images/SPLIT/`
or `SPLIT/`. Coordinates are taken as stored (counted from 0). v: 0 not labelled, 1 labelled but occluded, 2 visible,
the same numbers as `visible`. Boxes x, y, w, h.

Splits: `train2017`, `val2017`, ... as the files are called; `train`, `val` (or `valid`) mean 2017, else 2014.

Every annotation of the category that has the skeleton is a row, whatever the file's id for it; those of others are left
out, which is said. Crowds and persons without a keypoint have `ignore` True: scoring sets them aside and training drops
them. `regions` covers every image of the split, those without a person included: image id -> list of RLE {size, counts,
iscrowd, id} of these same annotations, `id` being the row's `person_id`; the box where there is no segment. The RLE is
made when it is asked for, by pycocotools.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from common.datasets import files, record
from common.datasets.files import Row, column, short
from common.errors import DataError, DataWarning
from common.poses import PoseSet
from common.skeletons import COCO17, Skeleton

_PREFIX = "person_keypoints_"
_MOST_PIXELS = 2**30  # of a picture that OpenCV reads
_FAR = 1e5  # a polygon's coordinates: pycocotools takes memory for every pixel on its way
_OTHER_NAMES = {"head": ("head_top", "face"), "top_head": ("head_top",)}


class Regions(Mapping):
    """Image id -> RLE list of the crowds and unannotated persons in it, converted from polygons on demand."""

    def __init__(self, sizes: dict[int, tuple[int, int]], outlines: dict[int, list[dict]]) -> None:
        self._sizes, self._outlines = sizes, outlines

    def __len__(self) -> int:
        return len(self._sizes)

    def __iter__(self):
        return iter(self._sizes)

    def __getitem__(self, image_id) -> list[dict]:
        width, height = self._sizes[image_id]
        found = self._outlines.get(image_id, ())
        return [{**_rle(o["segment"], height, width), "iscrowd": o["iscrowd"], "id": o["id"]} for o in found]


def _rle(segment, height: int, width: int) -> dict:
    from pycocotools import mask

    if not isinstance(segment, list):
        return mask.frPyObjects(segment, height, width)
    polygons = [p for p in segment if len(p) >= 6]
    if not polygons:
        return mask.encode(np.zeros((height, width), np.uint8, order="F"))
    return mask.merge(mask.frPyObjects(polygons, height, width))


def load(root: str | Path, split: str, skeleton: Skeleton = COCO17, category: str | None = None) -> PoseSet:
    """One split of COCO keypoints, joints (N,17,2); `image_id` and `person_id` are COCO's image and annotation ids,
    `area` is the segment's. `skeleton`: the joints in the 17 places, where a converter put others. `category`: id,
    name.

    Images need not exist. Raises DataMissing or DataError.
    """
    root = Path(root)
    path = _find(root, split)
    year_split = path.stem.removeprefix(_PREFIX)
    folder = files.first_existing((root / "images", root), year_split) or root / "images"
    return read("coco", path, root, split, f"{folder}/{year_split}", skeleton, category)


def splits(root: Path) -> list[str]:
    """The keypoint files that are there."""
    paths = [p for folder in (root / "annotations", root) for p in folder.glob(_PREFIX + "*.json")]
    if not paths:
        raise files.missing("coco", root, f"annotations/{_PREFIX}val2017.json and the like")
    return sorted({p.stem.removeprefix(_PREFIX) for p in paths})


def _find(root: Path, split: str) -> Path:
    have = splits(root)
    official = record("coco").split(split)
    candidates = (split, official, official.replace("2017", "2014")) if official != split else (split,)
    wanted = next((s for s in candidates if s in have), None)
    if wanted is None:
        raise files.unknown_split("coco", split, ", ".join(have) + " (from the files in annotations/)")
    name = f"{_PREFIX}{wanted}.json"
    return next(p for p in (root / "annotations" / name, root / name) if p.exists())


def read(
    name: str, path: Path, root: Path, split: str, folder: str, skeleton: Skeleton, category: str | None, area=True
) -> PoseSet:
    """The PoseSet of an annotation file in COCO's layout; images are in `folder`. `area`: persons have one."""
    content = files.read_json(path)
    images = files.rows(path, content, "images")
    if not images:
        raise DataError(f"{path}: the list `images` is empty; without images there is nothing to train or score on")
    by_id = files.last_of_each(path, images, column(images, "id", whole=True).tolist())
    ids, images = list(by_id), list(by_id.values())
    size = dict(zip(ids, zip(*(column(images, f, whole=True).tolist() for f in ("width", "height")))))
    for (where, _), (w, h) in zip(images, size.values()):
        if min(w, h) < 1 or w * h > _MOST_PIXELS:
            raise DataError(f"{where}: width and height are {w} and {h}; write the picture's, in pixels")
    # extensions are missing in files that deepercut's AI Challenger converter wrote
    names = {k: n if Path(n).suffix else f"{n}.jpg" for k, n in zip(ids, files.texts(images, "file_name"))}
    persons, chosen = _persons(path, content, skeleton, category)
    n, joints = len(persons), len(skeleton)
    image_id, person_id = column(persons, "image_id", whole=True), column(persons, "id", whole=True)
    for (where, _), image in zip(persons, image_id.tolist()):
        if image not in size:
            raise DataError(f"{where}.image_id is {image}, which none of the {len(size)} images has")
    table = column(persons, "keypoints", (3 * joints,), default=[0] * 3 * joints).reshape(n, joints, 3)
    files.check_flags(persons, "keypoints", table[:, :, 2], (0, 1, 2))
    visible, box = table[:, :, 2].astype(np.int8), column(persons, "bbox", (4,))
    _compare_counts(persons, (visible > 0).sum(1))
    crowd = column(persons, "iscrowd", whole=True, default=0) != 0
    ignore = crowd | ~(visible > 0).any(1)
    outlines: dict[int, list[dict]] = {}
    for row in np.flatnonzero(ignore).tolist():
        where, person = persons[row]
        outline = {"iscrowd": int(crowd[row]), "id": int(person_id[row])}
        outline["segment"] = _segment(where, person, box[row], size[int(image_id[row])])
        outlines.setdefault(int(image_id[row]), []).append(outline)
    return record(name).pose_set(
        root, split, np.where(visible[..., None] > 0, table[:, :, :2], np.nan), visible, skeleton=skeleton,
        images=[f"{folder}/{names[i]}" for i in image_id.tolist()], image_id=image_id, person_id=person_id,
        box=box, area=_areas(persons) if area else np.full(n, np.nan),
        image_size=np.array([size[i] for i in image_id.tolist()], np.float64).reshape(n, 2), ignore=ignore,
        crowd=crowd, regions=Regions(size, outlines),
        paths={image: f"{folder}/{file}" for image, file in names.items()}, category=chosen,
    )  # fmt: skip


def _areas(persons: list[Row]) -> np.ndarray:
    try:
        return column(persons, "area")
    except DataError as error:
        what = f"{error}: the segment's"
        raise DataError(f"{what}, in square pixels (own data: 0.53 x width x height of the box)") from None


def _persons(path: Path, content: dict, skeleton: Skeleton, wanted: str | None) -> tuple[list[Row], int]:
    """The annotations of the category that holds the skeleton, and the file's id of it."""
    annotations = files.rows(path, content, "annotations")
    categories = files.rows(path, content, "categories") if content.get("categories") else []
    names = dict(zip(column(categories, "id", whole=True).tolist(), (str(c.get("name")) for _, c in categories)))
    joints = {k: c["keypoints"] for k, (_, c) in zip(names, categories) if c.get("keypoints")}
    # without any joint names, or categories at all, the annotations' own numbers
    found = column(annotations, "category_id", whole=True, default=next(iter(joints or names), 1))
    fitting = [k for k in joints if _fits(joints[k], skeleton)] or list(joints) or sorted({1} & set(found.tolist()))
    fitting = fitting or sorted(set(found.tolist())) or [1]
    listing = ", ".join(f"{k} ({names.get(k, 'no name')})" for k in sorted({*names, *found.tolist()}))
    if wanted is not None:
        fitting = [k for k in {*names, *found.tolist()} if wanted in (str(k), names.get(k))]
    if len(fitting) != 1:
        raise DataError(f"{path}: field categories has {listing}; choose with --category which are the persons")
    chosen = fitting[0]
    if chosen in joints and not _fits(joints[chosen], skeleton):
        given = joints[chosen] if isinstance(joints[chosen], list) else [joints[chosen]]
        what = f"field categories has the {len(given)} keypoints {', '.join(map(str, given))}"
        others = "the format `json` (common/README.md); deepercut_tf's ai2coco: its dataset_type aic"
        raise DataError(f"{path}: {what}; expected {', '.join(skeleton.joints)}. Other joint sets: {others}")
    if len(found) and chosen not in found:
        what = f"none of the {len(found)} annotations has category_id {chosen}, the skeleton's; the file has {listing}"
        raise DataError(f"{path}: {what}. Write that number")
    if (found != chosen).any():
        what = f"{(found != chosen).sum()} of the {len(found)} annotations are of other categories than {chosen}"
        warnings.warn(f"{path}: {what} and left out; the file has {listing}", stacklevel=4)
    return [row for row, k in zip(annotations, found.tolist()) if k == chosen], chosen


def _fits(names, skeleton: Skeleton) -> bool:
    """Whether a category's joint names are the skeleton's; mere numbers (k0, k1 ...) are taken for what was asked."""
    if not isinstance(names, list) or len(names) != len(skeleton):
        return False
    plain = [re.sub(r"[ -]", "_", str(n).strip().lower()) for n in names]
    same = all(n == joint or joint in _OTHER_NAMES.get(n, ()) for n, joint in zip(plain, skeleton.joints))
    return same or all(re.fullmatch(r"\D*\d+", n) for n in plain)


def _compare_counts(persons: list[Row], labelled: np.ndarray) -> None:
    """Warn where `num_keypoints` contradicts the keypoints, which count."""
    given = column(persons, "num_keypoints", whole=True, default=-1)
    wrong = np.flatnonzero((given >= 0) & (given != labelled))
    if len(wrong):
        where = f"{persons[wrong[0]][0]}.num_keypoints is {given[wrong[0]]}, its keypoints are {labelled[wrong[0]]}"
        warnings.warn(f"{where} ({len(wrong)} such annotations); the keypoints count", DataWarning, stacklevel=4)


def _segment(where: str, annotation: dict, box: np.ndarray, size: tuple[int, int]):
    """The polygons or RLE of an annotation, its box without any; DataError for anything else, on which pycocotools
    ends the process or takes whatever lies in memory. `size`: (width, height)."""
    found = annotation.get("segmentation")
    if found is None or found == []:
        (x, y), (right, below) = np.clip([box[:2], box[:2] + box[2:]], 0, size).tolist()
        return [[x, y, right, y, right, below, x, below]]
    if isinstance(found, list) and all(files.is_numbers(p) and max(map(abs, p)) <= _FAR for p in found):
        return found
    if isinstance(found, dict) and found.get("size") == [*size[::-1]]:
        runs = _runs(found.get("counts"))
        if runs and min(runs) >= 0 and sum(runs) == size[0] * size[1]:
            return {"counts": runs, "size": [*size[::-1]]}
    kinds = f"polygons [[x, y, x, y, ...], ...], RLE {{'counts', 'size': [{size[1]}, {size[0]}]}}, or none"
    raise DataError(f"{where}.segmentation is {short(found)}, in a picture of {size[0]} x {size[1]}; write {kinds}")


def _runs(counts) -> list[int]:
    """The run lengths of an RLE's `counts`, which may be pycocotools' text; none where it is something else."""
    if not isinstance(counts, str):
        return [int(n) for n in counts] if files.is_numbers(counts) and all(n == int(n) for n in counts) else []
    runs, number, shift = list[int](), 0, 0
    for character in counts:
        bits = ord(character) - 48
        number, shift = number | (bits & 31) << shift, shift + 5
        if not 0 <= bits < 64 or shift > 60:
            return []
        if not bits & 32:  # the number's end; its sign, and from the third on the difference to the one before the last
            runs.append(number - ((bits & 16) << shift - 4) + (runs[-2] if len(runs) > 2 else 0))
            number = shift = 0
    return runs
