"""The training loop: resuming, signals, seeds, several processes, what a solver file may not say."""

import json
import os
import pathlib
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch

from common.errors import DataError
from common.images import write_lmdb
from common.runs.process import Process, Stopped, place
from common.skeletons import LSP14, card
from common.weights.caffe import read_caffemodel, read_solverstate, write_blob
from deeppose_caffe_port import solver as rules
from deeppose_caffe_port import train
from deeppose_caffe_port.config import Config
from deeppose_caffe_port.data import datum
from deeppose_caffe_port.solver import Solver
from deeppose_caffe_port.weight_files import first_weights
from tests import tolerance

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
        (f"{i:08d}", datum(random.integers(0, 255, (8, 8, 3)).astype(np.uint8), random.normal(size=4)))
        for i in range(7)
    )
    write_lmdb(folder / "db", records)
    write_blob(folder / "mean.binaryproto", np.full((3, 8, 8), 127, np.float32))
    (folder / "net.prototxt").write_text(NET.replace("BATCH", str(batch)))
    (folder / "solver.prototxt").write_text(SOLVER)
    return folder


def settings(folder: pathlib.Path, **more) -> Config:
    return Config(solver=str(folder / "solver.prototxt"), folder=str(folder), device="cpu", **more)


def solver_in(folder: pathlib.Path, **more) -> Solver:
    config, path = settings(folder, **more), folder / "solver.prototxt"
    return Solver(path, folder, config, Process(), torch.device("cpu"), lambda line: None)


def steps(solver: Solver, count: int) -> list[float]:
    """So many iterations; their losses."""
    losses = [solver.iterate([solver.feeds() for _ in range(solver.param.iter_size)])["loss"] for _ in range(count)]
    solver.close()
    return [float(loss) for loss in losses]


def log_of(folder: pathlib.Path) -> list[str]:
    return [line.split("] ", 1)[1] for line in next(folder.rglob("train.log")).read_text().splitlines()]


def same_files(one: pathlib.Path, other: pathlib.Path) -> None:
    for name in ("snap_iter_8.caffemodel", "snap_iter_8.solverstate"):
        assert (one / "out" / name).read_bytes() == (other / "out" / name).read_bytes(), name


@pytest.mark.parametrize("ranges", [{}, {"rotate": 30.0, "zoom": 1.2}], ids=["plain", "augmented"])
def test_interrupted_runs_continue_bit_for_bit(tmp_path, ranges):
    """Dropout masks, angles, the smoothed loss and the reading positions of train and test net too, over two interruptions."""
    whole, parts = make(tmp_path / "a"), make(tmp_path / "b")
    train.train(settings(whole, **ranges))
    for last in (1, 5, 8):
        train.train(settings(parts, **ranges, max_steps=last, resume="auto"))
    same_files(whole, parts)
    for kind in ("Test net output", "Iteration"):
        lines = [[e for e in log_of(f) if kind in e and "loss" in e] for f in (whole, parts)]
        figures = [{e.split("iters), ")[-1] for e in found} for found in lines]
        assert figures[0] <= figures[1], kind
    read = [[json.loads(line) for line in (f / "out/log/log.jsonl").read_text().splitlines()] for f in (whole, parts)]
    tests = [[(e["step"], e["valid test_loss"]) for e in entries if "valid test_loss" in e] for entries in read]
    assert tests[0] == tests[1] and [step for step, _ in tests[0]] == [3, 6]


def test_a_state_of_another_net_or_mode_is_refused(project, tmp_path):
    train.train(settings(project, max_steps=2))
    with pytest.raises(DataError, match="mode"):
        train.train(settings(project, resume="auto", mode="compat"))
    changed = NET.replace("BATCH", "2").replace("num_output: 4 kernel", "num_output: 6 kernel")
    (project / "net.prototxt").write_text(changed)
    with pytest.raises(DataError, match="fingerprint"):
        train.train(settings(project, resume="auto"))


def test_command_line_snapshots_and_resumes(project, monkeypatch, capsys):
    """Working directory as in Caffe; --resume, -snapshot and -weights."""
    monkeypatch.chdir(project)
    assert train.main(["-solver", "solver.prototxt", "-gpu", "", "--max_steps=4"]) == 0
    assert train.main(["--solver=solver.prototxt", "--resume"]) == 0
    assert (project / "out/snap_iter_8.caffemodel").is_file()
    assert "resuming" in capsys.readouterr().out
    assert train.main(["-solver", "solver.prototxt", "-snapshot", "out/snap_iter_4.solverstate"]) == 0
    assert read_solverstate("out/snap_iter_8.solverstate")[0] == 8
    assert train.main(["-solver", "solver.prototxt", "-weights", "out/snap_iter_8.caffemodel"]) == 0
    assert "Finetuning from out/snap_iter_8.caffemodel" in log_of(project)
    for words in (["-snapshot", "a", "-weights", "b"], ["-snapshot", "a", "--resume"]):
        assert train.main(["-solver", "solver.prototxt", *words]) == 2


def test_caffes_lines_of_a_multistep_training(project):
    """Each step down between the loss and the rate of its iteration; the endings twice, as Caffe's solver and tool say them."""
    text = SOLVER.replace('lr_policy: "inv"', 'lr_policy: "multistep" stepvalue: 2 stepvalue: 2 stepvalue: 5')
    (project / "solver.prototxt").write_text(text)
    train.train(settings(project))
    lines = log_of(project)
    assert lines[:3] == ["Starting Optimization", "Solving tiny", "Learning Rate Policy: multistep"]
    said = [line for line in lines if "MultiStep" in line]
    assert said == [f"MultiStep Status: Iteration {i}, step = {n}" for i, n in ((2, 1), (3, 2), (5, 3))]
    place = lines.index(said[0])
    assert lines[place - 1].startswith("    Train net output") and lines[place + 1] == "Iteration 2, lr = 0.001"
    assert lines[-2:] == ["Optimization Done."] * 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals(project, monkeypatch, number):
    """Sent in iteration 2: Caffe's snapshot beside our state. The stopped run goes on to the same end."""
    real = Solver.iterate

    def iterate(self, batch):
        if self.position.step == 1:
            signal.raise_signal(number)
        return real(self, batch)

    monkeypatch.setattr(Solver, "iterate", iterate)
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(Stopped):
        train.train(settings(project))
    assert (project / "out/log/last.pt").is_file() and (project / "out/snap_iter_2.solverstate").is_file()
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == before
    assert log_of(project)[-2:] == ["Optimization stopped early.", "Optimization Done."]
    monkeypatch.undo()
    train.train(settings(project, resume="auto"))
    train.train(settings(make(project / "whole")))
    same_files(project, project / "whole")


def test_ctrl_c_ends_the_programme_with_130(project):
    (project / "solver.prototxt").write_text(SOLVER.replace("max_iter: 8", "max_iter: 1000000"))
    command = [sys.executable, str(ROOT / "deeppose_caffe_port/train.py"), "-solver", "solver.prototxt", "--device=cpu"]
    run = subprocess.Popen(command, cwd=project, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    while "Iteration 5 " not in run.stderr.readline():
        assert run.poll() is None
    run.send_signal(signal.SIGINT)
    _, text = run.communicate(timeout=60)
    assert run.returncode == 130 and "Optimization stopped early." in text, text[-2000:]
    assert (project / "out/log/last.pt").is_file()


def test_seeds_decide_mirror_and_angles_and_differ_between_processes(project):
    net = (project / "net.prototxt").read_text().replace("scale: 0.01", "scale: 0.01 mirror: true")
    (project / "net.prototxt").write_text(
        net.replace('layer { name: "drop" type: "Dropout" bottom: "conv" top: "conv" }', "")
    )
    found = [steps(solver_in(project, seed=seed, rotate=20.0), 3) for seed in (3, 3, 4)]
    assert found[0] == found[1] != found[2]
    drawn = []
    for rank in (0, 1):
        solver = solver_in(project)
        solver.process.rank = rank
        solver.seed()
        drawn.append(torch.rand(4).tolist())
    assert drawn[0] != drawn[1]


@pytest.mark.parametrize(
    "old, new, says",
    [
        ('lr_policy: "inv"', 'lr_policy: "cosine"', "lr_policy 'cosine'"),
        ("gamma: 0.1", "", "needs gamma"),
        ("display: 1", "snapshot_diff: true", "snapshot_diff"),
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
    train.train(settings(project))
    (project / "solver.prototxt").write_text(SOLVER + 'type: "Adam" momentum2: 0.99')
    with pytest.raises(DataError, match="history has 9 blobs, this Adam solver has 18"):
        solver_in(project).restore(project / "out/snap_iter_8.solverstate")


def test_missing_model_of_a_state(project):
    train.train(settings(project))
    for file in (project / "out").glob("*.caffemodel"):
        file.unlink()
    with pytest.raises(DataError, match="snap_iter_8.caffemodel is neither in"):
        solver_in(project).restore(project / "out/snap_iter_8.solverstate")


def test_divergence_stops_without_a_snapshot(project, monkeypatch, capsys):
    monkeypatch.chdir(project)
    assert train.main(["-solver", "solver.prototxt", "--lr=1e30"]) == 1
    assert "diverged" in capsys.readouterr().err
    assert not list((project / "out").glob("*.caffemodel"))


def test_warm_up_scales_the_first_rates(project):
    """The policy counts on meanwhile, so that both meet when it is over."""
    rates = []
    for warmup in (0, 4):
        solver = solver_in(project, warmup=warmup)
        rates.append([solver.iterate([solver.feeds()])["lr"] for _ in range(6)])
        solver.close()
    assert rates[1] == pytest.approx([r * min(1, (i + 1) / 4) for i, r in enumerate(rates[0])], rel=1e-15)
    assert rates[0][0] == 4 * rates[1][0] > 0


def test_bf16_follows_float32(project):
    """Weights, sums and loss stay float32; the products have eight bits, whose errors a sum evens out."""
    low, full = (steps(solver_in(project, amp=amp), 3) for amp in ("bf16", "off"))
    tolerance.close(low, np.array(full), tolerance.rounding(max(full), dtype="bfloat16"))
    assert low != full
    solver = solver_in(project, amp="bf16")
    steps(solver, 1)
    assert all(t.dtype == torch.float32 for t in (*(b.tensor for b in solver.updater.blobs), *solver.updater.history))


def test_bf16_that_a_gpu_only_imitates_is_refused(project, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    with pytest.raises(DataError, match="bf16"):
        place(torch, solver_in(project).net, torch.device("cuda"), "bf16")


@pytest.mark.parametrize("kind", rules.TYPES)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_updates_in_chunks_are_the_same(project, monkeypatch, kind, layout):
    """Large weights are updated in pieces that fit the cache."""
    (project / "solver.prototxt").write_text(
        SOLVER + f'type: "{kind}"' + (" momentum2: 0.99 delta: 1e-6" if "Ada" in kind else "")
    )
    found = []
    for chunk in (1 << 20, 7):
        monkeypatch.setattr(rules, "CHUNK", chunk)
        solver = solver_in(project)
        solver.net.to(memory_format=layout)
        solver.updater = rules.Updater(solver.param, list(solver.net.blobs()))
        steps(solver, 3)
        found.append([b.tensor.detach().clone() for b in solver.updater.blobs])
    assert all(torch.equal(a, b) for a, b in zip(*found))


@pytest.mark.slow
def test_two_processes_train_as_one_with_the_doubled_batch_and_one_goes_on(tmp_path):
    """torchrun with gloo: same data order, batch statistics and dropout masks over both, same weights; then resumed with
    another number of processes."""
    make(tmp_path / "one", batch=4), make(tmp_path / "two", batch=2)
    train.train(settings(tmp_path / "one"))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2",
               str(ROOT / "tests/process_end.py"), "deeppose_caffe_port.train",
               "--solver=solver.prototxt", "--device=cpu", "--mode=correct", "--max_steps=4"]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    answer = subprocess.run(command, cwd=tmp_path / "two", env=environment, capture_output=True, text=True, timeout=300)
    assert answer.returncode == 0, answer.stderr[-3000:]
    (tmp_path / "two/net.prototxt").write_text(NET.replace("BATCH", "4"))
    train.train(settings(tmp_path / "two", resume="auto"))
    one, two = (read_caffemodel(tmp_path / name / "out/snap_iter_8.caffemodel") for name in ("one", "two"))
    for name in one:
        for a, b in zip(one[name], two[name], strict=True):
            # the sums over the batch are formed in another order
            size = max(np.abs(blob).max() for blob in one[name])  # a bias before BatchNorm is zero but for rounding
            tolerance.close(b, a, tolerance.rounding(size, 144, 8 * 2 * 8), name)


def test_outputs_of_another_skeleton_are_taken_by_joint_name(project, tmp_path):
    """Stage 1's `predict`: rows of shared joints come from the file, those of a new joint keep their first values."""
    from common.skeletons import Skeleton
    from common.weights.caffe import write_caffemodel

    solver = solver_in(project)
    target = Skeleton("two", ("head", "thumb"))
    other = tmp_path / "other/models/deeppose/snapshot"
    other.mkdir(parents=True)
    (tmp_path / "other/project.json").write_text(
        json.dumps({"skeleton": card(Skeleton("three", ("tail", "head", "paw")))})
    )
    weights = {m.param.name: (m.param.type, [b.detach().numpy() for b in m.blobs]) for m in solver.net.order if m.blobs}
    wide = [np.arange(6 * 144, dtype=np.float32).reshape(6, 144), np.arange(6, dtype=np.float32)]
    write_caffemodel(other / "a.caffemodel", {**weights, "predict": ("InnerProduct", wide)})
    before = [b.detach().clone().numpy() for b in solver.net.layers["predict"].blobs]
    assert "head" in first_weights(solver.net, other / "a.caffemodel", target)
    after = [b.detach().numpy() for b in solver.net.layers["predict"].blobs]
    for found, own, given in zip(after, before, wide):
        np.testing.assert_array_equal(found[:2], given[2:4])
        np.testing.assert_array_equal(found[2:], own[2:])
    with pytest.raises(DataError, match="expected"):
        first_weights(solver.net, other / "a.caffemodel", None)
    assert len(LSP14) == 14
