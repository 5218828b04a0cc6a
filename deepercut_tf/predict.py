"""Find joints in any image, folder, video or camera; draw them and write them as JSON lines.

    python deepercut_tf/predict.py photo.jpg --config FILE --weights SNAPSHOT       # all persons with pairwise_predict, else one
    python deepercut_tf/predict.py clip.mp4 --config FILE --weights SNAPSHOT --smooth

joints.jsonl: one line a picture with its persons' joints (image pixels), scores and joint names. Memory does not grow with a video's length.
"""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import nullcontext
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)

from common.poses import DataError  # noqa: E402
from deepercut_tf.train import settings_arguments, settings_of  # noqa: E402


def parse_args(argv=None) -> argparse.Namespace:
    """Options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="image, folder, video or camera number")
    settings_arguments(parser)
    parser.add_argument("--weights", help="weights file, or folder of snapshots (default: the key init_weights)")
    parser.add_argument("--out", default="output/predict", help="folder for drawings and joints.jsonl (default: output/predict)")
    parser.add_argument("--people", choices=("auto", "one", "all"), default="auto", help="auto: all with pairwise_predict, else one (default: auto)")
    parser.add_argument("--min_score", type=float, default=0.1, help="joints below are not drawn (default: 0.1)")
    parser.add_argument("--smooth", action="store_true", help="One-Euro filter over the frames of a video (one person)")
    parser.add_argument("--limit", type=int, help="stop after N pictures")
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
    import numpy as np
    from tqdm import tqdm

    from common import video
    from common.draw import draw_pose, save_image
    from deepercut_tf.inference import PoseFinder
    from deepercut_tf.pictures import ColorTracker, draw_people

    frames, config = video.frames(args.source), with_stored_joints(settings_of(args), args.weights)
    skeleton, finder = skeleton_for(config), PoseFinder(config, args.weights)
    together = config.pairwise_predict if args.people == "auto" else args.people == "all"
    moving = frames.count != 1 and not Path(args.source).is_dir()
    smooth, colors = video.OneEuroFilter(frames.fps) if args.smooth and not together else None, ColorTracker()
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    with video.VideoWriter(out / "overlay.mp4", frames.fps) if moving else nullcontext() as writer, open(out / "joints.jsonl", "w") as lines:
        for index, name, image in tqdm(frames, total=frames.count, dynamic_ncols=True):
            if args.limit is not None and index >= args.limit:
                break
            joints, score = find(finder, image, together)
            joints = smooth(joints[0])[None] if smooth else joints
            persons = [
                {"joints": [p if np.isfinite(p).all() else None for p in np.round(j, 2)], "score": np.round(s, 4)} for j, s in zip(joints, score)
            ]
            lines.write(json.dumps({"image": name, "frame": index, "persons": persons, "joint_names": skeleton.joints}, default=np.ndarray.tolist) + "\n")
            lines.flush()
            if together:
                drawn = draw_people(image, joints, skeleton, colors(joints) if moving else None)
            else:
                drawn = draw_pose(image, joints[0], skeleton, score[0], min_score=args.min_score)
            writer.write(drawn) if moving else save_image(out / f"{Path(name).stem}_pose.png", drawn)
    return out


def main(argv=None) -> int:
    """Exit code 0, or 2 with a message on bad input."""
    args = parse_args(argv)
    try:
        out = run(args)
    except (DataError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"joints and drawings are in {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
