"""What the shipped networks find of LSPET, over the threshold: one drawing from their prediction files.

    python tests/bench/shipped.py --data_root LSPET --predictions A.npz B.npz ... --out common/results/lspet_shipped.png

A prediction file is what `HOUSE/val.py --weights lspet --dataset lspet --data_root LSPET --split 4001-5000 --out FILE` writes.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import numpy as np

from common import datasets
from common.importers import load_any
from common.protocols import protocols_of

PROTOCOL, MOST = "pck_torso@0.2", 0.5  # the tables' protocol; the largest threshold, in torsos


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_root", required=True)
    parser.add_argument("--split", default="4001-5000")
    parser.add_argument("--predictions", nargs="+", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()

    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    pose_set = datasets.load("lspet", args.data_root, args.split)
    protocol = protocols_of("lspet")[PROTOCOL]
    thresholds = np.linspace(0, MOST, 51)
    figure, axes = pyplot.subplots(figsize=(7, 4.5), layout="constrained")
    dashes = itertools.cycle(["-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2))])
    for path, dash in zip(args.predictions, dashes):
        found = load_any(path, pose_set)
        found.joints = found.joints.astype(np.float64)
        totals = [protocol.count(pose_set, found, threshold).total for threshold in thresholds]
        axes.plot(thresholds, totals, linestyle=dash, label=f"{path.stem}: {totals[20]:.1f} at 0.2")
    axes.axvline(0.2, color="0.8", zorder=0)
    axes.set(
        xlabel="threshold, in torsos (left shoulder to right hip)", ylabel="joints within it, percent", ylim=(0, 100)
    )
    axes.set_title(f"LSPET {args.split}: {len(pose_set)} persons, none seen in training")
    axes.legend(frameon=False)
    figure.savefig(args.out, dpi=110)


if __name__ == "__main__":
    main()
