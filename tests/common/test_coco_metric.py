"""COCO AP: equal to pycocotools on the same files, equal to the original project's ten figures, and defined where there is nothing."""

import contextlib
import dataclasses
import io
import json

import numpy as np
import pytest

from common import datasets
from common.errors import DataError
from common.importers import load_any
from common.metrics.coco import NAMES, coco_results, final_people, oks_ap
from common.predictions import Predictions, predictions_for
from common.skeletons import COCO17, LSP14
from tests.bench.metrics import random_coco
from tests.reference.pycoco import ground_truth, score_results
from tests.tolerance import rounding

EXACT = rounding(1, terms=17, steps=20, dtype=np.float64)  # means of precisions and similarities

pytest.importorskip("pycocotools")


def straight(annotations, results) -> dict:
    """pycocotools on two JSON files, with nothing of ours in between."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(annotations))
        evaluation = COCOeval(coco, coco.loadRes(str(results)), "keypoints")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return dict(zip(NAMES, evaluation.stats.tolist()))


def write_annotations(folder, pose_set, crowd_rows=(), empty_images=()):
    """The PoseSet as an official annotation file; some rows become crowds, some persons lose their keypoints by themselves."""
    annotations = []
    for i in range(len(pose_set)):
        points = np.concatenate([np.nan_to_num(pose_set.joints[i]), pose_set.visible[i][:, None]], -1)
        if i in crowd_rows:
            points[:] = 0
        x, y, w, h = pose_set.box[i].tolist()
        annotations.append(
            {
                "id": i + 1,
                "image_id": int(pose_set.image_id[i]),
                "category_id": 1,
                "iscrowd": int(i in crowd_rows),
                "keypoints": points.ravel().tolist(),
                "num_keypoints": int((points[:, 2] > 0).sum()),
                "bbox": [x, y, w, h],
                "area": float(pose_set.area[i]),
                "segmentation": {"size": [600, 600], "counts": [0, 10, 359990]}
                if i in crowd_rows
                else [[x, y, x + w, y, x + w, y + h]],
            }
        )
    images = sorted({int(i) for i in pose_set.image_id} | set(empty_images))
    content = {
        "info": {},
        "images": [{"id": i, "file_name": f"{i:012d}.jpg", "width": 600, "height": 600} for i in images],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "person"}],
    }
    path = folder / "annotations" / "person_keypoints_val2017.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(content))
    return path


def test_equal_to_pycocotools_on_random_persons(tmp_path):
    """Crowds, persons without keypoints, images without anybody, duplicates: every figure to the last bit."""
    pose_set, predictions = random_coco(60, seed=5)
    visible = pose_set.visible.copy()
    visible[[7, 8]] = 0
    pose_set = dataclasses.replace(
        pose_set, visible=visible, joints=np.where(visible[..., None] > 0, pose_set.joints, np.nan)
    )
    annotations = write_annotations(tmp_path, pose_set, crowd_rows=(3, 12), empty_images=(900,))
    truth = datasets.load("coco", tmp_path, "val2017")
    ids = predictions.image_id.copy()
    ids[-1] = 900
    predictions = dataclasses.replace(predictions, image_id=ids)
    results = tmp_path / "results.json"
    results.write_text(json.dumps(coco_results(predictions)))
    expected = straight(annotations, results)
    assert 0.1 < expected["AP"] < 0.95
    assert oks_ap(truth, predictions) == expected
    assert oks_ap(truth, load_any(results, truth)) == expected


def golden_case(golden_dir):
    folder = golden_dir / "simplebaseline_paddle" / "coco"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there")
    stored = np.load(folder / "preds.npz")
    boxes = stored["boxes"]  # centre, scale (200 px), area, score
    ids = np.array([int(p.rsplit("/", 1)[1].split(".")[0]) for p in stored["image_paths"].tolist()])
    predictions = Predictions(
        skeleton=COCO17,
        joints=stored["preds"][..., :2],
        score=stored["preds"][..., 2],
        person_score=boxes[:, 5],
        box=np.concatenate([boxes[:, :2] - 100 * boxes[:, 2:4], 200 * boxes[:, 2:4]], 1),
        box_score=boxes[:, 5],
        area=boxes[:, 4],
        image_id=ids,
        person_id=np.arange(len(ids)),
        frame=np.full(len(ids), -1),
    )
    split = next((folder / "annotations").glob("*.json")).stem.removeprefix("person_keypoints_")
    return folder, datasets.load("coco", folder, split), predictions


@pytest.mark.golden
def test_original_results_and_figures(golden_dir):
    folder, truth, predictions = golden_case(golden_dir)
    results = coco_results(predictions)
    expected = json.loads((folder / "expected_results.json").read_text())
    assert [r["image_id"] for r in results] == [e["image_id"] for e in expected]
    # 1e-6: the original multiplies in float32
    np.testing.assert_allclose([r["score"] for r in results], [e["score"] for e in expected], rtol=0, atol=EXACT)
    np.testing.assert_array_equal([r["keypoints"] for r in results], [e["keypoints"] for e in expected])
    stats = json.loads((folder / "expected_stats.json").read_text())
    assert oks_ap(truth, predictions) == pytest.approx(stats["stats"], rel=0, abs=EXACT)
    assert len(predictions) == stats["n_pred"] and len(results) == stats["n_after_nms"]


@pytest.mark.data
def test_real_annotations_predicted_perfectly(pose_data, tmp_path):
    """The truth of the real mini set as predictions: what pycocotools gives, and AP 1."""
    root = pose_data / "coco_mini4"
    annotations = root / "annotations" / "person_keypoints_val2017.json"
    if not annotations.exists():
        pytest.skip(f"{annotations} is not there")
    truth = datasets.load("coco", root, "val2017")
    people = [a for a in json.loads(annotations.read_text())["annotations"] if a["num_keypoints"]]
    results = [{"image_id": a["image_id"], "category_id": 1, "keypoints": a["keypoints"], "score": 1.0} for a in people]
    path = tmp_path / "results.json"
    path.write_text(json.dumps(results))
    figures = oks_ap(truth, load_any(path, truth))
    assert figures == straight(annotations, path)
    assert figures["AP"] == pytest.approx(1, rel=0, abs=EXACT)


def test_nothing_predicted_nothing_annotated_all_set_aside():
    pose_set, predictions = random_coco(20)
    none = dataclasses.replace(predictions, **{n: getattr(predictions, n)[:0] for n in ROWS})
    assert set(oks_ap(pose_set, none).values()) == {0.0}
    assert set(oks_ap(pose_set.select(slice(0)), none).values()) == {0.0}
    assert set(oks_ap(pose_set.select(slice(0)), predictions).values()) == {-1.0}
    aside = dataclasses.replace(pose_set, ignore=np.ones(len(pose_set), bool))
    assert set(oks_ap(aside, predictions).values()) == {-1.0}
    assert coco_results(none) == []


ROWS = ("joints", "score", "person_score", "box", "box_score", "area", "image_id", "person_id", "frame")


def test_duplicates_go_and_final_files_stay():
    _, predictions = random_coco(12, seed=2)
    twice = dataclasses.replace(predictions, **{n: np.concatenate([getattr(predictions, n)] * 2) for n in ROWS})
    rows, _ = final_people(twice)
    assert len(rows) == len(final_people(predictions)[0])
    kept, scores = final_people(dataclasses.replace(twice, meta={"final": True}))
    assert kept.tolist() == list(range(24)) and (scores == twice.person_score).all()


@pytest.mark.parametrize("seed", range(12))
def test_equal_to_pycocotools_where_it_is_crowded_and_tied(seed):
    """More than 20 predictions an image, equal scores, equal places, crowds, persons without keypoints, of all sizes."""
    rng = np.random.default_rng(seed)
    persons = int(rng.integers(5, 300))
    truth, _ = random_coco(persons, seed)
    images = int(rng.choice([1, 2, persons // 5 + 1]))
    bare = rng.random(persons) < 0.2
    visible, joints = np.where(bare[:, None], 0, truth.visible), np.where(bare[:, None, None], np.nan, truth.joints)
    truth = dataclasses.replace(
        truth, visible=visible.astype(np.int8), joints=joints, ignore=bare, crowd=bare & (rng.random(persons) < 0.4),
        area=truth.area * rng.choice([1, 0.05, 0.3], persons), box=np.nan_to_num(truth.box, nan=50.0),
        image_id=rng.integers(1, images + 1, persons), regions={i: [] for i in range(1, images + 3)},
    )  # fmt: skip
    source = rng.integers(0, persons, int(rng.integers(1, 2 * persons)))
    noise = rng.normal(0, rng.choice([0.5, 3, 20]), (len(source), 17, 2))
    guess = np.where(np.isnan(joints[source]), rng.uniform(0, 400, noise.shape), joints[source]) + noise
    guess = np.round(guess, -1) if seed % 3 == 0 else guess
    score = rng.choice([0.2, 0.5, 0.9], len(source)) if seed % 2 else rng.uniform(0, 1, len(source))
    rows = truth.select(source)
    rows = dataclasses.replace(rows, image_id=np.where(rng.random(len(source)) < 0.05, images + 1, rows.image_id))
    predictions = predictions_for(rows, guess, meta={"final": True}, person_score=score)
    results = coco_results(predictions)
    expected = score_results(ground_truth(truth, {r["image_id"] for r in results}), results)
    assert oks_ap(truth, predictions) == pytest.approx(expected, rel=0, abs=EXACT)


def test_errors_name_the_remedy():
    pose_set, predictions = random_coco(6)
    with pytest.raises(DataError, match="area"):
        oks_ap(dataclasses.replace(pose_set, area=None), predictions)
    with pytest.raises(DataError, match="lsp14"):
        oks_ap(pose_set, dataclasses.replace(predictions, skeleton=LSP14, joints=predictions.joints[:, :14]))
    listed = dataclasses.replace(pose_set, regions={i: [] for i in pose_set.image_id.tolist()})
    with pytest.raises(DataError, match="image_id 77"):
        oks_ap(listed, dataclasses.replace(predictions, image_id=np.full(6, 77)))
