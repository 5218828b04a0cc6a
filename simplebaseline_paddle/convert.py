"""Weights from one format to another, and networks for deployment; every result is checked before it is kept, and gets a card (JSON).

    python simplebaseline_paddle/convert.py --input pose-resnet50-mpii-384x384 --output mpii.pdparams      # a Fluid folder
    python simplebaseline_paddle/convert.py --input pose_resnet_50_256x192.pth.tar --output fluid_folder   # PyTorch -> Fluid
    python simplebaseline_paddle/convert.py --input best.pdparams --output best.pth.tar                    # ours -> Microsoft's
    python simplebaseline_paddle/convert.py --input best.pdparams --output deploy/network --kind inference # Paddle's predictor
    python simplebaseline_paddle/convert.py --input best.pdparams --output network.onnx

The result is read back (or run) and its heat-maps compared with the input's; where they disagree nothing is kept.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)

from common.errors import DataError  # noqa: E402
from simplebaseline_paddle.config import PRESETS  # noqa: E402

KINDS = ("pdparams", "torch", "fluid", "onnx", "inference")
SAME = 0.0  # of formats that hold the same numbers
DEPLOYED = 1e-4  # of the maps' standard deviation: the same sums in another order


def parse_args(argv=None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--input", required=True, type=Path, help="Fluid folder or __params__, .pdparams, .pth, .pth.tar")
    add(
        "--output",
        required=True,
        type=Path,
        help="result: .pdparams, .pth, .pth.tar, .onnx, a folder (fluid) or a path prefix (inference)",
    )
    add("--kind", choices=KINDS, help="format of the result (default: by its suffix, without one fluid)")
    add(
        "--preset",
        choices=tuple(PRESETS),
        default="paper",
        help="input size of files that do not state theirs (default: paper)",
    )
    add("--height", type=int, help="input height of exported networks (default: the checkpoint's, else the preset's)")
    add("--width", type=int, help="input width of exported networks")
    add("--style", choices=("pytorch", "caffe"), help="place of the stride, which weights do not show")
    add(
        "--weights",
        choices=("averaged", "raw"),
        default="averaged",
        help="the moving average where the checkpoint has one (default)",
    )
    add(
        "--licence",
        default="not stated by the source",
        help="licence of the weights, as their source gives it; goes into the card",
    )
    add("--limit", type=int, metavar="N", help="dry run: check the input, list its first N tensors, write nothing")
    return parser.parse_args(argv)


def kind_of(output: Path, kind: str | None) -> str:
    """The format asked for, or the one that the suffix means. DataError for an unknown suffix."""
    if kind:
        return kind
    found = {
        ".pdparams": "pdparams",
        ".pth": "torch",
        ".pt": "torch",
        ".tar": "torch",
        ".onnx": "onnx",
        "": "fluid",
    }.get(output.suffix)
    if found is None:
        raise DataError(
            f"--output {output}: which format? Give --kind {', '.join(KINDS)}, or a suffix .pdparams, .pth, .pth.tar, .onnx"
        )
    return found


def convert(args: argparse.Namespace) -> dict:
    """Do what the options say; returns the card. DataError on bad input or a failed check (nothing is written then)."""
    from simplebaseline_paddle.checkpoint import arrays_of, load_network
    from simplebaseline_paddle.machine import Machine

    kind = kind_of(args.output, args.kind)
    if args.output.resolve() == args.input.resolve():
        raise DataError(f"--output {args.output} is the input; give another name")
    Machine(use_gpu=False)
    options = {"height": args.height, "width": args.width, "style": args.style}
    model, config = load_network(args.input, options, PRESETS[args.preset], args.weights == "averaged")
    arrays = arrays_of(model)
    card = {
        "source": source_of(args.input), "licence": args.licence, "network": config.name, "joints": config.kp_dim, "tensors": len(arrays),
        "mapping": "names only, no tensor is transposed (simplebaseline_paddle/names.py)", "kind": kind,
    }  # fmt: skip
    if args.limit is not None:
        for name in list(arrays)[: args.limit]:
            print(f"{name} {arrays[name].shape}")
        return card
    card["check"] = write(kind, args.output, model, config, arrays)
    write_card(args.output, card)
    return card


def source_of(path: Path) -> dict:
    """Name, size and hash; of a folder, of all its files in the order of names."""
    import hashlib

    from common.files import sha256_of

    files = sorted(f for f in path.iterdir() if f.is_file()) if path.is_dir() else [path]
    digests = [sha256_of(f) for f in files]
    whole = digests[0] if len(files) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
    return {"file": path.name, "files": len(files), "bytes": sum(f.stat().st_size for f in files), "sha256": whole}


def write(kind: str, output: Path, model, config, arrays) -> dict:
    """Write beside the goal, check, then rename; returns what the check found."""
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=".convert-") as folder:
        # its own suffixes, because readers and writers look at them
        draft = Path(folder) / output.name
        writer = {"pdparams": _pdparams, "torch": _tensors, "fluid": _tensors, "onnx": _onnx, "inference": _inference}[
            kind
        ]
        check = writer(draft, model, config, arrays)
        if kind == "fluid" and output.is_dir():
            raise DataError(f"--output {output} exists; give a new folder")
        for part in sorted(Path(folder).iterdir()):
            if part.name.startswith(output.name):
                shutil.move(part, output.parent / part.name) if part.is_dir() else os.replace(
                    part, output.parent / part.name
                )
    return check


def example(config, seed: int = 0):
    """Two random inputs of the network's size."""
    import numpy as np

    width, height = config.input_size
    return np.random.default_rng(seed).standard_normal((2, 3, height, width), np.float32)


def compare(found, expected, limit: float) -> dict:
    """Largest difference in standard deviations of `expected`; DataError above `limit`."""
    import numpy as np

    off = float(np.abs(found - expected).max() / max(float(expected.std()), 1e-30))
    if not off <= limit:
        raise DataError(
            f"the converted network's heat-maps are off by {off:.3g} standard deviations (limit {limit:g}); nothing was written"
        )
    return {"largest_difference_in_standard_deviations": off, "limit": limit, "inputs": list(np.shape(expected)[:1])}


def _maps(model, inputs):
    from simplebaseline_paddle.infer import make_forward

    return make_forward(model, (inputs.shape[3], inputs.shape[2]), "eager")(inputs)


def _read_back(draft: Path, model, config) -> dict:
    from dataclasses import asdict

    from simplebaseline_paddle.checkpoint import load_network

    inputs = example(config)
    return compare(_maps(load_network(draft, {}, asdict(config))[0], inputs), _maps(model, inputs), SAME)


def _pdparams(draft: Path, model, config, arrays) -> dict:
    from dataclasses import asdict

    import paddle

    paddle.save({"state_dict": model.state_dict(), "config": asdict(config)}, str(draft))
    return _read_back(draft, model, config)


def _tensors(draft: Path, model, config, arrays) -> dict:
    from simplebaseline_paddle.weight_files import write_weights

    write_weights(draft, arrays, config.depth)
    return _read_back(draft, model, config)


def _inference(draft: Path, model, config, arrays) -> dict:
    from simplebaseline_paddle.infer import Predictor, export_inference

    export_inference(model, draft, config.input_size)
    inputs = example(config)
    return compare(Predictor(draft, threads=1)(inputs), _maps(model, inputs), DEPLOYED)


def _onnx(draft: Path, model, config, arrays) -> dict:
    try:
        import onnxruntime
        import paddle2onnx
    except ImportError as error:
        raise DataError(
            f"ONNX export needs paddle2onnx and onnxruntime ({error}): pip install -r simplebaseline_paddle/requirements.txt"
        ) from error
    from simplebaseline_paddle.infer import export_inference

    with tempfile.TemporaryDirectory() as folder:
        prefix = Path(folder) / "network"
        export_inference(model, prefix, config.input_size)
        program = next(f for f in (prefix.with_suffix(".json"), prefix.with_suffix(".pdmodel")) if f.is_file())
        paddle2onnx.export(str(program), str(prefix.with_suffix(".pdiparams")), save_file=str(draft), opset_version=13)
    if not draft.is_file():
        raise DataError("paddle2onnx wrote no file; see its messages above")
    session = onnxruntime.InferenceSession(str(draft), providers=["CPUExecutionProvider"])
    inputs = example(config)
    return compare(session.run(None, {session.get_inputs()[0].name: inputs})[0], _maps(model, inputs), DEPLOYED)


def write_card(output: Path, card: dict) -> None:
    """OUTPUT.card.json."""
    from common.files import versions, write_json

    write_json(output.with_name(output.name + ".card.json"), {**card, "output": output.name, "versions": versions()})


def main(argv=None) -> int:
    """Exit code 0, or 2 with a message on bad input or a failed check."""
    args = parse_args(argv)
    try:
        card = convert(args)
    except (DataError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(
        f"{card['network']}, {card['joints']} joints, {card['tensors']} tensors"
        + (f"; check: {card['check']}" if "check" in card else "")
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
