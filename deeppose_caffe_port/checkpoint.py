"""Our checkpoint beside Caffe's snapshot: also random numbers and reading positions, so that a resumed run is the uninterrupted one bit for bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from common.runs.first.checkpoints import (
    CheckpointStore,
    check_compatible,
    collect_random_state,
    make_state,
    restore_random_state,
)
from deeppose_caffe_port.solver import Solver

_FIELDS = ("fingerprint", "type", "euclidean", "masked", "augment", "mode", "world")


def open_store(solver: Solver) -> CheckpointStore:
    """The checkpoints beside the snapshots: PREFIX_checkpoints/{last,previous}.pt."""
    folder = solver.folder / f"{solver.prefix}_checkpoints"
    return CheckpointStore(folder, lambda path, state: torch.save(state, path), lambda path: torch.load(path, map_location="cpu", weights_only=True),
                           suffix=".pt", unit="step", writer=solver.is_main, announce=solver.say)  # fmt: skip


def run_config(solver: Solver, mode: str) -> dict:
    """What must be the same when a run goes on."""
    o = solver.options
    return {
        "fingerprint": solver.net.fingerprint(),
        "type": solver.updater.kind,
        "euclidean": o.euclidean,
        "masked": o.masked,
        "augment": list(vars(o.augment).values()),
        "mode": mode,
        "world": o.world,
    }


def state_of(solver: Solver, mode: str) -> dict:
    """The whole state of a training."""
    return make_state(
        epoch=0, batch=0, step=solver.iteration, model=_plain(solver.net.state_dict()), optimizer=[h.detach().clone() for h in solver.updater.history],
        schedule=solver.rate.current_step, config=run_config(solver, mode), random_state=collect_random_state(),
        caffe_random=solver.random.get_state(), positions=solver.positions(), losses=[float(v) for v in solver.losses],
        torch_random=torch.get_rng_state(), cuda_random=torch.cuda.get_rng_state_all() if solver.device.type == "cuda" else [],
    )  # fmt: skip


def _plain(state: dict) -> dict:
    return {name: tensor.detach().clone() for name, tensor in state.items()}


@torch.no_grad()
def restore(solver: Solver, state: dict, source: str | Path, mode: str) -> None:
    """Undo `state_of`; DataError when the state belongs to another net, solver type or mode."""
    check_compatible(state["config"], run_config(solver, mode), _FIELDS, source)
    solver.net.load_state_dict(state["model"])
    solver.updater.load_history(
        [h.numpy() if isinstance(h, torch.Tensor) else np.asarray(h) for h in state["optimizer"]], str(source)
    )
    solver.iteration, solver.rate.current_step = state["step"], state["schedule"]
    solver.random.set_state(state["caffe_random"])
    solver.losses.extend(torch.tensor(v) for v in state["losses"])
    restore_random_state(state["random"])
    torch.set_rng_state(state["torch_random"])
    if state["cuda_random"] and solver.device.type == "cuda":
        torch.cuda.set_rng_state_all(state["cuda_random"])
    for number, positions in state["positions"].items():
        net = solver.net if number == 0 else solver.test_nets[number - 1]
        for tops, reader in net.sources().items():
            reader.position = positions[tops[0]]
