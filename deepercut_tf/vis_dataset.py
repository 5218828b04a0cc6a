"""What the network is trained on: writes each training picture with its score targets over it.

python deepercut_tf/vis_dataset.py --config FILE --out output/vis_dataset --count 20
"""

from __future__ import annotations

import argparse
import sys
from itertools import islice
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from common.runs.process import exit_code
from deepercut_tf.config import settings_of, settings_parser


def run(args: argparse.Namespace) -> Path:
    """Write the pictures; returns the folder. DataError on bad input."""
    import cv2
    import numpy as np

    from common.draw import save_image
    from deepercut_tf.data import Sampler, make_sample
    from deepercut_tf.items import load_items

    item_set, config = load_items(settings_of(args))
    folder = Path(config.out or "output/vis_dataset")
    for draw in islice(Sampler(item_set, config).draws(), args.count):
        image = item_set.read(item_set.items[draw.index])
        if image is None:
            continue
        sample = make_sample(item_set, draw, config, image=image)
        (height, width), score = sample.image.shape[:2], sample.targets.score.max(-1)
        large = cv2.resize(np.uint8(255 * score), None, fx=8, fy=8, interpolation=cv2.INTER_CUBIC)[:height, :width]
        colors = cv2.applyColorMap(large, cv2.COLORMAP_JET)
        blended = cv2.addWeighted(np.ascontiguousarray(sample.image[..., ::-1]), 0.5, colors, 0.5, 0)
        save_image(folder / f"{draw.number:06d}.png", blended)
    return folder


def main(argv=None) -> int:
    """Exit code 0, or 2 with a message on bad input."""
    parser = settings_parser(__doc__)
    parser.option("count", type=int, default=20, text="number of pictures", group="output")
    return exit_code(lambda: run(parser.parse_args(argv)), "{}")


if __name__ == "__main__":
    sys.exit(main())
