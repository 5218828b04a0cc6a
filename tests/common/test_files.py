"""Pictures and data files that are cut off, odd or hostile: read as far as they go, or refused by name."""

import json
import zlib

import cv2
import numpy as np
import pytest
import scipy.io

from common.datasets import files
from common.datasets.__main__ import main as look
from common.errors import DataError, DataWarning
from common.images import read_image


def test_pictures_that_are_cut_off(tmp_path, capsys):
    picture = np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)
    for name in ("a.jpg", "b.png", "c.jpg"):
        cv2.imwrite(str(tmp_path / name), picture)
    (tmp_path / "c.jpg").write_bytes((tmp_path / "c.jpg").read_bytes() + b"an appendix")
    for name in ("a.jpg", "c.jpg", "b.png"):
        assert read_image(tmp_path / name, whole=True).shape == (40, 60, 3)
    (tmp_path / "a.jpg").write_bytes((tmp_path / "a.jpg").read_bytes()[:-300])
    with pytest.warns(DataWarning, match="a.jpg is cut off"):
        assert read_image(tmp_path / "a.jpg").shape == (40, 60, 3)
    with pytest.raises(DataError, match="cut off"):
        read_image(tmp_path / "a.jpg", whole=True)
    images = [{"file": "a.jpg", "persons": [{"joints": [[k + 5, k + 5] for k in range(14)]}]}]
    (tmp_path / "all.json").write_text(json.dumps({"skeleton": "lsp14", "images": images}))
    assert (
        look(["check", "json", str(tmp_path)]) == 1
        and "1 images cannot be decoded or are cut" in capsys.readouterr().out
    )


def test_odd_pictures(tmp_path):
    odd = tmp_path / b"\xff\xfe.png".decode(errors="surrogateescape")
    odd.write_bytes(cv2.imencode(".png", np.zeros((4, 6, 3), np.uint8))[1].tobytes())
    assert read_image(odd).shape == (4, 6, 3)
    odd.write_bytes(odd.read_bytes() + b"what some programmes append" * 9)
    assert read_image(odd, whole=True).shape == (4, 6, 3)
    header = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + (60_000).to_bytes(4, "big") * 2 + b"\x08\x02\0\0\0"
    for content in (b"", b"\x89PNG\r\n\x1a\n", header + zlib.crc32(header[12:]).to_bytes(4, "big") + b"\0\0\0\0IEND"):
        (tmp_path / "x.png").write_bytes(content)
        with pytest.raises(DataError, match="x.png cannot be decoded"):
            read_image(tmp_path / "x.png")
    with pytest.raises(DataError, match="cannot be read"):
        read_image(tmp_path)


def test_matlab_files_that_crash_scipy(tmp_path):
    path = tmp_path / "joints.mat"
    scipy.io.savemat(path, {"joints": np.zeros((3, 14, 4), np.float32), "other": {"a": [1, 2], "b": "text"}})
    whole = path.read_bytes()
    assert files.read_mat(path, "joints").shape == (3, 14, 4)
    at = whole.index(b"joints") + 8
    for content in (
        whole[:at] + b"\x87" + whole[at + 1 :],
        whole[:at] + b"\x07\0\0\0\xff\xff" + whole[at + 6 :],
        whole[:-90],
        b"MATLAB 5,0" + whole[10:at] + b"\x87" + whole[at + 1 :],  # scipy does not look at the text
    ):
        path.write_bytes(content)
        with pytest.raises(DataError, match="joints.mat is not a readable Matlab file"):
            files.read_mat(path)
    scipy.io.savemat(path, {"joints": np.zeros((3, 14, 4))}, do_compression=True)
    assert files.read_mat(path, "joints").shape == (3, 14, 4)


def test_damaged_numbers_of_matlab_files_are_named(tmp_path):
    scipy.io.savemat(tmp_path / "text.mat", {"joints": "no numbers"})
    with pytest.raises(DataError, match="text.mat has another kind of variable 'joints'"):
        files.read_numbers(tmp_path / "text.mat", "joints")
    with pytest.raises(DataError, match="text.mat has no variable 'x'"):
        files.read_numbers(tmp_path / "text.mat", "x")


def test_a_schema_names_the_field():
    schema = {"name": str, "sizes?": [(int, float)], "more": {"*": {"total": (float, int)}}}
    files.fit({"name": "a", "more": {"x": {"total": 1}, "y": {"total": 2.5}}}, schema, "f: ")
    for value, message in (
        ([], r"^f: is \[\]; write an object"),
        ({"name": 3, "more": {}}, "^f: name is 3; write a text"),
        ({"name": "a"}, "^f: more is missing"),
        ({"name": "a", "more": {}, "sizes": [1, "b"]}, r"^f: sizes\[1\] is 'b'; write a number"),
        ({"name": "a", "more": {}, "sizes": [True]}, r"^f: sizes\[0\] is True; write a number"),
        ({"name": "a", "more": {"x": {}}}, "^f: more.x.total is missing"),
    ):
        with pytest.raises(DataError, match=message):
            files.fit(value, schema, "f: ")
