"""Belief maps and regression targets: there and back."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from common.codecs import decode_maps, gaussian_maps


def one_map(height, width, **cells):
    """A map of zeros with some cells set: `y3x4=0.5`."""
    made = np.zeros((1, height, width))
    for name, value in cells.items():
        y, x = name[1:].split("x")
        made[0, int(y), int(x)] = value
    return made


def test_gaussian_is_the_formula_cell_by_cell():
    points = np.random.default_rng(0).uniform(-3, 34, (2, 5, 2))
    maps = gaussian_maps(points, np.ones((2, 5), bool), (24, 31), sigma=1.7)
    assert maps.shape == (2, 5, 24, 31) and maps.dtype == np.float32
    for b, j, y, x in [(0, 0, 3, 5), (1, 4, 23, 30), *np.argwhere(maps > 0)[::97]]:
        value = np.exp(-((x - points[b, j, 0]) ** 2 + (y - points[b, j, 1]) ** 2) / (2 * 1.7**2))
        assert abs(maps[b, j, y, x] - (value if value >= 0.01 else 0)) < 1e-6
    assert (maps[maps > 0] >= 0.01).all() and (maps == 0).any()


def test_threshold_is_inclusive_and_can_be_switched_off():
    points = np.array([[2.0, 2.0]])
    edge = float(np.float32(np.exp(-0.5)))
    assert gaussian_maps(points, np.ones(1, bool), (5, 5), 1.0, threshold=edge)[0, 2, 3] > 0
    assert gaussian_maps(points, np.ones(1, bool), (5, 5), 1.0, threshold=edge + 1e-6)[0, 2, 3] == 0
    assert (gaussian_maps(points, np.ones(1, bool), (5, 5), 1.0, threshold=0) > 0).all()


def test_absent_joints_have_empty_maps():
    points = np.array([[4.0, 4], [np.nan, 4], [4, np.nan], [4, 4]])
    maps = gaussian_maps(points, np.array([True, True, True, False]), (9, 9), 2.0)
    assert maps[0].max() == 1 and not maps[1:].any() and np.isfinite(maps).all()


@given(st.floats(2, 28), st.floats(2, 18), st.sampled_from([1.0, 1.5, 2.0, 3.0]))
def test_decoding_finds_the_joint_within_half_a_cell(x, y, sigma):
    """Rounding alone leaves half a cell; the quarter shift towards the larger neighbour never makes it worse and halves the worst case."""
    points, peak = decode_maps(gaussian_maps(np.array([[x, y]]), np.ones(1, bool), (21, 31), sigma))
    assert np.abs(points[0] - [x, y]).max() <= 0.25 + 1e-3
    assert 0.7 < peak[0] <= 1


def test_ties_take_the_first_cell_in_row_order():
    points, _ = decode_maps(one_map(9, 9, y3x5=1.0, y5x3=1.0), offset=0)
    assert points[0].tolist() == [5, 3]
    points, _ = decode_maps(one_map(9, 9, y4x3=1.0, y4x4=1.0))  # a plateau leans to its larger side
    assert points[0].tolist() == [3.25, 4]


def test_equal_neighbours_do_not_move_the_peak():
    points, _ = decode_maps(one_map(9, 9, y4x4=1.0, y4x3=0.5, y4x5=0.5, y3x4=0.2))
    assert points[0].tolist() == [4, 3.75]


def test_peaks_near_the_border_are_not_refined():
    """Columns and rows 0, 1 and the last one, as the decoders of Hourglass, Simple Baselines and MobilePose have it."""
    for x in range(9):
        maps = np.zeros((1, 9, 9))
        maps[0, 4, x] = 1
        maps[0, 4, (x + 1) % 9] = 0.5
        points, _ = decode_maps(maps)
        assert points[0].tolist() == [x + 0.25 if 1 < x < 8 else x, 4]
    points, _ = decode_maps(one_map(9, 9, y1x4=1.0, y1x5=0.5))  # the border of one axis stops both
    assert points[0].tolist() == [4, 1]


def test_a_map_without_a_positive_value_gives_the_origin():
    for value in (0.0, -1.0, np.nan):
        points, peak = decode_maps(np.full((2, 5, 5), value))
        assert (points == 0).all() and points.shape == (2, 2) and peak.shape == (2,)


def test_decoding_is_the_same_for_any_leading_axes():
    maps = np.random.default_rng(0).standard_normal((2, 3, 4, 12, 10))
    points, peak = decode_maps(maps)
    assert points.shape == (2, 3, 4, 2) and np.array_equal(peak, maps.max((-1, -2)))
    alone, _ = decode_maps(maps[1, 2, 3:4])
    assert np.array_equal(points[1, 2, 3], alone[0])
    assert decode_maps(np.zeros((2, 1, 1)))[0].shape == (2, 2)
