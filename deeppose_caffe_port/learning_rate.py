"""Caffe's learning-rate policies."""

from __future__ import annotations

import math

from common.errors import DataError

_NEEDED = {
    "fixed": (),
    "step": ("gamma", "stepsize"),
    "exp": ("gamma",),
    "inv": ("gamma", "power"),
    "multistep": ("gamma", "stepvalue"),
    "poly": ("power", "max_iter"),
    "sigmoid": ("gamma", "stepsize"),
}


def check_policy(solver, name: str = "solver") -> None:
    """DataError for a policy that Caffe does not have, or whose parameters are missing."""
    policy = solver.lr_policy
    if policy not in _NEEDED:
        raise DataError(f"{name}: lr_policy {policy!r} is not one of {', '.join(_NEEDED)}")
    for field in ("base_lr", *_NEEDED[policy]):
        if not (len(solver.stepvalue) if field == "stepvalue" else solver.HasField(field)):
            raise DataError(f"{name}: lr_policy {policy} needs {field}")
    if policy in ("step", "sigmoid") and solver.stepsize <= 0 and policy == "step":
        raise DataError(f"{name}: stepsize is {solver.stepsize}; it must be above 0")
    if policy == "sigmoid" and solver.gamma < 0:
        raise DataError(f"{name}: gamma is {solver.gamma}; policy sigmoid needs at least 0")


class LearningRate:
    """The rate of each iteration; `current_step` is the step of `step` and `multistep`, which a solver state stores."""

    def __init__(self, solver):
        self.solver, self.current_step = solver, 0

    def at(self, iteration: int) -> float:
        """Rate of iteration (from 0); multistep advances by at most one step a call."""
        s = self.solver
        if s.lr_policy == "step":
            self.current_step = iteration // s.stepsize
            return s.base_lr * s.gamma**self.current_step
        if s.lr_policy == "multistep":
            if self.current_step < len(s.stepvalue) and iteration >= s.stepvalue[self.current_step]:
                self.current_step += 1
            return s.base_lr * s.gamma**self.current_step
        if s.lr_policy == "exp":
            return s.base_lr * s.gamma**iteration
        if s.lr_policy == "inv":
            return s.base_lr * (1 + s.gamma * iteration) ** -s.power
        if s.lr_policy == "poly":
            return s.base_lr * (1 - iteration / s.max_iter) ** s.power
        if s.lr_policy == "sigmoid":
            return s.base_lr / (1 + math.exp(-s.gamma * (iteration - s.stepsize)))
        return s.base_lr
