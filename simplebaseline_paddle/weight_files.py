"""Every kind of weight file that fits PoseResNet -> {our name: array}, without a framework; and back."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import DataError
from common.weights import fluid, pickles
from simplebaseline_paddle.config import BLOCKS
from simplebaseline_paddle.names import fluid_names, from_fluid, from_torch, is_backbone, layers, to_torch

TORCH_SUFFIXES = (".pth", ".pt", ".tar")


def read_state(path: str | Path) -> dict:
    """A checkpoint as a dict with `state_dict` under our names; ours has all of a run's state besides.

    A folder or a file `__params__`: PaddlePaddle 1.x; `.pdparams`: ours, or a bare state dict; `.pth`, `.pt`, `.pth.tar`: PyTorch.
    DataError when it does not exist or cannot be read.
    """
    path = Path(path)
    if not path.exists():
        raise DataError(f"checkpoint {path} does not exist; give a Fluid folder, a .pdparams or a .pth.tar file")
    if path.is_dir():
        return {"state_dict": _from_folder(path)}
    if path.suffix == ".pdparams":
        return _with_state_dict(path, pickles.read_paddle(path))
    if path.suffix in TORCH_SUFFIXES:
        state = _with_state_dict(path, pickles.read_torch(path))
        return {"state_dict": from_torch(state["state_dict"])}
    if fluid.is_variable(path):
        return {"state_dict": _from_combined(path)}
    raise DataError(
        f"checkpoint {path}: unknown kind; give a Fluid folder, a combined file __params__, .pdparams, .pth or .pth.tar"
    )


def _with_state_dict(path: Path, state: Any) -> dict:
    if (
        isinstance(state, dict)
        and state
        and "state_dict" not in state
        and all(isinstance(v, np.ndarray) for v in state.values())
    ):
        state = {"state_dict": state}
    if not isinstance(state, dict) or not isinstance(state.get("state_dict"), dict):
        raise DataError(f"{path} has neither tensors nor a field state_dict; give a checkpoint of PoseResNet")
    return state


def _from_folder(folder: Path) -> dict[str, np.ndarray]:
    combined = folder / "__params__"
    if combined.is_file():
        return _from_combined(combined)
    present = {f.name for f in folder.iterdir()}
    wanted = [n for depth in BLOCKS for n in fluid_names(depth) if n in present]
    if not wanted:
        raise DataError(f"{folder} holds no variable of PoseResNet; give the folder with files such as conv2d_0.w_0")
    return from_fluid(fluid.read_folder(folder, dict.fromkeys(wanted)))


def _from_combined(path: Path) -> dict[str, np.ndarray]:
    for depth in BLOCKS:
        try:
            return from_fluid(fluid.read_combined(path, fluid_names(depth)))
        except DataError:
            continue
    fluid_error = (
        f"its variables are not the {', '.join(str(len(fluid_names(d))) for d in BLOCKS)} of a PoseResNet of any depth"
    )
    raise DataError(
        f"{path}: {fluid_error}, or it is damaged; a combined training checkpoint must be saved again for inference"
    )


def read_backbone(path: str | Path) -> dict[str, np.ndarray]:
    """The ResNet's tensors of an ImageNet or pose checkpoint; `fc`, counters, learning rates and heads are left out. DataError as `read_state`."""
    path = Path(path)
    if path.is_dir() and not (path / "__params__").is_file():
        present = {f.name for f in path.iterdir()}
        # the deepest network whose backbone is there: names of a shallower one are among those of a deeper one
        for depth in sorted(BLOCKS, reverse=True):
            table = {n: ours for n, ours in fluid_names(depth).items() if is_backbone(ours)}
            if table.keys() <= present and _same_shapes(path, table, depth):
                return {table[n]: a for n, a in fluid.read_folder(path, table).items()}
        raise DataError(
            f"{path} holds the backbone of no ResNet; give P's folder resnet_50/115, a .pdparams or a .pth file"
        )
    return {n: a for n, a in read_state(path)["state_dict"].items() if is_backbone(n)}


def _same_shapes(path: Path, table: dict[str, str], depth: int) -> bool:
    """Whether the last convolution of the backbone is as wide as a network of this depth has it (34 and 50 share names)."""
    last = max((n for n in table if n.startswith("conv2d_")), key=lambda n: int(n.split("_")[1].split(".")[0]))
    return fluid.read_variable(path / last)[0].shape[0] == (512 if depth < 50 else 2048)


def write_weights(path: str | Path, tensors: Mapping[str, np.ndarray], depth: int) -> None:
    """Arrays under our names as a Fluid folder, or by suffix as `.pth`, `.pth.tar`. DataError for P's format when its graph has no such layers."""
    path = Path(path)
    if path.suffix in TORCH_SUFFIXES:
        pickles.write_torch(path, {to_torch(n): a for n, a in tensors.items()})
        return
    table = fluid_names(depth)
    strangers = set(tensors) - set(table.values())
    if strangers or len(layers(depth)) * 5 + 2 != len(tensors):
        raise DataError(
            f"{path}: the Paddle project's network has no {sorted(strangers)[:1] or 'such layers'}; write a .pdparams or .pth instead"
        )
    fluid.write_folder(path, {n: tensors[ours] for n, ours in table.items()})
