"""Speed against the obvious peers, in CPU seconds of one run.

    python tests/bench/simplebaseline_paddle.py inference [--preset coco_256x192 --persons 32]   # scoring against the bare predictor and eager
    python tests/bench/simplebaseline_paddle.py loader [--persons 200]                           # decode, augment, warp, target

inference: images of random JPEGs through loader, network and decoding as val.py does it (without flip test; also with
`--amp bf16` where the processor has it), against Paddle's oneDNN predictor alone on tensors that lie ready, and
against the eager network as Paddle comes (on AMD processors without AVX, see estimator.py; `MKL_DEBUG_CPU_TYPE=5` before
the command measures it as this house runs it). The last row is numpy's product of two large float32 matrices with as
many multiplications as the network's: what the processor can do. loader: batches of training samples, and OpenCV's
decoding and warping of the same pictures alone, which bounds them. Runs in one thread and one process; sides take
turns.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("MKL_DEBUG_CPU_TYPE", "0")
if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from tests.bench.harness import one_thread, options, run, take_turns

one_thread()

from simplebaseline_paddle.config import PRESETS, Config  # noqa: E402


def parse_args(argv=None) -> argparse.Namespace:
    """Command line."""
    parser = options(__doc__, tuple(PARTS), runs=3)
    parser.set_defaults(batch_size=8)
    parser.add_argument("--preset", choices=tuple(PRESETS), default="mpii_256x256")
    parser.add_argument("--persons", type=int, default=None, help="default: 32 for inference, 200 for loader")
    parser.add_argument("--size", default="640x480", help="width x height of the JPEGs (default: 640x480)")
    args = parser.parse_args(argv)
    args.persons = args.persons or (32 if args.what == "inference" else 200)
    return args


def make_people(folder: Path, count: int, size: str):
    """(Records, skeleton) of `count` persons, each in a JPEG of its own with natural amounts of detail."""
    import cv2
    import numpy as np

    from common.skeletons import MPII16
    from simplebaseline_paddle.records import Records

    width, height = map(int, size.split("x"))
    rng = np.random.default_rng(0)
    paths = []
    for i in range(min(count, 50)):
        # noise of several scales, because decoding time depends on detail
        layers = [
            cv2.resize(
                rng.integers(0, 255, (height // s, width // s, 3), np.uint8),
                (width, height),
                interpolation=cv2.INTER_CUBIC,
            )
            for s in (4, 16, 64)
        ]
        paths.append(str(folder / f"{i}.jpg"))
        cv2.imwrite(paths[-1], np.mean(layers, axis=0).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 90])
    center = rng.uniform(0.4, 0.6, (count, 2)) * (width, height)
    scale = np.repeat(rng.uniform(1.5, 2.4, (count, 1)), 2, axis=1)
    joints = center[:, None] + rng.uniform(-100, 100, (count, len(MPII16), 2))
    records = Records(
        images=[paths[i % len(paths)] for i in range(count)], image_id=np.arange(count), rows=np.arange(count), center=center, scale=scale,
        joints=joints, seen=np.ones(joints.shape[:2], bool), box_score=np.ones(count), note="random",
    )  # fmt: skip
    return records, MPII16


def multiplications(model, size: tuple[int, int]) -> int:
    """Multiplications of all convolutions, plain and transposed, for one input of `size` = (width, height)."""
    import math

    import paddle
    from paddle import nn

    total = 0

    def count(layer, inputs, output) -> None:
        nonlocal total
        transposed = isinstance(layer, nn.Conv2DTranspose)
        # each weight meets every cell of the output, a transposed convolution's every cell of the input
        cells = (inputs[0] if transposed else output).shape[2:]
        total += math.prod(layer.weight.shape) * math.prod(cells)

    kinds = (nn.Conv2D, nn.Conv2DTranspose)
    hooks = [layer.register_forward_post_hook(count) for layer in model.sublayers() if isinstance(layer, kinds)]
    with paddle.no_grad():
        model(paddle.zeros([1, 3, size[1], size[0]]))
    for hook in hooks:
        hook.remove()
    return total


def bench_inference(args: argparse.Namespace, folder: Path) -> dict:
    """CPU seconds of scoring, of the bare predictor and of the eager network for the same persons."""
    from dataclasses import replace

    import numpy as np

    from common.runs.settings import resolve
    from simplebaseline_paddle.estimator import Estimator, PaddleProcess, before_paddle, processor

    before_paddle(1)
    import paddle

    from simplebaseline_paddle.model import FromPictures, build_model

    given = {"workers": 0, "flip_test": False, "batch_size": args.batch_size}
    config = resolve(Config, PRESETS[args.preset], given).checked()
    records, skeleton = make_people(folder, args.persons, args.size)
    model, process = build_model(config, len(skeleton), 0), PaddleProcess("cpu", 1)
    kinds = ("off", *(["bf16"] if "avx512_bf16" in processor() else []))
    estimators = {amp: Estimator.of(model, replace(config, amp=amp), skeleton, process) for amp in kinds}
    width, height = config.input_size
    ready = np.random.default_rng(0).integers(0, 256, (args.batch_size, height, width, 3), np.uint8)
    plain, ready_tensor = FromPictures(model, config.colour), paddle.to_tensor(ready)
    model.eval()
    batches = -(-args.persons // args.batch_size)

    def eager():
        with paddle.no_grad():
            return plain(ready_tensor).numpy()

    side = 1024
    matrices = np.random.default_rng(0).random((2, side, side), np.float32)
    sides = {
        "val.py's loop": lambda: estimators["off"].predict_records(records),
        "bare predictor": lambda: [estimators["off"].forward(ready) for _ in range(batches)],
        "eager": eager,
        "float32 limit": lambda: matrices[0] @ matrices[1],
    }
    about = ""
    if "bf16" in estimators:
        sides["val.py's loop, --amp bf16"] = lambda: estimators["bf16"].predict_records(records)
        wide, narrow = estimators["off"].forward(ready), estimators["bf16"].forward(ready)
        about = f"bfloat16 moves the maps of random weights by {np.sqrt(((narrow - wide) ** 2).mean()) / wide.std():.2g} standard deviations"
    seconds = take_turns(sides, args.runs)
    seconds["eager"] *= batches  # one was enough
    seconds["float32 limit"] *= multiplications(model, config.input_size) * args.persons / side**3
    ours = seconds["val.py's loop"]
    rows = [[name, args.persons / value, value / ours] for name, value in seconds.items()]
    return {
        "columns": [f"{config.name}, {args.size} JPEGs", "persons a CPU second", "CPU time over val.py's"],
        "rows": rows,
        "note": about,
    }


def bench_loader(args: argparse.Namespace, folder: Path) -> dict:
    """Training samples a CPU second, as train.py loads them, and OpenCV's part alone."""
    import cv2

    from common.runs.settings import resolve
    from simplebaseline_paddle.data import PersonDataset, affine

    config = resolve(Config, PRESETS[args.preset]).checked()
    records, skeleton = make_people(folder, args.persons, args.size)
    dataset = PersonDataset(records, skeleton, config, training=True)
    matrices = [affine(c, s, 0.0, config.input_size) for c, s in zip(records.center, records.scale)]

    def samples() -> None:
        for first in range(0, args.persons, args.batch_size):
            dataset[[(0, i) for i in range(first, min(first + args.batch_size, args.persons))]]

    def opencv() -> None:
        for path, matrix in zip(records.images, matrices):
            cv2.warpAffine(cv2.imread(path), matrix, config.input_size)

    sides = {"as train.py loads": samples, "OpenCV's imread and warpAffine alone": opencv}
    seconds = take_turns(sides, args.runs)
    width, height = config.input_size
    rows = [[name, args.persons / value, value / seconds["as train.py loads"]] for name, value in seconds.items()]
    return {
        "columns": [f"{args.size} JPEGs to {width}x{height}", "samples a CPU second", "CPU time over train.py's"],
        "rows": rows,
    }


PARTS = {"inference": bench_inference, "loader": bench_loader}


def main(argv=None) -> int:
    """Print the figures and optionally write them."""
    words = sys.argv[1:] if argv is None else argv
    args = parse_args(words)
    import cv2

    cv2.setNumThreads(0)

    def in_folder(part):
        def measure(args: argparse.Namespace) -> dict:
            with tempfile.TemporaryDirectory() as folder:
                return part(args, Path(folder))

        return measure

    return run(args, {name: in_folder(part) for name, part in PARTS.items()}, words, __file__)


if __name__ == "__main__":
    sys.exit(main())
