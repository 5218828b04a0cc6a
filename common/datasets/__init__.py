"""Data sets as their authors publish them -> PoseSet. A data set is one module, with a record of what is known of it,
and one line here; `python -m common.datasets check|browse` looks into a folder."""

from __future__ import annotations

import inspect
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from common.errors import DataError

if TYPE_CHECKING:
    from common.datasets.about import DataSet
    from common.poses import PoseSet

NAMES = ("lsp", "lspet", "mpii", "coco", "crowdpose", "penn_action", "jhmdb", "k2hpd", "ai_challenger", "json")
_PLACES = {"lspet": ("lsp", "LSPET"), "json": ("json_format", "RECORD")}  # else the module is called as its data set


def record(name: str) -> DataSet:
    """What is known of the data set `name`; DataError listing the known ones."""
    if name not in NAMES:
        raise DataError(f"unknown data set {name!r}; known: {', '.join(NAMES)}")
    module, which = _PLACES.get(name, (name, "RECORD"))
    return getattr(import_module(f"common.datasets.{module}"), which)


def load(name: str, root: str | Path, split: str, **options) -> PoseSet:
    """Annotations of one split of the data set `name` under `root`; `common.images.read_image` reads images later.

    The splits of a data set are listed in its module. Raises DataMissing when its files are not there (with the
    official source and the stand-in command) and DataError for an unknown name, split or option and for damaged files.
    """
    loader = record(name).load
    unknown = options.keys() - inspect.signature(loader).parameters.keys()
    if unknown:
        raise DataError(f"data set {name} has no option {', '.join(sorted(unknown))}; leave it out")
    return loader(Path(root).expanduser().absolute(), split, **options)


def splits(name: str, root: str | Path) -> list[str]:
    """The splits that the files under `root` offer, each a valid argument of `load`; they overlap nowhere."""
    return record(name).list_splits(Path(root).expanduser().absolute())
