"""The two networks' prototxts in every preset, and the lists that the LMDBs are made of."""

import pathlib
import re

import cv2
import numpy as np
import pytest

from common.errors import DataError
from deeppose_caffe_port import prepare
from deeppose_caffe_port.config import PRESETS, Config
from deeppose_caffe_port.images import read_picture
from deeppose_caffe_port.prototxts import project_files

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
HOUSE = ROOT / "deeppose_caffe_port"


def test_committed_prototxts_are_the_papers():
    files = project_files(Config(preset="paper"))
    assert {str(p.relative_to(HOUSE)) for p in HOUSE.rglob("*.prototxt")} == set(files)
    for name, text in files.items():
        assert (HOUSE / name).read_text() == text, name


def test_paper_networks_have_the_originals_blobs():
    """Values in all blobs, section 4 of the specification (own count: 44,314,400 and 44,279,652, of which 706 are statistics)."""
    from common.weights.caffe_text import parse_text
    from deeppose_caffe_port.model import TEST, CaffeNet

    for stage, (count, last) in enumerate(((44_314_400, 30), (44_279_652, 2)), 1):
        text = project_files(Config(preset="paper"))[
            f"models/{('deeppose', 'deeppose_refine')[stage - 1]}/deploy.prototxt"
        ]
        net = CaffeNet(parse_text(text.replace('"xavier"', '"constant"'), "NetParameter"), TEST)
        blobs = list(net.blobs())
        assert sum(b.tensor.numel() for b in blobs) == count and len(blobs) == 26
        assert sum(b.tensor.numel() for b in blobs if b.lr_mult == 0) == 706
        assert (
            net.shapes["conv1"][1:] == (96, 55, 55)
            and net.shapes["pool5"][1:] == (256, 6, 6)
            and net.shapes["predict"][1] == last
        )


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_builds(preset):
    from common.weights.caffe_text import parse_text
    from deeppose_caffe_port.model import TEST, CaffeNet
    from deeppose_caffe_port.solver import LearningRate

    for name, text in project_files(Config(dataset="lsp", preset=preset)).items():
        if name.endswith("solver.prototxt"):
            LearningRate(parse_text(text, "SolverParameter").message)
        elif name.endswith("deploy.prototxt"):
            CaffeNet(parse_text(text.replace('"xavier"', '"constant"'), "NetParameter"), TEST)


@pytest.mark.parametrize(
    "line, says",
    [
        ("a.png 1,2,3", "line 2: expected a file name and an even number of at least 30 numbers, found 3"),
        ("a.png " + ",".join(["1"] * 31), "31 numbers"),
        ("a.png " + ",".join(["x"] * 30), "line 2"),
        ("../a.png " + ",".join(["1"] * 30), "has a folder in it"),
        ("/tmp/a.png " + ",".join(["1"] * 30), "has a folder in it"),
    ],
)
def test_bad_annotation_lines(tmp_path, line, says):
    config = Config(out=str(tmp_path))
    config.data_home.mkdir(parents=True)
    (config.data_home / "train_annos.txt").write_text("b.png " + ",".join(["1"] * 30) + f"\n{line}\n")
    with pytest.raises(DataError, match=re.escape(says)):
        prepare.read_annotations(config, "train_annos")


def test_nul_bytes_are_removed(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\0b.png " + b",".join([b"1"] * 38) + b"\n\0\n")
    (line,) = prepare.read_lines(tmp_path / "a.txt", 30)
    assert line.name == "b.png" and len(line.values) == 38


def test_16_bit_pictures_need_the_option(tmp_path):
    cv2.imwrite(str(tmp_path / "deep.png"), np.full((4, 4), 0x1234, np.uint16))
    with pytest.raises(DataError, match="16 bits.*--allow_16bit"):
        read_picture(tmp_path / "deep.png")
    assert (read_picture(tmp_path / "deep.png", allow_16bit=True) == 0x12).all()
