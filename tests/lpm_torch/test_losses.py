"""Losses against direct loops over their definitions."""

import numpy as np
import pytest
import torch

from lpm_torch.hourglass import expected_coordinates, softmax_maps
from lpm_torch.losses import coordinate_loss, expand_labels, sequence_loss
from tests.tolerance import close, rounding

B, T, J, G = 2, 3, 15, 5


@pytest.fixture
def data():
    draw = torch.Generator().manual_seed(0)
    labels = torch.rand(B, T, J, G, G, generator=draw)
    visible = (torch.rand(B, T, J - 1, generator=draw) > 0.4).to(torch.int8)
    return labels, visible, lambda count: torch.randn(B, count, J, G, G, generator=draw)


def looped(maps, labels, weight=None):
    """Sum over s and j of half the mean over batch and pixels."""
    total = 0.0
    for s in range(maps.shape[1]):
        for j in range(J):
            error = (maps[:, s, j] - labels[:, s, j]).numpy().astype(np.float64) ** 2
            if weight is not None:
                error = error * weight[:, s, j].numpy()[:, None, None]
            total += 0.5 * error.mean()
    return total


def summed(total, maps):
    """What rounding explains in a sum of positive numbers, added in pairs."""
    return rounding(total, steps=np.log2(maps.numel()))


@pytest.mark.parametrize("count", [T, T + 1, 4 * T])
def test_norms(data, count):
    labels, _, make = data
    maps = make(count)
    base = looped(maps, expand_labels(labels, count))
    for norm, scale in (("compat", count / J), ("mean", 1 / (count * J)), ("caffe", G * G)):
        close(sequence_loss(maps, labels, norm).item(), base * scale, summed(base * scale, maps), norm)


def test_caffe_norm_is_a_sum_of_euclidean_losses(data):
    labels, _, make = data
    maps = make(T)
    expected = sum(((maps[:, s] - labels[:, s]) ** 2).sum().item() / (2 * B) for s in range(T))
    close(sequence_loss(maps, labels, "caffe").item(), expected, summed(expected, maps))


def test_labels_line_up():
    labels = torch.arange(3.0)[None]
    assert expand_labels(labels, 4).tolist() == [[0, 0, 1, 2]]
    assert expand_labels(labels, 6).tolist() == [[0, 1, 2, 0, 1, 2]]
    assert expand_labels(labels[:, :1], 3).tolist() == [[0, 0, 0]]


@pytest.mark.parametrize("count", [T, T + 1, 2 * T])
def test_masked(data, count):
    labels, visible, make = data
    maps = make(count).requires_grad_()
    weight = expand_labels(torch.cat([visible.float(), torch.ones(B, T, 1)], 2), count)
    loss = sequence_loss(maps, labels, "mean", visible)
    expected = looped(maps.detach(), expand_labels(labels, count), weight) / (count * J)
    close(loss.item(), expected, summed(expected, maps))
    loss.backward()
    moved = maps.grad.abs().sum((-2, -1)) > 0
    assert torch.equal(moved, weight > 0)


def test_half_precision_maps_are_compared_in_float32(data):
    labels, _, make = data
    maps = make(T)
    assert sequence_loss(maps.bfloat16(), labels).dtype == torch.float32


def test_coordinate_loss_is_small_only_at_the_target_and_ignores_unlabelled_joints():
    size, grid = 64, 16
    joints = torch.rand(B, T, 14, 2, generator=torch.Generator().manual_seed(0)) * 40 + 10
    visible = torch.ones(B, T, 14, dtype=torch.int8)
    visible[0, 1, 3] = 0
    cells = torch.arange(grid) * (size / grid) + (size / grid - 1) / 2
    away = ((cells - joints[..., None]) / (size / grid)).square()
    heat = softmax_maps(-0.5 * (away[..., 0, None, :] + away[..., 1, :, None]))
    heat = expand_labels(heat, T + 1)
    joints[0, 1, 3] = float("nan")
    right = coordinate_loss((heat, expected_coordinates(heat)), joints, size, visible)
    assert right.item() < 1e-3
    wrong = coordinate_loss((heat, expected_coordinates(heat)), joints.flip(2).nan_to_num(), size, visible)
    assert wrong.item() > 0.3
    assert coordinate_loss((heat, expected_coordinates(heat)), joints, size, torch.zeros_like(visible)).item() == 0
    logits = torch.zeros(B, T + 1, 14, grid, grid, requires_grad=True)
    maps = softmax_maps(logits)
    coordinate_loss((maps, expected_coordinates(maps)), joints, size, visible).backward()
    assert torch.isfinite(logits.grad).all() and logits.grad.abs().sum() > 0
