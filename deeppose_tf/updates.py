"""The compiled training step on TensorFlow, and TensorFlow 1's update rules: one fused operation a variable."""

from __future__ import annotations

import keras
import tensorflow as tf

from deeppose_tf.config import ADAGRAD_START, MOMENTUM
from deeppose_tf.losses import pose_loss
from deeppose_tf.model import variables_of

# rule -> names of a variable's state, after its own, in a checkpoint, each with its first value
RULES: dict[str, dict[str, float]] = {
    # acc += g^2; w -= lr g / sqrt(acc), no epsilon: TF 1's AdagradOptimizer as DT sets it
    "adagrad": {"Adagrad": ADAGRAD_START},
    # acc = 0.9 acc + g; w -= lr acc
    "momentum": {"Momentum": 0.0},
    "sgd": {},
    "adam": {"Adam": 0.0, "Adam_1": 0.0},  # Kingma and Ba, ICLR 2015, section 2
}
COUNT = "adam/updates/count"  # Adam's further state: updates so far


def fresh_slots(rule: str, variables: dict[str, tf.Variable]) -> dict[str, tf.Variable]:
    """A variable of state for every one given by name: `NAME/Adagrad`, `NAME/Momentum`."""
    each = [(n, v, *slot) for n, v in variables.items() for slot in RULES[rule].items()]
    values = {f"{name}/{slot}": tf.fill(v.shape, first) for name, v, slot, first in each}
    values |= {COUNT: tf.zeros(())} if rule == "adam" else {}
    return {name: tf.Variable(value, trainable=False) for name, value in values.items()}


def update(rule: str, variable: tf.Variable, slots: list, gradient: tf.Tensor, rate: tf.Tensor, count=None) -> None:
    """Update a variable and its state; `count`: Adam's updates, this one too."""
    at = {"var": variable.handle, "use_locking": True}
    if rule == "sgd":
        tf.raw_ops.ResourceApplyGradientDescent(**at, alpha=rate, delta=gradient)
    elif rule == "adagrad":
        tf.raw_ops.ResourceApplyAdagrad(**at, accum=slots[0].handle, lr=rate, grad=gradient)
    elif rule == "adam":
        at |= {"m": slots[0].handle, "v": slots[1].handle, "beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8}
        tf.raw_ops.ResourceApplyAdam(**at, beta1_power=0.9**count, beta2_power=0.999**count, lr=rate, grad=gradient)
    else:
        tf.raw_ops.ResourceApplyMomentum(**at, accum=slots[0].handle, lr=rate, grad=gradient, momentum=MOMENTUM)


class TrainingStep:
    """One update of a network's weights by a rule of `RULES`; `mode` and `kind` are the loss's, `slots` the rule's state.

    With a `strategy` every process gives its own share of the batch, and gradients are averaged over all devices.
    """

    def __init__(self, model: keras.Model, rule: str, mode: str, strategy=None, kind: str = "squared"):
        self.model, self.rule, self.mode, self.kind = model, rule, mode, kind
        self.strategy = strategy or tf.distribute.get_strategy()
        self.devices = len(strategy.extended.worker_devices) if strategy else 1  # of this process
        self.variables = {name: v.value for name, v in variables_of(model).items() if v.trainable}
        with self.strategy.scope():
            self.slots = fresh_slots(rule, self.variables)
        self._compiled = tf.function(self._distributed)

    def __call__(self, batch: tuple, conv_lr: float, fc_lr: float, train_conv: bool = True, summary: bool = False):
        """One update with crops (B,227,227,3), targets (B,J,2), valid (B,J); returns `loss` before it.

        `train_conv` False updates the fully connected layers alone, and the convolutions' gradient is not computed.
        `summary` adds `grad_norms`: variable -> half its squared gradient norm.
        """
        return self._compiled(*self._share(batch), tf.constant(conv_lr), tf.constant(fc_lr), train_conv, summary)

    def _share(self, batch: tuple) -> list:
        """The batch, one part a device of this process."""
        if self.devices == 1:
            return [tf.convert_to_tensor(part) for part in batch[:3]]

        def part_of(array):
            size = len(array) // self.devices

            def own(context):
                place = context.replica_id_in_sync_group % self.devices
                return tf.convert_to_tensor(array[place * size : (place + 1) * size])

            return self.strategy.experimental_distribute_values_from_function(own)

        return [part_of(array) for array in batch[:3]]

    def _distributed(self, images, targets, valid, conv_lr, fc_lr, train_conv: bool, summary: bool) -> dict:
        if self.strategy.num_replicas_in_sync == 1:
            return self._update(images, targets, valid, conv_lr, fc_lr, train_conv, summary)
        result = self.strategy.run(self._update, (images, targets, valid, conv_lr, fc_lr, train_conv, summary))
        return tf.nest.map_structure(lambda value: self.strategy.reduce("mean", value, axis=None), result)

    def _update(self, images, targets, valid, conv_lr, fc_lr, train_conv: bool, summary: bool) -> dict:
        trained = {n: v for n, v in self.variables.items() if train_conv or not n.startswith("conv")}
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(list(trained.values()))
            loss = pose_loss(self.model(images, training=True), targets, valid, self.mode, self.kind)
        gradients = tape.gradient(loss, list(trained.values()))
        if self.strategy.num_replicas_in_sync > 1:
            gradients = tf.distribute.get_replica_context().all_reduce("mean", gradients)
        count = self.slots.get(COUNT)
        if count is not None:
            tf.raw_ops.AssignAddVariableOp(resource=count.handle, value=1.0)
        for (name, variable), gradient in zip(trained.items(), gradients):
            slots = [self.slots[f"{name}/{slot}"] for slot in RULES[self.rule]]
            update(self.rule, variable, slots, gradient, conv_lr if name.startswith("conv") else fc_lr, count)
        result = {"loss": loss}
        if summary:
            result["grad_norms"] = {name: tf.nn.l2_loss(gradient) for name, gradient in zip(trained, gradients)}
        return result
