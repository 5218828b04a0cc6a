"""Weights of a Caffe net in other forms, each checked by a forward pass before it is kept; a card (JSON) is written beside it.

    python deeppose_caffe_port/convert.py --model deploy.prototxt --weights W.caffemodel --out net.pt           # PyTorch state dict
    python deeppose_caffe_port/convert.py --model deploy.prototxt --weights net.pt --out back.caffemodel        # and back
    python deeppose_caffe_port/convert.py --model old.prototxt --weights v1.caffemodel --out new.caffemodel     # V1 -> current layers
    python deeppose_caffe_port/convert.py --model deploy.prototxt --weights W.caffemodel --out net.onnx

The suffix says the form. A .caffemodel is also read by OpenCV's own Caffe reader, where that can load the prototxt, and must answer alike.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)

from common.errors import DataError  # noqa: E402
from common.runs.first.process import exit_code  # noqa: E402

FORMS = (".caffemodel", ".pt", ".onnx")
TOLERANCE = 1e-4  # of the largest output


def parse_args(argv=None) -> argparse.Namespace:
    """Options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, type=Path, help="deploy prototxt, V1 or current")
    parser.add_argument(
        "--weights", required=True, type=Path, help=".caffemodel, .pt of ours (a state dict or a checkpoint)"
    )
    parser.add_argument("--out", required=True, type=Path, help=f"file to write: {', '.join(FORMS)}")
    parser.add_argument(
        "--license", default="as the weights' authors give it", help="licence of the weights, for the card"
    )
    return parser.parse_args(argv)


def load(model: Path, weights: Path):
    """The net in TEST phase with its weights; DataError when any layer has none in the file."""
    import torch

    from deeppose_caffe_port.model import TEST, CaffeNet

    net = CaffeNet.from_file(model, TEST)
    if weights.suffix != ".pt":
        missing = net.load(weights)
        if missing:
            raise DataError(f"{weights} has no weights for layer {missing[0]} of {model}")
        return net
    if not weights.is_file():
        raise DataError(f"weights {weights} do not exist")
    try:
        state = torch.load(weights, map_location="cpu", weights_only=True)
        net.load_state_dict(state.get("model", state))
    except Exception as error:  # torch raises many kinds for damaged and foreign files
        raise DataError(f"{weights} does not fit {model} ({type(error).__name__}: {str(error)[:300]})") from error
    return net


def example(net):
    """Random inputs of the net, the same ones in every call."""
    import torch

    draw = torch.Generator().manual_seed(0)
    return {
        top: torch.rand(net.shapes[top], generator=draw)
        for m in net.order
        if m.param.type == "Input"
        for top in m.param.top
    }


def outputs(net) -> dict:
    """Outputs for `example`."""
    import torch

    with torch.inference_mode():
        return {name: value.numpy() for name, value in net(example(net))[0].items()}


def compare(expected: dict, found: dict, what: str) -> float:
    """Largest difference as a share of the largest output; DataError above the tolerance."""
    import numpy as np

    error = max(float(np.abs(found[n] - expected[n]).max() / max(np.abs(expected[n]).max(), 1e-6)) for n in expected)
    if not error <= TOLERANCE:
        raise DataError(
            f"{what} answers otherwise than the source, by {error:.1e} of the largest output: nothing was written"
        )
    return error


def opencv_outputs(prototxt: Path, weights: Path, net) -> dict | None:
    """What OpenCV's Caffe reader answers; None when it cannot load the prototxt, or would compute another net (it ignores LRN's k)."""
    import cv2

    if any(m.param.type == "LRN" and m.param.lrn_param.k != 1 for m in net.order):
        return None
    try:
        other = cv2.dnn.readNetFromCaffe(str(prototxt), str(weights))
        for name, value in example(net).items():
            other.setInput(value.numpy(), name)
        return {name: other.forward(name) for name in net.outputs}
    except cv2.error:
        return None


def convert(args: argparse.Namespace) -> dict:
    """Write the file and its card; returns the checks."""
    import torch

    from common.files import publish, sha256_of, write_json
    from deeppose_caffe_port.onnx_export import export_onnx

    if args.out.suffix not in FORMS:
        raise DataError(f"--out {args.out}: the suffix must be one of {', '.join(FORMS)}")
    net = load(args.model, args.weights)
    expected, checks = outputs(net), {}
    if args.out.suffix == ".onnx":
        checks["onnxruntime"] = export_onnx(net, args.out)
    else:
        draft = args.out.with_name(f".unchecked{args.out.suffix}")
        draft.parent.mkdir(parents=True, exist_ok=True)
        try:
            net.save(draft) if args.out.suffix == ".caffemodel" else torch.save(net.state_dict(), draft)
            checks["read again"] = compare(expected, outputs(load(args.model, draft)), "the written file")
            if args.out.suffix == ".caffemodel":
                other = opencv_outputs(args.model, draft, net)
                checks["cv2.dnn"] = (
                    "not possible: it cannot load this net" if other is None else compare(expected, other, "OpenCV")
                )
            publish(draft, args.out)
        finally:
            draft.unlink(missing_ok=True)
    card = {"source": str(args.weights), "source_sha256": sha256_of(args.weights), "model": str(args.model), "model_sha256": sha256_of(args.model),
            "licence": args.license, "mapping": "blob i of layer L = parameter L.{weight,bias} or BatchNorm's three statistics, unchanged",
            "checks": checks, "sha256": sha256_of(args.out)}  # fmt: skip
    write_json(args.out.with_name(args.out.name + ".json"), card)
    return checks


def main(argv=None) -> int:
    """Exit code 0, or 2 with a message on bad input."""
    args = parse_args(argv)
    return exit_code(lambda: f"{args.out}; checks: {convert(args)}", "written: {}")


if __name__ == "__main__":
    sys.exit(main())
