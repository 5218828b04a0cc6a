"""Weights from one format to another, and networks for deployment; each result is checked and gets a card (JSON).

    python simplebaseline_paddle/convert.py pose-resnet50-mpii-384x384 mpii.pdparams      # a Fluid folder
    python simplebaseline_paddle/convert.py pose_resnet_50_256x192.pth.tar fluid_folder   # PyTorch -> Fluid
    python simplebaseline_paddle/convert.py best.pdparams best.pth.tar                    # ours -> Microsoft's
    python simplebaseline_paddle/convert.py best.pdparams deploy/network --kind inference # Paddle's predictor
    python simplebaseline_paddle/convert.py best.pdparams network.onnx

The result is read back (or run) and its heat-maps compared with the input's; where they disagree nothing is kept.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from common.errors import DataError
from common.runs import converting
from common.runs.process import exit_code
from common.skeletons import card
from simplebaseline_paddle.config import DATASETS, PRESETS, Config

KINDS = {".pdparams": "pdparams", ".npz": "npz", ".onnx": "onnx", "": "fluid"}
KINDS |= dict.fromkeys((".pth", ".pt", ".tar"), "torch")
DEPLOYED = 2e-5  # of the largest value: the same sums in another order; formats of tensors hold the same numbers
GIVEN = ("input_height", "input_width", "style")


def convert(args: argparse.Namespace) -> str:
    """Write what the options say; returns it in words. DataError on bad input or a failed check: nothing is kept."""
    from common.runs.options import given_of
    from simplebaseline_paddle.estimator import Estimator

    kind, output = args.kind or KINDS.get(args.output.suffix), args.output
    if kind is None:
        raise DataError(f"OUTPUT {output}: which format? Give --kind, or a suffix {' '.join(filter(None, KINDS))}")
    if args.half and kind != "npz":
        raise DataError(f"--half is for .npz, not for {kind}")
    given = given_of(args, *GIVEN, "preset", "dataset", "raw_weights")
    one = Estimator(args.input, device="cpu", **given)
    width, height = one.config.input_size
    inputs = np.random.default_rng(0).standard_normal((2, 3, height, width), np.float32)
    tensors = partial(_tensors, half=args.half), converting.HALVED if args.half else 0.0
    write, tolerance = {"onnx": (_onnx, DEPLOYED), "inference": (_inference, DEPLOYED)}.get(kind, tensors)
    with converting.Conversion(args.input, output, args.licence) as conversion:
        conversion.compare("heat-maps", _maps(one.model, inputs), write(conversion.draft, one, inputs), tolerance)
        about = {"skeleton": card(one.skeleton), "settings": converting.portable(asdict(one.config))}
        mapping = "names only, no tensor is transposed"
        conversion.keep(mapping=mapping, kind=kind, network=one.config.name, **about)
    return f"{one.config.name} with {len(one.skeleton)} joints, check: {conversion.checks}"


def _maps(model, inputs: np.ndarray) -> np.ndarray:
    import paddle

    model.eval()
    with paddle.no_grad():
        return model(paddle.to_tensor(inputs)).numpy()


def _tensors(draft: Path, one, inputs: np.ndarray, half: bool) -> np.ndarray:
    """Write a file or folder of tensors; what a network with those read back answers."""
    from simplebaseline_paddle.model import build_model
    from simplebaseline_paddle.weight_files import arrays_of, put_weights, read_state, write_weights

    if draft.suffix == ".pdparams":
        import paddle

        about = {"config": converting.portable(asdict(one.config)), "about": {"skeleton": card(one.skeleton)}}
        paddle.save({"model": one.model.state_dict(), **about}, str(draft))
    else:
        write_weights(draft, arrays_of(one.model), one.config.depth, half)
    again = build_model(one.config, len(one.skeleton))
    put_weights(again, read_state(draft)["model"], draft)
    return _maps(again, inputs)


def _inference(draft: Path, one, inputs: np.ndarray) -> np.ndarray:
    from simplebaseline_paddle.estimator import export_inference, predictor

    return predictor(export_inference(one.model, draft, inputs.shape[1:]), threads=1)(inputs)


def _onnx(draft: Path, one, inputs: np.ndarray) -> np.ndarray:
    import paddle

    prefix, spec = str(draft).removesuffix(".onnx"), [paddle.static.InputSpec([None, *inputs.shape[1:]], name="image")]
    try:
        import onnxruntime

        paddle.onnx.export(one.model, prefix, spec, opset_version=13)
    except ImportError as error:
        remedy = "pip install -r simplebaseline_paddle/requirements.txt"
        raise DataError(f"ONNX export needs paddle2onnx and onnxruntime ({error}): {remedy}") from error
    session = onnxruntime.InferenceSession(f"{prefix}.onnx", providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: inputs})[0]


def main(argv=None) -> int:
    """Exit code 0, or 2 with a message on bad input or a failed check."""
    parser = converting.parser(__doc__)
    about = "format of OUTPUT (default: by its suffix, without one fluid)"
    parser.option("kind", choices=(*dict.fromkeys(KINDS.values()), "inference"), default=None, text=about)
    about = "settings of files that hold none, as the originals'"
    parser.option("preset", choices=tuple(PRESETS), default="paper", text=about)
    about = "whose joints, where a file of the originals does not say"
    parser.option("dataset", choices=DATASETS, default=None, text=about)
    parser.options("raw_weights")
    parser.settings(Config, only=GIVEN)
    return exit_code(lambda: convert(parser.parse_args(argv)), "{}")


if __name__ == "__main__":
    sys.exit(main())
