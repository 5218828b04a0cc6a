"""Caffe's learning-rate policies, and its weight updates with their histories as solver states store them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from scipy.special import expit
from torch import Tensor

from common.errors import DataError
from deeppose_caffe_port.model import Blob

TYPES = ("SGD", "Nesterov", "AdaGrad", "RMSProp", "AdaDelta", "Adam")
_CHUNK = 1 << 18  # elements; weight, gradient and history of a chunk stay in the cache through all passes over them
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
    """The rate of each iteration; `current_step` is the step of `step` and `multistep`, which a solver state stores.

    DataError for a policy that Caffe does not have, or whose parameters are missing.
    """

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
        return zip(*(t.view(-1).split(_CHUNK) for t in tensors))
    return [tensors]
