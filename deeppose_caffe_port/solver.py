"""Caffe's solver: learning-rate policies, weight updates with their histories, the nets of a solver prototxt, what one
iteration is, tests, log lines, snapshots."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from scipy.special import expit
from torch import Tensor

from common.errors import DataError
from common.runs.process import Process, autocast, place
from common.runs.session import Position
from common.weights.caffe import read_solverstate, write_solverstate
from common.weights.caffe_text import TextFile, read_text
from deeppose_caffe_port.config import Config
from deeppose_caffe_port.data import Augment
from deeppose_caffe_port.model import TEST, TRAIN, Blob, CaffeNet
from deeppose_caffe_port.random_stream import CaffeRandom
from deeppose_caffe_port.sources import Prefetch

_NET_FIELDS = ("net", "net_param", "train_net", "train_net_param")
# settings that win over fields of the solver file
_FIELDS = {"max_steps": "max_iter", "lr": "base_lr", "accumulate": "iter_size", "clip": "clip_gradients",
           "weight_decay": "weight_decay", "seed": "random_seed"}  # fmt: skip
Feeds = dict[str, Tensor]
TYPES = ("SGD", "Nesterov", "AdaGrad", "RMSProp", "AdaDelta", "Adam")
CHUNK = 1 << 18  # elements; weight, gradient and history of a chunk stay in the cache through all passes over them
# policy -> (fields that it needs, factor of base_lr in an iteration); multistep counts its steps
_POLICIES: dict[str, tuple[str, Callable]] = {
    "fixed": ("", lambda s, it: 1.0),
    "step": ("gamma stepsize", lambda s, it: s.gamma ** (it // s.stepsize)),
    "exp": ("gamma", lambda s, it: s.gamma**it),
    "inv": ("gamma power", lambda s, it: (1 + s.gamma * it) ** -s.power),
    "multistep": ("gamma stepvalue", lambda s, it: 1.0),
    "poly": ("power max_iter", lambda s, it: max(1 - it / s.max_iter, 0) ** s.power),
    "sigmoid": ("gamma stepsize", lambda s, it: float(expit(s.gamma * (it - s.stepsize)))),
}


class LearningRate:
    """The rate of each iteration; `current_step`, of `step` and `multistep`, is stored in a solver state. DataError for
    a policy that Caffe does not have, or whose parameters are missing."""

    def __init__(self, solver, name: str = "solver", say: Callable[[str], object] = lambda line: None):
        self.solver, self.current_step, self.say = solver, 0, say
        if solver.lr_policy not in _POLICIES:
            raise DataError(f"{name}: lr_policy {solver.lr_policy!r} is not one of {', '.join(_POLICIES)}")
        needed, self._factor = _POLICIES[solver.lr_policy]
        for field in ("base_lr", *needed.split()):
            if not (len(solver.stepvalue) if field == "stepvalue" else solver.HasField(field)):
                raise DataError(f"{name}: lr_policy {solver.lr_policy} needs {field}")
        least = 1 if solver.lr_policy == "step" else 0
        if solver.stepsize < least or (solver.lr_policy == "sigmoid" and solver.gamma < 0):
            raise DataError(f"{name}: stepsize {solver.stepsize} and gamma {solver.gamma} must not be below {least}")

    def at(self, iteration: int) -> float:
        """Rate of iteration (from 0); multistep advances by at most one step a call, and says so."""
        s = self.solver
        if s.lr_policy == "step":
            self.current_step = iteration // s.stepsize
        if s.lr_policy != "multistep":
            return s.base_lr * self._factor(s, iteration)
        if self.current_step < len(s.stepvalue) and iteration >= s.stepvalue[self.current_step]:
            self.current_step += 1
            self.say(f"MultiStep Status: Iteration {iteration}, step = {self.current_step}")
        return s.base_lr * s.gamma**self.current_step


class Updater:
    """Weights of a net and their histories, in Caffe's order: every blob's, then (AdaDelta, Adam) every second one."""

    def __init__(self, solver, blobs: list[Blob], name: str = "solver"):
        self.solver, self.blobs, self.kind = solver, blobs, solver.type
        if solver.HasField("solver_type") and not solver.HasField("type"):  # the legacy enum
            self.kind = TYPES[solver.solver_type]
        if self.kind not in TYPES:
            raise DataError(f"{name}: type {self.kind!r} is not one of {', '.join(TYPES)}")
        if solver.regularization_type not in ("L1", "L2"):
            raise DataError(f"{name}: regularization_type {solver.regularization_type!r} is not L1 or L2")
        self.first = [torch.zeros_like(b.tensor, requires_grad=False) for b in blobs]
        self.second = [torch.zeros_like(h) for h in self.first] if self.kind in ("AdaDelta", "Adam") else []

    @property
    def history(self) -> list[Tensor]:
        """As a solver state holds it."""
        return [*self.first, *self.second]

    @torch.no_grad()
    def load_history(self, arrays: list, source: str) -> None:
        """Copy histories; DataError naming blob and shapes when they do not fit."""
        if len(arrays) != len(self.history):
            wanted = f"this {self.kind} solver has {len(self.history)}"
            raise DataError(f"{source}: field history has {len(arrays)} blobs, {wanted}")
        for i, (target, array) in enumerate(zip(self.history, arrays)):
            if array.size != target.numel():
                blob = self.blobs[i % len(self.blobs)]
                where = f"{source}: history {i} (layer {blob.layer}, blob {blob.number})"
                raise DataError(f"{where} has shape {array.shape}, expected {tuple(target.shape)}")
            target.copy_(torch.from_numpy(array).reshape(target.shape))

    @torch.no_grad()
    def clip(self) -> str | None:
        """Scale all gradients to `clip_gradients`; what Caffe logs when it does."""
        limit = self.solver.clip_gradients
        gradients = [b.tensor.grad for b in self.blobs if b.tensor.grad is not None]
        if limit < 0 or not gradients:
            return None
        norm = float(torch.nn.utils.get_total_norm(gradients))
        if norm <= limit:
            return None
        torch._foreach_mul_(gradients, limit / norm)
        scale = f"(L2 norm {norm:g} > {limit:g}) by scale factor {limit / norm:g}"
        return f"Gradient clipping: scaling down gradients {scale}"

    @torch.no_grad()
    def step(self, rate: float, iteration: int) -> None:
        """One update with the gradients that are there; a frozen blob still decays, as Caffe's does."""
        rule = getattr(self, f"_{self.kind.lower()}")
        for i, blob in enumerate(self.blobs):
            local_rate, decay = rate * blob.lr_mult, self.solver.weight_decay * blob.decay_mult
            gradient = blob.tensor.grad
            if gradient is None:
                if local_rate == 0 and (decay == 0 or self.kind == "SGD"):
                    continue  # neither weight nor history would change
                gradient = torch.zeros_like(blob.tensor)
            for w, g, *h in _chunks(blob.tensor, gradient, self.first[i], *([self.second[i]] if self.second else [])):
                rule(w, self._regularised(w, g, decay), *h, local_rate, iteration)

    def _regularised(self, w: Tensor, g: Tensor, decay: float) -> Tensor:
        if self.solver.iter_size != 1:
            g.mul_(1 / self.solver.iter_size)
        if decay:
            g.add_(w if self.solver.regularization_type == "L2" else w.sign(), alpha=decay)
        return g

    # each line of a rule is one pass over the chunk (weight, gradient, histories)

    def _sgd(self, w: Tensor, g: Tensor, h: Tensor, rate: float, iteration: int) -> None:
        h.mul_(self.solver.momentum).add_(g, alpha=rate)
        w.sub_(h)

    def _nesterov(self, w: Tensor, g: Tensor, h: Tensor, rate: float, iteration: int) -> None:
        w.add_(h, alpha=self.solver.momentum)
        h.mul_(self.solver.momentum).add_(g, alpha=rate)
        w.sub_(h, alpha=1 + self.solver.momentum)

    def _adagrad(self, w: Tensor, g: Tensor, h: Tensor, rate: float, iteration: int) -> None:
        h.addcmul_(g, g)
        w.addcdiv_(g, h.sqrt().add_(self.solver.delta), value=-rate)

    def _rmsprop(self, w: Tensor, g: Tensor, h: Tensor, rate: float, iteration: int) -> None:
        h.mul_(self.solver.rms_decay).addcmul_(g, g, value=1 - self.solver.rms_decay)
        w.addcdiv_(g, h.sqrt().add_(self.solver.delta), value=-rate)

    def _adadelta(self, w: Tensor, g: Tensor, h1: Tensor, h2: Tensor, rate: float, iteration: int) -> None:
        s = self.solver
        h1.mul_(s.momentum).addcmul_(g, g, value=1 - s.momentum)
        u = g * ((h2 + s.delta) / (h1 + s.delta)).sqrt_()
        h2.mul_(s.momentum).addcmul_(u, u, value=1 - s.momentum)
        w.sub_(u, alpha=rate)

    def _adam(self, w: Tensor, g: Tensor, m: Tensor, v: Tensor, rate: float, iteration: int) -> None:
        s, t = self.solver, iteration + 1
        m.mul_(s.momentum).add_(g, alpha=1 - s.momentum)
        v.mul_(s.momentum2).addcmul_(g, g, value=1 - s.momentum2)
        correction = (1 - s.momentum2**t) ** 0.5 / (1 - s.momentum**t)
        w.addcdiv_(m, v.sqrt().add_(s.delta), value=-rate * correction)


def _chunks(*tensors: Tensor):
    """The tensors cut alike into flat views that fit the cache, on a CPU."""
    if tensors[0].device.type == "cpu" and all(t.is_contiguous() for t in tensors):
        return zip(*(t.view(-1).split(CHUNK) for t in tensors))
    return [tensors]


class Solver:
    """A solver prototxt with the state of its training. `announce` receives Caffe's log lines in the process that
    speaks; relative paths start at `folder`. DataError for anything in it that cannot be."""

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
        # Caffe's masks need the CPU; a device draws its own
        dropout = "caffe" if self.device.type == "cpu" else "torch"
        parallel = {"rank": self.process.rank, "world": self.process.world} if phase == TRAIN else {}
        options = {"euclidean": self.config.euclidean, "masked": self.config.masked, "dropout": dropout, **parallel}
        return CaffeNet(text, phase, self.folder, random=self.random, level=state.level, stages=state.stage, **options)

    def _place(self) -> torch.nn.Module:
        for net in self.nets:
            place(torch, net, self.device, self.config.amp)
        for net in self.test_nets:
            net.share_with(self.net)
        if self.process.world == 1:
            return self.net
        parallel = torch.nn.parallel.DistributedDataParallel(self.net)
        parallel.broadcast_buffers = False  # all processes have the same; as an argument it has two names since 2.13
        return parallel

    def say(self, line: str) -> None:
        """Log a line, once for all processes."""
        if self.process.is_main:
            self.announce(line)

    def feeds(self, number: int = 0) -> Feeds:
        """The next batch of the train net (0) or of a test net (from 1), as read."""
        if number not in self._feeds:
            self._feeds[number] = Prefetch(self.nets[number].sources(), self.device)
        return self._feeds[number].next()

    def _forward(self, network, feeds: Feeds):
        with autocast(torch, self.device, self.config.amp):
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
        rate = self.rate.at(it) * min(1.0, (it + 1) / max(self.config.warmup, 1))
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
