"""Every constant of simplebaseline_paddle once, with its source (P = the Paddle project, T = Microsoft's), and the presets."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from common.runs.first.settings import setting

ROOT = Path(__file__).resolve().parent.parent
DATASETS = ("mpii", "coco", "lsp", "lspet", "json", "penn_action", "jhmdb", "ai_challenger")
# Blocks a layer (He et al., CVPR 2016)
BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
# ImageNet's RGB constants, which P and T put on B, G, R planes (colour `bgr`)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PIXEL_STD = 200.0  # a scale of 1 is a box of 200 pixels
BOX_PADDING = 1.25
STRIDE = 4  # input pixels a heat-map cell
ROTATE_PROBABILITY, FLIP_PROBABILITY = 0.6, 0.5
# (scale factor, rotation factor in degrees); T's MPII files differ from its COCO files, P has one pair
AUGMENTATIONS = {"paddle": {"mpii": (0.3, 40.0), "other": (0.3, 40.0)}, "microsoft": {"mpii": (0.25, 30.0), "other": (0.3, 40.0)},
                 "none": {"mpii": (0.0, 0.0), "other": (0.0, 0.0)}}  # fmt: skip
BOXES = ("gt_selected", "gt", "detections")
BACKBONE = ROOT / "pretrained" / "resnet_50" / "115"  # where P keeps its ImageNet weights


@dataclass
class Config:
    """Settings of train.py; val.py, test.py and predict.py take them from the checkpoint. Defaults are P's."""

    # network
    depth: int = setting(50, "layers of the ResNet", tuple(BLOCKS))
    kp_dim: int | None = setting(None, "joints (default: as many as the data set has)", flag="--joints")
    base_width: int = setting(
        64, "channels of the first stage, doubled by each further one (a ResNet's 64; fewer train faster on CPUs)"
    )
    style: str = setting(
        "pytorch", "stride of a bottleneck on its 3x3 (pytorch) or first 1x1 convolution (caffe)", ("pytorch", "caffe")
    )
    deconv_filters: str = setting("256,256,256", "channels of the transposed convolutions")
    deconv_kernels: str = setting("4,4,4", "their kernels, 2 to 4")
    deconv_bias: bool = setting(False, "give them a bias (T's option)")
    final_kernel: int = setting(1, "kernel of the last convolution", (1, 3))
    init: str = setting(
        "kaiming",
        "backbone without pretrained weights: He's, or P's N(0, 0.001^2), which hardly trains",
        ("kaiming", "compat"),
    )
    # data
    dataset: str = setting("mpii", "data set", DATASETS)
    data_root: str | None = setting(None, "its folder (default: data/DATASET)")
    train_split: str = setting("train", "training split (lspet also knows ranges of image numbers: 1-4000)")
    valid_split: str = setting("valid", "split scored after each epoch; none switches it off", flag="--split")
    boxes: str = setting(
        "gt_selected",
        "COCO persons: P's selection of annotated boxes, all of them, or a detection file (val.py)",
        BOXES,
    )
    height: int = setting(384, "input height, a multiple of 32")
    width: int | None = setting(None, "input width (default: 288 for coco, else the height)")
    sigma: float = setting(3.0, "standard deviation of the target Gaussians in cells (2 for 256-pixel inputs)")
    colour: str = setting(
        "bgr", "channel order that the normalisation meets; released weights need bgr", ("bgr", "rgb")
    )
    augmentation: str = setting("paddle", "whose random scale and rotation", tuple(AUGMENTATIONS))
    scale_factor: float | None = setting(
        None, "standard deviation and limit of the random scale (default: the augmentation's)"
    )
    rot_factor: float | None = setting(
        None, "standard deviation of the rotation in degrees (default: the augmentation's)"
    )
    fast_decode: bool = setting(
        True,
        "train on JPEGs decoded at half, quarter or eighth size where the crop shrinks them as much (mode correct)",
    )
    mode: str = setting(
        "correct", "data handling and metrics: as they should be, or as P has them", ("correct", "compat")
    )
    # training
    num_epochs: int = setting(140, "epochs")
    batch_size: int = setting(128, "persons a step, over all devices")
    accumulate: int = setting(1, "steps whose gradients are averaged before the optimiser moves")
    lr: float = setting(1e-3, "learning rate")
    lr_strategy: str = setting("piecewise_decay", "Adam in steps (P), Adam with cosine, or P's Momentum 0.9 with L2 5e-4 at constant rate",
                               ("piecewise_decay", "cosine", "momentum"))  # fmt: skip
    lr_epochs: str = setting("90,120", "epochs after which the rate falls to a tenth")
    warmup: int = setting(0, "steps of linear warm-up")
    ema: float = setting(
        0.0, "decay of an exponential moving average of the weights, scored and saved beside them; 0: none"
    )
    amp: str = setting("off", "mixed precision (no gain on CPUs)", ("off", "bf16", "fp16"))
    freeze_bn: bool = setting(False, "keep batch-norm statistics as they are (fine-tuning in small batches)")
    target_weight: bool = setting(True, "leave unlabelled joints out of the loss (T's USE_TARGET_WEIGHT)")
    limit: int | None = setting(None, "the first N persons only")
    seed: int = setting(0, "seed of weights, data order and augmentation")
    enable_ce: bool = setting(False, "P's continuous-integration mode: seed 90")
    # files
    pretrained_model: str = setting(
        "auto", "ImageNet backbone: Fluid folder, .pdparams or .pth; auto: pretrained/resnet_50/115 if there; none"
    )
    checkpoint: str | None = setting(None, "weights to start from, or a run's state to go on from")
    resume: str = setting("none", "auto: go on from the newest state in the output folder, if any", ("none", "auto"))
    model_save_dir: str = setting("output", "checkpoints and logs go to DIR/simplebase-DATASET")
    save_minutes: float = setting(10.0, "also save the resume state within an epoch, every so many minutes")
    picture_every: int = setting(100, "write visualization@train.jpg every N batches; 0: never")
    # machine
    use_gpu: bool | None = setting(None, "compute on the GPU (default: where there is one)")
    workers: int = setting(2, "loader processes; 0 loads in the training process")
    threads: int = setting(0, "CPU threads; 0 leaves Paddle's choice")
    flip_test: bool = setting(True, "average with the mirrored image when scoring")
    shift_heatmap: bool = setting(True, "move the mirrored image's maps by one cell before averaging")
    post_process: bool = setting(True, "quarter-cell refinement of the peaks")

    @property
    def input_size(self) -> tuple[int, int]:
        """(width, height) of the network's input."""
        return self.width or (self.height * 3 // 4 if self.dataset == "coco" else self.height), self.height

    @property
    def map_size(self) -> tuple[int, int]:
        """(width, height) of its heat-maps."""
        width, height = self.input_size
        return width // STRIDE, height // STRIDE

    @property
    def name(self) -> str:
        """Name of the network as the published tables have it: resnet50_256x192; a narrowed one shows its base width: resnet18w16_64x64."""
        width, height = self.input_size
        narrow = "" if self.base_width == 64 else f"w{self.base_width}"
        return f"{'caffe_' if self.style == 'caffe' else ''}resnet{self.depth}{narrow}_{height}x{width}"

    def checked(self) -> Config:
        """This, or ValueError naming the field when values do not go together."""
        width, height = self.input_size
        if width % 32 or height % 32 or min(width, height) < 32:
            raise ValueError(f"height {height} and width {width} must be multiples of 32")
        for field in ("batch_size", "accumulate", "base_width"):
            if getattr(self, field) < 1:
                raise ValueError(f"setting {field}: {getattr(self, field)} is less than 1")
        for field in ("deconv_filters", "deconv_kernels", "lr_epochs"):
            if not all(part.strip().isdecimal() for part in getattr(self, field).split(",")):
                raise ValueError(
                    f"setting {field}: {getattr(self, field)!r} is not a list of whole numbers such as 90,120"
                )
        return replace(self, seed=90) if self.enable_ce else self


def augmentation_of(config: Config) -> tuple[float, float]:
    """(scale factor, rotation factor in degrees) of a training run."""
    preset = AUGMENTATIONS[config.augmentation]["mpii" if config.dataset == "mpii" else "other"]
    given = (config.scale_factor, config.rot_factor)
    return tuple(own if own is not None else value for own, value in zip(given, preset))


_SMALL = {"height": 256, "sigma": 2.0}
_MPII, _COCO = {"dataset": "mpii"}, {"dataset": "coco"}
_CPU = {
    "depth": 18, "deconv_filters": "64,64,64", "batch_size": 16, "lr": 2e-3, "lr_strategy": "cosine", "workers": 1, "valid_split": "none",
}  # fmt: skip
# The four published configurations (P ships those of 384 pixels and lets users edit its source for the others), and the same code at sizes
# that a CPU can train.
PRESETS: dict[str, dict] = {
    "paper": {},
    "mpii_256x256": {**_MPII, **_SMALL},
    "mpii_384x384": {**_MPII},
    "coco_256x192": {**_COCO, **_SMALL},
    "coco_384x288": {**_COCO},
    "smoke": {
        **_CPU, "height": 64, "width": 64, "sigma": 1.0, "base_width": 16, "deconv_filters": "32,32,32", "num_epochs": 24, "warmup": 20, "ema": 0.98,
        "rot_factor": 10.0, "scale_factor": 0.1,
    },
    "cpu": {**_CPU, "height": 96, "width": 96, "sigma": 1.5, "num_epochs": 12, "warmup": 100, "ema": 0.998},
}  # fmt: skip


def data_root(root: str | None, dataset: str) -> Path:
    """The folder of a data set: as given, else data/DATASET of the repository."""
    return Path(root) if root else ROOT / "data" / dataset


def run_directory(config: Config) -> Path:
    """MODEL_SAVE_DIR/simplebase-DATASET; the default MODEL_SAVE_DIR lies in the repository."""
    base = ROOT / "output" if config.model_save_dir == "output" else Path(config.model_save_dir)
    return base / f"simplebase-{config.dataset}"
