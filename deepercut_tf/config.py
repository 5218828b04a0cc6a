"""Every setting of deepercut_tf once: the keys of the original's `pose_cfg.yaml` with its defaults, and ours (marked). Unknown keys are errors.

Shipped files lie in `models/{mpii,coco,...}/{train,test}/pose_cfg.yaml` (the original's settings), `models/smoke/` and `demo/`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, fields
from pathlib import Path

import numpy as np

from common.errors import DataError
from common.runs.first.settings import convert, read_settings_file, setting

ROOT = Path(__file__).resolve().parent.parent
HOUSE = Path(__file__).resolve().parent
NETWORKS = ("resnet_50", "resnet_101", "resnet_152")
PREPARED = ("default", "mpii", "penn_action")  # a `.mat` file in the original's layout
FOLDERS = (
    "lsp",
    "lspet",
    "mpii",
    "coco",
    "aic",
    "penn_action",
    "jhmdb",
    "ai_challenger",
    "json",
)  # a folder that common.datasets reads
DATASET_TYPES = tuple(dict.fromkeys((*PREPARED, *FOLDERS)))


def _listing(default, text: str):
    """A field whose value is a list."""
    return field(
        default_factory=lambda: [*default] if default is not None else None, metadata={"help": text, "list": True}
    )


@dataclass
class Config:
    """One `pose_cfg.yaml`. None: no default, required where it is used (`require`)."""

    # network
    net_type: str | None = setting(None, "backbone", NETWORKS)
    init_weights: str | None = setting(None, "weights to start from: TF1 checkpoint, .npz or a snapshot of ours")
    num_joints: int | None = setting(None, "joints J; data sets other than `default` bring their own")
    all_joints: list | None = _listing(None, "groups of joints; two of a group are a left-right pair")
    all_joints_names: list | None = _listing(None, "names of the groups")
    stride: float = setting(8.0, "pixels a cell of the score maps")
    mean_pixel: list = _listing((123.68, 116.779, 103.939), "RGB mean that is subtracted")
    location_refinement: bool = setting(False, "predict offsets within a cell")
    locref_stdev: float = setting(7.2801, "pixels of an offset of 1")
    pairwise_predict: bool = setting(False, "predict offsets to the other joints (multi-person)")
    intermediate_supervision: bool = setting(False, "train a second score map on block3")
    intermediate_supervision_layer: int = setting(12, "unit of block3 that it reads (resnet_50 has 6 units)")
    video: bool = setting(False, "the original's video network was never published: an error when true")
    # training
    pos_dist_thresh: float | None = setting(None, "pixels around a joint that count as the joint")
    weigh_part_predictions: bool = setting(False, "use the score weights (masks of unannotated people)")
    weigh_only_present_joints: bool = setting(False, "leave joints that an image does not have out of its loss")
    weigh_negatives: bool = setting(False, "no effect, as in the original")
    fg_fraction: float = setting(0.25, "no effect, as in the original")
    locref_loss_weight: float = setting(1.0, "factor of the location refinement loss")
    locref_huber_loss: bool = setting(True, "Huber instead of squared error")
    pairwise_loss_weight: float = setting(1.0, "factor of the pairwise loss")
    pairwise_huber_loss: bool = setting(True, "Huber instead of squared error")
    optimizer: str = setting("sgd", "sgd (momentum 0.9) or adam", ("sgd", "adam"))
    adam_lr: float | None = setting(None, "Adam's constant learning rate; none (ours): the rates of multi_step")
    multi_step: list | None = _listing(None, "[[learning rate, last iteration], ...]")
    regularize: bool = setting(False, "add weight_decay * sum(w^2) / 2 over kernels (no effect in the original)")
    weight_decay: float = setting(1e-4, "L2 factor, used when `regularize` is true")
    batch_size: int = setting(1, "images a step; larger than 1 pads to a common size")
    display_iters: int | None = setting(None, "iterations between two lines of the log")
    save_iters: int | None = setting(None, "iterations between two snapshots")
    snapshot_prefix: str = setting("snapshot", "name of the snapshots")
    log_dir: str = setting("log", "TensorBoard and JSON-lines log")
    # data
    dataset: str = setting("", "the .mat file, or the data set's folder")
    dataset_type: str = setting("default", "what `dataset` is", DATASET_TYPES)
    dataset_phase: str | None = setting(None, "split (coco, aic: train2014 and so on)")
    dataset_ann: str | None = setting(None, "coco, aic: person_keypoints or image_info")
    coco_only_images_with_people: bool = setting(False, "skip images without a person")
    shuffle: bool = setting(True, "random order of the images")
    mirror: bool = setting(False, "train on mirrored copies too")
    crop: bool = setting(
        False, "use the crop field of the .mat file; ours: in a folder's data set, the box of an image's only person"
    )
    crop_pad: int = setting(0, "pixels around that crop")
    global_scale: float = setting(1.0, "factor on the image size, in training and at test")
    scale_jitter_lo: float | None = setting(None, "random scale from")
    scale_jitter_up: float | None = setting(None, "random scale to")
    max_input_size: float | None = setting(None, "training leaves out images of more than its square of pixels")
    use_gt_segm: bool = setting(False, "coco: group detections by ground-truth masks")
    video_batch: bool = setting(False, "penn_action: batch_size consecutive frames a step")
    # pairwise terms and detections
    pairwise_stats_fn: str = setting("pairwise_stats.mat", "mean and deviation of the offsets between joints")
    pairwise_stats_collect: bool = setting(False, "no effect: pairwise_stats.py needs no switch")
    pairwise_model_dir: str | None = setting(None, "folder of spatial_model_cidx_A_B.mat")
    tensorflow_pairwise_order: bool = setting(
        True, "channels in our order; false: in that of the statistics file (Caffe models)"
    )
    sparse_graph: list = _listing((), "pairs of joints whose terms are used; empty: all")
    nms_radius: float | None = setting(None, "cells between two detections of one joint")
    det_min_score: float | None = setting(None, "smallest probability of a detection")
    scmap_threshold: float | None = setting(None, "no effect, as in the original")
    scoremap_dir: str = setting("test", "folder of the score-map cache")
    cached_scoremaps: str | None = setting(None, "read score maps from this folder instead of running the network")
    pck_threshold: float | None = setting(None, "eval_pck: share of the longer side of a person's box")
    # ours
    mode: str = setting("correct", "ours: repair the original's errors, or repeat them", ("correct", "compat"))
    bn_mode: str = setting(
        "auto", "ours: batch statistics; auto: frozen with init_weights, else train", ("auto", "frozen", "train")
    )
    bn_decay: float = setting(0.997, "ours: decay of the moving statistics in mode train; short runs need less")
    width: float = setting(1.0, "ours: channel multiplier of the backbone; 1 is the original network")
    init_heads: bool = setting(False, "ours: take from init_weights also the heads that fit, not the backbone alone")
    amp: str = setting("off", "ours: mixed precision in training", ("off", "bf16"))
    crop_size: int = setting(
        0,
        "ours: train on a square of so many scaled pixels around one of an image's persons, another each time; 0: whole images",
    )
    rotate: float = setting(0.0, "ours: random rotation of training images by up to so many degrees")
    warmup: int = setting(0, "ours: iterations of linear warm-up")
    clip: float | None = setting(None, "ours: global gradient-norm clip")
    bucket: int = setting(0, "ours: pad images to multiples of so many pixels, so that few sizes occur; 0: no padding")
    snapshot_dir: str = setting(".", "ours: folder of the snapshots")
    seed: int = setting(0, "ours: seed of weights and data order")
    image_iters: int = setting(0, "ours: iterations between two pictures in TensorBoard; 0: none")
    test_scales: list = _listing((1.0,), "ours: scales whose maps are averaged at test, relative to global_scale")
    min_person_joints: int = setting(3, "ours: persons with fewer joints are left out of results and drawings")
    data_range: list | None = _listing(None, "ours: [first, last] rows of the data set, from 0, last excluded")

    @property
    def train_statistics(self) -> bool:
        """Whether batch normalisation uses and updates batch statistics."""
        return self.bn_mode == "train" or (self.bn_mode == "auto" and not self.init_weights)

    @property
    def intermediate_unit(self) -> int | None:
        """Unit of block3 with the second score map; None when training has none."""
        return self.intermediate_supervision_layer if self.intermediate_supervision else None

    @property
    def mean_rgb(self) -> np.ndarray:
        """(3,) float32."""
        return np.asarray(self.mean_pixel, np.float32)


def make_config(values: dict, allow_unknown: bool = False, source: str = "settings") -> Config:
    """A Config from {key: value}; DataError naming the key for an unknown or unusable one."""
    import typing

    hints, known = typing.get_type_hints(Config), {f.name: f for f in fields(Config)}
    unknown = [k for k in values if k not in known]
    if unknown and not allow_unknown:
        raise DataError(
            f"{source}: unknown key {', '.join(unknown)}; correct it, or give --allow_unknown for files of other programs"
        )
    found = {}
    for name, value in values.items():
        if name in unknown:
            continue
        try:
            found[name] = _list(name, value) if known[name].metadata.get("list") else convert(name, value, hints[name])
        except ValueError as error:
            raise DataError(f"{source}: {error} (YAML reads 5e-5 as text: write 0.00005)") from error
        choices = known[name].metadata.get("choices")
        if choices and found[name] is not None and found[name] not in choices:
            raise DataError(f"{source}: {name}: {found[name]!r} is not one of {', '.join(map(str, choices))}")
    config = Config(**found)
    _check(config, source)
    return config


def _list(name: str, value):
    if value is not None and not isinstance(value, (list, tuple)):
        raise ValueError(f"setting {name}: {value!r} is not a list")
    return None if value is None else list(value)


def _check(config: Config, source: str) -> None:
    if config.video:
        raise DataError(f"{source}: video: the original's video network was never published; set it to false")
    if config.stride != 8.0:
        raise DataError(f"{source}: stride is {config.stride}; the network has stride 8")
    units = {"resnet_50": 6, "resnet_101": 23, "resnet_152": 36}.get(config.net_type, 36)
    if config.intermediate_supervision and not 1 <= config.intermediate_supervision_layer <= units:
        raise DataError(
            f"{source}: intermediate_supervision_layer is {config.intermediate_supervision_layer}, block3 of {config.net_type} has units"
            f" 1..{units}; choose one of them, or set intermediate_supervision to false"
        )
    scales = [
        config.global_scale,
        *(config.test_scales or [None]),
        *(s for s in (config.scale_jitter_lo, config.scale_jitter_up) if s is not None),
    ]
    if not all(isinstance(s, (int, float)) and s > 0 for s in scales):
        raise DataError(f"{source}: global_scale, test_scales and scale_jitter_lo and _up must be numbers above 0")
    for name, count in (("mean_pixel", 3), ("data_range", 2)):
        given = getattr(config, name)
        if given is not None and not (len(given) == count and all(isinstance(v, (int, float)) for v in given)):
            raise DataError(f"{source}: {name} must be a list of {count} numbers, not {given}")
    if config.crop_size < 0 or (config.crop_size and config.crop):
        raise DataError(
            f"{source}: crop_size is {config.crop_size} and crop {config.crop}; give one of them, crop_size as a number of pixels"
        )
    if config.mirror and not config.shuffle:
        raise DataError(f"{source}: mirror needs shuffle: true")
    schedule = config.multi_step or []
    try:
        bounds = [int(bound) for _, bound in schedule]
        [float(rate) for rate, _ in schedule]
    except (TypeError, ValueError):
        raise DataError(
            f"{source}: multi_step must be [[learning rate, last iteration], ...], not {schedule}"
        ) from None
    if bounds != sorted(bounds):
        raise DataError(f"{source}: the iterations of multi_step must ascend: {bounds}")


def find_config_file(given: str | None = None) -> Path:
    """`given`, else pose_cfg.yaml in $POSE_PARAM_PATH, else in the working directory (the original's places). DataError when there is none."""
    path = Path(given) if given else Path(os.environ.get("POSE_PARAM_PATH", ".")) / "pose_cfg.yaml"
    path = path / "pose_cfg.yaml" if path.is_dir() else path
    if not path.is_file():
        raise DataError(
            f"settings file {path.absolute()} does not exist; run in a folder with a pose_cfg.yaml, or give --config FILE, for example"
            f" {HOUSE / 'models/mpii/train/pose_cfg.yaml'}"
        )
    return path


def load_config(path: str | Path, overrides: dict | None = None, allow_unknown: bool = False) -> Config:
    """Settings of a YAML file, with `overrides` on top. DataError naming the file and the key."""
    return make_config({**read_settings_file(path), **(overrides or {})}, allow_unknown, str(path))


def require(config: Config, *names: str, why: str) -> None:
    """DataError listing every one of `names` that has no value; `why` says what needs them."""
    lacking = [name for name in names if getattr(config, name) in (None, "", [])]
    if lacking:
        raise DataError(f"{why} needs the key{'s' if len(lacking) > 1 else ''} {', '.join(lacking)} in pose_cfg.yaml")


def house_path(text: str) -> Path:
    """A path of a settings file: as it is, or, when that does not exist, relative to this house or the repository's root."""
    path = output_path(text)
    options = [path] if path.is_absolute() else [path, HOUSE / path, ROOT / path]
    return next((option for option in options if option.exists()), path)


def output_path(text: str) -> Path:
    """Where to write: as given, but `output/...` lies in the repository's root wherever a program is started."""
    path = Path(text)
    return ROOT / path if path.parts[:1] == ("output",) else path
