"""What is damaged, and which reader must then give a result, or an error that names the file: what no framework reads
(`houses.py` has the rest).

A target is {relative name of a file: kind of damage} in a folder, and what reads the folder. `checked`: the format has
checksums, so that other values must not come out.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tests.fixtures import GOLDEN

CAFFE, FLUID, TF1 = GOLDEN / "deeppose_caffe_port", GOLDEN / "simplebaseline_paddle/ckpt", GOLDEN / "deeppose_tf"
CASES = Path(__file__).resolve().parents[1] / "common" / "cases"


@dataclass
class Target:
    name: str
    source: Path
    files: dict[str, str]
    read: Callable[[Path], Any]
    checked: bool = False

    def copy(self, folder: Path) -> None:
        """The source, undamaged: hard links but for what is damaged."""
        shutil.copytree(self.source, folder, copy_function=_linked, dirs_exist_ok=True)
        for name in self.files:
            data = (folder / name).read_bytes()
            (folder / name).unlink()
            (folder / name).write_bytes(data)


def _linked(source: str, target: str) -> None:
    # LMDB opens no file twice, whatever its name
    shutil.copyfile(source, target) if source.endswith(".mdb") else os.link(source, target)


class Targets(list):
    """Targets whose sources lie in folders of `root`."""

    def __init__(self, root: Path):
        super().__init__()
        self.root = root

    def add(
        self, name: str, files: dict[str, str], read, source: Path | dict | None = None, checked: bool = False
    ) -> None:
        """`source`: a folder, or {file: content (bytes), a file, or a function of the path that writes it}."""
        if not isinstance(source, Path):
            made = self.root / name
            for file, content in (source or {}).items() if not made.exists() else ():
                path = made / file
                path.parent.mkdir(parents=True, exist_ok=True)
                if isinstance(content, Path):
                    shutil.copyfile(content, path)
                elif isinstance(content, bytes):
                    path.write_bytes(content)
                else:
                    content(path)
            source = made
        self.append(Target(name, source, files, read, checked))


def _drawn(root: Path, name: str, count: int) -> Path:
    from common.datasets import synthetic

    folder = root / "drawn" / name
    if not folder.exists():
        synthetic.main([name, str(folder), "--count", str(count)])
    return folder


def common(root: Path) -> Targets:
    """Data sets, predictions, settings, pictures, videos, weights that no framework reads."""
    found = Targets(root)
    _data_sets(found)
    _predictions(found)
    _settings(found)
    _pictures(found)
    _weights(found)
    return found


def _data_sets(found: Targets) -> None:
    from common import datasets
    from common.datasets import check

    def loads(name: str, split: str):
        def read(folder: Path):
            pose_set = datasets.load(name, folder, split)
            check.describe(pose_set), check.annotation_problems(pose_set)
            regions = {k: pose_set.regions[k] for k in pose_set.regions} if pose_set.regions is not None else None
            return pose_set.joints, pose_set.box, pose_set.image_id, regions

        return read

    aic = "ai_challenger_keypoint_validation_20170911/keypoint_validation_annotations_20170911.json"
    clip = "catch/synthetic_catch_000"
    for name, count, split, files in (
        ("lsp", 3, "all", {"joints.mat": "mat"}),
        ("lspet", 3, "all", {"joints.mat": "mat"}),
        ("mpii", 4, "valid", {"annot/valid.json": "json", "annot/gt_valid.mat": "mat"}),
        ("mpii", 4, "all", {"mpii_human_pose_v1_u12_1.mat": "mat"}),
        ("coco", 4, "val2017", {"annotations/person_keypoints_val2017.json": "json"}),
        ("crowdpose", 3, "test", {"annotations/crowdpose_test.json": "json"}),
        ("ai_challenger", 3, "valid", {aic: "json"}),
        ("penn_action", 2, "all", {"labels/0001.mat": "mat"}),
        ("jhmdb", 2, "train1", {f"joint_positions/{clip}/joint_positions.mat": "mat", f"puppet_mask/{clip}/puppet_mask.mat": "mat",
                                "sub_splits/catch_test_split_1.txt": "text"}),
        ("k2hpd", 4, "test", {"test_annos.txt": "text"}),
        ("json", 3, "valid", {"valid.json": "json"}),
    ):  # fmt: skip
        found.add(f"{name} {split}", files, loads(name, split), _drawn(found.root, name, count))


def _predictions(found: Targets) -> None:
    import h5py
    import scipy.io

    from common import datasets, evaluate
    from common.boxes import Boxes
    from common.importers import load_any
    from common.predictions import People, load_predictions, predictions_for, save_predictions
    from common.reported import load_runs
    from common.runs.predicting import Picture, line_of
    from common.skeletons import card, from_card

    sets = {n: datasets.load(n, _drawn(found.root, n, c), s) for n, c, s in
            (("mpii", 4, "valid"), ("coco", 4, "val2017"), ("lsp", 3, "all"), ("ai_challenger", 3, "valid"))}  # fmt: skip

    def scores(name: str, file: str):
        def read(folder: Path):
            predictions = load_any(folder / file, sets[name])
            results = evaluate.score(sets[name], predictions)
            verdicts = {n: evaluate.comparable(sets[name], predictions, n) for n in results}
            evaluate.table(sets[name], predictions, results, verdicts)
            return {n: r.total for n, r in results.items()}

        return read

    def own(pose_set):
        joints = np.nan_to_num(pose_set.joints)
        return predictions_for(pose_set, joints, np.ones(joints.shape[:2]), {"model": "x"})

    for name in ("mpii", "coco"):
        write = {"p.npz": lambda path, n=name: save_predictions(path, own(sets[n]))}
        found.add(f"predictions of {name}", {"p.npz": "npz"}, scores(name, "p.npz"), write)
    npz = {"p.npz": lambda path: save_predictions(path, own(sets["lsp"]))}
    found.add("predictions", {"p.npz": "npz"}, lambda d: vars(load_predictions(d / "p.npz")), npz)
    found.add(
        "bytes of predictions", {"p.npz": "bytes"}, lambda d: vars(load_predictions(d / "p.npz")), npz, checked=True
    )
    mpii, lsp = (np.nan_to_num(sets[n].joints) for n in ("mpii", "lsp"))

    def hdf5(path: Path) -> None:
        with h5py.File(path, "w") as file:
            file["preds"] = mpii

    found.add("preds.mat", {"preds.mat": "mat"}, scores("mpii", "preds.mat"),
              {"preds.mat": lambda path: scipy.io.savemat(path, {"preds": mpii})})  # fmt: skip
    found.add("preds.h5", {"preds.h5": "bytes"}, scores("mpii", "preds.h5"), {"preds.h5": hdf5})
    found.add("prediction_all", {"p.mat": "mat"}, scores("lsp", "p.mat"),
              {"p.mat": lambda path: scipy.io.savemat(path, {"prediction_all": lsp.transpose(2, 1, 0)})})  # fmt: skip
    results = [
        {"image_id": int(i), "category_id": 1, "keypoints": [1.5, 2.5, 1.0] * 17, "score": 0.5}
        for i in sets["coco"].image_id
    ]
    found.add("COCO results", {"r.json": "json"}, scores("coco", "r.json"), {"r.json": json.dumps(results).encode()})
    entries = [
        {"image_id": Path(p).stem, "keypoint_annotations": {"human1": [5, 6, 1] * 14}}
        for p in dict.fromkeys(sets["ai_challenger"].images)
    ]
    found.add(
        "AIC results", {"r.json": "json"}, scores("ai_challenger", "r.json"), {"r.json": json.dumps(entries).encode()}
    )
    people = People.of(lsp[:1], np.ones(lsp.shape[:2])[:1])
    lines = [line_of(Picture(Path(p).name, k, None, np.zeros((40, 40, 3), np.uint8)), people, sets["lsp"].skeleton)
             for k, p in enumerate(sets["lsp"].images)]  # fmt: skip
    text = "".join(json.dumps(line) + "\n" for line in lines).encode()
    found.add("joints.jsonl", {"joints.jsonl": "text"}, scores("lsp", "joints.jsonl"), {"joints.jsonl": text})

    boxes = [{"image_id": 5, "category_id": 1, "bbox": [1, 2, 30, 40], "score": 0.5}] * 2
    found.add("boxes", {"b.json": "json", "b.csv": "text"},
              lambda d: [Boxes([str(d / n)], 0.1)("5.jpg", (9, 9)) for n in ("b.json", "b.csv")],
              {"b.json": json.dumps(boxes).encode(), "b.csv": b"a.jpg,1,2,30,40\n5.jpg,5,6,30,40.5\n"})  # fmt: skip
    skeleton = json.dumps(card(sets["lsp"].skeleton)).encode()

    def read_card(folder: Path):
        from common.datasets.files import read_json

        return vars(from_card(read_json(folder / "c.json"), str(folder / "c.json")))

    found.add("skeleton card", {"c.json": "json"}, read_card, {"c.json": skeleton})
    runs = sorted((Path(__file__).resolve().parents[2] / "lpm_torch/results").glob("*.json"))[:1]
    if runs:
        found.add("run file", {"h/results/r.json": "json"}, load_runs, {"h/results/r.json": runs[0]})


def _settings(found: Targets) -> None:
    from common.runs.checkpoints import CheckpointStore, make_state
    from common.runs.runlog import RunLog
    from deepercut_tf.config import load_config
    from lpm_torch.train import parse_args

    house = Path(__file__).resolve().parents[2]

    def given(path: Path) -> dict:
        return vars(parse_args([f"--config={path}"]))

    found.add("settings.ini", {"s.ini": "text"}, lambda d: given(d / "s.ini"),
              {"s.ini": next((house / "lpm_torch/configs").glob("*.ini"))})  # fmt: skip
    yaml = b"lr: 0.01\nmodel: lpm\nepochs: 3\nrotate: [40, 2]\nout: a/b\nclip: null\n"
    found.add(
        "settings.yaml", {"s.yaml": "text"}, lambda d: given(d / "s.yaml"), {"s.yaml": yaml.replace(b"[40, 2]", b"40")}
    )
    pose = sorted((house / "deepercut_tf/models").rglob("pose_cfg.yaml"))[-1]
    found.add(
        "pose_cfg.yaml",
        {"pose_cfg.yaml": "text"},
        lambda d: dict(load_config(d / "pose_cfg.yaml")),
        {"pose_cfg.yaml": pose},
    )

    def store(folder: Path) -> CheckpointStore:
        def load(path: Path) -> dict:
            with np.load(path, allow_pickle=False) as file:
                return {**json.loads(str(file["rest"])), "model": file["model"]}

        def save(path: Path, state: dict) -> None:
            with open(path, "wb") as file:
                np.savez(
                    file,
                    model=state["model"],
                    rest=np.array(json.dumps({k: v for k, v in state.items() if k != "model"})),
                )

        return CheckpointStore(folder, save, load, suffix=".npz", announce=lambda text: None)

    def trained(path: Path) -> None:
        for epoch in (1, 2):
            state = make_state(
                {"model": np.full(50, float(epoch))},
                epoch=epoch,
                batch=0,
                step=epoch * 10,
                config={"mode": "correct"},
                about={},
            )
            store(path.parent).save(state, float(epoch))
        (path.parent / "only").mkdir()
        shutil.copyfile(path.parent / "last.npz", path.parent / "only/last.npz")
        with RunLog(path.parent, config={"a": 1}, announce=lambda text: None) as log:
            for step in range(1, 8):
                log.scalars(step, loss=1.0 / step)
        for events in path.parent.glob("events*"):
            events.unlink()

    def resumed(folder: Path):
        state = store(folder).begin("auto")
        with RunLog(folder, config={"a": 1}, resume_step=5, announce=lambda text: None) as log:
            log.scalars(6, loss=0.5)
        return state["step"] if state else None

    found.add(
        "resume",
        {"index.json": "json", "last.npz": "npz", "log.jsonl": "text", "config.json": "json"},
        resumed,
        {"index.json": trained},
    )
    found.add("resume without index", {"last.npz": "npz"}, lambda d: store(d).begin("auto"), found.root / "resume/only")


def _pictures(found: Targets) -> None:
    import cv2

    from common.images import read_image, reference, write_lmdb
    from common.video import VideoWriter, frames

    picture = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8), (5, 5), 2)
    deep = (picture.astype(np.uint16) << 8) + 7
    files = {
        "a.jpg": picture,
        "a.png": picture,
        "grey16.png": deep[..., 0],
        "a.bmp": picture,
        "a.tif": picture,
        "a.webp": picture,
        "a.pgm": picture[..., 0],
    }
    coded = {name: cv2.imencode(Path(name).suffix, array)[1].tobytes() for name, array in files.items()}

    def look(folder: Path, name: str):
        return [
            read_image(folder / name),
            read_image(folder / name, upright=True),
            read_image(folder / name, unchanged=True),
        ]

    for name, data in coded.items():
        found.add(f"picture {name}", {name: "bytes"}, lambda d, n=name: look(d, n), {name: data})

    def film(path: Path) -> None:
        with VideoWriter(path, 10) as out:
            for shift in range(8):
                out.write(np.roll(picture, shift, 1))

    def other_film(path: Path) -> None:
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (64, 48))
        for shift in range(8):
            writer.write(np.roll(picture, shift, 1))
        writer.release()

    for name, source in (("v.mp4", film), ("v.avi", other_film), ("v.webm", CASES / "video/vfr.webm")):
        found.add(f"video {name}", {name: "bytes"}, lambda d, n=name: sum(1 for _ in frames(d / n)), {name: source})
    items = [(f"0001/{k:06d}.jpg", coded["a.jpg"]) for k in range(1, 30)]

    def frames_of(folder: Path):
        names = [reference(folder / "db", f"0001/{k:06d}.jpg") for k in (1, 2, 29)]
        return [read_image(name) for name in names]

    found.add(
        "LMDB of pictures",
        {"db/data.mdb": "bytes"},
        frames_of,
        {"db/data.mdb": lambda path: (path.parent.rmdir(), write_lmdb(path.parent, items))},
    )


def _weights(found: Targets) -> None:
    from common.weights import caffe, fluid
    from common.weights.caffe import upgrade_net
    from common.weights.caffe_text import read_text
    from common.weights.pickles import read_npy, read_paddle, read_torch

    net = next(CAFFE.glob("solver_types/adam/*.caffemodel"))
    for name, source, kind, read in (
        ("caffemodel", net, "bytes", caffe.read_caffemodel),
        ("old caffemodel", next(CAFFE.glob("v1_legacy/*.caffemodel")), "bytes", lambda p: upgrade_net(caffe.read_net(p), str(p)).SerializeToString()),
        ("binaryproto", CAFFE / "sgd_inv/mean.binaryproto", "bytes", caffe.read_blob),
        ("solverstate", next(CAFFE.glob("solver_types/adam/*.solverstate")), "bytes", caffe.read_solverstate),
        ("prototxt", CAFFE / "sgd_inv/train_test.prototxt", "text", lambda p: read_text(p, "NetParameter").message.SerializeToString()),
        ("solver", CAFFE / "sgd_inv/solver.prototxt", "text", lambda p: read_text(p, "SolverParameter").message.SerializeToString()),
        ("old prototxt", next(CAFFE.glob("v1_legacy/*.prototxt")), "text",
         lambda p: upgrade_net(read_text(p, "NetParameter").message, str(p)).SerializeToString()),
        ("Fluid variable", FLUID / "per_param/conv2d_0.w_0", "bytes", fluid.read_variable),
        ("Fluid numbers", FLUID / "dtypes/v_i64", "bytes", fluid.read_variable),
    ):  # fmt: skip
        found.add(name, {source.name: kind}, lambda d, r=read, n=source.name: r(d / n), {source.name: source})
    names = list(np.load(FLUID / "expected_values.npz"))
    found.add(
        "Fluid folder", {"conv2d_0.w_0": "bytes", "batch_norm_0.w_1": "bytes"}, fluid.read_folder, FLUID / "per_param"
    )
    found.add(
        "Fluid file",
        {"__params__": "bytes"},
        lambda d: fluid.read_combined(d / "__params__", names),
        FLUID / "combined",
    )
    found.add(
        "torch file",
        {"w.pth": "bytes"},
        lambda d: read_torch(d / "w.pth"),
        {"w.pth": CASES / "weights/np_scalar_zip.pth.tar"},
        checked=True,
    )
    state = {
        "w": ("linear_0.w_0", np.arange(6, dtype=np.float32).reshape(2, 3)),
        "epoch": 3,
        "names": ["a", {"b": (1, 2.5, None)}],
    }
    found.add(
        "pdparams",
        {"w.pdparams": "bytes"},
        lambda d: read_paddle(d / "w.pdparams"),
        {"w.pdparams": pickle.dumps(state, 4)},
    )
    layers = {f"conv{k}": {"weights": np.ones((2, 2, 3), np.float32), "biases": np.zeros(3)} for k in (1, 2)}
    found.add(
        "npy of objects",
        {"w.npy": "bytes"},
        lambda d: read_npy(d / "w.npy"),
        {"w.npy": lambda p: np.save(p, np.array(layers, object), allow_pickle=True)},
    )
