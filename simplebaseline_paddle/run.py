"""A training run: network, optimiser, schedule, moving average, data, and the state from which it goes on bit for bit."""

from __future__ import annotations

import math
import random
from dataclasses import asdict
from pathlib import Path

import numpy as np
import paddle

from common.errors import DataError
from common.runs.first.checkpoints import check_compatible, collect_random_state, make_state, restore_random_state
from simplebaseline_paddle import data
from simplebaseline_paddle.checkpoint import RUN_FIELDS, arrays_of, load_backbone, open_store, put_weights
from simplebaseline_paddle.config import BACKBONE, Config, run_directory
from simplebaseline_paddle.machine import Machine
from simplebaseline_paddle.model import build_model, numbers
from simplebaseline_paddle.records import records_for
from simplebaseline_paddle.sources import load_pose_set
from simplebaseline_paddle.weight_files import read_state


class MovingAverage:
    """Exponential moving average of the weights (`--ema`); batch-norm statistics are copied."""

    def __init__(self, model, decay: float):
        self.model, self.decay, self.count = model, decay, 0
        self.shadow = {k: v.detach().clone() for k, v in model.state_dict().items()}
        self.trained = {k for k, _ in model.named_parameters()}

    @paddle.no_grad()
    def update(self) -> None:
        """After an optimiser step. The decay starts small, so that the random first weights are forgotten."""
        self.count += 1
        decay = min(self.decay, (1 + self.count) / (10 + self.count))
        for name, value in self.model.state_dict().items():
            if name in self.trained:
                self.shadow[name].scale_(decay).add_(value * (1 - decay))
            else:
                self.shadow[name].copy_(value, True)


def build_optimizer(model, config: Config, steps_per_epoch: int):
    """Adam (beta 0.9 and 0.999, epsilon 1e-8, no decay) or P's Momentum, with a rate that is set per step and falls at epochs.

    Paddle 3 adds epsilon after the bias correction, Paddle 1.8.5 before: they part for gradients below about 1e-6.
    """
    if config.lr_strategy == "momentum":
        decay = paddle.regularizer.L2Decay(5e-4)
        return paddle.optimizer.Momentum(config.lr, 0.9, model.parameters(), weight_decay=decay)
    total, falls = max(steps_per_epoch * config.num_epochs, 1), numbers(config.lr_epochs)

    def factor(step: int) -> float:
        warm = min((step + 1) / config.warmup, 1.0) if config.warmup else 1.0
        if config.lr_strategy == "cosine":
            return warm * (0.01 + 0.99 * (1 + math.cos(math.pi * min(step / total, 1.0))) / 2)
        return warm * 0.1 ** sum(step >= epoch * steps_per_epoch for epoch in falls)

    schedule = paddle.optimizer.lr.LambdaDecay(config.lr, factor)
    return paddle.optimizer.Adam(schedule, parameters=model.parameters())


def optimizer_state(model, optimizer) -> dict:
    """The optimiser's tensors under our parameter names, which are the same in every process; Paddle's own are counters."""
    out = {}
    names = {p.name: n for n, p in model.named_parameters()}
    for key, value in optimizer.state_dict().items():
        owner = max((p for p in names if key.startswith(p + "_")), key=len, default=None)
        out[key if owner is None else f"{names[owner]}|{key[len(owner) :]}"] = value
    return out


def put_optimizer_state(model, optimizer, state: dict) -> None:
    """Undo `optimizer_state`."""
    names = {n: p.name for n, p in model.named_parameters()}
    own = {}
    for key, value in state.items():
        name, bar, rest = key.partition("|")
        own[names[name] + rest if bar else key] = paddle.to_tensor(value) if isinstance(value, np.ndarray) else value
    optimizer.set_state_dict(own)


class Run:
    """Everything of a training run that a checkpoint restores."""

    def __init__(self, config: Config, machine: Machine):
        self.machine = machine
        self.pose_set = load_pose_set(config.dataset, config.data_root, config.train_split)
        if config.kp_dim not in (None, len(self.pose_set.skeleton)):
            raise DataError(
                f"--kp_dim {config.kp_dim}, but {config.dataset} has {len(self.pose_set.skeleton)} joints; leave it out"
            )
        config.kp_dim = len(self.pose_set.skeleton)
        self.config = config
        if config.batch_size % machine.world:
            raise DataError(f"--batch_size {config.batch_size} cannot be shared evenly by {machine.world} processes")
        random.seed(config.seed)
        np.random.seed(config.seed)
        self.model = build_model(config, config.seed)
        records = records_for(self.pose_set, config)
        self.dataset = data.PersonDataset(records, self.pose_set.skeleton, config, training=True)
        self.batches = self._sampler().total
        if not self.batches:
            raise DataError(
                f"{len(records)} persons are less than one batch of {config.batch_size}; lower --batch_size"
            )
        self.optimizer = build_optimizer(self.model, config, max(self.batches // config.accumulate, 1))
        self.scaler = paddle.amp.GradScaler(init_loss_scaling=1024.0) if config.amp == "fp16" else None
        self.ema = MovingAverage(self.model, config.ema) if config.ema else None
        self.directory = run_directory(config)
        self.store = open_store(self.directory, writer=machine.is_main)
        self.epoch = self.batch = self.step = 0

    def _sampler(self) -> data.EpochBatches:
        config, machine = self.config, self.machine
        return data.EpochBatches(len(self.dataset), config.batch_size, config.seed, True, machine.rank, machine.world)

    def loader(self):
        """The batches that are left of this epoch."""
        config, machine = self.config, self.machine
        return data.make_loader(
            self.dataset, config.batch_size, True, machine.rank, machine.world, self.epoch, self.batch
        )

    def network(self):
        """The model as it is called in training."""
        return self.model if self.machine.world == 1 else paddle.DataParallel(self.model)

    def begin(self) -> bool:
        """Fill the network: pretrained backbone, given weights, or the state of an earlier run; whether a state was found."""
        config = self.config
        if config.checkpoint and Path(config.checkpoint).exists():
            given = read_state(config.checkpoint)
            if "format" not in given:
                put_weights(self.model, given["state_dict"], config.checkpoint)
                self._fresh_average()
                return self._begin_state(None)
        elif config.checkpoint:
            raise DataError(f"checkpoint {config.checkpoint} does not exist")
        resume = config.checkpoint or (config.resume == "auto" and "auto")
        found = self._begin_state(resume or None)
        if not found:
            self._pretrained()
        return found

    def _pretrained(self) -> None:
        wanted = self.config.pretrained_model
        if wanted == "auto":
            wanted = str(BACKBONE) if BACKBONE.is_dir() and self.config.depth == 50 else "none"
        if wanted == "none":
            print(f"no pretrained backbone: ResNet-{self.config.depth} starts from random weights ({self.config.init})")
        else:
            print(f"{load_backbone(self.model, wanted)} tensors of the backbone come from {wanted}")
        self._fresh_average()

    def _fresh_average(self) -> None:
        if self.ema is not None:
            self.ema = MovingAverage(self.model, self.config.ema)

    def _begin_state(self, resume) -> bool:
        state = self.store.begin(resume, paddle.distributed.barrier if self.machine.world > 1 else None)
        if state:
            self._restore(state)
        return state is not None

    def _restore(self, state: dict) -> None:
        check_compatible(state["config"], asdict(self.config), RUN_FIELDS)
        put_weights(self.model, state["model"], "the checkpoint")
        put_optimizer_state(self.model, self.optimizer, state["optimizer"])
        if self.ema is not None and state.get("ema"):
            self.ema.shadow = {k: paddle.to_tensor(v) for k, v in state["ema"]["shadow"].items()}
            self.ema.count = state["ema"]["count"]
        if self.scaler and state.get("scaler"):
            self.scaler.load_state_dict(state["scaler"])
        restore_random_state(state["random"])
        self.epoch, self.step = state["epoch"], state["step"]
        # in persons, because the batch may have another size now
        self.batch = state["batch"] * state["config"]["batch_size"] // self.config.batch_size

    def save(self, metric: float | None = None) -> None:
        """Write the resume state. FloatingPointError, and the file of before is kept, when a weight is not finite."""
        bad = [k for k, v in arrays_of(self.model).items() if not np.isfinite(v).all()]
        if bad:
            raise FloatingPointError(f"weight {bad[0]} is not finite at step {self.step}: training diverged")
        self.store.save(self.state(), metric)

    def state(self) -> dict:
        """The resume state. Paddle's own generator is not in it: nothing draws from it once the weights exist."""
        return make_state(
            epoch=self.epoch, batch=self.batch, step=self.step, model=dict(self.model.state_dict()),
            optimizer=optimizer_state(self.model, self.optimizer), schedule=None, config=asdict(self.config),
            random_state=collect_random_state(), ema=None if self.ema is None else {"shadow": self.ema.shadow, "count": self.ema.count},
            scaler=self.scaler.state_dict() if self.scaler else None,
        )  # fmt: skip
