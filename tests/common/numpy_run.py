"""A tiny training in numpy, started by test_checkpoints.py as a process of its own so that it can be killed at any moment.

Arguments: folder, resume (`new` or `auto`), seconds that the slow save takes, a file that is touched when a save begins, seconds a step.
Writes `weights.npz` when it is done. It is the loop that all houses have.
"""

import itertools
import pickle
import random
import sys
import time
from pathlib import Path

import numpy as np

from common.runs.checkpoints import CheckpointStore
from common.runs.process import Process, exit_code
from common.runs.session import Position, Session

EPOCHS, BATCHES, BATCH_SIZE = 4, 8, 5


def slow_save(path: Path, state: dict, seconds: float, began: Path) -> None:
    """Write the state in ten pieces with pauses between them, so that a kill finds it half written."""
    content = pickle.dumps(state)
    began.touch()
    with open(path, "wb") as file:
        for part in np.array_split(np.frombuffer(content, np.uint8), 10):
            file.write(part.tobytes())
            file.flush()
            time.sleep(seconds / 10)


class Trainer:
    """Momentum on a quadratic; every source of randomness takes part, so that one not restored changes the weights."""

    def __init__(self, pause: float = 0.0):
        random.seed(3)
        np.random.seed(4)
        self.position = Position(epoch_length=BATCHES, batch_size=BATCH_SIZE)
        self.data = np.random.default_rng(2).normal(size=(BATCHES * BATCH_SIZE, 6))
        self.weights, self.momentum, self.pause = np.ones(6), np.zeros(6), pause

    def batches(self):
        for epoch in itertools.count(self.position.epoch):
            order = np.random.default_rng(epoch).permutation(len(self.data)).reshape(BATCHES, BATCH_SIZE)
            yield from (self.data[rows] for rows in order[self.position.batch :])

    def step(self, rows: np.ndarray) -> dict:
        time.sleep(self.pause)
        lr = 0.05 * 0.9**self.position.epoch
        noise = np.random.normal(size=rows.shape) + random.random()
        gradient = ((rows + noise) @ self.weights)[:, None] * rows
        self.momentum = 0.9 * self.momentum + gradient.mean(0)
        self.weights = self.weights - lr * self.momentum
        self.position.advance()
        return {"loss": float(self.weights @ self.weights), "lr": lr}

    def validate(self) -> dict:
        return {"size": float(self.weights @ self.weights)}

    def state(self) -> dict:
        return {"model": self.weights.copy(), "momentum": self.momentum.copy()}

    def restore(self, state: dict) -> None:
        self.weights, self.momentum = state["model"].copy(), state["momentum"].copy()


def train(folder: Path, resume: str | None, seconds: float, began: Path, pause: float) -> Path:
    store = CheckpointStore(
        folder,
        lambda path, state: slow_save(path, state, seconds, began),
        lambda path: pickle.loads(path.read_bytes()),
        suffix=".pkl",
        mode="min",
        every=3,
        unit="step",
        keep=2,
    )
    trainer = Trainer(pause)
    settings, about = {"mode": "correct"}, {"skeleton": {}, "synthetic": False}
    session = Session(
        folder, trainer.position, EPOCHS * BATCHES, Process(), store,
        settings=settings, about=about, valid_every=BATCHES, log_every=1,
    )  # fmt: skip
    with session:
        state = session.begin(resume)
        if state:
            trainer.restore(state)
        for batch in session.track(trainer.batches()):
            session.log(trainer.step(batch))
            if session.validation_due:
                session.validated(trainer.validate())
            if session.save_due:
                session.save(trainer.state())
    np.savez(folder / "weights.npz", weights=trainer.weights, momentum=trainer.momentum, best=store.best_metric)
    return folder


if __name__ == "__main__":
    words = sys.argv[1:]
    sys.exit(
        exit_code(
            lambda: train(
                Path(words[0]),
                None if words[1] == "new" else words[1],
                float(words[2]),
                Path(words[3]),
                float(words[4]) if len(words) > 4 else 0.0,
            )
        )
    )
