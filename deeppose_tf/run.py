"""A training run: data, loader, network, update rule, and the state from which it goes on bit for bit."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path

import numpy as np

from common.errors import DataError
from common.files import set_aside
from common.runs.first.checkpoints import check_compatible, make_state
from deeppose_tf.checkpoint import GRAPH_FIELDS, MEANING_FIELDS, keep_numbered, open_store
from deeppose_tf.config import Config
from deeppose_tf.data import Crops, Persons, Share, Stream
from deeppose_tf.loader import batches
from deeppose_tf.machine import rank_and_world, start_tensorflow
from deeppose_tf.sources import read_for
from deeppose_tf.weight_files import card_of, find_weights, fit, missing_text, read_weights


class Split:
    """The persons of one CSV and how they are cropped for scoring."""

    def __init__(self, config: Config, path: str, min_dim: float = 0, cache_mb: int = 0):
        print(f"Reading dataset from {path}")
        self.pose_set = read_for(config, path)
        height = config.downscale_height if config.should_downscale_images else None
        if height:
            print(f"Downscale images to the height {height}px")
        self.persons = Persons(self.pose_set, config.mode, min_dim=min_dim, downscale_height=height, cache_mb=cache_mb)
        if self.persons.dropped:
            print(f"left out of {path}: {self.persons.dropped_text()}")
        print(f"{len(self.persons)} persons, joints shape: {self.persons.joints.shape[1:]}")
        if self.pose_set.synthetic:
            print(f"SYNTHETIC data in {path}: figures from it say nothing about photographs")


class Run:
    """Everything of a training run. `loop_step` is the number of the step to do; `counter` is `global_iter_counter`, the updates so far."""

    def __init__(self, config: Config):
        """Read the data, start the loader, then TensorFlow (in this order: loader processes must not inherit its threads)."""
        self.config, self.directory = config, Path(config.o_dir)
        self.rank, self.world = rank_and_world(config)
        initial = None if config.resume or not config.snapshot else read_weights(config.snapshot)
        self.store = open_store(self.directory, writer=self.is_main)
        state = self._begin()
        if initial is not None:
            refuse_stand_in(config)
        self.train = Split(config, config.train_csv_fn, config.min_dim, config.cache_mb)
        self.tests = {
            "test": Split(config, config.test_csv_fn),
            **({"val": Split(config, config.val_csv_fn)} if config.val_csv_fn else {}),
        }
        self.loop_step = self.counter = self.samples = 0
        self._read_progress(state)
        steps = max(config.max_iter - self.loop_step, 0)
        keys = Share(self.samples, steps, config.batch_size, self.rank, self.world)
        stream = Stream(self.train.persons, Crops.for_training(config), config.seed, keys)
        self.batches = batches(stream, config.batch_size // self.world, kind=config.loader, workers=config.workers)
        self._build(initial, state)

    @property
    def is_main(self) -> bool:
        """Whether this process scores, logs and saves."""
        return self.rank == 0

    def _begin(self) -> dict | None:
        """The state to go on from, if any."""
        config = self.config
        if not config.resume:
            state = self.store.begin(None)
            if self.is_main:
                set_aside(self.directory, ("checkpoint-*.npz",))
            return state
        if config.snapshot is None:
            return self.store.begin("auto")
        place = find_weights(config.snapshot)
        if place is not None and place.suffix != ".npz":
            return foreign_state(place, config)
        if place is None:
            raise DataError(missing_text(Path(config.snapshot)))
        return self.store.begin(place)

    def _read_progress(self, state: dict | None) -> None:
        if state is None:
            return
        check_compatible(
            state["config"], asdict(self.config), [f for f in (*GRAPH_FIELDS, *MEANING_FIELDS) if f in state["config"]]
        )
        self.counter = 0 if self.config.reset_iter_counter else state["step"]
        if self.config.resume_mode == "correct":
            self.loop_step, self.samples = self.counter, state["samples"]

    def _build(self, initial: dict | None, state: dict | None) -> None:
        config = self.config
        strategy = start_tensorflow(config)
        from contextlib import nullcontext

        from deeppose_tf.engine import Trainer, forward
        from deeppose_tf.model import RESTORED_LAYERS, get_weights, network_for, set_weights
        from deeppose_tf.optimizers import make_optimizer

        with strategy.scope() if strategy else nullcontext():
            self.model = network_for(config)
        self.forward = forward(self.model)
        self.unused = unused_head(get_weights(self.model), config.seed)
        self.optimizer = make_optimizer(config.optimizer)
        self.trainer = Trainer(
            self.model, self.optimizer, config.mode, strategy=strategy, xla=config.xla, weight_decay=config.weight_decay
        )
        if initial is not None:
            chosen, report = fit(initial, get_weights(self.model), RESTORED_LAYERS)
            print_report(config.snapshot, report)
            set_weights(self.model, chosen)
        if state is not None:
            self._restore(state)

    def _restore(self, state: dict) -> None:
        from deeppose_tf.model import get_weights, set_weights

        own = get_weights(self.model)
        chosen, report = fit(state["model"], own)
        problems = report["missing"] + report["mismatched"]
        if problems:
            raise DataError(
                f"the checkpoint does not fit this network: {', '.join(problems[:3])}; give --n_joints and --width as it was trained"
            )
        set_weights(self.model, chosen)
        self.unused |= state["unused"]
        if self.config.resume_mode == "compat":
            return
        for name, variable in self.optimizer.slots.items():
            key = f"{name}/{self.optimizer.slot}"
            if key not in state["optimizer"]:
                print(f"the checkpoint has no {key}: the update rule starts anew")
                break
            variable.assign(state["optimizer"][key])
        for layer in self._dropouts():
            if layer.name in state["dropout"]:
                layer.seed_generator.state.assign(state["dropout"][layer.name])

    def _dropouts(self) -> list:
        return [layer for layer in self.model.layers if getattr(layer, "seed_generator", None) is not None]

    def rates(self) -> dict[str, float]:
        """Learning rates of the next step."""
        config, step = self.config, self.loop_step
        factor = min(1.0, (step + 1) / config.warmup) if config.warmup else 1.0
        if config.schedule == "cosine":
            factor *= 0.01 + 0.99 * (1 + math.cos(math.pi * min(step / max(config.max_iter, 1), 1.0))) / 2
        return {"conv_lr": config.conv_lr * factor, "fc_lr": config.fc_lr * factor}

    def update(self, summary: bool) -> dict:
        """One training step on the loader's next batch. FloatingPointError on a loss that is not finite."""
        from common.runs.runlog import check_finite

        batch = next(self.batches)
        train_conv = self.loop_step >= self.config.fix_conv_iter
        result = self.trainer.step(batch, **self.rates(), train_conv=train_conv, summary=summary)
        self.counter, self.loop_step, self.samples = (
            self.counter + 1,
            self.loop_step + 1,
            self.samples + self.config.batch_size,
        )
        return {**result, "loss": check_finite("loss", result["loss"], self.counter)}

    def state(self) -> dict:
        """The resume state."""
        from deeppose_tf.model import get_weights

        slots = {f"{name}/{self.optimizer.slot}": variable.numpy() for name, variable in self.optimizer.slots.items()}
        epoch, done = divmod(self.samples, len(self.train.persons))
        return make_state(
            epoch=epoch, batch=done // self.config.batch_size, step=self.counter, model=get_weights(self.model), optimizer=slots, schedule=None,
            config=asdict(self.config), random_state={}, samples=self.samples, unused=self.unused, synthetic=self.train.pose_set.synthetic,
            dropout={layer.name: np.asarray(layer.seed_generator.state) for layer in self._dropouts()},
        )  # fmt: skip

    def save(self, metric: float | None = None) -> bool:
        """Write the resume state; whether `metric` is the best so far."""
        return self.store.save(self.state(), metric)

    def save_numbered(self) -> Path:
        """Write the resume state and keep it as `checkpoint-STEP.npz`."""
        self.save()
        return keep_numbered(self.directory, self.counter, self.config.keep)


def unused_head(weights: dict[str, np.ndarray], seed: int) -> dict[str, np.ndarray]:
    """DT's `fc8`, which gets no gradient but is in its checkpoints and its logged weight decay: truncated normal, deviation 0.01."""
    from deeppose_tf.model import UNUSED_HEAD

    name, units = UNUSED_HEAD
    draw = np.random.default_rng(seed).standard_normal(4 * len(weights["fc7/bias"]) * units)
    kept = draw[np.abs(draw) <= 2][: len(weights["fc7/bias"]) * units]
    return {
        f"{name}/weight": (0.01 * kept).reshape(-1, units).astype(np.float32),
        f"{name}/bias": np.zeros(units, np.float32),
    }


def foreign_state(place: Path, config: Config) -> dict:
    """A state from a TensorFlow 1 checkpoint of DT (or another weight file) to `--resume` from; accumulators where it has them."""
    found = read_weights(place)
    step = int(found.pop("global_iter_counter", np.array(0)))
    slots = {name: value for name, value in found.items() if name.count("/") == 2}
    unused = {name: value for name, value in found.items() if name.startswith("fc8/") and name not in slots}
    model = {name: value for name, value in found.items() if name not in slots and name not in unused}
    samples = step * config.batch_size
    return {
        "step": step,
        "samples": samples,
        "config": {},
        "model": model,
        "optimizer": slots,
        "unused": unused,
        "dropout": {},
    }


def refuse_stand_in(config: Config) -> None:
    """DataError when stand-in weights would be mixed with real photographs."""
    from deeppose_tf.config import is_synthetic

    place = find_weights(config.snapshot)
    if place and card_of(place).get("synthetic") and not is_synthetic(config.train_csv_fn):
        raise DataError(
            f"{place} is the stand-in (random weights) that goes with synthetic data, but {config.train_csv_fn} is real; put BVLC AlexNet's"
            " weights in its place, or train from scratch"
        )


def print_report(source: str | None, report: dict[str, list[str]]) -> None:
    """What was taken from a weight file; DataError when nothing fits."""
    layers = list(dict.fromkeys(name.split("/")[0] for name in report["restored"]))
    print(f"Restoring {len(layers)} layers from the snapshot: {layers}")
    for kind in ("missing", "mismatched"):
        if report[kind]:
            print(f"{kind} in {source}: {', '.join(report[kind])}")
    if not layers:
        raise DataError(f"{source}: none of its variables fits this network; check --width and that it is AlexNet")
