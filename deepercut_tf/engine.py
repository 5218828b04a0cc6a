"""`Trainer.step`, one update of the weights (TensorFlow), and `Predictor`, maps of an image (any Keras backend)."""

from __future__ import annotations

import keras
import numpy as np
from keras import ops

from deepercut_tf.config import Config
from deepercut_tf.data import batch_spec
from deepercut_tf.detections import Maps, unpack_maps
from deepercut_tf.losses import pose_losses
from deepercut_tf.model import build_model, folded_variables, load_variables, named_variables
from deepercut_tf.pair_statistics import PairStatistics

MOMENTUM = 0.9
BETA1, BETA2, ADAM_EPSILON = 0.9, 0.999, 1e-8  # TensorFlow 1's defaults


class Trainer:
    """The compiled training step. Variables and optimiser slots go by the original's names.

    SGD is TensorFlow 1's momentum (a = 0.9 a + g, w -= lr a); Adam too is TensorFlow 1's. With a tf.distribute `strategy` every replica
    steps on its own batch, of the distributed data set's `spec`, and gradients are averaged. ValueError on another Keras backend than TensorFlow.
    """

    def __init__(self, model: keras.Model, config: Config, strategy=None, spec: dict | None = None):
        if keras.backend.backend() != "tensorflow":
            raise ValueError(
                f"training needs KERAS_BACKEND=tensorflow; it is {keras.backend.backend()}, which can predict only"
            )
        import tensorflow as tf

        self.model, self.config, self.strategy = model, config, strategy
        self.variables = {name: v.value for name, v in named_variables(model).items()}
        self.trained = {name: v.value for name, v in named_variables(model).items() if v.trainable}
        kinds = ("Momentum",) if config.optimizer == "sgd" else ("Adam", "Adam_1")

        def make_slots():
            return {
                f"{n}/{kind}": tf.Variable(tf.zeros(v.shape), trainable=False)
                for n, v in self.trained.items()
                for kind in kinds
            }

        if strategy is None:
            self.slots = make_slots()
        else:
            with strategy.scope():
                self.slots = make_slots()
        number = tf.TensorSpec((), tf.float32)
        # one trace for all image sizes; with partly known sizes, as retracing would find them, TensorFlow 2.21 computed wrong shapes
        self._compiled = tf.function(
            self._distributed if strategy else self._step, input_signature=[spec or batch_spec(config), number, number]
        )

    def step(self, batch: dict, rate: float, number: int) -> dict:
        """One update with a batch of `data.collate` (or a replica's each) at learning rate `rate`; `number` counts updates from 1 (for Adam).

        Returns the losses before it, as tensors. No retracing for other image sizes.
        """
        import tensorflow as tf

        batch = {name: value for name, value in batch.items() if name != "draw"}
        if self.strategy is None:
            batch = {name: tf.convert_to_tensor(value) for name, value in batch.items()}
        return self._compiled(batch, tf.constant(rate, tf.float32), tf.constant(float(number), tf.float32))

    def _gradients(self, batch: dict):
        import tensorflow as tf

        with tf.GradientTape() as tape:
            losses = pose_losses(self.model(batch["inputs"], training=True), batch, self.config)
            total = losses["total_loss"]
            if self.config.regularize:
                kernels = [v for name, v in self.trained.items() if name.endswith("weights")]
                total += self.config.weight_decay * tf.add_n([tf.nn.l2_loss(v) for v in kernels])
        return losses, tape.gradient(total, list(self.trained.values()), unconnected_gradients="zero")

    def _step(self, batch: dict, rate, number):
        import tensorflow as tf

        losses, gradients = self._gradients(batch)
        if self.strategy is not None:
            gradients = tf.distribute.get_replica_context().all_reduce("mean", gradients)
        if self.config.clip:
            gradients, losses["gradient_norm"] = tf.clip_by_global_norm(gradients, self.config.clip)
        for (name, variable), gradient in zip(self.trained.items(), gradients):
            self._apply(name, variable, gradient, rate, number)
        return losses

    def _apply(self, name: str, variable, gradient, rate, number) -> None:
        import tensorflow as tf

        if self.config.optimizer == "sgd":
            slot = self.slots[name + "/Momentum"].handle
            tf.raw_ops.ResourceApplyMomentum(var=variable.handle, accum=slot, lr=rate, grad=gradient, momentum=MOMENTUM)
            return
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle, m=self.slots[name + "/Adam"].handle, v=self.slots[name + "/Adam_1"].handle, grad=gradient, lr=rate,
            beta1_power=BETA1**number, beta2_power=BETA2**number, beta1=BETA1, beta2=BETA2, epsilon=ADAM_EPSILON,
        )  # fmt: skip

    def _distributed(self, batch, rate, number):
        losses = self.strategy.run(self._step, args=(batch, rate, number))
        return {name: self.strategy.reduce("mean", value, axis=None) for name, value in losses.items()}


class Predictor:
    """Score maps and offsets of images by a trained network. Normalisation is folded into the kernels."""

    def __init__(self, model: keras.Model, config: Config, statistics: PairStatistics | None = None):
        """`model` from `build_model` with `config`; `statistics` are needed with `pairwise_predict`."""
        self.config, self.statistics = config, statistics
        self.network = build_model(config, folded=True)
        load_variables(self.network, folded_variables(model), "the network")
        self._call = self._outputs
        if keras.backend.backend() == "tensorflow":
            import tensorflow as tf

            signature = [tf.TensorSpec((None, None, None, 3), tf.uint8)]
            self._call = tf.function(self._outputs, input_signature=signature)

    def _outputs(self, images):
        outputs = self.network(images, training=False)
        return {**outputs, "part_prob": ops.sigmoid(outputs["part_pred"])}

    def outputs(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """(B,H,W,3) uint8 RGB -> part_pred, part_prob, locref, pairwise_pred as arrays."""
        return {name: ops.convert_to_numpy(value) for name, value in self._call(np.ascontiguousarray(images)).items()}

    def maps(self, image: np.ndarray) -> Maps:
        """(H,W,3) uint8 RGB -> maps in pixels of this image."""
        return unpack_maps(self.outputs(image[None]), self.config, self.statistics)
