"""Networks as ONNX files, checked with onnxruntime.

`lpm` and `lpm_official` become two files, so that a video can be run frame by frame: NAME.onnx is one step, NAME.init.onnx gives the
belief maps before the first frame. All other networks become one file, (frames, center) -> maps.
"""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from common.errors import DataError
from common.files import atomic_write
from lpm_torch.lstm import LPMRaw, RecurrentPoseMachine, State

TOLERANCE = 1e-4  # of the largest output (of 0.01 where all are smaller): float32 sums in another order


class _Init(nn.Module):
    """The graph that starts a video."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, frame: Tensor) -> Tensor:
        """(B,3,S,S) first frame -> first belief maps."""
        return self.model.initial(frame)


class _Step(nn.Module):
    """The graph of one frame, state in and out."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, frame: Tensor, center: Tensor, belief: Tensor, hidden: Tensor, cell: Tensor, steps: Tensor
    ) -> tuple[Tensor, ...]:
        """One frame and the state before it -> the state after it, whose first part are the belief maps."""
        return tuple(self.model.step(frame, center, State(belief, hidden, cell, steps))[1])


class _Clip(nn.Module):
    """The graph of a whole clip."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, frames: Tensor, center: Tensor) -> Tensor:
        """(B,T,3,S,S) clip -> belief maps of every frame."""
        return self.model(frames, center)[0]


def streams(model: nn.Module) -> bool:
    """Whether the network is exported as single steps with explicit state."""
    return isinstance(model, RecurrentPoseMachine) and not isinstance(model, LPMRaw)


def _graphs(
    model: nn.Module, path: Path, size: int, frames: int
) -> list[tuple[Path, nn.Module, dict[str, Tensor], list[str]]]:
    """(file, module, example inputs by name, output names) of each graph."""
    draw = torch.Generator().manual_seed(0)
    clip, center = torch.randn(1, frames, 3, size, size, generator=draw), torch.rand(1, 1, size, size, generator=draw)
    if not streams(model):
        return [(path, _Clip(model), {"frames": clip, "center": center}, ["maps"])]
    frame = clip[:, 0]
    state = model.init_state(frame, center)
    names = [f"next_{n}" for n in State._fields]
    init = path.with_name(path.stem + ".init.onnx")
    return [
        (path, _Step(model), {"frame": frame, "center": center, **state._asdict()}, names),
        (init, _Init(model), {"frame": frame}, ["belief"]),
    ]


@torch.no_grad()
def export_onnx(model: nn.Module, path: Path, size: int, frames: int = 5) -> dict:
    """Write the network for square input of `size` pixels, batch 1; returns the check's result for the weight card.

    Step inputs: frame (1,3,S,S), center (1,1,S,S), belief, hidden, cell, steps; outputs next_belief (the frame's maps), next_hidden,
    next_cell, next_steps. Start from belief = NAME.init.onnx(frame) and zeros. Nothing is left on disk when onnxruntime and PyTorch
    differ by more than `TOLERANCE` of the largest value (DataError).
    """
    model = model.eval()
    graphs = _graphs(model, path, size, frames)
    written = [file.with_name(f".unchecked.{file.name}") for file, *_ in graphs]
    try:
        for (_, module, inputs, outputs), draft in zip(graphs, written):
            _export(module.eval(), inputs, outputs, draft)
        error = _check(model, written, graphs, size, frames)
        for (file, *_), draft in zip(graphs, written):
            atomic_write(file, lambda temporary, draft=draft: temporary.write_bytes(draft.read_bytes()))
    finally:
        for draft in written:
            draft.unlink(missing_ok=True)
    names = [file.name for file, *_ in graphs]
    return {"kind": "onnxruntime against PyTorch", "files": names, "error": error, "tolerance": TOLERANCE, "size": size}


def _export(module: nn.Module, inputs: dict[str, Tensor], outputs: list[str], path: Path) -> None:
    try:
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise DataError(
            "ONNX export needs onnx, onnxscript and onnxruntime: pip install -r lpm_torch/requirements.txt"
        ) from error
    for chatty in ("onnxscript", "torch.onnx"):
        logging.getLogger(chatty).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(module, tuple(inputs.values()), str(path), dynamo=True, external_data=False, verbose=False,
                          input_names=list(inputs), output_names=outputs)  # fmt: skip


def _session(path: Path):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _check(model: nn.Module, files: list[Path], graphs: list, size: int, frames: int) -> float:
    """Largest difference from PyTorch's clip forward pass, as a share of the largest value, on data that the export has not seen."""
    draw = torch.Generator().manual_seed(1)
    clip, center = torch.randn(1, frames, 3, size, size, generator=draw), torch.rand(1, 1, size, size, generator=draw)
    expected = model(clip, center)[0].numpy()
    sessions = [_session(file) for file in files]
    inputs = {"frames": clip.numpy(), "center": center.numpy()}
    found = run_steps(*sessions, *inputs.values()) if streams(model) else sessions[0].run(None, inputs)[0]
    error = float(np.abs(found - expected).max() / max(np.abs(expected).max(), 0.01))
    if not error <= TOLERANCE:
        raise DataError(
            f"the ONNX graph differs from the network by {error:.1e} of the largest output: nothing was written"
        )
    return error


def run_steps(step, init, clip: np.ndarray, center: np.ndarray) -> np.ndarray:
    """Run onnxruntime sessions of a step and its init graph over a clip (1,T,3,S,S), centre map (1,1,S,S) -> maps (1,T,maps,g,g)."""
    belief = init.run(None, {"frame": clip[:, 0]})[0]
    shape = {i.name: i.shape for i in step.get_inputs()}
    state = {"belief": belief, **{n: np.zeros(shape[n], np.float32) for n in ("hidden", "cell", "steps") if n in shape}}
    maps = []
    for t in range(clip.shape[1]):
        outputs = step.run(None, {"frame": clip[:, t], "center": center, **state})
        values = dict(zip(State._fields, outputs))
        maps.append(values["belief"])
        state = {n: values[n] for n in state}
    return np.stack(maps, 1)
