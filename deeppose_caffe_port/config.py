"""Settings of this house once, with their source, the presets, and what a project folder keeps of them.

Networks and solvers have their settings where Caffe has them, in prototxt files; `Stage` is what prototxts.py writes
there.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from common.datasets import NAMES
from common.datasets.files import read_json
from common.errors import DataError, named
from common.files import write_json
from common.runs.options import Parser
from common.runs.process import default_workers
from common.runs.settings import check_numbers, parse_yaml, read_settings_file, resolve, setting
from common.runs.shelf import REPOSITORY, data_folder, run_folder
from common.skeletons import K2HPD15, Skeleton, from_card

HOUSE = "deeppose_caffe_port"
SEED = 10086  # of shuffling and of the choice of patches
# splits to train and to score; train and test where a data set is not here
SPLITS = {"lspet": ("1-4000", "4001-5000"), "coco": ("train2017", "val2017")}
SPLITS |= dict.fromkeys(("mpii", "json", "ai_challenger", "crowdpose"), ("train", "valid"))

STAGES = {1: "deeppose", 2: "deeppose_refine"}  # names of their model folders and snapshots
PATCH_UNIT = 64  # labels of stage 2 are in pixels of a patch of this side
LEAST_DIAMETER = 0.2  # mode correct: of a patch's person, as a share of the picture's shorter side


@dataclass(frozen=True)
class Stage:
    """A network and its solver: input side, conv1, multiplier of hidden channels, its solver's other fields."""

    side: int
    kernel: int
    stride: int
    channels: float = 1.0
    dropout: float = 0.5
    # BatchNorm's moving average; Caffe's 0.999 remembers a thousand iterations: too many in a short training
    fraction: float = 0.999
    batch: int = 32
    solver: dict = field(default_factory=dict)


# preset -> (settings, stage 1, stage 2)
PRESETS: dict[str, tuple[dict, Stage, Stage]] = {
    name: (found["settings"], Stage(**found[1]), Stage(**found[2]))
    for name, found in parse_yaml("presets.yaml", Path(__file__).with_name("presets.yaml").read_text()).items()
}

_rare = partial(setting, group="data", rare=True)
_training = partial(setting, group="training")


@dataclass
class Config:
    """Settings of every programme of this house."""

    dataset: str = setting("k2hpd", choices=NAMES)
    data_root: str | None = setting(None, "its folder (default: data/NAME, such as data/K2HPD)")
    out: str | None = setting(None, "project folder (default: output/HOUSE/NAME); with --solver: for log and state")
    mode: str = setting("correct", choices=("correct", "compat"))
    train_split: str | None = setting(None, "training split (default: the data set's)")
    valid_split: str = setting("auto", "split of the test nets and of val.py, or none; auto: the data set's")
    limit: int | None = setting(None, "the first N persons of each split only")
    input_width: int | None = setting(None, "width of the prepared pictures (default: 256)", rare=True)
    input_height: int | None = setting(None, "their height (default: 212 for K2HPD, else 256)", rare=True)
    pad: float = _rare(0.2, "margin around a person's box, as a share of its longer side")
    allow_16bit: bool = _rare(False, "take 16-bit pictures, divided by 256")
    alpha: float = _rare(0.8, "side of stage 2's patch as a share of the body diameter")
    patch_rate: int = _rare(15, "one patch in so many joints is kept")
    displacements: int = _rare(0, "displacements of each patch, drawn from the errors of the stage before")
    holdout: int = _rare(1000, "patches at the list's end that become stage 2's test set")
    rotate: float = _rare(0.0, "degrees up to which training pictures are turned")
    zoom: float = _rare(1.0, "factor up to which they are scaled either way")
    preset: str = _training("auto", "networks, solvers and more; auto: smoke on synthetic data", ("auto", *PRESETS))
    joint_outputs: bool = setting(False, "stage 2 has outputs for every joint (DeepPose)", rare=True)
    channels: float | None = setting(None, rare=True)
    snapshot1: str | None = setting(None, "stage 1's .caffemodel or its iteration (default: the last)", group="network")
    snapshot2: str | None = setting(None, "stage 2's, likewise", group="network", rare=True)
    euclidean: str = setting("modified", "EuclideanLoss divided by all elements, by the batch, or of absolute errors",
                             ("modified", "stock", "absolute"), rare=True)  # fmt: skip
    masked: bool = setting(False, "NaN labels are left out of the loss (on where a project has any)", rare=True)
    solver: str | None = _training(None, "solver prototxt (default: the stage's)", names=("-solver",))
    folder: str | None = _training(None, "where relative paths of the solver file start (default: here)")
    stage: int = _training(1, "stage of the project, 1 or 2")
    weights: str | None = setting(None, ".caffemodel files to start from, comma-separated", names=("-weights",))
    warm_start: bool = _training(False, "stage 2 starts from the weights of stage 1", rare=True)
    snapshot: str | None = _training(None, "Caffe's .solverstate to go on from", names=("-snapshot",))
    resume: str | None = setting(None)
    max_steps: int | None = setting(None, "iterations (default: the solver file's max_iter)")
    lr: float | None = setting(None, "learning rate (default: the solver file's base_lr)")
    warmup: int = setting(0, "iterations of linear warm-up", rare=True)
    accumulate: int | None = setting(None, "passes an update (default: the solver file's iter_size)", rare=True)
    clip: float | None = setting(None, "largest norm of all gradients (default: the solver file's)", rare=True)
    weight_decay: float | None = setting(None, "L2 or L1 penalty (default: the solver file's)", rare=True)
    seed: int | None = setting(None, "seed (default: the solver file's random_seed)")
    save_minutes: float = setting(10.0)
    patience: int = setting(0)
    device: str | None = setting(None, "cpu, cuda or cuda:0,1 (default: what is there, unless the solver says CPU)")
    gpu: str | None = setting(None, "CUDA device number, as Caffe has it", names=("-gpu",), group="machine", rare=True)
    amp: str = setting("off", choices=("off", "bf16"))
    batch_size: int = setting(32, "persons a step when testing")
    flip_test: bool = setting(False)
    workers: int | None = setting(None, "threads that read pictures (default: from the cores)")
    threads: int = setting(0)
    skeleton: dict | None = setting(None, "the skeleton's card, from the data set")

    def __post_init__(self) -> None:
        check_numbers(self, alpha=0.01)
        most = {"rotate": 180, "stage": 2, "zoom": 10, "pad": 10, "alpha": 100, "channels": 16}
        for name, bound in most.items():
            if (getattr(self, name) or 0) > bound:
                raise DataError(f"setting {name}: {getattr(self, name)} is more than {bound}")
        if self.snapshot and (self.weights or self.resume):
            raise DataError("--snapshot goes on from Caffe's state: give neither --weights nor --resume with it")
        self.workers = default_workers() if self.workers is None else self.workers

    @property
    def name(self) -> str:
        """Name of the data set in folders."""
        return self.dataset.upper()

    @property
    def joints(self) -> Skeleton:
        """Joints that the networks regress; without a project folder those of K2HPD."""
        return from_card(self.skeleton, f"{self.project}/project.json: field skeleton") if self.skeleton else K2HPD15

    @property
    def splits(self) -> tuple[str, str]:
        """Splits to train on and to score."""
        train, valid = SPLITS.get(self.dataset, ("train", "test"))
        return self.train_split or train, valid if self.valid_split == "auto" else self.valid_split

    @property
    def lists(self) -> tuple[str, ...]:
        """Lists of stage 1: train, and test unless nothing is scored."""
        return ("train",) if self.splits[1] == "none" else ("train", "test")

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the prepared pictures."""
        return self.input_width or 256, self.input_height or (212 if self.whole_images else 256)

    @property
    def whole_images(self) -> bool:
        """Whether images are used as they are, instead of crops around persons."""
        return self.dataset == "k2hpd"

    @property
    def data_folder(self) -> Path:
        """Folder of the data set."""
        return data_folder(self.data_root, self.name)

    @property
    def project(self) -> Path:
        """Project folder: lists, LMDBs, prototxts, snapshots, states."""
        if self.out and not self.solver:
            return Path(self.out)
        here = run_folder(HOUSE, self.name)
        return here if here.exists() or not (REPOSITORY / here / "project.json").exists() else REPOSITORY / here

    def diameters(self, joints: np.ndarray) -> np.ndarray:
        """(N,J,2) -> (N,) body diameters: right shoulder to left hip (K2HPD: joints 3 and 12), the other diagonal where
        one is unlabelled; of skeletons without these the longer side of the box around the joints."""
        found, skeleton = np.full(len(joints), np.nan), self.joints
        for ends in (("right_shoulder", "left_hip"), ("left_shoulder", "right_hip")):
            if not set(ends) <= set(skeleton.joints):
                return (np.fmax.reduce(joints, axis=1) - np.fmin.reduce(joints, axis=1)).max(-1)
            a, b = skeleton.indices(ends)
            found = np.where(np.isnan(found), np.linalg.norm(joints[:, a] - joints[:, b], axis=-1), found)
        return found

    def sides(self, joints: np.ndarray) -> np.ndarray:
        """(N,J,2) -> (N,) sides of the patches around a person's joints, in pixels; nan without a diameter."""
        least = LEAST_DIAMETER * min(self.size) if self.mode == "correct" else 0
        return self.alpha * np.maximum(self.diameters(joints), least)

    @property
    def data_home(self) -> Path:
        """data/NAME of the project folder."""
        return self.project / "data" / self.name

    @property
    def image_folder(self) -> str:
        """Where the prepared images are, relative to the project folder, as the lists name it."""
        return f"./data/{self.name}/depth_data/depth_images/"

    def model_folder(self, stage: int) -> Path:
        """Folder of a stage: prototxts, LMDBs, mean, snapshots."""
        return self.project / "models" / STAGES[stage]

    def outputs(self, stage: int) -> int:
        """Values that the network of a stage puts out."""
        return 2 * len(self.joints) if stage == 1 or self.joint_outputs else 2


# What a project folder keeps of the settings it was made with; those that must not change between the steps come first.
FIXED = ("dataset", "mode", "input_width", "input_height", "pad", "alpha", "joint_outputs", "preset")
STORED = (*FIXED, "skeleton", "train_split", "valid_split", "rotate", "zoom", "patch_rate", "displacements",
          "warm_start", "holdout", "limit")  # fmt: skip


def parse(parser: Parser, argv=None, but: tuple[str, ...] = (), only: tuple[str, ...] = ()) -> tuple[dict, dict]:
    """(settings given, of `--config` too; what else the parser has), settings being all but `but`, or `only` these."""
    names = only or tuple(name for name in Config.__dataclass_fields__ if name not in ("skeleton", *but))
    parser.option("config", metavar="FILE", default=None)
    parser.settings(Config, names, default="the project's" if only else "")
    given = vars(parser.parse_args(argv))
    file = given.pop("config")
    own = {name: given.pop(name) for name in list(given) if name not in names}
    try:
        return {**(read_settings_file(file) if file else {}), **given}, own
    except DataError as error:
        parser.error(str(error))


def settle(given: dict, fresh: bool = False) -> Config:
    """The settings from those given, the project folder's own (unless `fresh`), and the preset's. DataError when a
    given one contradicts the project folder, or has a value that cannot be."""
    wanted = resolve(Config, given)
    file = wanted.project / "project.json"
    stored: dict = {}
    if not fresh and not wanted.solver and file.is_file():
        stored = read_json(file, {})
        if missing := [name for name in STORED if name not in stored]:
            remedy = "run `workflow.py import_data` again"
            raise DataError(f"{file} is not a project file of this version: it has no field {missing[0]}; {remedy}")
        with named(file):
            resolve(Config, {name: stored[name] for name in STORED if stored[name] is not None})
    for name in (*FIXED, "train_split", "valid_split", "limit"):
        if name in given and name in stored and getattr(wanted, name) not in (stored[name], "auto"):
            raise DataError(f"{file}: field {name} is {stored[name]!r}, not {given[name]!r}; or give another --out")
    preset = stored.get("preset", wanted.preset)
    if preset == "auto":
        preset = "smoke" if (wanted.data_folder / "SYNTHETIC").exists() else "paper"
    stored = {name: stored[name] for name in STORED if stored.get(name) is not None}
    return resolve(Config, PRESETS[preset][0], stored, {**given, "preset": preset})


def store(config: Config) -> None:
    """Write project.json."""
    write_json(config.project / "project.json", {name: getattr(config, name) for name in STORED})
