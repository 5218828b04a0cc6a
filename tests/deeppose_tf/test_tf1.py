"""TensorFlow 1 checkpoints: what TensorFlow writes is read, and the other way round; folders that moved; damaged
files."""

import os
import pathlib
import shutil
import sys

import numpy as np
import pytest

from common.errors import DataError
from common.weights import tf1
from common.weights.tf1 import find_checkpoint, read_checkpoint, tensorflow, write_v1, write_v2

CASES = pathlib.Path(__file__).parents[1] / "common" / "cases" / "weights"
VARIABLES = {
    "a/w": np.arange(6, dtype=np.float32).reshape(2, 3),
    "one_part": np.array(30, np.int32),
    "a/empty": np.zeros((0, 2), np.float32),
    "a/double": np.linspace(0, 1, 5),
}


@pytest.fixture(params=[write_v1, write_v2])
def written(request, tmp_path):
    """A checkpoint of each format; (path, files)."""
    path = request.param(tmp_path / "checkpoint-7", VARIABLES)
    return path, sorted(tmp_path.iterdir())


def same(found, expected):
    """Names, types and values."""
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[n], v) and found[n].dtype == v.dtype for n, v in expected.items())


def test_tensorflow_reads_what_is_written(written):
    path, files = written
    reader = tensorflow().train.load_checkpoint(str(path))
    assert all(np.array_equal(reader.get_tensor(n), v) for n, v in VARIABLES.items())
    assert [f.name.startswith("checkpoint-7") for f in files] == [True] * len(files), "nothing temporary is left"
    same(read_checkpoint(path), VARIABLES)


@pytest.mark.parametrize("version", [1, 2])
def test_what_a_saver_writes(tmp_path, version):
    """Both formats, with a partitioned variable."""
    v1 = tensorflow().compat.v1
    with tensorflow().Graph().as_default(), v1.Session() as session:
        variables = {n: v1.get_variable(n.replace("/", "_"), initializer=v) for n, v in VARIABLES.items()}
        split = v1.get_variable(
            "split", (5, 3), initializer=v1.ones_initializer(), partitioner=v1.fixed_size_partitioner(2)
        )
        session.run(v1.global_variables_initializer())
        v1.train.Saver({**variables, "split": split}, write_version=version).save(session, str(tmp_path / "c"))
    same(read_checkpoint(tmp_path / "c"), {**VARIABLES, "split": np.ones((5, 3), np.float32)})


def test_types_that_numpy_lacks(tmp_path):
    """bfloat16 comes as float32, complex as itself; texts, as TensorFlow 2 adds, are no variables."""
    tf = tensorflow()
    values = [tf.constant([1.5, -2], tf.bfloat16), tf.constant([1j], tf.complex64), tf.constant("graph")]
    tf.raw_ops.SaveV2(
        prefix=str(tmp_path / "c"), tensor_names=["b", "c", "t"], shape_and_slices=[""] * 3, tensors=values
    )
    same(read_checkpoint(tmp_path / "c"), {"b": np.array([1.5, -2], np.float32), "c": np.array([1j], np.complex64)})


def test_snappy():
    found = read_checkpoint(CASES / "snappy" / "variables")
    assert {n: float(v) for n, v in found.items()} == {"a": 0.5, "a2": 0.5, "b": 2, "c": 3, "c2": 3}


def test_every_name_of_a_checkpoint(written):
    path, files = written
    for name in (path, *files, path.with_name("checkpoint-7.meta")):
        if name.suffix == ".meta":
            name.write_bytes(b"graph")
        assert find_checkpoint(name) == path
    assert find_checkpoint(path.with_name("checkpoint-8")) is None and find_checkpoint(path.parent) is None


@pytest.mark.parametrize("named", ["checkpoint-7", "/home/somebody/run/checkpoint-7", r"C:\\run\\checkpoint-7"])
def test_folders_that_moved(written, named):
    path, _ = written
    (path.parent / "checkpoint").write_text(
        f'model_checkpoint_path: "{named}"\nall_model_checkpoint_paths: "{named}"\n'
    )
    assert find_checkpoint(path.parent) == path


def test_names_that_are_patterns(written):
    path, files = written
    folder = path.parent / "run [1]*?"
    folder.mkdir()
    for file in files:
        shutil.move(file, folder)
    same(read_checkpoint(folder / path.name), VARIABLES)


def test_damaged_files(written):
    """A bit in the middle, half a file, no file, another kind of file, a footer of zeros: always refused, never read
    wrongly."""
    path, files = written
    for file in files:
        whole = file.read_bytes()
        flipped = bytearray(whole)
        flipped[len(whole) // 2] ^= 4
        for content in (flipped, whole[: len(whole) // 2], b"", b"text" * 100, whole[:-48] + bytes(48), None):
            file.unlink() if content is None else file.write_bytes(content)
            with pytest.raises(DataError, match=r"checkpoint-7.* (cannot be read|does not exist)"):
                read_checkpoint(path)
        file.write_bytes(whole)
    same(read_checkpoint(path), VARIABLES)


def test_without_tensorflow(written, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(DataError, match="TensorFlow.* cannot be imported.*requirements.txt"):
        read_checkpoint(written[0])


def test_a_disk_that_takes_nothing(tmp_path):
    for write in (write_v1, write_v2):
        (tmp_path / "file").write_text("")
        with pytest.raises(OSError, match="file"):
            write(tmp_path / "file" / "c", VARIABLES)


def test_notes_of_its_libraries_are_left_out_and_errors_are_not(capfd):
    with tf1._without_notes():
        os.write(
            2, b"WARNING: All log messages before absl::InitializeLog() is called\nI0000 00:00:17 port.cc:1] a note\n"
        )
        os.write(2, b"E0000 00:00:17 cuda.cc:5] no driver\nI see\n")
    print("afterwards", file=sys.stderr)
    assert capfd.readouterr().err == "E0000 00:00:17 cuda.cc:5] no driver\nI see\nafterwards\n"
