"""What the network is trained on: writes each training picture with its score targets over it.

python deepercut_tf/vis_dataset.py --config FILE --out output/vis_dataset --count 20
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import numpy as np

from common.runs.process import exit_code
from deepercut_tf.config import settings_of, settings_parser


def parse_args(argv=None) -> argparse.Namespace:
    """Options."""
    parser = settings_parser(__doc__)
    parser.option("count", type=int, default=20, text="number of pictures", group="output")
    return parser.parse_args(argv)


def score_picture(image: np.ndarray, score: np.ndarray, alpha: float = 0.5) -> np.ndarray:
    """(H,W,3) uint8 BGR: the RGB `image` (H,W,3) under a (h,w) score map in jet colours, 0 blue to 1 red."""
    import cv2

    large = cv2.resize(
        np.clip(score, 0, 1).astype(np.float32), (score.shape[1] * 8, score.shape[0] * 8), interpolation=cv2.INTER_CUBIC
    )
    colors = cv2.applyColorMap((np.clip(large, 0, 1) * 255).astype(np.uint8), cv2.COLORMAP_JET)
    height, width = image.shape[:2]
    colors = colors[:height, :width]
    return cv2.addWeighted(
        np.ascontiguousarray(image[: colors.shape[0], : colors.shape[1], ::-1]), 1 - alpha, colors, alpha, 0
    )


def run(args: argparse.Namespace) -> Path:
    """Write the pictures; returns the folder. DataError on bad input."""
    from itertools import islice

    from common.draw import save_image
    from deepercut_tf.data import Sampler, make_sample
    from deepercut_tf.items import load_items

    item_set, config = load_items(settings_of(args))
    folder = Path(config.out or "output/vis_dataset")
    for draw in islice(Sampler(item_set, config).draws(), args.count):
        sample = make_sample(item_set, draw.indices[0], config, draw.scale, draw.mirror, None, draw.angle, draw.spot)
        save_image(folder / f"{draw.number:06d}.png", score_picture(sample.image, sample.targets.score.max(-1)))
    return folder


def main(argv=None) -> int:
    """Exit code 0, or 2 with a message on bad input."""
    return exit_code(lambda: run(parse_args(argv)), "{}")


if __name__ == "__main__":
    sys.exit(main())
