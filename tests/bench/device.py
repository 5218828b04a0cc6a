"""How well the torch houses' networks use a device: samples a second, peak memory and the share of its measured bf16
matrix rate, eager and compiled.

`python tests/bench/lpm_torch.py device` and `python tests/bench/deeppose_caffe_port.py device` print it. The work of a
sample (a clip, a picture) is that of its convolutions and products; a clip's is counted on the plain loop over frames, so
that a network cannot look busy by computing anything twice.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from common.errors import DataError

PASSES = ("inference", "training")


def clip_flops(model: str, resolution: int, t: int, width: float = 1.0) -> dict[str, int]:
    """Floating-point operations (2 a multiplication and addition) of one clip's forward pass, and of forward and
    backward pass.

    Counted on tensors without content: the same for every device, nothing is computed.
    """
    from tests.reference.lpm_torch import build_model, plain_cpm, plain_lpm

    plain = {"lpm": plain_lpm, "cpm": plain_cpm}[model]
    with torch.device("meta"):
        network = build_model(model, width=width)
        frames, centers = torch.empty(1, t, 3, resolution, resolution), torch.empty(1, 1, resolution, resolution)
    return counted(
        lambda: plain(network.eval(), frames, centers), lambda: plain(network.train(), frames, centers).sum().backward()
    )


def counted(inference: Callable, training: Callable) -> dict[str, int]:
    """Floating-point operations of both passes."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as forward, torch.no_grad():
        inference()
    with FlopCounterMode(display=False) as both:
        training()
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
    """One network on one device, as val.py and train.py run it. A subclass makes `networks` (of each pass), `flops` of a
    sample by pass, its `setting` in words, and does a pass: `inference` and `training` of a network, eager or compiled."""

    networks: dict[str, torch.nn.Module]
    flops: dict[str, int]
    model: str
    setting: str

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
        self.build()

    def build(self) -> None:
        """Make what `run` measures."""
        raise NotImplementedError

    def autocast(self):
        """The context of `--amp`."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.args.amp == "bf16")

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
        """`matrix_rate`, and for each pass and each of eager and compiled: samples a second, peak memory, operations a
        second, share.

        DataError when the batch does not fit into the device's memory.
        """
        args = self.args
        rate = matrix_rate(self.device, args.matrix, args.runs)
        rows = []
        for name in PASSES:
            networks = {"eager": self.networks[name]}
            if args.compile:
                networks["compiled"] = torch.compile(self.networks[name])
            for code, network in networks.items():
                try:
                    found = self.measure(name, network)
                except torch.OutOfMemoryError as error:
                    what = f"{name} of {args.batch_size} samples does not fit into the device's memory"
                    raise DataError(f"{what}; lower --batch_size") from error
                samples = args.batch_size / found["seconds"]
                work = samples * self.flops[name]
                rows.append({"pass": name, "code": code, "samples_per_s": samples, "peak_mib": found["peak_mib"],
                             "tflops": work / 1e12, "share": work / rate})  # fmt: skip
        return {"matrix_rate": rate, "flops": self.flops, "rows": rows, "device": self.name()}

    def name(self) -> str:
        """What the figures were measured on."""
        gpu = self.device.type == "cuda"
        return torch.cuda.get_device_name(self.device) if gpu else f"CPU, threads {self.args.threads}"

    def table(self) -> dict:
        """`run` as a table."""
        args, result = self.args, self.run()
        rows = []
        for row in result["rows"]:
            peak = "-" if row["peak_mib"] is None else round(row["peak_mib"])
            share = round(100 * row["share"], 1)
            figures = [row["samples_per_s"], peak, round(row["tflops"], 3), share]
            rows.append([self.model, row["pass"], row["code"], *figures])
        setting = f"{self.setting}, batch {args.batch_size}, amp {args.amp}"
        rate = f"bf16 product of {args.matrix} x {args.matrix} matrices {result['matrix_rate'] / 1e12:.3g} Tflop/s"
        names = ["samples/s", "peak device memory, MiB", "Tflop/s", "% of the bf16 matrix rate"]
        return {
            "note": f"{result['device']}: {setting}, wall time; training is a whole step with its update; {rate}",
            "columns": ["network", "pass", "code", *names],
            "rows": rows,
        }


class ClipBench(DeviceBench):
    """cpm or lpm on random clips."""

    def build(self) -> None:
        from tests.reference.lpm_torch import build_model

        args, size = self.args, self.args.resolution
        self.model, self.setting = args.model, f"{size} pixels, {args.t} frames"
        self.flops = clip_flops(args.model, size, args.t, args.channels)
        network = build_model(args.model, width=args.channels).to(self.device)
        if args.channels_last:
            network = network.to(memory_format=torch.channels_last)
        self.networks, grid = dict.fromkeys(PASSES, network), network.output_size(size)
        self.frames = torch.randn(args.batch_size, args.t, 3, size, size, device=self.device)
        self.centers = torch.rand(args.batch_size, 1, size, size, device=self.device)
        self.labels = torch.rand(args.batch_size, args.t, 15, grid, grid, device=self.device)
        # nothing moves: thousands of steps at random labels must not change what is timed
        self.optimizer = torch.optim.Adam(network.parameters(), lr=0.0, fused=self.device.type == "cuda")

    def inference(self, network) -> None:
        """One batch's maps."""
        self.networks["inference"].eval()
        with torch.inference_mode(), self.autocast():
            network(self.frames, self.centers)

    def training(self, network) -> None:
        """One whole step: forward pass, loss, backward pass, Adam."""
        from lpm_torch.losses import sequence_loss

        self.networks["training"].train()
        with self.autocast():
            maps = network(self.frames, self.centers)[1]
        sequence_loss(maps, self.labels, "mean").backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


class CaffeBench(DeviceBench):
    """A stage of the Caffe port, of preset paper, on random crops."""

    def build(self) -> None:
        from common.runs.process import place
        from common.weights.caffe_text import parse_text
        from deeppose_caffe_port.model import TEST, TRAIN, CaffeNet
        from deeppose_caffe_port.random_stream import CaffeRandom
        from deeppose_caffe_port.solver import Updater
        from tests.reference.deeppose_caffe_port import network_texts

        args = self.args

        def nets(batch: int) -> dict[str, CaffeNet]:
            deploy, train, self.side = network_texts(args.stage, batch)
            texts = {"inference": (deploy, TEST), "training": (train, TRAIN)}
            parsed = {name: (parse_text(text, "NetParameter"), phase) for name, (text, phase) in texts.items()}
            return {n: CaffeNet(*pair, random=CaffeRandom(1), dropout="torch") for n, pair in parsed.items()}

        one = {name: net.to("meta") for name, net in nets(1).items()}
        x = {"data": torch.empty(1, 3, self.side, self.side, device="meta")}
        self.flops = counted(
            lambda: one["inference"](x), lambda: one["training"](x)[0]["predict"].float().sum().backward()
        )
        self.networks = {name: place(torch, net, self.device, args.amp) for name, net in nets(args.batch_size).items()}
        self.model, self.setting = f"deeppose stage {args.stage}", f"{self.side} pixels"
        self.data = {"data": torch.rand(args.batch_size, 3, self.side, self.side, device=self.device)}
        rule = parse_text('base_lr: 0 lr_policy: "fixed" momentum: 0.9 weight_decay: 0.0005', "SolverParameter").message
        self.updater = Updater(rule, list(self.networks["training"].blobs()))

    def inference(self, network) -> None:
        """One batch's joints."""
        with torch.inference_mode(), self.autocast():
            network(self.data)

    def training(self, network) -> None:
        """One whole iteration: forward pass, loss, backward pass, Caffe's SGD at rate 0."""
        for blob in self.updater.blobs:
            blob.tensor.grad = None
        with self.autocast():
            found = network(self.data)[0]["predict"]
        found.float().square().mean().backward()
        self.updater.step(0.0, 0)
