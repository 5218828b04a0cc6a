"""Score weights on a labelled data set and write the prediction file.

    python deepercut_tf/val.py --config FILE --weights SNAPSHOT                     # one person an image, or all with pairwise_predict
    python deepercut_tf/val.py --config FILE --weights SNAPSHOT --boxes oracle      # one person in every annotated box (an upper bound)

The data set must be a folder that common.datasets reads (`dataset_type` other than default, or mpii and penn_action as folders).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)

from common.errors import DataError  # noqa: E402
from common.evaluate import add_scoring_arguments, publish  # noqa: E402
from common.runs.first.process import exit_code  # noqa: E402
from deepercut_tf.options import settings_of, settings_parser  # noqa: E402


def parse_args(argv=None) -> argparse.Namespace:
    """Options."""
    parser = settings_parser(__doc__, weights=True, limit="the first N images only")
    parser.add_argument("--split", help="split to score (default: the key dataset_phase)")
    parser.add_argument(
        "--people",
        choices=("auto", "one", "all"),
        default="auto",
        help="auto: all with pairwise_predict, else one (default: auto)",
    )
    parser.add_argument(
        "--boxes",
        choices=("none", "oracle"),
        default="none",
        help="oracle: look for one person in each annotated box (default: none)",
    )
    add_scoring_arguments(parser, "output/deepercut_tf/DATASET/SPLIT.npz", "deepercut_tf")
    parser.add_argument("--random_weights", action="store_true", help="fresh random weights instead (a baseline)")
    return parser.parse_args(argv)


def predict_one(finder, item_set, items, boxes: str):
    """Predictions row by row of the PoseSet: the picture's one pose for every person in it, or the pose inside each annotated box."""
    import numpy as np

    from common.predictions import predictions_for

    rows, poses = [], []
    for item, image in _images(items):
        one = finder.single(image) if boxes == "none" and item.rows else None
        for row in item.rows:
            rows.append(row)
            poses.append(one if one is not None else in_box(finder, image, item_set.pose_set.box[row]))
    poses = np.array(poses).reshape(len(rows), finder.config.num_joints, 3)
    kept = item_set.pose_set.select(np.array(rows, int))
    joints, score = as_annotated(item_set, poses[..., :2], poses[..., 2])
    meta = finder.meta() | {"boxes": "oracle (annotated boxes)" if boxes == "oracle" else "none"}
    return predictions_for(kept, joints, score, meta), kept


def as_annotated(item_set, joints, score):
    """(N,J,2) joints and (N,J) scores of the network's joint set in that of the annotations, where the two differ (mpii, aic); score 0: none."""
    import numpy as np

    from common.skeletons import skeleton_map

    to_own = skeleton_map(item_set.skeleton, item_set.pose_set.skeleton)
    return to_own.apply(joints), np.stack(
        [score[:, list(s)].mean(-1) if s else np.zeros(len(score)) for s in to_own.sources], axis=-1
    )


def in_box(finder, image, box, margin: float = 0.15):
    """(J,3) the one person of the part of the picture around a box x, y, w, h."""
    import numpy as np

    x, y, w, h = box
    grow = margin * max(w, h)
    left, top = max(int(x - grow), 0), max(int(y - grow), 0)
    part = image[top : max(int(np.ceil(y + h + grow)), top + 16), left : max(int(np.ceil(x + w + grow)), left + 16)]
    if not part.size:
        return np.full((finder.config.num_joints, 3), np.nan)
    return finder.single(np.ascontiguousarray(part)) + np.array([left, top, 0])


def predict_all(finder, item_set, items):
    """Predictions of all persons, image by image."""
    import numpy as np

    from common.poses import box_of_joints
    from common.predictions import Predictions

    people, image_id = [], []
    for item, image in _images(items):
        found = finder.people(image)
        people.append(found)
        image_id += [item.image_id] * len(found)
    joints = np.concatenate([p.joints for p in people]) if people else np.zeros((0, finder.config.num_joints, 2))
    score = np.concatenate([p.score for p in people]) if people else np.zeros((0, finder.config.num_joints))
    person_score = np.concatenate([p.person_score for p in people]) if people else np.zeros(0)
    joints, score = as_annotated(item_set, joints, score)
    pose_set, box = item_set.pose_set, box_of_joints(joints)
    wanted = {item.image_id for item in items}
    kept = pose_set.select(np.array([i in wanted for i in pose_set.image_id.tolist()], bool))
    return Predictions(
        skeleton=pose_set.skeleton, joints=joints.astype(np.float32), score=score.astype(np.float32), person_score=person_score,
        box=box, box_score=person_score, area=box[:, 2] * box[:, 3], image_id=np.array(image_id, dtype=pose_set.image_id.dtype),
        person_id=np.full(len(joints), -1), frame=np.full(len(joints), -1), dataset=pose_set.name, split=pose_set.split,
        meta=finder.meta() | {"boxes": "none", "final": True, "synthetic": pose_set.synthetic},
    ), kept  # fmt: skip


def _images(items):
    import numpy as np
    from tqdm import tqdm

    from common.images import read_image

    for item in tqdm(items, desc="val", unit="image"):
        yield item, np.ascontiguousarray(read_image(item.image)[..., ::-1])


def without_files(words: list[str]) -> list[str]:
    """A command line less the options that only say where to write, and their values."""
    written = ("--result", "--out", "--json")
    kept = [word for word, before in zip(words, ["", *words]) if word not in written and before not in written]
    return [word for word in kept if not word.startswith(tuple(f"{name}=" for name in written))]


def write_result(path: str, predictions, results: dict, preset: str, command: str) -> None:
    """The run file, `preset` is its name in tables; without folders of this machine and the option that names itself."""
    from common.reported import save_run

    meta = {k: v for k, v in predictions.meta.items() if k not in ("weights", "settings")}
    settings = predictions.meta["settings"]
    folders = ("dataset", "snapshot_dir", "log_dir", "init_weights", "pairwise_stats_fn", "pairwise_model_dir")
    meta["settings"] = {k: v for k, v in settings.items() if k not in folders}
    save_run(
        path, house="deepercut_tf", model=settings["net_type"], dataset=predictions.dataset, split=predictions.split,
        protocols={name: result.as_dict() for name, result in results.items()}, meta=meta | {"seed": settings["seed"], "preset": preset}, command=command,
    )  # fmt: skip


def run(args: argparse.Namespace, words: list[str]) -> None:
    """Predict, write, score; `words` is the command line. DataError on bad input."""
    from dataclasses import replace

    from deepercut_tf.config import find_config_file
    from deepercut_tf.inference import PoseFinder
    from deepercut_tf.items import load_items

    config = settings_of(args)
    # all pictures of the split count, also those without a person; rows of data_range are those of the training
    only_people = config.coco_only_images_with_people and config.data_range is not None
    item_set, config = load_items(
        replace(config, dataset_phase=args.split or config.dataset_phase, coco_only_images_with_people=only_people)
    )
    if item_set.pose_set is None:
        raise DataError(f"val.py scores a data-set folder; for {config.dataset} use test.py and eval_pck.py")
    together = config.pairwise_predict if args.people == "auto" else args.people == "all"
    together = together and args.boxes == "none"
    finder = PoseFinder(
        config if together else replace(config, pairwise_model_dir=None), args.weights, args.random_weights
    )
    items = item_set.items[: args.limit]
    predictions, pose_set = (
        predict_all(finder, item_set, items) if together else predict_one(finder, item_set, items, args.boxes)
    )
    out = Path(args.out) if args.out else ROOT / "output" / "deepercut_tf" / pose_set.name / f"{pose_set.split}.npz"
    results = publish(out, predictions, pose_set, args.protocol, args.json)
    if args.result:
        preset = find_config_file(args.config).resolve().parent.name + (
            "" if together or args.boxes == "oracle" else ", one person a picture"
        )
        write_result(
            args.result, predictions, results, preset, "python deepercut_tf/val.py " + " ".join(without_files(words))
        )


def main(argv=None) -> int:
    """Exit code 0, or 2 with a message on bad input."""
    args = parse_args(argv)
    return exit_code(lambda: run(args, sys.argv[1:] if argv is None else argv))


if __name__ == "__main__":
    sys.exit(main())
