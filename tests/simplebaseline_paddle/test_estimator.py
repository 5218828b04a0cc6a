"""Scoring and predicting with the programmes and in Python, on small made-up data."""

import json
import os
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import paddle
import pytest

from common.datasets import synthetic
from common.errors import DataError
from common.predictions import load_predictions
from common.runs import shelf
from common.skeletons import COCO17
from simplebaseline_paddle import Estimator, convert, predict, train, val
from simplebaseline_paddle import estimator as infer
from simplebaseline_paddle.estimator import PaddleProcess
from simplebaseline_paddle.model import FromPictures
from tests.simplebaseline_paddle import _recipe as recipe
from tests.simplebaseline_paddle.tiny import LAYERS, SMALL
from tests.tolerance import close, rounding


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
    assert val.main(options) == 2 and "data set mpii is not in" in capsys.readouterr().err, "that of the weights"
    options.append("--dataset=coco")
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
