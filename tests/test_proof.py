"""The proof itself: tolerances refuse what they should, and the golden tests fail when the fixtures' numbers change
(tests/perturb.py)."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from tests import perturb, tolerance

ROOT = pathlib.Path(__file__).parent.parent


def test_three_times_a_tolerance_is_refused():
    expected = np.linspace(-1, 1, 50)
    allowed = tolerance.rounding(1, terms=100)
    tolerance.close(expected + allowed / 2, expected, allowed)
    for wrong in (expected + 3 * allowed, np.where(expected == expected[7], expected - 3 * allowed, expected)):
        with pytest.raises(AssertionError, match="differ"):
            tolerance.close(wrong, expected, allowed)
    with pytest.raises(AssertionError, match="differ"):
        tolerance.close(np.full(50, np.nan), expected, allowed)


def test_rounding_covers_sums_in_another_order():
    """The largest of 10 000 float32 sums of 1000 terms lies within half of the tolerance, and above a hundredth."""
    terms = np.random.default_rng(0).standard_normal((10_000, 1000)).astype(np.float32)
    error = np.abs(np.cumsum(terms, axis=1, dtype=np.float32)[:, -1] - terms.sum(1, dtype=np.float64)).max()
    assert 0.01 < error / tolerance.rounding(1, 1000) / np.sqrt(1000) < 0.5


def test_every_floating_point_number_changes_and_nothing_else(tmp_path):
    numbers = np.linspace(1, 2, 1000, dtype=np.float32)
    text = np.array(json.dumps({"a": [1, 2.0]}))
    lines, names = np.array(["im1.jpg,3.25,7"]), np.array(["out0_1.5"])
    np.savez(tmp_path / "a.npz", numbers=numbers, whole=np.arange(4), text=text, lines=lines, names=names)
    np.save(tmp_path / "b.npy", numbers)
    (tmp_path / "c.json").write_text(json.dumps({"x": [0.5, 3, "1.5"], "y": True}))
    (tmp_path / "d.csv").write_text("a1.png,12,3.5\n")
    found = perturb.change_folder(tmp_path, seed=0)
    assert found == ["a.npz:numbers", "a.npz:text", "a.npz:lines", "b.npy", "c.json", "d.csv"]
    with np.load(tmp_path / "a.npz") as after:
        off = np.abs(after["numbers"] / numbers - 1)
        assert off.min() > 0.0099 and 0.03 < off.mean() < 0.06 and after["numbers"].dtype == np.float32
        assert after["whole"].tolist() == [0, 1, 2, 3] and after["names"].tolist() == names.tolist()
        first, second = json.loads(str(after["text"]))["a"]
        assert first == 1 and second != 2 and after["lines"][0].endswith(",7") and "3.25" not in after["lines"][0]
    x, whole, name = json.loads((tmp_path / "c.json").read_text())["x"]
    assert x != 0.5 and (whole, name) == (3, "1.5")
    assert (tmp_path / "d.csv").read_text().startswith("a1.png,12,3.") and "3.5\n" not in (
        tmp_path / "d.csv"
    ).read_text()


def test_common_fails_with_changed_fixtures(capsys):
    """The short form of `python tests/perturb.py`; the long form takes all suites."""
    assert perturb.main(["tests/common"]) == 0, capsys.readouterr().out
    assert "golden tests that read changed numbers fail" in capsys.readouterr().out


@pytest.mark.long
def test_all_fail_with_changed_fixtures(capsys):
    assert perturb.main([]) == 0, capsys.readouterr().out


@pytest.mark.parametrize(
    ("setting", "tests"),
    [
        ("ATEN_CPU_CAPABILITY=default", "tests/deeppose_caffe_port/test_golden_net.py"),
        ("ATEN_CPU_CAPABILITY=avx2", "tests/lpm_torch/test_model_golden.py"),
        ("TF_ENABLE_ONEDNN_OPTS=0", "tests/deepercut_tf/test_model_golden.py"),
        ("ONEDNN_MAX_CPU_ISA=SSE41", "tests/deeppose_tf/test_model_golden.py"),
        ("ONEDNN_MAX_CPU_ISA=AVX2", "tests/simplebaseline_paddle/test_model_golden.py"),
    ],
)
def test_networks_answer_alike_as_if_on_another_processor(setting, tests):
    """The quick part of tests/cpus.sh: one factor a house, in a process of its own, without the training steps."""
    name, _, value = setting.partition("=")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "golden", tests]
    command += ["-k", "not train_step and not training_steps"]
    answer = subprocess.run(command, cwd=ROOT, env={**os.environ, name: value}, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stdout[-3000:]
