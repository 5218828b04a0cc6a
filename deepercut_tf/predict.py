"""Find joints in any image, folder, video or camera; draw them and write them as JSON lines.

    python deepercut_tf/predict.py photo.jpg --config FILE --weights SNAPSHOT       # all persons with pairwise_predict, else one
    python deepercut_tf/predict.py clip.mp4 --config FILE --weights SNAPSHOT --smooth

joints.jsonl: one line a picture with its persons' joints (image pixels), scores and joint names. Memory does not grow with a video's length.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)

from common.runs.first.predicting import add_arguments, open_source, write_answers  # noqa: E402
from common.runs.first.process import exit_code  # noqa: E402
from deepercut_tf.options import settings_of, settings_parser  # noqa: E402


def parse_args(argv=None) -> argparse.Namespace:
    """Options."""
    parser = settings_parser(__doc__, weights=True, limit="stop after N pictures")
    parser.add_argument("source", help="image, folder, video or camera number")
    add_arguments(parser, " (one person)")
    parser.add_argument(
        "--people",
        choices=("auto", "one", "all"),
        default="auto",
        help="auto: all with pairwise_predict, else one (default: auto)",
    )
    parser.add_argument("--min_score", type=float, default=0.1, help="joints below are not drawn (default: 0.1)")
    return parser.parse_args(argv)


def skeleton_for(config):
    """The skeleton behind the settings' joints, without looking at the data set."""
    from deepercut_tf.config import require
    from deepercut_tf.joints import check_joint_set, skeleton_of_settings

    require(config, "num_joints", "all_joints", "all_joints_names", why="prediction without a data set")
    check_joint_set(config)
    return skeleton_of_settings(config)


def with_stored_joints(config, weights: str | None):
    """The settings, with the joint set that the weights' card tells where they have none of their own."""
    from dataclasses import replace

    from deepercut_tf.weight_files import find_snapshot, read_weights

    if config.num_joints or not (weights or config.init_weights):
        return config
    _, stored = read_weights(find_snapshot(weights or config.init_weights))
    return replace(config, **{k: stored.get(k) for k in ("num_joints", "all_joints", "all_joints_names")})


def find(finder, image, together: bool):
    """(P,J,2) joints and (P,J) scores in a BGR picture."""
    import numpy as np

    rgb = np.ascontiguousarray(image[..., ::-1])
    if together:
        people = finder.people(rgb)
        return people.joints, people.score
    pose = finder.single(rgb)
    return pose[None, :, :2], pose[None, :, 2]


def run(args: argparse.Namespace) -> Path:
    """Write joints.jsonl and the drawings (pictures, or one video); returns the folder. DataError on bad input."""
    from dataclasses import replace

    import numpy as np

    from common.draw import draw_pose
    from deepercut_tf.inference import PoseFinder
    from deepercut_tf.pictures import ColorTracker, draw_people

    source, config = open_source(args.source), with_stored_joints(settings_of(args), args.weights)
    together = config.pairwise_predict if args.people == "auto" else args.people == "all"
    smooth, colors = source.smoother(args.smooth and not together), ColorTracker()
    skeleton, finder = (
        skeleton_for(config),
        PoseFinder(config if together else replace(config, pairwise_model_dir=None), args.weights),
    )

    def answer(index: int, name: str, image):
        joints, score = find(finder, image, together)
        joints = smooth(joints)
        persons = [
            {"joints": [p if np.isfinite(p).all() else None for p in np.round(j, 2)], "score": np.round(s, 4)}
            for j, s in zip(joints, score)
        ]
        if together:
            drawing = draw_people(image, joints, skeleton, colors(joints) if source.moving else None)
        else:
            drawing = draw_pose(image, joints[0], skeleton, score[0], min_score=args.min_score)
        return [{"image": name, "frame": index, "persons": persons, "joint_names": skeleton.joints}], drawing

    return write_answers(source, args.out, answer, args.limit)


def main(argv=None) -> int:
    """Exit code 0, or 2 with a message on bad input."""
    args = parse_args(argv)
    return exit_code(lambda: run(args), "joints and drawings are in {}")


if __name__ == "__main__":
    sys.exit(main())
