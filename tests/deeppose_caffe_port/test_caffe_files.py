"""Caffe's files: text with line and column of what is wrong, unknown fields, old nets, LMDB records."""

import argparse
import collections
import pathlib
import shutil

import lmdb
import numpy as np
import pytest
import torch
from google.protobuf import text_format
from hypothesis import given
from hypothesis import strategies as st

from common.errors import DataError
from common.images import write_lmdb
from common.weights import caffe
from common.weights.caffe import type_name, upgrade_net, write_caffemodel
from common.weights.caffe_messages import ENUMS, MESSAGES, messages
from common.weights.caffe_text import parse_text, read_text
from common.weights.pickles import read_torch
from deeppose_caffe_port import convert
from deeppose_caffe_port.data import datum
from deeppose_caffe_port.model import TRAIN, CaffeNet
from deeppose_caffe_port.sources import LmdbSource, Prefetch

CASES = pathlib.Path(__file__).resolve().parent.parent / "common/cases/weights"


@pytest.mark.parametrize(
    "text, place, says",
    [
        ('layer {\n  name: "a"\n', ":2:9:", 'Expected "}"'),
        ("layer {\n  name: a\n}", ":2:9:", "Expected string"),
        ("layer {\n  nam: 1 }", ":2:3:", 'no field named "nam". Did you mean name?'),
        ('name "x"', ":1:6:", 'Expected ":"'),
        ("layer { convolution_param { pad: -1 } }", ":1:34:", "out of range"),
        ("input_dim: 1.5", ":1:12:", "parse integer"),
        ("\n\n  layer { phase: TRIAN }", ":3:18:", "TRAIN, TEST"),
        ("layer $", ":1:7:", 'Expected "{"'),
        ('name: "a" name: "b"', ":1:17:", 'multiple "name"'),
        ("force_backward: maybe", ":1:17:", '"true" or "false"'),
        ("input_dim: [1, 2", ":1:17:", 'Expected ","'),
        ("} layer { }", ":1:1:", "identifier"),
        ("layer: 3", ":1:8:", 'Expected "{"'),
        ("input_dim: 99999999999", ":1:12:", "out of range"),
    ],
)
def test_syntax_errors_say_where(text, place, says):
    with pytest.raises(DataError) as error:
        parse_text(text, "NetParameter", "net.prototxt")
    assert f"net.prototxt{place}" in str(error.value)
    assert says in str(error.value)


def test_everything_that_protobuf_text_allows():
    text = """
    # comment
    name: 'it' "'s \\"one\\"" ; input_dim: [1, 0x10, 3] input_dim: 4,
    layer < name: "b" type: "Scale" exclude: { phase: 1 } scale_param { bias_term: t filler { value: 1.5e-2f min: -inf } } >
    layer: [ { name: "c" unheard_of_param { a: 1 b { c: "}" } } }, { name: "d" } ]
    """
    net = parse_text(text, "NetParameter").message
    assert net.name == 'it\'s "one"'
    assert list(net.input_dim) == [1, 16, 3, 4]
    assert [layer.name for layer in net.layer] == ["b", "c", "d"]
    assert net.layer[0].exclude[0].phase == 1
    assert net.layer[0].scale_param.filler.value == pytest.approx(0.015)
    assert net.layer[0].scale_param.filler.min == -np.inf


@given(st.floats(width=32, allow_nan=False), st.integers(-(2**31), 2**31 - 1), st.booleans(), st.text(max_size=20))
def test_what_protobuf_writes_is_read_back(number, whole, flag, name):
    solver = messages()["SolverParameter"](
        base_lr=number, max_iter=whole, debug_info=flag, snapshot_prefix=name, stepvalue=[1, 2]
    )
    solver.net_param.layer.add(name=name).convolution_param.kernel_size.append(3)
    assert parse_text(text_format.MessageToString(solver, as_utf8=False), "SolverParameter").message == solver


def test_table_is_consistent():
    """Every type that the table names exists, and no field number occurs twice."""
    for name, fields in MESSAGES.items():
        numbers = [int(field[1]) for field in fields]
        assert len(numbers) == len(set(numbers)), name
    assert len(messages()) == len(MESSAGES)
    assert all(type_name(number) for number in range(1, len(ENUMS["LayerType"])))


def test_unknown_fields_are_kept(tmp_path):
    """A field that the table lacks (number 200 of a layer) survives reading and writing."""
    net = messages()["NetParameter"]()
    layer = net.layer.add(name="a", type="Strange")
    layer.blobs.append(caffe.array_blob(np.ones(2, np.float32)))
    raw = layer.SerializeToString() + b"\xc2\x0c\x03abc"  # tag 200, length-delimited
    data = b"\xa2\x06" + bytes([len(raw)]) + raw  # tag 100
    (tmp_path / "old.caffemodel").write_bytes(data)
    caffe.write_message(tmp_path / "new.caffemodel", caffe.read_net(tmp_path / "old.caffemodel"))
    assert b"abc" in (tmp_path / "new.caffemodel").read_bytes()


@pytest.mark.parametrize("legacy", [False, True])
def test_blobs_without_axes(tmp_path, legacy):
    """One value, in neither of the two shapes (Caffe's own) or as 1 x 1 x 1 x 1 (which OpenCV reads too)."""
    blob = caffe.array_blob(np.array(0.25))
    assert (blob.num, blob.width, blob.HasField("shape")) == (1, 1, False)
    if not legacy:
        for field in ("num", "channels", "height", "width"):
            blob.ClearField(field)
    assert caffe.blob_array(blob).shape == ((1, 1, 1, 1) if legacy else ()) and caffe.blob_array(blob) == 0.25


def test_of_two_layers_of_one_name_the_last_counts(tmp_path):
    net = messages()["NetParameter"]()
    for value in (1, 2):
        net.layer.add(name="twice").blobs.append(caffe.array_blob(np.full(3, value)))
    caffe.write_message(tmp_path / "w.caffemodel", net)
    assert caffe.read_caffemodel(tmp_path / "w.caffemodel")["twice"][0].tolist() == [2, 2, 2]


@pytest.mark.parametrize("share", [0.0, 0.3, 0.999])
def test_truncated_model(tmp_path, share):
    caffe.write_caffemodel(tmp_path / "w.caffemodel", {"conv": ("Convolution", [np.ones((4, 3, 3, 3))])})
    data = (tmp_path / "w.caffemodel").read_bytes()
    (tmp_path / "w.caffemodel").write_bytes(data[: int(len(data) * share)])
    with pytest.raises(DataError, match="w.caffemodel"):
        caffe.read_caffemodel(tmp_path / "w.caffemodel")


def test_solverstate_and_mean_round_trip(tmp_path):
    arrays = [np.arange(6, dtype=np.float32).reshape(2, 3), np.zeros(1, np.float32)]
    caffe.write_solverstate(tmp_path / "s.solverstate", 7, "w.caffemodel", 2, arrays)
    found = caffe.read_solverstate(tmp_path / "s.solverstate")
    assert found[:3] == (7, "w.caffemodel", 2)
    assert all(np.array_equal(a, b) for a, b in zip(found[3], arrays))
    caffe.write_blob(tmp_path / "m.binaryproto", np.ones((3, 4, 5), np.float32))
    assert caffe.read_blob(tmp_path / "m.binaryproto").shape == (1, 3, 4, 5)
    (tmp_path / "bad.solverstate").write_bytes(b"\xff\xff")
    with pytest.raises(DataError, match="bad.solverstate"):
        caffe.read_solverstate(tmp_path / "bad.solverstate")
    with pytest.raises(DataError, match="does not exist"):
        caffe.read_blob(tmp_path / "none.binaryproto")


def test_prototxt_that_is_none(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        read_text(tmp_path / "none.prototxt", "NetParameter")
    (tmp_path / "b.prototxt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="not a text file"):
        read_text(tmp_path / "b.prototxt", "NetParameter")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "gbk", "latin-1"])
def test_comments_in_any_encoding(tmp_path, encoding):
    comment = "\u00e9\u00d7" if encoding == "latin-1" else "\u6ce8\u91ca\u5c42"
    text = f'# {comment} {{ "\r\nlayer {{ name: \'a\' }} # {comment}\r\nlayer # {comment}\r\n{{ name: "#b" }}'
    (tmp_path / "a.prototxt").write_bytes(text.encode(encoding))
    file = read_text(tmp_path / "a.prototxt", "NetParameter")
    assert [layer.name for layer in file.message.layer] == ["a", "#b"]
    assert [file.where("layer", i)[-6:] for i in (0, 1)] == ["line 2", "line 3"] and "line" not in file.where(
        "layers", 0
    )


def test_other_encodings_are_refused_outside_comments(tmp_path):
    (tmp_path / "a.prototxt").write_bytes(b'name: "x"\nlayer { name: "\xe9" }')
    with pytest.raises(DataError, match="a.prototxt:2:16: a byte that is no UTF-8"):
        read_text(tmp_path / "a.prototxt", "NetParameter")


def test_legal_prototxts_of_others():
    folder = pathlib.Path(__file__).parents[1] / "common" / "cases" / "weights"
    for name, layers in (("gbk_comment", ["conv"]), ("layer_named_type", ["data", "type"])):
        net = read_text(folder / f"{name}.prototxt", "NetParameter").message
        assert [layer.name for layer in net.layer] == layers


def test_misspelled_fields_in_a_foreign_block_are_read_over_but_not_beside_it():
    text = 'layer { name: "a" xyz_param { a { b: 1 } c: "}" } %s }\nlayer { name: "b" }'
    file = parse_text(text % "", "NetParameter")
    assert [layer.name for layer in file.message.layer] == ["a", "b"] and file.lines == {
        ("layer", 0): 1,
        ("layer", 1): 2,
    }
    with pytest.raises(DataError, match="no field named .typo_param"):
        parse_text("typo_param { a: 1 } " + text % "", "NetParameter")
    with pytest.raises(DataError, match="1:51: .*Did you mean type"):
        parse_text(text % "tipe: 1", "NetParameter")


def test_upgrade_of_old_nets():
    text = """input: "data" input_shape { dim: 2 dim: 3 }
    layers { name: "d" type: DATA top: "x" data_param { source: "db" scale: 0.5 mean_file: "m" batch_size: 1 } }
    layers { name: "f" type: INNER_PRODUCT bottom: "x" top: "f" blobs_lr: 1 blobs_lr: 2 weight_decay: 1 param: "shared" }
    layers { name: "l" type: SOFTMAX_LOSS bottom: "f" bottom: "y" top: "l" include { phase: TRAIN } }"""
    net = upgrade_net(parse_text(text, "NetParameter").message)
    assert [layer.type for layer in net.layer] == ["Input", "Data", "InnerProduct", "SoftmaxWithLoss"]
    assert list(net.layer[0].input_param.shape[0].dim) == [2, 3]
    assert net.layer[1].transform_param.scale == 0.5 and net.layer[1].transform_param.mean_file == "m"
    assert [(p.lr_mult, p.decay_mult, p.name) for p in net.layer[2].param] == [(1, 1, "shared"), (2, 1, "")]
    assert net.layer[3].include[0].phase == 0
    mixed = parse_text('layer { name: "a" } layers { name: "b" }', "NetParameter").message
    with pytest.raises(DataError, match="one of the two"):
        upgrade_net(mixed)


def records(count: int, labels: int, side: int = 4) -> list[tuple[str, bytes]]:
    images = np.random.default_rng(0).integers(0, 255, (count, side, side, 3)).astype(np.uint8)
    return [(f"{i:08d}", datum(images[i], np.full(labels, i))) for i in range(count)]


def test_reading_goes_on_from_the_start_and_shares_out(tmp_path):
    write_lmdb(tmp_path / "db", iter(records(5, 2)))
    source = LmdbSource(tmp_path / "db", 2, 2)
    order = [int(v) for _ in range(5) for v in source.next_batch()[1][:, 0, 0, 0]]
    assert order == [0, 1, 2, 3, 4, 0, 1, 2, 3, 4]
    parts = [LmdbSource(tmp_path / "db", 1, 2, rank, 2) for rank in (0, 1)]
    shared = [int(part.next_batch()[1][0, 0, 0, 0]) for _ in range(5) for part in parts]
    assert shared == order, "two processes read what one with the doubled batch reads"


def test_a_replaced_lmdb_is_read_anew(tmp_path):
    for count in (3, 5):
        shutil.rmtree(tmp_path / "db", ignore_errors=True)
        write_lmdb(tmp_path / "db", iter(records(count, 2)))
        assert len(LmdbSource(tmp_path / "db", 1, 2)) == count


def test_prefetch_gives_the_same_and_reports_what_was_consumed(tmp_path):
    import torch

    write_lmdb(tmp_path / "db", iter(records(5, 2)))
    feed = Prefetch({("data", "label"): LmdbSource(tmp_path / "db", 2, 2)}, torch.device("cpu"))
    first, second = feed.next(), feed.next()
    assert first["label"][:, 0, 0, 0].tolist() == [0, 1] and second["label"][:, 0, 0, 0].tolist() == [2, 3]
    assert feed.positions == {"data": 4}
    feed.close()


def test_encoded_and_stock_datums(tmp_path):
    import cv2

    image = np.random.default_rng(0).integers(0, 255, (4, 5, 3)).astype(np.uint8)
    encoded = messages()["Datum"](data=cv2.imencode(".png", image)[1].tobytes(), encoded=True, label=7)
    floats = messages()["Datum"](channels=1, height=2, width=2, float_data=[1, 2, 3, 4], label=3)
    for name, record in (("a", encoded), ("b", floats)):
        write_lmdb(tmp_path / name, iter([("0", record.SerializeToString())]))
    pixels, label = LmdbSource(tmp_path / "a", 1).record(0)
    assert np.array_equal(pixels, image.transpose(2, 0, 1)) and label == 7
    pixels, label = LmdbSource(tmp_path / "b", 1).record(0)
    assert pixels.ravel().tolist() == [1, 2, 3, 4] and label == 3
    grey = messages()["Datum"](data=cv2.imencode(".png", image[..., 0])[1].tobytes(), encoded=True)
    write_lmdb(tmp_path / "c", iter([("0", grey.SerializeToString())]))
    for force, shape in (("", (1, 4, 5)), ("gray", (1, 4, 5)), ("color", (3, 4, 5))):
        pixels, _ = LmdbSource(tmp_path / "c", 1, force=force).record(0)
        assert pixels.shape == shape and (pixels == image[..., 0]).all(), force


def test_bad_lmdbs(tmp_path):
    write_lmdb(tmp_path / "short", iter(records(3, 2)))
    with pytest.raises(DataError, match=r"record 00000000: field float_data has 2 labels, label_num is 6"):
        LmdbSource(tmp_path / "short", 1, 6).record(0)
    with pytest.raises(DataError, match="does not exist"):
        LmdbSource(tmp_path / "none", 1)
    with pytest.raises(DataError, match="exists already"):
        write_lmdb(tmp_path / "short", iter(records(1, 2)))
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "data.mdb").write_bytes(b"nothing" * 1000)
    with pytest.raises(DataError, match="cannot be opened"):
        LmdbSource(tmp_path / "broken", 1)
    with lmdb.open(str(tmp_path / "foreign")) as environment, environment.begin(write=True) as transaction:
        transaction.put(b"key", b"\xff\xff\xff")
    with pytest.raises(DataError, match="record key: not a Datum"):
        LmdbSource(tmp_path / "foreign", 1).record(0)
    data = (tmp_path / "short" / "data.mdb").read_bytes()
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "data.mdb").write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match="cut off"):
        LmdbSource(tmp_path / "cut", 1)


def test_a_failed_lmdb_leaves_nothing(tmp_path):
    def failing():
        yield from records(2, 2)
        raise DataError("image gone")

    with pytest.raises(DataError, match="image gone"):
        write_lmdb(tmp_path / "db", failing())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "data",
    [
        'type: "MemoryData" top: "data" top: "label" memory_data_param { batch_size: 2 channels: 3 height: 6 width: 5 }',
        'type: "Data" top: "data" top: "label" transform_param { crop_size: 6 mean_file: "none" } data_param { source: "none" batch_size: 2 backend: LMDB }',
        'type: "ImageData" top: "data" top: "label" transform_param { crop_size: 6 } image_data_param { source: "none" batch_size: 2 }',
    ],
)
def test_a_net_is_converted_without_its_data(tmp_path, data):
    """Its shapes are in the layer, or the crop's; trained, it still says that its data are missing."""
    tail = """layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip" inner_product_param { num_output: 4 } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }"""
    (tmp_path / "net.prototxt").write_text(f'layer {{ name: "d" {data} }}\n{tail}')
    size = 90 if "Memory" in data else 108
    weights = [np.random.default_rng(0).normal(size=(4, size)).astype(np.float32), np.zeros(4, np.float32)]
    write_caffemodel(tmp_path / "w.caffemodel", {"ip": ("InnerProduct", weights)})
    words = [str(tmp_path / "w.caffemodel"), str(tmp_path / "w.pt"), f"--model={tmp_path / 'net.prototxt'}"]
    assert convert.main(words) == 0
    np.testing.assert_array_equal(read_torch(tmp_path / "w.pt")["layers.ip.weight"], weights[0])
    if "Memory" not in data:
        with pytest.raises(DataError, match="does not exist"):
            CaffeNet.from_file(tmp_path / "net.prototxt", TRAIN, tmp_path)
        (tmp_path / "net.prototxt").write_text((tmp_path / "net.prototxt").read_text().replace("crop_size: 6", ""))
        assert convert.main([*words[:1], str(tmp_path / "x.pt"), words[2]]) == 2


def test_pt_files_of_other_programs(tmp_path, capsys):
    """Weights beside objects of other libraries are read, other layouts too; what cannot be is said in our words."""
    text = (
        'input: "data" input_shape { dim: 1 dim: 6 } layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip" '
    )
    (tmp_path / "deploy.prototxt").write_text(f"{text} inner_product_param {{ num_output: 2 }} }}")
    weights = {"layers.ip.weight": torch.rand(2, 6), "layers.ip.bias": torch.rand(2, dtype=torch.bfloat16)}
    beside = {"epoch": np.float64(3), "args": argparse.Namespace(lr=1), "losses": collections.deque([1.5])}
    for zipped in (True, False):
        torch.save({"model": weights, **beside}, tmp_path / "w.pt", _use_new_zipfile_serialization=zipped)
        assert convert.main([str(tmp_path / "w.pt"), str(tmp_path / "w.caffemodel")]) == 0, capsys.readouterr().err
        found = caffe.read_caffemodel(tmp_path / "w.caffemodel")["ip"]
        for blob, tensor in zip(found, weights.values(), strict=True):
            np.testing.assert_array_equal(blob, tensor.float().numpy())
    torch.save(torch.nn.Linear(6, 2), tmp_path / "whole.pt")
    torch.save({"model": {**weights, "layers.ip.bias": [1.0, 2.0]}}, tmp_path / "list.pt")
    torch.save([1], tmp_path / "shape.pt")
    shutil.copy(CASES / "stride0_2g.pth", tmp_path / "stride.pt")
    for name in ("whole", "list", "shape", "stride"):
        assert convert.main([str(tmp_path / f"{name}.pt"), str(tmp_path / "x.caffemodel")]) == 2
        said = capsys.readouterr().err
        assert f"{name}.pt" in said and "weights_only" not in said and "\x1b" not in said
