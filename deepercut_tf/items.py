"""What a data set is here: a list of images, each with all its annotated persons (no framework, no pixels).

`.mat` files in the original's layout (dataset_type default, mpii, penn_action) or a folder that common.datasets reads.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from common import datasets
from common.datasets import coco, files
from common.errors import DataError, DataMissing
from common.images import read_image
from common.poses import PoseSet
from common.runs.shelf import data_folder
from common.skeletons import AIC14, MPII14, PENN13, Skeleton, skeleton_map
from deepercut_tf.config import PREPARED, Config, require
from deepercut_tf.joints import AIC17, NETWORK_SKELETONS, skeleton_of_settings, with_joints

# x' = width - x + shift of a mirrored image, as the original's three data sets have it
_COMPAT_SHIFT = {"mpii": 0, "penn_action": 1}


@dataclass(frozen=True)
class Item:
    """One image; a person is rows (id, x, y), counted from 0 (mode compat: as in the file)."""

    image: str
    image_id: object
    persons: list[np.ndarray]
    size: tuple[int, int] | None = None  # height, width
    crop: np.ndarray | None = None  # (4,) x1, y1, x2, y2, counted from 1, inclusive
    rows: tuple[int, ...] = ()  # rows of the PoseSet


@dataclass
class ItemSet:
    """The images of a data set. `mirror_shift`: see `joints.mirror_joints`."""

    items: list[Item]
    skeleton: Skeleton
    mirror_shift: int = -1
    synthetic: bool = False
    root: str = ""
    pose_set: PoseSet | None = None
    unreadable: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.items)

    def read(self, item: Item) -> np.ndarray | None:
        """The picture, (H,W,3) uint8 BGR; None, which is warned of and noted, when it cannot be read."""
        try:
            return read_image(item.image)
        except DataError as error:
            self.note(item, error)
            return None

    def note(self, item: Item, error: DataError) -> None:
        """Warn of a picture that cannot be read, once."""
        if item.image not in self.unreadable:
            self.unreadable.append(item.image)
            print(f"warning: left out: {error}", file=sys.stderr)

    def pictures(self, what: str) -> Iterator[tuple[int, Item, np.ndarray]]:
        """Number, item and picture of all that can be read, with a bar; the others are named at the end."""
        for number, item in enumerate(tqdm(self.items, desc=what, unit="image", disable=None)):
            image = self.read(item)
            if image is not None:
                yield number, item, image
        self.say_unreadable()

    def say_unreadable(self) -> None:
        """Name the pictures that could not be read, at the end of the work."""
        if self.unreadable:
            named = ", ".join(self.unreadable[:5]) + (", ..." if len(self.unreadable) > 5 else "")
            print(f"warning: {len(self.unreadable)} of {len(self)} pictures were unreadable: {named}", file=sys.stderr)

    def regions(self, item: Item) -> list[dict]:
        """RLE {size, counts, iscrowd, ...} of the unannotated people and crowds of an image."""
        known = self.pose_set.regions if self.pose_set is not None else None
        return known[item.image_id] if known and item.image_id in known else []


def load_items(config: Config) -> tuple[ItemSet, Config]:
    """The images of the training split, and the settings with the data set's joint set. DataMissing or DataError."""
    path = config.data_path
    if config.dataset == "default":
        require(config, "data_root", why="a data set of one's own")
    if path.suffix == ".mat" or config.dataset == "default":
        found = _load_prepared(path, config)
    else:
        pose_set = load_pose_set(config, config.train_split or "train")
        skeleton = NETWORK_SKELETONS.get(config.dataset, pose_set.skeleton)
        found = items_of(pose_set, skeleton, config.coco_only_images_with_people)
    joint_set = config if config.dataset == "default" else with_joints(config, found.skeleton)
    if config.data_range:
        first, last = config.data_range
        found = replace(found, items=found.items[int(first) : int(last)])
    if config.limit is not None:
        persons = np.cumsum([max(len(item.persons), 1) for item in found.items])
        found = replace(found, items=found.items[: int(np.searchsorted(persons, config.limit)) + 1])
    if not found.items:
        raise DataError(f"{path}: no image (split {config.train_split}, data_range {config.data_range})")
    return found, joint_set


# ---- folders ---------------------------------------------------------------------------------------------------------


def load_pose_set(config: Config, split: str) -> PoseSet:
    """A split of a folder's data set; of `aic`, ai2coco's file, with the 14 joints that AI Challenger's metric wants.
    DataError for .mat files, which hold no such rows, and for files of other joints."""
    path = config.data_path
    if path.suffix == ".mat" or config.dataset == "default":
        raise DataError("val.py scores a data set's folder, --dataset NAME; test.py and eval_pck.py are for .mat files")
    if config.dataset != "aic":
        return datasets.load(config.dataset, path, split)
    found = coco.load(path.absolute(), split, AIC17)
    joints, visible = skeleton_map(AIC17, AIC14).apply(found.joints, found.visible)
    return replace(found, name="ai_challenger", skeleton=AIC14, joints=joints, visible=visible)


def items_of(pose_set: PoseSet, skeleton: Skeleton, only_people: bool = False) -> ItemSet:
    """The persons of a PoseSet by image, without ignored rows; images without one come from its `regions`, unless
    `only_people` are wanted. Joints are those of `skeleton`, the network's: of MPII's 16 the original's 14."""
    joints, visible = skeleton_map(pose_set.skeleton, skeleton).apply(pose_set.joints, pose_set.visible)
    present, counted, regions = visible > 0, pose_set.counted, pose_set.regions or {}
    by_image: dict[object, list[int]] = {} if only_people else {image_id: [] for image_id in regions}
    for row, image_id in enumerate(pose_set.image_id.tolist()):
        by_image.setdefault(image_id, []).append(row)
    items = []
    for image_id, rows in by_image.items():
        if only_people:
            crowds = {region["id"] for region in regions.get(image_id, ()) if region.get("iscrowd")}
            if all(int(pose_set.person_id[row]) in crowds for row in rows):
                continue
        persons = [
            np.concatenate([np.flatnonzero(present[row])[:, None], joints[row, present[row]]], axis=1)
            for row in rows
            if counted[row] and present[row].any()
        ]
        size = None
        if rows and pose_set.image_size is not None:
            width, height = pose_set.image_size[rows[0]]
            size = int(height), int(width)
        path = pose_set.images[rows[0]] if rows else (pose_set.paths or {})[image_id]
        items.append(Item(path, image_id, persons, size, _box_as_crop(pose_set, rows), tuple(rows)))
    return ItemSet(items, skeleton, synthetic=pose_set.synthetic, root=pose_set.root, pose_set=pose_set)


def _box_as_crop(pose_set: PoseSet, rows: list[int]) -> np.ndarray | None:
    """The only person's box in the form of the .mat files' crop; None with no person or several, or without a box."""
    if len(rows) != 1 or not np.isfinite(pose_set.box[rows[0]]).all():
        return None
    x, y, w, h = pose_set.box[rows[0]]
    return np.floor([x, y, x + w, y + h]) + 1


# ---- .mat files in the original's layout -----------------------------------------------------------------------------


def _load_prepared(path: Path, config: Config) -> ItemSet:
    if config.dataset not in PREPARED:
        kinds = ", ".join(PREPARED)
        raise DataError(f"data set {config.dataset} is a folder, not {path}; .mat files are (dataset_type) {kinds}")
    if not path.is_file():
        raise _missing_file(path, config.dataset)
    skeleton = {"mpii": MPII14, "penn_action": PENN13}.get(config.dataset) or skeleton_of_settings(config)
    content = files.read_mat(path)
    if "dataset" not in content or content["dataset"].dtype.names is None:
        raise DataError(f"{path} has no struct array `dataset`, the original's layout (image, size, joints)")
    # the original's MATLAB wrote coordinates from 1 for these two; our prepare_mpii.py says what it wrote
    origin = np.ravel(content.get("origin", int(config.dataset != "default"))).tolist()
    if origin not in ([0], [1]):
        raise DataError(f"{path}: field origin is {origin}; it must be 0 or 1, where its coordinates begin")
    shift = -int(origin[0]) if config.mode == "correct" else 0
    rows, names = content["dataset"].ravel(), content["dataset"].dtype.names
    items = [_prepared_item(path, i, row, names, len(skeleton), shift, config) for i, row in enumerate(rows)]
    mirror_shift = _COMPAT_SHIFT.get(config.dataset, -1) if config.mode == "compat" else -1
    return ItemSet(items, skeleton, mirror_shift, files.is_synthetic(path.parent), str(path))


def _missing_file(path: Path, dataset: str) -> DataMissing:
    if dataset == "default":
        return DataMissing(f"{path} does not exist; write one as README.md describes, or use another data set")
    root = data_folder(None, dataset)
    there = "" if root.exists() else f"{files.missing(dataset, root, 'its files')}, then: "
    make = "python deepercut_tf/prepare_mpii.py" if dataset == "mpii" else "write it as README.md describes:"
    return DataMissing(f"{path} does not exist. {there}{make} {root} {path.parent}; or give --data_root {root}")


def _prepared_item(path: Path, index: int, row, names, joints: int, shift: int, config: Config) -> Item:
    try:
        image = Path(*(str(part).strip() for part in np.ravel(row["image"])))  # DeepLabCut's are in parts
        _, height, width = (int(v) for v in np.ravel(row["size"]))
        crop = np.ravel(row["crop"]).astype(np.float64) if "crop" in names else None
        people = [np.asarray(cell) for cell in np.ravel(row["joints"])] if "joints" in names else []
    except (IndexError, OverflowError, TypeError, ValueError) as error:
        fields = "image, size [3,h,w], joints {n x 3}"
        raise DataError(f"{path}: entry {index} of `dataset` cannot be read ({error}); fields are {fields}") from error
    people = people[:1] if config.mode == "compat" else people
    persons = [_person(path, index, cell, joints, shift) for cell in people if cell.size]
    places = (place / image for place in (Path(), *path.absolute().parents))
    where = next((place for place in places if place.is_file()), path.parent / image)
    return Item(str(where), index, persons, (height, width), crop)


def _person(path: Path, index: int, cell: np.ndarray, joints: int, shift: int) -> np.ndarray:
    if cell.ndim != 2 or cell.shape[1] != 3 or cell.dtype.kind not in "iuf" or not np.isfinite(cell).all():
        raise DataError(f"{path}: entry {index}, field joints: expected (n,3) numbers, joint id, x, y")
    table = cell.astype(np.float64)
    if not np.isin(table[:, 0], np.arange(joints)).all():
        what = f"id outside 0..{joints - 1}; check num_joints and the ids (from 0)"
        raise DataError(f"{path}: entry {index}, field joints: {what}")
    table[:, 1:] += shift
    return table
