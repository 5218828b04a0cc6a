"""val.py and predict.py on small data, the network on PyTorch, and two processes that train as one."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import cv2
import numpy as np
import pytest

import deeppose_tf
from common.errors import DataError
from common.predictions import load_predictions
from deeppose_tf import predict, val
from deeppose_tf import train as trainer
from deeppose_tf.checkpoint import load_state
from tests.deeppose_tf.tiny import small_config, write_persons

ROOT = pathlib.Path(deeppose_tf.__file__).parents[1]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run: its folder and its CSV."""
    folder = tmp_path_factory.mktemp("run")
    csv = write_persons(folder / "persons", 6)
    trainer.train(small_config(csv, folder / "out", max_iter=1))
    return folder / "out", csv


def test_val_writes_predictions_and_scores(run, tmp_path, capsys):
    out, csv = run
    arguments = ["--o_dir", str(out), "--csv", str(csv), "--ext", "1.5", "1.0", "--out", str(tmp_path / "p.npz"), "--json", str(tmp_path / "s.json"),
                 "--curves", str(tmp_path / "c.png"), "--result", str(tmp_path / "r.json")]  # fmt: skip
    assert val.main(arguments) == 0
    text, found = capsys.readouterr().out, load_predictions(tmp_path / "p.npz")
    assert text.count("BBOX EXTENSION") == 2 and "pcp_strict@0.5" in text
    assert found.meta["mode"] == "correct" and found.meta["boxes"].startswith("oracle") and len(found) == 6
    scores, kept = json.loads((tmp_path / "s.json").read_text()), json.loads((tmp_path / "r.json").read_text())
    assert kept["protocols"]["pcp_strict@0.5"]["total"] == pytest.approx(scores["pcp_strict@0.5"]["total"])
    assert (tmp_path / "c.png").stat().st_size > 1000


def test_predictor_agrees_with_val(run, tmp_path):
    """The same boxes through either program give the same joints."""
    out, csv = run
    assert val.main(["--o_dir", str(out), "--csv", str(csv), "--ext", "1.0", "--out", str(tmp_path / "p.npz")]) == 0
    stored = load_predictions(tmp_path / "p.npz")
    found = predict.Predictor(out / "best.npz")
    for row, line in enumerate(csv.read_text().splitlines()):
        image = cv2.imread(line.split(",")[0])
        x, y, w, h = stored.box[row]
        # pixel_box rounds outwards; a box half a pixel inside whole ones comes back as they are
        joints = found(image, [[x, y, w - 1, h - 1]])
        np.testing.assert_allclose(joints[0], stored.joints[row], atol=1e-3)


def test_predict_pictures_video_and_boxes(run, tmp_path):
    out, csv = run
    folder = csv.parent
    assert predict.main([str(folder), "--o_dir", str(out), "--out", str(tmp_path / "a"), "--limit", "2"]) == 0
    rows = [json.loads(line) for line in (tmp_path / "a/joints.jsonl").read_text().splitlines()]
    assert [r["image"] for r in rows] == ["im0001.jpg", "im0002.jpg"] and len(rows[0]["joints"]) == 14
    assert len(list((tmp_path / "a").glob("*_pose.png"))) == 2
    (tmp_path / "boxes.csv").write_text("im0001.jpg,5,5,40,60\nim0001.jpg,20,20,40,60\n")
    assert (
        predict.main(
            [str(folder), "--o_dir", str(out), "--out", str(tmp_path / "b"), "--boxes", str(tmp_path / "boxes.csv")]
        )
        == 0
    )
    assert len((tmp_path / "b/joints.jsonl").read_text().splitlines()) == 2
    from common.video import VideoWriter

    with VideoWriter(tmp_path / "v.mp4", 25) as video:
        for _ in range(3):
            video.write(cv2.imread(str(folder / "im0001.jpg")))
    assert predict.main([str(tmp_path / "v.mp4"), "--o_dir", str(out), "--out", str(tmp_path / "c"), "--smooth"]) == 0
    assert (tmp_path / "c/overlay.mp4").exists() and len((tmp_path / "c/joints.jsonl").read_text().splitlines()) == 3


@pytest.mark.parametrize("box", ["500,5,10,10", "1,2,3", "0,0,0,5", "nan,0,5,5"])
def test_bad_boxes(run, tmp_path, capsys, box):
    out, csv = run
    assert (
        predict.main([str(csv.parent / "im0001.jpg"), "--o_dir", str(out), "--bbox", box, "--out", str(tmp_path)]) == 2
    )
    assert "box" in capsys.readouterr().err


def test_no_checkpoint(tmp_path, capsys):
    assert val.main(["--o_dir", str(tmp_path)]) == 2
    assert "no checkpoint" in capsys.readouterr().err


def python(program: str, *arguments, **environment) -> subprocess.CompletedProcess:
    full = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "2", **environment}
    return subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)], capture_output=True, text=True, timeout=900, env=full
    )


ON_TORCH = """
import sys
import numpy as np
from deeppose_tf.engine import forward
from deeppose_tf.restore import load_network
model, config, _ = load_network(sys.argv[1])
assert "tensorflow" not in sys.modules and "torch" in sys.modules
images = np.load(sys.argv[2])
np.save(sys.argv[3], forward(model)(images))
from deeppose_tf.model import GroupedConvolution
from deeppose_tf.normalise import LocalResponseNorm
import torch
x = torch.randn(1, 4, 4, 8, requires_grad=True)
y = LocalResponseNorm()(x)
y.square().sum().backward()
n = 1 + 2e-5 * torch.stack([x.square()[..., max(0, c - 2):c + 3].sum(-1) for c in range(8)], -1)
z = x.detach().clone().requires_grad_()
m = 1 + 2e-5 * torch.stack([z.square()[..., max(0, c - 2):c + 3].sum(-1) for c in range(8)], -1)
(z * m ** -0.75).square().sum().backward()
assert torch.allclose(y, z * m ** -0.75, atol=1e-5) and torch.allclose(x.grad, z.grad, atol=1e-4), "LRN"
"""


def test_the_network_runs_on_torch(run, tmp_path):
    """The same outputs as on TensorFlow to 1e-4 of the largest, and LRN's gradient; without TensorFlow in the process."""
    import importlib.util

    if importlib.util.find_spec("torch") is None:
        pytest.skip("PyTorch is not installed here")
    from deeppose_tf.engine import forward
    from deeppose_tf.restore import load_network

    out, _ = run
    images = np.random.RandomState(0).randint(0, 256, (2, 227, 227, 3)).astype(np.uint8)
    np.save(tmp_path / "i.npy", images)
    answer = python(ON_TORCH, out / "best.npz", tmp_path / "i.npy", tmp_path / "o.npy", KERAS_BACKEND="torch")
    assert answer.returncode == 0, answer.stderr[-3000:]
    expected = forward(load_network(out / "best.npz")[0])(images)
    np.testing.assert_allclose(np.load(tmp_path / "o.npy"), expected, atol=1e-4 * np.abs(expected).max())


TRAIN = """
import sys
from deeppose_tf.train import main
if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
"""


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for s in sockets:
        s.bind(("localhost", 0))
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def test_two_processes_train_as_one(tmp_path):
    """MultiWorkerMirroredStrategy, two CPU processes of half the batch, against one process: the same losses and weights (to 1e-5: the sum of
    the gradients is in another order). Dropout is off, its masks depend on the batch's shape."""
    csv = write_persons(tmp_path / "d", 8)
    script = tmp_path / "t.py"
    script.write_text(TRAIN)
    config = small_config(csv, tmp_path / "one", max_iter=3, test_step=100, dropout_keep=1.0)
    names = ("width", "init", "batch_size", "bbox_extension_min", "bbox_extension_max", "shift", "loader", "train_csv_fn", "test_csv_fn", "max_iter",
             "test_step", "dropout_keep")  # fmt: skip
    arguments = [*(f"--{n}={getattr(config, n)}" for n in names), "--gcn", "--fliplr"]
    workers = [f"localhost:{port}" for port in free_ports(2)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "2", "CUDA_VISIBLE_DEVICES": ""}

    command, running = (
        [
            sys.executable,
            str(script),
            *arguments,
            f"--o_dir={tmp_path / 'two'}",
            "--threads=1",
            "--distribute=multiworker",
        ],
        [],
    )
    for index in range(2):
        variables = {
            **environment,
            "TF_CONFIG": json.dumps({"cluster": {"worker": workers}, "task": {"type": "worker", "index": index}}),
        }
        running.append(
            subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        )
    try:
        assert trainer.main([*arguments, f"--o_dir={tmp_path / 'one'}"]) == 0
        texts = [
            process.communicate(timeout=900)[0] for process in running
        ]  # half a minute; many times that where others use the cores
    finally:
        for process in running:
            process.kill()
    assert [p.returncode for p in running] == [0, 0], "\n".join(t[-1500:] for t in texts)
    one, two = load_state(tmp_path / "one/last.npz"), load_state(tmp_path / "two/last.npz")
    for name, weight in one["model"].items():
        np.testing.assert_allclose(two["model"][name], weight, atol=1e-5, err_msg=name)
    assert one["step"] == two["step"] == 3 and one["samples"] == two["samples"] == 12


def test_tf_config_is_checked(tmp_path, monkeypatch):
    from deeppose_tf.machine import rank_and_world

    config = small_config(tmp_path / "x.csv", tmp_path, distribute="multiworker", batch_size=5)
    monkeypatch.delenv("TF_CONFIG", raising=False)
    with pytest.raises(DataError, match="not set"):
        rank_and_world(config)
    monkeypatch.setenv(
        "TF_CONFIG", json.dumps({"cluster": {"worker": ["a:1", "b:2"]}, "task": {"type": "worker", "index": 1}})
    )
    with pytest.raises(DataError, match="cannot be shared among 2"):
        rank_and_world(config)
