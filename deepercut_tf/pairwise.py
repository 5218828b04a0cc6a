"""Which detections belong to one person: geometric features of a pair, logistic regression on them, the solver's graph,
its clusters as persons (DeeperCut, arXiv 1605.03170, section 4). Files of the spatial model are the original's.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.special import expit

from common.datasets.files import read_mat
from common.errors import DataError
from common.files import write_mat
from deepercut_tf.detections import Detections
from deepercut_tf.multicut import SUPPRESSED, logit_cost, solve_nl_lmp

SAME_PART_SLOPE, SAME_PART_BIAS = 0.2, 7.5  # two detections of one joint: even odds at 37.5 pixels


@dataclass(frozen=True)
class SpatialModel:
    """Logistic regressions of the pairs of joints c1 < c2; rows of NaN where there is none."""

    low: np.ndarray  # (J,J,8) X_min
    high: np.ndarray  # (J,J,8) X_max
    weight: np.ndarray  # (J,J,9), the last is the bias

    @classmethod
    def empty(cls, joints: int) -> SpatialModel:
        """A model without any pair."""
        return cls(*(np.full((joints, joints, n), np.nan) for n in (8, 8, 9)))


def model_file(folder: str | Path, c1: int, c2: int) -> Path:
    """File of the pair c1 < c2 (the names count joints from 1)."""
    return Path(folder) / f"spatial_model_cidx_{c1 + 1}_{c2 + 1}.mat"


def load_spatial_model(folder: str | Path, joints: int, sparse_graph: list[list[int]] | None = None) -> SpatialModel:
    """Read the files of the `wanted_pairs`. DataError naming a missing or damaged file."""
    model = SpatialModel.empty(joints)
    for c1, c2 in np.argwhere(wanted_pairs(sparse_graph, joints)):
        path = model_file(folder, c1, c2)
        if not path.is_file():
            make = "python deepercut_tf/train_spatial_model.py"
            raise DataError(f"{path} does not exist (key pairwise_model_dir): make the model with {make}")
        content = read_mat(path, "spatial_model")
        try:
            options, regression = content["training_opts"][0][0][0], content["log_reg"][0][0][0]
            model.low[c1, c2], model.high[c1, c2] = (_plain(options[name]) for name in ("X_min", "X_max"))
            model.weight[c1, c2] = _plain(regression["w"])
        except (KeyError, IndexError, ValueError, TypeError) as error:
            layout = "training_opts.X_min, X_max (8), log_reg.w (9)"
            raise DataError(f"{path}: spatial_model is not laid out as {layout} ({error})") from error
    return model


def _plain(field: np.ndarray) -> np.ndarray:
    return np.ravel(field[0][0] if field.dtype == object else field)


def save_spatial_model(folder: str | Path, model: SpatialModel) -> list[Path]:
    """Write one file a pair that the model has; returns the paths."""
    paths = []
    for c1, c2 in np.argwhere(np.isfinite(model.weight[..., 0])):
        options = {"X_min": model.low[c1, c2][None], "X_max": model.high[c1, c2][None]}
        content = {"spatial_model": {"training_opts": options, "log_reg": {"w": model.weight[c1, c2][None]}}}
        paths.append(write_mat(model_file(folder, c1, c2), content))
    return paths


def wanted_pairs(sparse_graph: list[list[int]] | None, joints: int) -> np.ndarray:
    """(J,J) bool: pairs c1 < c2 that `sparse_graph` names in either order, or all. DataError for an unknown joint."""
    if not sparse_graph:
        return np.triu(np.ones((joints, joints), bool), 1)
    bad = [p for p in sparse_graph if len(set(p)) != 2 or len(p) != 2 or not all(0 <= int(j) < joints for j in p)]
    if bad:
        raise DataError(f"sparse_graph: {bad[0]} is no pair of two of the {joints} joints")
    wanted = np.zeros((joints, joints), bool)
    wanted[tuple(np.sort(sparse_graph, axis=1).T)] = True
    return wanted


def pair_features(found: Detections, a: np.ndarray, b: np.ndarray, joints: int) -> np.ndarray:
    """(M,8) features of the pairs of detections a[i], b[i] of different joints: f = distance and angle (radians, 0..pi)
    between predicted and found offset, from a to b and from b to a; then exp(-f)."""
    k, m = found.joint[a], found.joint[b]
    parts = []
    for start, end, channel in ((a, b, (joints - 1) * k + m - (k < m)), (b, a, (joints - 1) * m + k - (m < k))):
        real = found.coord[end] - found.grid[start]
        predicted = found.pairwise[start, channel]
        angle = np.arctan2(real[:, 1], real[:, 0]) - np.arctan2(predicted[:, 1], predicted[:, 0])
        parts += [np.linalg.norm(real - predicted, axis=1), np.abs((angle + np.pi) % (2 * np.pi) - np.pi)]
    features = np.stack(parts, axis=1)
    return np.concatenate([features, np.exp(-features)], axis=1)


def pair_graph(found: Detections, joints: int, model: SpatialModel, sparse_graph: list[list[int]] | None = None):
    """(pwidx (M,2) int64, probability (M,) float64 that both are one person's): every pair of detections of one joint,
    and of the pairs of joints in `sparse_graph`, sorted by joints, then detections. DataError naming a pair of joints
    that the model lacks."""
    a, b = np.triu_indices(len(found), 1)
    keep = (wanted_pairs(sparse_graph, joints) | np.eye(joints, dtype=bool))[found.joint[a], found.joint[b]]
    a, b = a[keep], b[keep]
    order = np.lexsort((b, a, found.joint[b], found.joint[a]))
    a, b = a[order], b[order]
    k, m = found.joint[a], found.joint[b]
    score = SAME_PART_BIAS - SAME_PART_SLOPE * np.linalg.norm(found.coord[a] - found.coord[b], axis=1)
    other = k != m
    weight = model.weight[k[other], m[other]]
    if np.isnan(weight[:, 0]).any():
        c1, c2 = np.stack([k, m], axis=1)[other][np.isnan(weight[:, 0])][0]
        raise DataError(f"the spatial model lacks the joints {c1} and {c2}: {model_file('', c1, c2)} was not loaded")
    low, high = model.low[k[other], m[other]], model.high[k[other], m[other]]
    scaled = (pair_features(found, a[other], b[other], joints) - low) / (high - low)
    score[other] = (scaled * weight[:, :8]).sum(1) + weight[:, 8]
    return np.stack([a, b], axis=1), expit(score)


def solve_detections(found: Detections, joints: int, model: SpatialModel, sparse_graph=None) -> np.ndarray:
    """(N,2) uint64 class (0, or SUPPRESSED) and cluster of every detection. DataError for a pair without model."""
    pairs, probability = pair_graph(found, joints, model, sparse_graph)
    return solve_nl_lmp(logit_cost(found.conf)[:, None], pairs, logit_cost(probability))


def assemble(found: Detections, labelling: np.ndarray, joints: int, mode="correct") -> tuple[np.ndarray, np.ndarray]:
    """(P,J,2) joints, NaN where not found, and (P,J) summed confidences: one person a cluster, the confidence-weighted
    mean of its detections of each joint. Mode compat: suppressed detections are persons of one joint too, and joints
    that were not found (0, 0)."""
    kept = np.ones(len(found), bool) if mode == "compat" else labelling[:, 0] != SUPPRESSED
    _, cluster = np.unique(labelling[kept, 1], return_inverse=True)
    count = int(cluster.max()) + 1 if len(cluster) else 0
    joint, conf, coord = found.joint[kept], found.conf[kept], found.coord[kept]
    total, weighted = np.zeros((count, joints)), np.zeros((count, joints, 2))
    np.add.at(total, (cluster, joint), conf)
    np.add.at(weighted, (cluster, joint), conf[:, None] * coord)
    absent = 0.0 if mode == "compat" else np.nan
    return np.where(total[..., None] > 0, weighted / np.where(total > 0, total, 1)[..., None], absent), total
