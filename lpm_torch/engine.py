"""A training: network, optimiser, moving average, data, and the state from which it goes on bit for bit."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict, replace

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader

from common import datasets
from common.errors import DataError
from common.evaluate import score
from common.poses import PoseSet
from common.runs.checkpoints import check_compatible
from common.runs.process import TorchProcess, place
from common.runs.session import Position, swapped_weights
from lpm_torch.config import Config, load_pose_set, network_skeleton, weights_path
from lpm_torch.data import ClipDataset, make_loader, prepare
from lpm_torch.estimator import Estimator, run_network
from lpm_torch.losses import training_loss
from lpm_torch.model import build_network
from lpm_torch.weight_files import RUN_FIELDS, first_weights, graph_fields


class MovingAverage:
    """Exponential moving average of the weights (`--ema`); buffers such as batch-norm statistics are copied."""

    def __init__(self, model: nn.Module, decay: float):
        self.model, self.decay, self.count = model, decay, 0
        self.shadow = {k: v.detach().clone() for k, v in model.state_dict().items()}

    @torch.no_grad()
    def update(self) -> None:
        """After an optimiser step. The decay starts small, so that the random first weights are forgotten."""
        self.count += 1
        weight = 1 - min(self.decay, (1 + self.count) / (10 + self.count))
        own = dict(self.model.named_parameters())
        torch._foreach_lerp_([self.shadow[name] for name in own], list(own.values()), weight)
        for name, buffer in self.model.named_buffers():
            self.shadow[name].copy_(buffer)


class Trainer:
    """One training on the persons of `pose_set`; `position` says where it is. DataError when there is not one batch."""

    def __init__(self, config: Config, pose_set: PoseSet, process: TorchProcess):
        self.config, self.process, self.skeleton = config, process, network_skeleton(pose_set.skeleton)
        wanted = config.valid_split != "none"
        self.valid_set = load_pose_set(config.dataset, config.data_root, config.valid_split) if wanted else None
        torch.manual_seed(config.seed)
        self.model = place(torch, build_network(config, len(self.skeleton)), process.device, config.amp)
        self.pose_set = pose_set
        for width in config.widths:  # what the network refuses is said now, not after an hour
            self.model.output_size(width)
        self.loader = self._loader(config.width_at(0))
        if not len(self.loader):
            what = f"{len(self.loader.dataset)} clips are less than a batch of {config.batch_size} a process"
            raise DataError(f"{what}; lower --batch_size")
        self.unread: set[int] = set()  # rows whose picture could not be read
        self.position = Position(len(self.loader), config.batch_size * process.world)
        self.total_steps = config.epochs * len(self.loader)
        self.valid_every = len(self.loader) if self.valid_set else 0
        how = {"lr": config.lr, "weight_decay": config.weight_decay, "fused": process.device.type == "cuda"}
        self.optimizer = torch.optim.Adam(self.model.parameters(), **how)
        self.ema = MovingAverage(self.model, config.ema) if config.ema else None
        self.network = self.model
        if process.world > 1:
            # as in the original, some layers of the hourglass are never used
            unused = config.model == "hourglass"
            self.network = nn.parallel.DistributedDataParallel(self.model, find_unused_parameters=unused)

    def _loader(self, width: int) -> DataLoader:
        config = replace(self.config, input_width=width)
        dataset = ClipDataset(self.pose_set, config, self.model.output_size(width), augment=True)
        return make_loader(dataset, config, True, self.process.rank, self.process.world)

    def start(self) -> None:
        """The first weights: random ones, or those of `--weights`."""
        config = self.config
        if config.weights:
            path = weights_path(config.weights, config.model, config.dataset, config.model_dir)
            assert path is not None
            first_weights(self.model, path, self.skeleton, config)
            self.ema = MovingAverage(self.model, config.ema) if config.ema else None

    def batches(self) -> Iterator[dict]:
        """Batches from the position on, without an end."""
        while True:
            width = self.config.width_at(self.position.epoch)
            if width != self.loader.dataset.config.input_width:
                self.loader = self._loader(width)
            sampler = self.loader.sampler
            sampler.epoch, sampler.skip = self.position.epoch, self.position.batch * self.config.batch_size
            yield from self.loader

    def step(self, raw: dict) -> dict:
        """Learn from one batch of the loader; the loss is the mean over all processes. Dropout is keyed by seed, process
        and step, so that no random state need be stored."""
        config, step = self.loader.dataset.config, self.position.step
        torch.manual_seed(int(np.random.SeedSequence((config.seed, self.process.rank, step)).generate_state(1)[0]))
        self.network.train()
        self.unread |= set(raw.pop("unread").flatten().tolist()) - {-1}
        batch = prepare(raw, self.process.device, config)
        moves = (step + 1) % config.accumulate == 0
        # processes exchange gradients only when the weights move
        with nullcontext() if moves or self.process.world == 1 else self.network.no_sync():
            loss = training_loss(run_network(self.network, batch, config)[1], batch, config)
            (loss / config.accumulate).backward()
        values = {"loss": self.process.mean(loss.detach()), "lr": self.learning_rate(step // config.accumulate)}
        if moves:
            self._move(values["lr"])
        self.position.advance()
        return values

    def learning_rate(self, update: int) -> float:
        """That of an update of the weights: StepLR as MP, or cosine down to 1 %; both after `warmup` linear updates."""
        c = self.config
        if update < c.warmup:
            return c.lr * (update + 1) / c.warmup
        if c.schedule == "cosine":
            done = min((update - c.warmup) / max(self.total_steps // c.accumulate - c.warmup, 1), 1.0)
            return c.lr * (0.01 + 0.99 * (1 + math.cos(math.pi * done)) / 2)
        return c.lr * (c.gamma ** (update // c.step_size) if c.step_size else 1.0)

    def _move(self, lr: float) -> None:
        self.optimizer.param_groups[0]["lr"] = lr
        if self.config.clip:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.ema:
            self.ema.update()

    def state(self) -> dict:
        """Weights, Adam's moments, moving average. FloatingPointError when a weight is not finite."""
        tensors = self.model.state_dict()
        bad = [k for k, v in tensors.items() if v.is_floating_point() and not torch.isfinite(v).all()]
        if bad:
            raise FloatingPointError(f"weight {bad[0]} is not finite at step {self.position.step}: training diverged")
        ema = {"shadow": self.ema.shadow, "count": self.ema.count} if self.ema else None
        return {"model": tensors, "optimizer": self.optimizer.state_dict(), "ema": ema}

    def restore(self, state: dict) -> None:
        """Go on from a state. DataError when it is of a run with other settings or joints."""
        if state["config"]:  # MobilePose's files have none
            check_compatible(state["config"], asdict(self.config), (*graph_fields(self.config.model), *RUN_FIELDS))
        try:
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
        except (RuntimeError, ValueError, KeyError) as error:
            raise DataError(f"the checkpoint is of another network ({' '.join(str(error).split())[:200]})") from error
        if self.ema and state["ema"]:
            self.ema.count = state["ema"]["count"]
            self.ema.shadow = {k: v.to(self.process.device) for k, v in state["ema"]["shadow"].items()}

    def validate(self) -> dict[str, float] | None:
        """The data set's main figure (mode compat: MP's) on the validation split, with the averaged weights, if any; None
        but in the main process."""
        if self.valid_set is None or not self.process.is_main:
            return None
        weights = self.ema.shadow if self.ema else None
        with swapped_weights(self.model.state_dict(), self.model.load_state_dict, weights):
            estimator = Estimator.of(self.model, self.config, self.valid_set.skeleton, self.process)
            predictions = estimator.predict_pose_set(self.valid_set)
        about, mp = datasets.record(self.valid_set.name), "pck_extent@0.2:compat"
        name = mp if self.config.mode == "compat" and mp in about.protocols else about.main_protocol
        return {name: score(estimator.scored(self.valid_set), predictions, [name])[name].total}
