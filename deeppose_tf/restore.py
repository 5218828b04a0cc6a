"""A network from a weight file, with the settings that it was trained with."""

from __future__ import annotations

import argparse
import os
from dataclasses import replace
from pathlib import Path

from common.errors import DataError
from deeppose_tf.config import SKELETONS, Config, width_of
from deeppose_tf.weight_files import find_weights, fit, missing_text, read_weights


def config_of(path: Path, variables: dict, dataset_name: str | None = None, mode: str | None = None) -> Config:
    """The settings behind a weight file: our checkpoints hold them; for others DT's examples', with joints and width from the shapes.

    DataError when the number of joints is that of another data set than `dataset_name`, or when a checkpoint of ours has another `mode`.
    """
    from common.runs.first.settings import resolve
    from deeppose_tf.checkpoint import load_state

    if "fc_regression/bias" not in variables or "fc7/bias" not in variables:
        raise DataError(
            f"{path} has no fc_regression: it regresses no joints (ImageNet weights?); give a trained network, or train from it"
        )
    joints = len(variables["fc_regression/bias"]) // 2
    known = {len(s): name for name, s in SKELETONS.items()}
    if joints not in known:
        raise DataError(
            f"{path} regresses {joints} joints; known are {', '.join(f'{n} ({name})' for n, name in known.items())}"
        )
    if dataset_name and len(SKELETONS[dataset_name]) != joints:
        raise DataError(
            f"{path} regresses {joints} joints ({known[joints]}), {dataset_name} has {len(SKELETONS[dataset_name])}; name the other data set"
        )
    if path.suffix == ".npz":
        stored = load_state(path)["config"]
        config = resolve(Config, {k: v for k, v in stored.items() if k in Config.__dataclass_fields__})
        if mode not in (None, config.mode):
            raise DataError(
                f"{path} was trained in mode {config.mode}, not {mode}; leave --mode out, or give another checkpoint"
            )
        return config
    width = width_of(len(variables["fc7/bias"]))
    extension = {"bbox_extension_min": 1.2, "bbox_extension_max": 1.2}
    return Config(
        n_joints=joints,
        dataset_name=dataset_name or known[joints],
        gcn=True,
        width=width,
        mode=mode or "compat",
        **extension,
    )


def load_network(
    path: str | Path, dataset_name: str | None = None, mode: str | None = None, random_weights: bool = False
):
    """(model, config, path of the file) of any accepted weight file. DataError when it is missing, foreign or does not fit."""
    place = find_weights(path)
    if place is None:
        raise DataError(missing_text(Path(path)))
    variables = read_weights(place)
    config = config_of(place, variables, dataset_name, mode)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    from deeppose_tf.model import get_weights, network_for, set_weights

    model = network_for(replace(config, amp="off"))
    chosen, report = fit(variables, get_weights(model))
    problems = report["missing"] + report["mismatched"]
    if problems:
        raise DataError(
            f"{place} does not fit {config.net_type}: {', '.join(problems[:3])}{' ...' if len(problems) > 3 else ''}"
        )
    if not random_weights:
        set_weights(model, chosen)
    return model, config, place


def newest(o_dir: str | Path) -> Path:
    """The best checkpoint of a run's folder, else its last. DataError when it has none."""
    for name in ("best.npz", "last.npz"):
        if (Path(o_dir) / name).is_file():
            return Path(o_dir) / name
    raise DataError(f"no checkpoint in {o_dir}; train first (deeppose_tf/train.py), or give --snapshot")


def snapshot_arguments(parser: argparse.ArgumentParser) -> None:
    """What every program that uses a trained network asks for."""
    parser.add_argument(
        "-s",
        "--snapshot",
        help="checkpoint: our .npz or its prefix, a TensorFlow 1 checkpoint, .weights.h5, .npy, .caffemodel",
    )
    parser.add_argument(
        "--o_dir",
        default="out",
        help="without --snapshot: folder of the run whose best checkpoint to take (default: out)",
    )
    parser.add_argument(
        "--mode",
        choices=("correct", "compat"),
        help="crops and metrics (default: the checkpoint's, which it must equal)",
    )
    parser.add_argument("--batch_size", type=int, default=128, help="(default: 128)")
    parser.add_argument("--limit", type=int, help="the first N persons or pictures only")
