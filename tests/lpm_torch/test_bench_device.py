"""`python tests/bench/device.py`: its arithmetic and its command line, on a CPU and without content."""

import json

import pytest
import torch

from tests.bench import lpm_torch as bench
from tests.bench.device import ClipBench, clip_flops

TINY = ("device", "--device=cpu", "--resolution=32", "--t=2", "--channels=0.05", "--runs=1", "--matrix=64")


@pytest.mark.parametrize(("model", "expected"), [("lpm", 79.2), ("cpm", 169.8)])
def test_work_of_a_clip(model, expected):
    """Gflop a frame at 256 pixels, averaged over a clip of five, as counted by hand from the originals' layer
    tables."""
    found = clip_flops(model, 256, 5)
    assert round(found["inference"] / 5e9, 1) == expected
    # the backward pass has two products a convolution but for the first layers, whose input wants no gradient
    assert 2.8 < found["training"] / found["inference"] < 3


def test_command_on_a_cpu(tmp_path, capsys):
    words = [*TINY, "--batch_size=2", "--amp=off"]
    assert bench.main([*words, f"--json={tmp_path}/r.json"]) == 0
    assert "of the bf16 matrix rate" in capsys.readouterr().out
    figures = json.loads((tmp_path / "r.json").read_text())
    assert figures["command"] == "python tests/bench/lpm_torch.py " + " ".join(words)
    assert [row[:3] for row in figures["rows"]] == [["lpm", "inference", "eager"], ["lpm", "training", "eager"]]
    assert all(len(row) == len(figures["columns"]) and row[3] > 0 and row[4] == "-" for row in figures["rows"])


def test_share_is_work_over_time_over_rate(monkeypatch):
    """With known times: two clips in half a second, a device of 1 Gflop/s; eager and compiled have rows of their
    own."""
    monkeypatch.setattr("tests.bench.device.matrix_rate", lambda *a: 1e9)
    monkeypatch.setattr(torch, "compile", lambda network: network)
    monkeypatch.setattr(ClipBench, "measure", lambda self, name, network: {"seconds": 0.5, "peak_mib": None})
    result = ClipBench(bench.parse_args([*TINY, "--batch_size=2", "--compile"])).run()
    assert [(r["pass"], r["code"]) for r in result["rows"]] == [
        (p, c) for p in ("inference", "training") for c in ("eager", "compiled")
    ]
    for row in result["rows"]:
        assert row["samples_per_s"] == 4 and row["share"] == 4 * result["flops"][row["pass"]] / 1e9


def test_defaults_are_those_of_a_gpu_run():
    args = bench.parse_args(["device"])
    assert (args.device, args.amp, args.compile, args.batch_size, args.channels_last) == (
        "cuda",
        "bf16",
        True,
        16,
        True,
    )
    args = bench.parse_args([])
    assert (args.device, args.amp, args.compile, args.batch_size, args.channels_last) == ("cpu", "off", False, 1, False)


def test_what_cannot_be_measured_is_said(monkeypatch, capsys):
    def full(self, network):
        raise torch.OutOfMemoryError("full")

    monkeypatch.setattr(ClipBench, "training", full)
    assert bench.main(list(TINY)) == 2
    assert "lower --batch_size" in capsys.readouterr().err
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert bench.main(["device"]) == 2
    assert "no CUDA device" in capsys.readouterr().err
