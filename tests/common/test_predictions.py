"""The prediction file: round trip, atomic writing, and messages for files that are none."""

import os

import numpy as np
import pytest

from common.errors import DataError
from common.poses import PoseSet, box_of_joints
from common.predictions import load_predictions, predictions_for, save_predictions
from common.skeletons import LSP14, SKELETONS, Skeleton


@pytest.fixture
def pose_set():
    joints = np.random.default_rng(0).uniform(0, 100, (3, 14, 2))
    return PoseSet(
        name="lsp", skeleton=LSP14, split="test", images=["a", "b", "c"], image_id=np.array(["a", "b", "c"]), person_id=np.arange(3),
        joints=joints, visible=np.full((3, 14), 2, np.int8), box=box_of_joints(joints), synthetic=True,
    )  # fmt: skip


@pytest.fixture
def predictions(pose_set):
    score = np.linspace(0, 1, 3 * 14).reshape(3, 14)
    found = pose_set.joints + 1
    found[1, 2] = np.nan
    return predictions_for(pose_set, found, score, {"model": "lpm", "flip_test": False})


def rewrite(path, **changes):
    """The file at `path` again with some fields replaced, or left out where None."""
    with np.load(path) as data:
        fields = {**{n: data[n] for n in data.files}, **changes}
    np.savez(path, **{n: v for n, v in fields.items() if v is not None})


def test_round_trip(tmp_path, predictions):
    path = tmp_path / "deep" / "p.npz"
    save_predictions(path, predictions)
    back = load_predictions(path)
    for name in ("joints", "score", "person_score", "box", "box_score", "area", "image_id", "person_id", "frame"):
        stored, given = getattr(back, name), getattr(predictions, name)
        assert stored.dtype == given.dtype and np.array_equal(stored, given, equal_nan=stored.dtype.kind == "f"), name
    assert (back.skeleton, back.dataset, back.split) == (LSP14, "lsp", "test")
    assert back.meta == {"model": "lpm", "flip_test": False, "synthetic": True}


def test_rows_follow_the_pose_set(pose_set, predictions):
    assert np.array_equal(predictions.area, pose_set.box[:, 2] * pose_set.box[:, 3])
    assert predictions.frame.tolist() == [-1, -1, -1] and predictions.joints.dtype == np.float32
    assert np.allclose(predictions.person_score, predictions.score.mean(1))
    assert (predictions_for(pose_set, pose_set.joints).score == 1).all()
    other = np.zeros((3, 4))
    assert predictions_for(pose_set, pose_set.joints, box=other).box is other


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path, predictions, monkeypatch):
    path = tmp_path / "p.npz"
    save_predictions(path, predictions)
    before = path.read_bytes()
    predictions.meta["bad"] = object()  # not JSON
    with pytest.raises(TypeError):
        save_predictions(path, predictions)
    del predictions.meta["bad"]

    def full_disk(file, **arrays):
        file.write(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(np, "savez_compressed", full_disk)
    with pytest.raises(OSError, match="No space"):
        save_predictions(path, predictions)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["p.npz"]


def test_rows_are_checked_before_writing(tmp_path, predictions):
    predictions.box = predictions.box[:2]
    with pytest.raises(ValueError, match="field box has 2 rows"):
        save_predictions(tmp_path / "p.npz", predictions)
    predictions.box = np.array([None] * 3, dtype=object)
    with pytest.raises(ValueError, match="field box has dtype object"):
        save_predictions(tmp_path / "p.npz", predictions)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"score": None}, "lacks the field 'score'"),
        ({"skeleton": None}, "lacks the field 'skeleton'"),
        ({"skeleton": np.array("lsp15"), "joint_names": None}, "'lsp15' is not known; write lsp14"),
        ({"skeleton": np.array("mpii16"), "limbs": None}, "'mpii16' is taken by a skeleton with other joints"),
        ({"joint_names": np.array(["left_a"])}, "joint_names"),
        (
            {"skeleton": np.array("mine"), "joint_names": np.array(["left_a"]), "limbs": None},
            "left_a has no counterpart",
        ),
        (
            {"skeleton": np.array("mpii16"), "joint_names": None},
            r"field joints has shape \(3, 14, 2\); 3 rows of skeleton mpii16 need \(3, 16, 2\)",
        ),
        ({"meta": np.array("{half")}, "field meta"),
        ({"score": np.zeros((3, 13))}, r"field score has shape \(3, 13\)"),
        ({"box": np.zeros((2, 4))}, r"field box has shape \(2, 4\)"),
        ({"area": np.float64(3)}, r"field area has shape \(\)"),
        ({"joints": np.float64(3)}, r"field joints has shape \(\)"),
        ({"image_id": np.array([{}, {}, {}], dtype=object)}, "not a readable prediction file"),
    ],
)
def test_a_bad_field_is_named(tmp_path, predictions, changes, message):
    path = tmp_path / "p.npz"
    save_predictions(path, predictions)
    rewrite(path, **changes)
    with pytest.raises(DataError, match=message) as error:
        load_predictions(path)
    assert str(path) in str(error.value)


def test_a_skeleton_of_the_users_own_travels_with_the_file(tmp_path, predictions):
    names = tuple(f"part_{i}" for i in range(len(LSP14)))
    predictions.skeleton = Skeleton("worm", names, ((0, 13),))
    save_predictions(tmp_path / "p.npz", predictions)
    back = load_predictions(tmp_path / "p.npz").skeleton
    assert back == Skeleton("worm", names) and back.limbs == ((0, 13),) and "worm" not in SKELETONS


def test_files_without_joint_names_are_read(tmp_path, predictions):
    save_predictions(tmp_path / "p.npz", predictions)
    rewrite(tmp_path / "p.npz", joint_names=None)
    assert load_predictions(tmp_path / "p.npz").skeleton is LSP14


def test_damaged_and_foreign_files(tmp_path, predictions):
    path = tmp_path / "p.npz"
    save_predictions(path, predictions)
    whole = path.read_bytes()
    damaged = bytearray(whole)
    damaged[60:400] = bytes(340)
    contents = {
        "truncated": whole[: len(whole) // 2],
        "damaged": bytes(damaged),
        "empty": b"",
        "text": b"joints,score\n1,2\n",
    }
    for name, content in contents.items():
        path.write_bytes(content)
        with pytest.raises(DataError, match="p.npz is not a readable prediction file"):
            load_predictions(path)
            pytest.fail(name)
    with open(path, "wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(DataError, match="not a readable prediction file"):
        load_predictions(path)
    with pytest.raises(DataError, match="absent.npz"):
        load_predictions(tmp_path / "absent.npz")
