"""Every setting once: the keys of the original's `pose_cfg.yaml` with its defaults, and ours. Unknown keys are errors.

The original's keys are second names of the same settings, in files and on command lines. One has two meanings: beside
`dataset_type` (or when it is no data set's name) `dataset` is the .mat file or folder, as in the original's files;
else, and always on a command line, it is the data set's name. Shipped files lie in `models/` (presets) and `demo/`.
"""

from __future__ import annotations

import os
from argparse import Namespace
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from common import datasets
from common.datasets import files
from common.errors import DataError, named
from common.runs.options import Parser, given_of
from common.runs.settings import check_numbers, read_settings_file, resolve, setting
from common.runs.shelf import data_folder, run_folder

if TYPE_CHECKING:
    from easydict import EasyDict

HOUSE = Path(__file__).resolve().parent
ROOT = HOUSE.parent
NETWORKS = ("resnet_50", "resnet_101", "resnet_152")
UNITS = {"resnet_50": (3, 4, 6, 3), "resnet_101": (3, 4, 23, 3), "resnet_152": (3, 8, 36, 3)}
PREPARED = ("default", "mpii", "penn_action")  # may be a .mat file in the original's layout
DATASETS = tuple(dict.fromkeys((*PREPARED, "aic", *datasets.NAMES)))
_OWN = ("smoke", "lspet", "coco_overfit")
PRESETS = {"paper": "mpii/train", "coco": "coco/train", **dict(zip(_OWN, _OWN))}
# keys of the original that have no effect, there or here
NO_EFFECT = ("weigh_negatives", "fg_fraction", "scmap_threshold", "pairwise_stats_collect", "log_dir")
# and those that can have one value only: it, and the reason
FIXED = {
    "stride": (8.0, "the network has stride 8"),
    "video": (False, "the original's video network was never published"),
    "video_batch": (False, "it belongs to the video network, which was never published"),
    "tensorflow_pairwise_order": (True, "statistics of Caffe models are not read"),
    "dataset_ann": ("person_keypoints", "a folder of pictures without annotations is predict.py's"),
    "cached_scoremaps": (None, "the original crashed after reading them"),
}

_rare = partial(setting, rare=True)
_training = partial(setting, group="training", rare=True)


@dataclass
class Config:
    """One `pose_cfg.yaml`. None: no default, required where it is used (`require`)."""

    # data
    dataset: str = setting("default", "data set; default: a .mat file", DATASETS, ("dataset_type",))
    data_root: str = setting("", "its folder or .mat file (default: data/DATASET)")
    train_split: str | None = setting(None, "training split (default: train)", names=("dataset_phase",))
    valid_split: str = setting("none")
    limit: int | None = setting(None, "the first N persons (rounded up to whole pictures) only")
    coco_only_images_with_people: bool = _rare(False, "skip images without a person", group="data")
    data_range: list | None = _rare(None, "[first, last) images of the training split, from 0", group="data")
    use_gt_segm: bool = _rare(False, "test_multiperson.py: group detections by ground-truth masks too", group="data")
    # network
    net_type: str = setting("resnet_50", "backbone", NETWORKS)
    weights: str | None = setting(None, "first weights: TF1 checkpoint, .npz, run folder", names=("init_weights",))
    channels: float = setting(1.0, "channel multiplier of the backbone; 1 is the original network")
    num_joints: int = _rare(0, "joints J; data sets other than `default` bring their own")
    all_joints: list = _rare([], "groups of joints; two of a group are the right one and the left one")
    all_joints_names: list = _rare([], "names of the groups")
    mean_pixel: list = _rare([123.68, 116.779, 103.939], "RGB mean that is subtracted")
    location_refinement: bool = _rare(False, "predict offsets within a cell")
    locref_stdev: float = _rare(7.2801, "pixels of an offset of 1")
    pairwise_predict: bool = setting(False, "predict offsets to the other joints (several persons)")
    intermediate_supervision: bool = _rare(False, "train a second score map on block3")
    intermediate_supervision_layer: int = _rare(12, "unit of block3 that it reads (resnet_50 has 6 units)")
    bn_mode: str = _rare("auto", "statistics; auto: frozen with first weights, else train", ("auto", "frozen", "train"))
    bn_decay: float = _rare(0.997, "decay of the moving statistics in mode train; short runs need less")
    mode: str = setting("correct", "repair the original's errors, or repeat them", ("correct", "compat"))
    # training
    schedule: list = setting([], "[[learning rate, last iteration], ...]", names=("multi_step",))
    max_steps: int | None = setting(None, "at most so many updates, whatever the schedule says")
    lr: float | None = setting(None, "constant learning rate in place of the schedule's", names=("adam_lr",))
    optimizer: str = setting("sgd", "sgd (momentum 0.9) or adam", ("sgd", "adam"), group="training")
    warmup: int = setting(0)
    clip: float | None = setting(None)
    regularize: bool = _training(False, "add weight_decay * sum(w^2) / 2 over kernels")
    weight_decay: float = _rare(1e-4, "L2 factor, used when `regularize` is true")
    pos_dist_thresh: float = setting(17.0, "pixels around a joint that count as it", group="training")
    weigh_part_predictions: bool = _training(False, "use the score weights (masks of unannotated people)")
    weigh_only_present_joints: bool = _training(False, "leave joints that an image does not have out of its loss")
    locref_loss_weight: float = _training(1.0, "factor of the location refinement loss")
    locref_huber_loss: bool = _training(True, "Huber instead of squared error")
    pairwise_loss_weight: float = _training(1.0, "factor of the pairwise loss")
    pairwise_huber_loss: bool = _training(True, "Huber instead of squared error")
    shuffle: bool = _training(True, "random order of the images")
    mirror: bool = _training(False, "train on mirrored copies too")
    crop: bool = _training(False, "train on the .mat file's crop, or a folder's only person's box")
    crop_pad: int = _training(0, "pixels around that crop")
    scale_jitter_lo: float | None = _training(None, "random scale from")
    scale_jitter_up: float | None = _training(None, "random scale to")
    rotate: float = _training(0.0, "random rotation by up to so many degrees")
    max_input_size: float | None = _training(None, "leave out images of more than its square of pixels")
    bucket: int = _training(0, "pad images to multiples of so many pixels, so that few sizes occur")
    display_iters: int = _training(20, "iterations between two entries of the log")
    save_iters: int = setting(60000, "iterations between two snapshots and validations", group="training")
    save_minutes: float = setting(10.0)
    patience: int = setting(0)
    seed: int = setting(0)
    resume: str | None = setting(None)
    # machine
    device: str | None = setting(None)
    amp: str = setting("off", "", ("off", "bf16"))
    batch_size: int = setting(1, "images a step on each device; larger than 1 pads to a common size")
    workers: int | None = setting(None, "loader threads (default: from the cores)")
    threads: int | None = setting(None)
    # output
    out: str | None = setting(None, "the run's folder (default: output/deepercut_tf/PRESET)")
    snapshot_prefix: str = _rare("snapshot", "name of the snapshots", group="output")
    # prediction
    global_scale: float = setting(1.0, "factor on the image size, in training and prediction", group="network")
    flip_test: bool = setting(False)
    person_size: float = setting(0.0, "longer side to which boxes are resized; 0: pictures stay as they are")
    pairwise_stats_fn: str = _rare("pairwise_stats.mat", "mean and deviation of the offsets between joints")
    pairwise_model_dir: str | None = _rare(None, "folder of spatial_model_cidx_A_B.mat")
    sparse_graph: list = _rare([], "pairs of joints whose terms are used; empty: all")
    nms_radius: float = _rare(5.0, "cells between two detections of one joint")
    det_min_score: float = _rare(0.2, "smallest probability of a detection")
    min_person_joints: int = _rare(3, "persons with fewer joints are left out")
    scoremap_dir: str = _rare("test", "folder of the score-map cache", group="output")
    pck_threshold: float = _rare(0.2, "eval_pck: share of the longer side of a person's box", group="output")

    @property
    def train_statistics(self) -> bool:
        """Whether batch normalisation uses and updates batch statistics."""
        return self.bn_mode == "train" or (self.bn_mode == "auto" and not self.weights)

    @property
    def data_path(self) -> Path:
        """The data set's folder or .mat file."""
        return house_path(self.data_root) if self.data_root else data_folder(None, self.dataset)

    def checked(self) -> Config:
        """Itself; DataError naming the key of a value that cannot be."""
        check_numbers(self, max_steps=1, global_scale=1e-3, scale_jitter_lo=1e-3, scale_jitter_up=1e-3)
        units = UNITS[self.net_type][2]
        if self.intermediate_supervision and not 1 <= self.intermediate_supervision_layer <= units:
            where = f"{self.net_type}'s block3"
            raise DataError(f"intermediate_supervision_layer must be one of the units 1..{units} of {where}")
        if self.mirror and not self.shuffle:
            raise DataError("mirror needs shuffle: true")
        number, given = (int, float), {name: value for name, value in vars(self).items() if value is not None}
        lists = {"mean_pixel": [number], "data_range?": [number], "all_joints": [[int]], "sparse_graph": [[int]]}
        files.fit(given, lists | {"schedule": [[number]]}, "setting ")
        if len(self.mean_pixel) != 3 or len(self.data_range or (0, 1)) != 2:
            raise DataError("mean_pixel must be a list of 3 numbers, data_range of 2")
        bounds = [step[-1:] for step in self.schedule]
        if bounds != sorted(bounds) or not all(len(step) == 2 and min(step) >= 0 for step in self.schedule):
            what = "[[learning rate, last iteration], ...], iterations ascending, none below 0"
            raise DataError(f"schedule (multi_step) must be {what}, not {self.schedule}")
        return self


# settings that matter to a trained network
PREDICTION = tuple(
    "dataset mode global_scale flip_test person_size pairwise_stats_fn pairwise_model_dir sparse_graph nms_radius"
    " det_min_score min_person_joints net_type channels num_joints all_joints all_joints_names location_refinement locref_stdev"
    " pairwise_predict seed amp".split()
)
# the original's key of each of our settings
ORIGINAL = {f.name: f.metadata["names"][0] for f in fields(Config) if f.metadata["names"]} | {"data_root": "dataset"}


def from_file(values: dict, allow_unknown: bool = False) -> dict:
    """The keys of a pose_cfg.yaml under the names of `Config`."""
    found = {name: value for name, value in values.items() if name not in NO_EFFECT}
    for name in FIXED.keys() & found.keys():
        value, reason = FIXED[name]
        if found.pop(name) != value:
            raise DataError(f"key {name} must be {value} or left out: {reason}")
    if "dataset" in found and ("dataset_type" in found or found["dataset"] not in DATASETS):
        found["data_root"] = found.pop("dataset") or ""
    if found.get("optimizer", "sgd") == "sgd":
        found.pop("adam_lr", None)  # as in the original
    if allow_unknown:
        if found.get("dataset_type") not in (None, *DATASETS):  # DeepLabCut's names of loaders, for the same .mat files
            found["dataset_type"] = "default"
        known = {f.name for f in fields(Config)} | set(ORIGINAL.values())
        found = {name: value for name, value in found.items() if name in known}
    return found


def make_config(*layers: dict, source: str | Path = "settings", allow_unknown: bool = False) -> Config:
    """A Config from the keys of settings files or of a `cfg`, later ones win; DataError naming `source` and the key."""
    with named(source):
        return resolve(Config, *(from_file(layer, allow_unknown) for layer in layers)).checked()


def as_cfg(config: Config) -> EasyDict:
    """The settings by the original's keys, as the original's programs have them: `cfg.num_joints`."""
    from easydict import EasyDict

    fixed = {name: value for name, (value, _) in FIXED.items()}
    return EasyDict({ORIGINAL.get(name, name): value for name, value in asdict(config).items()} | fixed)


def load_config(path: str | Path | None = None, **overrides) -> EasyDict:
    """The checked settings of a pose_cfg.yaml (`find_config_file`) as the original's `cfg`, with `overrides` on top."""
    path = find_config_file(path)
    assert path is not None
    return as_cfg(make_config(read_settings_file(path), overrides, source=path))


def find_config_file(given: str | Path | None = None, needed: bool = True) -> Path | None:
    """`given`, else pose_cfg.yaml in $POSE_PARAM_PATH or the working directory; DataError without one if `needed`."""
    path = Path(given) if given else Path(os.environ.get("POSE_PARAM_PATH", ".")) / "pose_cfg.yaml"
    path = path / "pose_cfg.yaml" if path.is_dir() else path
    if path.is_file() or not (given or needed):
        return path if path.is_file() else None
    remedy = "run in a folder with a pose_cfg.yaml, give --config FILE, such as deepercut_tf/demo, or --preset NAME"
    raise DataError(f"settings file {path.absolute()} does not exist; {remedy}")


# ---- command lines ---------------------------------------------------------------------------------------------------


def settings_parser(about: str | None) -> Parser:
    """A parser with every setting as an option, for `settings_of`."""
    parser = Parser(about)
    add_file_options(parser)
    parser.settings(Config)
    return parser


def add_file_options(parser: Parser) -> None:
    """--preset, --config and --allow_unknown."""
    where = "pose_cfg.yaml or its folder (default: $POSE_PARAM_PATH, else the working directory's)"
    parser.option("preset", choices=("auto", *PRESETS), default=None, text="shipped settings, of deepercut_tf/models")
    parser.option("config", metavar="FILE", default=None, text=where)
    parser.option("allow_unknown", type=bool, default=False, text="ignore unknown keys of the file", rare=True)


def file_settings(args: Namespace, needed: bool = True) -> dict:
    """The settings of the file that --config, --preset or the working directory names; {} where none is `needed`."""
    preset = HOUSE / "models" / PRESETS[args.preset] if args.preset in PRESETS else None
    path = find_config_file(args.config or preset, needed)
    with named(path):
        return from_file(read_settings_file(path), args.allow_unknown) if path else {}


def settings_of(args: Namespace, automatic: bool = False) -> Config:
    """The settings that options of `settings_parser` name; `automatic`: without a file, a preset for the data."""
    given = given_of(args, *(f.name for f in fields(Config)))
    found = file_settings(args, needed=not automatic and args.preset != "auto")
    if not found:
        wanted = resolve(Config, given)
        args.preset = "coco" if wanted.dataset in ("coco", "aic", "crowdpose") else "paper"
        args.preset = "smoke" if (wanted.data_path / "SYNTHETIC").exists() else args.preset
        found = file_settings(args)
    if automatic:
        found.setdefault("out", standard_folder(args))
    if "dataset" in given and "data_root" not in given:
        found["data_root"] = ""  # of another data set
    with named(args.config or args.preset or "settings"):
        return resolve(Config, found, given).checked()


def predicting_settings(args: Namespace) -> dict:
    """A predicting programme's settings: those of a file, if there is one, then single ones."""
    found, given = file_settings(args, needed=False), given_of(args, "data_root", *PREDICTION)
    if "dataset" in given:
        given.setdefault("data_root", "")  # that of the file or the weights is another data set's
    return {**found, **given}


def standard_folder(args: Namespace) -> str:
    """Where a training writes: the working directory, if its settings are there; else output/deepercut_tf/NAME."""
    if not args.config:
        return str(run_folder("deepercut_tf", args.preset)) if args.preset in PRESETS else "."
    folder = Path(args.config).resolve()
    folder = folder if folder.is_dir() else folder.parent
    return str(run_folder("deepercut_tf", folder.parent.name if folder.name in ("train", "test") else folder.name))


def require(config: Config, *names: str, why: str) -> None:
    """DataError listing every one of `names` that has no value; `why` says what needs them."""
    lacking = [ORIGINAL.get(name, name) for name in names if getattr(config, name) in (None, "", [], 0)]
    if lacking:
        raise DataError(f"{why} needs the key{'s' if len(lacking) > 1 else ''} {', '.join(lacking)} in pose_cfg.yaml")


def house_path(text: str | Path) -> Path:
    """A path of a settings file: as it is, or else relative to this house or the repository's root."""
    path = Path(text).expanduser()
    options = [path] if path.is_absolute() else [path, HOUSE / path, ROOT / path]
    return next((option for option in options if option.exists()), path)
