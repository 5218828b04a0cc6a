"""Fit the pairwise regressions on a training set with a trained network: writes files of `pairwise_model_dir`.

    python deepercut_tf/train_spatial_model.py --config deepercut_tf/models/coco/train --weights SNAPSHOT \\
        --nms_radius 5 --det_min_score 0.2 --pairwise_model_dir models/coco/pairwise --limit 2000

Our own design; the original's was not released. Detections on the training images are assigned to the annotated person
whose joint is nearest within pos_dist_thresh. Positives are pairs of one person's detections, negatives pairs of two
persons' (or one nobody's).
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import numpy as np
from scipy.special import expit

from common.errors import DataError
from common.runs.process import exit_code
from deepercut_tf.config import Config, as_cfg, settings_of, settings_parser
from deepercut_tf.detections import Detections, detect
from deepercut_tf.pairwise import SpatialModel, pair_features, save_spatial_model, wanted_pairs

LEAST = 20  # positive pairs that a regression of its own needs
PENALTY = 1e-3  # L2 on the weights, a pair


def owners(found: Detections, persons: list[np.ndarray], reach: float) -> np.ndarray:
    """(N,) index of the person (rows id, x, y) whose joint of that kind is nearest within `reach` pixels, or -1."""
    best, owner = np.full(len(found), reach), np.full(len(found), -1)
    for number, person in enumerate(persons):
        for joint, x, y in person:
            distance = np.hypot(found.coord[:, 0] - x, found.coord[:, 1] - y)
            nearer = (found.joint == joint) & ((distance < best) | ((distance == best) & (owner < 0)))
            best[nearer], owner[nearer] = distance[nearer], number
    return owner


def training_pairs(found: Detections, owner: np.ndarray, joints: int, sparse_graph=None):
    """Joints k < m (M,2), features (M,8), label (M,) of an image's pairs, one detection of which is somebody's."""
    a, b = np.triu_indices(len(found), 1)
    keep = wanted_pairs(sparse_graph, joints)[found.joint[a], found.joint[b]] & ((owner[a] >= 0) | (owner[b] >= 0))
    a, b = a[keep], b[keep]
    return np.stack([found.joint[a], found.joint[b]], axis=1), pair_features(found, a, b, joints), owner[a] == owner[b]


def fit_logistic(x: np.ndarray, y: np.ndarray, penalty: float = PENALTY) -> np.ndarray:
    """(F+1,) weights and bias of an L2 logistic regression, by Newton's method; the bias is not penalised."""
    design = np.concatenate([x, np.ones((len(x), 1))], axis=1)
    ridge = np.diag([penalty * len(x)] * x.shape[1] + [1e-9])
    weight = np.zeros(design.shape[1])
    for _ in range(50):
        p = expit(design @ weight)
        hessian = (design * (p * (1 - p))[:, None]).T @ design + ridge
        step = np.linalg.solve(hessian + 1e-9 * np.eye(len(weight)), design.T @ (p - y) + ridge @ weight)
        weight -= step
        if np.abs(step).max() < 1e-8:
            break
    return weight


def fit(
    pairs: np.ndarray, features: np.ndarray, label: np.ndarray, joints: int, sparse_graph=None, seed: int = 0
) -> tuple[SpatialModel, list]:
    """(model, pairs of joints with fewer than 20 positives or negatives, which take a regression over all pairs) from
    the pairs of all images; as many negatives as positives are drawn. DataError when even all have too few."""
    rng, model, shared = np.random.default_rng(seed), SpatialModel.empty(joints), []
    if min(label.sum(), (~label).sum()) < LEAST:
        found = f"{int(label.sum())} pairs of one person and {int((~label).sum())} of two"
        raise DataError(f"only {found} were detected; train the network longer or use more images")
    whole = _balanced(features, label, rng)
    for k, m in np.argwhere(wanted_pairs(sparse_graph, joints)):
        of = (pairs == (k, m)).all(1)
        enough = min(label[of].sum(), (~label[of]).sum()) >= LEAST
        x, y = _balanced(features[of], label[of], rng) if enough else whole
        shared += [] if enough else [(k, m)]
        low, high = x.min(0), x.max(0)
        high = np.where(high > low, high, low + 1)
        model.low[k, m], model.high[k, m] = low, high
        model.weight[k, m] = fit_logistic((x - low) / (high - low), y)
    return model, shared


def _balanced(features: np.ndarray, label: np.ndarray, rng) -> tuple[np.ndarray, np.ndarray]:
    yes, no = np.flatnonzero(label), np.flatnonzero(~label)
    count = min(len(yes), len(no))
    rows = np.concatenate([rng.permutation(yes)[:count], rng.permutation(no)[:count]])
    return features[rows], label[rows].astype(float)


def run(config: Config) -> Path:
    """Collect, fit and write; returns the folder. DataError on bad input."""
    from deepercut_tf.estimator import Estimator
    from deepercut_tf.items import load_items

    item_set, config = load_items(config)
    folder = config.out or config.pairwise_model_dir
    if not folder:
        raise DataError("say where to write: --out FOLDER, or the key pairwise_model_dir")
    if not config.pairwise_predict:
        raise DataError("the spatial model needs a network with pairwise_predict: true")
    estimator, parts = Estimator(config.weights, people="one", **as_cfg(config)), []
    for _, item, image in item_set.pictures("detections"):
        maps, scale = estimator.maps(image)
        found = detect(maps, config.nms_radius, config.det_min_score)
        persons = [p * [1, scale, scale] for p in item.persons]
        owner = owners(found, persons, config.pos_dist_thresh * scale)
        parts.append(training_pairs(found, owner, config.num_joints, config.sparse_graph))
    if not parts:
        raise DataError(f"no picture of {item_set.root} can be read; run `python -m common.datasets check` on it")
    pairs, features, label = (np.concatenate(column) for column in zip(*parts))
    model, shared = fit(pairs, features, label, config.num_joints, config.sparse_graph, config.seed)
    files, positive = save_spatial_model(folder, model), int(label.sum())
    counts = f"{positive} positive and {len(label) - positive} negative pairs"
    print(f"{counts}; {len(files)} files, {len(shared)} of them the regression over all pairs")
    return Path(folder)


def main(argv=None) -> int:
    """Exit code 0, or 2 with a message on bad input."""
    return exit_code(lambda: run(settings_of(settings_parser(__doc__).parse_args(argv))), "{}")


if __name__ == "__main__":
    sys.exit(main())
