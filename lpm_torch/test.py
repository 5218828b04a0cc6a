"""Score a checkpoint on the test split as the original does, and write its four Matlab files.

    python lpm_torch/test.py --model=lpm                       # RUN/test/{gt,pred,vis,box}.mat
    python lpm_torch/test.py --protocol=official --weights=penn.pt   # lpm_official by the paper's protocol
    python lpm_torch/test.py --protocol=official --dataset=jhmdb --split=test1 --weights=jhmdb.pt

`official`: whole sequences, seven scales, the data set's boxes (Penn Action, sub-JHMDB); writes official.npz for
`common.evaluate`. The table of the original's Matlab script is `val.py --protocol penn_mobilepose@0.2:compat`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import numpy as np

from common.errors import DataError
from common.files import write_mat
from common.poses import PoseSet
from common.runs import scoring
from common.runs.process import exit_code
from lpm_torch import val
from lpm_torch.config import HOUSE

if TYPE_CHECKING:
    from lpm_torch.estimator import Estimator


def test_arrays(estimator: Estimator, pose_set: PoseSet) -> dict[str, np.ndarray]:
    """The original's arrays: gt, pred (N,15,2) crop pixels (y, x), peaks of the label and output maps, background
    included; vis (N,14); box (N,4) x0, y0, x1, y1 of the padded person box in the crop. Still images are `t` frames."""
    import torch

    from lpm_torch.estimator import run_network

    parts: dict[str, list] = {}
    size = estimator.config.input_width
    for raw, batch in estimator.batches(pose_set):
        with torch.inference_mode():
            maps = run_network(estimator.model, batch, estimator.config)[0].float()
        # one still image stands for all of the network's readings of it
        once = {k: v.expand(-1, maps.shape[1], *v.shape[2:]) for k, v in raw.items() if k not in ("frames", "center")}
        found = {
            "gt": peaks(once["labels"].numpy(), size),
            "pred": peaks(maps.cpu().numpy(), size),
            "vis": (once["visible"].numpy() == 2).astype(np.float64),
            "box": once["box"].numpy(),
        }
        for name, array in found.items():
            parts.setdefault(name, []).append(array.reshape(-1, *array.shape[2:]))
    return {name: np.concatenate(part) for name, part in parts.items()}


def peaks(maps: np.ndarray, size: int) -> np.ndarray:
    """(...,C,g,g) -> (...,C,2) float32 row, column of each map's peak, refined by a quarter cell, times size/g."""
    from common.codecs import decode_maps

    return (decode_maps(maps)[0][..., ::-1] * (size / maps.shape[-1])).astype(np.float32)


def run(args: argparse.Namespace) -> None:
    """Predict and write the original's files, or score by LP's protocol. DataError on bad input."""
    if args.protocol not in (None, ["official"]):
        raise DataError(f"--protocol {' '.join(args.protocol)}: test.py knows official; others are val.py's")
    estimator, pose_set = val.open_weights(args)
    out = Path(args.out or Path("output") / HOUSE / f"{estimator.config.model}-{pose_set.name}" / "test")
    if args.protocol:
        from lpm_torch.official import predict_official

        predictions = predict_official(estimator, pose_set)
        args.protocol, args.out = ["pck_box@0.2", "pck_torso@0.2"], None
        scoring.publish(args, predictions, pose_set, out / "official.npz")
        return
    estimator.check_order()
    arrays = test_arrays(estimator, pose_set)
    for name, array in arrays.items():
        write_mat(out / f"{name}.mat", {name: array})
    print(f"{len(arrays['vis'])} frames: {out}/{{gt,pred,vis,box}}.mat")


def main(argv=None) -> int:
    """Exit code 0, or 2 with a message on bad input."""
    return exit_code(lambda: run(val.parser(__doc__).parse_args(argv)))


if __name__ == "__main__":
    sys.exit(main())
