"""Baselines that see no image: what a figure must beat before it says anything."""

from __future__ import annotations

import numpy as np

from common.geometry import box_center
from common.poses import PoseSet
from common.predictions import Predictions, predictions_for


def mean_pose(train: PoseSet, test: PoseSet) -> Predictions:
    """The training set's mean pose, placed into each test person's box.

    Poses are averaged relative to the box centre in units of its longer side (as square crops see them), over the labelled joints;
    a joint that is never labelled in training is NaN. ValueError when the two sets have different skeletons.
    """
    if train.skeleton != test.skeleton:
        raise ValueError(f"mean pose of {train.skeleton.name} cannot be placed into {test.skeleton.name}")
    relative = (train.joints - box_center(train.box)[:, None]) / _side(train)
    with np.errstate(invalid="ignore"):
        count = np.isfinite(relative).sum(0)
        mean = np.nansum(relative, axis=0) / np.where(count > 0, count, np.nan)
    joints = box_center(test.box)[:, None] + mean * _side(test)
    return predictions_for(test, joints, meta={"model": "mean pose", "boxes": "oracle (annotated)", "flip_test": False})


def _side(pose_set: PoseSet) -> np.ndarray:
    return np.maximum(pose_set.box[:, 2:].max(-1), 1.0)[:, None, None]
