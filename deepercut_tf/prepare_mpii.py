"""MPII's release -> cropped single persons and dataset.mat, which the original left to MATLAB.

    python deepercut_tf/prepare_mpii.py ROOT OUT

ROOT holds mpii_human_pose_v1_u12_1.mat and images/, OUT gets cropped/ and dataset.mat.

Two passes over the training images: persons listed in single_person (margin 130, other people cut away), then all
others (margin 65). A person is brought to 400 pixels height (head 50 pixels). Coordinates are stored from 0, as the
variable `origin` says; in mode compat from 1, as the original, which then trains with a bias of one pixel.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import numpy as np
from tqdm import tqdm

from common.datasets import files
from common.datasets.mpii import RELEASE, read_release
from common.errors import DataError
from common.files import write_mat
from common.images import read_image
from common.runs.options import Parser
from common.runs.process import exit_code

HEIGHT, HEAD = 400.0, 50.0  # pixels of a prepared person and its head
MARGINS = {True: 130, False: 65}  # isolated persons, all others
DELTA = HEIGHT / 200 * 10  # distance kept from other people's joints
ORDER = (0, 1, 2, 3, 4, 5, 10, 11, 12, 13, 14, 15, 8, 9)  # MPII's number of each of the 14 joints


def crop_box(points, others, size, isolate: bool):
    """(x1, y1, x2, y2) from 1, inclusive, in the resized image of `size` (width, height).

    `points` (n,2) the person's joints, `others` (m,2) everybody else's, both resized. With `isolate` the box ends 20
    pixels from the nearest joint left and right of the person; only x is limited, as in the original.
    """
    margin = MARGINS[isolate]
    (x1, y1), (x2, y2) = np.round(points.min(0)), np.round(points.max(0))
    box = np.array([max(x1 - margin, 1), max(y1 - margin, 1), min(x2 + margin, size[0]), min(y2 + margin, size[1])])
    if isolate and len(others):
        left, right = others[others[:, 0] < x1, 0], others[others[:, 0] > x2, 0]
        if len(left):
            box[0] = np.round(max(box[0], left.max() + DELTA))
        if len(right):
            box[2] = np.round(min(box[2], right.min() - DELTA))
    return box.astype(int)


def places(release: Path) -> tuple[dict[str, int], set[tuple[int, int]]]:
    """({image name: its place in annolist}, {(place, person) of the field single_person}), counted from 0."""
    content = files.read_mat(release, "RELEASE", struct_as_record=False, squeeze_me=True)
    numbers = {str(entry.image.name): i for i, entry in enumerate(np.atleast_1d(content.annolist))}
    cells = np.atleast_1d(getattr(content, "single_person", np.zeros(0)))
    return numbers, {(i, int(p) - 1) for i, cell in enumerate(cells) for p in np.ravel(cell)}


def prepare(root: Path, out: Path, mode: str) -> Path:
    """Write the crops and dataset.mat; returns the latter. DataMissing or DataError on bad input."""
    release = root / RELEASE
    if not release.is_file():
        raise files.missing("mpii", root, RELEASE)
    persons, (numbers, single) = read_release(release), places(release)
    rows = np.flatnonzero(persons.train & persons.annotated & np.isfinite(persons.head_box).all(1))
    (out / "cropped").mkdir(parents=True, exist_ok=True)
    entries = []
    for isolate in (True, False):
        chosen = [row for row in rows if ((numbers[persons.image[row]], persons.person[row]) in single) == isolate]
        for row in tqdm(chosen, desc="isolated persons" if isolate else "other persons", unit="person"):
            entries.append(_person(root, out, persons, row, isolate, numbers[persons.image[row]], mode))
    found = [entry for entry in entries if entry is not None]
    if len(found) < len(entries):
        count = len(entries) - len(found)
        print(f"warning: {count} persons were left out: no image, or no room around them", file=sys.stderr)
    if not found:
        raise DataError(f"no annotated training person of {release} has its image in {root / 'images'}; put them there")
    if files.is_synthetic(root):
        (out / "SYNTHETIC").touch()
    return write_dataset(out / "dataset.mat", found, 0 if mode == "correct" else 1)


def _person(root: Path, out: Path, persons, row: int, isolate: bool, number: int, mode: str):
    """One entry of dataset.mat, its crop and transformation written; None when there is no image or no room."""
    import cv2

    path = root / "images" / Path(persons.image[row]).name
    if not path.is_file():
        return None
    image = read_image(path)
    x1, y1, x2, y2 = persons.head_box[row]
    head = 0.6 * np.hypot(x2 - x1, y2 - y1)
    if not 0.01 < 25 / max(head, 1e-9) < 100:
        raise DataError(f"{path}: the head of person {persons.person[row]} has {head:.1f} pixels; correct the head box")
    sc = head / HEAD
    size = int(np.ceil(image.shape[1] / sc)), int(np.ceil(image.shape[0] / sc))
    labelled = persons.visible[row] > 0
    others = (persons.image == persons.image[row]) & (np.arange(len(persons)) != row)
    around = persons.joints[others][persons.visible[others] > 0] / sc
    left, top, right, bottom = crop_box(persons.joints[row][labelled] / sc, around, size, isolate)
    if right <= left or bottom <= top:
        return None
    crop = cv2.resize(image, size, interpolation=cv2.INTER_CUBIC)[top - 1 : bottom, left - 1 : right]
    name = f"im{number + 1:05d}_{persons.person[row] + 1}"
    cv2.imwrite(str(out / "cropped" / f"{name}.png"), crop)
    np.savetxt(out / "cropped" / f"T_{name}.txt", sc * np.array([[1, 0, left], [0, 1, top], [0, 0, 1]]))
    start = 0 if mode == "correct" else 1
    moved = np.round(persons.joints[row] / sc - (left, top) + start)
    joints = [(k, *moved[j]) for k, j in enumerate(ORDER) if labelled[j]]
    return f"cropped/{name}.png", crop.shape[:2], np.array(joints, np.int32).reshape(-1, 3)


def write_dataset(path: Path, entries: list, origin: int) -> Path:
    """The original's struct array `dataset` (image, size [3,h,w], joints {n x 3}), and `origin`, the first pixel."""
    table = np.empty((1, len(entries)), [("image", object), ("size", object), ("joints", object)])
    for i, (image, (height, width), joints) in enumerate(entries):
        cell = np.empty((1, 1), object)
        cell[0, 0] = joints
        table[0, i] = (image, np.array([[3, height, width]], np.uint16), cell)
    return write_mat(path, {"dataset": table, "origin": origin})


def main(argv=None) -> int:
    """Exit code 0, or 2 with a message on bad input."""
    parser = Parser(__doc__)
    parser.add_argument("root", help="folder with the release file and images/", type=Path)
    parser.add_argument("out", help="folder to write", type=Path)
    parser.option("mode", choices=("correct", "compat"), default="correct", text="coordinates from 0, or from 1")
    return exit_code(lambda: prepare(**vars(parser.parse_args(argv))), "{}")


if __name__ == "__main__":
    sys.exit(main())
