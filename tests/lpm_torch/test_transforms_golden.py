"""MobilePose's transforms against what its own code answered (transforms.npz).

Coordinates are exact, boxes to the rounding of their sums. Pictures are truncated to whole grey values: one more or less
where rounding has put a value on the other side, in one of a thousand values at most.
"""

import json

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from common.poses import PoseSet  # noqa: E402
from common.skeletons import LPM14  # noqa: E402
from lpm_torch import data  # noqa: E402
from lpm_torch.config import MEANS, Config  # noqa: E402
from lpm_torch.data import ClipDataset, prepare  # noqa: E402
from tests.tolerance import close, rounding, stored  # noqa: E402

pytestmark = pytest.mark.golden


@pytest.fixture(scope="module")
def golden(golden_arrays):
    return golden_arrays("transforms")


@pytest.fixture(scope="module")
def constants(golden_dir):
    return json.loads((golden_dir / "lpm_torch/fixture.json").read_text())["transforms"]


def view_of(golden, box=None, image=None, joints=None):
    joints = np.stack([golden["x"], golden["y"]], axis=-1) if joints is None else joints
    box = golden["bbox"] if box is None else box
    return data.View(golden["image"] if image is None else image, joints, np.array(box, float), np.eye(2, 3))


def compare(view, golden, name, image=None):
    assert np.array_equal(view.joints, np.stack([golden[f"{name}_x"], golden[f"{name}_y"]], axis=-1))
    box = golden[f"{name}_bbox"]
    close(view.box, box, rounding(np.abs(box).max(), steps=8, dtype=np.float64), "box")
    expected = golden[image or f"{name}_img"].astype(float)
    expected = expected.transpose(1, 2, 0) if expected.shape[0] == 3 else expected
    same_picture(view.image, expected)


def same_picture(found, expected):
    error = np.abs(found.astype(float) - expected)
    assert error.max() <= 1 and error.mean() <= 1e-3


def test_scale(golden, constants):
    compare(data.scale(view_of(golden), constants["scale"]), golden, "scale")


def test_flip(golden):
    compare(data.flip(view_of(golden)), golden, "flip")


def test_crop(golden, constants):
    compare(data.crop(view_of(golden), constants["crop_size"]), golden, "crop")
    compare(data.crop(view_of(golden, constants["crop2_box"]), constants["crop_size"]), golden, "crop2")


def test_rotate(golden, constants):
    part = golden["rot20_img"].shape[1]
    joints = np.trunc(np.stack([np.clip(golden["x"], 0, part - 1), golden["y"]], axis=-1))
    for angle in constants["rotate_angles"]:
        view = view_of(golden, image=golden["image"][:, :part], joints=joints)
        compare(data.rotate(view, angle), golden, f"rot{angle:.0f}")


def test_jitter(golden, constants):
    """The original keeps fractions, which the next step truncates when it saves a picture; here they are truncated at
    once."""
    image = golden["image"].copy()
    data.jitter(image, constants["jitter"])
    assert np.array_equal(np.trunc(golden["jitter_img"]), image)


def of_means(normalised):
    """The means and deviations here are the fixture's to five digits: a unit in the last one."""
    return 1e-5 * (1 + np.abs(normalised)) / min(MEANS["lsp"][1]) + rounding(np.abs(normalised).max(), steps=3)


def test_normalise(golden):
    """Done on whole batches; the fixture is float16."""
    batch = {"frames": torch.from_numpy(golden["image"])[None, None], "center": torch.zeros(1, 2)}
    ours = prepare(batch, torch.device("cpu"), Config(dataset="lsp"))["frames"][0, 0].permute(1, 2, 0).numpy()
    close(ours, golden["norm_img"], stored(golden["norm_img"]) + of_means(ours), "normalised")


def test_image_transformer_normalises(golden):
    """The transformer's picture as the network reads it."""
    frame = torch.from_numpy(golden["img_tf_unnorm"].transpose(1, 2, 0).astype(np.uint8))
    batch = {"frames": frame[None, None], "center": torch.zeros(1, 2)}
    ours = prepare(batch, torch.device("cpu"), Config(dataset="lsp"))["frames"][0, 0].numpy()
    close(ours, golden["img_tf_f16"], stored(golden["img_tf_f16"]) + of_means(ours), "normalised")


@pytest.mark.parametrize("mode", ["compat", "correct"])
@pytest.mark.parametrize("name", ["img_flip", "vid"])
def test_visibility(golden, tmp_path, monkeypatch, name, mode):
    """MobilePose leaves it as it is, in flipped pictures too; mode correct exchanges left and right with the joints."""
    visible = golden["img_flip_vis_in"].astype(np.int8)
    frames = 1 if name == "img_flip" else len(golden["vid_vis"])
    expected = golden["vid_vis"] if name == "vid" else golden["img_flip_vis_out"][None]
    cv2.imwrite(str(tmp_path / "a.png"), golden["image"][..., ::-1])
    joints = np.where(visible[:, None] > 0, np.stack([golden["x"], golden["y"]], axis=-1), np.nan)
    x0, y0, x1, y1 = golden["bbox"]
    numbers = np.arange(frames)
    pose_set = PoseSet(
        name="lsp", skeleton=LPM14, split="train", images=[str(tmp_path / "a.png")] * frames, image_id=numbers, person_id=numbers,
        joints=np.stack([joints] * frames), visible=np.stack([visible] * frames), box=np.array([[x0, y0, x1 - x0, y1 - y0]] * frames, float),
        sequence=np.zeros(frames, int) if frames > 1 else None, frame=numbers if frames > 1 else None,
    )  # fmt: skip
    config = Config(dataset="lsp", mode=mode, t=frames, p_flip=1.0, jitter=0.0, input_width=64)
    found = ClipDataset(pose_set, config, grid=7, augment=True)[0]["visible"]
    assert np.array_equal(found, expected if mode == "compat" else expected[:, LPM14.mirror])
    assert not np.array_equal(visible, visible[LPM14.mirror])


def test_image_transformer(golden, constants):
    size = constants["output_size"]
    joints = view_of(golden).joints
    for name, box, draw in (
        ("img_tf", constants["img_tf_box"], data.Draw()),
        ("img_tfb", constants["img_tfb_box"], data.Draw()),
        ("img_flip", None, data.Draw(flip=True)),
    ):
        view = data.open_view(golden["image"], joints, size / 3, None if box is None else np.array(box, float))
        compare(data.transform(view, draw, size), golden, name, f"{name}_unnorm")


@pytest.mark.parametrize("name", ["vid", "vids", "vidr"])
def test_video_transformer(golden, constants, name):
    size = constants["output_size"]
    draw = {
        "vid": data.Draw(),
        "vids": data.Draw(scale=constants["vids_scale"]),
        "vidr": data.Draw(angle=float(np.ravel(golden["vidr_angle"])[0])),
    }[name]
    for t in range(len(golden["vid_x_in"])):
        image = np.roll(golden["image"], constants["video_roll_px_per_frame"] * t, axis=1)
        joints = np.stack([golden["vid_x_in"][t], golden["vid_y_in"][t]], axis=-1)
        view = data.transform(data.open_view(image, joints, size / 3), draw, size)
        assert np.array_equal(view.joints, np.stack([golden[f"{name}_x"][t], golden[f"{name}_y"][t]], axis=-1))
        box = golden[f"{name}_bbox"][t]
        close(view.box, box, rounding(np.abs(box).max(), steps=8, dtype=np.float64), "box")
        if name == "vid":
            same_picture(view.image, golden["vid_unnorm"][t].transpose(1, 2, 0))
