"""K2HPD's text files and the `json` format for a user's own data."""

import json

import numpy as np
import pytest

from common.datasets import load, splits, valid_split
from common.errors import DataError, DataMissing
from common.skeletons import COCO17, SKELETONS
from tests.tolerance import rounding

EXACT = rounding(1000, steps=4, dtype=np.float64)  # pixels


def _line(name, count, start=0):
    return f"{name} {','.join(str(start + k) for k in range(count))}"


def test_k2hpd(tmp_path):
    text = f"\0\0{_line('1.png', 38)}\n\0{_line('2.png', 30, 5)}\r\n\n{_line('3.png', 32)}"
    (tmp_path / "train_annos.txt").write_bytes(text.encode())
    found = load("k2hpd", tmp_path, "train")
    assert found.image_id.tolist() == ["1.png", "2.png", "3.png"]
    assert found.joints[1].tolist() == [[5 + 2 * k, 6 + 2 * k] for k in range(15)]
    assert found.box[0].tolist() == [0, 1, 28, 28] and (found.visible == 2).all()
    assert found.images[2] == f"{tmp_path}/depth_data/depth_images/3.png"
    with pytest.raises(DataMissing, match="synthetic k2hpd"):
        load("k2hpd", tmp_path, "test")


@pytest.mark.parametrize(
    "line",
    [
        _line("a.png", 28),
        _line("a.png", 31),
        "a.png",
        "a.png 1,2,x" + ",3" * 27,
        "a.png 1, 2",
        "a.png " + ",".join(["nan"] * 30),
    ],
)
def test_k2hpd_damage(tmp_path, line):
    (tmp_path / "test_annos.txt").write_text(f"{_line('ok.png', 30)}\n{line}\n")
    with pytest.raises(DataError, match="line 2|a.png has a coordinate"):
        load("k2hpd", tmp_path, "test")


@pytest.mark.golden
def test_k2hpd_matches_original(golden_dir):
    """The original's list for stage 1 holds every joint minus half the image (256x212), the mirrored copies apart."""
    root = golden_dir / "deeppose_caffe_port/dataprep"
    for split in ("train", "test"):
        found = load("k2hpd", root / "k2hpd", split)
        theirs = {}
        for line in (root / f"expected/stage1/{split}_images.txt").read_text().splitlines():
            path, *values = line.replace("\0", "").split()
            theirs[path.rsplit("/", 1)[1]] = np.array(values, float).reshape(15, 2) + (128, 106)
        assert len(found) and set(found.image_id.tolist()) <= set(theirs)
        for name, joints in zip(found.image_id.tolist(), found.joints):
            np.testing.assert_allclose(joints, theirs[name], rtol=0, atol=EXACT)


def _own(path, **changes):
    content = {
        "skeleton": {"name": "test_bird", "joints": ["beak", "left_wing", "right_wing"]},
        "images": [
            {
                "file": "a.jpg",
                "persons": [
                    {"joints": [[1, 2], [3, 4, 1], None]},
                    {"joints": [None, [5, 6, 2], [9, 9, 0]], "box": [1, 2, 3, 4], "id": 9},
                ],
            },
            {"file": "sub/b.jpg"},
        ],
        **changes,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def test_own_format(tmp_path):
    _own(tmp_path / "annotations/mine.json")
    found = load("json", tmp_path, "mine")
    assert found.skeleton.flip_pairs == [(1, 2)] and "test_bird" not in SKELETONS
    assert found.visible.tolist() == [[2, 1, 0], [0, 2, 0]]
    assert np.array_equal(found.joints[0], [[1, 2], [3, 4], [np.nan] * 2], equal_nan=True)
    assert found.box.tolist() == [[1, 2, 2, 2], [1, 2, 3, 4]] and found.person_id.tolist() == [0, 9]
    assert found.images == [f"{tmp_path}/a.jpg"] * 2 and found.image_id.tolist() == ["a.jpg"] * 2
    assert found.area is None and found.head_size is None and found.ignore is None and found.image_size is None
    assert splits("json", tmp_path) == ["mine"]
    _own(tmp_path / "x.json", skeleton="coco17", images=[])
    assert load("json", tmp_path / "x.json", "whatever").skeleton is COCO17


def test_own_format_optional_fields(tmp_path):
    person = {"joints": [[1, 2], None, None], "head_size": 4, "area": 9.5, "ignore": True}
    _own(tmp_path / "a.json", images=[{"file": "a.jpg", "width": 10, "height": 20, "persons": [person]}])
    found = load("json", tmp_path, "a")
    assert (found.head_size[0], found.area[0], found.ignore[0], found.image_size[0].tolist()) == (
        4,
        9.5,
        True,
        [10, 20],
    )


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"skeleton": "nosuch"}, "field skeleton: 'nosuch' is not known"),
        ({"skeleton": {"name": "x", "joints": ["left_a"]}}, "left_a has no counterpart"),
        ({"skeleton": {"name": "lsp14", "joints": ["a"]}}, "'lsp14' is taken"),
        ({"skeleton": None}, "field skeleton must be"),
        ({"images": {}}, "no list `images`"),
        ({"images": [{"persons": []}]}, r"images\[0\].file is missing"),
        (
            {"images": [{"file": "a", "persons": [{"joints": [[1, 2]]}]}]},
            r"images\[0\]\.persons\[0\]\.joints has 1 joints",
        ),
        (
            {"images": [{"file": "a", "persons": [{"joints": [[1, 2], [1, 2, 3], None]}]}]},
            r"joints, left_wing: \[1, 2, 3\] is neither",
        ),
        ({"images": [{"file": "a", "persons": [{"joints": [[1, 2], ["x", 2], None]}]}]}, "left_wing"),
        (
            {"images": [{"file": "a", "persons": [{"joints": [[1, 2], None, None], "box": [1, 2]}]}]},
            r"persons\[0\]\.box is \[1, 2\]",
        ),
        (
            {"images": [{"file": "a", "persons": [{"joints": [None] * 3, "area": 1}, {"joints": [None] * 3}]}]},
            r"persons\[1\] has no area",
        ),
        (
            {"images": [{"file": "a", "persons": [{"joints": [None] * 3, "area": "big"}]}]},
            r"persons\[0\]\.area is 'big'",
        ),
        ({"images": [{"file": "a", "persons": [{"joints": [None] * 3, "id": None}]}]}, r"persons\[0\]\.id is missing"),
    ],
)
def test_own_format_damage(tmp_path, changes, message):
    _own(tmp_path / "a.json", **changes)
    with pytest.raises(DataError, match=message) as caught:
        load("json", tmp_path, "a")
    assert "a.json" in str(caught.value)


def test_own_format_missing(tmp_path):
    with pytest.raises(DataMissing, match="common/README.md"):
        load("json", tmp_path, "train")


def test_own_data_without_a_validation_split(tmp_path, capsys):
    """Trained without validation, which is said; a split that somebody named, and other data sets', must be there."""
    with pytest.raises(DataMissing):
        valid_split("json", tmp_path, "valid")
    (tmp_path / "train.json").write_text("{}")
    assert valid_split("json", tmp_path, "valid") == "none"
    assert f"{tmp_path} has train and no split valid" in capsys.readouterr().err
    assert valid_split("json", tmp_path / "train.json", "valid") == "none", "one file is one split"
    capsys.readouterr()
    assert (valid_split("json", tmp_path, "mine"), valid_split("coco", tmp_path, "valid")) == ("mine", "valid")
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations/valid.json").write_text("{}")
    assert valid_split("json", tmp_path, "valid") == "valid" and not capsys.readouterr().err
