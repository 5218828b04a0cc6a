"""val.py and valid.py: the prediction file, modes, limits, baselines; test.py: the original's files, table, protocol."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.io import loadmat

from common.datasets import load
from common.errors import DataError
from common.metrics.mobilepose import crop_box, penn_table, whole_clips
from common.predictions import load_predictions
from common.runs.process import Process
from common.skeletons import CPM14, JHMDB15, LPM14, LSP14, PENN13, card
from lpm_torch import Estimator, official, test, val
from lpm_torch.config import PRESETS, Config, half_pixel
from lpm_torch.data import belief_labels
from lpm_torch.estimator import decode, unflip_maps
from lpm_torch.model import build_network
from tests.lpm_torch import tiny
from tests.reference.lpm_torch import build_model
from tests.tolerance import close, rounding, stored

SETTINGS = {
    "channels": 0.0625,
    "input_width": 64,
    "t": 5,
    "workers": 0,
    "threads": 1,
    "batch_size": 2,
    "init": "kaiming",
}
CPU = torch.device("cpu")


def save(folder: Path, skeleton=PENN13, **settings) -> Path:
    """A random network as train.py saves it."""
    config = Config(**{"dataset": "lsp" if skeleton is LSP14 else "penn_action", **SETTINGS, **settings})
    torch.manual_seed(1)
    path = folder / f"{config.model}_{config.mode}.pth.tar"
    about = {"skeleton": card(skeleton), "dataset": config.dataset}
    state = {"format": 2, "epoch": 0, "state_dict": build_network(config, 14).state_dict(), "config": vars(config)}
    torch.save({**state, "about": about}, path)
    return path


def penn(*arguments: str) -> list[str]:
    return ["--model=lpm", "--dataset=PennAction", f"--data_dir={tiny.penn()}", *arguments]


def score(out: Path, checkpoint: Path, *arguments: str):
    assert val.main(penn(f"--weights={checkpoint}", f"--out={out}", *arguments)) == 0
    return load_predictions(out)


def test_prediction_file(tmp_path):
    checkpoint = save(tmp_path)
    found = score(tmp_path / "p.npz", checkpoint, f"--json={tmp_path / 's.json'}")
    people = load("penn_action", tiny.penn(), "test")
    assert found.skeleton == PENN13 and (found.dataset, found.split) == ("penn_action", "test")
    assert np.array_equal(found.image_id, people.image_id) and np.array_equal(found.frame, people.frame)
    assert np.isfinite(found.joints).all() and np.isfinite(found.score).all()
    meta = found.meta
    assert meta["house"] == "lpm_torch" and meta["model"] == "lpm" and meta["synthetic"] is True
    assert "oracle" in meta["boxes"] and meta["flip_test"] is False and len(meta["weights_hash"]) == 64
    assert meta["settings"]["input_width"] == 64 and "torch" in meta["versions"]
    # the crop that was looked at holds the person's box
    inside = (found.box[:, :2] <= people.box[:, :2]) & (
        found.box[:, :2] + found.box[:, 2:] >= people.box[:, :2] + people.box[:, 2:]
    )
    assert inside.all()
    assert "pck_box@0.2" in json.loads((tmp_path / "s.json").read_text())


def test_tails_are_scored_in_mode_correct_only(tmp_path):
    """Seven frames in clips of five: MobilePose never looked at the last two."""
    people = load("penn_action", tiny.penn(), "test")
    assert len(score(tmp_path / "a.npz", save(tmp_path))) == len(people) == 7
    found = score(tmp_path / "b.npz", save(tmp_path, mode="compat"))
    whole = whole_clips(people.sequence, people.frame)
    assert np.array_equal(found.image_id, people.image_id[whole]) and whole.sum() == 5


def test_mode_is_checked(tmp_path, capsys):
    checkpoint = save(tmp_path)
    assert val.main(penn(f"--checkpoint_name={checkpoint}", "--mode=compat")) == 2
    message = capsys.readouterr().err
    assert "correct" in message and "compat" in message
    assert val.main(["--model=cpm", *penn(f"--checkpoint_name={checkpoint}")[1:]]) == 2
    message = capsys.readouterr().err
    assert "lpm" in message and "cpm" in message


def test_limit_random_weights_and_flip(tmp_path):
    checkpoint = save(tmp_path)
    assert len(score(tmp_path / "l.npz", checkpoint, "--limit=3")) == 3
    plain, random, flipped = (
        score(tmp_path / "p.npz", checkpoint, "--limit=3", *more)
        for more in ((), ("--random_weights",), ("--flip_test",))
    )
    assert not np.array_equal(plain.score, random.score) and not np.array_equal(plain.score, flipped.score)
    assert flipped.meta["flip_test"] is True


def test_averaged_weights_are_the_default(tmp_path):
    path = save(tmp_path)
    state = torch.load(path, weights_only=True)
    state["ema"] = {"shadow": {k: torch.zeros_like(v) for k, v in state["state_dict"].items()}, "count": 1}
    torch.save(state, path)
    assert score(tmp_path / "a.npz", path).score.max() == 0
    assert score(tmp_path / "r.npz", path, "--raw_weights").score.max() > 0


def test_module_prefix_and_file_of_the_original(tmp_path):
    """A MobilePose file has neither settings nor plain names; it is read with the original's settings."""
    net = build_model("lpm", width=1.0)
    path = tmp_path / "lpm_Penn_best.pth.tar"
    torch.save({"epoch": 3, "state_dict": {f"module.{k}": v for k, v in net.state_dict().items()}}, path)
    found = Estimator(path, dataset="penn_action")
    assert (found.config.t, found.config.input_width, found.config.center_map) == (5, 256, "compat")
    assert found.skeleton is LPM14 and not found.named
    assert all(torch.equal(v, net.state_dict()[k]) for k, v in found.model.state_dict().items())


def test_weights_of_the_authors_take_their_settings(tmp_path):
    path = tmp_path / "penn.pt"
    torch.save(build_model("lpm_official").state_dict(), path)
    config = Estimator(path).config
    assert (config.model, config.input_width, config.background) == ("lpm_official", 368, True)
    with pytest.raises(DataError, match="lpm_official, not of cpm"):
        Estimator(path, model="cpm")


def test_run_file_for_the_tables(tmp_path):
    from common.reported import compare, load_runs

    checkpoint, folder = save(tmp_path), tmp_path / "results"
    score(tmp_path / "p.npz", checkpoint, f"--result={folder / 'lpm_penn.json'}")
    (run,) = load_runs(folder)
    assert run["model"] == "lpm" and run["meta"]["seed"] == 0 and run["command"].startswith("python ")
    lines = [line for line in compare([run], "lpm_torch") if line["measured"] is not None]
    assert lines and all(line["images"] == "synthetic" and not line["comparable"] for line in lines)


def test_flipped_maps_come_back(tmp_path):
    """A network that answers the mirrored input with the mirrored answer must give the same joints, to half a cell."""
    generator = np.random.default_rng(0)
    for model, cells in (("lpm", 31), ("lpm_official", 46)):
        config = Config(model=model, input_width=256 if model == "lpm" else 368)
        x, y = generator.uniform(40, config.input_width - 40, (2, 14))

        def maps(points, config=config, cells=cells):
            seen = np.ones((1, 14), np.int8)
            return torch.from_numpy(
                belief_labels(points[None], seen, config.input_width, cells, 1.0, True, half_pixel(config))
            )

        upright = maps(np.stack([x, y], -1))
        mirrored = maps(np.stack([config.input_width - 1 - x, y], -1)[LPM14.mirror])
        # a map's shift by one whole cell leaves cells/size of a cell
        assert (unflip_maps(mirrored, config) - upright).abs().max() < 0.15
        assert (
            np.abs(decode(unflip_maps(mirrored, config), config)[0] - decode(upright, config)[0]).max()
            < 0.6 * config.input_width / cells
        )


def test_missing_checkpoint_and_data(tmp_path, capsys, monkeypatch):
    assert val.main(penn(f"--model_dir={tmp_path}")) == 2
    assert "train.py" in capsys.readouterr().err
    monkeypatch.chdir(tmp_path)
    assert val.main(["--model=lpm", f"--data_dir={tmp_path}/none"]) == 2
    assert "common.datasets.synthetic penn_action" in capsys.readouterr().err


def test_names_of_mobilepose_and_the_newest_weights(tmp_path, capsys, monkeypatch):
    """MODEL_DIR/MODEL/DATASET/NAME; without any name the newest best of this house."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("common.runs.shelf.REPOSITORY", tmp_path)
    folder = tmp_path / "experiments/lpm/PennAction"
    folder.mkdir(parents=True)
    save(folder).rename(folder / "2018_best.pth.tar")
    assert val.main(penn("--checkpoint_name=2018_best.pth.tar", "--out=p.npz", "--limit=2")) == 0
    run = tmp_path / "output/lpm_torch/lpm-penn_action"
    run.mkdir(parents=True)
    save(tmp_path).rename(run / "best.pth.tar")
    capsys.readouterr()
    assert val.main([f"--data_dir={tiny.penn().parent}", "--limit=2"]) == 0
    assert "lpm-penn_action/best.pth.tar (the newest" in capsys.readouterr().out
    assert (run / "test.npz").is_file()


def test_random_weights_without_any(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(PRESETS, "paper", {**PRESETS["paper"], "channels": 0.0625, "input_width": 64})
    monkeypatch.setattr("common.runs.shelf.REPOSITORY", tmp_path)
    assert val.main(penn("--limit=2", "--out=r.npz", "--t=1", "--flip_test")) == 0
    assert "RANDOM" in capsys.readouterr().err
    assert load_predictions(tmp_path / "r.npz").meta["weights"] == "random"


def test_other_joints_are_refused_unless_the_shared_ones_are_asked_for(tmp_path, capsys):
    checkpoint = save(tmp_path, LSP14, model="cpm")
    words = ["--dataset=PennAction", f"--data_dir={tiny.penn()}", f"--weights={checkpoint}", f"--out={tmp_path}/p.npz"]
    assert val.main(words) == 2
    message = capsys.readouterr().err
    assert "lsp14" in message and "penn13" in message and "--shared_joints" in message
    assert val.main([*words, "--shared_joints"]) == 0
    found = load_predictions(tmp_path / "p.npz")
    absent = [j for j in PENN13.joints if j not in LSP14.joints]
    assert absent == ["head"] and np.isnan(found.joints[:, 0]).all() and np.isfinite(found.joints[:, 1:]).all()


@pytest.mark.parametrize(
    "joints", [["left_hip", "right_hip", "neck"], ["neck", "right_hip", "left_hip"], ["top", "tail"]]
)
def test_own_data_of_any_joints(tmp_path, joints, capsys):
    """Trained, scored, predicted: the names are the data set's, whichever side comes first. Without a split `valid`
    nothing is validated."""
    from lpm_torch import predict, train

    root, run = tiny.own(tmp_path / "own", joints, limbs=[[joints[0], joints[1]]]), tmp_path / "run"
    data = ["--dataset=json", f"--data_root={root}"]
    train_words = [*tiny.TINY, "--model=lpm", "--init=kaiming", "--epochs=1", f"--out={run}", "--p_flip=1"]
    split = "valid" if len(joints) > 2 else "train"
    if split == "train":
        (root / "valid.json").unlink()
    assert train.main([*train_words, *data, "--valid_split=valid"]) == 0
    assert ("nothing is validated" in capsys.readouterr().err) == (split == "train")
    data += [f"--split={split}"]
    scoring = [f"--weights={run}", f"--out={tmp_path}/p.npz", "--protocol", "pck_box@0.2", "--flip_test"]
    assert val.main([*data, *scoring]) == 0
    found = load_predictions(tmp_path / "p.npz")
    assert list(found.skeleton.joints) == joints and np.isfinite(found.joints).all()
    picture = load("json", root, "train").images[0]
    assert predict.main([picture, f"--weights={run}", f"--out={tmp_path}/out"]) == 0
    line = json.loads((tmp_path / "out/joints.jsonl").read_text())
    assert line["joint_names"] == joints and len(line["persons"][0]["joints"]) == len(joints)


# ---- test.py ---------------------------------------------------------------------------------------------------------


def run_test(out: Path, checkpoint: Path, *arguments: str) -> dict:
    assert test.main(penn(f"--weights={checkpoint}", f"--out={out}", *arguments)) == 0
    return {name: loadmat(out / f"{name}.mat")[name] for name in ("gt", "pred", "vis", "box")}


@pytest.mark.parametrize("mode", ["correct", "compat"])
def test_files_of_the_original(tmp_path, mode):
    checkpoint = save(tmp_path, mode=mode)
    arrays = run_test(tmp_path, checkpoint)
    people = load("penn_action", tiny.penn(), "test").select(slice(5))
    assert arrays["gt"].shape == arrays["pred"].shape == (5, 15, 2) and arrays["gt"].dtype == np.float32
    assert arrays["vis"].shape == (5, 14) and arrays["vis"].dtype == np.float64
    assert arrays["box"].shape == (5, 4) and arrays["box"].dtype == np.float32
    # multiples of a quarter cell, within the crop
    cell = 64 / 7
    quarters = 4 * arrays["gt"] / cell
    close(quarters, np.round(quarters), rounding(quarters.max(), steps=2), "quarter cells")
    # (y, x): row and column of the annotated joints, brought back to the image, lie within a cell of them
    elbow = LPM14.index("right_elbow")
    assert arrays["vis"][:, elbow].tolist() == [1, 1, 0, 1, 1]
    head, ankle = LPM14.index("head_top"), LPM14.index("right_ankle")
    truth = people.joints[:, PENN13.index("right_ankle")] - people.joints[:, PENN13.index("head")]
    side = np.maximum(people.box[:, 2], people.box[:, 3]) + 2 * 256 / 3
    if mode == "compat":  # cut at the picture's border; the file's placeholders of hidden joints lie in its corner
        side = crop_box(np.nan_to_num(people.joints), people.image_size)[:, 2:].max(1)
    found = (arrays["gt"][:, ankle] - arrays["gt"][:, head])[:, ::-1] * (side / 64)[:, None]
    assert np.abs(found - truth).max() < 2 * cell * side.max() / 64
    # the longer side fills the crop in both modes, so that the original's script has one threshold for all
    sides = arrays["box"][:, 2:] - arrays["box"][:, :2]
    close(sides.max(1), np.full(len(sides), 64), rounding(64, steps=4), "longer side")


def test_still_images_count_as_t_frames(tmp_path):
    checkpoint, out = save(tmp_path, LSP14, model="cpm"), tmp_path / "out"
    common = [
        "--model=cpm",
        "--dataset=LSP",
        f"--data_dir={tiny.lsp()}",
        f"--checkpoint_name={checkpoint}",
        f"--out={out}",
    ]
    assert test.main([*common, "--limit=3"]) == 0
    assert loadmat(out / "pred.mat")["pred"].shape == loadmat(out / "gt.mat")["gt"].shape == (3, 15, 2)
    recurrent = save(tmp_path, LSP14, model="lpm")
    assert test.main(["--model=lpm", *common[1:3], f"--checkpoint_name={recurrent}", f"--out={out}", "--limit=3"]) == 0
    assert loadmat(out / "pred.mat")["pred"].shape == loadmat(out / "vis.mat")["vis"].shape[:1] + (15, 2) == (15, 15, 2)
    assert test.main([*common, "--protocol=pck_torso@0.2"]) == 2


@pytest.mark.golden
def test_table_of_the_original_counts_as_its_script(golden_dir):
    """The same integers as Octave running the original's PENN_test.m."""
    fixture = np.load(golden_dir / "lpm_torch/octave.npz")
    truth, predicted, visible, box = (fixture[f"penn_test_in_{name}"] for name in ("gt", "pred", "vis", "box"))
    places = (found[:, : visible.shape[1], ::-1] for found in (truth, predicted))
    result = penn_table(*places, visible == 1, (box[:, 2:] - box[:, :2]).max(1))
    assert list(result.counts.values()) == fixture["penn_test_obj"].astype(int).tolist()
    hits = [round(v / 100 * n) if n else 0 for v, n in zip(result.values.values(), result.counts.values())]
    assert hits == fixture["penn_test_detected"].astype(int).tolist()
    total = float(fixture["penn_test_acc"]) * (100 if fixture["penn_test_acc"] <= 1 else 1)
    close(result.total, total, rounding(100, steps=2, dtype=np.float64), "total")


# ---- the official protocol -------------------------------------------------------------------------------------------


class Beacon(torch.nn.Module):
    """Sees red pixels: its map is the crop's red excess, averaged to cells; counts the frames since the state was
    made."""

    def __init__(self, cells: int):
        super().__init__()
        self.cells, self.starts, self.seen = cells, 0, []

    def init_state(self, frames, center):
        self.starts += 1
        return 0

    def step(self, frames, center, state):
        self.seen.append(state)
        red = (frames[:, 2] - frames[:, 0]).clamp(min=0)[:, None]
        maps = torch.nn.functional.interpolate(red, size=(self.cells, self.cells), mode="area")
        return maps.expand(-1, 15, -1, -1), state + 1


@pytest.mark.parametrize("box", [[70.0, 50, 60, 80], [0.0, 0, 30, 40], [10.0, 5, 180, 140]])
def test_seven_scales_find_a_beacon_where_it_is(box):
    """A red disc is found whatever crop, scale and border are, within 2 pixels or, where a large box leaves one scale
    only, half a cell of 8 pixels of that scale; `lpm_official` reads BGR."""
    import cv2

    image = np.full((150, 200, 3), 128, np.uint8)
    place = (int(box[0] + 0.5 * box[2]), int(box[1] + 0.4 * box[3]))
    cv2.circle(image, place, 7, (128, 128, 255), -1)
    config = Config(model="lpm_official", input_width=96, threads=1)
    benchmark = official.Benchmark(Beacon(12), config, CPU, official.SCALES["penn_action"])
    joints, score = benchmark(image, np.array(box))
    assert np.abs(joints - place).max() <= max(2, 4 / official.scale_of(1.4, np.array(box), 96)) and (score > 0).all()


def test_scale_fits_large_people():
    assert official.scale_of(1.4, np.array([0, 0, 100.0, 50]), 368) == 1.4
    assert official.scale_of(1.4, np.array([0, 0, 300.0, 50]), 368) == 368 / 300 / 1.05


def looking(net: torch.nn.Module, skeleton=PENN13) -> Estimator:
    """An estimator around a stand-in for lpm_official."""
    return Estimator.of(net, Config(model="lpm_official", input_width=96), skeleton, Process())


def test_state_goes_through_a_sequence_and_not_beyond():
    net = Beacon(12)
    people = load("penn_action", tiny.penn(), "train")
    found = official.predict_official(looking(net), people)
    assert net.starts == 2 and net.seen == [*range(7), *range(5)]
    assert len(found) == len(people) and len(found.meta["scales"]) == 7


def test_authors_penn_models_exchange_sides():
    """Their channel R-Sho is the data set's left shoulder."""

    class Sides(Beacon):
        def step(self, frames, center, state):
            maps = torch.zeros(len(frames), 15, 12, 12)
            for j, name in enumerate(CPM14.joints):
                maps[:, j, 6, 3 if name.startswith("right") else 8] = 1
            return maps, state

    people = load("penn_action", tiny.penn(), "test")
    found = official.predict_official(looking(Sides(12), CPM14), people)
    left, right = (found.joints[:, PENN13.index(f"{s}_shoulder"), 0] for s in ("left", "right"))
    assert (left < right).all()


def test_official_protocol_from_the_command_line(tmp_path, capsys):
    checkpoint = save(tmp_path, model="lpm_official")
    arguments = [
        "--model=lpm_official",
        *penn("--protocol=official", f"--checkpoint_name={checkpoint}", f"--out={tmp_path}/")[1:],
    ]
    assert test.main(arguments) == 0
    found = load_predictions(tmp_path / "official.npz")
    assert len(found) == 7 and "pck_box@0.2" in capsys.readouterr().out


def test_official_protocol_of_sub_jhmdb(tmp_path):
    from common.datasets import synthetic

    people_root = tmp_path / "JHMDB"
    synthetic.make("jhmdb", people_root, 2)
    checkpoint = save(tmp_path, JHMDB15, model="lpm_official")
    arguments = [
        "--model=lpm_official",
        "--dataset=JHMDB",
        f"--data_dir={people_root}",
        "--split=test1",
        "--protocol=official",
        "--limit=3",
    ]
    assert test.main([*arguments, f"--checkpoint_name={checkpoint}", f"--out={tmp_path}/"]) == 0
    found = load_predictions(tmp_path / "official.npz")
    assert found.meta["stand_ins"] == ["belly"] and found.meta["scales"][0] == 1.2 and np.isfinite(found.joints).all()


def test_weights_of_another_joint_order_are_refused(tmp_path, capsys):
    """What the converter's card says counts; the official protocol alone reads the authors' order."""
    checkpoint = tmp_path / "penn.pt"
    torch.save(build_model("lpm_official", width=0.0625).state_dict(), checkpoint)
    content = json.dumps({"about": {"skeleton": card(CPM14)}})
    checkpoint.with_name(checkpoint.name + ".card.json").write_text(content)
    words = penn(f"--checkpoint_name={checkpoint}", "--limit=2")[1:]
    for program in (val, test):
        assert program.main(words) == 2
        message = capsys.readouterr().err
        assert "cpm14" in message and "--reorder" in message
    assert test.main([*words, "--protocol=official", f"--out={tmp_path}/"]) == 0
    assert load_predictions(tmp_path / "official.npz").meta["joint_order"] == "cpm14"


def test_the_official_protocol_is_for_the_official_network(tmp_path, capsys):
    checkpoint = save(tmp_path, model="lpm")
    assert test.main(penn("--protocol=official", f"--checkpoint_name={checkpoint}")) == 2
    assert "lpm with val.py" in capsys.readouterr().err


@pytest.mark.golden
def test_maps_of_the_authors(golden_dir):
    """Label and centre maps of the authors' Matlab code."""
    fixture = np.load(golden_dir / "lpm_torch/octave.npz")
    config = Config(model="lpm_official", input_width=fixture["off_cmap_test"].shape[0])
    center = official.Benchmark(Beacon(46), config, CPU, (1.0,)).center[0, 0].numpy()
    close(center, fixture["off_cmap_test"], stored(fixture["off_cmap_test"]) + rounding(1, steps=3), "centre map")
    expected = fixture["off_lmap"].transpose(3, 2, 1, 0)
    x, y, seen = fixture["off_in_lm"]
    joints = np.stack([x, y], -1).transpose(1, 0, 2)  # that code takes any coordinate as counted from 0
    cells = expected.shape[-1]
    found = belief_labels(
        joints, (seen.T >= 0).astype(np.int8), config.input_width, cells, 7 / 8, True, half_pixel=True
    )
    # joints left of or above the first cell never reach that code: its augmentation has marked them absent
    inside = (joints > 4).all(-1)
    assert inside.sum() > 10
    close(
        found[:, :-1][inside], expected[:, :-1][inside], stored(expected[:, :-1][inside]) + rounding(1, steps=3), "maps"
    )
