"""Training, resuming, scoring and predicting with the programs, on small made-up data."""

import importlib.util
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import paddle
import pytest

from common import datasets
from common.datasets import synthetic
from common.errors import DataError
from common.predictions import load_predictions
from common.runs import shelf
from common.skeletons import COCO17
from common.weights.pickles import read_paddle
from simplebaseline_paddle import Estimator, convert, predict, train, val
from simplebaseline_paddle import estimator as infer
from simplebaseline_paddle.config import Config
from simplebaseline_paddle.engine import MovingAverage, Trainer
from simplebaseline_paddle.estimator import PaddleProcess
from simplebaseline_paddle.model import FromPictures, PoseResNet
from simplebaseline_paddle.weight_files import arrays_of
from tests.tolerance import close, rounding

ROOT = Path(__file__).resolve().parents[2]
_spec = importlib.util.spec_from_file_location("recipe", Path(__file__).with_name("_recipe.py"))
recipe = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(recipe)

SMALL = (
    "--depth 18 --base_width 16 --input_height 64 --input_width 64 --sigma 1 --deconv_filters 16,16,16 --batch_size 4"
    " --lr_epochs 1 --ema 0.9 --workers 0 --preset paper --pretrained_model none"
).split()
CONFIG = Config(base_width=16, depth=18, input_height=64, input_width=64, sigma=1, deconv_filters="16,16,16", workers=0)


@pytest.fixture(scope="module")
def mpii(tmp_path_factory):
    return recipe.write_mpii(tmp_path_factory.mktemp("mpii"), train=9, valid=5)


def run(root, out, *more):
    """train.py's exit code."""
    return train.main(["--dataset=mpii", f"--data_root={root}", f"--out={out}", "--valid_split=none", *SMALL, *more])


def state_of(out):
    return read_paddle(out / "last.pdparams")


def trainer_of(mpii, persons=8, **settings):
    """A Trainer on the first persons."""
    from simplebaseline_paddle.engine import Trainer

    config = replace(CONFIG, **settings)
    pose_set = datasets.load("mpii", mpii, "train").limit(persons)
    return Trainer(config, pose_set, PaddleProcess("cpu"))


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


@pytest.fixture(scope="module")
def trained(mpii, tmp_path_factory):
    """The folder of a run of two epochs without interruption."""
    out = tmp_path_factory.mktemp("whole") / "run"
    assert run(mpii, out, "--epochs", "2", "--workers", "1") == 0
    return out


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


def test_scoring_writes_predictions_and_figures(mpii, trained, tmp_path, capsys):
    out, figures, result = tmp_path / "p.npz", tmp_path / "s.json", tmp_path / "run.json"
    options = ["--dataset=mpii", f"--data_root={mpii}", f"--weights={trained}", "--flip_test", "yes", "--workers=0"]
    assert val.main([*options, f"--out={out}", f"--json={figures}", f"--result={result}"]) == 0
    text = capsys.readouterr().out
    assert "oracle (annotated centre and scale)" in text
    predictions = load_predictions(out)
    assert len(predictions) == 5 and predictions.meta["flip_test"] and predictions.meta["weights_hash"]
    assert json.loads(figures.read_text())["pckh@0.5"]["n"] == 5
    assert json.loads(result.read_text())["model"] == "resnet18w16_64x64"
    import scipy.io

    np.testing.assert_array_equal(scipy.io.loadmat(tmp_path / "pred.mat")["preds"], predictions.joints + 1)
    # more than one batch changes nothing
    assert val.main([*options, f"--out={tmp_path / 'e.npz'}", "--batch_size", "2"]) == 0
    off = np.abs(load_predictions(tmp_path / "e.npz").joints - predictions.joints)
    assert np.median(off) < 1e-3


def test_val_with_nothing_but_data(tmp_path, monkeypatch, capsys):
    """Random weights, with a warning; persons not looked at count too. Then the newest weights are taken."""
    recipe.write_coco(tmp_path / "data/coco", images=3)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(shelf, "REPOSITORY", tmp_path)
    small = [
        "--depth=18",
        "--base_width=16",
        "--input_height=64",
        "--input_width=64",
        "--workers=0",
        "--flip_test",
        "off",
    ]
    assert val.main(small) == 0
    captured = capsys.readouterr()
    assert "NO WEIGHTS" in captured.err and "the Paddle project's selection" in captured.out
    folder = tmp_path / "output/simplebaseline_paddle/coco-resnet18w16_64x64"
    assert load_predictions(folder / "valid.npz").meta["weights"] == "random"
    assert (folder / "keypoints_valid_results.json").is_file()
    assert train.main(["--dataset=coco", "--train_split=valid", "--epochs=1", *SMALL]) == 0
    assert val.main([]) == 0 and "coco-resnet18w16_64x64/best.pdparams (the newest" in capsys.readouterr().out
    assert val.main(["--boxes", "whole", "--out=w.npz"]) == 0
    assert (load_predictions(tmp_path / "w.npz").box[:, 2:] > 150).all()


def test_another_skeleton_is_refused_or_mapped_by_name(trained, tmp_path, capsys):
    root = recipe.write_coco(tmp_path / "coco", images=2)
    options = [f"--data_root={root}", f"--weights={trained}", "--workers=0", "--limit=3", f"--out={tmp_path / 'p.npz'}"]
    assert val.main(options) == 2
    assert "skeleton mpii16 (16 joints), the data have coco17 (17 joints)" in capsys.readouterr().err
    assert val.main([*options, "--shared_joints", "--boxes=annotated"]) == 0
    found = load_predictions(tmp_path / "p.npz")
    assert len(found) == 3 and np.isnan(found.joints[:, COCO17.index("left_eye")]).all()
    assert np.isfinite(found.joints[:, COCO17.index("left_hip")]).all()


OWN = {  # which side comes first, or none
    "left first": ["left_hand", "right_hand", "left_foot", "right_foot"],
    "right first": ["right_hand", "left_hand", "top"],
    "none": ["top", "middle", "bottom"],
}


@pytest.mark.parametrize("joints", OWN.values(), ids=OWN)
def test_own_data_trains_scores_predicts_and_converts_with_its_own_names(joints, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    recipe.write_own(tmp_path / "own", joints, [[joints[0], joints[-1]]])
    assert train.main(["--dataset=json", "--data_root=own", "--epochs=1", *SMALL]) == 0
    assert "nothing is validated" in capsys.readouterr().err
    assert val.main(["--dataset=json", "--data_root=own", "--split=train", "--workers=0", "--out=p.npz"]) == 0
    assert load_predictions("p.npz").skeleton.joints == tuple(joints)
    assert predict.main(["own/images", "--limit=1"]) == 0
    line = json.loads(Path("output/simplebaseline_paddle/predict/joints.jsonl").read_text())
    assert line["joint_names"] == joints and len(line["persons"][0]["joints"]) == len(joints)
    (run_folder,) = Path("output/simplebaseline_paddle").glob("json-*")
    assert convert.main([str(run_folder), "fluid"]) == 0
    skeleton = Estimator("fluid").skeleton
    assert skeleton.joints == tuple(joints) and skeleton.limbs == ((0, len(joints) - 1),)


def test_crowdpose_trains_and_scores(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert synthetic.main(["crowdpose", "data", "--count=8"]) == 0
    words = ["--dataset=crowdpose", "--data_root=data"]
    assert train.main([*words, "--epochs=1", *SMALL, "--valid_split=none"]) == 0
    assert val.main([*words, "--workers=0", "--json=s.json", "--out=p.npz"]) == 0
    assert "oks_ap" in json.loads(Path("s.json").read_text()) and len(load_predictions("p.npz").skeleton) == 14


def test_prediction_on_pictures(mpii, trained, tmp_path, capsys):
    boxes = tmp_path / "boxes.json"
    first, second = sorted((mpii / "images").iterdir())[:2]
    entry = {"image_id": 1, "file_name": first.name, "category_id": 1, "score": 0.9}
    boxes.write_text(json.dumps([{**entry, "bbox": [10, 10, 50, 80]}, {**entry, "bbox": [40, 20, 60, 90]}]))
    options = [
        str(mpii / "images"),
        f"--weights={trained}",
        "--limit",
        "2",
        "--flip_test",
        "off",
        f"--out={tmp_path / 'out'}",
    ]
    for more, people in (
        ([], [1, 1]),
        (["--boxes", "5,5,60,60", "--boxes", "20,20,40,80", "--batch_size", "1"], [2, 2]),
        (["--boxes", str(boxes)], [2, 0]),
    ):
        assert predict.main([*options, *more]) == 0
        rows = [json.loads(line) for line in (tmp_path / "out/joints.jsonl").read_text().splitlines()]
        assert [len(r["persons"]) for r in rows] == people
        assert [r["image"] for r in rows] == [first.name, second.name]
        assert (tmp_path / "out" / f"{first.name}_pose.png").is_file()
        for person in rows[0]["persons"]:
            # a peak lies in the padded crop, whose half side is at most 0.625 x the longer side of the box
            x, y, w, h = person["box"]
            half = 0.63 * max(w, h)
            assert (np.abs(np.array(person["joints"])[:, :2] - (x + w / 2, y + h / 2)) <= half).all()
    assert predict.main([*options, "--boxes", "1,2,0,3"]) == 2
    assert "positive w and h" in capsys.readouterr().err
    estimator = Estimator(trained, flip_test=False)
    assert len(estimator.predict(first)) == 1 and len(estimator.predict(cv2.imread(str(first)), np.zeros((0, 4)))) == 0


LAYERS = 3 * 25  # convolutions, batch norms and sums in a row of ResNet-18 with its head


def size_of_terms(model):
    """What the last layer adds up, which is larger than its sums: the root of the sum of the terms' squares."""
    kept = []
    hook = model.final_layer.register_forward_pre_hook(lambda layer, inputs: kept.append(inputs[0]))
    with paddle.no_grad():
        FromPictures(model, "bgr")(paddle.to_tensor(PICTURES))
        hook.remove()
        squares = paddle.nn.functional.conv2d(kept[0] ** 2, model.final_layer.weight**2)
    return np.sqrt(squares.numpy()) + np.abs(model.final_layer.bias.numpy())[:, None, None]


PICTURES = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), np.uint8)


def test_the_predictor_equals_the_network(trained):
    estimator = Estimator(trained)
    eager = FromPictures(estimator.model, "bgr")(paddle.to_tensor(PICTURES)).numpy()
    close(estimator.forward(PICTURES), eager, rounding(size_of_terms(estimator.model), steps=LAYERS))


def test_maps_that_are_not_finite_are_noticed(trained):
    estimator = Estimator(trained)
    estimator.model.final_layer.bias.set_value(np.full(16, np.inf, np.float32))
    with pytest.raises(DataError, match="heat-maps of .*last.pdparams are not finite"):
        estimator.predict(PICTURES[0])


def test_bfloat16_scoring_is_near(trained, monkeypatch):
    """8 bits of mantissa, by the size of the maps: a hardly trained network's differences are far below."""
    with monkeypatch.context() as patch, pytest.raises(DataError, match="--amp bf16 needs a CPU with avx512_bf16"):
        patch.setattr(infer, "processor", lambda: {"sse2", "avx512f"})
        Estimator(trained, amp="bf16").forward(PICTURES)
    if "avx512_bf16" not in infer.processor() or os.environ.get("ONEDNN_MAX_CPU_ISA") in ("SSE41", "AVX2"):
        pytest.skip("this processor has no bfloat16, or oneDNN is told so")
    narrow, wide = (Estimator(trained, amp=amp).forward(PICTURES) for amp in ("bf16", "off"))
    close(narrow, wide, rounding(size_of_terms(Estimator(trained).model), steps=LAYERS, dtype="bfloat16"))
    assert (narrow != wide).any()


@pytest.fixture
def gpus(monkeypatch):
    """As if Paddle 3 saw two GPUs of the H100's kind; what is asked of them is noted."""
    asked = []
    monkeypatch.setattr(paddle, "is_compiled_with_cuda", lambda: True)
    monkeypatch.setattr(paddle.device.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(paddle.device.cuda, "get_device_capability", lambda device=None: (9, 0))
    monkeypatch.setattr(paddle.version, "cuda", lambda: "12.6")
    monkeypatch.setattr(paddle, "set_device", asked.append)
    monkeypatch.setattr(paddle, "get_device", lambda: asked[-1])
    return asked


def test_the_predictor_runs_on_this_processs_gpu(gpus, trained, monkeypatch):
    process = PaddleProcess("cuda:1")
    assert (process.gpu, gpus) == (1, ["gpu:1"])
    given = []

    class Noted(paddle.inference.Config):
        def enable_use_gpu(self, *words):
            given.append(words)

    monkeypatch.setattr(paddle.inference, "Config", Noted)
    one = Estimator(trained, device="cpu")
    Estimator.of(one.model, replace(one.config, amp="bf16"), one.skeleton, process).forward(PICTURES)
    assert given == [(512, 1, paddle.inference.PrecisionType.Bfloat16)]


def test_gpus_that_this_paddle_cannot_use_are_refused(gpus, monkeypatch):
    with pytest.raises(DataError, match="paddle.distributed.launch --devices 0,1"):
        PaddleProcess("cuda:0,1")
    monkeypatch.setattr(paddle.version, "cuda", lambda: "11.8")
    with pytest.raises(DataError, match="CUDA 11.8. has no code for this GPU; install Paddle 3 for CUDA 12"):
        PaddleProcess("cuda")
    monkeypatch.setattr(paddle.device.cuda, "get_device_capability", lambda device=None: (7, 0))
    with pytest.raises(DataError, match="a GPU since Ampere"):
        infer.check_bfloat16(0)


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


def same_but_for_rounding(found, expected, loss, rate, steps):
    """Weights after some steps of plain momentum. A joint's bias has moved by means of differences to the target,
    which cancel: their size shows in the loss, half their mean square."""
    moved = rate * steps * np.sqrt(2 * loss) / len(expected["final_layer.bias"])
    for name, value in expected.items():
        close(found[name], value, rounding(np.abs(value).max() + moved, steps=LAYERS), name)


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
