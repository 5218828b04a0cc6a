"""Bootstrap intervals: drawing every image once is the figure itself, for every protocol; widths and pairs by known answers."""

import json
from dataclasses import replace

import numpy as np
import pytest

from common import evaluate
from common.intervals import Draws, PrecisionRecall, interval, with_intervals
from common.metrics.coco import oks_ap
from common.poses import PoseSet
from common.predictions import predictions_for
from common.protocols import protocols_for
from common.skeletons import AIC14
from tests.bench.metrics import random_coco
from tests.common.test_protocols import hide, make_set


def once(pose_set: PoseSet) -> Draws:
    """Draws of which each has every image once."""
    draws = Draws(pose_set, 2)
    draws.__dict__["times"] = np.ones((2, len(draws.unit)), np.float32)
    return draws


def guesses(pose_set, seed=0, off=12.0):
    rng = np.random.default_rng(seed)
    joints = np.nan_to_num(pose_set.joints, nan=50.0) + rng.normal(0, off, pose_set.joints.shape)
    joints[rng.random(joints.shape[:2]) < 0.05] = np.nan
    return predictions_for(pose_set, joints)


@pytest.mark.parametrize("name", ["lsp", "mpii", "penn_action", "jhmdb", "k2hpd"])
def test_every_image_once_is_the_figure(name):
    pose_set = make_set(name, 40)
    if name != "k2hpd":
        pose_set = hide(pose_set, np.random.default_rng(1).integers(0, 3, pose_set.visible.shape))
    predictions, draws, counted = guesses(pose_set), once(pose_set), 0
    for protocol in protocols_for(pose_set):
        result = protocol.score(pose_set, predictions)
        samples = draws.of(protocol.name, result, predictions)
        if samples is None:
            assert protocol.name.endswith(":compat") or "loss" in protocol.name or "accuracy" in protocol.name
            continue
        counted += 1
        np.testing.assert_allclose(samples.pop("total"), result.total, rtol=1e-5, err_msg=protocol.name)
        for entry, values in samples.items():
            np.testing.assert_allclose(values, result.values[entry], rtol=1e-5, err_msg=f"{protocol.name} {entry}")
    assert counted >= 2


def test_every_image_once_is_cocos_ap():
    pytest.importorskip("pycocotools")
    pose_set, predictions = random_coco(60, 2)
    table = PrecisionRecall(pose_set, predictions, once(pose_set))
    np.testing.assert_allclose(table.samples, oks_ap(pose_set, predictions)["AP"], atol=1e-12)
    low, high = interval(PrecisionRecall(pose_set, predictions, Draws(pose_set, 40)).samples)
    assert low < table.samples[0] < high


def test_every_image_once_is_ai_challengers_score():
    pose_set = make_set("ai_challenger", 12, skeleton=AIC14)
    pose_set = replace(pose_set, image_id=np.arange(12) // 3)
    predictions = guesses(pose_set, off=6.0)
    for protocol in protocols_for(pose_set):
        result = protocol.score(pose_set, predictions)
        samples = once(pose_set).of(protocol.name, result, predictions)
        np.testing.assert_allclose(samples["total"], result.total, rtol=1e-5)


def test_width_is_that_of_a_share_and_persons_of_an_image_go_together():
    """One joint decides: a share p of n persons has standard deviation sqrt(p (1 - p) / n)."""
    n = 900
    pose_set = make_set("lsp", n)
    wrong = np.random.default_rng(3).random(n) < 0.3
    joints = pose_set.joints + np.where(wrong, 1e4, 0.0)[:, None, None]
    predictions = predictions_for(pose_set, joints)

    def width(images):
        own = replace(pose_set, image_id=images)
        result = {"pck_torso@0.2": protocols_for(own, ["pck_torso@0.2"])[0].score(own, predictions)}
        low, high = with_intervals(result, predictions, Draws(own, 2000, 1))["pck_torso@0.2"].interval
        assert low < result["pck_torso@0.2"].total < high
        return high - low

    expected = 2 * 1.96 * 100 * np.sqrt(wrong.mean() * (1 - wrong.mean()) / n)
    assert width(np.arange(n)) == pytest.approx(expected, rel=0.1)
    assert width(np.argsort(np.argsort(~wrong)) // 9) > 2 * expected, "images of nine persons alike say less"


def test_pairs_share_their_draws_and_seeds_repeat():
    pose_set = make_set("lsp", 300)
    one, other = guesses(pose_set, 0), guesses(pose_set, 0)
    other.joints[:20] = pose_set.joints[:20]
    protocol, draws = protocols_for(pose_set, ["pck_torso@0.2"])[0], Draws(pose_set, 500, 5)
    first, second = (draws.of(protocol.name, protocol.score(pose_set, p), p)["total"] for p in (one, other))
    low, high = interval(second - first)
    assert 0 < low < high < interval(second)[1] - interval(first)[0], "better, although the two intervals overlap"
    again = Draws(pose_set, 500, 5)
    np.testing.assert_array_equal(again.times, draws.times)
    assert (Draws(pose_set, 500, 6).times != draws.times).any()


def test_videos_are_drawn_whole():
    assert Draws(make_set("penn_action", 24), 3).what == "videos" and Draws(
        make_set("penn_action", 24)
    ).times.shape == (1000, 4)


def test_the_command_writes_intervals(tmp_path, capsys):
    import scipy.io

    from common import datasets
    from common.predictions import save_predictions

    table = np.random.default_rng(0).uniform(10, 140, (3, 14, 30))
    table[2] = 0
    scipy.io.savemat(tmp_path / "joints.mat", {"joints": table})
    pose_set = datasets.load("lsp", tmp_path, "1-30")
    save_predictions(tmp_path / "p.npz", guesses(pose_set))
    words = ["--dataset", "lsp", "--data_root", tmp_path, "--split", "1-30", "--predictions", tmp_path / "p.npz"]

    def run(*more):
        assert evaluate.main([*map(str, words), "--json", str(tmp_path / "o.json"), *more]) == 0
        return json.loads((tmp_path / "o.json").read_text())["pck_torso@0.2"], capsys.readouterr().out

    entry, text = run("--bootstrap", "200")
    low, high = entry["interval"]
    assert low < entry["total"] < high and f"[{low:.3f}, {high:.3f}]" in text
    assert "interval" not in run("--bootstrap", "0")[0]
