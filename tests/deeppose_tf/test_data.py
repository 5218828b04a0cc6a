"""Crops and targets in mode correct, who is left out, reproducible samples. No framework is imported."""

import pickle
import re

import cv2
import numpy as np
import pytest

from common.errors import DataError
from common.poses import PoseSet, box_of_joints
from common.skeletons import LSP14
from deeppose_tf import data
from deeppose_tf.config import Config
from deeppose_tf.csv_files import read_csv
from tests.deeppose_tf.tiny import write_persons
from tests.tolerance import close, rounding

PAIRS = tuple(LSP14.flip_pairs)


def pose_set_of(path, joints):
    joints = np.asarray(joints, float)
    visible = np.where(np.isfinite(joints).all(-1), 2, 0).astype(np.int8)
    n = len(joints)
    return PoseSet(
        name="lsp",
        skeleton=LSP14,
        split="x",
        images=[str(path)] * n,
        image_id=np.arange(n),
        person_id=np.zeros(n, int),
        joints=joints,
        visible=visible,
        box=box_of_joints(joints),
        root="memory",
    )


@pytest.fixture
def picture(tmp_path):
    """A picture of 100 x 80 with a bright dot at (40, 30)."""
    image = np.zeros((80, 100, 3), np.uint8)
    cv2.circle(image, (40, 30), 2, (255, 255, 255), -1)
    cv2.imwrite(str(tmp_path / "a.png"), image)
    return tmp_path / "a.png"


def spread_joints(**at):
    """Joints within (10..90, 10..70) with some placed by number."""
    joints = np.stack([np.linspace(12, 88, 14), np.linspace(12, 68, 14)], -1)
    for name, value in at.items():
        joints[int(name[1:])] = value
    return joints


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("rotate", [0.0, 30.0])
def test_the_target_points_at_the_dot(picture, flip, rotate):
    """Wherever the crop, the mirror and the rotation put it, the dot's centre of mass in the crop is where the target
    says, to a quarter of a pixel of the picture: half a pixel forgotten would show."""
    persons = data.Persons(pose_set_of(picture, [spread_joints(j3=(40, 30))]), "correct")
    crops = data.Crops("correct", (1.0, 1.6), 0.2, flip, rotate, PAIRS)
    seen = set()
    for seed in range(12):
        image, targets, valid, box = data.example(persons, 0, crops, np.random.RandomState(seed))
        weight = image[..., 0].astype(float)
        assert weight.sum() > 0
        centre = (
            np.array([(weight.sum(0) * np.arange(227)).sum(), (weight.sum(1) * np.arange(227)).sum()]) / weight.sum()
        )
        distance = np.abs((targets + 0.5) * 227 - 0.5 - centre).max(1)
        joint = int(distance.argmin())
        assert distance[joint] < 0.25 * 227 / box[2:].max() and valid.all()
        seen.add(joint)
    mirrored = int(LSP14.mirror[3])
    assert seen == ({3, mirrored} if flip else {3})


def test_unproject_inverts_the_crop():
    rng = np.random.RandomState(0)
    boxes = np.stack([*rng.randint(0, 50, (2, 20)), *rng.randint(5, 90, (2, 20))], -1)
    joints = rng.uniform(-10, 150, (20, 14, 2))
    targets = np.stack([data.crop_targets(j, tuple(b), "correct") for j, b in zip(joints, boxes)])
    close(data.unproject(targets, boxes, "correct"), joints, rounding(np.abs(joints) + 100, steps=3))


def test_correct_boxes_are_intersected_and_compat_ones_slide():
    box, size = np.array([-20.0, 10.0, 50.0, 100.0]), np.array([100, 80])
    assert data.pixel_box(box, size, "correct") == (0, 10, 31, 70)
    assert data.pixel_box(box, size, "compat") == (0, 10, 50, 70)
    for mode in ("correct", "compat"):
        x, y, w, h = data.pixel_box(np.array([150.0, 90.0, 5.0, 5.0]), size, mode)
        assert 0 <= x < 100 and 0 <= y < 80 and w >= 1 and h >= 1 and x + w <= 100 and y + h <= 80


@pytest.mark.parametrize("mode", ["correct", "compat"])
@pytest.mark.parametrize("height", [None, 60, 33])
def test_reduced_pictures(picture, mode, height):
    """A reduced picture has the size that the persons know, and the dot is where its joint is, to a quarter of a
    pixel."""
    persons = data.Persons(pose_set_of(picture, [spread_joints(j3=(40, 30))]), mode, height=height)
    image = persons.image(0)[..., 0].astype(float)
    assert image.shape[::-1] == tuple(persons.size[0]) and (height is None or image.shape[0] == height)
    centre = [(image.sum(axis) * np.arange(len(image.sum(axis)))).sum() / image.sum() for axis in (0, 1)]
    shift = data.half_pixel("correct") - data.half_pixel(mode)  # DT's reduction moves what it reduces by as much
    assert np.abs(np.array(centre) - persons.joints[0, 3] + shift * (1 - 1 / persons.factor[0])).max() < 0.25


def test_who_is_left_out(picture):
    none = np.full((14, 2), np.nan)
    small = np.tile([[50.0, 40.0]], (14, 1)) + np.arange(14)[:, None] * 0.2
    right, left = spread_joints(j5=(110, 40)), spread_joints(j5=(-40, 40))
    rows = pose_set_of(picture, [spread_joints(), none, small, right, left])
    compat = data.Persons(rows, "compat", min_dim=6)
    assert compat.rows.tolist() == [0, 4]
    assert compat.joints[1, 5].tolist() == [0, 40]  # clipped, however far
    assert compat.left_out == (
        "1 with a joint right of or below the image, 1 without a valid joint, 1 smaller than 6 pixels"
    )
    correct = data.Persons(rows, "correct", min_dim=6)
    assert correct.rows.tolist() == [0, 3, 4]
    assert not correct.valid[1:, 5].any() and correct.valid[0].all()
    with pytest.raises(DataError, match="1 without a valid joint"):
        data.Persons(rows.select([1]), "correct")


def test_pictures_that_cannot_be_read(tmp_path):
    """Missing ones are left out and named; one that is cut off has a size: its person is replaced when it is drawn."""
    path = write_persons(tmp_path, 4)
    (tmp_path / "im0002.jpg").unlink()
    cut = tmp_path / "im0004.jpg"
    cut.write_bytes(cut.read_bytes()[:-200])
    persons = data.Persons(read_csv(path, Config()), "correct")
    assert persons.rows.tolist() == [0, 2, 3]
    assert re.fullmatch(r"1 in a picture that cannot be read \(.*im0002.jpg\)", persons.left_out)
    stream = data.Stream(persons, data.Crops(), 0, 0, 6)
    for position, (image, *_, unread) in enumerate(stream[p] for p in range(6)):
        epoch, place = divmod(position, 3)
        order = stream.order(epoch).tolist()
        person, after = order[place], order[(place + 1) % 3]
        assert unread == (3 if person == 2 else -1)
        stand_in = data.example(persons, after if person == 2 else person, data.Crops(), None)
        assert np.array_equal(image, stand_in[0])
    only_cut = data.Persons(read_csv(path, Config()).select([3]), "correct")
    answer = data.Stream(only_cut, data.Crops(), 0, 0, 1)[0]  # which a loader's process could not raise
    assert isinstance(answer, DataError) and "not one picture" in str(answer)
    with pytest.raises(DataError, match=r"none of 1 persons can be used: 1 in a picture .*im0002"):
        data.Persons(read_csv(path, Config()).select([1]), "correct")


def test_stream_visits_everyone_each_epoch_and_depends_on_nothing_else(tmp_path):
    persons = data.Persons(read_csv(write_persons(tmp_path, 7), Config()), "correct")
    crops = data.Crops("correct", (1.0, 2.0), 0.1, True, 0.0, PAIRS)
    stream = data.Stream(persons, crops, 3, 0, 21)
    assert [sorted(stream.order(e).tolist()) for e in range(3)] == [list(range(7))] * 3
    assert stream.order(0).tolist() != stream.order(1).tolist()
    for first, rank, world in ((0, 0, 1), (4, 1, 2)):
        part = data.Stream(persons, crops, 3, first, 3, 4, rank, world)
        for position in range(len(part)):
            for a, b in zip(part[position], stream[part.number(position)]):
                assert np.array_equal(a, b)
    parts = [data.Stream(persons, crops, 3, 8, 2, 4, r, 2) for r in range(2)]
    assert sorted(part.number(p) for part in parts for p in range(4)) == list(range(8, 16))


def test_a_spawned_loader_keeps_memory_too(tmp_path, monkeypatch):
    """It unpickles the stream and inherits nothing else."""
    persons, called = data.Persons(read_csv(write_persons(tmp_path, 3), Config()), "correct"), []
    sent = pickle.dumps(data.Stream(persons, data.Crops(), 3, 0, 3))
    monkeypatch.setattr(data, "keep_memory", lambda: called.append(True))
    stream = pickle.loads(sent)
    assert called == [True] and len(stream) == 3 and stream[2][0].shape == (227, 227, 3)
