"""DT's CSV files of persons, `image,x0,y0,x1,y1,...` without header -> PoseSet; the splits that settings name."""

from __future__ import annotations

import csv
import itertools
import re
from collections import defaultdict
from pathlib import Path

import numpy as np

from common.errors import DataError
from common.poses import PoseSet, box_of_joints
from deeppose_tf.config import CSV_SKELETONS, IGNORE_LABELS, Config

_REMEDY = "write it with deeppose_tf/prepare.py"


def load_split(config: Config, part: str) -> PoseSet | None:
    """The persons of `train`, `test` or `val`, of a CSV or a data set of `common.datasets`; None where there are none.

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
    """The persons of a CSV in file order; `split` is the file's stem. DataError naming file and line.

    A joint is labelled when neither coordinate equals the ignore label. Mode correct counts MPII's pixels from 0
    instead of 1 and leaves out joints that a file `*_visible.csv` beside `*_joints.csv` (`prepare.py` writes it) marks
    0; compat takes the numbers as they are.
    """
    path, dataset = Path(path), config.dataset
    skeleton = CSV_SKELETONS[dataset]
    names, numbers = _read_rows(path, config.fname_index, config.joint_index, 2 * len(skeleton), config.limit)
    joints = numbers.reshape(len(names), len(skeleton), 2)
    ignored = IGNORE_LABELS[dataset] if config.ignore_label is None else config.ignore_label
    labelled = (joints != ignored).all(-1)
    side = path.with_name(path.name.replace("_joints.csv", "_visible.csv"))
    if config.mode == "correct":
        joints = joints - (1.0 if dataset == "mpii" else 0.0)
        if side != path and side.exists():
            own, flags = _read_rows(side, 0, 1, len(skeleton), config.limit)
            if own != names:
                raise DataError(f"{side} does not list the same images as {path}; {_REMEDY}, both, or remove it")
            labelled &= flags > 0
    joints = np.where(labelled[..., None], joints, np.nan)
    image_id = _image_ids(names, dataset)
    numbers_of: defaultdict = defaultdict(itertools.count)  # of the persons of one image
    person_id = np.array([next(numbers_of[i]) for i in image_id.tolist()])
    images, visible = [str(Path(config.img_path_prefix) / n) for n in names], np.where(labelled, 2, 0).astype(np.int8)
    rows = {"images": images, "image_id": image_id, "person_id": person_id, "joints": joints, "visible": visible}
    about = {"root": str(path), "synthetic": (path.parent / "SYNTHETIC").exists()}
    return PoseSet(dataset, skeleton, path.stem, **rows, box=box_of_joints(joints), **about)  # type: ignore[arg-type]


def _read_rows(path: Path, name_at: int, first: int, count: int, limit: int | None) -> tuple[list[str], np.ndarray]:
    """(names, (N,count) numbers)."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            lines = [line for line in csv.reader(file) if line][:limit]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as CSV ({error}); {_REMEDY}") from error
    if not lines:
        raise DataError(f"{path} holds no persons; {_REMEDY}")
    numbers = np.empty((len(lines), count))
    for i, line in enumerate(lines):
        if len(line) != first + count:
            what = f"{first + count} are needed ({count // 2} joints from column {first})"
            raise DataError(f"{path}: line {i + 1} has {len(line)} columns, {what}; check --dataset and --joint_index")
        try:
            numbers[i] = line[first:]
        except ValueError as error:
            raise DataError(f"{path}: line {i + 1} has a coordinate that is no number ({error}); correct it") from error
        if not np.isfinite(numbers[i]).all():
            raise DataError(f"{path}: line {i + 1} has a coordinate that is not finite; write the ignore label there")
    return [line[name_at] for line in lines], numbers


def _image_ids(names: list[str], dataset: str) -> np.ndarray:
    """Image numbers for LSP where they identify the images, as common.datasets has them; else file names or paths."""
    bases = [Path(name).name for name in names]
    if len(set(bases)) < len(set(names)):
        return np.array(names)
    numbers = [found[1] for base in bases if (found := re.fullmatch(r"im(\d+)\.\w+", base))]
    if dataset == "lsp" and len(numbers) == len(bases) and len(set(map(len, numbers))) == 1:
        return np.array(list(map(int, numbers)))
    return np.array(bases)
