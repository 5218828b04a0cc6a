"""What a training step and a prediction cost, in CPU time, beside a plain TensorFlow step of the same network, in one
run.

    python tests/bench/deeppose_tf.py step --json FILE      # at batch 64 with the loader, plain on tensors
    python tests/bench/deeppose_tf.py inference            # images a second at batch 1 and 128
    python tests/bench/deeppose_tf.py loader --images DIR  # crops a second of the loader

The plain step is tests/reference/deeppose_tf.py, on tensors that are there already. Each has a process of its own with
the same number of threads. CPU time is that of all threads and of the loader's processes.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

if __name__ in ("__main__", "__mp_main__"):
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import numpy as np

from tests.bench.harness import cpu_of_all, options, run, take_turns

JOINTS = 14


def parse_args(argv=None) -> argparse.Namespace:
    """Command line."""
    parser = options(__doc__, tuple(PARTS))
    parser.set_defaults(batch_size=64, threads=2)
    parser.add_argument("--workers", type=int, default=1, help="loader processes (default: 1)")
    pictures = "an LSPET folder whose pictures to load (default: noise pictures of its median size)"
    parser.add_argument("--images", type=Path, help=pictures)
    parser.add_argument("--amp", choices=("off", "bf16"), default="off", help="our step in mixed precision")
    return parser.parse_args(argv)


def persons_for(args: argparse.Namespace, folder: Path):
    """Persons to load: of an LSPET folder, or on noise pictures as large as LSPET's median (238 x 252)."""
    from common import datasets
    from common.poses import PoseSet, box_of_joints
    from common.skeletons import LSP14
    from deeppose_tf.data import Persons

    if args.images:
        return Persons(datasets.load("lspet", args.images, "all"), "correct", min_dim=6)
    import cv2

    rng, count = np.random.RandomState(0), 256
    for i in range(count):
        low = rng.randint(0, 256, (32, 30, 3)).astype(np.uint8)
        cv2.imwrite(str(folder / f"{i}.jpg"), cv2.resize(low, (238, 252), interpolation=cv2.INTER_CUBIC))
    joints = rng.uniform(40, 200, (count, JOINTS, 2))
    pose_set = PoseSet(
        name="lsp",
        skeleton=LSP14,
        split="noise",
        images=[str(folder / f"{i}.jpg") for i in range(count)],
        image_id=np.arange(count),
        person_id=np.zeros(count, int),
        joints=joints,
        visible=np.full((count, JOINTS), 2, np.int8),
        box=box_of_joints(joints),
    )
    return Persons(pose_set, "correct", min_dim=6)


def stream_for(persons, count: int):
    """Training crops as the LSP example cuts them."""
    from common.runs.settings import resolve
    from common.skeletons import LSP14
    from deeppose_tf.config import Config, presets
    from deeppose_tf.data import Crops, Stream

    config = resolve(Config, presets()["paper"])
    return Stream(persons, Crops.for_training(config, LSP14), config.seed, 0, count)


def make_plain(args: argparse.Namespace, folder: Path):
    """The plain step on tensors that are ready."""
    import tensorflow as tf

    from deeppose_tf.model import build_network, get_weights
    from tests.reference.deeppose_tf import plain_step

    tf.config.threading.set_intra_op_parallelism_threads(args.threads)
    tf.config.threading.set_inter_op_parallelism_threads(max(1, args.threads // 2))
    step, rng = plain_step(get_weights(build_network(JOINTS))), np.random.RandomState(0)
    images = tf.constant(rng.standard_normal((args.batch_size, 227, 227, 3)).astype(np.float32))
    targets = tf.constant(rng.uniform(-0.5, 0.5, (args.batch_size, JOINTS, 2)).astype(np.float32))
    valid = tf.ones((args.batch_size, JOINTS))
    return lambda: step(images, targets, valid)


def make_ours(args: argparse.Namespace, folder: Path):
    """The training step of train.py, fed by its loader."""
    from common.runs.process import keep_memory
    from deeppose_tf.config import Config
    from deeppose_tf.engine import TensorFlow
    from deeppose_tf.loader import batches

    keep_memory()
    stream = stream_for(persons_for(args, folder), args.batch_size * (args.runs + 6))
    ready = batches(stream, args.batch_size, args.workers)
    TensorFlow(Config(threads=args.threads))
    from deeppose_tf.model import build_network
    from deeppose_tf.updates import TrainingStep

    update = TrainingStep(build_network(JOINTS, amp=args.amp), "adagrad", "correct")
    return lambda: update(next(ready), conv_lr=0.0005, fc_lr=0.0005)["loss"]


def serve(name: str, args: argparse.Namespace, pipe) -> None:
    """A process that does a step of its own whenever it is asked, and answers with its CPU seconds; 0 once it is
    ready."""
    with tempfile.TemporaryDirectory() as folder:
        once = {"plain": make_plain, "ours": make_ours}[name](args, Path(folder))
        float(once())
        pipe.send(0.0)
        while pipe.recv():
            cpu = cpu_of_all()
            float(once())
            pipe.send(cpu_of_all() - cpu)


def bench_step(args: argparse.Namespace) -> dict:
    """Median CPU seconds of both steps."""
    context, pipes, processes, spent = multiprocessing.get_context("spawn"), {}, [], 0.0
    for name in ("plain", "ours"):
        pipes[name], other = context.Pipe()
        processes.append(context.Process(target=serve, args=(name, args, other)))
        processes[-1].start()
        other.close()
        pipes[name].recv()  # one after the other: both are large while they are built

    def turn(name: str) -> None:
        nonlocal spent
        pipes[name].send(True)
        spent += pipes[name].recv()

    found = take_turns({name: lambda name=name: turn(name) for name in pipes}, args.runs, clock=lambda: spent)
    for pipe in pipes.values():
        pipe.send(False)
    for process in processes:
        process.join()
    plain, ours = found["plain"], found["ours"]
    kind = "bfloat16" if args.amp == "bf16" else "float32"
    # the sides run in processes of their own, this one has not imported TensorFlow
    note = f"{load()}, tensorflow {version('tensorflow')}, keras {version('keras')}"
    rows = [["plain, float32, ready tensors", plain, 1.0], [f"train.py's, {kind}, loader included", ours, ours / plain]]
    return {
        "columns": [f"step, batch {args.batch_size}", "CPU seconds", "of the plain step"],
        "rows": rows,
        "note": note,
    }


def load() -> str:
    """What else the machine was doing."""
    cores = len(os.sched_getaffinity(0))
    return f"{cores} core{'s' if cores > 1 else ''} at load {os.getloadavg()[0]:.0f}"


def bench_inference(args: argparse.Namespace) -> dict:
    """Images a second of CPU time at batch 1 and 128, from uint8 crops to shares."""
    from common.runs.process import keras_devices
    from deeppose_tf.estimator import forward

    keras_devices(None, args.threads)
    from deeppose_tf.model import build_network

    predict, rows = forward(build_network(JOINTS, amp=args.amp)), []
    for size in (1, 128):
        images = np.random.RandomState(0).randint(0, 256, (size, 227, 227, 3)).astype(np.uint8)
        runs = args.runs if size > 1 else 10 * args.runs
        cpu = take_turns({"ours": lambda images=images: float(predict(images).sum())}, runs, cpu_of_all)["ours"]
        rows.append([f"batch {size}", size / cpu, 1000 * cpu / size])
    return {"columns": ["inference", "images a CPU second", "CPU ms an image"], "rows": rows, "note": load()}


def bench_loader(args: argparse.Namespace) -> dict:
    """Crops a second of CPU time through the loader, on all cores, after the first batches; wall time is printed."""
    from deeppose_tf.loader import batches

    workers, count = args.workers if args.workers > 1 else multiprocessing.cpu_count(), 40 * args.batch_size
    with tempfile.TemporaryDirectory() as folder:
        ready = batches(stream_for(persons_for(args, Path(folder)), count), args.batch_size, workers)
        for _ in range(6):
            next(ready)
        cpu, began, done = cpu_of_all(), time.perf_counter(), 0
        for batch in ready:
            done += len(batch[0])
            if done >= count - 12 * args.batch_size:
                break
        spent = cpu_of_all() - cpu
        # of this machine now: for the README CPU time alone
        print(f"{done / (time.perf_counter() - began):.0f} crops a second")
        ready.close()
    rows = [["Chainer's MultiprocessIterator", done / spent]]
    return {"columns": [f"loader, {workers} processes", "crops a CPU second"], "rows": rows, "note": load()}


PARTS = {"step": bench_step, "inference": bench_inference, "loader": bench_loader}


def main(argv=None) -> int:
    """Print the figures and optionally write them."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    words = sys.argv[1:] if argv is None else argv
    return run(parse_args(words), PARTS, words, __file__)


if __name__ == "__main__":
    sys.exit(main())
