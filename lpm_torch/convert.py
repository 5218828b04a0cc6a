"""Original weights in, ours out; every result is checked before it is saved, and gets a card (JSON) beside it.

python lpm_torch/convert.py F.caffemodel F.pt                           # names stay Caffe's: layer.weight, layer.bias
python lpm_torch/convert.py --input F.caffemodel                        # the same, as caffemodel2pt -> F.caffemodel.pt
python lpm_torch/convert.py F.caffemodel penn.pt --model lpm_official   # the authors' models
python lpm_torch/convert.py PRE.caffemodel pre.pt --model lpm --reorder # to fine-tune with our joint order
python lpm_torch/convert.py best.pth.tar lpm.onnx                       # also .pt .safetensors .npz .npy .h5 .json
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
from common.runs.converting import Conversion
from common.runs.options import Parser
from common.runs.process import exit_code
from common.skeletons import CPM14, card

if TYPE_CHECKING:
    from torch import nn

CAFFE_MODELS = ("lpm_official", "lpm", "lpm_raw", "cpm")
FORMATS = (".pt", ".safetensors", ".npz", ".npy", ".h5", ".json", ".onnx")
SIZE, FRAMES = 64, 3  # pixels and frames of the forward passes that compare
TOLERANCE = 1e-4  # of the largest belief: the same sums in another order
Weights = dict[str, np.ndarray]


def parse_args(argv=None) -> argparse.Namespace:
    """Command line; `input` is a list (a deploy pair are two files), `output` a path."""
    parser = Parser(__doc__)
    text = "weights to read (a deploy pair: two files), then the file to write"
    parser.source("paths", text, nargs="*", metavar="INPUT OUTPUT")
    parser.options("licence", "raw_weights")
    parser.option("input", text="the original's way to name them", group="data", nargs="+", default=[])
    parser.option("output", text="and the result (default: INPUT.pt)", group="output", type=Path, default=None)
    network: dict = {"group": "network", "default": None}
    parser.option(
        "model", choices=CAFFE_MODELS, text="what a Caffe model becomes (default: names stay Caffe's)", **network
    )
    text = "the authors' joint order to ours; penn: of their Penn models, left and right exchanged"
    parser.option("reorder", nargs="?", const="person", choices=("person", "penn"), text=text, **network)
    parser.option("allow_missing", type=bool, text="save although tensors have no counterpart", **network)
    parser.option("input_width", text="side of an ONNX graph's input (default: the network's)", type=int, **network)
    parser.option("t", text="clip length of an ONNX graph (default: the network's)", type=int, **network)
    args = parser.parse_args(argv)
    paths = [Path(p) for p in (*args.input, *args.paths)]
    if args.output is None and args.paths:
        *paths, args.output = paths
    if not paths:
        raise DataError("what to convert? Give INPUT OUTPUT")
    args.input, args.output = paths, args.output or paths[0].with_name(paths[0].name + ".pt")
    if args.output.suffix not in FORMATS:
        raise DataError(f"output {args.output}: the suffix must be one of {' '.join(FORMATS)}")
    for path in paths:
        if not path.is_file():
            raise DataError(f"input {path} does not exist")
        if path.resolve() == args.output.resolve():
            raise DataError(f"output {args.output} is the input; give another name")
    return args


def convert(args: argparse.Namespace) -> dict:
    """Do what the options say; returns the card. DataError on bad input, unmatched tensors or a failed check."""
    with Conversion(args.input[0], args.output, args.licence) as conversion:
        caffe = args.input[0].suffix == ".caffemodel"
        weights, network, more = from_caffe(args, conversion) if caffe else from_checkpoint(args)
        if args.output.suffix != ".onnx":
            write(conversion, weights, network)
        elif network is None:
            raise DataError(f"output {args.output}: give --model too, the file alone does not say which network it is")
        else:
            config = more.get("config") or {}
            size = args.input_width or config.get("input_width") or (368 if network["name"] == "lpm_official" else 256)
            more["graphs"] = export_onnx(load(network, weights), conversion, size, args.t or config.get("t") or 5)
        return conversion.keep(inputs=[p.name for p in args.input], network=network, **more)


# ---- in --------------------------------------------------------------------------------------------------------------


def read_blobs(paths: list[Path]) -> dict[str, list[np.ndarray]]:
    """Blobs of one file, or of a deploy pair, whose shared layers must be equal; vectors as (n,)."""
    from common.weights.caffe import read_caffemodel

    joined: dict[str, list[np.ndarray]] = {}
    for path in paths:
        for name, stored in read_caffemodel(path).items():
            blobs = [b.reshape(-1) if b.shape[:-1] == (1, 1, 1) else b for b in stored]
            old = joined.get(name, blobs)
            if len(old) != len(blobs) or not all(np.array_equal(a, b) for a, b in zip(old, blobs)):
                raise DataError(f"{path}: layer {name} differs from the one in {paths[0]}; these files are no pair")
            joined[name] = blobs
    return joined


def from_caffe(args: argparse.Namespace, conversion: Conversion) -> tuple[Weights, dict | None, dict[str, Any]]:
    """(weights, build_model arguments or None for Caffe's own names, what else the card says)."""
    blobs = read_blobs(args.input)
    if args.model is None:
        if args.reorder:
            raise DataError("--reorder needs --model")
        parts = [(f"{layer}.{blob_name(i)}", b) for layer, bs in blobs.items() for i, b in enumerate(bs)]
        return {name: b.astype(np.float32) for name, b in parts}, None, {"mapping": "Caffe's names"}
    from lpm_torch.caffe_map import belief_order, map_caffe, reorder
    from lpm_torch.model import build_model

    model = build_model(**caffe_network(blobs, args)).eval()
    mapping = map_caffe(blobs, args.model, model.state_dict())
    unmatched = {"nothing fills": mapping.missing, "nothing takes": mapping.unused}
    lines = [f"{word} {', '.join(names)}" for word, names in unmatched.items() if names]
    if lines and not args.allow_missing:
        remedy = "Give another --model, or --allow_missing"
        raise DataError(f"{args.input[0]} does not match {args.model}: {'; '.join(lines)}. {remedy}")
    for line in lines:
        print(line)
    model.load_state_dict({**model.state_dict(), **mapping.state})
    if args.reorder:
        plain, order = forward(model), belief_order(args.reorder)
        model.load_state_dict(reorder(model.state_dict(), model.channels.feature, args.reorder))
        conversion.compare("reordered maps", plain[:, :, [*order, len(order)]], forward(model), TOLERANCE)
    # reordered ones are of this house's own order, which needs no name
    about = {} if args.reorder else {"about": {"skeleton": card(CPM14)}}
    found = {"mapping": mapping.sources, "missing": mapping.missing, "unused": mapping.unused}
    weights = {k: v.numpy() for k, v in model.state_dict().items()}
    return weights, caffe_network(blobs, args), {**found, **about, "reorder": args.reorder}


def blob_name(index: int) -> str:
    """How the original calls a layer's blobs."""
    return ("weight", "bias")[index] if index < 2 else f"blob{index}"


def caffe_network(blobs: dict[str, list[np.ndarray]], args: argparse.Namespace) -> dict:
    """The arguments of `build_model` that a Caffe model's shapes tell. DataError when it is none of the authors'."""
    for layer in ("conv1_stage1", "conv7_stage1"):
        if layer not in blobs:
            remedy = "no LPM or CPM model of the authors; a deploy pair needs both files"
            raise DataError(f"{args.input[0]} has no layer {layer}: {remedy}")
    outputs, width = blobs["conv7_stage1"][0].shape[0], blobs["conv1_stage1"][0].shape[0] / 128
    return {"name": args.model, "joints": outputs - 1, "width": width}


def from_checkpoint(args: argparse.Namespace) -> tuple[Weights, dict, dict[str, Any]]:
    """A checkpoint or plain weights, as `from_caffe`; the card keeps settings and skeleton."""
    from lpm_torch.weight_files import network_of, read_checkpoint, shapes_of, weights_of

    for given, option in ((len(args.input) > 1, "two files"), (args.model, "--model"), (args.reorder, "--reorder")):
        if given:
            raise DataError(f"{option} is for .caffemodel input; {args.input[0]} says itself which network it is")
    path = args.input[0]
    state = read_checkpoint(path)
    weights = {k: v.detach().contiguous().numpy() for k, v in weights_of(state, args.raw_weights).items()}
    kept = {k: state[k] for k in ("config", "about", "epoch", "step") if k in state}
    network = network_of(shapes_of(weights), path)
    return (
        weights,
        network,
        {"mapping": "same names", "averaged": bool(state.get("ema")) and not args.raw_weights, **kept},
    )


# ---- out -------------------------------------------------------------------------------------------------------------


def load(network: dict, weights: Weights) -> nn.Module:
    """The network with these weights. DataError when they do not fit."""
    from lpm_torch.model import build_model
    from lpm_torch.weight_files import as_tensors

    model = build_model(**network).eval()
    try:
        model.load_state_dict(as_tensors(weights))
    except RuntimeError as error:
        raise DataError(f"the weights do not fit {network}: {' '.join(str(error).split())[:300]}") from error
    return model


def clip(frames: int = FRAMES, size: int = SIZE, seed: int = 0):
    """A random clip (1,T,3,S,S) and centre map."""
    import torch

    draw = torch.Generator().manual_seed(seed)
    return torch.randn(1, frames, 3, size, size, generator=draw), torch.rand(1, 1, size, size, generator=draw)


def forward(model: nn.Module) -> np.ndarray:
    """All maps that the network gives for a random clip."""
    import torch

    size = 2 ** (model.depth + 3) if isinstance(getattr(model, "depth", None), int) else SIZE
    with torch.no_grad():
        return model(*clip(size=size))[0].numpy()


def write(conversion: Conversion, weights: Weights, network: dict | None) -> None:
    """Write tensors by name, read them back and compare them, and a forward pass with them, bit for bit."""
    from lpm_torch.weight_files import read_weights, write_weights

    write_weights(conversion.draft, weights)
    back = read_weights(conversion.draft)
    if back.keys() != weights.keys():
        raise DataError(f"{conversion.output}: {', '.join(back.keys() ^ weights.keys())} is not what was written")
    conversion.compare("tensors read back", weights, back, 0.0)
    if network is not None:
        conversion.compare(
            "maps after reading back", forward(load(network, weights)), forward(load(network, back)), 0.0
        )


def export_onnx(model: nn.Module, conversion: Conversion, size: int, frames: int) -> list[str]:
    """The network for square input of `size` pixels, batch 1, checked with onnxruntime; the names of the files.

    `lpm` and `lpm_official` become two, so that a video can be run frame by frame: NAME.onnx is one step (frame
    (1,3,S,S), center (1,1,S,S), belief, hidden, cell, steps -> next_belief, which are the frame's maps, next_hidden,
    next_cell, next_steps), NAME.onnx.init.onnx gives the belief maps before the first frame; hidden, cell and steps
    start as zeros. All others: (frames, center) -> maps.
    """
    import torch

    from lpm_torch.lstm import LPMRaw, RecurrentPoseMachine, State

    streams = isinstance(model, RecurrentPoseMachine) and not isinstance(model, LPMRaw)
    inputs, center = clip(frames, size)
    draft, init = str(conversion.draft), f"{conversion.draft}.init.onnx"
    with torch.no_grad():
        if streams:
            state = model.init_state(inputs[:, 0], center)
            names = ("frame", "center", *State._fields)
            step = _Graph(model, lambda net, frame, center, *state: tuple(net.step(frame, center, State(*state))[1]))
            _export(step, dict(zip(names, (inputs[:, 0], center, *state))), [f"next_{n}" for n in State._fields], draft)
            _export(_Graph(model, lambda net, frame: net.initial(frame)), {"frame": inputs[:, 0]}, ["belief"], init)
        else:
            graph = _Graph(model, lambda net, frames, center: net(frames, center)[0])
            _export(graph, {"frames": inputs, "center": center}, ["maps"], draft)
        unseen, center = clip(frames, size, seed=1)
        expected = model(unseen, center)[0].numpy()
    sessions = [_session(path) for path in ((draft, init) if streams else (draft,))]
    feed = {"frames": unseen.numpy(), "center": center.numpy()}
    found = run_steps(*sessions, *feed.values()) if streams else sessions[0].run(None, feed)[0]
    scale = max(1.0, 0.01 / max(float(np.abs(expected).max()), 1e-12))  # below 0.01 rounding rules
    conversion.compare("maps of onnxruntime", expected, found, TOLERANCE * scale)
    return [conversion.output.name] + ([f"{conversion.output.name}.init.onnx"] if streams else [])


def _Graph(model: nn.Module, call) -> nn.Module:
    """`call(model, ...)` as a module's forward."""
    from torch import nn

    class Graph(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *inputs):
            return call(self.model, *inputs)

    return Graph().eval()


def _export(module: nn.Module, inputs: dict, outputs: list[str], path: str) -> None:
    import logging
    import warnings

    import torch

    try:
        import onnxscript  # noqa: F401
    except ImportError as error:
        remedy = "pip install -r lpm_torch/requirements.txt"
        raise DataError(f"ONNX export needs onnx, onnxscript and onnxruntime: {remedy}") from error
    for chatty in ("onnxscript", "torch.onnx"):
        logging.getLogger(chatty).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(module, tuple(inputs.values()), path, dynamo=True, external_data=False, verbose=False,
                          input_names=list(inputs), output_names=outputs)  # fmt: skip


def _session(path: str):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def run_steps(step, init, clip: np.ndarray, center: np.ndarray) -> np.ndarray:
    """Sessions of a step and its init graph over a clip (1,T,3,S,S), centre map (1,1,S,S) -> maps (1,T,maps,g,g)."""
    names = [i.name for i in step.get_inputs() if i.name not in ("frame", "center")]
    shape = {i.name: i.shape for i in step.get_inputs()}
    state = {n: np.zeros(shape[n], np.float32) for n in names}
    state["belief"] = init.run(None, {"frame": clip[:, 0]})[0]
    outputs, maps = [o.name for o in step.get_outputs()], []
    for t in range(clip.shape[1]):
        values = dict(zip(outputs, step.run(None, {"frame": clip[:, t], "center": center, **state})))
        maps.append(values["next_belief"])
        state = {n: values[f"next_{n}"] for n in names}
    return np.stack(maps, 1)


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
