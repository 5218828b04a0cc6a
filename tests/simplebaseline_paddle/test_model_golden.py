"""The network, the loss and the first training steps against the original on PaddlePaddle 1.8.5."""

import importlib.util
import json
import re
from pathlib import Path

import numpy as np
import paddle
import pytest

from simplebaseline_paddle.config import Config
from simplebaseline_paddle.engine import training_mode
from simplebaseline_paddle.losses import heatmap_loss
from simplebaseline_paddle.weight_files import fluid_names, to_torch

_spec = importlib.util.spec_from_file_location("recipe", Path(__file__).with_name("_recipe.py"))
recipe = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(recipe)

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


def test_forward(folder, settings):
    """Heat-maps of every stored network and size; the fixture is float16, so its rounding is part of the tolerance."""
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
        limit = 2e-3 * expected.std() + 2**-11 * np.abs(expected)
        assert (np.abs(found - expected) <= limit).all(), (
            f"{key}: off by {np.abs(found - expected).max() / expected.std():.2g} standard deviations"
        )


def test_loss_and_gradient(folder):
    stored = np.load(folder / "loss.npz")
    cases = sorted(k.removesuffix("_loss") for k in stored.files if k.endswith("_loss"))
    assert cases
    for case in cases:
        prefix = case.split("_")[0]
        maps = paddle.to_tensor(stored[f"{prefix}_heatmap"], stop_gradient=False)
        loss = heatmap_loss(maps, paddle.to_tensor(stored[f"{prefix}_target"]), paddle.to_tensor(stored[f"{case}_w"]))
        loss.backward()
        # float32 sums in another order
        np.testing.assert_allclose(float(loss), stored[f"{case}_loss"], rtol=1e-6)
        np.testing.assert_allclose(
            maps.grad.numpy(), stored[f"{case}_grad"], atol=1e-6 * np.abs(stored[f"{case}_grad"]).max(), rtol=1e-5
        )


def test_training_steps(folder, settings):
    """Adam steps from the recipe weights: losses, rates, and the parameters after the first."""
    stored, given = np.load(folder / "train_steps.npz"), settings["train_steps"]
    seed = settings["seed"]
    model, _ = recipe.recipe_network(given["layers"], given["num_joints"], seed)
    batch, height, width = given["batch"], given["height"], given["width"]
    rs = np.random.RandomState(given["target_seed_offset"] + seed)
    target = rs.random_sample((batch, given["num_joints"], height // 4, width // 4)).astype(np.float32)
    weight = (rs.random_sample((batch, given["num_joints"], 1)) > given["weight_threshold"]).astype(np.float32)
    image = paddle.to_tensor(recipe.recipe_input("train_image", (batch, 3, height, width), seed))
    schedule = paddle.optimizer.lr.PiecewiseDecay(given["lr_boundaries"], given["lr_values"])
    optimizer = paddle.optimizer.Adam(schedule, parameters=model.parameters())
    training_mode(model, freeze_bn=False)
    fluid = {ours: name for name, ours in fluid_names(given["layers"]).items()}
    for step, (expected, rate) in enumerate(zip(stored["losses"], stored["lrs"])):
        assert optimizer.get_lr() == pytest.approx(rate, rel=1e-6)
        loss = heatmap_loss(model(image), paddle.to_tensor(target), paddle.to_tensor(weight))
        # an Adam step is about +-lr whatever the gradient's size, which amplifies rounding from step to step
        assert float(loss) == pytest.approx(expected, rel=(1e-5, 1e-2)[step] if step < 2 else 3e-2), f"step {step}"
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()
        schedule.step()
        if step == 0:
            for name, value in model.state_dict().items():
                key = f"step1_{fluid[name]}"
                if key in stored:
                    tolerance = 1e-5 if name.endswith(("_mean", "_variance")) else 2.1e-3
                    np.testing.assert_allclose(value.numpy(), stored[key], atol=tolerance, err_msg=name)


def test_our_schedule_is_the_originals(settings):
    """Steps per epoch chosen so that the falls come where the fixture has them."""
    from simplebaseline_paddle.engine import learning_rate

    given = settings["train_steps"]
    first, second = given["lr_boundaries"]
    config = Config(lr_epochs=f"{first},{second}", lr=given["lr_values"][0])
    rates = [learning_rate(config, step, 1) for step in range(second + 1)]
    expected = [given["lr_values"][0]] * first + [given["lr_values"][1]] * (second - first) + [given["lr_values"][2]]
    np.testing.assert_allclose(rates, expected, rtol=1e-9)
