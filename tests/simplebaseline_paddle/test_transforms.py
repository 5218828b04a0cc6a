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

SKELETON = {"mpii": MPII16, "coco": COCO17}


class Draws:
    """The generators of the originals: normal numbers from numpy, uniform ones from Python."""

    def __init__(self, numpy_seed, python_seed):
        self.standard_normal = np.random.RandomState(numpy_seed).standard_normal
        self.random = random.Random(python_seed).random


@pytest.mark.golden
def test_affine(golden_dir):
    cases = json.loads((golden_dir / "simplebaseline_paddle/transforms.json").read_text())["affine"]
    assert cases
    for case in cases:
        matrix = transforms.affine(case["center"], case["scale"], case["rot"], case["output_size"], bool(case["inv"]))
        # float32 points: a matrix of a tiny box has large numbers
        tolerance = 1e-2 if min(case["scale"]) < 0.01 else 1e-4
        np.testing.assert_allclose(matrix, case["matrix"], atol=tolerance, rtol=1e-6)
        points = np.asarray(case["points"]).reshape(-1, 2) @ matrix[:, :2].T + matrix[:, 2]
        np.testing.assert_allclose(points, np.asarray(case["points_out"]).reshape(-1, 2), atol=tolerance, rtol=1e-6)


@pytest.mark.golden
def test_back_to_the_image(golden_dir):
    cases = json.loads((golden_dir / "simplebaseline_paddle/transforms.json").read_text())["transform_preds"]
    assert cases
    for case in cases:
        # the originals go through float32 points
        tolerance = 1e-2 if min(case["scale"]) < 0.01 else 1e-3
        found = transforms.to_image(
            np.asarray(case["coords"]), np.asarray(case["center"]), np.asarray(case["scale"]), case["output_size"]
        )
        np.testing.assert_allclose(found, case["out"], atol=tolerance)


@pytest.mark.golden
def test_mirrored_joints(golden_dir):
    cases = json.loads((golden_dir / "simplebaseline_paddle/transforms.json").read_text())["fliplr_joints"]
    assert cases
    for case in cases:
        skeleton = next(s for s in SKELETON.values() if sorted(s.flip_pairs) == sorted(map(tuple, case["pairs"])))
        joints, seen = np.asarray(case["joints"]), np.asarray(case["vis"])[:, 0] > 0
        person = Person(np.zeros(2), np.ones(2), joints[:, :2], seen).mirrored(case["width"], skeleton)
        np.testing.assert_allclose(person.joints, np.asarray(case["joints_out"])[:, :2], atol=1e-9)
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
            np.testing.assert_allclose(
                (change.scale, change.rotation), (sample["drawn"]["scale_mult"], sample["drawn"]["rot"]), rtol=1e-12
            )
        joints, vis = np.asarray(sample["joints"])[:, :2], np.asarray(sample["vis"])[:, 0] > 0
        person = Person(np.asarray(sample["center"]), np.asarray(sample["scale"]), joints, vis)
        pixels, moved, seen = transforms.crop(
            image, person, tuple(sample["image_size"]), SKELETON[sample["dataset"]], change
        )
        stride = sample["image_size"][0] / sample["heatmap_size"][0]
        target, weight = transforms.targets(
            moved, seen.astype(np.float32), tuple(sample["heatmap_size"]), sample["sigma"], stride, compat=True
        )
        np.testing.assert_allclose(
            transforms.normalise(paddle.to_tensor(pixels[None])).numpy()[0],
            expected[f"{key}_input"],
            atol=1e-5,
            err_msg=key,
        )
        np.testing.assert_allclose(target, expected[f"{key}_target"], atol=1e-6, err_msg=key)
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
            np.testing.assert_allclose(found, target, atol=1e-6, err_msg=name)
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
        np.testing.assert_allclose((plain + shifted) / 2, stored[f"{name}_avg_shift"], atol=1e-6)
        np.testing.assert_allclose((plain + back) / 2, stored[f"{name}_avg_noshift"], atol=1e-6)


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
            np.testing.assert_allclose(joints, stored[f"{case}_{key}"], atol=1e-3)


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
            np.testing.assert_allclose([mean, *by_joint], stored[f"{case}_acc_{key}"], atol=1e-9)


@pytest.mark.parametrize("colour", ["bgr", "rgb"])
def test_normalisation_is_the_formula(colour):
    images = np.arange(2 * 16 * 16 * 3).astype(np.uint8).reshape(2, 16, 16, 3)
    mean, std = (np.array(values, np.float32) for values in (MEAN, STD))
    ordered = images if colour == "bgr" else images[..., ::-1]
    expected = ((ordered.astype(np.float32) / np.float32(255) - mean) / std).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(transforms.normalise(paddle.to_tensor(images), colour).numpy(), expected, atol=1e-6)
