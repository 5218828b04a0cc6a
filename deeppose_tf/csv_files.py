"""DT's CSV files of persons -> PoseSet: `image,x0,y0,x1,y1,...`, no header; and the splits that a run's settings
name."""

from __future__ import annotations

import csv
import re
from collections import Counter
from pathlib import Path

import numpy as np

from common.errors import DataError
from common.poses import PoseSet, box_of_joints
from deeppose_tf.config import CSV_SKELETONS, IGNORE_LABELS, Config

_REMEDY = "write it with deeppose_tf/prepare.py"


def load_split(config: Config, part: str) -> PoseSet | None:
    """The persons of `train`, `test` or `val`: of a CSV, or of any data set of `common.datasets`; None where there are
    none to be had.

    CSVs of DT's own names are made from the releases where these are there. DataError or DataMissing otherwise.
    """
    if config.from_csv:
        path = config.csv(part)
        if path is None:
            return None
        from deeppose_tf.prepare import ready_csv

        ready_csv(path, config.dataset)
        return read_csv(path, config)
    from common import datasets

    split = {"train": config.train_split, "test": config.valid_split}.get(part, "none")
    if split == "none":
        return None
    known = datasets.record(config.dataset)
    return datasets.load(config.dataset, config.folder, known.split(split)).limit(config.limit)


def read_csv(path: str | Path, config: Config) -> PoseSet:
    """The persons of a CSV in file order; `split` is the file's stem. DataError naming file and line for wrong columns,
    numbers, no lines.

    A joint is labelled when neither coordinate equals the ignore label. Mode correct counts MPII's pixels from 0
    instead of 1 and leaves out joints that a file `*_visible.csv` beside `*_joints.csv` (`prepare.py` writes it) marks
    0; compat takes the numbers as they are.
    """
    path, dataset, prefix = Path(path), config.dataset, config.img_path_prefix
    skeleton = CSV_SKELETONS[dataset]
    names, joints = _read_rows(path, config.fname_index, config.joint_index, 2 * len(skeleton), config.limit)
    joints = joints.reshape(len(names), len(skeleton), 2)
    ignored = IGNORE_LABELS[dataset] if config.ignore_label is None else config.ignore_label
    labelled = (joints != ignored).all(-1)
    if config.mode == "correct":
        labelled &= _usable(path, names, len(skeleton), config.limit)
        joints = joints - (1.0 if dataset == "mpii" else 0.0)
    joints = np.where(labelled[..., None], joints, np.nan)
    image_id = _image_ids(names, dataset)
    visible, images = np.where(labelled, 2, 0), [str(Path(prefix) / name) if prefix else name for name in names]
    return PoseSet(
        name=dataset, skeleton=skeleton, split=path.stem, images=images, image_id=image_id, person_id=_occurrence(image_id),
        joints=joints, visible=visible.astype(np.int8), box=box_of_joints(joints), root=str(path),
        synthetic=(path.parent / "SYNTHETIC").exists(),
    )  # fmt: skip


def _read_rows(path: Path, fname_index: int, joint_index: int, count: int, limit: int | None):
    """(names, (N,count) numbers)."""
    try:
        with open(path, newline="", encoding="utf-8") as file:
            lines = [line for line in csv.reader(file) if line][:limit]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as CSV ({error}); {_REMEDY}") from error
    if not lines:
        raise DataError(f"{path} holds no persons; {_REMEDY}")
    numbers = np.empty((len(lines), count))
    for i, line in enumerate(lines):
        where, needed = f"{path}: line {i + 1}", joint_index + count
        if len(line) != needed:
            what = f"{needed} are needed ({count // 2} joints from column {joint_index})"
            raise DataError(f"{where} has {len(line)} columns, {what}; check --dataset and --joint_index")
        try:
            numbers[i] = [float(value) for value in line[joint_index:]]
        except ValueError as error:
            raise DataError(f"{where} has a coordinate that is no number ({error}); correct or remove it") from error
        if not np.isfinite(numbers[i]).all():
            raise DataError(f"{where} has a coordinate that is not finite; mark missing joints with the ignore label")
    return [line[fname_index] for line in lines], numbers


def _usable(path: Path, names: list[str], joints: int, limit: int | None) -> np.ndarray:
    """(N,J) bool from the side file; all True when there is none."""
    side = path.with_name(path.name.replace("_joints.csv", "_visible.csv"))
    if side == path or not side.exists():
        return np.ones((len(names), joints), bool)
    own, flags = _read_rows(side, 0, 1, joints, limit)
    if own != names:
        raise DataError(f"{side} does not list the same images as {path}; {_REMEDY}, both, or remove it")
    return flags > 0


def _image_ids(names: list[str], dataset: str) -> np.ndarray:
    """Image numbers for LSP where they identify the images, as common.datasets has them; else file names or paths."""
    bases = [Path(name).name for name in names]
    if dataset == "lsp":
        numbers = [m[1] for base in bases if (m := re.fullmatch(r"im(\d+)\.\w+", base))]
        one_folder = len(set(bases)) == len(set(names))
        if len(numbers) == len(bases) and one_folder and len(set(map(len, numbers))) == 1:
            return np.array(list(map(int, numbers)))
    return np.array(bases if len(set(bases)) == len(set(names)) else names)


def _occurrence(image_id: np.ndarray) -> np.ndarray:
    """How many earlier rows have the same image."""
    seen: Counter = Counter()
    rows = []
    for name in image_id.tolist():
        rows.append(seen[name])
        seen[name] += 1
    return np.array(rows)
