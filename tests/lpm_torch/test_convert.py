"""Caffe models in and out, checkpoints to other formats, and what happens with files that do not fit."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from common.errors import DataError
from common.skeletons import CPM14, LPM14, LSP14, card, mirror_name
from common.weights.caffe import array_blob, messages, read_caffemodel, read_net, write_caffemodel
from lpm_torch import Estimator, convert
from lpm_torch.caffe_map import map_caffe, reorder, role_of
from lpm_torch.config import Config
from lpm_torch.weight_files import network_of, read_checkpoint, read_weights
from tests.reference.lpm_torch import build_model, caffe_forward
from tests.tolerance import close, rounding

WIDTH = 1 / 16
CASES = Path(__file__).parents[1] / "common" / "cases" / "weights"


def official(seed=0):
    """A small official network with weights that make every layer matter."""
    torch.manual_seed(seed)
    model = build_model("lpm_official", width=WIDTH).eval()
    for name, p in model.named_parameters():
        torch.nn.init.normal_(p, std=0.3 if name.endswith("bias") else (2 / p[0].numel()) ** 0.5)
    return model


def layers(model, stages=6):
    """lpm_official's parameters as the layers of the authors' training file, one copy a stage."""
    state, found = model.state_dict(), {}

    def put(caffe, ours):
        bias = state[f"{ours}.bias"].numpy()
        if ours.startswith("scale_"):
            found[caffe] = ("Scale", [np.ones_like(bias), bias])
        else:
            found[caffe] = ("Convolution", [state[f"{ours}.weight"].numpy(), bias])

    for k in range(1, 8):
        put(f"conv{k}_stage1", f"conv{k}_stage1")
    for s in range(2, stages + 1):
        for k in range(1, 5):
            put(f"conv{k}_stage{s}", f"conv{k}_stage2")
        for q in "gio" if s == 2 else "gfio":
            put(f"{q}_x_stage{s}", f"{q}_x")
            if s > 2:
                put(f"{q}_h_stage{s}", f"{q}_h")
            put(f"{q}_stage{s}", f"scale_{q}")
        for m in range(1, 6):
            put(f"Mconv{m}_stage2" if s == 2 else f"Mres{m}_stage{s}", f"Mres{m}")
    return found


def after_layers(maps):
    """What rounding explains after the some 60 layers that a third frame has behind it."""
    return rounding(maps.abs().max().item(), steps=60)


@pytest.fixture
def training_file(tmp_path):
    """As the authors' training files: one copy a layer and stage."""
    model = official()
    path = tmp_path / "penn.caffemodel"
    write_caffemodel(path, layers(model))
    return path, model


def run(*arguments):
    return convert.main([str(a) for a in arguments])


def load(path):
    return torch.load(path, weights_only=True)


def clip(frames=3, size=64):
    draw = torch.Generator().manual_seed(5)
    return torch.randn(1, frames, 3, size, size, generator=draw), torch.rand(1, 1, size, size, generator=draw)


@pytest.mark.golden
def test_reads_files_that_caffe_wrote(golden_dir, tmp_path):
    """Exactly: the stored numbers."""
    folder = golden_dir / "lpm_torch"
    with np.load(folder / "tiny_caffemodel_expected.npz") as data:
        for version in ("v1", "v2"):
            source = folder / f"tiny_{version}.caffemodel"
            found = {
                f"{version}/{layer}/{i}": b
                for layer, blobs in read_caffemodel(source).items()
                for i, b in enumerate(blobs)
            }
            assert sorted(found) == sorted(k for k in data.files if k.startswith(version))
            for key, array in found.items():
                assert array.dtype == data[key].dtype and array.shape == data[key].shape
                np.testing.assert_array_equal(array, data[key])
            # as the original's converter: flat names, flat biases
            assert run("--input", source, "--output", tmp_path / "out.npz") == 0
            with np.load(tmp_path / "out.npz") as flat:
                for key in found:
                    _, layer, blob = key.split("/")
                    stored = flat[f"{layer}.{'weight' if blob == '0' else 'bias'}"]
                    np.testing.assert_array_equal(stored, data[key].reshape(-1) if blob == "1" else data[key])
            assert read_net(source).SerializeToString() == source.read_bytes()


def test_unknown_fields_survive():
    net = messages()["NetParameter"]()
    extra = b"\x82\x7d\x03abc"  # field 2000, which no Caffe has
    net.layer.add(name="a").MergeFromString(extra)
    again = messages()["NetParameter"]()
    again.ParseFromString(net.SerializeToString())
    assert extra in again.SerializeToString()


def test_training_file_to_official(training_file):
    path, model = training_file
    assert run("--input", path, "--model", "lpm_official", "--licence", "as given") == 0
    output = Path(str(path) + ".pt")
    for name, tensor in model.state_dict().items():
        assert torch.equal(load(output)[name], tensor), name
    card = json.loads(Path(str(output) + ".card.json").read_text())
    assert card["licence"] == "as given"
    assert card["source"] == path.name and len(card["source_sha256"]) == 64
    assert card["mapping"]["Mres1.weight"] == "Mconv1_stage2/0"
    assert card["check"].keys() == {"tensors read back"}
    assert card["about"]["skeleton"]["name"] == "cpm14"


def test_counts_of_the_full_table(training_file):
    blobs = read_caffemodel(training_file[0])
    assert len(blobs) == 106
    for name, count in (("lpm", 56), ("lpm_raw", 206)):
        state, sources, missing = map_caffe(blobs, name, build_model(name, width=WIDTH).state_dict())
        assert (len(state), missing) == (count, []), name
    # frame 1 has its own generator's name in lpm_raw
    assert sources["Mconv3_stage2.weight"] == "Mconv3_stage2/0" and sources["f_stage4.bias"] == "f_stage4/1"


def test_legacy_layers(tmp_path):
    """The format before 2014: vectors of shape (1, 1, 1, n)."""
    model, legacy = official(), messages()["NetParameter"]()
    for name, (_, blobs) in layers(model, stages=3).items():
        legacy.layers.add(name=name, type="CONVOLUTION").blobs.extend(array_blob(b, legacy=True) for b in blobs)
    (tmp_path / "b.caffemodel").write_bytes(legacy.SerializeToString())
    output = tmp_path / "b.npz"
    assert run(tmp_path / "b.caffemodel", output, "--model", "lpm_official") == 0
    loaded = read_weights(output)
    for name, tensor in model.state_dict().items():
        np.testing.assert_array_equal(loaded[name], tensor.numpy(), err_msg=name)


def test_pre_model_has_one_encoder(tmp_path):
    """The weights that most users start from: name-equal loading would leave lpm's image encoder random."""
    every = layers(official())
    pre = {k: v for k, v in every.items() if not (k.startswith("conv") and k[-1] in "3456")}
    assert len(pre) == 90
    path = tmp_path / "pre.caffemodel"
    write_caffemodel(path, pre)
    for model in ("lpm", "lpm_raw"):
        output = tmp_path / f"{model}.pt"
        assert run("--input", path, "--model", model, "--output", output) == 0
        for stage in ("6",) if model == "lpm" else "23456":
            np.testing.assert_array_equal(load(output)[f"conv2_stage{stage}.weight"], every["conv2_stage2"][1][0])
    mapping = json.loads((tmp_path / "lpm.pt.card.json").read_text())["mapping"]
    assert mapping["conv4_stage6.weight"] == "conv4_stage2/0"


def test_unmatched_tensors_fail(tmp_path, capsys):
    every = layers(official())
    broken = {k: v for k, v in every.items() if not k.startswith("o_h")}
    path, output = tmp_path / "x.caffemodel", tmp_path / "x.pt"
    write_caffemodel(path, broken)
    assert run("--input", path, "--model", "lpm", "--output", output) == 2
    message = capsys.readouterr().err
    assert "o_h_stage6.weight" in message and not output.exists()


def test_copies_that_differ_and_scales_that_are_not_one(tmp_path, capsys):
    every = layers(official())
    other = dict(every)
    other["Mres2_stage4"] = ("Convolution", [b + 1 for b in every["Mres2_stage4"][1]])
    write_caffemodel(tmp_path / "a.caffemodel", other)
    assert run("--input", tmp_path / "a.caffemodel", "--model", "lpm_official") == 2
    assert "Mres2_stage4" in capsys.readouterr().err
    assert run("--input", tmp_path / "a.caffemodel", "--model", "lpm_raw") == 0  # has a place for each copy
    scaled = {k: (kind, [2 * b[0], b[1]]) if kind == "Scale" else (kind, b) for k, (kind, b) in every.items()}
    write_caffemodel(tmp_path / "b.caffemodel", scaled)
    assert run("--input", tmp_path / "b.caffemodel", "--model", "lpm_official") == 2
    assert "not 1 everywhere" in capsys.readouterr().err


@pytest.mark.parametrize("naming", ["person", "penn"])
def test_reorder_permutes_the_beliefs(training_file, tmp_path, naming):
    path, model = training_file
    output = tmp_path / "r.pt"
    assert run("--input", path, "--model", "lpm_official", "--reorder", naming, "--output", output) == 0
    ours = build_model("lpm_official", width=WIDTH).eval()
    ours.load_state_dict(load(output))
    with torch.inference_mode():
        plain, found = model(*clip())[1], ours(*clip())[1]
    for i, joint in enumerate(LPM14.joints):
        channel = CPM14.index(mirror_name(joint) if naming == "penn" else joint)
        close(found[:, :, i], plain[:, :, channel].numpy(), after_layers(plain), joint)
    close(found[:, :, 14], plain[:, :, 14].numpy(), after_layers(plain), "background")


def test_reorder_of_the_compat_graphs():
    torch.manual_seed(0)
    for name in ("lpm", "lpm_raw", "cpm"):
        model = build_model(name, width=WIDTH, init="kaiming").eval()
        changed = reorder(model.state_dict(), model.channels.feature)
        assert torch.equal(changed["conv7_stage1.bias"][8], model.conv7_stage1.bias[1])  # neck
        if name == "cpm":
            continue  # its Mconv1 reads beliefs too, which the authors' LSTM files have no table for
        other = build_model(name, width=WIDTH).eval()
        other.load_state_dict(changed)
        order = [*CPM14.indices(LPM14.joints), 14]
        with torch.inference_mode():
            expected = model(*clip())[1][:, :, order]
            close(other(*clip())[1], expected.numpy(), after_layers(expected), name)


def test_the_network_computes_what_the_caffe_layers_compute(training_file, tmp_path):
    """Every stage's maps: the same sums in another order."""
    path, _ = training_file
    assert run(path, tmp_path / "o.pt", "--model", "lpm_official") == 0
    model = build_model("lpm_official", width=WIDTH).eval()
    model.load_state_dict(load(tmp_path / "o.pt"))
    frames, center = clip()
    with torch.inference_mode():
        found, expected = model(frames, center)[1][0], caffe_forward(read_caffemodel(path), frames[0], center)
    close(found, expected.numpy(), after_layers(expected), "maps")


def test_a_failing_check_saves_nothing(training_file, tmp_path, capsys, monkeypatch):
    path, _ = training_file
    monkeypatch.setattr(
        "lpm_torch.weight_files.read_weights", lambda path: {k: v + 1 for k, v in read_weights(path).items()}
    )
    assert run("--input", path, "--model", "lpm_official", "--output", tmp_path / "no.pt") == 2
    assert "nothing was written" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("suffix", [name for name in convert.FORMATS if name != ".onnx"])
def test_checkpoints_to_every_format(tmp_path, suffix):
    torch.manual_seed(0)
    model = build_model("lpm", width=WIDTH, init="kaiming")
    source = tmp_path / "lpm_best.pth.tar"
    state = {f"module.{k}": v for k, v in model.state_dict().items()}  # as the original saves it
    torch.save({"epoch": 3, "state_dict": state, "optimizer": {}}, source)
    output = tmp_path / f"out{suffix}"
    assert run("--input", source, "--output", output) == 0
    back = read_weights(output)
    assert sorted(back) == sorted(model.state_dict())
    for name, tensor in model.state_dict().items():
        np.testing.assert_array_equal(back[name], tensor.numpy(), err_msg=name)
    card = json.loads(Path(f"{output}.card.json").read_text())
    assert card["epoch"] == 3 and card["check"]


@pytest.mark.parametrize("name", ["lpm", "cpm"])
def test_onnx_computes_the_clip(tmp_path, name):
    """Checked by the programme: 1e-4 of the largest value, another library's summation order."""
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    torch.manual_seed(0)
    config = Config(model=name, channels=WIDTH, input_width=64, t=2)
    state = build_model(name, width=WIDTH, init="kaiming").state_dict()
    torch.save({"state_dict": state, "config": vars(config), "about": {"skeleton": card(LSP14)}}, tmp_path / "w.pt")
    assert run(tmp_path / "w.pt", tmp_path / "w.onnx") == 0
    inputs = onnxruntime.InferenceSession(str(tmp_path / "w.onnx")).get_inputs()
    assert [(i.name, i.shape) for i in inputs] == [("frames", [1, 2, 3, 64, 64]), ("center", [1, 1, 64, 64])]


@pytest.mark.parametrize(("suffix", "more"), [(".npz", []), (".pt", []), (".npz", ["--half"])])
def test_converted_checkpoint_is_read_with_its_own_settings(tmp_path, suffix, more, capsys):
    """The card beside a plain weight file says what the checkpoint said; another network or mode is refused as a
    checkpoint's is."""
    config = Config(
        model="lpm", channels=WIDTH, norm="batch", input_width=64, t=3, center_map="correct", pad_pixels=0.0, pad_ratio=0.15, dataset="lsp",
    )  # fmt: skip
    model = build_model("lpm", width=WIDTH, norm="batch")
    source, output = tmp_path / "best.pth.tar", tmp_path / f"weights{suffix}"
    about = {"skeleton": card(LSP14), "dataset": "lsp"}
    torch.save({"epoch": 1, "state_dict": model.state_dict(), "config": vars(config), "about": about}, source)
    assert run(source, output, *more) == 0
    found = Estimator(output)
    fields = ("channels", "norm", "input_width", "t", "center_map", "pad_pixels", "pad_ratio", "dataset")
    assert {f: getattr(found.config, f) for f in fields} == {f: getattr(config, f) for f in fields}
    assert found.skeleton == LSP14
    written = {k: v.half().to(v.dtype) if more else v for k, v in model.state_dict().items()}
    assert all(torch.equal(v, written[k]) for k, v in found.model.state_dict().items())
    assert run(source, tmp_path / "x.pt", "--half") == 2
    assert run(source.rename(tmp_path / "best.pth.tar").parent, tmp_path / "of_the_run.pt") == 0
    if suffix == ".npz":
        Path(f"{output}.card.json").rename(tmp_path / "aside")
        with pytest.raises(DataError, match="does not say its joints without weights.npz.card.json"):
            Estimator(output)
        (tmp_path / "aside").rename(f"{output}.card.json")
    for other, message in (({"model": "cpm"}, "--model=lpm"), ({"mode": "compat"}, "--mode=correct")):
        with pytest.raises(DataError, match=message):
            Estimator(output, **other)


@pytest.mark.parametrize(
    "network",
    [{"name": "cpm"}, {"name": "lpm"}, {"name": "lpm", "norm": "batch"}, {"name": "lpm_raw", "T": 3}, {"name": "lpm_official"}],
)  # fmt: skip
def test_weights_say_which_network_they_are(network):
    with torch.device("meta"):
        found = network_of(build_model(**network, width=0.5, joints=13).state_dict(), "x")
    settings = {"model": network["name"], "channels": 0.5, "norm": network.get("norm", "none")}
    assert found == settings | ({"t": 3} if "T" in network else {})


def test_bad_input_is_named(tmp_path, capsys):
    (tmp_path / "text.caffemodel").write_text('name: "net"')
    torch.save({"a.weight": torch.zeros(2)}, tmp_path / "foreign.pt")
    (tmp_path / "broken.pth.tar").write_bytes(b"\x80")
    write_caffemodel(tmp_path / "other.caffemodel", {"fc1": ("InnerProduct", [np.zeros((2, 2), np.float32)])})
    for arguments, words in (
        (["--input", tmp_path / "none.pt"], "none.pt is neither a file nor"),
        (["--input", tmp_path / "text.caffemodel"], "not a readable Caffe file"),
        (["--input", tmp_path / "foreign.pt", "--output", tmp_path / "y.npz"], "no network of lpm_torch"),
        (["--input", tmp_path / "broken.pth.tar"], "broken.pth.tar"),
        (["--input", tmp_path / "other.caffemodel", "--model", "lpm"], "no layer conv1_stage1"),
        (["--input", tmp_path / "other.caffemodel", "--reorder"], "--reorder needs --model"),
        (["--input", tmp_path / "foreign.pt", "--output", tmp_path / "x.zip"], "suffix"),
        (["--input", tmp_path / "foreign.pt", "--output", tmp_path / "foreign.pt"], "there already"),
    ):
        assert run(*arguments) == 2
        assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        ({"config": 3}, "config is 3"), ({"config": {"model": "x"}}, "setting model"), ({"about": [1]}, "about is [1]"),
        ({"about": {"skeleton": 3}}, "about.skeleton"), ({"about": {"skeleton": torch.ones(3)}}, "plain values"),
        ({"ema": {"shadow": 3}}, "ema.shadow is 3"), ({"ema": {"shadow": {None: 3}}}, "does not fit"),
        ({"state_dict": {5: 3.0}}, "does not fit"), ({"format": torch.ones(3)}, "field format"),
    ],
)  # fmt: skip
def test_what_a_file_says_of_itself_is_checked(tmp_path, damage, says):
    config = {"model": "cpm", "channels": 0.0625}
    torch.save(
        {"state_dict": {}, "config": config, "about": {"skeleton": card(LPM14)}, **damage}, tmp_path / "w.pth.tar"
    )
    with pytest.raises(DataError) as error:
        Estimator(tmp_path / "w.pth.tar")
    assert "w.pth.tar" in str(error.value) and says in str(error.value)


def test_roles():
    assert role_of("conv3_stage1") == ("first", "3", 1) and role_of("conv3_stage5") == ("encoder", "3", 5)
    assert role_of("g_x_stage2") == ("x", "g", 2) and role_of("o_stage4") == ("after", "o", 4)
    assert role_of("Mconv5_stage2") == ("generator", "5", 2) and role_of("relu1_stage1") is None


def test_help_answers_without_a_framework():
    path = str(Path(convert.__file__))
    code = (
        "import runpy, sys\n"
        f"sys.argv = [{path!r}, '--help']\n"
        f"try:\n    runpy.run_path({path!r}, run_name='__main__')\n"
        "except SystemExit:\n    pass\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize("name", ["np_scalar_zip", "deque_zip", "listsub_zip"])
def test_files_that_pytorch_refuses_are_read(name):
    found = read_checkpoint(CASES / f"{name}.pth.tar")
    assert found["state_dict"]["conv1.weight"].shape == (4, 3, 3, 3)
    assert all(isinstance(tensor, torch.Tensor) for tensor in found["state_dict"].values())


@pytest.mark.parametrize("name", ["empty.pth.tar", "four_bytes.pth.tar", "stride0_2g.pth"])
def test_hostile_files_are_refused(name, capsys):
    assert run("--input", CASES / name, "--model", "lpm", "--output", "x.npz") == 2
    assert name in capsys.readouterr().err


def test_a_flipped_bit_is_noticed(tmp_path):
    data = bytearray((CASES / "deque_zip.pth.tar").read_bytes())
    with zipfile.ZipFile(CASES / "deque_zip.pth.tar") as archive:
        values = archive.read("deque_zip.pth/data/0")
    data[data.index(values) + len(values) // 2] ^= 1
    (tmp_path / "a.pth.tar").write_bytes(data)
    with pytest.raises(DataError, match="a.pth.tar is damaged"):
        read_checkpoint(tmp_path / "a.pth.tar")
