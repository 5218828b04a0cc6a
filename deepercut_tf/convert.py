"""Weights between formats: TensorFlow 1 checkpoints (the original's snapshots, slim's ImageNet files) and .npz, by variable name.

    python deepercut_tf/convert.py models/coco/coco-resnet-101 weights/coco.npz --config deepercut_tf/demo/pose_cfg_multi.yaml
    python deepercut_tf/convert.py weights/coco.npz weights/coco-resnet-101       # TF1 checkpoint, which the original loads

Nothing is written unless the network computes the same with the source's variables, with those folded for prediction, and with those
read back from the written file. A card (OUT.json) says where the weights came from.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)

from common.poses import DataError  # noqa: E402
from deepercut_tf.train import settings_arguments, settings_of  # noqa: E402

TOLERANCE = 1e-4  # of the largest output, float32, folded against not


def parse_args(argv=None) -> argparse.Namespace:
    """Options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="checkpoint prefix, .npz or state file")
    parser.add_argument("out", help="file to write: .npz, or a checkpoint prefix")
    settings_arguments(parser)
    parser.add_argument("--licence", default="as the source states; not given", help="licence of the weights, for the card")
    return parser.parse_args(argv)


def outputs(config, values, image):
    """Logits and offsets of the plain network, and of the folded one."""
    import numpy as np

    from deepercut_tf.engine import Predictor
    from deepercut_tf.model import build_model, load_variables

    model = build_model(config)
    load_variables(model, values, "the source")
    plain = {name: np.asarray(value) for name, value in model(image, training=False).items()}
    return plain, Predictor(model, config).outputs(image)


def largest_difference(first: dict, second: dict) -> float:
    """Over the outputs of the first, relative to their largest value (at least 1)."""
    import numpy as np

    return max(float(np.abs(first[name] - second[name]).max() / max(np.abs(first[name]).max(), 1.0)) for name in first)


def run(args: argparse.Namespace) -> Path:
    """Convert and check; returns the written path. DataError when the source does not fit or a check fails."""
    from dataclasses import asdict, replace

    import numpy as np

    from common.checkpoints import sha256_of
    from deepercut_tf.model import build_model, named_variables
    from deepercut_tf.weight_files import find_snapshot, read_weights, write_weights

    source = find_snapshot(args.source)
    values, stored = read_weights(source)
    config = settings_from(stored, args)
    config = replace(config, bn_mode="frozen")
    image = np.random.default_rng(0).integers(0, 256, (1, 80, 96, 3), np.uint8)
    plain, folded = outputs(config, values, image)
    difference = largest_difference(plain, folded)
    names = list(named_variables(build_model(config)))
    values = {name: values[name] for name in names}
    with tempfile.TemporaryDirectory() as folder:
        trial = write_weights(Path(folder) / ("trial.npz" if args.out.endswith(".npz") else "trial"), values, {})
        read, _ = read_weights(trial)
    same = all(np.array_equal(read[name], values[name]) for name in names)
    if not (same and np.isfinite(difference) and difference <= TOLERANCE):
        raise DataError(f"{source}: outputs differ by {difference:g} (allowed {TOLERANCE:g}), read back equal: {same}; nothing was written")
    file = source if source.is_file() else Path(f"{source}.data-00000-of-00001")
    card = {
        "source": str(source), "source_sha256": sha256_of(file), "licence": args.licence, "mapping": "variable names of the original, unchanged",
        "variables": len(names), "check": {"largest difference": difference, "tolerance": TOLERANCE, "read back": "equal"}, "config": asdict(config),
    }  # fmt: skip
    return write_weights(args.out, values, card)


def settings_from(stored: dict, args: argparse.Namespace):
    """The settings that the source carries, else those of --config."""
    from deepercut_tf.config import make_config

    return make_config(stored) if stored and not args.config else settings_of(args)


def main(argv=None) -> int:
    """Exit code 0, or 2 with a message on bad input."""
    args = parse_args(argv)
    try:
        print(run(args))
    except (DataError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
