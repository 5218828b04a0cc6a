"""val.py and predict.py on small data, own data of any skeleton, the network on PyTorch, Ctrl-C, two processes that
train as one."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys

import cv2
import numpy as np
import pytest

import deeppose_tf
from common.errors import DataError, DataWarning
from common.predictions import load_predictions
from deeppose_tf import Estimator, convert, predict, val
from deeppose_tf import train as trainer
from deeppose_tf.config import ADAGRAD_START, Config
from deeppose_tf.weight_files import load_state, save_state
from tests.deeppose_tf.tiny import options_of, roundings, small_config, small_run, write_persons
from tests.tolerance import close, rounding

ROOT = pathlib.Path(deeppose_tf.__file__).parents[1]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run: its folder and its CSV."""
    folder = tmp_path_factory.mktemp("run")
    csv = write_persons(folder / "persons", 6)
    return small_run(small_config(csv, folder / "out", max_steps=1)), csv


def lines_of(folder):
    return [json.loads(line) for line in (folder / "joints.jsonl").read_text().splitlines()]


def test_val_writes_predictions_and_scores(run, tmp_path, capsys):
    out, csv = run
    arguments = [
        "-s",
        str(out),
        "--csv",
        str(csv),
        "--ext",
        "1.5",
        "1.0",
        "--out",
        str(tmp_path / "p.npz"),
        "--json",
        str(tmp_path / "s.json"),
        "--result",
        str(tmp_path / "r.json"),
    ]
    assert val.main(arguments) == 0
    text, found = capsys.readouterr().out, load_predictions(tmp_path / "p.npz")
    assert text.count("BBOX EXTENSION") == 2 and "pcp_strict@0.5" in text
    assert found.meta["mode"] == "correct" and found.meta["boxes"].startswith("oracle") and len(found) == 6
    scores, kept = json.loads((tmp_path / "s.json").read_text()), json.loads((tmp_path / "r.json").read_text())
    assert kept["protocols"]["pcp_strict@0.5"]["total"] == scores["pcp_strict@0.5"]["total"]
    # without anything: what the training scored, as it was scored
    assert val.main(["--weights", str(out / "last.npz")]) == 0
    assert (out / f"lsp_{csv.stem}.npz").exists() and "BBOX EXTENSION: 1.6" in capsys.readouterr().out


def test_the_estimator_agrees_with_val(run, tmp_path):
    """The same boxes through either way give the same joints; none gives nobody."""
    out, csv = run
    assert val.main(["-s", str(out), "--csv", str(csv), "--ext", "1.0", "--out", str(tmp_path / "p.npz")]) == 0
    stored, estimator = load_predictions(tmp_path / "p.npz"), Estimator(out)
    deep = max(roundings(load_state(out / "last.npz")["model"]).values())
    for row, line in enumerate(csv.read_text().splitlines()):
        x, y, w, h = stored.box[row]
        # pixel_box rounds outwards; a box half a pixel inside whole ones comes back as they are
        found = estimator.predict(line.split(",")[0], [[x, y, w - 1, h - 1]])
        close(found.joints[0], stored.joints[row], rounding(max(w, h), steps=deep))
    image = np.zeros((50, 40, 3), np.uint8)
    beside = estimator.predict(image, [[60, 0, 9, 9], [5, 5, 20, 20]])
    assert np.isnan(beside.joints[0]).all() and np.isfinite(beside.joints[1]).all()
    assert estimator.predict(image, np.zeros((0, 4))).joints.shape == (0, 14, 2) and len(estimator.predict(image)) == 1


def test_predict_pictures_video_and_boxes(run, tmp_path):
    out, csv = run
    folder = csv.parent
    assert predict.main([str(folder), "-s", str(out), "--out", str(tmp_path / "a"), "--limit", "2"]) == 0
    rows = lines_of(tmp_path / "a")
    assert [r["image"] for r in rows] == ["im0001.jpg", "im0002.jpg"] and len(rows[0]["persons"][0]["joints"]) == 14
    assert len(list((tmp_path / "a").glob("*_pose.png"))) == 2
    (tmp_path / "boxes.csv").write_text("im0001.jpg,5,5,40,60\nim0001.jpg,20,20,40,60\n")
    given = ["--boxes", str(tmp_path / "boxes.csv")]
    assert predict.main([str(folder), "-s", str(out), "--out", str(tmp_path / "b"), *given]) == 0
    assert [len(row["persons"]) for row in lines_of(tmp_path / "b")] == [2, 0, 0, 0, 0, 0]
    from common.video import VideoWriter

    with VideoWriter(tmp_path / "v.mp4", 25) as video:
        for _ in range(3):
            video.write(cv2.imread(str(folder / "im0001.jpg")))
    assert predict.main([str(tmp_path / "v.mp4"), "-s", str(out), "--out", str(tmp_path / "c"), "--smooth"]) == 0
    assert (tmp_path / "c/overlay.mp4").exists() and len(lines_of(tmp_path / "c")) == 3


@pytest.mark.parametrize("box", ["1,2,3", "0,0,0,5", "nan,0,5,5"])
def test_bad_boxes(run, tmp_path, capsys, box):
    out, csv = run
    assert predict.main([str(csv.parent / "im0001.jpg"), "-s", str(out), "--bbox", box, "--out", str(tmp_path)]) == 2
    assert "box" in capsys.readouterr().err


def test_no_checkpoint(run, tmp_path, capsys, monkeypatch):
    """Neither given nor found: predict says where they come from, val scores random weights when that is asked for."""
    monkeypatch.setattr("common.runs.shelf.outputs", lambda house: [tmp_path])
    assert predict.main([str(run[1].parent)]) == 2
    assert "there are none yet" in capsys.readouterr().err
    assert val.main(["--csv", str(run[1]), "--limit", "1", "--out", str(tmp_path / "q.npz")]) == 0
    assert "NO WEIGHTS" in capsys.readouterr().err
    arguments = [
        "--csv",
        str(run[1]),
        "--random_weights",
        "--limit",
        "2",
        "--out",
        str(tmp_path / "p.npz"),
        "--batch_size=2",
    ]
    assert val.main(["-s", str(run[0]), *arguments]) == 0
    assert load_predictions(tmp_path / "p.npz").meta["weights"] == "random"


def test_pictures_that_cannot_be_read(run, tmp_path, capsys):
    """One that is cut off and one that is missing: a warning in training and scoring, named at the end, the row NaN; an
    error at the end of predict.py, which does the others."""
    out, csv = run[0], write_persons(tmp_path / "d", 6)
    cut, gone = tmp_path / "d/im0002.jpg", tmp_path / "d/im0004.jpg"
    cut.write_bytes(cut.read_bytes()[:-500])
    gone.unlink()
    with pytest.warns(DataWarning, match=f"{cut} cannot be read, another person takes its place"):
        small_run(small_config(csv, tmp_path / "out", max_steps=3, test_step=100))
    text = capsys.readouterr()
    assert (
        f"1 in a picture that cannot be read ({gone})" in text.out
        and f"1 pictures could not be read: {cut}" in text.err
    )
    assert load_state(tmp_path / "out/last.npz")["step"] == 3
    with pytest.warns(DataWarning, match=f"1 persons are in pictures that cannot be read: {cut}"):
        assert val.main(["-s", str(out), "--csv", str(csv), "--out", str(tmp_path / "p.npz")]) == 0
    found = load_predictions(tmp_path / "p.npz")
    assert np.isnan(found.joints).any((1, 2)).tolist() == [False, True, False, True, False, False]
    assert found.meta["missing_rows"] == 2
    assert predict.main([str(tmp_path / "d"), "-s", str(out), "--out", str(tmp_path / "o"), "--no-draw"]) == 2
    rows = lines_of(tmp_path / "o")
    assert ["error" in row for row in rows] == [False, True, False, False, False]
    assert "1 could not be read: im0002.jpg" in capsys.readouterr().err


def test_weights_that_are_not_finite(run, tmp_path):
    """They are an error that names file and weight, and so is a network whose finite ones overflow."""
    damaged, huge = load_state(run[0] / "last.npz"), load_state(run[0] / "last.npz")
    damaged["model"]["fc7/bias"][:] = np.inf
    huge["model"]["fc_regression/weight"][:] = 3e38
    for state, message in ((damaged, r"bad\.npz: fc7/bias .* not finite"), (huge, r"bad\.npz answers NaN")):
        save_state(tmp_path / "bad.npz", state)
        with pytest.raises(DataError, match=message):
            Estimator(tmp_path / "bad.npz").predict(np.zeros((50, 40, 3), np.uint8))


OWN = {
    "left first": ["left_ear", "right_ear", "tail"],
    "right first": ["right_ear", "left_ear", "tail"],
    "no sides": ["nose", "tail"],
}


@pytest.mark.parametrize("names", OWN.values(), ids=OWN)
def test_own_data(tmp_path, names, capsys):
    """Trains, scores, predicts and converts; the names that predict writes are those of the data set. Without a split
    `valid` nothing is validated."""
    csv, count = write_persons(tmp_path / "d", 4), len(names)
    images = [
        {
            "file": pathlib.Path(v[0]).name,
            "persons": [{"joints": np.reshape(v[1 : 2 * count + 1], (-1, 2)).astype(float).tolist()}],
        }
        for v in (line.split(",") for line in csv.read_text().splitlines())
    ]
    content = {"skeleton": {"name": "cat", "joints": names, "limbs": [[0, 1]]}, "images": images}
    for split in ("train", "valid")[: count - 1]:
        (tmp_path / "d" / f"{split}.json").write_text(json.dumps(content))
    data = ["--dataset=json", f"--data_root={tmp_path / 'd'}"]
    small = "--preset=smoke --channels=0.02 --max_steps=1 --batch_size=2 --log_step=1 --test_step=1".split()
    assert trainer.main([*data, *small, f"--out={tmp_path / 'out'}"]) == 0
    assert ("nothing is validated" in capsys.readouterr().err) == (split == "train")
    assert val.main([f"--weights={tmp_path / 'out'}", *data, f"--split={split}", f"--out={tmp_path / 'p.npz'}"]) == 0
    assert load_predictions(tmp_path / "p.npz").skeleton.joints == tuple(names)
    assert convert.main([str(tmp_path / "out"), str(tmp_path / "b.npz")]) == 0
    picture = str(tmp_path / "d/im0001.jpg")
    assert predict.main([picture, f"--weights={tmp_path / 'b.npz'}", f"--out={tmp_path / 'o'}"]) == 0
    (row,) = lines_of(tmp_path / "o")
    assert row["joint_names"] == names and row["skeleton"] == "cat" and len(row["persons"][0]["joints"]) == count


def test_another_skeleton_is_an_error_that_names_both(run, tmp_path, capsys):
    from dataclasses import replace

    from common.skeletons import LPM14, LSP14, MPII16
    from deeppose_tf.csv_files import read_csv

    estimator = Estimator(run[0])
    pose_set = read_csv(run[1], small_config(run[1], tmp_path))
    order = [LSP14.index(name) for name in LPM14.joints]
    other = replace(pose_set, skeleton=LPM14, joints=pose_set.joints[:, order], visible=pose_set.visible[:, order])
    found, expected = estimator.predict_pose_set(other), estimator.predict_pose_set(pose_set)
    assert found.skeleton is LPM14 and np.array_equal(found.joints, expected.joints[:, order])
    more = replace(pose_set, skeleton=MPII16, joints=np.concatenate([pose_set.joints, pose_set.joints[:, :2]], 1),
                   visible=np.full((6, 16), 2, np.int8))  # fmt: skip
    with pytest.raises(DataError, match="answers skeleton lsp14 .* the data have mpii16"):
        estimator.predict_pose_set(more)
    shared = Estimator(run[0], shared_joints=True).predict_pose_set(more)
    assert np.isnan(shared.joints[:, MPII16.index("pelvis")]).all() and np.isfinite(shared.joints[:, 0]).all()


def python(program: str, *arguments, **environment) -> subprocess.CompletedProcess:
    full = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "2", **environment}
    return subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)], capture_output=True, text=True, timeout=900, env=full
    )


ON_TORCH = """
import sys
import numpy as np
from deeppose_tf import Estimator
estimator = Estimator(sys.argv[1])
assert not {"tensorflow", "keras", "torch"} & set(sys.modules), "before it is used"
images = np.load(sys.argv[2])
np.save(sys.argv[3], estimator.shares(images))
assert "tensorflow" not in sys.modules and "torch" in sys.modules
from deeppose_tf.model import GroupedConvolution, LocalResponseNorm
import torch
x = torch.randn(1, 4, 4, 8, requires_grad=True)
y = LocalResponseNorm()(x)
y.square().sum().backward()
n = 1 + 2e-5 * torch.stack([x.square()[..., max(0, c - 2):c + 3].sum(-1) for c in range(8)], -1)
z = x.detach().clone().requires_grad_()
m = 1 + 2e-5 * torch.stack([z.square()[..., max(0, c - 2):c + 3].sum(-1) for c in range(8)], -1)
(z * m ** -0.75).square().sum().backward()
from tests.tolerance import close, rounding
for found, expected in ((y, z * m ** -0.75), (x.grad, z.grad)):
    expected = expected.detach().numpy()
    close(found.detach().numpy(), expected, rounding(np.abs(expected).max(), terms=5, steps=4), "LRN")
"""


def test_the_network_runs_on_torch(run, tmp_path):
    """The same outputs as on TensorFlow, and LRN's gradient; without TensorFlow in the process."""
    import importlib.util

    if importlib.util.find_spec("torch") is None:
        pytest.skip("PyTorch is not installed here")
    out, _ = run
    images = np.random.RandomState(0).randint(0, 256, (2, 227, 227, 3)).astype(np.uint8)
    np.save(tmp_path / "i.npy", images)
    answer = python(ON_TORCH, out / "best.npz", tmp_path / "i.npy", tmp_path / "o.npy", KERAS_BACKEND="torch")
    assert answer.returncode == 0, answer.stderr[-3000:]
    expected = Estimator(out).shares(images)
    lost = rounding(1.0, steps=max(roundings(load_state(out / "best.npz")["model"]).values()))
    lost += rounding(1.0, terms=227 * 227)  # contrast's means
    close(np.load(tmp_path / "o.npy"), expected, lost * np.abs(expected).max())


TRAIN = """
import sys
from deeppose_tf.train import main
if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
"""


def started(tmp_path, arguments, **environment):
    script = tmp_path / "t.py"
    script.write_text(TRAIN)
    full = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "TF_CPP_MIN_LOG_LEVEL": "2",
        "CUDA_VISIBLE_DEVICES": "",
        **environment,
    }
    return subprocess.Popen([sys.executable, "-u", str(script), *arguments], env=full, stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, text=True, start_new_session=True)  # fmt: skip


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_stopped_by_a_signal(tmp_path, sent):
    """Sent to the whole group, loader processes too, as a terminal, `timeout` and SLURM do: the step ends, the state is
    saved, exit code 130; the run goes on."""
    csv = write_persons(tmp_path / "d", 8)
    arguments = options_of(small_config(csv, tmp_path / "out", max_steps=10**6, test_step=10**6, workers=2))
    process = started(tmp_path, arguments)
    try:
        lines = iter(process.stdout.readline, "")
        assert any(line.startswith("Step 3:") for line in lines)
        os.killpg(process.pid, sent)
        text = process.communicate(timeout=300)[0]
    finally:
        process.kill()
    assert process.returncode == 130 and "the state is saved" in text, text[-2000:]
    step = load_state(tmp_path / "out/last.npz")["step"]
    assert step >= 3
    small_run(small_config(csv, tmp_path / "out", max_steps=step + 1, resume="auto"))
    assert load_state(tmp_path / "out/last.npz")["step"] == step + 1


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for s in sockets:
        s.bind(("localhost", 0))
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def test_two_processes_train_as_one(tmp_path):
    """MultiWorkerMirroredStrategy, two CPU processes of half the batch, against one process: the same weights, although
    the gradients' sums are in another order; one goes on from the state of two. Dropout is off, its masks depend on the
    batch's shape."""
    csv = write_persons(tmp_path / "d", 8)
    settings = {"max_steps": 3, "test_step": 100, "dropout_keep": 1.0}
    workers = [f"localhost:{port}" for port in free_ports(2)]
    arguments = options_of(small_config(csv, tmp_path / "two", **settings))
    running = []
    for index in range(2):
        cluster = json.dumps({"cluster": {"worker": workers}, "task": {"type": "worker", "index": index}})
        running.append(started(tmp_path, [*arguments, "--threads=1"], TF_CONFIG=cluster))
    try:
        small_run(small_config(csv, tmp_path / "one", **settings))
        texts = [process.communicate(timeout=900)[0] for process in running]  # half a minute on idle cores
    finally:
        for process in running:
            process.kill()
    assert [p.returncode for p in running] == [0, 0], "\n".join(t[-1500:] for t in texts)
    scored = [text.count("test/parts_PCP") for text in texts]
    assert scored == [2, 0], "the first process scores everybody, before the first step and after the last"
    for start in ("one", "two"):
        last = str(tmp_path / start / "last.npz")
        small_run(small_config(csv, tmp_path / f"{start}_on", **{**settings, "max_steps": 4, "resume": last}))
    compare(load_state(tmp_path / "one/last.npz"), load_state(tmp_path / "two/last.npz"), 3)
    compare(load_state(tmp_path / "one_on/last.npz"), load_state(tmp_path / "two_on/last.npz"), 4)


def compare(one: dict, two: dict, steps: int) -> None:
    """The weights of two runs whose gradients are summed in other orders."""
    deep = max(roundings(one["model"]).values())
    for name, weight in one["model"].items():
        gradient = np.sqrt(one["optimizer"][f"{name}/Adagrad"].max())  # at most
        step = Config.conv_lr / np.sqrt(ADAGRAD_START)  # of a unit of the gradient, at most
        lost = steps * step * rounding(gradient, steps=2 * deep)
        close(two["model"][name], weight, lost + rounding(np.abs(weight).max(), steps=steps), name)
    assert one["step"] == two["step"] == one["batch"] == two["batch"] == steps
