"""Every constant of lpm_torch once, with its source (MP = MobilePose-master, LP = the LPM authors' Caffe code), and the presets."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from common.runs.first.settings import setting

ROOT = Path(__file__).resolve().parent.parent
MODELS = ("hourglass", "lpm", "coord_lpm", "cpm", "lpm_raw", "lpm_official")
DATASETS = ("PennAction", "MPII", "LSP")

# Mean and standard deviation of RGB in [0, 1], averaged over the training crops (MP's means.npy; its Penn file was 5 times and its MPII file
# 255 times too large: the values here are the true ones).
MEANS = {
    "LSP": ((0.44421, 0.43022, 0.40395), (0.23761, 0.22963, 0.23557)),
    "PennAction": ((0.43262, 0.42915, 0.38320), (0.23778, 0.23174, 0.22366)),
    "MPII": ((0.47149, 0.44990, 0.40951), (0.23358, 0.22929, 0.22466)),
}
# LP feeds BGR (v - 128) / 256
OFFICIAL_MEAN, OFFICIAL_STD = (128 / 255,) * 3, (256 / 255,) * 3


@dataclass
class Config:
    """Settings of train.py; val.py and predict.py take them from the checkpoint. Defaults are MP's."""

    model: str = setting("lpm", "network", MODELS)
    t: int = setting(5, "frames in a clip; a still image counts as t equal frames")
    depth: int = setting(4, "hourglass depth")
    block: str = setting("res", "hourglass block", ("res", "inv", "conv"))
    width: float = setting(1.0, "channel multiplier of the hidden layers; 1 is the original network")
    init: str = setting(
        "default",
        "weight initialisation: PyTorch's default (MP) or He's, for training from scratch",
        ("default", "kaiming"),
    )
    norm: str = setting("none", "normalisation of the hidden layers; the originals have none", ("none", "batch"))
    dropout: float | None = setting(None, "dropout of ConvNet1; default: the network's own")
    init_weight: str | None = setting(None, "weights to start from: a path, or a name in the model directory")
    lr: float = setting(1e-3, "Adam learning rate")
    schedule: str = setting(
        "step", "learning rate: step (MP: StepLR, counted in iterations) or cosine to 1 % of lr", ("step", "cosine")
    )
    warmup: int = setting(0, "iterations of linear warm-up")
    step_size: int | None = setting(None, "StepLR period in iterations")
    gamma: float = setting(1.0, "StepLR factor")
    batch_size: int = setting(4, "clips per device and step")
    accumulate: int = setting(1, "steps whose gradients are averaged before the optimiser moves")
    weight_decay: float = setting(0.0, "Adam L2 penalty")
    max_epochs: int = setting(100, "epochs")
    resolution: int = setting(256, "side of the square crop in pixels")
    subset_size: int | None = setting(None, "train on the first N persons or clips only", flag="--limit")
    clip: float | None = setting(None, "global gradient-norm clip")
    seed: int = setting(0, "seed of weights, data order, augmentation and dropout")
    mode: str = setting(
        "correct", "data handling and metrics: as they should be, or as MP counted", ("correct", "compat")
    )
    # targets and loss
    sigma: float = setting(2.0, "standard deviation of the target Gaussians in map cells (MP: 2)")
    background: bool = setting(False, "fill the background channel with 1 - max (LP); MP leaves it zero")
    masked_loss: bool = setting(False, "leave unlabelled joints out of the loss; MP teaches zero maps")
    loss_norm: str = setting(
        "compat",
        "loss scale: MP's (times stages), the mean over stages, or the LPM authors' Caffe sum",
        ("compat", "mean", "caffe"),
    )
    deep_supervision: bool = setting(False, "cpm: loss on all six stages (CPM paper); MP uses the last one")
    center_map: str = setting("compat", "centre map: transposed (MP) or upright", ("compat", "correct"))
    # augmentation and crop
    p_flip: float = setting(0.5, "probability of mirroring")
    rotate: float = setting(40.0, "rotation angles are uniform in +-rotate degrees")
    scale_low: float = setting(0.7, "smallest random scale")
    scale_high: float = setting(1.3, "largest random scale")
    jitter: float = setting(0.2, "colour factors are uniform in 1 +- jitter, a channel each")
    shift: float = setting(0.0, "random shift of the crop centre, share of its side")
    pad_pixels: float = setting(256 / 3, "margin around the joints' box in image pixels (MP: 256/3)")
    pad_ratio: float = setting(0.0, "further margin as a share of the box's longer side")
    # data and files
    dataset: str = setting("PennAction", "data set", DATASETS)
    data_dir: str = setting("data", "folder with one folder a data set, or the data set's own folder")
    train_split: str = setting("train", "training split (LSP and LSPET also know ranges of image numbers: 1-4000)")
    valid_split: str = setting("valid", "split scored after each epoch; none switches it off", flag="--split")
    model_dir: str = setting("experiments", "checkpoints go to MODEL_DIR/MODEL/DATASET")
    log_dir: str = setting("logs", "TensorBoard and JSON-lines logs")
    log_freq: int = setting(800, "debug pictures every so many iterations")
    debug: bool = setting(False, "write debug pictures of the training")
    checkpoint_name: str | None = setting(None, "checkpoint to resume from: a path, or a name in the model directory")
    resume: str = setting(
        "none", "auto: continue from the newest checkpoint in the model directory, if any", ("none", "auto")
    )
    save_minutes: float = setting(10.0, "also save the resume state within an epoch, every so many minutes")
    pck_r: float = setting(0.2, "threshold of the accuracy: hit within R x the extent of the joints (mode compat: 0.2)")
    # machine
    gpus: str | None = setting(
        None, "CUDA devices, for example 0,1; default: the first one if there is any, else the CPU"
    )
    workers: int = setting(2, "loader processes; 0 loads in the training process")
    threads: int = setting(0, "CPU threads; 0 leaves PyTorch's choice")
    amp: str = setting(
        "off", "mixed precision; auto: bf16 where the device has it, else off", ("off", "auto", "bf16", "fp16")
    )
    compile: bool = setting(False, "torch.compile the network")
    ema: float = setting(0.0, "decay of an exponential moving average of the weights; scored and saved beside them")
    flip_test: bool = setting(False, "average with the mirrored image when scoring")


_PAPER = {"lr": 8e-5, "weight_decay": 8e-6, "step_size": 60000, "gamma": 0.33333, "batch_size": 4}
_SMALL = {
    "init": "kaiming",
    "norm": "batch",
    "dropout": 0.0,
    "lr": 1e-3,
    "schedule": "cosine",
    "warmup": 200,
    "clip": 1.0,
    "sigma": 1.0,
    "background": True,
    "masked_loss": True,
    "loss_norm": "mean",
    "deep_supervision": True,
    "center_map": "correct",
    "pad_pixels": 0.0,
    "pad_ratio": 0.15,
    "ema": 0.999,
    "flip_test": True,
    "valid_split": "none",
}

# Found by trial on two cores: what CPM and LPM learn most from in an hour or two.
_CPU = {
    **_SMALL,
    "width": 0.25,
    "resolution": 128,
    "batch_size": 16,
    "max_epochs": 20,
    "t": 3,
    "rotate": 60.0,
    "shift": 0.05,
    "amp": "bf16",
}

# LP's training file and solver for video, as far as Adam in place of SGD goes
_OFFICIAL = {
    "lr": 8e-5,
    "weight_decay": 5e-4,
    "step_size": 40000,
    "gamma": 0.333,
    "clip": 100.0,
    "loss_norm": "caffe",
    "batch_size": 4,
    "resolution": 368,
    "sigma": 7 / 8,
    "background": True,
    "center_map": "correct",
    "scale_low": 0.8,
    "scale_high": 1.4,
}

# A thousand updates on two cores are two minutes: small batches, and less augmentation than it would take longer to profit from.
_SMOKE = {
    **_SMALL,
    "width": 0.125,
    "resolution": 96,
    "batch_size": 4,
    "max_epochs": 40,
    "t": 3,
    "workers": 1,
    "ema": 0.98,
    "warmup": 50,
    "rotate": 20.0,
    "scale_low": 0.85,
    "scale_high": 1.15,
}

# `paper`: MP's setting files and README. `official`: for lpm_official. The others are the same code at sizes that a CPU can train.
PRESETS: dict[str, dict] = {"none": {}, "paper": _PAPER, "official": _OFFICIAL, "cpu": _CPU, "smoke": _SMOKE}


def half_pixel(config: Config) -> bool:
    """Whether cell i of a map stands for the middle of its square of pixels (LP, DSNT) or, as in MP, for the pixel i * size / cells."""
    return config.model in ("lpm_official", "coord_lpm")


def data_root(data_dir: str, dataset: str) -> Path:
    """The folder of a data set: DATA_DIR/DATASET, or DATA_DIR itself when that has none. The default `data` is the repository's."""
    base = ROOT / "data" if data_dir == "data" else Path(data_dir)
    return base / dataset if (base / dataset).exists() or data_dir == "data" else base
