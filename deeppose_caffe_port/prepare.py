"""Data preparation of the two stages: mirrored and shuffled lists, labels around the image centre, patches (spec sections 3.1 to 3.6).

Everything happens in the project folder, in the original's files: data/NAME/{train,test}_annos.txt and depth_data/depth_images/ (made by
`import_data` from any data set of `common`), data/NAME/stage1, data/NAME/stage2, models/*/{train,test}_images.txt. Points are 0-based pixels.
"""

from __future__ import annotations

import math
import os
import random
import shutil
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from common.checkpoints import atomic_write, temporary_name
from common.poses import DataError
from deeppose_caffe_port.config import SEED, STAGES, Config
from deeppose_caffe_port.images import patch, read_picture

PATCH_UNIT = 64  # stage-2 labels are in pixels of a patch of this side


@dataclass
class Line:
    """An annotation line: image name and points (P,2), P at least the number of joints; `text` is the values as written."""

    name: str
    points: np.ndarray
    text: str

    def __str__(self) -> str:
        return f"{self.name} {self.text}\n"


class Python2Random:
    """`random.Random(seed)` with the `randint` of Python 2, which draws one double (section 3.7)."""

    def __init__(self, seed: int):
        self._random = random.Random(seed)

    def randint(self, low: int, high: int) -> int:
        """A whole number from low to high, both included."""
        return low + int(self._random.random() * (high - low + 1))


def image_folder(config: Config) -> str:
    """Where the prepared images are, relative to the project folder, as the lists name it."""
    return f"./data/{config.name}/depth_data/depth_images/"


def dataset_folder(config: Config) -> Path:
    """data/NAME of the project folder."""
    return config.project / "data" / config.name


def read_annotations(path: Path, joints: int) -> list[Line]:
    """Lines `NAME x0,y0,x1,y1,...`; NUL bytes are removed. DataError with the line number for one of another form."""
    if not path.is_file():
        raise DataError(f"annotation list {path} does not exist; run the step before (`workflow.py import_data` or `get_stage1`)")
    lines = []
    for number, text in enumerate(path.read_bytes().replace(b"\0", b"").decode("utf-8", "replace").splitlines(), 1):
        words = text.split()
        if not words:
            continue
        try:
            values = [float(v) for v in words[1].split(",")] if len(words) == 2 else []
        except ValueError:
            values = []
        if len(values) < 2 * joints or len(values) % 2:
            raise DataError(
                f"{path} line {number}: expected a file name and an even number of at least {2 * joints} comma-separated numbers,"
                f" found {len(words)} words and {len(values)} numbers"
            )
        lines.append(Line(words[0], np.array(values).reshape(-1, 2), words[1]))
    if not lines:
        raise DataError(f"annotation list {path} is empty")
    return lines


def write_lines(path: Path, lines) -> None:
    """A text file, atomically."""
    text = "".join(lines)
    atomic_write(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


# ---- stage 1 ------------------------------------------------------------------------------------------------------------------------


def mirrored(line: Line, config: Config) -> Line:
    """The line of the mirrored image: compat x -> W - x, whole numbers; correct x -> W - 1 - x. Points behind the joints keep their places."""
    points, width = line.points.copy(), config.size[0]
    points[:, 0] = (width if config.mode == "compat" else width - 1) - points[:, 0]
    count = len(config.skeleton)
    points[:count] = points[:count][config.skeleton.mirror]
    values = points.ravel().tolist()
    text = ",".join(str(int(v)) if config.mode == "compat" and math.isfinite(v) else f"{v:.7g}" for v in values)
    stem, dot, suffix = line.name.rpartition(".")
    return Line(f"{stem}m{dot}{suffix}", points, text)


def shuffle(items: list, generator: Python2Random) -> None:
    """5 n exchanges of two random places."""
    last = len(items) - 1
    for _ in range(5 * len(items)):
        i = generator.randint(0, last)
        j = generator.randint(0, last)
        items[i], items[j] = items[j], items[i]


def get_stage1(config: Config) -> None:
    """Mirror every training image and shuffle both lists: data/NAME/stage1/{train,test}_set.txt. DataError names a missing image."""
    home, generator = dataset_folder(config), Python2Random(SEED)
    train, test = (read_annotations(home / f"{kind}_annos.txt", len(config.skeleton)) for kind in ("train", "test"))
    images = config.project / image_folder(config)
    flipped = []
    for line in tqdm(train, desc="get_stage1", dynamic_ncols=True, mininterval=2):
        other = mirrored(line, config)
        picture = read_picture(images / line.name, config.allow_16bit)
        if picture.shape[1::-1] != config.size:
            raise DataError(
                f"image {images / line.name} is {picture.shape[1]}x{picture.shape[0]}, the project has {config.size}; set --width, --height"
            )
        save(images / other.name, cv2.flip(picture, 1))
        flipped.append(other)
    train += flipped
    for kind, lines in (("train", train), ("test", test)):
        shuffle(lines, generator)
        write_lines(home / "stage1" / f"{kind}_set.txt", map(str, lines))


def save(path: Path, picture: np.ndarray) -> None:
    """An image file, whole or not at all (not flushed one by one, which would take longer than all the rest)."""
    temporary = temporary_name(path)
    # the lowest PNG compression: still lossless, and three times as fast
    temporary.write_bytes(cv2.imencode(path.suffix, picture, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1].tobytes())
    os.replace(temporary, path)


def number(value: float) -> str:
    """A float as Python 2 prints it: twelve digits."""
    text = f"{value:.12g}"
    return text if any(c in text for c in ".en") else text + ".0"


def get_k2hpd(config: Config) -> None:
    """Stage-1 lists for the LMDB tool: path and joints relative to the image centre, in pixels (section 3.2)."""
    half = np.array(config.size) / 2
    for kind in ("train", "test"):
        rows = []
        for line in read_annotations(dataset_folder(config) / "stage1" / f"{kind}_set.txt", len(config.skeleton)):
            offsets = line.points[: len(config.skeleton)] - half
            rows.append(f"{image_folder(config)}{line.name} {' '.join(map(number, offsets.ravel()))}\n")
        write_lines(config.model_folder(1) / f"{kind}_images.txt", rows)


# ---- stage 2 ------------------------------------------------------------------------------------------------------------------------


def read_list(path: Path, labels: int) -> tuple[list[str], np.ndarray]:
    """A list of the LMDB tool: paths and (N, labels) numbers. DataError with the line number when one has another count."""
    if not path.is_file():
        raise DataError(f"image list {path} does not exist; run the step of the workflow that makes it")
    names, values = [], []
    for row, line in enumerate(path.read_bytes().replace(b"\0", b"").decode("utf-8", "replace").splitlines(), 1):
        words = line.split()
        if not words:
            continue
        try:
            found = [float(w) for w in words[1:]]
        except ValueError:
            found = []
        if len(found) != labels:
            raise DataError(f"{path} line {row}: expected a path and {labels} numbers, found {len(words) - 1} words behind the path")
        names.append(words[0])
        values.append(found)
    return names, np.array(values, np.float64).reshape(-1, labels)


def get_stage2(config: Config) -> dict[str, float]:
    """Patches around stage 1's predictions on the training list, one joint in `patch_rate`: data/NAME/stage2 (section 3.5).

    The label is (truth - prediction) / (alpha x true diameter). Samples without diameter or joint are dropped and counted. With
    `displacements`, each kept joint also gives patches around displaced truths, as in DeepPose. Returns the figures that are printed.
    """
    home, count = dataset_folder(config), len(config.skeleton)
    names, values = read_list(home / "stage1" / "output.txt", 4 * count)
    truth, guess = values.reshape(-1, 2, count, 2).transpose(1, 0, 2, 3)
    side = config.alpha * config.diameters(truth)
    target = home / "stage2"
    shutil.rmtree(target / "data", ignore_errors=True)
    (target / "data").mkdir(parents=True)
    draw = _Displacements(truth, guess, side, config)
    generator, lines, labels, dropped = Python2Random(SEED), [], [], 0
    for i, name in enumerate(tqdm(names, desc="get_stage2", dynamic_ncols=True, mininterval=2)):
        kept = [j for j in range(count) if generator.randint(1, config.patch_rate) == 1]
        known = [j for j in kept if side[i] > 0 and np.isfinite(truth[i, j]).all()]
        dropped += len(kept) - len(known)
        picture = read_picture(config.project / name, config.allow_16bit) if known else None
        for j in known:
            for k, center in enumerate([guess[i, j], *draw.around(truth[i, j], side[i])]):
                file = f"{Path(name).stem}.{j}{f'.{k}' if k else ''}{'.jpg' if config.mode == 'compat' else '.png'}"
                save(target / "data" / file, patch(picture, center, side[i]))
                labels.append((truth[i, j] - center) / side[i])
                lines.append(f"./data/{config.name}/stage2/data/{file} {labels[-1][0]:f} {labels[-1][1]:f}\n")
    write_lines(target / "images.txt", lines)
    known = side[np.isfinite(side)]
    included = np.abs(np.array(labels).reshape(-1, 2)) <= 0.5
    figures = {
        "max of size ": known.max(initial=0), "min of size ": known.min(initial=np.inf), "mean of size": known.mean() if len(known) else 0.0,
        "included rate": included.all(-1).mean() if len(labels) else 0.0, "dropped": dropped, "patches": len(lines),
    }  # fmt: skip
    for key, value in figures.items():
        print(f"{key}: {value}")
    return figures


class _Displacements:
    """Gaussian displacements with the mean and spread of stage 1's errors, in units of the patch side (DeepPose section 3.2)."""

    def __init__(self, truth: np.ndarray, guess: np.ndarray, side: np.ndarray, config: Config):
        usable = side > 0
        errors = ((guess - truth)[usable] / side[usable, None, None]).reshape(-1, 2)
        errors = errors[np.isfinite(errors).all(-1)]
        if config.displacements and not len(errors):
            raise DataError("stage1/output.txt has no person with a diameter: no displacements can be drawn; use --displacements 0")
        self.count, self.random = config.displacements, np.random.default_rng(SEED)
        self.mean, self.std = (errors.mean(0), errors.std(0) * config.spread) if self.count else (None, None)

    def around(self, joint: np.ndarray, side: float) -> np.ndarray:
        """(count,2) displaced positions of one joint."""
        if not self.count:
            return np.zeros((0, 2))
        return joint + side * self.random.normal(self.mean, self.std, (self.count, 2))


def get_k2hpd2(config: Config) -> None:
    """Stage-2 lists: labels times 64, the last `holdout` lines as test set. DataError when nothing would be left to train on."""
    names, values = read_list(dataset_folder(config) / "stage2" / "images.txt", 2)
    if len(names) <= config.holdout and not config.allow_small:
        raise DataError(
            f"{dataset_folder(config)}/stage2/images.txt has {len(names)} patches, --holdout takes the last {config.holdout}: none is left to"
            " train on. Lower --holdout or --patch_rate, or give --allow_small"
        )
    rows = [f"{name} {number(x)} {number(y)}\n" for name, (x, y) in zip(names, values * PATCH_UNIT)]
    cut = max(len(rows) - config.holdout, 0)
    write_lines(config.project / "models" / STAGES[1] / "train_images.txt", rows[:cut])
    write_lines(config.project / "models" / STAGES[1] / "test_images.txt", rows[cut:])
