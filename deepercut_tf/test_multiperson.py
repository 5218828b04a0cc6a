"""Predict all persons in every image of a COCO-like data set: writes predictions.json (COCO results).

    python deepercut_tf/test_multiperson.py --config FILE --weights SNAPSHOT
    python deepercut_tf/test_multiperson.py --config FILE --weights SNAPSHOT --use_gt_segm   # the original's oracle too

With use_gt_segm also predictions_with_segm.json: one entry a ground-truth mask, joints at the best cells inside it,
score 1. That is the only file that the original writes, and no result: it knows where the persons are.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
from dataclasses import replace
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import numpy as np

from common.errors import DataError
from common.runs.process import exit_code
from deepercut_tf.config import as_cfg, settings_of
from deepercut_tf.targets import HALF, STRIDE
from deepercut_tf.test import testing_parser


def entry_of(image_id, table: np.ndarray, score: float, category: int = 1) -> dict:
    """A COCO result of a person's (J,3) rows x, y, v: 1, or all 0 for a joint that was not found."""
    points = table.astype(float).ravel().tolist()
    return {"image_id": image_id, "category_id": category, "keypoints": points, "score": float(score)}


def group_by_masks(maps, masks: np.ndarray) -> np.ndarray:
    """(P,J,3) rows x, y, probability: each person's best cell of each joint in its ground-truth mask (H,W,P), by the
    original's arithmetic: cubic splines, masks padded alike on both sides, positions cut to whole pixels."""
    from scipy.ndimage import zoom

    large = zoom(maps.score, (STRIDE, STRIDE, 1), order=3)
    spare = [have - need for have, need in zip(large.shape, masks.shape[:2])]
    padding = [(s // 2, s - s // 2) for s in spare]
    found = np.zeros((masks.shape[2], maps.score.shape[2], 3))
    for p, k in np.ndindex(found.shape[:2]):
        inside = np.pad(masks[..., p], padding)
        row, column = np.array(np.unravel_index(np.argmax(inside * large[..., k]), inside.shape)) // STRIDE
        x, y = (np.array([column, row]) + HALF) * STRIDE + maps.locref[row, column, k]
        found[p, k] = int(x), int(y), maps.score[row, column, k]
    return found


def mask_entries(maps, scale: float, coco, image_id) -> list[dict]:
    """The oracle's entries of an image, in its own pixels, by pycocotools' index of the annotations."""
    from deepercut_tf.data import resize

    people = coco.loadAnns(coco.getAnnIds(image_id))
    people = [a for a in people if not a.get("iscrowd") and a.get("num_keypoints")]
    try:
        masks = [coco.annToMask(a) for a in people]
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"image {image_id}: a field segmentation is no outline or RLE ({error}); correct it") from error
    small = [resize(np.repeat(mask[..., None], 3, axis=2), scale)[..., 0] for mask in masks]
    found = group_by_masks(maps, np.stack(small, axis=-1)) / [scale, scale, 1] if small else []
    return [entry_of(image_id, table, 1.0) for table in found]


def annotations_of(item_set):
    """pycocotools' index of a data set's annotation file. DataError when it has none in COCO's layout."""
    from pycocotools.coco import COCO

    split = item_set.pose_set.split if item_set.pose_set is not None else ""
    path = Path(item_set.root) / "annotations" / f"person_keypoints_{split}.json"
    if not path.is_file():
        raise DataError(f"use_gt_segm needs an annotated data set in COCO's layout, here {path}; set it to false")
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(path)


def run(args: argparse.Namespace) -> Path:
    """Predict and write; returns the file. DataError on bad input."""
    from common.draw import draw_pose, save_image
    from common.files import write_json, write_mat
    from deepercut_tf.estimator import Estimator
    from deepercut_tf.items import load_items

    item_set, config = load_items(settings_of(args))
    truth = annotations_of(item_set) if config.use_gt_segm else None
    estimator = Estimator(config.weights, people="all", **as_cfg(config))
    category = (item_set.pose_set and item_set.pose_set.category) or 1
    entries: list[dict] = []
    oracle: list[dict] = []
    if args.dev:
        item_set = replace(item_set, items=item_set.items[:10])
    for _, item, image in item_set.pictures("test"):
        name = Path(str(item.image_id)).name  # never outside the folder
        maps, scale = estimator.maps(image)
        people = estimator.people_of(maps, scale)
        present = (people.score > 0)[..., None]
        tables = np.concatenate([np.nan_to_num(people.joints), present], axis=-1) * present
        entries += [entry_of(item.image_id, *one, category) for one in zip(tables, people.person_score)]
        if truth:
            oracle += mask_entries(maps, scale, truth, item.image_id)
        if args.cache:
            content = {"scoremaps": maps.score, "locreg_pred": maps.locref, "pairwise_diff": maps.pairwise}
            write_mat(Path(config.scoremap_dir) / f"{name}.mat", content)
        if args.vis:
            drawing = draw_pose(image, people.joints, estimator.skeleton, numbers=range(len(people)))
            save_image(Path(args.vis) / f"{name}.png", drawing)
    out = Path(config.out or "predictions.json")
    if truth:
        write_json(out.with_name("predictions_with_segm.json"), oracle)
    return write_json(out, entries)


def main(argv=None) -> int:
    """Exit code 0, or 2 with a message on bad input."""
    parser = testing_parser(__doc__)
    parser.option("dev", type=bool, default=False, text="the first 10 images only", group="data")
    return exit_code(lambda: run(parser.parse_args(argv)), "{}")


if __name__ == "__main__":
    sys.exit(main())
