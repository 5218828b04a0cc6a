"""Boxes, affine crops and flips: exact in coordinates, and pictures that follow the coordinates."""

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import DataError
from common.geometry import (
    apply_affine,
    box_center,
    box_with_aspect,
    checked_boxes,
    compose_affine,
    crop_affine,
    invert_affine,
    pad_box,
    warp,
)
from tests.tolerance import rounding

EXACT = rounding(1e6, terms=4, steps=8, dtype=np.float64)  # pixels through a few maps, each of which may enlarge

PLACES = st.tuples(st.floats(-500, 1500), st.floats(-500, 1500))
SIDES = st.tuples(st.floats(5, 2000), st.floats(5, 2000))
SIZES = st.tuples(st.integers(1, 400), st.integers(1, 400))
CROPS = st.tuples(PLACES, SIDES, SIZES, st.floats(-180, 180), st.booleans())


def blob(x, y, width, height, sigma):
    """Picture with one Gaussian spot; `centroid` finds it again to a few hundredths of a pixel."""
    columns, rows = np.arange(width), np.arange(height)[:, None]
    return (250 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * sigma**2))).astype(np.uint8)


def centroid(image):
    weight = image.astype(float)
    return (
        np.array([(weight * np.arange(image.shape[1])).sum(), (weight * np.arange(image.shape[0])[:, None]).sum()])
        / weight.sum()
    )


@given(CROPS, st.lists(PLACES, min_size=1, max_size=5))
def test_the_inverse_brings_points_back(crop, points):
    matrix, points = crop_affine(*crop), np.array(points)
    there = apply_affine(matrix, points)
    assert np.allclose(apply_affine(invert_affine(matrix), there), points, rtol=0, atol=EXACT)
    assert np.allclose(compose_affine(invert_affine(matrix), matrix), np.eye(2, 3), rtol=0, atol=EXACT)


@given(CROPS)
def test_the_centre_lands_in_the_middle_and_a_flip_mirrors_the_crop(crop):
    center, side, size, rotation, _ = crop
    plain, flipped = crop_affine(center, side, size, rotation), crop_affine(center, side, size, rotation, flip=True)
    middle = (np.array(size) - 1) / 2
    assert np.allclose(apply_affine(plain, np.array([center])), middle, rtol=0, atol=EXACT)
    points = np.array(center) + np.array([[3.0, -2], [10, 7]])
    expected = apply_affine(plain, points) * [-1, 1] + [size[0] - 1, 0]
    assert np.allclose(apply_affine(flipped, points), expected, rtol=0, atol=EXACT)


@given(CROPS, CROPS, st.lists(PLACES, min_size=1, max_size=4))
def test_composition_is_one_after_the_other(first, second, points):
    a, b, points = crop_affine(*first), crop_affine(*second), np.array(points)
    step_by_step = apply_affine(b, apply_affine(a, points))
    assert np.allclose(apply_affine(compose_affine(b, a), points), step_by_step, rtol=0, atol=EXACT)


def test_stacks_and_nan():
    matrices = np.stack([crop_affine((5, 5), 10, (20, 20), angle) for angle in (0, 30, -70)])
    points = np.random.default_rng(0).uniform(0, 10, (3, 4, 2))
    points[1, 2] = np.nan
    mapped = apply_affine(matrices, points)
    for i in range(3):
        assert np.allclose(mapped[i], apply_affine(matrices[i], points[i]), equal_nan=True, rtol=0, atol=EXACT)
    assert np.isnan(mapped[1, 2]).all() and np.isfinite(np.delete(mapped.reshape(-1, 2), 6, axis=0)).all()
    assert np.allclose(invert_affine(matrices)[1], invert_affine(matrices[1]), rtol=0, atol=EXACT)


def test_scale_and_sides():
    matrix = crop_affine((50, 40), (100, 80), (200, 80))
    edges = apply_affine(matrix, np.array([[0.0, 0.0], [100, 80]]))
    assert np.allclose(
        edges, [[-0.5, -0.5], [199.5, 79.5]], rtol=0, atol=EXACT
    )  # the box's edges are the crop's edges, half a pixel beyond the outer centres


def test_rotation_is_counter_clockwise_as_seen():
    """A point to the right of the centre moves up when the picture is turned by 90 degrees; the picture does the same."""
    matrix = crop_affine((20, 20), 41, (41, 41), rotation=90)
    assert np.allclose(apply_affine(matrix, np.array([[30.0, 20.0]])), [[20, 10]], rtol=0, atol=EXACT)
    assert np.allclose(
        centroid(warp(blob(30, 20, 41, 41, 2), matrix, (41, 41))), [20, 10], rtol=0, atol=1 / 32
    )  # OpenCV's step between pixels
    # the same sense as OpenCV's, whose documentation calls positive angles counter-clockwise
    assert np.allclose(matrix, cv2.getRotationMatrix2D((20, 20), 90, 1), rtol=0, atol=EXACT)


@pytest.mark.parametrize("shrink", [1, 1.5, 2, 2.9, 3, 5, 8.5])
@pytest.mark.parametrize("flip", [False, True])
def test_warp_puts_pixels_where_the_matrix_puts_points(shrink, flip):
    """The pre-shrink of large pictures must not shift them: a spot's centroid stays within 0.05 crop pixels (8-bit rounding and 1/32 px steps)."""
    place = np.array([311.3, 257.8])
    image = blob(*place, 611, 503, 6 * shrink)
    matrix = crop_affine((300, 250), 100 * shrink, (100, 100), rotation=25, flip=flip)
    assert np.abs(centroid(warp(image, matrix, (100, 100))) - apply_affine(matrix, place[None])[0]).max() < 0.05


def test_shrinking_averages_instead_of_picking_pixels():
    stripes = np.zeros((400, 400, 3), np.uint8)
    stripes[:, ::2] = 200
    small = warp(stripes, crop_affine((199.5, 199.5), 400, (50, 50)), (50, 50))
    assert np.abs(small.astype(int) - 100).max() <= 1  # the mean of the stripes


def test_fill_outside():
    image = np.full((10, 10, 3), 50, np.uint8)
    matrix = crop_affine((4.5, 4.5), 20, (20, 20))
    assert (warp(image, matrix, (20, 20))[0, 0] == 0).all()
    assert warp(image, matrix, (20, 20), fill=(1, 2, 3))[0, 0].tolist() == [1, 2, 3]
    assert warp(image, matrix, (20, 20), fill=128)[0, 0].tolist() == [128] * 3
    assert np.array_equal(warp(image, matrix, (20, 20))[5:15, 5:15], image)
    assert warp(image, crop_affine((4, 4), 5, (30, 12)), (30, 12)).shape == (12, 30, 3)


@pytest.mark.parametrize(
    "wrong", [[[1, 2, 0, 4]], [[1, 2, 3]], [[np.nan, 0, 9, 9]], [[1e308, 1, 1e308, 9]], [[0, 0, 5, -1]]]
)
def test_numbers_that_are_no_boxes(wrong):
    with pytest.raises(DataError, match="are not x, y, w, h"):
        checked_boxes(np.array(wrong), np.zeros((6, 8, 3)))


def test_boxes():
    assert checked_boxes(None, np.zeros((6, 8, 3))).tolist() == [[0, 0, 8, 6]]
    assert checked_boxes([1, 2, 3, 4], np.zeros((6, 8))).tolist() == [[1, 2, 3, 4]]
    box = np.array([[10.0, 20, 30, 50], [0, 0, 8, 4]])
    assert box_center(box).tolist() == [[25, 45], [4, 2]]
    assert pad_box(box, pixels=5)[0].tolist() == [5, 15, 40, 60]
    assert np.allclose(pad_box(box, ratio=0.1), [[5, 15, 40, 60], [-0.8, -0.8, 9.6, 5.6]], rtol=0, atol=EXACT)
    square = box_with_aspect(box, 1.0)
    assert square.tolist() == [[0, 20, 50, 50], [0, -2, 8, 8]]
    portrait = box_with_aspect(box, 0.75)
    assert np.allclose(portrait[:, 2] / portrait[:, 3], 0.75, rtol=0, atol=EXACT) and np.allclose(
        box_center(portrait), box_center(box), rtol=0, atol=EXACT
    )
    assert (portrait[:, 2:] >= box[:, 2:] - 1e-9).all()
