"""Caffe's command line: `train`, `test` and `time` with its option names.

    python deeppose_caffe_port/caffe_tool.py train -solver solver.prototxt [-snapshot S | -weights W] [-gpu 0]
    python deeppose_caffe_port/caffe_tool.py test -model net.prototxt -weights W.caffemodel [-iterations 50]
    python deeppose_caffe_port/caffe_tool.py time -model net.prototxt [-phase TRAIN] [-iterations 50]

`train` is train.py, with all its options.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)

from common.runs.first.process import exit_code  # noqa: E402


def parse_args(argv=None) -> argparse.Namespace:
    """Options of test and time; those of train go to train.py as they are."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("test", "time", "train"))
    parser.add_argument("-model", "--model", required=True, help="net prototxt")
    parser.add_argument("-weights", "--weights", help="comma-separated .caffemodel files")
    parser.add_argument("-iterations", "--iterations", type=int, default=50, help="batches (default: 50)")
    parser.add_argument("-phase", "--phase", choices=("TRAIN", "TEST"), help="of time (default: TRAIN)")
    parser.add_argument("-gpu", "--gpu", help="CUDA device number (default: the CPU)")
    parser.add_argument("--euclidean", choices=("modified", "stock"), default="modified", help="as in train.py")
    return parser.parse_args(argv)


def load(args: argparse.Namespace, phase: int):
    """(net, device, function that gives the next batch); nets with Input layers get random numbers."""
    import torch

    from deeppose_caffe_port.data import Prefetch
    from deeppose_caffe_port.model import CaffeNet
    from deeppose_caffe_port.solver import choose_device

    device = choose_device(f"cuda:{args.gpu}" if args.gpu else "cpu")
    net = CaffeNet.from_file(args.model, phase, euclidean=args.euclidean)
    for weights in filter(None, (args.weights or "").split(",")):
        net.load(weights)
    net.to(device)
    sources = net.sources()
    if sources:
        return net, device, Prefetch(sources, device).next
    inputs = {t: net.shapes[t] for m in net.order if m.param.type in ("Input", "MemoryData") for t in m.param.top}
    fixed = {top: torch.rand(shape, device=device) for top, shape in inputs.items()}
    return net, device, lambda: fixed


def test(args: argparse.Namespace) -> None:
    """Outputs of every batch, then their means, as Caffe prints them."""
    import torch

    from deeppose_caffe_port.model import TEST

    net, _, batch = load(args, TEST)
    sums: dict = {}
    for i in range(args.iterations):
        with torch.inference_mode():
            outputs, _ = net(batch())
        for name, value in outputs.items():
            print("\n".join(f"Batch {i}, {name} = {v:.6g}" for v in value.flatten().tolist()))
            sums[name] = sums.get(name, 0) + value
    for name, value in sums.items():
        weight = net.loss_weights.get(name, 0)
        for v in (value / args.iterations).flatten().tolist():
            print(f"{name} = {v:.6g}" + (f" (* {weight:g} = {weight * v:.6g} loss)" if weight else ""))


def timing(args: argparse.Namespace) -> None:
    """Mean milliseconds of the forward and backward pass."""
    import torch

    from deeppose_caffe_port.model import TEST, TRAIN

    net, device, batch = load(args, TEST if args.phase == "TEST" else TRAIN)
    spent = [0.0, 0.0]
    for i in range(-1, args.iterations):
        feeds, marks = batch(), []
        marks.append(now(device))
        outputs, loss = net(feeds)
        marks.append(now(device))
        target = loss if loss is not None else sum(v.sum() for v in outputs.values() if v.requires_grad)
        if isinstance(target, torch.Tensor) and target.requires_grad:
            target.backward()
        marks.append(now(device))
        if i >= 0:  # the first pass is a warm-up
            spent = [s + b - a for s, a, b in zip(spent, marks, marks[1:])]
    for name, seconds in zip(("forward", "backward"), spent):
        print(f"Average {name} pass: {1000 * seconds / args.iterations:.3f} ms.")
    print(f"Average Forward-Backward: {1000 * sum(spent) / args.iterations:.3f} ms.")


def now(device) -> float:
    """Seconds, after the device's queue is empty."""
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def main(argv=None) -> int:
    """Exit code 0, or 2 with a message on bad input."""
    words = sys.argv[1:] if argv is None else list(argv)
    if words[:1] == ["train"]:
        from deeppose_caffe_port.train import main as train

        return train(words[1:])
    args = parse_args(words)
    return exit_code(lambda: {"test": test, "time": timing}[args.action](args))


if __name__ == "__main__":
    sys.exit(main())
