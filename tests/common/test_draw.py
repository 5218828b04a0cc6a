import json

import cv2
import numpy as np
import pytest

from common import draw
from common.draw import LEFT, RIGHT, contact_sheet, draw_pose, save_image, truth_and_prediction
from common.errors import DataError
from common.skeletons import COCO17, LSP14, SKELETONS


def standing(skeleton, size=200):
    """A rough standing person, the right side on the left of the image, every joint at a place of its own."""
    heights = {
        "head": 0.1, "face": 0.12, "nose": 0.13, "eye": 0.11, "ear": 0.14, "neck": 0.2, "thorax": 0.25, "shoulder": 0.27, "elbow": 0.4,
        "wrist": 0.5, "hand": 0.52, "belly": 0.4, "spine": 0.4, "pelvis": 0.52, "hip": 0.55, "knee": 0.72, "ankle": 0.9, "foot": 0.92,
    }  # fmt: skip
    joints = np.empty((len(skeleton), 2))
    for i, name in enumerate(skeleton.joints):
        y = next(h for part, h in heights.items() if part in name)
        side = -1 if name.startswith("right") else 1 if name.startswith("left") else 0
        reach = 0.05 if name.endswith(("eye", "ear")) else 0.2
        joints[i] = 0.5 + side * reach * (1 + y / 2), y
    return joints * size


def changed(before, after):
    return (before != after).any(-1)


@pytest.mark.parametrize("skeleton", SKELETONS.values(), ids=list(SKELETONS))
def test_every_skeleton_is_drawn_along_its_limbs(skeleton):
    image, joints = np.full((200, 200, 3), 128, np.uint8), standing(skeleton)
    mask = changed(image, draw_pose(image, joints, skeleton))
    assert (image == 128).all(), "the input is not drawn on"
    for a, b in skeleton.limbs:
        x, y = np.rint((joints[a] + joints[b]) / 2).astype(int)
        assert mask[y, x], (skeleton.joints[a], skeleton.joints[b])
    x, y = np.rint(joints).astype(int).T
    assert mask[y, x].all()
    assert mask.mean() < 0.25


def test_sides_have_their_colours():
    joints = standing(LSP14)
    drawn = draw_pose(np.full((200, 200, 3), 128, np.uint8), joints, LSP14)
    for side, color in (("right", RIGHT), ("left", LEFT)):
        x, y = np.rint(joints[LSP14.indices([f"{side}_knee", f"{side}_ankle"])].mean(0)).astype(int)
        np.testing.assert_array_equal(drawn[y, x], color)
    one = draw_pose(np.zeros((200, 200, 3), np.uint8), joints, LSP14, color=(0, 0, 255))
    assert (one[..., 2] >= one[..., 0]).all() and one[..., 2].max() == 255


def test_missing_and_low_scored_joints_take_their_limbs_along():
    image, joints = np.full((200, 200, 3), 128, np.uint8), standing(LSP14)
    ankle, knee = LSP14.indices(["left_ankle", "left_knee"])
    score = np.ones(14)
    score[ankle] = 0.2
    by_score = draw_pose(image, joints, LSP14, score, min_score=0.3)
    score[ankle] = np.nan
    by_nan_score = draw_pose(image, joints, LSP14, score)
    joints[ankle] = np.nan
    drawn = draw_pose(image, joints, LSP14)
    np.testing.assert_array_equal(drawn, by_score)
    np.testing.assert_array_equal(drawn, by_nan_score)
    assert not changed(image, drawn)[int(joints[knee, 1]) + 12 :, 100:].any()
    assert (draw_pose(image, np.full((14, 2), np.nan), LSP14) == image).all()


def test_far_and_infinite_joints_do_not_wrap_around():
    image = np.full((100, 120, 3), 128, np.uint8)
    joints = np.full((14, 2), np.nan)
    knee, ankle = LSP14.indices(["left_knee", "left_ankle"])
    joints[knee] = 60, 50
    alone = draw_pose(image, joints, LSP14, width=6)
    for far in (1e5, 3e8, 2.0**28, 1e300, np.inf):
        joints[ankle] = far, 50
        np.testing.assert_array_equal(draw_pose(image, joints, LSP14, width=6), alone)
    joints[ankle] = 300, 50
    beside = changed(image, draw_pose(image, joints, LSP14, width=6))
    assert beside[50, 60:].all() and not beside[:, :50].any(), "a joint just outside keeps its limb"


def test_placed_to_a_fraction_of_a_pixel():
    joints = np.full((14, 2), np.nan)

    def centre(x, y):
        joints[LSP14.index("neck")] = x, y
        weight = draw_pose(np.zeros((41, 61, 3), np.uint8), joints, LSP14, color=(255, 255, 255), width=8)[
            ..., 0
        ].astype(float)
        return (weight * np.arange(61)).sum() / weight.sum(), (weight * np.arange(41)[:, None]).sum() / weight.sum()

    for x, y in ((30, 20), (30.5, 20), (30.25, 20.75)):
        # 1/16 pixel of the fixed-point coordinates, and as much again for the anti-aliasing
        np.testing.assert_allclose(centre(x, y), (x, y), atol=0.125)


def test_lines_grow_with_the_image():
    small, large = (
        changed(i := np.full((s, s, 3), 128, np.uint8), draw_pose(i, standing(LSP14, s), LSP14)).mean()
        for s in (200, 800)
    )
    # lines of fixed width would cover a fourth of the share on the image four times as large
    assert 0.6 < small / large < 1.7


def test_several_persons_grey_images_and_wrong_shapes():
    people = np.stack([standing(COCO17), standing(COCO17) * 0.5])
    grey = np.full((200, 200), 90, np.uint8)
    both = draw_pose(grey, people, COCO17, np.ones((2, 17)))
    one_by_one = draw_pose(draw_pose(grey, people[0], COCO17), people[1], COCO17)
    np.testing.assert_array_equal(both, one_by_one)
    with pytest.raises(ValueError, match=r"skeleton lsp14 needs \(14, 2\)"):
        draw_pose(grey, people, LSP14)
    with pytest.raises(ValueError, match="float64"):
        draw_pose(grey / 255, people, COCO17)


def test_truth_and_prediction_side_by_side():
    image = np.full((50, 40, 3), 128, np.uint8)
    truth = standing(LSP14, 40)
    shifted = truth + [5, 0]
    pair = truth_and_prediction(image, truth, shifted, LSP14, height=200)
    left, right = pair[-200:, :160], pair[-200:, -160:]
    plain = np.full_like(left, 128)
    np.testing.assert_array_equal(left, draw_pose(plain, (truth + 0.5) * 4 - 0.5, LSP14))
    np.testing.assert_array_equal(right, draw_pose(plain, (shifted + 0.5) * 4 - 0.5, LSP14))
    assert pair.shape[0] > 200 and pair.shape[1] > 320
    assert (pair[:-200, :160] < 128).any() and (pair[:-200, -160:] < 128).any(), "titles"


def test_contact_sheet_shows_every_image_whole():
    images = [
        np.full(shape, 10 * (i + 1), np.uint8)
        for i, shape in enumerate([(30, 60, 3), (60, 30, 3), (300, 300, 3), (10, 200, 3), (8, 8)])
    ]
    sheet = contact_sheet(images, 2, (100, 80))
    for i, image in enumerate(images):
        ys, xs = np.nonzero((sheet == 10 * (i + 1)).all(-1))
        height, width = np.ptp(ys) + 1, np.ptp(xs) + 1
        assert width == 100 or height == 80
        assert abs(width / height - image.shape[1] / image.shape[0]) < 0.15 * width / height
        assert (ys.mean() > sheet.shape[0] / 3) == (i >= 2) and (xs.mean() > sheet.shape[1] / 2) == (i % 2 == 1)
    captioned = contact_sheet(images, 2, (100, 80), [f"number {i} with a very long name ä" for i in range(5)])
    assert captioned.shape[0] > sheet.shape[0] and captioned.shape[1] == sheet.shape[1]
    gaps = captioned[:, [0, 1, captioned.shape[1] // 2]]
    assert (gaps == draw._PAPER).all(), "long captions are cut to their cell"
    assert contact_sheet(images[:1], 4, (100, 80)).shape[1] < 120
    for bad in (
        lambda: contact_sheet([], 2),
        lambda: contact_sheet(images, 0),
        lambda: contact_sheet(images, 2, captions=["one"]),
    ):
        with pytest.raises(ValueError, match="contact sheet"):
            bad()


def test_save_image_whole_or_not_at_all(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    save_image(tmp_path / "new" / "a.png", image)
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "new/a.png")), image)
    with pytest.raises(DataError, match=r"cannot be written as \.nothing"):
        save_image(tmp_path / "a.nothing", image)
    assert [f.name for f in tmp_path.iterdir()] == ["new"]


def test_persons_in_colours_of_their_own():
    """A number has one colour wherever it stands in the row; neighbours differ."""
    image, pose = np.zeros((60, 60, 3), np.uint8), np.full((14, 2), 30.0)
    alone = [draw_pose(image, pose, LSP14, numbers=[n])[30, 30].tolist() for n in (0, 1)]
    assert alone[0] != alone[1]
    both = draw_pose(image, np.array([pose - 15, pose + 15]), LSP14, numbers=[1, 0])
    assert [both[15, 15].tolist(), both[45, 45].tolist()] == alone[::-1]


def test_sides_of_a_numbered_person_by_shade():
    joints = standing(LSP14)
    drawn = draw_pose(np.full((200, 200, 3), 128, np.uint8), joints, LSP14, numbers=[3])
    bright = [
        drawn[tuple(np.rint(joints[LSP14.indices([f"{side}_knee", f"{side}_ankle"])].mean(0)).astype(int)[::-1])].sum()
        for side in ("right", "left")
    ]
    assert bright[0] + 150 < bright[1]


def test_unsure_joints_are_hollow_when_asked():
    image, joints, score = np.full((200, 200, 3), 128, np.uint8), standing(LSP14), np.ones(14)
    ankle = LSP14.index("left_ankle")
    score[ankle] = 0.1
    plain, hollow = (draw_pose(image, joints, LSP14, score, min_score=0.5, hollow=h, width=8) for h in (False, True))
    x, y = np.rint(joints[ankle]).astype(int)
    assert not changed(plain, hollow)[:150].any() and changed(plain, hollow)[y - 7 : y + 8, x - 7].any()
    assert (hollow[y, x] == 128).all(), "a ring"


def test_boxes_labels_and_joint_numbers_stay_inside():
    image, joints = np.full((200, 200, 3), 128, np.uint8), standing(LSP14)
    where = np.array([[-20.0, 2.0, 150.0, 250.0]])
    boxed = draw_pose(image, joints[None], LSP14, boxes=where, numbers=[1])
    assert changed(image, boxed)[2:190, 129].all()
    labelled = draw_pose(image, joints[None], LSP14, boxes=where, numbers=[1], labels=["#1 0.50"])
    seen = changed(boxed, labelled)
    assert seen[:20, :60].mean() > 0.3 and not seen[40:].any()
    assert changed(boxed, draw_pose(image, joints[None], LSP14, numbers=[1], numbered=True)).any()
    panel = draw.legend(LSP14, 280)
    assert panel.shape[0] == 280 and (panel == RIGHT).all(-1).any() and (panel == LEFT).all(-1).any()
    shades = draw.legend(LSP14, 280, several=True)  # of persons whose colours differ: no side has one
    assert (np.ptp(shades.astype(int), axis=-1) == 0).all() and (panel != shades).any()


def test_a_large_picture_has_lines_of_its_size_and_small_persons_thin_ones():
    image = np.full((3000, 4000, 3), 128, np.uint8)
    large, small = (changed(image, draw_pose(image, standing(LSP14, size), LSP14)).sum() for size in (2800, 140))
    assert 100 < large / small < 600


def test_a_sheet_of_what_networks_say(tmp_path, capsys):
    save_image(tmp_path / "a.png", np.full((80, 100, 3), 128, np.uint8))
    joints = [[*xy, 1.0] for xy in standing(LSP14, 80).tolist()]
    line = {
        "image": "a.png",
        "skeleton": "lsp14",
        "joint_names": LSP14.joints,
        "persons": [{"joints": [None, *joints[1:]]}],
    }
    (tmp_path / "x.jsonl").write_text(json.dumps(line) + "\n" + json.dumps({"image": "b.png", "error": "unreadable"}))
    words = [
        tmp_path / "sheet.png",
        tmp_path / "a.png",
        "--lines",
        f"one={tmp_path / 'x.jsonl'}",
        f"two={tmp_path / 'x.jsonl'}",
    ]
    assert draw.main(list(map(str, words))) == 0
    sheet = cv2.imread(str(tmp_path / "sheet.png"))
    thirds = [sheet[:320, k * 328 + 8 : k * 328 + 328] for k in range(3)]
    assert not (thirds[0] == RIGHT).all(-1).any() and all((third == RIGHT).all(-1).any() for third in thirds[1:])
    assert (
        draw.main([str(tmp_path / "s.png"), str(tmp_path / "none.png")]) == 2 and "none.png" in capsys.readouterr().err
    )
