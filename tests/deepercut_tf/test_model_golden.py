"""Networks, losses and training steps against numbers that the original programs gave."""

import json
import re
import zlib

import numpy as np
import pytest

pytest.importorskip("tensorflow")
import keras

from tests.tolerance import close, rounding

pytestmark = pytest.mark.golden

from deepercut_tf.config import make_config  # noqa: E402
from deepercut_tf.engine import Update  # noqa: E402
from deepercut_tf.model import UNITS, Predictor, build_model, load_variables, named_variables  # noqa: E402


def depth(config) -> int:
    """Convolutions one after another, the head's included."""
    return 2 + 3 * sum(UNITS[config.net_type])


def allowed(expected, config):
    """A convolution's sum is about as large as the root of its terms' squares, so that each rounds the largest value once.
    And a unit in the last place of a float16 fixture, 2**-24 at least, of which rounding takes up to a half.
    """
    size = np.abs(expected.astype(np.float64))
    own = rounding(size.max(), steps=depth(config))
    return own + np.maximum(size * 2**-10, 2**-24) if expected.dtype == np.float16 else own


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


NETWORKS = ["net_resnet50_mpii", "net_resnet50_coco", "net_resnet101_mpii"]


@pytest.fixture(scope="module", params=NETWORKS)
def network(request, fixture):
    """A network of the fixtures: its name, settings, model and weights."""
    keys = {"location_refinement": True, "intermediate_supervision": True, "bn_mode": "frozen"}
    config = make_config({**fixture[request.param], **keys})
    return request.param, config, *filled(config, fixture["recipe_base"])


def undrawn(config):
    """The network with zeros: its variables are set here, and drawing a hundred million numbers takes long."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(keras.initializers, "TruncatedNormal", lambda **options: "zeros")
        return build_model(config, intermediate=True)


def filled(config, base):
    model = undrawn(config)
    values = {name: recipe(name, tuple(v.shape), base) for name, v in named_variables(model).items()}
    load_variables(model, values, "the recipe")
    return model, values


def test_forward(folder, network):
    """Logits, offsets, the intermediate map and features; names and shapes of all variables; the compiled network gives
    the same.
    """
    name, config, model, values = network
    block4 = keras.Model(model.input, model.get_layer(f"block4_unit_{UNITS[config.net_type][3]}_out").output)
    listed = folder / name.replace("net_", "vars_")
    if listed.with_suffix(".json").exists():
        assert json.loads(listed.with_suffix(".json").read_text()) == {n: list(v.shape) for n, v in values.items()}
    stored, predictor, images = np.load(folder / f"{name}.npz"), Predictor(model), 0
    while f"img{images}" in stored.files:
        image = stored[f"img{images}"]
        found = {key: np.asarray(value) for key, value in model(image, training=False).items()}
        compared = [
            key
            for key in ("part_pred", "locref", "pairwise_pred", "part_pred_interm")
            if f"out{images}_{key}" in stored.files
        ]
        assert {"part_pred", "locref", "part_pred_interm"} <= set(compared)
        for key in compared:
            expected = stored[f"out{images}_{key}"]
            close(found[key], expected, allowed(expected, config), key)
        features = stored[f"feat{images}"]
        close(np.asarray(block4(image))[..., : features.shape[-1]], features, allowed(features, config), "features")
        compiled, limit = predictor(image), allowed(found["part_pred"], config)
        close(compiled["part_pred"], found["part_pred"], limit, "compiled")
        # the sigmoid is a quarter at its steepest
        close(compiled["part_prob"], stored[f"out{images}_part_prob"], limit / 4 + rounding(1), "probabilities")
        images += 1
    assert images


def test_end_points(folder, network):
    """Mean, largest absolute value and shape after every unit and block."""
    name, config, model, _ = network
    scope = config.net_type.replace("resnet_", "resnet_v1_")
    places = {}
    for block, units in enumerate(UNITS[config.net_type], start=1):
        for unit in range(1, units + 1):
            places[f"{scope}/block{block}/unit_{unit}/bottleneck_v1"] = f"block{block}_unit_{unit}_out"
        places[f"{scope}/block{block}"] = f"block{block}_unit_{units}_out"
    places[f"{scope}/conv1"] = "conv1"
    stored, images = np.load(folder / f"{name}.npz"), 0
    probe = keras.Model(model.input, {layer: model.get_layer(layer).output for layer in set(places.values())})
    while f"img{images}" in stored.files:
        found, seen = probe(stored[f"img{images}"], training=False), 0
        for end_point, (mean, largest, shape) in json.loads(str(stored[f"epmean{images}"])).items():
            if end_point not in places:
                continue
            value = np.asarray(found[places[end_point]], np.float64)
            assert list(value.shape) == shape
            limit = rounding(largest, steps=depth(config))
            close([value.mean(), np.abs(value).max()], [mean, largest], limit, end_point)
            seen += 1
        assert seen == len(places)
        images += 1
    assert images


def of_other_units(listed, net_type):
    """A fixture's names and shapes for another number of units: unit 1 of a block stands for itself, unit 2 for all
    that follow it.
    """
    found, scope = {}, net_type.replace("resnet", "resnet_v1")
    for name, shape in listed.items():
        name = re.sub(r"^resnet_v1_\d+", scope, name)
        place = re.search(r"/block(\d)/unit_(\d+)/", name)
        if place is None:
            found[name] = shape
            continue
        block, unit = int(place[1]), int(place[2])
        units = {1: [1], 2: range(2, UNITS[net_type][block - 1] + 1)}.get(unit, ())
        found |= {name.replace(place[0], f"/block{block}/unit_{u}/"): shape for u in units}
    return found


@pytest.mark.exact
def test_names_of_resnet_152(folder):
    """No fixture lists ResNet-152: its names and shapes are those of ResNet-101's list with 3, 8, 36, 3 units. The same
    rule turns the list of ResNet-101 into that of ResNet-50. A slim ImageNet file of these names, with its classifier,
    gives the whole backbone.
    """
    lists = {n: json.loads((folder / f"vars_resnet{n}_mpii.json").read_text()) for n in (50, 101)}
    assert (
        of_other_units(lists[101], "resnet_50") == lists[50] and of_other_units(lists[50], "resnet_101") == lists[101]
    )
    assert UNITS["resnet_152"] == (3, 8, 36, 3)
    expected = of_other_units(lists[101], "resnet_152")
    keys = {
        "net_type": "resnet_152",
        "num_joints": 14,
        "location_refinement": True,
        "intermediate_supervision": True,
        "bn_mode": "frozen",
    }
    model = undrawn(make_config(keys))
    assert {name: list(v.shape) for name, v in named_variables(model).items()} == expected
    backbone = {name: np.zeros(shape, np.float32) for name, shape in expected.items() if not name.startswith("pose/")}
    slim = backbone | {
        "resnet_v1_152/logits/weights": np.zeros((1, 1, 2048, 1000), np.float32),
        "resnet_v1_152/mean_rgb": np.zeros(3, np.float32),
    }
    assert sorted(load_variables(model, slim, "slim's file", optional=("pose/",))) == sorted(backbone)
    assert len(backbone) == 5 * (1 + 4 + 3 * sum(UNITS["resnet_152"]))


def undecided_relu(config, opened: bool):
    """ReLU whose slope near 0, where rounding decides, is 1 if `opened`, else 0."""
    import tensorflow as tf

    @tf.custom_gradient
    def relu(x):
        edge = rounding(1, steps=depth(config)) * tf.reduce_max(tf.abs(x))
        return tf.nn.relu(x), lambda upper: upper * tf.cast(x > (-edge if opened else edge), upper.dtype)

    return relu


def test_training_steps(folder, fixture, monkeypatch):
    """Losses before each step, gradient norms, norms of the change: all four losses, frozen statistics, momentum, no
    weight decay. What ReLUs that rounding leaves open may change in a gradient is found by opening and closing them.
    """
    import tensorflow as tf

    case, stored = fixture["trainstep"], np.load(folder / "trainstep.npz")
    info = json.loads(str(stored["info_json"]))
    config = make_config(
        {k: v for k, v in case.items() if k not in ("lr", "momentum", "steps")}
        | {"bn_mode": "frozen", "optimizer": "sgd"}
    )
    model, values = filled(config, fixture["recipe_base"])
    update = Update(model, config)
    assert len(update.trained) == info["trainable"] == len(update.slots)
    names = {
        "scmap": "part_score_targets",
        "weights": "part_score_weights",
        "locref_t": "locref_targets",
        "locref_m": "locref_mask",
    }
    names |= {"img": "inputs", "pair_t": "pairwise_targets", "pair_m": "pairwise_mask"}
    batch = {ours: stored[theirs] for theirs, ours in names.items()}

    def norms():
        _, gradients = update.gradients({k: tf.convert_to_tensor(v) for k, v in batch.items()})
        return {name: float(tf.norm(g)) for name, g in zip(update.trained, gradients)}

    found, activations = norms(), [layer for layer in model.layers if isinstance(layer, keras.layers.Activation)]
    with monkeypatch.context() as patched:
        ends = []
        for opened in (False, True):
            patched.setattr(keras.ops, "relu", undecided_relu(config, opened))
            for layer in activations:
                patched.setattr(layer, "activation", undecided_relu(config, opened))
            ends.append(norms())
    # a gradient passes every layer twice
    own = rounding(1, steps=2 * depth(config))
    unsure = {name: own + abs(ends[1][name] - ends[0][name]) / norm for name, norm in found.items()}
    for name, expected in info["grad_norm"].items():
        close(found[name], expected, expected * unsure[name], name)
    for number, expected in enumerate(info["steps"]):
        losses = update(batch, case["lr"], number + 1)
        assert set(expected) == set(losses)
        for name, value in expected.items():
            moved = abs(value - info["steps"][0][name])
            limit = rounding(value, steps=depth(config)) + moved * max(unsure.values())
            close(float(losses[name]), value, limit, f"{number} {name}")
    for name, expected in info["delta_norm"].items():
        change = np.linalg.norm(np.asarray(named_variables(model)[name]) - values[name])
        # weights are rounded at every step; what counts is the part along the change
        kept = rounding(np.sqrt(np.mean(values[name] ** 2)), steps=len(info["steps"]))
        close(change, expected, expected * unsure.get(name, 0) + kept, name)
