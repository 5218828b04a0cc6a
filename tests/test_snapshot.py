"""The original's snapshot test, `python tests/test_snapshot.py {lsp,mpii} SNAPSHOT`: scores a checkpoint of deeppose_tf
on the test persons at box extensions 1.0 to 2.0 and prints the original's block for each. pytest collects this file too
and tests the command itself.

SNAPSHOT is a checkpoint of ours (prefix or .npz) or a TensorFlow 1 checkpoint of the original.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
if __name__ == "__main__":
    sys.path[0] = str(ROOT)


def parse_args(argv=None) -> argparse.Namespace:
    """The original's two arguments, and what it had fixed in its code."""
    from common.runs.options import Parser

    parser = Parser(__doc__)
    where = "test persons: datasets/lsp_ext/test_joints.csv or datasets/mpii/test_joints.csv"
    parser.add_argument("dataset", help=where, choices=("lsp", "mpii"))
    parser.add_argument("snapshot", help="checkpoint, for example out/lsp_alexnet_scratch/checkpoint-10000")
    parser.option("ext", type=float, nargs="+", text="box extensions (default: 1.0 1.2 1.4 1.6 1.8 2.0)", group="data")
    parser.option("csv", default=None, text="other persons", group="data")
    parser.option(
        "img_path_prefix", text="folder before the image paths (default: datasets/mpii/images for mpii)", group="data"
    )
    parser.options("limit", "mode", "json")
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> None:
    """Print the blocks; `--json` gets {extension: {figure: value}}."""
    from common.errors import DataError
    from common.files import write_json
    from common.runs.options import given_of
    from common.runs.settings import resolve
    from deeppose_tf import Estimator
    from deeppose_tf.config import CSV_SKELETONS, Config, presets
    from deeppose_tf.csv_files import load_split
    from deeppose_tf.val import show

    estimator, expected = Estimator(args.snapshot, **given_of(args, "mode")), CSV_SKELETONS[args.dataset]
    if estimator.skeleton != expected:
        what = f"{args.snapshot}: the network answers {estimator.skeleton.name}"
        raise DataError(f"{what}, {args.dataset} has {expected.name}; name the other data set")
    given = {"test_csv_fn": args.csv, "mode": estimator.config.mode, **given_of(args, "img_path_prefix", "limit")}
    pose_set = load_split(resolve(Config, presets(f"{args.dataset}_alexnet_scratch")["paper"], given), "test")
    # the original reduces LSP's pictures here, but not when it trains
    height = 400 if estimator.config.mode == "compat" or args.dataset == "mpii" else 0
    extensions = getattr(args, "ext", (1.0, 1.2, 1.4, 1.6, 1.8, 2.0))
    found = show(estimator, pose_set, extensions, height)
    if args.json:
        write_json(args.json, {str(e): figures.scalars("test") for e, (figures, _) in zip(extensions, found)})


def main(argv=None) -> int:
    """Exit code 0, or 2 with a message on bad input."""
    from common.runs.process import exit_code

    return exit_code(lambda: run(parse_args(argv)))


# ---- the command's own test ----------------------------------------------------------------------------------------


def small_checkpoint(folder: Path, joints: int = 14) -> tuple[Path, dict]:
    """A narrow network's random weights, written as the original's checkpoint."""
    from common.weights.tf1 import write_v2
    from deeppose_tf.model import build_network, get_weights

    weights = get_weights(build_network(joints, channels=0.1, init="he", seed=3))
    import numpy as np

    variables = {**weights, "global_iter_counter": np.array(12, np.int32)}
    return write_v2(folder / "checkpoint-12", variables), weights


def persons_csv(folder: Path, count: int = 5) -> Path:
    """A CSV of persons on noise pictures."""
    import cv2
    import numpy as np

    rng, lines = np.random.RandomState(0), []
    for i in range(count):
        cv2.imwrite(str(folder / f"im{i + 1:04d}.jpg"), rng.randint(0, 256, (120, 90, 3)).astype(np.uint8))
        lines.append(",".join([str(folder / f"im{i + 1:04d}.jpg"), *map(str, rng.uniform(10, 80, 28))]))
    (folder / "persons.csv").write_text("\n".join(lines) + "\n")
    return folder / "persons.csv"


def test_command(tmp_path, capsys):
    """Every extension's block is there, its figures are those of the JSON file, and they change with the crop."""
    import json

    prefix, _ = small_checkpoint(tmp_path)
    csv = persons_csv(tmp_path)
    assert main(["lsp", str(prefix), "--csv", str(csv), "--json", str(tmp_path / "f.json")]) == 0
    text, figures = capsys.readouterr().out, json.loads((tmp_path / "f.json").read_text())
    assert [line.split(": ")[1] for line in text.splitlines() if line.startswith("BBOX EXTENSION")] == list(figures)
    assert (
        len(figures) == 6
        and text.count("Step 12 test/parts_PCP:\nHead\tTorso\tU Arm\tL Arm\tU Leg\tL Leg\tmean\n") == 6
    )
    losses = [line.split(" = ")[1] for line in text.splitlines() if "pose_loss" in line]
    assert losses == [f"{f['test/pose_loss']:.3f}" for f in figures.values()]
    assert len({f["test/pose_loss"] for f in figures.values()}) == 6


def test_bad_snapshots(tmp_path, capsys):
    """A missing one, one of other joints, and a file that is cut short are each named with exit code 2."""
    csv = persons_csv(tmp_path, 1)
    prefix, _ = small_checkpoint(tmp_path)
    data = tmp_path / "checkpoint-12.data-00000-of-00001"
    for snapshot, dataset, words in (
        ("nowhere/x", "lsp", "does not exist"),
        (prefix, "mpii", "the network answers lsp14"),
    ):
        assert main([dataset, str(snapshot), "--csv", str(csv)]) == 2
        assert words in capsys.readouterr().err
    data.write_bytes(data.read_bytes()[:-1000])
    assert main(["lsp", str(prefix), "--csv", str(csv)]) == 2
    assert "cut short" in capsys.readouterr().err
    (tmp_path / "foreign").write_text("no checkpoint")
    assert main(["lsp", str(tmp_path / "foreign"), "--csv", str(csv)]) == 2
    assert "or is something else" in capsys.readouterr().err


if __name__ == "__main__":
    sys.exit(main())
