"""Score-map, location-refinement and pairwise targets of one image (as in eldar/pose-tensorflow; DeeperCut, section 3).

Cell (row j, column i) of a map stands for the pixel (8 i + 4, 8 j + 4) of the scaled image, counted from 0.
"""

from __future__ import annotations

import math
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
    offset = np.zeros((*score.shape, 2))  # pixels from the cell's middle to it
    pair = np.zeros((*score.shape, joints - 1 if pairwise else 0, 2), np.float32)
    pair_mask = np.zeros_like(pair)
    for ids, coords in persons:
        for k, point in zip(ids, coords):
            rows, columns, offsets, distances = _cells_near(point, config.pos_dist_thresh * scale, size)
            held = nearest[rows, columns, k]
            wins = np.isinf(held) if compat and not refined else distances < held
            cells, offsets = (rows[wins], columns[wins], k), offsets[wins]
            score[cells], nearest[cells], offset[cells] = 1, distances[wins], offsets
            if statistics is None or not pairwise:
                continue
            if not compat:
                pair[cells], pair_mask[cells] = 0, 0
            others, ends = ids[ids != k], coords[ids != k]
            # from the cell's middle: the joint's own offset plus the step to the other joint
            step = offsets[:, None] + (ends - point)
            places = rows[wins, None], columns[wins, None], k, others - (k < others)
            pair[places], pair_mask[places] = (step - statistics[0, k, others]) / statistics[1, k, others], 1
    if config.weigh_only_present_joints:
        weights[...] = np.isin(np.arange(joints), np.concatenate([ids for ids, _ in persons] or [[]]))
    flat = (*size, -1)
    return Targets(
        score=score,
        weights=weights,
        locref=(offset / config.locref_stdev).reshape(flat).astype(np.float32) if refined else None,
        locref_mask=np.repeat(score, 2, axis=-1) if refined else None,
        pairwise=pair.reshape(flat) if pairwise else None,
        pairwise_mask=pair_mask.reshape(flat) if pairwise else None,
    )


def _cells_near(point: np.ndarray, reach: float, size: tuple[int, int]):
    """Rows, columns (n,) of the cells within `reach` pixels, their offsets (n,2) to the point, squared lengths (n,)."""
    # joint by joint and axis by axis: few cells are near, and numpy's calls on grids cost more than the sums
    spans = []
    for place, cells in zip(point.tolist(), size[::-1]):
        first = min(max(math.ceil((place - reach) / STRIDE - HALF), 0), cells)
        last = min(max(math.floor((place + reach) / STRIDE - HALF) + 1, first), cells)
        spans.append((first, place - (np.arange(first, last) + HALF) * STRIDE))
    (left, across), (top, down) = spans
    distance = across**2 + (down**2)[:, None]
    rows, columns = np.nonzero(distance <= reach**2)
    return rows + top, columns + left, np.stack([across[columns], down[rows]], -1), distance[rows, columns]
