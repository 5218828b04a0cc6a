"""Targets, whole batches, mirroring, COCO items and converter against what the original produced."""

import json
import shutil

import numpy as np
import pytest

from common.errors import DataError
from deepercut_tf.ai2coco_art_neckhead_json import convert
from deepercut_tf.config import make_config
from deepercut_tf.data import Draw, Sampler, collate, ignore_mask, make_sample, score_weights
from deepercut_tf.items import load_items
from deepercut_tf.joints import mirror_joints, symmetric_order
from deepercut_tf.targets import make_targets, map_size
from tests.tolerance import close, rounding

pytestmark = pytest.mark.golden


def close_to(found, expected) -> None:
    """Targets are computed in float64 and kept in float32."""
    close(found, expected, rounding(np.abs(expected).max(initial=0)))


@pytest.fixture(scope="module")
def folder(golden_dir):
    return golden_dir / "deepercut_tf"


def people(stored, name):
    cuts = np.cumsum(stored[name + "njp"])[:-1]
    return list(zip(np.split(stored[name + "joint_id"], cuts), np.split(stored[name + "coords"], cuts)))


def test_target_maps(folder):
    stored = np.load(folder / "targets.npz")
    keys = (
        "num_joints",
        "pos_dist_thresh",
        "locref_stdev",
        "location_refinement",
        "pairwise_predict",
        "weigh_only_present_joints",
    )
    for case in json.loads(str(stored["meta_json"])):
        name = f"t{case['id']:02d}_"
        config = make_config({k: case[k] for k in keys} | {"mode": "compat"})
        statistics = (
            np.stack([stored[name + "stats_mean"], stored[name + "stats_std"]]) if case["pairwise_predict"] else None
        )
        size = tuple(stored[name + "size"])
        assert size == map_size(case["H"], case["W"])
        found = make_targets(people(stored, name), size, case["scale"], config, statistics)
        np.testing.assert_array_equal(found.score, stored[name + "part_score_targets"])
        np.testing.assert_array_equal(found.weights, stored[name + "part_score_weights"])
        if case["location_refinement"]:
            np.testing.assert_array_equal(found.locref_mask, stored[name + "locref_mask"])
            close_to(found.locref, stored[name + "locref_targets"])
        if case["pairwise_predict"]:
            np.testing.assert_array_equal(found.pairwise_mask, stored[name + "pairwise_mask"])
            close_to(found.pairwise, stored[name + "pairwise_targets"])


def test_whole_batches(folder):
    """Reading, resizing, mirroring and targets, bit for bit (both sides resize with Pillow)."""
    stored = np.load(folder / "batches.npz")
    config = make_config(
        {
            "dataset": str(folder / "batch_data" / "dataset.mat"),
            "dataset_type": "mpii",
            "mode": "compat",
            "location_refinement": True,
            "pos_dist_thresh": 17,
        }
    )
    item_set, config = load_items(config)
    sampler, refused = Sampler(item_set, config), 0
    for case in json.loads(str(stored["meta_json"])):
        accepted = sampler.accepts(item_set.items[case["image"]], case["scale"])
        assert accepted == case["valid"]
        if not accepted:
            refused += 1
            continue
        batch = collate([make_sample(item_set, Draw(case["image"], case["scale"], case["mirror"]), config)], config)
        for key, value in batch.items():
            np.testing.assert_array_equal(value, stored[f"b{case['id']:02d}_{key}"], err_msg=f"{case} {key}")
    assert refused


def test_mirroring(folder):
    cases = json.loads((folder / "mirror.json").read_text())
    shifts = {"PoseDataset": -1, "MPII": 0, "PennAction": 1}
    for name, case in cases.items():
        order = symmetric_order(case["all_joints"], 1 + max(max(group) for group in case["all_joints"]))
        found = mirror_joints(np.array(case["joints_in"]), case["width"], order, shifts[name])
        np.testing.assert_array_equal(found, case["joints_out"])


@pytest.fixture(scope="module")
def coco(folder, tmp_path_factory):
    root = tmp_path_factory.mktemp("coco")
    (root / "annotations").mkdir()
    shutil.copy(folder / "coco_tiny.json", root / "annotations" / "person_keypoints_train2014.json")
    return root


def coco_config(root, **more):
    keys = {
        "dataset": str(root),
        "dataset_type": "coco",
        "dataset_phase": "train2014",
        "dataset_ann": "person_keypoints",
        "pos_dist_thresh": 17,
    }
    return make_config(keys | {"coco_only_images_with_people": True, "location_refinement": True} | more)


@pytest.mark.exact
def test_coco_items(folder, coco):
    """Whole numbers and names, all compared exactly."""
    item_set, config = load_items(coco_config(coco, mode="compat"))
    expected = json.loads((folder / "coco_items.json").read_text())
    for item, wanted in zip(item_set.items, expected["items"], strict=True):
        assert (
            item.image_id == wanted["coco_id"]
            and item.image.endswith(wanted["im_path"])
            and list(item.size) == wanted["im_size"][1:]
        )
        assert [p.tolist() for p in item.persons] == wanted["joints"]
        mask = ignore_mask(item_set, item, config)
        assert (0 if mask is None else mask.sum()) == wanted["neg_mask_area"]


def test_coco_targets_and_masks(folder, coco):
    """Score weights from masks, plain and mirrored; the original does not mirror the mask."""
    item_set, config = load_items(coco_config(coco, mode="compat"))
    stored, expected = np.load(folder / "coco_batches.npz"), json.loads((folder / "coco_items.json").read_text())
    for k, item in enumerate(item_set.items):
        height, width = item.size
        size = map_size(int(height * expected["scale"]), int(width * expected["scale"]))
        mask = ignore_mask(item_set, item, config)
        for flip in (0, 1):
            order = symmetric_order(config.all_joints, config.num_joints)
            persons = [mirror_joints(p, width, order) if flip else p for p in item.persons]
            scaled = [(p[:, 0].astype(int), p[:, 1:] * expected["scale"]) for p in persons]
            targets = make_targets(scaled, size, expected["scale"], config)
            np.testing.assert_array_equal(targets.score, stored[f"c{k}_{flip}_scmap"][0])
            close_to(targets.locref, stored[f"c{k}_{flip}_locref"][0])
            weights = np.ones(size) if mask is None else score_weights(mask, size)
            np.testing.assert_array_equal(
                np.broadcast_to(weights[..., None], targets.score.shape), stored[f"c{k}_{flip}_weights"][0]
            )


def converter_input(folder):
    entries = json.loads((folder / "ai_challenger_in.json").read_text())
    return entries, {e["image_id"]: tuple(e["_size"]) for e in entries}


@pytest.mark.exact
def test_converter_as_the_original(folder):
    assert convert(*converter_input(folder), compat=True) == json.loads(
        (folder / "ai_challenger_coco_out.json").read_text()
    )


def test_converter_repaired(folder, tmp_path):
    """pycocotools evaluates a perfect prediction to AP 1; nothing else than the listed defects changed."""
    coco = pytest.importorskip("pycocotools.coco")
    from pycocotools.cocoeval import COCOeval

    content = convert(*converter_input(folder))
    (tmp_path / "person_keypoints_train2014.json").write_text(json.dumps(content))
    truth = coco.COCO(str(tmp_path / "person_keypoints_train2014.json"))
    answers = [
        {k: a[k] for k in ("image_id", "category_id", "keypoints")} | {"score": 1.0} for a in content["annotations"]
    ]
    evaluation = COCOeval(truth, truth.loadRes(answers), "keypoints")
    evaluation.evaluate(), evaluation.accumulate(), evaluation.summarize()
    assert evaluation.stats[0] == 1.0
    for new, old in zip(
        content["annotations"],
        json.loads((folder / "ai_challenger_coco_out.json").read_text())["annotations"],
        strict=True,
    ):
        table, before = np.reshape(new["keypoints"], (17, 3)), np.reshape(old["keypoints"], (17, 3))
        np.testing.assert_array_equal(table, before * (before[:, 2:] > 0))
        assert new["num_keypoints"] == (before[:, 2] > 0).sum() and new["bbox"] == old["bbox"]


@pytest.mark.exact
def test_converter_names_a_bad_entry(folder):
    entries, sizes = converter_input(folder)
    entries[0]["keypoint_annotations"]["human1"] = [1, 2, 3]
    with pytest.raises(DataError, match=entries[0]["image_id"]):
        convert(entries, sizes)
