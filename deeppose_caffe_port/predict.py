"""Find one person's joints in any image, folder, video or camera; draw them and write them as JSON lines (the original's pytest.py).

    python deeppose_caffe_port/predict.py picture.png                            # both stages, last snapshots of the K2HPD project
    python deeppose_caffe_port/predict.py picture.png --stage=1 --snapshot1=MODEL1.caffemodel
    python deeppose_caffe_port/predict.py clip.mp4 --dataset=lspet --box=40,20,180,360 --smooth

K2HPD's network takes whole depth images of its size. For the others the person is looked for in --box (x,y,w,h), without it in the whole
picture; in a video the box follows the last pose. `--show` opens a window too.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)

from common.errors import DataError  # noqa: E402
from common.runs.first import predicting  # noqa: E402
from common.runs.first.process import exit_code  # noqa: E402
from common.runs.first.settings import add_arguments  # noqa: E402
from deeppose_caffe_port.config import Config, settle  # noqa: E402

_OWN = ("source", "stage", "box", "out", "track", "smooth", "show")


def parse_args(argv=None) -> tuple[argparse.Namespace, dict]:
    """(own options, project settings given)."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("source", help="image, folder, video or camera number")
    add("--stage", type=int, help="the last stage to apply; 1: stage 1 alone (default: all)")
    add("--box", help="x,y,w,h of the person in the first picture (default: the whole picture)")
    predicting.add_arguments(parser)
    add(
        "--track",
        action=argparse.BooleanOptionalAction,
        help="the pictures are one video (default: yes for videos and cameras)",
    )
    add("--show", action="store_true", help="also show each drawing in a window")
    add_arguments(parser, Config)
    given = vars(parser.parse_args(argv))
    return argparse.Namespace(**{name: given.pop(name) for name in _OWN}), given


class Looker:
    """One person in one picture after another: crop, both stages, joints in image pixels, the next box."""

    def __init__(self, cascade, config: Config, box=None, track: bool = False):
        self.cascade, self.config, self.first_box, self.track, self.box = cascade, config, box, track, None

    def __call__(self, image):
        """(H,W,3) uint8 BGR -> joints (J,2) in image pixels, and the box that was looked at."""
        import numpy as np

        from common.geometry import apply_affine, box_center, crop_affine, invert_affine, pad_box, warp
        from common.poses import box_of_joints

        height, width = image.shape[:2]
        box = np.array(self.box if self.box is not None else self.first_box or (-0.5, -0.5, width, height), float)
        if self.config.whole_images and (width, height) == self.config.size and self.first_box is None:
            return self.cascade.stages([image])[-1][0], box
        side = box[2:] if self.config.whole_images else max(box[2:].max(), 1.0)
        matrix = crop_affine(box_center(box), side, self.config.size)
        found = self.cascade.stages([warp(image, matrix, self.config.size)])[-1][0]
        joints = apply_affine(invert_affine(matrix), found)
        if self.track and not self.config.whole_images:
            self.box = pad_box(box_of_joints(joints[None]), ratio=self.config.pad)[0]
            lost = (
                self.box[2:].max() < 8
                or (self.box[:2] > (width, height)).any()
                or (self.box[:2] + self.box[2:] < 0).any()
            )
            self.box = None if lost else self.box
        return joints, box


def run(own: argparse.Namespace, config: Config) -> Path:
    """Write joints.jsonl and the drawings (pictures, or one video); returns the folder."""
    from common.draw import draw_pose
    from deeppose_caffe_port.cascade import load_cascade

    source, box = predicting.open_source(own.source), predicting.parse_box(own.box)
    track = source.moving if own.track is None else own.track
    smooth = source.smoother(own.smooth, track)
    look = Looker(load_cascade(config, own.stage), config, box, track)

    def answer(index: int, name: str, image):
        joints, used = look(image)
        joints = smooth(joints[None])[0]
        drawing = draw_pose(image, joints, config.skeleton)
        if not source.moving:
            print(f"{name}\n{joints.round(2)}")
        if own.show:
            show(drawing)
        return [
            {
                "image": name,
                "frame": index,
                "joints": joints.round(2),
                "box": used,
                "joint_names": config.skeleton.joints,
            }
        ], drawing

    return predicting.write_answers(source, own.out, answer, config.limit)


def show(image) -> None:
    """A window; DataError where OpenCV was built without them."""
    import cv2

    try:
        cv2.imshow("deeppose", image)
        cv2.waitKey(1)
    except cv2.error as error:
        raise DataError(
            "--show needs an OpenCV with windows (opencv-python instead of opencv-python-headless)"
        ) from error


def main(argv=None) -> int:
    """Exit code 0, or 2 with a message on bad input."""
    own, given = parse_args(argv)
    return exit_code(lambda: run(own, settle(given)), "joints and drawings are in {}")


if __name__ == "__main__":
    sys.exit(main())
