"""One object for a training loop: progress and time left, log, checkpoints when due, stop on Ctrl-C, best, early stop,
resume. It is called and never calls a trainer; the loop is in every house's train.py.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from common.runs.checkpoints import CheckpointStore, make_state, restore_random_state
from common.runs.process import Interrupts, Process, Stopped
from common.runs.runlog import RunLog

AGREE_EVERY = 10  # steps between two questions to the other processes whether to stop


@dataclass
class Position:
    """Where a training is. A Trainer has one and advances it after every step.

    `epoch` counts finished epochs, `batch` the batches done of the current one, `step` all of them. `epoch_length` in
    batches (0: the trainer does not count epochs), `batch_size` in persons over all processes.
    """

    epoch_length: int = 0
    batch_size: int = 1
    epoch: int = 0
    batch: int = 0
    step: int = 0

    def advance(self) -> None:
        """One batch is done."""
        self.step, self.batch = self.step + 1, self.batch + 1
        if self.batch == self.epoch_length:
            self.epoch, self.batch = self.epoch + 1, 0

    def restore(self, state: dict) -> None:
        """Go on from a checkpoint's position: in persons, as batches may have another size now."""
        before = state["about"]["batch_size"]
        self.epoch, self.step = state["epoch"], state["step"]
        self.batch = state["batch"] * before // self.batch_size
        if before != self.batch_size and self.epoch_length:
            self.step = self.epoch * self.epoch_length + self.batch


class Session:
    """What surrounds the steps of one training in `folder`; see a house's train.py for the loop.

    `total` steps in all. `settings` go into log and checkpoints, `about` too (see `checkpoints.make_state`). A
    validation is due every `valid_every` steps (0: never), a numbered or minutely checkpoint as `store` and
    `save_minutes` have it, none within `accumulate` steps whose gradients wait for each other. `patience`: end after so
    many validations without a better figure (0: never).
    """

    def __init__(self, folder: str | Path, position: Position, total: int, process: Process, store: CheckpointStore, *,
                 settings: dict, about: dict, valid_every: int = 0, save_minutes: float = 10.0, accumulate: int = 1,
                 patience: int = 0, log_every: int = 20):  # fmt: skip
        self.folder, self.position, self.total, self.process, self.store = Path(folder), position, total, process, store
        self.settings, self.about = settings, {**about, "batch_size": position.batch_size}
        self.valid_every, self.save_minutes, self.accumulate = valid_every, save_minutes, max(accumulate, 1)
        self.patience, self.log_every = patience, log_every
        self.run_log: RunLog | None = None
        self._losses: list[float] = []  # since the last validation
        self._waiting: tuple[int, dict] | None = None
        self._metric: float | None = None
        self._resumed: int | None = None  # the step from which the run goes on
        self._worse, self._asked, self._ended = 0, False, False
        self._saved_step, self._saved_at = -1, time.monotonic()
        self._interrupts = Interrupts()

    def __enter__(self) -> Session:
        self._interrupts.__enter__()
        return self

    def begin(self, resume: str | Path | None) -> dict | None:
        """The state to go on from, whose position and random numbers are restored; None for a new run. Nothing is written
        before `track` or `validated`, so that first weights which cannot be read leave an earlier run where it is.

        `resume`: None, `auto`, or a state file. DataError as `CheckpointStore.begin`.
        """
        state = self.store.begin(resume, self.process.barrier if self.process.world > 1 else None)
        if state:
            self.position.restore(state)
            restore_random_state(state["random"])
            self._losses = list(state["losses"])
            self._resumed = self.position.step
        self._saved_at = time.monotonic()
        self._interrupts.at_once = self.process.world == 1  # compiling the first step may take minutes
        return state

    def _open(self) -> None:
        if self.process.is_main and self.run_log is None:
            self.store.make_room()
            self.run_log = RunLog(self.folder, config=self.settings, resume_step=self._resumed)
            if self.about.get("synthetic"):
                print("SYNTHETIC data: figures from it say nothing about photographs")
            if self.position.step >= self.total:
                print(f"nothing to train: {self.position.step} of {self.total} steps are done")

    def track(self, batches: Iterable) -> Iterator:
        """The batches that are left, with a bar on a terminal, else a line now and then; ends early when asked to."""
        self._open()
        progress = Progress(self.position.step, self.total, quiet=not self.process.is_main)
        try:
            if self.position.step >= self.total:
                return
            for batch in batches:
                yield batch
                progress(self.position, self._losses[-1:])
                if self.position.step >= self.total or self._ended or (self._asked and self._at_boundary):
                    return
        finally:
            progress.close()

    def log(self, values: dict) -> None:
        """One step is done; `values` are its `loss`, `lr` and whatever else is to be logged. FloatingPointError: it
        diverged.

        Losses are read one step late, so that a GPU need not wait for this.
        """
        self._interrupts.at_once = False
        self._flush()
        self._waiting = (self.position.step, values)
        if self.process.world == 1 or self.position.step % AGREE_EVERY == 0:
            self._asked = self._asked or self.process.any(self._interrupts.asked)

    def _flush(self) -> None:
        if self._waiting is None:
            return
        (step, values), self._waiting = self._waiting, None
        loss = float(values["loss"])
        if not math.isfinite(loss):
            raise FloatingPointError(f"the loss is {loss} at step {step}: training diverged")
        self._losses.append(loss)
        if self.run_log and (step % self.log_every == 0 or len(values) > 2 or step >= self.total):
            self.run_log.scalars(step, **{name: float(value) for name, value in values.items()})

    @property
    def _at_boundary(self) -> bool:
        return self.position.step % self.accumulate == 0 or self.position.step >= self.total

    @property
    def validation_due(self) -> bool:
        """Whether the validation split is to be scored now, by all processes."""
        return bool(self.valid_every) and self.position.step % self.valid_every == 0

    def validated(self, figures: dict[str, float] | None) -> None:
        """Figures of the validation split; the first chooses the best checkpoint. None in processes that have none.

        They are logged as `valid NAME`, those with an original's tag (`test/mPCP`) as they are.
        """
        self._open()
        self._flush()
        if figures and self.run_log:
            name, value = next(iter(figures.items()))
            self._metric = float(value)
            self._worse = 0 if self.store.improves(self._metric) else self._worse + 1
            mean = sum(self._losses) / max(len(self._losses), 1)
            tagged = {n if "/" in n else f"valid {n}": v for n, v in figures.items()}
            self.run_log.scalars(self.position.step, **{"mean loss": mean, **tagged})
            where = f"epoch {self.position.epoch}" if self.position.epoch_length else f"step {self.position.step}"
            praise = "" if self._worse else " (best so far)"
            print(f"[{where}] loss {mean:.6g}, {name} {value:.6g}{praise}", flush=True)
            self._losses.clear()
        if self.patience and self.process.any(self._worse >= self.patience):
            self._ended = True

    @property
    def save_due(self) -> bool:
        """Whether the state is to be saved now: a better or last figure, the end, a wish to stop, or enough minutes."""
        if not self._at_boundary or self._saved_step == self.position.step:
            return False
        ends = self.position.step >= self.total or self._ended or self._asked
        minutes = self.process.is_main and time.monotonic() - self._saved_at > 60 * self.save_minutes
        return ends or minutes or self._metric is not None or self.store.numbered_due(vars(self.position))

    def save(self, trained: dict) -> None:
        """Write the resume state of `Trainer.state()`, in the process that writes."""
        self._flush()
        self._saved_step, self._saved_at = self.position.step, time.monotonic()
        metric, self._metric = self._metric, None
        if self.process.is_main:
            at = self.position
            place = {"epoch": at.epoch, "batch": at.batch, "step": at.step}
            state = make_state(trained, **place, config=self.settings, about=self.about)
            self.store.save({**state, "losses": self._losses}, metric)

    def __exit__(self, kind: type[BaseException] | None, *error: Any) -> None:
        self._interrupts.__exit__()
        if self.run_log:
            self.run_log.close()
        self.process.close()
        if kind is None and self._asked and self.position.step < self.total:
            done = f"{self.position.step} of {self.total}"
            raise Stopped(f"stopped after step {done}; the state is saved, go on with --resume")
        if kind is None and self._ended and self.process.is_main:
            print(f"ended after step {self.position.step}: {self._worse} validations without a better figure")


class Progress:
    """A bar where somebody looks, else a line every half minute with the time that is left."""

    SECONDS = 30.0

    def __init__(self, done: int, total: int, quiet: bool = False):
        self.total, self.quiet, self.shown = total, quiet, time.monotonic()
        self.first, self.began = 0, 0.0
        self.bar = None
        if not quiet and sys.stderr.isatty():
            from tqdm import tqdm

            self.bar = tqdm(initial=done, total=total, dynamic_ncols=True, mininterval=1)

    def __call__(self, position: Position, losses: list[float]) -> None:
        """A step is done; `losses` holds the newest, if any."""
        if self.bar is not None:
            self.bar.set_postfix(loss=f"{losses[-1]:.4g}" if losses else "", refresh=False)
            self.bar.update(position.step - self.bar.n)
            return
        now = time.monotonic()
        if not self.began:  # the first step compiles, and says nothing of the others
            self.first, self.began = position.step, now
        if self.quiet or now - self.shown < self.SECONDS or position.step == self.first:
            return
        self.shown = now
        speed = (now - self.began) / (position.step - self.first)
        left = timedelta(seconds=round(speed * (self.total - position.step)))
        loss = f"loss {losses[-1]:.4g}, " if losses else ""
        print(f"step {position.step} of {self.total}: {loss}{speed:.3g} s a step, {left} left", flush=True)

    def close(self) -> None:
        """Leave the bar as it is."""
        if self.bar is not None:
            self.bar.close()


@contextmanager
def swapped_weights(state: dict, load, weights: dict | None):
    """Inside, a network has other weights (`load(weights)`); those of `state`, its tensors by name, come back
    afterwards. None swaps nothing."""
    if weights is None:
        yield
        return
    own = {name: value.clone() for name, value in state.items()}
    load(weights)
    try:
        yield
    finally:
        load(own)
