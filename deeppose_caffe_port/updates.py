"""Caffe's weight updates: SGD, Nesterov, AdaGrad, RMSProp, AdaDelta, Adam, with their histories as solver states store them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from common.errors import DataError
from deeppose_caffe_port.model import Blob

TYPES = ("SGD", "Nesterov", "AdaGrad", "RMSProp", "AdaDelta", "Adam")
_CHUNK = 1 << 18  # elements; weight, gradient and history of a chunk stay in the cache through all passes over them


def solver_type(solver, name: str = "solver") -> str:
    """The type by name; the legacy enum `solver_type` too. DataError when Caffe has no such type."""
    kind = solver.type
    if solver.HasField("solver_type") and not solver.HasField("type"):
        kind = TYPES[solver.solver_type]
    if kind not in TYPES:
        raise DataError(f"{name}: type {kind!r} is not one of {', '.join(TYPES)}")
    return kind


class Updater:
    """Weights of a net and their histories. Histories are in Caffe's order: every blob, then (AdaDelta, Adam) every blob's second one."""

    def __init__(self, solver, blobs: list[Blob], name: str = "solver"):
        self.solver, self.blobs, self.kind = solver, blobs, solver_type(solver, name)
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
            raise DataError(
                f"{source}: field history has {len(arrays)} blobs, this {self.kind} solver has {len(self.history)}"
            )
        for i, (target, array) in enumerate(zip(self.history, arrays)):
            if array.size != target.numel():
                blob = self.blobs[i % len(self.blobs)]
                raise DataError(
                    f"{source}: history {i} (layer {blob.layer}, blob {blob.index}) has shape {array.shape}, expected {tuple(target.shape)}"
                )
            target.copy_(torch.from_numpy(array).reshape(target.shape))

    @torch.no_grad()
    def clip(self) -> str | None:
        """Scale all gradients to `clip_gradients`; what Caffe logs when it does."""
        limit = self.solver.clip_gradients
        gradients = [b.tensor.grad for b in self.blobs if b.tensor.grad is not None]
        if limit < 0 or not gradients:
            return None
        norm = float(torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g) for g in gradients])))
        if norm <= limit:
            return None
        torch._foreach_mul_(gradients, limit / norm)
        return (
            f"Gradient clipping: scaling down gradients (L2 norm {norm:g} > {limit:g}) by scale factor {limit / norm:g}"
        )

    @torch.no_grad()
    def step(self, rate: float, iteration: int) -> None:
        """One update with the gradients that are there; a frozen blob still decays, as Caffe's does."""
        s = self.solver
        for i, blob in enumerate(self.blobs):
            local_rate, decay = rate * blob.lr_mult, s.weight_decay * blob.decay_mult
            gradient = blob.tensor.grad
            if gradient is None:
                if local_rate == 0 and (decay == 0 or self.kind == "SGD"):
                    continue  # neither weight nor history would change
                gradient = torch.zeros_like(blob.tensor)
            update = self._rule(local_rate, decay, iteration)
            for part in _chunks(blob.tensor, gradient, self.first[i], *([self.second[i]] if self.second else [])):
                update(*part)

    def _rule(self, rate: float, decay: float, iteration: int) -> Callable[..., None]:
        """The update of one blob's (weight, gradient, history[, second history]); each line is one pass over the chunk."""
        s, share = self.solver, 1 / self.solver.iter_size

        def regularised(w: Tensor, g: Tensor) -> Tensor:
            if share != 1:
                g.mul_(share)
            if decay:
                g.add_(w if s.regularization_type == "L2" else w.sign(), alpha=decay)
            return g

        def sgd(w: Tensor, g: Tensor, h: Tensor) -> None:
            h.mul_(s.momentum).add_(regularised(w, g), alpha=rate)
            w.sub_(h)

        def nesterov(w: Tensor, g: Tensor, h: Tensor) -> None:
            g = regularised(w, g)
            w.add_(h, alpha=s.momentum)
            h.mul_(s.momentum).add_(g, alpha=rate)
            w.sub_(h, alpha=1 + s.momentum)

        def adagrad(w: Tensor, g: Tensor, h: Tensor) -> None:
            g = regularised(w, g)
            h.addcmul_(g, g)
            w.addcdiv_(g, h.sqrt().add_(s.delta), value=-rate)

        def rmsprop(w: Tensor, g: Tensor, h: Tensor) -> None:
            g = regularised(w, g)
            h.mul_(s.rms_decay).addcmul_(g, g, value=1 - s.rms_decay)
            w.addcdiv_(g, h.sqrt().add_(s.delta), value=-rate)

        def adadelta(w: Tensor, g: Tensor, h1: Tensor, h2: Tensor) -> None:
            g = regularised(w, g)
            h1.mul_(s.momentum).addcmul_(g, g, value=1 - s.momentum)
            u = g * ((h2 + s.delta) / (h1 + s.delta)).sqrt_()
            h2.mul_(s.momentum).addcmul_(u, u, value=1 - s.momentum)
            w.sub_(u, alpha=rate)

        def adam(w: Tensor, g: Tensor, m: Tensor, v: Tensor) -> None:
            g = regularised(w, g)
            m.mul_(s.momentum).add_(g, alpha=1 - s.momentum)
            v.mul_(s.momentum2).addcmul_(g, g, value=1 - s.momentum2)
            t = iteration + 1
            correction = (1 - s.momentum2**t) ** 0.5 / (1 - s.momentum**t)
            w.addcdiv_(m, v.sqrt().add_(s.delta), value=-rate * correction)

        return {
            "SGD": sgd,
            "Nesterov": nesterov,
            "AdaGrad": adagrad,
            "RMSProp": rmsprop,
            "AdaDelta": adadelta,
            "Adam": adam,
        }[self.kind]


def _chunks(*tensors: Tensor):
    """The tensors cut alike into flat views that fit the cache (on a CPU); as they are elsewhere or where their layouts differ."""
    if tensors[0].device.type != "cpu" or tensors[0].numel() <= _CHUNK:
        return [tensors]
    if all(t.is_contiguous() for t in tensors):
        return zip(*(t.view(-1).split(_CHUNK) for t in tensors))
    if all(t.dim() == 4 and t.is_contiguous(memory_format=torch.channels_last) for t in tensors):
        return zip(*(t.permute(0, 2, 3, 1).view(-1).split(_CHUNK) for t in tensors))
    return [tensors]
