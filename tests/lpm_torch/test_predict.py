"""predict.py: pictures, folders, videos, tracking and its state, exit codes."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from common import video
from common.datasets import load
from common.geometry import box_with_aspect
from common.images import read_image
from common.skeletons import LPM14
from lpm_torch import engine, predict
from lpm_torch.config import Config
from lpm_torch.data import center_map
from lpm_torch.model import build_model
from tests.lpm_torch import tiny

SETTINGS = {"width": 0.0625, "resolution": 64, "t": 3, "init": "kaiming", "workers": 0, "threads": 1, "dataset": "LSP"}
CPU = torch.device("cpu")


def network(model: str):
    torch.manual_seed(0)
    config = Config(model=model, **SETTINGS)
    net = build_model(model, width=config.width, init="kaiming").eval()
    return net, config


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """A random `lpm` as train.py saves it."""
    net, config = network("lpm")
    path = tmp_path_factory.mktemp("weights") / "lpm.pth.tar"
    torch.save({"epoch": 0, "state_dict": net.state_dict(), "config": vars(config)}, path)
    return path


@pytest.fixture
def photo() -> str:
    return load("lsp", tiny.lsp(), "train").images[0]


def run(out: Path, checkpoint: Path, source, *arguments: str) -> list[dict]:
    assert predict.main([str(source), f"--checkpoint_name={checkpoint}", f"--out={out}", *arguments]) == 0
    return [json.loads(line) for line in (out / "joints.jsonl").read_text().splitlines()]


def assert_row(row: dict, image: str, frame: int) -> None:
    assert (row["image"], row["frame"]) == (image, frame)
    assert row["joint_names"] == list(LPM14.joints)
    assert np.isfinite(row["joints"]).all() and np.shape(row["joints"]) == (14, 2)
    assert np.shape(row["score"]) == (14,) and np.shape(row["box"]) == (4,)
    assert isinstance(row["lost"], bool)


def test_image(tmp_path, checkpoint, photo):
    (row,) = run(tmp_path, checkpoint, photo)
    assert_row(row, Path(photo).name, 0)
    image = read_image(photo)
    assert row["box"] == [-0.5, -0.5, image.shape[1], image.shape[0]]
    drawn = read_image(tmp_path / f"{Path(photo).name}_pose.png")
    assert drawn.shape == image.shape


def test_box_moves_the_crop(tmp_path, checkpoint, photo):
    (row,) = run(tmp_path, checkpoint, photo, "--box=10,20,40,60")
    assert row["box"] == [10, 20, 40, 60]
    left, top, width, height = box_with_aspect(np.array([10.0, 20, 40, 60]), 1.0)
    joints = np.array(row["joints"])
    assert (joints >= (left - 1, top - 1)).all() and (joints <= (left + width, top + height)).all()


def test_folder_is_read_in_natural_order_each_picture_on_its_own(tmp_path, checkpoint, photo):
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("10.png", "2.png", "2.jpg"):
        (folder / name).write_bytes(Path(photo).read_bytes())
    rows = run(tmp_path / "out", checkpoint, folder)
    assert [r["image"] for r in rows] == ["2.jpg", "2.png", "10.png"]
    assert rows[0]["joints"] == rows[2]["joints"], "the same picture without tracking has the same answer"
    assert {p.name for p in (tmp_path / "out").glob("*.png")} == {"2.jpg_pose.png", "2.png_pose.png", "10.png_pose.png"}
    assert len(run(tmp_path / "out", checkpoint, folder, "--limit=1")) == 1


def test_video(tmp_path, checkpoint, photo):
    image = read_image(photo)
    with video.VideoWriter(tmp_path / "clip.mp4", 10) as clip:
        for shift in range(4):
            clip.write(np.roll(image, 2 * shift, axis=1))
    rows = run(tmp_path / "out", checkpoint, tmp_path / "clip.mp4", "--smooth")
    for k, row in enumerate(rows):
        assert_row(row, f"clip_{k:06d}", k)
    overlay = video.frames(tmp_path / "out" / "overlay.mp4")
    assert len(rows) == 4 and len(list(overlay)) == 4 and overlay.fps == 10


class Camera:
    """What OpenCV gives for a camera: frames without a stated number, until it is unplugged."""

    def __init__(self, image, count):
        self.image, self.left, self.released = image, count, False

    def isOpened(self):
        return True

    def get(self, what):
        return 0.0

    def read(self):
        self.left -= 1
        return (True, self.image.copy()) if self.left >= 0 else (False, None)

    def release(self):
        self.released = True


@pytest.mark.parametrize("words", [["--source", "0"], ["0"]])
def test_camera(tmp_path, monkeypatch, checkpoint, photo, words):
    import cv2

    camera, asked = Camera(read_image(photo), 3), []
    monkeypatch.setattr(cv2, "VideoCapture", lambda number: asked.append(number) or camera)
    assert predict.main([*words, f"--checkpoint_name={checkpoint}", f"--out={tmp_path}"]) == 0
    rows = [json.loads(line) for line in (tmp_path / "joints.jsonl").read_text().splitlines()]
    for k, row in enumerate(rows):
        assert_row(row, f"camera_{k:06d}", k)
    monkeypatch.undo()
    assert (
        asked == [0] and camera.released and len(rows) == 3 and len(list(video.frames(tmp_path / "overlay.mp4"))) == 3
    )


@pytest.mark.parametrize("model", ["lpm", "lpm_official"])
def test_state_is_carried(model, photo):
    """On a constant clip, step by step equals the whole clip at once (float32 sums in another order: 1e-3 pixels)."""
    net, config = network(model)
    box, image, count = (5.0, 5.0, 80.0, 80.0), read_image(photo), 4
    tracker = predict.Tracker(net, config, CPU, box, track=True)
    streamed = [tracker.look(image, box) for _ in range(count)]
    alone = predict.Tracker(net, Config(**{**vars(config), "t": count}), CPU, box)
    seen = []
    original = engine.run_network

    def remember(*arguments):
        seen.append(original(*arguments))
        return seen[-1]

    engine.run_network = remember
    try:
        last = alone.look(image, box)
    finally:
        engine.run_network = original
    assert seen[0][0].shape[1] == count
    np.testing.assert_allclose(streamed[-1][0], last[0], atol=1e-3)
    np.testing.assert_allclose(streamed[-1][1], last[1], rtol=1e-4)
    assert not np.allclose(streamed[0][1], streamed[-1][1], rtol=1e-3), "the state makes no difference"


class Scripted(torch.nn.Module):
    """Shows a person (True) or nothing (False) in each frame; notes where its state starts."""

    def __init__(self, script):
        super().__init__()
        self.script, self.frame, self.starts = script, 0, []

    def init_state(self, frame, center):
        self.starts.append(self.frame)
        return (self.frame,)

    def step(self, frame, center, state):
        maps = torch.zeros(1, 15, 8, 8)
        if self.script[self.frame]:
            for j in range(14):
                maps[0, j, 2 + j % 4, 2 + j // 4] = 0.9
        self.frame += 1
        return maps, (*state, self.frame)


def test_lost_person_is_looked_for_anew(photo):
    image, config = read_image(photo), Config(model="lpm", **{**SETTINGS, "pad_pixels": 3.0})
    net = Scripted([True, True, False, True, True])
    tracker = predict.Tracker(net, config, CPU, box=(10.0, 10.0, 60.0, 60.0), track=True)
    lost, boxes = [], []
    for _ in net.script:
        boxes.append(tracker(image)[2])
        lost.append(tracker.lost)
    assert lost == [False, False, True, False, False]
    assert net.starts == [0, 3]
    assert np.array_equal(boxes[0], boxes[3]), "after a loss it starts at the first box again"
    assert not np.array_equal(boxes[0], boxes[1]), "the box follows the pose"


def test_folder_of_frames_is_a_video(tmp_path, monkeypatch, checkpoint, photo):
    net = Scripted([True] * 3)
    monkeypatch.setattr("lpm_torch.val.load_model", lambda *a: (net, Config(model="lpm", **SETTINGS), CPU))
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("9.png", "10.png", "11.png"):
        (folder / name).write_bytes(Path(photo).read_bytes())
    rows = run(tmp_path / "out", checkpoint, folder, "--track", "--box=5,5,60,80")
    assert [r["image"] for r in rows] == ["9.png", "10.png", "11.png"] and net.starts == [0], (
        "one state for all of them"
    )
    assert len(list(video.frames(tmp_path / "out" / "overlay.mp4"))) == 3


def test_smoothing_starts_anew_after_a_loss(tmp_path, monkeypatch, checkpoint, photo):
    made = []
    real = video.OneEuroFilter
    monkeypatch.setattr(video, "OneEuroFilter", lambda *a: made.append(1) or real(*a))
    monkeypatch.setattr(
        "lpm_torch.val.load_model", lambda *a: (Scripted([True, False, True]), Config(model="lpm", **SETTINGS), CPU)
    )
    folder = tmp_path / "in"
    folder.mkdir()
    for name in "abc":
        (folder / f"{name}.png").write_bytes(Path(photo).read_bytes())
    rows = run(tmp_path / "out", checkpoint, folder, "--track", "--smooth")
    assert [r["lost"] for r in rows] == [False, True, False] and len(made) == 2


def test_bad_input_exits_with_2(tmp_path, checkpoint, photo, capsys):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    known = f"--checkpoint_name={checkpoint}"
    cases = [
        ([str(tmp_path / "none.jpg"), known], "none.jpg"),
        ([str(broken), known], "broken.mp4"),
        ([photo, known, "--box=1,2,3"], "--box"),
        ([photo, known, "--box=1,2,0,5"], "--box"),
        ([photo, known, "--smooth"], "--smooth"),
        ([photo, known, "--model=cpm"], "--model=lpm"),
        ([photo, f"--model_dir={tmp_path}"], "train.py"),
        ([photo, "--checkpoint_name=none.pth.tar"], "none.pth.tar"),
    ]
    for arguments, word in cases:
        assert predict.main([*arguments, f"--out={tmp_path / 'out'}"]) == 2
        assert word in capsys.readouterr().err


def test_centre_map_of_a_crop_is_upright_and_transposed_at_once():
    """predict.py feeds the crop's middle, so that `--center_map` makes no difference there."""
    middle = np.full((1, 1, 2), (64 - 1) / 2)
    assert np.array_equal(center_map(middle, 64, transposed=True), center_map(middle, 64, transposed=False))
