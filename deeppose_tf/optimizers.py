"""Update rules with TensorFlow 1's arithmetic, each one fused operation a variable: a pass over memory instead of four or five."""

from __future__ import annotations

import tensorflow as tf

from deeppose_tf.config import ADAGRAD_START, MOMENTUM


class SGD:
    """w -= lr g."""

    slot: str | None = None  # name after the variable's in a checkpoint
    start = 0.0

    def __init__(self) -> None:
        self.slots: dict[str, tf.Variable] = {}

    def build(self, variables: dict[str, tf.Variable]) -> None:
        """Make the state of variables given by name; call it in the strategy's scope."""
        if self.slot:
            self.slots = {
                name: tf.Variable(tf.fill(v.shape, self.start), trainable=False) for name, v in variables.items()
            }

    def apply(self, name: str, variable: tf.Variable, gradient: tf.Tensor, rate: tf.Tensor) -> None:
        """Update one variable."""
        tf.raw_ops.ResourceApplyGradientDescent(var=variable.handle, alpha=rate, delta=gradient, use_locking=True)


class Adagrad(SGD):
    """acc += g^2; w -= lr g / sqrt(acc), acc from 1e-4 and no epsilon (TF 1's AdagradOptimizer as DT sets it)."""

    slot, start = "Adagrad", ADAGRAD_START

    def apply(self, name: str, variable: tf.Variable, gradient: tf.Tensor, rate: tf.Tensor) -> None:
        """Update one variable and its accumulator."""
        tf.raw_ops.ResourceApplyAdagrad(
            var=variable.handle, accum=self.slots[name].handle, lr=rate, grad=gradient, use_locking=True
        )


class Momentum(SGD):
    """acc = 0.9 acc + g; w -= lr acc."""

    slot = "Momentum"

    def apply(self, name: str, variable: tf.Variable, gradient: tf.Tensor, rate: tf.Tensor) -> None:
        """Update one variable and its accumulator."""
        tf.raw_ops.ResourceApplyMomentum(
            var=variable.handle,
            accum=self.slots[name].handle,
            lr=rate,
            grad=gradient,
            momentum=MOMENTUM,
            use_locking=True,
        )


_RULES = {"adagrad": Adagrad, "momentum": Momentum, "sgd": SGD}


def make_optimizer(name: str) -> SGD:
    """The rule behind `--optimizer`."""
    return _RULES[name]()
