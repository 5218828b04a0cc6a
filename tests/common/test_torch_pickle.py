"""PyTorch's checkpoint files without PyTorch, against PyTorch itself in a process of its own."""

import importlib.util
import subprocess
import sys

import numpy as np
import pytest

from common.errors import DataError
from common.weights.torch_pickle import read_torch, write_torch

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
torch.save(state, folder + "/new.pth.tar")
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
    assert state["epoch"] == 3 and state["perf"] == [1.5, "x", None]
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
            with pytest.raises(DataError, match="not a readable PyTorch checkpoint"):
                read_torch(tmp_path / name)


def test_other_types_are_refused(tmp_path):
    with pytest.raises(DataError, match="dtype complex128"):
        write_torch(tmp_path / "w.pth", {"x": np.zeros(2, complex)})
    with pytest.raises(DataError, match="does not exist"):
        read_torch(tmp_path / "nowhere.pth")
