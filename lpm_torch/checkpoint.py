"""Checkpoints of this house: the original's `.pth.tar` keys (epoch, state_dict, optimizer) plus what a resumed run needs."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from common.errors import DataError
from common.runs.first.checkpoints import CheckpointStore, check_compatible
from lpm_torch.config import Config

SUFFIX = ".pth.tar"
# What weights were trained to read and to answer, whoever goes on with them.
MEANING_FIELDS = ("mode", "center_map", "background")
# What a resumed run must share with its beginning.
RUN_FIELDS = (*MEANING_FIELDS, "sigma", "resolution", "t", "masked_loss", "loss_norm", "deep_supervision", "accumulate")


def graph_fields(model: str) -> tuple[str, ...]:
    """The settings that decide which tensors a network has."""
    more = {"lpm_raw": ("t",), "hourglass": ("t", "depth", "block")}
    return ("model", "width", "norm", *more.get(model, ()))


def _save(path: Path, state: dict) -> None:
    state = dict(state)
    state["state_dict"] = state.pop("model")  # the original's name, so that its programs find the weights
    torch.save(state, path)


def _load(path: Path) -> dict:
    state = torch.load(path, map_location="cpu", weights_only=True)
    state["model"] = state.pop("state_dict")
    return state


def open_store(directory: Path, writer: bool = True) -> CheckpointStore:
    """The store of one run: last, previous and best `.pth.tar`."""
    return CheckpointStore(directory, _save, _load, suffix=SUFFIX, writer=writer)


def find_checkpoint(name: str, directory: Path) -> Path:
    """A path as it is, or a file name in the run's own directory (as in the original). DataError when neither exists."""
    for path in (Path(name), directory / name, directory / (name + SUFFIX)):
        if path.is_file():
            return path
    raise DataError(
        f"checkpoint {name} does not exist, neither as a path nor in {directory}; train first, or give its path"
    )


def read_checkpoint(path: Path) -> dict:
    """A checkpoint of ours or of the original as a dict with at least `state_dict`, without `module.` prefixes. DataError when it is none.

    Plain weight files (`.pt`, name -> tensor, `.safetensors`) are accepted too. Files are read without unpickling code.
    """
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state = {"state_dict": load_file(path)}
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch, zipfile and pickle each have their own
        raise DataError(
            f"{path} is not a readable PyTorch checkpoint ({type(error).__name__}: {str(error).splitlines()[0]})"
        ) from error
    if (
        isinstance(state, dict)
        and "state_dict" not in state
        and state
        and all(isinstance(v, torch.Tensor) for v in state.values())
    ):
        state = {"state_dict": state}
    if not isinstance(state, dict) or "state_dict" not in state:
        raise DataError(
            f"{path} has no field state_dict; give a checkpoint of lpm_torch or MobilePose, or a file of name -> tensor"
        )
    state["state_dict"] = {
        k.removeprefix("module.").removeprefix("_orig_mod."): v for k, v in state["state_dict"].items()
    }
    return state


def card_of(path: Path) -> dict:
    """The converter's card beside a weight file; {} when there is none."""
    card = path.with_name(path.name + ".card.json")
    return json.loads(card.read_text(encoding="utf-8")) if card.is_file() else {}


def joint_order_of(path: Path) -> str:
    """The order of the maps, `lpm14` or the authors' `cpm14`: what the converter's card beside the file says, else this house's."""
    return card_of(path).get("joint_order", "lpm14")


def card_settings(path: Path) -> dict:
    """The settings that a converted weight file lacks, from its card: those of its checkpoint and what the network's shapes tell; {} without one."""
    card = card_of(path)
    network = card.get("network") or {}
    known = {k: network[k] for k in ("width", "norm", "depth", "block") if k in network} | (
        {"t": network["T"]} if "T" in network else {}
    )
    name = {"model": network["name"]} if "name" in network else {}
    return {**card.get("settings", {}), **known, **name}


def load_weights(model: torch.nn.Module, path: Path, averaged: bool = False, wanted: dict | None = None) -> dict:
    """Load a checkpoint's weights into `model`, every tensor of both matched, and return the checkpoint.

    `averaged`: the moving average where the checkpoint has one. `wanted`: settings that the checkpoint's own, where it has them, must share.
    DataError naming both values of a setting, or the first differing tensors, of a checkpoint of another network, width or joint count.
    """
    state = read_checkpoint(path)
    if wanted and state.get("config"):
        check_compatible(state["config"], wanted, (*graph_fields(wanted["model"]), *MEANING_FIELDS), path)
    weights = state["ema"]["shadow"] if averaged and state.get("ema") else state["state_dict"]
    own = model.state_dict()
    missing = [k for k in own if k not in weights and not k.endswith("num_batches_tracked")]
    extra = [k for k in weights if k not in own]
    shapes = [
        f"{k} {tuple(weights[k].shape)} instead of {tuple(own[k].shape)}"
        for k in own
        if k in weights and weights[k].shape != own[k].shape
    ]
    if missing or extra or shapes:
        parts = [("lacks", missing), ("has besides", extra), ("has other shapes:", shapes)]
        detail = "; ".join(
            f"{word} {', '.join(names[:3])}{' ...' if len(names) > 3 else ''}" for word, names in parts if names
        )
        raise DataError(
            f"{path} does not fit {type(model).__name__}: it {detail}. Give --model, --width and joints as it was trained"
        )
    model.load_state_dict(weights, strict=False)
    return state


def config_of(state: dict, **fallback) -> Config:
    """The settings that a checkpoint was trained with; for files without (the original's), `fallback` over the defaults."""
    from common.runs.first.settings import resolve

    stored = state.get("config")
    if stored is None:
        return resolve(Config, fallback)
    known = Config.__dataclass_fields__
    return resolve(Config, {k: v for k, v in stored.items() if k in known})
