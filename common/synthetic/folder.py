"""Writing a data set's folder: all or nothing, marked SYNTHETIC, byte-identical from run to run."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from common.errors import DataError
from common.synthetic import VERSION

MARK = "SYNTHETIC"
_MAT_HEADER = b"MATLAB 5.0 MAT-file, drawn by common.datasets.synthetic".ljust(116)


def generator(name: str, seed: int, *index: int) -> np.random.Generator:
    """The random numbers of one picture, or video, of a data set: independent of every other one."""
    return np.random.default_rng([seed, *name.encode(), *index])


def write_jpeg(path: Path, image: np.ndarray) -> None:
    """(H,W,3) uint8 BGR at quality 92."""
    _write_image(path, image, [cv2.IMWRITE_JPEG_QUALITY, 92])


def write_png(path: Path, image: np.ndarray) -> None:
    """(H,W) or (H,W,3) uint8, lossless."""
    _write_image(path, image, [cv2.IMWRITE_PNG_COMPRESSION, 3])


def _write_image(path: Path, image: np.ndarray, options: list[int]) -> None:
    good, data = cv2.imencode(path.suffix, image, options)
    if not good:
        raise DataError(f"OpenCV cannot encode {path}; its build lacks this image format")
    path.write_bytes(data.tobytes())


def write_mat(path: Path, variables: dict) -> None:
    """A Matlab 5 file without the time stamp that SciPy puts into its header."""
    import scipy.io

    scipy.io.savemat(path, variables, do_compression=True)
    with open(path, "r+b") as file:
        file.write(_MAT_HEADER)


def write_json(path: Path, content) -> None:
    """Compact JSON."""
    path.write_text(json.dumps(content, separators=(",", ":")))


def build(root: Path, arguments: dict, write: Callable[[Path], None]) -> bool:
    """Have `write` fill `root`, unless it was made with the same arguments already (then False).

    The files are written beside `root` and renamed when all are there. A folder of ours with other arguments is replaced. DataError when
    `root` holds anything that was not drawn here.
    """
    root = root.expanduser().absolute()
    wanted = {"generator": f"common.datasets.synthetic version {VERSION}", **{k: str(v) for k, v in arguments.items()}}
    if _is_complete(root, wanted):
        return False
    _refuse_foreign(root)
    root.parent.mkdir(parents=True, exist_ok=True)
    fresh, old = (root.with_name(f".{root.name}.{os.getpid()}.{word}") for word in ("tmp", "old"))
    try:
        fresh.mkdir()
        write(fresh)
        _write_mark(fresh, wanted)
        if root.exists():
            os.rename(root, old)
        os.rename(fresh, root)
    except OSError as error:
        raise DataError(
            f"cannot write {root} ({error}); choose a folder that you may write to, with room for the pictures"
        ) from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
    return True


def _count_files(root: Path) -> int:
    return sum(len(files) for _, _, files in os.walk(root))


def _write_mark(root: Path, wanted: dict) -> None:
    lines = [
        "Drawn by `python -m common.datasets.synthetic`: no photograph, no real person, and no result on it compares with a published one.",
        "Running that command again with other arguments replaces this folder.",
        *(f"{key}: {value}" for key, value in wanted.items()),
        f"files: {_count_files(root)}",
    ]
    (root / MARK).write_text("\n".join(lines) + "\n")


def _read_mark(root: Path) -> dict[str, str]:
    lines = (root / MARK).read_text().splitlines()
    return dict(line.split(": ", 1) for line in lines[2:] if ": " in line)


def _is_complete(root: Path, wanted: dict) -> bool:
    if not (root / MARK).is_file():
        return False
    mark = _read_mark(root)
    # files that programs add later (caches) do no harm
    return all(mark.get(k) == v for k, v in wanted.items()) and _count_files(root) > int(mark.get("files", "0"))


def _refuse_foreign(root: Path) -> None:
    if not root.exists():
        return
    if not root.is_dir():
        raise DataError(f"{root} is a file; name a folder")
    if not any(root.iterdir()):
        return
    if not (root / MARK).is_file():
        raise DataError(
            f"{root} holds files and no {MARK} mark: it may be real data, so nothing is written there; name another folder"
        )
    if _count_files(root) - 1 > int(_read_mark(root).get("files", "0")):
        raise DataError(
            f"{root} was drawn with other arguments, and files were added to it since; delete it yourself, or name another folder"
        )
