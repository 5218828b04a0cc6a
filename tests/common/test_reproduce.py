"""The recipes: every reported figure has one, every command is understood, and what is done is told from what lacks."""

import argparse
import importlib
import json
import signal
import sys
from pathlib import Path

import pytest

from common import reproduce
from common.errors import DataError
from common.reported import figure
from common.runs.options import Parser

RECIPES = reproduce.recipes()


def test_every_reported_figure_has_one_recipe():
    answered = [row for recipe in RECIPES.values() for row in recipe.rows]
    assert sorted(answered) == sorted(f"{table['table']}/{model}" for table, model in reproduce.rows())
    assert len(set(answered)) == len(answered)


class _Understood(BaseException):
    """Raised in a programme once its options are read."""


def _parsed(words: list[str], monkeypatch) -> None:
    """Have the programme of a command read its options, and no more."""
    module = importlib.import_module(words[1].removesuffix(".py").replace("/", "."))
    kind = argparse.ArgumentParser if module.__name__ == "deeppose_tf.prepare" else Parser
    plain = kind.parse_args

    def parse_args(parser, argv=None, namespace=None):
        raise _Understood(plain(parser, argv, namespace))

    monkeypatch.setattr(kind, "parse_args", parse_args)
    with pytest.raises(_Understood):
        module.main(words[2:])
    monkeypatch.undo()


@pytest.mark.parametrize("rehearsed", (False, True), ids=("real", "rehearsed"))
@pytest.mark.parametrize("name", RECIPES)
def test_every_command_is_understood(name, rehearsed, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    _touch_weights(RECIPES[name], tmp_path)
    commands = RECIPES[name].commands(rehearsed)
    assert list(commands)[-1] == "score" and f"output/{'rehearsal' if rehearsed else 'reproduce'}" in str(commands)
    for words in commands.values():
        assert words[0] == "python" and (reproduce.ROOT / words[1]).is_file()
        assert "{" not in "".join(words)
        _parsed(words, monkeypatch)


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_say_what_it_takes(name):
    text = reproduce.explain(name)
    for recipe_row in RECIPES[name].rows:
        assert recipe_row in text
    cost = RECIPES[name].cost()
    assert set(cost["hours"]) == {"H200", "RTX 4090"}
    network = reproduce._content()["networks"][RECIPES[name].fields["network"]]
    assert cost["operations"] == pytest.approx(cost["samples"] * network["gmac"] * 6e9)
    assert 1 < cost["memory_gb"] < 141
    assert cost["parts"]["H200"] == 1
    assert ("does not fit 24 GB (one RTX 4090)" in text) == (cost["memory_gb"] > 24)
    assert "  protocol proven on " in text or "  protocol equal to the " in text


def test_what_does_not_fit_a_gpu_says_how_it_does():
    """Halves of the batch would take 27 GB."""
    text = reproduce.explain("simplebaseline_mpii/resnet101_384x384")
    assert "does not fit 24 GB (one RTX 4090); --batch_size 32 --accumulate 4 does" in text


def test_what_lacks_is_named(tmp_path):
    recipe = reproduce.recipe_of("simplebaseline_coco_detector/resnet50_256x192")
    assert recipe.lacks(tmp_path) == "DATA data/coco/annotations"
    (tmp_path / "data/coco/annotations").mkdir(parents=True)
    assert recipe.lacks(tmp_path) == "WEIGHTS pretrained/resnet50-19c8e357.pth"
    _touch_weights(recipe, tmp_path)
    assert recipe.lacks(tmp_path) is None
    (tmp_path / "data/coco/SYNTHETIC").touch()
    assert recipe.lacks(tmp_path) == "DATA data/coco (SYNTHETIC people lie there)"


def _touch_weights(recipe, folder: Path) -> None:
    for entry in recipe.weights:
        path = folder / entry["file"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_steps_go_on_after_a_stop(tmp_path, monkeypatch):
    recipe = reproduce.recipe_of("simplebaseline_mpii/paddle_resnet50_256x256")
    ran, codes = [], iter((0, 130, 0, 0))

    def run(words, folder):
        ran.append(Path(words[1]).name)
        if ran[-1] == "val.py":
            _run_file(tmp_path, recipe, synthetic=False, total=88.5)
        return next(codes)

    monkeypatch.setattr(reproduce, "call", run)
    with pytest.raises(KeyboardInterrupt):
        reproduce.perform(recipe, tmp_path)
    said = reproduce.verdict(recipe, reproduce.perform(recipe, tmp_path))
    assert ran == ["train.py", "convert.py", "convert.py", "val.py"]
    assert [line.rsplit(" | ", 1)[1] for line in said] == ["in the band", "OUT OF THE BAND"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_reaches_the_running_command_which_saves(number, tmp_path):
    """The command asks its parent to stop, is asked once in turn, takes its time, and its exit code is told."""
    program = """
import os, signal, sys, time
asked = []
signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
os.kill(os.getppid(), int(sys.argv[1]))
time.sleep(1)
open("saved", "w").write(str(len(asked)))
sys.exit(130)
"""
    before = signal.getsignal(number)
    assert reproduce.call([sys.executable, "-c", program, str(int(number))], tmp_path) == 130
    assert (tmp_path / "saved").read_text() == "1" and signal.getsignal(number) is before


def _run_file(folder: Path, recipe, synthetic: bool, total: float) -> None:
    path = folder / recipe.commands()["score"][-1]
    figures = {name: {"total": total} for name in ("pckh@0.5", "mean@0.1:compat")}
    run = {"house": "simplebaseline_paddle", "model": "paddle_resnet50_256x256", "dataset": "mpii", "split": "valid"}
    meta = {"boxes": "oracle", "flip_test": True, "synthetic": synthetic}
    path.write_text(json.dumps({**run, "protocols": figures, "meta": meta, "command": "python val.py"}))


def test_what_a_recipe_starts_from_comes_first(tmp_path, monkeypatch):
    """LSP, then MPII, then Penn Action; the first is done already."""
    ran = []

    def run(words, folder):
        ran.append(next(w for w in words if w.startswith("--dataset=")))
        return 0

    monkeypatch.setattr(reproduce, "call", run)
    monkeypatch.setattr(reproduce, "answers", lambda recipe, *_: recipe.name)
    monkeypatch.setattr(reproduce, "read_json", lambda path: {})
    (tmp_path / "output/reproduce").mkdir(parents=True)
    (tmp_path / "output/reproduce/lpm_torch_lsp-lpm.steps").write_text('{"train": [9, 9], "score": [9, 9]}')
    assert reproduce.perform(reproduce.recipe_of("lpm_torch_penn_groups/lpm"), tmp_path) == "lpm_torch_penn_joints/lpm"
    assert ran == ["--dataset=mpii"] * 2 + ["--dataset=penn_action"] * 2
    said = reproduce.recipe_of("lpm_torch_penn_groups/lpm").commands()["train"]
    assert "--weights=output/reproduce/lpm_torch_mpii-lpm" in said


def test_a_rehearsed_run_must_answer_its_row():
    recipe = reproduce.recipe_of("simplebaseline_coco_oracle/resnet50_256x192")
    run = {"house": "simplebaseline_paddle", "model": "resnet50_256x192", "dataset": "coco", "split": "val2017"}
    run |= {"protocols": {"oks_ap": {"total": 0.1}}, "command": "", "meta": {"boxes": "oracle", "flip_test": True}}
    run["meta"] |= {"synthetic": True, "subset": "16 of 6352 persons"}
    (line,) = reproduce.answers(recipe, run, rehearsed=True).values()
    assert line["images"] == "synthetic" and line["comparable"] is False
    run["meta"]["boxes"] = "detector"
    with pytest.raises(DataError, match="published with boxes: oracle, these are detector; .* fault of the recipe"):
        reproduce.answers(recipe, run, rehearsed=True)


def test_a_failed_step_is_named(tmp_path, monkeypatch):
    recipe = reproduce.recipe_of("lpm_torch_lsp/lpm")
    monkeypatch.setattr(reproduce, "call", lambda *_: 2)
    with pytest.raises(DataError, match="lpm_torch_lsp/lpm, step train: exit code 2"):
        reproduce.perform(recipe, tmp_path)


def test_drawn_people_are_never_comparable(tmp_path):
    recipe = reproduce.recipe_of("simplebaseline_mpii/paddle_resnet50_256x256")
    (tmp_path / "output/reproduce").mkdir(parents=True)
    _run_file(tmp_path, recipe, synthetic=True, total=88.5)
    (tmp_path / "output/reproduce/simplebaseline_mpii-paddle_resnet50_256x256.steps").write_text(
        json.dumps(dict.fromkeys(("train", "convert", "score"), [1, 1]))
    )
    said = reproduce.verdict(recipe, reproduce.perform(recipe, tmp_path))
    assert all(line.endswith("SYNTHETIC, not comparable") for line in said)
    states = {entry["row"]: entry["state"] for entry in reproduce.status(tmp_path)}
    assert {states[row] for row in recipe.rows} == {"lacks DATA data/mpii/annot"}


def test_an_unknown_row_is_an_error():
    with pytest.raises(DataError, match="--row nothing/here"):
        reproduce.recipe_of("nothing/here")


def test_the_list_says_every_rows_state(tmp_path, capsys):
    assert reproduce.main(["--folder", str(tmp_path), "--json"]) == 0
    entries = json.loads(capsys.readouterr().out)
    assert len(entries) == len(reproduce.rows())
    assert all(
        entry["state"].startswith("lacks DATA") and figure(entry["reported"], entry["protocol"]) for entry in entries
    )
