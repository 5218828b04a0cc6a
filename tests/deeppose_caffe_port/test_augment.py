"""Rotation and zoom of training batches: labels move with what they label, on square and on squeezed pictures."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from common.errors import DataError
from deeppose_caffe_port.config import Config
from deeppose_caffe_port.data import Augment


def _spot(image: torch.Tensor) -> np.ndarray:
    """(x, y) centre of mass of a picture with one bright spot."""
    weights = image[0].double().numpy()
    rows, columns = np.indices(weights.shape)
    return np.array([(columns * weights).sum(), (rows * weights).sum()]) / weights.sum()


@pytest.mark.parametrize(
    "size", [(120, 120), (160, 100)]
)  # of the pictures, which the network sees squeezed to a square
def test_labels_turn_with_the_picture(size):
    torch.manual_seed(0)
    side, count = 101, 16
    offsets = torch.empty(count, 2).uniform_(-25, 25)
    rows, columns = torch.meshgrid(torch.arange(side) - 50.0, torch.arange(side) - 50.0, indexing="ij")
    scale = [side / n for n in size]
    pixels = [torch.exp(-((columns - x * scale[0]) ** 2 + (rows - y * scale[1]) ** 2) / 18) for x, y in offsets]
    pixels = (200 * torch.stack(pixels))[:, None].expand(-1, 3, -1, -1)
    labels = torch.cat([offsets, torch.full((count, 2), float("nan"))], 1).reshape(count, 4, 1, 1)
    turned, moved = Augment(60, 1.25, size[0] / size[1])(pixels, labels)
    assert torch.isnan(moved[:, 2:]).all() and turned.shape == pixels.shape
    found = np.array([(_spot(image) - 50) / scale for image in turned])
    # interpolation blurs the spot by less than a twentieth of a pixel
    np.testing.assert_allclose(found, moved[:, :2, 0, 0].numpy(), atol=0.1)
    assert np.abs(found - offsets.numpy()).max() > 5


def test_off_by_default_and_bounded():
    assert not Augment() and Augment(rotate=1) and Augment(zoom=1.1)
    labels = torch.tensor([[3.0, 4.0]]).repeat(500, 1).reshape(500, 2, 1, 1)
    _, moved = Augment(30, 1.2)(torch.zeros(500, 1, 4, 4), labels)
    x, y = moved[:, 0, 0, 0], moved[:, 1, 0, 0]
    lengths, angles = torch.hypot(x, y), torch.rad2deg(torch.atan2(y, x)) - np.degrees(np.arctan2(4, 3))
    assert 5 / 1.2 - 1e-3 <= lengths.min() < 4.4 and 5.7 < lengths.max() <= 6 + 1e-3
    assert -30 - 1e-3 <= angles.min() < -25 and 25 < angles.max() <= 30 + 1e-3


@pytest.mark.parametrize("ranges", [{"rotate": -1}, {"rotate": 181}, {"zoom": 0.9}])
def test_ranges_that_cannot_be(ranges):
    with pytest.raises(DataError, match=next(iter(ranges))):
        Config(**ranges)
