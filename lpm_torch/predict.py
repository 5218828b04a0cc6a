"""Find one person's joints in any image, folder, video or camera; draw them and write them as JSON lines.

    python lpm_torch/predict.py photo.jpg --model=cpm --checkpoint_name=PATH
    python lpm_torch/predict.py folder/ --box=40,20,180,360
    python lpm_torch/predict.py clip.mp4 --smooth          # carries the LSTM's state from frame to frame
    python lpm_torch/predict.py 0                          # first camera; stop with Ctrl-C

The person is looked for in --box (x,y,w,h), without it in the whole picture. In a video the box follows the last pose, and everything
starts again when the person is lost. Memory does not grow with the length of a video.
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
from lpm_torch.config import DATASETS, MODELS, Config  # noqa: E402
from lpm_torch.machine import plain_message  # noqa: E402

LOST = 0.1  # mean belief peak under which a tracked person counts as lost


def parse_args(argv=None) -> argparse.Namespace:
    """Options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", nargs="?", help="image, folder, video or camera number")
    parser.add_argument("--source", dest="source_option", help=argparse.SUPPRESS)
    parser.add_argument("--model", default="lpm", choices=MODELS, help="network (default: lpm)")
    parser.add_argument("--dataset", default="LSP", choices=DATASETS, help="model directory to take the checkpoint from (default: LSP)")
    parser.add_argument("--model_dir", default="experiments", help="as in train.py (default: experiments)")
    parser.add_argument("--checkpoint_name", "--checkpoint", help="path, or a name in the model directory (default: best, else last)")
    parser.add_argument("--box", help="x,y,w,h of the person in the first picture (default: the whole picture)")
    parser.add_argument("--out", default="output/predict", help="folder for drawings and joints.jsonl (default: output/predict)")
    parser.add_argument("--limit", type=int, help="stop after N pictures")
    parser.add_argument("--track", action=argparse.BooleanOptionalAction, help="the pictures are one video (default: yes for videos and cameras)")
    parser.add_argument("--smooth", action="store_true", help="One-Euro filter over the frames of a video")
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


def parse_box(text: str | None):
    """x,y,w,h as numbers; DataError otherwise."""
    if text is None:
        return None
    try:
        box = tuple(float(v) for v in text.split(","))
    except ValueError:
        box = ()
    if len(box) != 4 or min(box[2:]) <= 0:
        raise DataError(f"--box={text} is not x,y,w,h with positive w and h")
    return box


def run(args: argparse.Namespace) -> Path:
    """Write joints.jsonl and the drawings (pictures, or one video); returns the folder."""
    from tqdm import tqdm

    from common import video
    from common.draw import draw_pose, save_image
    from common.skeletons import LPM14
    from lpm_torch.val import load_model, pick_checkpoint

    frames, box = video.frames(args.source), parse_box(args.box)
    moving = frames.count != 1 and not Path(args.source).is_dir()
    track = moving if args.track is None else args.track
    if args.smooth and not track:
        raise DataError("--smooth is for videos; with a folder of frames give --track as well")
    model, config, device = load_model(pick_checkpoint(args), args)
    tracker, smooth = Tracker(model, config, device, box, track), None
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    with video.VideoWriter(out / "overlay.mp4", frames.fps) if moving else nullcontext() as writer, open(out / "joints.jsonl", "w") as lines:
        try:
            for index, name, image in tqdm(frames, total=frames.count, dynamic_ncols=True):
                if args.limit is not None and index >= args.limit:
                    break
                if args.smooth and (smooth is None or tracker.lost):
                    smooth = video.OneEuroFilter(frames.fps)  # a person found anew has no past
                joints, score, used = tracker(image)
                joints = smooth(joints) if smooth else joints
                row = {"image": name, "frame": index, "joints": joints.round(2).tolist(), "score": score.round(4).tolist(), "box": used.tolist()}
                lines.write(json.dumps({**row, "lost": tracker.lost, "joint_names": LPM14.joints}) + "\n")
                lines.flush()
                drawn = draw_pose(image, joints, LPM14, score, min_score=LOST)
                writer.write(drawn) if moving else save_image(out / f"{name}_pose.png", drawn)
        except KeyboardInterrupt:
            print("stopped")
    return out


def main(argv=None) -> int:
    """Exit code 0, or 2 with a message on bad input."""
    args = parse_args(argv)
    try:
        out = run(args)
    except (DataError, ValueError) as error:
        print(f"error: {plain_message(error)}", file=sys.stderr)
        return 2
    print(f"joints and drawings are in {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
