"""Weights of other programs in, ours out, each read back before anything is kept.

    python deeppose_tf/convert.py out/lsp_alexnet_scratch/checkpoint-10000 mine.npz    # of the original -> ours
    python deeppose_tf/convert.py out/mine tf1/checkpoint-20000    # with Adagrad's accumulators and the counter
    python deeppose_tf/convert.py bvlc_alexnet.caffemodel weights/bvlc_alexnet.tf    # for the examples, old format

Beside what is written lies a card, OUTPUT.card.json: source and hash, licence as given, result of the check.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # this folder's data.py must not shadow other modules

import numpy as np

from common.errors import DataError
from common.runs import converting
from common.runs.process import exit_code
from common.skeletons import card
from common.weights.tf1 import check_name, write_v1, write_v2
from deeppose_tf import weight_files
from deeppose_tf.config import HOUSE
from deeppose_tf.estimator import read_network

# what is written under names that end so; else the newer of TensorFlow 1's formats
KINDS = {weight_files.SUFFIX: "npz", ".tf": "tf1_old"}


def convert(args: argparse.Namespace) -> str:
    """Write, check, and write the card; what was done, for people. DataError for what the format cannot hold."""
    kind = KINDS.get(args.output.suffix, "tf1")
    if kind == "tf1":
        check_name(args.output)
    place = weight_files.find(args.input)
    assert place is not None
    variables, known = weight_files.read_weights(place), {}
    if "fc_regression/bias" in variables:
        variables, config, skeleton, step = read_network(place)
        # what the original's --resume expects
        variables = {**unused_head(variables), "global_iter_counter": np.array(step, np.int32), **variables}
        known = {"joints": skeleton.joints, "config": converting.portable(asdict(config))}
    elif kind == "npz":
        raise DataError(f"{place} has no fc_regression, so it is no whole network; write it as OUTPUT.tf")
    weights = {n: v for n, v in variables.items() if n.count("/") == 1 and not n.startswith("fc8")}
    if args.half and kind != "npz":
        raise DataError(f"--half is for .npz, not for {kind}")
    if args.half:  # for whoever predicts: without the solver's accumulators
        variables = {n: v for n, v in variables.items() if n.count("/") < 2}
        variables, weights = converting.halved(variables), converting.halved(weights)
    with converting.Conversion(place, args.output, args.licence) as conversion:
        if kind == "npz":
            about = {"skeleton": card(skeleton), "dataset": config.dataset, "split": "", "synthetic": False}
            about |= {"batch_size": config.batch_size}
            state = {**weight_files.state_of(variables), "config": converting.portable(asdict(config)), "about": about}
            weight_files.save_state(conversion.draft, state)
        else:
            (write_v2 if kind == "tf1" else write_v1)(conversion.draft, variables)
        conversion.compare("weights", weights, weight_files.read_weights(conversion.draft), 0.0)
        shapes = {name: value.shape for name, value in sorted(weights.items())}
        conversion.keep(house=HOUSE, format=kind, variables=shapes, **known)
    return f"{args.output} ({kind}): {', '.join(f'{n}: {c}' for n, c in conversion.checks.items())}"


def unused_head(weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """DT's `fc8`, which gets no gradient and is in its checkpoints: normal, deviation 0.01, cut at two of them."""
    draw = np.random.default_rng(0).standard_normal(4 * len(weights["fc7/bias"]))
    kept = draw[np.abs(draw) <= 2][: len(weights["fc7/bias"])]
    return {"fc8/weight": (0.01 * kept).reshape(-1, 1).astype(np.float32), "fc8/bias": np.zeros(1, np.float32)}


def main(argv=None) -> int:
    """Exit code 0, or 2 with a message on bad input."""
    return exit_code(lambda: convert(converting.parser(__doc__).parse_args(argv)), "{}")


if __name__ == "__main__":
    sys.exit(main())
