"""Resuming, several processes, what a solver file may not say."""

import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch

from common.errors import DataError
from common.weights.caffe import read_caffemodel, read_solverstate, write_blob
from deeppose_caffe_port import engine, train, updates
from deeppose_caffe_port.augment import Augment
from deeppose_caffe_port.checkpoint import restore, state_of
from deeppose_caffe_port.lmdb_tools import datum, write_lmdb
from deeppose_caffe_port.solver import Options, Solver

torch.set_num_threads(1)
ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
NET = """name: "tiny"
layer { name: "data" type: "Data" top: "data" top: "label" include { phase: TRAIN } transform_param { mean_file: "mean.binaryproto" scale: 0.01 }
  data_param { source: "db" batch_size: BATCH backend: LMDB label_num: 4 } }
layer { name: "data" type: "Data" top: "data" top: "label" include { phase: TEST } transform_param { mean_file: "mean.binaryproto" scale: 0.01 }
  data_param { source: "db" batch_size: 1 backend: LMDB label_num: 4 } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv" convolution_param { num_output: 4 kernel_size: 3 weight_filler { type: "xavier" } } }
layer { name: "bn" type: "BatchNorm" bottom: "conv" top: "conv" }
layer { name: "scale" type: "Scale" bottom: "conv" top: "conv" scale_param { bias_term: true } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "drop" type: "Dropout" bottom: "conv" top: "conv" }
layer { name: "predict" type: "InnerProduct" bottom: "conv" top: "predict" inner_product_param { num_output: 4 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "EuclideanLoss" bottom: "predict" bottom: "label" top: "loss" }
"""
SOLVER = """net: "net.prototxt"
base_lr: 0.01 lr_policy: "inv" gamma: 0.1 power: 0.75 momentum: 0.9 weight_decay: 0.001 max_iter: 8 snapshot: 4 snapshot_prefix: "out/snap"
test_iter: 2 test_interval: 3 random_seed: 7 average_loss: 3 display: 1
"""


@pytest.fixture
def project(tmp_path):
    return make(tmp_path)


def make(folder: pathlib.Path, batch: int = 2) -> pathlib.Path:
    random = np.random.default_rng(0)
    records = (
        (f"{i:08d}".encode(), datum(random.integers(0, 255, (8, 8, 3)).astype(np.uint8), random.normal(size=4)))
        for i in range(7)
    )
    write_lmdb(records, folder / "db", 1 << 20)
    write_blob(folder / "mean.binaryproto", np.full((3, 8, 8), 127, np.float32))
    (folder / "net.prototxt").write_text(NET.replace("BATCH", str(batch)))
    (folder / "solver.prototxt").write_text(SOLVER)
    return folder


def solver_in(folder: pathlib.Path, lines: list | None = None, **options) -> Solver:
    solver = Solver(
        folder / "solver.prototxt", folder, Options(**options), announce=(lines if lines is not None else []).append
    )
    solver.check_prefix()
    return solver


@pytest.mark.parametrize("augment", [Augment(), Augment(30, 1.2)], ids=["plain", "augmented"])
def test_our_checkpoint_continues_bit_for_bit(project, augment):
    """Dropout masks, angles, the reading position and the smoothed loss too, which Caffe's own state lacks."""
    torch.manual_seed(1)
    whole, lines = solver_in(project, first := [], augment=augment), []
    engine.train_steps(whole)
    torch.manual_seed(1)
    broken = solver_in(project, augment=augment)
    for _ in range(5):
        broken.iterate()
    state = state_of(broken, "correct")
    broken.close()
    torch.save(state, project / "state.pt")
    torch.manual_seed(2)
    resumed = solver_in(project, lines, augment=augment)
    restore(resumed, torch.load(project / "state.pt", weights_only=True), "state.pt", "correct")
    engine.train_steps(resumed)
    assert all(torch.equal(a.tensor, b.tensor) for a, b in zip(whole.updater.blobs, resumed.updater.blobs))
    assert all(torch.equal(a, b) for a, b in zip(whole.updater.history, resumed.updater.history))
    losses = [line.split("loss = ")[1] for line in first if line.startswith("Iteration") and "loss" in line]
    assert [line.split("loss = ")[1] for line in lines if line.startswith("Iteration") and "loss" in line] == losses[5:]


def test_a_state_of_another_net_or_mode_is_refused(project):
    solver = solver_in(project)
    solver.iterate()
    state = state_of(solver, "correct")
    solver.close()
    with pytest.raises(DataError, match="mode"):
        restore(solver_in(project), state, "last.pt", "compat")
    (project / "net.prototxt").write_text(
        NET.replace("BATCH", "2").replace("num_output: 4 kernel", "num_output: 6 kernel")
    )
    with pytest.raises(DataError, match="fingerprint"):
        restore(solver_in(project), state, "last.pt", "correct")


def test_command_line_snapshots_and_resumes(project, monkeypatch, capsys):
    """Working directory as in Caffe; an interrupted run plus --resume=auto ends where an uninterrupted one does."""
    monkeypatch.chdir(project)
    assert train.main(["-solver", "solver.prototxt", "-gpu", ""]) == 0
    expected = read_caffemodel("out/snap_iter_8.caffemodel")
    for file in pathlib.Path("out").glob("snap_iter_*"):
        file.unlink()
    pathlib.Path("solver.prototxt").write_text(SOLVER.replace("max_iter: 8", "max_iter: 4"))
    assert train.main(["--solver=solver.prototxt"]) == 0
    pathlib.Path("solver.prototxt").write_text(SOLVER)
    assert train.main(["--solver=solver.prototxt", "--resume=auto"]) == 0
    found = read_caffemodel("out/snap_iter_8.caffemodel")
    assert found.keys() == expected.keys()
    assert all(np.array_equal(a, b) for name in expected for a, b in zip(found[name], expected[name], strict=True))
    assert pathlib.Path("out/log/train.log").read_text().count("Snapshotting solver state") >= 2
    assert "Iteration 4" in pathlib.Path("out/log/train.log").read_text()
    assert train.main(["-solver", "solver.prototxt", "-snapshot", "out/snap_iter_4.solverstate"]) == 0
    assert read_solverstate("out/snap_iter_8.solverstate")[0] == 8
    assert train.main(["-solver", "solver.prototxt", "-weights", "out/snap_iter_8.caffemodel"]) == 0
    capsys.readouterr()


@pytest.mark.parametrize("wanted", ["stop", "snapshot"])
def test_signals(project, wanted):
    solver, signals = solver_in(project, lines := []), engine.Signals()
    done = engine.train_steps(
        solver, signals=signals, on_step=lambda s: signals.wanted.add(wanted) if s.iteration == 2 else None
    )
    assert (project / "out/snap_iter_2.solverstate").is_file()
    assert done == (wanted == "snapshot")
    assert ("Optimization stopped early." in lines) == (wanted == "stop")


@pytest.mark.parametrize(
    "old, new, says",
    [
        ('lr_policy: "inv"', 'lr_policy: "cosine"', "lr_policy 'cosine'"),
        ("gamma: 0.1", "", "needs gamma"),
        ('net: "net.prototxt"', "", "exactly one of"),
        ("max_iter: 8", "", "max_iter is missing"),
        ("display: 1", "snapshot_format: HDF5", "HDF5"),
        ("display: 1", "iter_size: 0", "iter_size"),
        ("test_interval: 3", "", "belong together"),
        ("display: 1", 'type: "LBFGS"', "LBFGS"),
        ("display: 1", 'regularization_type: "L3"', "L3"),
        ("net.prototxt", "none.prototxt", "none.prototxt does not exist"),
        ("base_lr: 0.01", "base_lr: fast", "solver.prototxt:2:10"),
    ],
)
def test_solver_files_that_cannot_be(project, old, new, says):
    (project / "solver.prototxt").write_text(SOLVER.replace(old, new))
    with pytest.raises(DataError) as error:
        solver_in(project)
    assert says in str(error.value)


def test_history_of_another_solver_is_refused(project):
    engine.train_steps(solver_in(project))
    (project / "solver.prototxt").write_text(SOLVER + 'type: "Adam" momentum2: 0.99')
    with pytest.raises(DataError, match="history has 9 blobs, this Adam solver has 18"):
        solver_in(project).restore(project / "out/snap_iter_8.solverstate")


def test_missing_model_of_a_state(project):
    engine.train_steps(solver_in(project))
    for file in (project / "out").glob("*.caffemodel"):
        file.unlink()
    with pytest.raises(DataError, match="snap_iter_8.caffemodel is neither in"):
        solver_in(project).restore(project / "out/snap_iter_8.solverstate")


def test_divergence_stops_without_a_snapshot(project):
    (project / "solver.prototxt").write_text(SOLVER.replace("base_lr: 0.01", "base_lr: 1e30"))
    with pytest.raises(FloatingPointError, match="iteration"):
        engine.train_steps(solver_in(project))
    assert not list((project / "out").glob("*"))


def _three_losses(project, **options) -> list[float]:
    solver = solver_in(project, **options)
    for _ in range(3):
        solver.iterate()
    solver.close()
    return [float(value) for value in solver.losses]


def test_bf16_follows_float32(project):
    """Weights, sums and loss stay float32: of a few products of eight bits each, 5 % is a wide margin."""
    low, full = (_three_losses(project, amp=amp) for amp in ("bf16", "off"))
    assert low == pytest.approx(full, rel=0.05) and low != full
    solver = solver_in(project, amp="bf16")
    solver.iterate()
    solver.close()
    assert all(blob.tensor.dtype == torch.float32 for blob in solver.updater.blobs)
    assert all(history.dtype == torch.float32 for history in solver.updater.history)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler for the CPU")
def test_compiled_training_follows_the_plain_one(project):
    """The same operations in another order; without dropout, whose masks come from another generator there."""
    text = (project / "net.prototxt").read_text()
    (project / "net.prototxt").write_text(
        "".join(line for line in text.splitlines(keepends=True) if '"Dropout"' not in line)
    )
    assert _three_losses(project, compile=True) == pytest.approx(_three_losses(project), rel=1e-4)


@pytest.mark.parametrize("kind", updates.TYPES)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_updates_in_chunks_are_the_same(project, monkeypatch, kind, layout):
    """Large weights are updated in pieces that fit the cache."""
    (project / "solver.prototxt").write_text(
        SOLVER + f'type: "{kind}"' + (" momentum2: 0.99 delta: 1e-6" if "Ada" in kind else "")
    )
    found = []
    for chunk in (1 << 20, 7):
        monkeypatch.setattr(updates, "_CHUNK", chunk)
        solver = solver_in(project)
        solver.net.to(memory_format=layout)
        solver.updater = updates.Updater(solver.param, list(solver.net.blobs()))
        for _ in range(3):
            solver.iterate()
        solver.close()
        found.append([b.tensor.detach().clone() for b in solver.updater.blobs])
    assert all(torch.equal(a, b) for a, b in zip(*found))


@pytest.mark.slow
def test_two_processes_train_as_one_with_the_doubled_batch(tmp_path):
    """torchrun with gloo: same data order, batch statistics and dropout masks over both, same weights."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    make(tmp_path / "one", batch=4), make(tmp_path / "two", batch=2)
    engine.train_steps(solver_in(tmp_path / "one"))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(ROOT / "deeppose_caffe_port/train.py"),
               "--solver=solver.prototxt", "--device=cpu"]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    answer = subprocess.run(command, cwd=tmp_path / "two", env=environment, capture_output=True, text=True, timeout=300)
    assert answer.returncode == 0, answer.stderr[-3000:]
    one, two = (read_caffemodel(tmp_path / name / "out/snap_iter_8.caffemodel") for name in ("one", "two"))
    for name in one:
        for a, b in zip(one[name], two[name], strict=True):
            # the sums over the batch are formed in another order
            np.testing.assert_allclose(b, a, rtol=0, atol=1e-4 * max(np.abs(a).max(), 1e-2), err_msg=name)
