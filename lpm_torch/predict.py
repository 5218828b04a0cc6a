"""Find one person's joints in any image, folder, video or camera; draw them and write them as JSON lines.

    python lpm_torch/predict.py photo.jpg --model=cpm --checkpoint_name=PATH
    python lpm_torch/predict.py folder/ --box=40,20,180,360   # pictures that have nothing to do with each other
    python lpm_torch/predict.py frames/ --track            # a folder that holds the frames of a video
    python lpm_torch/predict.py clip.mp4 --smooth          # carries the LSTM's state from frame to frame
    python lpm_torch/predict.py 0                          # first camera; stop with Ctrl-C

The person is looked for in --box (x,y,w,h), without it in the whole picture. In a video the box follows the last pose, and everything
starts again when the person is lost. Memory does not grow with the length of a video.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)

from common.runs.first.predicting import add_arguments, open_source, parse_box, write_answers  # noqa: E402
from common.runs.first.process import exit_code  # noqa: E402
from lpm_torch.config import DATASETS, MODELS, Config  # noqa: E402

LOST = 0.1  # mean belief peak under which a tracked person counts as lost


def parse_args(argv=None) -> argparse.Namespace:
    """Options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", nargs="?", help="image, folder, video or camera number")
    parser.add_argument("--source", dest="source_option", help=argparse.SUPPRESS)
    parser.add_argument("--model", default="lpm", choices=MODELS, help="network (default: lpm)")
    parser.add_argument(
        "--dataset", default="LSP", choices=DATASETS, help="model directory to take the checkpoint from (default: LSP)"
    )
    parser.add_argument("--model_dir", default="experiments", help="as in train.py (default: experiments)")
    parser.add_argument(
        "--checkpoint_name", "--checkpoint", help="path, or a name in the model directory (default: best, else last)"
    )
    parser.add_argument("--box", help="x,y,w,h of the person in the first picture (default: the whole picture)")
    add_arguments(parser)
    parser.add_argument("--limit", type=int, help="stop after N pictures")
    parser.add_argument(
        "--track",
        action=argparse.BooleanOptionalAction,
        help="the pictures are one video (default: yes for videos and cameras)",
    )
    parser.add_argument("--gpus", help="CUDA device (default: the first one, else the CPU)")
    parser.add_argument("--t", type=int, help="how often a still image is read (default: the checkpoint's)")
    args = parser.parse_args(argv)
    args.source = args.source or args.source_option
    if args.source is None:
        parser.error("what to look at? Give an image, a folder, a video or a camera number")
    return args


class Tracker:
    """Follows one person: crop, network step, joints in image pixels, next crop. `lost` says whether the last picture ended in starting anew."""

    def __init__(self, model, config: Config, device, box=None, track: bool = False):
        """`box` x,y,w,h or None for the whole picture; without `track` every picture is on its own."""
        self.model, self.config, self.device, self.first_box, self.track = model.eval(), config, device, box, track
        self.recurrent = track and config.model in ("lpm", "lpm_official")
        self.state = self.box = None
        self.lost = False

    def __call__(self, image):
        """(H,W,3) uint8 BGR -> joints (14,2) float64 image pixels, score (14,), box (4,) that was looked at."""
        import numpy as np

        from common.geometry import pad_box
        from common.poses import box_of_joints

        box = self.box if self.box is not None else self._start_box(image)
        joints, score = self.look(image, box)
        if self.track:
            found = score > LOST
            self.lost = bool(score.mean() < LOST or found.sum() < 4)
            if self.lost:
                self.box = self.state = None
            else:
                self.box = pad_box(box_of_joints(joints[found][None]), self.config.pad_pixels, self.config.pad_ratio)[0]
        return joints, score, np.asarray(box, float)

    def _start_box(self, image):
        height, width = image.shape[:2]
        return self.first_box or (-0.5, -0.5, width, height)

    def look(self, image, box):
        """Joints (14,2) in image pixels and scores (14,) within `box` x,y,w,h; a recurrent network goes on from its last look."""
        import numpy as np
        import torch

        from common.geometry import apply_affine, box_center, crop_affine, invert_affine, warp
        from lpm_torch.data import center_map, prepare
        from lpm_torch.engine import belief_maps, decode

        size, box = self.config.resolution, np.asarray(box, float)
        matrix = crop_affine(box_center(box), max(box[2:].max(), 1.0), (size, size))
        crop = warp(image, matrix, (size, size))[..., ::-1]
        middle = center_map(np.full((1, 1, 2), (size - 1) / 2), size, transposed=False)
        raw = {"frames": torch.from_numpy(crop[None, None].copy()), "center": torch.from_numpy(middle[None])}
        batch = prepare(raw, self.device, self.config)
        with torch.inference_mode():
            if self.recurrent:
                frame, center = batch["frames"][:, 0], batch["center"]
                self.state = self.state or self.model.init_state(frame, center)
                maps, self.state = self.model.step(frame, center, self.state)
            else:
                maps = belief_maps(self.model, batch, self.device, self.config)[:, 0]
        crop, score = decode(maps[0], self.config)
        return apply_affine(invert_affine(matrix), crop), score


def run(args: argparse.Namespace) -> Path:
    """Write joints.jsonl and the drawings (pictures, or one video); returns the folder."""
    from dataclasses import replace

    from common.draw import draw_pose
    from common.skeletons import LPM14
    from lpm_torch.val import load_model, pick_checkpoint

    source, box = open_source(args.source), parse_box(args.box)
    track = source.moving if args.track is None else args.track
    smooth = source.smoother(args.smooth, track)
    if track and Path(args.source).is_dir():
        source = replace(source, moving=True)  # the frames of a video: drawn as a video too
    model, config, device = load_model(pick_checkpoint(args), args)
    tracker = Tracker(model, config, device, box, track)

    def answer(index: int, name: str, image):
        if tracker.lost:
            smooth.restart()
        joints, score, used = tracker(image)
        joints = smooth(joints[None])[0]
        row = {"image": name, "frame": index, "joints": joints.round(2), "score": score.round(4), "box": used}
        return [{**row, "lost": tracker.lost, "joint_names": LPM14.joints}], draw_pose(
            image, joints, LPM14, score, min_score=LOST
        )

    return write_answers(source, args.out, answer, args.limit)


def main(argv=None) -> int:
    """Exit code 0, or 2 with a message on bad input."""
    args = parse_args(argv)
    return exit_code(lambda: run(args), "joints and drawings are in {}")


if __name__ == "__main__":
    sys.exit(main())
