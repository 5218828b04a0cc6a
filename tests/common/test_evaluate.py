"""`python -m common.evaluate`: the command, its JSON, exit codes and what it says about published numbers."""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from common import evaluate
from common.predictions import predictions_for, save_predictions
from common.protocols import protocols_of

ROOT = Path(evaluate.__file__).resolve().parents[1]


@pytest.fixture
def lsp(tmp_path):
    """A folder in LSP's layout (12 images, 6 of them test; no image files), its PoseSet and a prediction file."""
    import scipy.io

    from common import datasets

    rng = np.random.default_rng(0)
    table = rng.uniform(10, 140, (3, 14, 12))
    table[2] = rng.random((14, 12)) < 0.1
    root = tmp_path / "lsp"
    root.mkdir()
    scipy.io.savemat(root / "joints.mat", {"joints": table})
    pose_set = datasets.load("lsp", root, "test")
    save_predictions(
        tmp_path / "pred.npz", predictions_for(pose_set, pose_set.joints + rng.normal(0, 8, pose_set.joints.shape))
    )
    return root, pose_set, tmp_path / "pred.npz"


def _arguments(root, predictions, *more, dataset="lsp", split="test"):
    return ["--dataset", dataset, "--data_root", str(root), "--split", split, "--predictions", str(predictions), *more]


def test_json_follows_the_contract(lsp, tmp_path, capsys):
    root, pose_set, path = lsp
    out = tmp_path / "deep" / "er" / "scores.json"
    assert evaluate.main(_arguments(root, path, "--json", str(out))) == 0
    written = json.loads(out.read_text())
    assert list(written) == list(protocols_of("lsp"))
    for name, entry in written.items():
        assert {"total", "aggregation", "n"} <= set(entry) and ("per_joint" in entry) != ("per_part" in entry), name
        assert 0 <= entry["total"] <= 100 and entry["n"] == len(pose_set)
    assert set(written["pck_torso@0.2"]["per_joint"]) == set(pose_set.skeleton.joints)
    assert set(written["pcp_strict@0.5"]["per_part"]) == {
        "head",
        "torso",
        "upper_arm",
        "forearm",
        "upper_leg",
        "lower_leg",
    }
    text = capsys.readouterr().out
    assert all(name in text for name in written) and f"{written['pck_torso@0.2']['total']:.3f}" in text
    assert [p.name for p in out.parent.iterdir()] == ["scores.json"]


def test_the_first_persons_alone(lsp, tmp_path, capsys):
    """What `val.py --limit` writes."""
    root, pose_set, _ = lsp
    save_predictions(tmp_path / "few.npz", predictions_for(pose_set.limit(2), pose_set.joints[:2]))
    words = _arguments(root, tmp_path / "few.npz", "--json", str(tmp_path / "few.json"), "--limit")
    assert evaluate.main([*words, "2"]) == 0
    assert json.loads((tmp_path / "few.json").read_text())["pck_torso@0.2"]["n"] == 2
    assert evaluate.main(words[:-1]) == evaluate.main([*words, "3"]) == evaluate.main([*words, "-1"]) == 2
    assert "1 of the 3 persons" in (said := capsys.readouterr().err) and "--limit -1 is below 0" in said


def test_protocols_can_be_chosen(lsp, tmp_path):
    root, _, path = lsp
    out = tmp_path / "scores.json"
    assert (
        evaluate.main(
            _arguments(
                root, path, "--protocol", "pdj@0.2", "auc_torso", "--protocol", "pck_torso@0.2", "--json", str(out)
            )
        )
        == 0
    )
    assert list(json.loads(out.read_text())) == ["pdj@0.2", "auc_torso", "pck_torso@0.2"]


def test_every_figure_has_a_word_on_published_numbers(lsp, capsys):
    root, _, path = lsp
    assert evaluate.main(_arguments(root, path)) == 0
    text = capsys.readouterr().out
    assert text.count("comparable") >= len(protocols_of("lsp"))


def test_synthetic_data_is_never_comparable(lsp, tmp_path, capsys):
    root, pose_set, path = lsp
    (root / "SYNTHETIC").write_text("seed 0\n")
    out = tmp_path / "scores.json"
    assert evaluate.main(_arguments(root, path, "--json", str(out))) == 0
    text = capsys.readouterr().out
    assert text.count("not comparable: synthetic data") == len(protocols_of("lsp")) and "SYNTHETIC data" in text
    assert all(
        not e["comparable"] and e["comparison"] == "not comparable: synthetic data"
        for e in json.loads(out.read_text()).values()
    )
    # the data may be real and the predictions of a network that never saw them
    marked = predictions_for(replace(pose_set, synthetic=True), pose_set.joints)
    assert evaluate.comparable(pose_set, marked, "pck_torso@0.2") == (False, "not comparable: synthetic data")


def test_joints_without_any_prediction_are_named(lsp, tmp_path, capsys):
    root, pose_set, _ = lsp
    joints = pose_set.joints.copy()
    joints[:, pose_set.skeleton.index("neck")] = np.nan
    save_predictions(tmp_path / "holes.npz", predictions_for(pose_set, joints))
    assert evaluate.main(_arguments(root, tmp_path / "holes.npz")) == 0
    assert "never predicted, so missed wherever they count: neck" in capsys.readouterr().out


def _mistakes(root, pose_set, path, tmp_path):
    (tmp_path / "garbage.npz").write_bytes(b"PK not really")
    (tmp_path / "note.txt").write_text("hello")
    save_predictions(tmp_path / "few.npz", predictions_for(pose_set.limit(2), pose_set.joints[:2]))
    save_predictions(tmp_path / "mpii.npz", predictions_for(replace(pose_set, name="mpii"), pose_set.joints))
    return [
        (_arguments(tmp_path / "nowhere", path), "data set lsp is not in"),
        (_arguments(root, path, split="middle"), "no split 'middle'"),
        (_arguments(root, tmp_path / "none.npz"), "none.npz does not exist"),
        (_arguments(root, tmp_path / "garbage.npz"), "garbage.npz is not a readable prediction file"),
        (_arguments(root, tmp_path / "note.txt"), "note.txt"),
        (_arguments(root, tmp_path / "few.npz"), "4 of the 6 persons"),
        (_arguments(root, tmp_path / "mpii.npz"), "'mpii'"),
        (_arguments(root, path, "--protocol", "pckh@0.5"), "no protocol 'pckh@0.5'"),
        (_arguments(root, path, "--json", str(path / "below_a_file.json")), "pred.npz"),
    ]


def test_invalid_input_is_exit_code_two(lsp, tmp_path, capsys):
    for arguments, message in _mistakes(*lsp, tmp_path):
        assert evaluate.main(arguments) == 2, message
        captured = capsys.readouterr()
        assert message in captured.err and not captured.out, captured.err


def test_command_from_elsewhere(lsp, tmp_path):
    """As a module from another folder, with the repository on the path; unknown options are exit code 2 as well."""
    root, _, path = lsp
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "common.evaluate"]
    done = subprocess.run(
        [*command, *_arguments(root, path)], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0 and "pck_torso@0.2" in done.stdout, done.stderr
    assert (
        subprocess.run([*command, "--dataset", "nosuch"], cwd=tmp_path, env=environment, capture_output=True).returncode
        == 2
    )


def test_help_answers_at_once(tmp_path):
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "common.evaluate", "--help"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
    )
    assert done.returncode == 0 and b"--protocol" in done.stdout
    assert time.perf_counter() - started < 5  # under a second on an idle machine; the bound leaves room for a busy one


@pytest.mark.data
def test_published_predictions_by_command(pose_data, tmp_path):
    """The published MPII predictions with the command of the README, against the independently known table."""
    expected = json.loads((pose_data / "eval_refs" / "expected.json").read_text())["mpii_valid_pckh"]
    name = next(n for n in expected if ":" not in n and n.endswith(".mat"))
    out = tmp_path / "scores.json"
    assert (
        evaluate.main(
            _arguments(
                pose_data / "mpii",
                pose_data / "eval_refs" / "mpii" / name,
                "--json",
                str(out),
                dataset="mpii",
                split="valid",
            )
        )
        == 0
    )
    entry = json.loads(out.read_text())["pckh@0.5"]
    # half a unit of the third digit, which is the last one printed
    assert entry["total"] == pytest.approx(expected[name]["Mean_weighted14"], rel=0, abs=5.01e-4)
    assert entry["means"]["unweighted"] == pytest.approx(expected[name]["Mean_unweighted14"], rel=0, abs=5.01e-4)


def test_comparable_tables_name_protocols_that_exist():
    from common.reported import reported

    tables, _ = reported()
    assert tables
    for table in (t for t in tables if t["comparable"]):
        assert table["protocol"] in protocols_of(table["dataset"]), table["table"]
