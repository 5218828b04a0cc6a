"""Detections -> persons: the solver's clusters, and the original's grouping by ground-truth masks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from deepercut_tf.detections import Detections, Maps
from deepercut_tf.multicut import SUPPRESSED, logit_cost, solve_nl_lmp
from deepercut_tf.pairwise import SpatialModel, pair_graph


@dataclass(frozen=True)
class People:
    """P persons found in an image; pixels of the network's input."""

    joints: np.ndarray  # (P,J,2), NaN (mode compat: 0, 0) where a joint was not found
    score: np.ndarray  # (P,J) summed confidences of the detections, 0 where none

    def __len__(self) -> int:
        return len(self.joints)

    @property
    def present(self) -> np.ndarray:
        """(P,J) bool."""
        return self.score > 0

    @property
    def person_score(self) -> np.ndarray:
        """(P,) mean score of the joints that were found times the share of joints found."""
        count = self.present.sum(1)
        mean = self.score.sum(1) / np.maximum(count, 1)
        return mean * count / max(self.joints.shape[1], 1)

    def with_joints(self, least: int) -> People:
        """Persons of at least so many joints."""
        keep = self.present.sum(1) >= least
        return People(self.joints[keep], self.score[keep])


def solve_detections(found: Detections, joints: int, model: SpatialModel, sparse_graph=None) -> np.ndarray:
    """(N,2) uint64 class (0, or SUPPRESSED) and cluster of every detection. DataError when the model lacks a needed pair."""
    if not len(found):
        return np.zeros((0, 2), np.uint64)
    pairs, probability = pair_graph(found, joints, model, sparse_graph)
    return solve_nl_lmp(logit_cost(found.conf)[:, None], pairs, logit_cost(probability))


def assemble(found: Detections, labelling: np.ndarray, joints: int, mode: str = "correct") -> People:
    """One person a cluster: the confidence-weighted mean of its detections of each joint.

    Mode compat repeats the original, which forgets suppression: each suppressed detection becomes a person of one joint, and joints that
    were not found are (0, 0).
    """
    kept = np.ones(len(found), bool) if mode == "compat" else labelling[:, 0] != SUPPRESSED
    _, cluster = np.unique(labelling[kept, 1], return_inverse=True)
    count = int(cluster.max()) + 1 if len(cluster) else 0
    joint, conf, coord = found.joint[kept], found.conf[kept], found.coord[kept]
    total, weighted = np.zeros((count, joints)), np.zeros((count, joints, 2))
    np.add.at(total, (cluster, joint), conf)
    np.add.at(weighted, (cluster, joint), conf[:, None] * coord)
    absent = 0.0 if mode == "compat" else np.nan
    mean = np.where(total[..., None] > 0, weighted / np.where(total > 0, total, 1)[..., None], absent)
    return People(mean, total)


def find_people(
    found: Detections, joints: int, model: SpatialModel, sparse_graph=None, mode: str = "correct"
) -> People:
    """Persons of an image: pair probabilities, solver, assembly."""
    return assemble(found, solve_detections(found, joints, model, sparse_graph), joints, mode)


def group_by_masks(maps: Maps, masks: np.ndarray, stride: int = 8) -> np.ndarray:
    """(P,J,3) rows x, y, probability: each person's best cell of each joint inside its ground-truth mask (H,W,P).

    An oracle, not a system: the original's `use_gt_segm`. Its arithmetic is kept: score maps enlarged by cubic splines, masks padded alike
    on both sides although the grid is not centred, positions cut to whole pixels.
    """
    from scipy.ndimage import zoom

    height, width, joints = maps.score.shape
    large = zoom(maps.score, (stride, stride, 1), order=3)
    spare = height * stride - masks.shape[0], width * stride - masks.shape[1]
    padding = [(s // 2, s - s // 2) for s in spare]
    found = np.zeros((masks.shape[2], joints, 3))
    for p in range(masks.shape[2]):
        inside = np.pad(masks[..., p], padding)
        for k in range(joints):
            row, column = np.unravel_index(np.argmax(inside * large[..., k]), inside.shape)
            row, column = row // stride, column // stride
            x, y = np.array([column, row]) * stride + stride / 2 + maps.locref[row, column, k]
            found[p, k] = int(x), int(y), maps.score[row, column, k]
    return found
