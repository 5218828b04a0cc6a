"""Weights into networks with every tensor accounted for, and the store of a run's states."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from common.errors import DataError
from common.runs.first.checkpoints import CheckpointStore
from common.runs.first.settings import resolve
from common.weights.pickles import read_paddle
from simplebaseline_paddle.config import Config
from simplebaseline_paddle.names import describe, is_backbone
from simplebaseline_paddle.weight_files import read_backbone, read_state

SUFFIX = ".pdparams"
# Settings that decide which tensors a network has, and what its weights were trained to read and to answer.
GRAPH_FIELDS = (
    "depth",
    "base_width",
    "kp_dim",
    "style",
    "deconv_filters",
    "deconv_kernels",
    "deconv_bias",
    "final_kernel",
)
MEANING_FIELDS = ("mode", "colour")
RUN_FIELDS = (*GRAPH_FIELDS, *MEANING_FIELDS, "height", "width", "sigma", "dataset")


def open_store(directory: Path, writer: bool = True) -> CheckpointStore:
    """The store of one run: last, previous and best `.pdparams`."""
    return CheckpointStore(directory, _save, _load, suffix=SUFFIX, writer=writer)


def _save(path: Path, state: dict) -> None:
    import paddle

    state = {**state, "state_dict": state["model"]}
    del state["model"]
    paddle.save(state, str(path))


def _load(path: Path) -> dict:
    state = read_paddle(path)
    state["model"] = state.pop("state_dict")
    return state


def arrays_of(model) -> dict[str, np.ndarray]:
    """A network's tensors by name, as arrays."""
    return {name: tensor.numpy() for name, tensor in model.state_dict().items()}


def differences(model, weights: Mapping[str, np.ndarray]) -> dict[str, list[str]]:
    """Names that `weights` lacks, has besides, has in other shapes, or that are not finite."""
    own = model.state_dict()
    shared = [n for n in own if n in weights]
    return {
        "lacks": [n for n in own if n not in weights],
        "has besides": [n for n in weights if n not in own],
        "has other shapes:": [
            f"{n} {np.shape(weights[n])} instead of {tuple(own[n].shape)}"
            for n in shared
            if np.shape(weights[n]) != tuple(own[n].shape)
        ],
        "is not finite in": [n for n in shared if not np.isfinite(weights[n]).all()],
    }


def put_weights(
    model, weights: Mapping[str, np.ndarray], source: str | Path, strict: bool = True
) -> dict[str, list[str]]:
    """Load arrays into a network; returns the differences. DataError when there are any and `strict`, naming depth and joints of both sides."""
    found = differences(model, weights)
    if strict and any(found.values()):
        raise DataError(f"{source} does not fit: {_sides(model, weights)}it " + _listed(found))
    own = model.state_dict()
    fitting = {
        n: np.asarray(w).astype(own[n].numpy().dtype)
        for n, w in weights.items()
        if n in own and np.shape(w) == tuple(own[n].shape)
    }
    model.set_state_dict(fitting)
    return found


def _sides(model, weights: Mapping[str, np.ndarray]) -> str:
    try:
        theirs, ours = describe(weights), describe({n: t.numpy() for n, t in model.state_dict().items()})
    except DataError:
        return ""
    words = [f"{name} {theirs[name]} in the file, {ours[name]} here" for name in theirs if theirs[name] != ours[name]]
    hint = " (16 joints: MPII, 17: COCO; give --dataset to match)" if theirs["kp_dim"] != ours["kp_dim"] else ""
    return "; ".join(words) + hint + "; " if words else ""


def _listed(found: dict[str, list[str]]) -> str:
    parts = [
        f"{word} {', '.join(names[:3])}{' ...' if len(names) > 3 else ''}" for word, names in found.items() if names
    ]
    return "; ".join(parts)


def load_backbone(model, path: str | Path) -> int:
    """ImageNet weights into the ResNet; returns how many tensors. DataError when one of its tensors is missing or has another shape."""
    weights = read_backbone(path)
    own = {n: t for n, t in model.state_dict().items() if is_backbone(n)}
    bad = [n for n, t in own.items() if n not in weights or np.shape(weights[n]) != tuple(t.shape)]
    if bad:
        raise DataError(
            f"{path}: {len(bad)} tensors of the backbone are missing or have another shape, first {bad[0]}; give weights of the same depth"
        )
    put_weights(model, {n: weights[n] for n in own}, path, strict=False)
    return len(own)


def load_network(path: str | Path, options: dict, fallback: dict | None = None, averaged: bool = True):
    """(network, settings) of a checkpoint of any kind. `options` (None: not given) win over the checkpoint's own settings.

    Weights of the originals say their depth and joints themselves; the rest comes from `fallback` over the defaults. DataError when an
    option contradicts the weights, or the checkpoint's mode or colour order.
    """
    from simplebaseline_paddle.model import build_model

    state = read_state(path)
    weights = state["ema"]["shadow"] if averaged and state.get("ema") else state["state_dict"]
    stored = state.get("config")
    found = describe(weights)
    given = {k: v for k, v in options.items() if v is not None}
    for field in ("depth", "kp_dim", *(MEANING_FIELDS if stored else ())):
        theirs = found[field] if field in found else stored[field]
        if field in given and given[field] != theirs:
            hint = " (16 joints: MPII, 17: COCO; --dataset must match)" if field == "kp_dim" else ""
            raise DataError(
                f"{path}: {field} is {theirs} in the checkpoint, {given[field]} was asked for{hint}; give another checkpoint or --{field}"
            )
    known = {k: v for k, v in (stored or fallback or {}).items() if k in Config.__dataclass_fields__ and k != "limit"}
    if not stored:
        known.setdefault("dataset", {14: "lsp", 17: "coco"}.get(found["kp_dim"], "mpii"))
    config = resolve(Config, known, found, given).checked()
    model = build_model(config)
    put_weights(model, weights, path)
    model.eval()
    return model, config
