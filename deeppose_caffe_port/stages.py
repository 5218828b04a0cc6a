"""What a stage is trained on, step by step up to its LMDBs."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from common.errors import DataError
from common.weights.caffe_text import read_text
from deeppose_caffe_port import prepare
from deeppose_caffe_port.config import Config, store
from deeppose_caffe_port.data import compute_image_mean, convert_imageset
from deeppose_caffe_port.estimator import Estimator
from deeppose_caffe_port.images import read_picture
from deeppose_caffe_port.prepare import dataset_folder, read_list, write_lines
from deeppose_caffe_port.prototxts import write_project


def preparation(config: Config, stage: int) -> dict[str, Callable[[], object]]:
    """Name -> action of the steps that make what a stage is trained on."""
    if stage == 1:
        whole = {"import_data": prepare.import_data, "get_stage1": prepare.get_stage1, "get_k2hpd": prepare.get_k2hpd}
        return {
            **{name: partial(action, config) for name, action in whole.items()},
            "create_lmdb": partial(create_lmdb, config, 1),
        }
    return {
        f"output{stage - 1 if stage > 2 else ''}": partial(output, config, stage - 1),
        f"get_stage{stage}": partial(patches, config, stage),
        f"get_k2hpd{stage}": partial(prepare.get_k2hpd2, config, stage),
        f"create_lmdb{stage}": partial(create_lmdb, config, stage),
    }


def run_steps(steps: dict[str, Callable[[], object]]) -> None:
    """Do them in turn, and say how long each took."""
    for name, action in steps.items():
        began = time.monotonic()
        print(f"== {name}", flush=True)
        action()
        print(f"== {name}: {time.monotonic() - began:.1f} s", flush=True)


def ready(config: Config, stage: int) -> None:
    """Prepare what a stage is trained on, where it is not there yet."""
    if not 1 <= stage <= config.stages:
        raise DataError(f"there is no stage {stage}: {config.project} has {config.stages}; --stages N sets how many")
    if not (config.model_folder(stage) / "train_data_lmdb" / "data.mdb").is_file():
        run_steps(preparation(config, stage))


def patches(config: Config, stage: int) -> None:
    """Patches to train a later stage on; of a third or further stage the prototxts too."""
    if stage > 2:
        write_project(config)
        store(config)
    prepare.get_stage2(config, stage)


def create_lmdb(config: Config, stage: int = 1) -> None:
    """LMDBs of both lists and the mean of the training pictures; of the test pictures too, as in the original."""
    folder = config.model_folder(stage)
    side = read_text(folder / "deploy.prototxt", "NetParameter").message.layer[0].input_param.shape[0].dim[-1]
    for kind in ("train", "test"):
        names, values = read_list(folder / f"{kind}_images.txt", config.outputs(stage))
        if not names:
            raise DataError(f"{folder}/{kind}_images.txt is empty; lower --holdout or --patch_rate")
        target = folder / f"{kind}_data_lmdb"
        convert_imageset(names, values, target, side, root=config.project, skip_unreadable=config.mode == "compat",
                         allow_16bit=config.allow_16bit, workers=config.workers or 1)  # fmt: skip
        compute_image_mean(target, folder / f"{kind}_mean.binaryproto")


def output(config: Config, stage: int = 1) -> Path:
    """Predictions up to a stage on the training list, mirrored pictures included -> data/NAME/stageN/output.txt (the
    original's pyoutput.py).

    Each line: path, labels, predictions, absolute pixels with six decimals. With `held_out` also output_held.txt beside
    it, of the training pictures that no stage is trained on.
    """
    estimator, folder = _estimator(config, stage), dataset_folder(config) / f"stage{stage}"
    lists = (("train_images.txt", "output.txt"), ("held_images.txt", "output_held.txt"))
    for source, name in lists[: 1 + bool(config.held_out)]:
        _write_output(config, estimator, config.model_folder(1) / source, folder / name)
    return folder / "output.txt"


def _estimator(config: Config, stage: int) -> Estimator:
    names = ("snapshot1", "snapshot2", "device", "amp", "batch_size", "workers", "allow_16bit")
    return Estimator(config.project, stage=stage, **{name: getattr(config, name) for name in names})


def _write_output(config: Config, estimator: Estimator, source: Path, target: Path) -> None:
    names, labels = read_list(source, config.outputs(1))
    half, lines, step = np.array(config.size) / 2, [], 8 * config.batch_size
    for start in tqdm(range(0, len(names), step), desc="output", dynamic_ncols=True):
        part = names[start : start + step]
        found = estimator.joints([read_picture(config.project / name, config.allow_16bit) for name in part])
        for name, label, guess in zip(part, labels[start : start + step], found):
            values = np.concatenate([(label.reshape(-1, 2) + half).ravel(), guess.ravel()])
            lines.append(name + "".join(f" {v:f}" for v in values) + "\n")
    write_lines(target, lines)
