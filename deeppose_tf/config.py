"""Every constant of deeppose_tf once, with its source (DT = asanakoy/deeppose_tf), and the presets."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from common.errors import DataError
from common.runs.settings import check_numbers, parse_yaml, setting
from common.runs.shelf import data_folder
from common.skeletons import LSP14, MPII16, Skeleton

HOUSE = "deeppose_tf"
ROOT = Path(__file__).resolve().parent.parent
LSPET_ROOT, LSP_ROOT, MPII_ROOT = (ROOT / "datasets" / name for name in ("lsp_ext", "lsp", "mpii"))
IMAGENET_WEIGHTS = ROOT / "weights" / "bvlc_alexnet.tf"

# the data sets that DT has as CSV files: their joints, and the folder of the files
CSV_SKELETONS: dict[str, Skeleton] = {"lsp": LSP14, "mpii": MPII16}
CSV_FOLDERS = {"lsp": LSPET_ROOT, "mpii": MPII_ROOT}

IM_SIZE = 227
DROPOUT_KEEP = 0.4  # DT and the paper
WEIGHT_DECAY_LOGGED = 0.0005  # DT logs this term and trains without it
ADAGRAD_START = 1e-4  # DT: first value of Adagrad's accumulators
MOMENTUM = 0.9
# DT: a joint this many pixels right of or below the image drops the person
OUTSIDE_LIMIT = 3.0
# DT: network outputs are cut to this range before they are scored, and further ones are refused in un-projection
OUTPUT_LIMIT, UNPROJECT_LIMIT = 0.5, 0.501
SUMMARY_STEP = 50  # DT: TensorBoard entries
FC_UNITS = 4096  # of fc6 and fc7 at multiplier 1
CHANNEL_STEP = 8  # channels are rounded down to multiples of it
IGNORE_LABELS = {"lsp": -1.0, "mpii": -100500.0}  # DT's examples

# DT's options that have nothing to do any more
NO_EFFECT = {
    "n_joints": "the head follows the joints of the data",
    "symmetric_joints": "left and right follow from the joints' names",
    "im_size": "the network is made for 227",
    "net_type": "AlexNet is the one network",
    "coord_normalize": "targets are always shares of the crop, as in the original",
    "reset_moving_averages": "it had none in the original either",
}


@dataclass
class Config:
    """Settings of train.py; further names are DT's. val.py and predict.py take what they need from the checkpoint."""

    dataset: str = setting("lsp", "lsp, mpii without --data_root: the original's CSVs", names=("dataset_name",))
    data_root: str | None = setting(None)
    train_split: str = setting("train")
    valid_split: str = setting("valid")
    train_csv_fn: str | None = setting(None, "training persons as CSV: image,x0,y0,x1,y1,...", group="data")
    test_csv_fn: str | None = setting(None, "scored persons as CSV", names=("csv",), group="data")
    val_csv_fn: str | None = setting(None, "further persons to score, logged as val", group="data", rare=True)
    img_path_prefix: str = setting("", "folder before the image paths of the CSVs", group="data", rare=True)
    ignore_label: float | None = setting(None, "marks a missing joint (-1, mpii -100500)", group="data", rare=True)
    fname_index: int = setting(0, "CSV column of the image", group="data", rare=True)
    joint_index: int = setting(1, "first CSV column of the joints", group="data", rare=True)
    limit: int | None = setting(None, "the first N persons of every split only")
    min_dim: int = setting(6, "smaller persons (pixels) are not trained on", group="data", rare=True)
    should_downscale_images: bool = setting(False, "reduce higher images first", group="data", rare=True)
    downscale_height: int = setting(480, "pixels, at least 227", group="data", rare=True)
    bbox_extension_min: float | None = setting(None, "smallest random factor of the tight box's sides", group="data")
    bbox_extension_max: float | None = setting(None, "largest one; scored crops use it", group="data")
    shift: float = setting(0.0, "largest random shift, share of the tight box", group="data")
    fliplr: bool = setting(False, "mirror half of the crops", group="data")
    rotate: bool = setting(False, "rotate the crops at random (DT: not implemented)", group="data", rare=True)
    rotate_range: int = setting(10, "rotation is uniform in +-rotate_range degrees", group="data", rare=True)

    weights: str | None = setting(None, "first weights; with --resume the state", names=("-s", "snapshot"))
    gcn: bool = setting(False, "subtract each image's channel mean, divide by its deviation")
    channels: float = setting(1.0)
    init: str = setting("original", "first weights: DT's truncated normal, or He's", ("original", "he"), rare=True)
    dropout_keep: float = setting(DROPOUT_KEEP, "share of the activations of fc6 and fc7 that dropout keeps", rare=True)
    norm: str = setting("lrn", "the paper's response normalisation or batch normalisation", ("lrn", "batch"), rare=True)
    loss: str = setting("squared", "errors in training: squared as in the paper", ("squared", "absolute"), rare=True)
    mode: str = setting("correct", "crops, targets, metrics as they should be or as DT's", ("correct", "compat"))

    max_steps: int = setting(100, names=("max_iter",))
    lr: float | None = setting(None, "learning rate of all layers (default: conv_lr and fc_lr)")
    conv_lr: float = setting(0.0005, "learning rate of the convolutions", group="training")
    fc_lr: float = setting(0.0005, "learning rate of the fully connected layers", group="training")
    fix_conv_iter: int = setting(0, "steps of the fully connected layers alone", group="training", rare=True)
    optimizer: str = setting("adagrad", "update rule", ("adagrad", "momentum", "sgd", "adam"), group="training")
    schedule: str = setting("constant", "learning rates: constant, or cosine to 1 %", ("constant", "cosine"), rare=True)
    warmup: int = setting(0, rare=True)
    patience: int = setting(0, rare=True)
    seed: int = setting(1701)
    test_step: int = setting(100, "score every so many steps", group="training")
    snapshot_step: int = setting(10000, "a numbered checkpoint every so many steps", group="training", rare=True)
    keep: int = setting(5, "numbered checkpoints to keep; 0 keeps all", group="training", rare=True)
    save_minutes: float = setting(10.0, rare=True)
    resume: str | None = setting(None)
    reset_iter_counter: bool = setting(False, "count steps from 0 after --resume", group="training", rare=True)

    batch_size: int = setting(128, "persons a step, over all devices")
    workers: int | None = setting(None, "loader processes (default: from the cores)")
    flip_test: bool = setting(False)
    device: str | None = setting(None)
    threads: int = setting(0, rare=True)
    amp: str = setting("off", "", ("off", "bf16"))
    run_name: str = setting("alexnet", "the run's folder in output/deeppose_tf", group="output", rare=True)
    out: str | None = setting(None, "the run's folder itself", names=("o_dir",))
    log_step: int = setting(1, "print the loss every so many steps", group="output", rare=True)

    @property
    def from_csv(self) -> bool:
        """Whether persons come from CSV files, as in DT."""
        return bool(self.train_csv_fn or self.test_csv_fn) or (not self.data_root and self.dataset in CSV_SKELETONS)

    def csv(self, part: str) -> Path | None:
        """The CSV of `train`, `test` or `val`; of the first two DT's own where none is given."""
        given = {"train": self.train_csv_fn, "test": self.test_csv_fn, "val": self.val_csv_fn}[part]
        # the examples' own is a part of their own training persons
        foreign = self.train_csv_fn and given == EXAMPLES["lsp_alexnet_scratch"]["val_csv_fn"]
        if part == "val" and (not given or foreign):
            return None
        return Path(given) if given else CSV_FOLDERS[self.dataset] / f"{part}_joints.csv"

    @property
    def folder(self) -> Path:
        """Where the training data lies."""
        path = self.csv("train") if self.from_csv else None
        if path and self.dataset == "lsp" and not self.train_csv_fn:
            return LSP_ROOT  # the CSVs are made from it
        return path.parent if path else data_folder(self.data_root, self.dataset)

    @property
    def height(self) -> int | None:
        """Higher pictures are reduced to this height."""
        return self.downscale_height if self.should_downscale_images else None

    @property
    def extension(self) -> tuple[float, float] | None:
        """Range of the box extension in training, None without."""
        if self.bbox_extension_min is None or self.bbox_extension_max is None:
            return None
        return self.bbox_extension_min, self.bbox_extension_max

    def rates(self) -> tuple[float, float]:
        """Learning rates of the convolutions and of the fully connected layers."""
        return (self.conv_lr, self.fc_lr) if self.lr is None else (self.lr, self.lr)

    def checked(self) -> Config:
        """The settings, `--resume -s PATH` as `--resume PATH`. DataError for a value that cannot be meant."""
        bounds = {"bbox_extension_min": 1, "bbox_extension_max": self.bbox_extension_min or 1, "workers": 1}
        check_numbers(self, downscale_height=IM_SIZE, joint_index=self.fname_index + 1, **bounds)
        if self.shift > 1 or not self.dropout_keep or self.channels > 16:
            raise DataError("setting shift is 0 to 1, dropout_keep above 0, channels 16 at most")
        if self.from_csv and self.data_root:
            raise DataError("setting data_root: --train_csv_fn and --test_csv_fn name files; leave one of both out")
        if self.from_csv and self.dataset not in CSV_SKELETONS:
            raise DataError(f"setting dataset: CSVs have the joints of lsp or mpii, not of {self.dataset}")
        if self.resume == "auto" and self.weights not in (None, str(IMAGENET_WEIGHTS)):
            return replace(self, resume=self.weights, weights=None)
        return self


PRESETS = parse_yaml("presets.yaml", Path(__file__).with_name("presets.yaml").read_text(encoding="utf-8"))
EXAMPLES: dict[str, dict] = PRESETS["examples"]
for _given in EXAMPLES.values():
    _given |= {name: str(ROOT / value) for name, value in _given.items() if "/" in str(value)}


def presets(example: str = "lsp_alexnet_scratch") -> dict[str, dict]:
    """Settings to start from: `paper`, `cpu`, `smoke` are forms of DT's `example`, `none` DT's defaults of train.py."""
    chosen = EXAMPLES[example]
    frozen = {"fix_conv_iter": 20} if "fix_conv_iter" in chosen else {}
    return {
        "paper": {**chosen, "run_name": example},
        "cpu": {**chosen, **PRESETS["cpu"]},
        "smoke": {**chosen, **PRESETS["smoke"], **frozen},
        "none": {},
    }


def scaled(units: int, channels: float) -> int:
    """Channels of a layer at a multiplier."""
    return max(CHANNEL_STEP, int(units * channels) // CHANNEL_STEP * CHANNEL_STEP)


def multiplier_of(fc_units: int) -> float:
    """A multiplier at which `scaled` gives a network with so many units in fc7: the middle of its range."""
    return 1.0 if fc_units == FC_UNITS else (fc_units + CHANNEL_STEP / 2) / FC_UNITS
