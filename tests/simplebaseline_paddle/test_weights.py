"""Weight files: PaddlePaddle 1.x folders and combined files, PyTorch's, ours; every refusal."""

import json
import pickle
import struct
from dataclasses import asdict

import numpy as np
import paddle
import pytest

from common.errors import DataError
from common.skeletons import COCO17, CROWDPOSE14, LSP14, MPII16, Skeleton, card
from common.weights import fluid, pickles
from simplebaseline_paddle import weight_files
from simplebaseline_paddle.config import Config
from simplebaseline_paddle.model import PoseResNet
from simplebaseline_paddle.weight_files import arrays_of, load_backbone, load_first_weights, load_network, put_weights
from tests.tolerance import close, rounding

pytestmark = pytest.mark.filterwarnings("ignore")
SIZE = {"input_height": 64, "input_width": 64}


@pytest.fixture(scope="module")
def small():
    """A network of the smallest depth and its tensors."""
    paddle.seed(1)
    model = PoseResNet(18, 16)
    for name, tensor in model.state_dict().items():
        if name.endswith(("_mean", "_variance")):
            tensor.set_value(np.random.RandomState(len(name)).rand(*tensor.shape).astype(np.float32) + 0.5)
    model.eval()
    return model, arrays_of(model)


def _combine(folder, path):
    """All variables of a folder in one file, as Paddle 1.x writes them: in ascending order of their names."""
    path.write_bytes(b"".join(file.read_bytes() for file in sorted(folder.iterdir(), key=lambda f: f.name.encode())))


@pytest.mark.golden
def test_fluid_files(golden_dir):
    root = golden_dir / "simplebaseline_paddle/ckpt"
    expected = dict(np.load(root / "expected_values.npz"))
    shapes = json.loads((root / "expected_shapes.json").read_text())
    found = fluid.read_folder(root / "per_param")
    assert found.keys() == expected.keys() == shapes.keys()
    for name, array in found.items():
        assert [list(array.shape), array.dtype.name] == shapes[name]
        np.testing.assert_array_equal(array, expected[name], err_msg=name)
    combined = fluid.read_combined(root / "combined/__params__", expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(combined[name], array, err_msg=name)
    for name, array in np.load(root / "dtypes_expected.npz").items():
        value, lod = fluid.read_variable(root / "dtypes" / name)
        assert value.dtype == array.dtype
        np.testing.assert_array_equal(value, array)
        assert [level.tolist() for level in lod] == ([[0, 1, 2]] if name == "v_f32" else [])


@pytest.mark.golden
def test_fluid_files_as_paddle_reads_and_writes_them(golden_dir, tmp_path):
    root = golden_dir / "simplebaseline_paddle/ckpt"
    theirs, ours = paddle.load(str(root / "per_param")), fluid.read_folder(root / "per_param")
    for name, tensor in theirs.items():
        np.testing.assert_array_equal(np.asarray(tensor), ours[name], err_msg=name)
    fluid.write_folder(tmp_path / "again", ours)
    _combine(tmp_path / "again", tmp_path / "__params__")
    for name in ours:
        assert (tmp_path / "again" / name).read_bytes() == (root / "per_param" / name).read_bytes(), name
    assert (tmp_path / "__params__").read_bytes() == (root / "combined/__params__").read_bytes()


@pytest.mark.golden
def test_the_fixtures_network_computes_what_it_did(golden_dir):
    """The toy network from the saved files, with Paddle 3's layers."""
    root = golden_dir / "simplebaseline_paddle/ckpt"
    stored, weights = np.load(root / "toy_io.npz"), fluid.read_folder(root / "per_param")
    nn, shape = paddle.nn, {n: w.shape for n, w in weights.items()}
    toy = nn.Sequential(
        nn.Conv2D(3, shape["conv2d_0.w_0"][0], 3, padding=1, bias_attr=False),
        nn.BatchNorm2D(shape["batch_norm_0.w_0"][0]), nn.ReLU(),
        nn.Conv2DTranspose(*shape["conv2d_transpose_0.w_0"][:2], 4, stride=2, padding=1, bias_attr=False),
        nn.Conv2D(*shape["conv2d_1.w_0"][1::-1], 1),
    )  # fmt: skip
    order = [
        "conv2d_0.w_0",
        *[f"batch_norm_0.{s}" for s in weight_files.BATCH_NORM.values()],
        "conv2d_transpose_0.w_0",
        "conv2d_1.w_0",
        "conv2d_1.b_0",
    ]
    toy.set_state_dict({own: weights[name] for own, name in zip(toy.state_dict(), order, strict=True)})
    toy.eval()
    expected = stored["y_after"]
    layers = 3 * len(list(toy))
    close(toy(paddle.to_tensor(stored["x"])).numpy(), expected, rounding(np.abs(expected).max(), steps=layers))


@pytest.mark.parametrize("cut", [0, 3, 11, 15, 19, 22, 30])
def test_a_fluid_file_cut_short(tmp_path, cut):
    fluid.write_folder(tmp_path, {"x": np.arange(6, dtype=np.float32).reshape(2, 3)})
    data = (tmp_path / "x").read_bytes()
    (tmp_path / "x").write_bytes(data[:cut])
    with pytest.raises(DataError, match=r"x: byte \d+"):
        fluid.read_variable(tmp_path / "x")


def test_other_damage_to_fluid_files(tmp_path):
    fluid.write_folder(tmp_path, {"x": np.arange(6, dtype=np.int64)})
    good = (tmp_path / "x").read_bytes()
    damages = {
        "follow the variable": good + b"\0", "the version is 1": struct.pack("<I", 1) + good[4:],
        "data type is 99": good.replace(b"\x08\x03\x10", b"\x08\x63\x10"),
        "descriptor cannot be read": good.replace(b"\x08\x03\x10", b"\x09\x03\x10"),
    }  # fmt: skip
    for message, data in damages.items():
        (tmp_path / "x").write_bytes(data)
        with pytest.raises(DataError, match=message):
            fluid.read_variable(tmp_path / "x")


def test_packed_dimensions_and_lod(tmp_path):
    values = np.arange(6, dtype="<f4")
    level = struct.pack("<Q", 24) + np.array([0, 1, 2], "<u8").tobytes()
    descriptor = b"\x08\x05\x12\x02\x02\x03"
    (tmp_path / "x").write_bytes(
        struct.pack("<IQ", 0, 1) + level + struct.pack("<Ii", 0, len(descriptor)) + descriptor + values.tobytes()
    )
    array, lod = fluid.read_variable(tmp_path / "x")
    np.testing.assert_array_equal(array, values.reshape(2, 3))
    np.testing.assert_array_equal(lod[0], [0, 1, 2])


@pytest.mark.parametrize("kind", ["fluid", "weights.pth.tar", "weights.pdparams", "combined"])
def test_weights_survive_every_format(tmp_path, small, kind):
    model, arrays = small
    path = tmp_path / kind
    if kind == "combined":
        path = tmp_path / "__params__"
        fluid.write_folder(tmp_path / "f", {n: arrays[ours] for n, ours in weight_files.fluid_names(18).items()})
        _combine(tmp_path / "f", path)
    elif path.suffix == ".pdparams":
        paddle.save(model.state_dict(), str(path))
    else:
        weight_files.write_weights(path, arrays, 18)
    found = weight_files.read_state(path)["model"]
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)
    again, config, skeleton = load_network(path, SIZE, {})
    assert config.depth == 18 and skeleton == MPII16
    image = paddle.to_tensor(np.random.RandomState(0).randn(1, 3, 64, 64).astype(np.float32))
    np.testing.assert_array_equal(again(image).numpy(), model(image).numpy())


def test_a_folder_of_a_training_run_gives_the_network_only(tmp_path, small):
    arrays = {n: small[1][ours] for n, ours in weight_files.fluid_names(18).items()}
    extra = {
        "@LR_DECAY_COUNTER@": np.array([7]),
        "learning_rate": np.ones(1, np.float32),
        "conv2d_0.w_0_moment1_0": arrays["conv2d_0.w_0"],
    }
    fluid.write_folder(tmp_path, {**arrays, **extra})
    assert weight_files.read_state(tmp_path)["model"].keys() == small[1].keys()


def test_a_missing_variable_is_named(tmp_path, small):
    fluid.write_folder(tmp_path, {n: small[1][ours] for n, ours in weight_files.fluid_names(18).items()})
    (tmp_path / "batch_norm_7.w_2").unlink()
    with pytest.raises(DataError, match="lacks"):
        load_network(tmp_path, {}, {})


def _saved(tmp_path, model):
    path = tmp_path / "w.pdparams"
    paddle.save(model.state_dict(), str(path))
    return path


def test_another_depth_or_joint_count_is_said(tmp_path, small):
    path = _saved(tmp_path, small[0])
    with pytest.raises(DataError, match="field 'depth' is 18 in the checkpoint and 50 in this run"):
        load_network(path, {"depth": 50}, {})
    with pytest.raises(DataError, match=r"final_layer.weight \(16, 256, 1, 1\) instead of \(17, 256, 1, 1\)"):
        put_weights(PoseResNet(18, 17), small[1], path)


def test_files_without_names_have_the_originals_joints_or_the_data_sets(tmp_path):
    for joints, dataset, skeleton in (
        (17, None, COCO17), (17, "mpii", COCO17), (14, "lsp", LSP14), (14, "crowdpose", CROWDPOSE14)
    ):  # fmt: skip
        path = _saved(tmp_path, PoseResNet(18, joints, init="zeros", base_width=16))
        config, found = load_network(path, {}, {}, dataset)[1:]
        assert found == skeleton and config.input_size == ((288, 384) if dataset is None else config.input_size)
    with pytest.raises(DataError, match="no joint names, and 14 joints are nobody's; say with --dataset"):
        load_network(path, {}, {})


def test_a_narrow_network_comes_back_narrow(tmp_path):
    """Its width shows in the weights, so that a file without settings says it too."""
    model = PoseResNet(18, 16, base_width=16, init="zeros")
    assert model.layer4[1].conv2.weight.shape == [128, 128, 3, 3]
    config = load_network(_saved(tmp_path, model), SIZE, {})[1]
    assert config.base_width == 16 and config.name == "resnet18w16_64x64"


def test_a_checkpoints_settings_and_skeleton_hold_but_not_its_limit(small, tmp_path):
    """A dry run's `--limit` must not follow its weights into the scoring."""
    path = tmp_path / "w.pdparams"
    stored = asdict(Config(depth=18, input_height=64, input_width=96, sigma=1.0, limit=3))
    own = Skeleton("own", tuple(f"left_{i}" for i in range(8)) + tuple(f"right_{i}" for i in range(8)), ((0, 8),))
    paddle.save({"model": small[0].state_dict(), "config": stored, "about": {"skeleton": card(own)}}, str(path))
    _, config, skeleton = load_network(path, {"flip_test": False}, {})
    assert config == Config(**{**stored, "limit": None, "flip_test": False}).checked()
    assert skeleton == own and skeleton.limbs == own.limbs
    with pytest.raises(DataError, match="field 'mode' is 'correct' in the checkpoint and 'compat' in this run"):
        load_network(path, {"mode": "compat"}, {})


def test_a_checkpoint_as_microsofts_training_writes_it(small, tmp_path):
    """Its field `model` is the network's name; the tensors come from DataParallel."""
    state = {"epoch": 3, "model": "pose_resnet", "perf": 0.5, "optimizer": {"state": {}}}
    state["state_dict"] = {f"module.{weight_files.to_torch(n)}": a for n, a in small[1].items()}
    found = weight_files._state_in(tmp_path / "checkpoint.pth", state)["model"]
    assert weight_files.from_torch(found).keys() == small[1].keys()


def test_first_weights_take_the_heads_joints_by_name(small, tmp_path):
    path, model = _saved(tmp_path, small[0]), PoseResNet(18, 14)
    fresh = arrays_of(model)["final_layer.weight"]
    said = load_first_weights(model, path, LSP14)
    assert said == "13 of 14 joints by name, neck start fresh"
    head = arrays_of(model)["final_layer.weight"]
    for i, joint in enumerate(LSP14.joints):
        known = small[1]["final_layer.weight"][MPII16.index(joint)] if joint in MPII16.joints else fresh[i]
        np.testing.assert_array_equal(head[i], known, err_msg=joint)


def test_first_weights_of_another_width_are_refused(small, tmp_path):
    with pytest.raises(DataError, match="does not fit: it has other shapes: .* instead of"):
        load_first_weights(PoseResNet(18, 14, filters=(64, 64, 64)), _saved(tmp_path, small[0]), LSP14)


def test_weights_of_something_else_are_named(tmp_path):
    paddle.save({"fc.weight": paddle.ones([2, 2])}, str(tmp_path / "other.pdparams"))
    with pytest.raises(DataError, match=r"other.pdparams: its tensors are no PoseResNet's"):
        load_network(tmp_path / "other.pdparams", {}, {})


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        ({"config": 3}, "config is 3"), ({"config": {"mode": "x"}}, "setting mode"), ({"about": [1]}, "about is [1]"),
        ({"about": {}}, "about.skeleton"), ({"about": {"skeleton": {"joints": np.ones(9)}}}, "plain values"),
        ({"ema": {"shadow": 3}}, "ema.shadow is 3"), ({"model": {5: np.ones(3)}}, "5 is no tensor"),
        ({"model": {"final_layer.weight": 3.0}}, "'final_layer.weight' is no tensor"), ({"card": "[" * 99999}, "JSON"),
        ({"card": '{"skeleton": 3, "settings": {}}'}, "skeleton is 3"), ({"card": '{"settings": {}}'}, "skeleton is missing"),
        ({"without": "conv1.weight"}, "no PoseResNet"),
    ],
)  # fmt: skip
def test_what_a_file_says_of_itself_is_checked(small, tmp_path, damage, says):
    """A damaged card is never taken for none: joints would silently be the originals'."""
    if "card" in damage:
        np.savez(tmp_path / "w.npz", **small[1])
        (tmp_path / "w.npz.card.json").write_text(damage["card"])
    else:
        tensors = {n: (n, a) for n, a in small[1].items() if n != damage.get("without")}
        about = {"skeleton": card(MPII16)}
        state = {"model": tensors, "config": asdict(Config(depth=18, **SIZE)), "about": about, **damage}
        (tmp_path / "w.pdparams").write_bytes(pickle.dumps(state, 4))
    with pytest.raises(DataError) as error:
        load_network(next(tmp_path.glob("w.*[sz]")), {}, {})
    assert "/w." in str(error.value) and says in str(error.value)


def test_not_a_number_is_refused(small):
    broken = {**small[1], "conv1.weight": np.full_like(small[1]["conv1.weight"], np.nan)}
    with pytest.raises(DataError, match="not finite"):
        put_weights(PoseResNet(18, 16), broken, "file")


def test_the_backbone_alone(tmp_path, small):
    """An ImageNet folder: strangers (classifier, counter, learning rate) stay out; the head keeps its weights."""
    table = {n: ours for n, ours in weight_files.fluid_names(18).items() if ours.startswith(weight_files.BACKBONE)}
    fluid.write_folder(tmp_path, {n: small[1][ours] for n, ours in table.items()})
    fluid.write_folder(tmp_path, {"fc_0.w_0": np.ones((4, 4), np.float32), "learning_rate": np.ones(1, np.float32)})
    model = PoseResNet(18, 17)
    before = model.final_layer.weight.numpy().copy()
    assert load_backbone(model, tmp_path, 18) == len(table)
    np.testing.assert_array_equal(model.layer4[1].conv2.weight.numpy(), small[1]["layer4.1.conv2.weight"])
    np.testing.assert_array_equal(model.final_layer.weight.numpy(), before)
    with pytest.raises(DataError, match="this depth"):
        load_backbone(PoseResNet(34, 17, init="zeros"), tmp_path, 34)


def test_the_backbone_of_paddle_vision_has_our_names():
    from paddle.vision.models.resnet import BottleneckBlock as Theirs
    from paddle.vision.models.resnet import ResNet

    theirs = ResNet(Theirs, 50, num_classes=0, with_pool=False).state_dict()
    ours = {
        n: t for n, t in PoseResNet(50, 16, init="zeros").state_dict().items() if n.startswith(weight_files.BACKBONE)
    }
    assert {n: tuple(t.shape) for n, t in theirs.items()} == {n: tuple(t.shape) for n, t in ours.items()}


def test_torch_names_go_both_ways(small):
    wrapped = {f"module.{weight_files.to_torch(n)}": a for n, a in small[1].items()} | {
        "module.bn1.num_batches_tracked": np.array(3)
    }
    assert weight_files.from_torch(wrapped).keys() == small[1].keys()


def test_nothing_runs_from_a_foreign_pickle(tmp_path, capsys):
    class Evil:
        def __reduce__(self):
            return (print, ("this must not be printed",))

    for name in ("a.pdparams", "b.pth"):
        with open(tmp_path / name, "wb") as file:
            pickle.dump({"state_dict": Evil()}, file, protocol=2)
        with pytest.raises(DataError, match=name):
            weight_files.read_state(tmp_path / name)
    assert "must not be printed" not in capsys.readouterr().out


def test_bfloat16(tmp_path):
    values = paddle.to_tensor([1.5, -2.0, 0.1])
    paddle.save({"w": values.astype("bfloat16"), "step": 3, "best": np.float32(0.5)}, str(tmp_path / "a.pdparams"))
    found = pickles.read_paddle(tmp_path / "a.pdparams")
    assert found["w"].dtype == np.float32 and (found["step"], found["best"]) == (3, 0.5)
    np.testing.assert_array_equal(found["w"], values.astype("bfloat16").astype("float32").numpy())


def test_unknown_and_missing_files(tmp_path):
    (tmp_path / "notes.txt").write_text("hello, this is no checkpoint")
    for path, message in (("nowhere", "do not exist"), ("notes.txt", "unknown kind")):
        with pytest.raises(DataError, match=message):
            weight_files.read_state(tmp_path / path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no variable"):
        weight_files.read_state(tmp_path / "empty")
