"""Any data set of `common` -> the project's own layout, which every later step reads (the original asks for edited source code instead).

data/NAME/{train,test}_annos.txt and data/NAME/depth_data/depth_images/. K2HPD's images are linked as they are and its lists copied without
NUL bytes; of other data sets each person becomes one square picture around the annotated joints, unlabelled joints are written as nan.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from tqdm import tqdm

from common import datasets
from common.errors import DataError
from common.poses import PoseSet
from deeppose_caffe_port.config import Config, store
from deeppose_caffe_port.images import Pictures
from deeppose_caffe_port.prepare import dataset_folder, image_folder, read_annotations, save, write_lines
from deeppose_caffe_port.prototxts import write_project


def load_split(config: Config, number: int) -> PoseSet:
    """Split 0 (train) or 1 (test), at most `limit` persons, those without any labelled joint left out. DataMissing, DataError."""
    pose_set = datasets.load(config.dataset, config.data_root, config.splits[number])
    return pose_set.select((pose_set.visible > 0).any(1)).limit(config.limit)


def import_data(config: Config) -> None:
    """Fill the project folder: pictures, lists, prototxts, project.json."""
    splits = [load_split(config, number) for number in (0, 1)]
    images = config.project / image_folder(config)
    images.mkdir(parents=True, exist_ok=True)
    if splits[0].synthetic:
        (config.project / "SYNTHETIC").touch()
        print(f"SYNTHETIC data in {splits[0].root}: figures from it say nothing about real pictures")
    for kind, pose_set in zip(("train", "test"), splits):
        lines = _link(config, pose_set, images) if config.whole_images else _crop(config, pose_set, images, kind)
        write_lines(dataset_folder(config) / f"{kind}_annos.txt", lines)
    write_project(config)
    store(config)


def _link(config: Config, pose_set: PoseSet, images: Path) -> list[str]:
    for path in pose_set.images:
        source, target = Path(path), images / Path(path).name
        if not source.is_file():
            raise DataError(
                f"image {path} does not exist; `python -m common.datasets check {config.dataset} {config.data_root}` lists all such"
            )
        if not target.is_symlink() and not target.exists():
            os.symlink(source.absolute(), target)
    folder = Path(pose_set.images[0]).parent.parent.parent
    listed = {"train": "train_annos.txt"}.get(pose_set.split, "test_annos.txt")
    wanted = set(pose_set.image_id.tolist())
    return [str(line) for line in read_annotations(folder / listed, len(config.skeleton)) if line.name in wanted]


def _line(name: str, joints: np.ndarray) -> str:
    return f"{name} {','.join(f'{v:.3f}' for v in joints.ravel())}\n"


def _crop(config: Config, pose_set: PoseSet, images: Path, kind: str) -> list[str]:
    pictures, lines = Pictures(pose_set, config), []
    for row in tqdm(range(len(pictures)), desc=f"import {kind}", dynamic_ncols=True, mininterval=2):
        name = f"{kind}{row:08d}.png"
        save(images / name, pictures.image(row))
        lines.append(_line(name, pictures.joints(row)))
    return lines
