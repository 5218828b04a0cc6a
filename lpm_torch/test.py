"""Score a checkpoint on the test split as the original does, and write its four Matlab files.

    python lpm_torch/test.py --model=lpm                       # RUN/test/{gt,pred,vis,box}.mat and pred_image.mat
    python lpm_torch/test.py --model=lpm --protocol=mp         # and the original's Penn Action table
    python lpm_torch/test.py --protocol=official --weights=penn.pt   # lpm_official by the paper's protocol
    python lpm_torch/test.py --protocol=official --dataset=jhmdb --split=test1 --weights=jhmdb.pt

`official`: whole sequences, seven scales, the data set's boxes (Penn Action, sub-JHMDB); writes official.npz for
`common.evaluate`.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import numpy as np

from common.errors import DataError
from common.metrics.counting import Result
from common.poses import PoseSet
from common.runs import scoring
from common.runs.process import exit_code
from lpm_torch import val
from lpm_torch.config import HOUSE

if TYPE_CHECKING:
    from lpm_torch.estimator import Estimator

PROTOCOLS = ("mp", "official")


def test_arrays(estimator: Estimator, pose_set: PoseSet) -> dict[str, np.ndarray]:
    """The original's arrays: gt, pred (N,15,2) crop pixels (y, x), vis (N,14), box (N,4); frames fastest.

    gt and pred are the peaks of the label and output maps times size/cells, background included; box is x0, y0, x1, y1
    of the padded person box in the crop. Still images count as `t` equal frames. And what the original lacks:
    `pred_image` (N,14,2) x, y in image pixels and `rows` (N,) of the PoseSet. DataError without a whole clip.
    """
    import torch

    from common.geometry import apply_affine
    from lpm_torch.estimator import decode, run_network

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
            "pred_image": apply_affine(once["to_image"].numpy().astype(np.float64), decode(maps, estimator.config)[0]),
            "rows": once["rows"].numpy(),
        }
        for name, array in found.items():
            parts.setdefault(name, []).append(array.reshape(-1, *array.shape[2:]))
    return {name: np.concatenate(part) for name, part in parts.items()}


def peaks(maps: np.ndarray, size: int) -> np.ndarray:
    """(...,C,g,g) -> (...,C,2) float32 row, column of each map's peak, refined by a quarter cell, times size/g."""
    from common.codecs import decode_maps

    return (decode_maps(maps)[0][..., ::-1] * (size / maps.shape[-1])).astype(np.float32)


def write_files(out: Path, arrays: dict, pose_set: PoseSet) -> None:
    """NAME.mat with the variable NAME for each array; pred_image.mat also says which image each row belongs to."""
    from scipy.io import savemat

    from common.files import atomic_write

    contents = {name: {name: arrays[name]} for name in ("gt", "pred", "vis", "box")}
    places = arrays["pred_image"].astype(np.float32)
    contents["pred_image"] = {"pred_image": places, "image_id": pose_set.image_id[arrays["rows"]]}
    for name, content in contents.items():
        atomic_write(out / f"{name}.mat", partial(savemat, mdict=content))
    print(f"{len(places)} frames: {out}/{{gt,pred,vis,box,pred_image}}.mat")


def mp_table(arrays: dict) -> Result:
    """The original's Penn Action table of its own arrays: printed column names, the joint behind each."""
    from common.metrics.mobilepose import penn_table

    box = arrays["box"]
    truth, predicted = (arrays[name][:, : arrays["vis"].shape[1], ::-1] for name in ("gt", "pred"))
    return penn_table(truth, predicted, arrays["vis"] == 1, (box[:, 2:] - box[:, :2]).max(1))


def run(args: argparse.Namespace) -> None:
    """Predict and write the original's files, or score by LP's protocol. DataError on bad input."""
    if set(args.protocol or ()) - set(PROTOCOLS):
        what = f"test.py knows {', '.join(PROTOCOLS)}; others are val.py's"
        raise DataError(f"--protocol {' '.join(args.protocol)}: {what}")
    estimator, pose_set = val.open_weights(args)
    out = Path(args.out or Path("output") / HOUSE / f"{estimator.config.model}-{pose_set.name}" / "test")
    if args.protocol == ["official"]:
        from lpm_torch.official import predict_official

        predictions = predict_official(estimator, pose_set)
        args.protocol, args.out = ["pck_box@0.2", "pck_torso@0.2"], None
        scoring.publish(args, predictions, pose_set, out / "official.npz")
        return
    if args.protocol and pose_set.name != "penn_action":
        raise DataError(f"--protocol=mp is the original's Penn Action script; {pose_set.name} is scored by val.py")
    estimator.check_order()
    arrays = test_arrays(estimator, pose_set)
    write_files(out, arrays, pose_set)
    if args.protocol:
        from common.files import write_json

        result = mp_table(arrays)
        print("SYNTHETIC data" if pose_set.synthetic else "real data")
        print("  ".join(f"{name} {value:.2f}" for name, value in result.values.items()))
        print(f"total {result.total:.2f} (n = {result.n})\n{result.aggregation}")
        if args.json:
            write_json(args.json, {"penn_mobilepose@0.2:compat": result.as_dict()})


def main(argv=None) -> int:
    """Exit code 0, or 2 with a message on bad input."""
    return exit_code(lambda: run(val.parser(__doc__).parse_args(argv)))


if __name__ == "__main__":
    sys.exit(main())
