"""Every constant of the house once, with its source (P = the Paddle project, T = Microsoft's), and the presets."""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass, replace
from pathlib import Path

from common import datasets
from common.errors import DataError
from common.poses import PoseSet
from common.runs import shelf
from common.runs.options import Parser, given_of
from common.runs.process import default_workers
from common.runs.settings import check_numbers, setting

HOUSE = "simplebaseline_paddle"
SUFFIXES = (".pdparams",)  # of a run's states
DATASETS = ("mpii", "coco", *(n for n in datasets.NAMES if n not in ("mpii", "coco", "k2hpd")))
# Blocks a layer (He et al., CVPR 2016)
BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
# ImageNet's RGB constants, which P and T put on B, G, R planes (colour `bgr`)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PIXEL_STD = 200.0  # a scale of 1 is a box of 200 pixels
BOX_PADDING = 1.25
STRIDE = 4  # input pixels a heat-map cell
ROTATE_PROBABILITY, FLIP_PROBABILITY = 0.6, 0.5
BACKBONE = shelf.REPOSITORY / "pretrained" / "resnet_50" / "115"  # where P keeps its ImageNet weights
# P's options that have nothing to do any more, and those that its val.py never looks at
DEAD = {
    "total_images": "the data set says how many there are",
    "with_logits": "the network ends without an activation: its output always is the raw heat-map",
    "kp_dim": "the data set or the weights say how many joints there are",
}
DEAD_IN_SCORING = DEAD | dict.fromkeys("num_epochs pretrained_model lr lr_strategy enable_ce".split(), "not in scoring")
# Settings that show in the tensors of a network; that decide what weights read and answer; that a resumed run must keep
GRAPH_FIELDS = ("depth", "base_width", "style", "deconv_filters")
MEANING_FIELDS = ("mode", "colour")
RUN_FIELDS = (*GRAPH_FIELDS, *MEANING_FIELDS, "input_height", "input_width", "sigma", "dataset")
# Settings that may be given anew when a trained network is used
USE_FIELDS = ("depth", "base_width", "style", "colour", "mode", "input_height", "input_width", "flip_test",
              "shift_heatmap", "post_process", "batch_size", "workers", "amp")  # fmt: skip
SCHEDULES = ("piecewise_decay", "cosine", "momentum")


@dataclass
class Config:
    """Settings of train.py; a checkpoint holds those of its training. Defaults are P's."""

    dataset: str = setting("mpii", choices=DATASETS)
    data_root: str | None = setting(None)
    train_split: str = setting("train", "training split (of lsp and lspet also 1-4000)")
    valid_split: str = setting("valid")
    limit: int | None = setting(None)
    boxes: str = setting("selected", "COCO persons: P's selection of annotated boxes, or all annotated ones")
    box_threshold: float = setting(0.0, names=("image_threshold",), rare=True)
    augment: bool = setting(True, "change scale, rotation and side at random", group="data", rare=True)
    scale_factor: float = setting(0.3, "spread of the random scale (T's MPII: 0.25)", group="data", rare=True)
    rot_factor: float = setting(40.0, "spread of the rotation in degrees (T's MPII: 30)", group="data", rare=True)

    weights: str | None = setting(None, "first weights, of any network of this house", names=("checkpoint",))
    pretrained_model: str = setting("auto", "ImageNet backbone; auto: pretrained/resnet_50/115 if there; or none")
    mode: str = setting("correct", choices=("correct", "compat"))
    depth: int = setting(50, "layers of the ResNet", tuple(BLOCKS))
    base_width: int = setting(64, "channels of the first stage, doubled by each further one", rare=True)
    input_height: int = setting(384, "height of the input, a multiple of 32")
    input_width: int | None = setting(None, "its width (default: 3/4 of the height for coco, else the height)")
    sigma: float = setting(3.0, "spread of the target Gaussians in cells (2 for 256-pixel inputs)")
    style: str = setting("pytorch", "a block's stride: on its 3x3, or first 1x1", ("pytorch", "caffe"), rare=True)
    deconv_filters: str = setting("256,256,256", "channels of the transposed convolutions", rare=True)
    colour: str = setting("bgr", "order of the input's planes; released weights need bgr", ("bgr", "rgb"), rare=True)
    flip_test: bool = setting(True)
    shift_heatmap: bool = setting(True, "move the mirrored image's maps by one cell before averaging", rare=True)
    post_process: bool = setting(True, "quarter-cell refinement of the peaks", rare=True)

    epochs: int = setting(140, names=("num_epochs",))
    lr: float = setting(1e-3)
    schedule: str = setting("piecewise_decay", "Adam in steps, a cosine; P's Momentum", SCHEDULES, ("lr_strategy",))
    lr_epochs: str = setting("90,120", "epochs after which the rate falls to a tenth", group="training", rare=True)
    warmup: int = setting(0)
    ema: float = setting(0.0)
    accumulate: int = setting(1, rare=True)
    freeze_bn: bool = setting(False, "keep batch-norm statistics as they are", group="training", rare=True)
    patience: int = setting(0, rare=True)
    seed: int = setting(0)
    enable_ce: bool = setting(False, "P's continuous-integration mode: seed 90", group="training", rare=True)
    resume: str | None = setting(None)
    save_minutes: float = setting(10.0, rare=True)

    batch_size: int = setting(128, "persons a step, over all devices")
    device: str | None = setting(None)
    use_gpu: bool | None = setting(None, "P's spelling of --device cuda or cpu", group="machine", rare=True)
    amp: str = setting("off", "mixed precision (bf16: twice as fast, a little less exact)", ("off", "bf16"))
    workers: int | None = setting(None)
    threads: int = setting(0, rare=True)

    out: str | None = setting(None, "the run's folder (default: output/simplebaseline_paddle/DATASET-NETWORK)")
    model_save_dir: str | None = setting(None, "P's: a run is in DIR/simplebase-DATASET", group="output", rare=True)

    @property
    def input_size(self) -> tuple[int, int]:
        """(width, height) of the network's input."""
        standard = self.input_height * 3 // 4 if self.dataset == "coco" else self.input_height
        return self.input_width or standard, self.input_height

    @property
    def map_size(self) -> tuple[int, int]:
        """(width, height) of its heat-maps."""
        width, height = self.input_size
        return width // STRIDE, height // STRIDE

    @property
    def name(self) -> str:
        """Name as the published tables have it: resnet50_256x192; narrowed ones show it: resnet18w16_64x64."""
        width, height = self.input_size
        narrow = "" if self.base_width == 64 else f"w{self.base_width}"
        return f"{'caffe_' if self.style == 'caffe' else ''}resnet{self.depth}{narrow}_{height}x{width}"

    @property
    def folder(self) -> Path:
        """The folder of the run."""
        if self.model_save_dir and not self.out:
            return Path(self.model_save_dir) / f"simplebase-{self.dataset}"
        return shelf.run_folder(HOUSE, f"{self.dataset}-{self.name}", self.out)

    def load(self, split: str) -> PoseSet:
        """A split of the data set; DataMissing or DataError as the loaders raise them."""
        root = shelf.data_folder(self.data_root, self.dataset)
        return datasets.load(self.dataset, root, datasets.record(self.dataset).split(split)).limit(self.limit)

    def checked(self) -> Config:
        """This; DataError naming the field when values do not go together."""
        width, height = self.input_size
        if width % 32 or height % 32 or min(width, height) < 32:
            raise DataError(f"input_height {height} and input_width {width} must be multiples of 32")
        check_numbers(self, sigma=0.1)
        if len(numbers_of(self.deconv_filters, "deconv_filters")) != 3:
            raise DataError(f"setting deconv_filters: {self.deconv_filters!r}; give three numbers, such as 256,256,256")
        numbers_of(self.lr_epochs, "lr_epochs")
        workers = default_workers() if self.workers is None else self.workers
        return replace(
            self, seed=90 if self.enable_ce else self.seed, workers=workers, device=device_of(self.device, self.use_gpu)
        )


def numbers_of(text: str, field: str = "") -> tuple[int, ...]:
    """`90,120` -> (90, 120); DataError naming the setting for other text."""
    if not re.fullmatch(r"[1-9]\d{0,8}(,[1-9]\d{0,8})*", text):
        raise DataError(f"setting {field}: {text!r} is not a list of whole numbers above 0 such as 90,120")
    return tuple(map(int, text.split(",")))


def device_of(device: str | None, use_gpu: bool | None) -> str | None:
    """`--device`, or what P's `--use_gpu` means; None: not asked for."""
    return device if device or use_gpu is None else "cuda" if use_gpu else "cpu"


def add_use_options(parser: Parser) -> None:
    """What every programme asks for that runs a trained network; `use_of` reads it."""
    parser.ignore(DEAD_IN_SCORING)
    parser.also("weights", "checkpoint")
    about = "settings of files that hold none, as the originals' (auto: paper)"
    parser.option("preset", choices=("auto", *PRESETS), default="auto", text=about)
    parser.settings(Config, only=(*USE_FIELDS, "use_gpu"))


def use_of(args: argparse.Namespace, *more: str) -> dict:
    """The Estimator's options."""
    machine = {"device": device_of(args.device, getattr(args, "use_gpu", None)), "threads": args.threads}
    return {**given_of(args, "raw_weights", *USE_FIELDS, *more), **machine}


_SMALL = {"input_height": 256, "sigma": 2.0}
_CPU = {
    "depth": 18, "deconv_filters": "64,64,64", "batch_size": 16, "lr": 2e-3, "schedule": "cosine", "workers": 1,
    "valid_split": "none",
}  # fmt: skip
# The four published configurations (P's users edit its source for two), and sizes that a CPU can train
PRESETS: dict[str, dict] = {
    "paper": {},
    "mpii_256x256": {"dataset": "mpii", **_SMALL},
    "mpii_384x384": {"dataset": "mpii"},
    "coco_256x192": {"dataset": "coco", **_SMALL},
    "coco_384x288": {"dataset": "coco"},
    "smoke": {
        **_CPU, "input_height": 64, "input_width": 64, "sigma": 1.0, "base_width": 16, "deconv_filters": "32,32,32",
        "epochs": 24, "warmup": 20, "ema": 0.98, "rot_factor": 10.0, "scale_factor": 0.1,
    },
    "cpu": {**_CPU, "input_height": 96, "input_width": 96, "sigma": 1.5, "epochs": 12, "warmup": 100, "ema": 0.998},
}  # fmt: skip
