"""What a training step and a prediction cost, in CPU time, beside a plain TensorFlow step of the same network, in one run.

    python tests/bench/deeppose_tf.py --json deeppose_tf/results/bench/step.json  # step at batch 64 with the loader, against the plain step on tensors
    python tests/bench/deeppose_tf.py --what inference           # images a second at batch 1 and 128
    python tests/bench/deeppose_tf.py --what loader --images DIR  # crops a second of both loaders

The plain step is what one writes first: TensorFlow's own convolutions in two groups, its LRN, its pooling, Keras's Adagrad, one tf.function,
tensors that are there already. Each has a process of its own with the same number of threads; they take turns, so that the machine's load meets
both, and the median counts. CPU time is that of all threads and of the loader's processes.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT)

import numpy as np  # noqa: E402

JOINTS = 14
LOADERS = {"chainer": "Chainer's MultiprocessIterator", "pool": "process pool"}


def parse_args(argv=None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--what", choices=("step", "inference", "loader"), default="step", help="(default: step)")
    parser.add_argument("--batch_size", type=int, default=64, help="(default: 64)")
    parser.add_argument(
        "--repeat", type=int, default=5, help="measurements of each, of which the median counts (default: 5)"
    )
    parser.add_argument("--workers", type=int, default=1, help="loader processes (default: 1)")
    parser.add_argument("--loader", choices=("chainer", "pool"), default="chainer", help="(default: chainer)")
    parser.add_argument(
        "--images",
        type=Path,
        help="an LSPET folder whose pictures to load (default: noise pictures of its median size)",
    )
    parser.add_argument("--xla", action="store_true", help="our step with XLA")
    parser.add_argument("--amp", choices=("off", "bf16"), default="off", help="our step in mixed precision")
    parser.add_argument("--threads", type=int, default=2, help="TensorFlow's threads (default: 2)")
    parser.add_argument(
        "--json", type=Path, help="also write the figures here, as common.readmes puts them into the README"
    )
    return parser.parse_args(argv)


# ---- the plain step ---------------------------------------------------------------------------------------------------------------


def plain_step(weights: dict[str, np.ndarray]):
    """A function (images float32, targets, valid) -> loss that updates its own copy of `weights` (DT's names)."""
    import keras
    import tensorflow as tf

    variables = {name: tf.Variable(value) for name, value in weights.items()}
    optimizer = keras.optimizers.Adagrad(0.0005, initial_accumulator_value=1e-4, epsilon=0)
    optimizer.build(list(variables.values()))

    def convolution(x, name, stride=1, groups=1):
        kernel = variables[f"{name}/weight"]
        parts = [
            tf.nn.conv2d(a, k, stride, "SAME") for a, k in zip(tf.split(x, groups, -1), tf.split(kernel, groups, -1))
        ]
        return tf.nn.relu(tf.nn.bias_add(tf.concat(parts, -1), variables[f"{name}/bias"]))

    def dense(x, name):
        return tf.nn.bias_add(tf.matmul(x, variables[f"{name}/weight"]), variables[f"{name}/bias"])

    def network(x):
        for name, groups in (("conv1", 1), ("conv2", 2)):
            x = convolution(x, name, 4 if name == "conv1" else 1, groups)
            x = tf.nn.max_pool2d(tf.nn.local_response_normalization(x, 2, 1.0, 2e-5, 0.75), 3, 2, "VALID")
        x = convolution(convolution(convolution(x, "conv3"), "conv4", groups=2), "conv5", groups=2)
        x = tf.reshape(tf.nn.max_pool2d(x, 3, 2, "VALID"), (-1, weights["fc6/weight"].shape[0]))
        x = tf.nn.dropout(tf.nn.relu(dense(x, "fc6")), 0.6)
        return dense(tf.nn.dropout(tf.nn.relu(dense(x, "fc7")), 0.6), "fc_regression")

    @tf.function
    def step(images, targets, valid):
        with tf.GradientTape() as tape:
            error = tf.square(tf.reshape(network(images), (-1, JOINTS, 2)) - targets) * valid[..., None]
            loss = tf.reduce_mean(tf.reduce_sum(error, (1, 2)) / tf.reduce_sum(valid, 1))
        gradients = tape.gradient(loss, list(variables.values()))
        optimizer.apply(gradients, list(variables.values()))
        return loss

    return step


# ---- measuring --------------------------------------------------------------------------------------------------------------------


def cpu_seconds() -> float:
    """CPU time of this process's threads and of its living children."""
    own = time.process_time()
    ticks = os.sysconf("SC_CLK_TCK")
    for child in descendants(os.getpid()):
        try:
            fields = Path(f"/proc/{child}/stat").read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        own += (int(fields[11]) + int(fields[12])) / ticks
    return own


def descendants(parent: int) -> list[int]:
    """Process ids below `parent`."""
    try:
        tasks = os.listdir(f"/proc/{parent}/task")
        children = [int(c) for t in tasks for c in Path(f"/proc/{parent}/task/{t}/children").read_text().split()]
    except OSError:
        return []
    return [d for c in children for d in (c, *descendants(c))]


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
        name="lsp", skeleton=LSP14, split="noise", images=[str(folder / f"{i}.jpg") for i in range(count)], image_id=np.arange(count),
        person_id=np.zeros(count, int), joints=joints, visible=np.full((count, JOINTS), 2, np.int8), box=box_of_joints(joints),
    )  # fmt: skip
    return Persons(pose_set, "correct", min_dim=6)


def stream_for(persons, count: int):
    """Training crops as the LSP example cuts them."""
    from deeppose_tf.config import PRESETS, Config
    from deeppose_tf.data import Crops, Share, Stream

    config = Config(**PRESETS["lsp_alexnet_scratch"])
    return Stream(persons, Crops.for_training(config), config.seed, Share(0, count, 1, 0, 1))


def make_plain(args: argparse.Namespace, folder: Path):
    """The plain step on tensors that are ready."""
    import tensorflow as tf

    from deeppose_tf.model import build_network, get_weights

    tf.config.threading.set_intra_op_parallelism_threads(args.threads)
    tf.config.threading.set_inter_op_parallelism_threads(max(1, args.threads // 2))
    step, rng = plain_step(get_weights(build_network(JOINTS))), np.random.RandomState(0)
    images = tf.constant(rng.standard_normal((args.batch_size, 227, 227, 3)).astype(np.float32))
    targets = tf.constant(rng.uniform(-0.5, 0.5, (args.batch_size, JOINTS, 2)).astype(np.float32))
    valid = tf.ones((args.batch_size, JOINTS))
    return lambda: step(images, targets, valid)


def make_ours(args: argparse.Namespace, folder: Path):
    """The training step of train.py, fed by its loader."""
    from deeppose_tf.config import Config
    from deeppose_tf.loader import batches
    from deeppose_tf.machine import start_tensorflow

    stream = stream_for(persons_for(args, folder), args.batch_size * (args.repeat + 6))
    ready = batches(stream, args.batch_size, kind=args.loader, workers=args.workers)
    start_tensorflow(Config(threads=args.threads))
    from deeppose_tf.engine import Trainer
    from deeppose_tf.model import build_network
    from deeppose_tf.optimizers import make_optimizer

    trainer = Trainer(build_network(JOINTS, amp=args.amp), make_optimizer("adagrad"), "correct", xla=args.xla)
    return lambda: trainer.step(next(ready), conv_lr=0.0005, fc_lr=0.0005)["loss"]


def serve(name: str, args: argparse.Namespace, pipe) -> None:
    """A process that does a step of its own whenever it is asked, and answers (CPU, wall) seconds; (0, 0) once it is ready."""
    with tempfile.TemporaryDirectory() as folder:
        run = {"plain": make_plain, "ours": make_ours}[name](args, Path(folder))
        float(run())
        pipe.send((0.0, 0.0))
        while pipe.recv():
            cpu, wall = cpu_seconds(), time.perf_counter()
            float(run())
            pipe.send((cpu_seconds() - cpu, time.perf_counter() - wall))


def bench_step(args: argparse.Namespace) -> dict:
    """Median CPU seconds of both steps."""
    context, pipes, processes = multiprocessing.get_context("spawn"), {}, []
    for name in ("plain", "ours"):
        pipes[name], other = context.Pipe()
        processes.append(context.Process(target=serve, args=(name, args, other)))
        processes[-1].start()
        other.close()
        pipes[name].recv()  # one after the other: both are large while they are built

    def turn(name: str):
        pipes[name].send(True)
        return pipes[name].recv()

    times = {name: [] for name in pipes}
    for _turn in range(args.repeat + 1):
        for name in pipes:
            times[name].append(turn(name))
    for pipe in pipes.values():
        pipe.send(False)
    for process in processes:
        process.join()
    found = medians(times)
    plain, ours = found["plain"]["cpu"], found["ours"]["cpu"]
    kind = ("bfloat16" if args.amp == "bf16" else "float32") + (", XLA" if args.xla else "")
    rows = [["plain, float32, ready tensors", plain, 1.0], [f"train.py's, {kind}, loader included", ours, ours / plain]]
    return {"columns": [f"step, batch {args.batch_size}", "CPU seconds", "of the plain step"], "rows": rows}


def medians(times: dict[str, list]) -> dict:
    """{name: {cpu, wall}} of lists of pairs, without the first of each."""
    return {
        name: {"cpu": statistics.median(c for c, _ in t[1:]), "wall": statistics.median(w for _, w in t[1:])}
        for name, t in times.items()
    }


def take_turns(runners: dict, repeat: int) -> dict:
    """{name: {cpu, wall}} medians over `repeat` turns after one to warm up."""
    times: dict[str, list] = {name: [] for name in runners}
    for _turn in range(repeat + 1):
        for name, run in runners.items():
            cpu, wall = cpu_seconds(), time.perf_counter()
            float(run())
            times[name].append((cpu_seconds() - cpu, time.perf_counter() - wall))
    return medians(times)


def bench_inference(args: argparse.Namespace) -> dict:
    """Images a second of CPU time, and of wall time to print, at batch 1 and 128, from uint8 crops to shares."""
    from deeppose_tf.config import Config
    from deeppose_tf.machine import start_tensorflow

    start_tensorflow(Config(threads=args.threads))
    from deeppose_tf.engine import forward
    from deeppose_tf.model import build_network

    run, rows, wall = forward(build_network(JOINTS, amp=args.amp)), [], {}
    for size in (1, 128):
        images = np.random.RandomState(0).randint(0, 256, (size, 227, 227, 3)).astype(np.uint8)
        times = take_turns(
            {"x": lambda images=images: run(images).sum()}, args.repeat if size > 1 else 10 * args.repeat
        )["x"]
        rows.append([f"batch {size}", size / times["cpu"], 1000 * times["cpu"] / size])
        wall[f"batch {size}"] = f"{size / times['wall']:.0f} images a second"
    return {"columns": ["inference", "images a CPU second", "CPU ms an image"], "rows": rows, "wall": wall}


def bench_loader(args: argparse.Namespace) -> dict:
    """Crops a second of CPU time, and of wall time to print, through both loaders, on all cores, after the first batches."""
    from deeppose_tf.loader import batches

    rows, wall, workers = [], {}, args.workers if args.workers > 1 else multiprocessing.cpu_count()
    with tempfile.TemporaryDirectory() as folder:
        persons = persons_for(args, Path(folder))
        for kind in ("chainer", "pool"):
            count = 40 * args.batch_size
            stream = stream_for(persons, count)
            ready = batches(stream, args.batch_size, kind=kind, workers=workers)
            for _ in range(6):
                next(ready)
            cpu, began, done = cpu_seconds(), time.perf_counter(), 0
            for batch in ready:
                done += len(batch[0])
                if done >= count - 12 * args.batch_size:
                    break
            spent = cpu_seconds() - cpu
            rows.append([LOADERS[kind], done / spent])
            wall[LOADERS[kind]] = f"{done / (time.perf_counter() - began):.0f} crops a second"
            del ready
    return {"columns": [f"loader, {workers} processes", "crops a CPU second"], "rows": rows, "wall": wall}


def describe(args: argparse.Namespace, argv: list[str]) -> dict:
    """Command and note of the figures: no folder of this machine, and what else it was doing."""
    import platform
    from importlib.metadata import version

    words = [word for word in argv if not word.startswith("--json") and word != str(args.json)]
    words = ["DIR" if word == str(args.images) else word for word in words]
    # asked of the installation: the sides run in processes of their own, this one has not imported TensorFlow
    used = {"python": platform.python_version()} | {name: version(name) for name in ("numpy", "tensorflow", "keras")}
    about = f"medians of {args.repeat} turns" if args.what != "loader" else f"batches of {args.batch_size}"
    cores, load = len(os.sched_getaffinity(0)), os.getloadavg()[0]
    return {
        "command": " ".join(["python tests/bench/deeppose_tf.py", *words]),
        "note": f"{about}, on {cores} core{'s' if cores > 1 else ''} at load {load:.0f}; "
        + ", ".join(f"{k} {v}" for k, v in used.items()),
    }


def main(argv=None) -> int:
    """Print the figures and optionally write them."""
    args = parse_args(argv)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    from common.files import write_json
    from common.readmes import figures_table

    result = {"step": bench_step, "inference": bench_inference, "loader": bench_loader}[args.what](args)
    result |= describe(args, sys.argv[1:] if argv is None else argv)
    print(figures_table(result))
    for name, speed in result.pop("wall", {}).items():  # of this machine now: for the README CPU time alone
        print(f"{name}: {speed}")
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) / 2**20
    print(f"largest process {peak:.1f} GB")
    if args.json:
        write_json(args.json, result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
