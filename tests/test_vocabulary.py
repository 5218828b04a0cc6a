"""The vocabulary: every one of the twenty programmes has the options that its kind has everywhere, in the same groups,
and no other spelling first."""

import os
import pathlib
import re
import subprocess
import sys

import pytest

from common.runs.options import GROUPS, VOCABULARY

ROOT = pathlib.Path(__file__).resolve().parent.parent
HOUSES = ("lpm_torch", "deeppose_tf", "deeppose_caffe_port", "deepercut_tf", "simplebaseline_paddle")
# what each kind of programme has in every house
EVERYWHERE = {
    "train": {"dataset", "data_root", "train_split", "limit", "weights", "mode", "preset", "resume", "save_minutes", "seed", "out",
              "device", "batch_size", "threads", "lr"},
    "val": {"dataset", "data_root", "split", "limit", "weights", "random_weights", "shared_joints", "mode", "device", "threads", "out",
            "protocol", "json", "result"},
    "predict": {"boxes", "box_threshold", "recursive", "limit", "weights", "device", "threads", "out", "format", "draw", "min_score",
                "smooth", "track"},
    "convert": {"licence"},
}  # fmt: skip
# an option that has no meaning in a house is absent there, with the reason
_NO_SCORES = {"min_score": "a regression gives its joints no scores"}
ABSENT = {("deeppose_tf", "predict"): _NO_SCORES, ("deeppose_caffe_port", "predict"): _NO_SCORES}
PROGRAMMES = [(house, kind) for house in HOUSES for kind in EVERYWHERE]


def help_of(house: str, kind: str, option: str = "--help") -> str:
    command = [sys.executable, str(ROOT / house / f"{kind}.py"), option]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "120"}
    answer = subprocess.run(command, cwd="/", env=environment, capture_output=True, text=True, timeout=60)
    assert answer.returncode == 0, answer.stderr[-2000:]
    return answer.stdout


def options_in(text: str) -> dict[str, str]:
    """Option -> the group that lists it; a switch's `--[no-]x` counts as x."""
    found, group = {}, ""
    for line in text.splitlines():
        if re.fullmatch(r"\w+:", line):
            group = line[:-1]
        match = re.match(r"  -+(?:\[no-\])?([\w-]+)", line)
        if match and group:
            found[match[1]] = group
    return found


@pytest.mark.parametrize(("house", "kind"), PROGRAMMES, ids=[f"{h}/{k}" for h, k in PROGRAMMES])
def test_a_programme_speaks_the_vocabulary(house, kind):
    short, whole = help_of(house, kind), options_in(help_of(house, kind, "--help-all"))
    assert len(short.splitlines()) <= 60, f"{len(short.splitlines())} lines; make options rare"
    missing = EVERYWHERE[kind] - set(ABSENT.get((house, kind), ())) - set(whole)
    assert not missing, f"{house}/{kind}.py has no {sorted(missing)}"
    assert not set(ABSENT.get((house, kind), ())) & set(whole), "a reason for an absence that is none"
    wrong = {name: group for name, group in whole.items() if name in VOCABULARY and VOCABULARY[name][0] != group}
    assert not wrong, f"in another group than in the vocabulary: {wrong}"
    assert set(whole.values()) <= {*GROUPS, "other"}


def test_steps_and_epochs_are_counted_by_one_name_each():
    counted = {
        house: {"epochs", "max_steps"} & set(options_in(help_of(house, "train", "--help-all"))) for house in HOUSES
    }
    assert all(counted.values()), counted


@pytest.mark.parametrize("house", HOUSES)
def test_an_estimator_is_imported_from_any_folder_without_side_effects(house, tmp_path):
    program = f"""
import sys
before, path = set(sys.modules), list(sys.path)
from {house} import Estimator
assert sys.path == path, "sys.path was changed"
assert Estimator.__module__ == "{house}.estimator"
own = [n for n in set(sys.modules) - before if n in ("data", "model", "config", "test", "train")]
assert not own, own
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    answer = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
    )
    assert answer.returncode == 0, answer.stderr[-2000:]
