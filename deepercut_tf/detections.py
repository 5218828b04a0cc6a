"""Network maps -> joints of one person (argmax) or detections of all, in pixels of the network's input."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from deepercut_tf.config import Config
from deepercut_tf.targets import HALF, STRIDE


@dataclass(frozen=True)
class Maps:
    """One image's maps in pixels: `score` (h,w,J), `locref` (h,w,J,2), `pairwise` (h,w,J(J-1),2) or None."""

    score: np.ndarray
    locref: np.ndarray
    pairwise: np.ndarray | None = None


def unpack_maps(outputs: dict[str, np.ndarray], config: Config, statistics: np.ndarray | None = None) -> Maps:
    """Maps of a network output for one image (leading axis 1), offsets in pixels, in the network's precision;
    `statistics` (2,J,J,2): mean and deviation. Without location refinement its offsets are 0."""
    score = np.asarray(outputs["part_prob"])[0]
    height, width, joints = score.shape
    locref = np.zeros((height, width, joints, 2), score.dtype)
    if config.location_refinement:
        locref = np.asarray(outputs["locref"])[0].reshape(locref.shape) * config.locref_stdev
    if not config.pairwise_predict:
        return Maps(score, locref)
    assert statistics is not None
    raw = np.asarray(outputs["pairwise_pred"])[0].reshape(height, width, joints * (joints - 1), 2)
    # by far the largest array of a picture: no double precision
    mean, deviation = statistics[:, ~np.eye(joints, dtype=bool)].astype(raw.dtype)
    pairwise = raw * deviation
    pairwise += mean
    return Maps(score, locref, pairwise)


def with_mirrored(maps: Maps, other: Maps, order: np.ndarray, edge: float) -> Maps:
    """The middle of a picture's maps and of those of its mirror image, both whole cells wide, `order` (J,) exchanging
    left and right. A joint x pixels from a cell's middle is -x - `edge` from the mirrored cell's (1 at scale 1)."""
    one, two = order[np.array(np.nonzero(~np.eye(len(order), dtype=bool)))]
    pairs = one * (len(order) - 1) + two - (one < two)

    def middle(own, mirrored):
        return (own + mirrored * np.array([-1, 1], own.dtype) - np.array([edge, 0], own.dtype)) / 2

    pairwise = None if other.pairwise is None else middle(maps.pairwise, other.pairwise[:, ::-1, pairs])
    locref = middle(maps.locref, other.locref[:, ::-1, order])
    return Maps((maps.score + other.score[:, ::-1, order]) / 2, locref, pairwise)


def argmax_pose(maps: Maps) -> np.ndarray:
    """(J,3) float64 rows x, y, probability of each joint's best cell (the first in row order of equal ones)."""
    _, width, joints = maps.score.shape
    flat = maps.score.reshape(-1, joints)
    best, every = flat.argmax(0), np.arange(joints)
    grid = (np.stack([best % width, best // width], axis=1) + HALF) * STRIDE
    offset = maps.locref.reshape(-1, joints, 2)[best, every].astype(np.float64)
    return np.concatenate([grid + offset, flat[best, every].astype(np.float64)[:, None]], axis=1)


@dataclass(frozen=True)
class Detections:
    """N detections of all joints, in joint order, the best of a joint first. Positions (x, y) in pixels."""

    joint: np.ndarray  # (N,)
    conf: np.ndarray  # (N,)
    grid: np.ndarray  # (N,2) middle of the cell
    coord: np.ndarray  # (N,2) refined position
    pairwise: np.ndarray  # (N,J(J-1),2) offsets from the cell's middle to the other joints; (N,0,2) without them

    def __len__(self) -> int:
        return len(self.joint)


def disc(radius: float) -> np.ndarray:
    """(2R+1,2R+1) uint8 disc of radius R = ceil(radius) cells."""
    r = int(np.ceil(radius))
    y, x = np.mgrid[-r : r + 1, -r : r + 1]
    return (x**2 + y**2 <= r**2).astype(np.uint8)


def detect(maps: Maps, nms_radius: float, min_score: float) -> Detections:
    """Non-maximum suppression per joint: best cell first (of equal ones in row order, which the original leaves open),
    down to `min_score`, each suppressing a disc of `nms_radius` cells around it."""
    mask = disc(nms_radius).astype(bool)
    found = [_suppress(maps.score[..., k], mask, min_score) for k in range(maps.score.shape[-1])]
    joint = np.repeat(np.arange(len(found)), [len(cells) for cells in found])
    rows, columns = np.concatenate(found).T
    grid = (np.stack([columns, rows], axis=1) + HALF) * STRIDE
    none = np.zeros((len(rows), 0, 2))
    pairwise = none if maps.pairwise is None else maps.pairwise[rows, columns].astype(np.float64)
    conf = maps.score[rows, columns, joint].astype(np.float64)
    return Detections(joint, conf, grid, grid + maps.locref[rows, columns, joint].astype(np.float64), pairwise)


def _suppress(score: np.ndarray, mask: np.ndarray, min_score: float) -> np.ndarray:
    """(n,2) accepted cells (row, column) of one score map."""
    rows, columns = np.nonzero(score >= min_score)
    order = np.argsort(-score[rows, columns], kind="stable")
    reach = mask.shape[0] // 2
    taken = np.zeros((score.shape[0] + 2 * reach, score.shape[1] + 2 * reach), bool)
    accepted = []
    for row, column in zip(rows[order].tolist(), columns[order].tolist()):
        if not taken[row + reach, column + reach]:
            accepted.append((row, column))
            taken[row : row + 2 * reach + 1, column : column + 2 * reach + 1] |= mask
    return np.array(accepted, int).reshape(-1, 2)
