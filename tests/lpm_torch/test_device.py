"""A training step and scoring as on a GPU: all tensors on one device, and nothing waits for it."""

from types import SimpleNamespace

import pytest
import torch

from common.datasets import load
from lpm_torch import engine, train
from lpm_torch.config import MODELS
from lpm_torch.data import prepare
from lpm_torch.estimator import belief_maps
from tests.far_device import FAR, no_waiting
from tests.lpm_torch import tiny

GPU = SimpleNamespace(rank=0, world=1, device=FAR, is_main=True, mean=lambda value: value)


@pytest.mark.parametrize("what", [lambda: torch.zeros(3).to(FAR), lambda: torch.zeros(1, device=FAR).new_tensor([1.0]),
                                  lambda: torch.tensor([1.0], device=FAR), lambda: float(torch.zeros((), device=FAR)),
                                  lambda: torch.zeros(3, device=FAR) + torch.zeros(3)])  # fmt: skip
def test_what_waits_is_noticed(what):
    with no_waiting(), pytest.raises((AssertionError, RuntimeError)):
        what()


@pytest.mark.parametrize("model", MODELS)
def test_a_step_never_waits_for_its_gpu(tmp_path, model):
    words = [*tiny.TINY, f"--model={model}", "--dataset=LSP", f"--data_root={tiny.lsp()}", f"--out={tmp_path}"]
    settings = train.parse_args([*words, "--input_width=128", "--ema=0.9", "--clip=1"])
    trainer = engine.Trainer(settings, load("lsp", tiny.lsp(), "train"), GPU)
    batch = next(trainer.batches())
    trainer.step(dict(batch))  # what is sent once
    with no_waiting():
        assert trainer.step(dict(batch))["loss"].device == FAR
        batch.pop("unread")
        maps = belief_maps(trainer.model.eval(), prepare(batch, FAR, settings), settings, trainer.skeleton)
    assert maps.device == FAR
