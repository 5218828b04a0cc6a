"""PCK of predictions.mat (written by test.py) against the data set of pose_cfg.yaml: the original's two lines.

    python deepercut_tf/eval_pck.py --config deepercut_tf/models/mpii/test/pose_cfg.yaml

A joint is right within `pck_threshold` x the longer side of the box around the image's annotated joints (not PCKh).
"""

from __future__ import annotations

import argparse
import sys
import warnings
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import numpy as np

from common.errors import DataError
from common.runs.process import exit_code
from deepercut_tf.config import settings_of, settings_parser


def per_joint_pck(persons, predicted, joints: int, threshold: float) -> np.ndarray:
    """(J,) percentages (NaN: never annotated) of `persons`, rows id, x, y, and `predicted`, (J,2 or 3), an image each."""
    from common.metrics.counting import distances, percentages, within
    from common.metrics.pck import extent

    truth = np.full((len(persons), joints, 2), np.nan)
    for table, person in zip(truth, persons):
        table[person[:, 0].astype(int)] = person[:, 1:]
    found = np.array([np.asarray(p, np.float64)[:, :2] for p in predicted]).reshape(truth.shape)
    hits = within(distances(truth, found), extent(truth)[:, None], threshold)
    return percentages(hits, np.isfinite(truth[..., 0]))


def report(per_joint, all_joints: list[list[int]], names: list[str], skip_missing: bool = True) -> str:
    """The two lines: names, and means of the groups' joints and of all; `skip_missing` leaves NaN out of means."""
    mean = np.nanmean if skip_missing else np.mean
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a group without any annotation is NaN
        values = [mean(per_joint[group]) for group in all_joints] + [mean(per_joint)]
    return "".join(f" & {name}" for name in [*names, "total"]) + "\n" + "".join(f" & {value:.1f}" for value in values)


def read_predictions(path: str | Path, images: int, joints: int) -> list:
    """The (J,3) arrays of predictions.mat, one an image; DataError when they are of another number or joint set."""
    from common.datasets.files import read_mat

    if not Path(path).is_file():
        raise DataError(f"{path} does not exist; write it with python deepercut_tf/test.py, or give --predictions")
    found = list(read_mat(Path(path), "joints").ravel())
    if [(t.shape, t.dtype.kind) for t in map(np.asarray, found)] != [((joints, 3), "f")] * images:
        raise DataError(f"{path} has not a ({joints},3) array for each of {images} images; run test.py on this data")
    return found


def run(args: argparse.Namespace) -> str:
    """The report. DataError on bad input."""
    from deepercut_tf.items import load_items

    item_set, config = load_items(settings_of(args))
    crowded = sum(len(item.persons) > 1 for item in item_set.items)
    if crowded:
        print(f"note: {crowded} images have several persons; the first one of each is scored", file=sys.stderr)
    persons = [item.persons[0] if item.persons else np.zeros((0, 3)) for item in item_set.items]
    predicted = read_predictions(args.predictions, len(persons), config.num_joints)
    per_joint = per_joint_pck(persons, predicted, config.num_joints, config.pck_threshold)
    return report(per_joint, config.all_joints, config.all_joints_names, config.mode == "correct")


def main(argv=None) -> int:
    """Exit code 0, or 2 with a message on bad input."""
    parser = settings_parser(__doc__)
    parser.option("predictions", default="predictions.mat", metavar="FILE", text="file of test.py", group="data")
    return exit_code(lambda: run(parser.parse_args(argv)), "{}")


if __name__ == "__main__":
    sys.exit(main())
