"""What the training programs of two houses do around their steps: counters, log, a checkpoint now and then; weights swapped for scoring."""

from __future__ import annotations

import time
from contextlib import contextmanager


class Watch:
    """What happens after every batch of a run. A house says in a subclass what `accuracy` is, and what `pictures` it writes.

    `run` has `config` (with `save_minutes`, `accumulate`), the counters `batch` (of the epoch, which has `batches`) and `step`, and
    `save(metric)`; `log` is its RunLog, None in the processes that write nothing.
    """

    EVERY = 20  # batches between two entries of the log

    def __init__(self, run, log):
        self.run, self.log, self.saved, self.accuracies = run, log, time.monotonic(), []

    def accuracy(self, out, batch: dict) -> float:
        """Percent, or share, of the batch's joints that the network's output hits."""
        raise NotImplementedError

    def pictures(self, out, batch: dict) -> None:
        """Debug pictures of the batch, when they are due."""

    def step(self, index: int, values: dict, batch: dict, out) -> None:
        """Batch number `index` of the epoch is done; `values` has its `loss` and `lr`."""
        run = self.run
        run.batch, run.step = index + 1, run.step + 1
        if not self.log:
            return
        if run.step % self.EVERY == 0 or run.batch == run.batches:
            self.accuracies.append(self.accuracy(out, batch))
            self.log.scalars(
                run.step,
                **{"Train Loss": values["loss"], "Train Accuracy": self.accuracies[-1], "Learning Rate": values["lr"]},
            )
        self.pictures(out, batch)
        due = time.monotonic() - self.saved > 60 * run.config.save_minutes and run.batch % run.config.accumulate == 0
        if due and run.batch < run.batches:
            self.save()

    def save(self, metric: float | None = None) -> None:
        """Write the resume state; `metric` is the epoch's, which chooses the best."""
        self.run.save(metric)
        self.saved = time.monotonic()

    def mean_accuracy(self) -> float:
        """Mean over the logged batches since the last call (NaN when none)."""
        values, self.accuracies = self.accuracies, []
        return sum(values) / len(values) if values else float("nan")


@contextmanager
def swapped_weights(state: dict, load, weights: dict | None):
    """Inside, a network has other weights (`load(weights)`); those of `state`, its tensors by name, come back afterwards. None swaps nothing."""
    if weights is None:
        yield
        return
    own = {name: value.clone() for name, value in state.items()}
    load(weights)
    try:
        yield
    finally:
        load(own)
