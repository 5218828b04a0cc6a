"""Building nets from prototxts: phases and rules, the layers of ordinary Caffe nets, messages for what cannot be built."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from common.errors import DataError
from common.weights.caffe_text import parse_text
from deeppose_caffe_port.layers import LAYERS
from deeppose_caffe_port.model import TEST, TRAIN, CaffeNet
from deeppose_caffe_port.random_stream import CaffeRandom
from tests import tolerance

torch.set_num_threads(1)
DATA = 'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 4 dim: 6 dim: 5 } } }\n'


def net(text: str, phase: int = TEST, head: str = DATA, **options) -> CaffeNet:
    return CaffeNet(parse_text(head + text, "NetParameter", "net.prototxt"), phase, random=CaffeRandom(0), **options)


def run(text: str, phase: int = TEST, **options):
    built = net(text, phase, **options)
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 4, 6, 5)).astype(np.float32))
    outputs, loss = built({"data": x})
    for name, value in outputs.items():
        assert tuple(value.shape) == built.shapes[name], f"{name}: the shape known beforehand"
    return x, outputs, loss


def close(found: torch.Tensor, expected: torch.Tensor, terms: int = 1) -> None:
    """Two ways to form the same sums in float32."""
    expected = expected.detach().numpy()
    tolerance.close(found.detach(), expected, tolerance.rounding(np.abs(expected).max(), terms))


def layer(kind: str, body: str = "", bottoms: str = "data", tops: str = "y", name: str = "y") -> str:
    b, t = ("".join(f' {k}: "{n}"' for n in names.split()) for k, names in (("bottom", bottoms), ("top", tops)))
    return f'layer {{ name: "{name}" type: "{kind}"{b}{t} {body} }}\n'


ELEMENTWISE = {
    ("Sigmoid", ""): torch.sigmoid,
    ("TanH", ""): torch.tanh,
    ("AbsVal", ""): torch.abs,
    ("BNLL", ""): F.softplus,
    ("ELU", "elu_param { alpha: 0.5 }"): lambda x: F.elu(x, 0.5),
    ("PReLU", "prelu_param { filler { value: 0.3 } }"): lambda x: torch.where(x > 0, x, 0.3 * x),
    ("Power", "power_param { power: 2 scale: 3 shift: 1 }"): lambda x: (1 + 3 * x) ** 2,
    ("Softmax", ""): lambda x: x.softmax(1),
    ("Bias", "bias_param { filler { value: 2 } }"): lambda x: x + 2,
    ("Flatten", ""): lambda x: x.reshape(2, -1),
    ("Reshape", "reshape_param { shape { dim: 0 dim: -1 dim: 2 } }"): lambda x: x.reshape(2, -1, 2),
    ("Reshape", "reshape_param { shape { dim: -1 } axis: 1 num_axes: 2 }"): lambda x: x.reshape(2, 24, 5),
    ("LRN", "lrn_param { local_size: 3 alpha: 0.9 norm_region: WITHIN_CHANNEL }"): lambda x: (
        x * (1 + 0.9 * F.avg_pool2d(x * x, 3, 1, 1)) ** -0.75
    ),
    ("Pooling", "pooling_param { pool: MAX kernel_size: 3 stride: 1 pad: 2 }"): lambda x: F.max_pool2d(
        F.pad(x, (2,) * 4, value=-9e9), 3, 1
    ),
}


@pytest.mark.parametrize("kind, body", ELEMENTWISE, ids=lambda v: str(v)[:40])
def test_layers_without_a_fixture(kind, body):
    x, outputs, _ = run(layer(kind, body))
    close(outputs["y"], ELEMENTWISE[kind, body](x), 9)


def test_joining_and_parting():
    text = (
        layer("Slice", "slice_param { slice_point: 1 }", tops="a b", name="s")
        + layer("Concat", "", "b a", "c", "c")
        + layer("Eltwise", "eltwise_param { operation: SUM coeff: 2 coeff: -1 }", "c data", "d", "d")
        + layer("Eltwise", "eltwise_param { operation: MAX }", "c data", "e", "e")
        + layer("Eltwise", "eltwise_param { operation: PROD }", "c data", "f", "f")
        + layer("Split", "", "f", "g h", "g")
        + layer("Silence", "", "h", "", "i")
    )
    x, outputs, _ = run(text)
    turned = torch.cat([x[:, 1:], x[:, :1]], 1)
    assert list(outputs) == ["d", "e", "g"], "what nobody reads is an output"
    close(outputs["d"], 2 * turned - x)
    close(outputs["e"], torch.maximum(turned, x))
    close(outputs["g"], turned * x)


def test_deconvolution_undoes_the_shape_of_convolution():
    body = (
        "convolution_param { num_output: 4 kernel_size: 3 stride: 2 pad: 1 group: 2 weight_filler { type: 'xavier' } }"
    )
    x, outputs, _ = run(layer("Deconvolution", body))
    assert outputs["y"].shape == (2, 4, 11, 9)


def test_classification_net_learns_and_counts():
    text = (
        layer(
            "InnerProduct", "inner_product_param { num_output: 3 weight_filler { type: 'xavier' } }", "data", "ip", "ip"
        )
        + 'layer { name: "label" type: "Input" top: "label" input_param { shape { dim: 2 } } }\n'
        + layer("SoftmaxWithLoss", "", "ip label", "loss", "loss")
        + layer("Accuracy", "include { phase: TEST } accuracy_param { top_k: 1 }", "ip label", "accuracy", "accuracy")
    )
    train, test = net(text, TRAIN), net(text, TEST)
    test.share_with(train)
    x, label = torch.randn(2, 4, 6, 5), torch.tensor([2.0, 0.0])
    feeds = {"data": x, "label": label}
    before = train(feeds)[1].item()
    expected = F.cross_entropy(train.layers["ip"](x), label.long()).item()
    assert before == pytest.approx(expected, rel=tolerance.rounding(1.0))
    assert set(train(feeds)[0]) == {"loss"} and set(test(feeds)[0]) == {"loss", "accuracy"}
    for _ in range(30):
        train.zero_grad()
        train(feeds)[1].backward()
        with torch.no_grad():
            for weight in train.parameters():
                weight -= 0.1 * weight.grad
    assert train(feeds)[1].item() < before
    assert test(feeds)[0]["accuracy"].item() == 1, "the test net has the weights of the train net"


@pytest.mark.parametrize(
    "rule, kept",
    [
        ("include { phase: TEST }", True),
        ("include { phase: TRAIN }", False),
        ("exclude { phase: TEST }", False),
        ("include { phase: TRAIN } include { stage: 'deploy' }", True),
        ("include { not_stage: 'deploy' }", False),
        ("include { min_level: 2 }", True),
        ("include { min_level: 4 }", False),
        ("exclude { max_level: 3 stage: 'other' }", True),
    ],
)
def test_rules(rule, kept):
    built = net(layer("ReLU", rule) + layer("TanH", "", name="z", tops="z"), level=3, stages=["deploy"])
    assert ("y" in built.outputs) == kept


def test_weights_with_one_name_are_one():
    body = (
        "param { name: 'w' } inner_product_param { num_output: 120 bias_term: false weight_filler { type: 'xavier' } }"
    )
    built = net(layer("InnerProduct", body, "data", "a", "a") + layer("InnerProduct", body, "a", "b", "b"))
    assert len(list(built.blobs())) == 1
    assert built.layers["a"].weight is built.layers["b"].weight


@pytest.mark.parametrize(
    "text, says",
    [
        (layer("Wonder"), "net.prototxt line 2: layer y has type 'Wonder'; known: AbsVal"),
        (layer("ReLU", bottoms="nothing"), "line 2: layer y reads the blob 'nothing'"),
        (layer("ReLU") + layer("ReLU", name="z"), "makes the blob 'y', which another layer has made"),
        (layer("Convolution", "convolution_param { num_output: 3 kernel_size: 3 group: 2 }"), "group 2"),
        (layer("Convolution", "convolution_param { num_output: 3 kernel_size: 9 }"), "larger than its padded bottom"),
        (layer("Convolution", "convolution_param { num_output: 3 }"), "kernel_size"),
        (layer("Pooling", "pooling_param { pool: STOCHASTIC kernel_size: 2 }"), "STOCHASTIC"),
        (layer("Pooling", "pooling_param { kernel_size: 1 stride: 4 }"), "empty window"),
        (layer("Pooling", "pooling_param { kernel_size: 2 pad: 2 }"), "smaller than the kernel"),
        (layer("EuclideanLoss", bottoms="data"), "needs 2 bottoms, has 1"),
        (layer("LRN", "lrn_param { local_size: 4 }"), "odd sizes"),
        (layer("Slice", "slice_param { slice_point: 1 }", tops="a b c"), "for 3 tops"),
        (layer("Reshape", "reshape_param { shape { dim: 7 } }"), "makes"),
        (layer("InnerProduct", "inner_product_param { num_output: 3 axis: 9 }"), "axis 9"),
        (layer("InnerProduct", "inner_product_param { num_output: 3 weight_filler { type: 'odd' } }"), "filler 'odd'"),
        (layer("InnerProduct", "inner_product_param { num_output: 4000000000 }"), "more than any known network"),
        (layer("Tile", "tile_param { tiles: 2000000000 }"), "more values than any"),
        (layer("PriorBox"), "of SSD"),
        (layer("Concat", "concat_param { axis: 5 }"), "axis 5"),
        (layer("Crop", "", "data y"), "which no layer before it makes"),
        (layer("ReLU", tops="y z"), "makes 1 tops, not 2"),
        (layer("ReLU", "include { phase: TEST } exclude { phase: TRAIN }"), "include and exclude"),
        (layer("Data", "data_param { source: 'db' backend: LEVELDB batch_size: 1 }", ""), "LEVELDB"),
    ],
)
def test_what_cannot_be_built_is_named(text, says):
    with pytest.raises(DataError) as error:
        net(text)
    assert says in str(error.value)


def test_weights_that_do_not_fit_change_nothing():
    built = net(layer("InnerProduct", "inner_product_param { num_output: 3 weight_filler { type: 'xavier' } }"))
    before = {k: v.clone() for k, v in built.state_dict().items()}
    with pytest.raises(DataError, match=r"w: layer y, blob 1: shape \(4,\) found, \(3,\) expected by net.prototxt"):
        built.load_blobs({"y": [np.ones((3, 120)), np.ones(4)]}, "w")
    with pytest.raises(DataError, match="has 1 blobs, net.prototxt needs 2"):
        built.load_blobs({"y": [np.ones((3, 120))]}, "w")
    assert all(torch.equal(v, before[k]) for k, v in built.state_dict().items())
    assert built.load_blobs({"other": [np.ones(1)]}) == ["y"], "a layer that the file lacks keeps its weights"
    built.load_blobs({"y": [np.ones((1, 1, 3, 120)), np.ones((1, 1, 1, 3))]})
    assert built.layers["y"].weight.eq(1).all(), "legacy shapes count as equal"


def test_masked_loss_leaves_unlabelled_values_out():
    text = 'layer { name: "label" type: "Input" top: "label" input_param { shape { dim: 2 dim: 120 } } }\n' + layer(
        "EuclideanLoss", "", "data label", "loss", "loss"
    )
    x, label = torch.randn(2, 4, 6, 5, requires_grad=True), torch.randn(2, 120)
    label[0, :60] = float("nan")
    loss = net(text, TRAIN, masked=True)({"data": x, "label": label})[1]
    loss.backward()
    known = ~label.isnan()
    expected = ((x.reshape(2, 120) - label)[known] ** 2).sum() / (2 * known.sum())
    close(loss, expected, label.numel())
    assert (x.grad.reshape(2, 120)[~known] == 0).all() and x.grad.isfinite().all()
    assert net(text, TRAIN)({"data": x, "label": label})[1].isnan(), "Caffe's own loss has no such rule"
    found = net(text, TRAIN, masked=True, euclidean="absolute")({"data": x, "label": label})[1]
    close(found, (x.reshape(2, 120) - label)[known].abs().mean(), label.numel())


def test_gradient_of_lrn_is_exact():
    from deeppose_caffe_port.layers import _AcrossChannels

    torch.manual_seed(0)
    x = torch.randn(2, 7, 3, 2, dtype=torch.float64, requires_grad=True)
    for beta in (0.75, 0.6):
        assert torch.autograd.gradcheck(lambda v, beta=beta: _AcrossChannels.apply(v, 5, 0.7, beta, 1.3), (x,))
        close(_AcrossChannels.apply(x, 5, 0.7, beta, 1.3), F.local_response_norm(x, 5, 0.7, beta, 1.3), 5)


def test_every_layer_type_has_a_class_that_says_what_it_does():
    assert all(cls.__doc__ for cls in LAYERS.values())


@pytest.mark.parametrize(
    "body, divisor, counted",
    [
        ("", 2, 240),
        ("loss_param { normalization: FULL }", 240, 240),
        ("loss_param { normalization: NONE }", 1, 240),
        ("loss_param { ignore_label: 0 normalize: true }", 120, 120),
        ("loss_param { ignore_label: 0 }", 2, 120),
    ],
)
def test_loss_param_of_sigmoid_cross_entropy(body, divisor, counted):
    targets = 'layer { name: "t" type: "Input" top: "t" input_param { shape { dim: 2 dim: 4 dim: 6 dim: 5 } } }\n'
    built = net(targets + layer("SigmoidCrossEntropyLoss", body, "data t"))
    x = torch.randn(2, 4, 6, 5, generator=torch.Generator().manual_seed(0))
    t = torch.zeros(240)
    t[120:] = 1.0
    t = t.reshape(x.shape)
    each = F.binary_cross_entropy_with_logits(x, t, reduction="none")
    expected = (each if counted == 240 else each[t == 1]).sum() / divisor
    close(built({"data": x, "t": t})[1], expected, counted)


def test_no_gradient_flows_where_propagate_down_says_so():
    product = "inner_product_param { num_output: 3 weight_filler { type: 'xavier' } }"
    text = layer("InnerProduct", product, "data", "a", "a") + layer(
        "InnerProduct", product + " propagate_down: %s", "a"
    )
    for word, expected in (("true", True), ("false", False)):
        built = net(text.replace("%s", word), TRAIN)
        built({"data": torch.randn(2, 4, 6, 5)})[0]["y"].sum().backward()
        assert (built.layers["a"].weight.grad is not None) == expected
        assert built.layers["y"].weight.grad is not None
    with pytest.raises(DataError, match="2 values of propagate_down for 1 bottoms"):
        net(layer("ReLU", "propagate_down: true propagate_down: true"))


def test_sparse_gaussian_fillers():
    """On average `sparse` values of each column of a weight differ from 0."""
    filler = "weight_filler { type: 'gaussian' std: 1 sparse: 5 }"
    weight = net(layer("InnerProduct", f"inner_product_param {{ num_output: 50 {filler} }}")).layers["y"].weight
    assert 0.07 < (weight != 0).float().mean() < 0.13


def test_odd_names_and_losses_without_a_top():
    """Names that a torch module keeps for itself, and a loss layer that names no top, as Caffe takes them."""
    loss = 'layer { name: "loss" type: "EuclideanLoss" bottom: "data" bottom: "pop" }\n'
    built = net(layer("ReLU", "", "data", "type", "type") + layer("Sigmoid", "", "type", "pop", "pop") + loss)
    outputs, total = built({"data": torch.zeros(2, 4, 6, 5)})
    assert list(outputs) == ["(automatic)"] and total.item() == 0.125


def test_response_normalisation_is_float32_under_bf16():
    """1 + alpha x^2 needs more than eight bits: in them this sum is 1."""
    x = torch.full((1, 3, 2, 2), 0.1)
    built = net(
        layer("LRN", "lrn_param { local_size: 3 alpha: 0.3 k: 100 }", "data"), head=DATA.replace("dim: 4", "dim: 3")
    )
    plain = built({"data": x})[0]["y"]
    low = built({"data": x.bfloat16()})[0]["y"]
    assert low.dtype == torch.bfloat16 and torch.equal(low, built({"data": x.bfloat16().float()})[0]["y"].bfloat16())
    assert plain.dtype == torch.float32
