"""ClipDataset and its loader: targets, pictures and the way back agree; the order does not depend on workers or
interruptions."""

import json
from dataclasses import replace

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from common.codecs import decode_maps, gaussian_maps  # noqa: E402
from common.geometry import apply_affine  # noqa: E402
from common.poses import PoseSet, box_of_joints  # noqa: E402
from common.skeletons import LPM14, LSP14, PENN13  # noqa: E402
from lpm_torch import data  # noqa: E402
from lpm_torch.config import Config  # noqa: E402
from lpm_torch.data import ClipDataset, EpochSampler, make_clips, make_loader, to_network  # noqa: E402
from tests.bench import lpm_torch as bench  # noqa: E402
from tests.tolerance import close, rounding  # noqa: E402

GRID, SIZE = 15, 128
SPOT = LSP14.index("left_wrist")  # painted pure red on every picture


@pytest.fixture(scope="module")
def stills(tmp_path_factory):
    """Seven pictures of different sizes with joints inside; one is unlabelled, one occluded; the left wrist is a red
    disc."""
    folder, rng = tmp_path_factory.mktemp("stills"), np.random.default_rng(3)
    joints, images = [], []
    for i, (width, height) in enumerate(
        [(160, 200), (300, 180), (90, 90), (400, 640), (210, 150), (128, 256), (700, 500)]
    ):
        points = rng.uniform(0.1, 0.9, (14, 2)) * [width, height]
        image = rng.integers(0, 80, (height, width, 3)).astype(np.uint8)
        cv2.circle(image, tuple(int(round(v)) for v in points[SPOT]), max(width, height) // 16, (0, 0, 255), -1)
        images.append(f"{folder}/{i}.png")
        cv2.imwrite(images[-1], image)
        joints.append(points)
    joints, visible = np.array(joints), np.full((7, 14), 2, np.int8)
    visible[2, 4], joints[2, 4], visible[3, 0] = 0, np.nan, 1
    return PoseSet(
        name="lsp", skeleton=LSP14, split="train", images=images, image_id=np.arange(7), person_id=np.zeros(7, np.int64),
        joints=joints, visible=visible, box=box_of_joints(joints),
    )  # fmt: skip


def videos(lengths, folder=None, mask=None):
    """Penn-like videos whose rows are given in a shuffled order."""
    sequence = np.repeat(np.arange(len(lengths)), lengths)
    frame = np.concatenate([np.arange(n) for n in lengths])
    order = np.random.default_rng(0).permutation(len(frame))
    sequence, frame = sequence[order], frame[order]
    joints = np.random.default_rng(1).uniform(10, 60, (len(frame), 13, 2)) + frame[:, None, None]
    images = [f"{folder}/{s}_{f}.png" for s, f in zip(sequence, frame)]
    for path in images if folder else []:
        cv2.imwrite(path, np.full((90, 100, 3), 120, np.uint8))
    return PoseSet(
        name="penn_action", skeleton=PENN13, split="train", images=images, image_id=np.arange(len(frame)), person_id=np.zeros(len(frame), np.int64),
        joints=joints, visible=np.full((len(frame), 13), 2, np.int8), box=box_of_joints(joints), sequence=sequence, frame=frame,
    )  # fmt: skip


def config(**changes):
    return Config(
        **{"input_width": SIZE, "dataset": "lsp", "batch_size": 2, "workers": 0, "pad_pixels": 10.0, **changes}
    )


def dataset(pose_set, augment=True, **changes):
    c = config(**changes)
    return ClipDataset(pose_set, c, GRID, augment)


def in_map(joints):
    """Joints that the map can show: at least one cell from its edges."""
    cells = joints * (GRID / SIZE)
    return ((cells > 0) & (cells < GRID - 1)).all(-1)


@pytest.mark.parametrize("mode", ["correct", "compat"])
@pytest.mark.parametrize("augment", [False, True])
def test_labels_lead_back_to_the_annotated_joint(stills, mode, augment):
    """Within half a cell (a peak at the map's border is not refined), and in compat 2 pixels of the crop more: three
    truncations."""
    data = dataset(stills, augment, mode=mode)
    truth, checked = to_network(stills)[0], 0
    for epoch in range(4):
        for i in range(len(data)):
            item = data[(epoch, i)]
            flipped = np.linalg.det(item["to_image"][0, :, :2]) < 0
            expected = truth[i][LPM14.mirror] if flipped else truth[i]
            labelled = np.isfinite(expected).all(-1)
            ok = labelled & in_map(item["joints"][0])
            cells, peak = decode_maps(item["labels"][0, :14])
            found = apply_affine(item["to_image"][0], cells * (SIZE / GRID))
            pixel = np.sqrt(abs(np.linalg.det(item["to_image"][0, :, :2])))  # image pixels in one of the crop
            tolerance = pixel * (0.5 * SIZE / GRID + (2 if mode == "compat" else 0.01))
            assert np.abs((found - expected)[ok]).max() <= tolerance * np.sqrt(2 if augment else 1)
            assert (peak[ok] > 0.5).all()
            checked += ok.sum()
    assert checked > 200


def test_what_each_setting_changes(stills):
    """Scale: how large a person is; shift: where, either way, by a share of the box; jitter: each colour, up and down."""
    still = {"p_flip": 0.0, "rotate": 0.0, "scale_low": 1.0, "scale_high": 1.0, "shift": 0.0, "jitter": 0.0}
    middle, plain = (SIZE - 1) / 2, dataset(stills, **still)[0, 1]
    x, y, w, h = stills.box[1]
    corners = np.array([[x - 10, y - 10], [x + w + 10, y + h + 10]])  # `pad_pixels`
    close(apply_affine(plain["to_image"][0], plain["box"].reshape(2, 2)), corners, rounding(700, steps=4))
    for factor in (0.8, 1.25):
        scaled = dataset(stills, **{**still, "scale_low": factor, "scale_high": factor})[0, 1]
        for name in ("joints", "box"):
            close(scaled[name] - middle, (plain[name] - middle) * factor, rounding(700, steps=4))
    shifted, tinted = dataset(stills, **{**still, "shift": 0.2}), dataset(stills, **{**still, "jitter": 0.2})
    moved = np.array([(shifted[epoch, 1]["joints"] - plain["joints"])[0, 0] / SIZE for epoch in range(40)])
    assert (moved.min(0) < -0.1).all() and (moved.max(0) > 0.1).all() and np.abs(moved).max() < 0.2 + 1e-6
    colour = np.array([tinted[epoch, 1]["frames"].mean((0, 1, 2)) for epoch in range(40)])
    ratio = colour / plain["frames"].mean((0, 1, 2))
    assert (ratio.min(0) < 0.9).all() and (ratio.max(0) > 1.1).all() and (np.abs(ratio - 1) < 0.22).all()
    assert np.abs(np.diff(ratio, axis=1)).max(0).min() > 0.1  # each by itself


@pytest.mark.parametrize("mode", ["correct", "compat"])
def test_the_picture_follows_the_joints(stills, mode):
    """The red disc is under the left wrist, and under the joint called right wrist where the crop is mirrored."""
    data, sides = dataset(stills, mode=mode, jitter=0.0), set()
    for epoch in range(4):
        for i in range(len(data)):
            item = data[(epoch, i)]
            flipped = np.linalg.det(item["to_image"][0, :, :2]) < 0
            place = item["joints"][0, LPM14.index("right_wrist" if flipped else "left_wrist")].round().astype(int)
            if (place >= 3).all() and (place < SIZE - 3).all():
                red, green, blue = item["frames"][0, place[1], place[0]].astype(int)
                assert red > 150 and green < 100 and blue < 100
                sides.add(flipped)
    assert sides == {False, True}


def test_flip_swaps_sides_and_visibility(stills):
    plain, flipped = (
        dataset(stills, p_flip=p, rotate=0.0, scale_low=1.0, scale_high=1.0, jitter=0.0) for p in (0.0, 1.0)
    )
    for i in range(len(plain)):
        a, b = plain[i], flipped[i]
        assert np.abs(b["frames"].astype(int) - a["frames"][:, :, ::-1]).mean() < 1  # the warp steps in 1/32 pixel
        mirrored = a["joints"][:, LPM14.mirror] * [-1, 1] + [SIZE - 1, 0]
        close(np.nan_to_num(b["joints"]), np.nan_to_num(mirrored), rounding(SIZE, steps=4))
        assert np.array_equal(b["visible"], a["visible"][:, LPM14.mirror])


def test_compat_flip_leaves_visibility(stills):
    plain, flipped = (dataset(stills, mode="compat", p_flip=p) for p in (0.0, 1.0))
    assert np.array_equal(flipped[3]["visible"], plain[3]["visible"]) and (plain[3]["visible"] == 1).any()


def test_unlabelled_joints(stills):
    """Correct: empty maps and visibility 0. Compat: a place, which an augmented crop can show (the original's false
    Gaussian)."""
    joint = LPM14.index(LSP14.joints[4])
    item = dataset(stills, augment=False)[2]
    assert (
        not item["labels"][0, joint].any()
        and item["visible"][0, joint] == 0
        and np.isnan(item["joints"][0, joint]).all()
    )
    assert all(item["labels"][0, j].any() for j in range(14) if j != joint)
    compat = dataset(stills, mode="compat", p_flip=1.0)
    other = LPM14.mirror[joint]
    assert any(compat[(epoch, 2)]["labels"][0, other].any() for epoch in range(20))
    assert not any(dataset(stills, p_flip=1.0)[(epoch, 2)]["labels"][0, other].any() for epoch in range(20))


def test_background_channel(stills):
    maps = dataset(stills, augment=False, background=True)[0]["labels"]
    assert np.array_equal(maps[:, 14], 1 - maps[:, :14].max(1)) and maps[:, 14].max() > 0.9 and maps.min() >= 0
    assert not dataset(stills, augment=False)[0]["labels"][:, 14].any()


def test_colours_vary_in_evaluation_only_in_compat(stills):
    correct, compat = (dataset(stills, augment=False, mode=mode) for mode in ("correct", "compat"))
    assert np.array_equal(correct[(0, 1)]["frames"], correct[(1, 1)]["frames"])
    assert not np.array_equal(compat[(0, 1)]["frames"], compat[(1, 1)]["frames"])
    assert np.array_equal(compat[(0, 1)]["joints"], compat[(1, 1)]["joints"])


def test_epochs_and_rows_draw_differently_but_reproducibly(stills):
    data = dataset(stills)
    again = dataset(stills)
    assert np.array_equal(data[(1, 2)]["frames"], again[(1, 2)]["frames"])
    assert not np.array_equal(data[(1, 2)]["frames"], data[(2, 2)]["frames"])
    assert not np.array_equal(data[(1, 2)]["to_image"], dataset(stills, seed=1)[(1, 2)]["to_image"])


def batches(pose_set, workers, skip=0, epoch=1, **changes):
    data = dataset(pose_set, input_width=64, workers=workers, **changes)
    loader = make_loader(data, data.config, shuffle=True)
    loader.sampler.epoch, loader.sampler.skip = epoch, skip
    return list(loader)


def equal(first, second):
    assert len(first) == len(second) > 0
    for a, b in zip(first, second):
        for name, values in a.items():
            assert torch.equal(torch.nan_to_num(values), torch.nan_to_num(b[name])), name


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("mode", ["correct", "compat"])
def test_batches_do_not_depend_on_workers_or_interruptions(stills, mode):
    whole = batches(stills, 0, mode=mode)
    equal(batches(stills, 1, mode=mode), whole)
    equal(batches(stills, 3, mode=mode), whole)
    equal(batches(stills, 0, skip=4, mode=mode), whole[2:])
    assert not torch.equal(batches(stills, 0, epoch=2, mode=mode)[0]["rows"], whole[0]["rows"])


def test_processes_share_an_epoch_without_overlap():
    parts = []
    for rank in range(3):
        sampler = EpochSampler(11, seed=0, rank=rank, world=3)
        parts.append([i for _, i in sampler])
        assert len(parts[-1]) == len(sampler) == 3  # equal lengths: every process makes the same number of steps
    assert len({i for part in parts for i in part}) == 9


def test_clips_are_whole_windows_in_frame_order():
    pose_set = videos([12, 5, 3])
    clips = make_clips(pose_set, 5)
    assert pose_set.frame[clips].tolist() == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9], [0, 1, 2, 3, 4]]
    assert pose_set.sequence[clips].tolist() == [[0] * 5, [0] * 5, [1] * 5]


def test_every_frame_clips_cover_all_frames():
    pose_set = videos([12, 5, 3])
    clips = make_clips(pose_set, 5, every_frame=True)
    assert set(clips.ravel()) == set(range(20))
    assert (pose_set.sequence[clips] == pose_set.sequence[clips[:, :1]]).all()
    assert pose_set.frame[clips[2]].tolist() == [7, 8, 9, 10, 11] and pose_set.frame[clips[-1]].tolist() == [
        0,
        0,
        0,
        1,
        2,
    ]


def test_an_empty_box_gives_way_to_the_joints(stills):
    """185 frames of Penn Action have one."""
    odd = replace(stills, box=np.where(np.arange(7)[:, None] == 3, [50.0, 60, 0, 0], stills.box))
    with pytest.warns(UserWarning, match="1 persons of split train have an empty box"):
        np.testing.assert_array_equal(data.crop_boxes(odd), stills.box)


def test_frames_of_a_clip_share_the_draws(tmp_path):
    pose_set = videos([5], tmp_path)
    for mode in ("correct", "compat"):
        item = ClipDataset(pose_set, config(t=5, mode=mode), GRID, augment=True)[0]
        assert item["frames"].shape == (5, SIZE, SIZE, 3) and item["labels"].shape == (5, 15, GRID, GRID)
        assert item["center"].shape == (2,)
        directions = (
            item["to_image"][:, :, :2] / np.sqrt(np.abs(np.linalg.det(item["to_image"][:, :, :2])))[:, None, None]
        )
        close(directions, np.broadcast_to(directions[0], directions.shape), rounding(1, steps=4))
        assert np.array_equal(pose_set.frame[item["rows"]], np.arange(5))


def test_a_person_without_joints_still_makes_a_clip(stills):
    nothing = replace(
        stills,
        joints=np.full((7, 14, 2), np.nan),
        visible=np.zeros((7, 14), np.int8),
        box=np.tile([5.0, 5, 60, 70], (7, 1)),
    )
    for mode in ("correct", "compat"):
        item = dataset(nothing, augment=False, mode=mode)[0]
        assert not item["labels"].any() and np.isfinite(item["center"]).all() and np.isfinite(item["to_image"]).all()


@pytest.mark.parametrize("size", [64, 256])
def test_centre_maps_are_as_those_of_joints(size):
    """They are made on the device; the loader makes those of joints."""
    rng = np.random.default_rng(0)
    for low, high in ((0, size), (-300, 0), (size, 700), (-300, 700)):
        joints = rng.uniform(low, high, (2, 14, 2))
        middle = (np.maximum(joints.min((0, 1)), 0) + np.minimum(joints.max((0, 1)), size - 1)) / 2
        whole = gaussian_maps(middle[None], np.ones(1, bool), (size, size), data.CENTER_SIGMA)
        places = [data.center_place(joints, size, transposed) for transposed in (False, True)]
        upright, transposed = data.center_maps(torch.from_numpy(np.array(places)), size).numpy()
        close(upright, whole, rounding(1))
        np.testing.assert_array_equal(transposed, upright.transpose(0, 2, 1))


@pytest.mark.data
def test_loader_bench_counts_crops(pose_data, tmp_path, capsys):
    for mode in ("correct", "compat"):
        options = [
            f"--data_dir={pose_data}/lspet",
            "--clips=6",
            "--runs=1",
            "--resolution=64",
            f"--mode={mode}",
            f"--json={tmp_path}/r.json",
        ]
        assert bench.main(["loader", *options]) == 0
        assert f"| LSP | {mode} | 64 |" in capsys.readouterr().out
        figures = json.loads((tmp_path / "r.json").read_text())
        assert (
            figures["rows"][0][:3] == ["LSP", mode, 64]
            and "6 crops" in figures["note"]
            and "--json" not in figures["command"]
        )
    assert bench.main(["loader", f"--data_dir={tmp_path}/none"]) == 2
    assert "synthetic" in capsys.readouterr().err
