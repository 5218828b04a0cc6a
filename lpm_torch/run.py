"""A training run: network, optimiser, schedule, moving average, data, and the state from which it goes on bit for bit."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path

import torch

from common.errors import DataError
from common.runs.first.checkpoints import check_compatible, collect_random_state, make_state, restore_random_state
from lpm_torch import data
from lpm_torch.checkpoint import RUN_FIELDS, graph_fields, load_weights, open_store, read_checkpoint
from lpm_torch.config import ROOT, Config
from lpm_torch.machine import Machine
from lpm_torch.model import build_model
from lpm_torch.sources import load_pose_set


class MovingAverage:
    """Exponential moving average of the weights (`--ema`); buffers such as batch-norm statistics are copied."""

    def __init__(self, model, decay: float):
        self.model, self.decay = model, decay
        self.shadow = {k: v.detach().clone() for k, v in model.state_dict().items()}
        self.parameters = {k for k, _ in model.named_parameters()}
        self.count = 0

    def update(self) -> None:
        """After an optimiser step. The decay starts small, so that the random first weights are forgotten."""
        self.count += 1
        decay = min(self.decay, (1 + self.count) / (10 + self.count))
        for name, value in self.model.state_dict().items():
            if name in self.parameters:
                self.shadow[name].lerp_(value.detach(), 1 - decay)
            else:
                self.shadow[name].copy_(value)


def build_scheduler(optimizer, config: Config, total: int):
    """Per-iteration learning rate: StepLR as MP, or cosine down to 1 %; both after `warmup` linear iterations. `total` = optimiser steps."""

    def factor(step: int) -> float:
        if step < config.warmup:
            return (step + 1) / config.warmup
        if config.schedule == "cosine":
            done = min((step - config.warmup) / max(total - config.warmup, 1), 1.0)
            return 0.01 + 0.99 * (1 + math.cos(math.pi * done)) / 2
        return config.gamma ** (step // config.step_size) if config.step_size else 1.0

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


class Run:
    """Everything of a training run that a checkpoint restores."""

    def __init__(self, config: Config, machine: Machine):
        self.config, self.machine = config, machine
        torch.manual_seed(config.seed)
        self.pose_set = load_pose_set(config.dataset, config.data_dir, config.train_split)
        self.model = build_model(**model_arguments(config)).to(machine.device)
        if machine.device.type == "cuda" or config.amp == "bf16":
            # measured: bf16 convolutions are three times as fast in this layout on CPUs too
            self.model = self.model.to(memory_format=torch.channels_last)
        grid = self.model.output_size(config.resolution)
        dataset = data.ClipDataset(
            self.pose_set, config, grid, data.Augmentation.from_config(config), config.subset_size
        )
        if not len(dataset):
            raise DataError(
                f"no clip of {config.t} frames in split {config.train_split} of {self.pose_set.root}; choose another --train_split or --t"
            )
        self.loader = data.make_loader(dataset, config, True, machine.rank, machine.world)
        if not len(self.loader):
            raise DataError(
                f"{len(dataset)} clips are less than one batch of {config.batch_size} a process; lower --batch_size"
            )
        self.batches = len(self.loader)  # of a whole epoch; the loader's own count shrinks when an epoch is resumed
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=config.lr, weight_decay=config.weight_decay)
        self.scheduler = build_scheduler(
            self.optimizer, config, config.max_epochs * (self.batches // config.accumulate)
        )
        self.scaler = torch.amp.GradScaler(machine.device.type) if config.amp == "fp16" else None
        self.ema = MovingAverage(self.model, config.ema) if config.ema else None
        self.directory = run_directory(config)
        self.store = open_store(self.directory, writer=machine.is_main)
        self.epoch = self.batch = self.step = 0

    def network(self):
        """The model as it is called in training: compiled and distributed as the settings say."""
        network = torch.compile(self.model) if self.config.compile else self.model
        if self.machine.world == 1:
            return network
        # as in the original, some layers of the hourglass are never used
        return torch.nn.parallel.DistributedDataParallel(
            network, find_unused_parameters=self.config.model == "hourglass"
        )

    def start_epoch(self) -> None:
        """Point the loader at the batch to go on with."""
        self.loader.sampler.epoch, self.loader.sampler.skip = self.epoch, self.batch * self.config.batch_size

    def save(self, metric: float | None = None) -> None:
        """Write the resume state. FloatingPointError, and the file of before is kept, when a weight is not finite."""
        bad = [k for k, v in self.model.state_dict().items() if v.is_floating_point() and not torch.isfinite(v).all()]
        if bad:
            raise FloatingPointError(f"weight {bad[0]} is not finite at step {self.step}: training diverged")
        self.store.save(self.state(), metric)

    def state(self) -> dict:
        """The resume state."""
        return make_state(
            epoch=self.epoch, batch=self.batch, step=self.step, model=self.model.state_dict(), optimizer=self.optimizer.state_dict(),
            schedule=self.scheduler.state_dict(), config=asdict(self.config), random_state=collect_random_state(), world=self.machine.world,
            ema=None if self.ema is None else {"shadow": self.ema.shadow, "count": self.ema.count},
            scaler=self.scaler.state_dict() if self.scaler else None, torch_random=torch.get_rng_state(),
            cuda_random=torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        )  # fmt: skip

    def begin(self, resume: str | Path | None) -> bool:
        """Start anew (None), or go on from the newest state (`auto`) or a file; whether a state was found. DataError when it does not fit."""
        if resume and str(resume) != "auto" and "format" not in read_checkpoint(Path(resume)):
            self._begin_from_original(Path(resume))
            return True
        state = self.store.begin(resume, torch.distributed.barrier if self.machine.world > 1 else None)
        if state:
            self._restore(state)
        return state is not None

    def _restore(self, state: dict) -> None:
        check_compatible(state["config"], asdict(self.config), (*graph_fields(self.config.model), *RUN_FIELDS))
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["schedule"])
        if self.ema is not None and state["ema"]:
            self.ema.shadow, self.ema.count = (
                {k: v.to(self.machine.device) for k, v in state["ema"]["shadow"].items()},
                state["ema"]["count"],
            )
        if self.scaler and state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
        restore_random_state(state["random"])
        torch.set_rng_state(state["torch_random"])
        if state["cuda_random"] and torch.cuda.is_available():
            torch.cuda.set_rng_state_all(state["cuda_random"])
        self.epoch, self.step = state["epoch"], state["step"]
        # in clips, because the batch may have another size now
        done = state["batch"] * state["config"]["batch_size"] * state.get("world", 1)
        self.batch = done // (self.config.batch_size * self.machine.world)

    def _begin_from_original(self, path: Path) -> None:
        """Go on from a MobilePose checkpoint: weights, Adam's state and epoch; its schedule starts anew, as there."""
        state = load_weights(self.model, path)
        try:
            self.optimizer.load_state_dict(state["optimizer"])
            self.epoch = int(state["epoch"])
        except (KeyError, ValueError) as error:
            raise DataError(f"{path}: no run can go on from it ({error}); give it as --init_weight instead") from error
        self.optimizer.param_groups[0]["lr"] = self.scheduler.get_last_lr()[0]
        self.epoch = 0 if self.epoch > self.config.max_epochs else self.epoch
        self.step = self.epoch * self.batches
        print(f"resuming from the original's {path}: epoch {self.epoch}")


def model_arguments(config: Config) -> dict:
    """What `build_model` needs of the settings."""
    return {
        "name": config.model, "T": config.t, "width": config.width, "block": config.block, "depth": config.depth,
        "deep_supervision": config.deep_supervision, "init": config.init, "norm": config.norm, "dropout": config.dropout,
    }  # fmt: skip


def run_directory(config: Config) -> Path:
    """MODEL_DIR/MODEL/DATASET; the default MODEL_DIR lies in the repository."""
    base = ROOT / "experiments" if config.model_dir == "experiments" else Path(config.model_dir)
    return base / config.model / config.dataset
