"""Weights from files: project folders, snapshots, single `.caffemodel` and `.pt` files, first weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from common.errors import DataError
from common.runs.shelf import REPOSITORY
from common.skeletons import Skeleton, from_card
from common.weights.caffe import read_caffemodel
from common.weights.pickles import check_zip
from deeppose_caffe_port.config import HOUSE, Config

if TYPE_CHECKING:
    from torch import Tensor

    from deeppose_caffe_port.model import CaffeNet


def find_project(given: str | Path | None) -> Path | None:
    """The project folder that `--weights` names, itself or a file in it; without it the newest. None: there is none."""
    if given is not None:
        path = Path(given)
        if not path.exists():
            raise DataError(f"weights: {path} is neither a project folder nor a .caffemodel; {_known()}")
        return next((p for p in (path, *path.absolute().parents) if (p / "project.json").is_file()), None)
    newest = max(_projects(), key=lambda p: p.stat().st_mtime, default=None)
    if newest is not None:
        print(f"weights: {newest} (the newest project of {HOUSE}; --weights takes others)")
    return newest


def _projects() -> list[Path]:
    bases = dict.fromkeys((Path("output") / HOUSE, REPOSITORY / "output" / HOUSE))
    folders = [file.parent for base in bases for file in base.glob("*/project.json")]
    return [folder for folder in folders if any(folder.glob("models/*/snapshot/*.caffemodel"))]


def _known() -> str:
    found = ", ".join(map(str, _projects())) or "none yet"
    return f"projects here: {found}; make one with `bash examples/train_k2hpd_deeppose.sh`, or give --weights"


def missing_project() -> DataError:
    """The error where weights are needed and there are none."""
    return DataError(f"weights: there are none. {_known()}")


def pick_snapshot(config: Config, stage: int) -> Path:
    """The snapshot of a stage: a path, an iteration, or the last one in its folder. DataError where there is none."""
    wanted = {1: config.snapshot1, 2: config.snapshot2}.get(stage)
    folder = config.model_folder(stage) / "snapshot"
    if wanted and not wanted.isdecimal():
        return Path(wanted)
    found = [p for p in folder.glob("*_iter_*.caffemodel") if p.stem.rpartition("_")[2].isdecimal()]
    files = {int(p.stem.rpartition("_")[2]): p for p in found}
    if files and (not wanted or int(wanted) in files):
        return files[int(wanted) if wanted else max(files)]
    have = f"there are those of iterations {', '.join(map(str, sorted(files)))}" if files else "train first"
    which = f" of iteration {wanted}" if wanted else ""
    train = f"bash examples/train_k2hpd_deeppose.sh --dataset={config.dataset}"
    raise DataError(f"no snapshot{which} in {folder}; {have}: {train}")


def load_torch(path: Path):
    """What a `.pt` file holds, tensors and plain values only; DataError when it is missing or damaged."""
    import torch

    check_zip(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for damaged and foreign files
        raise DataError(f"{path} cannot be read ({type(error).__name__}: {str(error)[:200]})") from error


def load_whole(net: CaffeNet, path: Path) -> None:
    """All weights of a net from a `.caffemodel` or a `.pt` (state dict, checkpoint). DataError when one is missing."""
    if path.suffix == ".pt":
        state = load_torch(path)
        try:
            net.load_state_dict(state.get("model", state))
        except (RuntimeError, AttributeError, TypeError) as error:
            raise DataError(f"{path} does not fit {net.file} ({str(error)[:300]})") from error
    elif missing := net.load(path):
        raise DataError(f"{path} has no weights for layer {missing[0]} of {net.file}; give the snapshot of this net")


def first_weights(net: CaffeNet, path: Path, skeleton: Skeleton | None) -> str:
    """Weights to start from, by layer name; returns what was taken, in words.

    Outputs of a project for another `skeleton` are taken by joint name; those of its new joints keep their first
    values.
    """
    weights, last, said = read_caffemodel(path), net.order[-2] if net.loss_weights else net.order[-1], ""
    project = find_project(path)
    if skeleton and project:
        card = json.loads((project / "project.json").read_text(encoding="utf-8"))["skeleton"]
        source = from_card(card, f"{project / 'project.json'}: field skeleton")
        blobs = weights.get(last.param.name)
        fits = len(last.blobs[0]) == 2 * len(skeleton)
        if blobs and len(blobs[0]) == 2 * len(source) and fits and source != skeleton:
            weights[last.param.name] = [_by_joint(b, own, source, skeleton) for b, own in zip(blobs, last.blobs)]
            shared = [j for j in skeleton.joints if j in source.joints]
            said = f"; outputs by joint name: {', '.join(shared) or 'none'} of {len(skeleton)} joints"
    missing = net.load_blobs(weights, str(path))
    return (f"initial values kept in {', '.join(missing)}" if missing else "all weights") + said


def _by_joint(blob: np.ndarray, own: Tensor, source: Skeleton, target: Skeleton) -> np.ndarray:
    mixed = own.detach().cpu().numpy().copy()
    for row, joint in enumerate(target.joints):
        if joint in source.joints:
            start = 2 * source.index(joint)
            mixed[2 * row : 2 * row + 2] = blob[start : start + 2].reshape(mixed[2 * row : 2 * row + 2].shape)
    return mixed
