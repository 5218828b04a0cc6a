"""How much faster the networks are than a plain eager loop over frames with the same weights, measured in one run.

    python tests/bench/lpm_torch.py --model=lpm --resolution=256 --t=5 --batch_size=1 [--device=cuda --amp=bf16 --compile] [--json=FILE]
    python tests/bench/lpm_torch.py loader --dataset=LSP --data_dir=DIR [--resolution=256 --mode=compat]
    python tests/bench/lpm_torch.py device [--model=cpm]    # on a GPU: clips/s, memory, share of the bf16 matrix rate (device.py)

On a CPU the process's CPU time counts, on a GPU wall time. The plain loop is tests/reference/lpm_torch.py.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from tests.bench.harness import cpu_of_all, options, run, take_turns


def parse_args(argv=None) -> argparse.Namespace:
    """Command line."""
    parser = options(__doc__, tuple(PARTS))
    parser.add_argument("--dataset", default="LSP", help="loader: data set (default: LSP)")
    parser.add_argument("--data_dir", default="data", help="loader: folder of the data sets, or of this one")
    parser.add_argument("--split", default="train", help="loader: its split (default: train)")
    parser.add_argument("--mode", choices=("correct", "compat"), default="correct", help="loader: data handling")
    parser.add_argument("--clips", type=int, default=400, help="loader: clips a measurement (default: 400)")
    parser.add_argument("--workers", type=int, default=0, help="loader: its processes (default: none, in this one)")
    parser.add_argument("--model", choices=("lpm", "cpm"), default="lpm", help="network (default: lpm)")
    parser.add_argument("--resolution", type=int, default=256, help="input side (default: 256)")
    parser.add_argument("--t", type=int, default=5, help="frames a clip (default: 5)")
    parser.add_argument("--channels", type=float, default=1.0, help="channel multiplier (default: 1)")
    parser.add_argument(
        "--matrix", type=int, help="device: side of the matrices that give the rate (default: 8192; CPU 1024)"
    )
    parser.add_argument("--device", help="cpu or cuda (default: cpu; device: cuda)")
    parser.add_argument("--amp", choices=("off", "bf16"), help="autocast for both (default: off; device: bf16)")
    layout, compiled = (
        "our weights' layout (default: with bf16 or on cuda)",
        "also under torch.compile (device on cuda: yes)",
    )
    parser.add_argument("--channels_last", action=argparse.BooleanOptionalAction, default=None, help=layout)
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=None, help=compiled)
    return with_defaults(parser.parse_args(argv))


def with_defaults(args: argparse.Namespace) -> argparse.Namespace:
    """Fill in what depends on the thing measured and on the device."""
    whole = args.what == "device"
    args.device = args.device or ("cuda" if whole else "cpu")
    gpu = args.device.startswith("cuda")
    defaults = {
        "batch_size": 16 if whole and gpu else 1,
        "matrix": 8192 if gpu else 1024,
        "amp": "bf16" if whole else "off",
        "compile": whole and gpu,
    }
    for name, value in defaults.items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    if args.channels_last is None:
        args.channels_last = gpu or args.amp == "bf16"
    return args


class Bench:
    """Clips, the two networks with equal weights, and the timing of both in turn."""

    def __init__(self, args: argparse.Namespace) -> None:
        import torch

        from tests.reference.lpm_torch import build_model, plain_cpm, plain_lpm

        self.args, self.torch = args, torch
        torch.set_num_threads(args.threads)
        torch.manual_seed(0)
        self.device = torch.device(args.device)
        self.plain_forward = plain_lpm if args.model == "lpm" else plain_cpm
        self.plain = build_model(args.model, width=args.channels).to(self.device)
        self.ours = build_model(args.model, width=args.channels).to(self.device)
        self.ours.load_state_dict(self.plain.state_dict())
        if args.channels_last:
            self.ours = self.ours.to(memory_format=torch.channels_last)
        size = args.resolution
        self.frames = torch.randn(args.batch_size, args.t, 3, size, size, device=self.device)
        self.centers = torch.rand(args.batch_size, 1, size, size, device=self.device)

    def runners(self) -> dict:
        """Name -> (network, function that gives the maps that training compares with labels)."""
        runners = {
            "plain loop": (self.plain, lambda: self.plain_forward(self.plain, self.frames, self.centers)),
            "ours": (self.ours, lambda: self.ours(self.frames, self.centers)[1]),
        }
        if self.args.compile:
            compiled = self.torch.compile(self.ours)
            runners["ours, compiled"] = (self.ours, lambda: compiled(self.frames, self.centers)[1])
        return runners

    def autocast(self):
        """The context of `--amp`."""
        return self.torch.autocast(self.device.type, self.torch.bfloat16, enabled=self.args.amp == "bf16")

    def inference(self, net, forward) -> None:
        """One forward pass without gradients."""
        net.eval()
        with self.torch.inference_mode(), self.autocast():
            forward()

    def training(self, net, forward) -> None:
        """Forward and backward pass."""
        net.train()
        net.zero_grad(set_to_none=True)
        with self.autocast():
            maps = forward()
        maps.float().square().mean().backward()

    def clock(self) -> float:
        """CPU time of all threads; on a GPU wall time with an empty queue."""
        if self.device.type != "cuda":
            return time.process_time()
        self.torch.cuda.synchronize()
        return time.perf_counter()

    def run(self) -> dict:
        """{pass: {code: median seconds}}, and on a GPU `peak_memory_mib`."""
        result: dict = {}
        for mode in (self.inference, self.training):
            sides = {name: lambda pair=pair: mode(*pair) for name, pair in self.runners().items()}  # noqa: B023
            result[mode.__name__] = take_turns(sides, self.args.runs, self.clock)
        if self.device.type == "cuda":
            result["peak_memory_mib"] = self.torch.cuda.max_memory_allocated() / 2**20
        return result


def bench_network(args: argparse.Namespace) -> dict:
    """Seconds a clip of both, forward alone and with the backward pass."""
    result = Bench(args).run()
    rows = [
        [args.model, mode, name, seconds / args.batch_size, round(result[mode]["plain loop"] / seconds, 2)]
        for mode in ("inference", "training")
        for name, seconds in result[mode].items()
    ]
    memory = result.get("peak_memory_mib")
    note = f"{args.resolution} pixels, {args.t} frames, batch {args.batch_size}, amp {args.amp}"
    note += f", peak device memory of all together {memory:.0f} MiB" if memory else ""
    time_name = "s a clip" if args.device.startswith("cuda") else "CPU s a clip"
    return {"note": note, "columns": ["network", "pass", "code", time_name, "x plain loop"], "rows": rows}


def bench_loader(args: argparse.Namespace) -> dict:
    """Augmented crops a second (labels and centre map included), on one core or by `--workers` processes: median over
    `runs`, of wall time and of CPU time.

    The two differ on a busy machine. A warm-up reads the files once, so that the disk does not count. DataError without
    data.
    """
    import cv2

    from common.runs.settings import resolve
    from lpm_torch.config import Config, load_pose_set
    from lpm_torch.data import ClipDataset, make_loader

    cv2.setNumThreads(0)
    wanted = {"dataset": args.dataset, "input_width": args.resolution, "t": args.t, "mode": args.mode}
    config = resolve(Config, wanted).checked()
    pose_set = load_pose_set(args.dataset, args.data_dir, args.split)
    clips = ClipDataset(pose_set, config, args.resolution // 8, augment=True)
    clips.clips = clips.clips[: args.clips]
    loader = make_loader(clips, replace(config, workers=args.workers, batch_size=args.batch_size), shuffle=True)
    wall, cpu = [], []
    for turn in range(args.runs + 1):
        start = time.perf_counter(), cpu_of_all()
        crops = sum(batch["frames"].shape[0] * batch["frames"].shape[1] for batch in loader)
        if turn:
            wall.append(crops / (time.perf_counter() - start[0]))
            cpu.append(crops / (cpu_of_all() - start[1]))
    synthetic = "SYNTHETIC " if pose_set.synthetic else ""
    row = [f"{synthetic}{args.dataset}", args.mode, args.resolution, statistics.median(cpu), statistics.median(wall)]
    columns = ["pictures", "mode", "pixels", "crops a CPU second", "crops a second"]
    note = f"{crops} crops with labels and centre map, {args.workers} worker processes; files were read before"
    return {"note": note, "columns": columns, "rows": [row]}


def bench_device(args: argparse.Namespace) -> dict:
    """How well the networks use a device."""
    from tests.bench.device import ClipBench

    return ClipBench(args).table()


PARTS = {"network": bench_network, "loader": bench_loader, "device": bench_device}


def main(argv=None) -> int:
    """Exit code 0, or 2 with a message on bad input."""
    words = sys.argv[1:] if argv is None else argv
    return run(parse_args(words), PARTS, words, __file__)


if __name__ == "__main__":
    sys.exit(main())
