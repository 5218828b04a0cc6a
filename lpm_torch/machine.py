"""Where a run computes: device, processes, and the launch of one process a GPU."""

from __future__ import annotations

import os
import sys
from datetime import timedelta

from common.errors import DataError
from lpm_torch.config import Config


class Machine:
    """Device, rank and world size of this process. DataError when the settings name devices that are not there."""

    def __init__(self, config: Config):
        import torch

        self.rank, self.world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        local = int(os.environ.get("LOCAL_RANK", 0))
        ids = device_numbers(config.gpus) or [local]
        self.device = torch.device("cuda", ids[local % len(ids)]) if torch.cuda.is_available() else torch.device("cpu")
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)
            torch.backends.cudnn.benchmark = True  # crops have one size
        elif config.threads:
            torch.set_num_threads(config.threads)
        if self.world > 1 and not torch.distributed.is_initialized():
            # the others wait while one process validates
            torch.distributed.init_process_group(
                "nccl" if self.device.type == "cuda" else "gloo", timeout=timedelta(hours=4)
            )

    @property
    def is_main(self) -> bool:
        """Whether this process logs, validates and saves."""
        return self.rank == 0

    def native_amp(self, amp: str) -> str:
        """`--amp=auto` as bf16 where this device computes in it natively, else off; other values as they are.

        Elsewhere bf16 is emulated, on older CPUs many times slower than float32.
        """
        import torch

        if amp != "auto":
            return amp
        if self.device.type == "cuda":
            return "bf16" if torch.cuda.is_bf16_supported() else "off"
        asked = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")  # without a public name in torch 2.13
        return "bf16" if any(getattr(torch.cpu, name, bool)() for name in asked) else "off"

    def mean(self, value: float) -> float:
        """The mean of every process's `value`."""
        if self.world == 1:
            return value
        import torch

        total = torch.tensor(value, dtype=torch.float64, device=self.device)
        torch.distributed.all_reduce(total)
        return total.item() / self.world


def device_numbers(gpus: str | None) -> list[int]:
    """`--gpus=0,1` as numbers, [] for None. DataError for other text, or when a device is not there."""
    if not gpus:
        return []
    import torch

    try:
        ids = [int(g) for g in gpus.split(",")]
    except ValueError:
        raise DataError(f"--gpus={gpus} is not a list of device numbers such as 0,1") from None
    found = torch.cuda.device_count()
    if any(not 0 <= i < found for i in ids):
        remedy = "leave --gpus out to use the CPU" if found == 0 else f"the devices are 0 to {found - 1}"
        raise DataError(
            f"--gpus={gpus}, but PyTorch sees {found or 'no'} CUDA device{'s' if found > 1 else ''} here; {remedy}"
        )
    return ids


def launch_all_gpus(config: Config, script: str) -> None:
    """`--gpus=0,1` in a plain call: start `script` again under torch.distributed.run with one process a GPU."""
    if "WORLD_SIZE" in os.environ or not config.gpus:
        return
    count = len(device_numbers(config.gpus))
    if count > 1:
        command = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            f"--nproc_per_node={count}",
            script,
            *sys.argv[1:],
        ]
        os.execv(sys.executable, command)
