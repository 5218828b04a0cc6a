"""`Trainer.step`, one update of all weights, and `predict`. Everything else about a run is in run.py and train.py."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import keras
import numpy as np

from deeppose_tf.config import OUTPUT_LIMIT, WEIGHT_DECAY_LOGGED
from deeppose_tf.data import Crops, Persons, to_stored, unproject
from deeppose_tf.loader import in_order
from deeppose_tf.model import CONVOLUTIONS, weight_layers


def named_variables(model: keras.Model) -> dict[str, object]:
    """DT's name -> the backend's variable, in the network's order."""
    pairs = [
        (f"{layer.name}/{what}", v)
        for layer in weight_layers(model)
        for what, v in (("weight", layer.kernel), ("bias", layer.bias))
    ]
    return {name: v.value for name, v in pairs}


class Trainer:
    """The compiled training step of a network on TensorFlow.

    `mode` is that of the loss. `weight_decay` is added to the trained loss (DT trains without). With a `strategy` every process gives its
    own share of the batch, and gradients are averaged over all devices. ValueError on another Keras backend.
    """

    def __init__(
        self, model: keras.Model, optimizer, mode: str, *, strategy=None, xla: bool = False, weight_decay: float = 0.0
    ):
        if keras.backend.backend() != "tensorflow":
            raise ValueError(
                f"training needs KERAS_BACKEND=tensorflow; it is {keras.backend.backend()}, which can predict and score"
            )
        import tensorflow as tf

        self.model, self.optimizer, self.mode, self.weight_decay = model, optimizer, mode, weight_decay
        self.strategy = strategy or tf.distribute.get_strategy()
        self.devices = len(strategy.extended.worker_devices) if strategy else 1  # of this process
        self.variables = named_variables(model)
        with self.strategy.scope():
            optimizer.build(self.variables)
        self._step = tf.function(self._distributed, jit_compile=xla)

    def step(
        self, batch: tuple, *, conv_lr: float, fc_lr: float, train_conv: bool = True, summary: bool = False
    ) -> dict:
        """One update with crops (B,227,227,3), targets (B,J,2), valid (B,J); returns `loss` before it.

        `train_conv` False updates the fully connected layers alone, and the convolutions' gradient is not computed. `summary` adds
        `grad_norms`: variable -> half its squared gradient norm.
        """
        import tensorflow as tf

        parts = self._share(batch)
        return self._step(*parts, tf.constant(conv_lr), tf.constant(fc_lr), train_conv, summary)

    def loss(self, batch: tuple):
        """The loss of a batch, without dropout and update."""
        from deeppose_tf.losses import pose_loss

        images, targets, valid = batch[:3]
        return pose_loss(self.model(images, training=False), targets, valid, self.mode)

    def _share(self, batch: tuple) -> list:
        """The batch, one part a device of this process."""
        import tensorflow as tf

        if self.devices == 1:
            return [tf.convert_to_tensor(part) for part in batch[:3]]

        def part_of(array):
            size = len(array) // self.devices
            return self.strategy.experimental_distribute_values_from_function(
                lambda context: tf.convert_to_tensor(
                    array[context.replica_id_in_sync_group % self.devices * size :][:size]
                )
            )

        return [part_of(array) for array in batch[:3]]

    def _distributed(self, images, targets, valid, conv_lr, fc_lr, train_conv: bool, summary: bool) -> dict:
        import tensorflow as tf

        if self.strategy.num_replicas_in_sync == 1:
            return self._update(images, targets, valid, conv_lr, fc_lr, train_conv, summary)
        result = self.strategy.run(self._update, (images, targets, valid, conv_lr, fc_lr, train_conv, summary))
        return tf.nest.map_structure(lambda value: self.strategy.reduce("mean", value, axis=None), result)

    def _update(self, images, targets, valid, conv_lr, fc_lr, train_conv: bool, summary: bool) -> dict:
        import tensorflow as tf

        from deeppose_tf.losses import pose_loss

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
            self.optimizer.apply(name, variable, gradient, conv_lr if name.split("/")[0] in CONVOLUTIONS else fc_lr)
        result = {"loss": loss}
        if summary:
            result["grad_norms"] = {name: tf.nn.l2_loss(gradient) for name, gradient in zip(trained, gradients)}
        return result


def weight_decay_term(weights: dict[str, np.ndarray]) -> float:
    """The term that DT adds to the loss it logs: 0.0005 times half the sum of all squared weights, biases and the unused head among them."""
    # not np.vdot: in float32 it is off by 5e-4 on some CPUs for the 38 million weights of fc6
    return WEIGHT_DECAY_LOGGED / 2 * sum(float(np.square(w).sum(dtype=np.float64)) for w in weights.values())


@dataclass(frozen=True)
class Predicted:
    """A batch of predictions, row `first + i` of the Persons. `joints` (n,J,2) are pixels of the stored picture; `shares` what the network
    put out, `targets` what it was to put out, both as shares of the crops `boxes` (n,4)."""

    first: int
    joints: np.ndarray
    shares: np.ndarray
    targets: np.ndarray
    valid: np.ndarray
    boxes: np.ndarray


def forward(model: keras.Model):
    """The network without dropout as a function of (N,227,227,3) that returns (N,J,2) float32 NumPy arrays, compiled where that can be."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        call = tf.function(lambda images: model(images, training=False), reduce_retracing=True)
    else:
        call = model.predict_on_batch

    def run(images: np.ndarray) -> np.ndarray:
        shares = keras.ops.convert_to_numpy(call(images)).astype(np.float32)
        return shares.reshape(len(shares), -1, 2)

    return run


def to_picture(shares: np.ndarray, boxes: np.ndarray, factor: np.ndarray, mode: str) -> np.ndarray:
    """(n,J,2) network outputs of crops (n,4) -> pixels of the stored pictures, which were reduced by `factor` (n,); compat cuts outputs first."""
    if mode == "compat":
        shares = np.clip(shares, -OUTPUT_LIMIT, OUTPUT_LIMIT)
    return to_stored(unproject(shares, boxes, mode).astype(np.float64), factor, mode).astype(np.float32)


def predict(run: Callable, persons: Persons, crops: Crops, batch_size: int = 128) -> Iterator[Predicted]:
    """Predict every person, in order, a batch at a time, with `run` = `forward(model)`."""
    first = 0
    for images, targets, valid, boxes in in_order(persons, crops, batch_size):
        shares = run(images)
        joints = to_picture(shares, boxes, persons.factor[first : first + len(images)], crops.mode)
        yield Predicted(first, joints, shares, targets, valid, boxes)
        first += len(images)
