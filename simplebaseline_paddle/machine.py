"""Where a run computes: device, vector units and processes."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

from common.errors import DataError


def use_vector_units(cpuinfo: str | Path = "/proc/cpuinfo") -> None:
    """Have Paddle's matrix library use AVX2 on AMD processors that have it. Call it before Paddle computes anything.

    The wheels carry the MKL of 2019, which takes every processor but Intel's for an old one and stays on SSE: a training step then takes
    several times the CPU time. A value that the user has set is left alone; newer MKL ignore it.
    """
    path = Path(cpuinfo)
    text = path.read_text(errors="replace") if path.is_file() else ""
    flags = next((line for line in text.splitlines() if line.startswith("flags")), "").split()
    if "AuthenticAMD" in text and {"avx2", "fma"} <= set(flags):
        os.environ.setdefault("MKL_DEBUG_CPU_TYPE", "5")


class Machine:
    """Device, rank and world size of this process; `python -m paddle.distributed.launch` sets the latter. DataError without the GPU asked for."""

    def __init__(self, use_gpu: bool | None = None, threads: int = 0):
        if threads:
            os.environ["OMP_NUM_THREADS"] = str(threads)  # read when Paddle is first imported
        use_vector_units()
        warnings.filterwarnings("ignore", "No ccache found")
        warnings.filterwarnings("ignore", "When training, we now always track")
        import paddle

        there = paddle.is_compiled_with_cuda() and paddle.device.cuda.device_count() > 0
        if use_gpu and not there:
            raise DataError(
                "--use_gpu, but PaddlePaddle sees no CUDA device here; leave it out, or install paddlepaddle-gpu"
            )
        self.gpu = there if use_gpu is None else use_gpu
        self.threads = threads
        self.rank, self.world = (
            int(os.environ.get("PADDLE_TRAINER_ID", 0)),
            int(os.environ.get("PADDLE_TRAINERS_NUM", 1)),
        )
        if self.world > 1:
            import paddle.distributed as distributed

            distributed.init_parallel_env()
        else:
            paddle.set_device("gpu" if self.gpu else "cpu")

    @property
    def is_main(self) -> bool:
        """Whether this process logs, validates and saves."""
        return self.rank == 0

    def mean(self, value: float) -> float:
        """The mean of a number over all processes, each of which must call this."""
        if self.world == 1:
            return value
        import paddle

        total = paddle.to_tensor([value], dtype="float64")
        paddle.distributed.all_reduce(total)
        return float(total) / self.world
