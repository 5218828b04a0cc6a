"""The weights that come with the repository: whole, small, with a card, opened by their names in a process of their own,
and those that the tables score."""

import hashlib
import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
HOUSES = ("deeppose_tf", "deeppose_caffe_port", "lpm_torch", "deepercut_tf", "simplebaseline_paddle")
SHIPPED = [(house, path.stem) for house in HOUSES for path in sorted((ROOT / house / "zoo").glob("*.npz"))]
PROGRAM = """
import importlib, sys
import cv2
import numpy as np
from common.errors import DataError
estimator = importlib.import_module(sys.argv[1]).Estimator(sys.argv[4])
picture = np.random.default_rng(0).integers(0, 256, (120, 90, 3), np.uint8)
people = estimator.predict(picture, np.array([[10.0, 5.0, 60.0, 100.0]]))
assert people.joints.shape == (1, 14, 2) and np.isfinite(people.joints).all()
assert estimator.skeleton.joints[0] == "right_ankle"
photo = cv2.imread(sys.argv[3])[8:318, 8:318]
around = np.array([[83.0, 29, 144, 254], [90, 40, 120, 200]])
views = [(photo, around[:1]), (photo[:80], np.zeros((0, 4))), (photo[:, ::-1], None), (photo, around)]
many = estimator.predict_many(views)
assert [len(one) for one in many] == [1, 0, 1, 2] and not estimator.predict_many([views[1]])[0].joints.size
for one, (image, boxes) in zip(many, views):
    alone = estimator.predict(image, boxes)
    # bf16 has 8 bits; where two cells are nearly equal rounding may choose the other
    assert np.array_equal(one.box, alone.box) and np.allclose(one.score, alone.score, atol=4 * 2.0**-8)
    assert not len(one) or (np.abs(one.joints - alone.joints).max(-1) < 0.5).mean() >= 0.9
if sys.argv[1].startswith("deeppose"):  # where no cells round: a mirrored picture has the mirrored answer
    both = (type(estimator)(sys.argv[4], flip_test=flip) for flip in (True, False))
    apart = []
    for own, flip in zip(both, (True, False)):
        assert own.meta["flip_test"] == flip
        one, other = (own.predict(np.ascontiguousarray(image)).joints[0] for image in (photo, photo[:, ::-1]))
        mirrored = (other * (-1, 1) + (photo.shape[1] - 1, 0))[own.skeleton.mirror]
        apart.append(np.abs(one - mirrored).max())
    assert apart[0] < 0.05 < 1 < apart[1], apart
outside = estimator.predict(photo, np.array([[83.0, 29, 144, 254], [5000, 50, 99, 99], [-99, 50, 99, 99]]))
assert [np.isfinite(joints).any() for joints in outside.joints] == [True, False, False]
assert outside.score[0].any() and not outside.score[1:].any() and not outside.person_score[1:].any()
grey = photo[:, :, 0]
assert (estimator.predict(grey, around).joints == estimator.predict(np.dstack([grey] * 3), around).joints).all()
for image, boxes in ((photo, [[1, 2, 0, 4]]), (photo, [[1, 2, np.nan, 4]]), (photo[:0], None), (photo.astype(float), None)):
    try:
        print("read:", estimator.predict(image, boxes))
    except DataError as error:
        assert "are not x, y, w, h" in str(error) or "no picture" in str(error) or "bits" in str(error), error
try:
    half, whole = (type(estimator)(sys.argv[4], amp=amp).predict(photo, around[:1]) for amp in ("bf16", "off"))
    apart = np.abs(half.joints - whole.joints)
    assert np.median(apart) < 3 and (apart.any() or (half.score != whole.score).any()), apart
except DataError as error:  # simplebaseline_paddle's needs a processor with bf16
    assert "--amp bf16 needs a CPU" in str(error), error
"""
DAMAGED = """
import shutil, zipfile
from pathlib import Path
source, damaged = Path(sys.argv[2]), Path("damaged.npz")
shutil.copyfile(f"{source}.card.json", f"{damaged}.card.json")
with np.load(source) as file:
    arrays = dict(file)
name = max((n for n, a in arrays.items() if a.dtype.kind == "f"), key=lambda n: arrays[n].size)
nan = arrays[name].copy()
nan.flat[-1] = np.nan
changed = {"nan": nan, "complex": arrays[name] + 1j, "text": np.full(arrays[name].shape, "1"), "gone": None}
for what, array in changed.items():
    np.savez(damaged, **{n: a for n, a in (arrays | {name: array}).items() if a is not None})
    try:
        type(estimator)(damaged).predict(picture)
        print("read:", what)
    except DataError as error:
        assert "damaged.npz" in str(error), error
whole = source.read_bytes()
end = whole.rindex(b"PK\\1\\2", 0, whole.rindex(b"PK\\1\\2"))
damaged.write_bytes(whole[: end + 30] + b"\\xff" + whole[end + 31 :])  # a longer extra field hides the last member
try:
    type(estimator)(damaged).predict(picture)
    print("read: table of contents")
except DataError as error:
    assert "damaged.npz" in str(error), error
"""


def test_every_house_ships_a_network():
    assert {house for house, name in SHIPPED if name == "lspet"} == set(HOUSES)


@pytest.mark.parametrize(("house", "name"), SHIPPED)
def test_a_shipped_network_answers_and_a_damaged_one_is_refused(house, name, tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "3"}
    words = [
        sys.executable,
        "-c",
        PROGRAM + DAMAGED,
        house,
        str(ROOT / house / f"zoo/{name}.npz"),
        str(ROOT / "examples/photo.jpg"),
        name,
    ]
    answer = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert answer.returncode == 0 and "read: " not in answer.stdout, answer.stdout + answer.stderr[-2000:]


@pytest.mark.parametrize(("house", "name"), SHIPPED)
def test_a_shipped_network_has_its_card_and_its_figures(house, name):
    path = ROOT / house / f"zoo/{name}.npz"
    card = json.loads((path.parent / f"{path.name}.card.json").read_text())
    assert path.stat().st_size <= 4 << 20 and "research" in card["licence"]
    run = json.loads((ROOT / house / f"results/{name}_shipped.json").read_text())
    assert run["split"] == "4001-5000" and not run["meta"]["synthetic"]
    if house != "deeppose_caffe_port":  # whose hash is of the .caffemodel that the file unpacks to
        assert run["meta"]["weights_hash"] == hashlib.sha256(path.read_bytes()).hexdigest()
