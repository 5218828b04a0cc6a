"""Caffe's solver: nets of a solver prototxt, what one iteration is, tests, log lines, snapshots."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from common.errors import DataError
from common.runs.process import Process
from common.runs.session import Position
from common.weights.caffe import read_solverstate, write_solverstate
from common.weights.caffe_text import TextFile, read_text
from deeppose_caffe_port.config import Config
from deeppose_caffe_port.data import Augment
from deeppose_caffe_port.model import TEST, TRAIN, CaffeNet
from deeppose_caffe_port.random_stream import CaffeRandom
from deeppose_caffe_port.sources import Prefetch
from deeppose_caffe_port.updates import LearningRate, Updater

_NET_FIELDS = ("net", "net_param", "train_net", "train_net_param")
# settings that win over fields of the solver file
_FIELDS = {"max_steps": "max_iter", "lr": "base_lr", "accumulate": "iter_size", "clip": "clip_gradients",
           "weight_decay": "weight_decay", "seed": "random_seed"}  # fmt: skip
Feeds = dict[str, Tensor]


class Solver:
    """A solver prototxt with the state of its training. `announce` receives Caffe's log lines, in the process that
    speaks.

    `folder`: where relative paths of the prototxt start. DataError for anything in it that cannot be.
    """

    def __init__(self, path: str | Path, folder: str | Path, config: Config, process: Process,
                 device: torch.device, announce: Callable[[str], object]):  # fmt: skip
        self.path, self.folder, self.config = Path(path), Path(folder), config
        self.process, self.device, self.announce = process, device, announce
        self.param = read_text(path, "SolverParameter").message
        for setting, name in _FIELDS.items():
            if getattr(self.config, setting) is not None:
                setattr(self.param, name, getattr(self.config, setting))
        self.rate = LearningRate(self.param, str(path), self.say)
        self._check()
        self.random = CaffeRandom(self.param.random_seed)
        self.random.reseed(int(self.process.mean(self.random.seed)))  # one stream for all processes
        p = self.param
        text = self._text(p.net or p.train_net, p.net_param if p.HasField("net_param") else p.train_net_param)
        self.net = self._build_net(TRAIN, text, p.train_state)
        self.test_nets = [self._build_net(TEST, text, state) for text, state in self._test_texts()]
        self.nets = [self.net, *self.test_nets]
        self.network = self._place()
        aspect = config.size[0] / config.size[1] if config.stage == 1 else 1.0
        self.augment = Augment(config.rotate, config.zoom, aspect)
        self.position, self.updater = Position(), Updater(self.param, list(self.net.blobs()), str(path))
        self.losses: deque = deque(maxlen=max(self.param.average_loss, 1))
        self._feeds: dict[int, Prefetch] = {}
        self._clock = (time.monotonic(), 0)

    def _check(self) -> None:
        p = self.param
        nets = [f for f in _NET_FIELDS if p.HasField(f)]
        wrong = {
            f"exactly one of {', '.join(_NET_FIELDS)} must be given; found {', '.join(nets) or 'none'}": len(nets) != 1,
            "field max_iter is missing, or below 0": not p.HasField("max_iter") or p.max_iter < 0,
            "snapshot_format HDF5 is not supported; use BINARYPROTO": p.snapshot_format == 0,
            "snapshot_diff is not supported; leave it out": p.snapshot_diff,
            f"iter_size is {p.iter_size}; it must be at least 1": p.iter_size < 1,
            "display, snapshot and test_interval must not be below 0": min(p.display, p.snapshot, p.test_interval) < 0,
            "test_iter and test_interval belong together; give both or none": bool(p.test_iter)
            != bool(p.test_interval) or min(p.test_iter, default=1) < 1,
        }  # fmt: skip
        if found := [text for text, is_so in wrong.items() if is_so]:
            raise DataError(f"{self.path}: {found[0]}")

    def _text(self, name: str, message) -> TextFile:
        """A net: of a file, else the message in the solver file itself."""
        return read_text(self.folder / name, "NetParameter") if name else TextFile(message, {}, str(self.path))

    def _test_texts(self) -> list[tuple]:
        """(net, state) of each test net: test_net files and messages first, then the common net."""
        p, count = self.param, len(self.param.test_iter)
        texts = [self._text(name, None) for name in p.test_net] + [self._text("", net) for net in p.test_net_param]
        if p.HasField("net") or p.HasField("net_param"):
            texts += [self._text(p.net, p.net_param) for _ in range(count - len(texts))]
        states = list(p.test_state) or [None] * count
        if not len(texts) == len(states) == count:
            found = f"{count} values of test_iter, {len(texts)} test nets and {len(p.test_state)} values of test_state"
            raise DataError(f"{self.path} has {found}; give one of each for every test net")
        return list(zip(texts, states))

    def _build_net(self, phase: int, text: TextFile, state) -> CaffeNet:
        state = state or self.param.train_state
        # Caffe's masks need the CPU; on a device, and where the graph is compiled, the device draws them
        dropout = "caffe" if self.device.type == "cpu" and not self.config.compile else "torch"
        parallel = {"rank": self.process.rank, "world": self.process.world} if phase == TRAIN else {}
        options = {"euclidean": self.config.euclidean, "masked": self.config.masked, "dropout": dropout, **parallel}
        return CaffeNet(text, phase, self.folder, random=self.random, level=state.level, stages=state.stage, **options)

    def _place(self) -> torch.nn.Module:
        last = self.device.type == "cuda" or self.config.amp == "bf16"
        layout = {"memory_format": torch.channels_last} if last else {}
        for net in self.nets:
            net.to(self.device, **layout)  # type: ignore[call-overload]
        for net in self.test_nets:
            net.share_with(self.net)
        network = torch.compile(self.net) if self.config.compile else self.net
        if self.process.world > 1:
            network = torch.nn.parallel.DistributedDataParallel(network, broadcast_buffers=False)
        return network

    def say(self, line: str) -> None:
        """Log a line, once for all processes."""
        if self.process.is_main:
            self.announce(line)

    # ---- one iteration -------------------------------------------------------------------------------

    def feeds(self, number: int = 0) -> Feeds:
        """The next batch of the train net (0) or of a test net (from 1), as read."""
        if number not in self._feeds:
            self._feeds[number] = Prefetch(self.nets[number].sources(), self.device)
        return self._feeds[number].next()

    def _forward(self, network, feeds: Feeds):
        with torch.autocast(self.device.type, torch.bfloat16) if self.config.amp == "bf16" else nullcontext():
            return network(feeds)

    def _augmented(self, feeds: Feeds) -> Feeds:
        for pixels, labels in self.net.sources() if self.augment else ():
            feeds[pixels], feeds[labels] = self.augment(feeds[pixels], feeds[labels])
        return feeds

    def seed(self) -> None:
        """Seed PyTorch for the next iteration of this process: augmentation, mirror, crop, and dropout on a device."""
        source = np.random.SeedSequence((self.random.seed, self.position.step, self.process.rank))
        torch.manual_seed(int(source.generate_state(1, np.uint64)[0]))

    def iterate(self, batch: list[Feeds]) -> dict:
        """iter_size forward and backward passes, display, update; the iteration's loss (a tensor) and rate."""
        p, it, total, outputs = self.param, self.position.step, torch.zeros((), device=self.device), {}
        self.seed()
        for blob in self.updater.blobs:
            blob.tensor.grad = None
        for part, feeds in enumerate(batch):
            waits = self.process.world > 1 and part < len(batch) - 1
            with self.network.no_sync() if waits else nullcontext():  # type: ignore[operator]
                outputs, loss = self._forward(self.network, self._augmented(feeds))
                if loss is None:
                    raise DataError(f"{self.net.file}: the train net has no loss layer")
                loss.backward()
            total = total + loss.detach() / p.iter_size
        self.losses.append(total)
        shown = bool(p.display) and it % p.display == 0 and self.process.is_main
        if shown:
            self._display(outputs)
        rate = self.rate.at(it)
        if shown:
            self.say(f"Iteration {it}, lr = {rate:.6g}")
        if clipped := self.updater.clip():
            self.say(clipped)
        self.updater.step(rate, it)
        self.position.advance()
        return {"loss": total, "lr": rate}

    @property
    def _smoothed(self) -> float:
        return sum(map(float, self.losses)) / len(self.losses)

    def _display(self, outputs: dict) -> None:
        now, it = time.monotonic(), self.position.step
        elapsed, done = now - self._clock[0], it - self._clock[1]
        self._clock = (now, it)
        speed = f"{done / max(elapsed, 1e-9):.5g} iter/s, {elapsed:.5g}s/{self.param.display} iters"
        self.say(f"Iteration {it} ({speed}), loss = {self._smoothed:.6g}")
        self._say_outputs("Train", self.net, outputs)

    def _say_outputs(self, kind: str, net: CaffeNet, outputs: dict) -> None:
        elements = [(name, element) for name, value in outputs.items() for element in value.flatten().tolist()]
        for number, (name, element) in enumerate(elements):
            weight = net.loss_weights.get(name, 0)
            tail = f" (* {weight:.6g} = {weight * element:.6g} loss)" if weight else ""
            self.say(f"    {kind} net output #{number}: {name} = {element:.6g}{tail}")

    @torch.no_grad()
    def test(self) -> dict[str, float]:
        """Every test net's mean outputs over its batches, in the process that speaks: {test_OUTPUT: figure}."""
        figures: dict[str, float] = {}
        for i, (net, batches) in enumerate(zip(self.test_nets, self.param.test_iter)):
            if not self.process.is_main:
                continue
            self.say(f"Iteration {self.position.step}, Testing net (#{i})")
            means, total = dict[str, Tensor](), 0.0
            for _ in range(batches):
                outputs, loss = self._forward(net, self.feeds(i + 1))
                total += float(loss) / batches if loss is not None else 0.0
                for name, value in outputs.items():
                    means[name] = means.get(name, 0) + value.float() / batches
            if self.param.test_compute_loss:
                self.say(f"Test loss: {total:.6g}")
            self._say_outputs("Test", net, means)
            figures |= {f"test{i or ''}_{name}": float(v) for name, v in means.items() if v.numel() == 1}
        self.process.barrier()
        return figures

    @torch.no_grad()
    def closing_loss(self) -> None:
        """Caffe's last training loss: one more batch, behind the last update."""
        self.losses.append(self._forward(self.net, self._augmented(self.feeds()))[1])
        self.say(f"Iteration {self.position.step}, loss = {self._smoothed:.6g}")

    # ---- what a run goes on from ---------------------------------------------------------------------

    def positions(self) -> dict[int, dict[str, int]]:
        """Record that each reader goes on with: by net (0 for training) and first top of the data layer."""
        found = {i: {tops[0]: s.position for tops, s in net.sources().items()} for i, net in enumerate(self.nets)}
        return found | {i: feed.positions for i, feed in self._feeds.items()}

    def set_positions(self, positions: dict[int, dict[str, int]]) -> None:
        """Undo `positions`, before anything was read."""
        for i, net in enumerate(self.nets):
            for tops, source in net.sources().items():
                source.position = positions[i][tops[0]]

    def close(self) -> None:
        """End the reading threads."""
        for feed in self._feeds.values():
            feed.close()

    @property
    def prefix(self) -> str:
        """Snapshot prefix, relative to the folder as the prototxt has it."""
        given = self.param.snapshot_prefix
        if not given:
            return str(self.path.with_suffix(""))
        return os.path.join(given, self.path.stem) if (self.folder / given).is_dir() else given

    @property
    def snapshot_folder(self) -> Path:
        """Where snapshots go."""
        return (self.folder / self.prefix).parent

    def check_finite(self) -> None:
        """FloatingPointError naming the layer of a weight that is not finite."""
        bad = [b.layer for b in self.updater.blobs if not torch.isfinite(b.tensor).all()]
        if bad:
            raise FloatingPointError(f"a weight of layer {bad[0]} is not finite at iteration {self.position.step}")

    def snapshot(self) -> None:
        """Write PREFIX_iter_N.caffemodel and .solverstate. FloatingPointError when a weight is not finite."""
        stem = f"{self.prefix}_iter_{self.position.step}"
        if self.process.is_main:
            self.check_finite()
            self.say(f"Snapshotting to binary proto file {stem}.caffemodel")
            self.net.save(self.folder / f"{stem}.caffemodel")
            state, history = f"{stem}.solverstate", [h.cpu().contiguous().numpy() for h in self.updater.history]
            self.say(f"Snapshotting solver state to binary proto file {state}")
            known = (self.position.step, f"{stem}.caffemodel", self.rate.current_step)
            write_solverstate(self.folder / state, *known, history)

    def restore(self, path: str | Path) -> None:
        """Go on from a `.solverstate` and the model that it names, there or beside it; data starts at record 0."""
        path = Path(path)
        iteration, learned, step, history = read_solverstate(path)
        places = [p for p in (self.folder / learned, path.parent / Path(learned).name) if p.is_file()]
        if not places:
            raise DataError(f"{path}: its model {learned} is neither in {self.folder.absolute()} nor beside it")
        self.say(f"Resuming from {path}")
        self.updater.load_history(history, str(path))
        self.net.load(places[0])
        self.position.step, self.rate.current_step = iteration, step
        self._clock = (time.monotonic(), iteration)
