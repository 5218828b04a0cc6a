"""How much faster the networks are than a plain eager loop over frames with the same weights, measured in one run.

    python tests/bench/lpm_torch.py --model=lpm --resolution=256 --t=5 --batch_size=1 [--device=cuda --amp=bf16 --compile] [--json=FILE]
    python tests/bench/lpm_torch.py loader --dataset=LSP --data_dir=DIR [--resolution=256 --mode=compat]
    python tests/bench/device.py [--model=cpm]      # on a GPU: clips/s, memory, share of the bf16 matrix rate, with and without --compile

On a CPU the process's CPU time counts (wall time says little on a busy machine), on a GPU wall time; FILE is what `common.readmes` puts into
the README. `plain_lpm` and `plain_cpm` are that loop: one frame at a time, a convolution a layer and gate, nothing shared. They are the tests' oracle.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT)

from common.runs.first.process import exit_code  # noqa: E402


def direct(layer, x):
    """The layer as PyTorch's own convolution."""
    import torch.nn.functional as F

    return F.conv2d(x, layer.weight, layer.bias, padding=layer.padding)


def plain_cpm(model, frames, centers):
    """CPM's stage-6 maps (B,T,maps,g,g), frame by frame, layer by layer."""
    import torch
    import torch.nn.functional as F

    outputs = []
    for t in range(frames.shape[1]):
        x = frames[:, t]
        centre = F.avg_pool2d(centers, 9, stride=8, padding=1)
        belief = x
        for k in (1, 2, 3):
            belief = F.max_pool2d(F.relu(direct(getattr(model, f"conv{k}_stage1"), belief)), 3, stride=2, padding=1)
        for k in (4, 5, 6):
            belief = F.relu(direct(getattr(model, f"conv{k}_stage1"), belief))
        belief = direct(model.conv7_stage1, belief)
        for k in (1, 2, 3):
            x = F.max_pool2d(F.relu(direct(getattr(model, f"conv{k}_stage2"), x)), 3, stride=2, padding=1)
        for s in range(2, 7):
            own = model.conv4_stage2 if s == 2 else getattr(model, f"conv1_stage{s}")
            y = torch.cat([F.relu(direct(own, x)), belief, centre], dim=1)
            for m in (1, 2, 3, 4):
                y = F.relu(direct(getattr(model, f"Mconv{m}_stage{s}"), y))
            belief = direct(getattr(model, f"Mconv5_stage{s}"), y)
        outputs.append(direct(model.final_layer, belief))
    return torch.stack(outputs, dim=1)


def plain_lpm(model, frames, centers):
    """LPM's maps (B,T+1,maps,g,g), frame by frame, gate by gate; dropout as in training when the model is in that mode."""
    import torch
    import torch.nn.functional as F

    def encode(x, stage):
        for k in (1, 2, 3):
            x = F.max_pool2d(F.relu(direct(getattr(model, f"conv{k}_stage{stage}"), x)), 3, stride=2)
        return F.relu(direct(getattr(model, f"conv4_stage{stage}"), x))

    x = encode(frames[:, 0], 1)
    for layer in (model.conv5_stage1, model.conv6_stage1):
        x = F.dropout2d(F.relu(direct(layer, x)), model.dropout, model.training)
    belief = F.relu(direct(model.conv7_stage1, x))
    maps, hidden, cell = [belief], None, None
    for t in range(frames.shape[1]):
        centre = F.avg_pool2d(centers, 9, stride=8)
        x = torch.cat([encode(frames[:, t], 6), belief, centre], dim=1)
        if hidden is None:
            hidden, cell = torch.zeros_like(x), torch.zeros_like(x)
        gate = {}
        for q in "gfio":
            pre = direct(getattr(model, f"{q}_x_stage6"), x) + direct(getattr(model, f"{q}_h_stage6"), hidden)
            gate[q] = getattr(model, f"{q}_stage6")(torch.sigmoid(pre))
        cell = gate["i"] * gate["g"] + gate["f"] * cell
        belief = hidden = gate["o"] * torch.tanh(cell)
        for m in (1, 2, 3, 4, 5):
            belief = F.relu(direct(getattr(model, f"Mres{m}_stage6"), belief))
        maps.append(belief)
    return torch.stack(maps, dim=1)


def parse_args(argv=None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = ("network", "loader", "device")
    parser.add_argument("what", nargs="?", choices=what, default="network", help="what to measure (default: network)")
    parser.add_argument("--dataset", default="LSP", help="loader: data set (default: LSP)")
    parser.add_argument("--data_dir", default="data", help="loader: folder of the data sets, or of this one")
    parser.add_argument("--split", default="train", help="loader: its split (default: train)")
    parser.add_argument(
        "--mode", choices=("correct", "compat"), default="correct", help="loader: data handling (default: correct)"
    )
    parser.add_argument("--clips", type=int, default=400, help="loader: clips a measurement (default: 400)")
    parser.add_argument("--model", choices=("lpm", "cpm"), default="lpm", help="network (default: lpm)")
    for name, value, text in (("resolution", 256, "input side"), ("t", 5, "frames a clip"),
                              ("threads", 1, "CPU threads"), ("repeat", 5, "measurements, of which the median counts")):  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=value, help=f"{text} (default: {value})")
    parser.add_argument("--width", type=float, default=1.0, help="channel multiplier (default: 1)")
    parser.add_argument("--batch_size", type=int, help="clips (default: 1; device on cuda: 16)")
    parser.add_argument(
        "--matrix",
        type=int,
        help="device: side of the matrices whose product gives the rate (default: 8192, on a CPU 1024)",
    )
    parser.add_argument("--device", help="cpu or cuda (default: cpu; device: cuda)")
    parser.add_argument("--amp", choices=("off", "bf16"), help="autocast for both (default: off; device: bf16)")
    parser.add_argument("--channels_last", action=argparse.BooleanOptionalAction, default=None,
                        help="layout of our weights (default: with bf16 or on cuda, as train.py)")  # fmt: skip
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=None,
                        help="also measure our network under torch.compile (default: no; device on cuda: yes)")  # fmt: skip
    parser.add_argument("--json", type=Path, default=None, help="write the result here too")
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

        from lpm_torch.model import build_model

        self.args, self.torch = args, torch
        torch.set_num_threads(args.threads)
        torch.manual_seed(0)
        self.device = torch.device(args.device)
        self.plain_forward = plain_lpm if args.model == "lpm" else plain_cpm
        self.plain = build_model(args.model, width=args.width).to(self.device)
        self.ours = build_model(args.model, width=args.width).to(self.device)
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

    def seconds(self, mode, net, forward) -> float:
        """One pass: CPU time of all threads, on a GPU wall time with the device's queue."""
        gpu = self.device.type == "cuda"
        clock = time.perf_counter if gpu else time.process_time
        start = clock()
        mode(net, forward)
        if gpu:
            self.torch.cuda.synchronize()
        return clock() - start

    def run(self) -> dict:
        """Median seconds of each runner in both modes; runners take turns, so that a change of the machine's load meets all of them."""
        runners = self.runners()
        result: dict = {}
        for mode in (self.inference, self.training):
            times: dict[str, list[float]] = {}
            for turn in range(self.args.repeat + 1):
                for name, (net, forward) in runners.items():
                    spent = self.seconds(mode, net, forward)
                    if turn:  # the first is a warm-up
                        times.setdefault(name, []).append(spent)
            medians = {name: statistics.median(values) for name, values in times.items()}
            speedup = {name: medians["plain loop"] / value for name, value in medians.items()}
            result[mode.__name__] = {"seconds": medians, "speedup": speedup}
        if self.device.type == "cuda":
            result["peak_memory_mib"] = self.torch.cuda.max_memory_allocated() / 2**20
        return result


def loader_rates(args: argparse.Namespace) -> dict:
    """Augmented crops a second on one core (labels and centre map included): median over `repeat`, of wall time and of CPU time.

    The two differ on a busy machine. A warm-up reads the files once, so that the disk does not count. DataError without data.
    """
    import cv2

    from common.errors import DataError
    from common.runs.first.settings import resolve
    from lpm_torch.config import Config
    from lpm_torch.data import Augmentation, ClipDataset
    from lpm_torch.sources import load_pose_set

    cv2.setNumThreads(0)
    config = resolve(Config, {"dataset": args.dataset, "resolution": args.resolution, "t": args.t, "mode": args.mode})
    pose_set = load_pose_set(args.dataset, args.data_dir, args.split)
    clips = ClipDataset(pose_set, config, args.resolution // 8, Augmentation.from_config(config), args.clips)
    if not len(clips):
        raise DataError(f"{pose_set.root}: split {pose_set.split} has no clip of {config.t} frames; give a smaller --t")
    wall, cpu = [], []
    for turn in range(args.repeat + 1):
        start = time.perf_counter(), time.process_time()
        crops = sum(len(clips[(0, i)]["frames"]) for i in range(len(clips)))
        if turn:
            wall.append(crops / (time.perf_counter() - start[0]))
            cpu.append(crops / (time.process_time() - start[1]))
    rates = {"crops_per_s": statistics.median(wall), "crops_per_cpu_s": statistics.median(cpu)}
    return {"crops": crops, "synthetic": pose_set.synthetic, **rates}


def main(argv=None) -> int:
    """Print the figures and optionally write them. Exit code 0, or 2 with a message on bad input."""
    args = parse_args(argv)
    words = [word for word in (sys.argv[1:] if argv is None else argv) if not word.startswith("--json")]

    def work() -> None:
        from common.files import write_json

        if args.what == "network":
            result = Bench(args).run()
            print_network(args, result)
            figures = network_figures(args, result)
        elif args.what == "device":
            from tests.bench.device import DeviceBench, device_figures, print_device

            result = DeviceBench(args).run()
            print_device(args, result)
            figures = device_figures(args, result)
        else:
            result = loader_rates(args)
            about = f"{args.dataset} {args.mode} {args.resolution}"
            print(f"{about}: {result['crops_per_s']:.0f} crops/s, {result['crops_per_cpu_s']:.0f} a second of CPU")
            figures = loader_figures(args, result)
        if args.json:
            write_json(args.json, {"command": " ".join(["python tests/bench/lpm_torch.py", *words]), **figures})

    return exit_code(work)


def network_figures(args: argparse.Namespace, result: dict) -> dict:
    """`Bench.run` as a table for `common.readmes`."""
    import torch

    time_name = "s a clip" if args.device.startswith("cuda") else "CPU s a clip"
    rows = [
        [args.model, mode, name, seconds / args.batch_size, round(result[mode]["speedup"][name], 2)]
        for mode in ("inference", "training")
        for name, seconds in result[mode]["seconds"].items()
    ]
    memory = (
        f", peak device memory of all together {result['peak_memory_mib']:.0f} MiB"
        if "peak_memory_mib" in result
        else ""
    )
    note = (
        f"{args.resolution} pixels, {args.t} frames, batch {args.batch_size}, amp {args.amp}, threads {args.threads}, median of {args.repeat} in turn,"
        f" torch {torch.__version__}{memory}"
    )
    return {"note": note, "columns": ["network", "pass", "code", time_name, "x plain loop"], "rows": rows}


def loader_figures(args: argparse.Namespace, result: dict) -> dict:
    """`loader_rates` as a table for `common.readmes`."""
    synthetic = "SYNTHETIC " if result["synthetic"] else ""
    row = [f"{synthetic}{args.dataset}", args.mode, args.resolution, result["crops_per_cpu_s"], result["crops_per_s"]]
    note = f"{result['crops']} crops with labels and centre map, median of {args.repeat}, one thread; files were read before"
    return {
        "note": note,
        "columns": ["pictures", "mode", "pixels", "crops a CPU second", "crops a second"],
        "rows": [row],
    }


def print_network(args: argparse.Namespace, result: dict) -> None:
    """The table of `Bench.run`."""
    for mode in ("inference", "training"):
        for name, seconds in result[mode]["seconds"].items():
            clips = args.batch_size / seconds
            print(
                f"{args.model} {mode:9s} {name:15s} {seconds:8.3f} s {clips:8.2f} clips/s   x{result[mode]['speedup'][name]:.2f}"
            )
    if "peak_memory_mib" in result:
        print(f"peak device memory of all together {result['peak_memory_mib']:.0f} MiB")


if __name__ == "__main__":
    sys.exit(main())
