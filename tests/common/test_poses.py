"""PoseSet: its checks, row selection, joining, and reading images."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from common.errors import DataError
from common.images import read_image
from common.poses import PoseSet, box_of_joints, concatenate
from common.skeletons import LSP14, MPII16


def make(n=3, **changes):
    rng = np.random.default_rng(n)
    joints = rng.uniform(0, 100, (n, 14, 2))
    visible = np.full((n, 14), 2, np.int8)
    if n:
        joints[0, 5], visible[0, 5] = np.nan, 0
    given = {
        "name": "lsp", "skeleton": LSP14, "split": "train", "images": [f"im{i}.jpg" for i in range(n)], "image_id": np.arange(n),
        "person_id": np.zeros(n, np.int64), "joints": joints, "visible": visible, "box": box_of_joints(joints), "scale": np.arange(n) + 1.0,
    }  # fmt: skip
    return PoseSet(**{**given, **changes})


def test_shapes_are_checked_and_the_field_named():
    for field, wrong in (
        ("joints", np.zeros((3, 13, 2))),
        ("visible", np.zeros((3, 15))),
        ("box", np.zeros((2, 4))),
        ("scale", np.zeros(2)),
    ):
        with pytest.raises(ValueError, match=field):
            make(**{field: wrong})


def test_nan_and_visibility_must_agree():
    good = make()
    with pytest.raises(ValueError, match="labelled joint has no coordinates"):
        replace(good, visible=np.full((3, 14), 2, np.int8))
    with pytest.raises(ValueError, match="must be NaN"):
        replace(good, joints=np.nan_to_num(good.joints))


def test_select_takes_slices_masks_and_indices_alike():
    whole = make(5)
    by_index = whole.select([1, 3])
    by_mask = whole.select(np.array([False, True, False, True, False]))
    for part in (by_index, by_mask):
        assert part.images == ["im1.jpg", "im3.jpg"] and part.scale.tolist() == [2, 4]
        assert np.array_equal(part.joints, whole.joints[[1, 3]]) and part.center is None
    assert whole.select(slice(3, None)).images == whole.images[3:]
    assert len(whole.limit(2)) == 2 and whole.limit(None) is whole and len(whole.limit(99)) == 5
    assert len(whole.select([])) == 0


def test_concatenate_keeps_shared_fields_and_says_synthetic():
    first, second = make(2), make(3, scale=None, synthetic=True, regions={7: ["a"]})
    both = concatenate([first, second])
    assert len(both) == 5 and both.scale is None and both.synthetic and both.regions == {7: ["a"]}
    assert np.array_equal(both.joints[2:], second.joints, equal_nan=True) and both.images == [
        *first.images,
        *second.images,
    ]
    with pytest.raises(ValueError, match="different skeletons: lsp14, mpii16"):
        concatenate([first, make(1, skeleton=MPII16, joints=np.zeros((1, 16, 2)), visible=np.ones((1, 16), np.int8))])


def test_box_of_joints_ignores_unlabelled_ones():
    joints = np.array([[[1.0, 2], [5, 9], [np.nan, np.nan]], [[np.nan, np.nan]] * 3])
    boxes = box_of_joints(joints)
    assert boxes[0].tolist() == [1, 2, 4, 7] and np.isnan(boxes[1]).all()


def test_read_image_is_bgr_and_ignores_exif_orientation(tmp_path):
    picture = np.zeros((4, 6, 3), np.uint8)
    picture[:, :, 0] = 255
    cv2.imwrite(str(tmp_path / "a.png"), picture)
    assert np.array_equal(read_image(tmp_path / "a.png"), picture)
    encoded = cv2.imencode(".jpg", picture)[1].tobytes()
    # an EXIF block that says "turn by 90 degrees" (orientation 6), put behind the start marker
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    (tmp_path / "b.jpg").write_bytes(
        encoded[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + encoded[2:]
    )
    assert cv2.imread(str(tmp_path / "b.jpg")).shape == (6, 4, 3)  # the block is understood
    assert read_image(tmp_path / "b.jpg").shape == (4, 6, 3)


def test_read_image_names_what_is_wrong(tmp_path):
    with pytest.raises(DataError, match="none.jpg does not exist"):
        read_image(tmp_path / "none.jpg")
    (tmp_path / "text.jpg").write_text("not a picture")
    with pytest.raises(DataError, match="text.jpg cannot be decoded"):
        read_image(tmp_path / "text.jpg")
