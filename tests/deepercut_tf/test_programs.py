"""Programs from end to end on tiny networks: pictures, folders and videos in, joints out; another backend; two processes."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from scipy.io import loadmat

pytest.importorskip("tensorflow")

from common.datasets import synthetic
from deepercut_tf import convert, pairwise_stats, predict, test_multiperson, val
from deepercut_tf import model as networks
from deepercut_tf.config import make_config
from deepercut_tf.demo import demo_multiperson, singleperson
from deepercut_tf.engine import Machine
from deepercut_tf.estimator import Estimator
from deepercut_tf.items import load_items
from deepercut_tf.pairwise import SpatialModel, save_spatial_model
from deepercut_tf.pairwise_stats import save_statistics
from deepercut_tf.prepare_mpii import write_dataset
from deepercut_tf.train import main as train_main
from deepercut_tf.train import train
from deepercut_tf.weight_files import read_weights, write_weights
from tests.tolerance import close, rounding

ROOT = Path(__file__).resolve().parents[2]
JOINTS = 3
DEPTH = 14  # convolutions of the shallow networks here, the head's included
TERMS = 9 * 64  # products that the widest of them adds up
SETTINGS = {
    "num_joints": JOINTS,
    "all_joints": [[0, 1], [2]],
    "all_joints_names": ["hip", "nose"],
    "net_type": "resnet_50",
    "channels": 0.125,
    "location_refinement": True,
    "bn_mode": "frozen",
}


@pytest.fixture(autouse=True)
def shallow(monkeypatch):
    """One unit a block, for the time that building and tracing takes."""
    monkeypatch.setitem(networks.UNITS, "resnet_50", (1, 1, 1, 1))


def make_network(folder: Path, **more) -> list[str]:
    """Random weights and settings in files; the options that name them."""
    import keras

    keras.utils.set_random_seed(0)
    settings = {**SETTINGS, **more}
    model = networks.build_model(make_config(settings))
    values = {name: np.asarray(v) for name, v in networks.named_variables(model).items()}
    write_weights(folder / "w.npz", values, {})
    (folder / "pose_cfg.yaml").write_text(yaml.safe_dump(settings))
    return ["--config", str(folder / "pose_cfg.yaml"), "--weights", str(folder / "w.npz")]


def pairwise_settings(folder: Path) -> dict:
    """Files of the pairwise terms that judge every pair alike, and the keys that name them."""
    pairs = JOINTS * (JOINTS - 1)
    save_statistics(folder / "stats.mat", np.zeros((pairs, 2)), np.ones((pairs, 2)), JOINTS)
    spatial = SpatialModel.empty(JOINTS)
    for k in range(JOINTS):
        for m in range(k + 1, JOINTS):
            spatial.low[k, m], spatial.high[k, m], spatial.weight[k, m] = 0, 1, 0
    save_spatial_model(folder / "spatial", spatial)
    return {
        "pairwise_predict": True,
        "pairwise_stats_fn": str(folder / "stats.mat"),
        "pairwise_model_dir": str(folder / "spatial"),
        "nms_radius": 3.0,
        "det_min_score": 0.3,
        "min_person_joints": 1,
    }


def picture(seed=0, size=(72, 96)):
    return np.random.default_rng(seed).integers(0, 255, (*size, 3)).astype(np.uint8)


def largest_difference(first: dict, second: dict) -> float:
    """Over the outputs of the first, relative to their largest value (at least 1)."""
    return max(float(np.abs(first[n] - second[n]).max() / max(np.abs(first[n]).max(), 1.0)) for n in first)


def answers(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "joints.jsonl").read_text().splitlines()]


def test_folder_video_and_demo(tmp_path):
    """One line a picture or frame, as many drawings; the demo answers as predict.py; a folder without pictures is
    refused.
    """
    options = make_network(tmp_path)
    (tmp_path / "in").mkdir()
    for i in range(2):
        cv2.imwrite(str(tmp_path / "in" / f"{i}.png"), picture(i))
    assert predict.main([str(tmp_path / "in"), *options, "--out", str(tmp_path / "folder")]) == 0
    lines = answers(tmp_path / "folder")
    assert len(lines) == 2 and np.shape(lines[0]["persons"][0]["joints"]) == (JOINTS, 3)
    assert lines[0]["joint_names"] == ["right_hip", "left_hip", "nose"]
    assert singleperson.main([str(tmp_path / "in" / "1.png"), *options, "--out", str(tmp_path / "demo")]) == 0
    assert answers(tmp_path / "demo")[0]["persons"] == lines[1]["persons"] and list((tmp_path / "demo").glob("*.png"))
    writer = cv2.VideoWriter(str(tmp_path / "clip.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 10, (96, 72))
    for i in range(3):
        writer.write(picture(i))
    writer.release()
    assert predict.main([str(tmp_path / "clip.avi"), *options, "--out", str(tmp_path / "video"), "--smooth"]) == 0
    assert [line["index"] for line in answers(tmp_path / "video")] == [0, 1, 2]
    cv2.imwrite(str(tmp_path / "tiny.png"), picture(size=(5, 7)))  # less than a cell
    assert predict.main([str(tmp_path / "tiny.png"), *options, "--out", str(tmp_path / "small")]) == 0
    assert np.isfinite(np.array(answers(tmp_path / "small")[0]["persons"][0]["joints"], float)).all()
    (tmp_path / "empty").mkdir()
    assert predict.main([str(tmp_path / "empty"), *options, "--out", str(tmp_path / "none")]) == 2


def test_demo_of_several_persons(tmp_path, capsys):
    """Runs with the pairwise files, on a picture of less than a cell too; names a missing file; an empty list where
    nothing is detected.
    """
    options = make_network(tmp_path, **pairwise_settings(tmp_path))
    (tmp_path / "in").mkdir()
    cv2.imwrite(str(tmp_path / "in" / "a.png"), picture())
    cv2.imwrite(str(tmp_path / "in" / "tiny.png"), picture(size=(5, 7)))
    demo = [str(tmp_path / "in"), *options, "--out", str(tmp_path / "demo")]
    assert demo_multiperson.main(demo) == 0
    both = answers(tmp_path / "demo")
    assert len(both) == 2 and all(len(p["joints"]) == JOINTS for line in both for p in line["persons"])
    predicting = [str(tmp_path / "in"), *options, "--out", str(tmp_path / "nobody"), "--det_min_score", "2"]
    assert predict.main(predicting) == 0 and [line["persons"] for line in answers(tmp_path / "nobody")] == [[], []]
    (tmp_path / "stats.mat").unlink()
    assert demo_multiperson.main(demo) == 2 and "stats.mat" in capsys.readouterr().err


def test_one_part_only(tmp_path, capsys):
    """A joint set of one joint: no pairs, statistics of no rows, every detection a person; the same weights are refused
    for two joints.
    """
    own = {
        "num_joints": 1,
        "all_joints": [[0]],
        "all_joints_names": ["nose"],
        "dataset_type": "default",
        "dataset": str(tmp_path / "d.mat"),
    }
    options = make_network(tmp_path, **{**pairwise_settings(tmp_path), "min_person_joints": 3, **own})
    cv2.imwrite(str(tmp_path / "a.png"), picture())
    write_dataset(tmp_path / "d.mat", [("a.png", (72, 96), np.array([[0, 40, 30]], np.int32))], 0)
    assert pairwise_stats.main(options[:2]) == 0 and len(loadmat(tmp_path / "stats.mat")["means"]) == 0
    assert test_multiperson.main([*options, "--out", str(tmp_path / "p.json"), "--det_min_score", "0.01"]) == 0
    found = json.loads((tmp_path / "p.json").read_text())
    assert found and all(len(entry["keypoints"]) == 3 for entry in found)
    two = {"num_joints": 2, "all_joints": [[0, 1]]}
    assert (
        predict.main(
            [
                str(tmp_path / "a.png"),
                *options,
                *(f"--{k}={json.dumps(v)}" for k, v in two.items()),
                "--no-pairwise_predict",
            ]
        )
        == 2
    )
    assert "the network" in (text := capsys.readouterr().err) or "w.npz" in text
    assert "num_joints" in text


def test_weights_of_16_bits(tmp_path):
    make_network(tmp_path)
    words = [str(tmp_path / "w.npz"), str(tmp_path / "h.npz"), "--config", str(tmp_path / "pose_cfg.yaml"), "--half"]
    assert convert.main(words) == 0
    assert convert.main([*words[:1], str(tmp_path / "x.onnx"), *words[2:]]) == 2 and not list(tmp_path.glob("x.onnx*"))
    whole, half = read_weights(tmp_path / "w.npz")[0], read_weights(tmp_path / "h.npz")[0]
    assert all(half[name].dtype == np.float32 for name in half)
    assert all(np.array_equal(half[name], whole[name].astype(np.float16)) for name in half)
    assert len(Estimator(tmp_path / "h.npz").skeleton) == JOINTS


FORWARD = """
import sys, keras, numpy as np
from deepercut_tf import model
from deepercut_tf import Estimator
from deepercut_tf.config import load_config
model.UNITS["resnet_50"] = (1, 1, 1, 1)
estimator = Estimator(sys.argv[2], **load_config(sys.argv[1]))
np.savez(sys.argv[4], **estimator._network(np.load(sys.argv[3])))
assert keras.backend.backend() == "torch"
"""


def test_the_torch_backend_answers_alike(tmp_path):
    """KERAS_BACKEND=torch: the same maps, by other convolution kernels."""
    pytest.importorskip("torch")
    make_network(tmp_path)
    image = picture()[None]
    np.save(tmp_path / "image.npy", image)
    files = [str(tmp_path / name) for name in ("pose_cfg.yaml", "w.npz", "image.npy", "out.npz")]
    run_python(["-c", FORWARD, *files], KERAS_BACKEND="torch")
    config = make_config(SETTINGS)
    model = networks.build_model(config)
    networks.load_variables(model, read_weights(tmp_path / "w.npz")[0], "w.npz")
    found = dict(np.load(tmp_path / "out.npz"))
    close(largest_difference(found, networks.Predictor(model)(image)), 0, rounding(1, TERMS, DEPTH))


def run_python(words: list[str], wait: bool = True, **variables):
    """A Python process in the repository; its end is awaited and must be good."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "", **variables}
    process = subprocess.Popen(
        [sys.executable, *words], cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    return finish(process) if wait else process


def finish(process) -> str:
    output = process.communicate(timeout=900)[0]
    assert process.returncode == 0, output[-3000:]
    return output


def test_two_processes_step_as_one_with_both_pictures_and_one_goes_on(tmp_path):
    """multiworker: both processes end with the weights of one process that has both pictures in its batch, and one
    process goes on from their state as from its own."""
    entries = []
    for i in range(4):
        cv2.imwrite(str(tmp_path / f"{i}.png"), picture(i, (112, 112)))
        points = np.concatenate(
            [np.arange(JOINTS)[:, None], np.random.default_rng(i).integers(20, 90, (JOINTS, 2))], axis=1
        )
        entries.append((f"{i}.png", (112, 112), points.astype(np.int32)))
    settings = {
        **SETTINGS,
        "dataset_type": "default",
        "dataset": str(write_dataset(tmp_path / "dataset.mat", entries, 0)),
        "location_refinement": False,
        "pos_dist_thresh": 12,
        "multi_step": [[0.0001, 1]],
        "display_iters": 10,
        "save_iters": 10,
    }
    own = json.dumps({**settings, "batch_size": 1, "out": str(tmp_path / "multiworker")})
    worker = str(Path(__file__).with_name("distributed_worker.py"))
    item_set, config = load_items(make_config({**settings, "batch_size": 2, "out": str(tmp_path / "one")}))
    alone, _ = read_weights(train(config, item_set, Machine()) / "last.npz")
    with socket.socket() as first, socket.socket() as second:
        for free in (first, second):
            free.bind(("127.0.0.1", 0))
        addresses = [f"127.0.0.1:{free.getsockname()[1]}" for free in (first, second)]
    clusters = [
        json.dumps({"cluster": {"worker": addresses}, "task": {"type": "worker", "index": i}}) for i in range(2)
    ]
    both = [
        run_python([worker, own, str(tmp_path / f"worker{i}.npz")], wait=False, TF_CONFIG=cluster)
        for i, cluster in enumerate(clusters)
    ]
    for process in both:
        finish(process)
    workers = [np.load(tmp_path / f"worker{i}.npz") for i in range(2)]
    for name, value in alone.items():
        for found in workers:
            # a convolution and a normalisation a layer, there and back
            close(found[name], value, rounding(np.abs(value).max(), steps=4 * DEPTH), name)
    further = []
    for start in ("one", "multiworker"):
        more = {"batch_size": 2, "multi_step": [[0.0001, 3]], "resume": str(tmp_path / start / "last.npz")}
        item_set, config = load_items(make_config({**settings, **more, "out": str(tmp_path / f"{start}_on")}))
        further.append(read_weights(train(config, item_set, Machine()) / "last.npz")[0])
        assert (tmp_path / f"{start}_on" / "snapshot-3.index").exists()
    further_one, further_two = further
    assert any(not np.array_equal(value, alone[name]) for name, value in further_one.items())
    for name, value in further_one.items():
        close(further_two[name], value, rounding(np.abs(value).max(), steps=8 * DEPTH), name)


@pytest.mark.parametrize(
    "joints", [["left_hip", "right_hip", "nose"], ["right_paw", "left_paw", "tail"], ["head", "belly", "tail"]]
)
def test_own_data_keep_their_names(tmp_path, monkeypatch, capsys, joints):
    """The format json with left first, right first or no sides: trained, scored, predicted and converted under the
    data's names and limbs.
    """
    monkeypatch.chdir(tmp_path)
    persons = [{"joints": [[20, 30], [60, 30], [40, 70]]}]
    images = [{"file": f"{i}.png", "width": 96, "height": 80, "persons": persons} for i in range(2)]
    skeleton = {"name": "own", "joints": joints, "limbs": [[joints[0], joints[2]]]}
    for i in range(2):
        cv2.imwrite(str(tmp_path / f"{i}.png"), picture(i, (80, 96)))
    (tmp_path / "own.json").write_text(json.dumps({"skeleton": skeleton, "images": images}))
    training = ["--config", str(tmp_path / "cfg.yaml"), "--dataset", "json", "--data_root", "own.json", "--out", "run"]
    keys = {"net_type": "resnet_50", "channels": 0.125, "multi_step": [[0.001, 0]], "location_refinement": True}
    (tmp_path / "cfg.yaml").write_text(yaml.safe_dump(keys))
    assert train_main([*training, "--train_split", "all", "--valid_split", "valid"]) == 0
    assert "nothing is validated" in capsys.readouterr().err
    assert convert.main(["run", "own.npz"]) == 0
    assert predict.main(["0.png", "--weights", "own.npz", "--out", "found"]) == 0
    line = answers(tmp_path / "found")[0]
    assert line["joint_names"] == joints and line["skeleton"] == "own"
    estimator = Estimator("own.npz")
    assert estimator.skeleton.joints == tuple(joints) and estimator.skeleton.limbs == ((0, 2),)
    assert val.main(["--weights", "own.npz", "--split", "all", "--out", "p.npz"]) == 0
    assert np.load("p.npz")["joint_names"].tolist() == joints
    other = estimator.predict_pose_set(
        load_items(make_config({"dataset": "own.json", "dataset_type": "json"}))[0].pose_set
    )
    assert other.skeleton.joints == tuple(joints)
    assert val.main(["--weights", "own.npz", "--dataset", "lsp", "--data_root", "absent", "--split", "test"]) == 2


def test_another_skeleton_is_an_error(tmp_path):
    """Scores by name: the same joints in another order are mapped; others are refused, naming both, unless shared ones
    are enough.
    """
    from common.errors import DataError
    from common.skeletons import Skeleton
    from deepercut_tf.items import items_of

    make_network(tmp_path)
    estimator = Estimator(tmp_path / "w.npz", **SETTINGS)
    cv2.imwrite(str(tmp_path / "0.png"), picture())
    skeleton = {"name": "turned", "joints": ["nose", "right_hip", "left_hip"]}
    images = [{"file": "0.png", "width": 96, "height": 72, "persons": [{"joints": [[20, 30], [60, 30], [40, 60]]}]}]
    (tmp_path / "own.json").write_text(json.dumps({"skeleton": skeleton, "images": images}))
    config = make_config({"dataset": str(tmp_path / "own.json"), "dataset_type": "json"})
    pose_set = load_items(config)[0].pose_set
    pose = estimator.predict(tmp_path / "0.png").joints[0]
    np.testing.assert_array_equal(estimator.predict_pose_set(pose_set).joints[0], pose[[2, 0, 1]])
    boxes = np.array([[5.0, 5, 60, 50], [30, 10, 50, 60]])
    people = estimator.predict(picture(), boxes)
    assert len(people) == 2 and (people.box == boxes).all() and len(estimator.predict(picture(), boxes[:0])) == 0
    # a person as large as those of the training: the picture around the box is resized before it is looked at
    whole, scale = np.array([[0.0, 0.0, 96, 72]]), estimator.config.global_scale
    sized = Estimator(tmp_path / "w.npz", **SETTINGS, person_size=192.0).predict(picture(), whole)
    doubled = Estimator(tmp_path / "w.npz", **SETTINGS | {"global_scale": 2 * scale}).predict(picture(), whole)
    np.testing.assert_array_equal(sized.joints, doubled.joints)
    assert (sized.joints != estimator.predict(picture(), whole).joints).any()
    wider = items_of(pose_set, Skeleton("wider", ("nose", "right_hip", "left_hip", "tail")))
    other = replace(pose_set, skeleton=wider.skeleton, joints=np.zeros((1, 4, 2)), visible=np.full((1, 4), 2, np.int8))
    with pytest.raises(DataError, match="settings_right_hip_left_hip_nose .* wider"):
        estimator.predict_pose_set(other)
    shared = estimator.predict_pose_set(other, shared_joints=True)
    np.testing.assert_array_equal(shared.joints[0, :3], pose[[2, 0, 1]])
    assert np.isnan(shared.joints[0, 3]).all() and shared.score[0, 3] == 0


def test_sigterm_of_the_programme(tmp_path):
    """Sent to the whole group, as `timeout` and SLURM do: exit code 130, and the state of the step is there."""
    synthetic.main(["lsp", str(tmp_path / "LSP"), "--count", "6"])
    options = "--preset smoke --data_root LSP --out run --batch_size 1 --display_iters 1"
    words = [f"{ROOT}/deepercut_tf/train.py", *options.split()]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen([sys.executable, *words], cwd=tmp_path, start_new_session=True, **pipes)
    log = tmp_path / "run" / "log.jsonl"
    while process.poll() is None and not (log.exists() and log.stat().st_size):  # a step is done
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGTERM)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 130 and "go on with --resume" in errors, errors[-2000:]
    from deepercut_tf.weight_files import open_store

    assert 1 <= open_store(tmp_path / "run").load(tmp_path / "run" / "last.npz")["step"] < 351


def three_losses() -> list[float]:
    """Of three steps of a network of one unit a block."""
    import keras

    from deepercut_tf.engine import Update

    config = make_config({"net_type": "resnet_50", "channels": 0.125, "num_joints": 2, "bn_mode": "frozen"})
    keras.utils.set_random_seed(0)
    update = Update(networks.build_model(config), config)
    rng = np.random.default_rng(0)
    batch = {"inputs": rng.integers(0, 256, (1, 64, 80, 3), np.uint8)}
    names = "part_score_targets", "part_score_weights"
    batch |= {name: rng.integers(0, 2, (1, 8, 10, 2)).astype(np.float32) for name in names}
    return [float(update(batch, 1e-4, number)["total_loss"]) for number in (1, 2, 3)]


def test_training_without_onednn():
    """TF_ENABLE_ONEDNN_OPTS=0: dilated convolutions train in the other form, which is said, with this process's losses
    (but float32's rounding)."""
    program = "from tests.deepercut_tf import test_programs as t; t.networks.UNITS['resnet_50'] = (1, 1, 1, 1)"
    text = run_python(["-c", program + "; print('losses', *t.three_losses())"], TF_ENABLE_ONEDNN_OPTS="0")
    assert "no gradient here" in text
    here, without = three_losses(), [float(v) for v in text.split("losses")[1].split()[:3]]
    close(without, here, rounding(max(here), steps=3 * 2 * DEPTH))  # three steps there and back
    assert here[2] != here[0]
