"""Programs from end to end on tiny networks: pictures, folders and videos in, joints out; ONNX; another backend; two processes."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from scipy.io import loadmat

pytest.importorskip("tensorflow")

from deepercut_tf import convert, pairwise_stats, predict, test_multiperson
from deepercut_tf import model as networks
from deepercut_tf.config import make_config
from deepercut_tf.demo import demo_multiperson, singleperson
from deepercut_tf.engine import Predictor
from deepercut_tf.items import load_items
from deepercut_tf.pair_statistics import save_statistics
from deepercut_tf.pairwise import SpatialModel, save_spatial_model
from deepercut_tf.prepare_mpii import write_dataset
from deepercut_tf.run import Run
from deepercut_tf.train import iterate
from deepercut_tf.weight_files import write_weights

ROOT = Path(__file__).resolve().parents[2]
JOINTS = 3
SETTINGS = {
    "num_joints": JOINTS,
    "all_joints": [[0, 1], [2]],
    "all_joints_names": ["hip", "nose"],
    "net_type": "resnet_50",
    "width": 0.125,
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
        "pairwise_predict": True, "pairwise_stats_fn": str(folder / "stats.mat"), "pairwise_model_dir": str(folder / "spatial"),
        "nms_radius": 3.0, "det_min_score": 0.3, "min_person_joints": 1,
    }  # fmt: skip


def picture(seed=0, size=(72, 96)):
    return np.random.default_rng(seed).integers(0, 255, (*size, 3)).astype(np.uint8)


def answers(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "joints.jsonl").read_text().splitlines()]


def test_folder_video_and_demo(tmp_path):
    """One line a picture or frame, as many drawings; the demo answers as predict.py; a folder without pictures is refused."""
    options = make_network(tmp_path)
    (tmp_path / "in").mkdir()
    for i in range(2):
        cv2.imwrite(str(tmp_path / "in" / f"{i}.png"), picture(i))
    assert predict.main([str(tmp_path / "in"), *options, "--out", str(tmp_path / "folder")]) == 0
    lines = answers(tmp_path / "folder")
    assert len(lines) == 2 and np.shape(lines[0]["persons"][0]["joints"]) == (JOINTS, 2)
    assert (
        singleperson.main(["--image", str(tmp_path / "in" / "1.png"), *options, "--out", str(tmp_path / "demo")]) == 0
    )
    assert answers(tmp_path / "demo")[0]["persons"] == lines[1]["persons"] and list((tmp_path / "demo").glob("*.png"))
    writer = cv2.VideoWriter(str(tmp_path / "clip.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 10, (96, 72))
    for i in range(3):
        writer.write(picture(i))
    writer.release()
    assert predict.main([str(tmp_path / "clip.avi"), *options, "--out", str(tmp_path / "video"), "--smooth"]) == 0
    assert [line["frame"] for line in answers(tmp_path / "video")] == [0, 1, 2]
    cv2.imwrite(str(tmp_path / "tiny.png"), picture(size=(5, 7)))  # less than a cell
    assert predict.main([str(tmp_path / "tiny.png"), *options, "--out", str(tmp_path / "small")]) == 0
    assert np.isfinite(np.array(answers(tmp_path / "small")[0]["persons"][0]["joints"], float)).all()
    (tmp_path / "empty").mkdir()
    assert predict.main([str(tmp_path / "empty"), *options, "--out", str(tmp_path / "none")]) == 2


def test_demo_of_several_persons(tmp_path, capsys):
    """Runs with the pairwise files, on a picture of less than a cell too; names a missing file; an empty list where nothing is detected."""
    options = make_network(tmp_path, **pairwise_settings(tmp_path))
    (tmp_path / "in").mkdir()
    cv2.imwrite(str(tmp_path / "in" / "a.png"), picture())
    cv2.imwrite(str(tmp_path / "in" / "tiny.png"), picture(size=(5, 7)))
    demo = ["--image", str(tmp_path / "in"), *options, "--out", str(tmp_path / "demo")]
    assert demo_multiperson.main(demo) == 0
    both = answers(tmp_path / "demo")
    assert len(both) == 2 and all(len(p["joints"]) == JOINTS for line in both for p in line["persons"])
    predicting = [str(tmp_path / "in"), *options, "--out", str(tmp_path / "nobody"), "--set", "det_min_score=2"]
    assert predict.main(predicting) == 0 and [line["persons"] for line in answers(tmp_path / "nobody")] == [[], []]
    (tmp_path / "stats.mat").unlink()
    assert demo_multiperson.main(demo) == 2 and "stats.mat" in capsys.readouterr().err


def test_one_part_only(tmp_path, capsys):
    """A joint set of one joint: no pairs, statistics of no rows, every detection a person; the same weights are refused for two joints."""
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
    assert test_multiperson.main([*options, "--out", str(tmp_path / "p.json"), "--set", "det_min_score=0.01"]) == 0
    found = json.loads((tmp_path / "p.json").read_text())
    assert found and all(len(entry["keypoints"]) == 3 for entry in found)
    two = {**own, "num_joints": 2, "all_joints": [[0, 1]], "dataset": ""}
    assert (
        predict.main(
            [
                str(tmp_path / "a.png"),
                *options,
                *(f"--set={k}={json.dumps(v)}" for k, v in two.items()),
                "--set=pairwise_predict=false",
            ]
        )
        == 2
    )
    assert "w.npz" in (text := capsys.readouterr().err) and "num_joints" in text


def test_maps_are_cached(tmp_path):
    """--cache writes the maps of the pairwise network, cached_scoremaps reads them: the same answers without running it."""
    from deepercut_tf.detections import Maps

    rng = np.random.default_rng(0)
    maps = Maps(
        rng.random((4, 5, JOINTS)),
        rng.normal(size=(4, 5, JOINTS, 2)),
        rng.normal(size=(4, 5, JOINTS * (JOINTS - 1), 2)),
    )
    test_multiperson.write_maps(tmp_path / "7.mat", maps)
    read = test_multiperson.read_maps(tmp_path / "7.mat")
    for name in ("score", "locref", "pairwise"):
        np.testing.assert_array_equal(getattr(read, name), getattr(maps, name).astype(np.float32))


def test_onnx(tmp_path):
    """The exported network answers as ours at a size that was not checked at the export (1e-4 of the largest output: other kernels)."""
    make_network(tmp_path)
    out = tmp_path / "w.onnx"
    assert convert.main([str(tmp_path / "w.npz"), str(out), "--config", str(tmp_path / "pose_cfg.yaml")]) == 0
    config = make_config(SETTINGS)
    model = networks.build_model(config)
    networks.load_variables(model, dict(np.load(tmp_path / "w.npz")), "w.npz")
    image = picture(size=(50, 131))[None]
    ours, theirs = Predictor(model, config).outputs(image), convert.run_onnx(out, image)
    assert set(theirs) == {"part_pred", "locref"}
    assert convert.largest_difference(theirs, ours) < 1e-4
    assert json.loads(Path(f"{out}.json").read_text())["check"]["largest difference"] <= 1e-4


def test_resnet_152():
    """Units 3, 8, 36, 3 under the original's names, and a forward pass."""
    config = make_config({**SETTINGS, "net_type": "resnet_152", "intermediate_supervision": True})
    model = networks.build_model(config, intermediate=True)
    names = networks.named_variables(model)
    units = {name.split("/bottleneck")[0] for name in names if "/bottleneck" in name}
    assert (
        len(units) == 50
        and {"resnet_v1_152/block2/unit_8", "resnet_v1_152/block3/unit_36", "resnet_v1_152/block4/unit_3"} <= units
    )
    maps = model(picture(size=(33, 48))[None], training=False)
    assert (
        maps["part_pred"].shape == maps["part_pred_interm"].shape == (1, 6, 6, JOINTS)
        and maps["locref"].shape[-1] == 2 * JOINTS
    )


FORWARD = """
import sys, keras, numpy as np
from deepercut_tf import model
from deepercut_tf.config import load_config
from deepercut_tf.inference import PoseFinder
model.UNITS["resnet_50"] = (1, 1, 1, 1)
finder = PoseFinder(load_config(sys.argv[1]), sys.argv[2])
np.savez(sys.argv[4], **finder.predictor.outputs(np.load(sys.argv[3])))
assert keras.backend.backend() == "torch"
"""


def test_the_torch_backend_answers_alike(tmp_path):
    """KERAS_BACKEND=torch: the same maps to 1e-4 of the largest value (other convolution kernels)."""
    pytest.importorskip("torch")
    make_network(tmp_path)
    image = picture()[None]
    np.save(tmp_path / "image.npy", image)
    files = [str(tmp_path / name) for name in ("pose_cfg.yaml", "w.npz", "image.npy", "out.npz")]
    run_python(["-c", FORWARD, *files], KERAS_BACKEND="torch")
    config = make_config(SETTINGS)
    model = networks.build_model(config)
    networks.load_variables(model, dict(np.load(tmp_path / "w.npz")), "w.npz")
    assert (
        convert.largest_difference(dict(np.load(tmp_path / "out.npz")), Predictor(model, config).outputs(image)) < 1e-4
    )


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


def test_two_processes_step_as_one_with_both_pictures(tmp_path):
    """multiworker: both processes end with the weights of one process that has both pictures in its batch (1e-4: another order of sums)."""
    entries = []
    for i in range(4):
        cv2.imwrite(str(tmp_path / f"{i}.png"), picture(i, (112, 112)))
        points = np.concatenate(
            [np.arange(JOINTS)[:, None], np.random.default_rng(i).integers(20, 90, (JOINTS, 2))], axis=1
        )
        entries.append((f"{i}.png", (112, 112), points.astype(np.int32)))
    settings = {
        **SETTINGS, "dataset_type": "default", "dataset": str(write_dataset(tmp_path / "dataset.mat", entries, 0)), "location_refinement": False,
        "pos_dist_thresh": 12, "multi_step": [[0.0001, 1]], "display_iters": 10, "save_iters": 10,
    }  # fmt: skip
    own = json.dumps({**settings, "batch_size": 1, "snapshot_dir": str(tmp_path / "multiworker")})
    worker = str(Path(__file__).with_name("distributed_worker.py"))
    item_set, config = load_items(make_config({**settings, "batch_size": 2, "snapshot_dir": str(tmp_path / "one")}))
    alone = Run(config, item_set)
    alone.begin(None)
    iterate(alone, None, None)
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
    for name, value in alone.weights().items():
        for found in workers:
            np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=1e-6, err_msg=name)
