"""A user's own data set and skeleton: trained, scored, predicted and converted under its own joint names."""

import json

import cv2
import numpy as np
import pytest
import torch

from common.errors import DataError
from common.predictions import load_predictions
from common.skeletons import Skeleton
from deeppose_caffe_port import Estimator, convert, predict, train, val, workflow
from deeppose_caffe_port.config import PRESETS, settle
from tests.deeppose_caffe_port.test_workflow import shorten

torch.set_num_threads(1)
JOINTS = {
    "left_first": ["left_hoof", "right_hoof", "nose"],
    "right_first": ["right_hoof", "left_hoof", "tail", "nose"],
    "no_sides": ["tip", "base"],
}


def own_data(folder, joints: list[str]):
    """Six pictures of noise with one labelled being each, in the project's own JSON format."""
    random, images = np.random.default_rng(0), []
    for i in range(6):
        cv2.imwrite(str(folder / f"p{i}.png"), random.integers(0, 255, (80, 90, 3)).astype(np.uint8))
        points = random.uniform(10, 70, (len(joints), 2)).round(1).tolist()
        points[-1] = None if i == 0 else points[-1]
        images.append({"file": f"p{i}.png", "persons": [{"joints": points}]})
    for split, part in (("train", images[:4]), ("valid", images[4:])):
        content = {"skeleton": {"name": "own", "joints": joints}, "images": part}
        (folder / f"{split}.json").write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize("joints", JOINTS.values(), ids=JOINTS)
def test_names_stay_those_of_the_data(tmp_path, joints, capsys):
    """Without a split `valid` nothing is validated, as the import says; stage 2 still tests on its own patches."""
    (tmp_path / "data").mkdir()
    data, project = own_data(tmp_path / "data", joints), tmp_path / "project"
    split = "train" if joints == JOINTS["no_sides"] else "valid"
    if split == "train":
        (data / "valid.json").unlink()
    words = [
        f"--out={project}",
        "--dataset=json",
        f"--data_root={data}",
        "--preset=smoke",
        "--holdout=2",
        "--patch_rate=1",
    ]
    assert workflow.main(["import_data", *words]) == 0
    assert ("nothing is validated" in capsys.readouterr().err) == (split == "train")
    shorten(project)
    assert workflow.main(["run_all", "--start_at=get_stage1", *words]) == 0
    scoring = [f"--weights={project}", f"--data_root={data}", f"--out={tmp_path / 'p.npz'}"]
    assert val.main(scoring) == (0 if split == "valid" else 2)
    assert val.main([*scoring, f"--split={split}"]) == 0
    found = load_predictions(tmp_path / "p.npz")
    assert found.skeleton.joints == tuple(joints) and found.joints.shape == (
        2 if split == "valid" else 4,
        len(joints),
        2,
    )
    assert predict.main([str(data / "p0.png"), f"--weights={project}", f"--out={tmp_path / 'out'}"]) == 0
    assert json.loads((tmp_path / "out/joints.jsonl").read_text())["joint_names"] == joints
    weights = project / "models/deeppose/snapshot/deeppose_iter_2.caffemodel"
    assert convert.main([str(weights), str(tmp_path / "net.pt")]) == 0
    assert json.loads((tmp_path / "net.pt.card.json").read_text())["skeleton"]["joints"] == joints
    state = torch.load(weights.parent / "log/last.pt", weights_only=True)
    assert state["about"]["skeleton"]["joints"] == joints and state["about"]["dataset"] == "json"


def test_another_order_is_mapped_and_another_skeleton_refused(tmp_path):
    """A network's answers reach the data's rows by joint name."""
    (tmp_path / "data").mkdir()
    joints = JOINTS["right_first"]
    own_data(tmp_path / "data", joints)
    project = tmp_path / "project"
    config = settle({"out": str(project), "dataset": "json", "data_root": str(tmp_path / "data"), "preset": "smoke"})
    from common.weights.caffe import write_blob
    from deeppose_caffe_port.prepare import import_data, load_split

    import_data(config)
    side = PRESETS["smoke"][1].side
    write_blob(config.model_folder(1) / "train_mean.binaryproto", np.zeros((1, 3, side, side), np.float32))
    estimator = Estimator(project, stage=1, random_weights=True)
    data = load_split(config, 1)
    order = [joints.index(j) for j in reversed(joints)]
    turned = data.select(slice(None))
    object.__setattr__(turned, "skeleton", Skeleton("turned", tuple(reversed(joints))))
    a, b = (estimator.predict_pose_set(d).joints for d in (data, turned))
    np.testing.assert_array_equal(a[:, order], b)
    other = data.select(slice(None))
    object.__setattr__(other, "skeleton", Skeleton("other", ("nose", "tail", "ear", "chin")))
    with pytest.raises(DataError, match="other.*--shared_joints"):
        estimator.predict_pose_set(other)
    shared = estimator.predict_pose_set(other, shared_joints=True).joints
    np.testing.assert_array_equal(shared[:, :2], a[:, [3, 2]])
    assert np.isnan(shared[:, 2:]).all()


@pytest.mark.parametrize("wrong", ["--weights=nowhere.caffemodel", "--device=cuda:99"])
def test_what_is_wrong_is_said_before_anything_is_prepared(tmp_path, capsys, wrong):
    words = ["--dataset=json", f"--data_root={own_data(tmp_path, JOINTS['no_sides'])}", "--preset=smoke"]
    assert train.main([*words, f"--out={tmp_path / 'project'}", wrong]) == 2
    assert wrong.partition("=")[2].removeprefix("cuda:") in capsys.readouterr().err
    assert not (tmp_path / "project").exists()
