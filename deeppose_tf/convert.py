"""Weights of other programs in, ours out, each read back or run before anything is kept.

    python deeppose_tf/convert.py out/lsp_alexnet_scratch/checkpoint-10000 mine.npz         # a TensorFlow 1 checkpoint of the original -> ours
    python deeppose_tf/convert.py out/mine tf1/checkpoint-20000 --to tf1                    # with Adagrad's accumulators and the counter
    python deeppose_tf/convert.py out/mine/best.npz pose.onnx                               # also .weights.h5, .caffemodel, a folder (SavedModel)
    python deeppose_tf/convert.py bvlc_alexnet.caffemodel weights/bvlc_alexnet.tf --to tf1_old  # ImageNet weights for the imagenet examples

Beside what is written lies a card, OUTPUT.card.json: source and hash, licence as given, result of the check.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # this folder's data.py must not shadow other modules

from common.errors import DataError
from common.runs import converting
from common.runs.process import exit_code
from deeppose_tf import weight_files
from deeppose_tf.config import HOUSE, IM_SIZE, Config

READABLE = ("npz", "tf1", "tf1_old", "caffemodel")
KINDS = (*READABLE, "h5", "saved_model", "onnx")
_SUFFIXES = {".npz": "npz", ".h5": "h5", ".onnx": "onnx", ".caffemodel": "caffemodel"}
TOLERANCE = 1e-4  # of the largest output, which ONNX Runtime's other order of sums needs


def parse_args(argv=None) -> argparse.Namespace:
    """Options."""
    parser = converting.parser(__doc__)
    parser.option("to", choices=KINDS, default=None, text="format (default: by the suffix; without one saved_model)",
                  group="output")  # fmt: skip
    return parser.parse_args(argv)


class Source:
    """The variables of a weight file, and the network that they belong to: none for ImageNet weights, which have no
    joints."""

    def __init__(self, name: str):
        place = weight_files.find(name)
        assert place is not None
        self.place, self.variables, self.estimator = place, weight_files.read_weights(place), None
        if "fc_regression/weight" in self.variables:
            from deeppose_tf.estimator import Estimator

            self.estimator = Estimator(place)

    @property
    def weights(self) -> dict:
        """Weights and biases alone, without the unused head."""
        return {n: v for n, v in self.variables.items() if n.count("/") == 1 and not n.startswith("fc8")}

    @property
    def complete(self) -> dict:
        """The variables with the unused head and the counter that the original's `--resume` expects."""
        import numpy as np

        from deeppose_tf.engine import unused_head

        if self.estimator is None:
            return self.variables
        return {**unused_head(self.variables, 0), "global_iter_counter": np.array(0, np.int32), **self.variables}

    def network(self, kind: str):
        """The estimator. DataError where there is no whole network."""
        if self.estimator is None:
            what = f"{self.place} has no fc_regression, so it is no whole network"
            raise DataError(f"{what}; write it as tf1, tf1_old or caffemodel, not {kind}")
        return self.estimator


def write(source: Source, kind: str, out: Path) -> None:
    """Write `out` in the format `kind`. DataError for formats of whole networks when the source has no head."""
    if kind in ("tf1", "tf1_old"):
        from common.weights.tf1 import write_v1, write_v2

        (write_v2 if kind == "tf1" else write_v1)(out, source.complete, weight_files.tensorflow)
    elif kind == "caffemodel":
        from common.weights.caffe import write_caffemodel

        write_caffemodel(out, weight_files.to_caffe(source.weights), "AlexNet")
    elif kind == "npz":
        weight_files.save_state(out, state_of(source))
    elif kind == "h5":
        if not out.name.endswith(".weights.h5"):
            raise DataError(f"output {out.name}: Keras wants names that end in .weights.h5")
        source.network(kind).model.save_weights(out)
    else:
        model = source.network(kind).model
        model(probe(1))  # tf2onnx wants a network that was called
        model.export(str(out), format="onnx" if kind == "onnx" else "tf_saved_model", verbose=False)


def state_of(source: Source) -> dict:
    """A state of ours, from which a training can go on."""
    from common.runs.checkpoints import make_state
    from common.skeletons import card

    network, complete = source.network("npz"), source.complete
    slots = {name: value for name, value in complete.items() if name.count("/") == 2}
    unused = {name: value for name, value in complete.items() if name.startswith("fc8/") and name not in slots}
    trained = {"model": source.weights, "optimizer": slots, "unused": unused, "dropout": {}, "losses": []}
    about = {"skeleton": card(network.skeleton), "dataset": network.config.dataset, "split": "", "synthetic": False}
    about |= {"batch_size": network.config.batch_size}
    step = network.step
    return make_state(trained, epoch=0, batch=step, step=step, config=asdict(network.config), about=about)


def answer(kind: str, out: Path, images, config: Config, joints: int):
    """(N,2J) outputs of a written file for (N,227,227,3) uint8, by its own runtime."""
    import numpy as np

    if kind == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(str(out), providers=["CPUExecutionProvider"])
        return session.run(None, {session.get_inputs()[0].name: images})[0]
    if kind == "saved_model":
        import tensorflow as tf

        loaded = tf.saved_model.load(str(out))  # its variables go with it
        return np.asarray(loaded.serve(images))
    from deeppose_tf.model import network_for

    model = network_for(config, joints)
    model.load_weights(out)
    return np.asarray(model(images))


def convert(args: argparse.Namespace) -> str:
    """Write, check, and write the card; what was done, for people."""
    kind = args.to or _SUFFIXES.get(args.output.suffix, "saved_model")
    source = Source(args.input)
    network = source.estimator
    with converting.Conversion(source.place, args.output, args.licence) as conversion:
        write(source, kind, conversion.draft)
        if kind in READABLE:
            conversion.compare("weights", source.weights, weight_files.read_weights(conversion.draft), 0.0)
        else:
            network, images = source.network(kind), probe(2)
            expected = network.shares(images).reshape(2, -1)
            found = answer(kind, conversion.draft, images, network.config, len(network.skeleton))
            conversion.compare("outputs", expected, found, TOLERANCE)
        known = {"joints": network.skeleton.joints, "config": asdict(network.config)} if network else {}
        shapes = {name: value.shape for name, value in sorted(source.weights.items())}
        conversion.keep(house=HOUSE, format=kind, variables=shapes, **known)
    return f"{args.output} ({kind}): {', '.join(f'{n}: {c}' for n, c in conversion.checks.items())}"


def probe(count: int):
    """Random pictures (count,227,227,3) uint8."""
    import numpy as np

    return np.random.RandomState(0).randint(0, 256, (count, IM_SIZE, IM_SIZE, 3)).astype(np.uint8)


def main(argv=None) -> int:
    """Exit code 0, or 2 with a message on bad input."""
    return exit_code(lambda: convert(parse_args(argv)), "{}")


if __name__ == "__main__":
    sys.exit(main())
