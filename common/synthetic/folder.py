"""Writing a data set's folder: all or nothing, marked SYNTHETIC, byte-identical from run to run."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from common.errors import DataError

VERSION = 6  # raise when a picture or a label changes for the same arguments
MARK = "SYNTHETIC"
_NOTICE = """Drawn by `python -m common.datasets.synthetic`: no photograph, no result on it compares with a published one.
"""
_MAT_HEADER = b"MATLAB 5.0 MAT-file, drawn by common.datasets.synthetic".ljust(116)


def generator(name: str, seed: int, *index: int) -> np.random.Generator:
    """The random numbers of one picture, or video, of a data set: independent of every other one."""
    return np.random.default_rng([seed, *name.encode(), *index])


def each(name: str, count: int, seed: int, unit: str = "image") -> Iterator[tuple[int, np.random.Generator]]:
    """Number (from 0) and random numbers of every picture or video, with a progress bar."""
    from tqdm import tqdm

    for k in tqdm(range(count), desc=f"synthetic {name}", unit=unit):
        yield k, generator(name, seed, k)


def train_count(count: int, share: float) -> int:
    """How many of `count` pictures are for training: about `share`, and at least one on both sides."""
    return min(max(round(count * share), 1), count - 1)


def write_image(path: Path, image: np.ndarray) -> None:
    """(H,W,3) uint8 BGR or (H,W) uint8; `.jpg` at quality 92, or `.png`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    good, data = cv2.imencode(path.suffix, image, [cv2.IMWRITE_JPEG_QUALITY, 92, cv2.IMWRITE_PNG_COMPRESSION, 3])
    if not good:
        raise DataError(f"OpenCV cannot encode {path}; its build lacks this image format")
    path.write_bytes(data.tobytes())


def write_mat(path: Path, variables: dict) -> None:
    """A Matlab 5 file without the time stamp that SciPy puts into its header."""
    import scipy.io

    path.parent.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(path, variables, do_compression=True)
    with open(path, "r+b") as file:
        file.write(_MAT_HEADER)


def save_json(path: Path, content: Any) -> None:
    """Compact JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, separators=(",", ":")))


def build(root: Path, arguments: dict, write: Callable[[Path], None], standard: bool = False) -> bool:
    """Have `write` fill `root`; False where these arguments made it already (with `standard` also any count and seed).

    The files are written beside `root` and renamed when all are there. DataError when `root` holds anything else.
    """
    root = root.expanduser().absolute()
    made = {"generator": f"common.datasets.synthetic version {VERSION}", **arguments}
    text, mark = _NOTICE + "".join(f"{key}: {value}\n" for key, value in made.items()), root / MARK
    known = text.partition("count:")[0] if standard else text
    if mark.is_file() and mark.read_text().startswith(known):
        return False
    if root.is_file() or (root.is_dir() and any(root.iterdir())):
        drawn = f"was drawn with other arguments (see {mark})"
        what = drawn if mark.is_file() else f"holds files and no {MARK} mark: it may be real data"
        raise DataError(f"{root} {what}, so nothing is written there; name another folder, or delete it yourself")
    fresh = root.with_name(f".{root.name}.{os.getpid()}.tmp")
    try:
        fresh.mkdir(parents=True)
        write(fresh)
        (fresh / MARK).write_text(text)
        os.rename(fresh, root)
    except OSError as error:
        what = f"cannot write {root} ({error})"
        raise DataError(f"{what}; choose a folder that you may write to, with room for the pictures") from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return True
