"""`--detector`: every layout that is exported, by small networks that find a red rectangle, and only where colours,
scale and place of the picture in the input are what the layout says."""

import itertools
import json

import numpy as np
import pytest

from common.boxes import Detector, _cells
from common.draw import save_image
from common.errors import DataError
from common.predictions import People
from common.runs.predicting import Answers, Source, parser
from common.skeletons import LSP14

onnx = pytest.importorskip("onnx")
helper, numpy_helper = pytest.importorskip("onnx.helper"), pytest.importorskip("onnx.numpy_helper")
HEIGHT, WIDTH = 64, 96
CELLS = len(_cells((HEIGHT, WIDTH))[0])
FEATURES = ("x1", "y1", "x2", "y2", "cx", "cy", "w", "h", "log_w", "log_h")
NAMES = {0: "person", 1: "dog"}


def export(path, outputs, red=0, full=1.0, names=None, fixed=True, labels=()):
    """Writes a network that finds the smallest rectangle around the pixels whose red minus blue is `full`.

    `outputs`: name -> nested lists of numbers and (feature, factor, offset); `labels`: which of them are whole numbers.
    """
    nodes, constants = [], []

    def constant(name, value, kind=np.float32):
        constants.append(numpy_helper.from_array(np.asarray(value, kind), name))
        return name

    def node(kind, inputs, name, **more):
        nodes.append(helper.make_node(kind, inputs, [name], **more))
        return name

    sign = np.array([1, 0, -1]) * (1 if red == 0 else -1)
    axis, shape = constant("axis", [1], np.int64), [1, 3, *([HEIGHT, WIDTH] if fixed else ["h", "w"])]
    plane = node(
        "ReduceSum",
        [node("Mul", ["images", constant("sign", sign.reshape(1, 3, 1, 1))], "signed"), axis],
        "p",
        keepdims=0,
    )
    near = node(
        "Less", [node("Abs", [node("Sub", [plane, constant("full", full)], "d")], "a"), constant("e", 0.1 * full)], "n"
    )
    mask = node("Cast", [near], "mask", to=1)
    ends = {}
    for name, side, along in (("x", WIDTH, 1), ("y", HEIGHT, 2)):
        row = node("ReduceMax", [mask], f"{name}_row", axes=[along], keepdims=0)
        if not fixed:  # of a picture of its own size
            row = node(
                "Slice",
                [row, constant(f"{name}0", [0], np.int64), constant(f"{name}n", [side], np.int64), axis],
                f"{name}_cut",
            )
        for end, ramp in (("2", np.arange(1, side + 1)), ("1", np.arange(side, 0, -1))):
            product = node("Mul", [row, constant(f"{name}{end}_ramp", ramp)], f"{name}{end}_on")
            ends[name + end] = node("ReduceMax", [product], f"{name}{end}", axes=[1], keepdims=1)
        ends[name + "1"] = node("Sub", [constant(f"{name}_side", [[side]]), ends[name + "1"]], f"{name}1_place")
    corners = node("Concat", [ends[k] for k in ("x1", "y1", "x2", "y2")], "corners", axis=1)
    more = node(
        "MatMul",
        [corners, constant("halves", [[0.5, 0, -1, 0], [0, 0.5, 0, -1], [0.5, 0, 1, 0], [0, 0.5, 0, 1]])],
        "more",
    )
    size = node("MatMul", [corners, constant("sizes", [[-1, 0], [0, -1], [1, 0], [0, 1]])], "size")
    log = node("Log", [node("Max", [size, constant("one", 1)], "size1")], "log")
    features = node("Concat", [corners, more, log], "features", axis=1)
    for name, table in outputs.items():
        flat = [[v] if not isinstance(v, tuple) else v for v in _flatten(table)]
        weight, offset = np.zeros((len(FEATURES), len(flat))), np.zeros(len(flat))
        for i, value in enumerate(flat):
            offset[i] = value[-1]
            if len(value) == 3:
                weight[FEATURES.index(value[0]), i] = value[1]
        product = node("MatMul", [features, constant(f"{name}_w", weight)], f"{name}_product")
        moved = node("Add", [product, constant(f"{name}_b", offset)], f"{name}_flat")
        shaped = node(
            "Reshape",
            [moved, constant(f"{name}_s", _shape(table), np.int64)],
            name if name not in labels else f"{name}_f",
        )
        if name in labels:
            node("Cast", [shaped], name, to=7)
    inputs = [helper.make_tensor_value_info("images", 1, shape)]
    made = [helper.make_tensor_value_info(n, 7 if n in labels else 1, _shape(t)) for n, t in outputs.items()]
    model = helper.make_model(
        helper.make_graph(nodes, "finder", inputs, made, constants),
        opset_imports=[helper.make_opsetid("", 13)],
        ir_version=8,
    )
    if names:
        helper.set_model_props(model, {"names": str(names)})
    onnx.save(model, str(path))
    return path


def _shape(table):
    return [len(table), *_shape(table[0])] if isinstance(table, list) else []


def _flatten(table):
    return [v for part in table for v in _flatten(part)] if isinstance(table, list) else [table]


def at(*names, by=0.0, factor=1.0):
    return [(name, factor, by) for name in names]


MIDDLE, CORNERS = ("cx", "cy", "w", "h"), ("x1", "y1", "x2", "y2")
ROWS = {5: (0.9, 0.1), 6: (0.6, 0.1), 7: (0.1, 0.95), 8: (0.2, 0.1)}  # person, the same again, a dog, too unsure


def cells_of(row, empty):
    return [[row(ROWS[i], i) if i in ROWS else empty for i in range(CELLS)]]


def undecoded(scores, i):
    (x, y), stride = _cells((HEIGHT, WIDTH))[0][i], float(_cells((HEIGHT, WIDTH))[1][i, 0])
    middle = [("cx", 1 / stride, -float(x)), ("cy", 1 / stride, -float(y))]
    return [*middle, *at("log_w", "log_h", by=-float(np.log(stride))), 1.0, *scores]


def columns(table):
    return [[[row[c] for row in table[0]] for c in range(len(table[0][0]))]]


def layouts():
    """Name -> (words, arguments of `export`)."""
    detect = columns(cells_of(lambda s, i: [*at(*MIDDLE), *s], [0.0] * 6))
    pose = columns(cells_of(lambda s, i: [*at(*MIDDLE), s[0] * (s[1] < 0.5), *[7.0] * 51], [0.0] * 56))
    rows = [[[*at(*CORNERS), s[0] if s[1] < 0.5 else s[1], float(s[1] > 0.5)] for s in (ROWS[5], ROWS[7], ROWS[8])]]
    posed = [[row + [7.0] * 51 for row in rows[0]]]
    yolox = cells_of(lambda s, i: [*at(*MIDDLE), 1.0, *s], [0.0] * 7)
    places, strides = _cells((HEIGHT, WIDTH))
    for row, place in zip(yolox[0], (places * strides).tolist()):
        row[:2] = place if row[0] == 0.0 else row[:2]  # cells without a person say where they are
    raw = cells_of(undecoded, [0.0] * 7)
    dets = {"dets": [[row[:5] for row in rows[0]]], "labels": [[row[5] for row in rows[0]]]}
    vision = {
        "boxes": [row[:4] for row in rows[0]],
        "labels": [1 + row[5] for row in rows[0]],
        "scores": [row[4] for row in rows[0]],
    }
    normal = {"red": 2, "full": (255 - 123.675) / 58.395 + 103.53 / 57.375}
    return {
        "detect": ("Ultralytics detect", {"outputs": {"output0": detect}, "names": NAMES}),
        "unnamed": ("Ultralytics detect", {"outputs": {"output0": detect}}),
        "pose": ("Ultralytics pose", {"outputs": {"output0": pose}, "names": {0: "person"}}),
        "detect_nms": ("Ultralytics detect with NMS", {"outputs": {"output0": rows}, "names": NAMES}),
        "pose_nms": ("Ultralytics pose with NMS", {"outputs": {"output0": posed}, "names": NAMES}),
        "swapped": ("Ultralytics detect with NMS", {"outputs": {"output0": [[[*r[:5], 1 - r[5]] for r in rows[0]]]}, "names": {0: "dog", 1: "person"}}),
        "yolox_decoded": ("YOLOX", {"outputs": {"output": yolox}, "red": 2, "full": 255.0}),
        "yolox": ("YOLOX", {"outputs": {"output": raw}, "red": 2, "full": 255.0}),
        "rtmdet": ("MMDeploy (RTMDet", {"outputs": dets, "labels": ("labels",), **normal}),
        "mmdeploy_yolox": ("MMDeploy (YOLOX", {"outputs": dets, "labels": ("labels",), "red": 2, "full": 255.0}),
        "torchvision": ("torchvision", {"outputs": vision, "labels": ("labels",)}),
        "torchvision_any_size": ("torchvision", {"outputs": vision, "labels": ("labels",), "fixed": False}),
    }  # fmt: skip


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("detectors")
    return {name: export(folder / f"{name}.onnx", **how) for name, (_, how) in layouts().items()}


def picture(height, width, box):
    """Dark, with a red rectangle."""
    image, (x, y, w, h) = np.full((height, width, 3), 40, np.uint8), box
    image[y : y + h, x : x + w] = (0, 0, 255)
    return image


@pytest.mark.parametrize("name", layouts())
def test_a_layout_is_recognised_and_its_person_is_found_where_it_is(name, exported):
    detector = Detector(exported[name], 0.3, "cpu", 1)
    assert detector.layout.startswith(layouts()[name][0])
    sizes = [
        ((64, 96), (10, 20, 30, 40)),
        ((300, 200), (40, 80, 100, 160)),
        ((40, 30), (6, 8, 15, 20)),
        ((50, 400), (120, 10, 160, 30)),
    ]
    for (height, width), box in sizes[: 1 if name == "torchvision_any_size" else None]:
        boxes, score = detector(picture(height, width, box))
        assert len(boxes) == 1 and score == pytest.approx([0.9])
        scale = min(HEIGHT / height, WIDTH / width)
        np.testing.assert_allclose(boxes[0], box, atol=max(1.5, 3 / scale))


def test_threshold_and_nobody(exported):
    image = picture(64, 96, (10, 20, 30, 40))
    assert len(Detector(exported["detect"], 0.95)(image)[0]) == 0
    boxes, score = Detector(exported["rtmdet"], 0.15)(image)
    assert score == pytest.approx([0.9, 0.2]) and boxes.shape == (2, 4)
    assert len(Detector(exported["yolox"], 0.3)(np.zeros((20, 30, 3), np.uint8))[0]) == 0


def test_what_is_no_detector_is_named(tmp_path, exported):
    (tmp_path / "a.onnx").write_bytes(b"no network")
    with pytest.raises(DataError, match="a.onnx is not loadable"):
        Detector(tmp_path / "a.onnx")
    with pytest.raises(DataError, match="no such file"):
        Detector(tmp_path / "b.onnx")
    with pytest.raises(DataError, match="outputs scores .* none of"):
        Detector(export(tmp_path / "c.onnx", {"scores": [[0.0, 1.0]]}))
    outputs = layouts()["detect_nms"][1]["outputs"]
    with pytest.raises(DataError, match="classes cat, dog, and no person"):
        Detector(export(tmp_path / "d.onnx", outputs, names={0: "cat", 1: "dog"}))


def test_predicting_looks_where_the_detector_says(tmp_path, exported, capsys):
    for number, box in enumerate([(10, 20, 30, 40), (40, 10, 20, 50)]):
        save_image(tmp_path / "in" / f"{number}.png", picture(64, 96, box))
    looked = []

    def run(*words):
        args = parser("about").parse_args(
            [str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--no-draw", *map(str, words)]
        )
        source = Source(args.source, args.recursive, args.limit)
        with Answers(args, source, LSP14, "house") as answers:
            for one in itertools.chain.from_iterable(answers.track(source)):
                looked.append(one.boxes.round().tolist())
                answers.write(one, People.of(np.full((len(one.boxes), 14, 2), 20.0)))

    run("--detector", exported["pose"])
    assert np.allclose(looked, [[[10, 20, 30, 40]], [[40, 10, 20, 50]]], atol=2)
    assert "Ultralytics pose, persons are class 0" in capsys.readouterr().err
    assert len(json.loads((tmp_path / "out" / "joints.jsonl").read_text().splitlines()[0])["persons"]) == 1
    run()
    said = capsys.readouterr().err
    assert said.count("whole picture is taken as one person") == 1 and "--detector" in said
    with pytest.raises(DataError, match="give one of them"):
        run("--detector", exported["pose"], "--boxes", "1,2,3,4")
