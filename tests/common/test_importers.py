"""Other people's prediction files: found by content, in the loader's frame, in any axis order; bad ones named with file, field and
remedy.
"""

import dataclasses
import json

import numpy as np
import pytest
import scipy.io

from common import datasets
from common.errors import DataError
from common.importers import load_any
from common.metrics import pck
from common.poses import PoseSet, box_of_joints
from common.predictions import predictions_for, save_predictions
from common.skeletons import AIC14, COCO17, LPM14, LSP14, MPII16, PENN13
from tests.tolerance import rounding

EXACT = rounding(1000, steps=4, dtype=np.float64)  # pixels


def people(name, skeleton, n=5, seed=0, **fields) -> PoseSet:
    joints = np.random.default_rng(seed).uniform(20, 90, (n, len(skeleton), 2))
    common = {"image_id": np.arange(n), "person_id": np.zeros(n, np.int64), "box": box_of_joints(joints)}
    return PoseSet(
        name=name,
        skeleton=skeleton,
        split="test",
        images=[f"{i}.jpg" for i in range(n)],
        joints=joints,
        visible=np.full((n, len(skeleton)), 2, np.int8),
        **(common | fields),
    )


def assert_perfect(predictions, truth, atol=0.0):
    np.testing.assert_allclose(predictions.joints, truth.joints, rtol=0, atol=atol)
    assert len(predictions) == len(truth)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0), (0, 2, 1)])
def test_mpii_matlab_in_any_axis_order(tmp_path, order):
    truth = people("mpii", MPII16)
    scipy.io.savemat(tmp_path / "preds.mat", {"preds": (truth.joints + 1).transpose(order)})
    assert_perfect(load_any(tmp_path / "preds.mat", truth), truth, 1e-12)


def test_hdf5_and_the_name_does_not_matter(tmp_path):
    h5py = pytest.importorskip("h5py")
    truth = people("mpii", MPII16)
    with h5py.File(tmp_path / "anything.json", "w") as file:
        file["preds"] = (truth.joints + 1).T
    assert_perfect(load_any(tmp_path / "anything.json", truth), truth, 1e-12)


def test_placeholder_pelvis_and_thorax_are_not_predictions(tmp_path):
    truth = people("mpii", MPII16)
    stored = truth.joints + 1
    pair = MPII16.indices(["pelvis", "thorax"])
    stored[:, pair] = 7.0
    scipy.io.savemat(tmp_path / "p.mat", {"preds": stored})
    predictions = load_any(tmp_path / "p.mat", truth)
    assert np.isnan(predictions.joints[:, pair]).all() and (predictions.score[:, pair] == 0).all()
    assert np.isfinite(np.delete(predictions.joints, pair, 1)).all()


def test_lsp_and_gt_valid(tmp_path):
    truth = people("lsp", LSP14)
    scipy.io.savemat(tmp_path / "a.mat", {"prediction_all": truth.joints.transpose(1, 2, 0)})
    assert_perfect(load_any(tmp_path / "a.mat", truth), truth)
    mpii = people("mpii", MPII16)
    scipy.io.savemat(
        tmp_path / "b.mat", {"pos_pred_src": (mpii.joints + 1).transpose(1, 2, 0), "jnt_missing": np.zeros((16, 5))}
    )
    assert_perfect(load_any(tmp_path / "b.mat", mpii), mpii, 1e-12)


def test_coco_results(tmp_path):
    truth = people("coco", COCO17, image_id=np.array([3, 3, 5, 7, 7]))
    entries = [
        {
            "image_id": int(i),
            "category_id": 1,
            "keypoints": np.concatenate([j, np.full((17, 1), 0.5)], 1).ravel().tolist(),
            "score": 0.25,
        }
        for i, j in zip(truth.image_id, truth.joints)
    ]
    entries.append({**entries[0], "category_id": 2})  # not a person
    (tmp_path / "r.json").write_text(json.dumps(entries))
    predictions = load_any(tmp_path / "r.json", truth)
    assert_perfect(predictions, truth)
    assert predictions.meta["final"] and (predictions.person_score == 0.25).all() and (predictions.score == 0.5).all()
    assert predictions.image_id.dtype.kind == "i"


def test_ai_challenger_results(tmp_path):
    truth = people("ai_challenger", AIC14, n=2, image_id=np.array(["a", "b"]))
    flat = [np.concatenate([j, [[1]] * 13 + [[3]]], 1).ravel().tolist() for j in truth.joints]
    entries = [{"image_id": f"{i}.jpg", "keypoint_annotations": {"human4": f}} for i, f in zip("ab", flat)]
    (tmp_path / "r").write_text(json.dumps(entries))
    predictions = load_any(tmp_path / "r", truth)
    assert_perfect(predictions, truth)
    assert predictions.image_id.tolist() == ["a", "b"] and predictions.score.sum() == 26
    (tmp_path / "none").write_text("[]")
    assert len(load_any(tmp_path / "none", truth)) == 0


def test_our_own_file_in_another_order_and_skeleton(tmp_path):
    truth = people("mpii", MPII16)
    path = tmp_path / "p.npz"
    save_predictions(path, predictions_for(truth.select([3, 1, 4, 0, 2]), truth.joints[[3, 1, 4, 0, 2]]))
    assert_perfect(load_any(path, truth), truth, rounding(300, dtype=np.float32))
    other = truth.joints[:, MPII16.indices(["upper_neck" if j == "neck" else j for j in LPM14.joints])]
    save_predictions(path, dataclasses.replace(predictions_for(truth, other), skeleton=LPM14))
    mapped = load_any(path, truth)
    limbs = MPII16.indices([j for j in MPII16.joints if j in LPM14.joints])
    np.testing.assert_allclose(
        mapped.joints[:, limbs], truth.joints[:, limbs], rtol=0, atol=rounding(300, dtype=np.float32)
    )
    assert set(mapped.meta["stand_ins"]) == {"pelvis", "thorax", "upper_neck"} and mapped.meta["mapped_from"] == "lpm14"


def penn_folder(root, frames=12):
    """One Penn Action video with a hidden joint whose coordinates are the annotation tool's placeholder."""
    rng = np.random.default_rng(0)
    start, step = rng.uniform(60, 200, (1, 13, 2)), rng.uniform(-1, 1, (frames, 13, 2))
    xy = start + step
    visibility = np.ones((frames, 13))
    xy[3, 4], visibility[3, 4] = 1.0, 0
    low, high = xy.min(1), xy.max(1)
    (root / "labels").mkdir(parents=True)
    content = {
        "x": xy[..., 0],
        "y": xy[..., 1],
        "visibility": visibility,
        "train": -1,
        "bbox": np.concatenate([low, high], 1),
    }
    scipy.io.savemat(root / "labels" / "0001.mat", content | {"dimensions": [[270, 480, frames]]})
    return xy


def mobilepose_crop(points, size):
    """MobilePose's test transform of one frame written out: crop around the stored joints, longer side 256, centred on the canvas."""
    x0, y0 = np.maximum(points.min(0) - 256 / 3, 0).astype(int)
    x1, y1 = np.minimum(points.max(0) + 256 / 3, np.array(size) - 1).astype(int)
    factor = 256 / max(x1 - x0, y1 - y0)
    offset = [int((256 - int((x1 - x0) * factor)) / 2), int((256 - int((y1 - y0) * factor)) / 2)]
    return (points - [x0, y0]) * factor + offset


def test_mobilepose_penn_action(tmp_path):
    xy = penn_folder(tmp_path)
    truth = datasets.load("penn_action", tmp_path, "test")
    head, left, right = (xy[:, PENN13.index(j)] for j in ("head", "left_shoulder", "right_shoulder"))
    neck = (head + left + right) / 3
    source = {"neck": neck, "head_top": head} | {j: xy[:, PENN13.index(j)] for j in PENN13.joints if j != "head"}
    maps = np.stack([source[j] for j in LPM14.joints] + [np.zeros_like(neck)], 1)
    pred = np.stack(
        [np.concatenate([mobilepose_crop(np.concatenate([xy[i], maps[i]]), (480, 270))[13:]]) for i in range(10)]
    )[..., ::-1]
    scipy.io.savemat(tmp_path / "pred.mat", {"pred": pred.astype(np.float32)})
    predictions = load_any(tmp_path / "pred.mat", truth)
    expected = xy[:10] - datasets.record("penn_action").origin
    np.testing.assert_allclose(predictions.joints[:10], expected, rtol=0, atol=rounding(480, dtype=np.float32))
    assert np.isnan(predictions.joints[10:]).all() and predictions.meta["missing_rows"] == 2
    scipy.io.savemat(tmp_path / "pred.mat", {"pred": pred[:7]})
    with pytest.raises(DataError, match=r"field pred has shape \(7, 15, 2\).*\(10, 15, 2\)"):
        load_any(tmp_path / "pred.mat", truth)


def bad_files(folder):
    """(content writer, words that the message must have)."""
    save = lambda **v: lambda p: scipy.io.savemat(p, v, appendmat=False)  # noqa: E731
    text = lambda t: lambda p: p.write_text(t)  # noqa: E731
    return [
        (save(preds=np.zeros((4, 16, 2))), ["field preds", "(4, 16, 2)", "5 persons", "split"]),
        (save(preds=np.zeros((5, 14, 2))), ["field preds", "16 joints"]),
        (save(prediction_all=np.zeros((14, 2, 5))), ["prediction_all", "lsp14", "mpii16"]),
        (save(pred=np.zeros((5, 15, 2))), ["field pred", "penn_action"]),
        (save(foo=1), ["foo", "preds"]),
        (text("MATLAB 5.0 MAT-file, cut off"), ["readable Matlab"]),
        (text('[{"keypoints": [1'), ["readable JSON"]),
        (text('{"annotations": []}'), ["list"]),
        (text('[{"image_id": 1}]'), ["keypoints"]),
        (
            text('[{"image_id": 1, "category_id": 1, "keypoints": [1, 2], "score": 1}]'),
            ["entry [0].keypoints", "48 finite numbers"],
        ),
        (text("hello"), ["no prediction file"]),
        (lambda p: p.write_bytes(b"PK\x03\x04nonsense"), ["readable prediction file"]),
    ]


@pytest.mark.parametrize("number", range(12))
def test_bad_files_name_field_and_remedy(tmp_path, number):
    write, words = bad_files(tmp_path)[number]
    path = tmp_path / "file"
    write(path)
    with pytest.raises(DataError) as caught:
        load_any(path, people("mpii", MPII16))
    message = str(caught.value)
    assert str(path) in message and all(w in message for w in words), message


def test_bad_entries_and_rows(tmp_path):
    coco = people("coco", COCO17)
    path = tmp_path / "r.json"
    path.write_text(json.dumps([{"image_id": 3, "category_id": 1, "keypoints": [1.0] * 48, "score": 1}]))
    with pytest.raises(DataError, match="entry \\[0\\].keypoints is a list of 48; write 51 finite numbers"):
        load_any(path, coco)
    path.write_text(json.dumps([{"image_id": 3, "category_id": 1, "keypoints": [1.0] * 51}]))
    with pytest.raises(DataError, match="entry \\[0\\].score is missing"):
        load_any(path, coco)
    path.write_text(json.dumps([{"image_id": "x", "category_id": 1, "keypoints": [1.0] * 51, "score": 1}]))
    with pytest.raises(DataError, match="entry \\[0\\].image_id is 'x'"):
        load_any(path, coco)
    truth = people("mpii", MPII16)
    save_predictions(tmp_path / "p.npz", predictions_for(truth.select(slice(2)), truth.joints[:2]))
    with pytest.raises(DataError, match="3 of the 5 persons.*--limit"):
        load_any(tmp_path / "p.npz", truth)
    with pytest.raises(DataError, match="'mpii'.*'lsp'"):
        load_any(tmp_path / "p.npz", people("lsp", LSP14))
    with pytest.raises(DataError, match="does not exist"):
        load_any(tmp_path / "nothing.npz", truth)


@pytest.mark.data
def test_published_mpii_predictions(pose_data):
    expected = json.loads((pose_data / "eval_refs" / "expected.json").read_text())["mpii_valid_pckh"]
    truth = datasets.load("mpii", pose_data / "mpii", "valid")
    for name, figures in expected.items():
        path = (
            pose_data / "mpii" / "annot" / "gt_valid.mat"
            if name.startswith("gt_valid")
            else pose_data / "eval_refs" / "mpii" / name
        )
        joints = load_any(path, truth).joints
        at_half, at_tenth = (
            pck.pckh(truth.joints, joints, truth.visible > 0, truth.head_size, t, MPII16) for t in (0.5, 0.1)
        )
        for group in ("Shoulder", "Elbow", "Wrist", "Hip", "Knee", "Ankle"):
            assert round(at_half.groups[group.lower()], 3) == figures[group]
        assert round(at_half.groups["head_top"], 3) == figures["Head"]
        assert round(at_half.means["weighted"], 3) == figures["Mean_weighted14"]
        assert round(at_half.means["unweighted"], 3) == figures["Mean_unweighted14"]
        assert round(at_tenth.means["weighted"], 3) == figures["Mean_weighted14_at_0p1"]


@pytest.mark.data
def test_published_lsp_predictions(pose_data):
    expected = json.loads((pose_data / "eval_refs" / "expected.json").read_text())["lsp_test_cpm"]["LSP_6s"]
    truth = datasets.load("lsp", pose_data / "lsp_small", "test")
    joints = load_any(next((pose_data / "eval_refs" / "lsp_cpm").glob("*.mat")), truth).joints
    torso = pck.length_between(truth.joints, LSP14, "left_shoulder", "right_hip")
    result = pck.pck(truth.joints, joints, truth.visible > 0, torso, 0.2, LSP14)
    assert [round(v, 1) for v in result.values.values()] == expected["PCK@0.2_per_joint"]
    assert round(result.total, 2) == expected["total"]


@pytest.mark.data
def test_annotations_imported_as_predictions_are_perfect(pose_data, tmp_path):
    """The loader and the importer move a file's coordinates by the same amount."""
    mpii = datasets.load("mpii", pose_data / "mpii", "valid")
    stored = scipy.io.loadmat(pose_data / "mpii" / "annot" / "gt_valid.mat")["pos_gt_src"]
    scipy.io.savemat(tmp_path / "a.mat", {"preds": stored.transpose(2, 0, 1)})
    labelled = mpii.visible > 0
    np.testing.assert_allclose(
        load_any(tmp_path / "a.mat", mpii).joints[labelled], mpii.joints[labelled], rtol=0, atol=EXACT
    )
    lsp = datasets.load("lsp", pose_data / "lsp_small", "test")
    stored = scipy.io.loadmat(pose_data / "lsp_small" / "joints.mat")["joints"]
    scipy.io.savemat(tmp_path / "b.mat", {"prediction_all": stored[:2, :, 1000:].transpose(1, 0, 2)})
    np.testing.assert_array_equal(load_any(tmp_path / "b.mat", lsp).joints, lsp.joints)
