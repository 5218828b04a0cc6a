"""Every field of every message that a layer accepts is obeyed, or refused: nothing is read and forgotten."""

import cv2
import h5py
import numpy as np
import pytest
import torch

from common.errors import DataError
from common.images import write_lmdb
from common.weights.caffe import write_blob
from common.weights.caffe_messages import messages
from common.weights.caffe_text import TextFile, parse_text
from deeppose_caffe_port.data import datum
from deeppose_caffe_port.layers import LAYERS
from deeppose_caffe_port.model import TEST, TRAIN, CaffeNet
from deeppose_caffe_port.random_stream import CaffeRandom

torch.set_num_threads(1)
XAVIER = "weight_filler { type: 'xavier' }"
NORMAL = "weight_filler { type: 'gaussian' std: 1 }"
# layer type -> (its bottoms, what it needs besides), the first block being what is walked through
CASES = {
    "Convolution": ("x", f"convolution_param {{ num_output: 4 kernel_size: 3 {XAVIER} }}"),
    "ConvolutionDepthwise": ("x", f"convolution_param {{ num_output: 4 kernel_size: 3 {XAVIER} }}"),
    "DepthwiseConvolution": ("x", f"convolution_param {{ num_output: 4 kernel_size: 3 {XAVIER} }}"),
    "Deconvolution": ("x", f"convolution_param {{ num_output: 4 kernel_size: 3 {XAVIER} }}"),
    "InnerProduct": ("x", f"inner_product_param {{ num_output: 8 {XAVIER} }}"),
    "Scale": ("x", "scale_param { bias_term: true }"),
    "Bias": ("x", "bias_param { }"),
    "PReLU": ("x", "prelu_param { }"),
    "Normalize": ("x", "norm_param { }"),
    "BatchNorm": ("x", "batch_norm_param { }"),
    "LRN": ("x", "lrn_param { local_size: 3 alpha: 0.5 }"),
    "Pooling": ("x", "pooling_param { kernel_size: 3 stride: 2 }"),
    "ReLU": ("x", "relu_param { }"),
    "Sigmoid": ("x", "sigmoid_param { }"),
    "TanH": ("x", "tanh_param { }"),
    "AbsVal": ("x", ""),
    "BNLL": ("x", ""),
    "ELU": ("x", "elu_param { }"),
    "Power": ("x", "power_param { power: 2 }"),
    "Exp": ("x", "exp_param { }"),
    "Log": ("x", "log_param { shift: 9 }"),
    "Threshold": ("x", "threshold_param { }"),
    "Dropout": ("x", "dropout_param { }"),
    "Softmax": ("x", "softmax_param { }"),
    "Concat": ("x z", "concat_param { }"),
    "Slice": ("x", "slice_param { }"),
    "Split": ("x", ""),
    "Silence": ("x", ""),
    "Eltwise": ("x z", "eltwise_param { }"),
    "Flatten": ("x", "flatten_param { }"),
    "Reshape": ("x", "reshape_param { shape { dim: 0 dim: -1 } }"),
    "Permute": ("x", "permute_param { order: 1 }"),
    "Crop": ("x small", "crop_param { }"),
    "Tile": ("x", "tile_param { tiles: 2 }"),
    "Reduction": ("x", "reduction_param { }"),
    "ArgMax": ("x", "argmax_param { }"),
    "MVN": ("x", "mvn_param { }"),
    "EuclideanLoss": ("x z", "loss_param { }"),
    "SoftmaxWithLoss": ("x map", "loss_param { }"),
    "SigmoidCrossEntropyLoss": ("x map4", "loss_param { }"),
    "Accuracy": ("x map", "accuracy_param { }"),
    "Input": ("", "input_param { shape { dim: 2 dim: 3 } }"),
    "MemoryData": ("", "memory_data_param { batch_size: 2 channels: 1 height: 2 width: 3 }"),
    "DummyData": ("", "dummy_data_param { num: 2 channels: 1 height: 2 width: 3 }"),
    "Data": ("", "data_param { source: 'db' batch_size: 8 backend: LMDB }"),
    "ImageData": ("", "image_data_param { source: 'list' batch_size: 8 }"),
    "HDF5Data": ("", "hdf5_data_param { source: 'h5list' batch_size: 2 }"),
}
MORE = {("SoftmaxWithLoss", "softmax_param"), ("Data", "transform_param"), ("ImageData", "transform_param")}
SIZES = {"x": (2, 4, 6, 6), "z": (2, 4, 6, 6), "small": (2, 4, 3, 3), "map": (2, 6, 6), "map4": (2, 4, 6, 6)}
FILLER = {"type": "uniform", "min": 1.0, "max": 2.0}
# values where another one than the default's neighbour is needed to be seen
VALUES = {
    "source": "other", "root_folder": "sub/", "mean_value": [5.0], "backend": 0, "pad": 1, "pad_h": 1,
    "pad_w": 1, "rand_skip": 1000003, "new_height": 4, "new_width": 4, "crop_size": 3, "slice_point": [1], "coeff": [2.0, 3.0],
    "norm_region": 1, "ignore_label": 1, "label_num": 2, "bias_term": None, "num_axes": 2, "group": 2, "dim": 3, "base": 2.0,
    "operation": None, "local_size": 5, "order": [2], "offset": [1], "end_axis": 2, "shape": {"dim": [2, 12, 12]},
}  # fmt: skip
OWN_VALUES = {
    ("Input", "shape"): {"dim": [2, 5]},
    ("DummyData", "shape"): {"dim": [2, 5]},
    ("Eltwise", "coeff"): [2.0, 3.0],
    ("Reduction", "coeff"): 3.0,
    ("Pooling", "kernel_size"): 2,
    ("Reshape", "axis"): 1,
    ("Reshape", "shape"): {"dim": [0, 4, -1]},
    ("Pooling", "stride"): 3,
    ("SoftmaxWithLoss", "normalize"): False,
    ("SigmoidCrossEntropyLoss", "normalize"): True,
    ("SigmoidCrossEntropyLoss", "normalization"): 0,
    **{("DummyData", name): [5] for name in ("num", "channels", "height", "width")},
    ("ImageData", "source"): "otherlist",
    ("HDF5Data", "source"): "other5list",
    ("Data", "mean_file"): "mean1",
    ("ImageData", "mean_file"): "mean3",
}
# (message or type, field) -> why it changes no result
HARMLESS = {
    ("*", "engine"): "how, not what, is computed",
    ("*", "force_nd_im2col"): "how, not what, is computed",
    ("DataParameter", "prefetch"): "records read ahead",
    ("EltwiseParameter", "stable_prod_grad"): "how the same gradient is computed",
    ("ImageData", "force_color"): "for encoded Datums alone, in Caffe too",
    ("ImageData", "force_gray"): "for encoded Datums alone, in Caffe too",
    ("EuclideanLoss", "ignore_label"): "Caffe's EuclideanLoss has no such rule",
    ("EuclideanLoss", "normalize"): "nor this one",
    ("EuclideanLoss", "normalization"): "nor this one",
    ("ConvolutionDepthwise", "group"): "there are as many groups as channels",
    ("DepthwiseConvolution", "group"): "there are as many groups as channels",
}  # fmt: skip


def walk():
    for kind, (_, body) in CASES.items():
        blocks = [body.split(" ")[0]] if body else []
        for block in [*blocks, *(b for k, b in sorted(MORE) if k == kind)]:
            message = getattr(messages()["LayerParameter"](), block)
            yield from ((kind, block, field.name) for field in message.DESCRIPTOR.fields)


FIELDS = list(walk())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Records of colour pictures, some stored grey, as LMDBs, lists and HDF5."""
    tmp_path = tmp_path_factory.mktemp("fields")
    rng, lines = np.random.default_rng(0), []
    pictures = rng.integers(0, 255, (7, 6, 6, 3)).astype(np.uint8)
    grey = [cv2.imencode(".png", p[..., 0])[1].tobytes() for p in pictures]
    encoded = [messages()["Datum"](data=data, encoded=True, label=i, float_data=[i, 2]) for i, data in enumerate(grey)]
    write_lmdb(tmp_path / "db", ((f"{i}", record.SerializeToString()) for i, record in enumerate(encoded)))
    colour = [messages()["Datum"](data=cv2.imencode(".png", p)[1].tobytes(), encoded=True) for p in pictures]
    write_lmdb(tmp_path / "colour", ((f"{i}", record.SerializeToString()) for i, record in enumerate(colour)))
    write_lmdb(tmp_path / "other", ((f"{i}", datum(p[:5], np.arange(2))) for i, p in enumerate(pictures)))
    for place in (tmp_path, tmp_path / "sub"):
        place.mkdir(exist_ok=True)
        for i, p in enumerate(pictures):
            cv2.imwrite(str(place / f"{i}.png"), p if place == tmp_path else 255 - p)
    lines = [f"{i}.png {i}\n" for i in range(7)]
    (tmp_path / "list").write_text("".join(lines))
    (tmp_path / "otherlist").write_text("".join(reversed(lines)))
    for name in ("h5", "other5"):
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            file["y"] = rng.normal(size=(5, 3))
        (tmp_path / f"{name}list").write_text(f"{name}.h5\n")
    for channels in (1, 3):
        write_blob(tmp_path / f"mean{channels}", np.full((channels, 6, 6), 99, np.float32))
    return tmp_path


def observed(net_message, folder) -> list:
    """Everything that a layer shows in both phases: shapes, outputs, gradients, weights and their multipliers."""
    found: list = []
    for phase in (TRAIN, TEST):
        net = CaffeNet(TextFile(net_message, {}, "net.prototxt"), phase, folder, random=CaffeRandom(3))
        torch.manual_seed(0)
        rng = np.random.default_rng(1)
        feeds = {}
        for top in net.inputs:
            whole = rng.integers(0, 2, net.shapes[top]) if top.startswith("map") else rng.normal(size=net.shapes[top])
            feeds[top] = torch.from_numpy(np.asarray(whole, np.float32)).requires_grad_(not top.startswith("map"))
        for tops, source in net.sources().items():
            feeds |= dict(zip(tops, source.next_batch()))
        net(feeds)  # running statistics show their rate in the second pass
        outputs, loss = net(feeds)
        total = sum((v.double() ** 3).sum() for v in outputs.values() if v.requires_grad)
        if isinstance(total, torch.Tensor):
            total.backward()
        grads = [v.grad.tolist() for v in feeds.values() if v.grad is not None]
        blobs = [(b.lr_mult, b.decay_mult, b.tensor.requires_grad, b.tensor.tolist()) for b in net.blobs()]
        values = [(name, tuple(v.shape), v.tolist()) for name, v in outputs.items()]
        found.append((values, None if loss is None else loss.item(), grads, blobs))
    return found


def net_of(kind: str, more: str = ""):
    bottoms, body = CASES[kind]
    heads = "".join(
        f"layer {{ name: '{b}' type: 'Input' top: '{b}' input_param {{ shape {{ dim: {list(SIZES[b])} }} }} }}\n"
        for b in bottoms.split()
    )
    tops = {"Slice": "y y2", "Split": "y y2", "Silence": "", "Data": "y label", "ImageData": "y label"}.get(kind, "y")
    words = [f'bottom: "{b}"' for b in bottoms.split()] + [f'top: "{t}"' for t in tops.split()]
    return parse_text(f"{heads}layer {{ name: 'op' type: '{kind}' {' '.join(words)} {body} {more} }}", "NetParameter")


def change(message, field, kind: str) -> None:
    """Another value than the one that counts now."""
    value = OWN_VALUES.get((kind, field.name), VALUES.get(field.name))
    now = getattr(message, field.name)
    repeated = hasattr(now, "extend")
    if field.message_type:
        target = now.add() if repeated else now
        given = FILLER if field.message_type.name == "FillerParameter" else value
        target.CopyFrom(type(target)(**given))
        if repeated and len(now) > 1:
            del now[0]
    elif repeated:
        given = value if isinstance(value, list) else [2 if value is None else value]
        now[:] = given
    elif field.enum_type:
        setattr(message, field.name, value if value is not None else (now + 1) % len(field.enum_type.values) or 1)
    elif value is not None:
        setattr(message, field.name, value)
    else:
        setattr(message, field.name, not now if field.type == field.TYPE_BOOL else now + 1)


@pytest.mark.parametrize("kind, block, name", FIELDS)
def test_a_field_is_obeyed_or_refused(folder, kind, block, name):
    file = net_of(kind)
    layer = file.message.layer[-1]
    if name == "force_gray":
        layer.data_param.source = "colour"
    message, before = getattr(layer, block), observed(file.message, folder)
    field = message.DESCRIPTOR.fields_by_name[name]
    reason = next(
        (why for (who, n), why in HARMLESS.items() if n == name and who in ("*", kind, message.DESCRIPTOR.name)), None
    )
    change(message, field, kind)
    try:
        after = observed(file.message, folder)
    except DataError as error:
        assert "op" in str(error) or "list" in str(error) or "LMDB" in str(error)
        return
    assert (before == after) == (reason is not None), reason or f"{block}.{name} is read and not obeyed"


def test_every_layer_type_is_walked_through():
    assert CASES.keys() == LAYERS.keys()


FIELDS_OF_A_LAYER = {
    "bottom": "layer { name: 'op' type: 'ReLU' bottom: 'z' top: 'y' }",
    "top": "layer { name: 'op' type: 'ReLU' bottom: 'x' top: 'other' }",
    "type": "layer { name: 'op' type: 'TanH' bottom: 'x' top: 'y' }",
    "loss_weight": "layer { name: 'op' type: 'ReLU' bottom: 'x' top: 'y' loss_weight: 2 }",
    "propagate_down": "layer { name: 'op' type: 'ReLU' bottom: 'x' top: 'y' propagate_down: false }",
    "include": "layer { name: 'op' type: 'ReLU' bottom: 'x' top: 'y' include { phase: TRAIN } }",
    "exclude": "layer { name: 'op' type: 'ReLU' bottom: 'x' top: 'y' exclude { phase: TEST } }",
    "phase": "layer { name: 'op' type: 'Dropout' bottom: 'x' top: 'y' phase: TEST }",
    "blobs": "layer { name: 'op' type: 'ReLU' bottom: 'x' top: 'y' blobs { data: 1 } }",
    "param": "layer { name: 'op' type: 'PReLU' bottom: 'x' top: 'y' param { lr_mult: 0 } }",
}
PLAIN = {"phase": "Dropout", "param": "PReLU"}


@pytest.mark.parametrize("name", FIELDS_OF_A_LAYER)
def test_fields_of_all_layers(tmp_path, name):
    head = "".join(
        f"layer {{ name: '{b}' type: 'Input' top: '{b}' input_param {{ shape {{ dim: [2, 4, 6, 6] }} }} }}"
        for b in "xz"
    )
    plain = f"layer {{ name: 'op' type: '{PLAIN.get(name, 'ReLU')}' bottom: 'x' top: 'y' }}"
    before, after = (parse_text(head + text, "NetParameter").message for text in (plain, FIELDS_OF_A_LAYER[name]))
    try:
        assert observed(before, tmp_path) != observed(after, tmp_path)
    except DataError as error:
        assert "op" in str(error)


@pytest.mark.parametrize(
    "kind, change",
    [
        ("constant", "value: 2"), ("uniform", "min: 0.5"), ("uniform", "max: 3"), ("gaussian", "mean: 2"), ("gaussian", "std: 2"),
        ("gaussian", "sparse: 2"), ("xavier", "variance_norm: FAN_OUT"), ("msra", "variance_norm: AVERAGE"),
    ],
)  # fmt: skip
def test_fields_of_fillers(tmp_path, kind, change):
    text = "layer {{ name: 'op' type: 'InnerProduct' bottom: 'x' top: 'y' inner_product_param {{ num_output: 5 weight_filler {{ type: '{}' {} }} }} }}"
    head = "layer { name: 'x' type: 'Input' top: 'x' input_param { shape { dim: [2, 7] } } }"
    nets = [parse_text(head + text.format(kind, more), "NetParameter").message for more in ("", change)]
    assert observed(nets[0], tmp_path) != observed(nets[1], tmp_path)


@pytest.mark.parametrize("change", ["lr_mult: 0", "lr_mult: 3", "decay_mult: 0"])
def test_fields_of_a_weights_multipliers(tmp_path, change):
    head = "layer { name: 'x' type: 'Input' top: 'x' input_param { shape { dim: [2, 7] } } }"
    text = "layer {{ name: 'op' type: 'PReLU' bottom: 'x' top: 'y' param {{ {} }} }}"
    nets = [parse_text(head + text.format(more), "NetParameter").message for more in ("", change)]
    assert observed(nets[0], tmp_path) != observed(nets[1], tmp_path)
