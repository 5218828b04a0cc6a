import math
import pathlib

import cv2
import numpy as np
import pytest

from common.errors import DataError
from common.images import read_image
from common.video import DEFAULT_FPS, OneEuroFilter, VideoWriter, frames, pictures_in

FRAMES, FPS = 24, 12.5
CASES = pathlib.Path(__file__).parent / "cases" / "video"


def picture(number, size=(48, 64)):
    """An image whose brightness tells its number, plain so that lossy codecs keep it."""
    return np.full((*size, 3), 10 + 10 * number, np.uint8)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("video") / "clip.mp4"
    with VideoWriter(path, FPS) as out:
        for number in range(FRAMES):
            out.write(picture(number))
    return path


def test_video_round_trip(clip):
    source = frames(clip)
    assert (source.fps, source.count) == (FPS, FRAMES)
    for index, (name, image, seconds) in enumerate(source):
        assert (
            seconds == pytest.approx(index / FPS)
            and name == f"clip_{index:06d}"
            and image.shape == (48, 64, 3)
            and image.dtype == np.uint8
        )
        # MPEG-4 quantises; neighbouring frames are 10 apart
        assert abs(float(image.mean()) - float(picture(index).mean())) < 5
    assert index == FRAMES - 1
    assert len(list(source)) == FRAMES, "a source can be read twice"
    assert [f.name for f in clip.parent.iterdir()] == ["clip.mp4"]


def test_odd_sizes_lose_nothing(tmp_path):
    with VideoWriter(tmp_path / "odd.mp4") as out:
        for number in range(3):
            out.write(picture(number, (33, 45)))
    source = frames(tmp_path / "odd.mp4")
    assert [image.shape for _, image, _ in source] == [(34, 46, 3)] * 3 and source.fps == DEFAULT_FPS


def test_a_failed_video_keeps_what_was_written(tmp_path):
    def write(error):
        with VideoWriter(tmp_path / "x.mp4") as out:
            out.write(picture(0))
            raise error

    with pytest.raises(KeyboardInterrupt):
        write(KeyboardInterrupt())
    with (
        pytest.raises(DataError, match=r"shape \(10, 10, 3\), the first had \(48, 64, 3\)"),
        VideoWriter(tmp_path / "y.mp4") as out,
    ):
        out.write(picture(0))
        out.write(picture(1, (10, 10)))
    with pytest.raises(DataError, match="no image was written"), VideoWriter(tmp_path / "z.mp4"):
        pass
    with pytest.raises(DataError, match="name ending in .mp4"):
        VideoWriter(tmp_path / "x.avi")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.mp4", "y.mp4"]
    assert [len(list(frames(path))) for path in tmp_path.iterdir()] == [1, 1]


@pytest.mark.parametrize(
    ("name", "shape", "count", "fps", "seconds"),
    [
        ("rot90.mp4", (160, 120, 3), 60, 30, 1.967),  # its pictures lie on their side
        ("vfr.webm", (120, 160, 3), 33, 30, 1.9),  # states 58 frames, computed from the duration
        ("recorder2.webm", (120, 160, 3), 60, 29.4, 1.97),  # a browser's, which states 1000 frames a second
    ],
)
def test_videos_of_phones_and_browsers(tmp_path, name, shape, count, fps, seconds):
    source = frames(CASES / name)
    found = list(source)
    assert len(found) == count and found[0][1].shape == shape
    assert source.fps == pytest.approx(fps, abs=0.1) and found[-1][2] == pytest.approx(seconds, abs=0.01)
    with VideoWriter(tmp_path / "again.mp4", source.fps) as out:
        for _, image, time in found:
            out.write(image, time)
    again = list(frames(tmp_path / "again.mp4"))
    assert again[-1][2] == pytest.approx(seconds, abs=1.5 / fps) and again[0][1].shape == shape


def test_a_codec_that_is_not_there_is_named():
    try:
        assert len(list(frames(CASES / "av1.mp4"))) == 25
    except DataError as error:
        assert "codec av01" in str(error) and "damaged" not in str(error)


def test_a_full_disk_is_noticed(tmp_path):
    with pytest.raises(OSError, match="1 of 3 frames were written.*full"), VideoWriter(tmp_path / "x.mp4") as out:
        out.write(picture(0))
        out._count = 3  # as if OpenCV had not got rid of two of them, which it does not say
    assert list(tmp_path.iterdir()) == []


def test_a_picture_is_shown_up_to_the_time_of_the_next(tmp_path):
    with VideoWriter(tmp_path / "x.mp4", 10) as out:
        for number, seconds in enumerate((0.0, 0.1, 0.14, 0.5, 0.6, 1e9)):  # two within a tenth: both, none is lost
            out.write(picture(number), seconds)
    shown = [round((image.mean() - 10) / 10) for _, image, _ in frames(tmp_path / "x.mp4")]
    assert shown == [0, 1, 2, 2, 2, 3, 4, *[4] * 600, 5]


def test_truncated_video_says_so_after_the_good_frames(tmp_path):
    path = tmp_path / "cut.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), FPS, (64, 48))
    for number in range(FRAMES):
        writer.write(picture(number))
    writer.release()
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 4 // 5])
    good = []
    with pytest.raises(DataError, match=rf"cut.avi ends after \d+ of {FRAMES} frames.*ffmpeg"):
        good.extend(frames(path))
    assert 0 < len(good) < FRAMES


def test_video_without_its_index_cannot_be_opened(clip, tmp_path):
    path = tmp_path / "cut.mp4"
    path.write_bytes(clip.read_bytes()[: clip.stat().st_size // 2])
    with pytest.raises(DataError, match="cut.mp4 cannot be opened"):
        frames(path)
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(DataError, match="text.mp4 cannot be opened"):
        frames(tmp_path / "text.mp4")


def test_folder_in_natural_order(tmp_path):
    names = ["frame10.png", "frame2.png", "Frame1.png", "2.png"]
    for number, name in enumerate(names):
        cv2.imwrite(str(tmp_path / name), picture(number))
    (tmp_path / "notes.txt").write_text("no image")
    found = pictures_in(tmp_path, recursive=False)
    assert [path.name for path in found] == ["2.png", "Frame1.png", "frame2.png", "frame10.png"]
    assert all((read_image(path) == picture(names.index(path.name))).all() for path in found)


def test_what_is_wrong_with_sources(tmp_path):
    (tmp_path / "bad.jpg").write_bytes(b"\xff\xd8 not a picture")
    with pytest.raises(DataError, match="bad.jpg cannot be decoded"):
        read_image(tmp_path / "bad.jpg")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no images"):
        pictures_in(tmp_path / "empty", recursive=False)
    with pytest.raises(DataError, match="nothing.mp4 does not exist"):
        frames(tmp_path / "nothing.mp4")
    with pytest.raises(DataError, match="camera 97 cannot be opened"):
        frames("97")


class ScalarOneEuro:
    """The paper's algorithm 1 for one signal, line by line, as a reference."""

    def __init__(self, rate, min_cutoff, beta, derivative_cutoff):
        self.rate, self.min_cutoff, self.beta, self.derivative_cutoff = rate, min_cutoff, beta, derivative_cutoff
        self.x = self.dx = None

    def alpha(self, cutoff):
        tau = 1.0 / (2 * math.pi * cutoff)
        te = 1.0 / self.rate
        return 1.0 / (1.0 + tau / te)

    def __call__(self, x):
        if self.x is None:
            self.x, self.dx = x, 0.0
            return x
        dx = (x - self.x) * self.rate
        a = self.alpha(self.derivative_cutoff)
        self.dx = a * dx + (1 - a) * self.dx
        a = self.alpha(self.min_cutoff + self.beta * abs(self.dx))
        self.x = a * x + (1 - a) * self.x
        return self.x


def test_filter_equals_the_algorithm_of_the_paper():
    signal = np.cumsum(np.random.default_rng(0).normal(size=(50, 5, 2)), axis=0) * 10
    settings = {"min_cutoff": 0.7, "beta": 0.03, "derivative_cutoff": 1.3}
    smooth = OneEuroFilter(**settings)
    found = np.array([smooth(joints, k / 30) for k, joints in enumerate(signal)])
    expected = np.empty_like(signal)
    for joint in np.ndindex(signal.shape[1:]):
        reference = ScalarOneEuro(30, **settings)
        expected[(slice(None), *joint)] = [reference(x) for x in signal[(slice(None), *joint)]]
    # float64; times are differences of k/30 here and the rate itself there
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_filter_calms_still_joints_and_follows_fast_ones():
    rng = np.random.default_rng(1)
    still = np.array([[100.0, 50.0]]) + rng.normal(0, 2, (200, 1, 2))
    smooth = OneEuroFilter()
    out = np.array([smooth(joints, k / 30) for k, joints in enumerate(still)])
    assert out[60:].std(axis=0).max() < 0.5 * still[60:].std(axis=0).min()
    ramp = np.arange(60)[:, None, None] * np.full((1, 1, 2), 20.0)

    def lag(beta):
        smooth = OneEuroFilter(beta=beta)
        return (ramp[-1] - [smooth(joints, k / 30) for k, joints in enumerate(ramp)][-1]).max()

    assert lag(0.02) < 0.3 * lag(0.0)


def test_filter_and_missing_joints():
    smooth = OneEuroFilter()
    steady = np.array([[10.0, 20.0], [np.nan, np.nan]])
    for k in range(5):
        np.testing.assert_array_equal(smooth(steady, k / 30), steady)
    hidden = np.full((2, 2), np.nan)
    for k in range(5, 8):
        assert np.isnan(smooth(hidden, k / 30)).all()
    moved = np.array([[40.0, 20.0], [7.0, 8.0]])
    back = smooth(moved, 8 / 30)
    np.testing.assert_array_equal(back[1], moved[1])  # first seen: as it is
    assert 10 < back[0, 0] < 40 and back[0, 1] == 20

    def return_after(seconds):
        smooth = OneEuroFilter()
        smooth(np.zeros((1, 2)), time=0.0)
        return smooth(np.full((1, 2), 30.0), time=seconds)[0, 0]

    assert return_after(1 / 30) < return_after(0.2) < return_after(5.0) and return_after(5.0) > 28


def test_an_address_is_a_stream(monkeypatch):
    class Capture:
        def __init__(self, source):
            self.left = 2 if source == "rtsp://host/door" else -1

        def isOpened(self):
            return self.left >= 0

        def get(self, _):
            return 0.0

        def read(self):
            self.left -= 1
            return self.left >= 0, np.zeros((4, 6, 3), np.uint8)

        def release(self):
            pass

        def set(self, *_):
            pass

    monkeypatch.setattr(cv2, "VideoCapture", Capture)
    stream = frames("rtsp://host/door")
    assert (stream.fps, stream.count) == (DEFAULT_FPS, None)
    assert [name for name, *_ in stream] == ["camera_000000", "camera_000001"]
    with pytest.raises(DataError, match="stream http://host/none cannot be opened; check the address"):
        frames("http://host/none")
