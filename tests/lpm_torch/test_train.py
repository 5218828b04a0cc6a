"""train.py as a user runs it: resume after kills, overfit, several processes, refusals, settings."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from common.datasets import load
from common.predictions import load_predictions
from common.runs.process import Process, TorchProcess
from common.runs.runlog import read_log
from common.skeletons import LPM14, LSP14
from lpm_torch import Estimator, engine, predict, train, val
from lpm_torch.model import build_network
from tests.lpm_torch import tiny
from tests.reference.lpm_torch import build_model
from tests.tolerance import close, rounding

ROOT = Path(__file__).resolve().parents[2]
# dropout on, so that PyTorch's random state matters
LPM = (
    *tiny.TINY,
    "--model=lpm",
    "--dataset=LSP",
    "--limit=8",
    "--epochs=3",
    "--ema=0.9",
    "--loss_norm=mean",
    "--init=kaiming",
)
CPM = (*tiny.TINY, "--model=cpm", "--dataset=LSP", "--limit=8", "--epochs=1", "--init=kaiming")


def options(folder: Path, *arguments: str) -> list[str]:
    """The command line of a run in `folder`."""
    return [*arguments, f"--data_root={tiny.lsp()}", f"--out={folder}"]


def last(folder: Path) -> dict:
    return torch.load(folder / "last.pth.tar", weights_only=True)


def same(a, b) -> bool:
    """Equality of nested states, tensors bit for bit."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def assert_same_run(a: dict, b: dict) -> None:
    for field in ("epoch", "batch", "step", "state_dict", "optimizer", "ema"):
        assert same(a[field], b[field]), field


def kill_when(command: list[str], condition) -> bool:
    """Run until `condition()`, then SIGKILL; whether the run was still going."""
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "lpm_torch/train.py"), *command],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    while process.poll() is None and not condition():
        time.sleep(0.001)
    killed = process.poll() is None
    process.send_signal(signal.SIGKILL)
    error = process.communicate()[1]
    assert killed or process.returncode == 0, error
    return killed


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> dict:
    folder = tmp_path_factory.mktemp("uninterrupted")
    assert train.main(options(folder, *LPM, "--workers=1")) == 0
    return last(folder)


@pytest.mark.slow
def test_killed_run_ends_as_an_uninterrupted_one(tmp_path, uninterrupted):
    """`--save_minutes=0` saves after every step; once the kill comes while a checkpoint is being written. Bit for
    bit."""
    command = options(tmp_path, *LPM, "--workers=1", "--save_minutes=0", "--resume")
    index = tmp_path / "index.json"

    def saves() -> int:
        return len(json.loads(index.read_text())["files"]) if index.exists() else 0

    def writing() -> bool:
        return saves() >= 6 and any(tmp_path.glob(".tmp*.last.pth.tar"))

    assert kill_when(command, lambda: saves() >= 3), "the run ended before it could be killed"
    assert 2 <= last(tmp_path)["step"] < uninterrupted["step"]
    kill_when(command, writing)
    assert train.main(command) == 0
    assert_same_run(last(tmp_path), uninterrupted)


def test_nan_loss_stops_and_keeps_the_last_good_state(tmp_path, monkeypatch, capsys, uninterrupted):
    command = options(tmp_path, *LPM, "--save_minutes=0", "--resume")
    real, calls = engine.training_loss, []

    def breaks_at_the_sixth(*arguments):
        calls.append(1)
        return real(*arguments) * (float("nan") if len(calls) == 6 else 1.0)

    monkeypatch.setattr(engine, "training_loss", breaks_at_the_sixth)
    assert train.main(command) == 1
    assert "last good state is kept" in capsys.readouterr().err
    state = last(tmp_path)
    assert state["step"] == 5 and all(torch.isfinite(v).all() for v in state["state_dict"].values())
    monkeypatch.undo()
    assert train.main(command) == 0
    assert_same_run(last(tmp_path), uninterrupted)


def test_weights_that_are_not_finite_are_not_saved(tmp_path, capsys, monkeypatch):
    """An update breaks the weights while the loss is still finite: no file may hold them."""
    real = engine.Trainer._move

    def breaks(trainer, lr):
        real(trainer, lr)
        trainer.model.conv1_stage1.bias.data.fill_(float("inf"))

    monkeypatch.setattr(engine.Trainer, "_move", breaks)
    assert train.main(options(tmp_path, *CPM, "--save_minutes=0")) == 1
    assert "is not finite at step 1" in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.pth.tar"))


def test_max_epochs_reached(tmp_path, capsys):
    command = options(tmp_path, *CPM, "--resume")
    assert train.main(command) == 0
    before = last(tmp_path)
    capsys.readouterr()
    assert train.main(command) == 0
    assert "nothing to train: 4 of 4 steps" in capsys.readouterr().out
    assert_same_run(last(tmp_path), before)


def test_new_run_leaves_the_old_files(tmp_path):
    command = options(tmp_path, *CPM)
    assert train.main(command) == 0
    assert train.main(command) == 0
    assert (tmp_path / "old_1/last.pth.tar").is_file()


def test_original_checkpoint_resumes(tmp_path, capsys):
    """MobilePose's file: epoch, state_dict with `module.`, optimizer."""
    path = tmp_path / "cpm_LSP_last.pth.tar"
    model = build_model("cpm", width=0.0625)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    model(torch.zeros(1, 1, 3, 64, 64), torch.zeros(1, 1, 64, 64))[0].sum().backward()
    optimizer.step()
    torch.save(
        {
            "epoch": 2,
            "state_dict": {f"module.{k}": v for k, v in model.state_dict().items()},
            "optimizer": optimizer.state_dict(),
        },
        path,
    )
    assert train.main(options(tmp_path, *CPM, "--epochs=3", f"--checkpoint_name={path}")) == 0
    assert f"resuming from {path}: epoch 2" in capsys.readouterr().out
    state = last(tmp_path)
    assert state["epoch"] == 3
    assert {int(s["step"]) for s in state["optimizer"]["state"].values()} == {
        1 + 4
    }  # one step before, four batches of two here


@pytest.mark.slow
def test_one_image_is_learned_and_found_again(tmp_path):
    """Train on one person, then ask predict.py for the same: every joint within one cell of the belief maps (1/11 of
    the crop)."""
    flat = ("--p_flip=0", "--rotate=0", "--scale_low=1", "--scale_high=1", "--jitter=0")
    learn = (
        "--init=kaiming",
        "--norm=batch",
        "--sigma=1",
        "--background",
        "--masked_loss",
        "--deep_supervision",
        "--center_map=correct",
    )
    size = (
        "--channels=0.125",
        "--input_width=96",
        "--limit=1",
        "--batch_size=1",
        "--epochs=150",
        "--lr=3e-3",
        "--schedule=cosine",
    )
    pads = ("--pad_pixels=0", "--pad_ratio=0.15")
    assert train.main(options(tmp_path, *CPM, *flat, *learn, *size, *pads)) == 0
    person, out = load("lsp", tiny.lsp(), "train"), tmp_path / "out"
    where = f"--boxes={','.join(f'{v:.2f}' for v in person.box[0])}"
    assert predict.main([person.images[0], f"--weights={tmp_path}", where, f"--out={out}"]) == 0
    row = json.loads((out / "joints.jsonl").read_text())
    assert row["joint_names"] == list(person.skeleton.joints)
    found = np.array(row["persons"][0]["joints"])[:, :2]
    side = 1.3 * max(person.box[0, 2:])  # with the margin of pads
    assert np.nanmax(np.linalg.norm(found - person.joints[0], axis=-1)) < side / 11


@pytest.mark.slow
def test_two_processes_and_accumulation_equal_the_doubled_batch_and_one_goes_on(tmp_path):
    """One process goes on from the state of two as from its own. Losses agree to rounding through the layers; weights to a tenth of
    the learning rate, because Adam's first steps are lr x sign of the gradient and sums in another order change the sign of gradients
    that are zero but for rounding."""
    lr = 1e-4
    shared = (*CPM, f"--lr={lr}", "--norm=none", "--dropout=0", "--epochs=2", "--ema=0.9")
    single, summed, spread = (tmp_path / name for name in ("single", "summed", "spread"))
    assert train.main(options(single, *shared, "--batch_size=4")) == 0
    assert train.main(options(summed, *shared, "--accumulate=2")) == 0
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2",
              str(ROOT / "tests/process_end.py"), "lpm_torch.train"]  # fmt: skip
    done = subprocess.run(
        [*launch, *options(spread, *shared)], capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr[-2000:]

    def losses(folder: Path) -> np.ndarray:
        """Of the four updates, each over four persons."""
        return np.reshape(last(folder)["losses"], (4, -1)).mean(1)

    expected, weights = losses(single), last(single)["state_dict"]
    start = build_model("cpm", width=0.0625, init="kaiming", dropout=0.0)
    for other in (summed, spread):
        close(losses(other), expected, rounding(expected.max(), steps=100))
        found = last(other)["state_dict"]
        assert max((found[k] - weights[k]).abs().max().item() for k in weights) < 0.1 * lr
    assert set(weights) == set(start.state_dict())
    for folder in (single, spread):
        assert train.main(options(folder, *shared, "--batch_size=4", "--epochs=3", "--resume")) == 0
    assert last(single)["step"] == last(spread)["step"] == 6
    own, other = (last(folder)["state_dict"] for folder in (single, spread))
    assert max((own[k] - other[k]).abs().max().item() for k in own) < 0.2 * lr


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """Folder with the checkpoint of a tiny CPM."""
    folder = tmp_path_factory.mktemp("trained")
    assert train.main(options(folder, *CPM)) == 0
    return folder


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (["--model=lpm"], ["'cpm'", "'lpm'"]),
        (["--channels=0.125"], ["0.0625", "0.125"]),
        (["--mode=compat"], ["'correct'", "'compat'"]),
        (["--center_map=correct"], ["'compat'", "'correct'"]),
    ],
)
@pytest.mark.parametrize("option", ["init_weight", "checkpoint_name"])
def test_checkpoint_of_another_run_is_refused(tmp_path, trained, capsys, change, words, option):
    path = trained / "last.pth.tar"
    assert train.main(options(tmp_path, *CPM, *change, f"--{option}={path}")) == 2
    message = capsys.readouterr().err
    assert all(word in message for word in words), message


def test_settings_that_shape_the_loss_are_enforced_on_resume(tmp_path, trained, capsys):
    path = trained / "last.pth.tar"
    for change in ("--masked_loss", "--loss_norm=mean", "--deep_supervision", "--background"):
        assert train.main(options(tmp_path, *CPM, change, f"--checkpoint_name={path}")) == 2
        assert change.lstrip("-").split("=")[0] in capsys.readouterr().err


def test_unusable_checkpoint_files(tmp_path, trained, capsys):
    good = trained / "last.pth.tar"
    foreign, truncated, joints, partial = (
        tmp_path / n for n in ("foreign.pth.tar", "truncated.pth.tar", "joints.pt", "partial.pt")
    )
    foreign.write_text("no weights")
    truncated.write_bytes(good.read_bytes()[:-1000])
    torch.save(build_model("cpm", joints=16, width=0.0625).state_dict(), joints)
    weights = torch.load(good, weights_only=True)["state_dict"]
    torch.save({k: v for k, v in weights.items() if not k.startswith("conv1_stage1")}, partial)
    expected = {
        foreign: "not a readable",
        truncated: "is damaged",
        tmp_path / "none": "neither a file nor a folder",
        joints: "conv7_stage1",
        partial: "conv1_stage1",
    }
    for path, words in expected.items():
        assert train.main(options(tmp_path, *CPM, f"--init_weight={path}")) == 2
        message = capsys.readouterr().err
        assert words in message and path.name in message
    assert train.main(options(tmp_path, *CPM, f"--checkpoint_name={foreign}")) == 2
    assert foreign.name in capsys.readouterr().err


def test_empty_data_is_named(tmp_path, capsys):
    """No annotation, no video of the split, no clip as long as --t: each says what it looked for."""
    (tmp_path / "none/labels").mkdir(parents=True)
    shutil.copytree(tiny.penn(), tmp_path / "few")
    (tmp_path / "few/labels/0003.mat").unlink()  # the only one of the test half
    cases = (
        ([f"--data_dir={tmp_path}/none"], "labels/0001.mat"),
        ([f"--data_dir={tmp_path}/few", "--train_split=test"], "belongs to split test"),
        ([f"--data_dir={tiny.penn()}", "--t=8"], "no clip of 8 frames"),
    )
    for words, message in cases:
        assert train.main([*options(tmp_path, *LPM), "--dataset=PennAction", *words]) == 2
        assert message in capsys.readouterr().err


@pytest.mark.parametrize("model", ["lpm_raw", "lpm_official", "hourglass", "coord_lpm"])
def test_other_networks_train_and_validate(tmp_path, model):
    """One epoch of every other network, with its validation and its log."""
    more = ["--depth=2"] if model == "hourglass" else []
    arguments = options(tmp_path, *CPM, f"--model={model}", "--valid_split=valid", "--limit=4", *more)
    assert train.main(arguments) == 0
    found = {name for entry in read_log(tmp_path / "log.jsonl") for name in entry}
    assert {"loss", "lr", "mean loss", "valid pck_torso@0.2"} <= found
    assert (tmp_path / "best.pth.tar").is_file()


@pytest.mark.parametrize("dataset", ["LSP", "PennAction"])
@pytest.mark.parametrize("change", [["--mode=compat"], ["--amp=bf16", "--ema=0.9"]])
def test_modes_and_mixed_precision_on_images_and_video(tmp_path, dataset, change):
    root = tiny.lsp() if dataset == "LSP" else tiny.penn()
    arguments = options(
        tmp_path, *LPM, f"--dataset={dataset}", "--epochs=1", "--limit=2", "--valid_split=valid", *change
    )
    assert train.main([*arguments, f"--data_dir={root}"]) == 0
    assert (tmp_path / "best.pth.tar").is_file()


@pytest.mark.parametrize(("workers", "damage"), [(0, "missing"), (1, "truncated")])
def test_an_unreadable_frame_is_warned_of_and_left_out(tmp_path, capsys, workers, damage):
    """In training the next clip stands for its clip; scored, its row is NaN and all others are there."""
    root, frame = tmp_path / "PennAction", "frames/0003/000001.jpg"
    shutil.copytree(tiny.penn(), root)
    for file in (root / "frames/0001/000001.jpg", root / frame):
        file.unlink() if damage == "missing" else file.write_bytes(file.read_bytes()[:100])
    words = ["--dataset=PennAction", f"--data_root={root}", f"--workers={workers}"]
    assert train.main([*options(tmp_path / "run", *LPM), *words, "--epochs=1", "--limit=7"]) == 0
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("warning: 1 pictures could not be read") and "0001/000001.jpg" in said
    assert val.main([*words, f"--weights={tmp_path}/run", f"--out={tmp_path}/p.npz"]) == 0
    assert "could not be read" in (said := capsys.readouterr().err) and frame in said
    found = load_predictions(tmp_path / "p.npz")
    assert np.isnan(found.joints[0]).all() and np.isfinite(found.joints[1:]).all() and found.score[0].max() == 0


def test_no_readable_picture_at_all_is_an_error(tmp_path, capsys):
    root = tmp_path / "PennAction"
    shutil.copytree(tiny.penn(), root, ignore=lambda folder, names: [n for n in names if n.endswith(".jpg")])
    words = ["--dataset=PennAction", f"--data_root={root}"]
    assert train.main([*options(tmp_path / "run", *LPM), *words]) == 2
    assert "cannot be read" in capsys.readouterr().err
    assert val.main([*words, "--random_weights", "--model=lpm", "--limit=2"]) == 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_run_saves_and_goes_on(tmp_path, number):
    """A terminal's Ctrl-C, or a batch system's SIGTERM, reaches the loader's processes too."""
    command = options(tmp_path, *LPM, "--workers=1", "--resume")
    words = [sys.executable, str(ROOT / "lpm_torch/train.py"), *command, "--epochs=3000"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    log = tmp_path / "log.jsonl"
    while process.poll() is None and not (log.exists() and log.stat().st_size):  # a step is done
        time.sleep(0.01)
    os.killpg(process.pid, number)
    error = process.communicate(timeout=120)[1]
    assert process.returncode == 130, error
    assert "go on with --resume" in error and last(tmp_path)["step"] > 0
    assert train.main([*command, f"--epochs={1 + last(tmp_path)['epoch']}"]) == 0


def test_the_checkpoint_says_what_it_learnt(tmp_path):
    assert train.main(options(tmp_path, *CPM)) == 0
    about = last(tmp_path)["about"]
    assert about["skeleton"]["name"] == "lsp14" and about["dataset"] == "lsp" and about["synthetic"] is True


def test_another_number_of_processes_goes_on(tmp_path):
    """Two processes train half an epoch each; one goes on to the end of the epochs, not of the steps."""
    assert train.main(options(tmp_path, *CPM, "--batch_size=4", "--epochs=1")) == 0
    assert train.main(options(tmp_path, *CPM, "--batch_size=2", "--epochs=2", "--resume")) == 0
    state = last(tmp_path)
    assert (state["epoch"], state["step"]) == (2, 8)


def test_weights_of_other_joints_are_taken_by_name(tmp_path, capsys):
    """LSP's 14 joints -> own data with three of them and one more."""
    assert train.main(options(tmp_path / "lsp", *CPM)) == 0
    root = tiny.own(tmp_path / "own", ["left_wrist", "tail", "right_wrist", "neck"])
    words = [
        *CPM,
        "--dataset=json",
        f"--data_root={root}",
        f"--weights={tmp_path}/lsp",
        f"--out={tmp_path}/json",
        "--lr=0",
    ]
    assert train.main(words) == 0
    assert "3 of 4 joints by name; fresh: " in capsys.readouterr().out
    before, after = (last(tmp_path / name)["state_dict"] for name in ("lsp", "json"))
    for row, name in enumerate(LPM14.joints):
        if name in ("left_wrist", "right_wrist", "neck"):
            here = ["left_wrist", "tail", "right_wrist", "neck"].index(name)
            assert torch.equal(after["conv7_stage1.weight"][here], before["conv7_stage1.weight"][row]), name
    assert torch.equal(after["conv2_stage1.weight"], before["conv2_stage1.weight"])


def test_processes_exchange_gradients_only_when_the_weights_move(tmp_path):
    """Of three accumulated steps the first two are quiet. And scoring places a network as training does."""
    settings = train.parse_args(options(tmp_path, *CPM, "--accumulate=3", "--amp=bf16"))
    trainer = engine.Trainer(settings, load("lsp", tiny.lsp(), "train"), TorchProcess(torch, settings.device))
    quiet = []

    class Parallel(torch.nn.Module):
        def forward(self, *inputs, **more):
            return trainer.model(*inputs, **more)

        def no_sync(self):
            quiet.append(trainer.position.step)
            return contextlib.nullcontext()

    trainer.network, trainer.process.world, trainer.process.mean = Parallel(), 2, lambda value: value
    for _, batch in zip(range(3), trainer.batches()):
        trainer.step(batch)
    assert quiet == [0, 1]
    kernel = trainer.model.conv2_stage1.weight
    assert kernel.is_contiguous(memory_format=torch.channels_last)
    assert (
        Estimator.of(build_network(settings, 14), settings, LSP14, Process()).model.conv2_stage1.weight.stride()
        == kernel.stride()
    )
