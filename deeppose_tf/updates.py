"""The compiled training step on TensorFlow, and the update rules with TensorFlow 1's arithmetic: one fused operation a
variable, a pass over memory instead of four or five."""

from __future__ import annotations

import keras
import tensorflow as tf

from deeppose_tf.config import ADAGRAD_START, MOMENTUM
from deeppose_tf.losses import pose_loss
from deeppose_tf.model import CONVOLUTIONS, variables_of


class Rule:
    """An update rule by its name in `RULES`; `slots` holds a variable of state for every trained one."""

    def __init__(self, name: str):
        self.name, (self.slot, self.start) = name, RULES[name]
        self.slots: dict[str, tf.Variable] = {}

    def build(self, variables: dict[str, tf.Variable]) -> None:
        """Make the state of variables given by name; call it in the strategy's scope."""
        if self.slot:
            fresh = {name: tf.fill(v.shape, self.start) for name, v in variables.items()}
            self.slots = {name: tf.Variable(value, trainable=False) for name, value in fresh.items()}

    def apply(self, name: str, variable: tf.Variable, gradient: tf.Tensor, rate: tf.Tensor) -> None:
        """Update one variable and its state."""
        at, ops = {"var": variable.handle, "use_locking": True}, tf.raw_ops
        if self.slot:
            at["accum"] = self.slots[name].handle
        if self.name == "adagrad":
            ops.ResourceApplyAdagrad(**at, lr=rate, grad=gradient)
        elif self.name == "momentum":
            ops.ResourceApplyMomentum(**at, lr=rate, grad=gradient, momentum=MOMENTUM)
        else:
            ops.ResourceApplyGradientDescent(**at, alpha=rate, delta=gradient)


# name -> (name of its state after the variable's in a checkpoint, first value)
RULES: dict[str, tuple[str | None, float]] = {
    # acc += g^2; w -= lr g / sqrt(acc), no epsilon: TF 1's AdagradOptimizer as DT sets it
    "adagrad": ("Adagrad", ADAGRAD_START),
    # acc = 0.9 acc + g; w -= lr acc
    "momentum": ("Momentum", 0.0),
    "sgd": (None, 0.0),
}


class TrainingStep:
    """One update of a network's weights; `mode` is that of the loss, `weight_decay` is added to the trained loss (DT
    trains without).

    With a `strategy` every process gives its own share of the batch, and gradients are averaged over all devices.
    """

    def __init__(
        self, model: keras.Model, rule: Rule, mode: str, *, strategy=None, xla: bool = False, weight_decay=0.0
    ):
        self.model, self.rule, self.mode, self.weight_decay = model, rule, mode, weight_decay
        self.strategy = strategy or tf.distribute.get_strategy()
        self.devices = len(strategy.extended.worker_devices) if strategy else 1  # of this process
        self.variables = {name: variable.value for name, variable in variables_of(model).items()}
        with self.strategy.scope():
            rule.build(self.variables)
        self._compiled = tf.function(self._distributed, jit_compile=xla)

    def __call__(self, batch: tuple, conv_lr: float, fc_lr: float, train_conv: bool = True, summary: bool = False):
        """One update with crops (B,227,227,3), targets (B,J,2), valid (B,J); returns `loss` before it.

        `train_conv` False updates the fully connected layers alone, and the convolutions' gradient is not computed.
        `summary` adds `grad_norms`: variable -> half its squared gradient norm.
        """
        return self._compiled(*self._share(batch), tf.constant(conv_lr), tf.constant(fc_lr), train_conv, summary)

    def loss(self, batch: tuple):
        """The loss of a batch, without dropout and update."""
        images, targets, valid = batch[:3]
        return pose_loss(self.model(images, training=False), targets, valid, self.mode)

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
            loss = objective = pose_loss(self.model(images, training=True), targets, valid, self.mode)
            if self.weight_decay:
                objective += self.weight_decay * tf.add_n([tf.nn.l2_loss(v) for v in trained.values()])
        gradients = tape.gradient(objective, list(trained.values()))
        if self.strategy.num_replicas_in_sync > 1:
            gradients = tf.distribute.get_replica_context().all_reduce("mean", gradients)
        for (name, variable), gradient in zip(trained.items(), gradients):
            self.rule.apply(name, variable, gradient, conv_lr if name.split("/")[0] in CONVOLUTIONS else fc_lr)
        result = {"loss": loss}
        if summary:
            result["grad_norms"] = {name: tf.nn.l2_loss(gradient) for name, gradient in zip(trained, gradients)}
        return result
