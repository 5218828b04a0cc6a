"""The network, the loss and the first training steps against the original on PaddlePaddle 1.8.5."""

import json
import re

import numpy as np
import paddle
import pytest

from simplebaseline_paddle.config import Config
from simplebaseline_paddle.engine import BETA2, EPSILON, build_optimizer, learning_rate, training_mode, update
from simplebaseline_paddle.losses import heatmap_loss
from simplebaseline_paddle.weight_files import fluid_names, to_torch
from tests.simplebaseline_paddle import _recipe as recipe
from tests.tolerance import MARGIN, close, rounding

pytestmark = pytest.mark.golden


@pytest.fixture(scope="module")
def folder(golden_dir):
    return golden_dir / "simplebaseline_paddle"


@pytest.fixture(scope="module")
def settings(folder):
    return json.loads((folder / "fixture.json").read_text())


@pytest.mark.exact
def test_names_and_shapes(folder):
    """Every row of every parameter table: names in three dialects, shapes, order."""
    paths = sorted(folder.glob("param_table_r*_k*.json"))
    assert paths
    for path in paths:
        depth, joints = map(int, re.fullmatch(r"param_table_r(\d+)_k(\d+)", path.stem).groups())
        from simplebaseline_paddle.model import PoseResNet

        state, rows = PoseResNet(depth, joints, init="zeros").state_dict(), json.loads(path.read_text())
        table = fluid_names(depth)
        assert [[fluid, to_torch(ours), list(state[ours].shape)] for fluid, ours in table.items()] == rows
        assert set(table.values()) == set(state)


def layers_of(depth):
    """Operations in a row that each round once: a convolution, a batch norm, a sum a layer."""
    return 3 * sum(name.endswith(".weight") for name in fluid_names(depth).values())


def test_forward(folder, settings):
    """Heat-maps of every stored network and size; the fixture is float16, which is off by half its last digit."""
    stored = np.load(folder / "poseresnet_forward_f16.npz")
    assert stored.files
    for key in stored.files:
        depth, joints, height, width = map(int, re.fullmatch(r"heatmap_r(\d+)_k(\d+)_(\d+)x(\d+)", key).groups())
        expected = stored[key].astype(np.float32)
        model, _ = recipe.recipe_network(depth, joints, settings["seed"])
        model.eval()
        image = recipe.recipe_input(
            key.replace("heatmap", "image"), (len(expected), 3, height, width), settings["seed"]
        )
        with paddle.no_grad():
            found = model(paddle.to_tensor(image)).numpy()
        # of the numbers as they are stored, so that what is left are the networks' own differences
        half = np.maximum(2.0**-11 * np.abs(expected), 2.0**-25)
        errors = np.maximum(np.abs(found - expected) - half, 0)
        close(errors, np.zeros_like(errors), rounding(expected.std(), steps=layers_of(depth)), key)


def test_loss_and_gradient(folder):
    stored = np.load(folder / "loss.npz")
    cases = sorted(k.removesuffix("_loss") for k in stored.files if k.endswith("_loss"))
    assert cases
    for case in cases:
        prefix = case.split("_")[0]
        maps = paddle.to_tensor(stored[f"{prefix}_heatmap"], stop_gradient=False)
        loss = heatmap_loss(maps, paddle.to_tensor(stored[f"{prefix}_target"]), paddle.to_tensor(stored[f"{case}_w"]))
        loss.backward()
        # a difference, a square, a weight, two means
        close(loss.item(), stored[f"{case}_loss"], rounding(stored[f"{case}_loss"], steps=5), case)
        gradient = stored[f"{case}_grad"]
        close(maps.grad.numpy(), gradient, rounding(np.abs(gradient), steps=5), case)


def training_run(settings, shaken=False):
    """(losses, gradients and weights after the first step) of the fixture's steps; `shaken`: every pixel by its last
    digit."""
    given, seed = settings["train_steps"], settings["seed"]
    model, _ = recipe.recipe_network(given["layers"], given["num_joints"], seed)
    batch, height, width = given["batch"], given["height"], given["width"]
    rs = np.random.RandomState(given["target_seed_offset"] + seed)
    target = rs.random_sample((batch, given["num_joints"], height // 4, width // 4)).astype(np.float32)
    weight = (rs.random_sample((batch, given["num_joints"], 1)) > given["weight_threshold"]).astype(np.float32)
    image = recipe.recipe_input("train_image", (batch, 3, height, width), seed)
    if shaken:
        image = np.nextafter(image, np.float32(np.inf) * (-1) ** np.arange(width, dtype=np.float32))
    image, target, weight = map(paddle.to_tensor, (image, target, weight))
    first, second = given["lr_boundaries"]
    config = Config(lr_epochs=f"{first},{second}", lr=given["lr_values"][0])
    optimizer, losses, gradients, weights = build_optimizer(model, config), [], {}, {}
    training_mode(model, freeze_bn=False)
    for step in range(second + 1):
        loss = heatmap_loss(model(image), target, weight)
        losses.append(loss.item())
        loss.backward()
        if step == 0:
            gradients = {n: p.grad.numpy() for n, p in model.named_parameters() if p.grad is not None}
        update(optimizer, learning_rate(config, step, 1), step + 1)
        if step == 0:
            weights = {n: value.numpy() for n, value in model.state_dict().items()}
    return np.array(losses), gradients, weights


def test_training_steps(folder, settings):
    """Losses and the parameters after the first step, by our own optimiser and schedule.

    An Adam step is about +-lr whatever the gradient's size. Where rounding can turn a gradient's sign (it opens or
    closes ReLUs), either is right; how far it can is seen from a second run on pixels shaken by their last digit.
    """
    stored, given = np.load(folder / "train_steps.npz"), settings["train_steps"]
    losses, gradients, weights = training_run(settings)
    shaken_losses, shaken, _ = training_run(settings, shaken=True)
    layers, rate = layers_of(given["layers"]), given["lr_values"][0]
    expected = stored["losses"]
    close(losses[0], expected[0], rounding(2 * expected[0], steps=layers), "loss 0")  # a square's slope is 2
    close(losses[1:], expected[1:], MARGIN * np.abs(losses - shaken_losses)[1:].max(), "later losses")
    fluid = {ours: name for name, ours in fluid_names(given["layers"]).items()}
    compared = 0
    for name, value in weights.items():
        key = f"step1_{fluid[name]}"
        if key not in stored:
            continue
        if name not in gradients:  # running statistics
            close(value, stored[key], rounding(np.abs(value).max(), steps=layers), name)
            continue
        size, off = np.abs(gradients[name]), 4 * np.abs(gradients[name] - shaken[name]).max()
        decided, small = size > off, EPSILON / np.sqrt(1 - BETA2)
        compared += decided.sum()
        low, high = (np.maximum(size + side * off, 0) for side in (-1, 1))
        moved = rate * (high / (high + small) - low / (low + small))
        tolerance = moved + rounding(np.abs(value) + rate, steps=2)
        close(value[decided], stored[key][decided], tolerance[decided], name)
        assert (
            np.abs(value - stored[key])[~decided] <= 2 * rate + rounding(np.abs(value[~decided]) + rate, steps=2)
        ).all()
    assert compared > 0.9 * sum(gradients[n].size for n in gradients if f"step1_{fluid[n]}" in stored)


def test_our_schedule_is_the_originals(folder, settings):
    """Steps per epoch chosen so that the falls come where the fixture has them."""
    given, stored = settings["train_steps"], np.load(folder / "train_steps.npz")["lrs"]
    first, second = given["lr_boundaries"]
    config = Config(lr_epochs=f"{first},{second}", lr=given["lr_values"][0])
    rates = [learning_rate(config, step, 1) for step in range(len(stored))]
    close(rates, stored, rounding(stored, steps=2))
