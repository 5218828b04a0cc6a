"""Weights between formats: TensorFlow 1 checkpoints (the original's snapshots, slim's ImageNet files) and .npz, by variable name; out to ONNX.

    python deepercut_tf/convert.py models/coco/coco-resnet-101 weights/coco.npz --config deepercut_tf/demo/pose_cfg_multi.yaml
    python deepercut_tf/convert.py weights/coco.npz weights/coco-resnet-101       # TF1 checkpoint, which the original loads
    python deepercut_tf/convert.py weights/coco.npz weights/coco.onnx             # any picture size; runs without TensorFlow

Nothing is written unless the network computes the same with the source's variables, with those folded for prediction, and with the
written file. A card (OUT.json) says where the weights came from.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)

from common.errors import DataError  # noqa: E402
from common.runs.first.process import exit_code  # noqa: E402
from deepercut_tf.options import settings_of, settings_parser  # noqa: E402

FILES = (".npz", ".onnx")  # what is one file; anything else is a checkpoint's prefix
TOLERANCE = 1e-4  # of the largest output, float32, folded against not


def parse_args(argv=None) -> argparse.Namespace:
    """Options."""
    parser = settings_parser(__doc__)
    parser.add_argument("source", help="checkpoint prefix, .npz or state file")
    parser.add_argument("out", help="file to write: .npz, .onnx, or a checkpoint prefix")
    parser.add_argument(
        "--licence", default="as the source states; not given", help="licence of the weights, for the card"
    )
    return parser.parse_args(argv)


def networks(config, values):
    """The plain network with these variables, and the Predictor that has them folded."""
    from deepercut_tf.engine import Predictor
    from deepercut_tf.model import build_model, load_variables

    model = build_model(config)
    load_variables(model, values, "the source")
    return model, Predictor(model, config)


def largest_difference(first: dict, second: dict) -> float:
    """Over the outputs of the first, relative to their largest value (at least 1)."""
    import numpy as np

    return max(float(np.abs(first[name] - second[name]).max() / max(np.abs(first[name]).max(), 1.0)) for name in first)


def write_onnx(path: Path, predictor) -> None:
    """The folded network: `inputs` (B,H,W,3) uint8 RGB of any size -> its maps by their names (logits, not probabilities)."""
    import tensorflow as tf
    import tf2onnx

    signature = [tf.TensorSpec((None, None, None, 3), tf.uint8, name="inputs")]
    function = tf.function(lambda images: predictor.network(images, training=False), input_signature=signature)
    tf2onnx.convert.from_function(function, input_signature=signature, opset=17, output_path=str(path))


def run_onnx(path: Path, image) -> dict:
    """Outputs of an ONNX file by name."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"inputs": image})))


def run(args: argparse.Namespace) -> Path:
    """Convert and check; returns the written path. DataError when the source does not fit or a check fails."""
    from dataclasses import asdict, replace

    import numpy as np

    from common.files import sha256_of
    from deepercut_tf.model import named_variables
    from deepercut_tf.weight_files import find_snapshot, read_weights

    source = find_snapshot(args.source)
    values, stored = read_weights(source)
    config = replace(settings_from(stored, args), bn_mode="frozen")
    image = np.random.default_rng(0).integers(0, 256, (1, 80, 96, 3), np.uint8)
    model, predictor = networks(config, values)
    plain = {name: np.asarray(value) for name, value in model(image, training=False).items()}
    values = {name: values[name] for name in named_variables(model)}
    with tempfile.TemporaryDirectory() as folder:
        trial = Path(folder) / f"trial{Path(args.out).suffix if args.out.endswith(FILES) else ''}"
        difference = max(
            largest_difference(plain, predictor.outputs(image)), trial_run(trial, values, predictor, plain, image)
        )
        if not difference <= TOLERANCE:  # NaN too
            raise DataError(f"{source}: outputs differ by {difference:g} (allowed {TOLERANCE:g}); nothing was written")
        file = source if source.is_file() else Path(f"{source}.data-00000-of-00001")
        card = {
            "source": str(source), "source_sha256": sha256_of(file), "licence": args.licence, "mapping": "variable names of the original, unchanged",
            "variables": len(values), "check": {"largest difference": difference, "tolerance": TOLERANCE}, "config": asdict(config),
        }  # fmt: skip
        return write(Path(args.out), trial, values, card)


def trial_run(trial: Path, values: dict, predictor, plain: dict, image) -> float:
    """Write the trial file and read it back: the largest difference of its outputs (ONNX); of variables 0, or infinite if any differs."""
    import numpy as np

    from deepercut_tf.weight_files import read_weights, write_weights

    if trial.suffix == ".onnx":
        write_onnx(trial, predictor)
        return largest_difference(plain, run_onnx(trial, image))
    read, _ = read_weights(write_weights(trial, values, {}))
    return 0.0 if all(np.array_equal(read[name], value) for name, value in values.items()) else np.inf


def write(out: Path, trial: Path, values: dict, card: dict) -> Path:
    """Put the checked trial (ONNX), or the variables, where they belong, with the card beside them."""
    import shutil

    from common.files import atomic_write, write_json
    from deepercut_tf.weight_files import write_weights

    if trial.suffix != ".onnx":
        return write_weights(out, values, card)
    out.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(out, lambda temporary: shutil.copyfile(trial, temporary))
    write_json(f"{out}.json", card)
    return out


def settings_from(stored: dict, args: argparse.Namespace):
    """The settings that the source carries, else those of --config."""
    from deepercut_tf.config import make_config

    return make_config(stored) if stored and not args.config else settings_of(args)


def main(argv=None) -> int:
    """Exit code 0, or 2 with a message on bad input."""
    args = parse_args(argv)
    return exit_code(lambda: run(args), "{}")


if __name__ == "__main__":
    sys.exit(main())
