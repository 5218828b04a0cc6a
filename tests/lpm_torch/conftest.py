"""The fixtures of the original programs, as arrays."""

import numpy as np
import pytest


@pytest.fixture(scope="session")
def golden_arrays(golden_dir):
    """Opens a file of the house's fixtures: name without suffix -> its arrays by name, each read where it is asked for."""
    return lambda name: np.load(golden_dir / f"lpm_torch/{name}.npz")
