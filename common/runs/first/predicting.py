"""What every predict.py does around its network: pictures in, one after another; JSON lines and drawings out.

source = open_source(args.source)
write_answers(source, args.out, answer, args.limit)         # answer(index, name, image) -> (rows, drawing)
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common import video
from common.errors import DataError

Answer = Callable[[int, str, np.ndarray], tuple[list[dict], np.ndarray]]


def add_arguments(parser: argparse.ArgumentParser, people: str = "") -> None:
    """`--out` and `--smooth`; `people` ends the help text of the latter."""
    parser.add_argument(
        "--out", default="output/predict", help="folder for drawings and joints.jsonl (default: output/predict)"
    )
    parser.add_argument("--smooth", action="store_true", help=f"One-Euro filter over the frames of a video{people}")


def parse_box(text: str | None, option: str = "--box") -> list[float] | None:
    """Text `x,y,w,h` as four numbers (pixels), None for None; DataError naming `option` for other text or a box without an area."""
    if text is None:
        return None
    try:
        box = [float(value) for value in text.split(",")]
    except ValueError:
        box = []
    if len(box) != 4 or not np.isfinite(box).all() or min(box[2:]) <= 0:
        raise DataError(f"{option} {text} is not x,y,w,h with positive w and h")
    return box


@dataclass(frozen=True)
class Source:
    """Pictures named on a command line. `moving`: they are a video or a camera, not an image or a folder of images."""

    frames: video.Frames
    moving: bool

    def smoother(self, wanted: bool, track: bool | None = None) -> Smoother:
        """The filter of `--smooth`. DataError when it is wanted for pictures that are no video; `track` says otherwise than `moving`."""
        if wanted and not (self.moving if track is None else track):
            raise DataError(
                "--smooth is for videos and cameras: pictures of a folder need not follow each other (see --track where there is one)"
            )
        return Smoother(self.frames.fps if wanted else None)


def open_source(name: str | Path) -> Source:
    """The pictures of an image, folder, video or camera number, as `common.video.frames` reads them. DataError when there are none."""
    frames = video.frames(name)
    return Source(frames, frames.count != 1 and not Path(name).is_dir())


class Smoother:
    """One-Euro filter over the only person of each frame; frames with nobody or several persons pass unchanged, as all do without `fps`."""

    def __init__(self, fps: float | None):
        self.fps = fps
        self.restart()

    def restart(self) -> None:
        """Forget the past: the next frame shows somebody else, or the same person found anew."""
        self._filter = video.OneEuroFilter(self.fps) if self.fps else None

    def __call__(self, joints: np.ndarray) -> np.ndarray:
        """(P,J,2) image pixels -> the same shape, smoothed where P is 1."""
        return self._filter(joints[0])[None] if self._filter and len(joints) == 1 else joints


def write_answers(source: Source, out: str | Path, answer: Answer, limit: int | None = None) -> Path:
    """Ask `answer(index, name, image)` for (rows, drawing) of every picture and write both into the folder `out`, which is returned.

    Each row is one line of joints.jsonl (arrays become lists), written as it comes. Drawings ((H,W,3) uint8 BGR) are NAME_pose.png with the
    picture's whole name, since a folder may hold 1.jpg and 1.png, or the frames of overlay.mp4 when `source` moves. Ends after `limit`
    pictures or with Ctrl-C, which keeps what there is. Memory does not grow with the number of pictures.
    """
    from tqdm import tqdm

    from common.draw import save_image

    out, frames = Path(out), source.frames
    out.mkdir(parents=True, exist_ok=True)
    film = video.VideoWriter(out / "overlay.mp4", frames.fps) if source.moving else nullcontext()
    with film, open(out / "joints.jsonl", "w", encoding="utf-8") as lines:
        try:
            for index, name, image in tqdm(frames, total=frames.count, dynamic_ncols=True):
                if limit is not None and index >= limit:
                    break
                rows, drawing = answer(index, name, image)
                lines.writelines(json.dumps(row, default=np.ndarray.tolist) + "\n" for row in rows)
                lines.flush()
                film.write(drawing) if source.moving else save_image(out / f"{name}_pose.png", drawing)
        except KeyboardInterrupt:
            print("stopped")
    return out
