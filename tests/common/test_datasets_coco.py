"""COCO and AI Challenger."""

import json
from collections import Counter

import numpy as np
import pytest

from common.datasets import load, splits
from common.errors import DataError, DataMissing
from common.images import read_image
from common.skeletons import COCO17


def _coco(path):
    points = [[10 * k, 20, k % 3] for k in range(17)]
    square = [[1, 1, 1, 21, 31, 21, 31, 1]]
    base = {
        "image_id": 7,
        "category_id": 1,
        "bbox": [1, 1, 30, 20],
        "area": 500.0,
        "iscrowd": 0,
        "keypoints": [0] * 51,
        "segmentation": square,
    }
    annotations = [
        {**base, "id": 3, "keypoints": [v for p in points for v in p]},
        {**base, "id": 4},
        {**base, "id": 5, "iscrowd": 1, "segmentation": {"size": [50, 60], "counts": [0, 10, 2990]}},
    ]
    images = [{"id": k, "file_name": name, "width": 60, "height": 50} for k, name in ((7, "a.jpg"), (8, "b"))]
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"images": images, "annotations": annotations}))


def test_rows_and_regions(tmp_path):
    _coco(tmp_path / "annotations/person_keypoints_val2017.json")
    found = load("coco", tmp_path, "valid")
    assert found.skeleton is COCO17 and splits("coco", tmp_path) == ["val2017"]
    assert found.person_id.tolist() == [3, 4, 5] and found.ignore.tolist() == [False, True, True]
    assert found.visible[0].tolist() == [k % 3 for k in range(17)]
    assert found.joints[0, 4].tolist() == [40, 20] and np.isnan(found.joints[0, 3]).all()
    assert found.image_size.tolist() == [[60, 50]] * 3 and found.area.tolist() == [500] * 3
    assert found.images[0] == f"{tmp_path}/images/val2017/a.jpg"
    (tmp_path / "val2017").mkdir()
    assert load("coco", tmp_path, "val2017").images[0] == f"{tmp_path}/val2017/a.jpg"
    assert set(found.regions) == {7, 8} and found.regions[8] == []


def test_regions_are_rle(tmp_path):
    mask = pytest.importorskip("pycocotools.mask")
    _coco(tmp_path / "annotations/person_keypoints_train2014.json")
    regions = load("coco", tmp_path, "train").regions[7]
    assert [(r["id"], r["iscrowd"]) for r in regions] == [(4, 0), (5, 1)]
    assert mask.area(regions).tolist() == [600, 10]  # a polygon of 30x20 pixels, a run of 10
    assert mask.decode(regions[0])[1:21, 1:31].all()


def test_damage(tmp_path):
    path = tmp_path / "annotations/person_keypoints_val2017.json"
    _coco(path)
    content = json.loads(path.read_text())
    content["annotations"][0]["keypoints"][2] = 5
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match="flag of joint 0 is 5"):
        load("coco", tmp_path, "val")
    content["annotations"][0]["keypoints"][2] = 1
    del content["annotations"][0]["bbox"]
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match="bbox"):
        load("coco", tmp_path, "val")
    content["annotations"][1]["keypoints"] = [0] * 42
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match="annotations.1..keypoints is a list of 42"):
        load("coco", tmp_path, "val")
    with pytest.raises(DataError, match="known: val2017"):
        load("coco", tmp_path, "train")
    with pytest.raises(DataMissing, match=r"cocodataset\.org.*synthetic coco"):
        load("coco", tmp_path / "nowhere", "val")


def test_joints_of_the_category(tmp_path):
    """Names that are not COCO's are refused, in another order too; written otherwise they are the same names, and numbers are none."""
    path = tmp_path / "annotations/person_keypoints_val2017.json"
    _coco(path)
    content = json.loads(path.read_text())
    for names in (
        list(COCO17.joints),
        [n.replace("_", " ").title() for n in COCO17.joints],
        [f"k{i}" for i in range(17)],
        [],
    ):
        path.write_text(json.dumps(content | {"categories": [{"id": 1, "name": "person", "keypoints": names}]}))
        assert load("coco", tmp_path, "val").skeleton is COCO17
    for names in (["neck", *COCO17.joints[1:]], list(COCO17.joints[::-1]), list(COCO17.joints[:14])):
        path.write_text(json.dumps(content | {"categories": [{"id": 1, "name": "person", "keypoints": names}]}))
        with pytest.raises(
            DataError, match=rf"val2017\.json: field categories has the {len(names)} keypoints {names[0]}"
        ):
            load("coco", tmp_path, "val")


@pytest.mark.data
@pytest.mark.parametrize("folder", ["coco", "coco_mini4"])
def test_real_coco(pose_data, folder):
    for split in splits("coco", pose_data / folder):
        found = load("coco", pose_data / folder, split)
        content = json.loads((pose_data / folder / f"annotations/person_keypoints_{split}.json").read_text())
        rows = content["annotations"]
        assert [int(v) for v in (found.visible > 0).sum(1)] == [a["num_keypoints"] for a in rows]
        assert found.ignore.tolist() == [bool(a["iscrowd"] or not a["num_keypoints"]) for a in rows]
        assert set(found.regions) == {i["id"] for i in content["images"]}
        width, height = found.image_size[0]
        assert read_image(found.images[0]).shape == (height, width, 3)


@pytest.mark.golden
def test_simple_baselines_records(golden_dir):
    """Which persons the original keeps, and their joints, follow from the loader; its box and centre are the house's."""
    root = golden_dir / "simplebaseline_paddle/coco"
    split = splits("coco", root)[0]
    found = load("coco", root, split)
    records = json.loads((root / "expected_db.json").read_text())["db"]
    wanted = Counter(
        (r["filename"], str(np.array(r["joints"])[:, :2][np.array(r["vis"]) > 0].tolist())) for r in records
    )
    rows = np.flatnonzero(~found.ignore)
    ours = Counter(
        (found.images[r].rsplit("/", 1)[1], str(found.joints[r][found.visible[r] > 0].tolist())) for r in rows
    )
    assert wanted and not wanted - ours
    assert len(list(rows)) >= len(records)


def _aic(path, v=1):
    entry = {
        "image_id": "abc",
        "keypoint_annotations": {
            "human2": [k for i in range(14) for k in (i, 2 * i, i % 3 + 1)],
            "human1": [5, 6, v] * 14,
        },
        "human_annotations": {"human1": [1, 2, 11, 22], "human2": [0, 0, 5, 6]},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([entry]))


def test_ai_challenger(tmp_path):
    _aic(tmp_path / "train_20170909/keypoint_train_annotations_20170909.json")
    (tmp_path / "train_20170909/keypoint_train_images_20170902").mkdir()
    found = load("ai_challenger", tmp_path, "train")
    assert found.person_id.tolist() == [2, 1] and found.image_id.tolist() == ["abc", "abc"]
    assert found.visible[0, :3].tolist() == [2, 1, 0] and np.isnan(found.joints[0, 2]).all()
    assert found.joints[0, 1].tolist() == [1, 2]
    assert found.box.tolist() == [[0, 0, 5, 6], [1, 2, 10, 20]] and found.area.tolist() == [30, 200]
    assert found.images[0] == f"{tmp_path}/train_20170909/keypoint_train_images_20170902/abc.jpg"
    with pytest.raises(DataError, match="no split 'valid'; known: train"):
        load("ai_challenger", tmp_path, "valid")
    _aic(tmp_path / "lone/keypoint_annotations.json", v=4)
    with pytest.raises(DataError, match=r"human1.keypoints: the flag of joint 0 is 4"):
        load("ai_challenger", tmp_path / "lone", "all")
    with pytest.raises(DataMissing, match="official page is known.*synthetic ai_challenger"):
        load("ai_challenger", tmp_path / "nowhere", "valid")


@pytest.mark.data
def test_real_ai_challenger(pose_data):
    found = load("ai_challenger", pose_data / "aic", "all")
    entries = json.loads((pose_data / "aic/keypoint_annotations_example.json").read_text())
    flags = Counter(v for e in entries for points in e["keypoint_annotations"].values() for v in points[2::3])
    assert [int((found.visible == k).sum()) for k in (2, 1, 0)] == [flags[1], flags[2], flags[3]]
    assert len(set(found.image_id.tolist())) == len([e for e in entries if e["keypoint_annotations"]])


@pytest.mark.golden
def test_ai_challenger_converter_input(golden_dir):
    found = load("ai_challenger", golden_dir / "deepercut_tf/ai_challenger_in.json", "all")
    converted = json.loads((golden_dir / "deepercut_tf/ai_challenger_coco_out.json").read_text())["annotations"]
    slots = [6, 8, 10, 5, 7, 9, 12, 14, 16, 11, 13, 15, 1, 0]  # COCO slot of each AI Challenger joint in that converter
    theirs = np.array([a["keypoints"] for a in converted], float).reshape(-1, 17, 3)[:, slots]
    assert np.array_equal(found.visible, theirs[..., 2])
    seen = found.visible > 0
    assert np.array_equal(found.joints[seen], theirs[..., :2][seen])
    assert np.array_equal(found.box, [a["bbox"] for a in converted]) and np.array_equal(
        found.area, [a["area"] for a in converted]
    )


def test_a_year_that_is_asked_for_is_not_another(tmp_path):
    _coco(tmp_path / "annotations/person_keypoints_val2014.json")
    assert load("coco", tmp_path, "valid").images[0].startswith(str(tmp_path / "images/val2014"))
    with pytest.raises(DataError, match="no split 'val2017'; known: val2014"):
        load("coco", tmp_path, "val2017")
