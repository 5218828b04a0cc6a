"""What the houses' programs share: the loop of predict.py, exit codes, the watch over a training, weights swapped for scoring."""

import argparse
import json

import numpy as np
import pytest

from common import video
from common.draw import save_image
from common.errors import DataError
from common.images import read_image
from common.runs import predicting
from common.runs.process import exit_code, plain_message
from common.runs.session import Watch, swapped_weights


def picture(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (24, 32, 3), np.uint8)


def answer(index: int, name: str, image: np.ndarray):
    return [{"image": name, "frame": index, "joints": np.full((2, 2), index + 0.5)}], 255 - image


def rows_in(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "joints.jsonl").read_text().splitlines()]


def test_folder_becomes_lines_and_drawings(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for seed, name in enumerate(("10.png", "2.png", "2.bmp")):
        save_image(folder / name, picture(seed))
    source = predicting.open_source(folder)
    assert not source.moving
    out = predicting.write_answers(source, tmp_path / "out", answer)
    rows = rows_in(out)
    assert [r["image"] for r in rows] == ["2.bmp", "2.png", "10.png"] and [r["frame"] for r in rows] == [0, 1, 2]
    assert rows[2]["joints"] == [[2.5, 2.5], [2.5, 2.5]]
    # 2.bmp and 2.png have drawings of their own
    assert {p.name for p in out.glob("*.png")} == {"2.bmp_pose.png", "2.png_pose.png", "10.png_pose.png"}
    np.testing.assert_array_equal(read_image(out / "10.png_pose.png"), 255 - picture(0))


def test_video_becomes_one_video_and_limit_ends_it(tmp_path):
    with video.VideoWriter(tmp_path / "clip.mp4", 10) as clip:
        for seed in range(4):
            clip.write(picture(seed))
    source = predicting.open_source(tmp_path / "clip.mp4")
    assert source.moving
    out = predicting.write_answers(source, tmp_path / "out", answer, limit=3)
    assert len(rows_in(out)) == 3 and not list(out.glob("*.png"))
    drawn = video.frames(out / "overlay.mp4")
    assert drawn.fps == 10 and len(list(drawn)) == 3


def test_ctrl_c_keeps_what_there_is(tmp_path, capsys):
    with video.VideoWriter(tmp_path / "clip.mp4", 10) as clip:
        for seed in range(4):
            clip.write(picture(seed))

    def interrupted(index, name, image):
        if index == 2:
            raise KeyboardInterrupt
        return answer(index, name, image)

    out = predicting.write_answers(predicting.open_source(tmp_path / "clip.mp4"), tmp_path / "out", interrupted)
    assert len(rows_in(out)) == 2 and len(list(video.frames(out / "overlay.mp4"))) == 2
    assert "stopped" in capsys.readouterr().out


def test_smoother_filters_one_person_and_forgets(tmp_path):
    smooth, own = predicting.Smoother(30.0), video.OneEuroFilter(30.0)
    frames = np.random.default_rng(0).normal(50, 5, (5, 1, 3, 2))
    for frame in frames:
        np.testing.assert_array_equal(smooth(frame)[0], own(frame[0]))
    two = np.repeat(frames[0], 2, axis=0)
    one = frames[1]
    assert smooth(two) is two and predicting.Smoother(None)(one) is one and smooth(two[:0]).shape == (0, 3, 2)
    smooth.restart()
    np.testing.assert_array_equal(smooth(frames[0]), frames[0])


def test_smoothing_needs_a_video(tmp_path):
    save_image(tmp_path / "a.png", picture(0))
    save_image(tmp_path / "b.png", picture(1))
    source = predicting.open_source(tmp_path)
    with pytest.raises(DataError, match="--smooth"):
        source.smoother(True)
    assert source.smoother(True, track=True).fps == source.frames.fps
    assert source.smoother(False).fps is None


def test_boxes_as_text():
    assert predicting.parse_box(None) is None
    assert predicting.parse_box("1,2,3.5,4") == [1, 2, 3.5, 4]
    for text in ("1,2,3", "a,b,c,d", "0,0,0,5", "0,0,5,-1", "0,nan,5,5", "0,0,inf,5", ""):
        with pytest.raises(DataError, match="--person"):
            predicting.parse_box(text, "--person")


def test_arguments():
    parser = argparse.ArgumentParser()
    predicting.add_arguments(parser)
    args = parser.parse_args(["--smooth"])
    assert args.smooth and args.out == "output/predict"


@pytest.mark.parametrize("error,code,text", [(DataError("no file"), 2, "error: no file"), (ValueError("bad"), 2, "error: bad (POSE_TRACEBACK=1 shows where)"),
                                             (OSError("no space"), 2, "error: no space"),
                                             (FloatingPointError("loss is nan"), 1, "stopped: loss is nan. Lower the rate")])  # fmt: skip
def test_exit_codes(capsys, error, code, text):
    def work():
        raise error

    assert exit_code(work, "done {}", "Lower the rate") == code
    assert capsys.readouterr() == ("", text + "\n")


def test_an_error_can_be_traced(monkeypatch):
    monkeypatch.setenv("POSE_TRACEBACK", "1")
    with pytest.raises(ValueError, match="bad"):
        exit_code(lambda: float("bad"))


def test_exit_code_of_success(capsys):
    assert exit_code(lambda: "out", "files are in {}") == 0 and exit_code(lambda: None) == 0
    assert capsys.readouterr().out == "files are in out\n"
    with pytest.raises(ZeroDivisionError):  # a defect of the program keeps its traceback
        exit_code(lambda: 1 / 0)


def test_message_of_a_loader_process():
    error = DataError(
        "Caught DataError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n  File x\nDataError: im1.jpg: gone\n"
    )
    assert plain_message(error) == "im1.jpg: gone"
    assert plain_message(DataError("im1.jpg: gone")) == "im1.jpg: gone"


class FakeRun:
    """A run of 45 batches an epoch."""

    def __init__(self, minutes: float):
        self.config = argparse.Namespace(save_minutes=minutes, accumulate=2)
        self.batch = self.step = 0
        self.batches, self.saved = 45, []

    def save(self, metric):
        self.saved.append((self.step, metric))


class FakeLog:
    def __init__(self):
        self.lines = []

    def scalars(self, step, **values):
        self.lines.append((step, values))


class Percent(Watch):
    """Its accuracy is what the network answered."""

    def accuracy(self, out, batch):
        return out


def test_watch_logs_every_twentieth_batch_and_the_last():
    run, log = FakeRun(minutes=1e9), FakeLog()
    watch = Percent(run, log)
    for i in range(run.batches):
        watch.step(i, {"loss": 1.0, "lr": 0.1}, {}, float(i))
    assert [step for step, _ in log.lines] == [20, 40, 45] and (run.batch, run.step) == (45, 45)
    assert watch.mean_accuracy() == pytest.approx((19 + 39 + 44) / 3)
    assert np.isnan(watch.mean_accuracy()), "a new epoch starts anew"
    assert run.saved == []
    watch.save(12.5)
    assert run.saved == [(45, 12.5)]


def test_watch_saves_within_the_epoch_only_between_optimiser_steps():
    run = FakeRun(minutes=-1.0)  # always due
    watch = Percent(run, FakeLog())
    for i in range(run.batches):
        watch.step(i, {"loss": 1.0, "lr": 0.1}, {}, 0.0)
    assert [step for step, _ in run.saved] == list(range(2, 45, 2))


def test_watch_of_a_process_that_writes_nothing_only_counts():
    run = FakeRun(minutes=-1.0)
    Percent(run, None).step(4, {"loss": 1.0, "lr": 0.1}, {}, 0.0)
    assert (run.batch, run.step, run.saved) == (5, 1, [])


class Tensor:
    def __init__(self, value):
        self.value = value

    def clone(self):
        return Tensor(self.value)


def test_weights_come_back_after_an_error_too():
    network = {"a": Tensor(1)}

    def load(weights):
        network["a"].value = weights["a"].value

    with pytest.raises(DataError), swapped_weights(network, load, {"a": Tensor(2)}):
        assert network["a"].value == 2
        raise DataError("scoring failed")
    assert network["a"].value == 1
    with swapped_weights(network, load, None):
        assert network["a"].value == 1
