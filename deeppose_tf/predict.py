"""Find joints in any image, folder, video or camera; draw them and write them as JSON lines.

    python deeppose_tf/predict.py photo.jpg -s out/mine/best.npz --bbox 40,20,180,360
    python deeppose_tf/predict.py folder/ -s CHECKPOINT --boxes boxes.csv        # lines: file name, x, y, w, h; several a picture are fine
    python deeppose_tf/predict.py clip.mp4 -s CHECKPOINT --smooth                # without a box: the whole picture

The box is the crop that the network sees. It was trained on the joints' own box with some margin: give boxes with a like margin.
"""

from __future__ import annotations

import argparse
import csv
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)

from common.errors import DataError  # noqa: E402
from common.runs.first.predicting import add_arguments, open_source, parse_box, write_answers  # noqa: E402
from common.runs.first.process import exit_code  # noqa: E402
from deeppose_tf.restore import load_network, newest, snapshot_arguments  # noqa: E402


def parse_args(argv=None) -> argparse.Namespace:
    """Options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="image, folder, video or camera number")
    snapshot_arguments(parser)
    parser.add_argument("--bbox", help="x,y,w,h of the person, for all pictures (default: the whole picture)")
    parser.add_argument("--boxes", type=Path, help="CSV of file name (frame name for videos), x, y, w, h")
    add_arguments(parser, " (one person)")
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
            if not (
                np.isfinite(box).all() and w > 0 and h > 0 and x < width and y < height and x + w > 0 and y + h > 0
            ):
                raise DataError(
                    f"box {box.tolist()} does not touch the picture of {width} x {height} pixels; give x,y,w,h in its pixels"
                )
            cut.append(pixel_box(box, np.array([width, height]), self.config.mode))
        crops = np.stack([cv2.resize(image[y : y + h, x : x + w], (IM_SIZE, IM_SIZE)) for x, y, w, h in cut])
        return to_picture(self._run(crops), np.array(cut), np.ones(len(cut)), self.config.mode)


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
                boxes.setdefault(line[0], []).append(parse_box(",".join(line[1:]), f"{path}, line {number}: box"))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read ({error})") from error
    return boxes


def boxes_of(name: str, image, listed: dict, given: list[float] | None) -> list[list[float]]:
    """The boxes of a picture: from the list, the option, or the whole picture; none when there is a list without it."""
    if listed:
        return listed.get(name, [])
    return [given or [0.0, 0.0, float(image.shape[1]), float(image.shape[0])]]


def run(args: argparse.Namespace) -> Path:
    """Write joints.jsonl (a line a person) and the drawings (pictures, or one video); returns the folder."""
    from common.draw import draw_pose

    source, given, listed = open_source(args.source), parse_box(args.bbox, "--bbox"), read_boxes(args.boxes)
    smooth = source.smoother(args.smooth)
    predictor = Predictor(args.snapshot or newest(args.o_dir), args.mode)
    skeleton = predictor.skeleton

    def answer(index: int, name: str, image):
        boxes = boxes_of(name, image, listed, given)
        joints = smooth(predictor(image, boxes)) if boxes else []
        about = {"image": name, "frame": index}
        rows = [
            {**about, "joints": person.round(2), "box": box, "joint_names": skeleton.joints}
            for box, person in zip(boxes, joints)
        ]
        return rows, draw_pose(image, joints, skeleton) if boxes else image

    return write_answers(source, args.out, answer, args.limit)


def main(argv=None) -> int:
    """Exit code 0, or 2 with a message on bad input."""
    args = parse_args(argv)
    return exit_code(lambda: run(args), "joints and drawings are in {}")


if __name__ == "__main__":
    sys.exit(main())
