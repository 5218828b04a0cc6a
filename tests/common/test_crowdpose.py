"""CrowdPose: one module and one line, and everything that a data set has: loader, check, browse, drawn people, AP by crowd index."""

import json
from dataclasses import replace

import numpy as np
import pytest

from common import datasets, evaluate
from common.datasets import synthetic
from common.datasets.__main__ import main as look
from common.errors import DataError, DataMissing
from common.importers import load_any
from common.metrics.coco import coco_results, oks_ap
from common.predictions import predictions_for, save_predictions
from common.skeletons import CROWDPOSE14
from tests.tolerance import rounding

EXACT = rounding(1e4, dtype=np.float64)  # areas in square pixels


def _write(root, split="test", folder="annotations", **changes):
    joints = np.random.default_rng(0).uniform(20, 90, (3, 14, 2)).round(1)
    images = [
        {"id": 100 + k, "file_name": f"{100 + k}.jpg", "width": 100, "height": 100, "crowdIndex": c}
        for k, c in enumerate((0.05, 0.8, 0.81))
    ]
    people = [
        {"id": k, "image_id": 100 + k, "category_id": 1, "iscrowd": 0, "num_keypoints": 14, "bbox": [10, 10, 80, 90]}
        | {"keypoints": np.column_stack([xy, np.full(14, 2)]).ravel().tolist()}
        for k, xy in enumerate(joints)
    ]
    names = [{"head_top": "head"}.get(n, n) for n in CROWDPOSE14.joints]
    content = {"images": images, "annotations": people, "categories": [{"id": 1, "name": "person", "keypoints": names}]}
    (root / folder).mkdir(parents=True, exist_ok=True)
    (root / folder / f"crowdpose_{split}.json").write_text(json.dumps(content | changes))
    return joints


@pytest.mark.parametrize("folder", ["annotations", "json", "."])
def test_loader(tmp_path, folder):
    joints = _write(tmp_path, folder=folder)
    found = datasets.load("crowdpose", tmp_path, "test")
    assert found.skeleton is CROWDPOSE14 and np.array_equal(found.joints, joints)
    assert found.crowd_index.tolist() == [0.05, 0.8, 0.81] and found.images[1] == f"{tmp_path}/images/101.jpg"
    np.testing.assert_allclose(found.area, 0.53 * 80 * 90, rtol=0, atol=EXACT)  # as in the authors' evaluation
    with pytest.raises(DataError, match="no split 'valid'; known: test"):
        datasets.load("crowdpose", tmp_path, "valid")


def test_splits_hold_every_annotation_once(tmp_path):
    for split in ("train", "val", "trainval", "test"):
        _write(tmp_path, split)
    assert datasets.splits("crowdpose", tmp_path) == ["test", "train", "val"]
    (tmp_path / "annotations/crowdpose_val.json").unlink()
    assert "trainval" in datasets.splits("crowdpose", tmp_path)
    with pytest.raises(DataMissing, match="Jeff-sjtu/CrowdPose.*synthetic crowdpose"):
        datasets.load("crowdpose", tmp_path / "nowhere", "test")
    _write(tmp_path, images=[{"id": 1, "file_name": "1.jpg", "width": 1, "height": 1}], annotations=[])
    with pytest.raises(DataError, match=r"images\[0\].crowdIndex is missing"):
        datasets.load("crowdpose", tmp_path, "test")


def test_ap_by_crowd_index(tmp_path):
    _write(tmp_path)
    truth = datasets.load("crowdpose", tmp_path, "test")
    wrong = truth.joints.copy()
    wrong[1] += 500
    figures = oks_ap(truth, predictions_for(truth, wrong))
    assert [figures[f"AP ({k})"] for k in ("easy", "medium", "hard")] == pytest.approx([1, 0, 1], rel=0, abs=EXACT)
    assert 0 < figures["AP"] < 1
    none = replace(truth, crowd_index=np.full(3, 0.5))
    assert oks_ap(none, predictions_for(none, wrong))["AP (hard)"] == -1


def test_its_own_sigmas_count(tmp_path):
    """A wrist that is off costs more than a hip, by the published constants."""
    _write(tmp_path)
    truth = datasets.load("crowdpose", tmp_path, "test")
    similarity = {}
    for joint, sigma in (("left_wrist", 0.062), ("left_hip", 0.107)):
        moved = truth.joints.copy()
        moved[:, CROWDPOSE14.index(joint), 0] += 8
        one = np.exp(-(8**2) / (2 * (2 * sigma) ** 2 * 0.53 * 80 * 90))
        similarity[joint] = (13 + one) / 14
        figures = oks_ap(truth, predictions_for(truth, moved))
        passed = np.linspace(0.5, 0.95, 10) < similarity[joint]
        assert figures["AP"] == pytest.approx(passed.mean(), rel=0, abs=EXACT)
    assert similarity["left_wrist"] < similarity["left_hip"]


def test_result_files(tmp_path, capsys):
    _write(tmp_path)
    truth = datasets.load("crowdpose", tmp_path, "test")
    predictions = predictions_for(truth, truth.joints)
    save_predictions(tmp_path / "p.npz", predictions)
    (tmp_path / "r.txt").write_text(json.dumps(coco_results(predictions)))
    for name in ("p.npz", "r.txt"):
        assert evaluate.score(truth, load_any(tmp_path / name, truth))["oks_ap"].total == pytest.approx(
            1, rel=0, abs=EXACT
        )
    where = ["--dataset", "crowdpose", "--data_root", str(tmp_path), "--split", "test"]
    assert evaluate.main([*where, "--predictions", str(tmp_path / "p.npz")]) == 0
    assert "AP (hard) 1.000" in capsys.readouterr().out


def test_drawn_people(tmp_path, capsys):
    synthetic.make("crowdpose", tmp_path / "drawn", count=6, seed=3)
    assert look(["check", "crowdpose", str(tmp_path / "drawn")]) == 0
    assert look(["browse", "crowdpose", str(tmp_path / "drawn"), "--out", str(tmp_path / "sheet.png")]) == 0
    found = {s: datasets.load("crowdpose", tmp_path / "drawn", s) for s in ("train", "val", "trainval", "test")}
    assert len(found["train"]) + len(found["val"]) == len(found["trainval"]) and all(
        s.synthetic for s in found.values()
    )
    assert found["train"].skeleton.flip_pairs == [(0, 1), (2, 3), (4, 5), (6, 7), (8, 9), (10, 11)]
