"""Every constant of lpm_torch once, with its source (MP = MobilePose-master, LP = the LPM authors' Caffe code), the
presets, and which files stand behind the settings. No framework is imported here, so that missing data is said at once.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from pathlib import Path

from common import datasets
from common.datasets import lsp
from common.errors import DataError
from common.poses import PoseSet
from common.runs import shelf
from common.runs.settings import check_numbers, parse_yaml, setting
from common.skeletons import JHMDB15, LPM14, LSP14, MPII14, MPII16, PENN13, Skeleton

HOUSE = "lpm_torch"
SUFFIX = ".pth.tar"  # of our checkpoints, as in MP
SUFFIXES = (SUFFIX, ".pt", ".npz")
MODELS = ("hourglass", "lpm", "coord_lpm", "cpm", "lpm_raw", "lpm_official")
RECURRENT = ("lpm", "lpm_official")  # carry a state from frame to frame
FOLDERS = {"penn_action": "PennAction", "mpii": "MPII", "lsp": "LSP", "lspet": "LSPET", "jhmdb": "JHMDB"}  # MP's names

# Mean and standard deviation of RGB in [0, 1] over the training crops (MP's means.npy; its Penn file was 5 times and its
# MPII file 255 times too large: these are the true values). Other data sets are taken as MPII's.
MEANS = {
    "lsp": ((0.44421, 0.43022, 0.40395), (0.23761, 0.22963, 0.23557)),
    "penn_action": ((0.43262, 0.42915, 0.38320), (0.23778, 0.23174, 0.22366)),
    "mpii": ((0.47149, 0.44990, 0.40951), (0.23358, 0.22929, 0.22466)),
}
# LP feeds BGR (v - 128) / 256
OFFICIAL_MEAN, OFFICIAL_STD = (128 / 255,) * 3, (256 / 255,) * 3


@dataclass
class Config:
    """Settings of train.py; val.py and predict.py take them from the checkpoint. Defaults are MP's."""

    # data
    dataset: str = setting("penn_action", "data set of common.datasets; MP's PennAction, MPII, LSP")
    data_root: str | None = setting(None, "its folder, or what holds it", names=("data_dir",))
    train_split: str = setting("train", "training split; LSP and LSPET also know ranges of images: 1-4000")
    valid_split: str = setting("valid")
    limit: int | None = setting(None, names=("subset_size",))
    p_flip: float = setting(0.5, "probability of mirroring", group="data", rare=True)
    rotate: float = setting(40.0, "rotation angles are uniform in +-rotate degrees", group="data", rare=True)
    scale_low: float = setting(0.7, "smallest random scale", group="data", rare=True)
    scale_high: float = setting(1.3, "largest random scale", group="data", rare=True)
    jitter: float = setting(0.2, "colour factors are uniform in 1 +- jitter, a channel each", group="data", rare=True)
    shift: float = setting(0.0, "random shift of the crop centre, share of its side", group="data", rare=True)
    pad_pixels: float = setting(256 / 3, "margin around the box in image pixels (MP: 256/3)", group="data", rare=True)
    pad_ratio: float = setting(0.0, "more margin, share of the box's longer side", group="data", rare=True)
    # network
    model: str = setting("lpm", "network", MODELS, group="network")
    t: int = setting(5, "frames in a clip; a still image counts as t equal frames", group="network")
    channels: float = setting(1.0)
    input_width: int = setting(256, "side of the square crop in pixels", names=("resolution",))
    widths: list = setting([], "sides in training, a share of the epochs each (default: input_width)", rare=True)
    depth: int = setting(4, "hourglass depth", rare=True)
    block: str = setting("res", "hourglass block", ("res", "inv", "conv"), rare=True)
    norm: str = setting("none", "normalisation of hidden layers; in no original", ("none", "batch"), rare=True)
    dropout: float | None = setting(None, "dropout of ConvNet1; default: the network's own", rare=True)
    init: str = setting("default", "first weights: PyTorch's (MP) or He's", ("default", "kaiming"), rare=True)
    mode: str = setting("correct", "data handling: as it should be, or as MP has it", ("correct", "compat"))
    weights: str | None = setting(None, "weights to start from: file, folder or shipped name", names=("init_weight",))
    flip_test: bool = setting(False)
    # training
    epochs: int = setting(100, names=("max_epochs",))
    lr: float = setting(1e-3, "Adam's learning rate")
    schedule: str = setting("step", "step (MP: every step_size steps) or cosine to 1 % of lr", ("step", "cosine"))
    step_size: int | None = setting(None, "steps between two drops of the learning rate", group="training", rare=True)
    gamma: float = setting(1.0, "factor of such a drop", group="training", rare=True)
    warmup: int = setting(0, rare=True)
    weight_decay: float = setting(0.0)
    clip: float | None = setting(None, rare=True)
    accumulate: int = setting(1)
    ema: float = setting(0.0, "decay of a moving average of the weights, scored in their place; 0: none")
    patience: int = setting(0, rare=True)
    seed: int = setting(0)
    save_minutes: float = setting(10.0)
    resume: str | None = setting(None, names=("checkpoint_name",))
    sigma: float = setting(2.0, "deviation of the target Gaussians in map cells", group="training", rare=True)
    background: bool = setting(False, "background channel 1 - max (LP); MP: zero", group="training", rare=True)
    masked_loss: bool = setting(False, "unlabelled joints out of the loss; MP: zero maps", group="training", rare=True)
    loss_norm: str = setting("compat", "MP's, the mean, LP's Caffe sum", ("compat", "mean", "caffe"), rare=True)
    deep_supervision: bool = setting(False, "cpm: loss on all stages; MP: the last", group="training", rare=True)
    center_map: str = setting("compat", "centre map: transposed (MP) or upright", ("compat", "correct"), rare=True)
    # machine and output
    device: str | None = setting(None)
    gpus: str | None = setting(None, "MP's way to write --device=cuda:0,1", group="machine", rare=True)
    amp: str = setting("off", choices=("off", "bf16"))
    batch_size: int = setting(4, "clips per process and step")
    workers: int | None = setting(None)
    threads: int = setting(0, rare=True)
    out: str | None = setting(None, "the run's folder (default: output/lpm_torch/MODEL-DATASET)")
    model_dir: str | None = setting(None, "MP: the run's folder is MODEL_DIR/MODEL/DATASET", group="output", rare=True)

    def checked(self) -> Config:
        """With names as `common.datasets` has them; DataError naming a setting whose value is out of range."""
        check_numbers(self, step_size=1, sigma=0.01, scale_low=0.01, scale_high=self.scale_low)
        if not all(type(width) is int and 0 < width <= 16384 for width in self.widths):
            raise DataError(f"setting widths: {self.widths} are not pixels; give whole numbers such as [96, 128]")
        device = self.device or (self.gpus and f"cuda:{self.gpus}") or None
        return replace(self, dataset=dataset_name(self.dataset), device=device, gpus=None)

    def width_at(self, epoch: int) -> int:
        """Side of the crops that an epoch of training reads (progressive resizing; Howard, fast.ai, 2018)."""
        place = min(epoch * len(self.widths) // max(self.epochs, 1), len(self.widths) - 1)
        return self.widths[place] if self.widths else self.input_width

    @property
    def folder(self) -> Path:
        """The run's folder."""
        original = mobilepose_folder(self.model_dir, self.model, self.dataset) if self.model_dir else None
        return shelf.run_folder(HOUSE, f"{self.model}-{self.dataset}", self.out or original)


PRESETS: dict[str, dict] = parse_yaml("presets.yaml", Path(__file__).with_name("presets.yaml").read_text("utf-8"))


def half_pixel(config: Config) -> bool:
    """Whether cell i of a map is the middle of its square (LP, DSNT) or, as in MP, the pixel i * size / cells."""
    return config.model in ("lpm_official", "coord_lpm")


def network_skeleton(skeleton: Skeleton) -> Skeleton:
    """The joints of a network for this data set's skeleton: MP's 14 for MP's and LP's data sets, else its own."""
    return LPM14 if skeleton in (LSP14, MPII16, MPII14, PENN13, JHMDB15) else skeleton


def dataset_name(name: str) -> str:
    """A data set's name as `common.datasets` has it; MP writes PennAction, MPII, LSP. DataError for an unknown one."""
    known = {"pennaction": "penn_action"}.get(name.lower(), name.lower())
    if known not in datasets.NAMES:
        raise DataError(f"--dataset {name}: known are {', '.join(datasets.NAMES)}, and MP's PennAction, MPII, LSP")
    return known


def data_folder(dataset: str, root: str | None) -> Path:
    """A data set's folder: `root`, or what it holds under MP's name for it; else data/NAME here, in the repository."""
    name = FOLDERS.get(dataset, dataset)
    inner = Path(root or "data") / name
    return inner if inner.exists() else shelf.data_folder(None if root == "data" else root, name)


@functools.cache  # a run asks for the same split again and again
def load_pose_set(dataset: str, root: str | None, split: str) -> PoseSet:
    """The PoseSet of `--dataset --data_root --split`; LSP stands for LSP, LSPET or both, whichever is there; `valid`
    for the test split where a data set has no other. DataError as the loaders raise it."""
    name = dataset_name(dataset)
    folder = data_folder(name, root)
    name = lsp.which(folder) if name == "lsp" else name
    return datasets.load(name, folder, datasets.record(name).split(split))


def mobilepose_folder(model_dir: str | None, model: str, dataset: str) -> Path:
    """Where MP keeps a network's checkpoints: MODEL_DIR/MODEL/DATASET."""
    return Path(model_dir or "experiments") / model / FOLDERS.get(dataset, dataset)


def weights_path(
    name: str | None, model: str | None = None, dataset: str = "penn_action", model_dir: str | None = None
) -> Path | None:
    """The file or folder that `--weights` (MP: --checkpoint_name, also a name in its model directory) names; without it
    the newest best of this house and `model`, or None. DataError when a given one does not exist."""
    folder = mobilepose_folder(model_dir, model or "lpm", dataset_name(dataset))
    if name is None:
        return shelf.find_weights(HOUSE, folder if model_dir else None, SUFFIXES, f"{model or '*'}-*")
    own = next((p for p in (folder / name, folder / (name + SUFFIX)) if p.is_file()), None)
    return shelf.find_weights(HOUSE, name if Path(name).exists() else own or name, SUFFIXES)
