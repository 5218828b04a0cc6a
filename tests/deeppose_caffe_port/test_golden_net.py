"""Nets, layers and Caffe's files against what a real Caffe computed ($GOLDEN_DIR/deeppose_caffe_port)."""

import json
import pathlib

import numpy as np
import pytest
import torch

from common.runs.process import place
from common.weights.caffe import messages, read_caffemodel, read_net
from deeppose_caffe_port.model import TEST, TRAIN, CaffeNet
from deeppose_caffe_port.random_stream import CaffeRandom
from tests import tolerance
from tests.fixtures import GOLDEN

torch.set_num_threads(1)  # the nets are tiny
pytestmark = pytest.mark.golden


def folder() -> pathlib.Path:
    return GOLDEN / "deeppose_caffe_port"


def names(pattern: str) -> list[str]:
    return sorted(p.stem if p.suffix else p.name for p in folder().glob(pattern))


@pytest.fixture
def golden(golden_dir) -> pathlib.Path:
    return golden_dir / "deeppose_caffe_port"


def sums(net: CaffeNet) -> int:
    """Terms of the longest sum that a net forms: a value of a layer, or a gradient over batch and places."""
    found = [1]
    for module in net.order:
        for blob in module.blobs[:1] if module.kind in ("Convolution", "Deconvolution", "InnerProduct") else ():
            found += [blob[0].numel(), module.top_shapes[0][0] * int(np.prod(module.top_shapes[0][2:]))]
    return max(found)


def close(found, expected, what: str, net: CaffeNet, size: float = 0, noise: float = 0) -> None:
    """Within what float32 explains after all layers, forth and back; `size` is that of what is added where it cancels
    (the gradient of a bias before BatchNorm is zero)."""
    found = found.detach() if isinstance(found, torch.Tensor) else found
    size = max(np.abs(expected).max(initial=0), size)
    tolerance.close(found, expected, tolerance.rounding(size, sums(net), 2 * len(net.order)) + noise, what)


def of_layer(io, kind: str, layer: str) -> float:
    """The largest value among a layer's arrays of one kind."""
    return max(np.abs(io[key]).max() for key in io.files if key.startswith(f"{kind}/{layer}/"))


def steepness(op, x: np.ndarray) -> float:
    """By how much a layer makes the rounding of its input larger: BatchNorm divides by the deviation, of a single value by sqrt(eps) alone."""
    if op.param.type != "BatchNorm":
        return 1
    variance = x.var(axis=tuple(i for i in range(x.ndim) if i != 1)).min()
    return float(1 / np.sqrt(variance + op.param.batch_norm_param.eps))


@pytest.mark.gpu
@pytest.mark.parametrize("case", names("fwd_*"))
def test_forward_and_backward(golden, case, device):
    home = golden / case
    meta, io = json.loads((home / "meta.json").read_text()), np.load(home / "io.npz")
    net = CaffeNet.from_file(home / "train.prototxt", TRAIN, random=CaffeRandom(meta["seed_init"]))
    for blob, (layer, arrays) in zip(
        net.blobs(), [(k, v) for k, v in read_caffemodel(home / "init.caffemodel").items() for _ in v]
    ):
        assert blob.layer == layer
        assert np.array_equal(blob.tensor.detach().numpy(), arrays[blob.number]), (
            f"filler of {layer}, blob {blob.index}"
        )
    assert net.load(home / "weights.caffemodel") == []
    place(torch, net, device, "off")
    net.context.random = CaffeRandom(meta["seed_dropout"])
    captured: dict[str, torch.Tensor] = {}
    _, loss = net(
        {"data": torch.from_numpy(io["x"]).to(device), "label": torch.from_numpy(io["y"]).to(device)}, captured
    )
    chain: dict[str, torch.Tensor] = {}
    for key, value in captured.items():
        if value.requires_grad:
            value.retain_grad()
            chain.setdefault(key.split("/")[1], value)  # Caffe's diff of an in-place chain ends at its first output
    loss.backward()
    close(loss, np.array(meta["loss"]), "loss", net)
    kinds = set()
    for key in io.files:
        kind, *rest = key.split("/")
        kinds.add(kind)
        if kind == "train_after":
            close(captured["/".join(rest)], io[key], key, net)
        elif kind == "grad":
            weight = net.layers[rest[0]].blobs[int(rest[1])]
            found = weight.grad if weight.grad is not None else torch.zeros_like(weight)
            close(found, io[key], key, net, of_layer(io, kind, rest[0]))
        elif kind == "blobdiff" and rest[0] in chain:
            close(chain[rest[0]].grad, io[key], key, net)
        elif kind == "bn_after":
            close(net.layers[rest[0]].blobs[int(rest[1])], io[key], key, net)
    assert {"train_after", "grad", "blobdiff", "bn_after", "test_after"} <= kinds


@pytest.mark.gpu
@pytest.mark.parametrize("case", names("fwd_*"))
def test_fused_pass_is_the_same(golden, case, device):
    """BatchNorm with its Scale in one pass and ReLU in place, as training runs it."""
    home = golden / case
    meta, io = json.loads((home / "meta.json").read_text()), np.load(home / "io.npz")
    net = CaffeNet.from_file(home / "train.prototxt", TRAIN, random=CaffeRandom(meta["seed_dropout"]))
    net.load(home / "weights.caffemodel")
    place(torch, net, device, "off")
    net.context.random = CaffeRandom(meta["seed_dropout"])
    assert len(net.fused) < len(net.steps)
    _, loss = net({"data": torch.from_numpy(io["x"]).to(device), "label": torch.from_numpy(io["y"]).to(device)})
    loss.backward()
    close(loss, np.array(meta["loss"]), "loss", net)
    for key in io.files:
        kind, *rest = key.split("/")
        if kind == "grad" and (weight := net.layers[rest[0]].blobs[int(rest[1])]).requires_grad:
            close(weight.grad, io[key], key, net, of_layer(io, kind, rest[0]))


@pytest.mark.gpu
@pytest.mark.parametrize("case", names("fwd_*"))
def test_deploy(golden, case, device):
    home, captured = golden / case, {}
    io = np.load(home / "io.npz")
    net = CaffeNet.from_file(home / "deploy.prototxt", TEST)
    assert net.load(home / "weights.caffemodel") == []
    place(torch, net, device, "off")({"data": torch.from_numpy(io["x"]).to(device)}, captured)
    keys = [k for k in io.files if k.startswith("test_after/")]
    assert keys
    for key in keys:
        close(captured[key.removeprefix("test_after/")], io[key], key, net)


def weights_of(io, case: str) -> list[np.ndarray]:
    count = sum(key.startswith(f"{case}/w") and key.removeprefix(f"{case}/w").isdigit() for key in io.files)
    return [io[f"{case}/w{i}"] for i in range(count)]


@pytest.mark.gpu
@pytest.mark.parametrize("case", [n for n in names("ops/*.prototxt") if n != "euclid"])
def test_layer(golden, case, device):
    home = golden / "ops"
    io, meta = np.load(home / "ops_modified.npz"), json.loads((home / "meta.json").read_text())
    net = CaffeNet.from_file(home / f"{case}.prototxt", TRAIN, random=CaffeRandom(meta["rng_seed_before_net"][case]))
    weights, op = weights_of(io, case), net.layers["op"]
    fillers = {
        f.type
        for _, p in op.param.ListFields()
        if hasattr(p, "ListFields")
        for _, f in p.ListFields()
        if hasattr(f, "variance_norm")
    }
    if not fillers & {"gaussian", "msra"}:  # boost's normal numbers cannot be made again
        assert all(np.array_equal(b.detach().numpy(), w) for b, w in zip(op.blobs, weights)), "filler"
    net.load_blobs({"op": weights} if weights else {})
    net.context.random = CaffeRandom(meta["rng_seed_before_forward"][case])
    x = torch.from_numpy(io[f"{case}/x"]).to(device).requires_grad_()
    y = place(torch, net, device, "off")({"x": x})[0]["y"]
    noise = [
        tolerance.rounding(np.abs(io[f"{case}/{key}"]).max() * steepness(op, io[f"{case}/x"])) for key in ("x", "dy")
    ]
    close(y, io[f"{case}/y"], "y", net, noise=noise[0])
    assert y.shape == io[f"{case}/y"].shape == net.shapes["y"]
    y.backward(torch.from_numpy(io[f"{case}/dy"]).to(device))
    close(x.grad, io[f"{case}/dx"], "dx", net, noise=noise[1])
    for i, blob in enumerate(op.blobs):
        if blob.grad is not None:
            close(blob.grad, io[f"{case}/dw{i}"], f"dw{i}", net)
        if f"{case}/w{i}_after" in io.files:
            close(blob, io[f"{case}/w{i}_after"], f"w{i}_after", net)
    after = [io[f"{case}/w{i}_after"] if f"{case}/w{i}_after" in io.files else w for i, w in enumerate(weights)]
    for key, blobs in (("y_test", after), ("y_test_factor0", [np.zeros_like(w) for w in weights])):
        if f"{case}/{key}" in io.files:
            test = CaffeNet.from_file(home / f"{case}.prototxt", TEST)
            test.load_blobs({"op": blobs} if blobs else {})
            close(
                place(torch, test, device, "off")({"x": x.detach()})[0]["y"],
                io[f"{case}/{key}"],
                key,
                test,
                noise=noise[0],
            )


@pytest.mark.gpu
@pytest.mark.parametrize("kind", [n.removeprefix("ops_") for n in names("ops/*.npz")])
def test_euclidean_loss_in_both_normalisations(golden, kind, device):
    home = golden / "ops"
    io = np.load(home / f"ops_{kind}.npz")
    net = CaffeNet.from_file(home / "euclid.prototxt", TRAIN, euclidean="stock" if kind == "vanilla" else kind)
    a, b = (torch.from_numpy(io[f"euclid/{n}"]).to(device).requires_grad_() for n in "ab")
    outputs, loss = net({"a": a, "b": b})
    loss.backward()
    for found, name in ((outputs["loss"], "loss"), (a.grad, "da"), (b.grad, "db")):
        close(found, io[f"euclid/{name}"], name, net)


@pytest.mark.gpu
def test_v1_net_and_weights(golden, device):
    home = golden / "v1_legacy"
    io = np.load(home / "io.npz")
    for weights in ("v1.caffemodel", "v2_from_caffe.caffemodel"):
        net = CaffeNet.from_file(home / "v1.prototxt", TEST)
        assert net.load(home / weights) == []
        close(
            place(torch, net, device, "off")({"data": torch.from_numpy(io["x"]).to(device)})[0]["fc"],
            io["y"],
            weights,
            net,
        )


@pytest.mark.exact
def test_saved_net_is_as_caffe_saves_it(golden, tmp_path):
    """Our file of the upgraded V1 net against Caffe's own: same layers, parameters and blobs."""
    home = golden / "v1_legacy"
    net = CaffeNet.from_file(home / "v1.prototxt", TEST)
    net.load(home / "v1.caffemodel")
    net.save(tmp_path / "ours.caffemodel")
    ours, theirs = (
        {layer.name: layer for layer in read_net(p).layer}
        for p in (tmp_path / "ours.caffemodel", home / "v2_from_caffe.caffemodel")
    )
    assert theirs.keys() <= ours.keys()
    for name, layer in theirs.items():
        assert (ours[name].type, list(ours[name].bottom), list(ours[name].top)) == (
            layer.type,
            list(layer.bottom),
            list(layer.top),
        )
        assert [b.SerializeToString() for b in ours[name].blobs] == [b.SerializeToString() for b in layer.blobs]
        assert list(ours[name].param) == list(layer.param)


@pytest.mark.exact
@pytest.mark.parametrize("case", names("fwd_*"))
def test_opencv_reads_what_we_write(golden, case, tmp_path):
    """An independent Caffe reader computes the same from our weight file as from Caffe's (what it computes is its own affair)."""
    import cv2

    home = golden / case
    net = CaffeNet.from_file(home / "deploy.prototxt", TEST)
    net.load(home / "weights.caffemodel")
    net.save(tmp_path / "net.caffemodel")
    x, outputs = np.random.default_rng(0).standard_normal(net.shapes["data"]).astype(np.float32), []
    for weights in (home / "weights.caffemodel", tmp_path / "net.caffemodel"):
        theirs = cv2.dnn.readNetFromCaffe(str(home / "deploy.prototxt"), str(weights))
        theirs.setInput(x)
        outputs.append(theirs.forward(net.outputs[-1]))
    assert np.array_equal(*outputs) and np.abs(outputs[0]).max() > 0


@pytest.mark.exact
@pytest.mark.parametrize("path", [str(p.relative_to(folder())) for p in sorted(folder().rglob("*.caffemodel"))])
def test_binary_files_survive_unchanged(golden, path):
    data = (golden / path).read_bytes()
    net = messages()["NetParameter"]()
    net.ParseFromString(data)
    again = messages()["NetParameter"]()
    again.ParseFromString(net.SerializeToString())
    assert again == net
    assert len(net.SerializeToString()) == len(data)
