"""CrowdPose (Li et al., "CrowdPose: Efficient Crowded Scenes Pose Estimation and A New Benchmark", CVPR 2019).

`crowdpose_{train,val,test,trainval}.json` (in the folder, `annotations/` or `json/`), images in `images/`. Every image
has a `crowdIndex`, 0 (people apart) to 1, which becomes `crowd_index` of its persons. Annotations have no segment: as
in the authors' evaluation, the area that OKS is normalised by is 0.53 x that of the box. The rest is as in
`common.datasets.coco`.

Splits: as the files are called; `valid` means `val`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from common.datasets import files
from common.datasets.about import DataSet, Split
from common.datasets.coco import read
from common.poses import PoseSet
from common.skeletons import CROWDPOSE14, group_name

_PREFIX = "crowdpose_"
_AREA_OF_BOX = 0.53


def load(root: str | Path, split: str, category: str | None = None) -> PoseSet:
    """One split, joints (N,14,2). Images need not exist. Raises DataMissing or DataError."""
    root, have = Path(root), _paths(Path(root))
    path = have.get(RECORD.split(split))
    if path is None:
        raise files.unknown_split("crowdpose", split, ", ".join(splits(root)))
    found = read("crowdpose", path, root, split, f"{root}/images", CROWDPOSE14, category, area=False)
    images = files.rows(path, files.read_json(path), "images")
    index = dict(zip(files.column(images, "id", whole=True).tolist(), files.column(images, "crowdIndex").tolist()))
    crowd_index = np.array([index[i] for i in found.image_id.tolist()], np.float64)
    return replace(found, area=_AREA_OF_BOX * found.box[:, 2] * found.box[:, 3], crowd_index=crowd_index)


def splits(root: str | Path) -> list[str]:
    """The splits that are there; trainval only where its two halves are not, so that every annotation is there once."""
    have = set(_paths(Path(root)))
    if not have:
        raise files.missing("crowdpose", Path(root), f"{_PREFIX}train.json and the like, and images/")
    return sorted(have - {"trainval"} if {"train", "val"} <= have else have)


def _paths(root: Path) -> dict[str, Path]:
    folders = (root / "json", root / "annotations", root)
    return {p.stem.removeprefix(_PREFIX): p for folder in folders for p in sorted(folder.glob(_PREFIX + "*.json"))}


# ten times sigma of the authors' evaluation: COCO's where the joint is one of COCO's
_TENFOLD = {"shoulder": 0.79, "elbow": 0.72, "wrist": 0.62, "hip": 1.07, "knee": 0.87, "ankle": 0.89}
RECORD = DataSet(
    name="crowdpose",
    skeleton=CROWDPOSE14,
    source="Get it from its authors: https://github.com/Jeff-sjtu/CrowdPose",
    terms="non-commercial research use; cite Li et al., CVPR 2019",
    splits={n: Split(images=k) for n, k in (("train", 10000), ("val", 2000), ("trainval", 12000), ("test", 8000))},
    published="test",
    crops="detector or annotated: the prediction file says which",
    measures="oks_ap",
    load=load,
    list_splits=splits,
    by_image=True,
    aliases={"valid": "val"},
    sigmas=tuple(_TENFOLD.get(group_name(joint), 0.79) / 10 for joint in CROWDPOSE14.joints),
)
