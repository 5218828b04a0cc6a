"""AlexNet, loss and updates against the original's answers ($GOLDEN_DIR/deeppose_tf/alexnet_forward.npz). Tolerances
come from the number of roundings in a row (`tiny.roundings`), and, where crops are contrast-normalised, from the
original's means, which add a crop's 51,529 pixels one after another in float32 (to partial sums that are, in the mean
of their squares, a third of the whole)."""

import pathlib
import zlib
from collections.abc import Iterator

import numpy as np
import pytest

from tests.deeppose_tf.tiny import roundings
from tests.tolerance import close, rounding

pytestmark = pytest.mark.golden
CONTRAST = rounding(1.0, terms=227 * 227 / 3)  # relative


@pytest.fixture(scope="module")
def fixture(golden_dir):
    path = golden_dir / "deeppose_tf/alexnet_forward.npz"
    if not path.exists():
        pytest.skip("this set of fixtures has no alexnet_forward.npz")
    with np.load(path, allow_pickle=False) as arrays:
        return {key: arrays[key] for key in arrays.files}


def golden_weights(fixture) -> dict[str, np.ndarray]:
    """The fixture's weights from their recipe, checked by its sums."""
    from deeppose_tf.model import CONVOLUTIONS, HEAD

    joints = int(fixture["n_joints"])
    shapes = {
        f"{n}/weight": (k, k, i, f) for (n, (k, _, f, _, _, _)), i in zip(CONVOLUTIONS.items(), (3, 48, 256, 192, 192))
    }
    shapes |= {"fc6/weight": (9216, 4096), "fc7/weight": (4096, 4096), f"{HEAD}/weight": (4096, 2 * joints)}
    shapes |= {name.replace("weight", "bias"): shape[-1:] for name, shape in shapes.items()}
    weights = {}
    for name, shape in shapes.items():
        draw = np.random.RandomState(zlib.crc32((str(fixture["salt"]) + name).encode()) & 0xFFFFFFFF).standard_normal(
            shape
        )
        scale = (
            0.05
            if name.endswith("bias")
            else 0.2 / np.sqrt(4096)
            if name.startswith(HEAD)
            else np.sqrt(2 / np.prod(shape[:-1]))
        )
        weights[name] = (draw * scale).astype(np.float32)
        wide = weights[name].astype(np.float64)
        found = [wide.sum(), np.linalg.norm(wide), wide.ravel()[0], wide.ravel()[-1]]
        sizes = np.array([np.abs(wide).max(), found[1], 0, 0])  # the last two are exact
        close(found, fixture[f"w_check/{name}"], rounding(sizes, wide.size, dtype=np.float64), name)
    return weights


@pytest.fixture(scope="module")
def weights(fixture):
    return golden_weights(fixture)


@pytest.fixture(scope="module")
def images(fixture):
    """(2,227,227,3) uint8."""
    rng = np.random.RandomState(int(fixture["img_seed"]))
    raw = rng.randint(0, 256, (2, 227, 227, 3))
    low = rng.randint(0, 256, (2, 8, 8, 3)).repeat(29, 1).repeat(29, 2)[:, :227, :227]
    images = np.floor(0.75 * low + 0.25 * raw).astype(np.uint8)
    assert images.sum((1, 2, 3)).tolist() == fixture["in_raw_sum"].tolist()
    return images


def network(fixture, weights, gcn: bool):
    from deeppose_tf.model import build_network, set_weights

    model = build_network(int(fixture["n_joints"]), gcn=gcn, dropout_keep=1.0)
    set_weights(model, weights)
    return model


# layer of the fixture -> layer of ours
LAYERS = {
    "conv1_relu": "conv1",
    "conv1_lrn": "conv1_lrn",
    "pool1": "pool1",
    "conv2_relu": "conv2",
    "conv2_lrn": "conv2_lrn",
    "pool2": "pool2",
    "conv3_relu": "conv3",
    "conv4_relu": "conv4",
    "conv5_relu": "conv5",
    "pool5": "pool5",
    "fc6_relu": "fc6",
    "fc7_relu": "fc7",
    "fc_regression": "fc_regression",
}


@pytest.mark.parametrize("case", ["raw", "gcn"])
def test_forward(fixture, weights, images, case):
    import keras

    model = network(fixture, weights, gcn=case == "gcn")
    names = [name for name in LAYERS if f"{case}/{name}/samples" in fixture]
    assert names
    probe = keras.Model(
        model.input, [model.get_layer(LAYERS[name]).output for name in names] + [model.get_layer("pixels").output]
    )
    *outputs, pixels = (np.asarray(o) for o in probe(images))
    lost = CONTRAST if case == "gcn" else 0.0
    if case == "gcn":
        close(np.linalg.norm(pixels.reshape(2, -1), axis=1), fixture["in_gcn_l2"], lost * fixture["in_gcn_l2"])
    steps = roundings(weights, LAYERS.values())
    for name, output in zip(names, outputs):
        assert output.shape == tuple(fixture[f"{case}/{name}/shape"]), name
        flat, expected = output.reshape(2, -1).astype(np.float64), fixture[f"{case}/{name}/stats"]
        stats = np.stack([flat.mean(1), flat.std(1), flat.min(1), flat.max(1), np.linalg.norm(flat, axis=1)], 1)
        allowed = rounding(1.0, steps=steps[LAYERS[name]]) + lost  # of the largest
        largest = np.abs(expected[:, 2:4]).max()
        close(stats[:, :4], expected[:, :4], allowed * largest, name)
        close(stats[:, 4], expected[:, 4], allowed * expected[:, 4], name)
        close(flat[:, fixture[f"{case}/{name}/idx"]], fixture[f"{case}/{name}/samples"], allowed * largest, name)
    close(model.predict_on_batch(images), fixture[f"{case}/output"], allowed * largest)


def test_loss(fixture):
    import tensorflow as tf

    from deeppose_tf.losses import per_example_loss, pose_loss

    predicted = tf.constant(fixture["loss/pred"])
    targets, valid = fixture["loss/gt"].astype(np.float32), fixture["loss/valid"].any(-1)
    one, several = np.log2(targets[0].size) + 3, np.log2(targets.size) + 4  # roundings in a row
    expected = fixture["loss/per_example"]
    close(per_example_loss(predicted, targets, valid), expected, rounding(expected, steps=one))
    gradient = fixture["loss/grad_wrt_pred"]
    for mode in ("compat", "correct"):
        with tf.GradientTape() as tape:
            tape.watch(predicted)
            loss = pose_loss(predicted, targets, valid, mode)
        close(loss, fixture["loss/pose_loss"], rounding(fixture["loss/pose_loss"], steps=several))
        close(tape.gradient(loss, predicted), gradient, rounding(np.abs(gradient).max(), steps=5))
    none = valid.copy()
    none[0] = False
    assert np.isnan(fixture["loss/pose_loss_one_example_all_invalid"]) and np.isnan(
        pose_loss(predicted, targets, none, "compat")
    )
    rest = np.delete(expected, 0).mean()
    close(pose_loss(predicted, targets, none), rest, rounding(rest, steps=several))


def test_training_steps(fixture, weights, images):
    """The original's backward pass shares the weights' memory with its updates, and nothing orders the two (see
    `gradients_by_hand`): its first step lies among several scenarios, and each of its steps is as uncertain as these
    differ."""
    from deeppose_tf.losses import pose_loss
    from deeppose_tf.model import get_weights, set_weights
    from deeppose_tf.updates import TrainingStep

    model = network(fixture, weights, gcn=True)
    targets, valid = fixture["train/gt"].astype(np.float32), fixture["train/valid"].all(-1)
    rate, expected = float(fixture["train/lr"]), fixture["train/losses"]
    first = model.predict_on_batch(images)
    deep = max(roundings(weights).values())
    of_outputs = (rounding(1.0, steps=deep) + CONTRAST) * np.abs(first).max()

    def of_loss(loss):  # of examples whose joints are all valid: twice the mean square of the errors
        return 4 * np.sqrt(loss / 2) * of_outputs

    # a gradient's relative error: that of the outputs' errors, the backward pass, the contrast of what it multiplies
    of_gradients = of_outputs / np.sqrt(expected[0] / 2) + rounding(1.0, steps=2 * deep) + CONTRAST
    summaries, losses, outputs, proper = [], [], [], {}
    for gradients in gradients_by_hand(model, weights, images, targets, valid, rate):
        after = {name: weights[name] - adagrad_step(g, rate) for name, g in gradients.items()}
        halves = {name: np.square(g, dtype=np.float64).sum() / 2 for name, g in gradients.items()}
        summaries.append(({name: summary(value) for name, value in after.items()}, halves))
        proper = proper or gradients
        set_weights(model, after)
        losses.append(float(pose_loss(model(images, training=False), targets, valid, "compat")))
        outputs.append(model.predict_on_batch(images))
        set_weights(model, weights)
    check_first_step(fixture, weights, summaries, rate, of_gradients)

    update, found = TrainingStep(model, "adagrad", mode="compat"), []
    for step in range(len(expected) - 1):
        result = update((images, targets, valid), conv_lr=rate, fc_lr=rate, summary=step == 0)
        found.append(float(result["loss"]))
        if step == 0:
            for name, half in summaries[0][1].items():
                close(float(result["grad_norms"][name]), half, 2 * half * rounding(1.0, steps=2 * deep), name)
            check_steps(weights, get_weights(model), proper, rate, deep)
    found.append(float(pose_loss(model(images, training=False), targets, valid, "compat")))
    of_a_step = (max(losses) - min(losses)) / min(losses)
    close(found, expected, np.arange(len(expected)) * of_a_step * expected + of_loss(expected))
    of_a_step = np.ptp(np.stack(outputs), axis=0).max()
    close(model.predict_on_batch(images), fixture["train/output_after5"], 5 * of_a_step + of_outputs)


DENSE_LAYERS = ("fc_regression", "fc7", "fc6")  # from the output down


def adagrad_step(gradient, rate):
    """What a first step subtracts: Adagrad from an accumulator of 1e-4, without epsilon."""
    return rate * gradient / np.sqrt(1e-4 + np.square(gradient))


def gradients_by_hand(model, weights, images, targets, valid, rate) -> Iterator[dict[str, np.ndarray]]:
    """Gradients of the loss by DT's variable names in one scenario after another: in number k, back-propagation finds
    the uppermost k of fc_regression, fc7 and fc6 already updated. Number 0 is the gradient proper.

    The original's backward pass shares the weights' memory with its updates and nothing orders the two: its fully
    connected layers change under the gradient that still has to pass through them. (This fixture: fc_regression wholly,
    a tenth of fc7; with that its conv1 to fc6 differ from the scenario by at most 1e-3 of a step, from the gradient
    proper by up to 0.05.)"""
    import keras
    import tensorflow as tf

    names = [f"conv{i}" for i in range(1, 6)]
    layers = {name: model.get_layer(name) for name in names}
    below = keras.Model(model.input, [model.get_layer(n).output for n in ("flatten", "fc6", "fc7")])
    for updated in range(len(DENSE_LAYERS) + 1):
        with tf.GradientTape() as tape:
            flat, fc6, fc7 = below(images, training=True)
        variables = {
            f"{n}/{what}": v
            for n, layer in layers.items()
            for what, v in (("weight", layer.kernel.value), ("bias", layer.bias.value))
        }
        inputs = dict(zip(DENSE_LAYERS, (fc7.numpy(), fc6.numpy(), flat.numpy())))
        output = inputs["fc_regression"] @ weights["fc_regression/weight"] + weights["fc_regression/bias"]
        error = (output.reshape(targets.shape) - targets) * valid[..., None]
        upper = (2 * error / valid.sum(1)[:, None, None] / len(targets)).reshape(output.shape).astype(np.float32)
        found = {}
        for place, name in enumerate(DENSE_LAYERS):
            found[f"{name}/weight"], found[f"{name}/bias"] = inputs[name].T @ upper, upper.sum(0)
            through = weights[f"{name}/weight"]
            if place < updated:
                through = (through - adagrad_step(found[f"{name}/weight"], rate)).astype(np.float32)
            upper = upper @ through.T
            if name != "fc6":
                upper = upper * (inputs[name] > 0)
        tensors = tape.gradient(flat, list(variables.values()), output_gradients=tf.constant(upper))
        yield {**{name: t.numpy() for name, t in zip(variables, tensors)}, **found}


def spacing(values, rate: float):
    """Steps between neighbouring float32 numbers, as which weights are stored."""
    return np.spacing(np.abs(values).astype(np.float32)).astype(np.float64) / rate


def check_steps(before, after, gradients, rate, deep):
    """Our step is Adagrad's of the gradient proper, for every weight. Tolerance, in steps: the gradient's error (its
    sums run in another order) through Adagrad's slope, which is 1/sqrt(1e-4) at most; the weight's own rounding; and
    that of the update's arithmetic."""
    for name, gradient in gradients.items():
        part = (slice(None, None, 97), ...) if gradient.size > 1e6 else ...
        own, g = before[name][part].astype(np.float64), gradient[part].astype(np.float64)
        slope = 1e-4 / (1e-4 + np.square(g)) ** 1.5
        of_gradient = rounding(np.abs(g).max(), steps=2 * deep)
        allowed = of_gradient * slope + 2 * spacing(own, rate) + rounding(1.0, steps=4)
        close((own - after[name][part]) / rate, adagrad_step(g, 1.0), allowed, name)


def summary(values) -> np.ndarray:
    """Sum, norm, first, last and middle value, as the fixture has them."""
    wide = values.astype(np.float64).ravel()
    return np.array([wide.sum(), np.linalg.norm(wide), wide[0], wide[-1], wide[len(wide) // 2]])


def check_first_step(fixture, before, summaries, rate, of_gradients):
    """The original's gradients and its weights after a step lie among the scenarios'. Beyond them: the gradients'
    relative error (of a step by Adagrad: at most 0.385 of it) and the weights' rounding."""
    stored = {kind: kind + "/" for kind in ("train/after1", "train/grad_half_sqnorm")}
    for place, kind in enumerate(stored):
        names = [k.removeprefix(stored[kind]) for k in fixture if k.startswith(stored[kind]) and "fc8" not in k]
        assert sorted(names) == sorted(before)
        for name in names:
            ours, theirs = np.stack([found[place][name] for found in summaries]), fixture[stored[kind] + name]
            if place:
                allowed = 2 * of_gradients * ours[0]
            else:
                size, one = before[name].size, np.spacing(np.abs(before[name]).max())
                allowed = np.array([size, np.sqrt(size), 1, 1, 1]) * (0.385 * of_gradients * rate + one)
            close(theirs, np.clip(theirs, ours.min(0), ours.max(0)), allowed, f"{kind} of {name}")


def test_logged_weight_decay(fixture, weights):
    """The original adds squares in float32, in blocks."""
    from deeppose_tf.losses import weight_decay_term

    seed = zlib.crc32((str(fixture["salt"]) + "fc8/weight").encode()) & 0xFFFFFFFF
    unused = {
        "fc8/weight": (np.random.RandomState(seed).standard_normal((4096, 1)) * np.sqrt(2 / 4096)).astype(np.float32)
    }
    seed = zlib.crc32((str(fixture["salt"]) + "fc8/bias").encode()) & 0xFFFFFFFF
    unused["fc8/bias"] = (np.random.RandomState(seed).standard_normal(1) * 0.05).astype(np.float32)
    expected = float(fixture["loss/weight_decay_term_initial"])
    largest = max(w.size for w in weights.values())
    close(weight_decay_term({**weights, **unused}), expected, rounding(expected, steps=np.log2(largest)))


@pytest.mark.parametrize("kind", ["v1", "v2"])
def test_legacy_checkpoints(golden_dir, tmp_path, kind):
    from common.weights import tf1

    folder = golden_dir / "deeppose_tf" / f"legacy_ckpt_{kind}"
    if not folder.exists():
        pytest.skip(f"this set has no {folder.name}")
    (prefix,) = {pathlib.Path(str(p).split(".")[0]) for p in folder.iterdir()}
    found = tf1.read_checkpoint(prefix)
    assert int(found.pop("global_iter_counter")) == int(prefix.name.split("-")[1]) and found
    for name, array in found.items():
        expected = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(array.shape) * 0.05
        assert array.dtype == np.float32 and np.array_equal(array, expected.astype(np.float32)), name
