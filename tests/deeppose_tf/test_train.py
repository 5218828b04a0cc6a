"""Runs of a few steps: they go on bit for bit, score and save when the original does, and name bad input."""

import json
import re

import numpy as np
import pytest

from common.errors import DataError
from common.runs.runlog import read_log
from common.weights import tf1
from deeppose_tf import train as program
from deeppose_tf.config import EXAMPLES, PRESETS, presets
from deeppose_tf.weight_files import load_state, variables_of
from tests.deeppose_tf.tiny import options_of, small_config, small_run, small_trainer, write_persons


@pytest.fixture(scope="module")
def csv(tmp_path_factory):
    return write_persons(tmp_path_factory.mktemp("persons"))


def finish(config):
    return load_state(small_run(config) / "last.npz")


def same(a, b, groups=("model", "optimizer")):
    return all(np.array_equal(a[g][n], b[g][n]) for g in groups for n in a[g]) and all(
        a[g].keys() == b[g].keys() for g in groups
    )


def numbered(folder):
    return sorted(f.name for f in folder.glob("checkpoint-*"))


@pytest.mark.parametrize("more", [{}, {"optimizer": "adam", "norm": "batch"}], ids=["paper", "adam_batch_norm"])
def test_a_resumed_run_is_the_uninterrupted_one(csv, tmp_path, more):
    """Weights, accumulators and dropout bit for bit, over an epoch's end (10 persons, 4 a step)."""
    options = more | {
        "dropout_keep": 0.5,
        "test_step": 100,
        "snapshot_step": 2,
        "schedule": "cosine",
        "warmup": 2,
        "rotate": True,
    }
    whole = finish(small_config(csv, tmp_path / "a", max_steps=6, **options))
    assert whole["step"] == whole["batch"] == 6 and whole["about"]["skeleton"]["name"] == "lsp14"
    assert numbered(tmp_path / "a") == ["checkpoint-2.npz", "checkpoint-4.npz", "checkpoint-6.npz"]
    # what is left of the run after step 2, as DT types it
    second = small_config(
        csv, tmp_path / "b", max_steps=6, resume="auto", weights=str(tmp_path / "a/checkpoint-2"), **options
    )
    resumed = finish(second)
    assert same(whole, resumed, ("model", "optimizer", "dropout", "unused"))
    assert min(entry["step"] for entry in read_log(tmp_path / "b/log.jsonl")) > 2


def test_the_counter_starts_anew_when_asked_to(csv, tmp_path):
    finish(small_config(csv, tmp_path, max_steps=2))
    assert finish(small_config(csv, tmp_path, resume="auto", reset_iter_counter=True, max_steps=1))["step"] == 1


@pytest.mark.parametrize(("mode", "scored"), [("correct", [0, 2, 3, 4, 5]), ("compat", [0, 2, 3, 4])])
def test_order_of_events(csv, tmp_path, capsys, mode, scored):
    """Scores at test_step, at the end of the freeze and at the last step: compat's is the one before the last update;
    what is scored first is not trained yet. Console and log are the original's."""
    config = small_config(
        csv, tmp_path, max_steps=5, test_step=2, snapshot_step=4, fix_conv_iter=3, mode=mode, dropout_keep=1.0
    )
    state = finish(config)
    text = capsys.readouterr().out
    assert [int(n) for n in re.findall(r"^Step (\d) test/pose_loss", text, re.M)] == scored
    assert numbered(tmp_path) == ["checkpoint-4.npz"] and state["step"] == 5
    assert re.search(r"^Step 1: train/pose_loss = \d+\.\d\d \(\d+\.\d{3} s, \d+\.00 im/s\)$", text, re.M)
    assert "Step 0 test/parts_PCP:\nHead\tTorso\tU Arm\tL Arm\tU Leg\tL Leg\tmean" in text
    accumulated = {name: (value != np.float32(1e-4)).any() for name, value in state["optimizer"].items()}
    assert all(accumulated.values())
    entries = read_log(tmp_path / "log.jsonl")
    names = {name for entry in entries for name in entry}
    assert {"loss", "lr", "loss_with_decay", "conv_lr", "fc_lr", "grad_norms/grad_norms/fc6/weight_0"} <= names
    assert {"test/pose_loss", "test/mPCP", "test/PCKh", "test/symPCKh"} <= names
    assert "grad_norms/grad_norms/conv1/weight_0" not in names  # frozen at the first step, which is summed up


class Loss:
    """A loss on a device: reading it waits."""

    def __init__(self, step, read):
        self.step, self.read = step, read

    def __float__(self):
        self.read.append(self.step)
        return 0.5


def test_a_step_does_not_wait_for_its_own_loss(csv, tmp_path):
    """DT's line, printed at every step, comes when the next step is under way; the last one's before it is saved."""
    trainer = small_trainer(small_config(csv, tmp_path, max_steps=4, log_step=1))
    trainer.position.step, read, seen = 1, [], []  # after the first step, which also returns summaries
    trainer._update = lambda *args, **options: {"loss": Loss(trainer.position.step, read)}
    for _step in (1, 2, 3):
        trainer.step(())
        seen.append(list(read))
    trainer._update.slots = {}
    trainer.state()
    assert seen == [[], [1], [1, 2]] and read == [1, 2, 3]


def test_gpu_memory_grows_as_it_is_needed(monkeypatch):
    """In every programme, before TensorFlow takes a device."""
    import tensorflow as tf

    from common.runs.process import keras_devices

    grown = []
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [f"{kind}:0", f"{kind}:1"])
    monkeypatch.setattr(tf.config.experimental, "set_memory_growth", lambda gpu, on: grown.append((gpu, on)))
    monkeypatch.setattr(tf.config, "set_visible_devices", lambda gpus, kind: grown.append((gpus, kind)))
    assert keras_devices("cuda:1") == 1
    assert grown == [(["GPU:1"], "GPU"), ("GPU:1", True)]


def test_weights_from_a_checkpoint_of_the_original(csv, tmp_path, capsys):
    """Without --resume conv1 to fc7 alone are taken, whatever the file has besides; what does not fit is named."""
    from deeppose_tf.model import get_weights, network_for

    source = get_weights(network_for(small_config(csv, tmp_path, seed=99), 14))
    head = np.ones_like(source["fc_regression/weight"])
    odd = {**source, "fc7/bias": np.zeros(3, np.float32), "fc_regression/weight": head}
    del odd["conv2/bias"]
    tf1.write_v1(tmp_path / "bvlc_alexnet.tf", {**odd, "global_iter_counter": np.array(77, np.int32)})
    trainer = small_trainer(small_config(csv, tmp_path / "out", weights=str(tmp_path / "bvlc_alexnet.tf")))
    trainer.start()
    own = get_weights(trainer.model)
    assert all(np.array_equal(own[name], source[name]) for name in ("conv1/weight", "fc6/weight"))
    assert not np.array_equal(own["fc_regression/weight"], head) and trainer.position.step == 0
    text = capsys.readouterr().out
    assert "Restoring 7 layers from the snapshot: ['conv1', 'conv2'" in text
    assert "missing" in text and "conv2/bias" in text and "mismatched" in text and "fc7/bias (3,)" in text


def test_joints_of_a_network_of_ours_by_name(csv, tmp_path, capsys):
    """LSP -> MPII: what both skeletons have is taken, whatever its place; neck and the like start fresh."""
    from common.skeletons import LSP14, MPII16
    from deeppose_tf.model import get_weights

    known = finish(small_config(csv, tmp_path / "lsp", max_steps=1))["model"]["fc_regression/weight"]
    other = write_persons(tmp_path / "mpii", 6, joints=16)
    config = small_config(other, tmp_path / "out", dataset="mpii", weights=str(tmp_path / "lsp/last.npz"))
    trainer = small_trainer(config)
    before = get_weights(trainer.model)["fc_regression/weight"].copy()
    trainer.start()
    own = get_weights(trainer.model)["fc_regression/weight"]
    for place, name in enumerate(MPII16.joints):
        at = 2 * LSP14.index(name) if name in LSP14.joints else None
        expected = before[:, 2 * place : 2 * place + 2] if at is None else known[:, at : at + 2]
        assert np.array_equal(own[:, 2 * place : 2 * place + 2], expected), name
    assert "joints of the head from" in capsys.readouterr().out


def test_foreign_checkpoint_to_resume(csv, tmp_path):
    """A TensorFlow 1 checkpoint with accumulators goes on where it was: as the run it was taken from."""
    first = finish(small_config(csv, tmp_path / "a", max_steps=3, snapshot_step=2, dropout_keep=1.0))
    tf1.write_v2(tmp_path / "checkpoint-2", variables_of(load_state(tmp_path / "a/checkpoint-2.npz")))
    for kind, write in (("v2", tf1.write_v2), ("v1", tf1.write_v1)):
        prefix = write(tmp_path / kind / "checkpoint-2", variables_of(load_state(tmp_path / "a/checkpoint-2.npz")))
        resumed = finish(small_config(csv, tmp_path / f"b{kind}", max_steps=3, resume=str(prefix), dropout_keep=1.0))
        assert resumed["step"] == 3 and same(first, resumed, ("model", "optimizer", "unused"))


def test_bad_checkpoints(csv, tmp_path):
    folder = small_run(small_config(csv, tmp_path, max_steps=1))
    whole = (folder / "last.npz").read_bytes()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad/short.npz").write_bytes(whole[: len(whole) // 2])
    last, other = str(folder / "last.npz"), write_persons(tmp_path / "mpii", 6, joints=16)
    cases = [
        ({"resume": str(tmp_path / "bad/short.npz")}, "short.npz"),
        ({"resume": last, "mode": "compat"}, "'mode' is 'correct'"),
        ({"resume": last, "channels": 0.05}, "'channels'"),
        ({"resume": last, "dataset": "mpii", "train_csv_fn": str(other), "test_csv_fn": str(other)}, "'dataset'"),
        ({"resume": str(tmp_path / "none.npz")}, "does not exist"),
    ]
    for changes, words in cases:
        with pytest.raises(DataError, match=words):
            small_run(small_config(csv, tmp_path / "other", **{"max_steps": 1, **changes}))


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_state(csv, tmp_path, capsys):
    finish(small_config(csv, tmp_path, max_steps=2))
    diverging = ["--optimizer=sgd", "--conv_lr", "1e30", "--fc_lr", "1e30", "--max_iter", "8", "--resume"]
    code = program.main([*options_of(small_config(csv, tmp_path)), *diverging])
    assert code == 1 and "the last good state is kept" in capsys.readouterr().err.lower()
    assert np.isfinite(load_state(tmp_path / "last.npz")["model"]["fc6/weight"]).all()


IMPOSSIBLE = (
    "workers=0 workers=-1 max_steps=-1 batch_size=0 lr=nan conv_lr=-1 channels=0 channels=-1 channels=1e9"
    " dropout_keep=0 dropout_keep=2 seed=-1 save_minutes=nan downscale_height=100 joint_index=0 limit=0"
    " rotate_range=1.5"
)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--shift", "2"], "shift"),
        (["--bbox_extension_min", "2", "--bbox_extension_max", "1"], "bbox_extension_max"),
        *(([f"--{given}"], given.split("=")[0]) for given in IMPOSSIBLE.split()),
        (["--data_root=/x"], "data_root"),
        (["--dataset=coco"], "lsp or mpii"),
        (["--device=tpu"], "--device tpu"),
    ],
)
def test_bad_settings(csv, capsys, arguments, words):
    assert program.main([f"--train_csv_fn={csv}", f"--test_csv_fn={csv}", *arguments]) == 2
    assert words in capsys.readouterr().err


def test_presets_are_the_originals_examples():
    """The table of the four example runs, value by value where they differ."""
    known = {name: presets(name)["paper"] for name in EXAMPLES}
    lsp, imagenet, mpii = (known[n] for n in ("lsp_alexnet_scratch", "lsp_alexnet_imagenet", "mpii_alexnet_imagenet"))
    assert (lsp["bbox_extension_min"], lsp["bbox_extension_max"], lsp["workers"]) == (1.5, 2.0, 6)
    assert (imagenet["bbox_extension_min"], imagenet["fix_conv_iter"], imagenet["workers"]) == (1.2, 10000, 2)
    assert (mpii["dataset"], mpii["downscale_height"], mpii["snapshot_step"], mpii["log_step"]) == (
        "mpii",
        400,
        5000,
        2,
    )
    assert "fix_conv_iter" not in lsp and imagenet["weights"] == mpii["weights"] and "weights" not in lsp
    for preset in (lsp, imagenet, mpii, known["mpii_alexnet_scratch"]):
        assert (preset["max_steps"], preset["batch_size"], preset["test_step"]) == (1_000_000, 128, 250)
        assert preset["conv_lr"] == preset["fc_lr"] == 0.0005 and preset["shift"] == 0.1 and preset["min_dim"] == 6
        assert preset["gcn"] and preset["fliplr"]


def test_examples_on_synthetic_data_take_the_smoke_sizes(tmp_path):
    path = write_persons(tmp_path / "drawn", 4)
    data = [f"--train_csv_fn={path}", f"--test_csv_fn={path}"]
    assert program.parse_args(data).max_steps == 1_000_000
    (path.parent / "SYNTHETIC").touch()
    config = program.parse_args(["--example=lsp_alexnet_imagenet", *data])
    assert (config.channels, config.max_steps, config.fix_conv_iter) == (
        PRESETS["smoke"]["channels"],
        PRESETS["smoke"]["max_steps"],
        20,
    )
    assert config.weights and config.csv("val") is None
    assert program.parse_args([*data, "--max_iter=7"]).max_steps == 7
    assert program.parse_args([*data, "--preset=paper"]).max_steps == 1_000_000


def test_an_example_that_is_resumed_takes_its_own_checkpoint(csv):
    """Not the ImageNet weights that it started from."""
    arguments = ["--example=lsp_alexnet_imagenet", f"--train_csv_fn={csv}", f"--test_csv_fn={csv}", "--resume"]
    assert program.parse_args(arguments).resume == "auto"
    config = program.parse_args([*arguments, "-s", "none.npz"])
    assert (config.resume, config.weights) == ("none.npz", None)


def test_options_of_the_original_that_do_nothing(csv, capsys):
    words = "--n_joints 14 --net_type Alexnet --im_size=227 --coord_normalize --reset_moving_averages"
    words += " --symmetric_joints [[0,5]]"
    given = f"--dataset_name lsp --train_csv_fn {csv} --max_iter 5 --o_dir x --snapshot_step 3 -s y"
    config = program.parse_args([*words.split(), *given.split()])
    assert (config.max_steps, config.out, config.snapshot_step, config.weights) == (5, "x", 3, "y")
    assert capsys.readouterr().err.count("has no effect") == 6


def test_missing_weights_are_named_before_data_is_read(tmp_path, capsys):
    given = [f"--snapshot={tmp_path / 'bvlc_alexnet.tf'}", f"--train_csv_fn={tmp_path / 'no.csv'}"]
    assert program.main(["--example=lsp_alexnet_imagenet", *given]) == 2
    text = capsys.readouterr().err
    for words in (
        "bvlc_alexnet.tf does not exist",
        "download of it is dead",
        ".caffemodel",
        "no.csv does not exist",
        "--synthetic",
    ):
        assert words in text


def test_log_has_no_word_but_json(csv, tmp_path):
    """Settings and versions beside it."""
    small_run(small_config(csv, tmp_path, max_steps=1))
    starts = json.loads((tmp_path / "config.json").read_text())["starts"]
    assert starts[0]["config"]["max_steps"] == 1 and "tensorflow" in starts[0]["versions"]
