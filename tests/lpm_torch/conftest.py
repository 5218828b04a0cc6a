"""The fixtures of the original programs, as arrays."""

import functools

import numpy as np
import pytest


@pytest.fixture(scope="session")
def golden_arrays(golden_dir):
    """Reads a file of the house's fixtures: name without suffix -> {array name: array}."""

    @functools.cache
    def read(name):
        with np.load(golden_dir / f"lpm_torch/{name}.npz") as data:
            return dict(data)

    return read
