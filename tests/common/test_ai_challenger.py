"""The AI Challenger score: known answers of the official evaluator, and its rules one by one."""

import dataclasses
import json

import numpy as np
import pytest

from common import datasets
from common.importers import load_any
from common.metrics.oks import aic_map
from common.poses import PoseSet
from common.predictions import predictions_for
from common.skeletons import AIC14, LSP14
from tests.tolerance import rounding

EXACT = rounding(1, terms=14, steps=10, dtype=np.float64)  # similarities and their means


def people(images, seed=0) -> PoseSet:
    rng = np.random.default_rng(seed)
    n = len(images)
    return PoseSet(
        name="ai_challenger",
        skeleton=AIC14,
        split="valid",
        images=[f"{i}.jpg" for i in images],
        image_id=np.array(images, dtype=str),
        person_id=np.arange(n),
        joints=rng.uniform(0, 100, (n, 14, 2)),
        visible=np.full((n, 14), 2, np.int8),
        box=np.tile([0.0, 0, 100, 100], (n, 1)),
    )


def subset(predictions, rows):
    names = ("joints", "score", "person_score", "box", "box_score", "area", "image_id", "person_id", "frame")
    return dataclasses.replace(predictions, **{n: getattr(predictions, n)[rows] for n in names})


@pytest.mark.golden
def test_golden_submission(golden_dir, tmp_path):
    folder = golden_dir / "deepercut_tf"
    if not (folder / "ai_challenger_eval.json").exists():
        pytest.skip("no ai_challenger_eval.json")
    case = json.loads((folder / "ai_challenger_eval.json").read_text())
    (tmp_path / "keypoint_annotations.json").write_text((folder / "ai_challenger_in.json").read_text())
    (tmp_path / "submission.json").write_text(json.dumps(case["submission"]))
    truth = datasets.load("ai_challenger", tmp_path, "all")
    predictions, expected = load_any(tmp_path / "submission.json", truth), case["result"]
    for best_of in ("person", "prediction"):  # no person is found twice in it: the fixture has one score for both
        figures = aic_map(truth, predictions, best_of)
        # 1e-9 as the fixture asks: both are float64
        assert figures["score"] == pytest.approx(expected["score"], rel=0, abs=EXACT)
        np.testing.assert_allclose(figures["ap"], expected["ap"], rtol=0, atol=EXACT)
        assert figures["count"] == expected["count"]
    # the fixture lists the best OKS of every prediction
    np.testing.assert_allclose(figures["oks"], expected["oks"], rtol=0, atol=EXACT)


@pytest.mark.data
def test_official_evaluator_on_published_predictions(pose_data):
    expected = json.loads((pose_data / "eval_refs" / "expected.json").read_text())["aic_example"]
    truth = datasets.load("ai_challenger", pose_data / "aic", "all")
    figures = aic_map(truth, load_any(next((pose_data / "eval_refs" / "aic").glob("*.json")), truth))
    assert figures["score"] == pytest.approx(expected["score"], rel=0, abs=5e-9)  # printed with 8 digits
    assert figures["count"] == expected["oks_num"]
    assert figures["images_missing"] == expected["images_missing_from_prediction"]


@pytest.mark.parametrize("best_of", ["person", "prediction"])
def test_against_loops(best_of):
    truth = people(["a", "b", "a", "c", "b", "b"], seed=1)
    visible = truth.visible.copy()
    visible[:, 0], visible[2, 1] = 1, 1  # occluded joints do not count
    truth = dataclasses.replace(truth, visible=visible)
    rng, sigmas = np.random.default_rng(2), datasets.record("ai_challenger").sigmas
    predictions = predictions_for(truth, truth.joints + rng.normal(0, 1.0, truth.joints.shape))
    predictions = subset(predictions, [0, 0, 1, 4, 2])
    joints = predictions.joints.astype(np.float64)

    def similarity(p, g):
        size = 2 * (100 * 100 + 1)
        squared = ((truth.joints[p] - joints[g]) ** 2).sum(-1)
        return np.mean([np.exp(-squared[j] / (4 * sigmas[j] ** 2 * size)) for j in range(14) if visible[p, j] == 2])

    found, count = [], 0
    for image in "abc":
        persons, guesses = np.flatnonzero(truth.image_id == image), np.flatnonzero(predictions.image_id == image)
        count += max(len(persons), len(guesses))
        if best_of == "person" or not len(guesses):
            found += [max([similarity(p, g) for g in guesses], default=0) for p in persons]
        else:
            found += [max(similarity(p, g) for p in persons) for g in guesses]
    figures = aic_map(truth, predictions, best_of)
    np.testing.assert_allclose(figures["oks"], found, rtol=0, atol=EXACT)
    expected = np.mean([np.sum(np.array(found) > t) / count for t in np.arange(0.5, 0.96, 0.05)])
    assert 0 < expected < 1 and figures["score"] == pytest.approx(expected, rel=0, abs=EXACT)


def test_missing_images_extra_persons_and_unknown_images():
    truth = people(["a", "a", "b"])
    perfect = predictions_for(truth, truth.joints)
    assert aic_map(truth, perfect)["score"] == 1
    missing = aic_map(truth, subset(perfect, [0, 1]))
    assert (
        missing["score"] == pytest.approx(2 / 3, rel=0, abs=EXACT)
        and missing["images_missing"] == 1
        and missing["count"] == 3
    )
    doubled = aic_map(truth, subset(perfect, [0, 1, 2, 2]))
    assert doubled["count"] == 4 and doubled["score"] == 0.75  # a person found twice is found once
    assert aic_map(truth, subset(perfect, [0, 1, 2, 2]), "prediction")["score"] == 1  # as it was counted before
    elsewhere = dataclasses.replace(perfect, image_id=np.array(["a", "a", "long_name_elsewhere"]))
    assert aic_map(truth, elsewhere)["count"] == 3
    listed = dataclasses.replace(truth, regions={"a": [], "b": [], "long_name_elsewhere": []})
    assert aic_map(listed, elsewhere)["count"] == 4 and aic_map(listed, elsewhere)["oks"][-1] == 0


def test_degenerate_input():
    truth = people(["a", "b"])
    none = subset(predictions_for(truth, truth.joints), slice(0))
    assert aic_map(truth, none)["score"] == 0 and aic_map(truth, none)["count"] == 2
    nothing = aic_map(truth.select(slice(0)), none)
    assert np.isnan(nothing["score"]) and nothing["count"] == 0
    hidden = dataclasses.replace(truth, visible=np.ones((2, 14), np.int8))
    assert aic_map(hidden, predictions_for(truth, truth.joints))["score"] == 0
    absent = predictions_for(truth, np.full(truth.joints.shape, np.nan), np.zeros((2, 14)))
    assert aic_map(truth, absent)["score"] == 0


def test_wrong_skeleton():
    from common.errors import DataError

    truth = people(["a"])
    wrong = dataclasses.replace(predictions_for(truth, truth.joints), skeleton=LSP14)
    with pytest.raises(DataError, match="lsp14"):
        aic_map(truth, wrong)
