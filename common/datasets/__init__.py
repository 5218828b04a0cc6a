"""Data sets as their authors publish them -> PoseSet. One module a data set; `python -m common.datasets check|browse` looks into a
folder.
"""

from __future__ import annotations

from pathlib import Path

from common.errors import DataError
from common.poses import PoseSet

# Data set -> number that its files give the first pixel. The loaders subtract it,
# and so must whoever reads predictions made in the frame of those files.
ORIGIN = {
    "lsp": 0,
    "lspet": 0,
    "mpii": 1,
    "coco": 0,
    "penn_action": 1,
    "jhmdb": 1,
    "k2hpd": 0,
    "ai_challenger": 0,
    "json": 0,
}
NAMES = tuple(ORIGIN)


def load(name: str, root: str | Path, split: str) -> PoseSet:
    """Annotations of one split of the data set `name` under `root`; images are read later, with `common.images.read_image`.

    The splits of a data set are listed in its module. Raises DataMissing when its files are not there (with the official source and the
    stand-in command) and DataError for an unknown name or split and for damaged files.
    """
    module, root = _module(name), Path(root).expanduser().absolute()
    return module.load(root, split, name) if name == "lspet" else module.load(root, split)


def splits(name: str, root: str | Path) -> list[str]:
    """The splits that the files under `root` offer, each a valid argument of `load`; together they hold every annotation once."""
    module, root = _module(name), Path(root).expanduser().absolute()
    return module.splits(root, name) if name == "lspet" else module.splits(root)


def _module(name: str):
    if name not in NAMES:
        raise DataError(f"unknown data set {name!r}; known: {', '.join(NAMES)}")
    if name in ("lsp", "lspet"):
        from common.datasets import lsp as module
    elif name == "mpii":
        from common.datasets import mpii as module
    elif name == "coco":
        from common.datasets import coco as module
    elif name == "penn_action":
        from common.datasets import penn_action as module
    elif name == "jhmdb":
        from common.datasets import jhmdb as module
    elif name == "k2hpd":
        from common.datasets import k2hpd as module
    elif name == "ai_challenger":
        from common.datasets import ai_challenger as module
    else:
        from common.datasets import json_format as module
    return module
