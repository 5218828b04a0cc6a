"""The network, in Keras 3 layers and `keras.ops` alone: it runs on TensorFlow, PyTorch and JAX (`KERAS_BACKEND`).

Input: (N,227,227,3) BGR pixels 0 to 255 (uint8); output: (N,2J) shares of the crop, x0, y0, x1, y1, ... AlexNet as in
DT: every convolution is padded SAME, the first too (57 x 57, not Caffe's 55 x 55), groups are two contiguous halves,
LRN comes before pooling; `norm` batch: batch normalisation after all layers but the last in its place. Normalisations
are chains of elementwise operations, each a pass over memory: in training on TensorFlow XLA compiles a chain to one
loop; elsewhere not, as it would do so for every batch size.
"""

from __future__ import annotations

import functools

import keras
import numpy as np
from keras import layers, ops

from deeppose_tf.config import DROPOUT_KEEP, FC_UNITS, IM_SIZE, Config, scaled

GCN_EPSILON = 1e-5  # DT: added to the standard deviation
# TensorFlow's local response normalisation (depth radius, alpha, beta, bias); equals Caffe's local_size 5, alpha 1e-4
LRN_RADIUS, LRN_ALPHA, LRN_BETA, LRN_BIAS = 2, 2e-5, 0.75, 1.0
# layer -> (kernel side, stride, filters, groups, standard deviation, bias)
CONVOLUTIONS = {
    "conv1": (11, 4, 96, 1, 0.01, 0.0),
    "conv2": (5, 1, 256, 2, 0.01, 0.1),
    "conv3": (3, 1, 384, 1, 0.01, 0.0),
    "conv4": (3, 1, 384, 2, 0.01, 0.1),
    "conv5": (3, 1, 256, 2, 0.01, 0.1),
}
# layer -> (units, standard deviation, bias)
DENSE = {"fc6": (FC_UNITS, 0.005, 0.1), "fc7": (FC_UNITS, 0.005, 0.1)}
HEAD = "fc_regression"
HEAD_DEVIATION = {"original": 0.01, "he": 0.001}  # a first guess near the crop's centre, whatever comes in


class GroupedConvolution(layers.Conv2D):
    """`Conv2D(groups=...)`, its kernel (kh, kw, in/groups, out) too, as plain ones: Keras's own is slow on a CPU."""

    def call(self, x):
        """(N,H,W,C) -> (N,H',W',filters)."""
        inputs = ops.split(x, self.groups, axis=-1)
        kernels = ops.split(ops.convert_to_tensor(self.kernel), self.groups, axis=-1)
        parts = [ops.conv(i, k, strides=self.strides, padding=self.padding) for i, k in zip(inputs, kernels)]
        return self.activation(ops.concatenate(parts, axis=-1) + self.bias)


@functools.cache  # TensorFlow keeps what XLA compiled by function: one object for all networks of a process
def compiled(function):
    """`function` of tensors, compiled by XLA. TensorFlow's backend only."""
    import tensorflow as tf

    return tf.function(function, jit_compile=True, autograph=False)


def _compile_in(training: bool) -> bool:
    return bool(training) and keras.backend.backend() == "tensorflow"


class Pixels(layers.Layer):
    """uint8 BGR -> float32, also under mixed precision; with `contrast` global contrast normalisation."""

    def __init__(self, contrast: bool, **options):
        super().__init__(**{"dtype": "float32", "autocast": False, **options})
        self.contrast = contrast

    def call(self, images, training=False):
        """(N,H,W,3) -> (N,H,W,3)."""
        if not self.contrast:
            return ops.cast(images, "float32")
        return (compiled(contrast_normalise) if _compile_in(training) else contrast_normalise)(images)


def contrast_normalise(images):
    """(N,H,W,3) of any type -> float32: an image's channels minus their mean, over their deviation + 1e-5."""

    def mean(x):
        # of the rows' means: XLA adds one number after another, over a whole crop that costs two of seven digits
        return ops.mean(ops.mean(x, axis=2, keepdims=True), axis=1, keepdims=True)

    images = ops.cast(images, "float32")
    centred = images - mean(images)
    return centred * (1 / (ops.sqrt(mean(ops.square(centred))) + GCN_EPSILON))


class LocalResponseNorm(layers.Layer):
    """x / (k + alpha * sum of x^2 over 2r+1 neighbouring channels)^beta (Krizhevsky et al., NIPS 2012, section 3.3)."""

    def build(self, shape) -> None:
        """The matrix whose product is the sum over neighbouring channels."""
        channel = ops.arange(shape[-1])
        near = ops.abs(channel[:, None] - channel[None]) <= LRN_RADIUS
        self.band = ops.convert_to_numpy(ops.cast(near, "float32"))

    def call(self, x, training=False):
        """(N,H,W,C) -> (N,H,W,C)."""
        if _compile_in(training):
            # in float32 also under mixed precision: XLA's loops over bfloat16 are many times slower on a CPU
            return ops.cast(_trained(ops.cast(x, "float32")), x.dtype)
        # not compiled, one matrix product is cheaper than ten passes that pad, slice and add
        band = ops.cast(ops.convert_to_tensor(self.band), x.dtype)
        return x * _powers(ops.matmul(ops.square(x), band))[0]


@ops.custom_gradient
def _trained(x):
    def gradient(*arguments, upstream=None):
        return compiled(_response_gradient)(x, arguments[0] if upstream is None else upstream)

    return compiled(_response)(x), gradient


def _response(x):
    return x * _powers(_neighbours(ops.square(x)))[0]


def _response_gradient(x, upstream):
    # y = x f(n): dx = dy f - 2 alpha beta x sum(dy y / n), the sum over the same neighbours. Powers are computed again,
    # which costs less than to write them out and read them
    factor, inverse = _powers(_neighbours(ops.square(x)))
    return upstream * factor - x * (_neighbours(upstream * x * factor * inverse) * (2 * LRN_ALPHA * LRN_BETA))


def _neighbours(x):
    """Sum over 2r+1 neighbouring channels."""
    channels, width = x.shape[-1], 2 * LRN_RADIUS + 1
    padded = ops.pad(x, [(0, 0)] * (len(x.shape) - 1) + [(LRN_RADIUS, LRN_RADIUS)])
    return functools.reduce(ops.add, [padded[..., i : i + channels] for i in range(width)])


def _powers(total):
    """n^-beta and 1/n of n = k + alpha * total; beta 3/4 is two square roots."""
    root = ops.rsqrt(LRN_BIAS + total * LRN_ALPHA)
    return root * ops.sqrt(root), ops.square(root)


def _initializer(kind: str, deviation: float, seed: int):
    first = keras.initializers
    return first.HeNormal(seed) if kind == "he" else first.TruncatedNormal(0.0, deviation, seed)


def _batch_normalised(x, name: str):
    return layers.ReLU(name=f"{name}_relu")(layers.BatchNormalization(name=f"{name}_bn")(x))


def alexnet(x, channels: float, init: str, dropout_keep: float, seed: int, norm: str):
    """(N,227,227,3) -> (N,4096) activations of fc7 after dropout."""
    constant, act = keras.initializers.Constant, "relu" if norm == "lrn" else None
    for i, (name, (side, stride, filters, groups, deviation, bias)) in enumerate(CONVOLUTIONS.items()):
        kind, first = GroupedConvolution if groups > 1 else layers.Conv2D, _initializer(init, deviation, seed + i)
        form = {"groups": groups, "activation": act, "kernel_initializer": first, "bias_initializer": constant(bias)}
        x = kind(scaled(filters, channels), side, stride, "same", name=name, **form)(x)
        if norm == "batch":
            x = _batch_normalised(x, name)
        elif name in ("conv1", "conv2"):
            x = LocalResponseNorm(name=f"{name}_lrn")(x)
        if name in ("conv1", "conv2", "conv5"):
            x = layers.MaxPooling2D(3, 2, "valid", name=f"pool{name[-1]}")(x)
    x = layers.Flatten(name="flatten")(x)
    for i, (name, (units, deviation, bias)) in enumerate(DENSE.items()):
        first = _initializer(init, deviation, seed + 10 + i)
        x = layers.Dense(scaled(units, channels), act, True, first, constant(bias), name=name)(x)
        if norm == "batch":
            x = _batch_normalised(x, name)
        if dropout_keep < 1:
            x = layers.Dropout(1 - dropout_keep, name=f"{name}_dropout", seed=seed + 20 + i)(x)
    return x


def build_network(
    joints: int, *, gcn=True, channels=1.0, init="original", dropout_keep=DROPOUT_KEEP, seed=0, amp="off", norm="lrn"
) -> keras.Model:
    """A network that regresses so many joints; the options as in `config.Config`."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16" if amp == "bf16" else "float32")
    try:
        images = keras.Input((IM_SIZE, IM_SIZE, 3), dtype="uint8", name="images")
        x = alexnet(Pixels(gcn, name="pixels")(images), channels, init, dropout_keep, seed, norm)
        first = _initializer("original", HEAD_DEVIATION[init], seed + 30)
        x = layers.Dense(2 * joints, name=HEAD, kernel_initializer=first)(x)
        return keras.Model(images, layers.Activation("linear", dtype="float32", name="joints")(x), name="alexnet")
    finally:
        keras.config.set_dtype_policy(before)


def network_for(config: Config, joints: int) -> keras.Model:
    """The network of a run's settings."""
    names = ("gcn", "channels", "init", "dropout_keep", "seed", "amp", "norm")
    return build_network(joints, **{name: getattr(config, name) for name in names})


def variables_of(model: keras.Model) -> dict[str, keras.Variable]:
    """DT's variable name (`conv1/weight`, `fc6/bias`) -> Keras's variable, in the network's order."""
    kinds = {"weight": "kernel", "bias": "bias"}
    kinds |= {"scale": "gamma", "offset": "beta", "mean": "moving_mean", "variance": "moving_variance"}
    found = [(layer, name, own) for layer in model.layers for name, own in kinds.items() if hasattr(layer, own)]
    return {f"{layer.name}/{name}": getattr(layer, own) for layer, name, own in found}


def get_weights(model: keras.Model) -> dict[str, np.ndarray]:
    """The variables as NumPy arrays, float32."""
    return {name: ops.convert_to_numpy(variable) for name, variable in variables_of(model).items()}


def set_weights(model: keras.Model, weights: dict) -> None:
    """Assign arrays by DT's names; names that the model does not have are ignored."""
    for name, variable in variables_of(model).items():
        if name in weights:
            variable.assign(weights[name])
