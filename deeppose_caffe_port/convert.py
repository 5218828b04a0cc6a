"""Weights of a Caffe net in other forms, each checked by a forward pass before it is kept; a card (JSON) is written
beside it.

    python deeppose_caffe_port/convert.py W.caffemodel net.pt --model deploy.prototxt             # PyTorch state dict
    python deeppose_caffe_port/convert.py net.pt back.caffemodel --model deploy.prototxt          # and back
    python deeppose_caffe_port/convert.py v1.caffemodel new.caffemodel --model old.prototxt       # V1 -> current layers
    python deeppose_caffe_port/convert.py PROJECT shipped.npz --half     # a project's nets as one file of 16-bit weights

The suffix says the form. Without --model: deploy.prototxt beside the weights, or one folder up.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from common.errors import DataError
from common.runs.converting import HALVED, Conversion
from common.runs.converting import parser as new_parser
from common.runs.process import exit_code

FORMS = (".caffemodel", ".pt")
TOLERANCE = 1e-4  # of the largest output: float32 sums in another order


def load(model: Path, weights: Path):
    """The net in TEST phase with its weights; DataError when any layer has none in the file."""
    from deeppose_caffe_port.model import CaffeNet
    from deeppose_caffe_port.weight_files import load_whole

    net = CaffeNet.from_file(model, data=False)
    load_whole(net, weights)
    return net


def outputs(net) -> dict[str, Any]:
    """What the net answers to random inputs, the same ones in every call."""
    import torch

    draw = torch.Generator().manual_seed(0)
    with torch.inference_mode():
        feeds = {top: torch.rand(net.shapes[top], generator=draw) for top in net.inputs}
        return {name: value.numpy() for name, value in net(feeds)[0].items()}


def convert_project(args: argparse.Namespace) -> dict:
    """A project as one file of 16-bit weights, and its card."""
    import numpy as np

    from common.skeletons import card
    from deeppose_caffe_port.estimator import Estimator
    from deeppose_caffe_port.weight_files import pack

    whole = Estimator(args.input, stage=args.stage)
    width, height = whole.config.size
    pictures = list(np.random.default_rng(0).integers(0, 256, (2, height, width, 3), np.uint8))
    with Conversion(args.input, args.output, args.licence) as conversion:
        pack(whole.config, len(whole.regressors), conversion.draft)
        found = Estimator(conversion.draft, stage=args.stage).joints(pictures)
        conversion.compare("joints", whole.joints(pictures), found, HALVED)
        return conversion.keep(skeleton=card(whole.skeleton), mapping="a project folder, blobs of 16 bits")


def convert(args: argparse.Namespace) -> dict:
    """Write the file and its card; returns the card."""
    import torch

    from deeppose_caffe_port.config import settle
    from deeppose_caffe_port.weight_files import find_project

    source = Path(args.input)
    if args.half != (args.output.suffix == ".npz"):
        raise DataError(f"OUTPUT {args.output}: --half is for a project as .npz, and that needs it")
    if args.half:
        return convert_project(args)
    if args.output.suffix not in FORMS:
        raise DataError(f"OUTPUT {args.output}: the suffix must be one of {', '.join(FORMS)}")
    beside = (folder / "deploy.prototxt" for folder in (source.parent, source.parent.parent))
    model = args.model or next((p for p in beside if p.is_file()), None)
    if model is None:
        raise DataError(f"{source}: no deploy.prototxt beside it or one folder up; give --model")
    net, project = load(model, source), find_project(source)
    with Conversion(source, args.output, args.licence) as conversion:
        draft = conversion.draft
        net.save(draft) if args.output.suffix == ".caffemodel" else torch.save(net.state_dict(), draft)
        conversion.compare("read again", outputs(net), outputs(load(model, draft)), TOLERANCE)
        mapping = "blob i of layer L = parameter L.{weight,bias} or BatchNorm's three statistics, unchanged"
        # single files hold no names: those of the project that it lies in
        skeleton = settle({"out": str(project)}).skeleton if project else None
        return conversion.keep(model=model.name, skeleton=skeleton, mapping=mapping)


def main(argv=None) -> int:
    """Exit code 0, or 2 with a message on bad input."""
    parser = new_parser(__doc__)
    parser.option("model", "-model", type=Path, text="deploy prototxt, V1 or current", group="network", default=None)
    text = "stages of a project in an .npz (default: all trained)"
    parser.option("stage", type=int, text=text, group="network", default=None)
    args = parser.parse_args(argv)
    return exit_code(lambda: f"{args.output}; checks: {convert(args)['check']}", "written: {}")


if __name__ == "__main__":
    sys.exit(main())
