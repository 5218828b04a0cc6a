"""The benchmarks: both sides give the same answer, a wrong answer is noticed, one form of options and files."""

import json
import pathlib
from argparse import Namespace

import numpy as np
import pytest

from tests.bench import harness, scaling, tracking
from tests.bench import metrics as bench

ROOT = pathlib.Path(__file__).resolve().parents[2]


def test_peers_agree():
    rows = bench.limbs(400, 1)
    assert [row[0] for row in rows] == ["PCK@0.2, 400 persons", "PCP@0.5, 400 persons"]
    assert all(row[-1] == "yes" and row[1] > 0 and row[3] > 0 for row in rows)


def test_whole_command_and_json(tmp_path, capsys):
    pytest.importorskip("pycocotools")
    assert bench.main(["metrics", "--persons", "30", "--runs", "1", "--json", str(tmp_path / "out.json")]) == 0
    stored = json.loads((tmp_path / "out.json").read_text())
    seconds, peer, ratio, same = (
        stored["columns"].index(name) for name in ("CPU seconds", "peer's CPU seconds", "ratio", "same answer")
    )
    assert len(stored["rows"]) == 4 and "metrics --persons 30 --runs 1" in stored["command"]
    assert all(
        row[same] == "yes" and row[seconds] >= 0 and row[ratio] == pytest.approx(row[peer] / row[seconds])
        for row in stored["rows"]
    )
    assert capsys.readouterr().out.count("| yes |") == 4


def test_datasets(capsys):
    assert bench.main(["datasets", "--persons", "20", "--runs", "1"]) == 0
    assert "MPII JSON, 20 persons" in capsys.readouterr().out


def test_a_wrong_answer_is_noticed(monkeypatch, capsys):
    monkeypatch.setattr(bench.loops, "loop_lspet", lambda path: np.zeros((20, 14, 2)))
    assert bench.main(["datasets", "--persons", "20", "--runs", "1"]) == 1
    assert "| NO |" in capsys.readouterr().out


@pytest.mark.parametrize("bad", [["metrics", "--runs", "0"], ["metrics", "--persons", "1"], ["nothing"]])
def test_bad_command_lines(bad):
    with pytest.raises(SystemExit) as stop:
        bench.main(bad)
    assert stop.value.code == 2


def test_command_is_what_others_would_type():
    words = ["loader", "--json", "/tmp/x.json", "--images", "/home/me/lsp", "--data_root=/d", "--runs=3", "--json=y"]
    typed = harness.command("/any/where/lpm_torch.py", words)
    assert typed == "python tests/bench/lpm_torch.py loader --images DIR --data_root=DIR --runs=3"


def test_sides_take_turns_after_a_warm_up():
    calls, now = [], iter(range(100))
    times = harness.all_turns({n: lambda n=n: calls.append(n) for n in "ab"}, 2, clock=lambda: next(now))
    assert calls == ["a", "b"] * 3 and times == {"a": [1, 1], "b": [1, 1]}


def test_note_names_processor_and_threads(tmp_path):
    args = harness.options("x", ("a", "b")).parse_args(["--runs", "2", "--json", str(tmp_path / "f.json")])
    table = {"columns": ["n"], "rows": [[1.0]], "note": "batch 3"}
    assert harness.run(args, {"a": lambda args: dict(table)}, [], "f.py") == 0
    note = json.loads((tmp_path / "f.json").read_text())["note"]
    assert note.startswith("medians of 2 runs, sides in turn, batch 3, 1 thread of ") and "numpy" in note
    assert harness.processor() in note


def test_expected_movement_keeps_numbers():
    assert tracking.main(["switches", "--films", "4"]) == 0
    table = tracking.bench_switches(Namespace(films=8))["rows"]
    assert [row[0] for row in table] == ["--track", "OKS, nobody moves on", "box overlap"]
    assert table[0][2] <= table[1][2]


def test_the_table_of_several_gpus_is_up_to_date():
    """And by hand: ResNet-50 at 256 pixels, 128 pictures, 34.05 million weights."""
    result = scaling.table()
    assert result == json.loads((ROOT / "common/results/bench/scaling.json").read_text())
    row = next(row for row in result["rows"] if row[0] == "resnet50_256x256")
    computing, sending = 6 * 7.23e9 * 128 / (494e12 / 4), 15 / 8 * 136.2e6 / 12.5e9
    assert row[-1] == f"{computing / (computing + sending):.0%}"
