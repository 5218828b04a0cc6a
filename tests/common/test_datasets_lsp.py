"""LSP and LSPET: two opposite flag conventions, every layout, the splits."""

import time

import numpy as np
import pytest
import scipy.io

from common.datasets import load
from common.datasets.lsp import which
from common.errors import DataError, DataMissing
from common.images import read_image
from common.poses import box_of_joints


def _arrays(seed, count):
    """LSP's (3,14,N) and LSPET's (14,3,N) arrays with random coordinates and flags."""
    rng = np.random.default_rng(seed)
    points, flags = rng.uniform(1, 200, (count, 14, 2)), rng.integers(0, 2, (count, 14))
    table = np.concatenate([points, flags[..., None]], -1)
    return points, flags, table.transpose(2, 1, 0), table.transpose(1, 2, 0)


def _write(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(path, {"joints": array})


def test_flags_mean_the_opposite(tmp_path):
    points, flags, lsp, lspet = _arrays(0, 6)
    _write(tmp_path / "lsp/joints.mat", lsp)
    _write(tmp_path / "lspet/joints.mat", lspet)
    one, two = load("lsp", tmp_path / "lsp", "all"), load("lspet", tmp_path / "lspet", "all")
    assert np.array_equal(one.joints, points)
    assert np.array_equal(one.visible, np.where(flags == 1, 1, 2))
    assert np.array_equal(two.visible, np.where(flags == 1, 2, 0))
    assert np.array_equal(np.isnan(two.joints).any(-1), flags == 0)
    assert np.array_equal(two.joints[flags == 1], points[flags == 1])
    assert np.array_equal(two.box, box_of_joints(two.joints), equal_nan=True)


@pytest.mark.parametrize(
    "folder, name, sample",
    [("", "lsp", "im0003.jpg"), ("lsp", "lsp", "im0003.jpg"), ("lsp_ext", "lspet", "im00003.jpg")],
)
def test_layouts(tmp_path, folder, name, sample):
    points, _, lsp, lspet = _arrays(1, 8)
    _write(tmp_path / folder / "joints.mat", lsp if name == "lsp" else lspet)
    found = load(name, tmp_path, "3-5")
    assert found.images[0] == str(tmp_path / folder / "images" / sample)
    assert found.image_id.tolist() == [3, 4, 5] and not found.synthetic
    assert which(tmp_path) == name
    (tmp_path / folder / "SYNTHETIC").touch()
    assert load(name, tmp_path, "all").synthetic


def test_mobilepose_layout_trains_on_lspet_then_lsp(tmp_path):
    points, flags, lsp, lspet = _arrays(2, 1003)
    _write(tmp_path / "joints_2000.mat", lsp)
    _write(tmp_path / "joints_10000.mat", lspet)
    train, valid = load("lsp", tmp_path, "train"), load("lsp", tmp_path, "valid")
    assert len(train) == 1003 + 1000 and len(valid) == 3
    assert train.images[0].endswith("images_10000/im00001.jpg") and train.images[1003].endswith(
        "images_2000/im0001.jpg"
    )
    assert np.array_equal(train.visible[:1003] == 0, flags == 0) and (train.visible[1003:] > 0).all()
    assert len(set(train.image_id.tolist())) == len(train)
    assert np.array_equal(valid.joints, points[1000:])


def test_splits(tmp_path):
    points, _, lsp, _ = _arrays(3, 1200)
    _write(tmp_path / "joints.mat", lsp)
    assert [len(load("lsp", tmp_path, s)) for s in ("train", "test", "valid", "all", "1-1", "1100-1200")] == [
        1000,
        200,
        200,
        1200,
        1,
        101,
    ]
    _write(tmp_path / "joints.mat", lsp[:, :, :10])
    assert [load("lsp", tmp_path, s).image_id.tolist() for s in ("train", "test")] == [
        [1, 2, 3, 4, 5],
        [6, 7, 8, 9, 10],
    ]


def test_ranges_join(tmp_path):
    _write(tmp_path / "joints.mat", _arrays(4, 10)[2])
    assert load("lsp", tmp_path, "7-8,1-3").image_id.tolist() == [7, 8, 1, 2, 3]


@pytest.mark.parametrize("split", ["10-11", "0-3", "5-2", "nosuch", "", "1-3,3-4", "1-2,", "1-2,9-11"])
def test_bad_split(tmp_path, split):
    _write(tmp_path / "joints.mat", _arrays(4, 10)[2])
    with pytest.raises(DataError, match="split|range"):
        load("lsp", tmp_path, split)


def test_damage_is_named(tmp_path):
    _, _, lsp, lspet = _arrays(5, 10)
    path = tmp_path / "joints.mat"
    _write(path, lspet)
    with pytest.raises(DataError, match="Load it as lspet"):
        load("lsp", tmp_path, "all")
    _write(path, lsp[:2])
    with pytest.raises(DataError, match=r"joints has shape \(2, 14, 10\)"):
        load("lsp", tmp_path, "all")
    lsp[2, 3, 4] = 7
    _write(path, lsp)
    with pytest.raises(DataError, match="person 4.joints: the flag of joint 3 is 7"):
        load("lsp", tmp_path, "all")
    path.write_bytes(b"not a mat file, whatever its name")
    with pytest.raises(DataError, match="joints.mat is not a readable Matlab file"):
        load("lsp", tmp_path, "all")


@pytest.mark.golden
def test_matches_mobilepose_preparation(golden_dir, tmp_path):
    fixture = np.load(golden_dir / "lpm_torch/datasets.npz")
    keys = [k.removesuffix("_raw3") for k in fixture.files if k.endswith("_raw3")]
    assert keys
    for key in keys:
        split = key.removeprefix("lsp_")
        raw = fixture[f"{key}_raw3"]  # (3,14,n): x, y, flag of the first images of the split
        array = np.zeros((3, 14, int(fixture["lsp_train_len"]) + int(fixture["lsp_valid_len"])))
        start = 0 if split == "train" else int(fixture["lsp_train_len"])
        array[:, :, start : start + raw.shape[2]] = raw
        _write(tmp_path / "joints.mat", array)
        found = load("lsp", tmp_path, split)
        assert len(found) == int(fixture[f"{key}_len"])
        for i in range(raw.shape[2]):
            x, y, seen = fixture[f"{key}_{i}"]
            # MobilePose orders joints its own way, so compare as sets of rows; its flag 1 is visible
            ours = np.concatenate([found.joints[i], (found.visible[i] == 2)[:, None]], 1)
            assert np.array_equal(ours[np.lexsort(ours.T)], (theirs := np.stack([x, y, seen], 1))[np.lexsort(theirs.T)])
            assert found.images[i].endswith(str(fixture[f"{key}_{i}_image"]))


@pytest.mark.golden
def test_matches_deeppose_preparation(golden_dir, tmp_path):
    fixture = np.load(golden_dir / "deeppose_tf/dataset_prep.npz")
    for name in ("lsp", "lspet"):
        _write(tmp_path / name / "joints.mat", fixture[f"{name}/joints_mat"])
        found = load(name, tmp_path / name, "all")
        lines = [str(line).split(",") for line in fixture[f"{name}/csv_lines"]]
        theirs = np.array([line[1:] for line in lines], float).reshape(len(lines), 14, 2)
        used = (found.visible > 0)[..., None] & (theirs != -1)  # there a coordinate of at most 0 is written as -1
        assert used.any() and np.array_equal(found.joints[used], theirs[used])
        assert [p.rsplit("/", 1)[1] for p in found.images] == [line[0].rsplit("/", 1)[1] for line in lines]


@pytest.mark.data
def test_real_files(pose_data):
    start = time.process_time()
    extended = load("lspet", pose_data / "lspet", "all")
    original = load("lsp", pose_data / "lsp", "all")
    assert time.process_time() - start < 1
    stored = scipy.io.loadmat(pose_data / "lspet/joints.mat")["joints"]
    assert len(extended) == stored.shape[2] and (extended.visible > 0).sum() == int(stored[:, 2].sum())
    flags = scipy.io.loadmat(pose_data / "lsp/joints.mat")["joints"][2]
    assert (original.visible == 1).sum() == int(flags.sum()) and not np.isnan(original.joints).any()
    assert len(load("lspet", pose_data / "lspet", "4001-5000")) == 1000
    # usable joints lie in the photograph: that is how a wrong convention or a wrong transpose would show
    for row in range(0, len(extended), len(extended) // 10):
        height, width = read_image(extended.images[row]).shape[:2]
        points = extended.joints[row][extended.visible[row] > 0]
        assert (points > -2).all() and (points < (width + 1, height + 1)).all()


@pytest.mark.data
def test_real_prepared_rows(pose_data):
    """DeepPose's prepared test rows of the real LSP, printed with 12 digits."""
    lines = [
        line.split(",")
        for line in (pose_data / "eval_refs/deeppose_tf_csv/lsp_ext/test_joints.csv").read_text().split()
    ]
    theirs = np.array([line[1:] for line in lines], float).reshape(len(lines), 14, 2)
    found = load("lsp", pose_data / "lsp", "all")
    rows = [int(line[0].rsplit("im", 1)[1].split(".")[0]) - 1 for line in lines]
    used = theirs != -1
    # half of the last of twelve digits, with which their text was written
    np.testing.assert_allclose(found.joints[rows][used], theirs[used], rtol=5e-12)


def test_missing_names_source_and_stand_in(tmp_path):
    with pytest.raises(
        DataMissing, match=r"sam\.johnson\.io/research/lspet.*python -m common\.datasets\.synthetic lspet"
    ):
        load("lspet", tmp_path / "nowhere", "train")
