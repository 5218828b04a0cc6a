"""Data sets as their authors publish them -> PoseSet. A data set is one module and one entry of `records.yaml`, which
says what is known of it; `python -m common.datasets check|browse|pack` looks into a folder, or packs its pictures."""

from __future__ import annotations

import functools
import hashlib
import inspect
import os
import sys
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from common.errors import DataError
from common.poses import PoseSet, box_of_joints
from common.skeletons import SKELETONS, Skeleton, group_name

PACKED = "images.lmdb"  # in a data set's folder


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """What is known of a data set before any file is read; the fields are explained in `records.yaml`."""

    name: str
    skeleton: Skeleton | None
    origin: int = 0
    source: str
    terms: str
    splits: dict[str, list] = field(repr=False)
    published: str
    drawn: int
    by_image: bool = False
    aliases: dict[str, str] = field(default_factory=dict)
    sigmas: tuple[float, ...] | None = None
    protocols: dict[str, str]  # name -> the rule of `common.protocols` that counts it
    module: str

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
        split = self.split(pose_set.split)
        wanted = [*self.splits.get(split, ()), None, None, None]
        counted = (pose_set.visible > 0).any(1) & pose_set.counted
        listed = set(pose_set.image_id.tolist()) | set(pose_set.regions or ())
        # files number the persons of an image in different ways, so their identity is that of their image
        ids = "\n".join(sorted(map(str, pose_set.image_id.tolist())))
        found = int(counted.sum()), len(listed), hashlib.sha256(ids.encode()).hexdigest()[:16]
        for have, want, what in zip(found[:2], wanted, ("persons", "images")):
            if want not in (None, have):
                return f"{have} {what}, the published split {split} has {want}"
        return None if wanted[2] in (None, found[2]) else f"these are not the persons of the published split {split}"


@functools.cache
def _records() -> dict[str, DataSet]:
    with open(Path(__file__).with_name("records.yaml"), encoding="utf-8") as file:
        return {name: _record(name, **entry) for name, entry in yaml.safe_load(file).items()}


def _record(name: str, skeleton, protocols: str, sigmas=None, module: str | None = None, **fields) -> DataSet:
    known = SKELETONS.get(skeleton)
    rules = {word.split("=")[0]: word.split("=")[-1] for word in protocols.split()}
    if isinstance(sigmas, dict) and known:
        sigmas = [sigmas[group_name(joint)] / 10 for joint in known.joints]
    sigmas = tuple(sigmas) if sigmas else None
    return DataSet(name=name, skeleton=known, protocols=rules, sigmas=sigmas, module=module or name, **fields)


NAMES = tuple(_records())


def record(name: str) -> DataSet:
    """What is known of the data set `name`; DataError listing the known ones."""
    if name not in NAMES:
        raise DataError(f"unknown data set {name!r}; known: {', '.join(NAMES)}")
    return _records()[name]


def load(name: str, root: str | Path, split: str, **options) -> PoseSet:
    """Annotations of one split of the data set `name` under `root`; `common.images.read_image` reads images later.

    The splits of a data set are listed in its module. Raises DataMissing when its files are not there (with the
    official source and the stand-in command) and DataError for an unknown name, split or option and for damaged files.
    """
    loader = import_module(f"common.datasets.{record(name).module}").load
    allowed = inspect.signature(loader).parameters.keys()
    if unknown := options.keys() - allowed:
        raise DataError(f"data set {name} has no option {', '.join(sorted(unknown))}; leave it out")
    folder = Path(root).expanduser().absolute()
    try:
        return _packed(loader(folder, split, **options, **_own_name(name, allowed)), folder)
    except ValueError as error:  # the PoseSet's own
        raise DataError(f"{folder}: {error}; get the annotations again") from error


def _packed(pose_set: PoseSet, folder: Path) -> PoseSet:
    """Its pictures read out of the database that `pack` made, where there is one."""
    home = folder if folder.is_dir() else folder.parent
    if not (home / PACKED).is_dir():
        return pose_set
    from common.images import PREFIX, reference

    def stored(path: str) -> str:
        return path if path.startswith(PREFIX) else reference(home / PACKED, os.path.relpath(path, home))

    paths = {i: stored(path) for i, path in pose_set.paths.items()} if pose_set.paths else pose_set.paths
    return replace(pose_set, images=[stored(str(path)) for path in pose_set.images], paths=paths)


def splits(name: str, root: str | Path) -> list[str]:
    """The splits that the files under `root` offer, each a valid argument of `load`; they overlap nowhere."""
    lister = import_module(f"common.datasets.{record(name).module}").splits
    return lister(Path(root).expanduser().absolute(), **_own_name(name, inspect.signature(lister).parameters))


def valid_split(name: str, root: str | Path, wanted: str) -> str:
    """The split that a training scores: `wanted`; `none`, and a note, where own data have no `valid`."""
    if (name, wanted) != ("json", "valid") or wanted in (found := splits(name, root)):
        return wanted
    print(f"note: {root} has {', '.join(found)} and no split valid: nothing is validated", file=sys.stderr)
    return "none"


def _own_name(name: str, parameters) -> dict[str, str]:
    """A module of several data sets asks which one is meant."""
    return {"name": name} if "name" in parameters else {}
