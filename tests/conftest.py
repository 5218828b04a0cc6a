"""What every test folder shares: the folders of the golden fixtures and the real data, and limits on CPU threads."""

import os
import pathlib
import random

import pytest

from tests import tolerance
from tests.fixtures import GOLDEN

# Before numpy or a framework is imported. Two threads: the machines that run the tests have two cores, and more threads than
# cores make small networks several times slower. Programs that tests start inherit it.
for _name in (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "TF_NUM_INTRAOP_THREADS",
    "TF_NUM_INTEROP_THREADS",
):
    os.environ.setdefault(_name, str(min(2, os.cpu_count() or 1)))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("MPLBACKEND", "Agg")
# The tests' figures are a CPU's, also where a GPU is, unless they are asked to compute there.
if tolerance.DEVICE == "cpu":
    os.environ["CUDA_VISIBLE_DEVICES"] = ""

try:
    import hypothesis
except ModuleNotFoundError:  # an environment of one house alone
    pass
else:
    # The same examples in every run: a failure that one run finds, every run finds.
    hypothesis.settings.register_profile("repository", derandomize=True, deadline=None, database=None)
    hypothesis.settings.load_profile("repository")


tolerance.watch_numpy()
_golden: set[str] = set()  # the tests against the originals' answers


def pytest_terminal_summary(terminalreporter) -> None:
    """The largest error of each test file as a share of its tolerance; at most a half is wanted."""
    lines = tolerance.report(_golden)
    if lines:
        terminalreporter.section("largest errors, as shares of their tolerances")
        for line in lines:
            terminalreporter.line(line)


def pytest_collection_modifyitems(items: list) -> None:
    """`long` tests run with `bash tests/run.sh --full`, or when they are asked for by hand; POSE_TEST_ORDER=SEED shuffles
    the files, and the tests of each file, so that costly fixtures of a file are made once.
    """
    if os.environ.get("POSE_TEST_ORDER"):
        order = random.Random(os.environ["POSE_TEST_ORDER"])
        keys = {path: order.random() for path in sorted({item.path for item in items})}
        order.shuffle(items)
        items.sort(key=lambda item: keys[item.path])
    _golden.update(item.nodeid for item in items if item.get_closest_marker("golden"))
    if os.environ.get("POSE_SKIP_LONG"):
        for item in items:
            if item.get_closest_marker("long"):
                item.add_marker(pytest.mark.skip(reason="long form: bash tests/run.sh --full"))


@pytest.fixture(scope="session")
def golden_dir() -> pathlib.Path:
    """Folder of the golden fixtures: what the original programs answered. tests/golden, or $GOLDEN_DIR, others of the same layout."""
    assert GOLDEN.is_dir(), f"GOLDEN_DIR={GOLDEN} is no folder: it should hold golden fixtures"
    return GOLDEN


@pytest.fixture
def device():
    """Where a test of mark `gpu` computes: $POSE_TEST_DEVICE, the CPU by default; with TF32 where POSE_TEST_TF32=1."""
    import torch

    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = tolerance.TF32
    return torch.device(tolerance.DEVICE)


@pytest.fixture(scope="session")
def pose_data() -> pathlib.Path:
    """Folder of the real annotations, images and published predictions ($POSE_DATA). Skips the test where it is not set."""
    if not os.environ.get("POSE_DATA"):
        pytest.skip("POSE_DATA is not set: it names the folder of the real data sets")
    folder = pathlib.Path(os.environ["POSE_DATA"]).absolute()
    assert folder.is_dir(), f"POSE_DATA={folder} is no folder: it should hold the real data sets"
    return folder
