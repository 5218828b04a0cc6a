"""What a data set is here: a list of images, each with all its annotated persons (no framework, no pixels).

`.mat` files in the original's layout (dataset_type default, mpii, penn_action) or a folder that common.datasets reads.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from common import datasets
from common.datasets import coco, files
from common.errors import DataError, DataMissing
from common.poses import PoseSet
from common.runs.shelf import data_folder
from common.skeletons import AIC14, COCO17, MPII14, PENN13, Skeleton, skeleton_map
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
    sequence: int | None = None
    frame: int | None = None
    rows: tuple[int, ...] = ()  # rows of the PoseSet


@dataclass
class ItemSet:
    """The images of a data set. `has_truth`: whether it is annotated. `mirror_shift`: see `joints.mirror_joints`."""

    items: list[Item]
    skeleton: Skeleton
    has_truth: bool = True
    mirror_shift: int = -1
    synthetic: bool = False
    root: str = ""
    pose_set: PoseSet | None = None
    sequences: list[list[int]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.items)

    def regions(self, item: Item) -> list[dict]:
        """RLE {size, counts, iscrowd, ...} of the unannotated people and crowds of an image."""
        found = (self.pose_set.regions or {}) if self.pose_set is not None else {}
        return found[item.image_id] if item.image_id in found else []


def load_items(config: Config, announce=print) -> tuple[ItemSet, Config]:
    """The images of the training split, and the settings with the data set's joint set.

    DataMissing (official source and stand-in command) when it is not there, DataError naming file and field when it is
    damaged.
    """
    path = config.data_path
    if config.dataset == "default":
        require(config, "data_root", why="a data set of one's own")
    if config.dataset in ("coco", "aic") and config.dataset_ann == "image_info":
        found = _image_info(path, config)
    elif path.suffix == ".mat" or config.dataset == "default":
        found = _load_prepared(path, config)
    else:
        pose_set = load_pose_set(config, config.train_split or "train")
        skeleton = NETWORK_SKELETONS.get(config.dataset, pose_set.skeleton)
        found = items_of(pose_set, skeleton, config.coco_only_images_with_people)
    joint_set = config if config.dataset == "default" else with_joints(config, found.skeleton, announce)
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
    """A split of a folder's data set. `aic` is ai2coco's file in COCO's layout with AI Challenger's 14 joints, as its
    metric wants them.

    DataError for .mat files, which hold no such rows, and for files of other joints.
    """
    path = config.data_path
    if path.suffix == ".mat" or config.dataset == "default":
        raise DataError(
            "val.py scores a data set's folder, --dataset NAME; for .mat files take test.py and eval_pck.py"
        )
    if config.dataset != "aic":
        return datasets.load(config.dataset, path, split)
    found = coco.load(path.absolute(), split, AIC17)
    joints, visible = skeleton_map(AIC17, AIC14).apply(found.joints, found.visible)
    return replace(found, name="ai_challenger", skeleton=AIC14, joints=joints, visible=visible)


def items_of(pose_set: PoseSet, skeleton: Skeleton, only_people: bool = False) -> ItemSet:
    """Group the persons of a PoseSet by image; images without a person come from its `regions`, unless `only_people`
    are wanted.

    Ignored rows are no persons. Joints are those of `skeleton`, the network's: of MPII's 16 the original's 14.
    """
    joints, visible = skeleton_map(pose_set.skeleton, skeleton).apply(pose_set.joints, pose_set.visible)
    ignore = pose_set.ignore if pose_set.ignore is not None else np.zeros(len(pose_set), bool)
    by_image: dict[object, list[int]] = {}
    if pose_set.regions is not None and not only_people:
        by_image = {image_id: [] for image_id in pose_set.regions}
    for row, image_id in enumerate(pose_set.image_id.tolist()):
        by_image.setdefault(image_id, []).append(row)
    items = []
    for image_id, rows in by_image.items():
        crowd_only = rows and pose_set.regions is not None and _crowds_only(pose_set, image_id, rows)
        if only_people and (not rows or crowd_only):
            continue
        people = [_rows_of(joints[row], visible[row]) for row in rows if not ignore[row] and (visible[row] > 0).any()]
        size = pose_set.image_size[rows[0]] if rows and pose_set.image_size is not None else None
        path = pose_set.images[rows[0]] if rows else (pose_set.paths or {})[image_id]
        shape = None if size is None else (int(size[1]), int(size[0]))
        items.append(Item(path, image_id, people, shape, _box_as_crop(pose_set, rows), rows=tuple(rows)))
    return ItemSet(items, skeleton, synthetic=pose_set.synthetic, root=pose_set.root, pose_set=pose_set)


def _box_as_crop(pose_set: PoseSet, rows: list[int]) -> np.ndarray | None:
    """The only person's box in the form of the .mat files' crop; None with no person or several, or without a box."""
    if len(rows) != 1 or pose_set.box is None or not np.isfinite(pose_set.box[rows[0]]).all():
        return None
    x, y, w, h = pose_set.box[rows[0]]
    return np.floor([x, y, x + w, y + h]) + 1


def _crowds_only(pose_set: PoseSet, image_id, rows: list[int]) -> bool:
    crowds = {r["id"] for r in (pose_set.regions or {})[image_id] if r.get("iscrowd")}
    return bool(crowds) and all(int(pose_set.person_id[row]) in crowds for row in rows)


def _rows_of(joints: np.ndarray, visible: np.ndarray) -> np.ndarray:
    present = np.flatnonzero(visible > 0)
    return np.concatenate([present[:, None], joints[present]], axis=1).astype(np.float64)


def _image_info(root: Path, config: Config) -> ItemSet:
    """COCO's image_info files: pictures without annotations."""
    split = config.train_split or "train"
    path = root / "annotations" / f"image_info_{split}.json"
    if not path.is_file():
        raise files.missing("coco", root, f"annotations/{path.name}")
    content, folder = files.read_json(path), files.first_existing((root / "images", root), split) or root / "images"
    try:
        listed = [(i["file_name"], i["id"], (int(i["height"]), int(i["width"]))) for i in content["images"]]
        items = [Item(f"{folder}/{split}/{name}", image_id, [], size) for name, image_id, size in listed]
    except (KeyError, TypeError) as error:
        raise DataError(f"{path}: field images lacks {error}; take the image_info file as COCO publishes it") from error
    skeleton = AIC17 if config.dataset == "aic" else COCO17
    return ItemSet(items, skeleton, has_truth=False, synthetic=files.is_synthetic(root), root=str(root))


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
    origin = int(content["origin"].ravel()[0]) if "origin" in content else int(config.dataset != "default")
    shift = -origin if config.mode == "correct" else 0
    rows, names = content["dataset"].ravel(), content["dataset"].dtype.names
    items = [_prepared_item(path, i, row, names, len(skeleton), shift, config) for i, row in enumerate(rows)]
    mirror_shift = _COMPAT_SHIFT.get(config.dataset, -1) if config.mode == "compat" else -1
    sequences, synthetic = _sequences(content) if config.video_batch else [], files.is_synthetic(path.parent)
    return ItemSet(items, skeleton, "joints" in names, mirror_shift, synthetic, str(path), sequences=sequences)


def _missing_file(path: Path, dataset: str) -> DataMissing:
    if dataset == "default":
        return DataMissing(f"{path} does not exist; write one as README.md describes, or use another data set")
    root = data_folder(None, dataset)
    there = "" if root.exists() else f"{files.missing(dataset, root, 'its files')}, then: "
    make = "python deepercut_tf/prepare_mpii.py" if dataset == "mpii" else "write it as README.md describes:"
    return DataMissing(f"{path} does not exist. {there}{make} {root} {path.parent}; or give --data_root {root}")


def _prepared_item(path: Path, index: int, row, names, joints: int, shift: int, config: Config) -> Item:
    try:
        image = str(np.ravel(row["image"])[0])
        _, height, width = (int(v) for v in np.ravel(row["size"]))
        crop = np.ravel(row["crop"]).astype(np.float64) if "crop" in names else None
        people = [np.asarray(cell) for cell in np.ravel(row["joints"])] if "joints" in names else []
    except (IndexError, ValueError) as error:
        fields = "image, size [3,h,w], joints {n x 3}"
        raise DataError(f"{path}: entry {index} of `dataset` cannot be read ({error}); fields are {fields}") from error
    people = people[:1] if config.mode == "compat" else people
    persons = [_person(path, index, cell, joints, shift) for cell in people if cell.size]
    number = {k: int(np.ravel(row[k])[0]) if k in names else None for k in ("seq_id", "frame_id")}
    where = image if Path(image).is_absolute() or Path(image).exists() else str(path.parent / image)
    return Item(where, index, persons, (height, width), crop, number["seq_id"], number["frame_id"])


def _person(path: Path, index: int, cell: np.ndarray, joints: int, shift: int) -> np.ndarray:
    if cell.ndim != 2 or cell.shape[1] != 3:
        raise DataError(f"{path}: entry {index}, field joints: shape {cell.shape}, expected (n,3) = joint id, x, y")
    table = cell.astype(np.float64)
    if table[:, 0].min() < 0 or table[:, 0].max() >= joints:
        what = f"id outside 0..{joints - 1}; check num_joints and the ids (from 0)"
        raise DataError(f"{path}: entry {index}, field joints: {what}")
    table[:, 1:] += shift
    return table


def _sequences(content: dict) -> list[list[int]]:
    if "sequences" not in content:
        raise DataError("video_batch needs the variable `sequences` (lists of image numbers) in the .mat file")
    return [np.ravel(cell).astype(int).tolist() for cell in np.ravel(content["sequences"])]
