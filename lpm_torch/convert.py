"""Original weights in, ours out, and back; every result is checked before it is saved, and gets a card (JSON) beside it.

python lpm_torch/convert.py --input F.caffemodel                        # as the original: layer.weight / layer.bias -> F.caffemodel.pt
python lpm_torch/convert.py --input F.caffemodel --model lpm_official   # the authors' models (training file, deploy pair, pre-model)
python lpm_torch/convert.py --input PRE.caffemodel --model lpm --reorder   # to fine-tune with our joint order
python lpm_torch/convert.py --input best.pth.tar --output lpm.onnx      # also .pt .safetensors .npz .npy .h5 .json .caffemodel
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)

import numpy as np  # noqa: E402

from common.errors import DataError  # noqa: E402

CAFFE_MODELS = ("lpm_official", "lpm", "lpm_raw", "cpm")
OUTPUTS = (".pt", ".safetensors", ".npz", ".npy", ".h5", ".json", ".onnx", ".caffemodel")
CHECK_SIZE, CHECK_FRAMES = 64, 3  # pixels and frames of the forward passes that compare
# settings of a checkpoint that its weights mean nothing without; val.py and predict.py read them in the card
KEPT = ("mode", "center_map", "background", "dataset", "resolution", "t", "pad_pixels", "pad_ratio", "flip_test")
FORWARD_TOLERANCE = 1e-4  # of the largest belief: the same sums in another order


def parse_args(argv=None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add(
        "--input",
        nargs="+",
        required=True,
        type=Path,
        help=".caffemodel (two for a deploy pair), .pth.tar, .pt or .safetensors",
    )
    add(
        "--output",
        type=Path,
        default=None,
        help=f"result, its suffix one of {' '.join(OUTPUTS)} (default: input + .pt)",
    )
    add(
        "--model",
        choices=CAFFE_MODELS,
        default=None,
        help="network that a Caffe model is mapped to (default: names stay Caffe's)",
    )
    add("--allow_missing", action="store_true", help="save although tensors have no counterpart; the card lists them")
    add("--reorder", nargs="?", const="person", choices=("person", "penn"), default=None,
        help="permute the authors' joint order to ours; penn: their Penn models, which exchange left and right")  # fmt: skip
    add(
        "--weights",
        choices=("averaged", "raw"),
        default="averaged",
        help="of our checkpoints, the moving average where there is one",
    )
    add(
        "--size",
        type=int,
        default=None,
        help="input side of an ONNX graph (default: the checkpoint's, else 256, lpm_official 368)",
    )
    add(
        "--t",
        type=int,
        default=None,
        help="clip length of an ONNX graph of lpm_raw and coord_lpm (default: the checkpoint's, else 5)",
    )
    add(
        "--licence",
        default="not stated by the source",
        help="licence of the weights, as their source gives it; goes into the card",
    )
    add(
        "--limit",
        type=int,
        default=None,
        metavar="N",
        help="dry run: map and check, list the first N tensors, write nothing",
    )
    return parser.parse_args(argv)


def convert(args: argparse.Namespace) -> dict:
    """Do what the options say; returns the card. DataError on bad input, unmatched tensors or a failed check (nothing is written then)."""
    output = args.output or args.input[0].with_name(args.input[0].name + ".pt")
    if output.suffix not in OUTPUTS:
        raise DataError(f"--output {output}: the suffix must be one of {' '.join(OUTPUTS)}")
    for path in args.input:
        if not path.is_file():
            raise DataError(f"--input {path} does not exist")
        if path.resolve() == output.resolve():
            raise DataError(f"--output {output} is the input; give another name")
    if args.input[0].suffix == ".caffemodel":
        weights, card, network = from_caffe(args)
    else:
        weights, card, network = from_checkpoint(args)
    card["sources"] = [_source(path) for path in args.input]
    card["licence"] = args.licence
    if args.limit is None:
        card["output"] = output.name
        card["checks"] += _write(output, weights, network, args)
        _write_card(output, card)
    return card


def _source(path: Path) -> dict:
    from common.files import sha256_of

    return {"file": path.name, "bytes": path.stat().st_size, "sha256": sha256_of(path)}


def _write_card(output: Path, card: dict) -> None:
    from common.files import sha256_of, versions, write_json

    card["output_sha256"], card["versions"] = sha256_of(output), versions()
    write_json(output.with_name(output.name + ".card.json"), card)


# ---- Caffe in -----------------------------------------------------------------------------------------------------------------


def read_blobs(paths: list[Path]) -> dict[str, list[np.ndarray]]:
    """Blobs of one file, or of a deploy pair together; layers in both must be equal. Vectors that legacy files store as (1,1,1,n) become (n,)."""
    from common.weights.caffe import read_caffemodel

    joined: dict[str, list[np.ndarray]] = {}
    for path in paths:
        for name, stored in read_caffemodel(path).items():
            blobs = [b.reshape(-1) if b.shape[:-1] == (1, 1, 1) else b for b in stored]
            old = joined.get(name, blobs)
            if len(old) != len(blobs) or not all(np.array_equal(a, b) for a, b in zip(old, blobs)):
                raise DataError(f"{path}: layer {name} differs from the one in {paths[0]}; these files are no pair")
            joined[name] = blobs
    return joined


def from_caffe(args: argparse.Namespace) -> tuple[dict[str, np.ndarray], dict, dict | None]:
    """(weights, card, build_model arguments or None for Caffe's own names)."""
    blobs = read_blobs(args.input)
    if args.model is None:
        if args.reorder:
            raise DataError("--reorder needs --model")
        return _plain(blobs), {"kind": "caffemodel, Caffe's names", "mapping": {}, "checks": []}, None
    return _mapped(blobs, args)


def _plain(blobs: dict[str, list[np.ndarray]]) -> dict[str, np.ndarray]:
    """layer.weight, layer.bias (flat) and, where a layer has more, layer.blob2 ..., float32."""
    weights = {}
    for layer, arrays in blobs.items():
        for i, array in enumerate(arrays):
            name = ("weight", "bias")[i] if i < 2 else f"blob{i}"
            weights[f"{layer}.{name}"] = array.astype(np.float32)
    return weights


def _mapped(blobs: dict[str, list[np.ndarray]], args: argparse.Namespace) -> tuple[dict[str, np.ndarray], dict, dict]:
    from lpm_torch.caffe_map import map_caffe, reorder
    from lpm_torch.model import build_model

    network = _caffe_network(blobs, args)
    model = build_model(**network).eval()
    mapping = map_caffe(blobs, args.model, model.state_dict())
    if (mapping.missing or mapping.unused) and not args.allow_missing:
        lines = [
            f"{word} {', '.join(n)}"
            for word, n in (("nothing fills", mapping.missing), ("nothing takes", mapping.unused))
            if n
        ]
        raise DataError(
            f"{args.input[0]} does not match {args.model}: {'; '.join(lines)}. Give another --model, or --allow_missing"
        )
    model.load_state_dict({**model.state_dict(), **mapping.state})
    checks = []
    if args.model == "lpm_official" and not mapping.missing:
        checks.append(check_official(model, blobs))
    if args.reorder:
        plain = _forward(model)
        model.load_state_dict(reorder(model.state_dict(), model.channels.feature, args.reorder))
        checks.append(_check_reordered(plain, _forward(model), args.reorder))
    card = {
        "kind": f"caffemodel to {args.model}", "network": network, "mapping": mapping.sources, "missing": mapping.missing,
        "unused": mapping.unused, "reorder": args.reorder, "joint_order": "lpm14" if args.reorder else "cpm14", "checks": checks,
    }  # fmt: skip
    return {k: v.numpy() for k, v in model.state_dict().items()}, card, network


def _caffe_network(blobs: dict[str, list[np.ndarray]], args: argparse.Namespace) -> dict:
    for layer in ("conv1_stage1", "conv7_stage1"):
        if layer not in blobs:
            raise DataError(
                f"{args.input[0]} has no layer {layer}: no LPM or CPM model of the authors; a deploy pair needs both files"
            )
    return {
        "name": args.model,
        "joints": blobs["conv7_stage1"][0].shape[0] - 1,
        "width": blobs["conv1_stage1"][0].shape[0] / 128,
    }


def _clip(frames: int = CHECK_FRAMES, size: int = CHECK_SIZE):
    import torch

    draw = torch.Generator().manual_seed(0)
    return torch.randn(1, frames, 3, size, size, generator=draw), torch.rand(1, 1, size, size, generator=draw)


def _forward(model, frames: int = CHECK_FRAMES) -> np.ndarray:
    """All maps that the network gives for the check clip."""
    import torch

    size = 2 ** (model.depth + 3) if hasattr(model, "depth") else CHECK_SIZE
    with torch.no_grad():
        return model(*_clip(frames, size))[0].numpy()


def _difference(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a - b).max() / max(np.abs(b).max(), 1e-12))


def check_official(model, blobs: dict[str, list[np.ndarray]]) -> dict:
    """Compare lpm_official with a walk over the Caffe file's own layers, stage by stage; DataError when they disagree."""
    import torch

    from lpm_torch.caffe_map import caffe_forward

    clip, center = _clip()
    with torch.no_grad():
        expected = caffe_forward(blobs, clip[0], center).numpy()
        error = _difference(model(clip, center)[1][0].numpy(), expected)
    if not error <= FORWARD_TOLERANCE:
        raise DataError(
            f"the network differs from the Caffe file's by {error:.1e} of the largest belief: nothing was saved"
        )
    return {"kind": "forward pass against the Caffe file's layers", "error": error, "tolerance": FORWARD_TOLERANCE}


def _check_reordered(plain: np.ndarray, permuted: np.ndarray, naming: str) -> dict:
    from lpm_torch.caffe_map import BELIEF_REORDER, LPM14

    order = [BELIEF_REORDER[i] for i in LPM14.mirror] if naming == "penn" else list(BELIEF_REORDER)
    error = _difference(permuted, plain[:, :, [*order, len(order)]])
    if not error <= FORWARD_TOLERANCE:
        raise DataError(
            f"the reordered network does not give the permuted maps (difference {error:.1e}): nothing was saved"
        )
    return {"kind": "reordered forward pass against the permuted one", "error": error, "tolerance": FORWARD_TOLERANCE}


# ---- checkpoints in -----------------------------------------------------------------------------------------------------------


def from_checkpoint(args: argparse.Namespace) -> tuple[dict[str, np.ndarray], dict, dict]:
    """A checkpoint of ours or of MobilePose, or plain weights: (weights, card, build_model arguments)."""
    from lpm_torch.checkpoint import joint_order_of, read_checkpoint
    from lpm_torch.weight_files import network_of

    for given, option in ((len(args.input) > 1, "two files"), (args.model, "--model"), (args.reorder, "--reorder")):
        if given:
            raise DataError(f"{option} is for .caffemodel input; {args.input[0]} says itself which network it is")
    path = args.input[0]
    state = read_checkpoint(path)
    averaged = bool(args.weights == "averaged" and state.get("ema"))
    tensors = state["ema"]["shadow"] if averaged else state["state_dict"]
    weights = {k: v.detach().contiguous().numpy() for k, v in tensors.items()}
    network = network_of({k: v.shape for k, v in weights.items()}, path)
    config = state.get("config") or {}
    args.size = args.size or config.get("resolution")
    args.t = args.t or config.get("t")
    card = {
        "kind": "checkpoint", "network": network, "epoch": state.get("epoch"), "averaged": averaged, "mapping": "same names",
        "joint_order": joint_order_of(Path(path)),
        "settings": {k: config[k] for k in KEPT if k in config}, "checks": [],
    }  # fmt: skip
    return weights, card, network


# ---- out ----------------------------------------------------------------------------------------------------------------------


def _load(network: dict, weights: dict[str, np.ndarray]):
    import torch

    from lpm_torch.model import build_model

    model = build_model(**network).eval()
    try:
        model.load_state_dict({k: torch.from_numpy(v) for k, v in weights.items()})
    except RuntimeError as error:
        raise DataError(f"the weights do not fit {network}: {' '.join(str(error).split())[:300]}") from error
    return model


def _write(output: Path, weights: dict[str, np.ndarray], network: dict | None, args: argparse.Namespace) -> list[dict]:
    """Write one file (two for an ONNX step) and return the checks that it passed."""
    from lpm_torch.weight_files import save_checked

    if network is None:
        if output.suffix in (".onnx", ".caffemodel"):
            raise DataError(f"--output {output}: give --model too, the file alone does not say which network it is")
        save_checked(output, weights)
        return [{"kind": "file read back, every tensor equal"}]
    model = _load(network, weights)
    if output.suffix == ".onnx":
        from lpm_torch.onnx_export import export_onnx

        return [
            export_onnx(model, output, args.size or (368 if network["name"] == "lpm_official" else 256), args.t or 5)
        ]
    if output.suffix == ".caffemodel":
        return [_write_caffe(output, model, network)]
    expected = _forward(model)

    def check(back: dict[str, np.ndarray]) -> None:
        if not np.array_equal(_forward(_load(network, back)), expected, equal_nan=True):
            raise DataError(f"{output}: a forward pass with the weights read back differs; nothing was saved")

    save_checked(output, weights, check)
    return [{"kind": "file read back: every tensor and a forward pass equal", "error": 0.0}]


def _write_caffe(output: Path, model, network: dict) -> dict:
    from common.files import atomic_write
    from common.weights.caffe import read_caffemodel, write_caffemodel
    from lpm_torch.caffe_map import official_layers

    if network["name"] != "lpm_official":
        raise DataError(
            f"--output {output}: only lpm_official is a network of the authors' Caffe code, not {network['name']}"
        )
    result = {}

    def write(temporary: Path) -> None:
        write_caffemodel(temporary, official_layers(model.state_dict()), "LSTM_PoseMachine")
        result.update(check_official(model, read_caffemodel(temporary)))

    atomic_write(output, write)
    return result


def main(argv=None) -> int:
    """Exit code 0, or 2 on bad input or a failed check."""
    args = parse_args(argv)
    try:
        card = convert(args)
    except DataError as error:
        print(f"convert: {error}", file=sys.stderr)
        return 2
    for name, source in list(card["mapping"].items())[: args.limit] if isinstance(card["mapping"], dict) else ():
        print(f"{name:32s} <- {source}")
    for word in ("missing", "unused"):
        if card.get(word):
            print(f"{word}: {', '.join(card[word])}")
    for check in card["checks"]:
        print(f"checked: {check['kind']}" + (f", difference {check['error']:.1e}" if "error" in check else ""))
    print(
        "dry run: nothing written"
        if args.limit is not None
        else f"wrote {card['output']} and its card {card['output']}.card.json"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
