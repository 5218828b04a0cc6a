"""Weights in and out: every format answers as its source does, layouts are the formats' own, and unsafe or broken files
are refused."""

import json
import pathlib
import pickle

import numpy as np
import pytest

from common.errors import DataError
from common.skeletons import LSP14
from common.weights import caffe, tf1
from deeppose_tf import Estimator, convert, weight_files
from deeppose_tf.config import IM_SIZE
from deeppose_tf.model import build_network, get_weights
from tests.tolerance import close, rounding


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A small network as a TensorFlow 1 checkpoint of the original, and its weights."""
    folder = tmp_path_factory.mktemp("source")
    weights = get_weights(build_network(14, channels=0.02, init="he", seed=4))
    slots = {f"{n}/Adagrad": np.full_like(w, 0.5) for n, w in weights.items()}
    variables = {**weights, **slots, "global_iter_counter": np.array(30, np.int32)}
    return tf1.write_v2(folder / "checkpoint-30", variables), weights


@pytest.mark.parametrize(("kind", "name"), [("tf1", "checkpoint-30"), ("tf1_old", "old.tf"), ("npz", "a.npz")])
def test_every_format_holds_what_its_source_does(source, tmp_path, kind, name):
    prefix, weights = source
    assert convert.main([str(prefix), str(tmp_path / name), "--licence", "test"]) == 0
    card = json.loads((tmp_path / f"{name}.card.json").read_text())
    assert card["format"] == kind
    assert card["check"]["weights"] == {"largest difference": 0.0, "tolerance": 0.0} and card["licence"] == "test"
    assert card["joints"] == list(LSP14.joints) and card["variables"]["conv1/weight"] == [11, 11, 3, 8]
    found = weight_files.read_weights(tmp_path / name)
    assert all(np.array_equal(found[n], w) for n, w in weights.items())
    assert found["global_iter_counter"] == 30 and (found["fc6/weight/Adagrad"] == 0.5).all()
    assert found["fc8/weight"].shape[1] == 1


@pytest.mark.parametrize(
    ("name", "says"),
    [("a.onnx", "no suffix .onnx"), ("a.foo", "no suffix .foo"), (None, "there already"), ("..", "there already")],
)
def test_names_that_cannot_be_written(source, tmp_path, capsys, name, says):
    before = sorted(source[0].parent.iterdir())
    assert convert.main([str(source[0]), str(source[0] if name is None else tmp_path / name)]) == 2
    assert says in capsys.readouterr().err
    assert sorted(source[0].parent.iterdir()) == before and not list(tmp_path.iterdir())


def test_weights_of_16_bits(source, tmp_path, capsys):
    prefix, weights = source
    assert convert.main([str(prefix), str(tmp_path / "h.npz"), "--half"]) == 0
    found = weight_files.read_weights(tmp_path / "h.npz")
    for name, weight in weights.items():
        assert found[name].dtype == np.float32 and np.array_equal(found[name], weight.astype(np.float16))
    assert Estimator(tmp_path / "h.npz").skeleton == LSP14
    assert not any("Adagrad" in name for name in found)
    assert convert.main([str(prefix), str(tmp_path / "h"), "--half"]) == 2 and "--half" in capsys.readouterr().err


def test_tensorflow_reads_what_is_written(source, tmp_path):
    import tensorflow as tf

    prefix, weights = source
    for name in ("new", "old.tf"):
        assert convert.main([str(prefix), str(tmp_path / name)]) == 0
        reader = tf.train.load_checkpoint(str(tmp_path / name))
        assert all(np.array_equal(reader.get_tensor(n), w) for n, w in weights.items())
        assert reader.get_tensor("global_iter_counter") == 30


def test_caffe_layouts():
    """A Caffe network's arithmetic on C, H, W order gives what the converted weights give on H, W, C order."""
    rng = np.random.RandomState(0)
    image, kernel = rng.standard_normal((6, 6, 8)), rng.standard_normal((5, 8, 3, 3))
    fc6 = rng.standard_normal((7, 5 * 36))
    kernel, fc6 = kernel.astype(np.float32), fc6.astype(np.float32)
    found = weight_files.from_caffe(
        {"conv5": [kernel, np.zeros(5)], "fc6": [fc6, np.zeros(7)], "fc7": [fc6[:, :4], np.zeros(7)], "data": []}
    )
    patch = image[:3, :3]
    expected = np.einsum("hwc,ochw->o", patch, kernel)
    close(
        np.einsum("hwc,hwco->o", patch, found["conv5/weight"]), expected, rounding(10.0, patch.size, dtype=np.float64)
    )
    maps = rng.standard_normal((6, 6, 5))
    expected = fc6 @ maps.transpose(2, 0, 1).ravel()
    close(maps.ravel() @ found["fc6/weight"], expected, rounding(10.0, maps.size, dtype=np.float64))
    assert np.array_equal(found["fc7/weight"], fc6[:, :4].T) and "data/weight" not in found


def test_caffemodel_of_alexnet_becomes_the_examples_weights(tmp_path):
    """Written by hand in Caffe's layout: kernels OIHW, a dense layer's weights by output."""
    rng, layers = np.random.RandomState(8), {}
    for name, shape in (("conv1", (8, 3, 11, 11)), ("fc7", (5, 6))):
        kind = "Convolution" if name == "conv1" else "InnerProduct"
        layers[name] = kind, [rng.standard_normal(shape).astype(np.float32), np.ones(shape[0], np.float32)]
    source, target = tmp_path / "bvlc_alexnet.caffemodel", tmp_path / "bvlc_alexnet.tf"
    caffe.write_caffemodel(source, layers, "AlexNet")
    assert convert.main([str(source), str(target)]) == 0
    found = weight_files.read_weights(target)
    assert np.array_equal(found["conv1/weight"], layers["conv1"][1][0].transpose(2, 3, 1, 0))
    assert np.array_equal(found["fc7/weight"], layers["fc7"][1][0].T) and len(found) == 4


@pytest.mark.parametrize("layout", ["dict", "list"])
def test_npy(tmp_path, layout):
    weight, bias = np.ones((3, 3, 2, 4), np.float32), np.arange(4, dtype=np.float32)
    layers = {"conv3": {"weights": weight, "biases": bias} if layout == "dict" else [weight, bias]}
    np.save(tmp_path / "w.npy", np.array(layers, object) if layout == "dict" else layers, allow_pickle=True)
    found = weight_files.read_weights(tmp_path / "w.npy")
    assert np.array_equal(found["conv3/weight"], weight) and np.array_equal(found["conv3/bias"], bias)


class Evil:
    def __reduce__(self):
        return print, ("this must not run",)


def test_nothing_runs_from_a_pickle(tmp_path, capsys):
    with open(tmp_path / "w.npy", "wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|O", "fortran_order": False, "shape": ()})
        pickle.dump({"conv1": Evil()}, file)
    with pytest.raises(DataError, match="w.npy is not a .npy dictionary of layers"):
        weight_files.read_weights(tmp_path / "w.npy")
    assert "must not run" not in capsys.readouterr().out


WRONG = {"fc_regression/bias": np.ones(28, np.float32)}


def test_nothing_is_kept_when_the_answers_differ(source, tmp_path, monkeypatch, capsys):
    prefix, _ = source
    monkeypatch.setattr(convert, "write_v2", lambda path, variables: tf1.write_v2(path, variables | WRONG))
    assert convert.main([str(prefix), str(tmp_path / "x")]) == 2
    assert "nothing was written" in capsys.readouterr().err and not list(tmp_path.glob("x*"))


def test_network_from_a_checkpoint_of_unknown_width(source):
    prefix, weights = source
    found = Estimator(prefix)
    assert (found.skeleton, found.config.mode, found.config.gcn, found.step) == (LSP14, "compat", True, 30)
    assert found.model.input_shape == (None, IM_SIZE, IM_SIZE, 3)
    assert all(np.array_equal(get_weights(found.model)[n], w) for n, w in weights.items())
    tf1.write_v1(prefix.with_name("odd"), {**weights, "fc_regression/bias": np.zeros(22, np.float32)})
    with pytest.raises(DataError, match="11 joints and does not name them"):
        Estimator(prefix.with_name("odd"))


def test_batch_normalisation_is_found_in_the_weights(tmp_path):
    """Left out without a word, its network would give other joints."""
    weights = get_weights(build_network(14, channels=0.02, init="he", seed=4, norm="batch"))
    weights = {n: np.abs(w) + 0.5 if "_bn/" in n else w for n, w in weights.items()}
    found = Estimator(tf1.write_v1(tmp_path / "checkpoint-30", weights))
    assert all(np.array_equal(get_weights(found.model)[n], w) for n, w in weights.items())


def test_imagenet_weights_are_no_network(tmp_path):
    tf1.write_v1(tmp_path / "w", {"conv1/weight": np.zeros((11, 11, 3, 8), np.float32)})
    with pytest.raises(DataError, match="no fc_regression"):
        Estimator(tmp_path / "w")
    assert convert.main([str(tmp_path / "w"), str(tmp_path / "w.npz")]) == 2


def test_files_that_are_none(source, tmp_path):
    """Of ours and of others: cut short, changed in one bit, with other things in it, of other shapes; a full disk."""
    prefix, weights = source
    assert convert.main([str(prefix), str(tmp_path / "a.npz")]) == 0
    whole = (tmp_path / "a.npz").read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 4
    for content in (whole[: len(whole) // 2], flipped, b"", b"text" * 100):
        (tmp_path / "b.npz").write_bytes(content)
        with pytest.raises(DataError, match=r"b\.npz is not a readable checkpoint"):
            weight_files.load_state(tmp_path / "b.npz")
    for rest in (
        "[]",
        '{"step": 1}',
        '{"step": "x", "about": {}, "config": {}}',
        '{"step": 1, "about": [], "config": {}}',
    ):
        np.savez(tmp_path / "b.npz", state=np.array(rest))
        with pytest.raises(DataError, match=r"b\.npz is not a whole checkpoint"):
            weight_files.load_state(tmp_path / "b.npz")
    state = weight_files.load_state(tmp_path / "a.npz")
    state["model"]["fc6/bias"] = np.array(["text"] * len(weights["fc6/bias"]))
    weight_files.save_state(tmp_path / "b.npz", state)
    with pytest.raises(DataError, match=r"b\.npz does not fit .*fc6/bias"):
        Estimator(tmp_path / "b.npz").model  # noqa: B018
    caffe.write_caffemodel(tmp_path / "c.caffemodel", {"conv1": ("Convolution", [np.zeros(5), np.zeros(2)])})
    with pytest.raises(DataError, match=r"c\.caffemodel has layers of other shapes"):
        weight_files.read_weights(tmp_path / "c.caffemodel")
    with pytest.raises(OSError, match="No space left.*/dev/full"):
        weight_files.save_state(pathlib.Path("/dev/full"), weight_files.state_of(weights))
