"""What the stages are trained on, step by step: any data set into the project's own layout, mirrored and shuffled lists,
labels around the image centre, LMDBs, stage 1's predictions on its training pictures, patches around them.

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
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from tqdm import tqdm as progress

from common import datasets
from common.errors import DataError
from common.files import temporary_name, write_text
from common.geometry import apply_affine
from common.poses import PoseSet
from common.skeletons import card
from deeppose_caffe_port.config import PATCH_UNIT, SEED, Config, store
from deeppose_caffe_port.images import Pictures, Unread, patch, read_picture, read_prepared
from deeppose_caffe_port.prototxts import write_project

_KINDS = ("train", "test")
tqdm = partial(progress, dynamic_ncols=True, mininterval=2)


class Line(NamedTuple):
    """A line of a list: image name, its numbers, and the text as written."""

    name: str
    values: np.ndarray
    text: str


def python2_randint(seed: int) -> Callable[[int, int], int]:
    """`random.Random(seed).randint` of Python 2, which draws one double; both ends are included."""
    generator = random.Random(seed)
    return lambda low, high: low + int(generator.random() * (high - low + 1))


def read_lines(path: Path, least: int, most: int | None = None) -> list[Line]:
    """Lines `NAME x0,y0,x1,y1,...` (or with blanks) of `least` to `most` numbers, without NUL bytes. DataError with
    the line number for another form."""
    if not path.is_file():
        raise DataError(f"list {path} does not exist; run the step of workflow.py that makes it")
    lines = []
    for place, row in enumerate(path.read_bytes().replace(b"\0", b"").decode("utf-8", "replace").splitlines(), 1):
        name, _, text = row.strip().partition(" ")
        try:
            values = np.array([float(word) for word in text.replace(",", " ").split()])
        except ValueError:
            values = np.zeros(0)
        if name and (not least <= len(values) <= (most or np.inf) or len(values) % 2):
            wanted = f"a file name and an even number of at least {least} numbers"
            raise DataError(f"{path} line {place}: expected {wanted}, found {len(values)} numbers")
        lines += [Line(name, values, text)] if name else []
    return lines


def read_annotations(config: Config, kind: str) -> list[Line]:
    """An annotation list of the project. DataError when it is empty, or a name has a folder in it."""
    lines = read_lines(config.data_home / f"{kind}.txt", config.outputs(1))
    for line in lines:
        if Path(line.name).name != line.name:
            raise DataError(f"{kind}.txt: the file name {line.name!r} has a folder in it; all pictures lie in one")
    if not lines:
        raise DataError(f"annotation list {config.data_home / kind}.txt is empty")
    return lines


def read_list(path: Path, labels: int) -> tuple[list[str], np.ndarray]:
    """A list of the LMDB tool: paths and (N, labels) numbers. DataError naming a line that has another count."""
    lines = read_lines(path, labels, labels)
    return [line.name for line in lines], np.array([line.values for line in lines]).reshape(-1, labels)


def save(path: Path, picture: np.ndarray) -> None:
    """An image file, whole or not at all (not flushed one by one, which would take longer than all the rest)."""
    temporary = temporary_name(path)
    # the lowest PNG compression: still lossless, and three times as fast
    temporary.write_bytes(cv2.imencode(path.suffix, picture, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1].tobytes())
    os.replace(temporary, path)


def load_split(config: Config, number: int) -> PoseSet:
    """Split 0 (train) or 1 (test), at most `limit` persons, those without a labelled joint left out."""
    pose_set = datasets.load(config.dataset, config.data_folder, config.splits[number])
    return pose_set.select((pose_set.visible > 0).any(1)).limit(config.limit)


def import_data(config: Config) -> None:
    """Fill the project folder: pictures, lists, prototxts, project.json; the settings get the data set's skeleton."""
    config.valid_split = datasets.valid_split(config.dataset, config.data_folder, config.splits[1])
    splits = [load_split(config, number) for number, _ in enumerate(config.lists)]
    config.skeleton = card(splits[0].skeleton)
    images = config.project / config.image_folder
    images.mkdir(parents=True, exist_ok=True)
    if splits[0].synthetic:
        (config.project / "SYNTHETIC").touch()
        print(f"SYNTHETIC data in {splits[0].root}: figures from it say nothing about real pictures")
    for kind, pose_set in zip(config.lists, splits):
        lines = _link(config, pose_set, images) if config.whole_images else _crop(config, pose_set, images, kind)
        write_text(config.data_home / f"{kind}_annos.txt", "".join(lines))
    write_project(config)
    store(config)


def _link(config: Config, pose_set: PoseSet, images: Path) -> list[str]:
    wanted, unread = set(), Unread()
    for path in map(Path, pose_set.images):
        with unread:
            if not path.is_file():
                check = f"python -m common.datasets check {config.dataset} {config.data_folder}"
                raise DataError(f"image {path} does not exist; `{check}` lists all such")
            wanted.add(path.name)
            target = images / path.name
            if not target.is_symlink() and not target.exists():
                os.symlink(path.absolute(), target)
    unread.report(len(pose_set))
    folder = Path(pose_set.images[0]).parent.parent.parent
    listed = {"train": "train_annos.txt"}.get(pose_set.split, "test_annos.txt")
    known = wanted & set(pose_set.image_id.tolist())
    lines = read_lines(folder / listed, config.outputs(1))
    return [f"{line.name} {line.text}\n" for line in lines if line.name in known]


def _crop(config: Config, pose_set: PoseSet, images: Path, kind: str) -> list[str]:
    pictures, lines, unread = Pictures(pose_set, config), [], Unread()
    for row in tqdm(range(len(pictures)), desc=f"import {kind}"):
        name = f"{kind}{row:08d}.png"
        with unread:
            save(images / name, pictures.image(row))
            points = apply_affine(pictures.matrix(row), pose_set.joints[row])
            lines.append(f"{name} {','.join(f'{v:.3f}' for v in points.ravel())}\n")
    unread.report(len(pictures))
    return lines


def mirrored(line: Line, config: Config) -> Line:
    """The line of the mirrored image: compat x -> W - x, whole numbers; correct x -> W - 1 - x."""
    points, width, count = line.values.reshape(-1, 2).copy(), config.size[0], len(config.joints)
    compat = config.mode == "compat"
    points[:, 0] = (width if compat else width - 1) - points[:, 0]
    points[:count] = points[:count][config.joints.mirror]
    text = ",".join(str(int(v)) if compat and math.isfinite(v) else f"{v:.7g}" for v in points.ravel().tolist())
    path = Path(line.name)
    return Line(f"{path.stem}m{path.suffix}", points.ravel(), text)


def get_stage1(config: Config) -> None:
    """Mirror every training image and shuffle both lists: data/NAME/stage1/{train,test}_set.txt."""
    randint = python2_randint(SEED)
    train, *test = (read_annotations(config, f"{kind}_annos") for kind in config.lists)
    images, kept, flipped, unread = config.project / config.image_folder, [], [], Unread()
    for line in tqdm(train, desc="get_stage1"):
        with unread:
            picture = read_prepared(images / line.name, config)
            kept.append(line)
            flipped.append(mirrored(line, config))
            save(images / flipped[-1].name, cv2.flip(picture, 1))
    unread.report(len(train))
    for kind, lines in zip(config.lists, (kept + flipped, *test)):
        last = len(lines) - 1
        for _ in range(5 * len(lines)):
            i, j = randint(0, last), randint(0, last)
            lines[i], lines[j] = lines[j], lines[i]
        text = "".join(f"{line.name} {line.text}\n" for line in lines)
        write_text(config.data_home / "stage1" / f"{kind}_set.txt", text)


def number(value: float) -> str:
    """A float as Python 2 prints it: twelve digits."""
    text = f"{value:.12g}"
    return text if any(c in text for c in ".en") else text + ".0"


def get_k2hpd(config: Config) -> None:
    """Stage-1 lists for the LMDB tool: path and joints relative to the image centre, in pixels."""
    half, count = np.array(config.size) / 2, config.outputs(1)
    for kind in config.lists:
        texts = []
        for line in read_annotations(config, f"stage1/{kind}_set"):
            values = (line.values[:count].reshape(-1, 2) - half).ravel()
            texts.append(f"{config.image_folder}{line.name} {' '.join(map(number, values))}\n")
        write_text(config.model_folder(1) / f"{kind}_images.txt", "".join(texts))


def create_lmdb(config: Config, stage: int = 1) -> None:
    """LMDBs of both lists and the mean of the training pictures; of the test pictures too, as in the original."""
    from common.weights.caffe_text import read_text
    from deeppose_caffe_port.data import compute_image_mean, convert_imageset

    folder = config.model_folder(stage)
    side = read_text(folder / "deploy.prototxt", "NetParameter").message.layer[0].input_param.shape[0].dim[-1]
    for kind in config.lists if stage == 1 else _KINDS:
        names, values = read_list(folder / f"{kind}_images.txt", config.outputs(stage))
        if not names:
            raise DataError(f"{folder}/{kind}_images.txt is empty: none is left; lower --holdout or --patch_rate")
        target = folder / f"{kind}_data_lmdb"
        how: Any = {"root": config.project, "allow_16bit": config.allow_16bit, "workers": config.workers or 1}
        convert_imageset(names, values, target, side, **how)
        compute_image_mean(target, folder / f"{kind}_mean.binaryproto")


def output(config: Config) -> Path:
    """Stage 1's predictions on the training list, mirrored pictures included -> data/NAME/stage1/output.txt (the
    original's pyoutput.py). Each line: path, labels, predictions, absolute pixels with six decimals."""
    from deeppose_caffe_port.estimator import Estimator

    names, labels = read_list(config.model_folder(1) / "train_images.txt", config.outputs(1))
    options = ("snapshot1", "device", "amp", "batch_size", "workers", "allow_16bit")
    estimator = Estimator(config.project, stage=1, **{name: getattr(config, name) for name in options})
    half, lines, step, unread = np.array(config.size) / 2, [], 8 * config.batch_size, Unread()
    for start in tqdm(range(0, len(names), step), desc="output"):
        pictures, truth = [], []
        for name, label in zip(names[start : start + step], labels[start : start + step]):
            with unread:
                pictures.append(read_picture(config.project / name, config.allow_16bit))
                truth.append((name, (label.reshape(-1, 2) + half).ravel()))
        for (name, label), guess in zip(truth, estimator.joints(pictures)):
            lines.append(name + "".join(f" {v:f}" for v in (*label, *guess.ravel())) + "\n")
    unread.report(len(names))
    return write_text(config.data_home / "stage1" / "output.txt", "".join(lines))


def get_stage2(config: Config) -> dict[str, float]:
    """Patches around stage 1's predictions on the training list, one joint in `patch_rate`: data/NAME/stage2.

    The label is (truth - prediction) / side of the patch: alpha x the true diameter, in mode correct the predicted one,
    as in testing. With `joint_outputs` it stands at the joint's place among nan. `displacements` further patches of
    each kept joint are displaced from the truth like stage 1's errors at that joint (DeepPose, section 3.2, draws from
    a normal law instead). Samples without diameter or joint are dropped and counted. Returns the printed figures.
    """
    count, home, compat = len(config.joints), config.data_home / "stage2", config.mode == "compat"
    names, values = read_list(config.data_home / "stage1" / "output.txt", 4 * count)
    truth, guess = values.reshape(-1, 2, count, 2).transpose(1, 0, 2, 3)
    side = config.sides(truth)
    own_side = side if compat else config.sides(guess)
    shutil.rmtree(home / "data", ignore_errors=True)
    (home / "data").mkdir(parents=True)
    errors = (guess - truth) / np.where(side > 0, side, np.nan)[:, None, None]
    seen = [np.flatnonzero(np.isfinite(errors[:, j]).all(-1)) for j in range(count)]
    randint, draw, lines, labels, dropped = python2_randint(SEED), np.random.default_rng(SEED), [], [], 0
    for i, name in enumerate(tqdm(names, desc="get_stage2")):
        kept = [j for j in range(count) if randint(1, config.patch_rate) == 1]
        known = [j for j in kept if side[i] > 0 and own_side[i] > 0 and np.isfinite(truth[i, j]).all()]
        dropped += len(kept) - len(known)
        picture = read_picture(config.project / name, config.allow_16bit) if known else np.zeros((0, 0, 3), np.uint8)
        for j in known:
            rows = draw.choice(seen[j], config.displacements)
            places = [(truth[i, j] + side[i] * errors[r, j], side[i] * own_side[r] / side[r]) for r in rows]
            for k, (center, length) in enumerate([(guess[i, j], own_side[i]), *places]):
                file = f"{Path(name).stem}.{j}{f'.{k}' if k else ''}{'.jpg' if compat else '.png'}"
                save(home / "data" / file, patch(picture, center, length))
                labels.append((truth[i, j] - center) / length)
                before, behind = (j, count - 1 - j) if config.joint_outputs else (0, 0)
                words = ["nan nan"] * before + [f"{labels[-1][0]:f} {labels[-1][1]:f}"] + ["nan nan"] * behind
                lines.append(f"./data/{config.name}/stage2/data/{file} {' '.join(words)}\n")
    write_text(home / "images.txt", "".join(lines))
    known, moves = side[np.isfinite(side)], np.abs(np.array(labels).reshape(-1, 2))
    included = (moves <= 0.5).all(-1).sum() / max(len(moves), 1)
    figures = {"max of size ": known.max(initial=0), "min of size ": known.min(initial=np.inf),
               "mean of size": known.sum() / max(len(known), 1), "included rate": included,
               "dropped": dropped, "patches": len(labels)}  # fmt: skip
    print("\n".join(f"{key}: {value}" for key, value in figures.items()))
    return figures


def get_k2hpd2(config: Config) -> None:
    """Lists of stage 2: labels times 64, the last `holdout` lines as test set."""
    names, values = read_list(config.data_home / "stage2" / "images.txt", config.outputs(2))
    rows = [f"{name} {' '.join(map(number, label))}\n" for name, label in zip(names, values * PATCH_UNIT)]
    cut = max(len(rows) - config.holdout, 0)
    for kind, part in zip(_KINDS, (rows[:cut], rows[cut:])):
        write_text(config.model_folder(2) / f"{kind}_images.txt", "".join(part))
    if not cut:
        print(f"warning: {len(rows)} patches, --holdout takes the last {config.holdout}: none is left to train on")


STEPS: dict[int, dict[str, Callable[[Config], object]]] = {
    1: {"import_data": import_data, "get_stage1": get_stage1, "get_k2hpd": get_k2hpd, "create_lmdb": create_lmdb},
    2: {"output": output, "get_stage2": get_stage2, "get_k2hpd2": get_k2hpd2,
        "create_lmdb2": partial(create_lmdb, stage=2)},
}  # fmt: skip


def run_steps(steps: dict[str, Callable[[Config], object]], config: Config) -> None:
    """Do them in turn, and say how long each took."""
    for name, action in steps.items():
        began = time.monotonic()
        print(f"== {name}", flush=True)
        action(config)
        print(f"== {name}: {time.monotonic() - began:.1f} s", flush=True)


def ready(config: Config, stage: int) -> None:
    """Prepare what a stage is trained on, where it is not there yet."""
    if not (config.model_folder(stage) / "train_data_lmdb" / "data.mdb").is_file():
        run_steps(STEPS[stage], config)
