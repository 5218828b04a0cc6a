"""The trainer, with the state from which a run goes on bit for bit; TensorFlow's devices and processes."""

from __future__ import annotations

import math
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import DataError, DataWarning
from common.poses import PoseSet
from common.runs.checkpoints import check_compatible
from common.runs.converting import check_numbers
from common.runs.process import ClusterProcess, default_workers, keras_devices
from common.runs.session import Position
from common.skeletons import from_card
from deeppose_tf import weight_files
from deeppose_tf.config import SUMMARY_STEP, Config
from deeppose_tf.csv_files import load_split
from deeppose_tf.data import Crops, Persons, Stream, names_of
from deeppose_tf.estimator import Estimator, fill
from deeppose_tf.loader import batches
from deeppose_tf.report import block

# what must not change when a run goes on: what the weights mean, and which tensors there are
_KEPT = ("mode", "gcn", "dataset", "channels", "norm")


class TensorFlow(ClusterProcess):
    """This process's devices: one, several GPUs of `--device cuda:0,1`, or its part of several machines (TF_CONFIG).

    DataError for a device that is not there, a malformed TF_CONFIG, or a batch that cannot be shared.
    """

    def __init__(self, config: Config):
        devices = keras_devices(config.device, config.threads)
        import keras
        import tensorflow as tf

        if keras.backend.backend() != "tensorflow":
            used = keras.backend.backend()
            raise DataError(f"training needs KERAS_BACKEND=tensorflow; it is {used}, which can predict and score")
        self.join(tf, devices)
        replicas = self.strategy.num_replicas_in_sync if self.strategy else 1
        if config.batch_size % replicas:
            raise DataError(f"--batch_size {config.batch_size}: use a multiple of {replicas}, the number of devices")


class Trainer:
    """One training. `position` counts updates (DT's `global_iter_counter`) and, as batches, the data seen."""

    def __init__(self, config: Config, pose_set: PoseSet, process: TensorFlow):
        self.config, self.pose_set, self.process, self.skeleton = config, pose_set, process, pose_set.skeleton
        self.persons = Persons(pose_set, config.mode, config.min_dim, config.height)
        if self.persons.left_out:
            self._say(f"left out of {pose_set.root}: {self.persons.left_out}")
        self._say(f"{len(self.persons)} persons, joints shape: {self.persons.joints.shape[1:]}")
        self.position, self.total_steps = Position(batch_size=config.batch_size), config.max_steps
        self.unused: dict[str, np.ndarray] = {}  # DT's head fc8, of a checkpoint of DT's
        self._tests: dict[str, PoseSet] | None = None
        self._unsaid: tuple[int, Any] | None = None  # a step whose loss was not printed yet
        self._said_at = time.perf_counter()
        from deeppose_tf.model import network_for
        from deeppose_tf.updates import TrainingStep

        with process.scope():
            self.model = network_for(config, len(self.skeleton))
        self._update = TrainingStep(self.model, config.optimizer, config.mode, process.strategy, config.loss)
        self._estimator = Estimator.of(self.model, config, self.skeleton, process)

    def _say(self, text: str) -> None:
        if self.process.is_main:
            print(text, flush=True)

    def start(self) -> None:
        """First weights: conv1 to fc7 of a file, and of a network of ours the joints that it names. DataError where
        nothing fits, or for random stand-ins on photographs."""
        from deeppose_tf.model import HEAD, get_weights, set_weights

        place = weight_files.find(self.config.weights) if self.config.weights else None
        if place is None:
            return
        if weight_files.is_stand_in(place) and not self.pose_set.synthetic:
            what = f"{place} is the stand-in (random weights) for synthetic data, but {self.pose_set.root} is real"
            raise DataError(f"{what}; put BVLC AlexNet's weights in its place, or train from scratch")
        own = get_weights(self.model)
        body = {name.split("/")[0] for name in own} - {HEAD}
        chosen, missing, mismatched = weight_files.fitting(weight_files.read_weights(place), own, body)
        check_numbers(chosen, place)
        layers = list(dict.fromkeys(name.split("/")[0] for name in chosen))
        self._say(f"Restoring {len(layers)} layers from the snapshot: {layers}")
        for kind, names in (("missing", missing), ("mismatched", mismatched)):
            if names:
                self._say(f"{kind} in {place}: {', '.join(names)}")
        if not layers:
            raise DataError(f"{place}: none of its variables fits this network; is it AlexNet? check --channels")
        set_weights(self.model, {**chosen, **self._head(place, own)})

    def _head(self, place: Path, own: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The head with the joints that the file's network names too; {} where it names none (DT's start fresh)."""
        if place.suffix != weight_files.SUFFIX:
            return {}
        state = weight_files.load_state(place)
        known = from_card(state["about"].get("skeleton"), f"{place}: field about.skeleton")
        head = {name: own[name].copy() for name in ("fc_regression/weight", "fc_regression/bias")}
        if any(np.shape(state["model"].get(n)) != (*v.shape[:-1], 2 * len(known)) for n, v in head.items()):
            return {}
        shared = [name for name in self.skeleton.joints if name in known.joints]
        for name in shared:
            to, at = 2 * self.skeleton.index(name), 2 * known.index(name)
            for key, value in head.items():
                value[..., to : to + 2] = state["model"][key][..., at : at + 2]
        self._say(f"joints of the head from {place}: {', '.join(shared) or 'none'}")
        return head

    def restore(self, state: dict) -> None:
        """Go on from a state. DataError when it belongs to other settings or another network."""
        source, stored = str(self.config.resume), state["config"]
        check_compatible(stored, asdict(self.config), [name for name in _KEPT if name in stored], source)
        card = state["about"].get("skeleton")
        if card and from_card(card, source) != self.skeleton:
            raise DataError(f"{source} has skeleton {card['name']}, the data {self.skeleton.name}; give its own data")
        fill(self.model, state["model"], source)
        self.unused = state["unused"]
        slots, dropout = state["optimizer"], state["dropout"]
        if self._update.slots.keys() <= slots.keys():
            for name, variable in self._update.slots.items():
                variable.assign(slots[name])
        else:
            self._say(f"the checkpoint has no {min(self._update.slots)}: the update rule starts anew")
        for layer in self._dropouts():
            if layer.name in dropout:
                layer.seed_generator.state.assign(dropout[layer.name])

    def _dropouts(self) -> list:
        return [layer for layer in self.model.layers if getattr(layer, "seed_generator", None) is not None]

    def state(self) -> dict:
        """What the next step depends on. FloatingPointError naming a weight that is not finite."""
        from deeppose_tf.model import get_weights

        self._say_loss()
        model = get_weights(self.model)
        bad = next((name for name, value in model.items() if not np.isfinite(value).all()), None)
        if bad:
            raise FloatingPointError(f"weight {bad} is not finite at step {self.position.step}: training diverged")
        slots = {name: variable.numpy() for name, variable in self._update.slots.items()}
        dropout = {layer.name: np.asarray(layer.seed_generator.state) for layer in self._dropouts()}
        return {"model": model, "optimizer": slots, "unused": self.unused, "dropout": dropout}

    def batches(self) -> Iterator[tuple]:
        """This process's share of all batches from the position on; unreadable pictures are named, also at the end."""
        config, process = self.config, self.process
        first, left = self.position.batch * config.batch_size, max(self.total_steps - self.position.step, 0)
        crops, part = Crops.for_training(config, self.skeleton), (config.batch_size, process.rank, process.world)
        stream = Stream(self.persons, crops, config.seed, first, left, *part)
        workers = default_workers() if config.workers is None else config.workers
        unread: dict[str, None] = {}
        try:
            for batch in batches(stream, config.batch_size // process.world, workers):
                for row in batch[-1][batch[-1] >= 0]:
                    unread[path := self.persons.paths[row]] = None
                    warnings.warn(f"{path} cannot be read, another person takes its place", DataWarning, stacklevel=2)
                yield batch
        finally:
            if unread:
                print(f"warning: {len(unread)} pictures could not be read: {names_of(unread)}", file=sys.stderr)

    def rates(self) -> tuple[float, float]:
        """Learning rates (convolutions, fully connected layers) of the next step."""
        config, step = self.config, self.position.step
        factor = min(1.0, (step + 1) / config.warmup) if config.warmup else 1.0
        if config.schedule == "cosine":
            factor *= 0.01 + 0.99 * (1 + math.cos(math.pi * min(step / max(config.max_steps, 1), 1.0))) / 2
        conv, dense = config.rates()
        return conv * factor, dense * factor

    def step(self, batch: tuple) -> dict[str, Any]:
        """One update; every fiftieth also returns DT's summaries. Prints DT's line every `log_step`, a step late: a
        device is never waited for before it has the next step."""
        step, (conv_lr, fc_lr) = self.position.step, self.rates()
        summary = step % SUMMARY_STEP == 0
        train_conv = step >= self.config.fix_conv_iter
        result = self._update(batch, conv_lr, fc_lr, train_conv=train_conv, summary=summary)
        self._say_loss()
        self.position.advance()
        self._unsaid = self.position.step, result["loss"]
        values = {"loss": result["loss"], "lr": fc_lr}
        if summary:
            from deeppose_tf.losses import weight_decay_term

            decay = weight_decay_term({**self._update.variables, **self.unused})
            values |= {"loss_with_decay": result["loss"] + decay, "conv_lr": conv_lr, "fc_lr": fc_lr}
            values |= {f"grad_norms/grad_norms/{n}_0": norm for n, norm in result["grad_norms"].items()}
        return values

    def _say_loss(self) -> None:
        if self._unsaid is None:
            return
        (step, loss), self._unsaid, config = self._unsaid, None, self.config
        if self.process.is_main and ((step - 1) % config.log_step == 0 or step == config.max_steps):
            from tqdm import tqdm

            value, now = float(loss), time.perf_counter()
            seconds, self._said_at = now - self._said_at, now
            speed = f"({seconds:.3f} s, {config.batch_size // seconds:.2f} im/s)"
            tqdm.write(f"Step {step}: train/pose_loss = {value:.2f} {speed}")

    @property
    def validation_due(self) -> bool:
        """DT scores every `test_step`, where the convolutions begin, and before the last update (correct: after it)."""
        step, last = self.position.step, self.config.max_steps - (self.config.mode == "compat")
        return step % self.config.test_step == 0 or step in (self.config.fix_conv_iter, last)

    def validate(self) -> dict[str, float] | None:
        """DT's figures of the scored persons, printed as its block; the first one chooses the best checkpoint."""
        self._say_loss()
        if not self.process.is_main:
            return None
        if self._tests is None:
            loaded = {tag: load_split(self.config, tag) for tag in ("test", "val")}
            self._tests = {tag: pose_set for tag, pose_set in loaded.items() if pose_set is not None}
        found: dict[str, float] = {}
        for tag, pose_set in self._tests.items():
            figures, _ = self._estimator.evaluate(pose_set)
            print(block(self.position.step, tag, figures), flush=True)
            found |= figures.scalars(tag)
        self._said_at = time.perf_counter()
        return found
