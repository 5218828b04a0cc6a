"""PyTorch's `meta` device in place of a GPU: its tensors refuse to meet those of the CPU, and hold no values.

What runs there has all its tensors in one place and reads nothing back: that raises. Inside `no_waiting` a copy to the
device raises too unless it is `non_blocking`: on a GPU it would wait until all work is done.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

FAR = torch.device("meta")
MADE = {torch.tensor, torch.as_tensor, Tensor.new_tensor}  # out of numbers of the CPU


@contextmanager
def no_waiting() -> Iterator[None]:
    """Nothing in this context may wait for FAR."""
    with _Made(), _Copied():
        yield


class _Made(TorchFunctionMode):
    def __torch_function__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        if function in MADE and not isinstance(args[-1], Tensor):
            assert made.device != FAR, f"{function.__name__}({args[-1]}) waits for the device"
        return made


class _Copied(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function is torch.ops.aten._to_copy.default and args[0].device.type == "cpu":
            there = torch.device(kwargs.get("device") or "cpu") == FAR
            assert not there or kwargs.get("non_blocking"), f"a copy of {tuple(args[0].shape)} waits for the device"
        return function(*args, **kwargs)
