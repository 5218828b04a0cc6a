"""Data preparation against the original scripts' own output ($GOLDEN_DIR/deeppose_caffe_port/dataprep)."""

import pathlib
import shutil
from dataclasses import replace

import cv2
import numpy as np
import pytest

from common.metrics import pcp
from common.skeletons import K2HPD15
from common.weights.caffe import read_blob
from deeppose_caffe_port import prepare
from deeppose_caffe_port.config import Config
from deeppose_caffe_port.data import compute_image_mean, convert_imageset
from deeppose_caffe_port.images import caffe_io_input, patch, read_picture
from deeppose_caffe_port.sources import LmdbSource
from tests import tolerance

pytestmark = pytest.mark.golden


@pytest.fixture(scope="module")
def project(golden_dir, tmp_path_factory):
    """(config, folder of expectations) of a project in which all of the original's preparation has run."""
    source = golden_dir / "deeppose_caffe_port" / "dataprep"
    config = Config(out=str(tmp_path_factory.mktemp("project")), mode="compat")
    home = config.data_home
    shutil.copytree(source / "k2hpd", home, copy_function=shutil.copyfile)
    for path in (home, *home.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    (home / "stage1").mkdir()
    shutil.move(home / "stage1_output.txt", home / "stage1" / "output.txt")
    prepare.get_stage1(config)
    prepare.get_k2hpd(config)
    figures = prepare.get_stage2(config)
    prepare.get_k2hpd2(config)
    return config, source / "expected", figures


@pytest.fixture(scope="module")
def arrays(golden_dir):
    return np.load(golden_dir / "deeppose_caffe_port" / "dataprep" / "expected" / "arrays.npz")


def test_lists_are_the_same_bytes(project):
    config, expected, _ = project
    home = config.data_home
    pairs = {
        "stage1/train_set.txt": home / "stage1/train_set.txt",
        "stage1/test_set.txt": home / "stage1/test_set.txt",
        "stage1/train_images.txt": config.model_folder(1) / "train_images.txt",
        "stage1/test_images.txt": config.model_folder(1) / "test_images.txt",
        "stage2/images.txt": home / "stage2/images.txt",
        "stage2/k2hpd2_test_images.txt": config.model_folder(2) / "test_images.txt",
    }
    assert {str(p.relative_to(expected)) for p in expected.rglob("stage?/*.txt")} == set(pairs)
    for name, file in pairs.items():
        assert file.read_bytes() == (expected / name).read_bytes(), name
    assert (config.model_folder(2) / "train_images.txt").read_bytes() == b""


def test_figures_of_the_patches(project):
    _, expected, figures = project
    for line in (expected / "stage2_stdout.txt").read_text().splitlines():
        key, _, value = line.partition(":")
        if key in figures:
            tolerance.close(figures[key], float(value), tolerance.printed(12) * abs(float(value)), key)


def test_patches_before_jpeg(project, arrays):
    config, expected, _ = project
    names, values = prepare.read_list(config.data_home / "stage1/output.txt", 60)
    by_stem = {pathlib.Path(n).stem: (config.project / n, v.reshape(2, 15, 2)) for n, v in zip(names, values)}
    keys = [k for k in arrays.files if k.startswith("crop/")]
    assert keys
    for key in keys:
        stem, joint = key.removeprefix("crop/").removesuffix(".jpg").rsplit(".", 1)
        image, (truth, guess) = by_stem[stem]
        side = 0.8 * np.linalg.norm(truth[3] - truth[12])
        found = patch(read_picture(image), guess[int(joint)], side)
        assert np.array_equal(found, arrays[key]), key
        stored = cv2.imread(str(config.data_home / "stage2/data" / key.removeprefix("crop/")))
        deviation = np.abs(stored.astype(int) - found).max()
        assert deviation <= max(int(arrays[key.replace("crop/", "jpgdiff_max/")]), 1) + 1  # another JPEG library


@pytest.fixture(scope="module")
def lmdbs(project):
    config, _, _ = project
    made = {}
    for stage, side, labels in (("s1", 227, 30), ("s2", 64, 2)):
        folder = config.model_folder(int(stage[1]))
        kind = "train" if stage == "s1" else "test"
        names, values = prepare.read_list(folder / f"{kind}_images.txt", labels)
        convert_imageset(names, values, folder / f"{kind}_data_lmdb", side, root=config.project)
        made[stage] = (folder / f"{kind}_data_lmdb", labels)
    return made


@pytest.mark.parametrize("stage", ["s1", "s2"])
def test_lmdb(lmdbs, project, stage):
    expected = np.load(project[1] / "lmdb.npz")
    path, labels = lmdbs[stage]
    source = LmdbSource(path, 1, labels)
    assert [k.decode() for k in source.keys] == list(expected[f"{stage}/keys"])
    count = sum(k.startswith(f"{stage}/data") for k in expected.files)
    assert count
    for i in range(count):
        pixels, label = source.record(i)
        data = expected[f"{stage}/data{i}"]
        wanted = np.broadcast_to(data, pixels.shape)  # stage 1: one of three equal channels
        # stage-2 images went through another JPEG library
        assert np.abs(pixels.astype(int) - wanted.astype(int)).max() <= (0 if stage == "s1" else 2)
        np.testing.assert_array_equal(label.ravel(), expected[f"{stage}/label{i}"])


def test_mean(lmdbs, project, tmp_path):
    expected = np.load(project[1] / "lmdb.npz")
    mean = compute_image_mean(lmdbs["s1"][0], tmp_path / "mean.binaryproto")
    tolerance.close(mean.mean((1, 2)), expected["s1/mean_channel"], tolerance.rounding(mean.max()), "channels")
    tolerance.close(mean[0, ::8, ::8], expected["s1/mean_ch0_sub8"], tolerance.rounding(mean.max()), "mean")
    assert np.array_equal(read_blob(tmp_path / "mean.binaryproto")[0], mean)


@pytest.mark.parametrize("kind, side", [("pre1", 227), ("pre2", 64)])
def test_preprocessing_of_the_test_scripts(project, arrays, kind, side):
    """Channel 0 of what the scripts fed, values up to 1."""
    config, _, _ = project
    folder = config.project / config.image_folder if kind == "pre1" else None
    keys = [k for k in arrays.files if k.startswith(f"{kind}/")]
    assert keys
    for key in keys:
        name = key.split("/")[1]
        image = read_picture(folder / name) if folder else arrays[f"crop/{name}"]
        found = caffe_io_input(image, side, arrays["mean_channels"])[0]
        tolerance.close(found, arrays[key], tolerance.rounding(1.0), key)


def test_resize_of_training_differs_from_that_of_testing(project, arrays):
    """What mode compat is for; and the LMDB's resize is OpenCV's of today."""
    config, _, _ = project
    for key in (k for k in arrays.files if k.startswith("pre1_cv2/")):
        image = read_picture(config.project / config.image_folder / key.split("/")[1])
        found = cv2.resize(image, arrays[key].shape[::-1], interpolation=cv2.INTER_LINEAR)[..., 0]
        assert np.array_equal(found, arrays[key])
        tested = caffe_io_input(image, len(found), np.zeros(3))[
            0
        ]  # as test_preprocessing_of_the_test_scripts compares it
        assert np.abs(found / 255.0 - tested).max() > 1e-3


def test_accuracy_figures(arrays):
    def same(found, expected):
        """Float64 sums over all persons and coordinates."""
        tolerance.close(found, expected, tolerance.rounding(np.abs(expected), truth.size, dtype=np.float64))

    truth, guess = arrays["met/label"], arrays["met/predict"]
    same(pcp.k2hpd_loss(truth, guess, K2HPD15).total, arrays["met/loss"])
    result = pcp.k2hpd_accuracy(truth, guess, K2HPD15)
    same(result.total, 100 * arrays["met/pcp"])
    same(list(result.values.values()), 100 * arrays["met/pdj"])


@pytest.mark.exact
def test_correct_mode_differs_where_the_original_errs(project):
    """Mirroring: W - 1 - x, fractions kept."""
    config, _, _ = project
    line = prepare.read_annotations(config, "train_annos")[0]
    compat, correct = prepare.mirrored(line, config), prepare.mirrored(line, replace(config, mode="correct"))
    np.testing.assert_array_equal(compat.values[::2] - correct.values[::2], 1)
    twice = prepare.mirrored(correct, replace(config, mode="correct"))
    np.testing.assert_array_equal(twice.values, line.values)
