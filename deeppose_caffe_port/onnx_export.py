"""A deploy net as ONNX file, checked with onnxruntime before it is kept."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from common.errors import DataError
from common.files import atomic_write
from deeppose_caffe_port.model import CaffeNet

TOLERANCE = 1e-4  # of the largest output: float32 sums in another order


class _Single(nn.Module):
    """A net with one input and one output as plain function of a tensor."""

    def __init__(self, net: CaffeNet):
        super().__init__()
        self.net = net
        inputs = [top for m in net.order if m.param.type == "Input" for top in m.param.top]
        if len(inputs) != 1 or len(net.outputs) != 1:
            raise DataError(
                f"{net.file} has {len(inputs)} inputs and {len(net.outputs)} outputs; ONNX export takes deploy nets with one each"
            )
        self.input, self.output = inputs[0], net.outputs[0]

    def forward(self, x: Tensor) -> Tensor:
        return self.net({self.input: x})[0][self.output]


@torch.no_grad()
def export_onnx(net: CaffeNet, path: Path) -> dict:
    """Write the net with a free batch size; returns the check's result. DataError, and nothing is left, when onnxruntime answers otherwise."""
    try:
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise DataError(
            "ONNX export needs onnx, onnxscript and onnxruntime: pip install -r deeppose_caffe_port/requirements.txt"
        ) from error
    module = _Single(net.eval()).eval()
    shape = net.shapes[module.input]
    example = torch.rand(2, *shape[1:])
    draft = path.with_name(f".unchecked.{path.name}")
    path.parent.mkdir(parents=True, exist_ok=True)
    for chatty in ("onnxscript", "torch.onnx"):
        logging.getLogger(chatty).setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                module, (example,), str(draft), dynamo=True, external_data=False, verbose=False, input_names=[module.input],
                output_names=[module.output], dynamic_shapes={"x": {0: torch.export.Dim("batch")}},
            )  # fmt: skip
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(str(draft), options, providers=["CPUExecutionProvider"])
        x = torch.rand(3, *shape[1:], generator=torch.Generator().manual_seed(1))
        expected = module(x).numpy()
        found = session.run(None, {module.input: x.numpy()})[0]
        error = float(np.abs(found - expected).max() / max(np.abs(expected).max(), 1e-2))
        if not error <= TOLERANCE:
            raise DataError(
                f"the ONNX graph differs from the net by {error:.1e} of the largest output: nothing was written"
            )
        atomic_write(path, lambda temporary: temporary.write_bytes(draft.read_bytes()))
    finally:
        draft.unlink(missing_ok=True)
    return {"kind": "onnxruntime against PyTorch", "error": error, "tolerance": TOLERANCE}
