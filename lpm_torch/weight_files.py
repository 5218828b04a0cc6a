"""Weight files: checkpoints of ours and of MobilePose, and plain tensors in six formats.

Ours are MobilePose's `.pth.tar` (epoch, state_dict, optimizer) with what a resumed run needs. Converted ones keep
settings and skeleton in the card beside them (FILE.card.json).
"""

from __future__ import annotations

import json
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from common.datasets.files import read_npz
from common.errors import DataError
from common.runs.checkpoints import STATE_FORMAT, CheckpointStore, check_compatible, collect_random_state
from common.runs.converting import card_path
from common.runs.process import Process
from common.runs.settings import resolve
from common.runs.shelf import missing_weights
from common.skeletons import Skeleton, from_card
from common.weights.pickles import check_zip, read_npy, read_torch
from lpm_torch.config import HOUSE, PRESETS, SUFFIX, SUFFIXES, Config

Weights = dict[str, np.ndarray]
FORMATS = (".pt", ".safetensors", ".npz", ".npy", ".h5", ".json")  # of plain tensors by name
# What weights were trained to read and to answer, whoever goes on with them.
MEANING_FIELDS = ("mode", "center_map", "background")
# What a resumed run must share with its beginning.
RUN_FIELDS = (
    *MEANING_FIELDS,
    "sigma",
    "input_width",
    "t",
    "masked_loss",
    "loss_norm",
    "deep_supervision",
    "accumulate",
)
# Settings of the machine and the run that trained, which mean nothing to whoever uses the weights.
_LEFT_BEHIND = (
    "device",
    "gpus",
    "workers",
    "threads",
    "compile",
    "out",
    "model_dir",
    "data_root",
    "weights",
    "resume",
    "limit",
)


def graph_fields(model: str) -> tuple[str, ...]:
    """The settings that decide which tensors a network has."""
    more = {"lpm_raw": ("t",), "hourglass": ("t", "depth", "block")}
    return ("model", "channels", "norm", *more.get(model, ()))


# ---- checkpoints -----------------------------------------------------------------------------------------------------


def open_store(folder: Path, process: Process) -> CheckpointStore:
    """The store of one run: last, previous and best `.pth.tar`."""
    return CheckpointStore(folder, _save, _load, suffix=SUFFIX, writer=process.is_main)


def _save(path: Path, state: dict) -> None:
    state = dict(state)
    state["state_dict"] = state.pop("model")  # the original's name, so that its programs find the weights
    torch.save(state, path)


def _load(path: Path) -> dict:
    state = read_checkpoint(path)
    state["model"] = state.pop("state_dict")
    if "format" in state or not {"epoch", "optimizer"} <= state.keys():
        return state
    # MobilePose's: weights, Adam's state and the epoch; how far that is in steps is not in it
    rest = {"format": STATE_FORMAT, "batch": 0, "step": 0, "config": {}, "about": {"batch_size": 0}, "losses": []}
    return {**rest, "random": collect_random_state(), "ema": None, "scaler": None, **state}


def _read_torch(path: Path) -> Any:
    """What PyTorch reads without running code, checksums verified first; of files with more in them (numpy scalars, a
    program's own classes) what common's reader makes of them, as tensors and plain values."""
    check_zip(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        return _with_tensors(read_torch(path))


def _with_tensors(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _with_tensors(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_tensors(item) for item in value]
    return torch.from_numpy(value) if isinstance(value, np.ndarray) and value.dtype.kind in "biufc" else value


def read_checkpoint(path: Path) -> dict:
    """A checkpoint of ours or of MobilePose, or plain weights with their card, as a dict with at least `state_dict`,
    without `module.` prefixes. Read without unpickling code. DataError when it is none.
    """
    if path.is_dir():
        raise missing_weights(HOUSE, SUFFIXES, f"folder {path} holds none")
    try:
        plain = path.suffix in (".safetensors", ".npz")
        state = as_tensors(read_weights(path)) if plain else _read_torch(path)
    except DataError:
        raise
    except Exception as error:  # torch, zipfile and pickle each have their own
        reason = f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
        raise DataError(f"{path} is not a readable PyTorch checkpoint ({reason})") from error
    if isinstance(state, dict) and state and all(isinstance(v, Tensor) for v in state.values()):
        state = {"state_dict": state}
    if not isinstance(state, dict) or "state_dict" not in state:
        remedy = "give a checkpoint of lpm_torch or MobilePose, or a file of name -> tensor"
        raise DataError(f"{path} has no field state_dict; {remedy}")
    if state.get("format", STATE_FORMAT) != STATE_FORMAT:
        raise DataError(f"{path}: field format is {state['format']}, this program reads {STATE_FORMAT}; train again")
    tensors = state["state_dict"].items()
    state["state_dict"] = {k.removeprefix("module.").removeprefix("_orig_mod."): v for k, v in tensors}
    if card_path(path).is_file():
        card = json.loads(card_path(path).read_text(encoding="utf-8"))
        state = {**{k: card[k] for k in ("config", "about") if card.get(k)}, **state}
    return state


def skeleton_of(found: dict, path: Path) -> Skeleton | None:
    """The skeleton of the data set behind a checkpoint; None for an original's file, which names no joints."""
    stored = found.get("about", {}).get("skeleton")
    return from_card(stored, f"{path}: field about.skeleton") if stored else None


def config_of(found: dict, path: Path | None, options: dict[str, Any]) -> Config:
    """The settings of a checkpoint under those of `options` that its weights leave open.

    A file without settings (`found` may be empty) has MobilePose's, lpm_official the authors', and what its tensors
    tell. DataError when `model` or `mode` of `options` is another.
    """
    given = {name: value for name, value in options.items() if value is not None}
    resolve(Config, given)  # names and values are settings
    stored = found.get("config")
    if stored is None:
        known = _settings_of(network_of(shapes_of(found["state_dict"]), path)) if found else {}
        model = known.get("model", given.get("model"))
        base = resolve(Config, PRESETS["official" if model == "lpm_official" else "paper"], given, known)
    else:
        known = stored
        fields = {k: v for k, v in stored.items() if k in Config.__dataclass_fields__ and k not in _LEFT_BEHIND}
        base = resolve(Config, fields)
    for name in ("model", "mode"):
        if name in known and given.get(name, known[name]) != known[name]:
            remedy = f"run with --{name}={known[name]}, or give another checkpoint"
            raise DataError(f"{path} is a checkpoint of --{name}={known[name]}, not of {given[name]}; {remedy}")
    return base.checked()


def shapes_of(weights: dict) -> dict[str, tuple[int, ...]]:
    """Tensors or arrays by name -> their shapes."""
    return {name: tuple(value.shape) for name, value in weights.items()}


def _settings_of(network: dict) -> dict:
    names = {"name": "model", "width": "channels", "T": "t"}
    return {names.get(k, k): v for k, v in network.items() if k != "joints"}


def load_weights(model: nn.Module, found: dict, path: Path, raw: bool = False) -> None:
    """A checkpoint's weights into `model`, every tensor matched; its moving average, if any, unless `raw`.

    DataError naming the first differing tensors of a checkpoint of another network, width or joint count.
    """
    weights, own = weights_of(found, raw), model.state_dict()
    missing = [k for k in own if k not in weights and not k.endswith("num_batches_tracked")]
    extra = [k for k in weights if k not in own]
    other = [k for k in own if k in weights and weights[k].shape != own[k].shape]
    shapes = [f"{k} {tuple(weights[k].shape)} instead of {tuple(own[k].shape)}" for k in other]
    if missing or extra or shapes:
        parts = [("lacks", missing), ("has besides", extra), ("has other shapes:", shapes)]
        detail = "; ".join(f"{word} {', '.join(n[:3])}{' ...' if len(n) > 3 else ''}" for word, n in parts if n)
        remedy = "Give --model and --channels as it was trained"
        raise DataError(f"{path} does not fit {type(model).__name__}: it {detail}. {remedy}")
    model.load_state_dict(weights, strict=False)


def weights_of(found: dict, raw: bool = False) -> dict[str, Tensor]:
    """The tensors of a checkpoint that are used: the moving average where it has one, unless `raw`."""
    return found["ema"]["shadow"] if found.get("ema") and not raw else found["state_dict"]


ANSWERS = re.compile(r"conv7_stage1|M(conv|res)5(_stage\d+)?")  # layers with an output a belief map
_READS = re.compile(r"[gfio]_x(_stage\d+)?|Mconv1_stage\d+|final_layer")  # layers with an input a belief map


def first_weights(model: nn.Module, path: Path, skeleton: Skeleton, old: Skeleton, config: Config) -> None:
    """Begin a training with another's weights. `skeleton`, `old`: the network's here and there; where they differ,
    layers that answer with belief maps are taken joint by joint, and those that read them start fresh, which is said.
    """
    found = read_checkpoint(path)
    if found.get("config"):
        wanted = {name: getattr(config, name) for name in (*graph_fields(config.model), *MEANING_FIELDS)}
        check_compatible(found["config"], wanted, wanted, path)
    if old == skeleton:
        load_weights(model, found, path)
        print(f"first weights: {path}")
        return
    if config.model in ("hourglass", "coord_lpm"):
        why = f"{config.model} takes no weights of other joints"
        raise DataError(f"{path} answers {old.name}, this run {skeleton.name}; {why}")
    weights, fresh = weights_of(found), set()
    order = [old.joints.index(j) if j in old.joints else -1 for j in skeleton.joints] + [len(old)]
    here, there = zip(*((i, k) for i, k in enumerate(order) if k >= 0))
    with torch.no_grad():
        for name, own in model.state_dict().items():
            layer, value = name.rsplit(".", 1)[0], weights.get(name)
            if value is not None and ANSWERS.fullmatch(layer) and value.shape[1:] == own.shape[1:]:
                own[list(here)] = value[list(there)].to(own.device)
            elif value is not None and value.shape == own.shape and not _READS.fullmatch(layer):
                own.copy_(value)
            else:
                fresh.add(layer)
    taken = f"{len(here) - 1} of {len(skeleton)} joints by name; fresh: {', '.join(sorted(fresh))}"
    print(f"first weights: {path} ({old.name}); {taken}")


# ---- plain tensors ---------------------------------------------------------------------------------------------------


def as_tensors(weights: Weights) -> dict[str, Tensor]:
    """Arrays by name as tensors."""
    return {name: torch.from_numpy(np.asarray(array)) for name, array in weights.items()}


def write_weights(path: Path, weights: Weights) -> None:
    """Arrays by name in the format of the suffix, one of `FORMATS`."""
    if path.suffix == ".pt":
        torch.save(as_tensors(weights), path)
    elif path.suffix == ".safetensors":
        from safetensors.numpy import save_file

        save_file(weights, path)
    elif path.suffix == ".h5":
        import h5py

        with h5py.File(path, "w") as file:
            for name, array in weights.items():
                file.create_dataset(name, data=array)
    elif path.suffix == ".json":
        path.write_text(json.dumps({k: v.tolist() for k, v in weights.items()}), encoding="utf-8")
    else:
        with open(path, "wb") as file:
            if path.suffix == ".npz":
                np.savez(file, **weights)
            else:  # a pickle, as the original's converter writes
                np.save(file, np.array(weights, dtype=object), allow_pickle=True)


def read_weights(path: Path) -> Weights:
    """What `write_weights` wrote."""
    if path.suffix == ".pt":
        return {k: v.numpy() for k, v in torch.load(path, map_location="cpu", weights_only=True).items()}
    if path.suffix == ".safetensors":
        from safetensors.numpy import load_file

        return load_file(path)
    if path.suffix == ".h5":
        import h5py

        with h5py.File(path) as file:
            return {name: np.asarray(file[name]) for name in file}
    if path.suffix == ".json":
        # float32 -> shortest decimal of the same double -> float32 is exact; integers are counters
        stored = {k: np.asarray(v) for k, v in json.loads(path.read_text(encoding="utf-8")).items()}
        return {k: v.astype(np.float32) if v.dtype == np.float64 else v for k, v in stored.items()}
    if path.suffix == ".npy":
        return read_npy(path)
    return read_npz(path, "file of weights")


def network_of(shapes: dict[str, tuple[int, ...]], source: str | Path | None) -> dict:
    """Parameter names and shapes -> the arguments of `build_model`. DataError when they are none of this house."""
    stages = [int(match[1]) for k in shapes if (match := re.fullmatch(r"conv1_stage(\d+)\.weight", k))]
    marks = {
        "final_layer.weight": "cpm",
        "g_x_stage2.weight": "lpm_raw",
        "g_x_stage6.weight": "lpm",
        "scale_g.bias": "lpm_official",
    }
    name = next((network for mark, network in marks.items() if mark in shapes), None)
    if name:
        more = {"T": max(stages) - 1} if name == "lpm_raw" else {}
        norm = {"norm": "batch"} if "conv1_stage1.norm.weight" in shapes else {}
        width = shapes["conv1_stage1.weight"][0] / 128
        return {"name": name, "joints": shapes["conv7_stage1.weight"][0] - 1, "width": width, **more, **norm}
    if "process.process.0.weight" in shapes:
        width = shapes["process.process.0.weight"][0] / 128
        return {"name": "coord_lpm", "joints": shapes["process.process.17.weight"][0], "width": width}
    depths = [int(k.split(".")[2]) for k in shapes if k.startswith("hg_0.layers.")]
    if not depths:
        first = ", ".join(sorted(shapes)[:3])
        raise DataError(f"{source}: its tensors ({first}, ...) belong to no network of lpm_torch")
    last, block = f"hg_0.layers.{max(depths)}.2", "conv"
    if "res1.conv1.weight" not in shapes:
        block = "inv" if shapes["res1.conv.3.weight"][1] == 1 else "res"
    maps = shapes[last + (".conv1.weight" if block == "conv" else ".conv.6.weight")][0]
    width = shapes["conv1.weight"][0] / 64
    return {"name": "hourglass", "joints": maps - 1, "width": width, "depth": 1 + max(depths), "block": block}
