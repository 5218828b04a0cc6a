"""CSV files: what the original wrote from the same releases, and bad input."""

import json
import zlib

import numpy as np
import pytest
import scipy.io

from common.datasets.mpii import random_tenth
from common.errors import DataError
from deeppose_tf import prepare, weight_files
from deeppose_tf.config import Config
from deeppose_tf.csv_files import read_csv
from tests.tolerance import close


@pytest.fixture(scope="module")
def fixture(golden_dir):
    path = golden_dir / "deeppose_tf/dataset_prep.npz"
    if not path.exists():
        pytest.skip("this set of fixtures has no dataset_prep.npz")
    return np.load(path, allow_pickle=False)


def check_line(line: str, original: str) -> None:
    """The same name and numbers, of which Python 2 wrote 12 significant digits."""
    found, expected = line.split(","), original.split(",")
    assert found[0] == expected[0]
    values = np.array(expected[1:], float)
    close(np.array(found[1:], float), values, 0.51 * 10 ** (np.floor(np.log10(np.abs(values))) - 11))


@pytest.mark.golden
@pytest.mark.parametrize("name", ["lspet", "lsp"])
def test_lsp_lines(fixture, tmp_path, name):
    import pathlib

    expected = [str(line) for line in fixture[f"{name}/csv_lines"]]
    images = [pathlib.Path(line.split(",")[0]) for line in expected]
    lines = [line for line, _ in prepare.lsp_lines(images, *prepare.lsp_table(fixture[f"{name}/joints_mat"]), tmp_path)]
    for line, other in zip(lines, expected, strict=True):
        check_line(line, other)
        assert [v == "-1" for v in line.split(",")] == [v in ("-1", "-1.0") for v in other.split(",")]


@pytest.mark.golden
def test_mpii(fixture, tmp_path):
    (tmp_path / "r.mat").write_bytes(fixture["mpii/mat_bytes"].tobytes())
    assert prepare.prepare_mpii(tmp_path / "r.mat", tmp_path).strip() == str(fixture["mpii/stdout"]).strip()
    rows = [json.loads(line) for line in (tmp_path / "data.json").read_text().splitlines()]
    assert rows == [json.loads(str(line)) for line in fixture["mpii/data_json_lines"]]
    for split in ("train", "test"):
        lines = (tmp_path / f"{split}_joints.csv").read_text().splitlines()
        for line, other in zip(lines, map(str, fixture[f"mpii/{split}_csv"]), strict=True):
            check_line(line, other)


@pytest.mark.golden
def test_split_of_the_release(fixture):
    (name,) = {key.split("/")[0] for key in fixture if key.startswith("split")}
    expected = {part: fixture[f"{name}/{part}_indices"] for part in ("train", "test")}
    count = sum(map(len, expected.values()))
    train, test = random_tenth(count)
    assert np.array_equal(train, expected["train"]) and np.array_equal(test, expected["test"])
    if count == 19919:  # the real release
        assert (
            zlib.crc32(np.concatenate([test, train]).astype("<i4").tobytes()) == 1630895818
        )  # of the original's permutation


@pytest.mark.data
def test_real_csv_rows(pose_data):
    folder = pose_data / "eval_refs/deeppose_tf_csv"
    paths = sorted(folder.rglob("*.csv"))
    assert paths
    for path in paths:
        pose_set = read_csv(path, Config(dataset="mpii" if "mpii" in path.parts else "lsp"))
        assert len(pose_set) == len(path.read_text().splitlines()) and (pose_set.visible > 0).any()


def release(folder, shape, count, digits):
    """A small LSP or LSPET release."""
    import cv2

    (folder / "images").mkdir(parents=True)
    rng = np.random.RandomState(count)
    joints = rng.uniform(5, 90, (count, 14, 3))
    joints[..., 2] = rng.randint(0, 2, (count, 14))
    joints[0, 0, 0] = -2.5
    scipy.io.savemat(
        folder / "joints.mat", {"joints": joints.transpose(2, 1, 0) if shape == "lsp" else joints.transpose(1, 2, 0)}
    )
    for i in range(count):
        cv2.imwrite(
            str(folder / f"images/im{i + 1:0{digits}d}.jpg"), rng.randint(0, 256, (100, 100, 3)).astype(np.uint8)
        )
    return joints


def prepared(tmp_path):
    joints = {"lspet": release(tmp_path / "lsp_ext", "lspet", 6, 5), "lsp": release(tmp_path / "lsp", "lsp", 4, 4)}
    ext, small = tmp_path / "lsp_ext", tmp_path / "lsp"
    return joints, prepare.prepare_lsp(ext, small, ext)


def test_lsp_files(tmp_path, capsys):
    joints, counts = prepared(tmp_path)
    assert counts == "train_joints.csv: 8, train_lsp_small_joints.csv: 2, test_joints.csv: 2"
    assert "10000" in capsys.readouterr().err
    compat = read_csv(tmp_path / "lsp_ext/train_joints.csv", Config(mode="compat"))
    np.testing.assert_array_equal(compat.joints[1], joints["lspet"][1, :, :2])
    assert np.isnan(compat.joints[0, 0]).all() and compat.visible[0, 0] == 0  # one coordinate is not above 0
    correct = read_csv(tmp_path / "lsp_ext/train_joints.csv", Config())
    assert np.array_equal(correct.visible[1:4] > 0, joints["lspet"][1:4, :, 2] > 0)
    assert (correct.visible[7] > 0).all()  # LSP's flag means occluded, its coordinates are good
    assert read_csv(tmp_path / "lsp_ext/test_joints.csv", Config()).image_id.tolist() == [3, 4]


def test_lsp_shape():
    with pytest.raises(DataError, match="shape"):
        prepare.lsp_table(np.zeros((5, 14, 2)))


@pytest.mark.parametrize(
    ("text", "message"),
    [("a.jpg,1,2\n", "line 1 has 3 columns"), ("", "no persons"), (",".join(["a.jpg", *["x"] * 28]), "no number"),
     (",".join(["a.jpg", *["nan"] * 28]), "not finite")],
)  # fmt: skip
def test_bad_csv(tmp_path, text, message):
    (tmp_path / "p.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        read_csv(tmp_path / "p.csv", Config())


def test_stand_ins(tmp_path, monkeypatch, capsys):
    """People, their CSVs and random weights where there are none; real data is left alone."""
    root, weights = tmp_path / "datasets/lsp", tmp_path / "weights/bvlc_alexnet.tf"
    monkeypatch.setattr(prepare, "LSP_ROOT", root)
    monkeypatch.setattr(prepare, "LSPET_ROOT", tmp_path / "datasets/lsp_ext")
    monkeypatch.setattr(prepare, "IMAGENET_WEIGHTS", weights)
    release(root, "lsp", 4, 4)
    assert prepare.main(["lsp", "--synthetic"]) == 0
    assert "real data" in capsys.readouterr().out and not weights.exists()
    (root / "SYNTHETIC").touch()
    for _again in range(2):
        assert prepare.main(["lsp", "--synthetic"]) == 0
    found = read_csv(tmp_path / "datasets/lsp_ext/train_joints.csv", Config())
    assert found.synthetic and weight_files.is_stand_in(weights)


def test_missing_release(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(prepare, "MPII_ROOT", tmp_path)
    assert prepare.main(["mpii"]) == 2
    assert "http://human-pose.mpi-inf.mpg.de" in capsys.readouterr().err
