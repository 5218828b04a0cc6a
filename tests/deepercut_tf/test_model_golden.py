"""Networks, losses and training steps against numbers that the original programs gave."""

import json
import zlib

import numpy as np
import pytest

pytest.importorskip("tensorflow")
pytestmark = pytest.mark.golden

from deepercut_tf.config import make_config  # noqa: E402
from deepercut_tf.engine import Predictor, Trainer  # noqa: E402
from deepercut_tf.model import build_model, load_variables, named_variables  # noqa: E402

# measured in deepercut_tf.md's own comparison: another library's convolutions over a hundred layers, logits up to 65
FORWARD = {"rtol": 1e-4, "atol": 1e-3}


@pytest.fixture(scope="module")
def folder(golden_dir):
    return golden_dir / "deepercut_tf"


@pytest.fixture(scope="module")
def fixture(folder):
    return json.loads((folder / "fixture.json").read_text())


def recipe(name, shape, base):
    """The fixtures' random weights."""
    x = np.random.RandomState((zlib.crc32(name.encode()) + base) % 2**32).standard_normal(shape)
    end = name.rsplit("/", 1)[1]
    if end == "gamma":
        x = 0.75 + 0.1 * x
    elif end in ("beta", "moving_mean", "biases"):
        x = 0.1 * x
    elif end == "moving_variance":
        x = 0.8 + 0.4 * np.abs(x)
    elif name.startswith("pose/"):
        x = 0.001 * x / np.sqrt(shape[3] / 1024)
    else:
        x = x * np.sqrt(2 / np.prod(shape[:3]))
    return x.astype(np.float32)


def filled(config, base, **options):
    model = build_model(config, intermediate=True, **options)
    values = {name: recipe(name, tuple(v.shape), base) for name, v in named_variables(model).items()}
    load_variables(model, values, "the recipe")
    return model, values


@pytest.mark.parametrize("name", ["net_resnet50_mpii", "net_resnet50_coco", "net_resnet101_mpii"])
def test_forward(folder, fixture, name):
    """Logits, offsets, the intermediate map and features; names and shapes of all variables; the folded network gives the same."""
    config = make_config({**fixture[name], "location_refinement": True, "intermediate_supervision": True, "bn_mode": "frozen"})
    model, values = filled(config, fixture["recipe_base"], features=True)
    listed = folder / name.replace("net_", "vars_")
    if listed.with_suffix(".json").exists():
        assert json.loads(listed.with_suffix(".json").read_text()) == {n: list(v.shape) for n, v in values.items()}
    stored, predictor, images = np.load(folder / f"{name}.npz"), Predictor(model, config), 0
    while f"img{images}" in stored.files:
        image = stored[f"img{images}"]
        found = {key: np.asarray(value) for key, value in model(image, training=False).items()}
        compared = [key for key in ("part_pred", "locref", "pairwise_pred", "part_pred_interm") if f"out{images}_{key}" in stored.files]
        assert {"part_pred", "locref", "part_pred_interm"} <= set(compared)
        for key in compared:
            # pairwise is stored as float16
            tolerance = {"rtol": 5e-3, "atol": 5e-3} if key == "pairwise_pred" else FORWARD
            np.testing.assert_allclose(found[key], stored[f"out{images}_{key}"].astype(np.float32), **tolerance, err_msg=key)
        features = stored[f"feat{images}"]
        np.testing.assert_allclose(found["features"][..., : features.shape[-1]], features, rtol=1e-4, atol=5e-3)
        folded = predictor.outputs(image)
        np.testing.assert_allclose(folded["part_pred"], found["part_pred"], **FORWARD)
        np.testing.assert_allclose(folded["part_prob"], stored[f"out{images}_part_prob"], rtol=0, atol=1e-3)
        images += 1
    assert images


def test_training_steps(folder, fixture):
    """Losses before each step, gradient norms, norms of the change: all four losses, frozen statistics, momentum, no weight decay."""
    import tensorflow as tf

    case, stored = fixture["trainstep"], np.load(folder / "trainstep.npz")
    info = json.loads(str(stored["info_json"]))
    config = make_config({k: v for k, v in case.items() if k not in ("lr", "momentum", "steps")} | {"bn_mode": "frozen", "optimizer": "sgd"})
    model, values = filled(config, fixture["recipe_base"])
    trainer = Trainer(model, config)
    assert len(trainer.trained) == info["trainable"] == len(trainer.slots)
    names = {"scmap": "part_score_targets", "weights": "part_score_weights", "locref_t": "locref_targets", "locref_m": "locref_mask"}
    names |= {"img": "inputs", "pair_t": "pairwise_targets", "pair_m": "pairwise_mask"}
    batch = {ours: stored[theirs] for theirs, ours in names.items()}
    _, gradients = trainer._gradients({k: tf.convert_to_tensor(v) for k, v in batch.items()})
    norms = {name: float(tf.norm(g)) for name, g in zip(trainer.trained, gradients)}
    for name, expected in info["grad_norm"].items():
        assert norms[name] == pytest.approx(expected, rel=2e-3), name
    for number, expected in enumerate(info["steps"]):
        losses = trainer.step(batch, case["lr"], number + 1)
        assert set(expected) == set(losses)
        for name, value in expected.items():
            assert float(losses[name]) == pytest.approx(value, rel=1e-4 if number == 0 else 1e-3), (number, name)
    for name, expected in info["delta_norm"].items():
        change = np.linalg.norm(np.asarray(trainer.variables[name]) - values[name])
        assert change == pytest.approx(expected, rel=2e-3), name
