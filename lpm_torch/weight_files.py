"""Weight files of many kinds as a dict of name -> array, and the network that a set of weights belongs to."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np

from common.errors import DataError

Weights = dict[str, np.ndarray]


def _save_torch(path: Path, weights: Weights) -> None:
    import torch

    torch.save({k: torch.from_numpy(v) for k, v in weights.items()}, path)


def _load_torch(path: Path) -> Weights:
    import torch

    return {k: v.numpy() for k, v in torch.load(path, map_location="cpu", weights_only=True).items()}


def _save_safetensors(path: Path, weights: Weights) -> None:
    from safetensors.numpy import save_file

    save_file(weights, path)


def _load_safetensors(path: Path) -> Weights:
    from safetensors.numpy import load_file

    return load_file(path)


def _save_npz(path: Path, weights: Weights) -> None:
    with open(path, "wb") as file:
        np.savez(file, **weights)


def _load_npz(path: Path) -> Weights:
    with np.load(path, allow_pickle=False) as data:
        return {k: data[k] for k in data.files}


def _save_npy(path: Path, weights: Weights) -> None:
    with open(path, "wb") as file:
        np.save(file, np.array(weights, dtype=object), allow_pickle=True)


def _load_npy(path: Path) -> Weights:
    # a pickle, as the original's converter writes: only ever read back right after it was written here
    return np.load(path, allow_pickle=True).item()


def _save_h5(path: Path, weights: Weights) -> None:
    import h5py

    with h5py.File(path, "w") as file:
        for name, array in weights.items():
            file.create_dataset(name, data=array)


def _load_h5(path: Path) -> Weights:
    import h5py

    with h5py.File(path) as file:
        return {name: np.asarray(file[name]) for name in file}


def _save_json(path: Path, weights: Weights) -> None:
    path.write_text(json.dumps({k: v.tolist() for k, v in weights.items()}), encoding="utf-8")


def _load_json(path: Path) -> Weights:
    # float32 -> shortest decimal of the same double -> float32 is exact; integers are counters
    stored = {k: np.asarray(v) for k, v in json.loads(path.read_text(encoding="utf-8")).items()}
    return {k: v.astype(np.float32) if v.dtype == np.float64 else v for k, v in stored.items()}


# suffix -> writer, reader
FORMATS: dict[str, tuple[Callable[[Path, Weights], None], Callable[[Path], Weights]]] = {
    ".pt": (_save_torch, _load_torch),
    ".safetensors": (_save_safetensors, _load_safetensors),
    ".npz": (_save_npz, _load_npz),
    ".npy": (_save_npy, _load_npy),
    ".h5": (_save_h5, _load_h5),
    ".json": (_save_json, _load_json),
}


def save_checked(path: Path, weights: Weights, check: Callable[[Weights], None] | None = None) -> None:
    """Write `weights` in the format of the suffix, read the file back, compare bit for bit and call `check` with what was read; only then
    does the file get its name. DataError when anything differs."""
    from common.files import atomic_write

    save, load = FORMATS[path.suffix]

    def write(temporary: Path) -> None:
        save(temporary, weights)
        back = load(temporary)
        bad = [
            k
            for k in weights
            if k not in back or not np.array_equal(back[k], weights[k], equal_nan=weights[k].dtype.kind == "f")
        ]
        if bad or len(back) != len(weights):
            raise DataError(
                f"{path}: {(bad or sorted(set(back) - set(weights)))[0]} is not what was written; nothing was saved"
            )
        if check:
            check(back)

    atomic_write(path, write)


def network_of(shapes: dict[str, tuple[int, ...]], source: str | Path) -> dict:
    """Parameter names and shapes -> the arguments of `build_model`. DataError when they belong to no network of this house."""
    stages = [int(match[1]) for k in shapes if (match := re.fullmatch(r"conv1_stage(\d+)\.weight", k))]
    arguments: dict = {}
    if "final_layer.weight" in shapes:
        name = "cpm"
    elif "g_x_stage2.weight" in shapes:
        name = "lpm_raw"
        arguments["T"] = max(stages) - 1
    elif "g_x_stage6.weight" in shapes:
        name = "lpm"
    elif "scale_g.bias" in shapes:
        name = "lpm_official"
    elif "hg_0.layers.0.0.bn1.weight" in shapes or "hg_0.layers.0.0.conv.0.weight" in shapes:
        return _hourglass_of(shapes)
    elif "process.process.0.weight" in shapes:
        return {
            "name": "coord_lpm", "joints": shapes["process.process.17.weight"][0], "width": shapes["process.process.0.weight"][0] / 128,
        }  # fmt: skip
    else:
        raise DataError(
            f"{source}: its tensors ({', '.join(sorted(shapes)[:3])}, ...) belong to no network of lpm_torch"
        )
    if "conv1_stage1.norm.weight" in shapes:
        arguments["norm"] = "batch"
    width = shapes["conv1_stage1.weight"][0] / 128
    return {"name": name, "joints": shapes["conv7_stage1.weight"][0] - 1, "width": width, **arguments}


def _hourglass_of(shapes: dict[str, tuple[int, ...]]) -> dict:
    depth = 1 + max(int(k.split(".")[2]) for k in shapes if k.startswith("hg_0.layers."))
    if "res1.conv1.weight" in shapes:
        block, maps = "conv", shapes[f"hg_0.layers.{depth - 1}.2.conv1.weight"][0]
    else:
        block = "inv" if shapes["res1.conv.3.weight"][1] == 1 else "res"
        maps = shapes[f"hg_0.layers.{depth - 1}.2.conv.6.weight"][0]
    return {
        "name": "hourglass",
        "joints": maps - 1,
        "width": shapes["conv1.weight"][0] / 64,
        "depth": depth,
        "block": block,
    }
