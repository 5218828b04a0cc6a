"""Data sets, sampling and targets: rules one by one."""

import json
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest

from common.datasets import synthetic
from common.errors import DataError
from common.evaluate import score
from common.predictions import People
from common.skeletons import AIC14
from deepercut_tf import ai2coco_art_neckhead_json
from deepercut_tf.ai2coco_art_neckhead_json import convert
from deepercut_tf.config import make_config
from deepercut_tf.data import Draw, Sampler, crop_window, make_sample
from deepercut_tf.estimator import Estimator
from deepercut_tf.items import load_items
from deepercut_tf.joints import AIC17
from deepercut_tf.pairwise import wanted_pairs
from deepercut_tf.prepare_mpii import crop_box, prepare
from deepercut_tf.targets import make_targets
from tests.tolerance import close


def coco_config(root, **more):
    keys = {
        "dataset": str(root),
        "dataset_type": "coco",
        "dataset_phase": "train2017",
        "dataset_ann": "person_keypoints",
        "pos_dist_thresh": 14,
    }
    return make_config({**keys, "location_refinement": True, **more})


def one_joint(**more):
    return make_config({"num_joints": 2, "pos_dist_thresh": 17, "location_refinement": True, **more})


def person(*rows):
    rows = np.array(rows, float)
    return rows[:, 0].astype(int), rows[:, 1:]


# ---- targets ---------------------------------------------------------------------------------------------------------


def test_nearer_joint_has_the_cell():
    """Cell (20, 20) lies nearer to the second person; the first keeps what is as near."""
    persons = [person((0, 10, 20)), person((0, 27, 20))]
    targets = make_targets(persons, (6, 6), 1.0, one_joint())
    assert targets.locref[2, 2, 0] == np.float32((27 - 20) / 7.2801)
    tie = make_targets([person((0, 14, 20)), person((0, 26, 20))], (6, 6), 1.0, one_joint())
    assert tie.locref[2, 2, 0] == np.float32((14 - 20) / 7.2801)
    # without location refinement the original lets the first person keep a cell, which shows in the pairwise entries
    assert make_targets(persons, (6, 6), 1.0, one_joint(location_refinement=False)).score.sum() == targets.score.sum()


def test_a_joint_given_twice():
    """One person's table with the same id in two rows: as if they were two persons'."""
    rows = [(0, 27, 20), (0, 10, 20), (1, 20, 20)]
    once = make_targets([person(*rows[:1], rows[2]), person(rows[1])], (6, 6), 1.0, one_joint())
    for given in (rows, [rows[1], rows[0], rows[2]]):
        twice = make_targets([person(*given)], (6, 6), 1.0, one_joint())
        np.testing.assert_array_equal(twice.score, once.score)
        np.testing.assert_array_equal(twice.locref, once.locref)
    equally_near = make_targets([person((0, 14, 20), (0, 26, 20))], (6, 6), 1.0, one_joint())
    assert equally_near.locref[2, 2, 0] == np.float32((14 - 20) / 7.2801)  # the first


def test_every_cell_by_the_rule():
    """Score and offset of each cell from its own distances; the maps end before the joints do."""
    rng, config = np.random.default_rng(5), one_joint()
    persons = [(np.arange(2), rng.uniform(-20, 90, (2, 2)).round()) for _ in range(5)]
    targets, some = make_targets(persons, (8, 10), 0.9, config), 0
    for row, column, k in np.ndindex(8, 10, 2):
        away = np.array([coords[k] - (8 * column + 4, 8 * row + 4) for _, coords in persons])
        near = (away**2).sum(1)
        inside = near.min() <= (17 * 0.9) ** 2
        assert targets.score[row, column, k] == inside
        wanted = away[near.argmin()] / config.locref_stdev * inside
        np.testing.assert_array_equal(targets.locref[row, column, 2 * k : 2 * k + 2], wanted.astype(np.float32))
        assert (targets.locref_mask[row, column, 2 * k : 2 * k + 2] == inside).all()
        some += inside
    assert 20 < some < 140


def test_threshold_is_inclusive_and_in_pixels():
    """A cell's middle at exactly the threshold is positive; joints outside the picture mark the cells inside that are
    near enough.
    """
    assert make_targets([person((0, 4 + 17, 4))], (2, 4), 1.0, one_joint()).score[0, :, 0].tolist() == [1, 1, 1, 1]
    assert make_targets([person((0, 4 + 17.1, 4))], (2, 4), 1.0, one_joint()).score[0, 0, 0] == 0
    outside = make_targets([person((0, -6, 4))], (2, 4), 1.0, one_joint())
    assert outside.score[0, :, 0].tolist() == [1, 0, 0, 0]
    assert make_targets([], (2, 2), 1.0, one_joint()).score.sum() == 0


def test_former_owner_of_pairwise_entries():
    """Correct: the nearer person's cell forgets the offsets of the former owner; compat keeps those the new owner has
    not.
    """
    statistics = np.stack([np.zeros((2, 2, 2)), np.ones((2, 2, 2))])
    persons = [person((0, 10, 20), (1, 40, 20)), person((0, 21, 20))]
    place = slice(0, 2)  # the pair 0 -> 1
    masks = [
        make_targets(persons, (6, 6), 1.0, one_joint(pairwise_predict=True, mode=mode), statistics).pairwise_mask
        for mode in ("correct", "compat")
    ]
    assert masks[0][2, 2, place].tolist() == [0, 0] and masks[1][2, 2, place].tolist() == [1, 1]
    with pytest.raises(DataError, match="no pair"):
        wanted_pairs([[0, 5]], 2)
    assert np.argwhere(wanted_pairs([[1, 0], [0, 1]], 3)).tolist() == [[0, 1]]


# ---- data sets -------------------------------------------------------------------------------------------------------


def test_scales_and_angles_go_both_ways(coco):
    keys = {"global_scale": 0.5, "scale_jitter_lo": 0.8, "scale_jitter_up": 1.3, "rotate": 30.0, "max_input_size": None}
    item_set, config = load_items(coco_config(coco, **keys))
    draws = list(islice(Sampler(item_set, config).draws(), 60))
    scale, angle = (np.array([getattr(draw, name) for draw in draws]) for name in ("scale", "angle"))
    assert 0.4 <= scale.min() < 0.44 and 0.6 < scale.max() <= 0.65
    assert -30 <= angle.min() < -20 and 20 < angle.max() <= 30


def test_coco_images_persons_and_masks(coco):
    """Every image once, people together; crowds and people without keypoints are no persons, but masked out (mirrored
    with the image).
    """
    item_set, config = load_items(coco_config(coco, weigh_part_predictions=True, mirror=True))
    content = json.loads((coco / "annotations" / "person_keypoints_train2017.json").read_text())
    assert len(item_set) == len(content["images"]) and item_set.synthetic and config.num_joints == 17
    labelled = [a for a in content["annotations"] if not a["iscrowd"] and a["num_keypoints"]]
    assert sum(len(item.persons) for item in item_set.items) == len(labelled)
    masked = [i for i, item in enumerate(item_set.items) if any(r for r in item_set.regions(item))]
    plain = make_sample(item_set, Draw(masked[0], 1.0, False), config)
    mirrored = make_sample(item_set, Draw(masked[0], 1.0, True), config)
    assert plain.targets.weights.min() == 0
    width = 8 * plain.targets.weights.shape[1]
    if width == plain.image.shape[1]:
        np.testing.assert_array_equal(mirrored.targets.weights, plain.targets.weights[:, ::-1])
    np.testing.assert_array_equal(mirrored.image, plain.image[:, ::-1])


def test_sampler_order(coco):
    """An epoch has every image, plain and mirrored, once; it depends on the seed and the draw's number alone."""
    item_set, config = load_items(coco_config(coco, mirror=True, scale_jitter_lo=0.8, scale_jitter_up=1.2))
    size = 2 * len(item_set)
    draws = list(islice(Sampler(item_set, config).draws(), 2 * size))
    assert {(d.index, d.mirror) for d in draws[:size]} == {(i, m) for i in range(len(item_set)) for m in (False, True)}
    assert draws[:size] != draws[size:] and all(0.8 <= d.scale <= 1.2 for d in draws)
    assert list(islice(Sampler(item_set, config).draws(draws[5].number), 3)) == draws[5:8]
    with pytest.raises(DataError, match="max_input_size"):
        next(Sampler(item_set, make_config({"max_input_size": 20})).draws())


def test_rotation_takes_the_joints_along(tmp_path):
    """A dot at the joint is at the turned joint; the mask turns as the picture; no side gets longer than the longer one
    was.
    """
    from deepercut_tf.data import rotation, turn

    image, joint = np.zeros((60, 90, 3), np.uint8), np.array([70, 20])
    image[joint[1] - 1 : joint[1] + 2, joint[0] - 1 : joint[0] + 2] = 255
    for angle in (-40, 0, 25, 90, 180):
        matrix, size = rotation(image.shape[:2], angle)
        turned, mask = turn(image, matrix, size, (0, 0, 0)), turn((image[..., 0] > 0).astype(np.uint8), matrix, size, 0)
        rows, columns = np.nonzero(turned[..., 0] > 100)
        expected = matrix[:, :2] @ joint + matrix[:, 2]
        # a turned pixel falls into the nearest one
        close([columns.mean(), rows.mean()], expected, 0.5)
        close(np.argwhere(mask).mean(0)[::-1], expected, 0.5)
        assert max(size) <= 90
    assert rotation((60, 90), 0)[1] == (60, 90) and rotation((60, 90), 90)[1] == (90, 60)


def test_lspet_crops_and_angles(tmp_path):
    """crop cuts an only person's box out of a folder's picture, with joints on the same pixels; angles depend on the
    draw alone.
    """
    synthetic.main(["lspet", str(tmp_path / "lspet"), "--count", "4"])
    keys = {
        "dataset": str(tmp_path / "lspet"),
        "dataset_type": "lspet",
        "dataset_phase": "train",
        "pos_dist_thresh": 10,
        "crop_pad": 4,
    }
    item_set, config = load_items(make_config({**keys, "crop": True, "rotate": 30}))
    blue = np.full((60, 80, 3), (200, 100, 10), np.uint8)
    turned = make_sample(item_set, Draw(0, angle=30.0), replace(config, crop=False), image=blue).image  # RGB
    middle, corner = turned[turned.shape[0] // 2, turned.shape[1] // 2], turned[0, 0]
    assert middle.tolist() == [10, 100, 200] and corner.tolist() == [round(v) for v in config.mean_pixel]
    whole, cut = (make_sample(item_set, Draw(0), replace(config, crop=crop)) for crop in (False, True))
    top, left = (part.start for part in crop_window(whole.image, item_set.items[0], config))
    height, width = cut.image.shape[:2]
    np.testing.assert_array_equal(cut.image, whole.image[top : top + height, left : left + width])
    x, y = item_set.items[0].persons[0][:, 1:].T
    assert x.min() >= left and y.min() >= top and x.max() <= left + width and y.max() <= top + height
    draws = list(islice(Sampler(item_set, config).draws(), 6))
    assert len({d.angle for d in draws}) == 6 and all(abs(d.angle) <= 30 for d in draws)
    assert list(islice(Sampler(item_set, config).draws(draws[2].number), 2)) == draws[2:4]


def test_mpii_from_the_release(tmp_path):
    """Prepared persons of 400 pixels; joints on the same pixels of the crop as in the picture."""
    from scipy.io import loadmat

    from common import datasets

    synthetic.main(["mpii", str(tmp_path / "mpii"), "--count", "3"])
    path = prepare(tmp_path / "mpii", tmp_path / "out", "correct")
    item_set, config = load_items(make_config({"dataset": str(path), "dataset_type": "mpii"}))
    release = (
        datasets.load("mpii", tmp_path / "mpii", "all") if "all" in datasets.splits("mpii", tmp_path / "mpii") else None
    )
    assert len(item_set) == loadmat(path)["dataset"].size and config.num_joints == 14 and item_set.synthetic
    for item in item_set.items:
        table = item.persons[0]
        assert (table[:, 1:] >= 0).all() and (table[:, 1] < item.size[1]).all() and (table[:, 2] < item.size[0]).all()
        transform = np.loadtxt(str(item.image).replace("/im", "/T_im").replace(".png", ".txt"))
        back = np.concatenate([table[:, 1:] + 1, np.ones((len(table), 1))], axis=1) @ transform.T
        assert np.isfinite(back).all()
    compat = prepare(tmp_path / "mpii", tmp_path / "old", "compat")
    one_based, _ = load_items(make_config({"dataset": str(compat), "dataset_type": "mpii", "mode": "compat"}))
    np.testing.assert_array_equal(one_based.items[0].persons[0][:, 1:], item_set.items[0].persons[0][:, 1:] + 1)
    assert release is None or len(release)


def test_other_people_are_cut_away():
    """The box ends 20 pixels before the neighbours' joints, only with `isolate`, and stays in the picture."""
    points, others = np.array([[200.0, 100], [300, 500]]), np.array([[150.0, 100], [390, 90], [250, 20]])
    assert crop_box(points, others, (600, 600), True).tolist() == [170, 1, 370, 600]
    assert crop_box(points, others, (600, 600), False).tolist() == [135, 35, 365, 565]


def test_original_mat_layout(tmp_path):
    """All persons of an entry (compat: the first), 1-based files shifted, empty joints allowed, ids checked."""
    from scipy.io import savemat

    def write(cells, name="d.mat", **more):
        table = np.empty((1, 1), [("image", object), ("size", object), ("joints", object)])
        inner = np.empty((1, len(cells)), object)
        for i, cell in enumerate(cells):
            inner[0, i] = np.array(cell)
        table[0, 0] = ("a.png", np.array([[3, 120, 110]]), inner)
        savemat(tmp_path / name, {"dataset": table, **more})
        return str(tmp_path / name)

    two = write([[[0, 5, 6]], [[1, 7, 8]]])
    item_set, _ = load_items(make_config({"dataset": two, "dataset_type": "mpii"}))
    assert [p.tolist() for p in item_set.items[0].persons] == [[[0, 4, 5]], [[1, 6, 7]]]
    compat, _ = load_items(make_config({"dataset": two, "dataset_type": "mpii", "mode": "compat"}))
    assert [p.tolist() for p in compat.items[0].persons] == [[[0, 5, 6]]] and compat.mirror_shift == 0
    empty, _ = load_items(make_config({"dataset": write([np.zeros((0, 0))], "e.mat"), "dataset_type": "mpii"}))
    assert empty.items[0].persons == []
    with pytest.raises(DataError, match="id outside 0..13"):
        load_items(make_config({"dataset": write([[[14, 5, 6]]], "f.mat"), "dataset_type": "mpii"}))
    from_zero = write([[[0, 5, 6]]], "g.mat", origin=0)
    assert load_items(make_config({"dataset": from_zero, "dataset_type": "mpii"}))[0].items[0].persons[0].tolist() == [
        [0, 5, 6]
    ]
    for origin in ([], 0.5, "one", [0, 1]):
        with pytest.raises(DataError, match="h.mat: field origin is .* it must be 0 or 1"):
            load_items(make_config({"dataset": write([[[0, 5, 6]]], "h.mat", origin=origin), "dataset_type": "mpii"}))


@pytest.mark.data
def test_converter_and_back(pose_data, tmp_path, monkeypatch):
    """The real 1000 images' annotations: every person survives the way there and back; as a data set it has AI
    Challenger's joints.
    """
    source = next((pose_data / "aic").rglob("keypoint_*annotations*.json"))
    copied = tmp_path / source.name
    copied.write_bytes(source.read_bytes())
    (tmp_path / "none").mkdir()
    arguments = ["--keypoint_json", str(copied), "--img_dir", str(tmp_path / "none")]
    assert ai2coco_art_neckhead_json.main(arguments) == 2
    monkeypatch.setattr(ai2coco_art_neckhead_json, "image_size", lambda path: (2000, 2000))
    assert ai2coco_art_neckhead_json.main(arguments) == 0
    (tmp_path / "annotations").mkdir()
    (tmp_path / f"coco_art_neckhead_{source.name}").rename(tmp_path / "annotations" / "person_keypoints_train2014.json")
    item_set, config = load_items(coco_config(tmp_path, dataset_type="aic", dataset_phase="train2014"))
    assert item_set.skeleton == AIC17 and [1] in config.all_joints and [2] in config.all_joints
    entries = json.loads(source.read_text())
    people = [p for e in entries for p in e["keypoint_annotations"].values()]
    pose_set = item_set.pose_set
    assert len(pose_set) == len(people)
    assert pose_set.skeleton == AIC14  # as AI Challenger's metric wants it; the network's are the slots
    with pytest.raises(DataError, match="field categories has the 17 keypoints neck"):
        load_items(coco_config(tmp_path, dataset_phase="train2014"))
    expected = np.array(people, float).reshape(-1, 14, 3)
    expected[expected[..., 2] == 3] = 0
    np.testing.assert_array_equal(np.nan_to_num(pose_set.joints), expected[..., :2])


def knowing(item_set, config):
    """An Estimator that finds exactly the annotated persons, picture by picture."""
    estimator, by_path = Estimator.__new__(Estimator), {item.image: item.persons for item in item_set.items}
    estimator.config, estimator.skeleton, estimator.together, estimator.path = config, item_set.skeleton, True, None

    def look(item_set, item, boxes):
        persons = by_path[item.image]
        shape = len(persons), config.num_joints
        joints, score = np.full((*shape, 2), np.nan), np.zeros(shape)
        for k, rows in enumerate(persons):
            joints[k, rows[:, 0].astype(int)], score[k, rows[:, 0].astype(int)] = rows[:, 1:], 0.9
        return People.of(joints, score)

    estimator._look = look
    return estimator


def test_converted_set_has_ai_challengers_metric(tmp_path):
    """The annotated persons of ai2coco's file score 1 by AI Challenger's metric, through COCO's slots and back; less
    when one has moved.
    """
    import cv2

    folder, rng = tmp_path / "images" / "train2014", np.random.default_rng(0)
    folder.mkdir(parents=True)
    entries = []
    for name in ("a", "b"):
        cv2.imwrite(str(folder / f"{name}.jpg"), np.zeros((120, 110, 3), np.uint8))
        people = {
            f"human{k}": np.concatenate([rng.integers(5, 100, (14, 2)), np.ones((14, 1), int)], axis=1).ravel().tolist()
            for k in (1, 2)
        }
        entries.append(
            {
                "image_id": name,
                "keypoint_annotations": people,
                "human_annotations": {who: [5, 5, 100, 100] for who in people},
            }
        )
    (tmp_path / "k.json").write_text(json.dumps(entries))
    assert ai2coco_art_neckhead_json.main(["--keypoint_json", str(tmp_path / "k.json"), "--img_dir", str(folder)]) == 0
    (tmp_path / "annotations").mkdir()
    (tmp_path / "coco_art_neckhead_k.json").rename(tmp_path / "annotations" / "person_keypoints_train2014.json")
    item_set, config = load_items(coco_config(tmp_path, dataset_type="aic", dataset_phase="train2014"))
    truth = item_set.pose_set
    predictions = knowing(item_set, config).predict_pose_set(truth)
    assert score(truth, predictions)["aic_map"].total == 1
    predictions.joints[0] += 50
    assert score(truth, predictions)["aic_map"].total < 1


def test_unknown_flags_of_the_converter():
    entry = {
        "image_id": "a",
        "keypoint_annotations": {"human1": [0] * 42},
        "human_annotations": {"human1": [0, 0, 5, 5]},
    }
    assert (
        convert([entry], {"a": (9, 9)})["annotations"][0]["num_keypoints"] == 14
    )  # anything but 1, 2, 3 counts as visible, as in the original


def test_crowdpose_is_read_by_its_record(tmp_path):
    """A data set that only common.datasets knows: persons, joints and crops come from its record."""
    synthetic.main(["crowdpose", str(tmp_path / "crowd"), "--count", "6"])
    item_set, config = load_items(make_config({"dataset": "crowdpose", "data_root": str(tmp_path / "crowd")}))
    assert config.num_joints == 14 and item_set.synthetic and sum(len(item.persons) for item in item_set.items) > 0
    predictions = knowing(item_set, config).predict_pose_set(item_set.pose_set)
    assert score(item_set.pose_set, predictions)["oks_ap"].total > 0.99
