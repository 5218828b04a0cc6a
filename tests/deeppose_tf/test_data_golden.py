"""Crops and targets in mode compat against what the original's code answered ($GOLDEN_DIR/deeppose_tf). Whole numbers
and decisions are compared exactly, coordinates to the rounding of the type in which they are computed."""

import json
import pathlib

import numpy as np
import pytest

from common.poses import box_of_joints
from common.skeletons import LSP14, MPII16
from deeppose_tf import data
from deeppose_tf.config import IM_SIZE, Config
from deeppose_tf.csv_files import read_csv
from tests.tolerance import close, rounding

pytestmark = pytest.mark.golden
LSP_PAIRS = tuple(LSP14.flip_pairs)
PAIRS = {"lsp": LSP_PAIRS, "mpii": tuple(MPII16.flip_pairs)}


def load(golden_dir, name):
    path = golden_dir / "deeppose_tf" / name
    if not path.exists():
        pytest.skip(f"this set of fixtures has no {name}")
    return np.load(path, allow_pickle=False)


@pytest.fixture(scope="module")
def geometry(golden_dir):
    return load(golden_dir, "geometry.npz")


def cases(geometry):
    """(number of the case, crop settings, number of valid joints)."""
    assert len(geometry["crop/in_seed"])
    for i, (ext, shift) in enumerate(zip(geometry["crop/in_ext"], geometry["crop/in_shift"])):
        count = int(np.isfinite(geometry["crop/in_joints"][i]).all(1).sum())
        yield i, data.Crops("compat", tuple(ext), None if np.isnan(shift) else float(shift)), count


def test_boxes_and_targets(geometry):
    for i, crops, count in cases(geometry):
        rng = np.random.RandomState(geometry["crop/in_seed"][i])
        height, width = geometry["crop/in_img_hw"][i]
        box = data.pixel_box(
            data.draw_box(geometry["crop/in_bbox"][i], crops, rng), np.array([width, height]), "compat"
        )
        assert box == tuple(geometry["crop/out_crop_bbox"][i]), i
        assert box[:2] == tuple(geometry["crop/out_origin"][i])
        targets = data.crop_targets(geometry["crop/in_joints"][i][:count], box, "compat")
        np.testing.assert_array_equal(np.rint((targets + 0.5) * IM_SIZE), geometry["crop/out_zoom_joints"][i][:count])
        close(targets, geometry["crop/out_norm_joints"][i][:count], rounding(0.5, steps=2))
        back = data.unproject(targets[None], np.array([box]), "compat")[0]
        pixels = geometry["crop/out_back_px"][i][:count]
        close(back, pixels, rounding(np.abs(pixels).max(), steps=3))
        image = np.random.RandomState(geometry["crop/in_seed"][i]).randint(0, 256, (height, width, 3)).astype(np.uint8)
        x, y, w, h = box
        mean = image[y : y + h, x : x + w].mean((0, 1))
        close(mean, geometry["crop/out_crop_mean"][i], rounding(255.0, terms=w * h, dtype=np.float64))


def test_flip_of_crops(geometry):
    for i, _, count in cases(geometry):
        valid = geometry["crop/flip_valid"][i].all(-1)
        before = np.where(np.arange(len(valid))[:, None] < count, geometry["crop/out_zoom_joints"][i], 0)
        targets, after = data.mirror_targets(before / IM_SIZE - 0.5, np.arange(len(valid)) < count, LSP_PAIRS, "compat")
        assert np.array_equal(after, valid), i
        np.testing.assert_array_equal(
            np.rint((targets[after] + 0.5) * IM_SIZE), geometry["crop/out_flip_joints"][i][after]
        )


@pytest.mark.parametrize("name", PAIRS)
def test_flip(geometry, name):
    targets, valid = data.mirror_targets(
        geometry[f"flip/{name}_in"] / IM_SIZE - 0.5,
        geometry[f"flip/{name}_in_valid"].astype(bool),
        PAIRS[name],
        "compat",
    )
    assert np.array_equal(valid, geometry[f"flip/{name}_out_valid"])
    np.testing.assert_array_equal(np.rint((targets[valid] + 0.5) * IM_SIZE), geometry[f"flip/{name}_out"][valid])


def test_tight_box(geometry):
    valid = geometry["bbox/valid"].all(1)
    np.testing.assert_array_equal(geometry["bbox/joints"][valid], geometry["bbox/valid_joints"])
    found = box_of_joints(np.where(valid[:, None], geometry["bbox/joints"], np.nan)[None])[0]
    np.testing.assert_array_equal(found, geometry["bbox/bbox_xywh"])


def test_unproject(geometry):
    found = data.unproject(geometry["unnorm/norm"], geometry["unnorm/bbox"], "compat")
    close(found, geometry["unnorm/px"], rounding(np.abs(geometry["unnorm/px"]), steps=3))
    with pytest.raises(ValueError, match="outside"):
        data.unproject(geometry["unnorm/norm"] + 1, geometry["unnorm/bbox"], "compat")


def test_unproject_of_metrics(golden_dir):
    arrays = load(golden_dir, "metrics.npz")
    for name in (n for n in PAIRS if f"{n}/gt_norm" in arrays):
        for what in ("gt", "pred"):
            values = np.clip(arrays[f"{name}/{what}_norm"], -0.5, 0.5)
            found, pixels = data.unproject(values, arrays[f"{name}/bbox"], "compat"), arrays[f"{name}/{what}_px"]
            close(found, pixels, rounding(np.abs(pixels) + 1, steps=3))


# name of a configuration of the fixture -> crop settings, min_dim, downscale height
CONFIGURATIONS = {
    "plain": (data.Crops("compat", (1.0, 1.0)), 6, None),
    "train": (data.Crops("compat", (1.2, 2.0), 0.1, True, pairs=LSP_PAIRS), 6, None),
    "downscale": (data.Crops("compat", (1.0, 1.2), 0.1, True, pairs=LSP_PAIRS), 0, 240),
    "noext": (data.Crops("compat", None, 0.3), 6, None),
}


@pytest.fixture(scope="module")
def pipeline(golden_dir, tmp_path_factory):
    """The fixture and the CSV whose pictures are written as it says."""
    import cv2

    arrays, folder = load(golden_dir, "pipeline.npz"), tmp_path_factory.mktemp("pipeline")
    seed = json.loads((golden_dir / "deeppose_tf/fixture.json").read_text())["seed"]
    for i, (height, width) in enumerate(arrays["img_hw"]):
        image = np.random.RandomState(seed * 1000 + i).randint(0, 256, (height, width, 3)).astype(np.uint8)
        cv2.imwrite(str(folder / f"im{i:03d}.png"), image)
    (folder / "persons.csv").write_text("\n".join(arrays["csv"]) + "\n")
    return arrays, folder, seed


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_pipeline(pipeline, name):
    arrays, folder, seed = pipeline
    if f"{name}/joints" not in arrays:
        pytest.skip(f"this set has no configuration {name}")
    crops, min_dim, downscale = CONFIGURATIONS[name]
    pose_set = read_csv(folder / "persons.csv", Config(img_path_prefix=str(folder), mode="compat"))
    persons = data.Persons(pose_set, "compat", min_dim=min_dim, height=downscale)
    assert [pathlib.Path(pose_set.images[row]).name for row in persons.rows] == [
        str(n) for n in arrays[f"{name}/kept_image_ids"]
    ]
    valid = arrays[f"{name}/valid"].all(-1)
    assert np.array_equal(persons.valid, valid)
    pixels = rounding(np.nanmax(arrays[f"{name}/loaded_joints"]), steps=3, dtype=np.float64)
    close(persons.joints[valid], arrays[f"{name}/loaded_joints"][valid], pixels)
    close(persons.tight, arrays[f"{name}/tight_bbox"], pixels)
    for k in range(len(persons)):
        image, targets, seen, box = data.example(persons, k, crops, np.random.RandomState(seed + k))
        np.testing.assert_array_equal(box, arrays[f"{name}/crop_bbox"][k])
        np.testing.assert_array_equal(seen, arrays[f"{name}/out_valid"][k].all(-1))
        close(targets, arrays[f"{name}/joints"][k], rounding(0.5, steps=2))
        check_image(image, arrays[f"{name}/img_stats"][k], arrays[f"{name}/img_samples"][k])


def contrast(pixels):
    """Of (H,W,3) pixels by the network's own layer, and what the original's means lose: it adds them one after another
    in float32."""
    from deeppose_tf.model import contrast_normalise

    pixels = pixels.astype(np.float32)
    lost = rounding(pixels.mean((0, 1), dtype=np.float64), terms=pixels[..., 0].size)
    deviation = pixels.std((0, 1), dtype=np.float64) + 1e-5
    return np.asarray(contrast_normalise(pixels[None]))[0], lost / deviation


def check_image(image, stats, samples):
    """A crop against the fixture's samples and channel means; where the fixture's are contrast-normalised (mean 0), so
    is the crop first."""
    if np.abs(stats[:, 0]).max() < 1e-2:
        image, lost = contrast(image)
        close(image[::29, ::29][:8, :8], samples, (1 + np.abs(samples)) * lost)
    else:
        np.testing.assert_array_equal(image[::29, ::29][:8, :8], samples)
        close(image.reshape(-1, 3).mean(0), stats[:, 0], rounding(stats[:, 0], steps=np.log2(IM_SIZE**2)))


def test_contrast(geometry):
    """Also of a picture of one colour, whose deviation is 0."""
    found, lost = contrast(geometry["gcn/in"])
    close(found, geometry["gcn/out"], (1 + np.abs(geometry["gcn/out"])) * lost)
    np.testing.assert_array_equal(contrast(geometry["gcn/flat_in"])[0], geometry["gcn/flat_out"])
