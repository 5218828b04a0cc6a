"""`--widths`: small crops first, larger ones later, and what the finished network answers on."""

from dataclasses import replace

import numpy as np
import pytest

from common.datasets import load
from common.errors import DataError
from lpm_torch import Estimator, engine, train
from lpm_torch.config import Config
from tests.lpm_torch import tiny
from tests.lpm_torch.test_train import LPM, assert_same_run, last, options

WIDTHS = (48, 64)
RUN = (*LPM, "--epochs=4", f"--widths={list(WIDTHS)}", "--input_width=80")


@pytest.fixture
def sides(monkeypatch) -> list[int]:
    """Sides of the crops that the network is shown."""
    seen: list[int] = []

    def noted(model, batch, config):
        seen.append(batch["frames"].shape[-1])
        return shown(model, batch, config)

    shown = engine.run_network
    monkeypatch.setattr(engine, "run_network", noted)
    return seen


@pytest.mark.parametrize(("epochs", "widths"), [(4, [48, 64]), (5, [48, 64]), (7, [48, 64, 80]), (3, [])])
def test_every_width_has_its_share_of_the_epochs(epochs, widths):
    config = Config(epochs=epochs, widths=widths, input_width=96)
    found = [config.width_at(epoch) for epoch in range(epochs + 1)]
    assert found == sorted(found) and found[-1] == found[-2], "an epoch behind the last is as the last"
    counts = [found[:-1].count(width) for width in widths or [96]]
    assert sum(counts) == epochs and max(counts) - min(counts) <= 1


def test_a_run_stopped_between_two_widths_goes_on_as_if_it_had_not(tmp_path, monkeypatch, sides):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert train.main(options(whole, *RUN)) == 0
    assert sides == sorted(sides) and set(sides) == set(WIDTHS) and len(set(map(sides.count, WIDTHS))) == 1
    learn = engine.Trainer.step
    for stop in (len(sides) // 2, len(sides) - 1):  # where the width changes, and behind it

        def step(trainer, raw, stop=stop):
            if trainer.position.step == stop:
                raise KeyboardInterrupt
            return learn(trainer, raw)

        monkeypatch.setattr(engine.Trainer, "step", step)
        assert train.main(options(parts, *RUN, "--resume")) == 130
    monkeypatch.setattr(engine.Trainer, "step", learn)
    assert train.main(options(parts, *RUN, "--resume")) == 0
    assert_same_run(last(whole), last(parts))
    pose_set = load("lsp", tiny.lsp(), "test")
    estimator = Estimator(whole)
    answers = estimator.predict_pose_set(pose_set)
    assert estimator.config.input_width == 80 and np.isfinite(answers.joints).all()
    smaller = Estimator(whole, input_width=64)
    assert smaller.config == replace(estimator.config, input_width=64)
    assert not np.array_equal(smaller.predict_pose_set(pose_set).joints, answers.joints)


def test_a_width_that_the_network_refuses_is_said_before_the_first_step(tmp_path, capsys, sides):
    words = ["--model=hourglass", "--depth=1", "--widths=[64, 72]"]
    assert train.main(options(tmp_path, *RUN, *words)) == 2 and "72" in capsys.readouterr().err and not sides


@pytest.mark.parametrize("widths", ["[0]", "[96.5]", "[wide]", "[true]", "[100000]", "96", "{a: 1}"])
def test_widths_that_are_none_are_refused_by_name(widths):
    with pytest.raises((DataError, SystemExit)) as refused:
        train.parse_args([f"--widths={widths}", f"--data_root={tiny.lsp()}"])
    assert refused.value.code == 2 if isinstance(refused.value, SystemExit) else "widths" in str(refused.value)
