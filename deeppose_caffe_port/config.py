"""Settings of the two-stage project once, with their source, and the presets.

Networks and solvers have their settings where Caffe has them, in prototxt files; `Net` and `Training` are what prototxts.py writes there.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.errors import DataError
from common.runs.first.settings import resolve, setting
from common.skeletons import K2HPD15, LSP14, MPII16, Skeleton

ROOT = Path(__file__).resolve().parent.parent
# data set -> its name in the project's folders, skeleton, splits to train and test on
DATASETS = {
    "k2hpd": ("K2HPD", K2HPD15, "train", "test"),
    "lsp": ("LSP", LSP14, "train", "test"),
    "lspet": ("LSPET", LSP14, "1-4000", "4001-5000"),
    "mpii": ("MPII", MPII16, "train", "valid"),
}
SEED = 10086  # of shuffling and of the choice of patches


def stage_name(stage: int) -> str:
    """Name of a stage's model folder and snapshots: deeppose, deeppose_refine, deeppose_refine3 ..."""
    return "deeppose" if stage == 1 else f"deeppose_refine{stage if stage > 2 else ''}"


@dataclass
class Config:
    """Settings of every program of this house."""

    dataset: str = setting("k2hpd", "data set of common", tuple(DATASETS))
    data_dir: str = setting("data", "folder of the data set (default: data/NAME of this repository)")
    work: str | None = setting(
        None, "project folder: lists, LMDBs, prototxts, snapshots (default: experiments/deeppose_caffe_port/NAME)"
    )
    mode: str = setting("correct", "data handling: as it should be, or as the original did it", ("correct", "compat"))
    train_split: str | None = setting(None, "training split (default: the data set's)")
    test_split: str | None = setting(None, "test split (default: the data set's)", flag="--split")
    limit: int | None = setting(None, "first N persons of each split only (dry run)")
    width: int | None = setting(
        None, "width of the prepared images (K2HPD: 256, whole images; others: 256, crops of persons)"
    )
    height: int | None = setting(None, "their height (K2HPD: 212; others: 256)")
    pad: float = setting(0.2, "margin around the joints' box of crops, as a share of its longer side")
    allow_16bit: bool = setting(False, "take 16-bit images, divided by 256; without it they are an error")
    rotate: float = setting(
        0.0,
        "degrees up to which the project's training pictures and patches are turned, anew each time (not in the original)",
    )
    zoom: float = setting(1.0, "factor up to which they are scaled either way, likewise")
    alpha: float = setting(0.8, "side of a stage-2 patch as a share of the body diameter")
    min_diameter: float = setting(
        0.0,
        "smallest body diameter that a patch is made for, as a share of the picture's shorter side (the original has none)",
    )
    predicted_size: bool = setting(
        False,
        "stage-2 patches in training as large as the prediction makes them, as in testing (the original takes the true diameter)",
    )
    patch_rate: int = setting(15, "one patch in so many joints is kept")
    displacements: int = setting(
        0, "random displacements of each kept patch, drawn from stage 1's errors (DeepPose; the original has none)"
    )
    held_out: float = setting(
        0.0,
        "share of the training pictures that no stage is trained on; a stage's errors there are those that the next one learns to undo",
    )
    joint_outputs: bool = setting(
        False, "stage 2 has outputs for every joint (DeepPose); the original's is not told which joint it sees"
    )
    warm_start: bool = setting(
        False,
        "a later stage starts from the weights of the stage before, whose network it must have (the original starts from random ones)",
    )
    holdout: int = setting(1000, "patches at the list's end that become stage 2's test set")
    allow_small: bool = setting(
        False, "accept fewer patches than the hold-out: an empty training list (as in the original)"
    )
    preset: str = setting(
        "auto",
        "networks and solvers: the original's, or small ones; auto: smoke on synthetic data, else paper",
        ("auto", "paper", "cpu", "smoke"),
    )
    stages: int = setting(
        2, "stages in all; a third is trained on what the second leaves over, and so on (DeepPose has three)"
    )
    refinements: int = setting(1, "how often the last stage is applied when testing")
    batch_size: int = setting(32, "images a batch when testing")
    device: str = setting("auto", "cpu, cuda, cuda:N; auto: CUDA if there is any and the solver asks for GPU mode")
    amp: str = setting("off", "mixed precision", ("off", "bf16"))
    compile: bool = setting(False, "torch.compile the networks")
    workers: int = setting(2, "threads that decode and resize images")
    snapshot1: str | None = setting(
        None, "stage-1 snapshot: a .caffemodel or its iteration (default: the last one there)"
    )
    snapshot2: str | None = setting(None, "stage-2 snapshot, likewise")

    @property
    def name(self) -> str:
        """Name of the data set in folders."""
        return DATASETS[self.dataset][0]

    @property
    def skeleton(self) -> Skeleton:
        """Joints that the networks regress."""
        return DATASETS[self.dataset][1]

    @property
    def splits(self) -> tuple[str, str]:
        """Splits to train and test on."""
        return self.train_split or DATASETS[self.dataset][2], self.test_split or DATASETS[self.dataset][3]

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the prepared images."""
        standard = (256, 212) if self.whole_images else (256, 256)
        return self.width or standard[0], self.height or standard[1]

    @property
    def whole_images(self) -> bool:
        """Whether images are used as they are, instead of crops around persons."""
        return self.dataset == "k2hpd"

    @property
    def data_root(self) -> Path:
        """Folder of the data set."""
        return ROOT / "data" / self.name if self.data_dir == "data" else Path(self.data_dir)

    @property
    def project(self) -> Path:
        """Project folder."""
        return Path(self.work) if self.work else ROOT / "experiments" / "deeppose_caffe_port" / self.name

    def diameters(self, joints: np.ndarray) -> np.ndarray:
        """(N,J,2) -> (N,) body diameters: right shoulder to left hip (K2HPD: joints 3 and 12), the other diagonal where one is unlabelled."""
        found = np.full(len(joints), np.nan)
        for ends in (("right_shoulder", "left_hip"), ("left_shoulder", "right_hip")):
            a, b = self.skeleton.indices(ends)
            found = np.where(np.isnan(found), np.linalg.norm(joints[:, a] - joints[:, b], axis=-1), found)
        return found

    def sides(self, joints: np.ndarray) -> np.ndarray:
        """(N,J,2) -> (N,) sides of the patches around a person's joints, pixels of the prepared picture; nan without a diameter."""
        return self.alpha * np.maximum(self.diameters(joints), self.min_diameter * min(self.size))

    def model_folder(self, stage: int) -> Path:
        """Folder of a stage: prototxts, LMDBs, mean, snapshots."""
        return self.project / "models" / stage_name(stage)

    def outputs(self, stage: int) -> int:
        """Values that the network of a stage puts out."""
        return 2 * len(self.skeleton) if stage == 1 or self.joint_outputs else 2


@dataclass(frozen=True)
class Net:
    """A network of the project: input side, conv1, and a multiplier of all hidden channels.."""

    side: int
    kernel: int
    stride: int
    width: float = 1.0
    dropout: float = 0.5
    # BatchNorm's moving average; Caffe's 0.999 remembers a thousand iterations, which lags far behind in a short training
    fraction: float = 0.999


@dataclass(frozen=True)
class Training:
    """What differs between solver files.."""

    batch: int
    max_iter: int
    snapshot: int
    weight_decay: float
    base_lr: float = 1e-4
    policy: str = 'lr_policy: "inv"\ngamma: 0.0001\npower: 0.75'
    kind: str = "SGD"
    display: int = 20
    test_interval: int = 500
    test_iter: int = 100
    seed: int | None = None


_STEPS = 'lr_policy: "multistep"\ngamma: 0.1\nstepvalue: {}\nstepvalue: {}'
# preset -> (net, training) of stage 1 and of the later ones
PRESETS: dict[str, tuple[tuple[Net, Training], tuple[Net, Training]]] = {
    "paper": (
        (Net(227, 11, 4), Training(32, 120000, 20000, 0.005)),
        (Net(64, 10, 1), Training(64, 120000, 20000, 0.001)),
    ),
    "cpu": (
        (
            Net(115, 11, 4, 0.5, 0.5, 0.98),
            Training(32, 20000, 2000, 1e-4, 1e-3, _STEPS.format(15500, 18800), "Adam", test_interval=1000, seed=1),
        ),
        (
            Net(115, 11, 4, 0.5, 0.5, 0.98),
            Training(64, 480, 240, 1e-4, 3e-4, _STEPS.format(320, 440), "Adam", test_interval=240, seed=1),
        ),
    ),
    "smoke": (
        (
            Net(115, 11, 4, 0.25, 0.0, 0.95),
            Training(32, 500, 250, 1e-4, 1e-3, _STEPS.format(340, 450), "Adam", test_interval=250, seed=1),
        ),
        (
            Net(48, 6, 2, 0.25, 0.0, 0.95),
            Training(64, 450, 225, 1e-4, 1e-3, _STEPS.format(300, 405), "Adam", test_interval=225, seed=1),
        ),
    ),
}
_SMALL = {"mode": "correct", "patch_rate": 3, "holdout": 200, "displacements": 1, "alpha": 1.6, "joint_outputs": True}
_LARGE = {
    "alpha": 2.0, "min_diameter": 0.2, "predicted_size": True, "warm_start": True, "rotate": 40.0, "zoom": 1.2,
    "held_out": 0.1,
}  # fmt: skip
# Settings of the workflow that go with a preset.
WORKFLOW: dict[str, dict] = {"paper": {"mode": "compat"}, "cpu": {**_SMALL, **_LARGE}, "smoke": _SMALL}
# What a project folder keeps of the settings it was made with; other programs take it from there.
STORED = ("dataset", "mode", "train_split", "test_split", "width", "height", "pad", "rotate", "zoom", "alpha", "patch_rate", "displacements",
          "min_diameter", "predicted_size", "held_out", "joint_outputs", "warm_start", "holdout", "stages", "preset", "limit")  # fmt: skip
# Those that must not change between the steps.
FIXED = ("dataset", "mode", "width", "height", "pad", "alpha", "joint_outputs", "preset")


def settle(given: dict, fresh: bool = False) -> Config:
    """The settings from what the command line gives, the project folder's own (unless `fresh`), and the preset's.

    DataError when a given setting contradicts the project folder; ValueError on an unknown value.
    """
    wanted = resolve(Config, given)
    file = wanted.project / "project.json"
    stored = {} if fresh or not file.is_file() else _read(file)
    for name in FIXED:
        if name in given and name in stored and getattr(wanted, name) != stored[name]:
            raise DataError(
                f"{file}: field {name} is {stored[name]!r}, this call gives {given[name]!r}; leave it out, or give another folder with --work"
            )
    preset = stored.get("preset", wanted.preset)
    if preset == "auto":
        preset = (
            "smoke"
            if any((folder / "SYNTHETIC").exists() for folder in (wanted.data_root, wanted.data_root / "K2HPD"))
            else "paper"
        )
    return resolve(Config, WORKFLOW[preset], stored, {**given, "preset": preset})


def _read(file: Path) -> dict:
    try:
        stored = json.loads(file.read_text(encoding="utf-8"))
        return {name: stored[name] for name in STORED if name in stored or name in FIXED}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{file} is not a project file ({error}); run `workflow.py import_data` again") from error


def store(config: Config) -> None:
    """Write project.json."""
    from common.files import write_json

    write_json(config.project / "project.json", {name: getattr(config, name) for name in STORED})
