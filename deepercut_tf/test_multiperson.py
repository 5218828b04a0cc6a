"""Predict all persons in every image of a COCO-like data set: writes predictions.json (COCO results).

    python deepercut_tf/test_multiperson.py --config FILE --weights SNAPSHOT
    python deepercut_tf/test_multiperson.py --config FILE --weights SNAPSHOT --set use_gt_segm=true   # the original's oracle grouping

With dataset_type aic or ai_challenger also submission.json, in AI Challenger's format.
With use_gt_segm also predictions_with_segm.json: one entry a ground-truth mask, joints at the best cells inside it, score 1. That is the
only file that the original writes, and no result: it knows where the persons are.
"""

from __future__ import annotations

import argparse
import functools
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)

from common.errors import DataError  # noqa: E402
from common.runs.first.process import exit_code  # noqa: E402
from deepercut_tf.options import settings_of, testing_parser  # noqa: E402


def parse_args(argv=None) -> argparse.Namespace:
    """Options."""
    parser = testing_parser(__doc__, "predictions.json", "the maps of every image to scoremap_dir/IMAGE_ID.mat")
    parser.add_argument("--dev", action="store_true", help="the first 10 images only")
    return parser.parse_args(argv)


def write_maps(path: Path, maps) -> None:
    """Maps in pixels, float32: scoremaps, locreg_pred, pairwise_diff."""
    import numpy as np
    from scipy.io import savemat

    from common.files import atomic_write

    content = {"scoremaps": maps.score, "locreg_pred": maps.locref, "pairwise_diff": maps.pairwise}
    content = {name: value.astype(np.float32) for name, value in content.items() if value is not None}
    atomic_write(path, lambda temporary: savemat(temporary, content, appendmat=False))


def read_maps(path: Path):
    """Maps that `write_maps` wrote. DataError when the file is missing or lacks a field."""
    from common.datasets.files import read_mat
    from deepercut_tf.detections import Maps

    if not path.is_file():
        raise DataError(f"{path} does not exist (key cached_scoremaps); write it with --cache")
    content = read_mat(path)
    lacking = [name for name in ("scoremaps", "locreg_pred", "pairwise_diff") if name not in content]
    if lacking:
        raise DataError(
            f"{path} has no variable {lacking[0]!r}; write it again with --cache and a network with pairwise_predict"
        )
    return Maps(content["scoremaps"], content["locreg_pred"], content["pairwise_diff"])


def entries_of(people, image_id) -> list[dict]:
    """COCO results: x, y, 1 a joint, 0, 0, 0 for one not found."""
    import numpy as np

    table = (
        np.concatenate([np.nan_to_num(people.joints), people.present[..., None]], axis=-1) * people.present[..., None]
    )
    return [
        {"image_id": image_id, "category_id": 1, "keypoints": [float(v) for v in person.ravel()], "score": float(score)}
        for person, score in zip(table, people.person_score)
    ]


def submission_of(item_set, items, people: list) -> list[dict]:
    """AI Challenger's submission from the persons of every image; its image_id is the picture's name."""
    from common.skeletons import AIC14, skeleton_map
    from deepercut_tf.ai_challenger import submission

    to_own = skeleton_map(item_set.skeleton, AIC14)
    found = [to_own.apply(p.joints, p.present) for p in people]
    return submission(
        [Path(item.image).stem for item in items], [joints for joints, _ in found], [seen for _, seen in found]
    )


def mask_entries(maps, scale: float, item_set, item) -> list[dict]:
    """The oracle's entries of an image, in its own pixels."""
    import numpy as np

    from deepercut_tf.data import resize
    from deepercut_tf.people import group_by_masks

    masks = person_masks(item_set, item)
    if not len(masks):
        return []
    small = np.stack([resize(np.repeat(m[..., None], 3, axis=2), scale)[..., 0] for m in masks], axis=-1)
    found = group_by_masks(maps, small)
    found[..., :2] /= scale
    return [
        {"image_id": item.image_id, "category_id": 1, "keypoints": [float(v) for v in p.ravel()], "score": 1.0}
        for p in found
    ]


def person_masks(item_set, item) -> list:
    """(H,W) uint8 masks of the persons with keypoints of a COCO image."""
    coco = annotations(f"{item_set.root}/annotations/person_keypoints_{item_set.pose_set.split}.json")
    people = [
        a for a in coco.loadAnns(coco.getAnnIds(item.image_id)) if not a.get("iscrowd") and a.get("num_keypoints")
    ]
    return [coco.annToMask(a) for a in people]


@functools.cache
def annotations(path: str):
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
    import numpy as np
    from tqdm import tqdm

    from common.draw import save_image
    from common.files import write_json
    from common.images import read_image
    from deepercut_tf.inference import PoseFinder
    from deepercut_tf.items import load_items
    from deepercut_tf.pictures import draw_people

    item_set, config = load_items(settings_of(args))
    if not config.pairwise_predict:
        raise DataError(
            "test_multiperson.py needs a network with pairwise_predict: true; for one person an image use test.py"
        )
    if config.use_gt_segm and item_set.pose_set is None:
        raise DataError("use_gt_segm needs an annotated data set in COCO's layout; set it to false")
    finder = PoseFinder(config, args.weights)
    items = item_set.items[: 10 if args.dev else args.limit]
    entries, oracle, persons = [], [], []
    for item in tqdm(items, desc="test", unit="image"):
        image = read_image(item.image)
        if config.cached_scoremaps:
            maps, scale = read_maps(Path(config.cached_scoremaps) / f"{item.image_id}.mat"), config.global_scale
        else:
            maps, scale = finder.maps(np.ascontiguousarray(image[..., ::-1]))
        if args.cache:
            write_maps(Path(config.scoremap_dir) / f"{item.image_id}.mat", maps)
        people = finder.people_of(maps, scale)
        persons.append(people)
        entries += entries_of(people, item.image_id)
        if config.use_gt_segm:
            oracle += mask_entries(maps, scale, item_set, item)
        if args.vis:
            save_image(Path(args.vis) / f"{item.image_id}.png", draw_people(image, people.joints, item_set.skeleton))
    if config.use_gt_segm:
        write_json(Path(args.out).with_name("predictions_with_segm.json"), oracle)
    if config.dataset_type in ("aic", "ai_challenger"):
        write_json(Path(args.out).with_name("submission.json"), submission_of(item_set, items, persons))
    return write_json(Path(args.out), entries)


def main(argv=None) -> int:
    """Exit code 0, or 2 with a message on bad input."""
    args = parse_args(argv)
    return exit_code(lambda: run(args), "{}")


if __name__ == "__main__":
    sys.exit(main())
