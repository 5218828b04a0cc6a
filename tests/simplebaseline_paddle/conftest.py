"""Made-up data, and a training on them, of the tests of a file."""

import pytest

from tests.simplebaseline_paddle import _recipe as recipe


@pytest.fixture(scope="module")
def mpii(tmp_path_factory):
    return recipe.write_mpii(tmp_path_factory.mktemp("mpii"), train=9, valid=5)


@pytest.fixture(scope="module")
def trained(mpii, tmp_path_factory):
    """The folder of a run of two epochs without interruption."""
    from tests.simplebaseline_paddle import tiny

    out = tmp_path_factory.mktemp("whole") / "run"
    assert tiny.run(mpii, out, "--epochs", "2", "--workers", "1") == 0
    return out
