"""How the programmes of all houses start and end: processes of a run, signals, messages, exit codes."""

from __future__ import annotations

import atexit
import ctypes
import gc
import importlib
import json
import os
import re
import shutil
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import nullcontext, suppress
from datetime import timedelta
from typing import Any

from common.errors import DataError


class Stopped(Exception):
    """A training that ended early because it was asked to; its state is saved."""


class Process:
    """One process of a run, by itself alone. A house's subclass brings its framework's device and collectives.

    `Trainer`s and `Session`s ask it who writes (`is_main`) and for agreement among the processes.
    """

    rank = 0
    world = 1

    @property
    def is_main(self) -> bool:
        """Whether this process logs, saves and speaks."""
        return self.rank == 0

    def any(self, flag: bool) -> bool:
        """Whether any process says so; all must ask at the same step."""
        return bool(self.mean(float(flag)) > 0)

    def mean(self, value: float) -> float:
        """Mean of every process's value."""
        return value

    def barrier(self) -> None:
        """Wait for the others."""
        self.mean(0.0)

    def close(self) -> None:
        """Leave the others."""


class TorchProcess(Process):
    """A process with its `device`, one of torchrun's if that started it. Its house hands over `torch`, as nothing here imports
    a framework. DataError for a device that is not there, or where GPUs are not one a process."""

    def __init__(self, torch: Any, device: str | None = None, threads: int | None = None):
        self.rank, self.world, local = environment_ranks()
        self.device = torch_device(torch, device, threads, local, self.world)
        self._torch, self._group = torch, torch.distributed
        if self.world > 1 and not self._group.is_initialized():
            # before there is a group: DDP imports it, and its default arguments keep the group for ever
            importlib.import_module("torch.distributed.nn")
            # the others wait while one process validates
            kind = "nccl" if self.device.type == "cuda" else "gloo"
            self._group.init_process_group(kind, timeout=timedelta(hours=4))
            atexit.register(self.close)

    def mean(self, value) -> Any:
        """The mean of every process's number or scalar tensor, on the device."""
        if self.world == 1:
            return value
        total = self._torch.as_tensor(value, dtype=self._torch.float64, device=self.device).clone()
        self._group.all_reduce(total)
        return total / self.world

    def barrier(self) -> None:
        """Wait for the others."""
        if self.world > 1:
            self._group.barrier()

    def close(self) -> None:
        """Leave the others; once more at exit, when DDP can be freed that holds the group. A thread of the group that
        gives a tensor back while the interpreter ends would abort the process."""
        if self.world > 1 and self._group.is_initialized():
            self._group.destroy_process_group()
        gc.collect()


class ClusterProcess(Process):
    """A process with several devices, or one of TF_CONFIG's. Its house hands over `tensorflow`; `strategy` is None where
    one process has one device."""

    strategy: Any = None

    def join(self, tensorflow: Any, devices: int) -> None:
        """Find the others, if there are any. DataError for a malformed TF_CONFIG."""
        self._tensorflow = tensorflow
        self.rank, self.world = cluster_ranks()
        if self.world > 1:
            self.strategy = tensorflow.distribute.MultiWorkerMirroredStrategy()
        elif devices > 1:
            self.strategy = tensorflow.distribute.MirroredStrategy()

    def scope(self):
        """The context in which variables are made."""
        return self.strategy.scope() if self.strategy else nullcontext()

    def mean(self, value: float) -> float:
        """Mean of every process's value."""
        if self.world == 1:
            return value
        own = self.strategy.experimental_distribute_values_from_function(lambda _: self._tensorflow.constant(value))
        return float(self.strategy.reduce("mean", own, axis=None))


class Interrupts:
    """Context in which Ctrl-C and SIGTERM set `asked` instead of ending the programme, so that a step is saved; a
    second one ends it, and the first while `at_once`: nothing is there to be saved."""

    def __enter__(self) -> Interrupts:
        self.asked = self.at_once = False
        self._before: dict = {}
        if threading.current_thread() is threading.main_thread():  # Python sets handlers there only
            self._before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def _note(self, *_) -> None:
        self.asked = True
        self._restore()
        if self.at_once:
            raise KeyboardInterrupt("stopped before the first step was done: nothing to save")

    def _restore(self, *_) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    __exit__ = _restore


def exit_code(work: Callable[[], object], done: str = "", remedy: str = "") -> int:
    """Do `work()`: 0 when it ends well, 2 on bad input (DataError, or a file that cannot be read or written), 1 when
    training diverged (FloatingPointError), 130 when it was stopped. Others are faults of ours and keep their traceback.

    `done` is printed after success with {} replaced by what `work` returned; `remedy` ends the message about a diverged
    training. Messages of errors go to standard error; with POSE_TRACEBACK=1 the error itself is raised. `keep_memory` holds from
    here on.
    """
    keep_memory()
    with suppress(AttributeError):  # file names may hold what no terminal shows
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        result = work()
    except (DataError, OSError) as error:
        if os.environ.get("POSE_TRACEBACK") == "1":
            raise
        print(f"error: {plain_message(error)}", file=sys.stderr)
        sys.unraisablehook = lambda _: None  # half-written archives complain once more when they are dropped
        return 2
    except FloatingPointError as error:
        print(f"stopped: {error}" + (f". {remedy}" if remedy else ""), file=sys.stderr)
        return 1
    except (RuntimeError, SystemError) as error:
        if not re.search(r"DataLoader \w+ \(pid|shared memory|Bus error|shm|queue is killed", str(error)):
            raise
        what = f"a loader process was killed; there is {shared_memory()} shared memory (/dev/shm) here"
        remedy = "free memory, give --workers 0, or the container more (docker run --shm-size=2g)"
        print(f"error: {what}; {remedy}", file=sys.stderr)
        return 2
    except (Stopped, KeyboardInterrupt) as stop:
        print(str(stop) or "stopped", file=sys.stderr)
        return 130
    if done and environment_ranks()[0] == 0:
        print(done.format(result))
    return 0


def keep_memory() -> None:
    """Have glibc, if that is the C library, keep freed memory for this process and those it forks, unless the environment
    says what to keep: the arrays of every step would otherwise be new pages, which the kernel fills with zeros one by one."""
    if any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ):
        return
    with suppress(AttributeError, OSError, TypeError):  # another library
        options, mmap_threshold, trim_threshold = ctypes.CDLL(None).mallopt, -3, -1
        # larger arrays, of whole data sets, go back; an older glibc takes 32 MiB at most
        if options(mmap_threshold, 1 << 28) or options(mmap_threshold, 1 << 25):
            options(trim_threshold, 1 << 30)


def shared_memory() -> str:
    """How much of it loader processes can hand over batches in, in words; Docker gives 64 MiB."""
    try:
        return f"{shutil.disk_usage('/dev/shm').total >> 20} MiB of"
    except OSError:
        return "no"


def plain_message(error: BaseException) -> str:
    """An error's own words; those that come out of a loader process of PyTorch carry that process's traceback."""
    text = str(error)
    return text.strip().splitlines()[-1].partition(": ")[2] if "Original Traceback" in text else text


def environment_ranks() -> tuple[int, int, int]:
    """(rank, world, local rank) as torchrun and `paddle.distributed.launch` set them; (0, 1, 0) in a plain call."""

    def number(*names: str, standard: int) -> int:
        return next((int(os.environ[n]) for n in names if n in os.environ), standard)

    rank = number("RANK", "PADDLE_TRAINER_ID", standard=0)
    world = number("WORLD_SIZE", "PADDLE_TRAINERS_NUM", standard=1)
    return rank, world, number("LOCAL_RANK", "PADDLE_LOCAL_RANK", standard=rank)


def cluster_ranks() -> tuple[int, int]:
    """(rank, world) by TF_CONFIG. DataError when it is malformed or has others than workers."""
    if "TF_CONFIG" not in os.environ:
        return 0, 1
    try:
        content = json.loads(os.environ["TF_CONFIG"])
        ((kind, workers),) = content["cluster"].items()
        if (kind, content["task"]["type"]) != ("worker", "worker"):
            raise ValueError("only workers, no chief or parameter servers")
        return int(content["task"]["index"]), len(workers)
    except (KeyError, ValueError, TypeError) as error:
        form = '{"cluster": {"worker": ["HOST:PORT", ...]}, "task": {"type": "worker", "index": N}}'
        raise DataError(f"the variable TF_CONFIG is not usable ({error!r}); set it to {form}") from error


def device_numbers(device: str | None, found: int) -> list[int] | None:
    """GPU numbers that `--device` asks for, of `found` that are there: [] for the CPU, None: not given and none there.

    `cuda` means the first, `cuda:0,1` these. DataError for other text or a device that is not there.
    """
    if device is None:
        return [0] if found else None
    match = re.fullmatch(r"cpu|(?:cuda|gpu)(?::(\d+(?:,\d+)*))?", device)
    if not match:
        raise DataError(f"--device {device} is not a device; write cpu, cuda, or cuda:0,1")
    wanted = [] if device == "cpu" else [int(n) for n in (match[1] or "0").split(",")]
    if missing := [n for n in wanted if n >= found]:
        have = f"the GPUs here are 0 to {found - 1}" if found else "no GPU is seen here; give --device cpu"
        raise DataError(f"--device {device}: there is no GPU {missing[0]}; {have}")
    return wanted


def torch_device(torch: Any, device: str | None, threads: int | None = None, local: int = 0, world: int = 0) -> Any:
    """The device of `--device`, of several GPUs that of process `local` on this machine, of `world` in all (0: the first);
    sets it, and threads. DataError as `TorchProcess`."""
    found, every = torch.cuda.device_count(), device in (None, "cuda") and world > 1
    numbers = list(range(found)) if every else device_numbers(device, found)
    if world and numbers and (local >= len(numbers) or (len(numbers) > world and not every)):
        raise DataError(f"--device: {world} processes for {len(numbers)} GPUs; start one a GPU, with torchrun")
    if threads:
        torch.set_num_threads(threads)
    if not numbers:
        return torch.device("cpu")
    torch.cuda.set_device(numbers[local])
    torch.backends.cudnn.benchmark = True  # crops have one size
    return torch.device("cuda", numbers[local])


def place(torch: Any, network: Any, device: Any, amp: str) -> Any:
    """A network of PyTorch on its device in the layout that is fastest there: bf16 convolutions are three times as fast with
    the channels last on CPUs too. DataError where bf16 would only be imitated, many times slower."""
    if amp == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise DataError("--amp bf16: this GPU has no bf16 of its own; leave --amp off")
    last = device.type == "cuda" or amp == "bf16"
    return network.to(device, memory_format=torch.channels_last if last else torch.preserve_format)


def autocast(torch: Any, device: Any, amp: str) -> Any:
    """The mixed-precision context of `--amp`."""
    return torch.autocast(device.type, torch.bfloat16) if amp == "bf16" else nullcontext()


def launch(torch: Any, device: str | None, script: str) -> None:
    """`--device cuda:0,1` in a plain call: start `script` again under torchrun, with one process a GPU."""
    count = len(device_numbers(device, torch.cuda.device_count()) or ())
    if "WORLD_SIZE" not in os.environ and count > 1:
        torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={count}"]
        os.execv(sys.executable, [sys.executable, *torchrun, script, *sys.argv[1:]])


def keras_devices(device: str | None, threads: int | None = None) -> int:
    """Show Keras's backend the GPUs of `device` alone, whose memory is taken as it is needed, and set threads, unless it is at
    work already; call it first. The number of these GPUs; DataError for one that is not there."""
    if os.environ.get("KERAS_BACKEND", "tensorflow") != "tensorflow":
        # PyTorch reads these when it is imported
        os.environ |= {"KERAS_TORCH_DEVICE": device} if device else {}
        os.environ |= {"OMP_NUM_THREADS": str(threads)} if threads else {}
        return 0
    from common.weights.tf1 import tensorflow

    config = tensorflow().config
    gpus = config.list_physical_devices("GPU")
    chosen = [gpus[n] for n in device_numbers(device, len(gpus)) or []]
    with suppress(RuntimeError):
        config.set_visible_devices(chosen, "GPU")
        for gpu in chosen:
            config.experimental.set_memory_growth(gpu, True)
        if threads:
            config.threading.set_intra_op_parallelism_threads(threads)
            config.threading.set_inter_op_parallelism_threads(max(1, threads // 2))
    return len(chosen)


def default_workers(most: int = 8) -> int:
    """Loader processes for the processors that this process may use, shared with those that torchrun or Paddle's launcher
    started beside it: one less than its part, at least 1."""
    beside = int(os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("PADDLE_LOCAL_SIZE") or 1)
    return max(1, min(most, len(os.sched_getaffinity(0)) // beside - 1))


def quiet_worker(_: int) -> None:
    """How a loader process begins: OpenCV starts no threads, and SIGINT and SIGTERM, which reach it too when they are sent
    to the whole group (Ctrl-C, `timeout`, a batch system), are left to the training process: it ends its step first."""
    import cv2

    cv2.setNumThreads(0)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
