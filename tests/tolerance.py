"""Tolerances with a reason, and how much of them the errors use.

A sum of n terms of one size, rounded to a relative eps each time, is off by about eps x size x sqrt(n), in whatever
order a processor adds (at worst by n; errors of both signs cancel). `steps` such sums one after the other add up in the
same way. Two programs differ by the errors of both. MARGIN covers both and the luck of single numbers: the largest of
100 000 is some 4.5 standard deviations out. `size` is that of the terms, not of the result, which cancellation can make
smaller; where a function is steep, times its slope.
"""

from __future__ import annotations

import functools
import json
import os
import pathlib

import numpy as np

MARGIN = 8
# Where the torch houses' networks compute: `cpu`, or a GPU, there with or without TF32.
DEVICE, TF32 = os.environ.get("POSE_TEST_DEVICE", "cpu"), os.environ.get("POSE_TEST_TF32") == "1"
_shares: dict[str, float] = {}  # of every test that compared numbers


def rounding(size, terms: float = 1, steps: float = 1, dtype=np.float32):
    """The largest difference that rounding explains between two programs that add `terms` numbers of `size`, `steps`
    times. `dtype` is a floating-point type of numpy or the word bfloat16 (8 bits). float32 on a GPU: TF32 rounds factors
    to 11 bits; without it cuDNN may multiply in Winograd's way, whose errors are 7 times a plain sum's (Lavin and Gray
    2016, F(4x4, 3x3))."""
    eps = 2.0**-7 if dtype == "bfloat16" else np.finfo(dtype).eps
    if DEVICE != "cpu" and dtype == np.float32:
        eps = 2.0**-10 if TF32 else 7 * eps
    return MARGIN * eps * np.sqrt(terms * steps) * size


def stored(expected):
    """What numbers lost when a fixture stored them as float16: a unit in the last place (they are off by up to half),
    6e-8 below 6e-5; nothing in other types."""
    size = np.abs(np.asarray(expected, np.float64))
    return np.maximum(size * 2**-10, 2**-24) if np.asarray(expected).dtype == np.float16 else 0.0


def printed(digits: int) -> float:
    """The relative tolerance of a number that was printed with so many digits: twice what cutting it off can change."""
    return 10.0 ** (1 - digits)


def close(found, expected, tolerance, what: str = "") -> None:
    """Assert that `found` is within `tolerance` (a number, or one an element) of `expected`; the share that was used is
    kept."""
    found = found.cpu() if hasattr(found, "cpu") else found
    errors = np.abs(np.asarray(found, np.float64).reshape(np.shape(expected)) - expected)
    wrong = ~(errors <= tolerance)  # NaN is wrong too
    allowed = np.broadcast_to(tolerance, errors.shape)
    assert not wrong.any(), (
        f"{what}: {wrong.sum()} of {wrong.size} differ, "
        f"by {errors[wrong].max()} where {allowed[wrong].min()} is allowed"
    )
    _keep(errors, tolerance)


def _keep(errors, tolerance) -> None:
    with np.errstate(divide="ignore", invalid="ignore"):
        used = np.nan_to_num(np.asarray(errors, np.float64) / tolerance, nan=0.0, posinf=0.0)
    test = os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" (")[0]
    if test:
        _shares[test] = max(_shares.get(test, 0.0), float(np.max(used, initial=0)))


def watch_numpy() -> None:
    """From now on `np.testing.assert_allclose` keeps its share too; what it asserts stays as it is."""
    original = np.testing.assert_allclose

    @functools.wraps(original)
    def recorded(actual, desired, rtol=1e-7, atol=0, **options):
        original(actual, desired, rtol=rtol, atol=atol, **options)
        actual, desired = np.broadcast_arrays(np.asarray(actual), np.asarray(desired))
        if rtol + atol > 0 and all(a.dtype.kind in "biufc" for a in (actual, desired)):
            both = np.isfinite(actual) & np.isfinite(desired)
            wide = desired[both].astype(np.complex128)
            _keep(np.abs(actual[both] - wide), atol + rtol * np.abs(wide))

    np.testing.assert_allclose = recorded


def report(golden: set[str]) -> list[str]:
    """Lines: the largest error of each test file as a share of its tolerance, and the test. $POSE_SHARES names a JSON
    file for the shares of the `golden` tests, and of others where rounding shows: a round trip or a resumed training
    that agrees to the last bit does so with any kernels."""
    if place := os.environ.get("POSE_SHARES"):
        kept = {test: share for test, share in _shares.items() if share or test in golden}
        pathlib.Path(place).write_text(json.dumps(kept, indent=1))
    largest: dict[str, tuple[float, str]] = {}
    for test, share in _shares.items():
        suite, _, name = test.partition("::")
        largest[suite] = max(largest.get(suite, (0.0, "")), (share, name))
    return [
        f"{share:6.1%}  {suite}  {name}" for suite, (share, name) in sorted(largest.items(), key=lambda i: -i[1][0])
    ]
