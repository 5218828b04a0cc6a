"""Predict all persons in every image of a COCO-like data set: writes predictions.json (COCO results).

    python deepercut_tf/test_multiperson.py --config FILE --weights SNAPSHOT
    python deepercut_tf/test_multiperson.py --config FILE --weights SNAPSHOT --use_gt_segm   # the original's oracle grouping too

With dataset_type aic or ai_challenger also submission.json, in AI Challenger's format. With use_gt_segm also
predictions_with_segm.json: one entry a ground-truth mask, joints at the best cells inside it, score 1. That is the only
file that the original writes, and no result: it knows where the persons are.
"""

from __future__ import annotations

import argparse
import functools
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import numpy as np

from common.errors import DataError
from common.runs.process import exit_code
from deepercut_tf.config import as_cfg, settings_of
from deepercut_tf.test import testing_parser, write_maps


def parse_args(argv=None) -> argparse.Namespace:
    """Options."""
    parser = testing_parser(__doc__, "the maps of every image to scoremap_dir/IMAGE_ID.mat")
    parser.option("dev", type=bool, default=False, text="the first 10 images only", group="data")
    return parser.parse_args(argv)


def read_maps(path: Path):
    """Maps that --cache wrote. DataError when the file is missing or lacks a field."""
    from common.datasets.files import read_mat
    from deepercut_tf.detections import Maps

    if not path.is_file():
        raise DataError(f"{path} does not exist (key cached_scoremaps); write it with --cache")
    content = read_mat(path)
    lacking = [name for name in ("scoremaps", "locreg_pred", "pairwise_diff") if name not in content]
    if lacking:
        raise DataError(f"{path} has no variable {lacking[0]!r}; write it again with --cache and pairwise_predict")
    return Maps(content["scoremaps"], content["locreg_pred"], content["pairwise_diff"])


def entry_of(image_id, table: np.ndarray, score: float) -> dict:
    """A COCO result of a person's (J,3) rows x, y, v."""
    points = table.astype(float).ravel().tolist()
    return {"image_id": image_id, "category_id": 1, "keypoints": points, "score": float(score)}


def entries_of(people, image_id) -> list[dict]:
    """COCO results: x, y, 1 a joint, 0, 0, 0 for one not found."""
    present = (people.score > 0)[..., None]
    tables = np.concatenate([np.nan_to_num(people.joints), present], axis=-1) * present
    return [entry_of(image_id, table, score) for table, score in zip(tables, people.person_score)]


def submission_of(skeleton, items, people: list) -> list[dict]:
    """AI Challenger's submission from the persons of every image; its image_id is the picture's name."""
    from common.skeletons import AIC14, skeleton_map
    from deepercut_tf.ai2coco_art_neckhead_json import submission

    to_own = skeleton_map(skeleton, AIC14)
    found = [to_own.apply(p.joints.astype(np.float64), p.score > 0) for p in people]
    names = [Path(item.image).stem for item in items]
    return submission(names, [joints for joints, _ in found], [seen for _, seen in found])


def group_by_masks(maps, masks: np.ndarray, stride: int = 8) -> np.ndarray:
    """(P,J,3) rows x, y, probability: each person's best cell of each joint inside its ground-truth mask (H,W,P).

    An oracle, not a system: the original's `use_gt_segm`. Its arithmetic is kept: score maps enlarged by cubic splines,
    masks padded alike on both sides although the grid is not centred, positions cut to whole pixels.
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


def mask_entries(maps, scale: float, item_set, item) -> list[dict]:
    """The oracle's entries of an image, in its own pixels."""
    from deepercut_tf.data import resize

    masks = person_masks(item_set, item)
    if not masks:
        return []
    small = np.stack([resize(np.repeat(m[..., None], 3, axis=2), scale)[..., 0] for m in masks], axis=-1)
    found = group_by_masks(maps, small)
    found[..., :2] /= scale
    return [entry_of(item.image_id, table, 1.0) for table in found]


def person_masks(item_set, item) -> list:
    """(H,W) uint8 masks of the persons with keypoints of a COCO image."""
    coco = keypoint_file(f"{item_set.root}/annotations/person_keypoints_{item_set.pose_set.split}.json")
    people = coco.loadAnns(coco.getAnnIds(item.image_id))
    return [coco.annToMask(a) for a in people if not a.get("iscrowd") and a.get("num_keypoints")]


@functools.cache
def keypoint_file(path: str):
    """pycocotools' index of an annotation file. DataError when it is missing."""
    import contextlib
    import io

    from pycocotools.coco import COCO

    if not Path(path).is_file():
        raise DataError(f"use_gt_segm needs {path}")
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(path)


def run(args: argparse.Namespace) -> Path:
    """Predict and write; returns the file. DataError on bad input."""
    from tqdm import tqdm

    from common.draw import draw_pose, save_image
    from common.files import write_json
    from common.images import read_image
    from deepercut_tf.estimator import Estimator
    from deepercut_tf.items import load_items

    item_set, config = load_items(settings_of(args))
    cfg = as_cfg(config)
    if cfg.use_gt_segm and item_set.pose_set is None:
        raise DataError("use_gt_segm needs an annotated data set in COCO's layout; set it to false")
    estimator = Estimator(config.weights, people="all", **cfg)
    entries, oracle, persons, items = [], [], [], item_set.items[: 10 if args.dev else None]
    for item in tqdm(items, desc="test", unit="image"):
        image = read_image(item.image)
        if cfg.cached_scoremaps:
            maps, scale = read_maps(Path(cfg.cached_scoremaps) / f"{item.image_id}.mat"), cfg.global_scale
        else:
            maps, scale = estimator.maps(np.ascontiguousarray(image[..., ::-1]))
        if args.cache:
            content = {"scoremaps": maps.score, "locreg_pred": maps.locref, "pairwise_diff": maps.pairwise}
            write_maps(Path(cfg.scoremap_dir) / f"{item.image_id}.mat", **content)
        people = estimator.people_of(maps, scale)
        persons.append(people)
        entries += entries_of(people, item.image_id)
        if cfg.use_gt_segm:
            oracle += mask_entries(maps, scale, item_set, item)
        if args.vis:
            drawing = draw_pose(image, people.joints, estimator.skeleton, numbers=range(len(people)))
            save_image(Path(args.vis) / f"{item.image_id}.png", drawing)
    out = Path(config.out or "predictions.json")
    if cfg.use_gt_segm:
        write_json(out.with_name("predictions_with_segm.json"), oracle)
    if cfg.dataset_type in ("aic", "ai_challenger"):
        write_json(out.with_name("submission.json"), submission_of(estimator.skeleton, items, persons))
    return write_json(out, entries)


def main(argv=None) -> int:
    """Exit code 0, or 2 with a message on bad input."""
    return exit_code(lambda: run(parse_args(argv)), "{}")


if __name__ == "__main__":
    sys.exit(main())
