"""The benchmarks: both sides give the same answer, a wrong answer is noticed, and vectorised PCP and PCK are far ahead of the loops."""

import json

import numpy as np
import pytest

from tests.bench import harness as bench


def test_peers_agree_and_limbs_are_fast():
    rows = {r["name"].split(",")[0]: r for r in bench._bench_limbs(400, 3)}
    assert all(r["same"] for r in rows.values())
    # on 3000 persons both are beyond 20; 400 persons leave ours with more fixed cost
    assert rows["PCK@0.2"]["ratio"] > 10 and rows["PCP@0.5"]["ratio"] > 10


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
    monkeypatch.setattr(bench, "loop_lspet", lambda path: np.zeros((20, 14, 2)))
    assert bench.main(["datasets", "--persons", "20", "--runs", "1"]) == 1
    assert "| NO |" in capsys.readouterr().out


@pytest.mark.parametrize("bad", [["metrics", "--runs", "0"], ["metrics", "--persons", "1"], ["nothing"], []])
def test_bad_command_lines(bad):
    with pytest.raises(SystemExit) as stop:
        bench.main(bad)
    assert stop.value.code == 2
