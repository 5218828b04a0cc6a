"""PoseSet: what every data-set loader returns and every house reads. A struct of arrays, no framework."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from common.errors import DataError
from common.skeletons import Skeleton, card


@dataclass(frozen=True)
class PoseSet:
    """N annotated persons, one row each. 0-based float pixels (x right, y down), pixel centres at integers.

    Unlabelled joints are NaN with `visible` 0; occluded ones are 1, visible ones 2. `box` is x, y, w, h.
    Optional fields are None where the data set does not have them.
    """

    name: str  # data set: lsp, mpii, ...
    skeleton: Skeleton
    split: str
    images: Sequence[str]  # (N,) paths or frame references, read lazily with `read_image`
    image_id: np.ndarray  # (N,) int64 or str
    person_id: np.ndarray  # (N,) int64
    joints: np.ndarray  # (N,J,2) float64
    visible: np.ndarray  # (N,J) int8
    box: np.ndarray  # (N,4) float64
    head_size: np.ndarray | None = None  # (N,) pixels; MPII: 0.6 x diagonal of the head box
    center: np.ndarray | None = None  # (N,2)
    scale: np.ndarray | None = None  # (N,) person height / 200 px
    area: np.ndarray | None = None  # (N,) square pixels
    sequence: np.ndarray | None = None  # (N,) video id
    frame: np.ndarray | None = None  # (N,) 0-based frame number in its video
    image_size: np.ndarray | None = None  # (N,2) width, height
    ignore: np.ndarray | None = None  # (N,) bool: crowd or other rows that no metric counts
    crowd: np.ndarray | None = None  # (N,) bool: which of these stand for several persons (None: all)
    crowd_index: np.ndarray | None = None  # (N,) how crowded the person's image is, 0 to 1 (CrowdPose)
    regions: Mapping | None = None  # image_id, of images without a person too -> RLE of crowds and unannotated people
    paths: Mapping | None = None  # image_id -> path, where the data set lists images without a person too
    sigmas: np.ndarray | None = None  # (J,) OKS constants that the file gives its own skeleton
    category: int | None = None  # the file's id of the persons' category, in COCO's layout
    synthetic: bool = False  # True when the images were drawn by common.datasets.synthetic
    root: str = ""  # folder it was loaded from

    def __post_init__(self) -> None:
        n, j = len(self.images), len(self.skeleton)
        shapes = {"joints": (n, j, 2), "visible": (n, j), "box": (n, 4), "image_id": (n,), "person_id": (n,)}
        for field, shape in shapes.items():
            found = np.shape(getattr(self, field))
            if found != shape:
                raise ValueError(f"PoseSet {self.name}/{self.split}: {field} has shape {found}, expected {shape}")
        labelled = self.visible > 0
        if np.isnan(self.joints[labelled]).any():
            raise ValueError(f"PoseSet {self.name}/{self.split}: a labelled joint has no coordinates")
        if not np.isnan(self.joints[~labelled]).all():
            raise ValueError(f"PoseSet {self.name}/{self.split}: an unlabelled joint must be NaN")
        for field in self._row_fields():
            if (rows := len(getattr(self, field))) != n:
                raise ValueError(f"PoseSet {self.name}/{self.split}: {field} has {rows} rows, expected {n}")

    def __len__(self) -> int:
        return len(self.images)

    @property
    def about(self) -> dict:
        """What checkpoints say of the persons that they learnt from."""
        return {"skeleton": card(self.skeleton), "dataset": self.name, "split": self.split, "synthetic": self.synthetic}

    @property
    def counted(self) -> np.ndarray:
        """(N,) bool: the rows that metrics count and trainings read, all that are not `ignore`."""
        return np.ones(len(self), bool) if self.ignore is None else ~self.ignore.astype(bool)

    def _row_fields(self) -> list[str]:
        per_set = {"name", "skeleton", "split", "regions", "paths", "sigmas", "category", "synthetic", "root"}
        return [f.name for f in fields(self) if f.name not in per_set and getattr(self, f.name) is not None]

    def select(self, rows) -> PoseSet:
        """The rows given by a slice, an index array or a boolean mask, as a new PoseSet."""
        index = np.arange(len(self))[rows]
        changes: dict[str, Any] = {f: getattr(self, f)[index] for f in self._row_fields() if f != "images"}
        return replace(self, images=[self.images[i] for i in index], **changes)

    def limit(self, count: int | None) -> PoseSet:
        """The first `count` rows, or all of them for None (`--limit N`). DataError below 0."""
        if count is not None and count < 0:
            raise DataError(f"--limit {count} is below 0; give the number of persons")
        return self if count is None else self.select(slice(count))


def concatenate(sets: Sequence[PoseSet]) -> PoseSet:
    """Rows of several PoseSets of one skeleton, one after another; optional fields survive where every set has them."""
    first = sets[0]
    if any(s.skeleton != first.skeleton for s in sets):
        raise ValueError("cannot join PoseSets of different skeletons: " + ", ".join(s.skeleton.name for s in sets))
    shared = [f for f in first._row_fields() if all(getattr(s, f) is not None for s in sets)]
    changes: dict[str, Any] = {f: np.concatenate([getattr(s, f) for s in sets]) for f in shared if f != "images"}
    changes["images"] = [image for s in sets for image in s.images]
    dropped: dict[str, Any] = {f: None for f in first._row_fields() if f not in shared}
    merged: dict[str, Any] = {
        f: {k: v for s in sets for k, v in (getattr(s, f) or {}).items()} or None for f in ("regions", "paths")
    }
    return replace(first, **changes, **dropped, **merged, synthetic=any(s.synthetic for s in sets))


def box_of_joints(joints: np.ndarray) -> np.ndarray:
    """(N,J,2) joints -> (N,4) tight box x, y, w, h around the labelled ones; NaN for a person without any."""
    with np.errstate(invalid="ignore"):
        low, high = np.fmin.reduce(joints, axis=1), np.fmax.reduce(joints, axis=1)
    return np.concatenate([low, high - low], axis=-1)
