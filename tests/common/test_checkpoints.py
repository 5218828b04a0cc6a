import json
import os
import pickle
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from common.errors import DataError
from common.files import atomic_write, sha256_of
from common.runs import checkpoints
from common.runs.checkpoints import (
    CheckpointStore,
    check_compatible,
    collect_random_state,
    make_state,
    restore_random_state,
)
from common.runs.runlog import read_log

ROOT = Path(__file__).resolve().parents[2]


def open_store(folder, announced=None, **options):
    return CheckpointStore(
        folder, lambda path, state: path.write_bytes(pickle.dumps(state)), lambda path: pickle.loads(path.read_bytes()),
        suffix=".pkl", announce=(announced if announced is not None else []).append, **options,
    )  # fmt: skip


def state_at(epoch, **changes):
    position = {"epoch": epoch, "batch": 0, "step": 10 * epoch}
    about = {"skeleton": {}, "batch_size": 1}
    trained = {"model": [epoch], "optimizer": []}
    fields = {**position, "config": {"mode": "correct"}, "about": about}
    trained |= {name: changes.pop(name) for name in list(changes) if name not in fields}
    return make_state(trained, **{**fields, **changes})


def start_run(folder, resume, seconds, began):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "tests/common/numpy_run.py"), str(folder), resume, str(seconds), str(began)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(process):
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    return output


def kill_in_save(process, began, delay):
    """SIGKILL a run `delay` seconds after it began to write a checkpoint."""
    deadline = time.monotonic() + 30
    while not began.exists():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[0]
        time.sleep(0.002)
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    began.unlink()


def test_killed_run_ends_with_the_weights_of_an_uninterrupted_one(tmp_path):
    finish(start_run(tmp_path / "whole", "new", 0, tmp_path / "began_whole"))
    folder, began = tmp_path / "killed", tmp_path / "began"
    # within the first save; within the third or so; between saves; at the end of one, where files are being renamed
    for resume, seconds, delay in (
        ("new", 0.2, 0.1),
        ("auto", 0.05, 0.13),
        ("auto", 0.01, 0.03),
        ("auto", 0.0, 0.001),
        ("auto", 0.2, 0.1),
    ):
        kill_in_save(start_run(folder, resume, seconds, began), began, delay)
    assert list(folder.glob(".tmp*")), "the last kill should have hit a half-written file"
    finish(start_run(folder, "auto", 0, began))

    expected, found = np.load(tmp_path / "whole/weights.npz"), np.load(folder / "weights.npz")
    for name in expected.files:
        np.testing.assert_array_equal(found[name], expected[name])
    assert not list(folder.glob(".tmp*"))
    assert [f.name for f in folder.glob("step_*")] and (folder / "best.pkl").exists()
    steps = [entry["step"] for entry in read_log(folder / "log.jsonl") if "loss" in entry]
    assert steps == list(range(1, len(steps) + 1))
    losses = [[e.get("loss") for e in read_log(run / "log.jsonl")] for run in (tmp_path / "whole", folder)]
    assert losses[0] == losses[1]


def test_damaged_newest_falls_back_and_says_so(tmp_path):
    store = open_store(tmp_path)
    for epoch in (1, 2, 3):
        store.save(state_at(epoch))
    last = store.path("last")
    last.write_bytes(last.read_bytes()[:-20])

    announced = []
    again = open_store(tmp_path, announced)
    assert again.begin("auto")["epoch"] == 2
    assert "last.pkl is damaged" in announced[0] and "resuming from" in announced[1]
    again.save(state_at(3))
    # the damaged file did not become `previous`
    assert again.load(again.path("previous"))["epoch"] == 2
    assert again.load(last)["epoch"] == 3 and (tmp_path / "unreadable_last.pkl").exists()


def test_one_flipped_bit_is_noticed(tmp_path):
    store = open_store(tmp_path)
    store.save(state_at(1, model=b"0" * 1000))
    last = store.path("last")
    content = bytearray(last.read_bytes())
    content[content.index(b"000") + 500] ^= 1
    last.write_bytes(content)
    with pytest.raises(DataError, match="last.pkl is damaged or not from this run"):
        store.load(last)


def test_resume_with_nothing_readable_is_an_error_not_a_new_run(tmp_path):
    store = open_store(tmp_path)
    store.save(state_at(1))
    store.path("last").write_bytes(b"")
    with pytest.raises(DataError, match="no checkpoint in .* can be read"):
        open_store(tmp_path).begin("auto")
    assert store.path("last").exists()


def test_auto_in_an_empty_folder_starts_anew(tmp_path):
    announced = []
    assert open_store(tmp_path / "none", announced).begin("auto") is None
    assert "starting a new run" in announced[0]


def test_new_run_moves_the_old_one_aside(tmp_path):
    open_store(tmp_path, every=1).save(state_at(1), metric=0.5)
    announced = []
    store = open_store(tmp_path, announced, every=1)
    assert store.begin(None) is None and store.path("last").exists(), "the new run may lack something yet"
    store.make_room()
    assert not store.path("last").exists() and not store.path("epoch_000001").exists()
    old = open_store(tmp_path / "old_1")
    assert old.load(old.path("last"))["epoch"] == 1 and "old_1" in announced[0]
    assert store.save(state_at(1), metric=0.1), "the old run's best metric must not count"


@pytest.mark.parametrize(
    ("mode", "metrics", "best"), [("max", [0.2, 0.5, float("nan"), 0.4], 2), ("min", [0.2, 0.1, 0.3, 0.1], 2)]
)
def test_best_is_kept_and_survives_a_resume(tmp_path, mode, metrics, best):
    store = open_store(tmp_path, mode=mode)
    flags = [store.save(state_at(epoch), metric=m) for epoch, m in enumerate(metrics, 1)]
    assert flags == [True, True, False, False]
    assert store.load(store.path("best"))["epoch"] == best
    resumed = open_store(tmp_path, mode=mode)
    assert resumed.begin("auto")["best_metric"] == metrics[best - 1] == resumed.best_metric
    assert not resumed.save(state_at(5), metric=metrics[3])


def test_numbered_checkpoints_by_epoch_and_step(tmp_path):
    store = open_store(tmp_path / "epochs", every=2, keep=2)
    for epoch in range(1, 10):
        store.save(state_at(epoch))
        store.save(state_at(epoch, batch=3))
    assert [f.name for f in store.numbered()] == ["epoch_000006.pkl", "epoch_000008.pkl"]
    assert store.load(store.numbered()[0])["batch"] == 0
    by_step = open_store(tmp_path / "steps", every=20, unit="step")
    for epoch in range(1, 5):
        by_step.save(state_at(epoch, batch=1))
    assert [f.name for f in by_step.numbered()] == ["step_000020.pkl", "step_000040.pkl"]
    own_name = open_store(tmp_path / "steps", every=20, unit="step", keep=1, numbered="checkpoint-{}")
    for epoch in range(1, 11):
        own_name.save(state_at(epoch, batch=1))
    assert [f.name for f in own_name.numbered()] == ["checkpoint-100.pkl"]
    assert own_name.begin() is None
    own_name.make_room()
    assert not own_name.numbered(), "set aside with the others"


def test_explicit_path_from_another_folder(tmp_path):
    other = open_store(tmp_path / "other")
    other.save(state_at(7), metric=0.9)
    store = open_store(tmp_path / "mine")
    store.save(state_at(1))
    assert store.begin(other.path("best"))["epoch"] == 7
    store.make_room()
    assert store.best_metric == 0.9 and not store.path("last").exists()
    with pytest.raises(DataError, match="nowhere.pkl does not exist"):
        store.begin(tmp_path / "nowhere.pkl")
    with pytest.raises(ValueError, match="writer=False"):
        open_store(tmp_path / "mine", writer=False).save(state_at(1))


def test_foreign_and_incomplete_states_are_named(tmp_path):
    store = open_store(tmp_path)
    for content, message in (
        ({"state_dict": 1}, "no field 'format'"),
        ([1], "no field 'format'"),
        ({**state_at(1), "format": 99}, "format is 99"),
    ):
        path = tmp_path / "foreign.pkl"
        path.write_bytes(pickle.dumps(content))
        with pytest.raises(DataError, match=message):
            store.load(path)


def test_random_state_round_trip_through_json():
    def draw():
        return [random.random(), random.gauss(0, 1), np.random.normal(), np.random.rand()]

    random.seed(1)
    np.random.seed(1)
    draw()
    stored = json.dumps(collect_random_state())
    first = draw()
    assert draw() != first
    restore_random_state(json.loads(stored))
    assert draw() == first


def test_a_state_of_the_first_form_says_so(tmp_path):
    (tmp_path / "old.pkl").write_bytes(pickle.dumps({**state_at(1), "format": 1}))
    with pytest.raises(DataError, match="first form.*--weights"):
        open_store(tmp_path).load(tmp_path / "old.pkl")


def test_check_compatible_names_field_values_and_remedy():
    check_compatible({"mode": "compat", "size": [2, 3]}, {"mode": "compat", "size": (2, 3), "lr": 1}, ["mode", "size"])
    with pytest.raises(
        DataError,
        match=r"a\.pth: field 'mode' is 'compat' in the checkpoint and 'correct' in this run; run with --mode compat",
    ):
        check_compatible({"mode": "compat"}, {"mode": "correct"}, ["mode"], "a.pth")
    with pytest.raises(DataError, match="no field 'mode'"):
        check_compatible({}, {"mode": "correct"}, ["mode"])


def test_atomic_write_leaves_the_old_file_when_the_writer_fails(tmp_path):
    path = tmp_path / "sub" / "x.txt"
    assert atomic_write(path, lambda p: p.write_text("old")) == path

    def fail(temporary):
        temporary.write_text("half")
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        atomic_write(path, fail)
    assert path.read_text() == "old" and [f.name for f in path.parent.iterdir()] == ["x.txt"]


def test_copies_where_hard_links_are_refused(tmp_path, monkeypatch):
    def refuse(*names):
        raise OSError("no links here")

    monkeypatch.setattr(checkpoints.os, "link", refuse)
    store = open_store(tmp_path)
    store.save(state_at(1), metric=1.0)
    store.save(state_at(2))
    assert store.load(store.path("best"))["epoch"] == 1 == store.load(store.path("previous"))["epoch"]


def test_sha256_of_known_content(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    # the test vector of FIPS 180-4
    assert sha256_of(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
