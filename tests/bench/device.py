"""How well the networks use a device: clips a second, peak memory and the share of its measured bf16 matrix rate, eager
and compiled.

`python tests/bench/lpm_torch.py device` prints it. The work of a clip is counted on the plain loop over frames, as
multiplications and additions of its convolutions, so that a network cannot look busy by computing anything twice.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from common.errors import DataError
from lpm_torch.losses import sequence_loss
from tests.reference.lpm_torch import build_model, plain_cpm, plain_lpm

PASSES = ("inference", "training")


def clip_flops(model: str, resolution: int, t: int, width: float = 1.0) -> dict[str, int]:
    """Floating-point operations (2 a multiplication and addition) of one clip's forward pass, and of forward and
    backward pass.

    Counted on tensors without content: the same for every device, nothing is computed.
    """
    from torch.utils.flop_counter import FlopCounterMode

    plain = {"lpm": plain_lpm, "cpm": plain_cpm}[model]
    with torch.device("meta"):
        network = build_model(model, width=width)
        frames, centers = torch.empty(1, t, 3, resolution, resolution), torch.empty(1, 1, resolution, resolution)
    with FlopCounterMode(display=False) as forward, torch.no_grad():
        plain(network.eval(), frames, centers)
    with FlopCounterMode(display=False) as both:
        plain(network.train(), frames, centers).sum().backward()
    return {"inference": forward.get_total_flops(), "training": both.get_total_flops()}


def matrix_rate(device: torch.device, side: int, repeat: int) -> float:
    """Operations a second of a bf16 product of two (side, side) matrices: the best of `repeat` after two warm-ups."""
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    times = [seconds(lambda: a @ b, device) for _ in range(repeat + 2)][2:]
    return 2 * side**3 / min(times)


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Wall time of `work`, on a GPU until its queue is empty."""
    _wait(device)
    start = time.perf_counter()
    work()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class DeviceBench:
    """One network on one device, as val.py and train.py run it, on random clips."""

    def __init__(self, args: argparse.Namespace) -> None:
        """DataError when the device is not there."""
        self.args, self.device = args, torch.device(args.device)
        if self.device.type == "cuda" and not torch.cuda.is_available():
            raise DataError("PyTorch sees no CUDA device here; give --device=cpu")
        if self.device.type == "cuda":
            torch.backends.cudnn.benchmark = True  # as lpm_torch/estimator.py
        else:
            torch.set_num_threads(args.threads)
        torch.manual_seed(0)
        size = args.resolution
        self.model = build_model(args.model, width=args.channels).to(self.device)
        if args.channels_last:
            self.model = self.model.to(memory_format=torch.channels_last)
        grid = self.model.output_size(size)
        self.frames = torch.randn(args.batch_size, args.t, 3, size, size, device=self.device)
        self.centers = torch.rand(args.batch_size, 1, size, size, device=self.device)
        self.labels = torch.rand(args.batch_size, args.t, 15, grid, grid, device=self.device)
        # nothing moves: thousands of steps at random labels must not change what is timed
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=0.0)

    def _autocast(self):
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.args.amp == "bf16")

    def inference(self, network) -> None:
        """One batch's maps."""
        self.model.eval()
        with torch.inference_mode(), self._autocast():
            network(self.frames, self.centers)

    def training(self, network) -> None:
        """One whole step: forward pass, loss, backward pass, Adam."""
        self.model.train()
        with self._autocast():
            maps = network(self.frames, self.centers)[1]
        sequence_loss(maps, self.labels, "mean").backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def measure(self, name: str, network) -> dict[str, float | None]:
        """Median seconds a batch of a pass, and on a GPU its peak memory in MiB. Three warm-ups: compilation, cuDNN's
        choice, Adam's state."""
        step = getattr(self, name)
        for _ in range(3):
            step(network)
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        times = [seconds(lambda: step(network), self.device) for _ in range(self.args.runs)]
        peak = torch.cuda.max_memory_allocated(self.device) / 2**20 if self.device.type == "cuda" else None
        return {"seconds": statistics.median(times), "peak_mib": peak}

    def run(self) -> dict:
        """`matrix_rate`, and for each pass and each of eager and compiled: clips a second, peak memory, operations a
        second, share.

        DataError when the batch does not fit into the device's memory.
        """
        args = self.args
        rate = matrix_rate(self.device, args.matrix, args.runs)
        flops = clip_flops(args.model, args.resolution, args.t, args.channels)
        networks = {"eager": self.model}
        if args.compile:
            networks["compiled"] = torch.compile(self.model)
        rows = []
        for name in PASSES:
            for code, network in networks.items():
                try:
                    found = self.measure(name, network)
                except torch.OutOfMemoryError as error:
                    raise DataError(
                        f"{name} of {args.batch_size} clips does not fit into the device's memory; lower --batch_size"
                    ) from error
                clips = args.batch_size / found["seconds"]
                rows.append({"pass": name, "code": code, "clips_per_s": clips, "peak_mib": found["peak_mib"],
                             "tflops": clips * flops[name] / 1e12, "share": clips * flops[name] / rate})  # fmt: skip
        return {"matrix_rate": rate, "flops": flops, "rows": rows, "device": self.name()}

    def name(self) -> str:
        """What the figures were measured on."""
        return (
            torch.cuda.get_device_name(self.device)
            if self.device.type == "cuda"
            else f"CPU, threads {self.args.threads}"
        )

    def table(self) -> dict:
        """`run` as a table."""
        args, result = self.args, self.run()
        rows = []
        for row in result["rows"]:
            peak = "-" if row["peak_mib"] is None else round(row["peak_mib"])
            share = round(100 * row["share"], 1)
            rows.append(
                [args.model, row["pass"], row["code"], row["clips_per_s"], peak, round(row["tflops"], 3), share]
            )
        setting = f"{args.resolution} pixels, {args.t} frames, batch {args.batch_size}, amp {args.amp}"
        rate = f"bf16 product of {args.matrix} x {args.matrix} matrices {result['matrix_rate'] / 1e12:.3g} Tflop/s"
        return {
            "note": f"{result['device']}: {setting}, wall time; training is a whole step with Adam; {rate}",
            "columns": [
                "network",
                "pass",
                "code",
                "clips/s",
                "peak device memory, MiB",
                "Tflop/s",
                "% of the bf16 matrix rate",
            ],
            "rows": rows,
        }
