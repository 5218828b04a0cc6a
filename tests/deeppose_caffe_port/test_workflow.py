"""The project's own two stages, from a data set to scores, on a few synthetic pictures; and what bad input says."""

import itertools
import json
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from common.datasets import synthetic
from common.errors import DataError
from common.files import write_text
from common.predictions import load_predictions
from deeppose_caffe_port import Estimator, convert, draw_loss, predict, prepare, train, val, workflow
from deeppose_caffe_port.config import PRESETS, Config, settle
from deeppose_caffe_port.estimator import Regressor
from deeppose_caffe_port.images import patch
from deeppose_caffe_port.prepare import import_data
from deeppose_caffe_port.sources import LmdbSource
from tests import tolerance
from tests.bench import deeppose_caffe_port as bench

torch.set_num_threads(1)
ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
HOUSE = ROOT / "deeppose_caffe_port"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    synthetic.make("k2hpd", root / "k2hpd", count=20)
    synthetic.make("lspet", root / "lspet", count=10)
    return root


def shorten(project: pathlib.Path) -> None:
    """Two iterations a stage."""
    for file in project.glob("models/*/solver.prototxt"):
        text = re.sub(r"max_iter: \d+", "max_iter: 2", file.read_text())
        file.write_text(re.sub(r"test_iter: \d+", "test_iter: 1", text))


def options(data, project, dataset: str = "k2hpd") -> list[str]:
    """K2HPD as the original does it; LSPET with all that this port adds."""
    added = ["--train_split=1-6", "--valid_split=7-10", "--rotate=30", "--zoom=1.2"]
    split = added if dataset == "lspet" else ["--mode=compat", "--no-joint_outputs"]
    return [
        f"--out={project}",
        f"--dataset={dataset}",
        f"--data_root={data / dataset}",
        "--patch_rate=1",
        "--holdout=8",
        "--batch_size=3",
        *split,
    ]


@pytest.fixture(scope="module", params=["k2hpd", "lspet"])
def project(request, data, tmp_path_factory):
    """A project folder in which the whole workflow has run."""
    folder, words = tmp_path_factory.mktemp(request.param), options(data, "", request.param)[1:]
    assert workflow.main(["import_data", f"--out={folder}", *words]) == 0
    shorten(folder)
    assert workflow.main(["run_all", "--start_at=get_stage1", f"--out={folder}", *words]) == 0
    return folder, [f"--out={folder}", *words]


def test_all_steps_leave_their_files(project):
    folder, _ = project
    name = next((folder / "data").iterdir()).name
    for file in ("project.json", f"data/{name}/stage1/output.txt", f"data/{name}/stage2/images.txt"):
        assert (folder / file).is_file(), file
    for model in ("deeppose", "deeppose_refine"):
        for file in (
            "train_data_lmdb/data.mdb",
            "train_mean.binaryproto",
            f"snapshot/{model}_iter_2.caffemodel",
            f"snapshot/{model}_iter_2.solverstate",
        ):
            assert (folder / "models" / model / file).is_file(), file
    assert (folder / "SYNTHETIC").exists()
    assert "SYNTHETIC" in (folder / "models/deeppose/snapshot/log/train.log").read_text()


def test_scores_and_prediction_file(project, tmp_path):
    folder, words = project
    use = [f"--weights={folder}", words[2]]
    files = [
        f"--{name}={tmp_path / file}" for name, file in (("out", "p.npz"), ("json", "s.json"), ("result", "r.json"))
    ]
    assert val.main([*use, *files]) == 0
    predictions = load_predictions(tmp_path / "p.npz")
    assert predictions.meta["synthetic"] and predictions.meta["model"] == "deeppose_refine"
    assert np.isfinite(predictions.joints).all()
    scores = json.loads((tmp_path / "s.json").read_text())
    assert all(entry["n"] >= 0 and not entry["comparable"] for entry in scores.values())
    assert json.loads((tmp_path / "r.json").read_text())["house"] == "deeppose_caffe_port"
    assert val.main([*use, "--stage=1", f"--out={tmp_path / 'one.npz'}", "--limit=2"]) == 0
    assert len(load_predictions(tmp_path / "one.npz")) == 2
    assert val.main([*use, "--random_weights", f"--out={tmp_path / 'random.npz'}"]) == 0
    one = folder / "models/deeppose/snapshot/deeppose_iter_2.caffemodel"
    assert Estimator(one).meta["model"] == "deeppose" == Estimator(folder, stage=1).meta["model"]
    with pytest.raises(DataError, match="no stage 5"):
        Estimator(folder, stage=5)


def test_predictions_do_not_depend_on_the_batch(project):
    folder, words = project
    data = val.persons({"data_root": words[2].partition("=")[2]}, val.parse_args([])[1], folder)
    a, b = (Estimator(folder, batch_size=size).predict_pose_set(data).joints for size in (1, 4))
    # a patch is cut at whole pixels: a last digit may move it
    assert (np.abs(a - b) < 1e-2).mean() > 0.9


def test_bf16_predictions_are_near_those_of_float32(project):
    """Eight bits a number through nine layers: a few hundredths of what the network puts out at most."""
    folder, words = project
    data = val.persons({"data_root": words[2].partition("=")[2]}, val.parse_args([])[1], folder)
    full, low = (Estimator(folder, stage=1, amp=amp).predict_pose_set(data).joints for amp in ("off", "bf16"))
    moves = np.abs(full - full.mean((1, 2), keepdims=True))
    assert 0 < np.abs(low - full).max() < 0.05 * moves.max()


def test_predict_draws_and_writes(project, tmp_path):
    folder, _ = project
    images = sorted((folder / "data").glob("*/depth_data/depth_images/*.png"))[:2]
    for source in (images[0], images[0].parent):
        words = [
            str(source),
            f"--weights={folder}",
            f"--out={tmp_path / 'out'}",
            "--limit=2",
            "--boxes=1,2,60,80",
            "--boxes=whole",
        ]
        assert predict.main(words[:4]) == 0
        lines = [json.loads(line) for line in (tmp_path / "out/joints.jsonl").read_text().splitlines()]
        assert len(lines) == (1 if source.is_file() else 2)
        assert lines[0]["joint_names"] == list(settle({"out": str(folder)}).joints.joints)
        assert len(lines[0]["persons"][0]["joints"]) == len(lines[0]["joint_names"])
    assert list((tmp_path / "out").glob("*_pose.png"))
    assert predict.main([str(images[0]), f"--weights={folder}", "--boxes=1,2,0,3", f"--out={tmp_path / 'out'}"]) == 2


def test_estimator_takes_depth_images_and_boxes(project):
    """A grey image (H,W) counts as three equal channels; several boxes are several persons, in the picture's pixels; none is nobody."""
    folder, _ = project
    estimator = Estimator(folder)
    grey = cv2.imread(str(sorted((folder / "data").glob("*/depth_data/depth_images/*.png"))[0]), cv2.IMREAD_GRAYSCALE)
    whole, same = estimator.predict(grey), estimator.predict(cv2.cvtColor(grey, cv2.COLOR_GRAY2BGR))
    np.testing.assert_array_equal(whole.joints, same.joints)
    large = np.pad(grey, ((30, 10), (50, 40)))
    size = grey.shape[::-1]
    # the box's border lies half a pixel off the picture's, as everywhere in common
    people = estimator.predict(large, np.array([[49.5, 29.5, *size], [10, 20, 60, 80]], float))
    assert people.joints.shape == (2, len(estimator.skeleton), 2) and (people.box[1] == [10, 20, 60, 80]).all()
    if estimator.config.whole_images:
        tolerance.close(people.joints[0] - (50, 30), whole.joints[0], tolerance.rounding(np.abs(people.joints).max()))
    assert len(estimator.predict(large, np.zeros((0, 4)))) == 0
    with pytest.raises(DataError, match="16 bits"):
        estimator.predict(grey.astype(np.uint16))


def test_a_single_caffemodel_is_enough(project, tmp_path):
    """Stage 1 without its project: deploy and mean beside it, joints by the data set's documented order."""
    folder, _ = project
    for name in ("deploy.prototxt", "train_mean.binaryproto", "snapshot/deeppose_iter_2.caffemodel"):
        shutil.copy(folder / "models/deeppose" / name, tmp_path)
    config = settle({"out": str(folder)})
    image = np.random.default_rng(0).integers(0, 255, (212, 256, 3)).astype(np.uint8)
    file = tmp_path / "deeppose_iter_2.caffemodel"
    lone = Estimator(file, dataset=config.dataset, mode=config.mode)
    assert lone.skeleton == config.joints and lone.meta["weights"] == file.name
    np.testing.assert_array_equal(lone.predict(image).joints, Estimator(folder, stage=1).predict(image).joints)
    with pytest.raises(DataError, match="outputs"):
        Estimator(file, dataset="mpii")
    with pytest.raises(DataError, match="neither a project folder nor"):
        Estimator(tmp_path / "none.caffemodel")


def test_a_project_travels_in_one_file(project, tmp_path, capsys):
    """Both stages as 16-bit weights in an .npz, which is given in the project's place; a name that leaves is refused."""
    folder, _ = project
    packed = tmp_path / "both.npz"
    assert convert.main([str(folder), str(packed), "--half"]) == 0, capsys.readouterr().err
    check = json.loads((tmp_path / "both.npz.card.json").read_text())["check"]["joints"]
    assert 0 < check["largest difference"] < check["tolerance"]
    picture = np.random.default_rng(1).integers(0, 256, (90, 120), np.uint8)
    with zipfile.ZipFile(packed) as members:
        assert {member.compress_type for member in members.infolist()} == {zipfile.ZIP_LZMA}
    found, wanted = (Estimator(where).predict(picture).joints for where in (packed, folder))
    assert np.abs(found - wanted).max() < check["tolerance"] * np.abs(wanted).max()
    assert convert.main([str(folder), str(tmp_path / "x.pt"), "--half"]) == 2
    for name in ("file|../outside", "files", "blob|x", "file|.", "other|x"):
        np.savez(tmp_path / "evil.npz", **{name: np.zeros(1, np.uint8)})
        with pytest.raises(DataError, match="evil.npz.* no part of a packed project"):
            Estimator(tmp_path / "evil.npz")
    wrong = {**json.loads((folder / "project.json").read_text()), "mode": "x"}
    for text in ("[" * 99999, "[]", "{}", json.dumps(wrong)):
        np.savez(tmp_path / "bad.npz", **{"file|project.json": np.frombuffer(text.encode(), np.uint8)})
        with pytest.raises(DataError, match=rf"^(?!.*{tempfile.gettempdir()}/tmp).*{tmp_path}/bad.npz/project.json"):
            Estimator(tmp_path / "bad.npz")
        assert val.main([f"--weights={tmp_path / 'bad.npz'}"]) == 2
        assert f"{tmp_path}/bad.npz/project.json" in capsys.readouterr().err


def test_a_stage_converts_and_draws_its_loss(project, tmp_path):
    folder, _ = project
    model = folder / "models/deeppose"
    weights, deploy = str(model / "snapshot/deeppose_iter_2.caffemodel"), str(model / "deploy.prototxt")
    assert convert.main([weights, str(tmp_path / "net.pt")]) == 0
    assert (
        convert.main(
            [str(tmp_path / "net.pt"), str(tmp_path / "back.caffemodel"), f"--model={deploy}", "--licence=mine"]
        )
        == 0
    )
    made, back = (json.loads((tmp_path / f"{n}.card.json").read_text()) for n in ("net.pt", "back.caffemodel"))
    assert made["skeleton"]["joints"] == list(Estimator(folder, stage=1).skeleton.joints)
    assert back["check"]["read again"]["largest difference"] < convert.TOLERANCE and back["licence"] == "mine"
    assert convert.main([str(tmp_path / "net.pt"), str(tmp_path / "x.caffemodel")]) == 2
    assert draw_loss.main([str(model / "snapshot/log/train.log")]) == 0
    assert (model / "snapshot/log/loss.data").read_text().startswith("0 ")


def test_conversion_that_answers_otherwise_is_not_kept(project, tmp_path, monkeypatch):
    folder, _ = project
    answers = itertools.count(1)
    monkeypatch.setattr(convert, "outputs", lambda net: {"predict": np.full((1, 30), next(answers))})
    weights = folder / "models/deeppose/snapshot/deeppose_iter_2.caffemodel"
    assert convert.main([str(weights), str(tmp_path / "net.caffemodel")]) == 2
    assert not list(tmp_path.iterdir())


def test_displaced_patches_repeat_errors_of_stage_1(project):
    """Label and centre of a patch give the joint back; the displaced ones are off as some prediction of that joint was,
    in the unit of their patches."""
    folder, words = project
    config = settle({"out": str(folder)})
    count = len(config.joints)
    names, values = prepare.read_list(config.data_home / "stage1/output.txt", 4 * count)
    truth, guess = values.reshape(-1, 2, count, 2).transpose(1, 0, 2, 3)
    size = config.sides(truth if config.mode == "compat" else guess)
    patches, labels = prepare.read_list(config.data_home / "stage2/images.txt", config.outputs(2))
    rows, seen = {pathlib.Path(name).stem: row for row, name in enumerate(names)}, 0
    for name, label in zip(patches, labels):
        stem, joint, *displaced = pathlib.Path(name).stem.split(".")
        row, joint = rows[stem], int(joint)
        label = label[np.isfinite(label)]
        if displaced:
            seen += 1
            off = (truth[:, joint] - guess[:, joint]) / size[:, None]
            assert np.abs(off - label).max(-1).min() < 1e-6 * (1 + 4 / size.min())
        else:
            # six decimals in the label, which the patch's size multiplies, and in both positions
            tolerance.close(guess[row, joint] + label * size[row], truth[row, joint], 1e-6 * (size[row] + 2))
    assert seen == config.displacements * len(patches) / (1 + config.displacements)


def test_small_diameters_are_raised_in_mode_correct():
    joints = np.zeros((1, 15, 2))
    assert Config(alpha=2.0).sides(joints)[0] == 2 * 0.2 * 212 and Config(mode="compat").sides(joints)[0] == 0


class Fake(Regressor):
    """A later stage whose outputs are given."""

    def __init__(self, config, found):
        self.config, self.found = config, found

    def __call__(self, pictures):
        return self.found


def test_every_joint_takes_its_own_outputs():
    outputs = np.arange(2 * 3 * 3 * 2).reshape(6, 6)  # two persons, three joints
    config = Config(joint_outputs=True, skeleton={"name": "three", "joints": ["a", "b", "c"]}, alpha=1.0)
    joints = np.array([[[10, 10], [74, 10], [20, 30]]] * 2, float)  # 64 wide
    moves = Fake(config, outputs).moves([np.zeros((90, 90, 3), np.uint8)] * 2, joints)
    assert moves.reshape(6, 2).tolist() == [[0, 1], [8, 9], [16, 17], [18, 19], [26, 27], [34, 35]]


def test_settings_of_the_project_folder_hold(project):
    folder, words = project
    mode, other = ("compat", "correct") if "--mode=compat" in words else ("correct", "compat")
    assert settle({"out": str(folder)}).mode == mode
    with pytest.raises(DataError, match="mode"):
        settle({"out": str(folder), "mode": other})
    assert val.main([f"--weights={folder}", words[2], f"--mode={other}"]) == 2
    kept = json.loads((folder / "project.json").read_text())
    for name, value in {"train_split": "other", "valid_split": "other", "limit": 999}.items():
        with pytest.raises(DataError, match=f"project.json: field {name} is {kept[name]!r}, not {value!r}"):
            settle({"out": str(folder), name: value})
        if kept[name] is not None:
            assert getattr(settle({"out": str(folder), name: kept[name]}), name) == kept[name]


def test_unlabelled_joints_go_through_both_stages(data, tmp_path):
    """nan in the lists, masked in the loss, no patch made of them."""
    config = settle(
        {
            "out": str(tmp_path),
            "dataset": "lspet",
            "data_root": str(data / "lspet"),
            "train_split": "1-4",
            "valid_split": "5-6",
        }
    )
    import_data(config)
    home = config.data_home
    lines = prepare.read_annotations(config, "train_annos")
    assert len(lines) == 4
    lines[0].values.reshape(-1, 2)[config.joints.index("right_hip")] = (
        np.nan
    )  # an end of a diagonal: the other one is the diameter then
    text = ",".join("nan" if np.isnan(v) else f"{v:.3f}" for v in lines[0].values)
    write_text(home / "train_annos.txt", f"{lines[0].name} {text}\n")
    prepare.get_stage1(config)
    prepare.get_k2hpd(config)
    names, values = prepare.read_list(config.model_folder(1) / "train_images.txt", 28)
    assert np.isnan(values).sum() == 4, "the joint in the picture and its counterpart in the mirrored one"
    absolute = values.reshape(-1, 14, 2) + np.array(config.size) / 2
    rows = [
        n + "".join(f" {v:f}" for v in np.concatenate([a.ravel(), np.nan_to_num(a, nan=3.0).ravel()])) + "\n"
        for n, a in zip(names, absolute)
    ]
    write_text(home / "stage1/output.txt", "".join(rows))
    figures = prepare.get_stage2(replace(config, patch_rate=1, displacements=0))
    assert figures["dropped"] == 2 and figures["patches"] == 2 * 14 - 2


def test_patches_outside_the_image_are_black_and_of_full_size():
    image = np.full((20, 30, 3), 255, np.uint8)
    for center in ((-40, 5), (5, -40), (300, 5), (5, 300), (1e6, -1e6)):
        found = patch(image, np.array(center), 13.9)
        assert found.shape == (13, 13, 3) and not found.any(), center
    assert patch(image, np.array([0.9, -0.9]), 4).astype(bool).sum() == 3 * 3 * 3
    assert patch(image, np.array([5, 5]), 0.3).shape == (1, 1, 3)


def test_degenerate_person_is_refined_without_error():
    moves = Fake(Config(mode="compat"), np.zeros((30, 2))).moves(
        [np.zeros((212, 256, 3), np.uint8)] * 2, np.full((2, 15, 2), 128.0)
    )
    assert moves.shape == (2, 15, 2) and not moves.any()


def test_training_a_stage_prepares_what_is_missing(data, tmp_path, monkeypatch):
    """The bare command on data alone: lists, LMDBs and mean first, then the training; nothing is made twice."""
    given, *shapes = PRESETS["smoke"]
    short = [replace(shape, solver={**shape.solver, "max_iter": 1, "test_iter": [1]}) for shape in shapes]
    monkeypatch.setitem(PRESETS, "smoke", (given, *short))
    words = options(data, tmp_path / "w")
    assert train.main(words) == 0
    assert (tmp_path / "w/models/deeppose/snapshot/deeppose_iter_1.caffemodel").is_file()
    made = (tmp_path / "w/models/deeppose/train_data_lmdb/data.mdb").stat().st_mtime_ns
    assert train.main([*words, "--resume"]) == 0
    assert (tmp_path / "w/models/deeppose/train_data_lmdb/data.mdb").stat().st_mtime_ns == made
    assert train.main([*words, "--stage=2"]) == 0
    assert (tmp_path / "w/models/deeppose_refine/snapshot/deeppose_refine_iter_1.caffemodel").is_file()


def test_stage_2_can_start_from_the_weights_of_stage_1(project, capfd):
    """Its network is another in these presets, which is said."""
    _, words = project
    assert train.main([*words, "--stage=2", "--warm_start"]) == 2
    assert "expected" in capfd.readouterr().err


def test_missing_depth_image_is_named_and_nothing_is_half_written(data, tmp_path):
    words = options(data, tmp_path / "w")
    broken = tmp_path / "k2hpd"
    broken.mkdir()
    for name in ("train_annos.txt", "test_annos.txt"):
        (broken / name).write_bytes((data / "k2hpd" / name).read_bytes())
    assert workflow.main(["import_data", *words[:2], f"--data_root={broken}"]) == 2
    assert not (tmp_path / "w/project.json").exists()


def test_holdout_that_leaves_nothing(project, capsys):
    _, words = project
    assert workflow.main(["get_k2hpd2", *(w for w in words if "holdout" not in w), "--holdout=100000"]) == 0
    assert "none is left to train on" in capsys.readouterr().out
    assert workflow.main(["create_lmdb2", *words]) == 2
    assert workflow.main(["get_k2hpd2", *words]) == 0


@pytest.mark.parametrize("program", ["train.py", "val.py", "workflow.py"])
def test_without_data_the_message_names_the_stand_in(program, tmp_path):
    words = {"workflow.py": ["run_all", f"--out={tmp_path / 'w'}"], "train.py": [f"--out={tmp_path / 'w'}"]}.get(
        program, []
    )
    answer = subprocess.run(
        [sys.executable, str(HOUSE / program), *words, f"--data_root={tmp_path / 'none'}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert answer.returncode == 2
    assert f"python -m common.datasets.synthetic k2hpd {tmp_path / 'none'}" in answer.stderr


def test_bench_writes_tables_for_the_readme(tmp_path, monkeypatch, capsys):
    given, first, later = PRESETS["paper"]
    monkeypatch.setitem(PRESETS, "paper", (given, first, replace(later, channels=0.1)))
    words = ["--stage=2", "--batch_size=16", "--runs=1", f"--json={tmp_path / 'b.json'}"]
    assert bench.main(["reader", *words]) == 0
    table = json.loads((tmp_path / "b.json").read_text())
    assert [row[0] for row in table["rows"]][1:] == ["read", "turn and scale (--rotate, --zoom)", "train, float32"]
    assert all(row[1] > 0 for row in table["rows"]) and table["command"].startswith(
        "python tests/bench/deeppose_caffe_port.py reader --stage=2"
    )
    assert bench.main(["net", *words]) == 0
    assert [row[1] for row in json.loads((tmp_path / "b.json").read_text())["rows"]].count("ours") == 2
    assert "of the plain module" in capsys.readouterr().out


def test_unreadable_pictures_are_warnings_in_training_and_scoring(data, tmp_path, capfd):
    """One that is none and one that is cut off: the preparation goes on without the first, scoring leaves its row empty."""
    broken = tmp_path / "k2hpd"
    shutil.copytree(data / "k2hpd", broken)
    annotated = (broken / "train_annos.txt").read_text().split("\n")[0].split()[0]
    scored = (broken / "test_annos.txt").read_text().split("\n")[0].split()[0]
    for name in (annotated, scored):
        next(broken.rglob(name)).write_bytes(b"no picture")
    words = [f"--out={tmp_path / 'w'}", f"--data_root={broken}", "--preset=smoke"]
    for step in ("import_data", "get_stage1", "get_k2hpd", "create_lmdb"):
        assert workflow.main([step, *words]) == 0
    said = capfd.readouterr().err
    assert "1 of 12 pictures were left out:\n" in said and "1 of 8 pictures were left out:\n" in said
    assert annotated in said and scored in said
    config = settle({"out": str(tmp_path / "w")})
    kept = len(LmdbSource(config.model_folder(1) / "train_data_lmdb", 1))
    assert kept == 2 * (len((config.data_home / "train_annos.txt").read_text().splitlines()) - 1)
    file = tmp_path / "p.npz"
    assert val.main(["--random_weights", f"--data_root={broken}", "--preset=smoke", "--stage=1", f"--out={file}"]) == 0
    joints = load_predictions(file).joints
    assert np.isnan(joints[0]).all() and np.isfinite(joints[1:]).all()
    assert scored in capfd.readouterr().err
