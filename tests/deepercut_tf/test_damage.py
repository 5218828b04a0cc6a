"""Damaged and foreign files: named and refused, or left out with a word while the work goes on."""

import json

import cv2
import numpy as np
import pytest
from scipy.io import savemat

from common.datasets import synthetic
from common.errors import DataError, DataWarning
from common.predictions import People
from deepercut_tf import ai2coco_art_neckhead_json
from deepercut_tf.config import make_config
from deepercut_tf.data import batches
from deepercut_tf.estimator import Estimator
from deepercut_tf.items import load_items
from deepercut_tf.pairwise_stats import load_statistics
from deepercut_tf.weight_files import read_weights


@pytest.fixture(scope="module")
def lsp(tmp_path_factory):
    """Drawn pictures, one of them no picture and one cut off."""
    root = tmp_path_factory.mktemp("damage") / "LSP"
    synthetic.main(["lsp", str(root), "--count", "6"])
    paths = [item.image for item in of(root)[0].items]
    with open(paths[1], "wb") as file:
        file.write(b"no picture")
    with open(paths[2], "r+b") as file:
        file.truncate(file.seek(0, 2) * 2 // 3)
    return root


def of(root, **more):
    return load_items(make_config({"dataset": "lsp", "data_root": str(root), "train_split": "1-6", **more}))


@pytest.mark.filterwarnings("ignore::common.errors.DataWarning")
def test_an_unreadable_picture_is_left_out_of_training(lsp, capfd):
    """Counted and named at the end; a whole epoch goes by without it."""
    item_set, config = of(lsp, shuffle=False)
    stream = batches(item_set, config, None, workers=1)
    draws = [int(next(stream)["draw"]) for _ in range(6)]
    assert draws == [1, 3, 4, 5, 6, 7]
    item_set.say_unreadable()
    told = capfd.readouterr().err
    assert (
        told.count("warning: left out: image") == 1
        and f"1 of 6 pictures were unreadable: {item_set.items[1].image}" in told
    )


def test_an_unreadable_picture_has_no_answer(lsp, capfd):
    """Its row is NaN, the others are predicted; one that is cut off is read as far as it goes, with a warning."""
    item_set, config = of(lsp)
    estimator = Estimator.__new__(Estimator)
    estimator.config, estimator.skeleton, estimator.together, estimator.path = config, item_set.skeleton, False, None
    estimator.predict = lambda image: People.of(np.ones((1, config.num_joints, 2)))
    with pytest.warns(DataWarning, match="cut off"):
        found = estimator.predict_pose_set(item_set.pose_set)
    assert np.isnan(found.joints).all((1, 2)).tolist() == [False, True, False, False, False, False]
    assert "1 of 6 pictures were unreadable" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"meta": np.array("{")}, "field meta"),
        ({"meta": np.array("[1]")}, "write an object"),
        ({"meta": np.array('{"config": 3}')}, "config"),
        ({"meta": np.array('{"config": {}, "about": {"skeleton": "x"}}')}, "skeleton"),
        ({"meta": np.array('{"config": {}}')}, "first form"),
    ],
)
def test_cards_of_weights(tmp_path, content, message):
    np.savez(tmp_path / "w.npz", **content)
    with pytest.raises(DataError, match=rf"w\.npz.*{message}"):
        read_weights(tmp_path / "w.npz")
    (tmp_path / "w.npz").write_bytes(b"PK\x03\x04")
    with pytest.raises(DataError, match="not a readable file of weights"):
        read_weights(tmp_path / "w.npz")


def test_settings_of_another_version(tmp_path):
    """Settings that there are no more do not keep weights from being read."""
    card = {"config": {"net_type": "resnet_50", "test_scales": [1.0]}, "about": {"skeleton": {}}}
    np.savez(tmp_path / "w.npz", meta=np.array(json.dumps(card)))
    assert read_weights(tmp_path / "w.npz")[1]["config"] == {"net_type": "resnet_50"}


def write_mat(path, joints, image="a.png", size=(3, 120, 110)):
    table = np.empty((1, 1), [("image", object), ("size", object), ("joints", object)])
    cell = np.empty((1, 1), object)
    cell[0, 0] = joints
    table[0, 0] = (image, np.array([size]), cell)
    savemat(path, {"dataset": table})
    return {"dataset": str(path), "dataset_type": "mpii"}


@pytest.mark.parametrize("joints", [[[0.5, 5, 6]], [[np.nan, 5, 6]], [[0, np.inf, 6]], [[-1, 5, 6]], "text", [[0, 5]]])
def test_joints_that_make_no_sense(tmp_path, joints):
    with pytest.raises(DataError, match=r"d\.mat: entry 0, field joints"):
        load_items(make_config(write_mat(tmp_path / "d.mat", np.array(joints))))


def test_a_size_that_is_none(tmp_path):
    with pytest.raises(DataError, match=r"d\.mat: entry 0 .* cannot be read"):
        load_items(make_config(write_mat(tmp_path / "d.mat", np.array([[0, 5, 6]]), size=(3, np.inf, 110))))


def test_statistics_that_do_not_fit(tmp_path):
    pairs = {"graph": np.array([[0, 1], [1, 0]])}
    for more in ({"means": "x", "std_devs": "x"}, {"means": np.zeros((3, 2)), "std_devs": np.ones((3, 2))}):
        savemat(tmp_path / "s.mat", pairs | more)
        with pytest.raises(DataError, match=r"s\.mat"):
            load_statistics(tmp_path / "s.mat", 2)


def test_deeplabcuts_files(tmp_path):
    """Its settings with --allow_unknown; its .mat, whose paths are in parts and from the project's folder."""
    keys = {
        "dataset_type": "imgaug",
        "crop_size": [400, 400],
        "project_path": str(tmp_path),
        "num_joints": 2,
        "rotation": 25,
    }
    keys |= {"all_joints": [[0], [1]], "all_joints_names": ["snout", "tail"], "net_type": "resnet_50"}
    folder = tmp_path / "training-datasets" / "iteration-0"
    folder.mkdir(parents=True)
    (tmp_path / "labeled-data" / "clip").mkdir(parents=True)
    cv2.imwrite(str(tmp_path / "labeled-data" / "clip" / "0.png"), np.zeros((120, 110, 3), np.uint8))
    parts = np.array(["labeled-data", "clip        ", "0.png       "])
    keys["dataset"] = write_mat(folder / "d.mat", np.array([[0, 5, 6], [1, 7, 8]]), parts)["dataset"]
    item_set, config = load_items(make_config(keys, allow_unknown=True))
    assert cv2.imread(item_set.items[0].image) is not None and config.dataset == "default"
    with pytest.raises(DataError, match="imgaug"):
        make_config(keys)


@pytest.mark.parametrize(
    "entry", [3, {}, {"image_id": [1]}, {"image_id": "a", "keypoint_annotations": {"h": [9e999] * 42}}]
)
def test_entries_of_the_converter(tmp_path, capsys, entry):
    (tmp_path / "k.json").write_text(json.dumps([entry]))
    cv2.imwrite(str(tmp_path / "a.jpg"), np.zeros((9, 9, 3), np.uint8))
    assert (
        ai2coco_art_neckhead_json.main(["--keypoint_json", str(tmp_path / "k.json"), "--img_dir", str(tmp_path)]) == 2
    )
    assert "k.json" in capsys.readouterr().err
