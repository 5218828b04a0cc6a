"""Score-map, location-refinement and pairwise targets of one image (NumPy; as in eldar/pose-tensorflow; DeeperCut,
section 3).

Cell (row j, column i) of a map stands for the pixel (8 i + 4, 8 j + 4). Coordinates are 0-based pixels of the scaled
image.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from deepercut_tf.config import Config

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


def pair_id(k: int, m: int, joints: int) -> int:
    """Number of the ordered pair of joints k -> m (k != m) among J (J-1): k-major, m ascending."""
    return (joints - 1) * k + m - (1 if k < m else 0)


def map_size(height: int, width: int) -> tuple[int, int]:
    """Rows and columns of the score maps of an image: 2 ceil(H/16), 2 ceil(W/16)."""
    return 2 * -(-height // 16), 2 * -(-width // 16)


def _window(position: float, reach: float, stride: float, cells: int) -> slice:
    first = int(np.ceil((position - reach) / stride - HALF))
    last = int(np.floor((position + reach) / stride - HALF))
    return slice(min(max(first, 0), cells), max(min(last + 1, cells), 0))


def make_targets(
    persons: list[tuple[np.ndarray, np.ndarray]],
    size: tuple[int, int],
    scale: float,
    config: Config,
    statistics: np.ndarray | None = None,
) -> Targets:
    """Targets of an image with `persons` [(joint ids (n,), coordinates (n,2)), ...], already scaled; `size` (h,w) of
    the maps.

    Cells within `pos_dist_thresh * scale` pixels of a joint are positive, inclusive; of two persons' joints the nearer
    one has the cell, of equally near ones the first. `statistics` (2,J,J,2): mean and deviation of the offset k -> m at
    this scale, needed for pairwise targets. Mode compat: without location refinement the first person keeps a cell; a
    cell's pairwise entries of a former owner stay.
    """
    joints, locref, compat = config.num_joints, config.location_refinement, config.mode == "compat"
    pairwise = config.pairwise_predict and statistics is not None
    maps = _Maps.empty(size, joints, joints - 1 if pairwise else 0)
    for ids, coords in persons:
        for k, point in zip(ids, coords):
            first_stays = compat and not locref
            rows, columns, wins, offset, distance = _winning_cells(maps, int(k), point, scale, config, first_stays)
            maps.score[rows, columns, k][wins] = 1
            maps.nearest[rows, columns, k][wins] = distance[wins]
            maps.offset[rows, columns, k][wins] = offset[wins]
            if statistics is not None and pairwise:
                _write_pairs(maps, (rows, columns), wins, offset, int(k), point, (ids, coords), statistics, compat)
    flat = (*size, -1)
    present = _present_weights(persons, size, joints) if config.weigh_only_present_joints else np.ones_like(maps.score)
    return Targets(
        score=maps.score,
        weights=present,
        locref=(maps.offset / config.locref_stdev).reshape(flat).astype(np.float32) if locref else None,
        locref_mask=np.repeat(maps.score, 2, axis=-1) if locref else None,
        pairwise=maps.pair.reshape(flat) if pairwise else None,
        pairwise_mask=maps.pair_mask.reshape(flat) if pairwise else None,
    )


@dataclass
class _Maps:
    score: np.ndarray
    nearest: np.ndarray  # squared distance of the joint that has the cell
    offset: np.ndarray  # pixels from the cell's middle to it
    pair: np.ndarray
    pair_mask: np.ndarray

    @classmethod
    def empty(cls, size: tuple[int, int], joints: int, others: int) -> _Maps:
        flat, pairs = (*size, joints), (*size, joints, others, 2)
        score, offset = np.zeros(flat, np.float32), np.zeros((*flat, 2))
        return cls(score, np.full(flat, np.inf), offset, np.zeros(pairs, np.float32), np.zeros(pairs, np.float32))


def _winning_cells(maps: _Maps, k: int, point: np.ndarray, scale: float, config: Config, first_stays: bool):
    """The window around a joint, which of its cells the joint takes, its offsets there and their squared lengths."""
    reach, stride, (height, width) = config.pos_dist_thresh * scale, config.stride, maps.score.shape[:2]
    rows, columns = _window(point[1], reach, stride, height), _window(point[0], reach, stride, width)
    dx = point[0] - (np.arange(columns.start, columns.stop) * stride + HALF * stride)
    dy = point[1] - (np.arange(rows.start, rows.stop) * stride + HALF * stride)
    offset = np.stack(np.broadcast_arrays(dx[None, :], dy[:, None]), axis=-1)
    distance = offset[..., 0] ** 2 + offset[..., 1] ** 2
    held = maps.nearest[rows, columns, k]
    wins = (distance <= reach**2) & (np.isinf(held) if first_stays else distance < held)
    return rows, columns, wins, offset, distance


def _write_pairs(
    maps: _Maps, window, wins, offset, k: int, point, person, statistics: np.ndarray, compat: bool
) -> None:
    rows, columns = window
    pair, mask = maps.pair[rows, columns, k], maps.pair_mask[rows, columns, k]
    if not compat:
        pair[wins], mask[wins] = 0, 0
    ids, ends = person
    others = ids != k
    ids, ends = ids[others], ends[others]
    # from the cell's middle: the joint's own offset plus the step to the other joint
    step = offset[wins][:, None] + (ends - point)
    j, i = (index[:, None] for index in np.nonzero(wins))
    places = ids - (k < ids)
    pair[j, i, places] = (step - statistics[0, k, ids]) / statistics[1, k, ids]
    mask[j, i, places] = 1


def _present_weights(persons, size: tuple[int, int], joints: int) -> np.ndarray:
    present = np.zeros(joints, np.float32)
    for ids, _ in persons:
        present[np.asarray(ids, int)] = 1
    return np.broadcast_to(present, (*size, joints)).copy()
