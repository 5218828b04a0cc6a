"""What the houses read, framework by framework, as `targets.py` says: weights that others wrote, and whole networks with
what a file or its card says of them."""

from __future__ import annotations

import json
import pickle
from argparse import Namespace
from pathlib import Path

import numpy as np

from common.skeletons import LPM14, MPII16, card
from tests.fuzz.targets import CAFFE, CASES, TF1, Targets, common

ROOT = Path(__file__).resolve().parents[2]


def _shipped(house: str) -> dict[str, Path]:
    return {file: ROOT / house / "zoo" / file for file in ("lspet.npz", "lspet.npz.card.json")}


def torch(root: Path) -> Targets:
    """What the two PyTorch houses read."""
    import torch

    from common.weights.pickles import read_torch
    from deeppose_caffe_port import Estimator
    from deeppose_caffe_port.model import TEST, CaffeNet
    from deeppose_caffe_port.prepare import read_lines
    from deeppose_caffe_port.sources import LmdbSource
    from deeppose_caffe_port.weight_files import load_whole
    from lpm_torch.weight_files import config_of, read_checkpoint, skeleton_of

    torch.set_num_threads(1)
    found = Targets(root)

    def told(path: Path):
        """What a file says of its network."""
        content = read_checkpoint(path)
        return skeleton_of(content, path), vars(config_of(content, path, {}))

    found.add("lpm_torch shipped", {"lspet.npz": "npz", "lspet.npz.card.json": "json"},
              lambda d: told(d / "lspet.npz"), _shipped("lpm_torch"))  # fmt: skip
    found.add("Caffe packed project", {"lspet.npz": "npz"}, lambda d: Estimator(d / "lspet.npz").skeleton.joints,
              _shipped("deeppose_caffe_port"))  # fmt: skip
    tensors = {
        "conv1_stage1.weight": torch.arange(24.0).reshape(2, 3, 2, 2),
        "conv7_stage1.weight": torch.zeros(15, 2, 1, 1),
    }
    state = {"format": 2, "epoch": 1, "state_dict": tensors, "config": {"model": "cpm"}, "losses": [0.5]}
    content = {**state, "state_dict": {}, "ema": {"shadow": {}}, "about": {"skeleton": card(LPM14)}}
    found.add("lpm_torch state", {"w.pth.tar": "tree"}, lambda d: told(d / "w.pth.tar"),
              {"w.pth.tar": lambda p: torch.save(content, p, _use_new_zipfile_serialization=False)})  # fmt: skip

    for name, write, checked in (
        ("w.pth.tar", lambda p: torch.save(state, p), True),
        ("old.pth", lambda p: torch.save(tensors, p, _use_new_zipfile_serialization=False), False),
    ):
        found.add(
            f"lpm_torch {name}", {name: "bytes"}, lambda d, n=name: read_checkpoint(d / n), {name: write}, checked
        )
    golden = CAFFE / "sgd_inv"

    def net(folder: Path):
        made = CaffeNet.from_file(folder / "deploy.prototxt", TEST, folder)
        load_whole(made, folder / "init.caffemodel")
        return made.shapes

    found.add("Caffe net", {"deploy.prototxt": "text", "init.caffemodel": "bytes"}, net,
              {n: golden / n for n in ("deploy.prototxt", "init.caffemodel")})  # fmt: skip
    found.add("Caffe training net", {"train_test.prototxt": "text", "mean.binaryproto": "bytes"},
              lambda d: CaffeNet.from_file(d / "train_test.prototxt", TEST, d).shapes, golden)  # fmt: skip
    found.add(
        "Caffe .pt",
        {"net.pt": "bytes"},
        lambda d: read_torch(d / "net.pt"),
        {"net.pt": lambda p: torch.save(tensors, p)},
        checked=True,
    )

    def records(folder: Path):
        source = LmdbSource(folder / "test_lmdb", 2, 0)
        return [np.asarray(source.record(k)[0]) for k in range(source.count)]

    found.add(
        "Caffe LMDB", {"test_lmdb/data.mdb": "bytes"}, records, {"test_lmdb/data.mdb": golden / "test_lmdb/data.mdb"}
    )
    found.add("list of images", {"train_annos.txt": "text"}, lambda d: read_lines(d / "train_annos.txt", 30),
              {"train_annos.txt": CAFFE / "dataprep/k2hpd/train_annos.txt"})  # fmt: skip
    return found


def tensorflow(root: Path) -> Targets:
    """What the two TensorFlow houses read, TensorFlow's own files among it."""
    import cv2
    import scipy.io

    from common.runs.checkpoints import make_state
    from common.weights.tf1 import tensorflow
    from deepercut_tf import ai2coco_art_neckhead_json as ai2coco
    from deepercut_tf import weight_files as deepercut
    from deepercut_tf.config import make_config
    from deepercut_tf.estimator import skeleton_of_weights
    from deepercut_tf.eval_pck import read_predictions
    from deepercut_tf.items import load_items
    from deepercut_tf.pairwise import SpatialModel, load_spatial_model, save_spatial_model
    from deepercut_tf.pairwise_stats import load_statistics, save_statistics
    from deepercut_tf.prepare_mpii import write_dataset
    from deeppose_tf import weight_files as deeppose
    from deeppose_tf.config import Config
    from deeppose_tf.csv_files import read_csv
    from deeppose_tf.estimator import read_network

    tensorflow()
    found = Targets(root)
    found.add("deeppose_tf shipped", {"lspet.npz": "npz", "lspet.npz.card.json": "json"},
              lambda d: (deeppose.is_stand_in(d / "lspet.npz"), read_network(d / "lspet.npz")[2]),
              _shipped("deeppose_tf"))  # fmt: skip

    def told(path: Path):
        """What a file says of its network."""
        _, stored = deepercut.read_weights(path)
        return skeleton_of_weights(stored, make_config(stored.get("config", {}), source=path), path)

    found.add("deepercut_tf shipped", {"lspet.npz": "npz"}, lambda d: told(d / "lspet.npz"), _shipped("deepercut_tf"))
    one = {"keypoint_annotations": {"human1": [5, 6, 1] * 14}, "human_annotations": {"human1": [1, 2, 30, 40]}}

    def converted(folder: Path):
        return ai2coco.run(Namespace(keypoint_json=folder / "k.json", img_dir=folder, compat=False)).read_bytes()

    picture = cv2.imencode(".jpg", np.zeros((9, 9, 3), np.uint8))[1].tobytes()
    found.add("ai2coco", {"k.json": "json"}, converted,
              {"k.json": json.dumps([{"image_id": "a", **one}]).encode(), "a.jpg": picture})  # fmt: skip
    rng = np.random.default_rng(0)
    v2 = TF1 / "legacy_ckpt_v2"
    found.add(
        "TensorFlow V1",
        {"checkpoint-7": "bytes"},
        lambda d: deeppose.read_weights(d / "checkpoint-7"),
        TF1 / "legacy_ckpt_v1",
        checked=True,
    )
    found.add(
        "TensorFlow V2",
        {f.name: "bytes" for f in sorted(v2.iterdir())},
        lambda d: deeppose.read_weights(d / "checkpoint-7"),
        v2,
        checked=True,
    )
    found.add(
        "TensorFlow snappy",
        {"variables.index": "bytes"},
        lambda d: deepercut.read_weights(d / "variables")[0],
        CASES / "weights/snappy",
        checked=True,
    )
    plain = {"resnet_v1_50/conv1/weights": rng.random((3, 3, 3, 4)), "pose/part_pred/block4/biases": np.zeros(4)}
    meta = np.array(json.dumps({"config": {"net_type": "resnet_50"}, "about": {"skeleton": {}}}))
    found.add(
        "deepercut_tf npz",
        {"w.npz": "npz"},
        lambda d: deepercut.read_weights(d / "w.npz"),
        {"w.npz": lambda p: np.savez(p, meta=meta, **plain)},
    )
    layers = {f"conv{k}": {"weights": np.ones((2, 2, 3, 4), np.float32), "biases": np.zeros(4)} for k in (1, 2)}
    found.add("AlexNet npy", {"w.npy": "bytes"}, lambda d: deeppose.read_weights(d / "w.npy"),
              {"w.npy": lambda p: np.save(p, np.array(layers, object), allow_pickle=True)})  # fmt: skip
    rows = "".join(f"{k}.jpg," + ",".join(f"{v:.1f}" for v in rng.random(28) * 90) + "\n" for k in range(4)).encode()
    found.add(
        "CSV of joints",
        {"a_joints.csv": "text"},
        lambda d: read_csv(d / "a_joints.csv", Config()).joints,
        {"a_joints.csv": rows},
    )
    found.add("pair statistics", {"s.mat": "mat"}, lambda d: load_statistics(d / "s.mat", 5),
              {"s.mat": lambda p: save_statistics(p, rng.random((20, 2)), rng.random((20, 2)) + 1, 5)})  # fmt: skip
    tables = np.empty((1, 4), object)
    for k in range(4):
        tables[0, k] = rng.random((14, 3))
    found.add(
        "predictions.mat",
        {"p.mat": "mat"},
        lambda d: read_predictions(d / "p.mat", 4, 14),
        {"p.mat": lambda p: scipy.io.savemat(p, {"joints": tables})},
    )
    crops = [(f"{k}.png", (80, 90), rng.integers(0, 14, (k, 3)).astype(np.int32)) for k in range(4)]

    def persons(folder: Path):
        item_set, _ = load_items(make_config({"dataset": "mpii", "data_root": str(folder / "dataset.mat")}))
        return [(item.image, item.size, item.persons) for item in item_set.items]

    found.add("dataset.mat", {"dataset.mat": "mat"}, persons, {"dataset.mat": lambda p: write_dataset(p, crops, 0)})
    spatial = SpatialModel(*(rng.random((3, 3, n)) + np.where(np.tri(3)[..., None], np.nan, 0) for n in (8, 8, 9)))
    found.add("spatial model", {f"spatial_model_cidx_{pair}.mat": "mat" for pair in ("1_2", "1_3", "2_3")},
              lambda d: vars(load_spatial_model(d, 3)),
              {"spatial_model_cidx_1_2.mat": lambda p: save_spatial_model(p.parent, spatial)})  # fmt: skip
    named = {"fc7/weight": rng.random((4, 4)), "fc7/bias": rng.random(4), "fc7/bias/Adagrad": np.ones(4)}
    state = deeppose.state_of(named)
    found.add("deeppose_tf state", {"last.npz": "npz"}, lambda d: deeppose.load_state(d / "last.npz"),
              {"last.npz": lambda p: deeppose.save_state(p, state)})  # fmt: skip
    kept = make_state(
        {"model": plain, "optimizer": {}, "draw": 4}, epoch=0, batch=2, step=2, config={}, about={"skeleton": {}}
    )
    # not in the store's own folder, whose index knows the right hash
    found.add("deepercut_tf state", {"last.npz": "npz"},
              lambda d: (deepercut.open_store(d / "other").load(d / "last.npz"), deepercut.read_weights(d / "last.npz")),
              {"last.npz": lambda p: deepercut.open_store(p.parent).save({**kept, "losses": []})})  # fmt: skip
    return found


def paddle(root: Path) -> Targets:
    """What simplebaseline_paddle reads."""
    from simplebaseline_paddle.weight_files import describe, read_state, skeleton_of, tensors_of

    found = Targets(root)

    def told(path: Path):
        """What a file says of its network."""
        state = read_state(path)
        return skeleton_of(state, path, describe(tensors_of(state), path)["joints"])

    found.add("simplebaseline_paddle shipped", {"lspet.npz": "npz", "lspet.npz.card.json": "json"},
              lambda d: told(d / "lspet.npz"), _shipped("simplebaseline_paddle"))  # fmt: skip
    tensors = {
        "conv1.weight": np.ones((2, 3, 1, 1), np.float32),
        "final_layer.weight": np.zeros((16, 2, 1, 1), np.float32),
    }
    state = {"format": 2, "model": {n: (n, a) for n, a in tensors.items()}, "config": {"depth": 18}, "about": {}}
    found.add(
        "simplebaseline_paddle pdparams",
        {"w.pdparams": "bytes"},
        lambda d: read_state(d / "w.pdparams"),
        {"w.pdparams": pickle.dumps(state, 4)},
    )
    content = state | {"model": tensors, "about": {"skeleton": card(MPII16)}, "ema": {"shadow": tensors}}
    found.add("simplebaseline_paddle state", {"w.pdparams": "tree"}, lambda d: read_state(d / "w.pdparams"),
              {"w.pdparams": pickle.dumps(content, 4)})  # fmt: skip
    found.add(
        "simplebaseline_paddle pth",
        {"w.pth": "bytes"},
        lambda d: read_state(d / "w.pth"),
        {"w.pth": CASES / "weights/np_scalar_zip.pth.tar"},
        checked=True,
    )
    return found


GROUPS = {"common": common, "torch": torch, "tensorflow": tensorflow, "paddle": paddle}
