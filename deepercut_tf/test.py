"""Predict one person in every image of a data set: writes predictions.mat for eval_pck.py.

    cd deepercut_tf/models/mpii/test && python ../../../test.py
    python deepercut_tf/test.py --config FILE --weights SNAPSHOT --cache --vis FOLDER

`joints` in predictions.mat: one (J,3) array of x, y, probability an image, in the data set's order, in image pixels.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from common.runs.options import Parser
from common.runs.process import exit_code
from deepercut_tf.config import as_cfg, settings_of, settings_parser


def testing_parser(about: str | None, cached: str) -> Parser:
    """The parser of test.py and test_multiperson.py: the original's --cache and --novis, and --vis."""
    parser = settings_parser(about)
    parser.option("cache", type=bool, default=False, text=f"also write {cached}", group="output")
    parser.option("vis", default=None, metavar="FOLDER", text="folder for drawings", group="output")
    quiet = "as in the original; nothing is shown unless --vis is given"
    parser.option("novis", type=bool, default=False, text=quiet, group="output")
    return parser


def parse_args(argv=None) -> argparse.Namespace:
    """Options."""
    return testing_parser(__doc__, "the score maps of every image to scoremap_dir").parse_args(argv)


def write_maps(path: Path, **maps) -> None:
    """Arrays as the original caches them, float32."""
    import numpy as np
    from scipy.io import savemat

    from common.files import atomic_write

    content = {name: value.astype(np.float32) for name, value in maps.items() if value is not None}
    atomic_write(path, lambda temporary: savemat(temporary, content, appendmat=False))


def run(args: argparse.Namespace) -> Path:
    """Predict and write; returns the file. DataError on bad input."""
    import numpy as np
    from scipy.io import savemat
    from tqdm import tqdm

    from common.draw import draw_pose, save_image
    from common.files import atomic_write
    from common.images import read_image
    from deepercut_tf.detections import argmax_pose
    from deepercut_tf.estimator import Estimator
    from deepercut_tf.items import load_items

    item_set, config = load_items(settings_of(args))
    cfg = as_cfg(config)
    estimator = Estimator(config.weights, people="one", **cfg)
    joints = np.empty((1, len(item_set)), object)
    for i, item in enumerate(tqdm(item_set.items, desc="test", unit="image")):
        image, stem = read_image(item.image), Path(item.image).stem
        maps, scale = estimator.maps(np.ascontiguousarray(image[..., ::-1]))
        pose = argmax_pose(maps)
        pose[:, :2] /= scale
        joints[0, i] = pose
        if args.cache:
            # the original has no number in the name, so that pictures of equal names overwrite each other
            name = Path(cfg.scoremap_dir) / (stem if cfg.mode == "compat" else f"{i:06d}_{stem}")
            write_maps(Path(f"{name}.mat"), scoremaps=maps.score)
            write_maps(Path(f"{name}_locreg.mat"), locreg_pred=maps.locref)
        if args.vis:
            drawing = draw_pose(image, pose[:, :2], estimator.skeleton, pose[:, 2])
            save_image(Path(args.vis) / f"{i:06d}_{stem}.png", drawing)
    out = Path(config.out or "predictions.mat").absolute()
    return atomic_write(out, lambda temporary: savemat(temporary, {"joints": joints}, appendmat=False))


def main(argv=None) -> int:
    """Exit code 0, or 2 with a message on bad input."""
    return exit_code(lambda: run(parse_args(argv)), "{}")


if __name__ == "__main__":
    sys.exit(main())
