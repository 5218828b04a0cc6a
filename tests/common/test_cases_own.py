"""Own data and prediction files as they really come: scored by the person or by the image, and what is refused by name."""

import json
import resource
import zipfile

import numpy as np
import pytest
import scipy.io

from common import datasets, evaluate
from common.importers import load_any
from common.predictions import predictions_for, save_predictions
from tests.tolerance import rounding

EXACT = rounding(1, terms=17, steps=20, dtype=np.float64)  # an average precision


def _own(tmp_path, joints, sigmas=None, limbs=None):
    names = ["a", "left_b", "right_b", "c"]
    skeleton = {"name": "cube", "joints": names, **({"limbs": limbs} if limbs else {})}
    images = [
        {"file": f"{k}.jpg", "persons": [{"joints": points, "area": 900} for points in people]}
        for k, people in enumerate(joints)
    ]
    content = {"skeleton": skeleton, "images": images, **({"sigmas": sigmas} if sigmas else {})}
    (tmp_path / "valid.json").write_text(json.dumps(content))
    return datasets.load("json", tmp_path, "valid")


def _people(seed=0):
    return np.random.default_rng(seed).uniform(10, 60, (3, 2, 4, 2)).round(1).tolist()


def test_a_list_without_person_ids_is_scored_by_image_only(tmp_path):
    joints = _people()
    truth = _own(tmp_path, joints, sigmas=[0.05] * 4)
    entries = [
        {
            "image_id": f"{k}.jpg",
            "category_id": 1,
            "keypoints": [v for p in person for v in (*p, 1)],
            "score": 1 - s / 9,
        }
        for k, people in enumerate(joints)
        for s, person in enumerate(people)
    ]
    for order in (entries, entries[::-1]):
        (tmp_path / "r.jsn").write_text(json.dumps(order))
        predictions = load_any(tmp_path / "r.jsn", truth)
        with pytest.warns(UserWarning, match="left out, because they need every person's row: pck_box@0.2"):
            results = evaluate.score(truth, predictions)
        assert list(results) == ["oks_ap"] and results["oks_ap"].total == pytest.approx(1, rel=0, abs=EXACT)
        with pytest.raises(datasets.DataError, match="which annotated persons"):
            evaluate.score(truth, predictions, ["pck_box@0.2"])
    entries[0]["image_id"] = "nosuch.jpg"
    (tmp_path / "r.jsn").write_text(json.dumps(entries))
    with pytest.raises(datasets.DataError, match="nosuch.jpg"):
        load_any(tmp_path / "r.jsn", truth)


def test_one_person_not_predicted_takes_only_the_rows(tmp_path):
    truth = _own(tmp_path, _people(), sigmas=[0.05] * 4)
    rows = truth.select(slice(1, None))
    with pytest.warns(UserWarning, match="1 of the 6 persons"):
        results = evaluate.score(truth, predictions_for(rows, rows.joints))
    assert list(results) == ["oks_ap"] and 0 < results["oks_ap"].total < 1
    assert {"oks_ap", "pck_box@0.2"} <= set(evaluate.score(truth, predictions_for(truth, truth.joints)))


def test_limbs_and_sigmas_of_ones_own(tmp_path):
    truth = _own(tmp_path, _people(), limbs=[["a", "left_b"], [2, 3]])
    assert truth.skeleton.limbs == ((0, 1), (2, 3)) and truth.sigmas is None
    assert "oks_ap" not in evaluate.score(truth, predictions_for(truth, truth.joints))
    for sigmas, words in (([0.1] * 3, "write 4 finite"), ([0.1, 0, 0.1, 0.1], "not positive"), ("x", "sigmas is 'x'")):
        with pytest.raises(datasets.DataError, match=words):
            _own(tmp_path, _people(), sigmas=sigmas)


# ---- joints.jsonl ---------------------------------------------------------------------------------------------------------------


def _line(image, skeleton, people, **more):
    persons = [
        {"id": -1, "box": [0, 0, 9, 9], "score": score, "joints": [p and [*p, 0.5] for p in joints]}
        for joints, score in people
    ]
    return json.dumps(
        {"image": image, "index": 0, "size": [80, 80], "skeleton": skeleton.name, "joint_names": skeleton.joints}
        | {"persons": persons}
        | more
    )


def test_lines_of_predict_are_scored(tmp_path):
    joints = _people()
    truth = _own(tmp_path, joints, sigmas=[0.05] * 4)
    lines = [
        _line(f"/elsewhere/{k}.jpg", truth.skeleton, [(p, 0.9) for p in people]) for k, people in enumerate(joints)
    ]
    path = tmp_path / "joints.jsonl"
    path.write_text("\n".join(lines) + '\n{"image": "9.jpg", "error": "unreadable"}\n')
    with pytest.warns(UserWarning, match="left out"):
        assert evaluate.score(truth, load_any(path, truth))["oks_ap"].total == pytest.approx(1, rel=0, abs=EXACT)
    path.write_text(_line("nosuch.jpg", truth.skeleton, [(joints[0][0], 1)]))
    with pytest.raises(datasets.DataError, match=r"line\[1\].image is 'nosuch.jpg'"):
        load_any(path, truth)
    path.write_text(_line("0.jpg", truth.skeleton, [(joints[0][0][:3], 1)]))
    with pytest.raises(datasets.DataError, match=r"persons\[0\].joints"):
        load_any(path, truth)


def test_lines_for_one_person_an_image_become_rows(tmp_path):
    table = np.random.default_rng(0).uniform(10, 140, (3, 14, 6))
    table[2] = 0
    scipy.io.savemat(tmp_path / "joints.mat", {"joints": table})
    truth = datasets.load("lsp", tmp_path, "test")
    people = [truth.joints[k].tolist() for k in range(3)]
    people[1][3] = None
    lines = [_line(f"im000{k + 4}.jpg", truth.skeleton, [(people[k], 0.9), (people[0], 0.2)]) for k in (1, 0)]
    (tmp_path / "joints.jsonl").write_text("\n".join(lines))
    found = load_any(tmp_path / "joints.jsonl", truth)
    np.testing.assert_allclose(found.joints[0], truth.joints[0], rtol=0, atol=rounding(1000, dtype=np.float32))
    assert np.isnan(found.joints[1, 3]).all() and np.isnan(found.joints[2]).all() and found.meta["missing_rows"] == 1
    assert found.person_id.tolist() == [0, 0, 0] and evaluate.score(truth, found)["pck_torso@0.2"].n == 3


def _npz(path, **members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(f"{name}.npy", data)


def test_an_npz_is_refused_by_checksum_and_by_size_before_memory_is_taken(tmp_path):
    truth = _own(tmp_path, _people())
    save_predictions(tmp_path / "p.npz", predictions_for(truth, truth.joints))
    with zipfile.ZipFile(tmp_path / "p.npz") as archive:
        joints = archive.read("joints.npy")
    _npz(tmp_path / "q.npz", joints=joints)
    whole = (tmp_path / "q.npz").read_bytes()
    crc = whole.index(b"PK\1\2") + 16
    (tmp_path / "q.npz").write_bytes(whole[:crc] + bytes(4) + whole[crc + 4 :])
    with pytest.raises(datasets.DataError, match="q.npz is not a readable prediction file .*CRC"):
        load_any(tmp_path / "q.npz", truth)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("joints.npy", "w", force_zip64=True) as member:
            for _ in range(1100):
                member.write(bytes(2**20))
    with pytest.raises(datasets.DataError, match="would unpack to 1153433600 bytes"):
        load_any(tmp_path / "bomb.npz", truth)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB
