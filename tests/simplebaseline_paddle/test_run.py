"""Training and resuming, on small made-up data."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import paddle
import pytest

from common import datasets
from common.predictions import load_predictions
from common.weights.pickles import read_paddle
from simplebaseline_paddle import val
from simplebaseline_paddle.config import Config
from simplebaseline_paddle.engine import MovingAverage, Trainer
from simplebaseline_paddle.model import PoseResNet
from simplebaseline_paddle.weight_files import arrays_of
from tests.simplebaseline_paddle.tiny import LAYERS, SMALL, run, same_but_for_rounding, state_of, trainer_of
from tests.tolerance import close, rounding

ROOT = Path(__file__).resolve().parents[2]


def losses_of(trainer, steps):
    return [float(trainer.step(batch)["loss"]) for batch in itertools.islice(trainer.batches(), steps)]


def same(first, second):
    """Whether weights, averages and optimiser states are equal to the last bit."""
    assert first["epoch"] == second["epoch"] and first["step"] == second["step"]
    for a, b in ((first["model"], second["model"]), (first["ema"]["shadow"], second["ema"]["shadow"])):
        for name, value in a.items():
            np.testing.assert_array_equal(value, b[name], err_msg=name)
    moments = {k: v for k, v in first["optimizer"].items() if isinstance(v, np.ndarray)}
    assert moments
    for name, value in moments.items():
        np.testing.assert_array_equal(value, second["optimizer"][name], err_msg=name)


def test_a_resumed_run_is_the_uninterrupted_one(mpii, trained, tmp_path, monkeypatch, capsys):
    """Stopped within the second epoch, as by Ctrl-C; the optimiser's state must come back for this."""
    step = Trainer.step

    def stopping(self, batch):
        if self.position.step == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return step(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", stopping)
        assert run(mpii, tmp_path / "run", "--epochs", "2") == 130
    assert "go on with --resume" in capsys.readouterr().err
    assert state_of(tmp_path / "run")["batch"] == 1 and state_of(tmp_path / "run")["epoch"] == 1
    assert run(mpii, tmp_path / "run", "--epochs", "2", "--resume") == 0
    same(state_of(tmp_path / "run"), state_of(trained))


def test_ctrl_c_with_loader_processes_saves_and_ends(mpii, tmp_path):
    """The signal goes to the whole group, as a terminal sends it."""
    command = [
        sys.executable,
        str(ROOT / "simplebaseline_paddle/train.py"),
        f"--data_root={mpii}",
        "--out=run",
        "--valid_split=none",
        *SMALL,
    ]
    process = subprocess.Popen(
        [*command, "--epochs=100000", "--workers=1"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    log = tmp_path / "run" / "log.jsonl"
    while process.poll() is None and not (log.exists() and log.stat().st_size):  # a step is done
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "the state is saved" in errors and state_of(tmp_path / "run")["step"] >= 1


def test_another_network_cannot_go_on(trained, mpii, tmp_path, capsys):
    assert run(mpii, tmp_path, "--resume", str(trained / "last.pdparams"), "--sigma", "2") == 2
    assert "field 'sigma' is 1.0 in the checkpoint and 2.0" in capsys.readouterr().err


def test_a_run_starts_from_any_weights(trained, mpii, tmp_path, capsys):
    assert run(mpii, tmp_path / "run", "--checkpoint", str(trained), "--epochs", "0") == 0
    assert "16 of 16 joints by name" in capsys.readouterr().out


def test_a_weight_that_is_not_finite_is_never_saved(mpii):
    trainer = trainer_of(mpii, batch_size=4)
    trainer.model.final_layer.bias.set_value(np.full(16, np.nan, np.float32))
    with pytest.raises(FloatingPointError, match="weight final_layer.bias is not finite at step 0"):
        trainer.state()


def test_moving_average():
    model = PoseResNet(18, 2, filters=(8,))
    average = MovingAverage(model, 0.5)
    before = model.final_layer.bias.numpy().copy()
    model.final_layer.bias.set_value(before + 1.0)
    average.update()
    # after one update the decay is min(0.5, 2/11)
    close(average.shadow["final_layer.bias"].numpy(), before + 9 / 11, rounding(1, steps=3))


def test_four_pictures_are_learnt(mpii):
    """The health check: without augmentation the loss on a handful of pictures falls to a part."""
    trainer = trainer_of(mpii, 4, augment=False, lr=2e-3, batch_size=4)
    losses = losses_of(trainer, 30)
    assert losses[-1] < 0.7 * losses[0], losses


def first_epoch(mpii, **settings):
    """(losses, weights) of one epoch, by plain momentum and with frozen batch norms: no step amplifies rounding."""
    trainer = trainer_of(mpii, freeze_bn=True, schedule="momentum", lr=0.1, **settings)
    return losses_of(trainer, trainer.position.epoch_length), arrays_of(trainer.model)


def test_accumulated_half_batches_are_one_batch(mpii):
    whole, halves = first_epoch(mpii, batch_size=4), first_epoch(mpii, batch_size=2, accumulate=2)
    close(np.reshape(halves[0], (2, 2)).mean(1), np.array(whole[0]), rounding(np.array(whole[0]), steps=LAYERS))
    same_but_for_rounding(halves[1], whole[1], whole[0][0], rate=0.1, steps=2)
    assert np.abs(whole[1]["final_layer.bias"]).max() > 1e-4  # zero before the first step


def test_bfloat16_stays_near_float32(mpii):
    """bfloat16 has 8 bits of mantissa; the CPU kernels of Paddle 3.3.1 compute in float32 all the same."""
    (wide, _), (narrow, weights) = (first_epoch(mpii, amp=amp, batch_size=4) for amp in ("off", "bf16"))
    close(narrow, np.array(wide), rounding(np.array(wide), dtype="bfloat16"))
    assert all(value.dtype == np.float32 for value in weights.values())


def test_batches_hold_the_crops_and_targets_of_their_persons(mpii):
    from simplebaseline_paddle import data as transforms
    from simplebaseline_paddle.records import records_for

    pose_set = datasets.load("mpii", mpii, "train")
    config = Config(input_height=64, input_width=64, sigma=1, workers=0)
    records, keys = records_for(pose_set, config), [(e, i) for e in range(4) for i in range(8)]
    dataset = transforms.PersonDataset(records, pose_set.skeleton, config, training=True)
    batch, mirrored = dataset[keys], 0
    for row, (epoch, i) in enumerate(keys):
        change = dataset.draw(epoch, i)
        mirrored += change.flip
        image = cv2.imread(records.images[i])
        pixels, joints, seen = transforms.crop(image, records.person(i), (64, 64), pose_set.skeleton, change)
        maps, weight = transforms.targets(joints, seen, (16, 16), 1.0)
        for name, array in (("image", pixels), ("target", maps), ("weight", weight)):
            np.testing.assert_array_equal(batch[name][row], array)
    assert 0 < mirrored < len(keys) and batch["index"].tolist() == [i for _, i in keys]


def test_weights_do_not_depend_on_workers(mpii):
    from simplebaseline_paddle.data import PersonDataset, load_batches, shuffled_batches
    from simplebaseline_paddle.records import records_for

    pose_set = datasets.load("mpii", mpii, "train")
    found = []
    for workers in (0, 2):
        config = Config(input_height=64, input_width=64, workers=workers)
        dataset = PersonDataset(records_for(pose_set, config), pose_set.skeleton, config, training=True)
        batches = load_batches(dataset, shuffled_batches(len(dataset), 4, 0, 3), workers, 3)
        found.append([{k: v.numpy() for k, v in batch.items()} for batch in batches])
    assert len(found[0]) == len(found[1]) == 2
    for one, two in zip(*found):
        for key in one:
            np.testing.assert_array_equal(one[key], two[key], err_msg=key)


@pytest.fixture
def damaged(mpii, tmp_path):
    """The data with one picture missing and one cut off in either split."""
    (tmp_path / "images").mkdir()
    (tmp_path / "annot").symlink_to(mpii / "annot")
    for file in sorted((mpii / "images").iterdir()):
        if file.name[-5] == "3":
            (tmp_path / "images" / file.name).write_bytes(file.read_bytes()[:2000])
        elif file.name[-5] != "2":
            (tmp_path / "images" / file.name).symlink_to(file)
    return tmp_path


@pytest.mark.parametrize("workers", ["0", "1"])
def test_a_damaged_picture_is_a_warning(damaged, trained, tmp_path, capsys, workers):
    """It is named when it comes and at the end; scoring goes on without it, training with its share of the batch."""
    out = [f"--out={tmp_path / 'p.npz'}", "--flip_test=no", f"--workers={workers}"]
    assert val.main(["--dataset=mpii", f"--data_root={damaged}", f"--weights={trained}", *out]) == 0
    found, said = load_predictions(tmp_path / "p.npz"), capsys.readouterr().err
    assert np.isnan(found.joints).all((1, 2)).tolist() == [False, False, True, False, False]
    assert "warning: 2 pictures are damaged or missing:" in said
    assert said.count("valid_00002.jpg does not exist") == 2 and said.count("valid_00003.jpg is cut off") == 2
    assert run(damaged, tmp_path / "run", "--epochs=1", f"--workers={workers}") == 0
    said = capsys.readouterr().err
    assert said.count("train_00002.jpg does not exist") == 2 and "2 pictures are damaged" in said


def test_persons_of_an_unreadable_picture_teach_nothing(damaged):
    batch = trainer_of(damaged).dataset[[(0, 1), (0, 2)]]
    assert batch["read"].tolist() == [True, False] and len(batch["troubles"]) == 1
    assert batch["weight"][0].all() and not batch["weight"][1].any() and not batch["image"][1].any()


@pytest.mark.parametrize("program", ["train", "val"])
def test_pictures_that_are_all_missing_end_the_work(mpii, tmp_path, capsys, program):
    (tmp_path / "annot").symlink_to(mpii / "annot")
    (tmp_path / "images").mkdir()
    if program == "train":
        assert run(tmp_path, tmp_path / "run", "--epochs=1") == 2
    else:
        words = (
            f"--dataset=mpii --data_root={tmp_path} --random_weights --preset=smoke --workers=0 --out={tmp_path}/p.npz"
        )
        assert val.main(words.split()) == 2
    assert "pictures can be read" in capsys.readouterr().err


def test_an_entry_without_a_field_is_named(mpii, tmp_path, capsys):
    entries = json.loads((mpii / "annot/valid.json").read_text())
    del entries[2]["joints"]
    (tmp_path / "annot").mkdir()
    (tmp_path / "annot/valid.json").write_text(json.dumps(entries))
    assert val.main(["--dataset", "mpii", "--data_root", str(tmp_path)]) == 2
    message = capsys.readouterr().err
    assert "valid.json" in message and "joints" in message and "2" in message


def test_our_states_do_not_need_paddle(trained):
    """Read by our own unpickler, which knows data only; equal to what Paddle reads."""
    path = trained / "last.pdparams"
    theirs = paddle.load(str(path))
    for name, value in read_paddle(path)["model"].items():
        np.testing.assert_array_equal(theirs["model"][name].numpy(), value)


def test_arrays_of_a_network():
    model = PoseResNet(18, 3)
    assert arrays_of(model)["final_layer.bias"].shape == (3,)
