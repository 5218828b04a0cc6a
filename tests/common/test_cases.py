"""Other people's files as they really come: what is scored as pycocotools and the official evaluators do, and what is refused by name."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest

from common import datasets, evaluate
from common.datasets.__main__ import main as look
from common.importers import load_any
from common.predictions import predictions_for, save_predictions
from tests.tolerance import rounding

EXACT = rounding(1, terms=17, steps=20, dtype=np.float64)  # an average precision

CASES = Path(__file__).parent / "cases"
BLANK = {"id": 60, "image_id": 2, "category_id": 1, "iscrowd": 0, "keypoints": [0] * 51, "num_keypoints": 0}
BLANK |= {"bbox": [300, 200, 100, 100], "area": 6000.0}
SWALLOWED = {"image_id": 2, "category_id": 1, "keypoints": [350, 250, 1] * 17}
DOG = {**BLANK, "id": 50, "category_id": 18, "segmentation": [[1, 1, 9, 1, 9, 9]]}


class Coco:
    """A truth file and a result file in COCO's layout, to be changed; `figure` gives AP."""

    def __init__(self, folder, capsys):
        self.folder, self.capsys = folder, capsys
        self.truth, self.results = (json.loads((CASES / f"coco/{n}.json").read_text()) for n in ("truth", "results"))

    def write(self):
        (self.folder / "annotations").mkdir(exist_ok=True)
        (self.folder / "annotations/person_keypoints_mine.json").write_text(json.dumps(self.truth))
        (self.folder / "results.json").write_text(json.dumps(self.results))

    def run(self, *more):
        self.write()
        where = ["--dataset", "coco", "--data_root", str(self.folder), "--split", "mine"]
        out = self.folder / "scores.json"
        code = evaluate.main([*where, "--predictions", str(self.folder / "results.json"), "--json", str(out), *more])
        return code, json.loads(out.read_text())["oks_ap"]["total"] if code == 0 else None, self.capsys.readouterr().err

    def figure(self):
        code, figure, err = self.run()
        assert code == 0, err
        return figure, err


@pytest.fixture
def coco(tmp_path, capsys):
    return Coco(tmp_path, capsys)


AP = pytest.approx(0.575050, rel=0, abs=5e-7)  # half of the last digit that is given


def test_as_it_is(coco):
    assert coco.figure() == (AP, "")


def test_the_category_is_the_files_own(coco):
    for entry in (*coco.truth["annotations"], *coco.results):
        entry["category_id"] = 2
    coco.truth["categories"][0]["id"] = 2
    assert coco.figure() == (AP, "")
    coco.truth["categories"].append({**coco.truth["categories"][0], "id": 5, "name": "statue"})
    code, _, err = coco.run()
    assert code == 2 and "2 (person), 5 (statue)" in err and "--category" in err
    assert coco.run("--category", "person")[:2] == (0, AP) == coco.run("--category", "2")[:2]


def test_other_categories_are_counted_and_said(coco):
    coco.truth["categories"].append({"id": 18, "name": "dog"})
    coco.truth["annotations"].append(DOG)
    coco.results.append({**coco.results[0], "category_id": 18, "score": 0.99})
    figure, err = coco.figure()
    assert figure == AP and "1 of the 5 annotations" in err and "18 (dog)" in err and "1 of the 6 results" in err


def test_a_person_without_keypoints_or_segment_is_no_crowd(coco):
    coco.truth["annotations"].append(BLANK)
    coco.results += [{**SWALLOWED, "score": 0.9}, {**SWALLOWED, "score": 0.89}]
    figure, _ = coco.figure()
    crowded = copy.deepcopy(coco.truth)
    coco.truth["annotations"][-1]["segmentation"] = None
    assert coco.figure()[0] == figure
    coco.truth = crowded
    coco.truth["annotations"][-1]["iscrowd"] = 1
    assert coco.figure()[0] > figure  # a crowd swallows both, a person one of them
    region = datasets.load("coco", coco.folder, "mine").regions[2]
    assert region[0]["id"] == 60 and region[0]["size"] == [480, 640]


def _rle(counts, size=(480, 640)):
    return {"counts": counts, "size": list(size)}


@pytest.mark.parametrize(
    "segment",
    [
        [1, 2, 3, 4, 5, 6], {"counts": [1, 2, 3]}, {"size": [4, 4]}, "x", [["a"] * 6], 3, [[1e9, 1, 2, 3, 4, 5]], _rle([100, 20]),
        _rle([10**9]), _rle([-5, 307205]), _rle([0.5, 307199.5]), _rle("abc"), _rle("\u00e9"), _rle(""), _rle("o" * 99),
        _rle([1, 99], (10, 10)), _rle([1, 2], (10**9, 10**9)), _rle([1, 3], (-2, -2)), _rle([1, 307199], "480x640"),
    ],
)  # fmt: skip
def test_a_segment_that_is_none_is_named(coco, segment):
    coco.truth["annotations"].append({**BLANK, "segmentation": segment})
    code, _, err = coco.run()
    assert code == 2 and "annotations[4].segmentation is" in err


def test_segments_become_the_mask_that_pycocotools_has(coco):
    from pycocotools import mask

    drawn = np.zeros((480, 640), np.uint8, order="F")
    drawn[20:333, 7:90] = drawn[300:, 500:] = drawn[::7, 200:300] = 1
    flat = np.diff(np.flatnonzero(np.diff(drawn.ravel("F"), prepend=2, append=2)))
    runs = [0, *flat.tolist()] if drawn[0, 0] else flat.tolist()
    text = mask.encode(drawn)["counts"].decode()
    coco.truth["annotations"] += [
        {**BLANK, "id": 60 + k, "segmentation": s} for k, s in enumerate(map(_rle, (runs, text)))
    ]
    beyond = {**BLANK, "id": 62, "bbox": [-1e300, 470, 2e300, 1e300]}
    coco.truth["annotations"].append(beyond)
    coco.write()
    regions = datasets.load("coco", coco.folder, "mine").regions[2]
    for region in regions[:2]:
        assert (mask.decode({k: region[k] for k in ("counts", "size")}) == drawn).all()
    assert mask.area(regions[2]) == 10 * 640


def test_counts_and_boxes_that_contradict(coco, capsys):
    coco.truth["annotations"][1]["num_keypoints"] = 0
    for annotation in coco.truth["annotations"]:
        x, y, w, h = annotation["bbox"]
        annotation["bbox"] = [x, y, x + w, y + h]
    figure, err = coco.figure()
    assert figure == AP and "num_keypoints is 0, its keypoints are 17" in err
    assert look(["check", "coco", str(coco.folder), "--limit", "0"]) == 1
    problems = [line for line in capsys.readouterr().out.splitlines() if line.startswith("PROBLEM")]
    assert "num_keypoints" in problems[0] and any("x1, y1, x2, y2" in line for line in problems)


def _set(part, index, field, value):
    def change(coco):
        rows = coco.results if part == "results" else coco.truth[part]
        rows[index][field] = value

    return change


def _second_is_none(coco):
    coco.results[1] = None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_set("annotations", 1, "area", None), "annotations[1].area is missing or null"),
        (_set("annotations", 2, "image_id", 77), "annotations[2].image_id is 77"),
        (_set("annotations", 2, "image_id", 1.5), "annotations[2].image_id is 1.5; write a whole number"),
        (_set("annotations", 0, "bbox", [1, 2, 3]), "annotations[0].bbox is [1, 2, 3]; write 4 finite numbers"),
        (_set("annotations", 0, "bbox", [1, 2, 3, None]), "null in it"),
        (_set("annotations", 0, "keypoints", [float("nan")] * 51), "annotations[0].keypoints is a list of 51 with nan"),
        (_set("annotations", 0, "id", 2**70), "annotations[0].id is 1180591620717411303424"),
        (_set("images", 0, "id", "im1"), "images[0].id is 'im1'"),
        (_set("images", 0, "width", 0), "images[0]: width and height are 0 and 480; write the picture's"),
        (_set("images", 1, "height", 10**9), "images[1]: width and height are 640 and 1000000000"),
        (_set("images", 0, "file_name", None), "images[0].file_name is missing or null; write a text"),
        (_set("results", 0, "image_id", 1.7), "entry [0].image_id is 1.7; write a whole number"),
        (
            _set("results", 0, "image_id", 99),
            "entry [0].image_id is 99, which coco/mine does not list; give the split that was predicted",
        ),
        (_set("results", 0, "category_id", "1"), "entry [0].category_id is '1'"),
        (_set("results", 0, "score", "high"), "entry [0].score is 'high'"),
        (_set("results", 4, "score", float("nan")), "entry [4].score is nan"),
        (_set("results", 0, "score", None), "entry [0].score is missing or null"),
        (_set("results", 0, "score", [1]), "entry [0].score is [1]"),
        (_second_is_none, "entry [1] is missing or null; write an object"),
    ],
)
def test_values_are_refused_by_entry_and_field(coco, change, words):
    change(coco)
    code, _, err = coco.run()
    assert code == 2 and words in err, err
    assert "download it again" not in err


def test_a_truth_of_another_category_than_its_list(coco):
    for annotation in coco.truth["annotations"]:
        annotation["category_id"] = 7
    code, _, err = coco.run()
    assert code == 2 and "none of the 4 annotations has category_id 1" in err and "7 (no name)" in err


def test_images_listed_twice_and_names_that_no_file_can_have(coco, capsys):
    coco.truth["images"].append(dict(coco.truth["images"][0]))
    figure, err = coco.figure()
    assert figure == AP and "1 of the 4 entries name an image again" in err
    for name in ("a" * 5000, "\0", "\udc80"):
        coco.truth["images"][0]["file_name"] = coco.truth["images"][-1]["file_name"] = f"{name}.jpg"
        coco.write()
        assert look(["check", "coco", str(coco.folder)]) == 1
        assert "3 of 3 images are missing" in capsys.readouterr().out


def test_own_areas_have_a_remedy_and_images_are_needed(coco):
    del coco.truth["annotations"][0]["area"]
    assert "0.53 x width x height of the box" in coco.run()[2]
    coco.truth["images"] = []
    assert "`images` is empty" in coco.run()[2]


def test_whole_numbers_written_as_fractions_and_categories_of_nobody(coco):
    for entry in coco.results:
        entry["image_id"] = float(entry["image_id"])
    assert coco.figure()[0] == AP
    for entry in coco.results:
        entry["category_id"] = 0
    code, _, err = coco.run()
    assert code == 2 and "category_id is 0 everywhere" in err


@pytest.mark.parametrize("text", ["[" * 100_000, '{"images": ' + "9" * 5000 + "}", "\ufeff[]", '["\\ud800"]', "[null]"])
def test_odd_json(coco, text):
    coco.write()
    (coco.folder / "annotations/person_keypoints_mine.json").write_text(text)
    arguments = ["--dataset", "coco", "--data_root", str(coco.folder), "--split", "mine"]
    assert evaluate.main([*arguments, "--predictions", str(coco.folder / "results.json")]) == 2
    assert "person_keypoints_mine.json" in coco.capsys.readouterr().err


# ---- prediction files ---------------------------------------------------------------------------------------------------------


def test_scores_that_are_no_numbers(coco):
    coco.write()
    truth = datasets.load("coco", coco.folder, "mine")
    predictions = predictions_for(truth, truth.joints)
    predictions.box_score[:] = np.nan
    save_predictions(coco.folder / "p.npz", predictions)
    with pytest.raises(datasets.DataError, match="4 persons have a score"):
        evaluate.score(truth, load_any(coco.folder / "p.npz", truth))


# ---- comparable ---------------------------------------------------------------------------------------------------------------


def test_a_subset_is_not_comparable(tmp_path, coco):
    coco.write()
    (coco.folder / "annotations/person_keypoints_mine.json").rename(
        coco.folder / "annotations/person_keypoints_val2017.json"
    )
    truth = datasets.load("coco", coco.folder, "val2017")
    allowed, why = evaluate.comparable(truth, predictions_for(truth, truth.joints), "oks_ap")
    assert not allowed and "4 persons, the published split val2017 has 6352" in why


# ---- AI Challenger ------------------------------------------------------------------------------------------------------------


def _aic(capsys, truth, submission, tmp_path):
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    (tmp_path / "submission.json").write_text(json.dumps(submission))
    where = ["--dataset", "ai_challenger", "--data_root", str(tmp_path / "truth.json"), "--split", "all"]
    out = tmp_path / "scores.json"
    code = evaluate.main([*where, "--predictions", str(tmp_path / "submission.json"), "--json", str(out)])
    figures = {k: v["total"] for k, v in json.loads(out.read_text()).items()} if code == 0 else {}
    return code, figures, capsys.readouterr().err


@pytest.fixture
def aic():
    return [json.loads((CASES / f"aic/two_people_one_found_twice_{n}.json").read_text()) for n in ("ref", "sub")]


def test_one_person_found_twice_is_one_person(capsys, tmp_path, aic):
    assert _aic(capsys, *aic, tmp_path)[1] == pytest.approx({"aic_map": 0.5, "aic_map:compat": 1.0}, rel=0, abs=EXACT)


def test_images_given_twice_or_unknown_are_said(capsys, tmp_path, aic):
    truth, submission = aic
    wrong = {"image_id": "x", "keypoint_annotations": {"human1": [0, 0, 1] * 14}}
    code, figures, err = _aic(capsys, truth, [wrong, *submission], tmp_path)
    assert figures["aic_map"] == 0.5 and "1 of the 2 entries name an image again" in err
    code, figures, err = _aic(capsys, truth, [*submission, wrong], tmp_path)
    assert figures["aic_map"] == 0.0
    code, figures, err = _aic(capsys, truth, [*submission, {**wrong, "image_id": "elsewhere"}], tmp_path)
    assert figures["aic_map"] == 0.5 and "1 image ids of the predictions are not in" in err
    empty = {**truth[0], "keypoint_annotations": {}}
    code, figures, err = _aic(capsys, [empty, *truth], submission, tmp_path)
    assert figures["aic_map"] == 0.5 and "truth.json: 1 of the 2 entries name an image again" in err
    submission[0]["keypoint_annotations"]["human1"] = None
    code, _, err = _aic(capsys, truth, submission, tmp_path)
    assert code == 2 and "keypoint_annotations.human1 is missing or null" in err


# ---- a user's own data ----------------------------------------------------------------------------------------------------------


@pytest.mark.golden
def test_the_published_persons_and_no_others_are_comparable(pose_data):
    from dataclasses import replace

    truth = datasets.load("mpii", pose_data / "mpii", "valid")

    def verdict(pose_set):
        meta = {"boxes": "oracle", "flip_test": True}
        return evaluate.comparable(pose_set, predictions_for(pose_set, pose_set.joints, meta=meta), "pckh@0.5")

    assert verdict(truth)[0]
    allowed, why = verdict(truth.limit(4))
    assert not allowed and "4 persons, the published split valid has 2958" in why
    others = truth.image_id.copy()
    others[0] = others[1]
    assert not verdict(replace(truth, image_id=others))[0]
