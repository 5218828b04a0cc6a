"""`python -m common.datasets check` and `browse`, and what holds for every loader."""

import json
import os
import pathlib
import resource
import subprocess
import sys

import numpy as np
import pytest

from common import datasets
from common.datasets.__main__ import main
from common.errors import DataError, DataMissing
from common.images import read_image

_ROOT = pathlib.Path(__file__).resolve().parents[2]


def _own(root, persons, size=(40, 30), image=True):
    import cv2

    root.mkdir(parents=True, exist_ok=True)
    (root / "all.json").write_text(
        json.dumps(
            {
                "skeleton": "lsp14",
                "images": [{"file": "a.png", "width": size[0], "height": size[1], "persons": persons}],
            }
        )
    )
    if image:
        cv2.imwrite(str(root / "a.png"), np.zeros((30, 40, 3), np.uint8))


_GOOD = {"joints": [[5 + k, 20 - k] for k in range(14)]}


def test_check_finds_nothing_wrong(tmp_path, capsys):
    _own(tmp_path, [_GOOD])
    assert main(["check", "json", str(tmp_path)]) == 0
    assert "1 persons in 1 images" in capsys.readouterr().out


@pytest.mark.parametrize(
    "persons, options, message",
    [
        ([{**_GOOD, "box": [1, 2, 0, 5]}], {}, "empty box"),
        ([{"joints": [None] * 14, "box": [1, 2, 3, 5]}], {}, "no labelled joint"),
        ([{"joints": [[5, 5 + k] for k in range(13)] + [[200, 5]]}], {}, "far outside the image"),
        ([{**_GOOD, "id": 1}, {**_GOOD, "id": 1}], {}, "share image and person number"),
        ([{**_GOOD, "head_size": 0}], {}, "no head size"),
        ([{**_GOOD, "area": 0}], {}, "no area"),
        ([_GOOD], {"size": (30, 40)}, "another size"),
        ([_GOOD], {"image": False}, "1 of 1 images are missing"),
        ([], {}, "no person at all"),
        ([{"joints": [[1, "x"]] * 14}], {}, "right_ankle"),
    ],
)
def test_check_finds(tmp_path, capsys, persons, options, message):
    _own(tmp_path, persons, **options)
    assert main(["check", "json", str(tmp_path)]) == 1
    problems = [line for line in capsys.readouterr().out.splitlines() if line.startswith("PROBLEM")]
    assert len(problems) == 1 and message in problems[0]


def test_check_finds_unreadable_images(tmp_path, capsys):
    _own(tmp_path, [_GOOD])
    (tmp_path / "a.png").write_bytes(b"no picture")
    assert main(["check", "json", str(tmp_path)]) == 1
    assert "1 images cannot be decoded" in capsys.readouterr().out
    assert main(["check", "json", str(tmp_path), "--limit", "0"]) == 0


def test_browse_draws(tmp_path, capsys):
    _own(tmp_path, [_GOOD])
    out = tmp_path / "out/sheet.png"
    assert main(["browse", "json", str(tmp_path), "--out", str(out)]) == 0
    sheet = read_image(out)
    assert len(np.unique(sheet.reshape(-1, 3), axis=0)) > 20  # a black image alone would leave paper, cell and caption
    before = out.read_bytes()
    assert main(["browse", "json", str(tmp_path), "--out", str(out)]) == 0 and out.read_bytes() == before
    (tmp_path / "a.png").unlink()
    assert main(["browse", "json", str(tmp_path), "--out", str(out)]) == 2
    assert "nothing to draw" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["check", "json"], ["browse", "json", "--out", "x.png"]])
def test_invalid_use(tmp_path, command, capsys):
    assert main([*command[:2], str(tmp_path / "nowhere"), *command[2:]]) == 2
    _own(tmp_path, [_GOOD])
    assert main([*command[:2], str(tmp_path), "--split", "nosuch", *command[2:]]) == 2
    assert "nosuch" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main([command[0], "nosuch", str(tmp_path), *command[2:]])


def test_help_is_fast_from_anywhere(tmp_path):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, "-m", "common.datasets", "--help"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(_ROOT)},
        check=True,
        capture_output=True,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    # processor time, because the machine may be busy; importing cv2 or scipy alone would cost most of it
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1


@pytest.mark.parametrize("name", datasets.NAMES)
def test_absent_data_says_where_to_get_it(tmp_path, name):
    root = tmp_path / "x"
    with pytest.raises(DataMissing) as caught:
        datasets.load(name, root, "train")
    text = str(caught.value)
    assert f"python -m common.datasets.synthetic {name} {root}" in text
    assert name == "json" or "authors: http" in text or "No official page is known" in text
    assert main(["check", name, str(root)]) == 2


def test_unknown_data_set(tmp_path):
    with pytest.raises(DataError, match="unknown data set 'nosuch'; known: lsp, lspet, mpii"):
        datasets.load("nosuch", tmp_path, "train")


@pytest.mark.data
@pytest.mark.filterwarnings("ignore:.*bbox has")
def test_check_real_photographs(pose_data, capsys):
    for name, folder in (("coco", "coco"), ("jhmdb", "jhmdb_mini")):
        assert main(["check", name, str(pose_data / folder)]) == 0
    assert main(["check", "lspet", str(pose_data / "lspet"), "--limit", "200"]) == 0
    assert main(["check", "penn_action", str(pose_data / "penn_action"), "--limit", "0"]) == 1
    assert "163841 images are missing" in capsys.readouterr().out


@pytest.mark.data
def test_browse_real_photographs(pose_data, tmp_path):
    for name, folder in (
        ("lsp", "lsp_small"),
        ("lspet", "lspet"),
        ("mpii", "mpii"),
        ("coco", "coco_mini4"),
        ("jhmdb", "jhmdb_mini"),
        ("ai_challenger", "aic"),
    ):
        assert (
            main(["browse", name, str(pose_data / folder), "--out", str(tmp_path / f"{name}.png"), "--count", "6"]) == 0
        )
        assert read_image(tmp_path / f"{name}.png").std() > 20
