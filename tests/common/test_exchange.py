"""Other tools' people: a round trip of every kind keeps joints by name, and visibility where the kind can hold it."""

import json
import pickle

import cv2
import numpy as np
import pytest

from common import evaluate
from common.errors import DataError
from common.exchange import KINDS, main, person, plain_name, read, write
from common.skeletons import COCO17, LSP14, MEDIAPIPE33, OPENPOSE25


def people(skeleton=COCO17, labels=True):
    """Two pictures: two persons with joints visible, occluded and absent, and nobody."""
    rng = np.random.default_rng(0)
    rows = []
    for number in range(2):
        points = np.column_stack([rng.uniform(5, 90, (len(skeleton), 2)).round(2), rng.integers(0, 3, len(skeleton))])
        points[0, 2] = 2
        if not labels:
            points[:, 2] = np.where(points[:, 2] > 0, rng.uniform(0.1, 1, len(skeleton)).round(3), np.nan)
        rows.append(person(points, labels, box=[4.0, 5.0, 60.0, 70.0], score=0.5, id=number))
    return skeleton, [
        {"image": "a.png", "size": (120, 100), "persons": rows},
        {"image": "b.png", "size": (90, 80), "persons": []},
    ]


@pytest.fixture
def images(tmp_path):
    for name, (w, h) in (("a.png", (120, 100)), ("b.png", (90, 80))):
        cv2.imwrite(str(tmp_path / name), np.zeros((h, w, 3), np.uint8))
    return tmp_path


SUFFIX = {"jsonl": "x.jsonl", "json": "x.json", "coco": "x.json", "mediapipe": "x.json", "deeplabcut": "x.csv"}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("labels", [True, False])
def test_round_trip(kind, labels, images):
    skeleton = {"openpose": OPENPOSE25, "mediapipe": MEDIAPIPE33}.get(kind, COCO17)
    path = images / "out" / SUFFIX.get(kind, "folder")
    write(path, kind, people(skeleton, labels))
    found, pictures = read(path, kind, images)
    assert found == skeleton and [(p["image"], p["size"]) for p in pictures] == [
        ("a.png", (120, 100)),
        ("b.png", (90, 80)),
    ]
    before, after = people(skeleton, labels)[1][0]["persons"], pictures[0]["persons"]
    assert len(after) == 2 and pictures[1]["persons"] == []
    for one, other in zip(before, after):
        np.testing.assert_allclose(other["joints"][:, :2], one["joints"][:, :2], atol=1e-3)
        keeps = kind in ("jsonl", "json", "coco", "ultralytics")
        if labels and keeps:
            np.testing.assert_array_equal(other["joints"][:, 3], one["joints"][:, 3])
        if not labels and kind not in ("json", "coco", "ultralytics"):
            np.testing.assert_allclose(other["joints"][:, 2], one["joints"][:, 2], atol=1e-3)
        if kind in ("jsonl", "json", "coco", "ultralytics", "mmpose"):
            np.testing.assert_allclose(other["box"], one["box"], atol=1e-2)


def test_joints_go_by_name(tmp_path):
    write(tmp_path / "o", "openpose", people())
    skeleton, (picture, _) = read(tmp_path / "o", "openpose")
    source, order = people()[1][0]["persons"][0]["joints"], skeleton.indices(COCO17.joints)
    np.testing.assert_allclose(picture["persons"][0]["joints"][order][:, :2], source[:, :2])
    assert np.isnan(picture["persons"][0]["joints"][skeleton.index("left_heel"), 0])
    names = ["LeftWrist", "left wrist", "wrist_L", "l_wrist", "wrist-left", "leftWrist"]
    assert {plain_name(name) for name in names} == {"left_wrist"} and plain_name("Nose") == "nose"


def test_what_other_tools_write(images):
    (images / "labels").mkdir()
    (images / "labels" / "a.txt").write_text(
        "0 0.5 0.5 0.5 0.5 " + "0.25 0.5 0.9 " * 17 + "0.8 3\n"
    )  # results with --save-conf
    one = read(images / "labels", "ultralytics", images)[1][0]["persons"][0]
    np.testing.assert_allclose(one["joints"][0], [29.5, 49.5, 0.9, 2]) and one["score"] == 0.8
    assert one["box"] == [30, 25, 60, 50]

    (images / "m.json").write_text(
        json.dumps(
            [{"keypoints": [[1, 2]] * 17, "keypoint_scores": [0.5] * 17, "bbox": [[0, 0, 9, 8]], "bbox_score": 0.7}]
        )
    )
    assert read(images / "m.json", "mmpose")[1][0]["persons"][0]["box"] == [0, 0, 9, 8]
    video = {"meta_info": {"keypoint_id2name": {"0": "nose", "1": "left_eye", "2": "right_eye"}}, "instance_info": [
        {"frame_id": 4, "instances": [{"keypoints": [[1, 2]] * 3, "keypoint_scores": [1] * 3, "bbox": [0, 0, 9, 8]}]}]}  # fmt: skip
    (images / "v.json").write_text(json.dumps(video))
    skeleton, frames = read(images / "v.json", "mmpose")
    assert skeleton.joints == ("nose", "left_eye", "right_eye") and frames[0]["image"] == "v_000004"

    landmarks = [{"x": 0.5, "y": 0.5, "z": 0, "visibility": 0.25}] * 33
    (images / "p.jsonl").write_text(json.dumps({"image": "a.png", "poseLandmarks": landmarks}) + "\n")
    np.testing.assert_allclose(
        read(images / "p.jsonl", "mediapipe", images)[1][0]["persons"][0]["joints"][0], [59.5, 49.5, 0.25, 2]
    )

    export = {"images": [{"id": 1, "file_name": "a.png", "width": 120, "height": 100}], "annotations": [
        {"image_id": 1, "category_id": 7, "keypoints": [1, 2, 1, 0, 0, 0, 5, 6, 2]}, {"image_id": 1, "category_id": 3, "bbox": [0, 0, 1, 1]}],
        "categories": [{"id": 3, "name": "dog"}, {"id": 7, "name": "bird", "keypoints": ["beak", "Left wing", "Right wing"]}]}  # fmt: skip
    (images / "c.json").write_text(json.dumps(export))
    assert main([str(images / "c.json"), str(images / "own.json"), "--source", "coco", "--target", "json"]) == 0
    from common import datasets

    pose_set = datasets.load("json", images / "own.json", "own")
    assert pose_set.skeleton.joints == ("beak", "left_wing", "right_wing") and pose_set.visible.tolist() == [[1, 0, 2]]


@pytest.mark.parametrize("fixed", [True, False])
def test_deeplabcuts_hdf5(fixed, tmp_path):
    h5py = pytest.importorskip("h5py")
    columns = [("me", part, c) for part in ("nose", "Left ear", "Right ear") for c in ("x", "y")]
    values = np.arange(12.0).reshape(2, 6)
    values[1, 2:4] = np.nan
    with h5py.File(tmp_path / "CollectedData_me.h5", "w") as file:
        group = file.create_group("df_with_missing")
        if fixed:
            group.attrs.update({"axis0_nlevels": 3, "axis1_nlevels": 2})
            for axis, table in (("axis0", columns), ("axis1", [("video", "0.png"), ("video", "1.png")])):
                for level, column in enumerate(zip(*table)):
                    texts = sorted(set(column))
                    group[f"{axis}_level{level}"] = np.array(texts, "S")
                    group[f"{axis}_label{level}"] = [texts.index(text) for text in column]
            group["block0_values"] = values
        else:
            rows = np.zeros(2, [("index", "i8"), ("values_block_0", "f8", (6,))])
            rows["index"], rows["values_block_0"] = [0, 1], values
            group["table"] = rows
            group["table"].attrs["values_block_0_kind"] = np.void(pickle.dumps(columns, 0))
    skeleton, pictures = read(tmp_path / "CollectedData_me.h5", "deeplabcut")
    assert skeleton.joints == ("nose", "left_ear", "right_ear")
    assert [p["image"] for p in pictures] == (
        ["video/0.png", "video/1.png"] if fixed else ["CollectedData_me_000000", "CollectedData_me_000001"]
    )
    np.testing.assert_allclose(pictures[1]["persons"][0]["joints"][:, :2], [[6, 7], [np.nan, np.nan], [10, 11]])


def test_common_evaluate_scores_them(images, capsys):
    write(images / "truth.json", "json", people())
    write(images / "o", "openpose", people())
    words = [images / "o", images / "o.jsonl", "--source", "openpose", "--target", "jsonl", "--images", images]
    assert main(list(map(str, words))) == 0
    words = [
        "--dataset",
        "json",
        "--data_root",
        images / "truth.json",
        "--split",
        "truth",
        "--predictions",
        images / "o.jsonl",
    ]
    assert evaluate.main([*map(str, words), "--json", str(images / "f.json")]) == 0
    assert json.loads((images / "f.json").read_text())["oks_ap"]["total"] == 1


def test_bad_files_are_named(tmp_path, images, capsys):
    (tmp_path / "x.json").write_text("{}")
    for kind, words in (("coco", "x.json is not readable as coco"), ("openpose", "not readable as openpose")):
        with pytest.raises(DataError, match=words):
            read(tmp_path / "x.json", kind)
    with pytest.raises(DataError, match="--images"):
        write(
            tmp_path / "u",
            "ultralytics",
            (COCO17, [{"image": "a.png", "size": None, "persons": people()[1][0]["persons"]}]),
        )
    fourteen = [{"image": "a.png", "size": None, "persons": people(LSP14)[1][0]["persons"]}]
    write(tmp_path / "mm", "mmpose", (LSP14, fourteen))
    with pytest.raises(
        DataError, match="persons of 14 joints, and coco17 has 17; name the file's joints by --skeleton"
    ):
        read(tmp_path / "mm", "mmpose")
    assert len(read(tmp_path / "mm", "mmpose", skeleton="lsp14")[1][0]["persons"]) == 2
    assert main([str(tmp_path / "no"), "x", "--source", "coco", "--target", "jsonl"]) == 2
    assert "does not exist" in capsys.readouterr().err
