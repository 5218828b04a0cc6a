"""Weight files: checkpoints of ours and of MobilePose, and plain tensors in two formats.

Ours are MobilePose's `.pth.tar` (epoch, state_dict, optimizer) with what a resumed run needs. Converted ones keep
settings and skeleton in the card beside them (FILE.card.json).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from common.datasets.files import read_json, read_npz
from common.errors import DataError, named
from common.runs.checkpoints import STATE_FORMAT, CheckpointStore, check_compatible, check_stored, collect_random_state
from common.runs.converting import card_path, check_numbers
from common.runs.process import Process
from common.runs.settings import resolve
from common.runs.shelf import missing_weights
from common.skeletons import Skeleton, from_card
from common.weights.pickles import read_torch
from lpm_torch.config import HOUSE, PRESETS, SUFFIX, SUFFIXES, Config, network_skeleton

Weights = dict[str, np.ndarray]
# What weights were trained to read and to answer, whoever goes on with them.
MEANING_FIELDS = ("mode", "center_map", "background")
# What a resumed run must share with its beginning.
RUN_FIELDS = (*MEANING_FIELDS, *"sigma input_width widths t masked_loss loss_norm deep_supervision accumulate".split())
# Settings of the machine and the run that trained, which mean nothing to whoever uses the weights.
_LEFT_BEHIND = {"device", "gpus", "workers", "threads", "out", "model_dir", "data_root", "weights", "resume"}
ANSWERS = re.compile(r"conv7_stage1|M(conv|res)5(_stage\d+)?")  # layers with an output a belief map
_READS = re.compile(r"[gfio]_x(_stage\d+)?|Mconv1_stage\d+|final_layer")  # layers with an input a belief map


def graph_fields(model: str) -> tuple[str, ...]:
    """The settings that decide which tensors a network has."""
    more = {"lpm_raw": ("t",), "hourglass": ("t", "depth", "block")}
    return ("model", "channels", "norm", *more.get(model, ()))


def open_store(folder: Path, process: Process) -> CheckpointStore:
    """The store of one run: last, previous and best `.pth.tar`."""

    def save(path: Path, state: dict) -> None:
        # the original's name, so that its programs find the weights
        torch.save({"state_dict" if name == "model" else name: value for name, value in state.items()}, path)

    return CheckpointStore(folder, save, _load, suffix=SUFFIX, writer=process.is_main)


def _load(path: Path) -> dict:
    state = read_checkpoint(path)
    state["model"] = state.pop("state_dict")
    if "format" in state or not {"epoch", "optimizer"} <= state.keys():
        return state
    # MobilePose's: weights, Adam's state and the epoch; how far that is in steps is not in it
    rest = {"format": STATE_FORMAT, "batch": 0, "step": 0, "config": {}, "about": {"batch_size": 0}, "losses": []}
    return {**rest, "random": collect_random_state(), "ema": None, **state}


def write_weights(path: Path, weights: Weights) -> None:
    """Arrays by name as `.pt` or `.npz`."""
    torch.save(_as_tensors(weights), path) if path.suffix == ".pt" else np.savez_compressed(path, **weights)


def read_weights(path: Path) -> Any:
    """What `write_weights` or `torch.save` wrote, tensors as arrays."""
    return read_npz(path, "weight file") if path.suffix == ".npz" else read_torch(path)


def _as_tensors(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _as_tensors(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_as_tensors(item) for item in value]
    return torch.from_numpy(value) if isinstance(value, np.ndarray) and value.dtype.kind in "biufc" else value


def read_checkpoint(path: Path) -> dict:
    """A checkpoint of ours or of MobilePose, or plain weights with their card, as a dict with at least `state_dict`;
    read without unpickling code. DataError when it is none."""
    if path.is_dir():
        raise missing_weights(HOUSE, SUFFIXES, f"folder {path} holds none")
    state = _as_tensors(read_weights(path))
    if isinstance(state, dict) and state and all(isinstance(v, Tensor) for v in state.values()):
        state = {"state_dict": state}
    if not isinstance(state, dict) or not isinstance(state.get("state_dict"), dict):
        remedy = "give a checkpoint of lpm_torch or MobilePose, or a file of name -> tensor"
        raise DataError(f"{path} has no field state_dict; {remedy}")
    if str(state.get("format", STATE_FORMAT)) != str(STATE_FORMAT):
        raise DataError(f"{path}: field format is {state['format']}, this program reads {STATE_FORMAT}; train again")
    tensors = state["state_dict"].items()
    state["state_dict"] = {str(k).removeprefix("module.").removeprefix("_orig_mod."): v for k, v in tensors}
    if card_path(path).is_file():
        card = read_json(card_path(path), {})
        check_stored(card, card_path(path))
        state = {**{k: card[k] for k in ("config", "about") if card.get(k)}, **state}
    elif path.suffix == ".npz":  # only convert.py writes these
        raise DataError(f"{path} does not say its joints without {card_path(path).name}; put that beside it")
    check_stored(state, path)
    return state


def skeleton_of(found: dict, path: Path) -> Skeleton | None:
    """The skeleton of the data set behind a checkpoint; None for an original's file, which names no joints."""
    stored = (found.get("about") or {}).get("skeleton")
    return from_card(stored, f"{path}: field about.skeleton") if stored else None


def config_of(found: dict, path: Path | None, options: dict[str, Any]) -> Config:
    """The settings of a checkpoint under those of `options` that its weights leave open; a file without settings has
    MobilePose's, lpm_official the authors'. DataError when `model` or `mode` of `options` is another."""
    given = {name: value for name, value in options.items() if value is not None}
    resolve(Config, given)  # names and values are settings
    known = found.get("config")
    if known is None:
        known = network_of(found["state_dict"], path) if found else {}
        official = known.get("model", given.get("model")) == "lpm_official"
        base = resolve(Config, PRESETS["official" if official else "paper"], given, known)
    else:
        fields = Config.__dataclass_fields__.keys() - _LEFT_BEHIND
        with named(path):
            base = resolve(Config, {name: value for name, value in known.items() if name in fields}).checked()
    for name in ("model", "mode"):
        if name in known and given.get(name, known[name]) != known[name]:
            remedy = f"run with --{name}={known[name]}, or give another checkpoint"
            raise DataError(f"{path} is a checkpoint of --{name}={known[name]}, not of {given[name]}; {remedy}")
    return base.checked()


def network_of(weights: Mapping[str, Any], source: str | Path | None) -> dict[str, Any]:
    """The settings that the names and shapes of a pose machine's tensors tell. DataError when they are no such."""
    marks = {"final_layer.weight": "cpm", "g_x_stage2.weight": "lpm_raw"}
    marks |= {"g_x_stage6.weight": "lpm", "scale_g.bias": "lpm_official"}
    model = next((network for mark, network in marks.items() if mark in weights), None)
    if model is None or "conv1_stage1.weight" not in weights:
        first = ", ".join(sorted(weights)[:3])
        raise DataError(f"{source}: its tensors ({first}, ...) belong to no network of lpm_torch")
    stages = [int(match[1]) for k in weights if (match := re.fullmatch(r"conv1_stage(\d+)\.weight", k))]
    raw = {"t": max(stages) - 1} if model == "lpm_raw" else {}
    norm = "batch" if "conv1_stage1.norm.weight" in weights else "none"
    return {"model": model, "channels": weights["conv1_stage1.weight"].shape[0] / 128, "norm": norm, **raw}


def weights_of(found: dict, raw: bool = False) -> dict[str, Tensor]:
    """The tensors of a checkpoint that are used: the moving average where it has one, unless `raw`."""
    return found["ema"]["shadow"] if found.get("ema") and not raw else found["state_dict"]


def load_weights(model: nn.Module, found: dict, path: Path, raw: bool = False) -> None:
    """`weights_of` a checkpoint into `model`, every tensor matched. DataError naming tensors that differ."""
    # files from before PyTorch 0.4 lack the counters of batch normalisations
    weights = weights_of(found, raw)
    counters = {k: v for k, v in model.state_dict().items() if k.endswith("num_batches_tracked")}
    try:
        check_numbers(weights, path)
        model.load_state_dict({**counters, **weights})
    except (AttributeError, RuntimeError, TypeError) as error:
        what = f"does not fit {type(model).__name__}: {' '.join(str(error).split())[:400]}"
        raise DataError(f"{path} {what}. Give --model and --channels as it was trained") from error


def first_weights(model: nn.Module, path: Path, skeleton: Skeleton, config: Config) -> None:
    """Begin a training with another's weights. Where they have another `skeleton`, layers that answer with belief maps
    are taken joint by joint, and those that read them start fresh, which is said."""
    found = read_checkpoint(path)
    stored = skeleton_of(found, path)
    old = network_skeleton(stored) if stored else skeleton
    if found.get("config"):
        wanted = {name: getattr(config, name) for name in (*graph_fields(config.model), *MEANING_FIELDS)}
        check_compatible(found["config"], wanted, wanted, path)
    if old == skeleton:
        load_weights(model, found, path)
        print(f"first weights: {path}")
        return
    if config.model in ("hourglass", "coord_lpm"):
        raise DataError(f"{path} answers {old.name}, which {config.model} cannot take over for {skeleton.name}")
    weights, fresh = weights_of(found), set()
    check_numbers(weights, path)
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
