"""The command lines as typed: from any folder, fast help, clear refusals; conversions."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from common.skeletons import MPII16, card
from simplebaseline_paddle import convert, estimator, predict, test, train, val
from simplebaseline_paddle.config import PRESETS, Config
from tests.simplebaseline_paddle import _recipe as recipe

HOUSE = Path(__file__).resolve().parents[2] / "simplebaseline_paddle"
PROGRAMS = ("train", "val", "test", "predict", "convert")
SIZE = ["--input_height", "64", "--input_width", "64"]


@pytest.mark.parametrize("program", PROGRAMS)
def test_help_imports_no_framework(program, tmp_path):
    code = f"import runpy, sys; sys.argv = ['{program}.py', '--help']\n"
    code += f"try:\n    runpy.run_path(r'{HOUSE / program}.py', run_name='__main__')\n"
    code += "except SystemExit as end:\n    assert not end.code\n"
    code += "heavy = {'paddle', 'scipy', 'torch'} & set(sys.modules)\nassert not heavy, heavy\n"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "usage:" in done.stdout and len(done.stdout.splitlines()) <= 75


def test_the_package_is_light_until_its_estimator_is_used(tmp_path):
    code = f"import sys; sys.path.append(r'{HOUSE.parent}'); before = list(sys.path)\n"
    code += "from simplebaseline_paddle import Estimator\n"
    code += "assert sys.path == before and 'paddle' not in sys.modules\n"
    code += "from common.errors import DataError\ntry:\n    Estimator('nothing')\nexcept DataError as e:\n    print(e)"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert "nothing is neither a file nor a folder nor shipped" in done.stdout, done.stderr


@pytest.mark.parametrize("command", [["train.py", "--dataset", "mpii"], ["val.py"]])
def test_without_data(command, tmp_path):
    words = [sys.executable, str(HOUSE / command[0]), *command[1:], "--data_root", str(tmp_path / "none")]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "python -m common.datasets.synthetic" in done.stderr and "http" in done.stderr


def test_the_originals_spellings():
    """P's options and defaults; switches as P writes them, dead options said."""
    config = train.parse_args(["--num_epochs", "3", "--lr_strategy=cosine", "--checkpoint", "F", "--use_gpu", "False"])
    assert (config.epochs, config.schedule, config.weights, config.device) == (3, "cosine", "F", "cpu")
    assert train.parse_args(["--enable_ce", "True"]).seed == 90
    assert train.parse_args(["--model_save_dir", "D", "--dataset", "coco"]).folder == Path("D/simplebase-coco")
    args = val.parse_args(["--flip_test=no", "--use_gpu", "0", "--checkpoint", "DIR"])
    assert not args.flip_test and not args.use_gpu and args.weights == "DIR"
    assert val.parse_args(["--detections", "F.json"]).boxes == val.parse_args(["--boxes", "detections", "F.json"]).boxes


def test_dead_options_are_said(capsys):
    dead = [
        "--num_epochs=140",
        "--lr",
        "0.001",
        "--lr_strategy",
        "piecewise_decay",
        "--kp_dim",
        "17",
        "--total_images",
        "5",
    ]
    assert val.parse_args(dead).dataset is None and capsys.readouterr().err.count("no effect") == 5


@pytest.mark.parametrize("words", [["--boxes", "detections"], ["--boxes", "a", "b"]])
def test_boxes_that_say_nothing(words, capsys):
    with pytest.raises(SystemExit):
        val.parse_args(words)
    assert "selected, annotated, whole, or detections FILE" in capsys.readouterr().err


def test_the_originals_test_is_predict_on_a_folder(monkeypatch):
    seen = []
    monkeypatch.setattr(predict, "predict", seen.append)
    assert test.main(["--image_dir=a b", "--flip_test", "no", "--dataset", "coco"]) == 0 and test.main([]) == 0
    assert (seen[0].source, seen[0].flip_test, seen[0].dataset) == (["a b"], False, "coco")
    assert seen[1].source == [str(HOUSE.parent / "data/mpii/images/test")] and seen[1].dataset == "mpii"


@pytest.mark.parametrize(
    ("preset", "size", "maps", "sigma"),
    [("mpii_256x256", (256, 256), (64, 64), 2), ("mpii_384x384", (384, 384), (96, 96), 3),
     ("coco_256x192", (192, 256), (48, 64), 2), ("coco_384x288", (288, 384), (72, 96), 3),
     ("paper", (384, 384), (96, 96), 3)],
)  # fmt: skip
def test_published_configurations(preset, size, maps, sigma):
    config = train.parse_args(["--preset", preset])
    assert (config.input_size, config.map_size, config.sigma, config.depth) == (size, maps, sigma, 50)
    assert (config.epochs, config.batch_size, config.lr, config.lr_epochs) == (140, 128, 1e-3, "90,120")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--input_height", "100"], "multiples of 32"), (["--lr_epochs", "a"], "lr_epochs"),
        (["--batch_size", "0"], "batch_size"), (["--deconv_filters", "8"], "deconv_filters"),
        (["--sigma", "0"], "sigma"), (["--scale_factor", "2"], "scale_factor"), (["--lr_epochs", "-3"], "lr_epochs"),
        (["--boxes", "whole"], "training takes selected or annotated"),
    ],
)  # fmt: skip
def test_bad_settings(words, message, tmp_path, capsys):
    recipe.write_mpii(tmp_path / "mpii", 1, 1)
    # one epoch: what is taken after all fails this test and does not train for days
    more = f"--data_root {tmp_path / 'mpii'} --preset paper --epochs 1 --batch_size 1 --out {tmp_path / 'run'}".split()
    assert train.main([*more, *words]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "own", "expected"),
    [("AuthenticAMD sse2 avx2 fma", None, "5"), ("AuthenticAMD sse2 avx2 fma", "7", "7"),
     ("AuthenticAMD sse2", None, None), ("GenuineIntel sse2 avx2 fma", None, None)],
)  # fmt: skip
def test_matrix_products_use_avx_on_amd_processors(words, own, expected, tmp_path, monkeypatch):
    """A user's own choice stays; other processors are left alone."""
    (tmp_path / "cpuinfo").write_text(f"flags: {words}\n")
    monkeypatch.setattr(estimator, "CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setenv("MKL_DEBUG_CPU_TYPE", own or "")
    if own is None:
        monkeypatch.delenv("MKL_DEBUG_CPU_TYPE")
    estimator.before_paddle()
    assert os.environ.get("MKL_DEBUG_CPU_TYPE") == expected
    monkeypatch.setattr(estimator, "CPUINFO", tmp_path / "none")
    assert not estimator.processor()


def test_presets_hold_settings_only():
    for preset in PRESETS.values():
        assert set(preset) <= set(Config.__dataclass_fields__)


@pytest.fixture
def first(tmp_path):
    """A small network's weights without settings."""
    import paddle

    from simplebaseline_paddle.model import PoseResNet

    paddle.seed(0)
    paddle.save(PoseResNet(18, 16).state_dict(), str(tmp_path / "first.pdparams"))
    return tmp_path / "first.pdparams"


def test_conversions(first, tmp_path, capsys):
    """Every format from one small checkpoint, checked by a forward pass; the cards say so, and whose joints it has."""
    half = ("half.npz", ["--half"])
    for name, more in (("fluid", []), ("w.pth.tar", []), ("w.pdparams", []), half, ("deploy", ["--kind", "inference"])):
        assert convert.main([str(first), str(tmp_path / name), *SIZE, *more]) == 0, capsys.readouterr().err
        content = json.loads((tmp_path / f"{name}.card.json").read_text())
        check = content["check"]["heat-maps"]
        assert check["largest difference"] <= check["tolerance"] and content["skeleton"] == card(MPII16)
    assert (tmp_path / "fluid/conv2d_20.b_0").is_file() and (tmp_path / "deploy.pdiparams").is_file()
    own = json.loads((tmp_path / "half.npz.card.json").read_text())
    assert own["check"]["heat-maps"]["largest difference"] > 0
    shipped = estimator.Estimator(tmp_path / "half.npz")
    assert shipped.config.input_size == (64, 64) and shipped.skeleton == MPII16
    for source, goal, message in (
        (first, first, "there already"),
        (first, "fluid", "there already"),
        (tmp_path / "fluid", "x.bin", "which format"),
    ):
        assert convert.main([str(source), str(tmp_path / goal)]) == 2
        assert message in capsys.readouterr().err
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_a_card_beside_weights_brings_settings_and_skeleton_back(first, tmp_path):
    from simplebaseline_paddle import Estimator

    assert convert.main([str(first), str(tmp_path / "w.pth"), *SIZE]) == 0
    content = json.loads((tmp_path / "w.pth.card.json").read_text())
    content["skeleton"]["name"], content["skeleton"]["joints"][0:6:5] = "turned", ["left_ankle", "right_ankle"]
    del content["skeleton"]["flip_pairs"]
    (tmp_path / "w.pth.card.json").write_text(json.dumps(content))
    again = Estimator(tmp_path / "w.pth")
    assert again.config.input_size == (64, 64) and again.skeleton.joints[0] == "left_ankle"


def test_onnx(first, tmp_path, capsys):
    pytest.importorskip("paddle2onnx")
    assert convert.main([str(first), str(tmp_path / "w.onnx"), *SIZE]) == 0, capsys.readouterr().err


def test_a_conversion_that_disagrees_is_not_kept(first, tmp_path, monkeypatch, capsys):
    real = convert._tensors
    monkeypatch.setattr(convert, "_tensors", lambda *args, **more: real(*args, **more) + 1)
    assert convert.main([str(first), str(tmp_path / "w.pth"), *SIZE]) == 2
    assert "nothing was written" in capsys.readouterr().err and not (tmp_path / "w.pth").exists()


@pytest.mark.parametrize("what", ["loader", "inference"])
def test_benchmarks_run(what, tmp_path):
    """Not how fast, only that every side is measured and lands in the file; a process of its own for its threads."""
    script = str(HOUSE.parent / "tests" / "bench" / "simplebaseline_paddle.py")
    small = [
        "--preset",
        "smoke",
        "--persons",
        "2",
        "--batch_size",
        "2",
        "--runs",
        "1",
        "--json",
        str(tmp_path / "bench.json"),
    ]
    done = subprocess.run(
        [sys.executable, script, what, *small], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "bench.json").read_text())
    assert len(figures["rows"]) >= 2 and all(row[1] > 0 and row[2] > 0 for row in figures["rows"])
    assert what in figures["command"]


def test_multiplications_of_a_network():
    """ResNet-50's 7.234 G at 256x256 (the published table's network, to half its last digit): a sixteenth at 64x64."""
    from simplebaseline_paddle.model import PoseResNet

    spec = importlib.util.spec_from_file_location("bench", HOUSE.parent / "tests/bench/simplebaseline_paddle.py")
    bench = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bench)
    assert bench.multiplications(PoseResNet(50, 16, init="zeros"), (64, 64)) == pytest.approx(
        7.234e9 / 16, abs=0.5e6 / 16
    )
