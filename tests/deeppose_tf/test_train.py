"""Runs of a few steps: they go on bit for bit, score and save when the original does, and name bad input. One process, pool loader."""

import json

import numpy as np
import pytest

from common.errors import DataError
from common.weights import tf1
from deeppose_tf import train as program
from deeppose_tf.checkpoint import load_state, numbered
from deeppose_tf.config import PRESETS, SMOKE
from deeppose_tf.run import Run
from deeppose_tf.train import Loop
from deeppose_tf.weight_files import tensorflow
from tests.deeppose_tf.tiny import small_config, write_persons


@pytest.fixture(scope="module")
def csv(tmp_path_factory):
    return write_persons(tmp_path_factory.mktemp("persons"))


def finish(config):
    program.train(config)
    return load_state(f"{config.o_dir}/last.npz")


def same(a, b, groups=("model", "optimizer")):
    return all(np.array_equal(a[g][n], b[g][n]) for g in groups for n in a[g]) and all(
        a[g].keys() == b[g].keys() for g in groups
    )


def test_a_resumed_run_is_the_uninterrupted_one(csv, tmp_path):
    """Weights, accumulators and dropout bit for bit, over an epoch's end (10 persons, 4 a step)."""
    options = {
        "dropout_keep": 0.5,
        "test_step": 100,
        "snapshot_step": 2,
        "schedule": "cosine",
        "warmup": 2,
        "rotate": True,
    }
    whole = finish(small_config(csv, tmp_path / "a", max_iter=6, **options))
    assert whole["step"] == 6 and whole["samples"] == 24
    assert [f.name for f in numbered(tmp_path / "a")] == ["checkpoint-2.npz", "checkpoint-4.npz", "checkpoint-6.npz"]
    # the same settings, so the same schedule; what is left of the run after step 2
    second = small_config(
        csv, tmp_path / "b", max_iter=6, resume=True, snapshot=str(tmp_path / "a/checkpoint-2"), **options
    )
    resumed = finish(second)
    assert same(whole, resumed, ("model", "optimizer", "dropout", "unused"))
    steps = [json.loads(line)["step"] for line in (tmp_path / "b/log.jsonl").read_text().splitlines()]
    assert min(steps) >= 2


def test_compat_resume_forgets(csv, tmp_path):
    """The original goes on from weights and counter, with new accumulators, for max_iter more steps."""
    first = finish(small_config(csv, tmp_path / "a", max_iter=2, optimizer="adagrad"))
    again = small_config(csv, tmp_path / "a", max_iter=0, resume=True, resume_mode="compat")
    run = Run(again)
    assert (run.counter, run.loop_step) == (2, 0)
    from deeppose_tf.model import get_weights

    assert all(np.array_equal(first["model"][n], w) for n, w in get_weights(run.model).items())
    assert all((slot.numpy() == np.float32(1e-4)).all() for slot in run.optimizer.slots.values())
    assert Run(small_config(csv, tmp_path / "a", max_iter=2, resume=True, reset_iter_counter=True)).counter == 0


@pytest.mark.parametrize(("mode", "scored", "last"), [("correct", [0, 2, 3, 4, 5], 5), ("compat", [0, 2, 3, 4], 4)])
def test_order_of_events(csv, tmp_path, mode, scored, last):
    """Scores at test_step, at the end of the freeze and at the last step: compat's is the one before the last update; saves at snapshot_step
    alone in compat, at the end too in correct."""

    class Recorder(Loop):
        seen = []

        def score(self):
            self.seen.append(self.run.loop_step)

        def update(self):
            assert (self.run.loop_step >= 3) == (self.run.loop_step >= self.config.fix_conv_iter)
            super().update()

    from common.runs.runlog import RunLog

    config = small_config(
        csv, tmp_path, max_iter=5, test_step=2, snapshot_step=4, fix_conv_iter=3, mode=mode, dropout_keep=1.0
    )
    run = Run(config)
    before = {n: v.numpy().copy() for n, v in run.trainer.variables.items()}
    with RunLog(tmp_path / "log", config={}) as log:
        loop = Recorder(run, log)
        loop.seen.clear()
        loop()
    assert loop.seen == scored
    assert [f.name for f in numbered(tmp_path)] == ["checkpoint-4.npz"]
    assert load_state(tmp_path / "last.npz")["step"] == last
    assert not np.array_equal(before["conv1/weight"], run.trainer.variables["conv1/weight"].numpy())


def test_console_and_log(csv, tmp_path, capsys):
    finish(small_config(csv, tmp_path, max_iter=2, test_step=2))
    text = capsys.readouterr().out
    import re

    assert re.search(r"^Step 1: train/pose_loss = \d+\.\d\d \(\d+\.\d{3} s, \d+\.00 im/s\)$", text, re.M)
    assert "Step 0 test/parts_PCP:\nHead\tTorso\tU Arm\tL Arm\tU Leg\tL Leg\tmean" in text
    entries = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    names = {name for entry in entries for name in entry}
    assert {"loss", "loss_with_decay", "conv_lr", "fc_lr", "grad_norms/grad_norms/fc6/weight_0"} <= names
    assert {"test/pose_loss", "test/mPCP", "test/PCKh", "test/symPCKh", "test/spread"} <= names
    assert len([n for n in names if n.startswith("grad_norms")]) == 16
    assert list(tmp_path.glob("params.dump_*.txt"))


def test_weights_from_a_checkpoint_of_the_original(csv, tmp_path, capsys):
    """Without --resume conv1 to fc7 alone are taken, whatever the file has besides; what does not fit is named."""
    from deeppose_tf.model import get_weights, network_for

    source = get_weights(network_for(small_config(csv, tmp_path, seed=99)))
    odd = {
        **source,
        "fc7/bias": np.zeros(3, np.float32),
        "fc_regression/weight": np.ones_like(source["fc_regression/weight"]),
    }
    del odd["conv2/bias"]
    variables = {**odd, "global_iter_counter": np.array(77, np.int32)}
    tf1.write_v1(tmp_path / "bvlc_alexnet.tf", variables, tensorflow)
    run = Run(small_config(csv, tmp_path / "out", snapshot=str(tmp_path / "bvlc_alexnet.tf"), max_iter=0))
    own = get_weights(run.model)
    assert np.array_equal(own["conv1/weight"], source["conv1/weight"]) and np.array_equal(
        own["fc6/weight"], source["fc6/weight"]
    )
    assert not np.array_equal(own["fc_regression/weight"], odd["fc_regression/weight"]) and run.counter == 0
    text = capsys.readouterr().out
    assert "Restoring 7 layers from the snapshot: ['conv1', 'conv2'" in text
    assert "missing" in text and "conv2/bias" in text and "mismatched" in text and "fc7/bias (3,)" in text


def test_foreign_checkpoint_to_resume(csv, tmp_path):
    """A TensorFlow 1 checkpoint with accumulators goes on where it was."""
    first = finish(small_config(csv, tmp_path / "a", max_iter=2))
    from deeppose_tf.weight_files import variables_of

    tf1.write_v2(tmp_path / "checkpoint-2", variables_of(first), tensorflow)
    run = Run(small_config(csv, tmp_path / "b", max_iter=3, resume=True, snapshot=str(tmp_path / "checkpoint-2")))
    assert run.counter == run.loop_step == 2
    assert all(
        np.array_equal(slot.numpy(), first["optimizer"][f"{n}/Adagrad"]) for n, slot in run.optimizer.slots.items()
    )
    assert np.array_equal(run.unused["fc8/weight"], first["unused"]["fc8/weight"])


def test_bad_checkpoints(csv, tmp_path):
    finish(small_config(csv, tmp_path, max_iter=1))
    whole = (tmp_path / "last.npz").read_bytes()
    (tmp_path / "short.npz").write_bytes(whole[: len(whole) // 2])
    other = tmp_path / "other"
    cases = [
        ({"snapshot": str(tmp_path / "short.npz")}, "short.npz"),
        ({"snapshot": str(tmp_path / "last.npz"), "mode": "compat"}, "'mode' is 'correct'"),
        ({"snapshot": str(tmp_path / "last.npz"), "width": 0.05}, "'width'"),
        ({"snapshot": str(tmp_path / "none.npz")}, "does not exist"),
    ]
    for changes, words in cases:
        with pytest.raises(DataError, match=words):
            Run(small_config(csv, other, max_iter=1, resume=True, **changes))


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_state(csv, tmp_path, capsys, monkeypatch):
    finish(small_config(csv, tmp_path, max_iter=2))
    before = (tmp_path / "last.npz").read_bytes()
    run_arguments = ["--conv_lr", "1e30", "--fc_lr", "1e30", "--max_iter", "8", "--resume"]
    config = small_config(csv, tmp_path)
    arguments = [f"--{n}={getattr(config, n)}" for n in ("width", "init", "batch_size", "bbox_extension_min", "bbox_extension_max", "shift",
                                                        "loader", "train_csv_fn", "test_csv_fn", "o_dir")]  # fmt: skip
    code = program.main([*arguments, "--gcn", "--fliplr", "--optimizer=sgd", *run_arguments])
    assert code == 1 and "the last good state is kept" in capsys.readouterr().err.lower()
    assert np.isfinite(load_state(tmp_path / "last.npz")["model"]["fc6/weight"]).all() and before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["--n_joints", "16"], "n_joints"), (["--shift", "2"], "shift"), (["--bbox_extension_min", "2", "--bbox_extension_max", "1"], "bbox_extension"),
     (["--symmetric_joints", "[[1]]"], "symmetric_joints")],
)  # fmt: skip
def test_bad_settings(csv, capsys, arguments, words):
    """Each is named before any framework is needed."""
    assert program.main([f"--train_csv_fn={csv}", f"--test_csv_fn={csv}", *arguments]) == 2
    assert words in capsys.readouterr().err


def test_presets_are_the_originals_examples():
    """The table of the four example runs, value by value where they differ."""
    lsp, imagenet = PRESETS["lsp_alexnet_scratch"], PRESETS["lsp_alexnet_imagenet"]
    mpii = PRESETS["mpii_alexnet_imagenet"]
    assert (lsp["bbox_extension_min"], lsp["bbox_extension_max"], lsp["workers"]) == (
        1.5,
        2.0,
        6,
    ) and "fix_conv_iter" not in lsp
    assert (imagenet["bbox_extension_min"], imagenet["fix_conv_iter"], imagenet["workers"]) == (
        1.2,
        10000,
        2,
    ) and imagenet["reset_iter_counter"]
    assert (
        mpii["ignore_label"],
        mpii["downscale_height"],
        mpii["n_joints"],
        mpii["snapshot_step"],
        mpii["log_step"],
    ) == (-100500.0, 400, 16, 5000, 2)
    for preset in (lsp, imagenet, mpii, PRESETS["mpii_alexnet_scratch"]):
        assert (preset["max_iter"], preset["batch_size"], preset["test_step"], preset["conv_lr"], preset["fc_lr"]) == (
            1_000_000,
            128,
            250,
            0.0005,
            0.0005,
        )
        assert preset["gcn"] and preset["fliplr"] and preset["shift"] == 0.1 and preset["min_dim"] == 6


def test_examples_on_synthetic_data_take_the_smoke_sizes(csv, tmp_path, capsys):
    folder = tmp_path / "drawn"
    path = write_persons(folder, 4)
    (folder / "SYNTHETIC").touch()
    arguments = ["--preset=lsp_alexnet_scratch", f"--train_csv_fn={path}", f"--test_csv_fn={path}", "--val_csv_fn="]
    config = program.parse_args(arguments)
    assert (config.width, config.max_iter, config.bbox_extension_min, config.fix_conv_iter) == (
        SMOKE["width"],
        SMOKE["max_iter"],
        1.5,
        0,
    )
    assert "SYNTHETIC" in capsys.readouterr().out
    assert program.parse_args([*arguments, "--max_iter=7"]).max_iter == 7
    assert program.parse_args([*arguments, "--no-smoke"]).max_iter == 1_000_000


def test_an_example_that_is_resumed_takes_its_own_checkpoint(csv):
    """Not the ImageNet weights that it started from, and it counts on."""
    arguments = [
        "--preset=lsp_alexnet_imagenet",
        f"--train_csv_fn={csv}",
        f"--test_csv_fn={csv}",
        "--val_csv_fn=",
        "--resume",
    ]
    config = program.parse_args(arguments)
    assert config.snapshot is None and not config.reset_iter_counter and config.fix_conv_iter == 10000
    assert program.parse_args([*arguments, "--reset_iter_counter"]).reset_iter_counter
    with pytest.raises(DataError, match="none.npz does not exist"):
        program.parse_args([*arguments, "-s", "none.npz"])


def test_missing_weights_are_named_before_data_is_read(tmp_path, capsys):
    assert (
        program.main(
            [
                "--preset=lsp_alexnet_imagenet",
                f"--snapshot={tmp_path / 'bvlc_alexnet.tf'}",
                f"--train_csv_fn={tmp_path / 'no.csv'}",
            ]
        )
        == 2
    )
    text = capsys.readouterr().err
    for words in (
        "bvlc_alexnet.tf does not exist",
        "link is dead",
        ".caffemodel",
        "no.csv does not exist",
        "--synthetic",
    ):
        assert words in text
