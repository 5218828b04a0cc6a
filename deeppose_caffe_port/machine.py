"""Processes of a run: what torchrun says, and the group that they form."""

from __future__ import annotations

import os


def processes() -> tuple[int, int]:
    """(rank, world) from torchrun's environment, (0, 1) without it."""
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


def join(device: str) -> str:
    """Join the process group where there are several processes; the device of this one (`auto` and `cuda` take one GPU each)."""
    import torch

    _, world = processes()
    if world == 1:
        return device
    local = int(os.environ.get("LOCAL_RANK", 0))
    on_gpu = device.startswith("cuda") or (device == "auto" and torch.cuda.device_count() > local)
    if on_gpu:
        device = f"cuda:{local}"
        torch.cuda.set_device(local)
    else:
        device = "cpu"
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group("nccl" if on_gpu else "gloo")
    return device


def leave() -> None:
    """Leave the process group, if there is one."""
    import torch

    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
