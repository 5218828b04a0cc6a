"""predict.py and the estimator behind it: pictures, folders, videos, following and its state, exit codes."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from common import video
from common.datasets import load
from common.geometry import box_with_aspect
from common.images import read_image
from common.runs.process import Process
from common.skeletons import LSP14, card
from lpm_torch import Estimator, predict
from lpm_torch.config import Config
from lpm_torch.data import center_place, normalisation
from lpm_torch.model import build_network
from tests.lpm_torch import tiny
from tests.tolerance import close, rounding

LAYERS = 100  # some, behind a clip's last frame

SETTINGS = {"channels": 0.0625, "input_width": 64, "t": 3, "init": "kaiming", "threads": 1, "dataset": "lsp"}


def estimator(model: str, net=None, **changes) -> Estimator:
    torch.manual_seed(0)
    config = Config(**{"model": model, **SETTINGS, **changes})
    return Estimator.of(net or build_network(config, 14), config, LSP14, Process())


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """A random `lpm` as train.py saves it."""
    made = estimator("lpm")
    path = tmp_path_factory.mktemp("weights") / "lpm.pth.tar"
    about = {"skeleton": card(LSP14), "dataset": "lsp"}
    torch.save({"epoch": 0, "state_dict": made.model.state_dict(), "config": vars(made.config), "about": about}, path)
    return path


@pytest.fixture
def photo() -> str:
    return load("lsp", tiny.lsp(), "train").images[0]


def run(out: Path, checkpoint: Path, source, *arguments: str) -> list[dict]:
    assert predict.main([str(source), f"--weights={checkpoint}", f"--out={out}", *arguments]) == 0
    return [json.loads(line) for line in (out / "joints.jsonl").read_text().splitlines()]


def joints_of(row: dict) -> np.ndarray:
    return np.array(row["persons"][0]["joints"])[:, :2]


def test_image(tmp_path, checkpoint, photo):
    (row,) = run(tmp_path, checkpoint, photo)
    image = read_image(photo)
    height, width = image.shape[:2]
    assert row["skeleton"] == "lsp14" and row["joint_names"] == list(LSP14.joints) and row["size"] == [width, height]
    assert row["persons"][0]["box"] == [0, 0, width, height] and np.isfinite(joints_of(row)).all()
    assert read_image(tmp_path / f"{Path(photo).name}_pose.png").shape == image.shape


def test_boxes_move_the_crop(tmp_path, checkpoint, photo):
    """With the margin of the training: 256/3 pixels for this checkpoint."""
    (row,) = run(tmp_path, checkpoint, photo, "--boxes=10,20,40,60", "--boxes=30,5,30,30")
    assert [p["box"] for p in row["persons"]] == [[10, 20, 40, 60], [30, 5, 30, 30]]
    pad = 256 / 3
    left, top, width, height = box_with_aspect(np.array([10 - pad, 20 - pad, 40 + 2 * pad, 60 + 2 * pad]), 1.0)
    assert (joints_of(row) >= (left - 1, top - 1)).all() and (joints_of(row) <= (left + width, top + height)).all()


@pytest.mark.parametrize("model", ["lpm", "coord_lpm"])
def test_several_boxes_are_one_batch_and_none_is_nobody(photo, model):
    own, boxes = estimator(model), np.array([[10.0, 20, 40, 60], [30, 5, 30, 30]])
    both = own.predict(photo, boxes)
    for i in range(2):
        alone = own.predict(read_image(photo), boxes[i : i + 1]).joints[0]
        close(both.joints[i], alone, rounding(np.abs(alone).max(), steps=LAYERS))
    nobody = own.predict(photo, np.zeros((0, 4)))
    assert nobody.joints.shape == (0, 14, 2) and len(own.stream().predict(photo, np.zeros((0, 4)))) == 0


def test_a_box_gives_what_scoring_gives():
    people = load("lsp", tiny.lsp(), "test").select(slice(2))
    own = estimator("cpm", pad_pixels=0.0, pad_ratio=0.15, center_map="correct")
    scored = own.predict_pose_set(people)
    for i in range(2):  # the centre map is the crop's middle here, the joints' there: the same crop, not the same input
        found = own.predict(people.images[i], people.box[i : i + 1])
        assert found.joints.shape[1] == scored.joints.shape[1] and np.isfinite(found.joints).all()


def test_folder_is_read_in_natural_order_each_picture_on_its_own(tmp_path, checkpoint, photo):
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("10.png", "2.png"):
        (folder / name).write_bytes(Path(photo).read_bytes())
    rows = run(tmp_path / "out", checkpoint, folder)
    assert [r["image"] for r in rows] == ["2.png", "10.png"]
    assert rows[0]["persons"][0]["joints"] == rows[1]["persons"][0]["joints"], "no memory without tracking"


def test_video(tmp_path, checkpoint, photo):
    image = read_image(photo)
    with video.VideoWriter(tmp_path / "clip.mp4", 10) as clip:
        for shift in range(4):
            clip.write(np.roll(image, 2 * shift, axis=1))
    rows = run(tmp_path / "out", checkpoint, tmp_path / "clip.mp4", "--smooth")
    assert [r["image"] for r in rows] == [f"clip_{k:06d}" for k in range(4)]
    overlay = video.frames(tmp_path / "out" / "overlay.mp4")
    assert len(list(overlay)) == 4 and overlay.fps == 10


@pytest.mark.parametrize("model", ["lpm", "lpm_official"])
def test_state_is_carried(model, photo):
    """On a constant clip, step by step equals the still picture read as often."""
    box, count = np.array([[5.0, 5.0, 80.0, 80.0], [20, 20, 50, 50]]), 4
    own = estimator(model, t=count)
    stream = own.stream()
    streamed = [stream.predict(photo, box) for _ in range(count)]
    last = own.predict(photo, box)
    limit = rounding(last.score.max(), steps=LAYERS)
    close(streamed[-1].joints, last.joints, rounding(np.abs(last.joints).max(), steps=LAYERS))
    close(streamed[-1].score, last.score, limit)
    assert not np.allclose(streamed[0].score, streamed[-1].score, rtol=1e-3), "the state makes no difference"
    stream = own.stream()
    close(stream.predict(photo, box).score, streamed[0].score, limit)
    close(stream.predict(photo, box[:1]).score, streamed[0].score[:1], limit)


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


def test_a_followed_person_keeps_one_state_until_it_is_lost(tmp_path, monkeypatch, checkpoint, photo):
    net = Scripted([True, True, False, True, True])
    monkeypatch.setattr(
        Estimator, "__init__", lambda self, *a, **k: vars(self).update(vars(estimator("lpm", net, pad_pixels=3.0)))
    )
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(5):
        (folder / f"{number + 8}.png").write_bytes(Path(photo).read_bytes())
    rows = run(tmp_path / "out", checkpoint, folder, "--track", "--boxes=10,10,60,60", "--smooth")
    boxes = [r["persons"][0]["box"] for r in rows]
    assert [r["image"] for r in rows] == [f"{n}.png" for n in range(8, 13)] and net.starts == [0, 3]
    assert boxes[0] == boxes[3] == [10, 10, 60, 60], "after a loss it starts at the first box again"
    assert boxes[1] != boxes[0], "the box follows the pose"


def test_bad_input_exits_with_2(tmp_path, checkpoint, photo, capsys):
    known = f"--weights={checkpoint}"
    cases = [
        ([str(tmp_path / "none.jpg"), known], "none.jpg"),
        ([photo, known, "--boxes=1,2,3"], "--boxes"),
        ([photo, known, "--smooth"], "--smooth"),
        ([photo, known, "--model=cpm"], "--model=lpm"),
        ([photo, "--checkpoint_name=none.pth.tar"], "none.pth.tar"),
    ]
    for arguments, word in cases:
        assert predict.main([*arguments, f"--out={tmp_path / 'out'}"]) == 2
        assert word in capsys.readouterr().err


def test_a_picture_is_read_as_rgb():
    """OpenCV's pictures are BGR; the training's are turned as well, where they are warped."""
    own = estimator("cpm")
    blue = np.full((90, 70, 3), (200, 100, 10), np.uint8)
    _, batch, _ = own._crops([(blue, np.array([[10.0, 10, 50, 70]]))])
    mean, std, bgr = normalisation(own.config)
    middle = batch["frames"][0, 0, :, 32, 32].numpy()
    expected = (np.array([10, 100, 200]) / 255 - mean) / std
    close(middle, expected, rounding(np.abs(expected).max(), terms=8))
    assert not bgr


def test_importing_the_house_changes_nothing(tmp_path):
    """From any folder; the framework comes with the first use."""
    code = (
        "import sys; before = list(sys.path); import lpm_torch, lpm_torch.train, lpm_torch.predict, lpm_torch.val, lpm_torch.convert;"
        "assert sys.path == before and 'torch' not in sys.modules; from lpm_torch import Estimator; assert Estimator.predict"
    )
    root = str(Path(predict.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={"PYTHONPATH": root}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_centre_map_of_a_crop_is_upright_and_transposed_at_once():
    """predict.py feeds the crop's middle, so that `--center_map` makes no difference there."""
    middle = np.full((1, 1, 2), (64 - 1) / 2)
    assert np.array_equal(center_place(middle, 64, transposed=True), center_place(middle, 64, transposed=False))
