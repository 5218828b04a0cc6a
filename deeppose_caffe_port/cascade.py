"""The stages as one predictor: pictures -> joints, in batches, later stages on the patches of all joints of many persons at once.

mode correct: the training transform (OpenCV resize, mean image, the prototxt's scale). mode compat: what the test scripts did instead
(caffe.io's resize, the mean image's channel averages, 1/255).
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from common.errors import DataError
from common.weights.caffe import read_blob
from common.weights.caffe_text import read_text
from deeppose_caffe_port.config import Config, stage_name
from deeppose_caffe_port.images import caffe_io_input, patch, resize
from deeppose_caffe_port.model import TEST, CaffeNet
from deeppose_caffe_port.prepare import PATCH_UNIT
from deeppose_caffe_port.solver import choose_device


class Regressor:
    """A deploy net with its weights and its mean image: pictures (h,w,3) uint8 BGR of any size -> outputs (N,K)."""

    def __init__(
        self, deploy: Path, weights: Path | None, mean: Path, config: Config, stage: int = 1, scale: float = 1 / 256
    ):
        """`weights` None keeps the random ones (a baseline); `scale` is that of the training transform. DataError when a file is missing or does not fit."""
        self.config, self.stage, self.scale, self.device = config, stage, scale, choose_device(config.device)
        self.net = CaffeNet.from_file(deploy, TEST)
        if weights is not None:
            untouched = self.net.load(weights)
            if untouched:
                raise DataError(
                    f"{weights} has no weights for layer {untouched[0]} of {deploy}; give the snapshot of this net"
                )
        self.input = next(name for name in self.net.shapes)
        self.side = self.net.shapes[self.input][-1]
        self.output = self.net.outputs[-1]
        self.outputs = self.net.shapes[self.output][-1]
        if self.outputs != config.outputs(stage):
            raise DataError(
                f"{deploy} puts out {self.outputs} values, stage {stage} on {config.name} needs {config.outputs(stage)}; check --dataset"
                " and --joint_outputs"
            )
        image = read_blob(mean).reshape(-1, *read_blob(mean).shape[-2:])
        if image.shape != self.net.shapes[self.input][1:]:
            raise DataError(
                f"mean file {mean} has shape {image.shape}, {deploy} takes {self.net.shapes[self.input][1:]}"
            )
        self.mean = torch.from_numpy(image).to(self.device)
        self.channel_mean = image.reshape(len(image), -1).mean(1)
        layout = {"memory_format": torch.channels_last} if self.device.type == "cuda" or config.amp == "bf16" else {}
        self.net.to(self.device, **layout)
        self.network = torch.compile(self.net, dynamic=True) if config.compile else self.net
        self.pool = ThreadPoolExecutor(max(config.workers, 1))

    def prepare(self, picture: np.ndarray) -> np.ndarray:
        """(3,S,S): uint8 in mode correct (the mean comes off on the device), finished float32 in mode compat."""
        if self.config.mode == "compat":
            return caffe_io_input(picture, self.side, self.channel_mean)
        return np.ascontiguousarray(resize(picture, self.side).transpose(2, 0, 1))

    @torch.no_grad()
    def scale_outputs(self, factors: np.ndarray | float) -> None:
        """Multiply the outputs by factors (K,) for good, in the weights of the last layer. DataError when that is no InnerProduct."""
        last = self.net.order[-1]
        if last.param.type != "InnerProduct" or last.param.top[0] != self.output:
            raise last.error("is the last layer and no InnerProduct: outputs cannot be scaled in its weights")
        rows = torch.as_tensor(factors, dtype=torch.float32, device=self.device).expand(self.outputs)
        for tensor in last.blobs:
            tensor.mul_(rows.reshape(-1, *[1] * (tensor.ndim - 1)))

    @torch.inference_mode()
    def __call__(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        """(N,K) float64 outputs of N pictures, in batches of `batch_size` persons (later stages: times the joints of each)."""
        limit, results = self.config.batch_size * (len(self.config.skeleton) if self.stage > 1 else 1), []
        for start in range(0, len(pictures), limit):
            batch = torch.from_numpy(np.stack(list(self.pool.map(self.prepare, pictures[start : start + limit]))))
            batch = batch.to(self.device, non_blocking=True)
            if batch.dtype == torch.uint8:
                batch = (batch.float() - self.mean) * self.scale
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.amp == "bf16"):
                out = self.network({self.input: batch})[0][self.output]
            results.append(out.double().cpu().numpy())
        return np.concatenate(results) if results else np.zeros((0, self.outputs))


class Cascade:
    """Stage 1 and the later stages in turn, the last of them applied `refinements` times."""

    def __init__(self, config: Config, stage1: Regressor, *later: Regressor):
        self.config, self.stage1 = config, stage1
        self.later = [*later, *later[-1:] * (config.refinements - 1)]
        repeats = [f"{stage_name(len(later) + 1)}_x{n}" for n in range(2, config.refinements + 1)] if later else []
        self.names = [stage_name(stage) for stage in range(1, len(later) + 2)] + repeats  # of what `stages` returns

    def stages(self, pictures: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Joints (N,J,2), in picture pixels, after each stage."""
        half = np.array(self.config.size) / 2
        found = [self.stage1(pictures).reshape(len(pictures), -1, 2) + half]
        for regressor in self.later:
            found.append(self.refine(regressor, pictures, found[-1]))
        return found

    def refine(self, regressor: Regressor, pictures: Sequence[np.ndarray], joints: np.ndarray) -> np.ndarray:
        """One refinement: each joint moves by what the regressor sees in a patch around it; the diameter is the prediction's."""
        return joints + moves(self.config, regressor, pictures, joints)


def moves(config: Config, regressor: Regressor, pictures: Sequence[np.ndarray], joints: np.ndarray) -> np.ndarray:
    """What a later stage would move joints (N,J,2) by, in picture pixels (N,J,2)."""
    side = config.sides(joints)
    patches = [patch(picture, center, s) for picture, points, s in zip(pictures, joints, side) for center in points]
    found = regressor(patches)
    if config.joint_outputs:
        found = own_outputs(found, joints.shape[1])
    return found.reshape(joints.shape) / PATCH_UNIT * side[:, None, None]


def own_outputs(outputs: np.ndarray, joints: int) -> np.ndarray:
    """(N*J, 2J) outputs of the patches of N persons' joints -> (N*J, 2): of each patch those that belong to its joint."""
    return outputs.reshape(-1, joints, joints, 2)[:, np.arange(joints), np.arange(joints)].reshape(-1, 2)


def pick_snapshot(config: Config, stage: int, calibrated: bool = True) -> Path:
    """The snapshot of a stage: a path, an iteration, or by default the last one in its folder, of two the `calibrated` one if that may be.

    DataError saying how to make one.
    """
    wanted = {1: config.snapshot1, 2: config.snapshot2}.get(stage)
    folder = config.model_folder(stage) / "snapshot"
    if wanted and not str(wanted).isdecimal():
        return Path(wanted)
    found = [p for p in folder.glob("*_iter_*.caffemodel") if p.stem.rpartition("_")[2].isdecimal()]
    found = [p for p in sorted(found, key=_is_calibrated) if calibrated or not _is_calibrated(p)]
    files = {int(p.stem.rpartition("_")[2]): p for p in found}
    if wanted and int(wanted) in files:
        return files[int(wanted)]
    if files and not wanted:
        return files[max(files)]
    have = (
        f"there are those of iterations {', '.join(map(str, sorted(files)))}"
        if files
        else f"train first: bash examples/train_k2hpd_deeppose.sh --dataset={config.dataset}"
    )
    raise DataError(
        f"no snapshot{f' of iteration {wanted}' if wanted else ''} in {folder}; {have}{f', or give a .caffemodel with --snapshot{stage}' if stage < 3 else ''}"
    )


def _is_calibrated(path: Path) -> bool:
    return "_calibrated_iter_" in path.name


def load_cascade(config: Config, stage: int | None = None, random_weights: bool = False) -> Cascade:
    """The stages of a project folder up to `stage` (default: all) with their snapshots. DataError when there is no such stage."""
    last = config.stages if stage is None else stage
    if not 1 <= last <= config.stages:
        raise DataError(f"there is no stage {last}: {config.project} has {config.stages}; --stages N sets how many")
    weights = {s: None if random_weights else pick_snapshot(config, s) for s in range(1, last + 1)}
    return Cascade(config, *(load_regressor(config, s, weights[s]) for s in weights))


def load_regressor(config: Config, stage: int, weights: Path | None) -> Regressor:
    """A stage of a project folder with a snapshot, or with random weights."""
    folder = config.model_folder(stage)
    scale = _training_scale(folder / "train_test.prototxt")
    return Regressor(folder / "deploy.prototxt", weights, folder / "train_mean.binaryproto", config, stage, scale)


def _training_scale(path: Path) -> float:
    """scale of the first Data layer's transform_param."""
    net = read_text(path, "NetParameter").message
    return next((layer.transform_param.scale for layer in net.layer if layer.type == "Data"), 1.0)
