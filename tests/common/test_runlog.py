import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from common.errors import DataError
from common.files import set_aside
from common.runs.runlog import FILES, RunLog, read_log

ROOT = Path(__file__).resolve().parents[2]


def open_log(folder, announced=None, config=None, **options):
    return RunLog(
        folder,
        config=config or {"mode": "correct"},
        announce=(announced if announced is not None else []).append,
        **options,
    )


def test_every_line_is_on_disk_at_once(tmp_path):
    log = open_log(tmp_path)
    log.scalars(1, loss=0.5, pck=np.float32(0.25))
    log.scalars(2, loss=float("nan"))
    lines = (tmp_path / "log.jsonl").read_text(encoding="utf-8").splitlines()
    assert all(json.loads(line, parse_constant=pytest.fail) for line in lines), "strict JSON: no NaN"
    entries = read_log(tmp_path / "log.jsonl")
    assert [{k: v for k, v in e.items() if k != "time"} for e in entries] == [
        {"step": 1, "loss": 0.5, "pck": 0.25},
        {"step": 2, "loss": None},
    ]
    with pytest.raises(ValueError, match="'step'|'time'"):
        log.scalars(3, time=1.0)
    log.close()


def test_resume_drops_later_steps_and_a_cut_line(tmp_path):
    with open_log(tmp_path) as log:
        for step in range(1, 8):
            log.scalars(step, loss=step)
    with open(tmp_path / "log.jsonl", "a") as file:
        file.write('{"step": 8, "lo')  # a kill in the middle of a write
    with open_log(tmp_path, resume_step=5) as log:
        for step in range(6, 10):
            log.scalars(step, loss=-step)
    assert [(e["step"], e["loss"]) for e in read_log(tmp_path / "log.jsonl")] == [(s, s) for s in range(1, 6)] + [
        (s, -s) for s in range(6, 10)
    ]


def test_new_run_moves_the_old_log_aside(tmp_path):
    for number in range(3):
        set_aside(tmp_path, FILES)
        with open_log(tmp_path) as log:
            log.scalars(1, loss=number)
    assert [read_log(tmp_path / folder / "log.jsonl")[0]["loss"] for folder in ("old_1", "old_2", ".")] == [0, 1, 2]


def test_config_versions_and_commit_of_every_start(tmp_path):
    announced = []
    open_log(tmp_path, announced, {"lr": np.float32(0.5), "data": Path("x/y"), "sizes": (1, 2)}).close()
    open_log(tmp_path, announced, {"lr": 0.1}, resume_step=3).close()
    first, second = json.loads((tmp_path / "config.json").read_text())["starts"]
    assert first["config"] == {"lr": 0.5, "data": "x/y", "sizes": [1, 2]} and second["config"] == {"lr": 0.1}
    assert (first["resume_step"], second["resume_step"]) == (None, 3)
    assert first["versions"]["numpy"] == np.__version__ and first["git_sha"]
    assert any(first["git_sha"] in line and "numpy" in line for line in announced) and any(
        "lr=0.5" in line for line in announced
    )
    (tmp_path / "config.json").write_text("[")
    with pytest.raises(DataError, match="config.json is not readable JSON"):
        open_log(tmp_path, resume_step=1)


def test_bad_line_is_named(tmp_path):
    path = tmp_path / "log.jsonl"
    for bad in ("nonsense", "[1]", '{"loss": 1}'):
        path.write_text('{"step": 1}\n' + bad + "\n")
        with pytest.raises(DataError, match="line 2 is not a log entry"):
            read_log(path)


def events(folder):
    """All events of a folder, oldest first, read with TensorBoard's own record reader (checksums included)."""
    from tensorboard.compat.proto import event_pb2
    from tensorboard.compat.tensorflow_stub import errors, pywrap_tensorflow

    found = []
    for path in sorted(folder.glob("events.out.tfevents.*")):
        reader = pywrap_tensorflow.PyRecordReader_New(str(path))
        while True:
            try:
                reader.GetNext()
            except errors.OutOfRangeError:
                break
            found.append(event_pb2.Event.FromString(reader.record()))
    return found


def test_tensorboard_reads_scalars(tmp_path):
    pytest.importorskip("tensorboard")
    with open_log(tmp_path) as log:
        log.scalars(3, loss=0.25, pck=float("inf"))
        before_close = events(tmp_path)
    with open_log(tmp_path, resume_step=4):
        pass
    version, scalars, _, restart = events(tmp_path)
    assert len(before_close) == 2, "flushed record by record"
    assert version.file_version == "brain.Event:2"
    assert scalars.step == 3 and {v.tag: v.simple_value for v in scalars.summary.value} == {
        "loss": 0.25,
        "pck": float("inf"),
    }
    # what TensorBoard takes as the order to forget steps 5 and later
    assert restart.step == 5 and restart.session_log.status == restart.session_log.START


def test_without_tensorboard_it_says_so_and_logs_on(tmp_path):
    program = (
        "import sys; sys.modules['tensorboard'] = None\n"
        "from common.runs.runlog import RunLog\n"
        f"with RunLog({str(tmp_path)!r}, config={{}}) as log:\n"
        "    log.scalars(1, loss=2.0)\n"
    )
    run = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "TensorBoard is not installed" in run.stdout and "log.jsonl" in run.stdout
    assert len(read_log(tmp_path / "log.jsonl")) == 1 and not list(tmp_path.glob("events*"))


def test_no_framework_is_imported(tmp_path):
    program = (
        "import sys\n"
        "from common.runs.runlog import RunLog\n"
        "import common.draw, common.video, common.runs.checkpoints\n"
        "assert 'tensorboard' not in sys.modules\n"
        f"RunLog({str(tmp_path)!r}, config={{}}).scalars(1, loss=1)\n"
        "print(sorted({'torch', 'tensorflow', 'paddle', 'keras', 'chainer'} & set(sys.modules)))\n"
    )
    run = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[-1] == "[]"
