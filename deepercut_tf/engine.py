"""Training: `Trainer` (a run), `Machine` (its devices and processes), `Update` (the compiled step, TensorFlow)."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from common.runs.checkpoints import check_compatible
from common.runs.process import ClusterProcess, default_workers, keras_devices
from common.runs.session import Position
from common.skeletons import card
from deepercut_tf import data
from deepercut_tf.config import Config, house_path, require
from deepercut_tf.estimator import Estimator
from deepercut_tf.items import ItemSet, load_pose_set
from deepercut_tf.losses import pose_losses
from deepercut_tf.model import build_model, load_variables, named_variables
from deepercut_tf.pairwise_stats import load_statistics
from deepercut_tf.weight_files import drop_old_snapshots, find_snapshot, read_weights, write_weights

MOMENTUM = 0.9
BETA1, BETA2, ADAM_EPSILON = 0.9, 0.999, 1e-8  # TensorFlow 1's defaults
# what a resumed run must share with its beginning
RUN_FIELDS = (
    "mode net_type channels num_joints location_refinement pairwise_predict intermediate_supervision"
    " intermediate_supervision_layer optimizer global_scale mirror rotate crop seed".split()
)


class Machine(ClusterProcess):
    """The devices of `--device` and the processes of TF_CONFIG."""

    def __init__(self, device: str | None = None, threads: int | None = None):
        devices = keras_devices(device, threads)
        self.replicas = max(devices, 1)
        self.join(tf, devices)


def learning_rate(config: Config, iteration: int) -> float:
    """Rate of an iteration (from 0): the schedule's, whose bounds are inclusive, or `lr`; warmed up."""
    rates = (rate for rate, bound in config.schedule if iteration <= bound)
    rate = next(rates, config.schedule[-1][0]) if config.lr is None else config.lr
    return float(rate) * min(1.0, (iteration + 1) / config.warmup if config.warmup else 1.0)


class Trainer:
    """A training run on `item_set` (`items.load_items`), of the iterations 0 to the schedule's last bound."""

    def __init__(self, config: Config, item_set: ItemSet, process: Machine):
        require(config, "schedule", why="training")
        keras.utils.set_random_seed(config.seed)
        self.config, self.item_set, self.process = config, item_set, process
        self.statistics = None
        if config.pairwise_predict:
            path = house_path(config.pairwise_stats_fn)
            self.statistics = load_statistics(path, config.num_joints, config.global_scale)
        self.draw = 0  # number of the next draw of the data order
        with process.scope():
            self.model = build_model(config, intermediate=True, amp=config.amp)
        spec = self.batches().element_spec if process.strategy else None
        self.update = Update(self.model, config, spec, process.strategy)
        self.position = Position(batch_size=config.batch_size * process.replicas * process.world)
        last = int(config.schedule[-1][1]) + 1
        self.total_steps = last if config.max_steps is None else min(last, config.max_steps)

    @property
    def about(self) -> dict:
        """What the network answers and learns from, for checkpoints."""
        about = {"skeleton": card(self.item_set.skeleton), "dataset": self.config.dataset}
        return about | {"split": self.config.train_split or "train", "synthetic": self.item_set.synthetic}

    def batches(self):
        """Endless batches from the next draw on; distributed, one for every replica."""
        strategy = self.process.strategy
        workers = default_workers() if self.config.workers is None else self.config.workers
        stream = self.item_set, self.config, self.statistics, self.draw, workers
        if strategy is None:
            return data.batches(*stream)

        def per_process(context):
            # one pipeline a process gives its replicas' batches in turn
            local, rank, world = self.process.replicas, self.process.rank, self.process.world
            parts = [data.tf_dataset(*stream, (rank * local + k, world * local)) for k in range(local)]
            turns = tf.data.Dataset.range(local).repeat()
            return tf.data.Dataset.choose_from_datasets(parts, turns) if local > 1 else parts[0]

        return strategy.distribute_datasets_from_function(per_process)

    def step(self, batch: dict) -> dict:
        """One update; the loss before it and the rate, now and then the parts of the loss."""
        iteration = self.position.step
        rate = learning_rate(self.config, iteration)
        losses = self.update(batch, rate, iteration + 1)
        self.draw = max(int(part) for part in getattr(batch["draw"], "values", (batch["draw"],)))
        self.position.advance()
        shown = {"loss": losses.pop("total_loss"), "lr": rate}
        return shown | losses if self.position.step % self.config.display_iters == 0 else shown

    def weights(self) -> dict[str, np.ndarray]:
        """The network's variables by the original's names; FloatingPointError naming one that is not finite."""
        values = {name: keras.ops.convert_to_numpy(v) for name, v in named_variables(self.model).items()}
        bad = [name for name, value in values.items() if not np.isfinite(value).all()]
        if bad:
            raise FloatingPointError(f"weight {bad[0]} is not finite at step {self.position.step}: training diverged")
        return values

    def state(self) -> dict:
        """Weights, optimiser slots and place in the data order."""
        slots = {name: slot.numpy() for name, slot in self.update.slots.items()}
        return {"model": self.weights(), "optimizer": slots, "draw": self.draw}

    def restore(self, state: dict) -> None:
        """Go on from a `state`; DataError naming a setting that does not fit."""
        check_compatible(state["config"], asdict(self.config), RUN_FIELDS)
        load_variables(self.model, state["model"], "the checkpoint")
        for name, slot in self.update.slots.items():
            slot.assign(state["optimizer"][name])
        self.draw = state["draw"]

    def start(self) -> None:
        """First weights: the backbone alone, as in the original; of files that hold joint names heads by name too."""
        if not self.config.weights:
            return
        path = find_snapshot(self.config.weights)
        values, stored = read_weights(path)
        known = stored["about"]["skeleton"]["joints"] if stored.get("about") else []
        values = of_joints(values, known, self.item_set.skeleton.joints)
        names = load_variables(self.model, values, str(path), optional=("pose/",))
        of_heads = sum(name.startswith("pose/") for name in names)
        print(f"first weights: {len(names)} variables from {path}, {of_heads} of them of heads")

    @property
    def snapshot_due(self) -> bool:
        """Whether the original writes a snapshot after the step just done."""
        done = self.position.step - 1
        return (done > 0 and done % self.config.save_iters == 0) or self.position.step >= self.total_steps

    def snapshot(self, folder: Path) -> None:
        """Write PREFIX-N, N the last iteration, a TensorFlow 1 checkpoint for the original; five are kept."""
        values = self.weights()
        if self.process.is_main:
            path = folder / f"{self.config.snapshot_prefix}-{self.position.step - 1}"
            write_weights(path, values, {"config": asdict(self.config), "about": self.about})
            drop_old_snapshots(folder, self.config.snapshot_prefix)

    def validate(self) -> dict[str, float] | None:
        """The validation split's figures, main one first; pictures of several persons are looked at box by box."""
        if self.config.valid_split == "none" or not self.process.is_main:
            return None
        from common import evaluate

        pose_set = load_pose_set(self.config, self.config.valid_split).limit(self.config.limit)
        several = len(np.unique(pose_set.image_id)) < len(pose_set)
        estimator = Estimator.of(self.model, self.config, self.item_set.skeleton)
        predictions = estimator.predict_pose_set(pose_set, "annotated" if several else "whole")
        return {name: result.total for name, result in evaluate.score(pose_set, predictions).items()}


def of_joints(values: dict[str, np.ndarray], stored: list[str], wanted: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Weights whose heads have the `wanted` joints' channels, taken by name; without heads when one is not `stored`.

    The pairwise head's channels are pairs of joints: it is kept for the same joints in the same order alone.
    """
    if tuple(stored) == wanted:
        return values
    kept = {name: value for name, value in values.items() if not name.startswith("pose/")}
    if not set(wanted) <= set(stored):
        return kept
    order = np.array([stored.index(joint) for joint in wanted])
    for head, channels in (("part_pred", 1), ("intermediate_supervision", 1), ("locref_pred", 2)):
        index = (order[:, None] * channels + np.arange(channels)).ravel()
        for part, axis in (("weights", 2), ("biases", 0)):
            name = f"pose/{head}/block4/{part}"
            if name in values:
                kept[name] = np.take(values[name], index, axis)
    return kept


class Update:
    """The compiled training step. Variables and optimiser slots go by the original's names.

    SGD is TensorFlow 1's momentum (a = 0.9 a + g, w -= lr a); Adam too is TensorFlow 1's. With a tf.distribute
    `strategy` every replica steps on its own batch, of the distributed data set's `spec`, and gradients are averaged.
    """

    def __init__(self, model: keras.Model, config: Config, spec: dict | None = None, strategy=None):
        self.model, self.config, self.strategy = model, config, strategy
        self.trained = {name: v.value for name, v in named_variables(model).items() if v.trainable}
        kinds = ("Momentum",) if config.optimizer == "sgd" else ("Adam", "Adam_1")
        with strategy.scope() if strategy else nullcontext():
            self.slots = {
                f"{name}/{kind}": tf.Variable(tf.zeros(v.shape), trainable=False)
                for name, v in self.trained.items()
                for kind in kinds
            }
        spec = {name: part for name, part in (spec or data.batch_spec(config)).items() if name != "draw"}
        number = tf.TensorSpec((), tf.float32)
        # one trace for all image sizes; for partly known ones, as in retracing, TensorFlow 2.21 computed wrong shapes
        step = self._distributed if strategy else self._step
        self._compiled = tf.function(step, input_signature=[spec, number, number])

    def __call__(self, batch: dict, rate: float, number: int) -> dict:
        """One update with a batch of `data.collate`, or one a replica; `number` counts from 1. The losses before it."""
        batch = {name: value for name, value in batch.items() if name != "draw"}
        if self.strategy is None:
            batch = {name: tf.convert_to_tensor(value) for name, value in batch.items()}
        return self._compiled(batch, tf.constant(rate, tf.float32), tf.constant(float(number), tf.float32))

    def gradients(self, batch: dict):
        """(losses, gradients of the trained variables)."""
        with tf.GradientTape() as tape:
            losses = pose_losses(self.model(batch["inputs"], training=True), batch, self.config)
            total = losses["total_loss"]
            if self.config.regularize:
                kernels = [v for name, v in self.trained.items() if name.endswith("weights")]
                total += self.config.weight_decay * tf.add_n([tf.nn.l2_loss(v) for v in kernels])
        return losses, tape.gradient(total, list(self.trained.values()), unconnected_gradients="zero")

    def _step(self, batch: dict, rate, number):
        losses, gradients = self.gradients(batch)
        if self.strategy is not None:
            gradients = tf.distribute.get_replica_context().all_reduce("mean", gradients)
        if self.config.clip:
            gradients, losses["gradient_norm"] = tf.clip_by_global_norm(gradients, self.config.clip)
        for (name, variable), gradient in zip(self.trained.items(), gradients):
            self._apply(name, variable, gradient, rate, number)
        return losses

    def _apply(self, name: str, variable, gradient, rate, number) -> None:
        if self.config.optimizer == "sgd":
            slot = self.slots[name + "/Momentum"].handle
            tf.raw_ops.ResourceApplyMomentum(var=variable.handle, accum=slot, lr=rate, grad=gradient, momentum=MOMENTUM)
            return
        powers = {"beta1_power": BETA1**number, "beta2_power": BETA2**number}
        constants = {"beta1": BETA1, "beta2": BETA2, "epsilon": ADAM_EPSILON}
        slots = {"m": self.slots[name + "/Adam"].handle, "v": self.slots[name + "/Adam_1"].handle}
        tf.raw_ops.ResourceApplyAdam(var=variable.handle, grad=gradient, lr=rate, **slots, **powers, **constants)

    def _distributed(self, batch, rate, number):
        assert self.strategy is not None
        losses = self.strategy.run(self._step, args=(batch, rate, number))
        return {name: self.strategy.reduce("mean", value, axis=None) for name, value in losses.items()}
