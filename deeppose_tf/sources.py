"""DT's CSV files of persons -> PoseSet: `image,x0,y0,x1,y1,...`, no header (no framework is imported here)."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import numpy as np

from common.errors import DataError
from common.poses import PoseSet, box_of_joints
from deeppose_tf.config import SKELETONS, Config, is_synthetic


def read_csv(
    path: str | Path,
    dataset_name: str = "lsp",
    *,
    prefix: str | Path = "",
    ignore_label: float = -1.0,
    fname_index: int = 0,
    joint_index: int = 1,
    mode: str = "correct",
    limit: int | None = None,
) -> PoseSet:
    """The persons of a CSV in file order; `split` is the file's stem. DataError naming file and line for wrong columns, numbers, no lines.

    A joint is labelled when neither coordinate equals `ignore_label`. Mode correct counts MPII's pixels from 0 instead of 1 and leaves out
    joints that a file `*_visible.csv` beside `*_joints.csv` (`prepare.py` writes it) marks 0; compat takes the numbers as they are.
    """
    path, skeleton = Path(path), SKELETONS[dataset_name]
    names, joints = _read_rows(path, fname_index, joint_index, 2 * len(skeleton), limit)
    joints = joints.reshape(len(names), len(skeleton), 2)
    labelled = (joints != ignore_label).all(-1)
    if mode == "correct":
        labelled &= _usable(path, names, len(skeleton), limit)
        joints = joints - (1.0 if dataset_name == "mpii" else 0.0)
    joints = np.where(labelled[..., None], joints, np.nan)
    image_id = _image_ids(names, dataset_name)
    return PoseSet(
        name=dataset_name,
        skeleton=skeleton,
        split=path.stem,
        images=[str(Path(prefix) / name) if prefix else name for name in names],
        image_id=image_id,
        person_id=_occurrence(image_id),
        joints=joints,
        visible=np.where(labelled, 2, 0).astype(np.int8),
        box=box_of_joints(joints),
        synthetic=is_synthetic(path),
        root=str(path),
    )


def read_for(config: Config, path: str) -> PoseSet:
    """`read_csv` with a run's settings."""
    return read_csv(
        path, config.dataset_name, prefix=config.img_path_prefix, ignore_label=config.ignore_label, fname_index=config.fname_index,
        joint_index=config.joint_index, mode=config.mode, limit=config.limit,
    )  # fmt: skip


def _read_rows(
    path: Path, fname_index: int, joint_index: int, count: int, limit: int | None
) -> tuple[list[str], np.ndarray]:
    try:
        with open(path, newline="", encoding="utf-8") as file:
            lines = [line for line in csv.reader(file) if line][:limit]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as CSV ({error}); write it with deeppose_tf/prepare.py") from error
    if not lines:
        raise DataError(f"{path} holds no persons; write it again with deeppose_tf/prepare.py")
    numbers = np.empty((len(lines), count))
    for i, line in enumerate(lines):
        if len(line) != joint_index + count:
            raise DataError(
                f"{path}: line {i + 1} has {len(line)} columns, {joint_index + count} are needed ({count // 2} joints from column"
                f" {joint_index}); check --dataset_name and --joint_index"
            )
        try:
            numbers[i] = [float(value) for value in line[joint_index:]]
        except ValueError as error:
            raise DataError(
                f"{path}: line {i + 1} has a coordinate that is no number ({error}); correct or remove the line"
            ) from error
        if not np.isfinite(numbers[i]).all():
            raise DataError(
                f"{path}: line {i + 1} has a coordinate that is not finite; mark missing joints with the ignore label"
            )
    return [line[fname_index] for line in lines], numbers


def visible_file(path: Path) -> Path:
    """The side file of a CSV of joints."""
    return path.with_name(path.name.replace("_joints.csv", "_visible.csv"))


def _usable(path: Path, names: list[str], joints: int, limit: int | None) -> np.ndarray:
    """(N,J) bool from the side file; all True when there is none."""
    side = visible_file(path)
    if side == path or not side.exists():
        return np.ones((len(names), joints), bool)
    own, flags = _read_rows(side, 0, 1, joints, limit)
    if own != names:
        raise DataError(
            f"{side} does not list the same images as {path}; write both again with deeppose_tf/prepare.py, or remove it"
        )
    return flags > 0


def _image_ids(names: list[str], dataset_name: str) -> np.ndarray:
    """Image numbers for LSP where they identify the images, as common.datasets has them; else file names or paths."""
    bases = [Path(name).name for name in names]
    if dataset_name == "lsp":
        numbers = [re.fullmatch(r"im(\d+)\.\w+", base) for base in bases]
        if all(numbers) and len(set(bases)) == len(set(names)) and len({len(m[1]) for m in numbers}) == 1:
            return np.array([int(m[1]) for m in numbers])
    return np.array(bases if len(set(bases)) == len(set(names)) else names)


def _occurrence(image_id: np.ndarray) -> np.ndarray:
    """How many earlier rows have the same image."""
    seen: dict = {}
    rows = np.empty(len(image_id), np.int64)
    for i, name in enumerate(image_id.tolist()):
        rows[i] = seen[name] = seen.get(name, -1) + 1
    return rows
