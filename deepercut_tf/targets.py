"""Score-map, location-refinement and pairwise targets of one image (as in eldar/pose-tensorflow; DeeperCut, section 3).

Cell (row j, column i) of a map stands for the pixel (8 i + 4, 8 j + 4) of the scaled image, counted from 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from deepercut_tf.config import Config

STRIDE = 8  # pixels a cell of the maps
HALF = 0.5  # a cell's pixel is its middle


@dataclass
class Targets:
    """Maps (h,w,channels) float32; None where the settings have no offsets of that kind."""

    score: np.ndarray  # (h,w,J) 0 or 1
    weights: np.ndarray  # (h,w,J)
    locref: np.ndarray | None = None  # (h,w,2J), channels 2j = x, 2j+1 = y, in units of locref_stdev
    locref_mask: np.ndarray | None = None
    pairwise: np.ndarray | None = None  # (h,w,2J(J-1)), normalised by the statistics
    pairwise_mask: np.ndarray | None = None


def map_size(height: int, width: int) -> tuple[int, int]:
    """Rows and columns of the score maps of an image: 2 ceil(H/16), 2 ceil(W/16)."""
    return 2 * -(-height // 16), 2 * -(-width // 16)


def make_targets(
    persons: list, size: tuple[int, int], scale: float, config: Config, statistics: np.ndarray | None = None
) -> Targets:
    """Targets of an image with `persons` [(joint ids (n,), scaled coordinates (n,2)), ...]; `size` (h,w) of the maps.

    Cells within `pos_dist_thresh * scale` pixels of a joint are positive, inclusive; of two persons' joints the nearer
    one has the cell, of equally near ones the first. `statistics` (2,J,J,2): mean and deviation of the offset k -> m at
    this scale, needed for pairwise targets. Mode compat: without location refinement the first person keeps a cell; a
    cell's pairwise entries of a former owner stay.
    """
    joints, refined, compat = config.num_joints, config.location_refinement, config.mode == "compat"
    pairwise = config.pairwise_predict and statistics is not None
    score, weights = np.zeros((*size, joints), np.float32), np.ones((*size, joints), np.float32)
    nearest = np.full(score.shape, np.inf)  # squared distance of the joint that has the cell
    offset = np.zeros((*score.shape, 2 if refined else 0), np.float32)  # from the cell's middle to it
    offset_mask = np.zeros_like(offset)
    pair = np.zeros((*score.shape, joints - 1 if pairwise else 0, 2), np.float32)
    pair_mask = np.zeros_like(pair)
    for ids, coords in persons:
        rows, columns, which, offsets, distances = _cells_near(coords, config.pos_dist_thresh * scale, size)
        held = nearest[rows, columns, ids[which]]
        wins = np.flatnonzero(np.isinf(held) if compat and not refined else distances < held)
        # what is written last stays, where a file gives a person's joint twice: the nearer one, or the first
        wins = wins[np.lexsort([-which[wins], -distances[wins]])]
        which, offsets = which[wins], offsets[wins]
        cells = rows[wins], columns[wins], ids[which]
        score[cells], nearest[cells] = 1, distances[wins]
        if refined:
            offset[cells], offset_mask[cells] = offsets / config.locref_stdev, 1
        if statistics is None or not pairwise:
            continue
        if not compat:
            pair[cells], pair_mask[cells] = 0, 0
        cell, other = np.nonzero(ids[which][:, None] != ids)
        k, m = ids[which][cell], ids[other]
        # from the cell's middle: the joint's own offset plus the step to the other joint
        step = offsets[cell] + (coords[other] - coords[which][cell])
        places = rows[wins][cell], columns[wins][cell], k, m - (k < m)
        pair[places], pair_mask[places] = (step - statistics[0, k, m]) / statistics[1, k, m], 1
    if config.weigh_only_present_joints:
        weights[...] = np.isin(np.arange(joints), np.concatenate([ids for ids, _ in persons] or [[]]))
    flat = (*size, -1)
    return Targets(
        score=score, weights=weights, locref=offset.reshape(flat) if refined else None,
        locref_mask=offset_mask.reshape(flat) if refined else None, pairwise=pair.reshape(flat) if pairwise else None,
        pairwise_mask=pair_mask.reshape(flat) if pairwise else None,
    )  # fmt: skip


def _cells_near(coords: np.ndarray, reach: float, size: tuple[int, int]):
    """Of joints (n,2): rows, columns (c,) of the cells within `reach` pixels of one, which joint that is, their offsets
    (c,2) to it, squared lengths (c,)."""
    first = np.ceil((coords - reach) / STRIDE - HALF)[..., None]
    cells = first + np.arange(int(2 * reach / STRIDE) + 1)  # (n,2,span)
    away = coords[..., None] - (cells + HALF) * STRIDE
    squared = away**2
    distance = squared[:, 0, None] + squared[:, 1, :, None]  # (n,span,span)
    inside = (cells >= 0) & (cells < [[size[1]], [size[0]]])
    near = (distance <= reach**2) & inside[:, 0, None] & inside[:, 1, :, None]
    which, row, column = np.nonzero(near)
    rows, columns = cells[which, 1, row].astype(int), cells[which, 0, column].astype(int)
    return rows, columns, which, np.stack([away[which, 0, column], away[which, 1, row]], -1), distance[near]
