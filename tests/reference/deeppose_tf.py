"""DeepPose's training step as one writes it first: TensorFlow's own layers, Keras's Adagrad, one tf.function."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf

JOINTS = 14


def plain_step(weights: dict[str, np.ndarray]):
    """A function (images float32, targets, valid) -> loss that updates its own copy of `weights` (DT's names)."""
    variables = {name: tf.Variable(value) for name, value in weights.items()}
    optimizer = keras.optimizers.Adagrad(0.0005, initial_accumulator_value=1e-4, epsilon=0)
    optimizer.build(list(variables.values()))

    def convolution(x, name, stride=1, groups=1):
        kernel = variables[f"{name}/weight"]
        parts = [
            tf.nn.conv2d(a, k, stride, "SAME") for a, k in zip(tf.split(x, groups, -1), tf.split(kernel, groups, -1))
        ]
        return tf.nn.relu(tf.nn.bias_add(tf.concat(parts, -1), variables[f"{name}/bias"]))

    def dense(x, name):
        return tf.nn.bias_add(tf.matmul(x, variables[f"{name}/weight"]), variables[f"{name}/bias"])

    def network(x):
        for name, groups in (("conv1", 1), ("conv2", 2)):
            x = convolution(x, name, 4 if name == "conv1" else 1, groups)
            x = tf.nn.max_pool2d(tf.nn.local_response_normalization(x, 2, 1.0, 2e-5, 0.75), 3, 2, "VALID")
        x = convolution(convolution(convolution(x, "conv3"), "conv4", groups=2), "conv5", groups=2)
        x = tf.reshape(tf.nn.max_pool2d(x, 3, 2, "VALID"), (-1, weights["fc6/weight"].shape[0]))
        x = tf.nn.dropout(tf.nn.relu(dense(x, "fc6")), 0.6)
        return dense(tf.nn.dropout(tf.nn.relu(dense(x, "fc7")), 0.6), "fc_regression")

    @tf.function
    def step(images, targets, valid):
        with tf.GradientTape() as tape:
            error = tf.square(tf.reshape(network(images), (-1, JOINTS, 2)) - targets) * valid[..., None]
            loss = tf.reduce_mean(tf.reduce_sum(error, (1, 2)) / tf.reduce_sum(valid, 1))
        gradients = tape.gradient(loss, list(variables.values()))
        optimizer.apply(gradients, list(variables.values()))
        return loss

    return step
