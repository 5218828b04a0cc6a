"""Label maps, centre maps and data-set arrays against MobilePose's own (heatmaps.npz, datasets.npz)."""

import json
from pathlib import Path

import numpy as np
import pytest
import scipy.io

torch = pytest.importorskip("torch")

from common import datasets  # noqa: E402
from common.codecs import gaussian_maps  # noqa: E402
from common.skeletons import LPM14, LSP14  # noqa: E402
from lpm_torch import data  # noqa: E402
from lpm_torch.data import CENTER_SIGMA, belief_labels, center_maps, center_place, make_clips, to_network  # noqa: E402
from tests.tolerance import close, rounding, stored  # noqa: E402

pytestmark = pytest.mark.golden
EXPONENTIALS = rounding(1, steps=3)  # the largest value is 1


@pytest.fixture(scope="module")
def maps(golden_arrays):
    return golden_arrays("heatmaps")


@pytest.fixture(scope="module")
def arrays(golden_arrays):
    return golden_arrays("datasets")


@pytest.fixture(scope="module")
def constants(golden_dir):
    return json.loads((golden_dir / "lpm_torch/fixture.json").read_text())["heatmaps"]


def test_label_maps(maps, constants):
    """float32 products of two exponentials."""
    joints = maps["joints"]
    everything = np.ones(joints.shape[:2])
    labels = belief_labels(
        joints, everything, constants["image_size"], constants["grid"], constants["sigma"], background=False
    )
    close(labels, maps["label_each"], EXPONENTIALS, "labels")
    assert not labels[:, 14].any()
    video = constants["label_video_joints"]
    close(labels[video], maps["label_video"], EXPONENTIALS, "labels of a video")


def test_label_maps_of_another_size(maps, constants):
    c = constants["label_nobg_64_s1"]
    joints = maps["joints"][c["joints"]][None]  # as they are, not rescaled to the smaller image
    labels = belief_labels(joints, np.ones(joints.shape[:2]), c["image_size"], c["grid"], c["sigma"], background=False)
    close(labels[:, :14], maps["label_nobg_64_s1"], EXPONENTIALS, "labels")


def center_map(joints: np.ndarray, size: int, transposed: bool) -> np.ndarray:
    return center_maps(torch.from_numpy(center_place(joints, size, transposed))[None], size)[0].numpy()


def test_centre_maps(maps, constants):
    """The fixture is float16."""
    size = constants["image_size"]
    for joints, expected, (x, y) in zip(maps["joints"], maps["center_each_f16"], maps["center_xy"]):
        ours = center_map(joints[None], size, transposed=True)
        assert ours.shape == (1, size, size)
        close(ours[0], expected, stored(expected) + EXPONENTIALS, "centre map")
        upright = center_map(joints[None], size, transposed=False)[0]
        assert np.array_equal(upright, ours[0].T)
        row, column = np.unravel_index(upright.argmax(), upright.shape)
        assert abs(column - x) <= 0.5 and abs(row - y) <= 0.5
    video = center_map(maps["joints"][constants["center_video_joints"]], size, transposed=True)[0]
    close(video, maps["center_video_f16"], stored(maps["center_video_f16"]) + EXPONENTIALS, "centre map of a video")


def test_centre_map_of_a_given_centre(maps, constants):
    size = constants["image_size"]
    point = np.array([constants["center_from_center"]])
    ours = gaussian_maps(point[:, ::-1], np.ones(1, bool), (size, size), CENTER_SIGMA)[0]  # transposed, as in training
    close(ours, maps["center_from_center_f16"], stored(maps["center_from_center_f16"]) + EXPONENTIALS, "centre map")
    assert constants["center_sigma"] == CENTER_SIGMA


def write_penn(arrays, root):
    (root / "labels").mkdir()
    for video in {name.split("_")[2] for name in arrays if name.startswith("penn_in_")}:
        fields = {f: arrays[f"penn_in_{video}_{f}"] for f in ("x", "y", "visibility", "bbox", "nframes", "train")}
        scipy.io.savemat(
            root / "labels" / f"{video}.mat", {**fields, "dimensions": np.array([[480, 640, len(fields["x"])]])}
        )


@pytest.mark.parametrize("split", ["train", "valid"])
def test_penn_clips(arrays, tmp_path, split):
    """Windows, the order of joints, and the neck; the loader subtracts the files' first pixel, which is added again
    here."""
    write_penn(arrays, tmp_path)
    pose_set = datasets.load("penn_action", tmp_path, split)
    clips = make_clips(pose_set, arrays[f"penn_{split}_x"].shape[1])
    joints, visible = to_network(pose_set)
    joints, given, origin = data.source_rows(pose_set, joints)
    assert given is None and origin == 1
    assert [f"{s:04d}" for s in pose_set.sequence[clips[:, 0]]] == arrays[f"penn_{split}_video"].tolist()
    assert np.array_equal(pose_set.frame[clips[:, 0]], arrays[f"penn_{split}_start"])
    folders = [Path(pose_set.images[row]).parent.relative_to(tmp_path) for row in clips[:, 0]]
    assert [f"{folder.as_posix()}/*" for folder in folders] == arrays[f"penn_{split}_frames_root_tail"].tolist()
    expected = np.stack([arrays[f"penn_{split}_x"], arrays[f"penn_{split}_y"]], axis=-1)
    close(joints[clips], expected, rounding(expected.max(), 3, 2, np.float64), "joints")
    assert np.array_equal(visible[clips] == 2, arrays[f"penn_{split}_visibility"] == 1)
    if split == "valid":
        names = arrays["penn_keys_for_start5_video0001"].tolist()
        assert [f"{name}.jpg" for name in pose_set.image_id[make_clips(pose_set, len(names))[1]]] == names


def test_mpii_rows(arrays, tmp_path):
    """Joints are whole numbers, as MobilePose truncated them; its boxes are cut to the picture of the fixture's
    name."""
    (tmp_path / "annot").mkdir()
    (tmp_path / "annot/train.json").write_text(str(arrays["mpii_json"]))
    pose_set = datasets.load("mpii", tmp_path, "train")
    mapped, visible = to_network(pose_set)
    joints, given, _ = data.source_rows(pose_set, mapped)
    assert np.array_equal(joints, np.stack([arrays["mpii_x"], arrays["mpii_y"]], axis=-1))
    assert np.array_equal(visible > 0, arrays["mpii_vis"] > 0)
    name = next(n for n in arrays if n.startswith("mpii_bbox_"))
    width, height = map(int, name.removeprefix("mpii_bbox_").split("x"))
    image = np.zeros((height, width, 3), np.uint8)
    boxes = [data.open_view(image, joints[i], 85, given[i]).box for i in range(len(joints))]
    assert np.array_equal(boxes, arrays[name])


@pytest.mark.parametrize("split", ["train", "valid"])
def test_lsp_rows(arrays, tmp_path, split):
    """The flag 1 means occluded: visible = 1 - flag, both with coordinates."""
    count = int(arrays["lsp_train_len"]) + int(arrays["lsp_valid_len"])
    stored = np.zeros((3, 14, count))
    first = 0 if split == "train" else int(arrays["lsp_train_len"])
    raw = arrays[f"lsp_{split}_raw3"]
    stored[:, :, first : first + raw.shape[2]] = raw
    scipy.io.savemat(tmp_path / "joints.mat", {"joints": stored})
    pose_set = datasets.load("lsp", tmp_path, split)
    assert len(pose_set) == int(arrays[f"lsp_{split}_len"]) and pose_set.skeleton is LSP14
    joints, visible = to_network(pose_set)
    joints, given, _ = data.source_rows(pose_set, joints)
    assert given is None and joints.shape[1] == len(LPM14)
    for i in range(raw.shape[2]):
        expected = arrays[f"lsp_{split}_{i}"]
        assert np.array_equal(joints[i], expected[:2].T)
        assert np.array_equal(visible[i] == 2, expected[2] == 1)
        assert pose_set.images[i].endswith(str(arrays[f"lsp_{split}_{i}_image"]))
