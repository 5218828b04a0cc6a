"""What the loaders share: finding files, the message for absent data, readers that name the damaged file, ranges of image numbers."""

from __future__ import annotations

import json
import re
from pathlib import Path

from common.errors import DataError, DataMissing

# Where each data set is published by its authors.
SOURCES = {
    "lsp": "http://sam.johnson.io/research/lsp.html",
    "lspet": "http://sam.johnson.io/research/lspet.html",
    "mpii": "http://human-pose.mpi-inf.mpg.de",
    "coco": "https://cocodataset.org/#download",
    "penn_action": "http://dreamdragon.github.io/PennAction",
    "jhmdb": "http://jhmdb.is.tue.mpg.de",
}


def missing(name: str, root: Path, wanted: str) -> DataMissing:
    """The error for a data set that is not under `root`; `wanted` says which files were looked for."""
    if name in SOURCES:
        source = f"Get it from its authors: {SOURCES[name]}"
    elif name == "json":
        source = "Write your own in the format that common/datasets/json_format.py describes"
    else:
        source = "No official page is known; use a copy that you have"
    found = "" if root.exists() else " (that folder does not exist)"
    return DataMissing(
        f"data set {name} is not in {root}{found}: looked for {wanted}. {source}, "
        f"or make the synthetic stand-in: python -m common.datasets.synthetic {name} {root}"
    )


def unknown_split(name: str, split: str, known: str) -> DataError:
    """The error for a split that the data set does not have."""
    return DataError(f"data set {name} has no split {split!r}; known: {known}")


def first_existing(folders, name: str) -> Path | None:
    """The first of `folders` that holds `name`, or None."""
    return next((folder for folder in folders if (folder / name).exists()), None)


def is_synthetic(*folders: Path) -> bool:
    """Whether a folder, or one of those given, was drawn by common.datasets.synthetic (it holds a file named SYNTHETIC)."""
    return any((folder / "SYNTHETIC").exists() for folder in folders)


def read_mat(path: Path, field: str | None = None, **options):
    """A Matlab file (v5 to v7.2) as dict, or its variable `field`; DataError when it cannot be read or lacks the variable."""
    import scipy.io

    try:
        content = scipy.io.loadmat(path, **options)
    except Exception as error:  # scipy raises many kinds for damaged files, zlib.error among them
        raise DataError(
            f"{path} is not a readable Matlab file ({type(error).__name__}: {error}); download or write it again"
        ) from error
    if field is None:
        return content
    if field not in content:
        have = ", ".join(k for k in content if not k.startswith("__")) or "none"
        raise DataError(
            f"{path} has no variable {field!r} (it has {have}); this is not the annotation file of the data set"
        )
    return content[field]


def read_json(path: Path):
    """A JSON file; DataError naming the file and the line when it is none."""
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(f"{path} is not readable JSON ({error}); download or write it again") from error


def number_range(split: str) -> tuple[int, int] | None:
    """`A-B` -> (A, B), 1-based inclusive; None when the split is not written like that. DataError for an empty range."""
    match = re.fullmatch(r"(\d+)-(\d+)", split)
    if not match:
        return None
    first, last = int(match[1]), int(match[2])
    if first < 1 or last < first:
        raise DataError(f"split {split!r} is an empty range; write first-last, counted from 1")
    return first, last
