"""Score a checkpoint on the test split as the original does, and write its four Matlab files.

    python lpm_torch/test.py --model=lpm                       # output/lpm/PennAction/test/{gt,pred,vis,box}.mat and pred_image.mat
    python lpm_torch/test.py --model=lpm --protocol=mp         # and the original's Penn Action table, its mislabelled columns named
    python lpm_torch/test.py --model=lpm_official --protocol=official --checkpoint_name=penn.pt   # the paper's protocol
    python lpm_torch/test.py --model=lpm_official --protocol=official --dataset=JHMDB --split=test1 --checkpoint_name=jhmdb.pt

`official`: whole sequences, seven scales, the data set's boxes (Penn Action, sub-JHMDB); writes official.npz for `common.evaluate`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)

from common.errors import DataError  # noqa: E402
from common.poses import PoseSet  # noqa: E402
from common.runs.first.process import exit_code  # noqa: E402
from lpm_torch.config import DATASETS, Config  # noqa: E402
from lpm_torch.val import common_arguments, load_model, pick_checkpoint, score_and_write  # noqa: E402

PROTOCOLS = ("mp", "official")


def parse_args(argv=None) -> argparse.Namespace:
    """Options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    common_arguments(parser, (*DATASETS, "JHMDB"))
    parser.add_argument(
        "--protocol",
        choices=PROTOCOLS,
        help="also score: mp (as the original counted) or official (default: write the files only)",
    )
    parser.add_argument(
        "--joint_order", choices=("lpm14", "cpm14"), help="order of the maps (default: the weights' card, else lpm14)"
    )
    parser.add_argument("--out", help="folder (default: output/MODEL/DATASET/test)")
    parser.add_argument("--json", help="also write the scores here")
    args = parser.parse_args(argv)
    if args.dataset == "JHMDB" and args.protocol != "official":
        parser.error("--dataset=JHMDB goes with --protocol=official")
    return args


def test_arrays(model, config: Config, pose_set: PoseSet, device, limit: int | None = None) -> dict:
    """The original's arrays over whole clips, frame fastest: gt, pred (N,15,2) crop pixels in the order (y, x), vis (N,14), box (N,4).

    gt and pred are the peaks of the label and output maps times size/cells, background included; box is x0, y0, x1, y1 of the
    padded person box in the crop. Still images count as `t` equal frames. And what the original lacks: `pred_image` (N,14,2) x, y in image
    pixels and `rows` (N,) of the PoseSet. DataError without a whole clip.
    """
    import numpy as np
    import torch
    from tqdm import tqdm

    from common.geometry import apply_affine
    from lpm_torch import data
    from lpm_torch.engine import JOINTS, autocast, decode, run_network

    dataset = data.ClipDataset(pose_set, config, model.output_size(config.resolution), subset=limit)
    if not len(dataset):
        raise DataError(
            f"{pose_set.root}: split {pose_set.split} has no clip of {config.t} frames; give a smaller --t or another --split"
        )
    parts: dict[str, list] = {name: [] for name in ("gt", "pred", "vis", "box", "pred_image", "rows")}
    model.eval()
    for raw in tqdm(data.make_loader(dataset, config, shuffle=False), desc="test", dynamic_ncols=True, mininterval=2):
        batch = data.prepare(raw, device, config)
        with torch.inference_mode(), autocast(device, config.amp):
            maps = run_network(model, batch, config)[0].float()
        frames = maps.shape[1]
        # one still image stands for all of the network's readings of it
        names = ("labels", "visible", "to_image", "box", "rows")
        single = {k: raw[k].expand(-1, frames, *raw[k].shape[2:]) if raw[k].shape[1] == 1 else raw[k] for k in names}
        to_image = single["to_image"].numpy().astype(np.float64)
        parts["gt"].append(peaks(single["labels"].numpy(), config.resolution))
        parts["pred"].append(peaks(maps.cpu().numpy(), config.resolution))
        parts["vis"].append((single["visible"].numpy() == 2).astype(np.float64))
        parts["box"].append(single["box"].numpy())
        parts["pred_image"].append(apply_affine(to_image, decode(maps, config)[0]).astype(np.float32))
        parts["rows"].append(single["rows"].numpy())
    shapes = {
        "gt": (-1, JOINTS + 1, 2),
        "pred": (-1, maps.shape[2], 2),
        "vis": (-1, JOINTS),
        "box": (-1, 4),
        "pred_image": (-1, JOINTS, 2),
        "rows": (-1,),
    }
    return {name: np.concatenate(parts[name]).reshape(shape) for name, shape in shapes.items()}


def peaks(maps, size: int):
    """(...,C,g,g) -> (...,C,2) float32 row, column of each map's peak, a quarter of a cell towards its larger neighbour, times size/g."""
    import numpy as np

    from common.codecs import decode_maps

    return (decode_maps(maps)[0][..., ::-1] * (size / maps.shape[-1])).astype(np.float32)


def write_files(out: Path, arrays: dict, pose_set: PoseSet) -> None:
    """NAME.mat with the variable NAME for each array; pred_image.mat also says which image each row belongs to."""
    from scipy.io import savemat

    from common.files import atomic_write

    for name in ("gt", "pred", "vis", "box"):
        atomic_write(out / f"{name}.mat", lambda path, name=name: savemat(path, {name: arrays[name]}))
    image = {"pred_image": arrays["pred_image"], "image_id": pose_set.image_id[arrays["rows"]]}
    atomic_write(out / "pred_image.mat", lambda path: savemat(path, image))
    print(f"{len(arrays['gt'])} frames: {out}/{{gt,pred,vis,box,pred_image}}.mat")


def mp_table(arrays: dict):
    """The original's Penn Action table of its own arrays, as a `Result`: columns by their printed names, the joint behind each named."""
    from common.metrics.mobilepose import penn_table

    box = arrays["box"]
    side = (box[:, 2:] - box[:, :2]).max(1)
    joints = (arrays[name][:, : arrays["vis"].shape[1], ::-1] for name in ("gt", "pred"))
    return penn_table(*joints, arrays["vis"] == 1, side)


def report_mp(arrays: dict, pose_set: PoseSet, path: str | None) -> None:
    """Print the original's table; DataError for other data sets than Penn Action."""
    if pose_set.name != "penn_action":
        raise DataError(f"--protocol=mp is the original's Penn Action script; {pose_set.name} is scored by val.py")
    from common.files import write_json

    result = mp_table(arrays)
    print("SYNTHETIC data" if pose_set.synthetic else "real data")
    print("  ".join(f"{name} {value:.2f}" for name, value in result.values.items()))
    print(f"total {result.total:.2f} (n = {result.n})\n{result.aggregation}")
    if path:
        write_json(path, {"penn_mobilepose@0.2:compat": result.as_dict()})


def joint_order(args: argparse.Namespace, checkpoint: Path) -> str:
    """The order of a checkpoint's maps: the option, else what the converter's card beside it says, else this house's."""
    from lpm_torch.checkpoint import joint_order_of

    return args.joint_order or joint_order_of(checkpoint)


def run(args: argparse.Namespace) -> None:
    """Predict and write the original's files, or score by LP's protocol. DataError on bad input."""
    from lpm_torch.sources import load_pose_set

    out = Path(args.out) if args.out else ROOT / "output" / args.model / args.dataset / "test"
    pose_set = load_pose_set(args.dataset, args.data_dir, args.split)
    path = pick_checkpoint(args)
    model, config, device = load_model(path, args)
    if args.protocol == "official":
        from lpm_torch.official import predict_official

        predictions, pose_set = predict_official(model, config, pose_set, device, joint_order(args, path), args.limit)
        score_and_write(path, predictions, pose_set, out / "official.npz", ["pck_box@0.2", "pck_torso@0.2"], args.json)
        return
    arrays = test_arrays(model, config, pose_set, device, args.limit)
    write_files(out, arrays, pose_set)
    if args.protocol == "mp":
        report_mp(arrays, pose_set, args.json)


def main(argv=None) -> int:
    """Exit code 0, or 2 with a message on bad input."""
    args = parse_args(argv)
    return exit_code(lambda: run(args))


if __name__ == "__main__":
    sys.exit(main())
