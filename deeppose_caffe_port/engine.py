"""Two functions: `train_steps` and `predict`. What one iteration is, the solver knows; what a prediction is, the cascade."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
from tqdm import tqdm

from common.geometry import apply_affine, invert_affine
from deeppose_caffe_port.solver import Solver


class Signals:
    """What SIGINT and SIGHUP ask of a training (Caffe's --sigint_effect, --sighup_effect)."""

    def __init__(self, sigint: str = "stop", sighup: str = "snapshot"):
        self.effects = {signal.SIGINT: sigint, signal.SIGHUP: sighup}
        self.wanted: set[str] = set()

    @contextmanager
    def watch(self):
        """Inside, the two signals are noted instead of ending the process."""
        old = {number: signal.signal(number, self._note) for number, effect in self.effects.items()}
        try:
            yield self
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)

    def _note(self, number, frame) -> None:
        self.wanted.add(self.effects[number])


def train_steps(
    solver: Solver, *, signals: Signals | None = None, on_step: Callable[[Solver], None] | None = None
) -> bool:
    """Iterate to max_iter, then test and snapshot as Caffe does; False when a signal stopped it (a snapshot is written then too).

    `on_step(solver)` is called after every iteration. FloatingPointError when the training diverges.
    """
    wanted = signals.wanted if signals else set()
    solver.say("Starting Optimization")
    try:
        while solver.iteration < solver.param.max_iter:
            solver.iterate()
            if on_step:
                on_step(solver)
            if wanted & {"snapshot", "stop"}:
                solver.snapshot()
            if "stop" in wanted:
                solver.say("Optimization stopped early.")
                return False
            wanted.clear()
        solver.finish()
        solver.say("Optimization Done.")  # Caffe says it twice: the solver, then the tool
        return True
    finally:
        solver.close()


def predict(cascade, pictures, progress: bool = True) -> Iterator[tuple[np.ndarray, list[np.ndarray]]]:
    """Yield (rows (n,), [joints (n,J,2) in image pixels after stage 1 and each refinement]) a batch of `pictures` (images.Pictures)."""
    size = cascade.config.batch_size
    with ThreadPoolExecutor(max(cascade.config.workers, 1)) as pool:
        for start in tqdm(
            range(0, len(pictures), size), desc="predict", disable=not progress, dynamic_ncols=True, mininterval=2
        ):
            rows = np.arange(start, min(start + size, len(pictures)))
            found = cascade.stages(list(pool.map(pictures.image, rows)))
            back = invert_affine(np.stack([pictures.matrix(row) for row in rows]))
            yield rows, [apply_affine(back, joints) for joints in found]
