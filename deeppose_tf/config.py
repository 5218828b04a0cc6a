"""Every constant of deeppose_tf once, with its source (DT = asanakoy/deeppose_tf), and the presets. No framework is imported here."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from common.errors import DataError
from common.runs.first.settings import setting
from common.skeletons import LSP14, MPII16, Skeleton

ROOT = Path(__file__).resolve().parent.parent
LSPET_ROOT, LSP_ROOT, MPII_ROOT = (ROOT / "datasets" / name for name in ("lsp_ext", "lsp", "mpii"))
IMAGENET_WEIGHTS = ROOT / "weights" / "bvlc_alexnet.tf"
SKELETONS: dict[str, Skeleton] = {"lsp": LSP14, "mpii": MPII16}

IM_SIZE = 227
GCN_EPSILON = 1e-5  # DT: added to the standard deviation
DROPOUT_KEEP = 0.4  # DT and the paper
WEIGHT_DECAY_LOGGED = 0.0005  # DT logs this term and trains without it
ADAGRAD_START = 1e-4  # DT: first value of Adagrad's accumulators
MOMENTUM = 0.9
# TensorFlow's local response normalisation (depth radius, alpha, beta, bias); equals Caffe's local_size 5, alpha 1e-4
LRN_RADIUS, LRN_ALPHA, LRN_BETA, LRN_BIAS = 2, 2e-5, 0.75, 1.0
# DT: a joint this many pixels right of or below the image drops the person
OUTSIDE_LIMIT = 3.0
# DT: network outputs are cut to this range before they are scored, and further ones are refused in un-projection
OUTPUT_LIMIT, UNPROJECT_LIMIT = 0.5, 0.501
SUMMARY_STEP = 50  # DT: TensorBoard entries
FC_UNITS = 4096  # of fc6 and fc7 at width 1
CHANNEL_STEP = 8  # channels are rounded down to multiples of it

_LSP_PAIRS = "[[8,9],[7,10],[6,11],[2,3],[1,4],[0,5]]"
_MPII_PAIRS = "[[12,13],[11,14],[10,15],[2,3],[1,4],[0,5]]"


@dataclass
class Config:
    """Settings of train.py. The first block has DT's names and defaults; val.py and predict.py take what they need from the checkpoint."""

    max_iter: int = setting(100, "updates of this run")
    batch_size: int = setting(128, "persons a step, over all devices")
    snapshot_step: int = setting(10000, "a numbered checkpoint every so many steps")
    seed: int = setting(1701, "seed of data order, augmentation, weights and dropout")
    ignore_label: float = setting(-1.0, "coordinate in the CSV that marks a missing joint")
    dataset_name: str = setting("lsp", "joint order and metrics", tuple(SKELETONS))
    train_csv_fn: str = setting(str(LSPET_ROOT / "train_joints.csv"), "training persons")
    test_csv_fn: str = setting(str(LSPET_ROOT / "test_joints.csv"), "test persons")
    val_csv_fn: str = setting("", "further persons to score, logged as val; empty: none")
    img_path_prefix: str = setting("", "folder before the image paths of the CSVs")
    o_dir: str = setting(str(ROOT / "out"), "checkpoints and logs")
    test_step: int = setting(100, "score the test persons every so many steps")
    log_step: int = setting(1, "print the loss every so many steps")
    im_size: int = setting(IM_SIZE, "side of the crop; the network is made for 227", (IM_SIZE,))
    fliplr: bool = setting(False, "mirror half of the crops")
    rotate: bool = setting(False, "rotate the crops at random (DT: not implemented)")
    rotate_range: int = setting(10, "rotation is uniform in +-rotate_range degrees")
    gcn: bool = setting(False, "normalise contrast: subtract each image's channel mean, divide by its deviation")
    shift: float = setting(0.0, "largest random shift, share of the tight box")
    bbox_extension_min: float | None = setting(
        None, "smallest random factor of the tight box's sides; needs the maximum too"
    )
    bbox_extension_max: float | None = setting(None, "largest one; test crops use it")
    min_dim: int = setting(6, "training persons with a tight box smaller than this many pixels are left out")
    coord_normalize: bool = setting(True, "targets are shares of the crop; cannot be switched off, as in DT", (True,))
    n_joints: int = setting(14, "joints")
    fname_index: int = setting(0, "CSV column of the image")
    joint_index: int = setting(1, "first CSV column of the joints")
    symmetric_joints: str = setting(_LSP_PAIRS, "JSON: pairs of joints that a mirrored image exchanges")
    should_downscale_images: bool = setting(False, "reduce higher images to downscale_height first")
    downscale_height: int = setting(480, "pixels, at least 227")
    conv_lr: float = setting(0.0005, "learning rate of the convolutions")
    fc_lr: float = setting(0.0005, "learning rate of the fully connected layers")
    fix_conv_iter: int = setting(0, "train the fully connected layers alone for so many steps")
    optimizer: str = setting("adagrad", "update rule", ("adagrad", "momentum", "sgd"))
    resume: bool = setting(False, "go on from --snapshot, or from the newest checkpoint of o_dir")
    snapshot: str | None = setting(
        None, "weights to start from (without --resume: conv1 to fc7 only), or the state to resume", flag="-s"
    )
    workers: int = setting(1, "loader processes")
    reset_iter_counter: bool = setting(False, "start counting steps at 0 after --resume")
    reset_moving_averages: bool = setting(False, "accepted as in DT, without effect there and here")
    net_type: str = setting("Alexnet", "backbone", ("Alexnet",))
    # beyond DT
    mode: str = setting(
        "correct", "crops, targets and metrics: as they should be, or as DT has them", ("correct", "compat")
    )
    resume_mode: str = setting(
        "correct", "compat: as DT, forget the accumulators and train max_iter more steps", ("correct", "compat")
    )
    loader: str = setting(
        "chainer", "background loading: Chainer's MultiprocessIterator (DT) or a process pool", ("chainer", "pool")
    )
    cache_mb: int = setting(256, "decoded images each loader process may keep")
    limit: int | None = setting(None, "the first N persons of every CSV only, a dry run")
    keep: int = setting(5, "numbered checkpoints to keep (DT: 5); 0 keeps all")
    weight_decay: float = setting(0.0, "L2 penalty that is trained with; DT logs 0.0005 and trains with 0")
    dropout_keep: float = setting(DROPOUT_KEEP, "share of the activations of fc6 and fc7 that dropout keeps")
    width: float = setting(1.0, "channel multiplier of the hidden layers; 1 is AlexNet")
    init: str = setting(
        "original",
        "first weights: DT's truncated normal, or He's, which learns sooner from scratch",
        ("original", "he"),
    )
    conv1_padding: str = setting("same", "same: DT's code; valid: its comments, and Caffe", ("same", "valid"))
    schedule: str = setting(
        "constant", "learning rates: constant (DT) or cosine to 1 % over max_iter", ("constant", "cosine")
    )
    warmup: int = setting(0, "steps over which the learning rates rise from 0")
    amp: str = setting("off", "mixed precision", ("off", "bf16"))
    xla: bool = setting(False, "compile the training step with XLA")
    distribute: str = setting(
        "none", "tf.distribute strategy; multiworker reads TF_CONFIG", ("none", "mirrored", "multiworker")
    )
    threads: int = setting(0, "CPU threads; 0 leaves TensorFlow's choice")
    save_minutes: float = setting(10.0, "also save the resume state every so many minutes")

    @property
    def skeleton(self) -> Skeleton:
        """The joints of `dataset_name`."""
        return SKELETONS[self.dataset_name]

    @property
    def extension(self) -> tuple[float, float] | None:
        """Range of the box extension in training, None without."""
        given = (self.bbox_extension_min, self.bbox_extension_max)
        return None if None in given else given

    @property
    def test_extension(self) -> tuple[float, float] | None:
        """Box extension of test crops: the largest of training (DT)."""
        return None if self.extension is None else (self.bbox_extension_max,) * 2

    def pairs(self) -> list[list[int]]:
        """`symmetric_joints` as lists."""
        return json.loads(self.symmetric_joints)

    def check(self) -> None:
        """DataError naming the first setting whose value cannot be meant."""
        problems = {
            "n_joints": self.n_joints != len(self.skeleton)
            and f"{self.n_joints}, but {self.dataset_name} has {len(self.skeleton)} joints",
            "batch_size": self.batch_size < 1 and f"{self.batch_size} is less than 1",
            "workers": self.workers < 1 and f"{self.workers} is less than 1",
            "shift": not 0 <= self.shift <= 1 and f"{self.shift} is not in [0, 1]",
            "downscale_height": self.downscale_height < IM_SIZE and f"{self.downscale_height} is less than {IM_SIZE}",
            "dropout_keep": not 0 < self.dropout_keep <= 1 and f"{self.dropout_keep} is not in (0, 1]",
            "bbox_extension_min": bool(self.extension)
            and not 1 <= self.bbox_extension_min <= self.bbox_extension_max
            and f"{self.bbox_extension_min} and bbox_extension_max {self.bbox_extension_max}: 1 <= minimum <= maximum is needed",
            "symmetric_joints": not self._pairs_fit()
            and f"{self.symmetric_joints} is no JSON list of pairs of joints 0 to {self.n_joints - 1}",
            **{
                n: getattr(self, n) < 1 and f"{getattr(self, n)} is less than 1"
                for n in ("snapshot_step", "test_step", "log_step")
            },
        }
        for name, problem in problems.items():
            if problem:
                raise DataError(f"setting --{name}: {problem}")

    def _pairs_fit(self) -> bool:
        try:
            flat = [int(joint) for a, b in self.pairs() for joint in (a, b)]
        except (ValueError, TypeError):
            return False
        return len(set(flat)) == len(flat) and all(0 <= joint < self.n_joints for joint in flat)


# The four example runs of DT, as given by its shell and Python scripts.
_EXAMPLE = {
    "max_iter": 1_000_000, "batch_size": 128, "test_step": 250, "seed": 1701, "min_dim": 6, "shift": 0.1, "conv_lr": 0.0005, "fc_lr": 0.0005,
    "optimizer": "adagrad", "gcn": True, "fliplr": True, "net_type": "Alexnet",
}  # fmt: skip
_LSP = {
    **_EXAMPLE, "dataset_name": "lsp", "snapshot_step": 10000, "log_step": 1, "val_csv_fn": str(LSPET_ROOT / "train_lsp_small_joints.csv"),
    "n_joints": 14, "symmetric_joints": _LSP_PAIRS, "ignore_label": -1.0,
}  # fmt: skip
_MPII = {
    **_EXAMPLE, "dataset_name": "mpii", "snapshot_step": 5000, "log_step": 2, "train_csv_fn": str(MPII_ROOT / "train_joints.csv"),
    "test_csv_fn": str(MPII_ROOT / "test_joints.csv"), "img_path_prefix": str(MPII_ROOT / "images"), "should_downscale_images": True,
    "downscale_height": 400, "n_joints": 16, "symmetric_joints": _MPII_PAIRS, "ignore_label": -100500.0, "bbox_extension_min": 1.0,
    "bbox_extension_max": 1.2, "workers": 4, "reset_iter_counter": True,
}  # fmt: skip
_LSP_SCRATCH = {
    **_LSP,
    "bbox_extension_min": 1.5,
    "bbox_extension_max": 2.0,
    "workers": 6,
    "o_dir": str(ROOT / "out/lsp_alexnet_scratch"),
}
_IMAGENET = {"snapshot": str(IMAGENET_WEIGHTS)}

# What trains on two cores: a narrower network with He's weights and a higher rate (at DT's, Adagrad from 1e-4 is slow gradient descent for
# thousands of steps), the same data and crops.
SMALL = {
    "width": 0.25, "init": "he", "batch_size": 64, "dropout_keep": 0.8, "schedule": "cosine", "warmup": 100, "conv_lr": 0.003, "fc_lr": 0.003,
    "workers": 1,
}  # fmt: skip
# Laid over an example's settings when its data is synthetic.
SMOKE = {
    **SMALL, "max_iter": 300, "test_step": 300, "snapshot_step": 300, "log_step": 20, "fix_conv_iter": 20, "batch_size": 32, "shift": 0.05,
    "warmup": 30, "dropout_keep": 0.9,
}  # fmt: skip

PRESETS: dict[str, dict] = {
    "none": {},
    "lsp_alexnet_scratch": _LSP_SCRATCH,
    "lsp_alexnet_imagenet": {
        **_LSP, **_IMAGENET, "bbox_extension_min": 1.2, "bbox_extension_max": 2.0, "fix_conv_iter": 10000, "workers": 2,
        "reset_iter_counter": True, "o_dir": str(ROOT / "out/lsp_alexnet_imagenet"),
    },
    "mpii_alexnet_scratch": {**_MPII, "o_dir": str(ROOT / "out/mpii_alexnet_scratch")},
    "mpii_alexnet_imagenet": {**_MPII, **_IMAGENET, "o_dir": str(ROOT / "out/mpii_alexnet_imagenet")},
    "paper": _LSP_SCRATCH,
    "cpu": {**_LSP_SCRATCH, **SMALL, "max_iter": 20000, "test_step": 2000, "snapshot_step": 5000, "log_step": 50},
    # tighter crops: what is learnt in a minute is worth more pixels in the example's, twice as wide as the person
    "smoke": {**_LSP_SCRATCH, **SMOKE, "fix_conv_iter": 0, "bbox_extension_min": 1.1, "bbox_extension_max": 1.3, "o_dir": str(ROOT / "out/smoke")},
}  # fmt: skip


def scaled(channels: int, width: float) -> int:
    """Channels of a layer at a width."""
    return max(CHANNEL_STEP, int(channels * width) // CHANNEL_STEP * CHANNEL_STEP)


def width_of(fc_units: int) -> float:
    """A width at which `scaled` gives a network with so many units in fc7: the middle of its range."""
    return 1.0 if fc_units == FC_UNITS else (fc_units + CHANNEL_STEP / 2) / FC_UNITS


def is_synthetic(csv_path: str | Path) -> bool:
    """Whether a CSV lies in a folder that was made for synthetic data."""
    return (Path(csv_path).parent / "SYNTHETIC").exists()
