"""Which devices `--device` means, and which of them a process of PyTorch takes, with a stand-in for its CUDA."""

import os
import sys
from types import SimpleNamespace

import pytest

from common.errors import DataError
from common.runs.process import TorchProcess, device_numbers, launch, torch_device


@pytest.fixture
def torch():
    """What `torch_device` asks of PyTorch, on a machine with two GPUs."""
    made = SimpleNamespace(device=lambda *words: words, threads=None, chosen=None)
    made.set_num_threads = lambda count: setattr(made, "threads", count)
    made.cuda = SimpleNamespace(device_count=lambda: 2, set_device=lambda number: setattr(made, "chosen", number))
    made.backends = SimpleNamespace(cudnn=SimpleNamespace(benchmark=False))
    return made


def test_devices():
    assert device_numbers(None, 0) is None and device_numbers(None, 2) == [0] and device_numbers("cpu", 2) == []
    assert device_numbers("cuda", 1) == [0] and device_numbers("cuda:0,1", 2) == [0, 1]
    for text in ("cuda:x", "tpu", "cpu:0", "cuda:2", "cuda"):
        with pytest.raises(DataError, match="--device"):
            device_numbers(text, 0 if text == "cuda" else 2)


@pytest.mark.parametrize(
    ("device", "local", "world", "number"),
    [(None, 0, 0, 0), ("cuda", 0, 1, 0), ("cuda:1", 0, 0, 1), ("cuda:1", 0, 1, 1), ("cuda:1,0", 0, 0, 1),
     (None, 1, 2, 1), ("cuda", 1, 2, 1), ("cuda:1,0", 0, 2, 1), ("cuda:1,0", 1, 2, 0), (None, 1, 4, 1)],
)  # fmt: skip
def test_every_process_takes_a_gpu_of_its_own(torch, device, local, world, number):
    """Under torchrun `cuda` means all GPUs, in a plain call the first; a network alone takes the first of several."""
    assert torch_device(torch, device, 3, local, world) == ("cuda", number)
    assert torch.chosen == number and torch.threads == 3


def test_fewer_processes_than_gpus_take_the_first(torch):
    torch.cuda.device_count = lambda: 8
    assert torch_device(torch, None, None, 1, 4) == torch_device(torch, "cuda", None, 1, 4) == ("cuda", 1)


@pytest.mark.parametrize(("device", "local", "world"), [("cuda:0,1", 0, 1), ("cuda:1", 1, 2), (None, 2, 3)])
def test_gpus_that_are_not_one_a_process_are_refused(torch, device, local, world):
    with pytest.raises(DataError, match="start one a GPU, with torchrun"):
        torch_device(torch, device, None, local, world)
    assert torch.chosen is None


def test_the_cpu_takes_threads_and_no_gpu(torch, monkeypatch):
    assert torch_device(torch, "cpu", 2, 1, 2) == ("cpu",)
    assert (torch.threads, torch.chosen) == (2, None)
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "PADDLE_TRAINER_ID", "PADDLE_TRAINERS_NUM"):
        monkeypatch.delenv(name, raising=False)
    torch.distributed = None
    process = TorchProcess(torch, "cpu")
    assert process.is_main and process.device == ("cpu",) and process.mean(2.5) == 2.5


def test_several_gpus_in_a_plain_call_start_torchrun(torch, monkeypatch):
    started = []
    monkeypatch.setattr(os, "execv", lambda program, words: started.append([program, *words]))
    monkeypatch.setattr(sys, "argv", ["train.py", "--device=cuda:0,1", "--epochs=2"])
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    for device in (None, "cpu", "cuda", "cuda:1"):
        launch(torch, device, "train.py")
    assert not started
    launch(torch, "cuda:0,1", "train.py")
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "train.py"]
    assert started == [[sys.executable, sys.executable, *words, "--device=cuda:0,1", "--epochs=2"]]
    monkeypatch.setenv("WORLD_SIZE", "2")  # torchrun's own processes
    launch(torch, "cuda:0,1", "train.py")
    assert len(started) == 1
