"""Training: one step, the optimiser and its rate, the moving average, the state from which a run goes on."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict, replace

import numpy as np
import paddle

from common.errors import DataError
from common.poses import PoseSet
from common.runs.checkpoints import check_compatible
from common.runs.session import Position, swapped_weights
from common.runs.shelf import find_weights
from common.skeletons import from_card
from simplebaseline_paddle.config import BACKBONE, HOUSE, RUN_FIELDS, SUFFIXES, Config, numbers_of
from simplebaseline_paddle.data import PersonDataset, load_batches, normalise, shuffled_batches
from simplebaseline_paddle.estimator import Estimator, PaddleProcess, check_bfloat16
from simplebaseline_paddle.losses import heatmap_loss, map_accuracy
from simplebaseline_paddle.model import build_model
from simplebaseline_paddle.records import records_for
from simplebaseline_paddle.weight_files import arrays_of, load_backbone, load_first_weights, put_weights

ACCURACY_EVERY = 20  # steps
EPSILON, BETA2 = 1e-8, 0.999  # Adam's


class Trainer:
    """A training run: network, optimiser, schedule, moving average, data; a Session around it logs and saves.

    `valid_set`: scored by `validate`. DataError on settings that do not fit the data or the number of processes.
    """

    def __init__(self, config: Config, pose_set: PoseSet, process: PaddleProcess, valid_set: PoseSet | None = None):
        if config.batch_size % process.world:
            raise DataError(f"--batch_size {config.batch_size} cannot be shared evenly by {process.world} processes")
        if config.boxes not in ("selected", "annotated"):
            raise DataError(f"--boxes {config.boxes}: training takes selected or annotated boxes; it needs joints")
        if config.amp == "bf16" and process.gpu is not None:  # without effect on CPUs
            check_bfloat16(process.gpu)
        self.config, self.process, self.skeleton, self.valid_set = config, process, pose_set.skeleton, valid_set
        records = records_for(pose_set, config)
        self.dataset = PersonDataset(records, pose_set.skeleton, config, training=True)
        length = len(self._order(0))
        if not length:
            raise DataError(f"{len(records)} persons are no batch of {config.batch_size}; lower --batch_size")
        if process.is_main:
            print(f"{len(records)} persons ({records.note}), {length} batches an epoch")
        self.position = Position(length, config.batch_size)
        self.total_steps = config.epochs * length
        self.model = build_model(config, len(self.skeleton), config.seed)
        self.network = self.model if process.world == 1 else paddle.DataParallel(self.model)
        self.optimizer = build_optimizer(self.model, config)
        self.ema = MovingAverage(self.model, config.ema) if config.ema else None
        training_mode(self.model, config.freeze_bn)

    def _order(self, epoch: int) -> list[np.ndarray]:
        config, process = self.config, self.process
        how = config.batch_size, config.seed, epoch, process.rank, process.world
        return shuffled_batches(len(self.dataset), *how)

    def batches(self) -> Iterator[dict]:
        """Batches from the position on, for ever."""
        while True:
            epoch, left = self.position.epoch, self._order(self.position.epoch)[self.position.batch :]
            yield from load_batches(self.dataset, left, self.config.workers or 0, epoch)

    def start(self) -> None:
        """The first weights: given ones, or an ImageNet backbone, or random ones."""
        config, wanted = self.config, self.config.pretrained_model
        if wanted == "auto":
            wanted = str(BACKBONE) if BACKBONE.is_dir() and config.depth == 50 else "none"
        if config.weights:
            path = find_weights(HOUSE, config.weights, SUFFIXES) or config.weights
            said = f"first weights from {path}: {load_first_weights(self.model, path, self.skeleton)}"
        elif wanted == "none":
            said = f"no pretrained backbone: ResNet-{config.depth} starts from random weights"
        else:
            said = f"{load_backbone(self.model, wanted, config.depth)} tensors of the backbone come from {wanted}"
        if self.process.is_main:
            print(said)
        self.ema = MovingAverage(self.model, config.ema) if config.ema else None

    def step(self, batch: dict) -> dict:
        """Gradients of a batch, an update after `accumulate` of them. Returns loss, rate, now and then the accuracy."""
        config, moves = self.config, (self.position.step + 1) % self.config.accumulate == 0
        # processes exchange gradients only when the weights move
        with nullcontext() if moves or self.process.world == 1 else self.network.no_sync():
            with nullcontext() if config.amp == "off" else paddle.amp.auto_cast(level="O1", dtype="bfloat16"):
                maps = self.network(normalise(batch["image"], config.colour))
            loss = heatmap_loss(maps, batch["target"], batch["weight"])
            (loss / config.accumulate).backward()
        rate = learning_rate(config, self.position.step, self.position.epoch_length)
        self.position.advance()
        if moves:
            update(self.optimizer, rate, self.position.step // config.accumulate)
            if self.ema is not None:
                self.ema.update()
        values = {"loss": loss.detach(), "lr": rate}
        if self.position.step % ACCURACY_EVERY == 0:
            both = maps.detach().astype("float32").numpy(), batch["target"].numpy()
            values["accuracy"] = map_accuracy(*both, compat=config.mode == "compat")[0]
        return values

    def validate(self) -> dict[str, float] | None:
        """The validation split's main figure, with the moving average if any; None but in the first process."""
        from common.evaluate import score
        from common.protocols import protocols_for

        assert self.valid_set is not None
        averaged = None if self.ema is None else self.ema.shadow
        with swapped_weights(self.model.state_dict(), self.model.set_state_dict, averaged):
            estimator = Estimator.of(self.model, replace(self.config, amp="off"), self.skeleton, self.process)
            predictions = estimator.predict_pose_set(self.valid_set)
        training_mode(self.model, self.config.freeze_bn)
        if not self.process.is_main:
            return None
        results = score(self.valid_set, predictions, [p.name for p in protocols_for(self.valid_set)[:1]])
        return {name: result.total for name, result in results.items()}

    def state(self) -> dict:
        """What a resumed run needs; nothing draws from Paddle's generator by now. FloatingPointError: not finite."""
        bad = [name for name, value in arrays_of(self.model).items() if not np.isfinite(value).all()]
        if bad:
            raise FloatingPointError(f"weight {bad[0]} is not finite at step {self.position.step}: training diverged")
        return {
            "model": dict(self.model.state_dict()), "optimizer": optimizer_state(self.model, self.optimizer),
            "ema": None if self.ema is None else {"shadow": self.ema.shadow, "count": self.ema.count},
        }  # fmt: skip

    def restore(self, state: dict) -> None:
        """Go on from a state. DataError when it is of another network or of other joints."""
        check_compatible(state["config"], asdict(self.config), RUN_FIELDS)
        theirs = from_card(state["about"]["skeleton"], "checkpoint: about.skeleton")
        if theirs != self.skeleton:
            raise DataError(f"the checkpoint answers skeleton {theirs.name}, the data have {self.skeleton.name}")
        put_weights(self.model, state["model"], "the checkpoint")
        put_optimizer_state(self.model, self.optimizer, state["optimizer"])
        if self.ema is not None and state.get("ema"):
            self.ema.shadow = {k: paddle.to_tensor(v) for k, v in state["ema"]["shadow"].items()}
            self.ema.count = state["ema"]["count"]


def training_mode(model, freeze_bn: bool) -> None:
    """Switch a network to training, its batch norms to their stored statistics if frozen."""
    model.train()
    for layer in model.sublayers() if freeze_bn else ():
        if isinstance(layer, paddle.nn.BatchNorm2D):
            layer.eval()


def learning_rate(config: Config, step: int, epoch_length: int) -> float:
    """The rate at a step (from 0): in steps of a tenth, by a cosine to a hundredth, or P's constant one."""
    if config.schedule == "momentum":
        return config.lr
    warm = min((step + 1) / config.warmup, 1.0) if config.warmup else 1.0
    if config.schedule == "cosine":
        done = min(step / max(epoch_length * config.epochs, 1), 1.0)
        return config.lr * warm * (0.01 + 0.99 * (1 + math.cos(math.pi * done)) / 2)
    return config.lr * warm * 0.1 ** sum(step >= epoch * epoch_length for epoch in numbers_of(config.lr_epochs))


def build_optimizer(model, config: Config):
    """Adam (beta 0.9 and 0.999, no decay) or P's Momentum; `update` sets its rate and epsilon."""
    if config.schedule == "momentum":
        decay = paddle.regularizer.L2Decay(5e-4)
        return paddle.optimizer.Momentum(config.lr, 0.9, model.parameters(), weight_decay=decay)
    return paddle.optimizer.Adam(config.lr, parameters=model.parameters())


def update(optimizer, rate: float, count: int) -> None:
    """The `count`th update (from 1). PaddlePaddle 1.8.5 adds Adam's epsilon before the bias correction, 3 after it."""
    optimizer.set_lr(rate)
    optimizer._epsilon = EPSILON / math.sqrt(1 - BETA2**count)
    optimizer.step()
    optimizer.clear_grad()


def optimizer_state(model, optimizer) -> dict:
    """The optimiser's tensors under our parameter names, the same in every process; Paddle's are counters."""
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


class MovingAverage:
    """Exponential moving average of weights and batch-norm statistics (`--ema`)."""

    def __init__(self, model, decay: float):
        self.model, self.decay, self.count = model, decay, 0
        self.shadow = {k: v.detach().clone() for k, v in model.state_dict().items()}

    @paddle.no_grad()
    def update(self) -> None:
        """After an optimiser step. The decay starts small, so that the random first weights are forgotten."""
        self.count += 1
        decay = min(self.decay, (1 + self.count) / (10 + self.count))
        for name, value in self.model.state_dict().items():
            self.shadow[name].scale_(decay).add_(value * (1 - decay))
