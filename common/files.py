"""Files that are whole or absent, hashes, and what a run says about where it came from."""

from __future__ import annotations

import errno
import functools
import hashlib
import itertools
import json
import os
import platform
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

_FRAMEWORKS = ("torch", "tensorflow", "keras", "paddle", "chainer", "cv2", "scipy")


def temporary_name(path: str | Path) -> Path:
    """The name to write `path` under at first: same folder, for an atomic rename; same suffixes."""
    path = Path(path)
    return path.with_name(f".tmp{os.getpid()}.{path.name}")


def publish(temporary: str | Path, path: str | Path) -> Path:
    """Flush a finished temporary file to the disk and rename it: a power cut leaves the old `path` or the new one."""
    path = Path(path)
    flush(temporary)
    os.replace(temporary, path)
    flush(path.parent)
    return path


def flush(path: str | Path) -> None:
    """Have the system write a file, or a folder's list of names, to the disk now."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def atomic_write(path: str | Path, write_fn: Callable[[Path], Any]) -> Path:
    """Call `write_fn(temporary_path)`, then put the result at `path`; return `path`.

    When it raises, `path` is untouched and the temporary file removed.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(path)
    try:
        with writing(path):
            write_fn(temporary)
            return publish(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Inside, whatever a writer raises on a full disk becomes an OSError that names `path`."""
    try:
        yield
    except (OSError, RuntimeError) as error:  # RuntimeError: PyTorch
        folder = next(f for f in Path(path).absolute().parents if f.is_dir())
        full = getattr(error, "errno", None) == errno.ENOSPC or shutil.disk_usage(folder).free < 1 << 16
        if not full or getattr(error, "filename", None) == str(path):
            raise
        raise OSError(errno.ENOSPC, "no space left; make some and try again", str(path)) from error


def write_text(path: str | Path, text: str) -> Path:
    """`text` as UTF-8, atomically."""
    return atomic_write(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def remove_leftovers(directory: str | Path, names: Iterable[str]) -> None:
    """Remove temporary files of `names` (may hold `*`) that killed runs left; only for a folder with one writer."""
    for name in names:
        for file in Path(directory).glob(f".tmp*.{name}"):
            file.unlink()


def write_json(path: str | Path, value: Any) -> Path:
    """`value` as indented JSON with sorted keys, atomically; paths and numpy numbers as what they stand for."""
    return write_text(path, json.dumps(value, indent=2, sort_keys=True, default=_plain) + "\n")


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else str(value)


def write_mat(path: str | Path, variables: dict) -> Path:
    """A Matlab file, atomically."""
    from scipy.io import savemat

    return atomic_write(path, lambda temporary: savemat(temporary, variables, appendmat=False))


def check_listed(archive: zipfile.ZipFile) -> None:
    """ValueError when a damaged table of contents swallows a member, which zipfile does not notice."""
    archive.fp.seek(-22, os.SEEK_END)  # type: ignore[union-attr]
    end = archive.fp.read(22)  # type: ignore[union-attr]
    if end[:4] == b"PK\5\6" and int.from_bytes(end[10:12], "little") not in (len(archive.infolist()), 0xFFFF):
        raise ValueError("its table of contents is damaged")


def sha256_of(path: str | Path) -> str:
    """Hexadecimal SHA-256 of a file's content."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def set_aside(directory: str | Path, patterns: Iterable[str]) -> Path | None:
    """Move an earlier run's files out of the way of a new one, into `directory`/old_1, old_2, ...; None without any."""
    directory = Path(directory)
    found = [f for pattern in patterns for f in sorted(directory.glob(pattern)) if f.is_file()]
    if not found:
        return None
    target = next(t for n in itertools.count(1) if not (t := directory / f"old_{n}").exists())
    target.mkdir()
    for file in found:
        os.replace(file, target / file.name)
    return target


@functools.cache
def git_sha() -> str:
    """Commit of this source tree, with `-dirty` when tracked files differ from it; `unknown` outside a git checkout."""
    root = Path(__file__).resolve().parents[1]

    def git(*arguments: str) -> str:
        return subprocess.check_output(
            ["git", "-C", str(root), *arguments], text=True, timeout=10, stderr=subprocess.DEVNULL
        ).strip()

    try:
        return git("rev-parse", "HEAD") + ("-dirty" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def versions() -> dict[str, str]:
    """Versions of Python, numpy and of whichever frameworks this process has imported; imports none itself."""
    found = {"python": platform.python_version(), "numpy": np.__version__}
    loaded = {name: getattr(sys.modules.get(name), "__version__", None) for name in _FRAMEWORKS}
    return found | {name: str(version) for name, version in loaded.items() if version}
