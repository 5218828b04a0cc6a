"""The networks, in Keras 3 layers and `keras.ops` alone: they run on TensorFlow, PyTorch and JAX (`KERAS_BACKEND`).

Input: (N,227,227,3) BGR pixels 0 to 255 (uint8); output: (N,2J) shares of the crop, x0, y0, x1, y1, ... AlexNet as in DT: every convolution
is padded SAME, the first too (which gives 57 x 57, not Caffe's 55 x 55), groups are two contiguous halves, LRN comes before pooling.
"""

from __future__ import annotations

from collections.abc import Callable

import keras
from keras import layers, ops

from deeppose_tf.config import DROPOUT_KEEP, FC_UNITS, IM_SIZE, scaled
from deeppose_tf.normalise import LocalResponseNorm, Pixels

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
RESTORED_LAYERS = (*CONVOLUTIONS, *DENSE)  # from ImageNet weights
UNUSED_HEAD = ("fc8", 1)  # DT builds it, it gets no gradient, checkpoints hold it


@keras.saving.register_keras_serializable("deeppose_tf")
class GroupedConvolution(layers.Conv2D):
    """A convolution in contiguous groups of channels, as that many plain ones: kernels as `Conv2D(groups=...)` has them (kh, kw, in/groups,
    out). Keras's own grouped convolution neither exports to ONNX nor runs fast on a CPU."""

    def call(self, x):
        """(N,H,W,C) -> (N,H',W',filters)."""
        inputs = ops.split(x, self.groups, axis=-1)
        kernels = ops.split(ops.convert_to_tensor(self.kernel), self.groups, axis=-1)
        parts = [ops.conv(i, k, strides=self.strides, padding=self.padding) for i, k in zip(inputs, kernels)]
        return self.activation(ops.concatenate(parts, axis=-1) + self.bias)


def _initializer(kind: str, deviation: float, seed: int):
    return (
        keras.initializers.HeNormal(seed) if kind == "he" else keras.initializers.TruncatedNormal(0.0, deviation, seed)
    )


def alexnet(x, *, width: float, init: str, conv1_padding: str, dropout_keep: float, seed: int):
    """(N,227,227,3) -> (N,4096) activations of fc7 after dropout."""
    for i, (name, (side, stride, filters, groups, deviation, bias)) in enumerate(CONVOLUTIONS.items()):
        kind = GroupedConvolution if groups > 1 else layers.Conv2D
        x = kind(
            scaled(filters, width), side, stride, conv1_padding if name == "conv1" else "same", groups=groups, activation="relu", name=name,
            kernel_initializer=_initializer(init, deviation, seed + i), bias_initializer=keras.initializers.Constant(bias),
        )(x)  # fmt: skip
        if name in ("conv1", "conv2"):
            x = LocalResponseNorm(name=f"{name}_lrn")(x)
        if name in ("conv1", "conv2", "conv5"):
            x = layers.MaxPooling2D(3, 2, "valid", name=f"pool{name[-1]}")(x)
    x = layers.Flatten(name="flatten")(x)
    for i, (name, (units, deviation, bias)) in enumerate(DENSE.items()):
        x = layers.Dense(
            scaled(units, width), activation="relu", name=name, kernel_initializer=_initializer(init, deviation, seed + 10 + i),
            bias_initializer=keras.initializers.Constant(bias),
        )(x)  # fmt: skip
        if dropout_keep < 1:
            x = layers.Dropout(1 - dropout_keep, name=f"{name}_dropout", seed=seed + 20 + i)(x)
    return x


# `--net_type` -> backbone: (pixels, options) -> (N,F) features. Add another network here; its layers need names of their own.
NETWORKS: dict[str, Callable] = {"Alexnet": alexnet}


def build_network(
    n_joints: int, *, net_type: str = "Alexnet", gcn: bool = True, width: float = 1.0, init: str = "original", conv1_padding: str = "same",
    dropout_keep: float = DROPOUT_KEEP, seed: int = 0, amp: str = "off",
) -> keras.Model:  # fmt: skip
    """A network that regresses `n_joints` joints; the options as in `config.Config`. ValueError for an unknown `net_type`."""
    if net_type not in NETWORKS:
        raise ValueError(f"--net_type {net_type!r} is not one of {', '.join(NETWORKS)}")
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16" if amp == "bf16" else "float32")
    try:
        images = keras.Input((IM_SIZE, IM_SIZE, 3), dtype="uint8", name="images")
        x = Pixels(gcn, name="pixels")(images)
        x = NETWORKS[net_type](
            x, width=width, init=init, conv1_padding=conv1_padding, dropout_keep=dropout_keep, seed=seed
        )
        head = layers.Dense(
            2 * n_joints, name=HEAD, kernel_initializer=_initializer("original", HEAD_DEVIATION[init], seed + 30)
        )(x)
        return keras.Model(images, layers.Activation("linear", dtype="float32", name="joints")(head), name=net_type)
    finally:
        keras.config.set_dtype_policy(before)


def network_for(config) -> keras.Model:
    """The network of a run's settings."""
    names = ("net_type", "gcn", "width", "init", "conv1_padding", "dropout_keep", "seed", "amp")
    return build_network(config.n_joints, **{name: getattr(config, name) for name in names})


def weight_layers(model: keras.Model) -> list[keras.layers.Layer]:
    """The layers that have weights, in the network's order."""
    return [layer for layer in model.layers if layer.weights and hasattr(layer, "kernel")]


def get_weights(model: keras.Model) -> dict[str, object]:
    """DT's variable name (`conv1/weight`, `fc6/bias`) -> NumPy array, float32."""
    found = {}
    for layer in weight_layers(model):
        found[f"{layer.name}/weight"], found[f"{layer.name}/bias"] = (
            ops.convert_to_numpy(v) for v in (layer.kernel, layer.bias)
        )
    return found


def set_weights(model: keras.Model, weights: dict) -> None:
    """Assign arrays by DT's names; names that the model does not have are ignored."""
    for layer in weight_layers(model):
        for name, variable in (("weight", layer.kernel), ("bias", layer.bias)):
            if f"{layer.name}/{name}" in weights:
                variable.assign(weights[f"{layer.name}/{name}"])
