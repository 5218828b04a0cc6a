"""PoseSet -> persons with centre and scale, by the originals' rules. No framework."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.errors import DataError
from common.images import image_sizes
from common.poses import PoseSet
from common.skeletons import Skeleton
from simplebaseline_paddle.config import BOX_PADDING, PIXEL_STD, Config


@dataclass(frozen=True)
class Person:
    """Where one person is in an image: `center` (2,), `scale` (2,), `joints` (K,2), `seen` (K,) bool."""

    center: np.ndarray
    scale: np.ndarray
    joints: np.ndarray
    seen: np.ndarray

    def mirrored(self, width: int, skeleton: Skeleton) -> Person:
        """The same person in the mirrored image of `width` pixels; unlabelled joints go to 0."""
        seen = self.seen[skeleton.mirror]
        joints = np.where(seen[:, None], self.joints[skeleton.mirror], 0.0)
        joints[:, 0] = np.where(seen, width - 1 - joints[:, 0], 0.0)
        return Person(np.array([width - 1 - self.center[0], self.center[1]]), self.scale, joints, seen)


@dataclass(frozen=True)
class Records:
    """M persons to look at. Coordinates 0-based image pixels; `scale` in units of 200 pixels, padding included."""

    images: list[str]  # (M,)
    image_id: np.ndarray  # (M,)
    rows: np.ndarray  # (M,) row of the PoseSet, -1 for a detection
    center: np.ndarray  # (M,2)
    scale: np.ndarray  # (M,2)
    joints: np.ndarray  # (M,K,2), 0 where not labelled
    seen: np.ndarray  # (M,K) bool
    box_score: np.ndarray  # (M,)
    note: str  # which boxes these are, for every result

    def __len__(self) -> int:
        return len(self.images)

    def person(self, index: int) -> Person:
        """One of them."""
        return Person(self.center[index], self.scale[index], self.joints[index], self.seen[index])

    @property
    def box(self) -> np.ndarray:
        """(M,4) x, y, w, h of the padded boxes, whose area OKS-NMS uses."""
        side = self.scale * PIXEL_STD
        return np.concatenate([self.center - side / 2, side], axis=1).astype(np.float64)


def records_for(pose_set: PoseSet, config: Config) -> Records:
    """Whom `config.boxes` asks for: selected, annotated, whole, or a file's. DataError when there are none."""
    if config.boxes == "whole":
        records = from_images(pose_set, config)
    elif config.boxes not in ("selected", "annotated"):
        records = from_detections(pose_set, Path(config.boxes), config)
    elif pose_set.name == "mpii":
        records = from_mpii(pose_set, config)
    else:
        records = from_boxes(pose_set, config)
    if not len(records):
        where = f"{pose_set.root}: split {pose_set.split} of {pose_set.name}"
        raise DataError(f"{where} has no person to look at; choose another --split or --boxes")
    return records


def _labelled(pose_set: PoseSet, rows: np.ndarray, note: str, center: np.ndarray, scale: np.ndarray) -> Records:
    joints, seen = np.nan_to_num(pose_set.joints[rows], nan=0.0), pose_set.visible[rows] > 0
    images, score = [pose_set.images[i] for i in rows], np.ones(len(rows))
    return Records(images, pose_set.image_id[rows], rows, center[rows], scale[rows], joints, seen, score, note)


def from_images(pose_set: PoseSet, config: Config) -> Records:
    """Every person's whole picture."""
    size = pose_set.image_size
    if size is None:  # what cannot be read is said when the picture is looked at
        size = np.nan_to_num(image_sizes(pose_set.images), nan=1.0)
    center, scale = center_and_scale(np.concatenate([np.zeros((len(pose_set), 2)), size], 1), config, pose_set.name)
    return _labelled(pose_set, np.arange(len(pose_set)), "none (whole images)", center, scale)


def from_mpii(pose_set: PoseSet, config: Config) -> Records:
    """MPII's centre, 15 units of scale lower, and scale, 1.25 times as large; the box where there are none."""
    center, scale = center_and_scale(pose_set.box, config, pose_set.name)
    if pose_set.center is not None and pose_set.scale is not None:
        given = np.isfinite(pose_set.center).all(1) & np.isfinite(pose_set.scale)
        lower = np.stack([np.zeros(len(pose_set)), 15 * pose_set.scale], axis=1)
        center = np.where(given[:, None], pose_set.center + lower, center)
        scale = np.where(given[:, None], BOX_PADDING * pose_set.scale[:, None], scale)
    bad = ~(np.isfinite(scale) & (scale > 0)).all(1)
    if bad.any():
        row = int(np.argmax(bad))
        who = f"{pose_set.root}: person {row} of {pose_set.split} ({pose_set.images[row]})"
        raise DataError(f"{who} has neither a scale nor a box with an area; correct or remove that entry")
    return _labelled(pose_set, np.arange(len(pose_set)), "oracle (annotated centre and scale)", center, scale)


def center_and_scale(box: np.ndarray, config: Config, name: str = "coco", compat: bool = False) -> tuple:
    """(N,4) x, y, w, h -> centre (N,2), scale (N,2), float32 for COCO: grown to the input's aspect, times 1.25.

    `compat` does not pad where the centre's x is -1, which the originals take for "missing".
    """
    kind = np.float32 if name == "coco" else np.float64
    aspect = config.input_size[0] / config.input_size[1]
    center = (box[:, :2] + box[:, 2:] * 0.5).astype(kind)
    w, h = box[:, 2], box[:, 3]
    scale = (np.stack([np.maximum(w, aspect * h), np.maximum(h, w / aspect)], axis=1) / PIXEL_STD).astype(kind)
    padding = np.where((center[:, :1] == -1) & compat, 1.0, BOX_PADDING)
    return center, (scale * padding).astype(kind)


def from_boxes(pose_set: PoseSet, config: Config) -> Records:
    """Annotated boxes of persons with a labelled joint, in the images' order; COCO's cleaned, perhaps `selected`."""
    keep = (pose_set.visible > 0).any(1) & pose_set.counted
    box, note = pose_set.box, "oracle (annotated boxes)"
    has_area = (box[:, 2:] > 0).all(1)
    if pose_set.name == "coco":
        box, has_area = clean_boxes(pose_set)
        note = "oracle (all annotated boxes, score 1)"
    keep &= has_area
    center, scale = center_and_scale(box, config, pose_set.name, config.mode == "compat")
    if pose_set.name == "coco" and config.boxes == "selected":
        keep &= selected(pose_set, center, scale)
        note = "oracle (annotated boxes, the Paddle project's selection, score 1)"
    return _labelled(pose_set, _by_image(pose_set, np.flatnonzero(keep)), note, center, scale)


def _by_image(pose_set: PoseSet, rows: np.ndarray) -> np.ndarray:
    """Persons of one image together, in the file's order, as in the originals' results; it is then decoded once."""
    listed = pose_set.regions if pose_set.regions is not None else dict.fromkeys(pose_set.image_id.tolist())
    place = {image: i for i, image in enumerate(listed)}
    return rows[np.argsort([place[i] for i in pose_set.image_id[rows].tolist()], kind="stable")] if len(rows) else rows


def clean_boxes(pose_set: PoseSet) -> tuple[np.ndarray, np.ndarray]:
    """(N,4) COCO's boxes cut to the image and (N,) whether they have an area."""
    assert pose_set.image_size is not None and pose_set.area is not None
    x, y, w, h = pose_set.box.T
    width, height = pose_set.image_size.T
    x1, y1 = np.maximum(0, x), np.maximum(0, y)
    x2 = np.minimum(width - 1, x1 + np.maximum(0, w - 1))
    y2 = np.minimum(height - 1, y1 + np.maximum(0, h - 1))
    return np.stack([x1, y1, x2 - x1, y2 - y1], axis=1), (pose_set.area > 0) & (x2 >= x1) & (y2 >= y1)


def selected(pose_set: PoseSet, center: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """(N,) P's choice of COCO persons: the joints' mean lies near enough to the box's centre for their number."""
    seen = (pose_set.visible > 0)[..., None]
    count = seen.sum((1, 2))
    mean = np.where(seen, np.nan_to_num(pose_set.joints), 0.0).sum(1) / np.maximum(count, 1)[:, None]
    area = np.prod(scale.astype(np.float64), axis=1) * PIXEL_STD**2
    distance = ((mean - center) ** 2).sum(1)
    nearness = np.exp(-distance / (2 * 0.2**2 * np.maximum(area, 1e-12)))
    return (count > 0) & (nearness > 0.0125 * count + 0.45 - 0.0125)


def from_detections(pose_set: PoseSet, path: Path, config: Config) -> Records:
    """The person boxes of a COCO detection file, of score `box_threshold` at least, not cut to the image.

    Boxes without an area are left out. DataError naming entry and field when the file is none, or is for other images.
    """
    from common.datasets.files import column, read_json, rows

    if pose_set.regions is None or pose_set.paths is None:
        raise DataError(f"detection files are for COCO; {pose_set.name} has none. Use --boxes annotated")
    if not path.is_file():
        what = "write selected, annotated, whole, or a file such as COCO_val2017_detections_AP_H_56_person.json"
        raise DataError(f"--boxes {path}: there is no such detection file; {what}")
    entries, wanted = rows(path, read_json(path)), pose_set.category or 1
    entries = [e for e, number in zip(entries, column(entries, "category_id", whole=True)) if number == wanted]
    if not entries:
        raise DataError(f"{path}: no entry is of persons; write category_id {wanted}")
    image, box, score = column(entries, "image_id", whole=True), column(entries, "bbox", (4,)), column(entries, "score")
    unknown = sorted(set(image.tolist()) - set(pose_set.regions))
    if unknown:
        what = f"{len(unknown)} images, first image_id {unknown[0]}, are not in {pose_set.name}/{pose_set.split}"
        raise DataError(f"detection file {path}: {what} ({pose_set.root}); give the file of that split")
    flat = (box[:, 2:] <= 0).any(1)
    kept = (score >= config.box_threshold) & ~flat
    kept &= True if config.limit is None else np.isin(image, pose_set.image_id)
    image, box, score = image[kept], box[kept], score[kept]
    center, scale = center_and_scale(box, config, "coco", config.mode == "compat")
    joints, images = np.zeros((len(box), len(pose_set.skeleton), 2)), [pose_set.paths[i] for i in image.tolist()]
    left_out = f", {flat.sum()} boxes without area left out" if flat.any() else ""
    note = f"detector ({path.name}, score >= {config.box_threshold:g}{left_out})"
    return Records(images, image, np.full(len(box), -1), center, scale, joints, joints[..., 0] == 0, score, note)
