"""Speed: our training step and prediction against a plain tf.function version of the same network; post-processing; the graph solver.

    python deepercut_tf/bench.py --out deepercut_tf/results/bench.json

CPU time of the process (all its threads), medians. Ours includes reading, resizing and targets of every image; the plain version gets
ready-made tensors. The original's figures are those of TensorFlow 1.15.5 and its C++ solver on another 2-core machine.
"""

from __future__ import annotations

import argparse
import functools
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)

ORIGINAL_SOLVER = {50: 1.5, 100: 5.0, 200: 35.0, 400: 200.0}  # ms, C++ -O3


def parse_args(argv=None) -> argparse.Namespace:
    """Options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="*", default=["solver", "people", "network"], choices=("solver", "people", "network"), help="what to measure")
    parser.add_argument("--size", type=int, default=256, help="side of the pictures of the network part (default: 256)")
    parser.add_argument("--limit", type=int, default=8, help="measurements each (default: 8)")
    parser.add_argument("--out", help="JSON file to write")
    return parser.parse_args(argv)


def median_cpu(call, runs: int, warm: int = 2) -> float:
    """Median CPU milliseconds of a call."""
    import numpy as np

    times = []
    for i in range(runs + warm):
        start = time.process_time()
        call()
        if i >= warm:
            times.append(1000 * (time.process_time() - start))
    return float(np.median(times))


def pose_problem(n: int, seed: int):
    """A problem like those of pictures: people of some 14 detections, stray ones, 79 % of all pairs with an edge."""
    import numpy as np

    from deepercut_tf.multicut import logit_cost

    rng, persons = np.random.default_rng(seed), max(2, n // 14)
    owner = rng.integers(-persons // 4 - 1, persons, n)
    unary = logit_cost(np.where(owner >= 0, rng.beta(5, 2, n), rng.beta(2, 4, n)))
    a, b = np.triu_indices(n, 1)
    keep = rng.random(len(a)) < 0.79
    a, b = a[keep], b[keep]
    same = (owner[a] == owner[b]) & (owner[a] >= 0)
    return unary[:, None], np.stack([a, b], 1), logit_cost(np.where(same, rng.beta(6, 2, len(a)), rng.beta(1, 8, len(a))))


def bench_solver(runs: int) -> dict:
    """Milliseconds by number of nodes, after the compiled code was loaded."""
    from deepercut_tf.multicut import solve_nl_lmp

    return {
        f"solver, {n} nodes": {"ours_ms": median_cpu(functools.partial(solve_nl_lmp, *pose_problem(n, n)), runs), "original_ms": original}
        for n, original in ORIGINAL_SOLVER.items()
    }


def crowd_maps(people: int, seed: int = 0):
    """Maps of COCO's 17 joints with so many persons, on the grid of a picture of 640 x 480."""
    import numpy as np

    from deepercut_tf.config import make_config
    from deepercut_tf.detections import Maps
    from deepercut_tf.targets import make_targets

    rng = np.random.default_rng(seed)
    config = make_config({"num_joints": 17, "pos_dist_thresh": 17, "location_refinement": True, "pairwise_predict": True, "locref_stdev": 1.0})
    persons = [(np.arange(17), rng.uniform([40, 40], [600, 440]) + rng.normal(0, 40, (17, 2))) for _ in range(people)]
    targets = make_targets(persons, (60, 80), 1.0, config, np.stack([np.zeros((17, 17, 2)), np.ones((17, 17, 2))]))
    score = np.clip(0.9 * targets.score + rng.uniform(0, 0.1, targets.score.shape), 0, 1)
    return Maps(score, targets.locref.reshape(60, 80, 17, 2), targets.pairwise.reshape(60, 80, -1, 2) + rng.normal(0, 3, (60, 80, 272, 2)))


def bench_people(runs: int) -> dict:
    """Detections, pair probabilities and assembly of one picture, without the solver."""
    import numpy as np

    from deepercut_tf.detections import detect
    from deepercut_tf.multicut import solve_nl_lmp
    from deepercut_tf.pairwise import SpatialModel, pair_graph
    from deepercut_tf.people import assemble, logit_cost

    joints, rows = 17, {}
    model = SpatialModel(np.zeros((joints, joints, 8)), np.ones((joints, joints, 8)), np.tile([-0.1, -1, -0.1, -1, 1, 1, 1, 1, 2.0], (joints, joints, 1)))
    for people in (2, 5, 10):
        maps = crowd_maps(people)
        found = detect(maps, 5.0, 0.2)
        labels = solve_nl_lmp(logit_cost(found.conf)[:, None], *pair_costs(found, joints, model))

        def process(maps=maps, labels=labels):
            detections = detect(maps, 5.0, 0.2)
            pair_graph(detections, joints, model)
            return assemble(detections, labels, joints)

        rows[f"post-processing, {people} persons, {len(found)} detections"] = {"ours_ms": median_cpu(process, runs)}
    return rows


def pair_costs(found, joints: int, model):
    """Edges and their costs."""
    from deepercut_tf.multicut import logit_cost
    from deepercut_tf.pairwise import pair_graph

    pairs, probability = pair_graph(found, joints, model)
    return pairs, logit_cost(probability)


def bench_network(size: int, runs: int) -> dict:
    """Training step with its loader, and prediction, resnet_50 with 14 joints."""
    import itertools

    import keras

    from deepercut_tf.data import batches
    from deepercut_tf.engine import Predictor, Trainer
    from deepercut_tf.model import build_model, named_variables
    from deepercut_tf.plain_network import PlainNetwork

    with tempfile.TemporaryDirectory() as folder:
        item_set, config = picture_set(Path(folder), size)
        keras.utils.set_random_seed(0)
        model = build_model(config)
        trainer, predictor = Trainer(model, config), Predictor(model, config)
        plain = PlainNetwork({name: v.numpy() for name, v in named_variables(model).items()}, config)
        stream = batches(item_set, config, None)
        _, ready = next(stream)
        image = ready["inputs"]
        count = itertools.count(1)
        # rate 0: the weights of a random network would diverge, the work is the same
        ours = median_cpu(lambda: float(trainer.step(next(stream)[1], 0.0, next(count))["total_loss"]), runs)
        peer = median_cpu(lambda: float(plain.step(ready, 0.0)), runs)
        predict = median_cpu(lambda: predictor.maps(image[0]), runs)
        peer_predict = median_cpu(lambda: [v.numpy() for v in plain.predict(image)], runs)
    name = f"resnet_50, {size} x {size}, 14 joints"
    return {
        f"training step, {name}": {"ours_ms": ours, "plain_ms": peer, "ratio": ours / peer},
        f"prediction, {name}": {"ours_ms": predict, "plain_ms": peer_predict, "ratio": predict / peer_predict},
    }


def picture_set(folder: Path, size: int):
    """Four noise pictures with 14 joints each, in the original's layout, and settings to train on them."""
    import cv2
    import numpy as np

    from deepercut_tf.config import make_config
    from deepercut_tf.items import load_items
    from deepercut_tf.prepare_mpii import write_dataset

    rng, entries = np.random.default_rng(0), []
    for i in range(4):
        cv2.imwrite(str(folder / f"{i}.jpg"), rng.integers(0, 255, (size, size, 3)).astype(np.uint8))
        entries.append((f"{i}.jpg", (size, size), np.concatenate([np.arange(14)[:, None], rng.integers(0, size, (14, 2))], axis=1).astype(np.int32)))
    path = write_dataset(folder / "dataset.mat", entries, 0)
    values = {"dataset": str(path), "dataset_type": "mpii", "net_type": "resnet_50", "pos_dist_thresh": 17, "location_refinement": True}
    return load_items(make_config(values | {"locref_loss_weight": 0.05, "bn_mode": "frozen", "mirror": True}))


def main(argv=None) -> int:
    """Print the table, and write it as JSON if asked."""
    args = parse_args(argv)
    rows = {}
    if "solver" in args.parts:
        rows |= bench_solver(args.limit)
    if "people" in args.parts:
        rows |= bench_people(args.limit)
    if "network" in args.parts:
        rows |= bench_network(args.size, args.limit)
    for name, row in rows.items():
        print(f"{name:60}", "  ".join(f"{key} {value:.2f}" for key, value in row.items()))
    if args.out:
        from common.checkpoints import versions, write_json

        write_json(args.out, {"rows": rows, "measure": "CPU time of the process, median", "versions": versions()})
    return 0


if __name__ == "__main__":
    sys.exit(main())
