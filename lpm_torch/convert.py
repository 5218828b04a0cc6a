"""Original weights in, ours out; every result is checked before it is saved, and gets a card (JSON) beside it.

python lpm_torch/convert.py F.caffemodel F.pt                           # names stay Caffe's: layer.weight, layer.bias
python lpm_torch/convert.py --input F.caffemodel                        # the same, as caffemodel2pt -> F.caffemodel.pt
python lpm_torch/convert.py F.caffemodel penn.pt --model lpm_official   # the authors' models
python lpm_torch/convert.py PRE.caffemodel pre.pt --model lpm --reorder # to fine-tune with our joint order
python lpm_torch/convert.py best.pth.tar lpm.onnx                       # for deployment; .npz, .pt: plain tensors
python lpm_torch/convert.py best.pth.tar shipped.npz --half             # 16-bit weights
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import numpy as np

from common.errors import DataError
from common.runs.converting import Conversion, halved, portable
from common.runs.options import Parser
from common.runs.process import exit_code
from common.skeletons import CPM14, card
from lpm_torch.config import weights_path

if TYPE_CHECKING:
    from torch import Tensor

FORMATS = (".pt", ".npz", ".onnx")
TOLERANCE = 1e-4  # of the largest belief: the same sums in another order
Weights = dict[str, np.ndarray]


def parse_args(argv=None) -> argparse.Namespace:
    """Command line, with paths `input` and `output`."""
    parser = Parser(__doc__)
    parser.add_argument("paths", help="weights to read, file to write", nargs="*", metavar="INPUT OUTPUT")
    parser.options("licence", "raw_weights", "half")
    parser.option("input", text="the original's way to name them", group="data", type=Path, default=None)
    parser.option("output", text="and the result (default: INPUT.pt)", group="output", type=Path, default=None)
    network: dict = {"group": "network", "default": None}
    text = "what a Caffe model becomes (default: names stay Caffe's)"
    parser.option("model", choices=("lpm_official", "lpm", "lpm_raw", "cpm"), text=text, **network)
    text = "the authors' joint order to ours; penn: of their Penn models, left and right exchanged"
    parser.option("reorder", nargs="?", const="person", choices=("person", "penn"), text=text, **network)
    args = parser.parse_args(argv)
    given = [path for path in (args.input, *map(Path, args.paths), args.output) if path]
    if len(given) not in (1, 2):
        raise DataError("what to convert? Give INPUT OUTPUT")
    args.input, args.output = given[0], Path(f"{given[0]}.pt") if len(given) == 1 else given[1]
    if args.output.suffix not in FORMATS:
        raise DataError(f"output {args.output}: the suffix must be one of {' '.join(FORMATS)}")
    if args.half and args.output.suffix != ".npz":
        raise DataError(f"output {args.output}: --half is for .npz")
    args.input = weights_path(str(args.input))
    return args


def convert(args: argparse.Namespace) -> dict:
    """Do what the options say; returns the card. DataError on bad input, unmatched tensors or a failed check."""
    with Conversion(args.input, args.output, args.licence) as conversion:
        caffe, onnx = args.input.suffix == ".caffemodel", args.output.suffix == ".onnx"
        if caffe and onnx:
            raise DataError(f"output {args.output}: convert to .pt with --model first, and then that file")
        weights, more = from_caffe(args, conversion) if caffe else from_checkpoint(args)
        (export_onnx if onnx else write)(args, conversion, weights)
        return conversion.keep(**more)


def from_caffe(args: argparse.Namespace, conversion: Conversion) -> tuple[Weights, dict[str, Any]]:
    """(weights under our network's names, without `--model` under Caffe's; what else the card says)."""
    from common.weights.caffe import read_caffemodel

    blobs = read_caffemodel(args.input)
    for arrays in blobs.values():  # the old format has vectors of shape (1, 1, 1, n)
        arrays[:] = [b.reshape(-1) if b.shape[:-1] == (1, 1, 1) else b for b in arrays]
    if args.model is None:
        if args.reorder:
            raise DataError("--reorder needs --model")
        names = {0: "weight", 1: "bias"}  # as the original calls a layer's blobs
        parts = [(f"{layer}.{names.get(i, f'blob{i}')}", b) for layer, bs in blobs.items() for i, b in enumerate(bs)]
        return {name: b.astype(np.float32) for name, b in parts}, {"mapping": "Caffe's names"}
    from lpm_torch.caffe_map import belief_order, map_caffe, reorder
    from lpm_torch.config import Config
    from lpm_torch.model import build_network

    for layer in ("conv1_stage1", "conv7_stage1"):
        if layer not in blobs:
            raise DataError(f"{args.input} has no layer {layer}: it is no LPM or CPM model of the authors")
    outputs, width = blobs["conv7_stage1"][0].shape[0], blobs["conv1_stage1"][0].shape[0] / 128
    model = build_network(Config(model=args.model, channels=width), outputs - 1).eval()
    state, sources, missing = map_caffe(blobs, args.model, model.state_dict())
    if missing:
        what = f"nothing in it fills {', '.join(missing)}"
        raise DataError(f"{args.input} is no {args.model}: {what}. Give another --model")
    model.load_state_dict({**model.state_dict(), **state})
    about = {"about": {"skeleton": card(CPM14)}}
    if args.reorder:  # to this house's own order, which needs no name
        about, plain, order = {}, model(*clip())[0], [*belief_order(args.reorder), outputs - 1]
        model.load_state_dict(reorder(model.state_dict(), model.channels.feature, args.reorder))
        found = model(*clip())[0].detach()
        conversion.compare("reordered maps", plain[:, :, order].detach(), found, TOLERANCE)
    weights = {k: v.numpy() for k, v in model.state_dict().items()}
    return weights, {"mapping": sources, **about, "reorder": args.reorder}


def from_checkpoint(args: argparse.Namespace) -> tuple[Weights, dict[str, Any]]:
    """A checkpoint or plain weights, as `from_caffe`; the card keeps settings and skeleton."""
    from lpm_torch.weight_files import config_of, read_checkpoint, weights_of

    if args.model or args.reorder:
        raise DataError(f"--model and --reorder are for a .caffemodel; {args.input} says itself which network it is")
    found = read_checkpoint(args.input)
    config_of(found, args.input, {})  # it is a network of this house
    weights = {k: v.contiguous().numpy() for k, v in weights_of(found, args.raw_weights).items()}
    kept = {k: found[k] for k in ("about", "epoch", "step") if k in found}
    kept |= {"config": portable(found["config"])} if "config" in found else {}
    averaged = bool(found.get("ema")) and not args.raw_weights
    return weights, {"mapping": "same names", "averaged": averaged, **kept}


def clip(frames: int = 3, size: int = 64) -> tuple[Tensor, Tensor]:
    """A random clip (1,T,3,S,S) and centre map (1,1,S,S)."""
    import torch

    draw = torch.Generator().manual_seed(0)
    return torch.randn(1, frames, 3, size, size, generator=draw), torch.rand(1, 1, size, size, generator=draw)


def write(args: argparse.Namespace, conversion: Conversion, weights: Weights) -> None:
    """Write tensors by name, read them back and compare them, bit for bit."""
    from lpm_torch.weight_files import read_weights, write_weights

    weights = halved(weights) if args.half else weights
    write_weights(conversion.draft, weights)
    back = read_weights(conversion.draft)
    conversion.compare("tensors read back", weights, back, 0.0)


def export_onnx(args: argparse.Namespace, conversion: Conversion, weights: Weights) -> None:
    """The network for clips of its own length and size, (frames (1,T,3,S,S), center (1,1,S,S)) -> maps (1,T,maps,g,g)
    and what the training compares; checked with onnxruntime. DataError without the packages for it.
    """
    import torch

    from lpm_torch.estimator import Estimator

    estimator = Estimator(args.input, raw_weights=args.raw_weights, device="cpu")
    inputs, names = clip(estimator.config.t, estimator.config.input_width), ["frames", "center"]
    how: Any = {"dynamo": True, "external_data": False, "verbose": False, "input_names": names}
    try:
        import onnxruntime

        torch.onnx.export(estimator.model, inputs, str(conversion.draft), output_names=["maps"], **how)
    except ImportError as error:
        raise DataError(f"ONNX export: {error}; pip install -r lpm_torch/requirements.txt") from error
    session = onnxruntime.InferenceSession(str(conversion.draft), providers=["CPUExecutionProvider"])
    with torch.inference_mode():
        expected = estimator.model(*inputs)[0]
    found = session.run(["maps"], {name: part.numpy() for name, part in zip(names, inputs)})[0]
    conversion.compare("maps of onnxruntime", expected, found, TOLERANCE)


def main(argv=None) -> int:
    """Exit code 0, or 2 on bad input or a failed check."""

    def work() -> Path:
        args = parse_args(argv)
        for what, check in convert(args)["check"].items():
            print(f"checked: {what}, largest difference {check['largest difference']:.1e}")
        return args.output

    return exit_code(work, "wrote {} and its card")


if __name__ == "__main__":
    sys.exit(main())
