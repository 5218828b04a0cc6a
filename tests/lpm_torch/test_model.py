"""Networks at small widths: equality with a plain loop, options, sizes, streaming."""

import json

import numpy as np
import pytest
import torch

from common.errors import DataError
from lpm_torch.config import MODELS
from tests import tolerance
from tests.bench import lpm_torch as bench
from tests.reference.lpm_torch import build_model, plain_cpm, plain_lpm

WIDTH = 0.1


def small(name, **options):
    torch.manual_seed(0)
    model = build_model(name, width=WIDTH, init="kaiming", **options)
    for module in model.modules():  # running statistics and affine parts that differ from the identity
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -0.2, 0.2)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
    return model


def clip(batch=2, frames=3, size=64):
    draw = torch.Generator().manual_seed(1)
    return torch.randn(batch, frames, 3, size, size, generator=draw), torch.rand(batch, 1, size, size, generator=draw)


def close(a, b, dtype=np.float32, margin=1.0):
    """Sums in another order, through the some 100 layers that a clip's last frame has behind it."""
    tolerance.close(
        a.detach(), b.detach().numpy(), margin * tolerance.rounding(b.abs().max().item(), steps=100, dtype=dtype)
    )


@pytest.mark.parametrize(("name", "plain", "output"), [("cpm", plain_cpm, 1), ("lpm", plain_lpm, 1)])
@pytest.mark.parametrize("frames", [1, 4])
def test_equals_the_plain_loop_with_gradients(name, plain, output, frames):
    """In float64, so that rounding opens and closes no ReLU."""
    ours, loop = small(name, dropout=0.0).double(), small(name, dropout=0.0).double()
    inputs = [x.double() for x in clip(frames=frames)]
    a, b = ours.train()(*inputs)[output], plain(loop.train(), *inputs)
    close(a, b, np.float64)
    weight = torch.randn(b.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    (a * weight).sum().backward()
    (b * weight).sum().backward()
    for (key, p), q in zip(ours.named_parameters(), loop.parameters()):
        assert (p.grad is None) == (q.grad is None), key
        close(p.grad, q.grad, np.float64, q.numel() ** 0.5)
    for p, q in zip(ours.buffers(), loop.buffers()):
        close(p.double(), q.double(), np.float64)


@pytest.mark.parametrize("name", ["lpm", "lpm_official"])
def test_steps_with_state_equal_the_clip(name):
    model = small(name).eval()
    frames, center = clip(frames=5)
    with torch.inference_mode():
        out, with_first = model(frames, center)
        state = model.init_state(frames[:, 0], center)
        close(state.belief, with_first[:, 0])
        for t in range(frames.shape[1]):
            maps, state = model.step(frames[:, t], center, state)
            close(maps, out[:, t])


@pytest.mark.parametrize("name", ["lpm", "lpm_raw", "lpm_official", "coord_lpm"])
def test_a_still_image_is_a_clip_of_equal_frames(name):
    model = small(name, T=4).eval()
    frames, center = clip(frames=1)
    with torch.inference_mode():
        close(model(frames, center, steps=4)[0], model(frames.expand(-1, 4, -1, -1, -1), center)[0])


@pytest.mark.parametrize("name", ["cpm", "lpm", "lpm_raw", "lpm_official", "coord_lpm"])
def test_dropout_of_the_settings_is_the_networks(name):
    model = small(name, dropout=0.125)
    layers = [module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)] or [model.dropout]
    assert set(layers) == {0.125}


def test_cpm_frames_are_independent():
    model = small("cpm").eval()
    frames, center = clip(frames=3)
    with torch.inference_mode():
        close(model(frames, center)[0][:, 1:2], model(frames[:, 1:2], center, steps=7)[0])


def test_deep_supervision_adds_maps_not_parameters():
    plain, deep = small("cpm"), small("cpm", deep_supervision=True)
    deep.load_state_dict(plain.state_dict())
    frames, center = clip()
    with torch.inference_mode():
        out, maps = deep(frames, center)
        assert maps.shape[:2] == (2, 6 * 3)
        close(out, plain(frames, center)[0])
        close(maps[:, -3:], out)
        # the first T maps are stage 1's, through the same head
        first = deep.stage_maps(frames.flatten(0, 1), center.repeat_interleave(3, 0))[0]
        close(maps[:, :3].flatten(0, 1), deep.final_layer(first))


# an hourglass halves its input; its own message says so
@pytest.mark.parametrize(
    ("name", "size"), [(n, s) for n in MODELS for s in (64, 68, 71, 96, 105) if n != "hourglass" or s % 32 == 0]
)
def test_output_size_holds_for_any_input(name, size):
    model = small(name, T=2, depth=2).eval()
    frames, center = clip(1, 2, size)
    with torch.inference_mode():
        out, _ = model(frames, center)
    maps = 14 if name == "coord_lpm" else 15
    assert out.shape == (1, 2, maps, model.output_size(size), model.output_size(size))


@pytest.mark.parametrize(("name", "count"), [("cpm", 31_220_781), ("lpm", 12_068_062), ("lpm_raw", 42_691_626)])
def test_parameter_counts_of_the_originals(name, count):
    with torch.device("meta"):
        assert sum(p.numel() for p in build_model(name).parameters()) == count


@pytest.mark.parametrize("name", ["lpm", "cpm", "lpm_official"])
@pytest.mark.parametrize("norm", ["none", "batch"])
def test_kaiming_keeps_the_signal(name, norm):
    """At initialisation the features keep their scale and every belief channel gets a gradient."""
    model = small(name, norm=norm)
    frames, center = clip()
    features = model.pooled_features("conv{}_stage1", frames.flatten(0, 1))
    assert 0.1 < features.std() < 10
    (1 - model(frames, center)[1]).square().sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    last = model.final_layer if name == "cpm" else model.conv7_stage1
    assert torch.all(last.weight.grad.abs().flatten(1).sum(1) > 0)


def test_dropout_only_where_the_original_has_it():
    frames, center = clip()
    for name, random in (("lpm", True), ("lpm_official", True), ("lpm_raw", False), ("cpm", False)):
        model = small(name).train()
        torch.nn.init.normal_(model.conv7_stage1.weight)
        with torch.no_grad():
            same = torch.equal(model(frames, center)[1], model(frames, center)[1])
        assert same != random, name


def test_channels_last_and_bfloat16_agree_roughly():
    """bfloat16 has 8 bits."""
    frames, center = clip()
    for name in ("cpm", "lpm"):
        model = small(name).eval()
        with torch.inference_mode():
            expected = model(frames, center)[0]
            model = model.to(memory_format=torch.channels_last)
            close(model(frames, center)[0], expected)
            with torch.autocast("cpu", torch.bfloat16):
                close(model(frames, center)[0].float(), expected, "bfloat16", 1 / tolerance.MARGIN)


def test_bad_options_are_named():
    raw = small("lpm_raw", T=2).eval()
    with pytest.raises(DataError, match="built for 2 frames"):
        raw(*clip(frames=3))
    with pytest.raises(DataError, match="cannot follow a video"):
        raw.step(None, None, None)
    with pytest.raises(DataError, match="a multiple of 128"):
        small("hourglass")(*clip(size=96))


def test_lpm_raw_takes_shorter_clips():
    model = small("lpm_raw", T=4).eval()
    frames, center = clip(frames=4)
    with torch.inference_mode():
        close(model(frames[:, :2], center)[1], model(frames, center)[1][:, :3])


def test_network_bench_writes_figures(tmp_path):
    words = ["--resolution=32", "--t=2", "--channels=0.05", "--runs=1"]
    assert bench.main([*words, f"--json={tmp_path}/r.json"]) == 0
    figures = json.loads((tmp_path / "r.json").read_text())
    assert [row[:3] for row in figures["rows"]] == [
        ["lpm", p, c] for p in ("inference", "training") for c in ("plain loop", "ours")
    ]
    assert all(row[3] > 0 for row in figures["rows"]) and [row[4] for row in figures["rows"][::2]] == [1, 1]
    assert figures["command"] == "python tests/bench/lpm_torch.py " + " ".join(words)
