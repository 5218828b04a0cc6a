"""train.py's options: the original's, presets, setting files, and which come first."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from common.errors import DataError
from common.runs.process import place
from lpm_torch import config, train
from lpm_torch.hourglass import Bottleneck, ConvBlock
from lpm_torch.model import build_network
from lpm_torch.weight_files import graph_fields
from tests.lpm_torch import tiny

ROOT = Path(__file__).resolve().parents[2]

# the original's options, their names here where they differ, and its defaults
ORIGINAL = {
    "model": ("lpm", ""), "t": (5, ""), "depth": (4, ""), "block": ("res", ""), "init_weight": (None, "weights"), "lr": (1e-3, ""),
    "step_size": (None, ""), "gamma": (1.0, ""), "batch_size": (4, ""), "weight_decay": (0.0, ""), "max_epochs": (100, "epochs"),
    "resolution": (256, "input_width"), "subset_size": (None, "limit"), "clip": (None, ""),
    "checkpoint_name": (None, "resume"), "model_dir": (None, ""), "data_dir": (None, "data_root"), "gpus": (None, ""),
}  # fmt: skip


def test_options_and_defaults_of_the_original():
    defaults = replace(train.parse_args(["--data_root=nowhere"]), data_root=None)  # a bare call, on no drawn data
    assert {name: getattr(defaults, own or name) for name, (_, own) in ORIGINAL.items()} == {
        n: v for n, (v, _) in ORIGINAL.items()
    }
    assert defaults.dataset == "penn_action"
    given = {k: v for k, (v, _) in ORIGINAL.items() if v is not None} | {
        "init_weight": "a", "step_size": 7, "subset_size": 3, "clip": 0.5, "checkpoint_name": "b", "model_dir": "c", "data_dir": "d",
    }  # fmt: skip
    words = [f"--{k}={v}" for k, v in given.items()]
    ignored = "--log_dir=./logs", "--experiment=Pose Estimation", "--host=none", "--pck_r=0.2", "--log_freq=800"
    parsed = train.parse_args([*words, "--dataset=PennAction", "--gpus=0,1", "--debug", *ignored, "--preset=none"])
    assert {k: getattr(parsed, ORIGINAL[k][1] or k) for k in given} == given and parsed.device == "cuda:0,1"
    assert parsed.folder == Path("c/lpm/PennAction")


@pytest.mark.parametrize(("block", "kind"), [("res", Bottleneck), ("inv", Bottleneck), ("conv", ConvBlock)])
def test_block_of_the_command_line_is_the_networks(block, kind):
    found = train.parse_args(["--preset=none", "--model=hourglass", f"--block={block}", "--depth=2"])
    with torch.device("meta"):
        network = build_network(found, 14)
    assert isinstance(network.res1, kind) and len(network.hg_0.layers) == 2
    assert {"block", "depth"} <= set(graph_fields("hourglass")), (
        "another block is refused when its checkpoint is loaded"
    )


def test_bf16_that_a_gpu_only_imitates_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    with pytest.raises(DataError, match="bf16"):
        place(torch, torch.nn.Linear(1, 1), torch.device("cuda"), "bf16")


def test_settings_come_from_preset_file_and_command_line_in_that_order(tmp_path):
    settings = tmp_path / "run.ini"
    settings.write_text("lr = 5e-4\nmax_epochs = 7\nexperiment = Pose Estimation Training\n")
    found = train.parse_args(["--preset=paper", f"--config={settings}", "--epochs=9"])
    assert (found.lr, found.epochs, found.step_size) == (5e-4, 9, 60000)
    for preset in config.PRESETS:
        assert isinstance(train.parse_args([f"--preset={preset}"]), config.Config)
    synthetic = train.parse_args([f"--data_dir={tiny.lsp()}", "--dataset=LSP"])
    assert synthetic.channels == config.PRESETS["smoke"]["channels"]
    assert train.parse_args(["--data_root=nowhere"]).lr == 1e-3


@pytest.mark.parametrize("name", ["lpm_pretrain_lsp", "lpm_pretrain_mpii", "lpm_train_penn"])
def test_setting_files_hold_the_original_values(name):
    found = train.parse_args([f"--config={ROOT / 'lpm_torch/configs' / name}.ini"])
    epochs, dataset = {
        "lpm_pretrain_lsp": (200, "lsp"),
        "lpm_pretrain_mpii": (40, "mpii"),
        "lpm_train_penn": (1000, "penn_action"),
    }[name]
    assert (found.model, found.t, found.lr, found.step_size, found.gamma) == ("lpm", 5, 8e-5, 60000, 0.33333)
    assert (found.batch_size, found.weight_decay, found.input_width) == (4, 8e-6, 256)
    assert (found.epochs, found.dataset) == (epochs, dataset)


def test_missing_data_is_said_before_pytorch_is_loaded(tmp_path):
    code = f"import sys; from lpm_torch import train; code = train.main(['--data_dir={tmp_path}/none']); print('torch' in sys.modules); sys.exit(code)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2 and done.stdout.strip() == "False"
    assert "python -m common.datasets.synthetic penn_action" in done.stderr
    assert "http" in done.stderr


def test_bad_input_exits_with_2(tmp_path, capsys):
    settings = tmp_path / "bad.ini"
    settings.write_text("lr = 1e-4\nlearning_rate = 1\n")
    cases = {
        (f"--config={settings}",): "learning_rate",
        (f"--config={tmp_path}/none.ini",): "none.ini",
        ("--gpus=0,x",): "0,x",
        ("--train_split=nonsense",): "nonsense",
        ("--dataset=nonsense",): "nonsense",
        ("--batch_size=0",): "batch_size",
        ("--t=0",): "setting t",
        ("--epochs=-1",): "epochs",
        ("--channels=nan",): "channels",
        ("--input_width=-4",): "input_width",
        ("--lr=nan",): "lr",
        ("--workers=-1",): "workers",
        ("--p_flip=2",): "p_flip",
        ("--weights=averaged",): "--raw_weights",
    }
    words = [*tiny.TINY, "--model=cpm", "--dataset=LSP", f"--data_root={tiny.lsp()}", f"--out={tmp_path / 'run'}"]
    for arguments, word in cases.items():
        assert train.main([*words, *arguments]) == 2
        assert word in capsys.readouterr().err
    for words in (["--model=lpm_new"], ["--width=0.5"]):
        with pytest.raises(SystemExit) as stopped:
            train.main(words)
        assert stopped.value.code == 2
