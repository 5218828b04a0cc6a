"""CrowdPose (Li et al., "CrowdPose: Efficient Crowded Scenes Pose Estimation and A New Benchmark", CVPR 2019).

`crowdpose_{train,val,test,trainval}.json` (in the folder, `annotations/` or `json/`), images in `images/`. Every image
has a `crowdIndex`, 0 (people apart) to 1, which becomes `crowd_index` of its persons. Annotations have no segment: as
in the authors' evaluation, the area that OKS is normalised by is 0.53 x that of the box. The rest is as in
`common.datasets.coco`. Splits: as the files are called; `valid` means `val`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from common.datasets import files, record
from common.datasets.coco import read
from common.poses import PoseSet
from common.skeletons import CROWDPOSE14

_PREFIX = "crowdpose_"
_AREA_OF_BOX = 0.53


def load(root: Path, split: str, category: str | None = None) -> PoseSet:
    """One split, joints (N,14,2). Images need not exist. Raises DataMissing or DataError."""
    path = _paths(root).get(record("crowdpose").split(split))
    if path is None:
        raise files.unknown_split("crowdpose", split, ", ".join(splits(root)))
    found = read("crowdpose", path, root, split, f"{root}/images", CROWDPOSE14, category, area=False)
    images = files.rows(path, files.read_json(path), "images")
    index = dict(zip(files.column(images, "id", whole=True).tolist(), files.column(images, "crowdIndex").tolist()))
    crowd_index = np.array([index[i] for i in found.image_id.tolist()], np.float64)
    return replace(found, area=_AREA_OF_BOX * found.box[:, 2] * found.box[:, 3], crowd_index=crowd_index)


def splits(root: Path) -> list[str]:
    """The splits that are there; trainval only where its two halves are not, so that every annotation is there once."""
    have = set(_paths(root))
    if not have:
        raise files.missing("crowdpose", root, f"{_PREFIX}train.json and the like, and images/")
    return sorted(have - {"trainval"} if {"train", "val"} <= have else have)


def _paths(root: Path) -> dict[str, Path]:
    folders = (root / "json", root / "annotations", root)
    return {p.stem.removeprefix(_PREFIX): p for folder in folders for p in sorted(folder.glob(_PREFIX + "*.json"))}
