"""Crops, augmentation, targets, flip and decoding against the originals' answers; properties where there are none."""

import json
import random

import cv2
import numpy as np
import paddle
import pytest

from common.codecs import decode_maps
from common.skeletons import COCO17, MPII16
from simplebaseline_paddle import data as transforms
from simplebaseline_paddle.config import MEAN, STD
from simplebaseline_paddle.data import Augmentation, Person
from tests.tolerance import close, rounding

SKELETON = {"mpii": MPII16, "coco": COCO17}
NORMALISED = rounding((1 + max(MEAN)) / min(STD), steps=3)
GAUSSIAN = rounding(1, steps=3)  # a square, a quotient, an exponential


class Draws:
    """The generators of the originals: normal numbers from numpy, uniform ones from Python."""

    def __init__(self, numpy_seed, python_seed):
        self.standard_normal = np.random.RandomState(numpy_seed).standard_normal
        self.random = random.Random(python_seed).random


def points_off(center, scale, size):
    """(pixels of the image, of the crop): how far float32 moves the three points that fix a crop; their coordinates
    come out of a few operations on numbers of this size."""
    return rounding(np.abs(center).max() + 200 * scale[0], steps=3), rounding(max(size), steps=3)


@pytest.mark.golden
def test_affine(golden_dir):
    cases = json.loads((golden_dir / "simplebaseline_paddle/transforms.json").read_text())["affine"]
    assert cases
    for case in cases:
        center, scale, size = (np.asarray(case[key], float) for key in ("center", "scale", "output_size"))
        matrix = transforms.affine(center, scale, case["rot"], tuple(case["output_size"]), bool(case["inv"]))
        off, sides = points_off(center, scale, size), (200 * scale[0], size[0])
        middle = (center, size / 2)
        if case["inv"]:
            off, sides, middle = off[::-1], sides[::-1], middle[::-1]
        # both ends of half a side are off; what was mapped, by its share of that side
        stretch = (off[1] + off[0] * sides[1] / sides[0]) / (sides[0] / 2)
        tolerance = np.full((2, 3), stretch)
        tolerance[:, 2] = off[1] + stretch * np.abs(middle[0]).max()
        close(matrix, case["matrix"], tolerance)
        given = np.asarray(case["points"]).reshape(-1, 2)
        points = given @ matrix[:, :2].T + matrix[:, 2]
        far = off[1] + stretch * (np.abs(given).max(1, keepdims=True) + np.abs(middle[0]).max())
        close(points, np.asarray(case["points_out"]).reshape(-1, 2), far + rounding(np.abs(points)))


def image_off(cells, center, scale, size):
    """As `points_off`, of cells mapped back: the crop's points come in, the image's out."""
    out, into = points_off(center, scale, size)
    stretch = (out + into * 200 * scale[0] / size[0]) / (size[0] / 2)
    return out + stretch * (np.abs(cells) + max(size))


@pytest.mark.golden
def test_back_to_the_image(golden_dir):
    cases = json.loads((golden_dir / "simplebaseline_paddle/transforms.json").read_text())["transform_preds"]
    assert cases
    for case in cases:
        cells, center, scale = (np.asarray(case[key], float) for key in ("coords", "center", "scale"))
        found = transforms.to_image(cells, center, scale, case["output_size"])
        close(found, case["out"], image_off(cells, center, scale, case["output_size"]))


@pytest.mark.golden
def test_mirrored_joints(golden_dir):
    cases = json.loads((golden_dir / "simplebaseline_paddle/transforms.json").read_text())["fliplr_joints"]
    assert cases
    for case in cases:
        skeleton = next(s for s in SKELETON.values() if sorted(s.flip_pairs) == sorted(map(tuple, case["pairs"])))
        joints, seen = np.asarray(case["joints"]), np.asarray(case["vis"])[:, 0] > 0
        person = Person(np.zeros(2), np.ones(2), joints[:, :2], seen).mirrored(case["width"], skeleton)
        close(person.joints, np.asarray(case["joints_out"])[:, :2], rounding(case["width"], dtype=np.float64))
        np.testing.assert_array_equal(person.seen, np.asarray(case["vis_out"])[:, 0] > 0)


@pytest.mark.golden
def test_pipeline(golden_dir):
    """Input, target and weight of every stored sample, augmentation drawn from the stored seeds."""
    folder = golden_dir / "simplebaseline_paddle/pipeline"
    image = cv2.imread(str(folder / "img.png"), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    expected = np.load(folder / "samples.npz")
    samples = json.loads((folder / "samples.json").read_text())
    assert {s["drawn"]["flip"] for s in samples if s["train"]} == {True, False}
    for sample in samples:
        key = sample["key"]
        change = Augmentation()
        if sample["train"]:
            change = transforms.draw_augmentation(
                Draws(sample["np_seed"], sample["py_seed"]), sample["scale_factor"], sample["rot_factor"]
            )
            assert change.flip == sample["drawn"]["flip"]
            drawn = np.array((sample["drawn"]["scale_mult"], sample["drawn"]["rot"]))
            close((change.scale, change.rotation), drawn, rounding(np.abs(drawn), dtype=np.float64))
        joints, vis = np.asarray(sample["joints"])[:, :2], np.asarray(sample["vis"])[:, 0] > 0
        person = Person(np.asarray(sample["center"]), np.asarray(sample["scale"]), joints, vis)
        pixels, moved, seen = transforms.crop(
            image, person, tuple(sample["image_size"]), SKELETON[sample["dataset"]], change
        )
        stride = sample["image_size"][0] / sample["heatmap_size"][0]
        target, weight = transforms.targets(
            moved, seen.astype(np.float32), tuple(sample["heatmap_size"]), sample["sigma"], stride, compat=True
        )
        close(transforms.normalise(paddle.to_tensor(pixels[None])), expected[f"{key}_input"][None], NORMALISED, key)
        close(target, expected[f"{key}_target"], GAUSSIAN, key)
        np.testing.assert_array_equal(weight, expected[f"{key}_weight"], err_msg=key)


@pytest.mark.golden
def test_targets(golden_dir):
    stored = np.load(golden_dir / "simplebaseline_paddle/targets.npz")
    names = [k.removesuffix("_joints") for k in stored.files if k.endswith("_joints")]
    assert names
    for name in names:
        maps = stored[f"{name}_target"]
        # the table: sigma 3 with 384-pixel inputs, 2 with 256
        size, sigma = (maps.shape[3], maps.shape[2]), 3.0 if maps.shape[2] == 96 else 2.0
        for joints, vis, target, weight in zip(
            stored[f"{name}_joints"], stored[f"{name}_vis"], maps, stored[f"{name}_weight"]
        ):
            found, found_weight = transforms.targets(joints[:, :2], vis[:, 0], size, sigma, compat=True)
            close(found, target, GAUSSIAN, name)
            np.testing.assert_array_equal(found_weight, weight, err_msg=name)


def test_an_empty_window_counts_only_in_compat():
    # the cell -7 with sigma 2 has a window that ends just before column 0
    joints = np.array([[-30.0, 40.0]])
    for compat, expected in ((True, 1.0), (False, 0.0)):
        maps, weight = transforms.targets(joints, np.ones(1), (16, 16), 2.0, compat=compat)
        assert maps.max() == 0 and weight[0, 0] == expected


@pytest.mark.golden
def test_flip_back(golden_dir):
    stored = np.load(golden_dir / "simplebaseline_paddle/flip_back.npz")
    for name, skeleton in SKELETON.items():
        plain, flipped = stored[f"{name}_a"], stored[f"{name}_flipped"]
        back = transforms.flip_back(flipped, skeleton.mirror, shift=False)
        shifted = transforms.flip_back(flipped, skeleton.mirror, shift=True)
        np.testing.assert_array_equal(back, stored[f"{name}_flip_back"])
        np.testing.assert_array_equal(shifted, stored[f"{name}_shifted"])
        for other, key in ((shifted, "avg_shift"), (back, "avg_noshift")):
            close((plain + other) / 2, stored[f"{name}_{key}"], rounding(np.abs(plain) + np.abs(other)))


@pytest.mark.golden
def test_final_predictions(golden_dir):
    stored = np.load(golden_dir / "simplebaseline_paddle/final_preds.npz")
    for case in sorted({k.split("_")[0] for k in stored.files}):
        maps, center, scale = (stored[f"{case}_{k}"] for k in ("hm", "center", "scale"))
        maps = maps.astype(np.float32)
        size = (maps.shape[3], maps.shape[2])
        cells, peaks = decode_maps(maps, offset=0.0)
        np.testing.assert_array_equal(cells, stored[f"{case}_max_coords"])
        np.testing.assert_array_equal(peaks[..., None], stored[f"{case}_maxvals"])
        for offset, key in ((0.0, "final_nopost"), (0.25, "final")):
            joints = transforms.to_image(decode_maps(maps, offset)[0], center, scale, size)
            for row in range(len(joints)):
                off = image_off(cells[row], center[row], scale[row], size)
                close(joints[row], stored[f"{case}_{key}"][row], off, case)


@pytest.mark.golden
def test_accuracy(golden_dir):
    from simplebaseline_paddle.losses import map_accuracy

    stored = np.load(golden_dir / "simplebaseline_paddle/final_preds.npz")
    for case in sorted({k.split("_")[0] for k in stored.files}):
        maps = stored[f"{case}_hm"].astype(np.float32)
        rolled = np.roll(maps, (2, 1), axis=(2, 3))
        for target, key in ((rolled, "roll"), (stored[f"{case}_perm_target"].astype(np.float32), "perm")):
            mean, by_joint, count = map_accuracy(maps, target, compat=True)
            assert count == stored[f"{case}_acc_{key}_cnt"]
            close([mean, *by_joint], stored[f"{case}_acc_{key}"], rounding(1, len(by_joint), dtype=np.float64))


@pytest.mark.parametrize("colour", ["bgr", "rgb"])
def test_normalisation_is_the_formula(colour):
    images = np.arange(2 * 16 * 16 * 3).astype(np.uint8).reshape(2, 16, 16, 3)
    mean, std = (np.array(values, np.float32) for values in (MEAN, STD))
    ordered = images if colour == "bgr" else images[..., ::-1]
    expected = ((ordered.astype(np.float32) / np.float32(255) - mean) / std).transpose(0, 3, 1, 2)
    close(transforms.normalise(paddle.to_tensor(images), colour), expected, NORMALISED)


def test_means_go_to_the_device_once(monkeypatch):
    """A copy waits until a GPU has done all its work."""
    pictures = paddle.to_tensor(np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), np.uint8))
    first = transforms.normalise(pictures).numpy()
    monkeypatch.setattr(paddle, "to_tensor", lambda *a, **k: pytest.fail("a second copy"))
    np.testing.assert_array_equal(transforms.normalise(pictures).numpy(), first)
