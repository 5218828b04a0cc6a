"""K2HPD: Kinect depth images of one person (Wang et al., "Human Pose Estimation from Depth Images via Inference
Embedded Multi-task Learning", ACM MM 2016, arXiv 1608.03932), in the layout of the Caffe DeepPose.

`train_annos.txt`, `test_annos.txt`: a line an image, `NAME.png x0,y0,x1,y1,...`, any even number of at least 30 values.
The first 15 points are used; coordinates count from 0 and have no missing marker. NUL bytes, which the real files hold,
are removed. Images in `depth_data/depth_images/`. The joint names are inferred from that project's limb and mirror
lists. Splits: `train`, `test` (= `valid`). `box` = tight around the joints.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from common.datasets import files, record
from common.errors import DataError
from common.poses import PoseSet
from common.skeletons import K2HPD15

_FILES = {"train": "train_annos.txt", "test": "test_annos.txt"}
_VALUES = 2 * len(K2HPD15)


def load(root: Path, split: str) -> PoseSet:
    """One split, joints (N,15,2), all visible; `image_id` is the file name. Raises DataMissing or DataError."""
    file = _FILES.get(record("k2hpd").split(split))
    if file is None:
        raise files.unknown_split("k2hpd", split, ", ".join(_FILES))
    folder = files.first_existing((root, root / "K2HPD"), file)
    if folder is None:
        raise files.missing("k2hpd", root, f"{file} and depth_data/depth_images/")
    names, joints = _read(folder / file)
    return record("k2hpd").pose_set(
        root, split, joints, np.full(joints.shape[:2], 2),
        images=[f"{folder}/depth_data/depth_images/{name}" for name in names],
        image_id=np.array(names, dtype=str), synthetic=files.is_synthetic(root, folder),
    )  # fmt: skip


def splits(root: Path) -> list[str]:
    """What `check` looks through."""
    found = [s for s in _FILES if files.first_existing((root, root / "K2HPD"), _FILES[s])]
    if not found:
        raise files.missing("k2hpd", root, "train_annos.txt, test_annos.txt and depth_data/depth_images/")
    return found


def _read(path: Path) -> tuple[list[str], np.ndarray]:
    names, values = [], []
    text = path.read_bytes().replace(b"\0", b"").decode("utf-8", "replace")
    for number, words in enumerate(map(str.split, text.splitlines()), 1):
        if not words:
            continue
        try:
            point = list(map(float, words[1].split(","))) if len(words) == 2 else []
        except ValueError:
            point = []
        if len(point) < _VALUES or len(point) % 2 or not np.isfinite(point).all():
            wanted = f"a file name and an even number of at least {_VALUES} comma-separated finite numbers"
            raise DataError(f"{path} line {number}: expected {wanted}")
        names.append(words[0])
        values.append(point[:_VALUES])
    return names, np.array(values, np.float64).reshape(len(values), len(K2HPD15), 2)
