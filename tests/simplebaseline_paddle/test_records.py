"""Centre, scale and choice of persons for MPII, COCO and detection files."""

import json

import numpy as np
import pytest

from common import datasets
from common.datasets import synthetic
from common.errors import DataError
from simplebaseline_paddle.config import Config
from simplebaseline_paddle.records import center_and_scale, records_for
from tests.tolerance import close, rounding

COCO_CONFIG = Config(dataset="coco", mode="compat", boxes="annotated")


@pytest.mark.golden
def test_coco_records(golden_dir):
    root = golden_dir / "simplebaseline_paddle/coco"
    expected = json.loads((root / "expected_db.json").read_text())["db"]
    pose_set = datasets.load("coco", root, "val")
    records = records_for(pose_set, COCO_CONFIG)
    assert [p.rpartition("/")[2] for p in records.images] == [r["filename"] for r in expected]
    for found, name in ((records.center, "center"), (records.scale, "scale")):  # float32, a few operations
        truth = np.array([r[name] for r in expected])
        close(found, truth, rounding(np.abs(truth), steps=4), name)
    seen = np.array([r["vis"] for r in expected]) > 0
    np.testing.assert_array_equal(records.seen, seen)
    truth = np.array([r["joints"] for r in expected])[..., :2]
    np.testing.assert_array_equal(records.joints[seen], truth[seen])
    chosen = records_for(pose_set, Config(dataset="coco", mode="compat", boxes="selected"))
    stats = json.loads((root / "expected_stats.json").read_text())
    assert (len(records), len(chosen)) == (stats["n_db"], stats["n_selected"])
    np.testing.assert_array_equal(chosen.rows, records.rows[[r["selected"] for r in expected]])


@pytest.mark.golden
def test_boxes_to_centre_and_scale(golden_dir):
    cases = json.loads((golden_dir / "simplebaseline_paddle/coco/expected_db.json").read_text())["box2cs"]
    assert any(c["center"][0] == -1 for c in cases)
    for case in cases:
        width = round(case["aspect"] * 256)
        config = Config(dataset="coco", input_height=256, input_width=width)
        center, scale = center_and_scale(np.array([case["box"]], float), config, compat=True)
        close(center[0], case["center"], rounding(np.abs(case["center"]), steps=4))
        close(scale[0], case["scale"], rounding(np.abs(case["scale"]), steps=4))
        if case["center"][0] == -1:
            padded = center_and_scale(np.array([case["box"]], float), config)[1]
            close(padded, 1.25 * scale, rounding(scale))


@pytest.mark.data
def test_mpii_records(pose_data):
    pose_set = datasets.load("mpii", pose_data / "mpii", "valid")
    entries = json.loads((pose_data / "mpii/annot/valid.json").read_text())
    records = records_for(pose_set, Config(dataset="mpii"))
    assert len(records) == len(entries)
    center = (
        np.array([e["center"] for e in entries]) + np.array([[0, 15]]) * np.array([[e["scale"]] for e in entries]) - 1
    )
    scale = 1.25 * np.array([[e["scale"]] * 2 for e in entries])
    close(records.center, center, rounding(np.abs(center), steps=3, dtype=np.float64))
    close(records.scale, scale, rounding(scale, dtype=np.float64))


@pytest.mark.data
def test_published_detections(pose_data):
    """The real boxes of the detector with AP 56.4 for four images."""
    path = next((pose_data / "coco_mini4").glob("person_detection_results/*.json"))
    pose_set = datasets.load("coco", pose_data / "coco_mini4", "val")
    records = records_for(pose_set, Config(dataset="coco", boxes=str(path)))
    entries = [e for e in json.loads(path.read_text()) if e["category_id"] == 1]
    assert len(records) == len(entries)
    np.testing.assert_array_equal(records.box_score, [e["score"] for e in entries])
    fewer = records_for(pose_set, Config(dataset="coco", boxes=str(path), box_threshold=0.5))
    assert len(fewer) == sum(e["score"] >= 0.5 for e in entries) < len(records)
    # a padded box contains the detector's and has the input's aspect
    boxes, inner = records.box, np.array([e["bbox"] for e in entries])
    assert (boxes[:, :2] <= inner[:, :2] + rounding(640)).all() and (boxes[:, 2:] >= inner[:, 2:]).all()
    close(boxes[:, 2] / boxes[:, 3], np.full(len(boxes), 0.75), rounding(0.75, steps=4))


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """The val split of a drawn COCO."""
    root = tmp_path_factory.mktemp("drawn") / "coco"
    synthetic.make("coco", root, 4)
    return datasets.load("coco", root, "val")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"image_id": 1, "category_id": 1, "score": 1.0}, r"entry \[0\].bbox is missing"),
        ({"image_id": 1, "category_id": 1, "score": 1.0, "bbox": [1, 2]}, "write 4 finite numbers"),
        ({"image_id": -5, "category_id": 1, "score": 1.0, "bbox": [1, 2, 3, 4]}, "not in coco/val"),
        (
            {"image_id": 1, "category_id": 0, "score": 1.0, "bbox": [1, 2, 3, 4]},
            "no entry is of persons; write category_id 1",
        ),
        ({"image_id": 1, "score": 1.0, "bbox": [1, 2, 3, 4]}, r"entry \[0\].category_id is missing"),
        (
            {"image_id": 1, "category_id": 1, "score": None, "bbox": [1, 2, 3, 4]},
            r"entry \[0\].score is missing or null",
        ),
        ({"image_id": 1, "category_id": 1, "score": 1.0, "bbox": ["1", 2, 3, 4]}, r"entry \[0\].bbox is"),
    ],
)
def test_bad_detection_files(drawn, tmp_path, entry, message):
    path = tmp_path / "detections.json"
    path.write_text(json.dumps([entry]))
    with pytest.raises(DataError, match=message):
        records_for(drawn, Config(dataset="coco", boxes=str(path)))


def test_boxes_without_area_are_left_out(drawn, tmp_path):
    image = int(drawn.image_id[0])
    good = {"image_id": image, "category_id": 1, "score": 1.0, "bbox": [1, 2, 3, 4]}
    path = tmp_path / "detections.json"
    path.write_text(json.dumps([good, {**good, "bbox": [5, 5, 0, 0]}, {**good, "category_id": 3}]))
    records = records_for(drawn, Config(dataset="coco", boxes=str(path)))
    assert len(records) == 1 and "1 boxes without area left out" in records.note


def test_a_person_without_any_box_is_named():
    from common.poses import PoseSet
    from common.skeletons import MPII16

    joints = np.full((1, 16, 2), np.nan)
    nothing = np.full((1, 4), np.nan)
    pose_set = PoseSet(
        "mpii", MPII16, "valid", ["a.jpg"], np.array(["a"]), np.array([0]), joints, np.zeros((1, 16), np.int8), nothing
    )
    with pytest.raises(DataError, match="person 0 of valid .a.jpg. has neither a scale nor a box"):
        records_for(pose_set, Config(dataset="mpii"))
