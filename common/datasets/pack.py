"""All pictures of a data set in one file, for disks on which many small ones are slow."""

from __future__ import annotations

import os
from pathlib import Path

from tqdm import tqdm

from common import datasets, images
from common.errors import DataError


def pack(name: str, root: Path, **options) -> tuple[list[str], list[str]]:
    """(what was written, nothing): the pictures of all splits, bytes as they are, in ROOT/images.lmdb, which `load` reads
    from then on; the files may go. DataError for missing pictures or a database that is there already."""
    if name == "k2hpd":
        raise DataError("k2hpd: deeppose_caffe_port's step create_lmdb packs its pictures, as the original's does")
    home, paths = (root if root.is_dir() else root.parent).expanduser().absolute(), dict[str, None]()
    for split in datasets.splits(name, root):
        pose_set = datasets.load(name, root, split, **options)
        paths |= dict.fromkeys([*map(str, pose_set.images), *(pose_set.paths or {}).values()])
    if absent := [path for path in paths if not images.exists(path)]:
        raise DataError(f"{absent[0]} and {len(absent) - 1} more pictures do not exist; unpack the data set again")
    files = tqdm(paths, desc=name, unit="image")
    pairs = ((os.path.relpath(path, home), Path(path).read_bytes()) for path in files)
    return [f"{home / datasets.PACKED}: {images.write_lmdb(home / datasets.PACKED, pairs)} pictures"], []
