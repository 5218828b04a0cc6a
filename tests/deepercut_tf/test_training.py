"""Training: learns, resumes as if never stopped, refuses what does not fit, pads without a trace."""

import json
import os
import signal
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("tensorflow")

import keras

from common.errors import DataError
from deepercut_tf import model as networks
from deepercut_tf.config import make_config
from deepercut_tf.data import collate, make_sample
from deepercut_tf.detections import argmax_pose
from deepercut_tf.engine import Predictor, Trainer
from deepercut_tf.items import load_items
from deepercut_tf.losses import pose_losses
from deepercut_tf.machine import Interrupts
from deepercut_tf.model import build_model
from deepercut_tf.run import Run, learning_rate
from deepercut_tf.train import iterate

JOINTS = 4
BASE = {
    "dataset_type": "default",
    "num_joints": JOINTS,
    "all_joints": [[0, 1], [2, 3]],
    "all_joints_names": ["knee", "ankle"],
    "net_type": "resnet_50",
    "width": 0.125,
    "pos_dist_thresh": 12,
    "location_refinement": True,
    "locref_loss_weight": 0.05,
    "display_iters": 10,
    "save_iters": 100,
    "multi_step": [[0.002, 5]],
    "bn_decay": 0.9,
}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Three pictures with coloured discs at the joints, in the original's .mat layout."""
    import cv2

    from deepercut_tf.prepare_mpii import write_dataset

    folder, rng, entries = tmp_path_factory.mktemp("discs"), np.random.default_rng(0), []
    for i in range(3):
        image = rng.integers(90, 110, (112, 128, 3)).astype(np.uint8)
        points = np.array([[30, 30], [90, 36], [36, 84], [96, 80]]) + rng.integers(-8, 8, (JOINTS, 2))
        for k, (x, y) in enumerate(points):
            cv2.circle(image, (int(x), int(y)), 9, [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0)][k], -1)
        cv2.imwrite(str(folder / f"{i}.png"), image)
        entries.append(
            (f"{i}.png", image.shape[:2], np.concatenate([np.arange(JOINTS)[:, None], points], axis=1).astype(np.int32))
        )
    return write_dataset(folder / "dataset.mat", entries, 0)


@pytest.fixture(autouse=True)
def shallow(monkeypatch):
    """One or two units a block instead of 16 in all: tracing the step is most of the time here. The golden tests have the full depth."""
    monkeypatch.setitem(networks.UNITS, "resnet_50", (1, 2, 1, 2))


def settings(dataset, tmp_path, **more):
    return make_config(
        {
            **BASE,
            "dataset": str(dataset),
            "snapshot_dir": str(tmp_path / "run"),
            "log_dir": str(tmp_path / "log"),
            **more,
        }
    )


class Silent:
    """A run log that keeps the losses."""

    def __init__(self):
        self.losses = []

    def scalars(self, step, **values):
        self.losses.append(values["total_loss"])


def test_one_image_is_learnt(dataset, tmp_path):
    """From random weights with batch statistics: the joints of a picture within 90 steps.

    The last steps are small, so that the moving statistics fit the weights: without that the error at the end was 0.01 to 3 pixels, by
    chance; with it 0.01 to 0.2. Half a cell of the score map, 4 pixels, still tells the right cell and a learnt offset from a wrong one.
    """
    keras.utils.set_random_seed(0)
    item_set, config = load_items(settings(dataset, tmp_path, optimizer="adam", adam_lr=0.003))
    sample = make_sample(item_set, 0, config, 1.0, False)
    batch = collate([sample], config)
    model = build_model(config)
    trainer = Trainer(model, config)
    first = float(trainer.step(batch, 0.003, 1)["total_loss"])
    for number in range(2, 91):
        loss = float(trainer.step(batch, 0.003 if number <= 50 else 0.0003, number)["total_loss"])
    assert loss < first / 10
    pose = argmax_pose(Predictor(model, config).maps(sample.image))
    assert np.abs(pose[:, :2] - item_set.items[0].persons[0][:, 1:]).max() < 4


@pytest.mark.parametrize("frozen", [False, True])
def test_fused_normalisation_is_the_plain_one(frozen):
    """Values and gradients of TensorFlow's one operation against the formula, to float32's rounding over 300 numbers a channel."""
    import tensorflow as tf

    rng = np.random.default_rng(0)
    x, gamma, beta, upstream = (
        tf.constant(rng.normal(1, 2, s), tf.float32) for s in ((3, 10, 10, 5), (5,), (5,), (3, 10, 10, 5))
    )
    moving = (
        (tf.constant(rng.normal(size=5), tf.float32), tf.constant(rng.uniform(0.5, 2, 5), tf.float32))
        if frozen
        else None
    )
    found = []
    for norm in (networks._plain_norm, networks._fused_norm):
        with tf.GradientTape() as tape:
            tape.watch([x, gamma, beta])
            out, mean, variance = norm(x, gamma, beta, moving)
            loss = tf.reduce_sum(out * upstream)
        found.append([out, *([] if frozen else [mean, variance]), *tape.gradient(loss, [x, gamma, beta])])
    for plain, fused in zip(*found):
        np.testing.assert_allclose(plain, fused, rtol=1e-4, atol=1e-4)


def test_mixed_precision_learns_and_keeps_its_variables(dataset, tmp_path):
    """bfloat16: the loss falls as in float32, to a tenth; variables, moving statistics and outputs stay float32, and move."""
    item_set, config = load_items(settings(dataset, tmp_path, optimizer="adam", adam_lr=0.003, amp="bf16"))
    batch = collate([make_sample(item_set, 0, config, 1.0, False)], config)
    losses = {}
    for amp in ("off", "bf16"):
        keras.utils.set_random_seed(0)
        model = build_model(config, amp=amp)
        trainer = Trainer(model, config)
        losses[amp] = [float(trainer.step(batch, 0.001, number)["total_loss"]) for number in range(1, 16)]
    assert all(v.dtype == "float32" for v in networks.named_variables(model).values())
    assert {keras.backend.standardize_dtype(v.dtype) for v in model(batch["inputs"]).values()} == {"float32"}
    means = [v.numpy() for name, v in networks.named_variables(model).items() if name.endswith("moving_mean")]
    assert all(np.abs(mean).max() > 0 for mean in means)
    assert losses["bf16"][-1] < 0.5 * losses["bf16"][0]
    np.testing.assert_allclose(losses["bf16"], losses["off"], rtol=0.1)


def test_resumed_run_equals_an_uninterrupted_one(dataset, tmp_path):
    """Weights, momentum, data order and jitter go on: the same weights to a hundredth of what the steps after the stop changed.

    Threads may add up in another order, which batch statistics of one picture amplify; a lost slot or another picture changes weights as
    much as the steps themselves.
    """
    import shutil

    config = settings(dataset, tmp_path, scale_jitter_lo=0.9, scale_jitter_up=1.2, mirror=True)
    item_set, config = load_items(config)
    whole = Run(config, item_set)
    assert not whole.begin("auto")
    iterate(whole, Silent(), 3)
    shutil.copytree(tmp_path / "run", tmp_path / "stopped")
    stopped = whole.weights()
    iterate(whole, Silent(), None)
    assert whole.iteration == 6
    half = Run(replace(config, snapshot_dir=str(tmp_path / "stopped")), item_set)
    assert half.begin("auto") and half.iteration == 3
    iterate(half, Silent(), None)
    resumed = half.weights()
    for key, value in whole.weights().items():
        moved = np.linalg.norm(value - stopped[key])
        assert np.linalg.norm(resumed[key] - value) <= 0.01 * moved + 1e-6, key
    assert all(np.any(slot) for slot in half.trainer.slots.values())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_is_saved_where_it_stopped(dataset, tmp_path, number):
    """A signal in the middle of a step lets it end; its state is that of the last iteration, far from any snapshot; a second one ends it."""
    item_set, config = load_items(settings(dataset, tmp_path))

    class Asking(Silent):
        def scalars(self, step, **values):
            super().scalars(step, **values)
            if step == 2:
                os.kill(os.getpid(), number)

    before, run = signal.getsignal(number), Run(config, item_set)
    assert not run.begin("auto")
    with pytest.raises(KeyboardInterrupt, match="iteration 2"), Interrupts() as interrupts:
        iterate(run, Asking(), None, interrupts)
    assert signal.getsignal(number) is before
    again = Run(config, item_set)
    assert again.begin("auto") and again.iteration == 3 and again.draw == run.draw
    for key, value in run.weights().items():
        np.testing.assert_array_equal(again.weights()[key], value)
    with Interrupts() as interrupts:
        os.kill(os.getpid(), number)
        assert interrupts.asked and signal.getsignal(number) is before


def test_snapshots_start_other_runs(dataset, tmp_path):
    """A snapshot is a TF1 checkpoint; init_weights takes the backbone, init_heads the heads that fit; a state of another network is refused."""
    from deepercut_tf.inference import PoseFinder
    from deepercut_tf.weight_files import read_weights

    item_set, config = load_items(settings(dataset, tmp_path, multi_step=[[0.002, 1]]))
    run = Run(config, item_set)
    run.begin(None)
    iterate(run, Silent(), None)
    values, stored = read_weights(tmp_path / "run" / "snapshot-1")
    assert stored["num_joints"] == JOINTS and all(np.array_equal(values[k], v) for k, v in run.weights().items())
    fresh = Run(
        make_config(
            {
                **BASE,
                "dataset": str(dataset),
                "snapshot_dir": str(tmp_path / "b"),
                "init_weights": str(tmp_path / "run"),
            }
        ),
        item_set,
    )
    fresh.begin(None)
    new = fresh.weights()
    assert np.array_equal(new["resnet_v1_50/conv1/weights"], values["resnet_v1_50/conv1/weights"])
    assert not np.array_equal(new["pose/part_pred/block4/weights"], values["pose/part_pred/block4/weights"])
    fewer = {
        **BASE,
        "dataset": str(dataset),
        "init_weights": str(tmp_path / "run"),
        "init_heads": True,
        "intermediate_supervision": True,
    }
    tuned = Run(
        make_config({**fewer, "intermediate_supervision_layer": 1, "snapshot_dir": str(tmp_path / "c")}), item_set
    )
    begun = tuned.weights()
    tuned.begin(None)
    for name, value in tuned.weights().items():
        assert np.array_equal(value, values[name] if name in values else begun[name]), name
    assert any("intermediate" in name for name in begun) and not any("intermediate" in name for name in values)
    other = {**BASE, "num_joints": 3, "all_joints": [[0], [1], [2]], "all_joints_names": ["a", "b", "c"]}
    with pytest.raises(DataError, match="num_joints"):
        PoseFinder(make_config(other), tmp_path / "run" / "snapshot-1")
    with pytest.raises(DataError, match="width"):
        Run(
            make_config({**BASE, "width": 0.25, "dataset": str(dataset), "snapshot_dir": str(tmp_path / "run")}),
            item_set,
        ).begin("auto")


def test_schedule():
    config = make_config({"multi_step": [[0.005, 10], [0.02, 20]], "warmup": 4})
    # the boundary iteration still has the old rate
    assert [learning_rate(config, i) for i in (10, 11, 20)] == [0.005, 0.02, 0.02]
    assert learning_rate(config, 0) == pytest.approx(0.005 / 4)
    assert learning_rate(replace(config, optimizer="adam"), 20) == 0.02
    assert learning_rate(replace(config, optimizer="adam", adam_lr=0.1), 20) == 0.1


def test_padding_leaves_no_trace_in_the_loss(dataset, tmp_path):
    """A batch of a small and a large picture: weights and masks are 0 on the padding, the loss is that of the labelled cells."""
    item_set, config = load_items(settings(dataset, tmp_path))
    samples = [make_sample(item_set, 0, config, 1.0, False), make_sample(item_set, 1, config, 0.8, False)]
    batch = collate(samples, config, bucket=64)
    assert batch["inputs"].shape[1] % 64 == 0
    rows, columns = samples[1].targets.score.shape[:2]
    assert not batch["part_score_weights"][1, rows:].any() and not batch["locref_mask"][1, :, columns:].any()
    rng = np.random.default_rng(1)
    shape = batch["part_score_targets"].shape
    outputs = {"part_pred": rng.normal(size=shape), "locref": rng.normal(size=(*shape[:3], 2 * JOINTS))}
    before = {
        k: float(v)
        for k, v in pose_losses({k: v.astype(np.float32) for k, v in outputs.items()}, batch, config).items()
    }
    outputs["part_pred"][1, rows:] = 50
    outputs["locref"][1, :, columns:] = 50
    after = {
        k: float(v)
        for k, v in pose_losses({k: v.astype(np.float32) for k, v in outputs.items()}, batch, config).items()
    }
    assert after == before
    alone = collate([samples[0]], config)
    np.testing.assert_array_equal(alone["inputs"][0], samples[0].image)


def test_losses_by_hand():
    """Sum over the number of non-zero weights; Huber and squared error; 0 where nothing counts."""
    from deepercut_tf.losses import offset_loss, score_loss

    def f32(*values):
        return np.array(values, np.float32)

    logits, targets = f32(0.0, 2.0, -3.0), f32(1.0, 0.0, 0.0)
    entropy = np.log(2), np.log1p(np.exp(2)), np.log1p(np.exp(-3))
    assert float(score_loss(logits, targets, f32(1, 0, 2))) == pytest.approx(
        (entropy[0] + 2 * entropy[2]) / 2, rel=1e-6
    )
    assert float(offset_loss(f32(0.5, 3.0), f32(0, 0), f32(1, 1), True)) == pytest.approx((0.125 + 2.5) / 2)
    assert float(offset_loss(f32(0.5, 3.0), f32(0, 0), f32(1, 1), False)) == pytest.approx((0.25 + 9) / 2)
    assert float(offset_loss(f32(0.5), f32(0), f32(0), True)) == 0


def test_diverging_run_stops(dataset, tmp_path):
    item_set, config = load_items(settings(dataset, tmp_path, bn_mode="frozen", multi_step=[[1000000.0, 5]]))
    run = Run(config, item_set)
    run.begin(None)
    with pytest.raises(FloatingPointError, match="diverged"):
        iterate(run, Silent(), None)
    assert not (tmp_path / "run" / "last.state.npz").exists()


def test_evaluation_chain(dataset, tmp_path, monkeypatch):
    """test.py writes predictions.mat by image, eval_pck.py scores it; a small picture keeps its place."""
    import cv2

    from deepercut_tf import eval_pck, test
    from deepercut_tf.weight_files import write_weights

    item_set, config = load_items(settings(dataset, tmp_path))
    run = Run(config, item_set)
    write_weights(tmp_path / "w.npz", run.weights(), {})
    import shutil

    shutil.copytree(dataset.parent, tmp_path / "set")
    cv2.imwrite(str(tmp_path / "set" / "1.png"), np.full((40, 48, 3), 100, np.uint8))
    import yaml

    own = {
        **BASE,
        "dataset": str(tmp_path / "set" / "dataset.mat"),
        "pck_threshold": 0.2,
        "scoremap_dir": str(tmp_path / "maps"),
    }
    own["location_refinement"] = False  # untrained offsets are large
    (tmp_path / "pose_cfg.yaml").write_text(yaml.safe_dump(own))
    arguments = ["--config", str(tmp_path / "pose_cfg.yaml")]
    assert (
        test.main([*arguments, "--weights", str(tmp_path / "w.npz"), "--out", str(tmp_path / "p.mat"), "--cache"]) == 0
    )
    assert len(list((tmp_path / "maps").glob("*_locreg.mat"))) == 3
    found = eval_pck.read_predictions(tmp_path / "p.mat", 3, JOINTS)
    assert found[1][:, 0].max() < 64
    assert eval_pck.main([*arguments, "--predictions", str(tmp_path / "p.mat")]) == 0
    assert eval_pck.main([*arguments, "--predictions", str(tmp_path / "absent.mat")]) == 2


def test_card_and_conversion(dataset, tmp_path):
    """convert.py: TF1 checkpoint -> .npz -> TF1 checkpoint, the same arrays, with a card."""
    from deepercut_tf import convert
    from deepercut_tf.weight_files import read_weights

    item_set, config = load_items(settings(dataset, tmp_path, multi_step=[[0.002, 0]]))
    run = Run(config, item_set)
    run.begin(None)
    iterate(run, Silent(), None)
    snapshot = tmp_path / "run" / "snapshot-0"
    assert convert.main([str(snapshot), str(tmp_path / "a.npz")]) == 0
    card = json.loads((tmp_path / "a.npz.json").read_text())
    assert card["check"]["largest difference"] <= card["check"]["tolerance"] and len(card["source_sha256"]) == 64
    (tmp_path / "c.yaml").write_text(json.dumps({**BASE}))
    assert convert.main([str(tmp_path / "a.npz"), str(tmp_path / "b"), "--config", str(tmp_path / "c.yaml")]) == 0
    first, second = read_weights(snapshot)[0], read_weights(tmp_path / "b")[0]
    assert all(np.array_equal(first[k], second[k]) for k in second)
    assert convert.main([str(tmp_path / "absent"), str(tmp_path / "d"), "--config", str(tmp_path / "c.yaml")]) == 2
