"""Caffe's command line: `train` and `test` with its option names.

    python deeppose_caffe_port/caffe_tool.py train -solver solver.prototxt [-snapshot S | -weights W] [-gpu 0]
    python deeppose_caffe_port/caffe_tool.py test -model net.prototxt -weights W.caffemodel [-iterations 50]

`train` is train.py, with all its options.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from common.runs.options import Parser
from common.runs.process import exit_code


def parse_args(argv=None) -> argparse.Namespace:
    """Options of test; those of train go to train.py as they are."""
    parser = Parser(__doc__)
    parser.source("action", "train or test", choices=("test",))
    parser.option("model", "-model", text="net prototxt", group="network", required=True)
    parser.option("weights", "-weights", text=".caffemodel files, comma-separated", default="")
    parser.option(
        "euclidean", choices=("modified", "stock"), text="as in train.py", group="network", default="modified"
    )
    parser.option("iterations", "-iterations", type=int, text="batches", group="data", default=50)
    parser.option("gpu", "-gpu", text="CUDA device number (default: the CPU)", group="machine", default=None)
    return parser.parse_args(argv)


def test(args: argparse.Namespace) -> None:
    """Outputs of every batch, then their means, as Caffe prints them; nets with Input layers get random numbers."""
    import torch

    from deeppose_caffe_port.data import Prefetch
    from deeppose_caffe_port.engine import TorchProcess
    from deeppose_caffe_port.model import TEST, CaffeNet

    device = TorchProcess(f"cuda:{args.gpu}" if args.gpu else "cpu").device
    net = CaffeNet.from_file(args.model, TEST, euclidean=args.euclidean)
    for weights in filter(None, args.weights.split(",")):
        net.load(weights)
    net.to(device)
    inputs = {t: net.shapes[t] for m in net.order if m.param.type in ("Input", "MemoryData") for t in m.param.top}
    given = {top: torch.rand(shape, device=device) for top, shape in inputs.items()}
    feed, sums = Prefetch(net.sources(), device) if net.sources() else None, dict[str, torch.Tensor]()
    for i in range(args.iterations):
        with torch.inference_mode():
            outputs, _ = net(feed.next() if feed else given)
        for name, value in outputs.items():
            print("\n".join(f"Batch {i}, {name} = {v:.6g}" for v in value.flatten().tolist()))
            sums[name] = sums.get(name, 0) + value
    for name, value in sums.items():
        weight = net.loss_weights.get(name, 0)
        for v in (value / args.iterations).flatten().tolist():
            print(f"{name} = {v:.6g}" + (f" (* {weight:g} = {weight * v:.6g} loss)" if weight else ""))


def main(argv=None) -> int:
    """Exit code 0, or 2 with a message on bad input."""
    words = sys.argv[1:] if argv is None else list(argv)
    if words[:1] == ["train"]:
        from deeppose_caffe_port.train import main as train

        return train(words[1:])
    args = parse_args(words)
    return exit_code(lambda: test(args))


if __name__ == "__main__":
    sys.exit(main())
