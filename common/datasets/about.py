"""One record a data set, in its module: what every other part of the repository has to know of it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from common.poses import PoseSet, box_of_joints
from common.skeletons import Skeleton


@dataclass(frozen=True)
class Split:
    """A published split: the persons that metrics count, their images, and their `digest`; None: not known."""

    persons: int | None = None
    images: int | None = None
    digest: str | None = None


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """What is known of a data set before any file is read."""

    name: str
    skeleton: Skeleton | None  # None: its files say
    origin: int = 0  # what the files call the first pixel; loaders subtract it, readers of foreign results too
    source: str  # where it comes from, as a sentence
    terms: str
    splits: Mapping[str, Split]  # by canonical name, as far as counts were published
    published: str  # the split that published figures are on
    crops: str  # the boxes that person crops of published figures come from
    measures: str  # its protocols, main one first: NAME, or NAME=RULE where the name stands for another rule here
    load: Callable[..., PoseSet]  # (root, split, **options)
    list_splits: Callable[[Path], list[str]]  # what `check` looks through
    by_image: bool = False  # whether its prediction files may hold any number of persons
    aliases: Mapping[str, str] = field(default_factory=dict)  # other names of splits
    sigmas: tuple[float, ...] | None = None  # OKS constants in the skeleton's order

    @property
    def protocols(self) -> dict[str, str]:
        """Protocol name -> the rule of `common.protocols` that counts it."""
        return {word.split("=")[0]: word.split("=")[-1] for word in self.measures.split()}

    @property
    def main_protocol(self) -> str:
        """The figure that its papers report first."""
        return next(iter(self.protocols))

    def split(self, name: str) -> str:
        """The canonical name of a split: `valid` is `test` where a data set has no other."""
        return self.aliases.get(name, name)

    def pose_set(self, root: Path, split: str, joints: np.ndarray, visible: np.ndarray, **fields) -> PoseSet:
        """The PoseSet of a loader; by default one person an image, its box tight around the joints."""
        known: dict[str, Any] = {"name": self.name, "skeleton": self.skeleton, "root": str(root)}
        known |= {"synthetic": (root / "SYNTHETIC").exists()}
        known |= {"person_id": np.zeros(len(joints), np.int64), "box": box_of_joints(joints)}
        return PoseSet(**(known | {"split": split, "joints": joints, "visible": visible.astype(np.int8)} | fields))

    def differs(self, pose_set: PoseSet) -> str | None:
        """Why the counted persons of `pose_set` are not the published split's; None when they are, or not known."""
        known = self.splits.get(self.split(pose_set.split))
        if known is None:
            return None
        persons, images = counted_persons(pose_set), len(listed_images(pose_set))
        for found, wanted, what in ((persons, known.persons, "persons"), (images, known.images, "images")):
            if wanted is not None and found != wanted:
                return f"{found} {what}, the published split {self.split(pose_set.split)} has {wanted}"
        if known.digest is not None and known.digest != digest(pose_set):
            return f"these are not the persons of the published split {self.split(pose_set.split)}"
        return None


def counted_persons(pose_set: PoseSet) -> int:
    """How many persons a metric counts: with a labelled joint and not set aside."""
    counted = (pose_set.visible > 0).any(1)
    return int((counted if pose_set.ignore is None else counted & ~pose_set.ignore).sum())


def listed_images(pose_set: PoseSet) -> set:
    """Ids of the images of a split, those without a person included where the data set lists them."""
    return set(pose_set.image_id.tolist()) | set(pose_set.regions or ())


def digest(pose_set: PoseSet) -> str:
    """Whose images these are, once for every person in them; files number the persons of an image in different ways."""
    return hashlib.sha256("\n".join(sorted(map(str, pose_set.image_id.tolist()))).encode()).hexdigest()[:16]
