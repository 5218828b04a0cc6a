"""MPII: release file, JSON form, gt_valid.mat."""

import json
import time

import numpy as np
import pytest
import scipy.io

from common.datasets import load
from common.errors import DataError, DataMissing
from tests.tolerance import rounding

EXACT = rounding(1000, steps=4, dtype=np.float64)  # pixels


def _person(rng, head, points=16, visible=True):
    chosen = sorted(rng.permutation(16)[:points].tolist())
    point = [
        {
            "id": k,
            "x": rng.uniform(10, 500),
            "y": rng.uniform(10, 500),
            **({"is_visible": int(k % 2)} if visible else {}),
        }
        for k in chosen
    ]
    return {
        **dict(zip(("x1", "y1", "x2", "y2"), map(float, head))),
        "scale": rng.uniform(1, 4),
        "objpos": {"x": rng.uniform(50, 400), "y": rng.uniform(50, 400)},
        "annopoints": {"point": point} if points else [],
    }


def _release(path, seed=0):
    """A release file of 5 images: two persons; one; none; an unannotated person; a test image. Returns the annotated training persons."""
    rng = np.random.default_rng(seed)
    people = [
        [_person(rng, (10, 20, 40, 60)), _person(rng, (100, 20, 150, 90), 9)],
        [_person(rng, (5, 5, 9, 8), 16, False)],
        [],
        [_person(rng, (1, 2, 3, 4), 0)],
    ]
    people.append([{"scale": 2.0, "objpos": {"x": 33.0, "y": 44.0}}])
    annolist = [{"image": {"name": f"{i:09d}.jpg"}, "annorect": rects} for i, rects in enumerate(people)]
    scipy.io.savemat(path, {"RELEASE": {"annolist": annolist, "img_train": np.array([1, 1, 1, 1, 0])}})
    return [(f"{i:09d}.jpg", p) for i, rects in enumerate(people) for p in rects if p.get("annopoints")]


def test_release(tmp_path):
    persons = _release(tmp_path / "mpii_human_pose_v1_u12_1.mat")
    found = load("mpii", tmp_path, "all")
    assert found.image_id.tolist() == [image for image, _ in persons] and found.person_id.tolist() == [0, 1, 0]
    for row, (_, person) in enumerate(persons):
        for point in person["annopoints"]["point"]:
            assert found.joints[row, point["id"]].tolist() == [point["x"] - 1, point["y"] - 1]
            assert found.visible[row, point["id"]] == (1 if point.get("is_visible", 1) == 0 else 2)
        assert (found.visible[row] > 0).sum() == len(person["annopoints"]["point"])
        assert found.center[row].tolist() == [person["objpos"]["x"] - 1, person["objpos"]["y"] - 1]
        diagonal = np.hypot(person["x2"] - person["x1"], person["y2"] - person["y1"])
        assert found.head_size[row] == pytest.approx(0.6 * diagonal, rel=0, abs=EXACT)
        assert found.box[row, 2:].tolist() == pytest.approx([200 * person["scale"]] * 2, rel=0, abs=EXACT)
    assert len(load("mpii", tmp_path, "test")) == 1 and np.isnan(load("mpii", tmp_path, "test").joints).all()
    with pytest.raises(DataError, match=r"known: trainval, test, all.*annot/valid\.json"):
        load("mpii", tmp_path, "valid")


def test_json_damage_is_named(tmp_path):
    path = tmp_path / "annot/valid.json"
    path.parent.mkdir()
    good = {"image": "a.jpg", "center": [5, 6], "scale": 1.0, "joints": [[1, 2]] * 16, "joints_vis": [1] * 16}
    for bad, message in (
        ({"joints": [[1, 2]] * 15}, r"entry \[1\].joints is a list of 15"),
        ({"scale": "x"}, "scale is 'x'"),
        ({"joints": None}, r"entry \[1\].joints is missing"),
        ({"joints_vis": [2] * 16}, r"entry \[1\].joints_vis"),
    ):
        path.write_text(json.dumps([good, {**good, **bad}]))
        with pytest.raises(DataError, match=message):
            load("mpii", tmp_path, "valid")
    path.write_text(json.dumps([good, {**good, "center": [-1, -1], "scale": -1}]))
    found = load("mpii", tmp_path, "val")
    assert found.center[0].tolist() == [4, 5] and np.isnan(found.center[1]).all() and np.isnan(found.scale[1])
    assert found.box[1].tolist() == [0, 1, 0, 0]
    path.write_text("[{")
    with pytest.raises(DataError, match="not readable JSON"):
        load("mpii", tmp_path, "valid")


def test_missing(tmp_path):
    with pytest.raises(DataMissing, match=r"human-pose\.mpi-inf\.mpg\.de.*synthetic mpii"):
        load("mpii", tmp_path, "valid")


@pytest.mark.golden
def test_release_matches_deeppose_preparation(golden_dir, tmp_path):
    """DeepPose keeps persons with all 16 joints and walks images in the file's order, as `all` does."""
    fixture = np.load(golden_dir / "deeppose_tf/dataset_prep.npz")
    (tmp_path / "mpii_human_pose_v1_u12_1.mat").write_bytes(fixture["mpii/mat_bytes"].tobytes())
    found = load("mpii", tmp_path, "all")
    found = found.select((found.visible > 0).all(1))
    lines = [json.loads(str(line)) for line in fixture["mpii/data_json_lines"]]
    assert found.image_id.tolist() == [line["filename"] for line in lines]
    for row, line in enumerate(lines):
        assert (found.joints[row] + 1).tolist() == [
            pytest.approx(line["joint_pos"][str(k)], rel=0, abs=EXACT) for k in range(16)
        ]
        if line["is_visible"] is not None:
            assert (found.visible[row] == 2).tolist() == [bool(line["is_visible"][str(k)]) for k in range(16)]
    for part in ("train", "test"):
        lines, split = (
            [str(line).split(",") for line in fixture[f"mpii/{part}_csv"]],
            load("mpii", tmp_path, f"deeppose_tf_{part}"),
        )
        assert split.image_id.tolist() == [line[0] for line in lines] and split.split == f"deeppose_tf_{part}"
        np.testing.assert_allclose(
            split.joints.reshape(len(lines), 32) + 1,
            [[float(v) for v in line[1:]] for line in lines],
            rtol=0,
            atol=EXACT,
        )


@pytest.mark.golden
def test_json_matches_mobilepose(golden_dir, tmp_path):
    fixture = np.load(golden_dir / "lpm_torch/datasets.npz")
    (tmp_path / "valid.json").write_text(str(fixture["mpii_json"]))
    found = load("mpii", tmp_path, "valid")
    kept = [0, 1, 2, 3, 4, 5, 14, 15, 8, 9, 10, 11, 12, 13]  # MobilePose's order
    seen = fixture["mpii_vis"] == 1
    assert np.array_equal(found.visible[:, kept] > 0, seen)
    stored = found.joints[:, kept] + 1  # MobilePose takes the 1-based numbers as they are and truncates them
    assert np.array_equal(stored[seen].astype(int), np.stack([fixture["mpii_x"], fixture["mpii_y"]], -1)[seen])


@pytest.mark.golden
def test_ground_truth_alone(golden_dir):
    root = golden_dir / "simplebaseline_paddle/mpii"
    stored = scipy.io.loadmat(root / "annot/gt_valid.mat")
    found = load("mpii", root, "valid")
    seen = stored["jnt_missing"].T == 0
    assert np.array_equal(found.visible > 0, seen) and found.center is None
    assert np.array_equal(found.joints[seen], stored["pos_gt_src"].transpose(2, 0, 1)[seen] - 1)
    boxes = stored["headboxes_src"]
    np.testing.assert_allclose(found.head_size, 0.6 * np.linalg.norm(boxes[1] - boxes[0], axis=0), rtol=0, atol=EXACT)


@pytest.mark.data
def test_real_validation_split(pose_data):
    start = time.process_time()
    found = load("mpii", pose_data / "mpii", "valid")
    assert time.process_time() - start < 1
    entries = json.loads((pose_data / "mpii/annot/valid.json").read_text())
    assert len(found) == len(entries) and found.image_id.tolist() == [e["image"] for e in entries]
    seen = np.array([e["joints_vis"] for e in entries], bool)
    assert np.array_equal(found.visible > 0, seen)
    differs = np.abs(found.joints + 1 - np.array([e["joints"] for e in entries])).max(-1) > 0.01
    assert differs[seen].sum() == 13  # stated in the loader's text
    assert np.array_equal(found.center, np.array([e["center"] for e in entries]) - 1)
    assert (found.head_size > 0).all()
