"""The solver against complete runs of a real Caffe ($GOLDEN_DIR/deeppose_caffe_port/sgd_*, solver_types, lr_policies.json)."""

import json
import pathlib
import re
import shutil

import numpy as np
import pytest
import torch

from common.weights.caffe import read_blob, read_caffemodel, read_net, read_solverstate
from common.weights.caffe_text import parse_text
from deeppose_caffe_port import train as programme
from deeppose_caffe_port.config import Config
from deeppose_caffe_port.model import TEST, TRAIN, CaffeNet
from deeppose_caffe_port.solver import LearningRate
from deeppose_caffe_port.sources import LmdbSource
from tests import tolerance
from tests.fixtures import GOLDEN

torch.set_num_threads(1)  # the nets are tiny
pytestmark = pytest.mark.golden


def folder() -> pathlib.Path:
    return GOLDEN / "deeppose_caffe_port"


RUNS = sorted(str(p.parent.relative_to(folder())) for p in folder().rglob("solver.prototxt"))
LMDB_RUNS = [r for r in RUNS if (folder() / r / "mean.binaryproto").exists()]
POLICIES = sorted(json.loads((folder() / "lr_policies.json").read_text())["policies"]) if folder().is_dir() else []


@pytest.fixture
def golden(golden_dir) -> pathlib.Path:
    return golden_dir / "deeppose_caffe_port"


def copy_of(run: pathlib.Path, to: pathlib.Path, snapshots: bool = False) -> pathlib.Path:
    skip = ("train_log.txt",) if snapshots else ("train_log.txt", "snap_iter_*")
    shutil.copytree(run, to, ignore=shutil.ignore_patterns(*skip), copy_function=shutil.copyfile)
    for path in (to, *to.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return to


def train(home: pathlib.Path, resume: str | None = None, **settings) -> list[str]:
    """The log lines of a training by the programme's own loop."""
    snapshot = str(home / resume) if resume else None
    config = Config(solver=str(home / "solver.prototxt"), folder=str(home), snapshot=snapshot, device="cpu", **settings)
    programme.train(config)
    return [line.split("] ", 1)[1] for line in next(home.rglob("train.log")).read_text().splitlines()]


def allowed(net: CaffeNet, iterations: int, size: float) -> float:
    """What float32 explains in a weight after so many iterations: forth, back and updated through every layer; `size`
    is that of the layer's weights or histories (a bias before BatchNorm is zero but for rounding)."""
    longest = max(blob.tensor[0].numel() if blob.tensor.ndim > 1 else 1 for blob in net.blobs())
    return tolerance.rounding(size, longest, 3 * len(net.order) * iterations)


def same_snapshots(found: pathlib.Path, expected: pathlib.Path, pattern: str = "snap_iter_*") -> int:
    files = sorted(expected.glob(pattern + ".caffemodel"))
    name = re.search(r'net: "(.*)"', (expected / "solver.prototxt").read_text())[1]
    net = CaffeNet.from_file(expected / name, TRAIN, found)
    for file in files:
        ours, theirs = read_caffemodel(found / file.name), read_caffemodel(file)
        mine = read_solverstate((found / file.name).with_suffix(".solverstate"))
        caffe = read_solverstate(file.with_suffix(".solverstate"))
        assert ours.keys() == theirs.keys() and mine[:3] == caffe[:3] and len(mine[3]) == len(caffe[3])
        sizes = {layer: max(np.abs(b).max() for b in blobs) for layer, blobs in theirs.items()}
        for layer in theirs:
            for i, (a, b) in enumerate(zip(ours[layer], theirs[layer], strict=True)):
                assert a.shape == b.shape
                tolerance.close(a, b, allowed(net, mine[0], sizes[layer]), f"{file.name} {layer} {i}")
        owners = [blob.layer for blob in net.blobs()]
        for i, (a, b) in enumerate(zip(mine[3], caffe[3], strict=True)):
            assert a.shape == b.shape
            start = i // len(owners) * len(owners)  # AdaDelta and Adam have two rounds
            alike = [h for h, owner in zip(caffe[3][start:], owners) if owner == owners[i - start]]
            size = max(np.abs(h).max() for h in alike)
            tolerance.close(a, b, allowed(net, mine[0], size), f"{file.name} history {i}")
    return len(files)


def numbers(lines: list[str]) -> list[tuple[str, list[float]]]:
    """Lines without their figures, and the figures; speeds and what Caffe's reading threads say left out."""
    found = []
    for line in lines:
        line = re.sub(r" \([^*)]*iters\)", "", line)
        if "prefetching" in line:
            continue
        figures = re.findall(r"(?<![#\w])-?\d+\.?\d*(?:e[-+]?\d+)?", line)
        found.append((re.sub(r"(?<![#\w])-?\d+\.?\d*(?:e[-+]?\d+)?", "N", line), [float(f) for f in figures]))
    return found


@pytest.mark.parametrize("run", RUNS)
def test_run(golden, run, tmp_path):
    """Weights, histories, iteration and step of every snapshot, and every line of the log."""
    home = copy_of(golden / run, tmp_path / "run")
    lines = train(home)
    assert same_snapshots(home, golden / run)
    expected = (golden / run / "train_log.txt").read_text().splitlines()
    theirs = numbers(expected)
    kinds = {text for text, _ in theirs}  # some logs were stored without the lines of outputs and snapshots
    ours = [line for line in numbers(lines) if line[0] in kinds]
    assert [text for text, _ in ours] == [text for text, _ in theirs]
    for (text, a), (_, b) in zip(ours, theirs):
        # both print six digits
        tolerance.close(a, np.array(b), 2 * tolerance.printed(6) * np.abs(b), text)


@pytest.mark.parametrize("run", [r for r in LMDB_RUNS if "dropout" not in r])
def test_resume_from_caffes_own_state(golden, run, tmp_path):
    """Dropout runs cannot: Caffe does not store where its random numbers were."""
    home = copy_of(golden / run, tmp_path / "run", snapshots=True)
    states = sorted(home.glob("*.solverstate"), key=lambda p: int(re.findall(r"\d+", p.stem)[-1]))
    for later in states[1:]:
        later.unlink()
        later.with_suffix(".caffemodel").unlink()
    train(home, states[0].name)
    assert same_snapshots(home, golden / run) == len(states)


@pytest.mark.parametrize("run", LMDB_RUNS)
def test_predictions_and_mean(golden, run):
    home = golden / run
    stored = np.load(home / "predict.npz")
    np.testing.assert_array_equal(read_blob(home / "mean.binaryproto").reshape(stored["mean"].shape), stored["mean"])
    last = max(home.glob("*.caffemodel"), key=lambda p: int((re.findall(r"\d+", p.stem) or [0])[-1]))
    net = CaffeNet.from_file(home / "deploy.prototxt", TEST)
    net.load(last)
    source = LmdbSource(home / "test_lmdb", len(stored["label"]), int(np.prod(stored["label"].shape[1:])))
    pixels, labels = source.next_batch()
    np.testing.assert_array_equal(labels.numpy().reshape(stored["label"].shape), stored["label"])
    x = (pixels.float() - torch.from_numpy(stored["mean"])) / 256
    found = net({"data": x})[0][net.outputs[0]]
    expected = stored["pred"].reshape(found.shape)
    tolerance.close(found.detach(), expected, allowed(net, 1, np.abs(expected).max()), "pred")


@pytest.mark.parametrize("policy", POLICIES)
def test_learning_rates(golden, policy):
    stored = json.loads((golden / "lr_policies.json").read_text())
    text = f"{stored['policies'][policy]['solver']} base_lr: {stored['base_lr']} max_iter: {stored['max_iter']}"
    solver = parse_text(text, "SolverParameter").message
    rate = LearningRate(solver)
    found = [rate.at(i) for i in range(len(stored["policies"][policy]["lr"]))]
    expected = np.array(stored["policies"][policy]["lr"])
    tolerance.close(found, expected, tolerance.printed(6) * expected, policy)


@pytest.mark.exact
@pytest.mark.parametrize("run", LMDB_RUNS[:1])
def test_snapshot_holds_what_caffes_holds(golden, run, tmp_path):
    """Every field of every layer but the weights, which test_run compares."""
    home = copy_of(golden / run, tmp_path / "run")
    train(home)
    file = sorted((golden / run).glob("snap_iter_*.caffemodel"))[-1]
    ours, theirs = read_net(home / file.name), read_net(file)
    automatic = [layer.name for layer in theirs.layer if layer.type == "Split"]
    assert ours.name == theirs.name
    bare = [[layer for layer in net.layer if layer.name not in automatic] for net in (ours, theirs)]
    for a, b in zip(*bare, strict=True):
        a.ClearField("blobs")
        b.ClearField("blobs")
        assert a == b
