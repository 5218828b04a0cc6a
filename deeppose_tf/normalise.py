"""The two normalisations of the network as Keras layers: of the picture's contrast, and of responses over neighbouring channels.

Both are chains of elementwise operations, each of which costs a CPU a pass over memory. In training on TensorFlow XLA compiles every chain to
one loop. Elsewhere (other backends, scoring, export) they stay as they are: XLA would compile anew for every batch size.
"""

from __future__ import annotations

import functools

import keras
from keras import layers, ops

from deeppose_tf.config import GCN_EPSILON, LRN_ALPHA, LRN_BETA, LRN_BIAS, LRN_RADIUS


@functools.cache  # TensorFlow keeps what XLA compiled by function: one object for all networks of a process
def compiled(function):
    """`function` of tensors, compiled by XLA. TensorFlow's backend only."""
    import tensorflow as tf

    return tf.function(function, jit_compile=True, autograph=False)


def _compile_in(training: bool) -> bool:
    return bool(training) and keras.backend.backend() == "tensorflow"


@keras.saving.register_keras_serializable("deeppose_tf")
class Pixels(layers.Layer):
    """uint8 BGR -> float32; with `contrast` each image's channels minus their mean, over their deviation + 1e-5 (global contrast
    normalisation). Always in float32, also under mixed precision."""

    def __init__(self, contrast: bool, **options):
        super().__init__(**{"dtype": "float32", "autocast": False, **options})
        self.contrast = contrast

    def call(self, images, training=False):
        """(N,H,W,3) -> (N,H,W,3)."""
        if not self.contrast:
            return ops.cast(images, "float32")
        return (compiled(_contrast_by_rows) if _compile_in(training) else contrast_normalise)(images)

    def compute_output_spec(self, images, training=False):
        """Same shape, float32."""
        return keras.KerasTensor(images.shape, dtype="float32")

    def get_config(self) -> dict:
        """For saving."""
        return {**super().get_config(), "contrast": self.contrast}


def contrast_normalise(images, by_rows: bool = False):
    """(N,H,W,3) of any type -> float32 with zero mean and unit deviation an image and channel. `by_rows` takes means of the rows' means."""

    def mean(x):
        if by_rows:
            x = ops.mean(x, axis=2, keepdims=True)
        return ops.mean(x, axis=(1, 2), keepdims=True)

    images = ops.cast(images, "float32")
    centred = images - mean(images)
    return centred * (1 / (ops.sqrt(mean(ops.square(centred))) + GCN_EPSILON))


# XLA adds one number after another: over a whole crop that costs a float32 two of its seven digits
_contrast_by_rows = functools.partial(contrast_normalise, by_rows=True)


@keras.saving.register_keras_serializable("deeppose_tf")
class LocalResponseNorm(layers.Layer):
    """x / (k + alpha * sum of x^2 over 2r+1 neighbouring channels)^beta (Krizhevsky et al., NIPS 2012, section 3.3; TensorFlow's alpha)."""

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
        # flat, because the four-dimensional product becomes a Tensordot, which tf2onnx now and then folds into a MatMul of wrong shape
        total = ops.reshape(ops.matmul(ops.reshape(ops.square(x), (-1, band.shape[0])), band), ops.shape(x))
        return x * _powers(total)[0]


@ops.custom_gradient
def _trained(x):
    def gradient(*arguments, upstream=None):
        return compiled(_response_gradient)(x, arguments[0] if upstream is None else upstream)

    return compiled(_response)(x), gradient


def _response(x):
    return x * _powers(_neighbours(ops.square(x)))[0]


def _response_gradient(x, upstream):
    # y = x f(n): dx = dy f - 2 alpha beta x sum(dy y / n), the sum over the same neighbours. Powers are computed again, which costs less
    # than to write them out and read them
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
