"""Fit the pairwise logistic regressions on a training set with a trained network: writes `pairwise_model_dir`/spatial_model_cidx_A_B.mat.

    python deepercut_tf/train_spatial_model.py --config deepercut_tf/models/coco/train/pose_cfg.yaml --weights SNAPSHOT \\
        --set nms_radius=5.0 --set det_min_score=0.2 --set pairwise_model_dir=models/coco/pairwise --limit 2000

The network runs on the training images at global_scale; detections are assigned to the annotated person whose joint is nearest within
pos_dist_thresh. Positives are pairs of one person's detections, negatives pairs of two persons' (or one nobody's).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)

from common.errors import DataError  # noqa: E402
from common.runs.first.process import exit_code  # noqa: E402
from deepercut_tf.options import settings_of, settings_parser  # noqa: E402


def parse_args(argv=None) -> argparse.Namespace:
    """Options."""
    parser = settings_parser(__doc__, weights=True, limit="the first N images only")
    parser.add_argument("--out", help="folder to write (default: the key pairwise_model_dir)")
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> Path:
    """Collect, fit and write; returns the folder. DataError or ValueError on bad input."""
    from dataclasses import replace

    import numpy as np
    from tqdm import tqdm

    from common.images import read_image
    from deepercut_tf.config import output_path, require
    from deepercut_tf.detections import detect
    from deepercut_tf.inference import PoseFinder
    from deepercut_tf.items import load_items
    from deepercut_tf.pairwise import save_spatial_model
    from deepercut_tf.spatial_training import fit, owners, training_pairs

    item_set, config = load_items(settings_of(args))
    require(config, "nms_radius", "det_min_score", "pos_dist_thresh", why="fitting the spatial model")
    folder = args.out or config.pairwise_model_dir
    if not folder:
        raise DataError("say where to write: --out FOLDER, or the key pairwise_model_dir")
    if not config.pairwise_predict:
        raise DataError("the spatial model needs a network with pairwise_predict: true")
    finder = PoseFinder(replace(config, pairwise_model_dir=None), args.weights)
    parts = []
    for item in tqdm(item_set.items[: args.limit], desc="detections", unit="image"):
        maps, scale = finder.maps(np.ascontiguousarray(read_image(item.image)[..., ::-1]))
        found = detect(maps, config.nms_radius, config.det_min_score)
        persons = [np.concatenate([p[:, :1], p[:, 1:] * scale], axis=1) for p in item.persons]
        parts.append(
            training_pairs(
                found, owners(found, persons, config.pos_dist_thresh * scale), config.num_joints, config.sparse_graph
            )
        )
    pairs, features, label = (np.concatenate(column) for column in zip(*parts))
    model, shared = fit(pairs, features, label, config.num_joints, config.sparse_graph, config.seed)
    files = save_spatial_model(output_path(folder), model)
    print(
        f"{int(label.sum())} positive and {int((~label).sum())} negative pairs; {len(files)} files, {len(shared)} of them the regression over all pairs"
    )
    return output_path(folder)


def main(argv=None) -> int:
    """Exit code 0, or 2 with a message on bad input."""
    args = parse_args(argv)
    return exit_code(lambda: run(args), "{}")


if __name__ == "__main__":
    sys.exit(main())
