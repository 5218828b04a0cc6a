"""Data preparation: any data set into the project's own layout, mirrored and shuffled lists, labels around the image
centre, patches.

Everything happens in the project folder, in the original's files: data/NAME/{train,test}_annos.txt and
depth_data/depth_images/, data/NAME/stage1, data/NAME/stage2, models/*/{train,test}_images.txt. K2HPD's images are
linked as they are and its lists copied without NUL bytes; of other data sets each person becomes one square picture
around the annotated joints, unlabelled joints are nan. Points are 0-based pixels.
"""

from __future__ import annotations

import math
import os
import random
import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm as progress

from common import datasets
from common.errors import DataError
from common.files import atomic_write, temporary_name
from common.poses import PoseSet
from common.skeletons import card
from deeppose_caffe_port.config import SEED, Config, store
from deeppose_caffe_port.images import Pictures, patch, read_picture
from deeppose_caffe_port.prototxts import write_project

PATCH_UNIT = 64  # labels of later stages are in pixels of a patch of this side
tqdm = partial(progress, dynamic_ncols=True, mininterval=2)


@dataclass
class Line:
    """An annotation line: image name and points (P,2), the joints first; `text` is the values as written."""

    name: str
    points: np.ndarray
    text: str

    def __str__(self) -> str:
        return f"{self.name} {self.text}\n"


class Python2Random:
    """`random.Random(seed)` with the `randint` of Python 2, which draws one double."""

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


def _rows(path: Path) -> list[tuple[str, list[str]]]:
    """(place for messages, words) of every line of a list that is not empty; NUL bytes are removed."""
    if not path.is_file():
        raise DataError(f"list {path} does not exist; run the step of workflow.py that makes it")
    lines = path.read_bytes().replace(b"\0", b"").decode("utf-8", "replace").splitlines()
    return [(f"{path} line {number}", line.split()) for number, line in enumerate(lines, 1) if line.split()]


def _numbers(words: list[str]) -> list[float]:
    """Words as numbers; none where one is no number."""
    try:
        return [float(word) for word in words]
    except ValueError:
        return []


def read_annotations(path: Path, joints: int) -> list[Line]:
    """Lines `NAME x0,y0,x1,y1,...`. DataError with the line number for one of another form."""
    lines = []
    for place, words in _rows(path):
        values = _numbers(words[1].split(",")) if len(words) == 2 else []
        if len(values) < 2 * joints or len(values) % 2:
            wanted = f"expected a file name and an even number of at least {2 * joints} comma-separated numbers"
            raise DataError(f"{place}: {wanted}, found {len(words)} words and {len(values)} numbers")
        lines.append(Line(words[0], np.array(values).reshape(-1, 2), words[1]))
    if not lines:
        raise DataError(f"annotation list {path} is empty")
    return lines


def read_list(path: Path, labels: int) -> tuple[list[str], np.ndarray]:
    """A list of the LMDB tool: paths and (N, labels) numbers. DataError naming a line that has another count."""
    names, values = [], []
    for place, words in _rows(path):
        found = _numbers(words[1:])
        if len(found) != labels:
            raise DataError(f"{place}: expected a path and {labels} numbers, found {len(words) - 1} words behind it")
        names.append(words[0])
        values.append(found)
    return names, np.array(values, np.float64).reshape(-1, labels)


def write_lines(path: Path, lines) -> None:
    """A text file, atomically."""
    atomic_write(path, partial(Path.write_text, data="".join(lines), encoding="utf-8"))


def save(path: Path, picture: np.ndarray) -> None:
    """An image file, whole or not at all (not flushed one by one, which would take longer than all the rest)."""
    temporary = temporary_name(path)
    # the lowest PNG compression: still lossless, and three times as fast
    temporary.write_bytes(cv2.imencode(path.suffix, picture, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1].tobytes())
    os.replace(temporary, path)


# ---- any data set -> the project folder ----------------------------------------------------------


def load_split(config: Config, number: int) -> PoseSet:
    """Split 0 (train) or 1 (test), at most `limit` persons, those without a labelled joint left out."""
    pose_set = datasets.load(config.dataset, config.data_folder, config.splits[number])
    return pose_set.select((pose_set.visible > 0).any(1)).limit(config.limit)


def import_data(config: Config) -> None:
    """Fill the project folder: pictures, lists, prototxts, project.json; the settings get the data set's skeleton."""
    splits = [load_split(config, number) for number in (0, 1)]
    config.skeleton = card(splits[0].skeleton)
    images = config.project / image_folder(config)
    images.mkdir(parents=True, exist_ok=True)
    if splits[0].synthetic:
        (config.project / "SYNTHETIC").touch()
        print(f"SYNTHETIC data in {splits[0].root}: figures from it say nothing about real pictures")
    for kind, pose_set in zip(("train", "test"), splits):
        lines = _link(config, pose_set, images) if config.whole_images else _crop(config, pose_set, images, kind)
        write_lines(dataset_folder(config) / f"{kind}_annos.txt", lines)
    write_project(config)
    store(config)


def _link(config: Config, pose_set: PoseSet, images: Path) -> list[str]:
    for path in map(Path, pose_set.images):
        if not path.is_file():
            check = f"python -m common.datasets check {config.dataset} {config.data_folder}"
            raise DataError(f"image {path} does not exist; `{check}` lists all such")
        target = images / path.name
        if not target.is_symlink() and not target.exists():
            os.symlink(path.absolute(), target)
    folder = Path(pose_set.images[0]).parent.parent.parent
    listed = {"train": "train_annos.txt"}.get(pose_set.split, "test_annos.txt")
    wanted = set(pose_set.image_id.tolist())
    return [str(line) for line in read_annotations(folder / listed, len(config.joints)) if line.name in wanted]


def _crop(config: Config, pose_set: PoseSet, images: Path, kind: str) -> list[str]:
    pictures, lines = Pictures(pose_set, config), []
    for row in tqdm(range(len(pictures)), desc=f"import {kind}"):
        name = f"{kind}{row:08d}.png"
        try:
            save(images / name, pictures.image(row))
        except DataError as error:
            print(f"skipped: {error}")
            continue
        lines.append(f"{name} {','.join(f'{v:.3f}' for v in pictures.joints(row).ravel())}\n")
    if len(lines) < len(pictures):
        print(f"{len(pictures) - len(lines)} of {len(pictures)} pictures of the {kind} split were skipped")
    return lines


# ---- stage 1 -------------------------------------------------------------------------------------


def mirrored(line: Line, config: Config) -> Line:
    """The line of the mirrored image: compat x -> W - x, whole numbers; correct x -> W - 1 - x.

    Points behind the joints keep their places.
    """
    points, width, count = line.points.copy(), config.size[0], len(config.joints)
    compat = config.mode == "compat"
    points[:, 0] = (width if compat else width - 1) - points[:, 0]
    points[:count] = points[:count][config.joints.mirror]
    values = points.ravel().tolist()
    text = ",".join(str(int(v)) if compat and math.isfinite(v) else f"{v:.7g}" for v in values)
    stem, dot, suffix = line.name.rpartition(".")
    return Line(f"{stem}m{dot}{suffix}", points, text)


def shuffle(items: list, generator: Python2Random) -> None:
    """5 n exchanges of two random places."""
    last = len(items) - 1
    for _ in range(5 * len(items)):
        i, j = generator.randint(0, last), generator.randint(0, last)
        items[i], items[j] = items[j], items[i]


def get_stage1(config: Config) -> None:
    """Mirror every training image and shuffle both lists: data/NAME/stage1/{train,test}_set.txt."""
    home, generator = dataset_folder(config), Python2Random(SEED)
    train, test = (read_annotations(home / f"{kind}_annos.txt", len(config.joints)) for kind in ("train", "test"))
    images, flipped = config.project / image_folder(config), []
    for line in tqdm(train, desc="get_stage1"):
        picture = read_picture(images / line.name, config.allow_16bit)
        if (size := picture.shape[1::-1]) != config.size:
            remedy = "set --input_width, --input_height"
            raise DataError(f"image {images / line.name} is {size}, not {config.size}; {remedy}")
        flipped.append(mirrored(line, config))
        save(images / flipped[-1].name, cv2.flip(picture, 1))
    for kind, lines in (("train", train + flipped), ("test", test)):
        shuffle(lines, generator)
        write_lines(home / "stage1" / f"{kind}_set.txt", map(str, lines))


def number(value: float) -> str:
    """A float as Python 2 prints it: twelve digits."""
    text = f"{value:.12g}"
    return text if any(c in text for c in ".en") else text + ".0"


def get_k2hpd(config: Config) -> None:
    """Stage-1 lists for the LMDB tool: path and joints relative to the image centre, in pixels.

    With `held_out`, that share of the training pictures goes into held_images.txt instead, mirrored ones with their
    originals.
    """
    half, held, home, count = np.array(config.size) / 2, set(), dataset_folder(config), len(config.joints)
    if config.held_out:
        lines = read_annotations(home / "train_annos.txt", count)
        last = lines[len(lines) - max(round(config.held_out * len(lines)), 1) :]
        held = {line.name for line in last} | {mirrored(line, config).name for line in last}
    rows: dict[str, list[str]] = {"train": [], "test": [], "held": []}
    for kind in ("train", "test"):
        for line in read_annotations(home / "stage1" / f"{kind}_set.txt", count):
            text = f"{image_folder(config)}{line.name} {' '.join(map(number, (line.points[:count] - half).ravel()))}\n"
            rows["held" if kind == "train" and line.name in held else kind].append(text)
    for kind, texts in rows.items():
        if texts or kind != "held":
            write_lines(config.model_folder(1) / f"{kind}_images.txt", texts)


# ---- later stages --------------------------------------------------------------------------------


def guesses(config: Config, stage: int) -> tuple[list[str], np.ndarray, np.ndarray, np.ndarray]:
    """(names, truth (N,J,2), prediction (N,J,2), which count as unseen by the stage (N,)) of its output.txt and, with
    `held_out`, of output_held.txt behind it."""
    home, count = dataset_folder(config) / f"stage{stage}", len(config.joints)
    names, values = read_list(home / "output.txt", 4 * count)
    unseen = np.full(len(names), not config.held_out)
    if config.held_out:
        others, more = read_list(home / "output_held.txt", 4 * count)
        names, values, unseen = names + others, np.concatenate([values, more]), np.append(unseen, [True] * len(others))
    truth, guess = values.reshape(-1, 2, count, 2).transpose(1, 0, 2, 3)
    return names, truth, guess, unseen


class Displacements:
    """Displacements like the errors of the stage before, in units of the true patch side, each with the size of its
    patch.

    DeepPose (section 3.2) draws from a normal law with the errors' mean and spread. Here errors are drawn as they were
    seen, each with its person's ratio of predicted to true size: their tails are heavy, and a pose that is predicted
    too small gives too small a patch.
    """

    def __init__(self, truth: np.ndarray, guess: np.ndarray, config: Config):
        self.count, self.random = config.displacements, np.random.default_rng(SEED)
        true = config.sides(truth)
        side = np.where(true > 0, true, np.nan)
        self.errors = (guess - truth) / side[:, None, None]
        self.ratios = config.sides(guess) / side if config.predicted_size else np.where(side > 0, 1.0, np.nan)
        self.smallest = config.alpha * config.min_diameter * min(config.size)
        good = np.isfinite(self.errors).all(-1) & np.isfinite(self.ratios)[:, None]
        if self.count and not good.any():
            raise DataError(
                "output.txt has no person with a diameter to draw displacements from; use --displacements 0"
            )
        rows = [np.flatnonzero(column) for column in good.T]
        # a joint that is labelled nowhere is never displaced either
        self.rows = [found if len(found) else np.flatnonzero(good.any(1)) for found in rows]

    def around(self, truth: np.ndarray, side: float, joint: int) -> list[tuple[np.ndarray, float]]:
        """`displacements` positions (2,) around one joint, each with the side of its patch."""
        drawn = self.random.choice(self.rows[joint], self.count) if self.count else ()
        return [(truth + side * self.errors[row, joint], max(side * self.ratios[row], self.smallest)) for row in drawn]


def get_stage2(config: Config, stage: int = 2) -> dict[str, float]:
    """Patches around the predictions of the stage before on the training list, one joint in `patch_rate`:
    data/NAME/stage2.

    The label is (truth - prediction) / side of the patch, which is alpha x the true diameter, or with `predicted_size`
    the one that testing would take; with `joint_outputs` it stands at the joint's place among nan. Samples without
    diameter or joint are dropped and counted. With `displacements`, each kept joint also gives patches around displaced
    truths, as in DeepPose. With `held_out`, the errors of these are those on held-out pictures, whose own patches end
    the list, as many as `holdout` takes from it. Returns the figures that are printed.
    """
    count, home = len(config.joints), dataset_folder(config) / f"stage{stage}"
    folder = f"./data/{config.name}/stage{stage}/data"
    names, truth, guess, unseen = guesses(config, stage - 1)
    side = config.sides(truth)
    own_side = config.sides(guess) if config.predicted_size else side
    shutil.rmtree(home / "data", ignore_errors=True)
    (home / "data").mkdir(parents=True)
    draw, suffix = Displacements(truth[unseen], guess[unseen], config), ".jpg" if config.mode == "compat" else ".png"
    generator, lines, labels, dropped, held = Python2Random(SEED), [], [], 0, 0
    for i, name in enumerate(tqdm(names, desc=f"get_stage{stage}")):
        kept = [j for j in range(count) if generator.randint(1, config.patch_rate) == 1]
        known = [j for j in kept if side[i] > 0 and np.isfinite(truth[i, j]).all()]
        dropped += len(kept) - len(known)
        test_only = bool(config.held_out) and unseen[i]
        if test_only:
            known = known[: config.holdout - held]
            held += len(known)
        picture = read_picture(config.project / name, config.allow_16bit) if known else np.zeros((0, 0, 3), np.uint8)
        for j in known:
            places = [(guess[i, j], own_side[i])] + ([] if test_only else draw.around(truth[i, j], side[i], j))
            for k, (center, length) in enumerate(place for place in places if place[1] > 0):
                file = f"{Path(name).stem}.{j}{f'.{k}' if k else ''}{suffix}"
                save(home / "data" / file, patch(picture, center, length))
                labels.append((truth[i, j] - center) / length)
                lines.append(f"{folder}/{file} {_label(labels[-1], j, config)}\n")
    write_lines(home / "images.txt", lines)
    return _figures(side, labels, dropped)


def _figures(side: np.ndarray, labels: list, dropped: int) -> dict[str, float]:
    """Print and return what the original printed, and two counts."""
    known = side[np.isfinite(side)]
    included = (np.abs(np.array(labels).reshape(-1, 2)) <= 0.5).all(-1)
    figures = {
        **{"max of size ": known.max(initial=0), "min of size ": known.min(initial=np.inf)},
        **{"mean of size": known.mean() if len(known) else 0.0, "included rate": included.mean() if labels else 0.0},
        **{"dropped": dropped, "patches": len(labels)},
    }
    print("\n".join(f"{key}: {value}" for key, value in figures.items()))
    return figures


def _label(move: np.ndarray, joint: int, config: Config) -> str:
    """A label of a later stage as the list has it."""
    words = ["nan"] * config.outputs(2)
    place = 2 * joint if config.joint_outputs else 0
    words[place : place + 2] = [f"{v:f}" for v in move]
    return " ".join(words)


def get_k2hpd2(config: Config, stage: int = 2) -> None:
    """Lists of a later stage: labels times 64, the last `holdout` lines as test set. DataError when none is left."""
    source, folder = dataset_folder(config) / f"stage{stage}" / "images.txt", config.model_folder(stage)
    names, values = read_list(source, config.outputs(stage))
    if len(names) <= config.holdout and not config.allow_small:
        taken = f"{len(names)} patches, --holdout takes the last {config.holdout}: none is left to train on"
        raise DataError(f"{source} has {taken}. Lower --holdout or --patch_rate, or give --allow_small")
    rows = [f"{name} {' '.join(map(number, label))}\n" for name, label in zip(names, values * PATCH_UNIT)]
    cut = max(len(rows) - config.holdout, 0)
    write_lines(folder / "train_images.txt", rows[:cut])
    write_lines(folder / "test_images.txt", rows[cut:])
