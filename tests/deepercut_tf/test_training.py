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
from common.runs.process import Stopped
from deepercut_tf import model as networks
from deepercut_tf.config import make_config
from deepercut_tf.data import Draw, collate, make_sample
from deepercut_tf.detections import argmax_pose, unpack_maps
from deepercut_tf.engine import Machine, Trainer, Update, learning_rate
from deepercut_tf.estimator import Estimator
from deepercut_tf.items import load_items
from deepercut_tf.losses import pose_losses
from deepercut_tf.model import build_model
from deepercut_tf.train import train
from deepercut_tf.weight_files import open_store, read_weights, write_weights
from tests.tolerance import close, rounding

JOINTS = 4
BASE = {
    "dataset_type": "default",
    "num_joints": JOINTS,
    "all_joints": [[0, 1], [2, 3]],
    "all_joints_names": ["knee", "ankle"],
    "net_type": "resnet_50",
    "channels": 0.125,
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
    """One or two units a block instead of 16 in all: tracing the step is most of the time here. The golden tests have
    the full depth.
    """
    monkeypatch.setitem(networks.UNITS, "resnet_50", (1, 2, 1, 2))


def settings(dataset, tmp_path, **more):
    return make_config({**BASE, "dataset": str(dataset), "out": str(tmp_path / "run"), **more})


def run_of(dataset, tmp_path, **more):
    """(settings, images) of a run in the folder `run`."""
    item_set, config = load_items(settings(dataset, tmp_path, **more))
    return config, item_set


def test_one_image_is_learnt(dataset, tmp_path):
    """From random weights with batch statistics: the joints of a picture within 90 steps.

    The last steps are small, so that the moving statistics fit the weights: without that the error at the end was 0.01
    to 3 pixels, by chance; with it 0.01 to 0.2. Half a cell of the score map, 4 pixels, still tells the right cell and
    a learnt offset from a wrong one.
    """
    keras.utils.set_random_seed(0)
    item_set, config = load_items(settings(dataset, tmp_path, optimizer="adam", adam_lr=0.003))
    sample = make_sample(item_set, Draw(0, 1.0, False), config)
    batch = collate([sample], config)
    model = build_model(config)
    update = Update(model, config)
    first = float(update(batch, 0.003, 1)["total_loss"])
    for number in range(2, 91):
        loss = float(update(batch, 0.003 if number <= 50 else 0.0003, number)["total_loss"])
    assert loss < first / 10
    pose = argmax_pose(unpack_maps(networks.Predictor(model)(sample.image[None]), config))
    assert np.abs(pose[:, :2] - item_set.items[0].persons[0][:, 1:]).max() < 4


def plain_norm(x, gamma, beta, moving):
    mean, variance = moving or keras.ops.moments(x, axes=(0, 1, 2))
    return (x - mean) / keras.ops.sqrt(variance + networks.EPSILON) * gamma + beta, mean, variance


@pytest.mark.parametrize("frozen", [False, True])
def test_fused_normalisation_is_the_plain_one(frozen):
    """Values and gradients of TensorFlow's one operation against the formula, to float32's rounding over 300 numbers a
    channel.
    """
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
    for norm in (plain_norm, networks.normalise):
        with tf.GradientTape() as tape:
            tape.watch([x, gamma, beta])
            out, mean, variance = norm(x, gamma, beta, moving)
            loss = tf.reduce_sum(out * upstream)
        found.append([out, *([] if frozen else [mean, variance]), *tape.gradient(loss, [x, gamma, beta])])
    for plain, fused in zip(*found):
        close(fused, plain, rounding(np.abs(plain).max(), terms=300))


# TensorFlow asks the processor whether it has bfloat16, oneDNN this variable: the two contradict each other
@pytest.mark.skipif(os.environ.get("ONEDNN_MAX_CPU_ISA") in ("SSE41", "AVX2"), reason="oneDNN is told to have no bf16")
def test_mixed_precision_learns_and_keeps_its_variables(dataset, tmp_path):
    """bfloat16: the loss falls as in float32, to a tenth; variables, moving statistics and outputs stay float32, and
    move.
    """
    item_set, config = load_items(settings(dataset, tmp_path, optimizer="adam", adam_lr=0.003, amp="bf16"))
    batch = collate([make_sample(item_set, Draw(0, 1.0, False), config)], config)
    losses = {}
    for amp in ("off", "bf16"):
        keras.utils.set_random_seed(0)
        model = build_model(config, amp=amp)
        update = Update(model, config)
        losses[amp] = [float(update(batch, 0.001, number)["total_loss"]) for number in range(1, 16)]
    assert all(v.dtype == "float32" for v in networks.named_variables(model).values())
    assert {keras.backend.standardize_dtype(v.dtype) for v in model(batch["inputs"]).values()} == {"float32"}
    means = [v.numpy() for name, v in networks.named_variables(model).items() if name.endswith("moving_mean")]
    assert all(np.abs(mean).max() > 0 for mean in means)
    assert losses["bf16"][-1] < 0.5 * losses["bf16"][0]
    close(losses["bf16"], losses["off"], rounding(np.array(losses["off"]), dtype="bfloat16"))


def state_of(folder):
    return open_store(folder).load(folder / "last.npz")


def test_resumed_run_equals_an_uninterrupted_one(dataset, tmp_path):
    """Weights, momentum, data order, jitter, loss log: bit for bit, though the run ends in the middle of an epoch."""
    import tensorflow as tf

    tf.config.experimental.enable_op_determinism()
    config, item_set = run_of(dataset, tmp_path, scale_jitter_lo=0.9, scale_jitter_up=1.2, mirror=True)
    train(config, item_set, Machine())
    half = replace(config, out=str(tmp_path / "half"))
    train(replace(half, max_steps=4), item_set, Machine())
    stopped = state_of(tmp_path / "half")
    assert stopped["step"] == 4 and stopped["draw"] == 4
    train(replace(half, resume="auto"), item_set, Machine())
    whole, resumed = state_of(tmp_path / "run"), state_of(tmp_path / "half")
    assert whole["step"] == resumed["step"] == 6 and whole["draw"] == resumed["draw"]
    for part in ("model", "optimizer"):
        for key, value in whole[part].items():
            np.testing.assert_array_equal(resumed[part][key], value, err_msg=key)
    assert all(np.any(slot) for slot in whole["optimizer"].values())
    assert any(np.any(stopped["model"][key] != value) for key, value in whole["model"].items())
    assert whole["about"]["skeleton"]["joints"] == ["right_knee", "left_knee", "right_ankle", "left_ankle"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_is_saved_where_it_stopped(dataset, tmp_path, number, monkeypatch):
    """A signal in the middle of a step lets it end; its state is that of the step, far from any snapshot."""
    config, item_set = run_of(dataset, tmp_path)
    found, before, step = [], signal.getsignal(number), Trainer.step

    def asking(self, batch):
        if self.position.step == 2:
            os.kill(os.getpid(), number)
        values = step(self, batch)
        found.append(self.weights())
        return values

    monkeypatch.setattr(Trainer, "step", asking)
    with pytest.raises(Stopped, match="step 3 of 6"):
        train(config, item_set, Machine())
    assert signal.getsignal(number) is before and len(found) == 3
    for key, value in state_of(tmp_path / "run")["model"].items():
        np.testing.assert_array_equal(found[-1][key], value)


def test_snapshots_start_other_runs(dataset, tmp_path):
    """A snapshot is a TF1 checkpoint; first weights give the backbone, ours the heads that fit too; another
    network's are refused.
    """
    config, item_set = run_of(dataset, tmp_path, max_steps=2, valid_split="none")
    train(config, item_set, Machine())
    values, stored = read_weights(tmp_path / "run" / "snapshot-1")
    assert stored["config"]["num_joints"] == JOINTS
    state = state_of(tmp_path / "run")["model"]
    assert all(np.array_equal(values[k], v) for k, v in state.items())

    def begun(**more):
        trainer = Trainer(settings(dataset, tmp_path, num_joints=JOINTS, **more), item_set, Machine())
        before = trainer.weights()
        trainer.start()
        return before, trainer.weights()

    write_weights(tmp_path / "bare.npz", values, {})  # as the originals': no joint names
    _, new = begun(init_weights=str(tmp_path / "bare.npz"))
    assert np.array_equal(new["resnet_v1_50/conv1/weights"], values["resnet_v1_50/conv1/weights"])
    assert not np.array_equal(new["pose/part_pred/block4/weights"], values["pose/part_pred/block4/weights"])
    heads = {"intermediate_supervision": True, "intermediate_supervision_layer": 1}
    before, tuned = begun(init_weights=str(tmp_path / "run" / "snapshot-1"), **heads)
    for name, value in tuned.items():
        assert np.array_equal(value, values[name] if name in values else before[name]), name
    assert any("intermediate" in name for name in before) and not any("intermediate" in name for name in values)
    with pytest.raises(DataError, match="num_joints"):
        Estimator(tmp_path / "run" / "snapshot-1", num_joints=3)
    with pytest.raises(DataError, match="channels"):
        train(replace(config, channels=0.25, resume="auto"), item_set, Machine())


def test_heads_are_taken_by_joint_name():
    """Other order: each joint's channels move along; a joint that the file lacks: heads start fresh; backbones are
    untouched.
    """
    from deepercut_tf.engine import of_joints

    values = {"pose/part_pred/block4/biases": np.arange(2.0), "pose/locref_pred/block4/biases": np.arange(4.0)}
    values |= {"pose/part_pred/block4/weights": np.arange(18.0).reshape(3, 3, 2, 1), "conv": np.zeros(1)}
    swapped = of_joints(values, ["left_hip", "right_hip"], ("right_hip", "left_hip"))
    assert swapped["pose/part_pred/block4/biases"].tolist() == [1, 0]
    assert swapped["pose/locref_pred/block4/biases"].tolist() == [2, 3, 0, 1]
    np.testing.assert_array_equal(
        swapped["pose/part_pred/block4/weights"], values["pose/part_pred/block4/weights"][:, :, ::-1]
    )
    assert list(of_joints(values, ["left_hip", "right_hip"], ("nose",))) == ["conv"]


def test_schedule():
    config = make_config({"multi_step": [[0.005, 10], [0.02, 20]], "warmup": 4})
    # the boundary iteration still has the old rate
    assert [learning_rate(config, i) for i in (10, 11, 20)] == [0.005, 0.02, 0.02]
    assert learning_rate(config, 0) == 0.005 / 4
    assert learning_rate(replace(config, optimizer="adam"), 20) == 0.02
    assert learning_rate(replace(config, optimizer="adam", lr=0.1), 20) == 0.1


def test_padding_leaves_no_trace_in_the_loss(dataset, tmp_path):
    """A batch of a small and a large picture: weights and masks are 0 on the padding, the loss is that of the labelled
    cells.
    """
    item_set, config = load_items(settings(dataset, tmp_path))
    samples = [make_sample(item_set, Draw(0, 1.0, False), config), make_sample(item_set, Draw(1, 0.8, False), config)]
    batch = collate(samples, config, bucket=64)
    assert batch["inputs"].shape[1] % 64 == 0
    for picture, sample in zip(batch["inputs"], samples):
        height, width = sample.image.shape[:2]
        np.testing.assert_array_equal(picture[:height, :width], sample.image)
        rest = np.concatenate([picture[height:].reshape(-1, 3), picture[:, width:].reshape(-1, 3)])
        assert (rest == [round(v) for v in config.mean_pixel]).all() and len(rest)
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
    expected = (entropy[0] + 2 * entropy[2]) / 2
    close(float(score_loss(logits, targets, f32(1, 0, 2))), expected, rounding(expected, terms=3))
    assert float(offset_loss(f32(0.5, 3.0), f32(0, 0), f32(1, 1), True)) == (0.125 + 2.5) / 2
    assert float(offset_loss(f32(0.5, 3.0), f32(0, 0), f32(1, 1), False)) == (0.25 + 9) / 2
    assert float(offset_loss(f32(0.5), f32(0), f32(0), True)) == 0


def test_diverging_run_stops(dataset, tmp_path):
    config, item_set = run_of(dataset, tmp_path, bn_mode="frozen", multi_step=[[1000000.0, 5]])
    with pytest.raises(FloatingPointError, match="diverged"):
        train(config, item_set, Machine())
    assert not (tmp_path / "run" / "last.npz").exists()


def test_evaluation_chain(dataset, tmp_path):
    """test.py writes predictions.mat by image, eval_pck.py scores it; a small picture keeps its place."""
    import shutil

    import cv2
    import yaml

    from deepercut_tf import eval_pck, test

    config, item_set = run_of(dataset, tmp_path, max_steps=1)
    train(config, item_set, Machine())
    shutil.copytree(dataset.parent, tmp_path / "set")
    cv2.imwrite(str(tmp_path / "set" / "1.png"), np.full((40, 48, 3), 100, np.uint8))
    own = {**BASE, "dataset": str(tmp_path / "set" / "dataset.mat"), "scoremap_dir": str(tmp_path / "maps")}
    (tmp_path / "pose_cfg.yaml").write_text(yaml.safe_dump(own))
    arguments = ["--config", str(tmp_path / "pose_cfg.yaml")]
    testing = ["--weights", str(tmp_path / "run"), "--out", str(tmp_path / "p.mat"), "--cache"]
    assert test.main([*arguments, *testing, "--vis", str(tmp_path / "vis")]) == 0
    assert len(list((tmp_path / "maps").glob("*_locreg.mat"))) == len(list((tmp_path / "vis").glob("*.png"))) == 3
    found = eval_pck.read_predictions(tmp_path / "p.mat", 3, JOINTS)
    assert np.abs(found[1][:, 0] - 24).max() < 200
    assert eval_pck.main([*arguments, "--predictions", str(tmp_path / "p.mat")]) == 0
    assert eval_pck.main([*arguments, "--predictions", str(tmp_path / "absent.mat")]) == 2


def test_card_and_conversion(dataset, tmp_path):
    """convert.py: TF1 checkpoint -> .npz -> TF1 checkpoint, the same arrays; settings and joint names travel without
    --config.
    """
    from deepercut_tf import convert

    config, item_set = run_of(dataset, tmp_path, max_steps=1)
    train(config, item_set, Machine())
    snapshot = tmp_path / "run" / "snapshot-0"
    assert convert.main([str(snapshot), str(tmp_path / "a.npz")]) == 0
    card = json.loads((tmp_path / "a.npz.card.json").read_text())
    assert card["check"]["variables of the written file"] == {"largest difference": 0, "tolerance": 0}
    (tmp_path / "a.npz.card.json").unlink()
    assert convert.main([str(tmp_path / "a.npz"), str(tmp_path / "b")]) == 0
    (first, _), (second, stored) = read_weights(snapshot), read_weights(tmp_path / "b")
    assert (
        all(np.array_equal(first[k], second[k]) for k in second)
        and stored["about"]["skeleton"]["joints"][1] == "left_knee"
    )
    assert convert.main([str(tmp_path / "absent"), str(tmp_path / "d")]) == 2
