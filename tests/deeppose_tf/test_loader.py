"""Both loaders give the same batches whatever the number of workers, also where a run is resumed. They run in a process of their own, which
imports no framework, as training starts them."""

import json
import subprocess
import sys

import numpy as np

from deeppose_tf import data, loader
from deeppose_tf.sources import read_csv
from tests.deeppose_tf.tiny import write_persons

PROGRAM = """
import hashlib, json, sys
from deeppose_tf import data, loader
from deeppose_tf.sources import read_csv

def main():
    path, kind, workers, first, steps = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])
    persons = data.Persons(read_csv(path), "correct", cache_mb=1)
    crops = data.Crops("correct", (1.0, 2.0), 0.1, True, 0.0, ((0, 5), (1, 4)))
    stream = data.Stream(persons, crops, 5, data.Share(first, steps, 4, 0, 1))
    ready = loader.batches(stream, 4, kind=kind, workers=workers)
    found = [[hashlib.sha256(part.tobytes()).hexdigest() for part in batch] + [len(batch[0])] for batch in ready]
    print(json.dumps({"batches": found, "frameworks": [m for m in ("tensorflow", "keras", "torch") if m in sys.modules]}))

if __name__ == "__main__":
    main()
"""


def batches_of(tmp_path, csv, *arguments):
    script = tmp_path / "program.py"
    script.write_text(PROGRAM)
    import os
    import pathlib

    root = str(pathlib.Path(loader.__file__).parents[1])
    answer = subprocess.run([sys.executable, str(script), str(csv), *map(str, arguments)], capture_output=True, text=True, timeout=120,
                            env={**os.environ, "PYTHONPATH": root})  # fmt: skip
    assert answer.returncode == 0, answer.stderr[-3000:]
    found = json.loads(answer.stdout.splitlines()[-1])
    assert not found["frameworks"]
    return found["batches"]


def test_same_batches_from_both_loaders(tmp_path):
    csv = write_persons(tmp_path / "d", 10)
    expected = batches_of(tmp_path, csv, "pool", 1, 0, 5)  # two epochs: the third batch straddles them
    assert len(expected) == 5 and len({b[0] for b in expected}) == 5
    assert batches_of(tmp_path, csv, "pool", 2, 0, 5) == expected
    assert batches_of(tmp_path, csv, "chainer", 1, 0, 5) == expected
    assert batches_of(tmp_path, csv, "chainer", 2, 8, 3) == expected[2:]  # a resumed run


ENDINGS = """
import sys
from deeppose_tf import data, loader
from deeppose_tf.sources import read_csv

def main():
    persons = data.Persons(read_csv(sys.argv[1]), "correct", cache_mb=1)
    crops = data.Crops("correct", (1.0, 2.0), 0.1, True, 0.0, ((0, 5), (1, 4)))
    stream = data.Stream(persons, crops, 5, data.Share(0, 400, 4, 0, 1))
    for _ in range(int(sys.argv[2])):
        ready = loader.batches(stream, 4, kind="pool", workers=2)
        for _ in range(3):
            next(ready)
        del ready
    print("ended")

if __name__ == "__main__":
    main()
"""


def test_a_pool_can_be_ended_early(tmp_path):
    """Batches that nobody takes any more, in the middle of a result: multiprocessing.Pool hung now and then."""
    import os
    import pathlib

    script, root = tmp_path / "program.py", str(pathlib.Path(loader.__file__).parents[1])
    script.write_text(ENDINGS)
    csv = write_persons(tmp_path / "d", 10)
    command, environment = [sys.executable, str(script), str(csv), "12"], {**os.environ, "PYTHONPATH": root}
    answer = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    assert answer.stdout.strip() == "ended", answer.stderr[-3000:]


def test_in_order(tmp_path):
    persons = data.Persons(read_csv(write_persons(tmp_path, 7)), "correct")
    crops = data.Crops.for_testing("correct", (1.2, 1.2))
    found = list(loader.in_order(persons, crops, 3))
    assert [len(b[0]) for b in found] == [3, 3, 1]
    for i, box in enumerate(np.concatenate([b[3] for b in found])):
        assert np.array_equal(box, data.example(persons, i, crops, np.random.RandomState(0))[3])


def test_the_benchmark_names_no_folders(tmp_path):
    """`bench loader` runs both loaders on an LSPET folder and writes a table for the README with the command as others would type it."""
    import os
    import pathlib

    from common.datasets import synthetic

    synthetic.make("lspet", tmp_path / "lspet", 6)
    written, root = tmp_path / "loader.json", pathlib.Path(loader.__file__).parents[1]
    command = f"-m tests.bench.deeppose_tf loader --images {tmp_path / 'lspet'} --batch_size 2 --json {written}".split()
    environment = {**os.environ, "PYTHONPATH": str(root)}
    answer = subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=120, env=environment)
    assert answer.returncode == 0, answer.stderr[-3000:]
    found = json.loads(written.read_text())
    assert found["command"] == "python tests/bench/deeppose_tf.py loader --images DIR --batch_size 2"
    assert str(tmp_path) not in found["note"]
    assert len(found["rows"]) == 2 and all(value > 0 for row in found["rows"] for value in row[1:])
    assert "crops a second" in answer.stdout
