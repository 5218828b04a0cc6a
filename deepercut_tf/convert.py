"""Weights between formats: TensorFlow 1 checkpoints (the original's snapshots, slim's ImageNet files) and .npz, by
variable name.

    python deepercut_tf/convert.py models/coco/coco-resnet-101 coco.npz --config deepercut_tf/demo/pose_cfg_multi.yaml
    python deepercut_tf/convert.py coco.npz coco-resnet-101               # TF1 checkpoint, which the original loads

Nothing is written unless the source's variables are the network's, and the written file holds the same.
Files of ours bring their settings and joint names; the originals' need --config.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from common.errors import DataError
from common.runs import converting
from common.runs.process import exit_code
from common.weights.tf1 import check_name
from deepercut_tf.config import PREDICTION, Config, add_file_options, make_config, predicting_settings


def run(args: argparse.Namespace) -> Path:
    """Convert and check; returns the written path. DataError when the source does not fit or a check fails."""
    from dataclasses import asdict, replace

    from common.skeletons import card
    from deepercut_tf.estimator import skeleton_of_weights
    from deepercut_tf.joints import with_joints
    from deepercut_tf.model import fresh_model, load_variables, named_variables
    from deepercut_tf.weight_files import find_snapshot, read_weights, write_weights

    source = find_snapshot(args.input)
    values, stored = read_weights(source)
    config = make_config(stored.get("config", {}), predicting_settings(args), source=source)
    skeleton = skeleton_of_weights(stored, config, source)
    # the terms of pairs are no part of the network
    config = replace(with_joints(config, skeleton), bn_mode="frozen", pairwise_model_dir=None)
    model = fresh_model(config)
    load_variables(model, values, str(source))
    values = {name: values[name] for name in named_variables(model)}
    if args.output.suffix != ".npz":
        check_name(args.output)
        if args.half:
            raise DataError(f"OUTPUT {args.output}: --half is for .npz")
    if args.half:
        values = converting.halved(values)
    about = {"skeleton": card(skeleton), "dataset": config.dataset} | stored.get("about", {})
    about = {"config": converting.portable(asdict(config)), "about": about}
    with converting.Conversion(source, args.output, args.licence) as conversion:
        read, _ = read_weights(write_weights(conversion.draft, values, about))
        conversion.compare("variables of the written file", values, read, 0.0)
        conversion.keep(mapping="variable names of the original, unchanged", variables=len(values), **about)
    return args.output


def main(argv=None) -> int:
    """Exit code 0, or 2 with a message on bad input."""
    parser = converting.parser(__doc__)
    add_file_options(parser)
    parser.settings(Config, only=PREDICTION, but=("amp",))
    return exit_code(lambda: run(parser.parse_args(argv)), "{}")


if __name__ == "__main__":
    sys.exit(main())
