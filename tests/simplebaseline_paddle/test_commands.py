"""The command lines as typed: from any folder, fast help, clear refusals."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from simplebaseline_paddle import arguments, convert, train, val
from simplebaseline_paddle.config import PRESETS, Config, augmentation_of
from simplebaseline_paddle.machine import use_vector_units

HOUSE = Path(__file__).resolve().parents[2] / "simplebaseline_paddle"
PROGRAMS = ("train", "val", "test", "predict", "convert")


@pytest.mark.parametrize("program", PROGRAMS)
def test_help_imports_no_framework(program, tmp_path):
    """Time limits on a busy machine prove little, so what matters is asserted: Paddle, OpenCV and scipy stay out."""
    code = f"import runpy, sys; sys.argv = ['{program}.py', '--help']\ntry:\n    runpy.run_path(r'{HOUSE / program}.py', run_name='__main__')\n"
    code += "except SystemExit as end:\n    assert not end.code\nheavy = {'paddle', 'cv2', 'scipy', 'torch'} & set(sys.modules)\nassert not heavy, heavy\n"
    begin = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "usage:" in done.stdout and time.monotonic() - begin < 30


@pytest.mark.parametrize("command", [["train.py", "--dataset", "mpii"], ["val.py"]])
def test_without_data(command, tmp_path):
    done = subprocess.run(
        [sys.executable, str(HOUSE / command[0]), *command[1:], "--data_root", str(tmp_path / "none")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "python -m common.datasets.synthetic" in done.stderr and "http" in done.stderr


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["--flip_test", "False"], ["--no-flip_test"]), (["--flip_test=on", "--x"], ["--flip_test", "--x"]), (["--flip_test"], ["--flip_test"]),
        (["--flip_test", "--depth", "50"], ["--flip_test", "--depth", "50"]), (["--use_gpu", "0"], ["--no-use_gpu"]), (["--lr", "1"], ["--lr", "1"]),
    ],
)  # fmt: skip
def test_switches_are_written_as_the_original_has_them(given, expected):
    assert arguments.plain_switches(given, arguments.switches()) == expected


def test_a_switch_that_is_neither():
    with pytest.raises(ValueError, match="neither true nor false"):
        arguments.plain_switches(["--flip_test=perhaps"], arguments.switches())


def test_dead_options_are_said(capsys):
    assert arguments.drop_ignored(["--total_images", "5", "--with_logits=1", "--lr", "2"]) == ["--lr", "2"]
    assert "no effect" in capsys.readouterr().out
    args = val.parse_args(
        [
            "--num_epochs=140",
            "--lr",
            "0.001",
            "--lr_strategy",
            "piecewise_decay",
            "--pretrained_model",
            "none",
            "--kp_dim",
            "17",
        ]
    )
    assert args.kp_dim == 17 and capsys.readouterr().out.count("scoring does not train") == 4


@pytest.mark.parametrize(
    ("preset", "size", "maps", "sigma"),
    [("mpii_256x256", (256, 256), (64, 64), 2), ("mpii_384x384", (384, 384), (96, 96), 3), ("coco_256x192", (192, 256), (48, 64), 2),
     ("coco_384x288", (288, 384), (72, 96), 3), ("paper", (384, 384), (96, 96), 3)],
)  # fmt: skip
def test_published_configurations(preset, size, maps, sigma):
    config = train.parse_args(["--preset", preset])
    assert (config.input_size, config.map_size, config.sigma, config.depth) == (size, maps, sigma, 50)
    assert (config.num_epochs, config.batch_size, config.lr, config.lr_epochs) == (140, 128, 1e-3, "90,120")


def test_augmentation_presets():
    assert (
        augmentation_of(Config(dataset="mpii"))
        == augmentation_of(Config(dataset="coco", augmentation="microsoft"))
        == (0.3, 40.0)
    )
    assert augmentation_of(Config(dataset="mpii", augmentation="microsoft")) == (0.25, 30.0)
    assert augmentation_of(Config(scale_factor=0.1)) == (0.1, 40.0)


@pytest.mark.parametrize(
    ("arguments_", "message"),
    [
        (["--height", "100"], "multiples of 32"),
        (["--lr_epochs", "a"], "lr_epochs"),
        (["--batch_size", "0"], "batch_size"),
    ],
)
def test_bad_settings(arguments_, message, tmp_path, capsys):
    assert train.main([*arguments_, "--data_root", str(tmp_path)]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("vendor", "flags", "own", "expected"),
    [("AuthenticAMD", "sse2 avx2 fma", None, "5"), ("AuthenticAMD", "sse2 avx2 fma", "7", "7"), ("AuthenticAMD", "sse2", None, None),
     ("GenuineIntel", "sse2 avx2 fma", None, None)],
)  # fmt: skip
def test_matrix_products_use_avx_on_amd_processors(vendor, flags, own, expected, tmp_path, monkeypatch):
    """A user's own choice stays; other processors are left alone."""
    import os

    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nvendor_id\t: {vendor}\nflags\t\t: {flags}\n")
    monkeypatch.setenv("MKL_DEBUG_CPU_TYPE", own or "")
    if own is None:
        monkeypatch.delenv("MKL_DEBUG_CPU_TYPE")
    use_vector_units(tmp_path / "cpuinfo")
    assert os.environ.get("MKL_DEBUG_CPU_TYPE") == expected
    monkeypatch.undo()
    use_vector_units(tmp_path / "no such file")


def test_enable_ce_is_seed_90():
    assert train.parse_args(["--enable_ce", "True"]).seed == 90


def test_presets_hold_settings_only():
    for preset in PRESETS.values():
        assert set(preset) <= set(Config.__dataclass_fields__)


def test_conversions(tmp_path, capsys):
    """Every format from one small checkpoint; each is checked by a forward pass, and the cards say so."""
    import json

    import paddle

    from simplebaseline_paddle.model import PoseResNet

    paddle.seed(0)
    first = tmp_path / "first.pdparams"
    paddle.save(PoseResNet(18, 16).state_dict(), str(first))
    size = ["--height", "64", "--width", "64"]
    for name, more in (("fluid", []), ("w.pth.tar", []), ("deploy", ["--kind", "inference"])):
        assert convert.main(["--input", str(first), "--output", str(tmp_path / name), *size, *more]) == 0, (
            capsys.readouterr().err
        )
        card = json.loads((tmp_path / f"{name}.card.json").read_text())
        assert card["check"]["largest_difference_in_standard_deviations"] <= card["check"]["limit"]
    assert (tmp_path / "fluid/conv2d_20.b_0").is_file() and (tmp_path / "deploy.pdiparams").is_file()
    assert convert.main(["--input", str(first), "--output", str(first)]) == 2
    assert "is the input" in capsys.readouterr().err
    assert convert.main(["--input", str(tmp_path / "fluid"), "--output", str(tmp_path / "x.bin")]) == 2
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_onnx(tmp_path, capsys):
    pytest.importorskip("paddle2onnx")
    import paddle

    from simplebaseline_paddle.model import PoseResNet

    paddle.seed(0)
    first = tmp_path / "first.pdparams"
    paddle.save(PoseResNet(18, 16).state_dict(), str(first))
    assert (
        convert.main(["--input", str(first), "--output", str(tmp_path / "w.onnx"), "--height", "64", "--width", "64"])
        == 0
    ), capsys.readouterr().err


def test_a_conversion_that_disagrees_is_not_kept(tmp_path, monkeypatch, capsys):
    import paddle

    from simplebaseline_paddle.model import PoseResNet

    first = tmp_path / "first.pdparams"
    paddle.save(PoseResNet(18, 16).state_dict(), str(first))
    real = convert._maps
    calls = []

    def off(model, inputs):
        calls.append(1)
        return real(model, inputs) + (len(calls) - 1)

    monkeypatch.setattr(convert, "_maps", off)
    assert (
        convert.main(["--input", str(first), "--output", str(tmp_path / "w.pth"), "--height", "64", "--width", "64"])
        == 2
    )
    assert "nothing was written" in capsys.readouterr().err and not (tmp_path / "w.pth").exists()


@pytest.mark.parametrize("what", ["loader", "inference"])
def test_benchmarks_run(what, tmp_path):
    """Not how fast, only that every side is measured and lands in the file; a process of its own, because it sets the threads."""
    import json

    command = [
        sys.executable,
        str(HOUSE.parent / "tests" / "bench" / "simplebaseline_paddle.py"),
        what,
        "--preset",
        "smoke",
        "--persons",
        "2",
        "--batch_size",
        "2",
        "--runs",
        "1",
    ]
    done = subprocess.run(
        [*command, "--json", str(tmp_path / "bench.json")], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "bench.json").read_text())
    assert len(figures["rows"]) >= 3 and all(row[1] > 0 and row[2] > 0 for row in figures["rows"])
    assert what in figures["command"]


def test_multiplications_of_a_network():
    """ResNet-50's 7.234 G at 256x256 (the published table's network): a sixteenth of it at 64x64."""
    from simplebaseline_paddle.model import PoseResNet, multiplications

    assert multiplications(PoseResNet(50, 16, init="zeros"), (64, 64)) == pytest.approx(7.234e9 / 16, rel=1e-4)


def test_the_original_table():
    from common.metrics import Result

    config = Config(kp_dim=17, dataset="coco")
    text = val.original_table(config, {"oks_ap": Result(0.5, {"AP": 0.5, "AR": 0.25}, "", 1, kind="part")})
    assert text.splitlines() == ["| Arch | AP | AR |", "| --- | --- | --- |", "| SIMPLEBASE RESNET50 | 0.500 | 0.250 |"]
