"""Pickles of weights: PyTorch's against PyTorch itself in a process of its own, Paddle's, NumPy's; damaged and hostile ones."""

import argparse
import collections
import importlib.util
import pathlib
import pickle
import random
import subprocess
import sys
import tracemalloc
import zipfile

import numpy as np
import pytest

from common.errors import DataError
from common.weights import pickles
from common.weights.pickles import check_zip, read_npy, read_paddle, read_torch, write_torch

CASES = pathlib.Path(__file__).parent / "cases" / "weights"

WRITE = """
import collections, sys, torch
torch.manual_seed(0)
layer = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
tensors = {f"module.{k}": v for k, v in layer.state_dict().items()}
base = torch.arange(24, dtype=torch.float32).reshape(4, 6)
tensors |= {"view": base[1:3, ::2], "turned": base.t(), "scalar": torch.tensor(3.5), "empty": torch.zeros(0, 2), "half": base.half(), "b": base > 3}
tensors |= {"brain": base.bfloat16(), "long": torch.arange(3), "parameter": torch.nn.Parameter(base[0].clone()), "bytes": base.byte()}
state = {"epoch": 3, "state_dict": collections.OrderedDict(tensors), "optimizer": torch.optim.Adam(layer.parameters()).state_dict(), "perf": [1.5, "x", None]}
folder = sys.argv[1]
state["perf"].append(collections.deque([1, 2], maxlen=5))
state |= {"size": base.shape, "device": base.device, "counts": collections.defaultdict(int, a=1)}
torch.save(state, folder + "/new.pth.tar")
torch.save(layer, folder + "/whole.pth")
torch.save({"model": layer}, folder + "/whole_old.pth", _use_new_zipfile_serialization=False)
torch.save(state, folder + "/old.pth.tar", _use_new_zipfile_serialization=False)
import numpy as np
np.savez(folder + "/expected.npz", **{k: v.detach().float().numpy() for k, v in tensors.items()})
"""
READ = """
import sys, torch, numpy as np
found = torch.load(sys.argv[1], weights_only=True)
expected = np.load(sys.argv[2])
assert list(found) == list(expected.files), (list(found), expected.files)
for name, tensor in found.items():
    assert tensor.numpy().dtype == expected[name].dtype and np.array_equal(tensor.numpy(), expected[name]), name
"""


def _torch(code, *arguments):
    if importlib.util.find_spec("torch") is None:
        pytest.skip("PyTorch is not installed")
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("torch")
    _torch(WRITE, path)
    return path


@pytest.mark.parametrize("name", ["new.pth.tar", "old.pth.tar"])
def test_both_layouts(folder, name):
    state, expected = read_torch(folder / name), np.load(folder / "expected.npz")
    assert state["epoch"] == 3 and state["perf"] == [1.5, "x", None, [1, 2]]
    assert state["size"] == (4, 6) and state["device"] == "cpu" and state["counts"] == {"a": 1}
    assert list(state["state_dict"]) == expected.files
    for key, array in state["state_dict"].items():
        assert array.shape == expected[key].shape
        np.testing.assert_array_equal(array.astype(np.float32), expected[key], err_msg=key)
    assert state["state_dict"]["long"].dtype == np.int64 and state["state_dict"]["half"].dtype == np.float16


def test_what_we_write_pytorch_reads(tmp_path):
    rng = np.random.default_rng(0)
    tensors = {
        "conv.weight": rng.standard_normal((4, 3, 2, 2)).astype(np.float32),
        "scalar": np.array(2.5),
        "count": np.array([7]),
    }
    tensors["none"] = np.zeros((0, 3), np.float16)
    tensors |= {
        "turned": rng.standard_normal((3, 5)).T,
        "flags": np.array([True, False]),
        "bytes": np.arange(4, dtype=np.uint8),
    }
    write_torch(tmp_path / "w.pth", tensors)
    np.savez(tmp_path / "expected.npz", **tensors)
    again = read_torch(tmp_path / "w.pth")
    for name, array in tensors.items():
        np.testing.assert_array_equal(again[name], array, err_msg=name)
    _torch(READ, tmp_path / "w.pth", tmp_path / "expected.npz")


def test_damaged_files(folder, tmp_path):
    for name in ("new.pth.tar", "old.pth.tar"):
        data = (folder / name).read_bytes()
        for part in (data[: len(data) // 2], data[:20], b""):
            (tmp_path / name).write_bytes(part)
            with pytest.raises(DataError, match="is not a readable PyTorch checkpoint|is damaged"):
                read_torch(tmp_path / name)


def test_checksums(folder, tmp_path):
    """A bit anywhere in a member's bytes is noticed, by the reader and by the check that goes before `torch.load`."""
    check_zip(folder / "new.pth.tar")
    check_zip(folder / "old.pth.tar")
    data = (folder / "new.pth.tar").read_bytes()
    with zipfile.ZipFile(folder / "new.pth.tar") as archive:
        members = [m for m in archive.infolist() if m.file_size]
    for member in members:
        at = (
            member.header_offset
            + 30
            + int.from_bytes(data[member.header_offset + 26 : member.header_offset + 28], "little")
        )
        at += (
            int.from_bytes(data[member.header_offset + 28 : member.header_offset + 30], "little")
            + member.file_size // 2
        )
        (tmp_path / "a.pth").write_bytes(data[:at] + bytes([data[at] ^ 16]) + data[at + 1 :])
        for read in (check_zip, read_torch):
            with pytest.raises(DataError, match="a.pth is damaged .*(checksum|CRC)"):
                read(tmp_path / "a.pth")


@pytest.mark.parametrize("name", ["whole.pth", "whole_old.pth"])
def test_whole_modules_are_named(folder, name):
    with pytest.raises(DataError, match=r"a whole torch.nn.modules.container.Sequential was saved.*state_dict\(\)"):
        read_torch(folder / name)


def test_files_of_other_programs():
    """numpy scalars, a deque, a list of a class of the program's own."""
    scalars = read_torch(CASES / "np_scalar_zip.pth.tar")
    assert (scalars["epoch"], scalars["best_acc"], scalars["f32"]) == (3, 0.75, 2.5) and type(scalars["epoch"]) is int
    assert (
        read_torch(CASES / "deque_zip.pth.tar")["d"] == read_torch(CASES / "listsub_zip.pth.tar")["hist"] == [1, 2, 3]
    )
    assert scalars["state_dict"]["conv1.weight"].shape == (4, 3, 3, 3)


@pytest.mark.parametrize(
    "name",
    [
        "empty.pth.tar",
        "four_bytes.pth.tar",
        "stride0_2g.pth",
        "uninit_ndarray.pdparams",
        "poison.pdparams",
        "poison.npy",
    ],
)
def test_hostile_files(name):
    """Refused by name, without memory that is not theirs."""
    read = {".npy": read_npy, ".pdparams": read_paddle}.get(pathlib.Path(name).suffix, read_torch)
    tracemalloc.start()
    with pytest.raises(DataError, match=name):
        read(CASES / name)
    assert tracemalloc.get_traced_memory()[1] < 20 << 20
    tracemalloc.stop()


class Own(list):
    """A list of the program's own, with an attribute."""


class Table(dict):
    """A dict of the program's own."""


@pytest.mark.parametrize("protocol", range(6))
def test_plain_data(tmp_path, protocol):
    shared = np.arange(6, dtype=">i2").reshape(2, 3)
    value = {
        "namespace": argparse.Namespace(lr=0.1, name="x"),
        "own": Own([1, Own([2])]),
        "table": Table(a=Table(b=1)),
        "arrays": [
            shared,
            shared,
            np.asfortranarray(shared),
            np.array("text"),
            np.zeros((0, 3)),
            np.array([True, False]),
        ],
        "numbers": (np.float64(0.5), np.int64(7), np.bool_(True), 1 + 2j, 2**70, b"bytes", bytearray(b"b")),
        "kind": np.float32,
        "path": pathlib.PurePosixPath("a/b"),
        "set": {1, 2},
        "ordered": collections.OrderedDict(a=None),
    }
    with open(tmp_path / "a.pdparams", "wb") as file:
        pickle.dump(value, file, protocol=protocol)
    found = read_paddle(tmp_path / "a.pdparams")
    assert found["namespace"] == {"lr": 0.1, "name": "x"} and found["table"] == {"a": {"b": 1}}
    assert found["own"] == [1, [2]] and found["numbers"] == value["numbers"] and found["set"] == {1, 2}
    assert found["kind"] is None and found["path"] is None and found["ordered"] == {"a": None}
    assert found["arrays"][0] is found["arrays"][1] and found["arrays"][0].dtype == np.int16
    for array, expected in zip(found["arrays"], value["arrays"], strict=True):
        assert array.shape == expected.shape
        np.testing.assert_array_equal(array, expected)


def test_paddle_tensors(tmp_path):
    """A tensor is a pair of its name and an array; bfloat16 is uint16 there."""
    pair, bits = ("linear_0.w_0", np.ones(2, np.float32)), np.array([0x3F80, 0xC040], np.uint16)
    value = {"w": pair, "bf": ("x", bits), "StructuredToParameterName@@": {"w": "linear_0.w_0"}, "list": [pair]}
    with open(tmp_path / "a.pdparams", "wb") as file:
        pickle.dump(value, file)
    found = read_paddle(tmp_path / "a.pdparams")
    assert list(found) == ["w", "bf", "list"] and found["w"].tolist() == found["list"][0].tolist() == [1, 1]
    assert found["bf"].dtype == np.float32 and found["bf"].tolist() == [1, -3]


class Runs:
    """Its pickle would run a command."""

    def __reduce__(self):
        import os

        return os.system, ("echo must not run > ran",)


def test_nothing_runs_and_nothing_multiplies(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    level: list = []
    for _ in range(60):  # 2**60 lists, were references followed one by one
        level = [level, level]
    circle: list = []
    circle.append(circle)
    reads = {"a": Runs(), "b": level}
    refused = {
        "zeros": b"\x80\x02cbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85R.",
        "memo": b"\x80\x02]r\xff\xff\xff\x7f00.",
        "state of ours": b"\x80\x02ctorch\ndevice\n}b.",
        "class of ours": b"\x80\x02cnumpy\ndtype\n}X\x04\x00\x00\x00kindK\x01sb.",
        "extension": b"\x80\x02\x82\x01.",
        "circle": pickle.dumps(circle),
        "deep": b"\x80\x02" + b"]" * 50000 + b"a" * 49999 + b".",
    }
    pathlib.Path("reads").write_bytes(pickle.dumps(reads))
    assert read_paddle("reads")["a"] is None
    for name, data in refused.items():
        pathlib.Path(name).write_bytes(data)
        with pytest.raises(DataError, match=f"{name} is not a readable Paddle file"):
            read_paddle(name)
    assert not pathlib.Path("ran").exists()


def test_mutated_files(folder, tmp_path):
    """Whatever a few wrong bytes make of a pickle: read or refused."""
    sources = [
        (folder / "old.pth.tar").read_bytes(),
        (CASES / "poison.npy").read_bytes(),
        pickle.dumps([np.ones(3)], 2),
    ]
    rng = random.Random(5)
    for _ in range(400):
        data = bytearray(rng.choice(sources))
        for _ in range(rng.randint(1, 4)):
            data[rng.randrange(min(len(data), 2000))] = rng.randrange(256)
        (tmp_path / "m").write_bytes(data)
        for read in (read_torch, read_paddle, read_npy):
            try:
                read(tmp_path / "m")
            except DataError as error:
                assert "m is " in str(error)


@pytest.mark.parametrize("how", ["grows", "big-endian", "no pickle"])
def test_odd_archives(tmp_path, how):
    with zipfile.ZipFile(
        tmp_path / "a.pth", "w", zipfile.ZIP_DEFLATED if how == "grows" else zipfile.ZIP_STORED
    ) as archive:
        archive.writestr("a/data.pkl" if how != "no pickle" else "a/other", pickle.dumps({}) + bytes(1 << 20))
        archive.writestr("a/byteorder", "big" if how == "big-endian" else "little")
    with pytest.raises(DataError, match="a.pth is .*(unpacks to more|big-endian|no data.pkl)"):
        read_torch(tmp_path / "a.pth")


def test_arrays_of_objects(tmp_path):
    layers = {"conv1": {"weights": np.ones((2, 2)), "biases": np.zeros(2, np.float32)}}
    np.save(tmp_path / "dict.npy", np.array(layers, object), allow_pickle=True)
    np.save(tmp_path / "list.npy", np.array([None, layers], object), allow_pickle=True)
    for found in (read_npy(tmp_path / "dict.npy"), read_npy(tmp_path / "list.npy")[1]):
        np.testing.assert_array_equal(found["conv1"]["weights"], np.ones((2, 2)))
    np.save(tmp_path / "plain.npy", np.ones(3))
    with pytest.raises(DataError, match="plain.npy is not a readable .npy file of objects"):
        read_npy(tmp_path / "plain.npy")


def test_without_pytorch(tmp_path, monkeypatch):
    monkeypatch.setattr(
        pickles, "_WRITER", "import sys; sys.modules['torch'] = None; sys.exit(\"No module named 'torch'\")"
    )
    with pytest.raises(DataError, match="w.pth: PyTorch writes its files itself and is not here; pip install"):
        write_torch(tmp_path / "w.pth", {"x": np.zeros(2)})
    with pytest.raises(DataError, match="does not exist"):
        read_torch(tmp_path / "nowhere.pth")
    assert list(tmp_path.iterdir()) == []


def test_types_that_pytorch_lacks(tmp_path):
    with pytest.raises(OSError, match="w.pth cannot be written: TypeError"):
        write_torch(tmp_path / "w.pth", {"x": np.array(["text"])})
