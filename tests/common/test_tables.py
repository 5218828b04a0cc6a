"""The generated tables of the READMEs, and the baseline they stand beside."""

import json
import subprocess
import sys

import numpy as np
import pytest

from common import baselines, tables
from common.datasets import load, synthetic


def run(model, total, **meta):
    result = {"total": total, "per_group": {"knee": total - 1, "hip": None}, "aggregation": "x", "n": 7}
    return {
        "house": "h", "model": model, "dataset": "lsp", "split": "test", "command": f"python train.py --model={model}",
        "protocols": {"pck_torso@0.2": result}, "meta": {"boxes": "oracle", "flip_test": False, **meta},
    }  # fmt: skip


def test_measured_lists_runs_in_ascending_order_with_groups_and_commands():
    text = tables.measured([run("good", 80.0, preset="cpu"), run("bad", 20.0)])
    rows = [line for line in text.splitlines() if line.startswith("| ") and "---" not in line]
    assert rows[0] == "| run | boxes | flip test | total | knee | hip |"
    assert rows[1:] == ["| bad | oracle | no | **20.0** | 19.0 | - |", "| good (cpu) | oracle | no | **80.0** | 79.0 | - |"]
    assert "- good (cpu): `python train.py --model=good`" in text and "7 persons" in text


def test_synthetic_runs_say_so():
    assert "SYNTHETIC" in tables.measured([run("m", 50.0, synthetic=True)])
    assert "SYNTHETIC" not in tables.measured([run("m", 50.0)])


def test_only_marked_places_change():
    text = "a\n<!-- x:begin -->\nold\n<!-- x:end -->\nb <!-- y:begin --> c"
    assert tables.refreshed(text, {"x": "new \\1", "y": "never"}) == "a\n<!-- x:begin -->\nnew \\1\n<!-- x:end -->\nb <!-- y:begin --> c"


def test_the_readmes_are_up_to_date():
    assert tables.main(["--check"]) == 0


def test_mean_pose_is_the_mean_in_the_box(tmp_path):
    synthetic.make("lsp", tmp_path / "lsp", count=12)
    train, test = load("lsp", tmp_path / "lsp", "train"), load("lsp", tmp_path / "lsp", "test")
    predictions = baselines.mean_pose(train, test)
    side = test.box[:, 2:].max(1)
    relative = (predictions.joints - (test.box[:, :2] + test.box[:, 2:] / 2)[:, None]) / side[:, None, None]
    assert np.abs(relative - relative[0]).max() < 1e-4
    own = (train.joints - (train.box[:, :2] + train.box[:, 2:] / 2)[:, None]) / train.box[:, 2:].max(1)[:, None, None]
    np.testing.assert_allclose(relative[0], np.nanmean(own, axis=0), atol=1e-4)


def test_baseline_command_writes_a_run_file(tmp_path):
    synthetic.make("lsp", tmp_path / "lsp", count=12)
    words = ["--dataset", "lsp", "--data_root", str(tmp_path / "lsp"), "--train", "train", "--split", "test", "--result", str(tmp_path / "r.json")]
    done = subprocess.run([sys.executable, "-m", "common.baselines", *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    stored = json.loads((tmp_path / "r.json").read_text())
    assert stored["meta"]["synthetic"] is True and stored["protocols"]["pck_torso@0.2"]["total"] == pytest.approx(
        float(done.stdout.split("pck_torso@0.2")[1].split()[0]), abs=1e-3
    )
    missing = subprocess.run([sys.executable, "-m", "common.baselines", *words[:3], str(tmp_path / "none"), *words[4:]], capture_output=True, text=True)
    assert missing.returncode == 2 and "common.datasets.synthetic" in missing.stderr
