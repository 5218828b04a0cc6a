"""Predict one person in every image of a data set: writes predictions.mat for eval_pck.py.

    cd deepercut_tf/models/mpii/test && python ../../../test.py
    python deepercut_tf/test.py --config FILE --weights SNAPSHOT --cache --vis

`joints` in predictions.mat: one (J,3) array of x, y, probability an image, in the data set's order, in image pixels.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)

from common.runs.first.process import exit_code  # noqa: E402
from deepercut_tf.options import settings_of, testing_parser  # noqa: E402


def parse_args(argv=None) -> argparse.Namespace:
    """Options."""
    return testing_parser(__doc__, "predictions.mat", "the score maps of every image to scoremap_dir").parse_args(argv)


def cache_name(folder: str | Path, index: int, image: str, mode: str) -> Path:
    """File of an image's score maps; in mode compat without the index, so that equal names overwrite each other, as in the original."""
    stem = Path(image).stem
    return Path(folder) / (f"{stem}.mat" if mode == "compat" else f"{index:06d}_{stem}.mat")


def write_cache(path: Path, maps) -> None:
    """Score maps and, in NAME_locreg.mat, offsets, float32, as the original's --cache."""
    import numpy as np
    from scipy.io import savemat

    from common.files import atomic_write

    atomic_write(path, lambda t: savemat(t, {"scoremaps": maps.score.astype(np.float32)}, appendmat=False))
    other = path.with_name(f"{path.stem}_locreg.mat")
    atomic_write(other, lambda t: savemat(t, {"locreg_pred": maps.locref.astype(np.float32)}, appendmat=False))


def run(args: argparse.Namespace) -> Path:
    """Predict and write; returns the file. DataError on bad input."""
    import numpy as np
    from scipy.io import savemat
    from tqdm import tqdm

    from common.draw import draw_pose, save_image
    from common.files import atomic_write
    from common.images import read_image
    from deepercut_tf.detections import argmax_pose
    from deepercut_tf.inference import PoseFinder
    from deepercut_tf.items import load_items

    item_set, config = load_items(settings_of(args))
    finder = PoseFinder(config, args.weights)
    items = item_set.items[: args.limit]
    joints = np.empty((1, len(items)), object)
    for i, item in enumerate(tqdm(items, desc="test", unit="image")):
        image = read_image(item.image)
        maps, scale = finder.maps(np.ascontiguousarray(image[..., ::-1]))
        pose = argmax_pose(maps)
        pose[:, :2] /= scale
        joints[0, i] = pose
        if args.cache:
            write_cache(cache_name(config.scoremap_dir, i, item.image, config.mode), maps)
        if args.vis:
            save_image(
                Path(args.vis) / f"{i:06d}_{Path(item.image).stem}.png",
                draw_pose(image, pose[:, :2], item_set.skeleton, pose[:, 2]),
            )
    return atomic_write(
        Path(args.out).absolute(), lambda temporary: savemat(temporary, {"joints": joints}, appendmat=False)
    )


def main(argv=None) -> int:
    """Exit code 0, or 2 with a message on bad input."""
    args = parse_args(argv)
    return exit_code(lambda: run(args), "{}")


if __name__ == "__main__":
    sys.exit(main())
