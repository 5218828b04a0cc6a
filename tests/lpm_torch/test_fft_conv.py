"""Convolutions through spectra against PyTorch's own."""

import math

import pytest
import torch
import torch.nn.functional as F

from lpm_torch.fft_conv import TILES, fft_conv2d, worthwhile
from tests.reference.lpm_torch import build_model, plain_lpm
from tests.tolerance import close, rounding


@pytest.mark.parametrize(
    ("count", "channels", "kernel", "size"),
    [(3, 64, 9, (31, 31)), (1, 4, 9, (50, 23)), (2, 6, 11, (19, 64)), (1, 2, 5, (8, 8))],
)
def test_equals_the_direct_convolution_with_gradients(count, channels, kernel, size):
    """float32 against float64: two transforms, each log2 of its size steps; gradients of weights add up all pixels."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(count, channels, *size, generator=draw)
    weight = torch.randn(channels, channels, kernel, kernel, generator=draw)
    bias, back = torch.randn(channels, generator=draw), torch.randn(count, channels, *size, generator=draw)
    results = []
    for kind, function in ((torch.float32, fft_conv2d), (torch.float64, lambda *a: F.conv2d(*a, padding=kernel // 2))):
        leaves = [t.clone().to(kind).requires_grad_() for t in (x, weight, bias)]
        out = function(*leaves)
        out.backward(back.to(kind))
        results.append([out.detach(), *(leaf.grad for leaf in leaves)])
    pixels = count * size[0] * size[1]
    for found, expected, terms in zip(*results, (1, 1, pixels, pixels)):
        assert found.shape == expected.shape
        steps = 4 * math.log2(max(TILES)) + math.log2(terms)
        close(found, expected.numpy(), rounding(expected.abs().max().item(), steps=steps))


def test_input_without_gradient_gets_none():
    weight = torch.randn(2, 2, 9, 9, requires_grad=True)
    x = torch.randn(1, 2, 24, 24)
    fft_conv2d(x, weight, torch.zeros(2)).sum().backward()
    assert x.grad is None and weight.grad is not None


def test_gradients_after_a_first_call_in_inference_mode():
    from lpm_torch import fft_conv

    fft_conv._waves.cache_clear()
    weight, x = torch.randn(2, 2, 9, 9, requires_grad=True), torch.randn(1, 2, 24, 24, requires_grad=True)
    with torch.inference_mode():
        fft_conv2d(x, weight, torch.zeros(2))
    fft_conv2d(x, weight, torch.zeros(2)).sum().backward()
    assert torch.isfinite(weight.grad).all() and torch.isfinite(x.grad).all()


def test_only_where_it_pays():
    def ask(count=5, channels=128, kernel=9, size=63, **kind):
        return worthwhile(
            torch.empty(count, channels, size, size, **kind), torch.empty(channels, channels, kernel, kernel)
        )

    assert ask() and ask(size=127, count=1)
    assert not ask(kernel=3) and not ask(channels=16) and not ask(dtype=torch.float64) and not ask(dtype=torch.bfloat16)
    assert not ask(device="meta") and not ask(kernel=11, size=31, count=1)
    with torch.autocast("cpu", torch.bfloat16):
        assert not ask()


def test_networks_use_it_and_agree_with_the_plain_loop(monkeypatch):
    """Float32 through the some 60 layers that the last frame has behind it."""
    calls = []
    monkeypatch.setattr("lpm_torch.layers.fft_conv2d", lambda *a: calls.append(1) or fft_conv2d(*a))
    torch.manual_seed(0)
    model = build_model("lpm", width=0.5, init="kaiming", dropout=0.0).eval()
    frames, center = torch.randn(1, 4, 3, 96, 96), torch.rand(1, 1, 96, 96)
    with torch.inference_mode():
        found, expected = model(frames, center)[1], plain_lpm(model, frames, center)
    assert calls
    close(found, expected.numpy(), rounding(expected.abs().max().item(), steps=60))
