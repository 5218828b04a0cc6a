"""Figures as MobilePose counts them (compat): PCK in units of the joints' extent, and its Penn Action table.

The extent is measured on decoded label maps whose background channel is empty and decodes to (0, 0), so it reaches from
the crop's origin to the farthest joint: the threshold is about twice as wide as meant.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from common.geometry import pad_box
from common.metrics.counting import Result, distances, joint_result, mean_of, percentages, pooled, within
from common.poses import box_of_joints
from common.skeletons import CPM14, LPM14, PENN13, Skeleton, mirror_name

CROP_PADDING = 256 / 3  # pixels around the joints' extent
CLIP_LENGTH = 5  # frames; the last (n mod 5) frames of a video are never scored
BATCH = 4  # batch size of the original's settings; its epoch figure is the mean over batches
_GROUPS = ("head_top", "shoulder", "elbow", "wrist", "hip", "knee", "ankle")


def extent_accuracy(
    truth, predicted, visible, size, threshold: float, skeleton: Skeleton, batch: int | None = None
) -> Result:
    """PCK at `threshold` x `size` (N,), inclusive, without the neck. truth, predicted (N,J,2), visible (N,J) bool.

    A group with nothing visible scores 0. With `batch`, hits are counted in consecutive batches of that size and the
    figures are plain means over batches, those in which nothing is visible left out (the original stops there).
    """
    hits = within(distances(truth, predicted), size[:, None], threshold) & visible
    whole = joint_result(hits, visible, skeleton, without=("neck",))
    columns = [i for i, joint in enumerate(skeleton.joints) if joint != "neck"]
    starts = np.arange(0, max(len(hits), 1), batch or max(len(hits), 1))
    found, possible = (np.array([part[start:][: batch or None].sum(0) for start in starts]) for part in (hits, visible))
    used = possible[:, columns].any(1)

    def figure(members) -> float:
        return mean_of(100.0 * found[used][:, members].sum(1) / np.maximum(possible[used][:, members].sum(1), 1))

    how = f"hit: distance <= {threshold:g} x size; total = hits / visible joints without the neck"
    return replace(
        whole, total=figure(columns),
        values={joint: value for joint, value in whole.values.items() if joint != "neck"},
        aggregation=how + (f", mean over batches of {batch} in file order" if batch else ""),
        counts={joint: count for joint, count in whole.counts.items() if joint != "neck"},
        groups={g: figure(members) for g, members in skeleton.groups.items() if g in _GROUPS},
        means={"weighted": whole.means["weighted"]}, tally=None,
    )  # fmt: skip


def crop_box(joints: np.ndarray, image_size: np.ndarray | None = None, given: np.ndarray | None = None) -> np.ndarray:
    """(N,4) x, y, w, h of MobilePose's crop in image pixels, within `image_size` (N,2) if known.

    The box is the extent of the annotated joints (N,J,2) and 256/3 px around it; finite rows of `given` (N,4) win.
    """
    box = pad_box(box_of_joints(joints), CROP_PADDING)
    replaced = np.isfinite(np.full_like(box, np.nan) if given is None else given).all(1, keepdims=True)
    box = np.where(replaced, np.nan if given is None else given, box)
    low, high = box[:, :2], box[:, :2] + box[:, 2:]
    if image_size is not None:  # a given box is cut to the width, one around the joints to the last column
        low, high = np.maximum(low, 0), np.minimum(high, np.asarray(image_size) - np.where(replaced, 0, 1))
    low, high = np.trunc(low), np.trunc(high)
    return np.concatenate([low, high - low], axis=1)


def extent_from_origin(joints: np.ndarray, box: np.ndarray) -> np.ndarray:
    """(N,) pixels along x or y from the origin of the square around `box` (N,4) to the farthest joint, or NaN."""
    side = box[:, 2:].max(1, keepdims=True)
    origin = box[:, :2] - (side - box[:, 2:]) / 2
    return np.fmax.reduce(joints - origin[:, None], axis=(1, 2), initial=np.nan)


def with_penn_neck(joints: np.ndarray, visible: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Penn Action's joints (N,13,2) and visibility (N,13) -> MobilePose's 14; the neck is made from head and shoulders."""
    head, first, second = (PENN13.index(name) for name in ("head", "left_shoulder", "right_shoulder"))
    shoulders = joints[:, first] + joints[:, second]
    neck = np.array([0.5, 0.2]) * joints[:, head] + np.array([0.25, 0.4]) * shoulders
    source = PENN13.joints + ("neck",)
    order = [source.index("head" if name == "head_top" else name) for name in LPM14.joints]
    seen = np.concatenate([visible, visible[:, [head, first, second]].min(1, keepdims=True)], axis=1)
    return np.concatenate([joints, neck[:, None]], axis=1)[:, order], seen[:, order]


def penn_columns() -> dict[str, str]:
    """Column that the script prints -> joint that it scores: it takes its maps for the official network's."""
    printed = map(mirror_name, PENN13.joints)  # the official code names Penn Action's sides the other way round
    return {name: LPM14.joints[CPM14.index("head_top" if name == "head" else name)] for name in printed}


def penn_table(truth, predicted, visible, crop_side, threshold: float = 0.2) -> Result:
    """The Penn Action table as printed. truth, predicted (N,14,2) in LPM14 order, visible (N,14) bool, crop_side (N,).

    `values` has the printed column names, which are not the joints scored (`penn_columns`): never the right knee.
    """
    columns = penn_columns()
    order = LPM14.indices(columns.values())
    hits = within(distances(truth, predicted), crop_side[:, None], threshold)[:, order]
    counted = visible[:, order] & np.isfinite(crop_side)[:, None]
    scored = ", ".join(f"{name} = {joint}" for name, joint in columns.items())
    return Result(
        total=pooled(hits, counted),
        values=dict(zip(columns, percentages(hits, counted).tolist())),
        aggregation=f"hit: distance <= {threshold:g} x longer side of the crop; total = hits / visible joints, pooled; "
        f"column = joint really scored: {scored}",
        n=int(counted.any(1).sum()),
        counts=dict(zip(columns, counted.sum(0).tolist())),
    )


def whole_clips(sequence: np.ndarray, frame: np.ndarray) -> np.ndarray:
    """(N,) bool: frames that belong to a whole clip of five; `sequence` (N,), 0-based `frame` (N,)."""
    _, inverse, length = np.unique(sequence, return_inverse=True, return_counts=True)
    return frame < (length // CLIP_LENGTH * CLIP_LENGTH)[inverse]
