"""Find joints in any image, folder, video or camera; draw them and write them as JSON lines.

    python deeppose_tf/predict.py photo.jpg -s out/mine/best.npz --bbox 40,20,180,360
    python deeppose_tf/predict.py folder/ -s CHECKPOINT --boxes boxes.csv        # lines: file name, x, y, w, h; several a picture are fine
    python deeppose_tf/predict.py clip.mp4 -s CHECKPOINT --smooth                # without a box: the whole picture

The box is the crop that the network sees. It was trained on the joints' own box with some margin: give boxes with a like margin.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from contextlib import nullcontext
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)

from common.poses import DataError  # noqa: E402
from deeppose_tf.restore import load_network, newest, snapshot_arguments  # noqa: E402


def parse_args(argv=None) -> argparse.Namespace:
    """Options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="image, folder, video or camera number")
    snapshot_arguments(parser)
    parser.add_argument("--bbox", help="x,y,w,h of the person, for all pictures (default: the whole picture)")
    parser.add_argument("--boxes", type=Path, help="CSV of file name (frame name for videos), x, y, w, h")
    parser.add_argument("--out", default="output/predict", help="folder for drawings and joints.jsonl (default: output/predict)")
    parser.add_argument("--smooth", action="store_true", help="One-Euro filter over the frames of a video (one person)")
    return parser.parse_args(argv)


class Predictor:
    """`Predictor(weights)(image, boxes)` -> joints (n,J,2) float32 in the picture's pixels.

    image (H,W,3) uint8 BGR; boxes (n,4) x, y, w, h of the crops. DataError for boxes that do not touch the picture.
    """

    def __init__(self, weights: str | Path, mode: str | None = None):
        from deeppose_tf.engine import forward

        self.model, self.config, _ = load_network(weights, mode=mode)
        self.skeleton, self._run = self.config.skeleton, forward(self.model)

    def __call__(self, image, boxes):
        """Joints of the persons in `boxes`."""
        import cv2
        import numpy as np

        from deeppose_tf.config import IM_SIZE
        from deeppose_tf.data import pixel_box
        from deeppose_tf.engine import to_picture

        height, width = image.shape[:2]
        cut = []
        for box in np.atleast_2d(np.asarray(boxes, float)):
            x, y, w, h = box
            if not (np.isfinite(box).all() and w > 0 and h > 0 and x < width and y < height and x + w > 0 and y + h > 0):
                raise DataError(f"box {box.tolist()} does not touch the picture of {width} x {height} pixels; give x,y,w,h in its pixels")
            cut.append(pixel_box(box, np.array([width, height]), self.config.mode))
        crops = np.stack([cv2.resize(image[y : y + h, x : x + w], (IM_SIZE, IM_SIZE)) for x, y, w, h in cut])
        return to_picture(self._run(crops), np.array(cut), np.ones(len(cut)), self.config.mode)


def parse_box(text: str | None) -> list[float] | None:
    """x,y,w,h as numbers; DataError otherwise."""
    if text is None:
        return None
    try:
        box = [float(v) for v in text.split(",")]
    except ValueError:
        box = []
    if len(box) != 4 or min(box[2:]) <= 0:
        raise DataError(f"--bbox {text} is not x,y,w,h with positive w and h")
    return box


def read_boxes(path: Path | None) -> dict[str, list[list[float]]]:
    """Picture name -> boxes, from a CSV; DataError naming a bad line."""
    boxes: dict[str, list[list[float]]] = {}
    if path is None:
        return boxes
    try:
        with open(path, newline="", encoding="utf-8") as file:
            for number, line in enumerate(csv.reader(file), 1):
                if len(line) != 5:
                    raise DataError(f"{path}: line {number} has {len(line)} columns; name, x, y, w, h are needed")
                boxes.setdefault(line[0], []).append(parse_box(",".join(line[1:])))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read ({error})") from error
    return boxes


def boxes_of(name: str, image, listed: dict, given: list[float] | None) -> list[list[float]]:
    """The boxes of a picture: from the list, the option, or the whole picture; none when there is a list without it."""
    if listed:
        return listed.get(name, [])
    return [given or [0.0, 0.0, float(image.shape[1]), float(image.shape[0])]]


def run(args: argparse.Namespace) -> Path:
    """Write joints.jsonl and the drawings (pictures, or one video); returns the folder."""
    from tqdm import tqdm

    from common import video
    from common.draw import draw_pose, save_image

    frames, given, listed = video.frames(args.source), parse_box(args.bbox), read_boxes(args.boxes)
    predictor = Predictor(args.snapshot or newest(args.o_dir), args.mode)
    moving = frames.count != 1 and not Path(args.source).is_dir()
    smooth = video.OneEuroFilter(frames.fps) if args.smooth else None
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    with video.VideoWriter(out / "overlay.mp4", frames.fps) if moving else nullcontext() as writer, open(out / "joints.jsonl", "w") as lines:
        try:
            for index, name, image in tqdm(frames, total=frames.count, dynamic_ncols=True):
                if args.limit is not None and index >= args.limit:
                    break
                boxes, drawn = boxes_of(name, image, listed, given), image
                joints = predictor(image, boxes) if boxes else []
                if smooth and len(joints) == 1:
                    joints = smooth(joints[0])[None]
                for box, person in zip(boxes, joints):
                    row = {"image": name, "frame": index, "joints": person.round(2).tolist(), "box": box, "joint_names": predictor.skeleton.joints}
                    lines.write(json.dumps(row) + "\n")
                    drawn = draw_pose(drawn, person, predictor.skeleton)
                lines.flush()
                writer.write(drawn) if moving else save_image(out / f"{Path(name).stem}_pose.png", drawn)
        except KeyboardInterrupt:
            print("stopped")
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
