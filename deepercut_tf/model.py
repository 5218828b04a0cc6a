"""The networks, in Keras 3 layers and `keras.ops`, with two operations of TensorFlow's own where it is the backend.

ResNet v1 (He et al., 2016) as TensorFlow-Slim builds it with output stride 16: the stride sits in a block's LAST unit,
block4 is dilated by 2. Heads are transposed convolutions to stride 8. Input (B,H,W,3) RGB 0..255; outputs
(B, 2 ceil(H/16), 2 ceil(W/16), channels).
"""

from __future__ import annotations

import functools
from dataclasses import replace

import keras
import numpy as np
from keras import ops

from common.errors import DataError
from common.runs.converting import check_numbers
from deepercut_tf.config import UNITS, Config, require

TENSORFLOW = keras.backend.backend() == "tensorflow"
if TENSORFLOW:
    import tensorflow as tf

WIDTHS = (64, 128, 256, 512)  # a unit puts out four times as many channels
EPSILON = 1e-5


class ConvNorm(keras.layers.Layer):
    """Convolution without bias, batch normalisation, ReLU unless `relu` is false.

    Pads by (kernel-1) rate, with stride 2 the smaller half first (TensorFlow-Slim's conv2d_same). `frozen`: moving
    statistics always, though scale and offset are trained.
    """

    def __init__(self, filters: int, kernel: int, stride=1, rate=1, relu=True, *, frozen, decay, scope, **options):
        super().__init__(**options)
        self.filters, self.kernel_size, self.stride, self.rate = filters, kernel, stride, rate
        self.relu, self.frozen, self.decay, self.scope = relu, frozen, decay, scope

    def build(self, shape):
        """Create the variables for inputs of `shape` (B,H,W,C)."""
        # slim's variance scaling: 1.3 makes up for the truncation
        deviation = float(np.sqrt(1.3 * 2 / (self.kernel_size**2 * shape[-1])))
        kernel = keras.initializers.TruncatedNormal(stddev=deviation, seed=keras.random.SeedGenerator())
        size = (self.kernel_size, self.kernel_size, shape[-1], self.filters)
        self.weights_ = self.add_weight(shape=size, initializer=kernel, name="weights")
        # never cast: a mean that moves by a hundredth a step stands still in bfloat16
        options = {"shape": (self.filters,), "autocast": False}
        self.gamma = self.add_weight(initializer="ones", name="gamma", **options)
        self.beta = self.add_weight(initializer="zeros", name="beta", **options)
        self.moving_mean = self.add_weight(initializer="zeros", trainable=False, name="moving_mean", **options)
        self.moving_variance = self.add_weight(initializer="ones", trainable=False, name="moving_variance", **options)

    def call(self, x, training=False):
        """(B,H,W,C) -> (B,ceil(H/stride),ceil(W/stride),filters)."""
        x = self._convolve(x, self.weights_, training)
        if training and not self.frozen:
            x, mean, variance = normalise(x, self.gamma, self.beta)
            for moving, new in ((self.moving_mean, mean), (self.moving_variance, variance)):
                moving.assign(moving * self.decay + new * (1 - self.decay))
        else:
            x = normalise(x, self.gamma, self.beta, (self.moving_mean, self.moving_variance))[0]
        return ops.relu(x) if self.relu else x

    def _convolve(self, x, kernel, training):
        if self.stride == self.rate == 1:
            return ops.conv(x, kernel, strides=1, padding="same", data_format="channels_last")
        total = (self.kernel_size - 1) * self.rate
        if total:
            before, after = total // 2, total - total // 2
            x = ops.pad(x, [(0, 0), (before, after), (before, after), (0, 0)])
        if TENSORFLOW:
            if self.rate == 1 or not training or dilation_has_gradient():
                return tf.nn.conv2d(x, kernel, self.stride, "VALID", dilations=self.rate)
            return tf.nn.convolution(x, kernel, self.stride, "VALID", dilations=self.rate)
        options = {"strides": self.stride, "dilation_rate": self.rate}
        return ops.conv(x, kernel, padding="valid", data_format="channels_last", **options)

    def compute_output_shape(self, shape):
        """Ceiling division by the stride."""
        sides = [None if side is None else -(-side // self.stride) for side in shape[1:3]]
        return (shape[0], *sides, self.filters)


@functools.cache
def dilation_has_gradient() -> bool:
    """Whether TensorFlow's dilated convolution can be trained here, found by trying once: without oneDNN it cannot on a
    CPU. The other form rearranges the picture (space to batch), which costs more; the numbers are the same."""
    # eagerly, although a step is being traced; that scope pauses tapes, so the gradient is called by its operation
    with tf.init_scope():
        kernel, upstream, sizes = tf.ones((3, 3, 1, 1)), tf.ones((1, 5, 5, 1)), [1, 9, 9, 1]
        options = {"strides": [1] * 4, "padding": "VALID", "dilations": [1, 2, 2, 1]}
        try:
            tf.raw_ops.Conv2DBackpropInput(input_sizes=sizes, filter=kernel, out_backprop=upstream, **options)
        except (tf.errors.InvalidArgumentError, tf.errors.UnimplementedError):
            print("dilated convolutions have no gradient here (no oneDNN): pictures are rearranged, more slowly")
            return False
    return True


def normalise(x, gamma, beta, moving=None):
    """x (B,H,W,C) normalised by its own mean and variance (on TensorFlow), or by the `moving` ones; and these."""
    if not TENSORFLOW:
        return ops.batch_normalization(x, *moving, axis=-1, offset=beta, scale=gamma, epsilon=EPSILON), *moving
    mean, variance = moving or (tf.zeros(0), tf.zeros(0))
    out, mean, variance = tf.raw_ops.FusedBatchNormV3(
        x=x, scale=gamma, offset=beta, mean=mean, variance=variance, epsilon=EPSILON, is_training=moving is None
    )[:3]
    count = tf.cast(tf.size(x) / tf.size(gamma), "float32")
    return out, mean, variance * ((count - 1) / count)  # it gives the estimate with count - 1


class Heads(keras.layers.Layer):
    """Transposed 3x3 convolutions of stride 2 on one feature map, run as one. `channels`: scope name -> outputs.

    Outputs are float32 also under mixed precision: losses and positions need its digits.
    """

    def __init__(self, channels: dict[str, int], **options):
        super().__init__(**options)
        self.channels = channels

    def build(self, shape):
        """Create a kernel (3,3,out,in) and a bias a head."""
        self.kernels, self.biases = {}, {}
        for name, count in self.channels.items():
            limit = float(np.sqrt(6 / (9 * (count + shape[-1]))))  # Glorot
            initializer = keras.initializers.RandomUniform(-limit, limit, seed=keras.random.SeedGenerator())
            size, label = (3, 3, count, shape[-1]), f"{name}_weights"
            self.kernels[name] = self.add_weight(shape=size, initializer=initializer, name=label)
            bias = {"shape": (count,), "initializer": "zeros", "autocast": False}
            self.biases[name] = self.add_weight(name=f"{name}_biases", **bias)

    def call(self, x):
        """(B,h,w,C) -> {scope name: (B,2h,2w,channels)}."""
        kernel = ops.concatenate([self.kernels[name] for name in self.channels], axis=2)
        bias = ops.concatenate([self.biases[name] for name in self.channels], axis=0)
        out = ops.conv_transpose(x, kernel, strides=2, padding="same", data_format="channels_last")
        out = ops.cast(out, self.variable_dtype) + bias
        ends = np.cumsum(list(self.channels.values()))
        if len(ends) == 1:
            return dict.fromkeys(self.channels, out)
        # the gradient of a split is one concatenation; that of slices would be a whole map of zeros for each
        return dict(zip(self.channels, ops.split(out, ends[:-1], axis=-1)))


# scope -> key of the output
OUTPUTS = {"part_pred": "part_pred", "locref_pred": "locref", "pairwise_pred": "pairwise_pred"}


def build_model(config: Config, intermediate: bool = False, amp: str = "off") -> keras.Model:
    """The network of the settings: RGB (B,H,W,3) -> {part_pred logits, locref, pairwise_pred, part_pred_interm}.

    `intermediate`: with the second score map, if the settings have one; training alone needs it. `amp` bf16:
    activations in bfloat16, variables and outputs in float32. DataError when num_joints is missing.
    """
    require(config, "num_joints", why="the network")
    scope, joints = config.net_type.replace("resnet_", "resnet_v1_"), config.num_joints
    images = keras.Input((None, None, 3), name="inputs", dtype="uint8")
    dtype = "mixed_bfloat16" if amp == "bf16" else "float32"
    kind = {"frozen": not config.train_statistics, "decay": config.bn_decay, "dtype": dtype}
    x = keras.layers.Rescaling(1.0, [-float(v) for v in config.mean_pixel], dtype="float32")(images)
    x = ConvNorm(_channels(64, config), 7, 2, scope=f"{scope}/conv1", name="conv1", **kind)(x)
    x = keras.layers.MaxPooling2D(3, 2, padding="same", name="pool1", dtype=dtype)(x)
    interm = None
    for block, (count, base) in enumerate(zip(UNITS[config.net_type], WIDTHS), start=1):
        for unit in range(1, count + 1):
            # stride 16 is reached after block2
            stride, rate = 2 if unit == count and block < 3 else 1, 2 if block == 4 else 1
            place = f"{scope}/block{block}/unit_{unit}/bottleneck_v1"
            x = _bottleneck(x, _channels(base, config), stride, rate, unit == 1, kind, place)
            if block == 3 and unit == config.intermediate_supervision_layer:
                interm = x
    channels = {"part_pred": joints}
    channels |= {"locref_pred": 2 * joints} if config.location_refinement else {}
    channels |= {"pairwise_pred": 2 * joints * (joints - 1)} if config.pairwise_predict else {}
    heads = Heads(channels, name="heads", dtype=dtype)(x)
    outputs = {OUTPUTS[name]: value for name, value in heads.items()}
    if intermediate and config.intermediate_supervision:
        head = Heads({"intermediate_supervision": joints}, name="heads_interm", dtype=dtype)
        outputs["part_pred_interm"] = head(interm)["intermediate_supervision"]
    return keras.Model(images, outputs, name=config.net_type)


def _channels(count: int, config: Config) -> int:
    return max(8, int(round(count * config.channels)))


def _bottleneck(x, base: int, stride: int, rate: int, first: bool, kind: dict, scope: str):
    name, dtype = "_".join(scope.split("/")[1:3]), kind["dtype"]

    def conv(x, filters, kernel, stride, rate, relu, part):
        return ConvNorm(filters, kernel, stride, rate, relu, scope=f"{scope}/{part}", name=f"{name}_{part}", **kind)(x)

    shortcut = x
    if first:
        shortcut = conv(x, 4 * base, 1, stride, 1, False, "shortcut")
    elif stride > 1:
        shortcut = keras.layers.MaxPooling2D(1, stride, name=f"{name}_shortcut", dtype=dtype)(x)
    y = conv(x, base, 1, 1, 1, True, "conv1")
    y = conv(y, base, 3, stride, rate, True, "conv2")
    y = conv(y, 4 * base, 1, 1, 1, False, "conv3")
    total = keras.layers.Add(name=f"{name}_add", dtype=dtype)([shortcut, y])
    return keras.layers.Activation("relu", name=f"{name}_out", dtype=dtype)(total)


def named_variables(model: keras.Model) -> dict[str, keras.Variable]:
    """The original's variable name -> our variable, backbone first, in the network's order."""
    found = {}
    for layer in model.layers:
        if isinstance(layer, ConvNorm):
            found[f"{layer.scope}/weights"] = layer.weights_
            for part in ("gamma", "beta", "moving_mean", "moving_variance"):
                found[f"{layer.scope}/BatchNorm/{part}"] = getattr(layer, part)
        elif isinstance(layer, Heads):
            for name in layer.channels:
                found[f"pose/{name}/block4/weights"] = layer.kernels[name]
                found[f"pose/{name}/block4/biases"] = layer.biases[name]
    return found


def load_variables(model: keras.Model, values: dict, source: str, optional: tuple[str, ...] = ()) -> list[str]:
    """Assign arrays by the original's names; returns the names that were assigned. Further names in `values` are
    ignored, and so are variables beginning with one of `optional` that `values` lacks or has in another shape.
    DataError naming the first that is missing or wrong."""
    wanted = {
        name: variable
        for name, variable in named_variables(model).items()
        if not name.startswith(optional) or np.shape(values.get(name)) == tuple(variable.shape)
    }
    wrong = [n for n, v in wanted.items() if n not in values or np.shape(values[n]) != tuple(v.shape)]
    if wrong:
        have = np.shape(values[wrong[0]]) if wrong[0] in values else "none"
        what = f"variable {wrong[0]} needs shape {tuple(wanted[wrong[0]].shape)}, there is {have} ({len(wrong)} such)"
        raise DataError(f"{source}: {what}; it is of another net_type, num_joints, channels or other heads")
    check_numbers({name: values[name] for name in wanted}, source)
    for name, variable in wanted.items():
        variable.assign(np.asarray(values[name], np.float32))
    return list(wanted)


def fresh_model(config: Config, amp: str = "off") -> keras.Model:
    """The network with random weights and moving statistics, as prediction uses it."""
    keras.utils.set_random_seed(config.seed)
    return build_model(replace(config, bn_mode="frozen"), amp=amp)


class Predictor:
    """A network's maps of pictures, compiled once for all sizes."""

    def __init__(self, network: keras.Model):
        self.network, self._call = network, self._outputs
        if TENSORFLOW:
            self._call = tf.function(self._outputs, input_signature=[tf.TensorSpec((None, None, None, 3), tf.uint8)])

    def _outputs(self, images):
        outputs = self.network(images, training=False)
        return {**outputs, "part_prob": ops.sigmoid(outputs["part_pred"])}

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """(B,H,W,3) uint8 RGB -> part_pred, part_prob, locref, pairwise_pred as arrays."""
        return {name: ops.convert_to_numpy(value) for name, value in self._call(images).items()}
