"""Speed against the obvious peers, in one run: a plain PyTorch module of the same net, OpenCV's Caffe reader, reading
of the LMDB.

    python tests/bench/deeppose_caffe_port.py net [--stage=1 --batch_size=16 --threads=1 --device=cpu --json=OUT]
    python tests/bench/deeppose_caffe_port.py reader [--stage=1]           # LMDB and augmentation against what training consumes
    python tests/bench/deeppose_caffe_port.py device [--stage=1 --device=cuda --amp=bf16]  # pictures/s, memory, share of the bf16 rate

`net` times forward and backward passes in TRAIN phase in turn; CPU seconds count, on a GPU wall seconds. The plain
module is in tests/reference. Real Caffe is not here; a plain module took 0.72 of its CPU time where it was measured.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from operator import truediv
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from tests.bench.harness import all_turns, options, run

CAFFE_SHARE = 0.72  # plain module / real Caffe, CPU time of forward and backward on one thread


def parse_args(argv=None) -> argparse.Namespace:
    """Options."""
    parser = options(__doc__, tuple(PARTS))
    parser.set_defaults(batch_size=16)
    parser.add_argument("--stage", type=int, choices=(1, 2), default=1, help="network (default: 1)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    parser.add_argument("--compile", action="store_true", help="also measure under torch.compile")
    parser.add_argument("--amp", choices=("off", "bf16"), default="off", help="device: autocast (default: off)")
    parser.add_argument("--matrix", type=int, default=8192, help="device: side of the matrices that give the rate")
    return parser.parse_args(argv)


class NetBench:
    """The networks with equal weights, one batch, and the timing of all of them in turn."""

    def __init__(self, args: argparse.Namespace):
        import torch

        from common.weights.caffe_text import parse_text
        from deeppose_caffe_port.model import TEST, TRAIN, CaffeNet
        from deeppose_caffe_port.random_stream import CaffeRandom
        from tests.reference.deeppose_caffe_port import network_texts, plain_module

        self.args, self.torch = args, torch
        torch.set_num_threads(args.threads)
        self.deploy, text, side = network_texts(args.stage, args.batch_size)
        self.device = torch.device(args.device)
        self.ours = CaffeNet(parse_text(text, "NetParameter"), TRAIN, random=CaffeRandom(1)).to(self.device)
        self.plain = plain_module(self.ours).to(self.device).train()
        self.low = CaffeNet(parse_text(text, "NetParameter"), TRAIN, random=CaffeRandom(1))
        self.low.to(self.device, memory_format=torch.channels_last)
        self.test = CaffeNet(parse_text(self.deploy, "NetParameter"), TEST, random=CaffeRandom(1))
        self.test.load_state_dict(self.ours.state_dict())
        if self.device.type == "cuda":
            for net in (self.ours, self.low):
                net.context.dropout = "torch"
        self.x = torch.rand(args.batch_size, 3, side, side, device=self.device)

    def training(self) -> dict:
        """Name -> forward function of a TRAIN pass."""
        torch = self.torch

        def low():
            with torch.autocast(self.device.type, torch.bfloat16):
                return self.low({"data": self.x})[0]["predict"]

        runners = {
            "plain module": lambda: self.plain(self.x),
            "ours": lambda: self.ours({"data": self.x})[0]["predict"],
            "ours, bf16": low,
        }
        if self.args.compile:
            compiled = torch.compile(self.ours)
            runners["ours, compiled"] = lambda: compiled({"data": self.x})[0]["predict"]
        return runners

    def inference(self) -> dict:
        """Name -> function of a TEST pass; OpenCV's reader on a CPU."""
        plain = self.plain
        runners = {
            "plain module": lambda: plain.eval()(self.x),
            "ours": lambda: self.test.to(self.device)({"data": self.x})[0]["predict"],
        }
        if self.device.type == "cpu":
            runners["cv2.dnn"] = self.opencv()
        return runners

    def opencv(self):
        """The deploy net in OpenCV, from our own files."""
        import cv2

        cv2.setNumThreads(self.args.threads)
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "net.prototxt").write_text(self.deploy)
            self.test.save(Path(folder, "net.caffemodel"))
            net = cv2.dnn.readNetFromCaffe(f"{folder}/net.prototxt", f"{folder}/net.caffemodel")
        x = self.x.numpy()

        def run():
            net.setInput(x)
            return net.forward("predict")

        return run

    def clock(self) -> float:
        """CPU seconds of the process; on a GPU wall seconds with an empty queue."""
        if self.device.type == "cuda":
            self.torch.cuda.synchronize()
            return time.perf_counter()
        return time.process_time()

    def passing(self, forward, backward: bool):
        """A call of one pass."""

        def once() -> None:
            if backward:
                forward().float().square().mean().backward()
            else:
                with self.torch.inference_mode():
                    forward()

        return once

    def run(self) -> dict:
        """Median seconds of each runner in both modes, and the median of its shares of the plain module's time in the
        same turn."""
        result: dict = {}
        for mode, runners in (("training", self.training()), ("inference", self.inference())):
            sides = {name: self.passing(forward, mode == "training") for name, forward in runners.items()}
            times = all_turns(sides, self.args.runs, self.clock)
            plain = times["plain module"]
            shares = {name: statistics.median(map(truediv, values, plain)) for name, values in times.items()}
            seconds = {name: statistics.median(values) for name, values in times.items()}
            result[mode] = {"seconds": seconds, "share": shares}
        return result


def bench_net(args: argparse.Namespace) -> dict:
    """`NetBench` as a table."""
    result, rows = NetBench(args).run(), []
    for mode in ("training", "inference"):
        for name, seconds in result[mode]["seconds"].items():
            rows.append([mode, name, seconds, round(result[mode]["share"][name], 2)])
    clock = "CPU s" if args.device == "cpu" else "s"
    note = f"stage {args.stage}, batch {args.batch_size}"
    if args.device == "cpu":
        note += f"; a plain module took {CAFFE_SHARE} of real Caffe's CPU time where both were measured"
    return {"note": note, "columns": ["pass", "code", f"{clock} a batch", "of the plain module"], "rows": rows}


def bench_reader(args: argparse.Namespace) -> dict:
    """CPU time a picture of making an LMDB, reading it, and turning the batch, beside that of training on it."""
    import numpy as np

    from deeppose_caffe_port.data import Augment, convert_imageset
    from deeppose_caffe_port.prepare import save
    from deeppose_caffe_port.sources import LmdbSource

    side, labels, count = ((227, 30, 512), (64, 2, 2048))[args.stage - 1]
    random, spent = np.random.default_rng(0), {}
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        names = [f"{i:04d}.png" for i in range(64)]
        for name in names:
            save(home / name, np.kron(random.integers(0, 255, (53, 64, 3)), np.ones((4, 4, 1))).astype(np.uint8))
        start = time.process_time()
        convert_imageset(
            [names[i % 64] for i in range(count)],
            random.random((count, labels)),
            home / "lmdb",
            side,
            root=home,
            workers=args.threads,
        )
        spent["make the LMDB (once)"] = (time.process_time() - start) / count
        source, turn = LmdbSource(home / "lmdb", args.batch_size, labels), Augment(40, 1.2)
        batches = count // args.batch_size
        start = time.process_time()
        read = [source.next_batch() for _ in range(batches)]
        spent["read"] = (time.process_time() - start) / (batches * args.batch_size)
        start = time.process_time()
        for pixels, label in read[:8]:
            turn(pixels, label)
        spent["turn and scale (--rotate, --zoom)"] = (time.process_time() - start) / (len(read[:8]) * args.batch_size)
    bench = NetBench(args)
    ours = bench.training()["ours"]
    passes = all_turns({"ours": bench.passing(ours, backward=True)}, args.runs)["ours"]
    spent["train, float32"] = statistics.median(passes) / args.batch_size
    rows = [[name, 1000 * seconds, 1 / seconds] for name, seconds in spent.items()]
    note = f"stage {args.stage} of preset paper, batch {args.batch_size}"
    return {"note": note, "columns": ["step", "CPU ms a picture", "pictures a CPU second"], "rows": rows}


def bench_device(args: argparse.Namespace) -> dict:
    """How well a stage uses a device."""
    from tests.bench.device import CaffeBench

    return CaffeBench(args).table()


PARTS = {"net": bench_net, "reader": bench_reader, "device": bench_device}


def main(argv=None) -> int:
    """Print the table and optionally write it."""
    words = sys.argv[1:] if argv is None else argv
    args = parse_args(words)
    import torch

    torch.set_num_threads(args.threads)
    return run(args, PARTS, words, __file__)


if __name__ == "__main__":
    sys.exit(main())
