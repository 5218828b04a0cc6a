"""Sessions, endings, the shelf, scoring and converting: what surrounds every network."""

import errno
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from common.errors import DataError
from common.files import atomic_write
from common.runs import scoring, shelf
from common.runs import session as session_module
from common.runs.checkpoints import CheckpointStore, make_state
from common.runs.converting import Conversion, card_path, halved
from common.runs.process import (
    Process,
    Stopped,
    cluster_ranks,
    default_workers,
    environment_ranks,
    exit_code,
    plain_message,
)
from common.runs.runlog import read_log
from common.runs.session import Position, Session, swapped_weights

ROOT = Path(__file__).resolve().parents[2]


def open_session(folder, total=10, process=None, **options):
    store = CheckpointStore(folder, lambda p, s: p.write_text(json.dumps(s)), lambda p: json.loads(p.read_text()),
                            suffix=".json", every=options.pop("every", 0), unit="step")  # fmt: skip
    position = Position(epoch_length=options.pop("epoch_length", 5), batch_size=options.pop("batch_size", 2))
    about = {"skeleton": {}, "synthetic": False}
    options = {"settings": {"mode": "correct"}, "about": about, **options}
    return Session(folder, position, total, process or Process(), store, **options)


def test_time_left_leaves_out_the_first_step(monkeypatch, capsys):
    """Which compiles: 60 seconds of 62, and then one a step."""
    clock = [1000.0]
    monkeypatch.setattr(session_module.time, "monotonic", lambda: clock[0])
    progress, position = session_module.Progress(4, 104), Position()
    position.step = 4
    for seconds in (60.0, 1.0, 1.0, 30.0):
        clock[0] += seconds
        position.advance()
        progress(position, [0.5])
    said = ["step 6 of 104: loss 0.5, 1 s a step, 0:01:38 left", "step 8 of 104: loss 0.5, 10.7 s a step, 0:17:04 left"]
    assert capsys.readouterr().out.splitlines() == said


def run(session, losses=None, figures=None, resume=None, at_step=None):
    """The loop of all houses; returns the steps that were saved."""
    saved = []
    with session:
        session.begin(resume)
        for batch in session.track(iter(range(10**6))):
            session.position.advance()
            if at_step:
                at_step(session)
            session.log({"loss": (losses or {}).get(session.position.step, 1.0), "lr": 0.1})
            if session.validation_due:
                session.validated({"pck": (figures or {}).get(session.position.step, 0.0)})
            if session.save_due:
                session.save({"model": batch})
                saved.append(session.position.step)
    return saved


def test_a_run_validates_saves_and_ends(tmp_path, capsys):
    assert run(open_session(tmp_path, valid_every=5), figures={5: 3.0, 10: 2.0}) == [5, 10]
    best, last = (json.loads((tmp_path / f"{n}.json").read_text()) for n in ("best", "last"))
    assert (best["step"], best["epoch"], best["batch"]) == (5, 1, 0) and last["step"] == 10
    assert last["best_metric"] == 3.0 and last["about"]["batch_size"] == 2
    assert "[epoch 1] loss 1, pck 3 (best so far)" in capsys.readouterr().out
    assert {"valid pck", "mean loss"} <= set(read_log(tmp_path / "log.jsonl")[0])
    session = open_session(tmp_path / "tags")
    with session:
        session.begin(None)
        session.validated({"test/mPCP": 0.5})
    assert "test/mPCP" in read_log(tmp_path / "tags" / "log.jsonl")[0]


def test_first_weights_that_cannot_be_read_leave_an_earlier_run(tmp_path):
    assert run(open_session(tmp_path)) == [10]
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(DataError), open_session(tmp_path) as session:
        assert session.begin(None) is None
        raise DataError("no such weights")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert run(open_session(tmp_path)) == [10] and (tmp_path / "old_1/last.json").is_file()


def test_minutes_and_numbers_save_between_updates_only(tmp_path):
    assert run(open_session(tmp_path / "a", save_minutes=-1, accumulate=2)) == [2, 4, 6, 8, 10]
    assert run(open_session(tmp_path / "b", every=3)) == [3, 6, 9, 10]


def test_a_loss_that_is_not_finite_ends_it_and_keeps_what_was_saved(tmp_path):
    with pytest.raises(FloatingPointError, match="the loss is nan at step 4"):
        run(open_session(tmp_path, every=3), losses={4: float("nan")})
    assert json.loads((tmp_path / "last.json").read_text())["step"] == 3
    with pytest.raises(FloatingPointError):  # never saved with it
        run(open_session(tmp_path / "b", every=3), losses={3: float("inf")})
    assert not (tmp_path / "b" / "last.json").exists()


def test_early_stop(tmp_path, capsys):
    figures = {2: 1.0, 4: 3.0, 6: 2.0, 8: 2.5}
    assert run(open_session(tmp_path, 100, valid_every=2, patience=2), figures=figures) == [2, 4, 6, 8]
    assert "ended after step 8: 2 validations without a better figure" in capsys.readouterr().out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_step_saves_and_says_so(number, tmp_path):
    def at_step(session):
        if session.position.step == 4:
            os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    with pytest.raises(Stopped, match="after step 4 of 10.*--resume"):
        run(open_session(tmp_path), at_step=at_step)
    assert json.loads((tmp_path / "last.json").read_text())["step"] == 4 and signal.getsignal(number) is before
    assert run(open_session(tmp_path), resume="auto") == [10]
    steps = [e["step"] for e in read_log(tmp_path / "log.jsonl")]
    assert steps == sorted(set(steps))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_before_the_first_step_is_done_does_not_wait_for_it(number, tmp_path):
    """Compiling that step may take minutes, and there is nothing to save; of several processes each waits."""

    def at_step(session):
        os.kill(os.getpid(), number)
        went_on.append(session.position.step)

    went_on, before = [], signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt, match="before the first step"):
        run(open_session(tmp_path), at_step=at_step)
    assert not went_on and not (tmp_path / "last.json").exists() and signal.getsignal(number) is before
    several = Process()
    several.world = 2
    session = open_session(tmp_path, process=several)
    with session:
        session.begin(None)
        os.kill(os.getpid(), number)
        assert session._interrupts.asked


def test_a_signal_stops_the_programme_with_130(tmp_path):
    """As a user's Ctrl-C or a cluster's SIGTERM does, on a process of its own; resumed, it is the uninterrupted run."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}

    def start(folder, resume, pause):
        command = [sys.executable, ROOT / "tests/common/numpy_run.py", folder, resume, "0", tmp_path / "began", pause]
        return subprocess.Popen(list(map(str, command)), env=environment, stderr=subprocess.PIPE, text=True)

    assert start(tmp_path / "whole", "new", 0).wait(60) == 0
    process = start(tmp_path / "stopped", "new", 0.05)
    while not (tmp_path / "stopped" / "log.jsonl").exists() or not read_log(tmp_path / "stopped" / "log.jsonl"):
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130 and "go on with --resume" in error
    assert start(tmp_path / "stopped", "auto", 0).wait(60) == 0
    whole, found = (np.load(tmp_path / n / "weights.npz") for n in ("whole", "stopped"))
    np.testing.assert_array_equal(found["weights"], whole["weights"])


def test_a_position_counts_persons_when_the_batch_changes():
    position = Position(epoch_length=10, batch_size=4)
    position.restore({"epoch": 2, "batch": 6, "step": 46, "about": {"batch_size": 2}})
    assert (position.epoch, position.batch, position.step) == (2, 3, 23), "an epoch has as many steps as now"


class Others(Process):
    """A process whose companions wish to stop."""

    world = 2

    def any(self, flag):
        return True


def test_all_processes_stop_at_the_same_step(tmp_path):
    with pytest.raises(Stopped, match="after step 10 of 50"):
        run(open_session(tmp_path, 50, process=Others()))


FAULTS = """
import resource, sys
from common.runs.process import exit_code
def work():
    found = []
    for _ in range(4):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        b"x" * (1 << 26)
        found.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    print(sum(found[1:]))
exit_code(work) if sys.argv[1] == "programme" else work()
"""


def test_a_programme_keeps_its_memory():
    """Arrays as large as one freed before are not made of new pages, which the kernel fills with zeros one by one."""
    if platform.libc_ver()[0] != "glibc" or tuple(map(int, platform.libc_ver()[1].split("."))) < (2, 35):
        pytest.skip("needs glibc 2.35; older ones keep 32 MiB at most, and that by themselves")

    def faults(how: str, **more: str) -> int:
        words = [sys.executable, "-c", FAULTS, how]
        plain = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_", "LD_PRELOAD"))}
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True, env=plain | more)
        return int(done.stdout)

    assert faults("programme") * 10 < faults("without")
    assert faults("programme", MALLOC_ARENA_MAX="8") * 2 > faults("without")  # what the user says stays


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [(DataError("no file"), 2, "error: no file"), (OSError("no space"), 2, "error: no space"),
     (FloatingPointError("loss is nan"), 1, "stopped: loss is nan. Lower the rate"), (Stopped("saved"), 130, "saved"),
     (KeyboardInterrupt(), 130, "stopped")],
)  # fmt: skip
def test_exit_codes(capsys, error, code, text):
    def work():
        raise error

    assert exit_code(work, "done {}", "Lower the rate") == code
    assert capsys.readouterr() == ("", text + "\n")


def test_faults_of_ours_keep_their_traceback(monkeypatch, capsys):
    with pytest.raises(ValueError, match="could not convert"):
        exit_code(lambda: float("bad"))
    monkeypatch.setenv("POSE_TRACEBACK", "1")
    with pytest.raises(OSError, match="gone"):
        exit_code(lambda: open("/nowhere/gone"))
    assert exit_code(lambda: "out", "files are in {}") == 0 and capsys.readouterr().out == "files are in out\n"


def test_message_of_a_loader_process():
    text = (
        "Caught DataError in worker.\nOriginal Traceback (most recent call last):\n  File x\nDataError: im1.jpg: gone\n"
    )
    assert plain_message(DataError(text)) == "im1.jpg: gone" and plain_message(DataError("a: b")) == "a: b"


def test_ranks_of_both_launchers(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "PADDLE_TRAINER_ID", "PADDLE_TRAINERS_NUM"):
        monkeypatch.delenv(name, raising=False)
    assert environment_ranks() == (0, 1, 0)
    monkeypatch.setenv("PADDLE_TRAINER_ID", "1")
    monkeypatch.setenv("PADDLE_TRAINERS_NUM", "2")
    assert environment_ranks() == (1, 2, 1)


def test_workers_share_the_cores_with_the_processes_beside(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: range(16))
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert default_workers() == 8
    for name in ("LOCAL_WORLD_SIZE", "PADDLE_LOCAL_SIZE"):
        with monkeypatch.context() as set_by_launcher:
            set_by_launcher.setenv(name, "8")
            assert default_workers() == 1


def test_the_shelf_takes_the_newest_best_and_names_what_there_is(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(shelf, "REPOSITORY", tmp_path / "repository")
    assert shelf.find_weights("house", None, (".pt",)) is None
    for age, (run_name, state) in enumerate((("old", "best"), ("new", "last"), ("repo", "best"))):
        base = tmp_path / "repository" if run_name == "repo" else tmp_path
        path = base / "output" / "house" / run_name / f"{state}.pt"
        path.parent.mkdir(parents=True)
        path.write_text("")
        os.utime(path, (100 + age, 100 + age))
    assert shelf.find_weights("house", None, (".pt",)) == Path("output/house/new/last.pt")
    assert "newest" in capsys.readouterr().out
    assert shelf.find_weights("house", "output/house/old", (".pt",)) == Path("output/house/old/best.pt")
    zoo = tmp_path / "repository" / "house" / "zoo"
    zoo.mkdir(parents=True)
    (zoo / "lspet.npz").write_text("")
    assert shelf.find_weights("house", "lspet", (".pt",)) == zoo / "lspet.npz"
    with pytest.raises(DataError, match="nothing.*output/house/new/last.pt.*shipped: lspet"):
        shelf.find_weights("house", "nothing", (".pt",))
    assert len(shelf.outputs("house")) == 2
    monkeypatch.setattr(shelf, "REPOSITORY", tmp_path)
    assert shelf.outputs("house") == [Path("output/house")]  # each run is listed once


def test_result_paths(tmp_path):
    standard = Path("output/h/valid.npz")
    assert shelf.result_path(None, standard) == standard
    assert shelf.result_path("x/y.npz", standard) == Path("x/y.npz")
    assert shelf.result_path("x.d/", standard) == Path("x.d/valid.npz")
    assert shelf.result_path(tmp_path, standard) == tmp_path / "valid.npz"


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("file write failed")])
def test_a_full_disk_is_named(tmp_path, monkeypatch, capsys, error):
    """Also where PyTorch says only that it failed; nothing half-written stays."""
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=0))

    def write(path):
        path.write_text("half")
        raise error

    assert exit_code(lambda: atomic_write(tmp_path / "a.npz", write)) == 2
    assert "no space left" in capsys.readouterr().err and not list(tmp_path.iterdir())
    store = CheckpointStore(tmp_path, lambda path, state: write(path), None, suffix=".pt", announce=lambda _: None)
    state = make_state({"model": 1}, epoch=1, batch=0, step=3, config={}, about={})
    with pytest.raises(OSError, match="no space left.*last.pt"):
        store.save(state)
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1 << 30))
    with pytest.raises(type(error), match="(?i)no space|failed"):
        atomic_write(tmp_path / "a.npz", write)


@pytest.mark.parametrize("error", [
    RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error."),
    SystemError("(Fatal) DataLoader process (pid 7) exited is killed by signal: 9."),  # Paddle's
    RuntimeError("Caught RuntimeError in DataLoader worker process 0."),
])  # fmt: skip
@pytest.mark.parametrize("there", [True, False])
def test_a_killed_loader_process(error, there, monkeypatch, capsys):
    def dies():
        raise error

    def usage(path):
        if not there:
            raise FileNotFoundError(path)
        return SimpleNamespace(total=64 << 20)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    if "Caught" in str(error):  # an error of its own keeps its traceback
        with pytest.raises(RuntimeError, match="Caught"):
            exit_code(dies)
        return
    assert exit_code(dies) == 2 and "shared memory" in (said := capsys.readouterr().err)
    assert ("64 MiB of" if there else "no shared") in said
    assert "--workers 0" in said and "--shm-size" in said


def test_a_command_line_for_others(tmp_path):
    (tmp_path / "data").mkdir()
    words = ["/a/lpm_torch/val.py", "--data_root", str(tmp_path / "data"), "--result", "r.json", "--split=a b",
             f"--weights={tmp_path}/best.pt"]  # fmt: skip
    assert (
        scoring.command_line(words)
        == "python lpm_torch/val.py --data_root DIR --result r.json '--split=a b' --weights=best.pt"
    )


def test_descriptions_hold_no_folders(tmp_path):
    (tmp_path / "best.pt").write_text("x")
    meta = scoring.describe("h", "net", tmp_path / "best.pt", {"root": str(tmp_path), "lr": 1}, boxes="oracle")
    assert meta["settings"] == {"lr": 1} and meta["weights"] == "best.pt" and len(meta["weights_hash"]) == 64
    assert scoring.describe("h", "net", None, {})["weights"] == "random"


@pytest.mark.parametrize("output", ["", "/", "."])
def test_a_conversion_needs_a_files_name(tmp_path, output):
    with pytest.raises(DataError, match="has no file's name"):
        Conversion(tmp_path / "in.bin", output, "CC0")


def test_a_conversion_is_kept_when_it_agrees(tmp_path):
    (tmp_path / "in.bin").write_text("in")
    out = tmp_path / "sub" / "out.npz"
    with Conversion(tmp_path / "in.bin", out, "CC0") as conversion:
        conversion.draft.write_text("new")
        conversion.draft.with_name(conversion.draft.name + ".index").write_text("more")
        conversion.compare("maps", {"a": [1.0, 2.0]}, {"a": [1.0, 2.0 + 1e-6]}, 1e-4)
        conversion.keep(mapping="none")
    assert out.read_text() == "new" and (out.parent / "out.npz.index").read_text() == "more"
    card = json.loads(card_path(out).read_text())
    assert card["licence"] == "CC0" and card["mapping"] == "none" and card["check"]["maps"]["tolerance"] == 1e-4


def test_16_bits_for_what_they_can_hold():
    """A variance of raw pixels stays in 32; whole numbers, such as a step, as they are."""
    largest = float(np.finfo(np.float16).max)
    given = {"w": np.float32([0.1, -largest]), "variance": np.float32([1, 2 * largest]), "step": np.int64(3)}
    made = halved({**given, "none": np.zeros(0, np.float32), "lost": np.float32([np.nan])})
    assert [made[name].dtype for name in ("w", "variance", "step", "none")] == ["f2", "f4", "i8", "f2"]
    np.testing.assert_array_equal(made["variance"], given["variance"])
    np.testing.assert_allclose(made["w"], given["w"], rtol=2.0**-11)
    assert np.isnan(made["lost"]).all()


@pytest.mark.parametrize("found", [[1.0, 3.0], [1.0, np.nan], [1.0]])
def test_a_conversion_that_disagrees_leaves_nothing(tmp_path, found):
    with pytest.raises(DataError), Conversion(tmp_path / "in", tmp_path / "out", "") as conversion:
        conversion.draft.write_text("new")
        conversion.compare("maps", [1.0, 2.0], found, 1e-3)
        conversion.keep()
    assert list(tmp_path.iterdir()) == []


class Tensor:
    def __init__(self, value):
        self.value = value

    def clone(self):
        return Tensor(self.value)


def test_weights_come_back_after_an_error_too():
    network = {"a": Tensor(1)}

    def load(weights):
        network["a"].value = weights["a"].value

    with pytest.raises(DataError), swapped_weights(network, load, {"a": Tensor(2)}):
        assert network["a"].value == 2
        raise DataError("scoring failed")
    assert network["a"].value == 1
    with swapped_weights(network, load, None):
        assert network["a"].value == 1


@pytest.mark.parametrize(
    "content", ["{", '{"cluster": {"chief": ["a:1"], "worker": ["b:2"]}, "task": {"type": "worker", "index": 0}}']
)
def test_tf_config_is_checked(monkeypatch, content):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    assert cluster_ranks() == (0, 1)
    monkeypatch.setenv("TF_CONFIG", content)
    with pytest.raises(DataError, match="TF_CONFIG is not usable"):
        cluster_ranks()
    monkeypatch.setenv("TF_CONFIG", '{"cluster": {"worker": ["a:1", "b:2"]}, "task": {"type": "worker", "index": 1}}')
    assert cluster_ranks() == (1, 2)
