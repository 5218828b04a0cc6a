"""The synthetic data sets: what the loaders read is what was drawn, the folder rules, the difficulty, the official
layouts."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from common.datasets import load, synthetic
from common.errors import DataError
from common.images import read_image
from common.synthetic import compose, folder
from common.synthetic.compose import COVERED, OUTSIDE, SELF_OCCLUDED, VISIBLE
from tests.tolerance import rounding

EXACT = rounding(1, terms=17, steps=20, dtype=np.float64)  # an average precision

COUNTS = {
    "lsp": 60,
    "lspet": 24,
    "mpii": 8,
    "coco": 14,
    "penn_action": 2,
    "jhmdb": 2,
    "k2hpd": 8,
    "ai_challenger": 8,
    "json": 4,
}
SPLITS = {
    "lsp": "train test", "lspet": "all", "mpii": "train valid", "coco": "train2017 val2017", "penn_action": "train test",
    "jhmdb": "train test", "k2hpd": "train test", "ai_challenger": "train valid", "json": "train valid",
}  # fmt: skip
# Pixels between what was drawn and what is read: whole pixels in COCO and AI Challenger, three decimals in text files,
# else doubles.
PRECISION = {"coco": 0.5, "ai_challenger": 0.5, "mpii": 5.1e-4, "k2hpd": 5.1e-4, "json": 5.1e-4}
# What each format says of a joint that was drawn outside, covered, self-occluded, visible.
FLAGS = {"lsp": (1, 1, 1, 2), "lspet": (0, 0, 2, 2), "mpii": (0, 2, 2, 2), "jhmdb": (2, 2, 2, 2), "k2hpd": (2, 2, 2, 2)}


def _hashes(root: Path) -> dict[str, str]:
    return {
        str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(root.rglob("*"))
        if p.is_file()
    }


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Every data set once, with the truth of everybody who was drawn on the way: name -> (root, truths)."""
    base, found = tmp_path_factory.mktemp("synthetic"), {}
    original = compose._truth
    with pytest.MonkeyPatch.context() as patch:
        for name, count in COUNTS.items():
            truths: list = []
            patch.setattr(compose, "_truth", lambda *a, kept=truths: kept.append(original(*a)) or kept[-1])
            assert synthetic.make(name, base / name, count)
            found[name] = base / name, truths
    return found


@pytest.mark.parametrize("name", COUNTS)
def test_loader_returns_what_was_drawn(drawn, name):
    root, truths = drawn[name]
    flags = np.array(FLAGS.get(name, (0, 1, 1, 2)))
    rows = 0
    for split in SPLITS[name].split():
        people = load(name, root, split)
        assert people.synthetic and people.name == name
        tables = [t.table(people.skeleton.joints) for t in truths]
        points, states = (np.array(column) for column in zip(*tables))
        for joints, visible in zip(people.joints, people.visible):
            if not (visible > 0).any():  # COCO's small people and crowds
                continue
            error = np.nanmax(np.abs(points - joints), axis=(1, 2))
            match = int(np.argmin(error))
            assert error[match] <= PRECISION.get(name, 1e-9) + 1e-9
            np.testing.assert_array_equal(visible, flags[states[match]])
            rows += 1
        for path in sorted(set(people.images))[:4]:
            assert min(read_image(path).shape[:2]) > 40
    assert rows >= min(COUNTS[name], 12)


@pytest.mark.parametrize("name", ["lsp", "mpii", "coco", "jhmdb", "k2hpd", "json"])
def test_same_bytes_again_and_other_people_with_another_seed(tmp_path, name):
    for run, seed in (("a", 3), ("b", 3), ("c", 4)):
        synthetic.make(name, tmp_path / run, 2, seed)
    a, b, c = (_hashes(tmp_path / run) for run in "abc")
    assert a == b
    pictures = [p for p in a if p.endswith((".jpg", ".png")) and p in c]
    assert pictures and all(a[p] != c[p] for p in pictures)


def test_one_picture_does_not_depend_on_how_many_there_are(drawn, tmp_path):
    synthetic.make("lsp", tmp_path / "lsp", 2)
    long, short = _hashes(drawn["lsp"][0]), _hashes(tmp_path / "lsp")
    assert long["images/im0002.jpg"] == short["images/im0002.jpg"]


def _mean_pose_pck(train, test) -> float:
    """PCK@0.2 (torso = left shoulder to right hip) of the mean pose of `train`, put into the joints' own box of each
    person of `test`."""
    boxes = [(np.nanmin(s.joints, 1)[:, None], np.nanmax(s.joints, 1)[:, None]) for s in (train, test)]
    mean = np.nanmean((train.joints - boxes[0][0]) / (boxes[0][1] - boxes[0][0]), axis=0)
    guess = boxes[1][0] + mean * (boxes[1][1] - boxes[1][0])
    a, b = test.skeleton.indices(["left_shoulder", "right_hip"])
    torso = np.linalg.norm(test.joints[:, a] - test.joints[:, b], axis=-1)
    error = np.linalg.norm(guess - test.joints, axis=-1)
    return float(np.mean((error <= 0.2 * torso[:, None])[~np.isnan(error)]))


@pytest.mark.parametrize("name, split", [("lsp", "train test"), ("lspet", "1-12 13-24")])
def test_mean_pose_scores_badly(drawn, name, split):
    train, test = (load(name, drawn[name][0], s) for s in split.split())
    assert _mean_pose_pck(train, test) < 0.30


def test_lsp_pictures_have_lsp_size_and_hold_every_joint(drawn):
    people = load("lsp", drawn["lsp"][0], "all")
    sizes = np.array([read_image(p).shape[1::-1] for p in people.images])
    assert 120 < np.median(sizes.max(1)) < 260
    assert (people.joints >= 0).all() and (people.joints <= sizes[:, None] - 1).all()
    assert 0.05 < np.mean(people.visible == 1) < 0.4


def test_visible_joints_lie_on_their_person(drawn):
    for name in ("lsp", "coco"):
        on, total = 0, 0
        for truth in drawn[name][1]:
            height, width = truth.mask.shape
            for joint, state in truth.states.items():
                if state == VISIBLE:
                    x, y = np.clip(np.round(truth.points[joint]).astype(int), 0, (width - 1, height - 1))
                    on, total = on + truth.mask[y, x], total + 1
        # noses, ears and crowns are at the very edge of the head
        assert on / total > 0.97


def test_refuses_a_folder_that_was_not_drawn_here(tmp_path, capsys):
    (tmp_path / "im0001.jpg").write_bytes(b"a photograph")
    assert synthetic.main(["lsp", str(tmp_path), "--count", "2"]) == 2
    assert "real data" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["im0001.jpg"]


def test_rerun_is_no_op_and_other_arguments_are_refused(tmp_path):
    root = tmp_path / "deep" / "lsp"
    assert synthetic.make("lsp", root, 2)
    before = {p: p.stat().st_mtime_ns for p in root.rglob("*")}
    (root / "cache.json").write_text("{}")  # as a training program would add
    assert not synthetic.make("lsp", root, 2)
    assert not synthetic.make("lsp", root)  # the READMEs' command after the quickstart's: those people will do
    with pytest.raises(DataError, match="other arguments .*delete it yourself"):
        synthetic.make("lsp", root, 3)
    assert all(p.stat().st_mtime_ns == t for p, t in before.items() if p.is_file())
    assert [p.name for p in root.parent.iterdir()] == ["lsp"]
    mark = (root / "SYNTHETIC").read_text()
    assert "count: 2" in mark and "seed: 0" in mark and "version" in mark


def test_interrupted_run_leaves_nothing(tmp_path):
    def write(fresh: Path) -> None:
        (fresh / "images").mkdir()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        folder.build(tmp_path / "lsp", {"dataset": "lsp"}, write)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("arguments", [["lsp", "X", "--count", "1"], ["lsp", "X", "--seed", "-1"], ["nothing", "X"]])
def test_bad_arguments_exit_2(tmp_path, arguments, monkeypatch):
    monkeypatch.chdir(tmp_path)
    try:
        code = synthetic.main(arguments)
    except SystemExit as error:
        code = error.code
    assert code == 2 and not list(tmp_path.iterdir())


def test_help_imports_nothing_heavy():
    command = (
        "import sys; from common.datasets import synthetic; print(sorted({'cv2', 'scipy', 'tqdm'} & set(sys.modules)))"
    )
    root = Path(synthetic.__file__).parents[2]
    assert (
        subprocess.run(
            [sys.executable, "-c", command], capture_output=True, text=True, check=True, cwd=root
        ).stdout.strip()
        == "[]"
    )


def test_coco_file_and_detections_work_with_pycocotools(drawn, capsys):
    coco_module = pytest.importorskip("pycocotools.coco")
    from pycocotools.cocoeval import COCOeval

    root = drawn["coco"][0]
    path = root / "annotations" / "person_keypoints_val2017.json"
    truth = coco_module.COCO(str(path))
    people = truth.loadAnns(truth.getAnnIds(iscrowd=False))
    for person in people:
        area = truth.annToMask(person).sum()
        assert person["area"] * 0.99 - 3 <= area <= person["area"] * 1.5 + 3  # outlines fill holes
    answer = [{"image_id": p["image_id"], "category_id": 1, "keypoints": p["keypoints"], "score": 1.0}
              for p in people if p["num_keypoints"]]  # fmt: skip
    score = COCOeval(truth, truth.loadRes(answer), "keypoints")
    score.evaluate()
    score.accumulate()
    score.summarize()
    assert score.stats[0] == pytest.approx(1.0, rel=0, abs=EXACT)
    boxes = json.loads((root / "person_detection_results" / "COCO_val2017_detections_AP_H_56_person.json").read_text())
    score = COCOeval(truth, truth.loadRes(boxes), "bbox")
    score.evaluate()
    score.accumulate()
    score.summarize()
    assert score.stats[1] > 0.4 and score.stats[0] < 0.95  # AP at IoU 0.5 useful, over all thresholds not perfect


def test_mpii_release_and_json_say_the_same(drawn, tmp_path):
    root = drawn["mpii"][0]
    (tmp_path / "mpii_human_pose_v1_u12_1.mat").write_bytes((root / "mpii_human_pose_v1_u12_1.mat").read_bytes())
    by_release, by_json = load("mpii", tmp_path, "trainval"), load("mpii", root, "trainval")
    order = [np.lexsort((s.center[:, 0], s.image_id)) for s in (by_release, by_json)]
    assert by_release.image_id[order[0]].tolist() == by_json.image_id[order[1]].tolist()
    for field in ("joints", "center", "scale"):
        ours, theirs = (getattr(s, field)[o] for s, o in zip((by_release, by_json), order))
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=rounding(1000, dtype=np.float64))


def test_k2hpd_is_grey_depth_of_its_size(drawn):
    import cv2

    people = load("k2hpd", drawn["k2hpd"][0], "train")
    for path, joints in zip(people.images, people.joints):
        image = cv2.imread(path, cv2.IMREAD_UNCHANGED)
        assert image.shape == (212, 256) and image.dtype == np.uint8
        x, y = np.round(joints).astype(int).T
        assert np.mean(image[y, x] > 0) > 0.7  # readings on the body, but for noise at edges


def test_states_name():
    assert (OUTSIDE, COVERED, SELF_OCCLUDED, VISIBLE) == (0, 1, 2, 3)  # the order that FLAGS is written in
