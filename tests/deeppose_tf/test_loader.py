"""The loader gives the same batches whatever the number of workers, also where a run is resumed; it ends early, and
with an error where a worker is lost. It runs in a process of its own, which imports no framework."""

import hashlib
import json
import os
import pathlib
import signal
import subprocess
import sys

import numpy as np

from deeppose_tf import data, loader
from deeppose_tf.config import Config
from deeppose_tf.csv_files import read_csv
from tests.deeppose_tf.conftest import plain_batches
from tests.deeppose_tf.tiny import write_persons

ROOT = str(pathlib.Path(loader.__file__).parents[1])
PROGRAM = """
import hashlib, json, sys
from deeppose_tf import data, loader
from deeppose_tf.config import Config
from deeppose_tf.csv_files import read_csv

def ready(workers, first, steps):
    persons = data.Persons(read_csv(sys.argv[1], Config()), "correct")
    crops = data.Crops("correct", (1.0, 2.0), 0.1, True, 0.0, ((0, 5), (1, 4)))
    stream = data.Stream(persons, crops, 5, first, steps, 4)
    return loader.batches(stream, 4, workers)

def main():
    BODY

if __name__ == "__main__":
    main()
"""
HASHES = """
    for workers, first, steps in json.loads(sys.argv[2]):
        made = ready(workers, first, steps)
        found = [[hashlib.sha256(part.tobytes()).hexdigest() for part in b] + [len(b[0])] for b in made]
        print(json.dumps(found))
    assert not {"tensorflow", "keras", "torch"} & set(sys.modules)
"""
KILLED = """
    import multiprocessing, os, signal
    started = ready(2, 0, 400)
    next(started)
    for child in multiprocessing.active_children():
        os.kill(child.pid, signal.SIGTERM)  # as `timeout` and SLURM, which mean the main process alone
    next(started)
    print("goes on")
    os.kill(child.pid, signal.SIGKILL)
    list(started)
"""
ORPHANED = """
    import os, signal
    started = ready(2, 0, 400)
    next(started)
    os.kill(os.getpid(), signal.SIGKILL)
"""
STOPPED = """
    import signal
    started = ready(4, 0, 400)
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, 0.3)  # while the processes start
    try:
        next(started)
        signal.pause()
    except KeyboardInterrupt:
        print("stopped")
"""
UNREADABLE = """
    import os
    started = ready(1, 0, 5)
    os.remove(sys.argv[2])
    print(*sorted({int(row) for batch in started for row in batch[-1]}))
"""


def run(tmp_path, body, csv, *arguments):
    script = tmp_path / "program.py"
    script.write_text(PROGRAM.replace("BODY", body.strip()))
    return subprocess.run(
        [sys.executable, str(script), str(csv), *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": ROOT},
    )


def test_batches_do_not_depend_on_workers(tmp_path):
    """Those of a loop in one process. Two epochs: the third batch straddles them; the last is a resumed run."""
    csv = write_persons(tmp_path / "d", 10)
    answer = run(tmp_path, HASHES, csv, json.dumps([(2, 0, 5), (1, 8, 3)]))
    assert answer.returncode == 0, answer.stderr[-3000:]
    found, resumed = map(json.loads, answer.stdout.splitlines()[-2:])
    persons = data.Persons(read_csv(csv, Config()), "correct")
    crops = data.Crops("correct", (1.0, 2.0), 0.1, True, 0.0, ((0, 5), (1, 4)))
    plain = plain_batches(data.Stream(persons, crops, 5, 0, 5, 4), 4, 1)
    expected = [[hashlib.sha256(part.tobytes()).hexdigest() for part in b] + [4] for b in plain]
    assert found == expected and resumed == expected[2:] and len({b[0] for b in expected}) == 5


def test_the_row_of_an_unreadable_picture_is_told(tmp_path):
    csv = write_persons(tmp_path / "d", 5)
    answer = run(tmp_path, UNREADABLE, csv, str(tmp_path / "d/im0003.jpg"))
    assert answer.stdout == "-1 2\n", answer.stderr[-3000:]


def test_a_killed_worker_ends_it(tmp_path):
    answer = run(tmp_path, KILLED, write_persons(tmp_path / "d", 10))
    assert answer.returncode == 1 and "a loader process was ended from outside" in answer.stderr
    assert answer.stdout == "goes on\n"


def test_stopped_while_workers_start(tmp_path):
    """Nobody who is still starting finds his semaphores gone and says so."""
    answer = run(tmp_path, STOPPED, write_persons(tmp_path / "d", 10))
    assert (answer.returncode, answer.stdout) == (0, "stopped\n") and "Traceback" not in answer.stderr, answer.stderr


def test_workers_end_with_the_main_process(tmp_path):
    """They do not hear SIGTERM, but notice; `run` waits for all who hold its pipes."""
    assert run(tmp_path, ORPHANED, write_persons(tmp_path / "d", 10)).returncode == -signal.SIGKILL


def test_in_order(tmp_path):
    persons = data.Persons(read_csv(write_persons(tmp_path, 7), Config()), "correct")
    crops = data.Crops("correct", (1.2, 1.2))
    found = list(loader.in_order(persons, crops, 3))
    assert [len(b[0]) for b in found] == [3, 3, 1]
    for i, box in enumerate(np.concatenate([b[3] for b in found])):
        assert np.array_equal(box, data.example(persons, i, crops, np.random.RandomState(0))[3])


def test_the_benchmark_names_no_folders(tmp_path):
    """`bench loader` runs on an LSPET folder and writes a table for the README with the command as others
    would type it."""
    from common.datasets import synthetic

    synthetic.make("lspet", tmp_path / "lspet", 6)
    written = tmp_path / "loader.json"
    command = f"-m tests.bench.deeppose_tf loader --images {tmp_path / 'lspet'} --batch_size 2 --json {written}".split()
    environment = {**os.environ, "PYTHONPATH": ROOT}
    answer = subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=120, env=environment)
    assert answer.returncode == 0, answer.stderr[-3000:]
    found = json.loads(written.read_text())
    assert found["command"] == "python tests/bench/deeppose_tf.py loader --images DIR --batch_size 2"
    assert len(found["rows"]) == 1 and all(value > 0 for row in found["rows"] for value in row[1:])
