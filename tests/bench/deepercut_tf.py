"""Speed in CPU time, sides in turn: the network against a plain tf.function version of it; everything around it; the
graph solver.

    python tests/bench/deepercut_tf.py network --json deepercut_tf/results/bench/network.json
    python tests/bench/deepercut_tf.py people        # several persons, without network and solver
    python tests/bench/deepercut_tf.py solver
    python tests/bench/deepercut_tf.py optimum       # how often the solver misses it, on small problems

network: ours with reading, resizing and targets of every image, the plain version (tests/reference) on ready-made
tensors. solver: beside the figures of the original's C++ (-O3, one core of another machine, instances alike but not the
same).
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from tests.bench.harness import one_thread, options, run, take_turns

one_thread()

ORIGINAL_SOLVER = {50: 1.5, 100: 5.0, 200: 35.0, 400: 200.0}  # ms
SIZE = 256  # side of the network's pictures


def cpu_ms(sides: dict, runs: int) -> dict:
    """Median CPU milliseconds of each side's call."""
    return {name: 1000 * seconds for name, seconds in take_turns(sides, runs).items()}


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
    return (
        unary[:, None],
        np.stack([a, b], 1),
        logit_cost(np.where(same, rng.beta(6, 2, len(a)), rng.beta(1, 8, len(a)))),
    )


def bench_solver(args: argparse.Namespace) -> dict:
    """Milliseconds by size of the problem, the compiled code loaded."""
    from deepercut_tf.multicut import solve_nl_lmp

    problems = {n: pose_problem(n, n) for n in ORIGINAL_SOLVER}
    spent = cpu_ms({n: lambda p=p: solve_nl_lmp(*p) for n, p in problems.items()}, args.runs)
    rows = [[f"{n} / {len(problems[n][1])}", spent[n], original] for n, original in ORIGINAL_SOLVER.items()]
    return {
        "columns": ["nodes / edges (like pictures)", "here, CPU ms", "original, C++ -O3 on another machine, ms"],
        "rows": rows,
    }


def small_problem(count: int, seed: int):
    """A random problem of 4 to 6 nodes and so many classes, all pairs linked."""
    import numpy as np

    rng, n = np.random.default_rng(seed), 4 + seed % 3
    kinds = list(np.ndindex(count, count)) if count > 1 else [()]
    pairs = np.array([(a, b, *kind) for a, b in itertools.combinations(range(n), 2) for kind in kinds])
    return rng.normal(-0.5, 1, (n, count)), pairs, rng.normal(0, 1.5, len(pairs))


def exhaustive(objective):
    """A compiled function (graph, parts (P,N), classes K) -> the optimum over all classes in all parts."""
    import numpy as np
    from numba import njit

    @njit
    def search(graph, parts, kinds):
        best, classes = np.inf, np.zeros(parts.shape[1], np.int64)
        for part in parts:
            for code in range(kinds ** len(part)):
                for v in range(len(part)):
                    classes[v] = code // kinds**v % kinds
                best = min(best, objective(graph, classes, part))
        return best

    return search


def bench_optimum(args: argparse.Namespace) -> dict:
    """A row a number of classes and of starts: of 200 random problems, how many end above their optimum."""
    import numpy as np

    from deepercut_tf.multicut import build_graph, greedy_start, kernighan_lin, objective, solve_nl_lmp
    from tests.deepercut_tf.test_multicut import partitions

    search, rows = exhaustive(objective), []
    parts = {n: partitions(n) for n in (4, 5, 6)}
    for count in (1, 2):
        gaps: dict[str, list[float]] = {"one start": [], "as shipped": []}
        for seed in range(200):
            problem = small_problem(count, seed)
            graph = build_graph(*problem)
            best = search(graph, parts[len(graph.unary)], graph.unary.shape[1])
            first = graph.unary[:, :count].argmin(1)
            found = solve_nl_lmp(*problem)
            classes = np.minimum(found[:, 0], count).astype(np.int64)
            gaps["one start"].append(objective(graph, *kernighan_lin(graph, first, greedy_start(graph, first))) - best)
            gaps["as shipped"].append(objective(graph, classes, found[:, 1].astype(np.int64)) - best)
        for name, gap in gaps.items():
            rows.append([count, name, int((np.array(gap) > 1e-9).sum()), max(gap)])
    columns = ["classes", "search", "of 200 problems of 4 to 6 nodes above the optimum", "by at most"]
    return {"columns": columns, "rows": rows, "note": "objectives by exhaustive search"}


def crowd(people: int, size: tuple[int, int] = (640, 480)):
    """(settings, statistics, network outputs) of a picture with so many persons of COCO's 17 joints, as if a network
    had seen them."""
    import numpy as np

    from deepercut_tf.config import make_config
    from deepercut_tf.targets import make_targets, map_size

    rng = np.random.default_rng(people)
    config = make_config(
        {"num_joints": 17, "pos_dist_thresh": 17, "location_refinement": True, "pairwise_predict": True}
    )
    known = np.stack([np.zeros((17, 17, 2)), np.full((17, 17, 2), 30.0)])
    persons = [
        (np.arange(17), rng.uniform([40, 40], np.array(size) - 40) + rng.normal(0, 40, (17, 2))) for _ in range(people)
    ]
    targets = make_targets(persons, map_size(*size[::-1]), 1.0, config, known)
    score = np.clip(0.9 * targets.score + rng.uniform(0, 0.1, targets.score.shape), 0, 1).astype(np.float32)
    pairwise = (targets.pairwise + rng.normal(0, 0.1, targets.pairwise.shape)).astype(np.float32)
    return config, known, {"part_prob": score[None], "locref": targets.locref[None], "pairwise_pred": pairwise[None]}


def bench_people(args: argparse.Namespace) -> dict:
    """Reading and resizing a picture; maps in pixels, detections, pair probabilities and assembly; not the network, not
    the solver."""
    import cv2
    import numpy as np

    from common.images import read_image
    from deepercut_tf.data import resize
    from deepercut_tf.detections import detect, unpack_maps
    from deepercut_tf.pairwise import SpatialModel, assemble, pair_graph, solve_detections

    joints, rows, sides = 17, [], {}
    model = SpatialModel(
        np.zeros((joints, joints, 8)),
        np.ones((joints, joints, 8)),
        np.tile([-0.1, -1, -0.1, -1, 1, 1, 1, 1, 2.0], (joints, joints, 1)),
    )
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "a.jpg")
        cv2.imwrite(
            path,
            cv2.resize(
                np.random.default_rng(0).integers(0, 255, (96, 128, 3), np.uint8),
                (753, 565),
                interpolation=cv2.INTER_CUBIC,
            ),
        )
        sides["before"] = lambda: np.ascontiguousarray(resize(read_image(path)[..., ::-1], 0.85))
        for people in (2, 5, 10):
            config, known, outputs = crowd(people)
            found = detect(unpack_maps(outputs, config, known), 5.0, 0.2)
            labels = solve_detections(found, joints, model)

            def process(config=config, known=known, outputs=outputs, labels=labels):
                detections = detect(unpack_maps(outputs, config, known), 5.0, 0.2)
                pair_graph(detections, joints, model)
                return assemble(detections, labels, joints)

            sides[people] = process
            rows.append([people, len(found)])
        spent = cpu_ms(sides, args.runs)
    before = spent["before"]
    rows = [[people, count, before, spent[people], before + spent[people]] for people, count in rows]
    columns = [
        "persons",
        "detections",
        "JPEG 753 x 565 to 640 x 480 pixels, CPU ms",
        "network outputs to persons without the solver, CPU ms",
        "together",
    ]
    return {"columns": columns, "rows": rows}


def bench_network(args: argparse.Namespace) -> dict:
    """Training step with its loader, and prediction, resnet_50 with 14 joints."""
    import keras

    from deepercut_tf.data import batches
    from deepercut_tf.detections import unpack_maps
    from deepercut_tf.engine import Update
    from deepercut_tf.model import Predictor, build_model, named_variables
    from tests.reference.deepercut_tf import PlainNetwork

    with tempfile.TemporaryDirectory() as folder:
        item_set, config = picture_set(Path(folder), SIZE)
        keras.utils.set_random_seed(0)
        model = build_model(config)
        update, predictor = Update(model, config), Predictor(model)
        plain = PlainNetwork({name: v.numpy() for name, v in named_variables(model).items()}, config)
        stream, count = batches(item_set, config, None), itertools.count(1)
        ready = {name: value for name, value in next(stream).items() if name != "draw"}
        image = ready["inputs"]
        # rate 0: the weights of a random network would diverge, the work is the same
        sides = {
            "step": lambda: float(update(next(stream), 0.0, next(count))["total_loss"]),
            "plain step": lambda: float(plain.step(ready, 0.0)),
            "prediction": lambda: unpack_maps(predictor(image), config),
            "plain prediction": lambda: [v.numpy() for v in plain.predict(image)],
        }
        spent = cpu_ms(sides, args.runs)
    pairs = (("training step", "step"), ("prediction", "prediction"))
    rows = [[what, spent[name], spent[f"plain {name}"], spent[name] / spent[f"plain {name}"]] for what, name in pairs]
    return {
        "columns": [f"resnet_50, {SIZE} x {SIZE}, 14 joints", "here, CPU ms", "plain tf.function, CPU ms", "ratio"],
        "rows": rows,
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
        entries.append(
            (
                f"{i}.jpg",
                (size, size),
                np.concatenate([np.arange(14)[:, None], rng.integers(0, size, (14, 2))], axis=1).astype(np.int32),
            )
        )
    path = write_dataset(folder / "dataset.mat", entries, 0)
    values = {
        "dataset": str(path),
        "dataset_type": "mpii",
        "net_type": "resnet_50",
        "pos_dist_thresh": 17,
        "location_refinement": True,
    }
    return load_items(make_config(values | {"locref_loss_weight": 0.05, "bn_mode": "frozen", "mirror": True}))


PARTS = {"network": bench_network, "people": bench_people, "solver": bench_solver, "optimum": bench_optimum}


def main(argv=None) -> int:
    """Print the figures, and write them if asked."""
    import cv2

    cv2.setNumThreads(1)
    words = sys.argv[1:] if argv is None else argv
    return run(options(__doc__, tuple(PARTS), runs=9).parse_args(words), PARTS, words, __file__)


if __name__ == "__main__":
    sys.exit(main())
