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

_MODULES = {
    "lsp": "lsp",
    "lspet": "lsp",
    "mpii": "mpii",
    "coco": "coco",
    "crowdpose": "crowdpose",
    "penn_action": "penn_action",
    "jhmdb": "jhmdb",
    "k2hpd": "k2hpd",
    "ai_challenger": "ai_challenger",
    "json": "json_format",
}
NAMES = tuple(_MODULES)


def record(name: str) -> DataSet:
    """What is known of the data set `name`; DataError listing the known ones."""
    if name not in _MODULES:
        raise DataError(f"unknown data set {name!r}; known: {', '.join(NAMES)}")
    return import_module(f"common.datasets.{_MODULES[name]}").RECORDS[name]


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
