"""Several processes: what they learn and score is what one does, another number goes on, and gradients cross seldom."""

import contextlib
from dataclasses import replace

import pytest

from common import datasets
from common.runs.runlog import read_log
from simplebaseline_paddle import train
from simplebaseline_paddle.engine import Trainer
from simplebaseline_paddle.estimator import PaddleProcess
from tests.simplebaseline_paddle import _recipe as recipe
from tests.simplebaseline_paddle.tiny import CONFIG, SMALL, same_but_for_rounding, state_of

PLAIN = ("--freeze_bn", "--lr_strategy=momentum", "--ema=0")  # no step amplifies rounding


@pytest.mark.slow
def test_two_processes_learn_and_score_what_one_does_and_one_goes_on(mpii, tmp_path):
    """Gradients are averaged over gloo; frozen batch norms and plain momentum make the doubled batch the same. Every
    second step is quiet; each process scores its part of the people."""
    more = ["--dataset=mpii", f"--data_root={mpii}", *SMALL, *PLAIN, "--batch_size=2", "--accumulate=2"]
    assert train.main([*more, "--epochs=2", f"--out={tmp_path / 'one'}"]) == 0
    recipe.launch(tmp_path, ["simplebaseline_paddle/train.py", *more, "--epochs=2", f"--out={tmp_path / 'two'}"])
    for epochs in (2, 3):
        if epochs == 3:
            for name in ("one", "two"):
                assert train.main([*more, "--epochs=3", "--resume", f"--out={tmp_path / name}"]) == 0
        one, two = (state_of(tmp_path / n) for n in ("one", "two"))
        logs = [read_log(tmp_path / n / "log.jsonl") for n in ("one", "two")]
        loss = next(entry["loss"] for entry in logs[0] if "loss" in entry)
        assert one["step"] == two["step"] == 4 * epochs
        same_but_for_rounding(two["model"], one["model"], loss, rate=1e-3, steps=2 * epochs)
        first, second = ([e["valid pckh@0.5"] for e in log if "valid pckh@0.5" in e] for log in logs)
        assert len(first) == epochs and first == second


def test_processes_exchange_gradients_only_when_the_weights_move(mpii):
    """Of three accumulated steps the first two are quiet."""
    pose_set = datasets.load("mpii", mpii, "train").limit(6)
    trainer, quiet = Trainer(replace(CONFIG, accumulate=3, batch_size=2), pose_set, PaddleProcess("cpu")), []

    class Parallel:
        def __call__(self, x):
            return trainer.model(x)

        def no_sync(self):
            quiet.append(trainer.position.step)
            return contextlib.nullcontext()

    trainer.network, trainer.process.world = Parallel(), 2
    for _, batch in zip(range(3), trainer.batches()):
        trainer.step(batch)
    assert quiet == [0, 1]
