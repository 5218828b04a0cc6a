"""A tiny training run in numpy, started by test_checkpoints.py as a process of its own so that it can be killed at any moment.

Arguments: folder, resume (`new` or `auto`), seconds that the slow save takes, a file that is touched when a save begins.
Writes `weights.npz` when it is done.
"""

import pickle
import random
import sys
import time
from pathlib import Path

import numpy as np

from common.runs.checkpoints import CheckpointStore, collect_random_state, make_state, restore_random_state
from common.runs.runlog import RunLog

EPOCHS, BATCHES, BATCH_SIZE, SAVE_EVERY = 4, 8, 5, 3


def slow_save(path: Path, state: dict, seconds: float, began: Path) -> None:
    """Write the state in ten pieces with pauses between them, so that a kill finds it half written."""
    content = pickle.dumps(state)
    began.touch()
    with open(path, "wb") as file:
        for part in np.array_split(np.frombuffer(content, np.uint8), 10):
            file.write(part.tobytes())
            file.flush()
            time.sleep(seconds / 10)


def main(folder: Path, resume: str | None, seconds: float, began: Path) -> None:
    store = CheckpointStore(
        folder, lambda path, state: slow_save(path, state, seconds, began), lambda path: pickle.loads(path.read_bytes()),
        suffix=".pkl", mode="min", every=1, keep=2,
    )  # fmt: skip
    order_rng = np.random.default_rng(1)
    data = np.random.default_rng(2).normal(size=(EPOCHS * 10, 6))
    weights, momentum, step, first_epoch, first_batch, order = np.ones(6), np.zeros(6), 0, 0, 0, None
    random.seed(3)
    np.random.seed(4)
    state = store.begin(resume)
    if state:
        weights, momentum, step = state["model"].copy(), state["optimizer"].copy(), state["step"]
        first_epoch, first_batch, order = state["epoch"], state["batch"], state["order"]
        restore_random_state(state["random"], order=order_rng)

    def snapshot(epoch: int, batch: int, order: np.ndarray | None) -> dict:
        return make_state(
            epoch=epoch, batch=batch, step=step, model=weights.copy(), optimizer=momentum.copy(), schedule=0.05 * 0.9**epoch,
            config={"mode": "correct"}, random_state=collect_random_state(order=order_rng), order=order,
        )  # fmt: skip

    with RunLog(folder, config={"mode": "correct"}, resume_step=step if state else None) as log:
        for epoch in range(first_epoch, EPOCHS):
            if first_batch == 0:
                order = order_rng.permutation(len(data))
            for batch in range(first_batch, BATCHES):
                rows = data[order[batch * BATCH_SIZE : (batch + 1) * BATCH_SIZE]]
                # every source of randomness takes part, so that one not restored changes the weights
                noise = np.random.normal(size=rows.shape) + random.random()
                gradient = ((rows + noise) @ weights)[:, None] * rows
                momentum = 0.9 * momentum + gradient.mean(0)
                weights = weights - 0.05 * 0.9**epoch * momentum
                step += 1
                log.scalars(step, loss=float(weights @ weights))
                if step % SAVE_EVERY == 0 and batch + 1 < BATCHES:
                    store.save(snapshot(epoch, batch + 1, order))
            first_batch = 0
            store.save(snapshot(epoch + 1, 0, None), metric=float(weights @ weights))
    np.savez(folder / "weights.npz", weights=weights, momentum=momentum, best=store.best_metric)


if __name__ == "__main__":
    main(Path(sys.argv[1]), None if sys.argv[2] == "new" else sys.argv[2], float(sys.argv[3]), Path(sys.argv[4]))
