"""MobilePose's `pred.mat` of Penn Action: joints in 256-pixel crops, taken back to the frames.

Its test program writes `pred` (N,15,2): the arg-max of each map times 256/31, columns y, x, channels in MobilePose's order with the
background last; N = frames of whole clips of five, videos and frames in order (the last n mod 5 frames of a video are not in it). The crop
is the extent of the stored joints, placeholders of hidden ones included, and 256/3 px around it, within the frame, scaled so that its
longer side is 256 and centred on a square canvas. The file does not hold its crops, so they are made again from the label files. The
original lists videos in the order of the file system, which is taken to be sorted.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from common.datasets import files, record
from common.errors import DataError
from common.metrics.mobilepose import crop_box, whole_clips
from common.poses import PoseSet
from common.skeletons import LPM14, PENN13, skeleton_map

CROP = 256


def read_pred(path: Path, pred: np.ndarray, pose_set: PoseSet) -> tuple[np.ndarray, np.ndarray, int]:
    """(M,13,2) joints in 0-based frame pixels for every row of `pose_set`, (M,4) crops x, y, w, h, and how many rows the file leaves out
    (NaN).

    Reads the label files of `pose_set`. DataError when it is not Penn Action or the shape does not fit it.
    """
    if pose_set.skeleton != PENN13 or pose_set.sequence is None or pose_set.frame is None:
        other = f"the ground truth is {pose_set.name} ({pose_set.skeleton.name})"
        raise DataError(f"{path}: field pred is MobilePose's for Penn Action; {other}. Give penn_action")
    whole = whole_clips(pose_set.sequence, pose_set.frame)
    rows = {int(whole.sum()): np.flatnonzero(whole), len(pose_set): np.arange(len(pose_set))}
    if pred.ndim != 3 or pred.shape[1:] not in ((len(LPM14) + 1, 2), (len(LPM14), 2)) or len(pred) not in rows:
        wanted = f"({int(whole.sum())}, 15, 2), the frames of whole clips of five, or all {len(pose_set)} frames"
        what = f"has shape {pred.shape}; {pose_set.name}/{pose_set.split} needs {wanted}"
        raise DataError(f"{path}: field pred {what}. Give the split that was predicted")
    covered = rows[len(pred)]
    origin = record("penn_action").origin
    # the original takes stored coordinates, which count from 1, for array indices
    box = crop_box(_stored_joints(pose_set), pose_set.image_size)
    xy = pred[:, : len(LPM14), ::-1].astype(np.float64)
    joints = np.full(pose_set.joints.shape, np.nan)
    joints[covered] = skeleton_map(LPM14, PENN13).apply(from_crop(xy, box[covered]) - origin)
    box[:, :2] -= origin
    return joints, box, len(pose_set) - len(covered)


def _stored_joints(pose_set: PoseSet) -> np.ndarray:
    """(N,13,2) coordinates as the label files have them, hidden joints and placeholders included."""
    joints = np.empty(pose_set.joints.shape)
    assert pose_set.sequence is not None and pose_set.frame is not None  # Penn Action has both
    for sequence in np.unique(pose_set.sequence):
        rows = pose_set.sequence == sequence
        labels = files.read_mat(Path(pose_set.root) / "labels" / f"{int(sequence):04d}.mat", variable_names=("x", "y"))
        joints[rows] = np.stack([labels["x"], labels["y"]], -1).astype(np.float64)[pose_set.frame[rows]]
    return joints


def from_crop(points: np.ndarray, box: np.ndarray) -> np.ndarray:
    """(N,J,2) points of the 256-pixel canvas -> frame pixels, for crops (N,4) x, y, w, h."""
    factor = CROP / box[:, 2:].max(1, keepdims=True)
    offset = np.trunc((CROP - np.trunc(box[:, 2:] * factor)) / 2)
    return (points - offset[:, None]) / factor[:, None] + box[:, None, :2]
