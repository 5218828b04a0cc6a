"""The generated tables of the READMEs, and the baseline they stand beside."""

import json
import subprocess
import sys

import numpy as np
import pytest

from common import baselines, reproduce
from common import crosscheck as readmes
from common.datasets import load, synthetic
from common.errors import DataError
from common.reported import compare
from tests.tolerance import rounding


def run(model, total, **meta):
    result = {"total": total, "per_group": {"knee": total - 1, "hip": None}, "aggregation": "x", "n": 7}
    return {
        "house": "h", "model": model, "dataset": "lsp", "split": "test", "command": f"python train.py --model={model}",
        "protocols": {"pck_torso@0.2": result}, "meta": {"boxes": "oracle", "flip_test": False, **meta},
    }  # fmt: skip


def test_measured_lists_runs_in_ascending_order_with_groups_and_commands():
    text = readmes.measured([run("good", 80.0, preset="cpu"), run("bad", 20.0)])
    rows = [line for line in text.splitlines() if line.startswith("| ") and "---" not in line]
    assert rows[0] == "| run | boxes | flip test | total | knee | hip |"
    assert rows[1:] == [
        "| bad | oracle | no | **20.0** | 19.0 | - |",
        "| good (cpu) | oracle | no | **80.0** | 79.0 | - |",
    ]
    assert "- good (cpu): `python train.py --model=good`" in text and "7 persons" in text


def test_synthetic_runs_say_so():
    assert "SYNTHETIC" in readmes.measured([run("m", 50.0, synthetic=True)])
    assert "SYNTHETIC" not in readmes.measured([run("m", 50.0)])
    both = readmes.measured([run("real", 50.0), run("drawn", 60.0, synthetic=True)]).split("\n\n")
    assert "real images" in both[0] and "drawn" not in both[1] and "SYNTHETIC" in both[2] and "drawn" in both[3]


def test_only_marked_places_change():
    text = "a\n<!-- x:begin -->\nold\n<!-- x:end -->\n<!-- z:begin -->\nkept\n<!-- z:end -->\nb <!-- y:begin --> c"
    filled = readmes.refreshed(text, lambda name, _: {"x": "new \\1", "y": "never"}.get(name))
    assert filled == text.replace("old", "new \\1")


def test_overview_has_a_row_a_run():
    text = readmes.overview([run("good", 80.0), run("bad", 20.0), run("drawn", 90.0, synthetic=True)])
    assert [row.split(" | ")[1] for row in text.splitlines()[2:5]] == ["bad", "good", "drawn"]
    assert "| h | drawn | lsp | test | SYNTHETIC | pck_torso@0.2 | 90.0 |" in text


def test_overview_takes_the_data_sets_main_protocol():
    own = run("net", 10.0)
    own |= {
        "dataset": "k2hpd",
        "protocols": {"pdj@0.1": own["protocols"]["pck_torso@0.2"], "pdj@0.5": {"total": None, "n": 7}},
    }
    assert "| pdj@0.5 | - |" in readmes.overview([own])


def test_the_list_has_a_line_a_recipe():
    rows = readmes.recipes_table().splitlines()
    assert len(rows) == 2 + len(reproduce.recipes()) and sum(row.count("±") for row in rows) == len(reproduce.rows())
    assert "| simplebaseline_mpii/resnet50_256x256 | pckh@0.5 88.53 ± 0.6, mean@0.1:compat 33.91 ± 0.6 |" in rows[17]


def test_a_houses_table_names_the_recipes():
    rows = readmes.table_of(compare([], "lpm_torch")).splitlines()
    assert sum("| lpm_torch_penn_joints/lpm |" in row for row in rows) == 2  # two figures of one recipe
    assert "| - |" in readmes.table_of(compare([], "literature")[:1])


def test_figures_come_from_the_file_that_the_mark_names(tmp_path):
    content = {
        "columns": ["what", "seconds", "n"],
        "rows": [["a", 0.012345, 7], ["b", 1234.5, None]],
        "command": "python x.py",
        "note": "once",
    }
    (tmp_path / "bench.json").write_text(json.dumps(content))
    text = "a\n<!-- figures bench.json:begin -->\nold\n<!-- figures:end -->\nb"

    def content(name, path):
        return readmes.figures_file(path, tmp_path) if name == "figures" else None

    filled = readmes.refreshed(text, content)
    assert "| a | 0.0123 | 7 |\n| b | 1234 | - |" in filled and "`python x.py`: once" in filled and "old" not in filled
    assert readmes.refreshed(filled, content) == filled
    assert "Not measured yet." in readmes.refreshed(filled.replace("bench", "gone"), content)
    (tmp_path / "bench.json").write_text('{"rows": []}')
    with pytest.raises(DataError, match="bench.json"):
        readmes.refreshed(text, content)


def test_the_readmes_are_up_to_date(capsys):
    assert readmes.main(["--check"]) == 0
    assert "say what the run files say" in capsys.readouterr().out


def test_mean_pose_is_the_mean_in_the_box(tmp_path):
    synthetic.make("lsp", tmp_path / "lsp", count=12)
    train, test = load("lsp", tmp_path / "lsp", "train"), load("lsp", tmp_path / "lsp", "test")
    predictions = baselines.mean_pose(train, test)
    side = test.box[:, 2:].max(1)
    relative = (predictions.joints - (test.box[:, :2] + test.box[:, 2:] / 2)[:, None]) / side[:, None, None]
    assert np.abs(relative - relative[0]).max() < 1e-4
    own = (train.joints - (train.box[:, :2] + train.box[:, 2:] / 2)[:, None]) / train.box[:, 2:].max(1)[:, None, None]
    np.testing.assert_allclose(
        relative[0], np.nanmean(own, axis=0), rtol=0, atol=rounding(1, steps=4, dtype=np.float32)
    )


def test_baseline_command_writes_a_run_file(tmp_path):
    synthetic.make("lsp", tmp_path / "lsp", count=12)
    words = [
        "--dataset",
        "lsp",
        "--data_root",
        str(tmp_path / "lsp"),
        "--train",
        "train",
        "--split",
        "test",
        "--result",
        str(tmp_path / "r.json"),
    ]
    done = subprocess.run([sys.executable, "-m", "common.baselines", *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    stored = json.loads((tmp_path / "r.json").read_text())
    assert stored["meta"]["synthetic"] is True and stored["protocols"]["pck_torso@0.2"]["total"] == pytest.approx(
        float(done.stdout.split("pck_torso@0.2")[1].split()[0]), rel=0, abs=5e-4
    )
    missing = subprocess.run(
        [sys.executable, "-m", "common.baselines", *words[:3], str(tmp_path / "none"), *words[4:]],
        capture_output=True,
        text=True,
    )
    assert missing.returncode == 2 and "common.datasets.synthetic" in missing.stderr
