"""The compiled training step on TensorFlow, and TensorFlow 1's update rules: one fused operation a variable."""

from __future__ import annotations

import keras
import tensorflow as tf

from deeppose_tf.config import ADAGRAD_START, MOMENTUM
from deeppose_tf.losses import pose_loss
from deeppose_tf.model import CONVOLUTIONS, variables_of

# rule -> (name of a variable's state, after its own, in a checkpoint; first value)
RULES: dict[str, tuple[str, float]] = {
    # acc += g^2; w -= lr g / sqrt(acc), no epsilon: TF 1's AdagradOptimizer as DT sets it
    "adagrad": ("Adagrad", ADAGRAD_START),
    # acc = 0.9 acc + g; w -= lr acc
    "momentum": ("Momentum", 0.0),
    "sgd": ("", 0.0),
}


def fresh_slots(rule: str, variables: dict[str, tf.Variable]) -> dict[str, tf.Variable]:
    """A variable of state for every one given by name: `NAME/Adagrad`, `NAME/Momentum`."""
    slot, first = RULES[rule]
    values = {f"{name}/{slot}": tf.fill(v.shape, first) for name, v in variables.items()} if slot else {}
    return {name: tf.Variable(value, trainable=False) for name, value in values.items()}


def update(rule: str, variable: tf.Variable, slot: tf.Variable | None, gradient: tf.Tensor, rate: tf.Tensor) -> None:
    """Update a variable and its state."""
    at = {"var": variable.handle, "use_locking": True}
    if slot is None:
        tf.raw_ops.ResourceApplyGradientDescent(**at, alpha=rate, delta=gradient)
    elif rule == "adagrad":
        tf.raw_ops.ResourceApplyAdagrad(**at, accum=slot.handle, lr=rate, grad=gradient)
    else:
        tf.raw_ops.ResourceApplyMomentum(**at, accum=slot.handle, lr=rate, grad=gradient, momentum=MOMENTUM)


class TrainingStep:
    """One update of a network's weights by a rule of `RULES`; `mode` is that of the loss, `slots` the rule's state.

    With a `strategy` every process gives its own share of the batch, and gradients are averaged over all devices.
    """

    def __init__(self, model: keras.Model, rule: str, mode: str, strategy=None):
        self.model, self.rule, self.mode = model, rule, mode
        self.strategy = strategy or tf.distribute.get_strategy()
        self.devices = len(strategy.extended.worker_devices) if strategy else 1  # of this process
        self.variables = {name: variable.value for name, variable in variables_of(model).items()}
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
        trained = {n: v for n, v in self.variables.items() if train_conv or n.split("/")[0] not in CONVOLUTIONS}
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(list(trained.values()))
            loss = pose_loss(self.model(images, training=True), targets, valid, self.mode)
        gradients = tape.gradient(loss, list(trained.values()))
        if self.strategy.num_replicas_in_sync > 1:
            gradients = tf.distribute.get_replica_context().all_reduce("mean", gradients)
        for (name, variable), gradient in zip(trained.items(), gradients):
            slot = self.slots.get(f"{name}/{RULES[self.rule][0]}")
            update(self.rule, variable, slot, gradient, conv_lr if name.split("/")[0] in CONVOLUTIONS else fc_lr)
        result = {"loss": loss}
        if summary:
            result["grad_norms"] = {name: tf.nn.l2_loss(gradient) for name, gradient in zip(trained, gradients)}
        return result
