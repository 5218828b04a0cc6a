"""The same network written plainly with tf.nn in one tf.function: what `bench.py` measures ours against."""

from __future__ import annotations

import tensorflow as tf

from deepercut_tf.config import Config
from deepercut_tf.model import EPSILON, UNITS


class PlainNetwork:
    """Frozen statistics, score and offset heads, momentum SGD; variables from arrays by the original's names."""

    def __init__(self, values: dict, config: Config):
        self.config, self.scope = config, config.net_type.replace("resnet_", "resnet_v1_")
        self.variables = {name: tf.Variable(value) for name, value in values.items()}
        self.trained = [v for n, v in self.variables.items() if "moving" not in n]
        self.slots = [tf.Variable(tf.zeros_like(v)) for v in self.trained]
        spec = tf.TensorSpec((None, None, None, 3), tf.uint8)
        self.predict = tf.function(lambda images: self._forward(images), input_signature=[spec])
        self._compiled = tf.function(self._step)

    def step(self, batch: dict, rate: float):
        """One update; the loss before it."""
        return self._compiled({name: tf.convert_to_tensor(v) for name, v in batch.items()}, tf.constant(rate))

    def _conv(self, x, scope: str, stride: int = 1, rate: int = 1, relu: bool = True):
        kernel = self.variables[f"{scope}/weights"]
        if stride > 1 and kernel.shape[0] > 1:
            pad = [[(kernel.shape[0] - 1) // 2, kernel.shape[0] - 1 - (kernel.shape[0] - 1) // 2]] * 2
            x = tf.pad(x, [[0, 0], *pad, [0, 0]])
        x = tf.nn.conv2d(x, kernel, stride, "SAME" if stride == 1 else "VALID", dilations=rate)
        gamma, beta, mean, variance = (
            self.variables[f"{scope}/BatchNorm/{p}"] for p in ("gamma", "beta", "moving_mean", "moving_variance")
        )
        x = tf.nn.batch_normalization(x, mean, variance, beta, gamma, EPSILON)
        return tf.nn.relu(x) if relu else x

    def _head(self, x, name: str):
        kernel, bias = self.variables[f"pose/{name}/block4/weights"], self.variables[f"pose/{name}/block4/biases"]
        shape = tf.shape(x)
        return (
            tf.nn.conv2d_transpose(x, kernel, [shape[0], 2 * shape[1], 2 * shape[2], kernel.shape[2]], 2, "SAME") + bias
        )

    def _forward(self, images):
        x = tf.cast(images, tf.float32) - tf.constant(self.config.mean_pixel, tf.float32)
        x = tf.nn.max_pool2d(self._conv(x, f"{self.scope}/conv1", 2), 3, 2, "SAME")
        for block, units in enumerate(UNITS[self.config.net_type], start=1):
            for unit in range(1, units + 1):
                stride, rate = (2 if unit == units and block < 3 else 1), (2 if block == 4 else 1)
                scope = f"{self.scope}/block{block}/unit_{unit}/bottleneck_v1"
                shortcut = self._conv(x, f"{scope}/shortcut", relu=False) if unit == 1 else x[:, ::stride, ::stride]
                y = self._conv(self._conv(x, f"{scope}/conv1"), f"{scope}/conv2", stride, rate)
                x = tf.nn.relu(shortcut + self._conv(y, f"{scope}/conv3", relu=False))
        return tf.sigmoid(self._head(x, "part_pred")), self._head(x, "part_pred"), self._head(x, "locref_pred")

    def _step(self, batch: dict, rate):
        with tf.GradientTape() as tape:
            _, score, locref = self._forward(batch["inputs"])
            loss = tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(batch["part_score_targets"], score))
            mask, difference = batch["locref_mask"], tf.abs(locref - batch["locref_targets"])
            huber = tf.where(difference < 1, 0.5 * difference**2, difference - 0.5)
            loss += (
                self.config.locref_loss_weight
                * tf.reduce_sum(huber * mask)
                / tf.maximum(tf.math.count_nonzero(mask, dtype=tf.float32), 1)
            )
        for gradient, variable, slot in zip(tape.gradient(loss, self.trained), self.trained, self.slots):
            slot.assign(0.9 * slot + gradient)
            variable.assign_sub(rate * slot)
        return loss
