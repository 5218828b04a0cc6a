"""Weights from files: project folders, snapshots, single `.caffemodel` and `.pt` files, first weights."""

from __future__ import annotations

import atexit
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from common.datasets.files import read_json, read_npz
from common.errors import DataError
from common.files import atomic_write
from common.runs.converting import check_numbers, halved, widened
from common.runs.shelf import outputs, shipped
from common.skeletons import Skeleton, from_card
from common.weights.caffe import read_caffemodel, write_caffemodel
from common.weights.pickles import read_torch
from deeppose_caffe_port.config import HOUSE, Config

if TYPE_CHECKING:
    from deeppose_caffe_port.model import CaffeNet

_SCRIPT = "bash examples/train_k2hpd_deeppose.sh"
_UNPACKED: dict[str, str] = {}  # folder -> its .npz


def find_project(given: str | Path | None) -> Path | None:
    """The project folder that `--weights` names, itself or a file in it; without it the newest. None: there is none."""
    if given is not None:
        path = Path(given)
        if not path.exists():
            raise missing_project(f"{path} is neither a project folder nor a .caffemodel")
        return next((p for p in (path, *path.absolute().parents) if (p / "project.json").is_file()), None)
    newest = max(_projects(), key=lambda p: p.stat().st_mtime, default=None)
    if newest is not None:
        print(f"weights: {newest} (the newest project of {HOUSE}; --weights takes others)")
    return newest


def pack(config: Config, stages: int, path: Path) -> None:
    """A project's stages as one `.npz`: settings, prototxts and mean pictures as bytes, blobs of 16 bits."""
    arrays: dict[str, np.ndarray] = {}
    blobs: dict[str, np.ndarray] = {}
    files = [config.project / "project.json"]
    for stage in range(1, stages + 1):
        folder, snapshot = config.model_folder(stage), pick_snapshot(config, stage)
        files += [folder / name for name in ("deploy.prototxt", "train_test.prototxt", "train_mean.binaryproto")]
        place = snapshot.relative_to(config.project) if snapshot.is_relative_to(config.project) else snapshot.name
        for layer, found in read_caffemodel(snapshot).items():
            blobs |= {f"blob|{place}|{layer}|{i}": blob for i, blob in enumerate(found)}
    for file in filter(Path.is_file, files):
        arrays[f"file|{file.relative_to(config.project)}"] = np.frombuffer(file.read_bytes(), np.uint8)

    def write(temporary: Path) -> None:
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_LZMA) as packed:  # a tenth smaller than NumPy's own
            for name, array in {**arrays, **halved(blobs)}.items():
                with packed.open(f"{name}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, array)

    atomic_write(path, write)


def opened(given: str | Path | None) -> str | Path | None:
    """`given`, or the project folder that a shipped name or FILE.npz of `pack` unpacks to, as long as this process
    lives. DataError for another `.npz`."""
    path = Path(given or "")
    path = path if path.exists() else shipped(HOUSE).get(str(given), path)
    if given is None or path.suffix != ".npz":
        return given
    folder = Path(tempfile.mkdtemp())
    _UNPACKED[str(folder)] = str(path)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    nets: dict[str, dict[str, tuple[str, list[np.ndarray]]]] = {}
    name = ""
    try:
        for name, array in widened(read_npz(path, "packed project")).items():
            kind, place, *which = name.split("|")
            file = folder / place
            if not file.resolve().is_relative_to(folder.resolve()) or kind not in ("file", "blob"):
                raise ValueError("it has no place there")
            file.parent.mkdir(parents=True, exist_ok=True)
            if kind == "file":
                file.write_bytes(array.tobytes())
            else:
                nets.setdefault(place, {}).setdefault(which[0], ("", []))[1].append(array)
        for name, layers in nets.items():
            write_caffemodel(folder / name, layers)
    except (IndexError, OSError, TypeError, ValueError) as error:
        raise DataError(f"{path}: {name} is no part of a packed project ({error}); make it with convert.py") from error
    return folder


@contextmanager
def as_packed() -> Iterator[None]:
    """Errors about what `opened` unpacked name the file that it comes from."""
    try:
        yield
    except DataError as error:
        text = str(error)
        for folder, path in _UNPACKED.items():
            text = text.replace(folder, path)
        raise type(error)(text) from error


def _projects() -> list[Path]:
    folders = [file.parent for base in outputs(HOUSE) for file in base.glob("*/project.json")]
    return [folder for folder in folders if any(folder.glob("models/*/snapshot/*.caffemodel"))]


def missing_project(why: str = "there are none yet") -> DataError:
    """The error where weights are needed and there are none; lists the projects that have some."""
    have = f"runs here: {', '.join(map(str, _projects())) or 'none'}; shipped: {', '.join(shipped(HOUSE)) or 'none'}"
    return DataError(f"weights: {why}. {have}. Train with `{_SCRIPT}`, or give --weights one of them")


def pick_snapshot(config: Config, stage: int) -> Path:
    """The snapshot of a stage: a path, an iteration, or the last one in its folder. DataError where there is none."""
    wanted, folder = (config.snapshot1, config.snapshot2)[stage - 1], config.model_folder(stage) / "snapshot"
    if wanted and not wanted.isdecimal():
        return Path(wanted)
    found = {p.stem.rpartition("_")[2]: p for p in folder.glob("*_iter_*.caffemodel")}
    files = {int(number): path for number, path in found.items() if number.isdecimal()}
    number = int(wanted) if wanted else max(files, default=0)
    if number not in files:
        have = f"there are those of iterations {', '.join(map(str, sorted(files)))}" if files else "train first"
        which = f" of iteration {wanted}" if wanted else ""
        raise DataError(f"no snapshot{which} in {folder}; {have}: {_SCRIPT} --dataset={config.dataset}")
    return files[number]


def load_whole(net: CaffeNet, path: Path) -> None:
    """All weights of a net from a `.caffemodel` or a `.pt` (state dict, checkpoint). DataError when one is missing."""
    if path.suffix == ".pt":
        import torch

        try:
            state = (found := read_torch(path)).get("model", found)
            check_numbers(state, path)
            net.load_state_dict({name: torch.from_numpy(array) for name, array in state.items()})
        except (RuntimeError, AttributeError, TypeError) as error:
            raise DataError(f"{path} does not fit {net.file} ({str(error)[:300]})") from error
    elif missing := net.load(path):
        raise DataError(f"{path} has no weights for layer {missing[0]} of {net.file}; give the snapshot of this net")


def first_weights(net: CaffeNet, path: Path, skeleton: Skeleton | None) -> str:
    """Weights to start from, by layer name; returns what was taken, in words. Outputs of a project for another
    `skeleton` are taken by joint name."""
    weights, last, said = read_caffemodel(path), net.order[-2] if net.loss_weights else net.order[-1], ""
    project, blobs = find_project(path), weights.get(last.param.name)
    if skeleton and project and blobs:
        card = read_json(project / "project.json", {"skeleton": (dict, str)})["skeleton"]
        source = from_card(card, f"{project / 'project.json'}: field skeleton")
        fits = len(last.blobs[0]) == 2 * len(skeleton) and len(blobs[0]) == 2 * len(source)
        if fits and source != skeleton:
            shared = [joint for joint in skeleton.joints if joint in source.joints]
            mine, theirs = ([s.index(j) for j in shared] for s in (skeleton, source))
            mixed = [own.detach().cpu().numpy().copy() for own in last.blobs]
            for own, other in zip(mixed, blobs):  # two rows a joint
                own.reshape(len(skeleton), 2, -1)[mine] = other.reshape(len(source), 2, -1)[theirs]
            weights[last.param.name] = mixed
            said = f"; outputs by joint name: {', '.join(shared) or 'none'} of {len(skeleton)} joints"
    missing = net.load_blobs(weights, str(path))
    return (f"initial values kept in {', '.join(missing)}" if missing else "all weights") + said
