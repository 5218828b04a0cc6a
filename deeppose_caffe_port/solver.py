"""Caffe's solver: nets of a solver prototxt, iterations, tests, log lines, snapshots and how to go on from them.

`Solver` holds the state and knows what one iteration is; `engine.train_steps` runs it.
"""

from __future__ import annotations

import math
import os
import time
from collections import deque
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch

from common.errors import DataError
from common.weights.caffe import read_solverstate, write_solverstate
from common.weights.caffe_text import TextFile, read_text
from deeppose_caffe_port.augment import Augment
from deeppose_caffe_port.data import Prefetch
from deeppose_caffe_port.learning_rate import LearningRate, check_policy
from deeppose_caffe_port.model import TEST, TRAIN, CaffeNet
from deeppose_caffe_port.random_stream import CaffeRandom
from deeppose_caffe_port.updates import Updater

_NET_FIELDS = ("net", "net_param", "train_net", "train_net_param")


@dataclass
class Options:
    """What a prototxt cannot say."""

    device: str = "auto"  # auto: what solver_mode asks for, if it is there
    euclidean: str = "modified"  # or stock
    masked: bool = False
    amp: str = "off"  # or bf16
    compile: bool = False
    augment: Augment = Augment()  # of training batches
    rank: int = 0
    world: int = 1


def choose_device(wanted: str, gpu_mode: bool = True) -> torch.device:
    """`auto` -> CUDA in GPU mode where there is any, else the CPU. DataError for a device that is not there."""
    if wanted == "auto":
        wanted = "cuda" if gpu_mode and torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(wanted)
    except RuntimeError as error:
        raise DataError(f"--device {wanted} is not a device; use cpu, cuda or cuda:N") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise DataError(
            f"--device {wanted}: PyTorch sees {torch.cuda.device_count()} CUDA devices here; use --device cpu"
        )
    return device


class Solver:
    """One training as a solver prototxt describes it. `announce` receives Caffe's log lines; `on_values(iteration, values)` the same as numbers."""

    def __init__(self, path: str | Path, folder: str | Path = ".", options: Options | None = None,
                 announce: Callable[[str], None] = print, on_values: Callable[[int, dict], None] | None = None):  # fmt: skip
        """`folder`: where relative paths of the prototxt start. DataError for anything in it that cannot be."""
        self.path, self.folder, self.options = Path(path), Path(folder), options or Options()
        self.announce, self.on_values = announce, on_values or (lambda iteration, values: None)
        self.param = read_text(path, "SolverParameter").message
        self._check()
        self.device = choose_device(self.options.device, self.param.solver_mode == 1)
        self.random = CaffeRandom(self.param.random_seed)
        self.net = self._build_net(TRAIN, self._train_text(), self.param.train_state)
        self.test_nets = [self._build_net(TEST, text, state) for text, state in self._test_texts()]
        self._place()
        self.rate, self.iteration, self.started = LearningRate(self.param), 0, 0
        self.updater = Updater(self.param, list(self.net.blobs()), str(path))
        self.losses: deque = deque(maxlen=max(self.param.average_loss, 1))
        self._feeds: dict[int, Prefetch | None] = {}
        self._clock = (time.monotonic(), 0)

    def _check(self) -> None:
        p, name = self.param, str(self.path)
        check_policy(p, name)
        nets = [f for f in _NET_FIELDS if p.HasField(f)]
        if len(nets) != 1:
            raise DataError(
                f"{name}: exactly one of {', '.join(_NET_FIELDS)} must be given; found {', '.join(nets) or 'none'}"
            )
        for field in ("max_iter",):
            if not p.HasField(field):
                raise DataError(f"{name}: field {field} is missing")
        if p.snapshot_format == 0:
            raise DataError(f"{name}: snapshot_format HDF5 is not supported; use BINARYPROTO")
        if p.iter_size < 1:
            raise DataError(f"{name}: iter_size is {p.iter_size}; it must be at least 1")
        if (p.test_iter or p.test_interval) and not (p.test_iter and p.test_interval > 0):
            raise DataError(f"{name}: test_iter and test_interval belong together; give both or none")

    def _file(self, path: str) -> TextFile:
        return read_text(self.folder / path, "NetParameter")

    def _train_text(self) -> TextFile:
        p = self.param
        if p.HasField("net") or p.HasField("train_net"):
            return self._file(p.net or p.train_net)
        return TextFile(p.net_param if p.HasField("net_param") else p.train_net_param, {}, str(self.path))

    def _test_texts(self) -> list[tuple]:
        """(net, state) of each test net: test_net files and messages first, the common net for what test_iter has besides."""
        p = self.param
        if not p.test_iter:
            return []
        texts = [self._file(n) for n in p.test_net] + [TextFile(n, {}, str(self.path)) for n in p.test_net_param]
        missing = len(p.test_iter) - len(texts)
        if missing and not (p.HasField("net") or p.HasField("net_param")):
            raise DataError(f"{self.path}: {len(p.test_iter)} values of test_iter for {len(texts)} test nets")
        texts += [self._train_text() for _ in range(missing)]
        states = list(p.test_state) or [None] * len(texts)
        if len(states) != len(texts):
            raise DataError(f"{self.path}: {len(states)} values of test_state for {len(texts)} test nets")
        return list(zip(texts, states))

    def _build_net(self, phase: int, text: TextFile, state) -> CaffeNet:
        o, state = self.options, state or self.param.train_state
        stages = [*text.message.state.stage, *state.stage]
        # Caffe's masks need the CPU; on a device, and where the graph is compiled, the device draws them
        dropout = "caffe" if self.device.type == "cpu" and not o.compile else "torch"
        parallel = {"rank": o.rank, "world": o.world} if phase == TRAIN else {}
        return CaffeNet(
            text, phase, self.folder, random=self.random, level=max(state.level, text.message.state.level), stages=stages,
            euclidean=o.euclidean, masked=o.masked, dropout=dropout, **parallel,
        )  # fmt: skip

    def _place(self) -> None:
        last = self.device.type == "cuda" or self.options.amp == "bf16"
        layout = {"memory_format": torch.channels_last} if last else {}
        self.net.to(self.device, **layout)
        for net in self.test_nets:
            net.to(self.device, **layout)
            net.share_with(self.net)
        network = torch.compile(self.net) if self.options.compile else self.net
        if self.options.world > 1:
            network = torch.nn.parallel.DistributedDataParallel(network, broadcast_buffers=False)
        self.network = network

    @property
    def is_main(self) -> bool:
        """Whether this process logs, tests and writes."""
        return self.options.rank == 0

    def say(self, line: str) -> None:
        """Log a line, once for all processes."""
        if self.is_main:
            self.announce(line)

    def _next(self, number: int, net: CaffeNet) -> dict:
        if number not in self._feeds:
            sources = net.sources()
            self._feeds[number] = Prefetch(sources, self.device) if sources else None
        feed = self._feeds[number]
        feeds = feed.next() if feed else {}
        if self.options.augment and number == 0:
            for pixels, labels in net.sources():
                feeds[pixels], feeds[labels] = self.options.augment(feeds[pixels], feeds[labels])
        return feeds

    def _forward(self, network, net: CaffeNet, number: int):
        feeds = self._next(number, net)
        with torch.autocast(self.device.type, torch.bfloat16) if self.options.amp == "bf16" else nullcontext():
            return network(feeds)

    def iterate(self) -> None:
        """One iteration: test if due, iter_size forward and backward passes, log, update, snapshot if due."""
        p, it = self.param, self.iteration
        for blob in self.updater.blobs:
            blob.tensor.grad = None
        if p.test_interval and it % p.test_interval == 0 and (it > 0 or p.test_initialization):
            self.test()
        total = 0.0
        for part in range(p.iter_size):
            waits = self.options.world > 1 and part < p.iter_size - 1
            with self.network.no_sync() if waits else nullcontext():
                outputs, loss = self._forward(self.network, self.net, 0)
                if loss is None:
                    raise DataError(f"{self.net.file}: the train net has no loss layer")
                loss.backward()
            total = total + loss.detach() / p.iter_size
        self.losses.append(total)
        rate = self.rate.at(it)
        if p.display and it % p.display == 0:
            self._display(outputs, rate)
        clipped = self.updater.clip()
        if clipped:
            self.say(clipped)
        self.updater.step(rate, it)
        self.iteration += 1
        if p.snapshot and self.iteration % p.snapshot == 0:
            self.snapshot()

    def smoothed_loss(self) -> float:
        """Mean loss of the last average_loss iterations; FloatingPointError when it is not finite."""
        value = float(sum(self.losses)) / len(self.losses)
        if not math.isfinite(value):
            raise FloatingPointError(
                f"the loss is {value} at iteration {self.iteration}: training diverged; lower base_lr or set clip_gradients, and go on from a snapshot"
            )
        return value

    def _display(self, outputs: dict, rate: float) -> None:
        loss, it, now = self.smoothed_loss(), self.iteration, time.monotonic()
        if not self.is_main:
            return
        elapsed, done = now - self._clock[0], it - self._clock[1]
        self._clock = (now, it)
        self.announce(
            f"Iteration {it} ({done / max(elapsed, 1e-9):.5g} iter/s, {elapsed:.5g}s/{self.param.display} iters), loss = {loss:.6g}"
        )
        self._announce_outputs("Train", self.net, outputs)
        self.announce(f"Iteration {it}, lr = {rate:.6g}")
        self.on_values(it, {"loss": loss, "lr": rate})

    def _announce_outputs(self, kind: str, net: CaffeNet, outputs: dict) -> None:
        number = 0
        for name, value in outputs.items():
            weight = net.loss_weights.get(name, 0)
            for element in value.flatten().tolist():
                tail = f" (* {weight:.6g} = {weight * element:.6g} loss)" if weight else ""
                self.announce(f"    {kind} net output #{number}: {name} = {element:.6g}{tail}")
                number += 1

    @torch.no_grad()
    def test(self) -> list[dict]:
        """Every test net's mean outputs over its test_iter batches."""
        results = []
        for i, (net, batches) in enumerate(zip(self.test_nets, self.param.test_iter)):
            if not self.is_main:
                continue
            self.announce(f"Iteration {self.iteration}, Testing net (#{i})")
            sums: dict = {}
            for _ in range(batches):
                for name, value in self._forward(net, net, i + 1)[0].items():
                    sums[name] = sums.get(name, 0) + value.float()
            means = {name: value / batches for name, value in sums.items()}
            self._announce_outputs("Test", net, means)
            self.on_values(
                self.iteration, {f"test_{name}": float(value) for name, value in means.items() if value.numel() == 1}
            )
            results.append(means)
        if self.options.world > 1:
            torch.distributed.barrier()
        return results

    def finish(self) -> None:
        """What Caffe does behind the last iteration: snapshot, a last training loss, a last test."""
        p, it = self.param, self.iteration
        if p.snapshot_after_train and (not p.snapshot or it % p.snapshot):
            self.snapshot()
        if p.display and it % p.display == 0:
            with torch.no_grad():
                self.losses.append(self._forward(self.net, self.net, 0)[1])
            loss = self.smoothed_loss()
            self.say(f"Iteration {it}, loss = {loss:.6g}")
        if p.test_interval and it % p.test_interval == 0:
            self.test()
        self.say("Optimization Done.")

    def positions(self) -> dict[int, dict[str, int]]:
        """Record that each reader goes on with: by net (0 the train net, then the test nets) and first top of the Data layer."""
        return {number: feed.positions for number, feed in self._feeds.items() if feed}

    def close(self) -> None:
        """End the reading threads."""
        for feed in self._feeds.values():
            if feed:
                feed.close()
        self._feeds.clear()

    # ---- snapshots ---------------------------------------------------------------------------------------------------------------

    @property
    def prefix(self) -> str:
        """Snapshot prefix, relative to the folder as the prototxt has it."""
        given = self.param.snapshot_prefix
        if not given:
            return str(self.path.with_suffix(""))
        return os.path.join(given, self.path.stem) if (self.folder / given).is_dir() else given

    def check_prefix(self) -> None:
        """Make the folder of the snapshots; DataError when nothing can be written there."""
        folder = (self.folder / self.prefix).parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
            probe = folder / f".probe{os.getpid()}"
            probe.write_bytes(b"")
            probe.unlink()
        except OSError as error:
            raise DataError(
                f"{self.path}: nothing can be written at snapshot_prefix {self.prefix} ({error}); change it"
            ) from error

    def snapshot(self) -> Path:
        """Write PREFIX_iter_N.caffemodel and .solverstate; returns the latter. FloatingPointError when a weight is not finite."""
        stem = f"{self.prefix}_iter_{self.iteration}"
        model, state = f"{stem}.caffemodel", f"{stem}.solverstate"
        if not self.is_main:
            return self.folder / state
        bad = [b.layer for b in self.updater.blobs if not torch.isfinite(b.tensor).all()]
        if bad:
            raise FloatingPointError(
                f"a weight of layer {bad[0]} is not finite at iteration {self.iteration}: training diverged"
            )
        self.announce(f"Snapshotting to binary proto file {model}")
        self.net.save(self.folder / model)
        self.announce(f"Snapshotting solver state to binary proto file {state}")
        history = [h.detach().cpu().contiguous().numpy() for h in self.updater.history]
        write_solverstate(self.folder / state, self.iteration, model, self.rate.current_step, history)
        return self.folder / state

    def restore(self, path: str | Path) -> None:
        """Go on from a `.solverstate` and the model that it names, there or beside it. Data starts again at record 0, as in Caffe."""
        path = Path(path)
        iteration, learned, step, history = read_solverstate(path)
        places = [p for p in (self.folder / learned, path.parent / Path(learned).name) if learned and p.is_file()]
        if not places:
            raise DataError(
                f"{path}: its model {learned or '(none named)'} is neither in {self.folder.absolute()} nor beside the file"
            )
        self.updater.load_history(history, str(path))
        self.net.load(places[0])
        self.iteration, self.rate.current_step = iteration, step
        self._clock = (time.monotonic(), iteration)
        self.announce(f"Restoring previous solver status from {path}")
