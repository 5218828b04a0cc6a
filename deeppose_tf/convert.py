"""Weights of other programs in, ours out, each checked by a forward pass before anything is kept.

    python deeppose_tf/convert.py out/lsp_alexnet_scratch/checkpoint-10000 mine.npz         # a TensorFlow 1 checkpoint of the original -> ours
    python deeppose_tf/convert.py out/mine/best.npz tf1/checkpoint-20000 --to tf1           # with Adagrad's accumulators and the counter
    python deeppose_tf/convert.py out/mine/best.npz pose.onnx                               # also .weights.h5, .caffemodel, a folder (SavedModel)
    python deeppose_tf/convert.py bvlc_alexnet.caffemodel weights/bvlc_alexnet.tf --to tf1_old  # ImageNet weights for the imagenet examples
    python deeppose_tf/convert.py --stand_in weights/bvlc_alexnet.tf                        # random ones, for synthetic data

Beside what is written lies a card, OUT.json: source and hash, licence as given, mapping, result of the check. Nothing is kept when the written
file answers differently from the source by more than --tolerance of the largest output.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)

from common.errors import DataError  # noqa: E402

KINDS = ("npz", "tf1", "tf1_old", "h5", "saved_model", "onnx", "caffemodel")
_SUFFIXES = {".npz": "npz", ".h5": "h5", ".onnx": "onnx", ".caffemodel": "caffemodel"}
TOLERANCE = 1e-4


def parse_args(argv=None) -> argparse.Namespace:
    """Options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", nargs="?", help="any weight file that training and scoring accept")
    parser.add_argument("out", nargs="?", type=Path, help="what to write")
    parser.add_argument(
        "--to", choices=KINDS, help="format (default: by the name's suffix; a name without one: saved_model)"
    )
    parser.add_argument("--licence", default="not given", help="licence of the source, for the card")
    parser.add_argument(
        "--tolerance", type=float, default=TOLERANCE, help=f"of the largest output (default: {TOLERANCE:g})"
    )
    parser.add_argument("--stand_in", type=Path, metavar="OUT", help="write random stand-in weights instead")
    args = parser.parse_args(argv)
    if not args.stand_in and (args.source is None or args.out is None):
        parser.error("give SOURCE and OUT, or --stand_in OUT")
    return args


def kind_of(out: Path) -> str:
    """The format that a name asks for."""
    return _SUFFIXES.get(out.suffix, "saved_model")


class Converter:
    """The variables of a source, the network that they belong to (None for ImageNet weights, which have no joints), and the writers."""

    def __init__(self, source: str):
        from deeppose_tf.restore import load_network
        from deeppose_tf.weight_files import find_weights, missing_text, read_weights

        self.place = find_weights(source)
        if self.place is None:
            raise DataError(missing_text(Path(source)))
        self.variables = read_weights(self.place)
        self.model = self.config = None
        if "fc_regression/weight" in self.variables:
            self.model, self.config, _ = load_network(source)

    def weights(self) -> dict:
        """Weights and biases alone."""
        return {name: value for name, value in self.variables.items() if name.count("/") == 1}

    def write(self, kind: str, out: Path) -> None:
        """Write `out` in the format `kind`. DataError for formats of whole networks when the source has no head."""
        getattr(self, f"_write_{kind}")(out)

    def _network(self, kind: str):
        if self.model is None:
            raise DataError(
                f"{self.place} has no fc_regression, so it is no whole network; write it as tf1, tf1_old or caffemodel, not {kind}"
            )
        return self.model

    def _complete(self) -> dict:
        """The variables with the unused head that the original's `--resume` expects, and the counter."""
        import numpy as np

        from deeppose_tf.run import unused_head

        head = unused_head(self.variables, 0) if "fc7/bias" in self.variables and self.model is not None else {}
        counter = {"global_iter_counter": np.array(0, np.int32)} if self.model is not None else {}
        return {**head, **counter, **self.variables}

    def _write_tf1(self, out: Path) -> None:
        from common.weights.tf1 import write_v2
        from deeppose_tf.weight_files import tensorflow

        write_v2(out, self._complete(), tensorflow)

    def _write_tf1_old(self, out: Path) -> None:
        from common.weights.tf1 import write_v1
        from deeppose_tf.weight_files import tensorflow

        write_v1(out, self._complete(), tensorflow)

    def _write_caffemodel(self, out: Path) -> None:
        from common.weights.caffe import write_caffemodel
        from deeppose_tf.weight_files import to_caffe

        write_caffemodel(out, to_caffe({n: v for n, v in self.weights().items() if not n.startswith("fc8")}), "AlexNet")

    def _write_npz(self, out: Path) -> None:
        from common.files import atomic_write
        from common.runs.first.checkpoints import make_state
        from deeppose_tf.checkpoint import save_state
        from deeppose_tf.model import get_weights

        model = self._network("npz")
        slots = {name: value for name, value in self.variables.items() if name.count("/") == 2}
        step = int(self.variables.get("global_iter_counter", 0))
        unused = {
            name: value for name, value in self._complete().items() if name.startswith("fc8/") and name not in slots
        }
        state = make_state(
            epoch=0, batch=0, step=step, model=get_weights(model), optimizer=slots, schedule=None, config=asdict(self.config), random_state={},
            samples=step * self.config.batch_size, unused=unused, dropout={}, synthetic=False,
        )  # fmt: skip
        atomic_write(out, lambda temporary: save_state(temporary, state))

    def _write_h5(self, out: Path) -> None:
        from common.files import atomic_write

        atomic_write(out, lambda temporary: self._network("h5").save_weights(temporary))

    def _write_saved_model(self, out: Path) -> None:
        import shutil

        fresh = out.with_name(f".{out.name}.tmp")
        shutil.rmtree(fresh, ignore_errors=True)
        self._network("saved_model").export(str(fresh), verbose=False)
        fresh.rename(out)

    def _write_onnx(self, out: Path) -> None:
        from common.files import atomic_write

        model = self._network("onnx")
        model(probe(1))  # tf2onnx wants a network that was called
        atomic_write(out, lambda temporary: model.export(str(temporary), format="onnx", verbose=False))

    def check(self, kind: str, out: Path) -> float:
        """Largest difference between what the source and what was written answer to a random picture, as a part of the largest output; of
        files without a whole network, the largest difference of a weight."""
        import numpy as np

        if self.model is None:
            from deeppose_tf.weight_files import read_weights

            written, own = read_weights(out), self.weights()
            return max(
                float(np.abs(written[name] - value).max()) for name, value in own.items() if not name.startswith("fc8")
            )
        from deeppose_tf.engine import forward

        images = probe(2)
        expected = forward(self.model)(images).reshape(2, -1)
        return float(np.abs(answer(kind, out, images, self) - expected).max() / np.abs(expected).max())


def probe(count: int):
    """Random pictures (count,227,227,3) uint8."""
    import numpy as np

    return np.random.RandomState(0).randint(0, 256, (count, 227, 227, 3)).astype(np.uint8)


def answer(kind: str, out: Path, images, converter: Converter):
    """(N,2J) outputs of a written file for (N,227,227,3) uint8, by its own runtime where it has one."""
    import numpy as np

    if kind == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(str(out), providers=["CPUExecutionProvider"])
        return session.run(None, {session.get_inputs()[0].name: images})[0]
    if kind == "saved_model":
        import tensorflow as tf

        loaded = tf.saved_model.load(str(out))  # its variables go with it
        return np.asarray(loaded.serve(images))
    from deeppose_tf.engine import forward
    from deeppose_tf.model import get_weights, network_for, set_weights
    from deeppose_tf.weight_files import fit, read_weights

    model = network_for(converter.config)
    chosen, report = fit(read_weights(out), get_weights(model))
    if report["missing"] or report["mismatched"]:
        raise DataError(f"{out} lacks {report['missing'] + report['mismatched']}")
    set_weights(model, chosen)
    return forward(model)(images).reshape(len(images), -1)


def remove(kind: str, out: Path) -> None:
    """Take back what was written."""
    import shutil

    if out.is_dir():
        shutil.rmtree(out)
    for file in (
        (out, *(out.parent.glob(out.name + ".index")), *(out.parent.glob(out.name + ".data-*")))
        if kind == "tf1" or not out.is_dir()
        else ()
    ):
        file.unlink(missing_ok=True)


def convert(source: str, out: Path, kind: str, licence: str = "not given", tolerance: float = TOLERANCE) -> float:
    """Write, check, and write the card; the difference found. DataError when it is above `tolerance`; nothing is kept then."""
    from common.files import sha256_of, write_json

    if out.is_dir():
        raise DataError(f"{out} exists; remove it, or choose another name")
    converter = Converter(source)
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        converter.write(kind, out)
        difference = converter.check(kind, out)
        if not difference <= tolerance:
            raise DataError(
                f"{out}: its answers differ from the source's by {difference:.2g} of the largest output; nothing is kept"
            )
    except BaseException:
        remove(kind, out)
        raise
    place = converter.place
    stored = place if place.is_file() else place.with_name(place.name + ".index")
    card = {
        "source": str(place), "sha256": sha256_of(stored), "licence": licence, "format": kind, "relative_difference": difference,
        "variables": {name: list(value.shape) for name, value in sorted(converter.weights().items())},
        "config": asdict(converter.config) if converter.config else None,
    }  # fmt: skip
    write_json(f"{out}.json", card)
    return difference


def main(argv=None) -> int:
    """Exit code 0, or 2 with a message on bad input."""
    args = parse_args(argv)
    try:
        if args.stand_in:
            from deeppose_tf.stand_in import write_stand_in

            write_stand_in(args.stand_in)
            print(f"stand-in weights (random, no ImageNet in them): {args.stand_in}")
            return 0
        kind = args.to or kind_of(args.out)
        difference = convert(args.source, args.out, kind, args.licence, args.tolerance)
    except (DataError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{args.out} ({kind}): answers as the source does, largest difference {difference:.2g} of the largest output")
    return 0


if __name__ == "__main__":
    sys.exit(main())
