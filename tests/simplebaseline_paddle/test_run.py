"""Training, resuming, scoring and predicting with the programs, on small made-up data."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import paddle
import pytest

from common.errors import DataError
from common.predictions import load_predictions
from common.weights.pickles import read_paddle
from simplebaseline_paddle import predict, train, val
from simplebaseline_paddle.checkpoint import arrays_of
from simplebaseline_paddle.config import Config
from simplebaseline_paddle.infer import make_forward
from simplebaseline_paddle.model import PoseResNet
from simplebaseline_paddle.run import MovingAverage

_spec = importlib.util.spec_from_file_location("recipe", Path(__file__).with_name("_recipe.py"))
recipe = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(recipe)

SMALL = [
    "--depth",
    "18",
    "--height",
    "64",
    "--width",
    "64",
    "--sigma",
    "1",
    "--deconv_filters",
    "16,16,16",
    "--batch_size",
    "4",
    "--picture_every",
    "0",
]
SMALL += ["--lr_epochs", "1", "--ema", "0.9", "--workers", "0", "--preset", "paper", "--pretrained_model", "none"]


@pytest.fixture(scope="module")
def mpii(tmp_path_factory):
    return recipe.write_mpii(tmp_path_factory.mktemp("mpii"), train=9, valid=5)


def run(root, out, *more):
    """train.py's exit code."""
    return train.main(
        [
            "--dataset",
            "mpii",
            "--data_root",
            str(root),
            "--model_save_dir",
            str(out),
            "--valid_split",
            "none",
            *SMALL,
            *more,
        ]
    )


def state_of(out):
    return read_paddle(out / "simplebase-mpii/last.pdparams")


def same(first, second):
    """Whether weights, averages and optimiser states are equal to the last bit."""
    assert first["epoch"] == second["epoch"] and first["step"] == second["step"]
    for a, b in ((first["state_dict"], second["state_dict"]), (first["ema"]["shadow"], second["ema"]["shadow"])):
        for name, value in a.items():
            np.testing.assert_array_equal(value, b[name], err_msg=name)
    moments = {k: v for k, v in first["optimizer"].items() if isinstance(v, np.ndarray)}
    assert moments
    for name, value in moments.items():
        np.testing.assert_array_equal(value, second["optimizer"][name], err_msg=name)


@pytest.fixture(scope="module")
def trained(mpii, tmp_path_factory):
    """The folder of a run of two epochs without interruption."""
    out = tmp_path_factory.mktemp("whole")
    assert run(mpii, out, "--num_epochs", "2") == 0
    return out


def test_a_resumed_run_is_the_uninterrupted_one(mpii, trained, tmp_path, monkeypatch):
    """Killed within the second epoch, after a state was saved; the optimiser's state must come back for this."""
    step, count = train.Watch.step, []

    def stopping(self, *args):
        step(self, *args)
        self.save()
        count.append(1)
        if len(count) == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(train.Watch, "step", stopping)
        with pytest.raises(KeyboardInterrupt):
            run(mpii, tmp_path, "--num_epochs", "2")
    assert state_of(tmp_path)["batch"] == 1 and state_of(tmp_path)["epoch"] == 1
    assert run(mpii, tmp_path, "--num_epochs", "2", "--resume", "auto") == 0
    same(state_of(tmp_path), state_of(trained))


def test_another_network_cannot_go_on(mpii, trained, tmp_path, capsys):
    checkpoint = str(trained / "simplebase-mpii/last.pdparams")
    assert run(mpii, tmp_path, "--checkpoint", checkpoint, "--sigma", "2") == 2
    assert "field 'sigma' is 1.0 in the checkpoint and 2.0" in capsys.readouterr().err


def test_scoring_writes_predictions_and_figures(mpii, trained, tmp_path, capsys):
    out, figures, result = tmp_path / "p.npz", tmp_path / "s.json", tmp_path / "run.json"
    options = [
        "--dataset",
        "mpii",
        "--data_root",
        str(mpii),
        "--model_save_dir",
        str(trained),
        "--flip_test",
        "yes",
        "--workers",
        "0",
    ]
    assert val.main([*options, "--out", str(out), "--json", str(figures), "--result", str(result)]) == 0
    text = capsys.readouterr().out
    assert "| Arch | Head |" in text and "oracle (annotated centre and scale)" in text
    predictions = load_predictions(out)
    assert len(predictions) == 5 and predictions.meta["flip_test"] and predictions.meta["weights_hash"]
    assert json.loads(figures.read_text())["pckh@0.5"]["n"] == 5
    assert json.loads(result.read_text())["model"] == "resnet18_64x64"
    import scipy.io

    np.testing.assert_allclose(scipy.io.loadmat(tmp_path / "pred.mat")["preds"], predictions.joints + 1, rtol=1e-6)
    # the eager network answers the same to a small part of a pixel, and more than one batch changes nothing
    assert val.main([*options, "--out", str(tmp_path / "e.npz"), "--engine", "eager", "--batch_size", "2"]) == 0
    off = np.abs(load_predictions(tmp_path / "e.npz").joints - predictions.joints)
    assert np.median(off) < 1e-3


def test_coco_is_scored_bare_of_a_checkpoint(tmp_path, capsys):
    """Random weights, with a warning; the whole split counts, also persons that were not looked at."""
    root = recipe.write_coco(tmp_path / "coco", images=3)
    options = [
        "--data_root",
        str(root),
        "--model_save_dir",
        str(tmp_path),
        "--depth",
        "18",
        "--height",
        "64",
        "--width",
        "64",
        "--workers",
        "0",
    ]
    assert val.main([*options, "--flip_test", "off"]) == 0
    captured = capsys.readouterr()
    assert "NO CHECKPOINT" in captured.err and "the Paddle project's selection" in captured.out
    assert load_predictions(tmp_path / "simplebase-coco/valid.npz").meta["checkpoint"] == "random weights"
    assert (tmp_path / "simplebase-coco/keypoints_valid_results.json").is_file()
    assert (tmp_path / "simplebase-coco/visualization@val.jpg").is_file()


def test_prediction_on_pictures(mpii, trained, tmp_path, capsys):
    detections = tmp_path / "boxes.json"
    first, second = sorted((mpii / "images").iterdir())[:2]
    entry = {"image_id": 1, "file_name": first.name, "category_id": 1, "score": 0.9}
    detections.write_text(
        json.dumps(
            [{**entry, "bbox": [10, 10, 50, 80]}, {**entry, "bbox": [40, 20, 60, 90]}, {**entry, "bbox": [1, 1, 0, 5]}]
        )
    )
    options = [str(mpii / "images"), "--model_save_dir", str(trained), "--limit", "2", "--flip_test", "off"]
    for more, people in (
        ([], [1, 1]),
        (["--box", "5,5,60,60", "--box", "20,20,40,80"], [2, 2]),
        (["--detections", str(detections)], [2, 0]),
    ):
        assert predict.main([*options, *more, "--out", str(tmp_path / "out")]) == 0
        rows = [json.loads(line) for line in (tmp_path / "out/joints.jsonl").read_text().splitlines()]
        assert [len(r["people"]) for r in rows] == people
        assert [r["image"] for r in rows] == [first.name, second.name]
        assert (tmp_path / "out" / f"{first.name}_pose.png").is_file()
        for person in rows[0]["people"]:
            # a peak lies in the padded crop, whose half side is at most 0.625 x the longer side of the box
            x, y, w, h = person["box"]
            half = 0.63 * max(w, h)
            assert (np.abs(np.array(person["joints"]) - (x + w / 2, y + h / 2)) <= half).all()
    for bad, message in ((["--box", "1,2,3"], "is not x,y,w,h"), (["--box", "1,2,0,3"], "positive w and h")):
        assert predict.main([*options, *bad]) == 2
        assert message in capsys.readouterr().err


def test_the_predictor_equals_the_eager_network(trained):
    from simplebaseline_paddle.checkpoint import load_network

    model, config = load_network(trained / "simplebase-mpii/last.pdparams", {})
    inputs = np.random.default_rng(0).standard_normal((3, 3, 64, 64), np.float32)
    fast, eager = (
        make_forward(model, config.input_size, engine, threads=1)(inputs) for engine in ("predictor", "eager")
    )
    np.testing.assert_allclose(fast, eager, atol=1e-4 * eager.std())


def test_bfloat16_scoring_is_near(trained, tmp_path, monkeypatch, capsys):
    """8 bits of mantissa. Measured by the size of the maps, which a hardly trained network's differences between cells are far below."""
    from simplebaseline_paddle import infer
    from simplebaseline_paddle.checkpoint import load_network

    (tmp_path / "cpuinfo").write_text("flags\t\t: sse2 avx512f\n")
    assert not infer.has_bfloat16(tmp_path / "cpuinfo") and not infer.has_bfloat16(tmp_path / "none")
    (tmp_path / "cpuinfo").write_text("flags\t\t: sse2 avx512f avx512_bf16\n")
    assert infer.has_bfloat16(tmp_path / "cpuinfo")
    model, config = load_network(trained / "simplebase-mpii/last.pdparams", {})
    with monkeypatch.context() as patch:
        patch.setattr(infer, "has_bfloat16", lambda: False)
        with pytest.raises(DataError, match="--engine bf16 needs a CPU with avx512_bf16"):
            make_forward(model, config.input_size, "bf16")
    if not infer.has_bfloat16():
        pytest.skip("this processor has no bfloat16")
    inputs = np.random.default_rng(0).standard_normal((3, 3, 64, 64), np.float32)
    narrow, wide = (
        make_forward(model, config.input_size, engine, threads=1)(inputs) for engine in ("bf16", "predictor")
    )
    off = np.abs(narrow - wide).max() / np.abs(wide).max()
    assert 0 < off < 0.1, off


def test_moving_average():
    model = PoseResNet(18, 2, filters=(8,), kernels=(4,))
    average = MovingAverage(model, 0.5)
    before = model.final_layer.bias.numpy().copy()
    model.final_layer.bias.set_value(before + 1.0)
    average.update()
    # after one update the decay is min(0.5, 2/11)
    np.testing.assert_allclose(average.shadow["final_layer.bias"].numpy(), before + 9 / 11, rtol=1e-6)


def test_four_pictures_are_learnt(mpii):
    """The health check: without augmentation the loss on a handful of pictures falls to a part."""
    from simplebaseline_paddle.data import PersonDataset, make_loader
    from simplebaseline_paddle.engine import train_one_epoch
    from simplebaseline_paddle.model import build_model
    from simplebaseline_paddle.records import records_for
    from simplebaseline_paddle.run import build_optimizer
    from simplebaseline_paddle.sources import load_pose_set

    config = Config(
        depth=18,
        height=64,
        width=64,
        sigma=1,
        deconv_filters="16,16,16",
        kp_dim=16,
        workers=0,
        augmentation="none",
        lr=2e-3,
    )
    pose_set, losses = load_pose_set("mpii", str(mpii), "train"), []
    records = records_for(pose_set, config).select(np.tile(np.arange(4), 30))
    model = build_model(config, 0)
    loader = make_loader(PersonDataset(records, pose_set.skeleton, config, training=True), 4, False)
    optimizer = build_optimizer(model, config, 1000)
    train_one_epoch(
        model, loader, optimizer, config, on_step=lambda i, values, *rest: losses.append(values["loss"]), progress=False
    )
    assert len(losses) == 30 and losses[-1] < 0.7 * losses[0], losses


def first_epoch(mpii, amp="off", **settings):
    """(losses, weights) of one epoch on eight persons, by plain momentum and with frozen batch norms: no step amplifies rounding."""
    from simplebaseline_paddle.data import PersonDataset, make_loader
    from simplebaseline_paddle.engine import train_one_epoch
    from simplebaseline_paddle.model import build_model
    from simplebaseline_paddle.records import records_for
    from simplebaseline_paddle.run import build_optimizer
    from simplebaseline_paddle.sources import load_pose_set

    config = Config(depth=18, height=64, width=64, sigma=1, deconv_filters="16,16,16", kp_dim=16, workers=0, freeze_bn=True, amp=amp,
                    lr_strategy="momentum", lr=0.1, **settings)  # fmt: skip
    pose_set, losses = load_pose_set("mpii", str(mpii), "train"), []
    records = records_for(pose_set, config).select(slice(8))
    model = build_model(config, 0)
    loader = make_loader(PersonDataset(records, pose_set.skeleton, config, training=True), config.batch_size, True)
    optimizer = build_optimizer(model, config, 1)
    train_one_epoch(
        model, loader, optimizer, config, on_step=lambda i, values, *rest: losses.append(values["loss"]), progress=False
    )
    return losses, arrays_of(model)


def test_accumulated_half_batches_are_one_batch(mpii):
    whole, halves = first_epoch(mpii, batch_size=4), first_epoch(mpii, batch_size=2, accumulate=2)
    np.testing.assert_allclose(np.reshape(halves[0], (2, 2)).mean(1), whole[0], rtol=1e-5)
    for name, value in whole[1].items():
        # float32 sums in another order
        np.testing.assert_allclose(halves[1][name], value, atol=1e-6, rtol=1e-5, err_msg=name)
    assert np.abs(whole[1]["final_layer.bias"]).max() > 1e-4  # zero before the first step


def test_gradients_of_batches_too_few_for_an_update_are_dropped(mpii):
    """Three batches by twos: the next epoch starts as it would after a resume, whose state holds no gradients."""
    from simplebaseline_paddle import engine

    seen = []
    layer = paddle.nn.Linear(1, 1)
    layer(paddle.ones([1, 1])).backward()
    optimizer = paddle.optimizer.SGD(0.1, layer.parameters())
    engine.train_one_epoch(layer, [], optimizer, Config(), on_step=lambda *a: seen.append(a), progress=False)
    assert not seen and (layer.weight.grad is None or not layer.weight.grad.numpy().any())


def test_bfloat16_stays_near_float32(mpii):
    """bfloat16 has 8 bits of mantissa; the CPU kernels of Paddle 3.3.1 compute in float32 all the same."""
    (wide, _), (narrow, weights) = (first_epoch(mpii, amp, batch_size=4) for amp in ("off", "bf16"))
    np.testing.assert_allclose(narrow, wide, rtol=0.03)
    assert all(value.dtype == np.float32 for value in weights.values())


def test_two_processes_learn_and_score_what_one_does(mpii, tmp_path):
    """Gradients are averaged over gloo; frozen batch norms and plain momentum make the doubled batch exactly the same arithmetic."""
    more = [
        "--dataset",
        "mpii",
        "--data_root",
        str(mpii),
        *SMALL,
        "--num_epochs",
        "2",
        "--freeze_bn",
        "--lr_strategy",
        "momentum",
        "--ema",
        "0",
    ]
    more += ["--valid_split", "valid", "--model_save_dir"]
    assert train.main([*more, str(tmp_path / "one")]) == 0
    recipe.launch(tmp_path, ["simplebaseline_paddle/train.py", *more, str(tmp_path / "two")])
    one, two = (state_of(tmp_path / n) for n in ("one", "two"))
    for name, value in one["state_dict"].items():
        np.testing.assert_allclose(two["state_dict"][name], value, atol=1e-6, rtol=1e-5, err_msg=name)
    from common.runs.runlog import read_log

    logs = [read_log(tmp_path / n / "simplebase-mpii/log/log.jsonl") for n in ("one", "two")]
    for key in ("Epoch Train Loss", "valid pckh@0.5"):
        first, second = ([e[key] for e in log if key in e] for log in logs)
        assert len(first) == 2
        np.testing.assert_allclose(first, second, rtol=1e-5)


@pytest.mark.parametrize("fast_decode", [False, True])
def test_batches_hold_the_crops_and_targets_of_their_persons(mpii, fast_decode):
    """Bit for bit without `fast_decode`, mirrored ones too; with it, a picture read at half size and mirrored by the matrix is near."""
    import cv2

    from simplebaseline_paddle import transforms
    from simplebaseline_paddle.data import PersonDataset
    from simplebaseline_paddle.records import records_for
    from simplebaseline_paddle.sources import load_pose_set

    pose_set = load_pose_set("mpii", str(mpii), "train")
    config = Config(height=64, width=64, sigma=1, workers=0, kp_dim=16, fast_decode=fast_decode)
    records, keys = records_for(pose_set, config), [(e, i) for e in range(4) for i in range(8)]
    dataset = PersonDataset(records, pose_set.skeleton, config, training=True)
    batch, mirrored = dataset[keys], 0
    for row, (epoch, i) in enumerate(keys):
        change = dataset._draw(epoch, i)
        mirrored += change.flip
        person = transforms.Person(records.center[i], records.scale[i], records.joints[i], records.seen[i])
        pixels, joints, seen = transforms.crop(
            cv2.imread(records.images[i]), person, (64, 64), pose_set.skeleton, change
        )
        maps, weight = transforms.targets(joints, seen, (16, 16), 1.0)
        if fast_decode:
            # half of a soft picture's pixels, but its joints are small bright dots
            assert np.abs(batch["image"][row].astype(float) - pixels).mean() < 8
            assert (
                np.abs(batch["target"][row] - maps).max(axis=(1, 2)).mean() < 0.1
            )  # a joint half way between two cells may change over
        else:
            np.testing.assert_array_equal(batch["image"][row], pixels)
            np.testing.assert_array_equal(batch["target"][row], maps)
            np.testing.assert_array_equal(batch["weight"][row], weight)
    assert 0 < mirrored < len(keys) and batch["index"].tolist() == [i for _, i in keys]


def test_weights_do_not_depend_on_workers(mpii):
    from simplebaseline_paddle.data import PersonDataset, make_loader
    from simplebaseline_paddle.records import records_for
    from simplebaseline_paddle.sources import load_pose_set

    pose_set = load_pose_set("mpii", str(mpii), "train")
    found = []
    for workers in (0, 2):
        config = Config(height=64, width=64, workers=workers, kp_dim=16)
        dataset = PersonDataset(records_for(pose_set, config), pose_set.skeleton, config, training=True)
        found.append([{k: v.numpy() for k, v in batch.items()} for batch in make_loader(dataset, 4, True, epoch=3)])
    assert len(found[0]) == len(found[1]) == 2
    for one, two in zip(*found):
        for key in one:
            np.testing.assert_array_equal(one[key], two[key], err_msg=key)


@pytest.mark.parametrize("workers", ["0", "1"])
def test_a_missing_image_is_named(mpii, tmp_path, capsys, workers):
    entries = json.loads((mpii / "annot/valid.json").read_text())
    entries[3]["image"] = "lost.jpg"
    (tmp_path / "annot").mkdir()
    (tmp_path / "annot/valid.json").write_text(json.dumps(entries))
    (tmp_path / "images").symlink_to(mpii / "images")
    options = [
        "--dataset",
        "mpii",
        "--data_root",
        str(tmp_path),
        "--depth",
        "18",
        "--height",
        "64",
        "--model_save_dir",
        str(tmp_path),
    ]
    assert val.main([*options, "--workers", workers]) == 2
    assert "lost.jpg does not exist" in capsys.readouterr().err


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
    path = trained / "simplebase-mpii/last.pdparams"
    theirs = paddle.load(str(path))
    for name, value in read_paddle(path)["state_dict"].items():
        np.testing.assert_array_equal(theirs["state_dict"][name].numpy(), value)


def test_arrays_of_a_network():
    model = PoseResNet(18, 3)
    assert arrays_of(model)["final_layer.bias"].shape == (3,)
