"""Weight files of every kind that fits PoseResNet <-> {our name: array}; and weights into networks.

Our names are Microsoft's. Nothing is transposed between ours, PyTorch's and PaddlePaddle 1.x's: convolutions are (out,
in, h, w), transposed ones (in, out, h, w) everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from common import datasets
from common.datasets.files import read_json, read_npz
from common.errors import DataError, named
from common.runs.checkpoints import CheckpointStore, check_compatible, check_stored
from common.runs.converting import card_path, check_numbers, halved, widened
from common.runs.process import Process
from common.runs.settings import resolve
from common.skeletons import COCO17, MPII16, Skeleton, from_card
from common.weights import fluid, pickles
from simplebaseline_paddle.config import BLOCKS, MEANING_FIELDS, Config

TORCH_SUFFIXES = (".pth", ".pt", ".tar")
ORIGINALS = {16: MPII16, 17: COCO17}  # the originals' files hold no joint names: theirs are these
BATCH_NORM = {"weight": "w_0", "bias": "b_0", "_mean": "w_1", "_variance": "w_2"}  # our names -> P's
BACKBONE = ("conv1.", "bn1.", "layer")  # how the names of the ResNet's tensors begin
_KINDS = "a Fluid folder, a combined file __params__, .pdparams, .npz, .pth or .pth.tar"
# Settings of a training that are not those of its network's use
_OF_THE_RUN = "limit data_root weights out model_save_dir resume workers batch_size device use_gpu amp".split()


# ---- names -----------------------------------------------------------------------------------------------------------


def to_torch(name: str) -> str:
    """`bn1._mean` -> `bn1.running_mean`."""
    return name.replace("._mean", ".running_mean").replace("._variance", ".running_var")


def from_torch(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A PyTorch state dict under our names: no `module.`, no `num_batches_tracked`."""
    ours = {n.replace(".running_mean", "._mean").replace(".running_var", "._variance"): a for n, a in tensors.items()}
    return {n.removeprefix("module."): a for n, a in ours.items() if not n.endswith("num_batches_tracked")}


def fluid_names(depth: int) -> dict[str, str]:
    """P's name -> ours, in graph order, for a graph that was built first in its process (counters from 0)."""
    pairs = [("conv1", "bn1")]  # of convolution and batch norm
    for stage, blocks in enumerate(BLOCKS[depth], 1):
        for block in (f"layer{stage}.{b}" for b in range(blocks)):
            pairs += [(f"{block}.conv{i}", f"{block}.bn{i}") for i in range(1, 3 if depth < 50 else 4)]
            if block.endswith(".0") and (depth >= 50 or stage > 1):
                pairs.append((f"{block}.downsample.0", f"{block}.downsample.1"))
    last = len(pairs)
    pairs += [(f"deconv_layers.{i}", f"deconv_layers.{i + 1}") for i in (0, 3, 6)]
    table = {}
    for i, (conv, norm) in enumerate(pairs):
        table[f"conv2d_{i}.w_0" if i < last else f"conv2d_transpose_{i - last}.w_0"] = f"{conv}.weight"
        table |= {f"batch_norm_{i}.{theirs}": f"{norm}.{ours}" for ours, theirs in BATCH_NORM.items()}
    return {**table, f"conv2d_{last}.w_0": "final_layer.weight", f"conv2d_{last}.b_0": "final_layer.bias"}


def from_fluid(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The network's tensors of a P checkpoint under our names, nothing else. DataError when it fits no depth."""
    for table in map(fluid_names, BLOCKS):  # the one whose last convolution has the one bias
        if list(table)[-1] in tensors:
            return {ours: tensors[name] for name, ours in table.items() if name in tensors}
    what = "no conv2d_N.b_0 with the N of any depth: is it another network, or"
    raise DataError(f"{what} the backbone alone (give that as --pretrained_model)?")


def describe(tensors: Mapping[str, np.ndarray], path: str | Path) -> dict:
    """Settings (but `style`) of the network that tensors belong to, and its `joints`. DataError: no PoseResNet."""
    blocks = tuple(len({n.split(".")[1] for n in tensors if n.startswith(f"layer{s}.")}) for s in (1, 2, 3, 4))
    bottleneck = any(n.endswith(".conv3.weight") for n in tensors)
    depth = next((d for d, b in BLOCKS.items() if b == blocks and (d >= 50) == bottleneck), None)
    deconvs = [n for n in (f"deconv_layers.{3 * i}.weight" for i in range(9)) if n in tensors]
    if depth is None or any(np.ndim(tensors.get(n)) != 4 for n in ("conv1.weight", "final_layer.weight", *deconvs)):
        what = f"blocks {blocks} fit no depth, or a convolution is missing"
        raise DataError(f"{path}: its tensors are no PoseResNet's: {what}; give weights of this network")
    return {
        "depth": depth, "joints": len(tensors["final_layer.weight"]), "base_width": len(tensors["conv1.weight"]),
        "deconv_filters": ",".join(str(np.shape(tensors[n])[1]) for n in deconvs),
    }  # fmt: skip


# ---- files -----------------------------------------------------------------------------------------------------------


def open_store(folder: Path, process: Process) -> CheckpointStore:
    """The store of one run: last, previous and best `.pdparams`."""
    import paddle

    how: dict = {"suffix": ".pdparams", "writer": process.is_main}
    return CheckpointStore(folder, lambda path, state: paddle.save(state, str(path)), pickles.read_paddle, **how)


def read_state(path: str | Path) -> dict:
    """A checkpoint as a dict: tensors `model` under our names, all of a run's state, what a card beside it says.

    A folder or a file `__params__`: PaddlePaddle 1.x. DataError when it does not exist or cannot be read.
    """
    path = Path(path)
    if not path.exists():
        raise DataError(f"weights {path} do not exist; give {_KINDS}")
    if path.is_dir():
        return {"model": _from_folder(path), **_card_of(path)}
    if path.suffix == ".pdparams":
        return _state_in(path, pickles.read_paddle(path))
    if path.suffix == ".npz":
        return {"model": widened(read_npz(path, "file of weights")), **_card_of(path)}
    if path.suffix in TORCH_SUFFIXES:
        return {"model": from_torch(_state_in(path, pickles.read_torch(path))["model"]), **_card_of(path)}
    if fluid.is_variable(path):
        return {"model": _from_combined(path)}
    raise DataError(f"weights {path}: unknown kind; give {_KINDS}")


def _card_of(path: Path) -> dict:
    if not card_path(path).is_file():
        return {}
    content = read_json(card_path(path), {"skeleton": {}, "settings": {}})
    return {"about": {"skeleton": content["skeleton"]}, "config": content["settings"]}


def _state_in(path: Path, state: Any) -> dict:
    fields = state if isinstance(state, dict) else {}
    if fields and all(isinstance(value, np.ndarray) for value in fields.values()):
        return {"model": fields}
    tensors = next((fields[f] for f in ("state_dict", "model") if isinstance(fields.get(f), dict)), None)
    if tensors is None:  # T's `model` is the network's name
        raise DataError(f"{path} has neither tensors nor a field model or state_dict; give weights of PoseResNet")
    check_stored(fields, path)
    for name, array in (*tensors.items(), *(fields.get("ema") or {"shadow": {}})["shadow"].items()):
        if not isinstance(name, str) or not isinstance(array, np.ndarray):
            raise DataError(f"{path}: {name!r} is no tensor; give weights of PoseResNet")
    return {**fields, "model": tensors}


def _from_folder(folder: Path) -> dict[str, np.ndarray]:
    if (folder / "__params__").is_file():
        return _from_combined(folder / "__params__")
    wanted = dict.fromkeys(n for depth in BLOCKS for n in fluid_names(depth) if (folder / n).is_file())
    if not wanted:
        raise DataError(f"{folder} holds no variable of PoseResNet; give the folder with files such as conv2d_0.w_0")
    return from_fluid(fluid.read_folder(folder, wanted))


def _from_combined(path: Path) -> dict[str, np.ndarray]:
    for table in map(fluid_names, BLOCKS):
        with suppress(DataError):
            return from_fluid(fluid.read_combined(path, table))
    raise DataError(f"{path} is damaged, or no PoseResNet saved for inference: its variables are those of no depth")


def write_weights(path: str | Path, tensors: Mapping[str, np.ndarray], depth: int, half: bool = False) -> None:
    """Arrays as a Fluid folder, or by suffix as `.npz` (`half`: of 16 bits), `.pth`, `.pth.tar`."""
    path = Path(path)
    if path.suffix == ".npz":
        return np.savez(path, **(halved(tensors) if half else tensors))
    if path.suffix in TORCH_SUFFIXES:
        return pickles.write_torch(path, {to_torch(n): a for n, a in tensors.items()})
    fluid.write_folder(path, {n: tensors[ours] for n, ours in fluid_names(depth).items()})


# ---- into networks ---------------------------------------------------------------------------------------------------


def arrays_of(model) -> dict[str, np.ndarray]:
    """A network's tensors by name, as arrays."""
    return {name: tensor.numpy() for name, tensor in model.state_dict().items()}


def put_weights(model, weights: Mapping[str, np.ndarray], source: str | Path) -> None:
    """Load arrays into a network. DataError when a tensor is missing, strange, of another shape or not finite."""
    own = arrays_of(model)
    shapes = {n: (np.shape(weights[n]), own[n].shape) for n in own if n in weights}
    found = {
        "lacks": [n for n in own if n not in weights],
        "has besides": [n for n in weights if n not in own],
        "has other shapes:": [f"{n} {a} instead of {b}" for n, (a, b) in shapes.items() if a != b],
    }
    parts = [f"{w} {', '.join(names[:3])}{' ...' * (len(names) > 3)}" for w, names in found.items() if names]
    if parts:
        raise DataError(f"{source} does not fit: it {'; '.join(parts)}")
    check_numbers(weights, source)
    model.set_state_dict({n: np.asarray(w).astype(own[n].dtype) for n, w in weights.items()})


def load_backbone(model, path: str | Path, depth: int) -> int:
    """The ResNet of an ImageNet or pose checkpoint, nothing else of it; returns how many tensors. DataError: none."""
    path, own = Path(path), arrays_of(model)
    wanted = {name: ours for name, ours in fluid_names(depth).items() if ours.startswith(BACKBONE)}
    if path.is_dir() and not (path / "__params__").is_file():
        found = fluid.read_folder(path, [name for name in wanted if (path / name).is_file()])
        weights = {wanted[name]: array for name, array in found.items()}
    else:
        weights = {name: array for name, array in read_state(path)["model"].items() if name.startswith(BACKBONE)}
    missing = [name for name in wanted.values() if name not in weights]
    if missing:
        raise DataError(f"{path} lacks {missing[0]} of a ResNet-{depth}; give a backbone of this depth: {_KINDS}")
    put_weights(model, {**own, **weights}, path)
    return len(weights)


def load_first_weights(model, path: str | Path, skeleton: Skeleton) -> str:
    """Another network's weights for a training's start, the head's joints by name. Returns what came, in words."""
    state = read_state(path)
    weights, own = tensors_of(state), arrays_of(model)
    theirs = skeleton_of(state, path, describe(weights, path)["joints"]).joints
    known = [j for j in skeleton.joints if j in theirs]
    here, there = skeleton.indices(known), [theirs.index(j) for j in known]
    for name in ("final_layer.weight", "final_layer.bias"):
        rows = weights[name]
        if rows.shape[1:] == own[name].shape[1:]:  # else `put_weights` says so
            weights[name] = own[name].copy()
            weights[name][here] = rows[there]
    put_weights(model, weights, path)
    fresh = [j for j in skeleton.joints if j not in theirs]
    return f"{len(known)} of {len(skeleton)} joints by name" + (f", {', '.join(fresh)} start fresh" if fresh else "")


def tensors_of(state: dict, raw: bool = False) -> dict[str, np.ndarray]:
    """The weights of a `read_state`: the moving average where there is one, unless `raw`."""
    return dict(state["ema"]["shadow"] if state.get("ema") and not raw else state["model"])


def skeleton_of(state: dict, path: str | Path, joints: int, dataset: str | None = None) -> Skeleton:
    """A `read_state`'s own skeleton, else `dataset`'s where the count fits, else the originals'. DataError: none."""
    if state.get("about") is not None:
        return from_card(state["about"].get("skeleton"), f"{path}: about.skeleton")
    named = datasets.record(dataset).skeleton if dataset else None
    skeleton = named if named is not None and len(named) == joints else ORIGINALS.get(joints)
    if skeleton is None:
        raise DataError(f"{path} holds no joint names, and {joints} joints are nobody's; say with --dataset whose")
    return skeleton


def load_network(path: str | Path, given: dict, preset: dict, dataset: str | None = None, raw: bool = False) -> tuple:
    """(network, settings, skeleton) of any weights; `given` settings win over its own.

    What files of the originals do not say comes from `preset`, joint names from `dataset` if given. DataError when a
    setting contradicts the weights, or the checkpoint's mode or colour order.
    """
    from simplebaseline_paddle.model import build_model

    state = read_state(path)
    weights = tensors_of(state, raw)
    found = describe(weights, path)
    joints = found.pop("joints")
    stored = state.get("config") or {}
    fixed = [f for f in (*found, *MEANING_FIELDS) if f in given and (f in found or f in stored)]
    check_compatible({**stored, **found}, given, fixed, path)
    skeleton = skeleton_of(state, path, joints, dataset)
    names = Config.__dataclass_fields__.keys() - _OF_THE_RUN
    known = {name: value for name, value in stored.items() if name in names and value is not None}
    foreign = {"dataset": dataset or ("coco" if skeleton == COCO17 else "mpii"), **preset}
    with named(path):
        config = resolve(Config, known or foreign, found, given).checked()
    model = build_model(config, joints)
    put_weights(model, weights, path)
    model.eval()
    return model, config, skeleton
