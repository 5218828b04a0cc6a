"""Networks, losses and one training step against arrays that the original programs gave."""

import json
import zlib

import numpy as np
import pytest
import torch

from lpm_torch.losses import MSESequenceLoss
from lpm_torch.model import build_model

pytestmark = pytest.mark.golden

CLIP_MODELS = ("cpm", "lpm", "lpm_raw")


@pytest.fixture(scope="module")
def folder(golden_dir):
    return golden_dir / "lpm_torch"


@pytest.fixture(scope="module")
def fixture(folder):
    return json.loads((folder / "fixture.json").read_text())


def draw(name, seed):
    return np.random.RandomState((zlib.crc32(name.encode()) + seed) % 2**32)


def fill(model, seed, gate_bias=None):
    """The fixture's random weights: He normal kernels; vectors 0.1 n, around 1 in normalisations, around the fill value
    in gate biases."""
    state = {}
    for name, old in model.state_dict().items():
        shape = tuple(old.shape)
        n = draw(name, seed).standard_normal(shape)
        if name.endswith("num_batches_tracked"):
            n = np.zeros(shape)
        elif len(shape) == 4:
            n = n * np.sqrt(2 / np.prod(shape[1:]))
        elif name.endswith("running_var"):
            n = 1 + 0.1 * np.abs(n)
        elif name.endswith(".weight"):
            n = 1 + 0.1 * n
        elif gate_bias and name.startswith("scale_"):
            n = gate_bias[name[len("scale_")]] + 0.1 * n
        else:
            n = 0.1 * n
        state[name] = torch.from_numpy(np.asarray(n, np.float32)).to(old.dtype)
    model.load_state_dict(state)
    return model.eval()


@pytest.fixture(scope="module", params=CLIP_MODELS)
def filled(request, fixture):
    """(name, random weights): drawn once a network, as they are up to 43 million numbers."""
    return request.param, fill(build_model(request.param), fixture["seed"]).state_dict()


def with_weights(filled, **options):
    name, state = filled
    model = build_model(name, **options)
    model.load_state_dict(state)
    return model.eval()


def clip(batch, size, frames, seed):
    images = draw("input.frames", seed).standard_normal((batch, frames, 3, size, size)).astype(np.float32)
    r = draw("input.center", seed)
    cx, cy = r.uniform(0.3 * size, 0.7 * size, batch), r.uniform(0.3 * size, 0.7 * size, batch)
    y, x = np.mgrid[:size, :size]
    center = np.exp(-((x - cx[:, None, None]) ** 2 + (y - cy[:, None, None]) ** 2) / (2 * 21**2))
    return torch.from_numpy(images), torch.from_numpy(center[:, None].astype(np.float32))


def cases(data):
    """(key, batch, size) of the evaluation passes a file holds."""
    for key in data.files:
        if key.startswith("out_b"):
            batch, size = (int(part[1:]) for part in key.split("_")[1:3])
            yield key, batch, size


@pytest.mark.exact
@pytest.mark.parametrize("name", CLIP_MODELS)
def test_names_and_shapes(folder, name):
    expected = json.loads((folder / f"params_{name}.json").read_text())
    model = build_model(name)
    assert {k: list(v.shape) for k, v in model.state_dict().items()} == expected["shapes"]
    # the order matters too: the original's optimiser states are stored by position
    assert [k for k, _ in model.named_parameters()] == expected["order_of_named_parameters"]


def test_forward(folder, fixture, filled):
    """1e-4 of the largest value (summation order); 1e-3 where the fixture stores float16."""
    name, model = filled[0], with_weights(filled)
    with np.load(folder / f"forward_{name}.npz") as data:
        for key, batch, size in cases(data):
            with torch.inference_mode():
                found = model(*clip(batch, size, fixture["forward"]["T"], fixture["seed"]))
            for array, expected in zip(found, (data[key], data["loss_" + key])):
                limit = (1e-3 if key.endswith("f16") else 1e-4) * np.abs(expected).max()
                assert array.shape == expected.shape and array.shape[-1] == model.output_size(size)
                np.testing.assert_allclose(
                    array, expected.astype(np.float32), rtol=0, atol=limit, err_msg=f"{name} {key}"
                )


def test_train_step(folder, fixture, filled, monkeypatch):
    """Loss and maps 1e-4 relative, gradient norms 1e-3, as the fixture suggests; sums after Adam as float32 rounding
    allows.

    With direct convolutions, as the original: at these random weights rounding decides single ReLUs, and lpm's
    gradients in the fixture lie up to 1e-2 (norm of the difference) from float64's, those through spectra 2e-5.
    """
    monkeypatch.setattr("lpm_torch.layers.worthwhile", lambda x, weight: False)
    settings, seed, name = fixture["forward"]["train"], fixture["seed"], filled[0]
    order = json.loads((folder / f"params_{name}.json").read_text())
    model = with_weights(filled, dropout=settings["dropout"]).train()
    frames, center = clip(settings["batch"], settings["size"], fixture["forward"]["T"], seed)
    grid = model.output_size(settings["size"])
    labels = (
        draw("input.labels", seed)
        .uniform(0, 1, (settings["batch"], fixture["forward"]["T"], 15, grid, grid))
        .astype(np.float32)
    )
    labels = torch.from_numpy(labels)
    criterion = MSESequenceLoss("compat")
    optimizer = torch.optim.Adam(model.parameters(), lr=settings["lr"], weight_decay=settings["weight_decay"])
    with np.load(folder / f"forward_{name}.npz") as data:
        maps = model(frames, center)[1]
        loss = criterion(maps, labels)
        loss.backward()
        assert loss.item() == pytest.approx(float(data["train_loss"]), rel=1e-4)
        np.testing.assert_allclose(
            maps.detach(), data["train_out"], rtol=0, atol=1e-4 * np.abs(data["train_out"]).max()
        )
        norms = [-1.0 if p.grad is None else p.grad.double().norm().item() for p in model.parameters()]
        np.testing.assert_allclose(norms, data["grad_norms"], rtol=1e-3, atol=1e-7)
        before = np.array([p.detach().double().abs().sum().item() for p in model.parameters()])
        optimizer.step()
        sums = np.array([p.detach().double().sum().item() for p in model.parameters()])
        # float32 weights around a sum: the rounding of the parameters themselves bounds what a sum can tell
        assert np.all(
            np.abs(sums - data["param_sum_after_adam"])
            <= 1e-6 * before + 1e-4 * np.abs(data["param_sum_after_adam"]) + 1e-6
        )
        if order["bn_buffers"]:
            buffers = np.stack([model.state_dict()[k] for k in order["bn_buffers"]])
            np.testing.assert_allclose(buffers, data["bn_running_after"], rtol=1e-4, atol=1e-6)
        with torch.inference_mode():
            after = criterion(model.eval()(frames, center)[1], labels).item()
        assert after == pytest.approx(float(data["loss_after_adam_eval"]), rel=1e-4)


def still(size, seed):
    y, x = np.mgrid[:size, :size]
    center = np.exp(-((x - size / 2) ** 2 + (y - size / 2) ** 2) / (2 * 21**2)).astype(np.float32)
    image = draw("input.image", seed).standard_normal((1, 3, size, size)).astype(np.float32)
    return torch.from_numpy(image), torch.from_numpy(center[None, None])


@pytest.mark.parametrize("block", ("conv", "res", "inv"))
def test_hourglass(folder, fixture, block):
    """1e-3 of the largest value: the fixture stores float16."""
    settings, key = fixture["forward_extra"]["hourglass"], f"hourglass_{block}"
    model = build_model("hourglass", T=settings["T"], depth=settings["depth"], block=block)
    expected = json.loads((folder / "params_extra.json").read_text())[key]
    assert {k: list(v.shape) for k, v in model.state_dict().items()} == expected
    fill(model, fixture["seed"])
    with torch.inference_mode(), np.load(folder / "forward_extra.npz") as data:
        found = model.image_maps(*still(settings["image_size"], fixture["seed"]))
        np.testing.assert_allclose(found, data[key].astype(np.float32), rtol=0, atol=1e-3 * data[f"{key}_absmax"])


def test_coord_lpm(folder, fixture):
    """1e-5 absolute: soft-max maps and coordinates in (-1, 1), float32."""
    settings = fixture["forward_extra"]["coord_lpm"]
    model = build_model("coord_lpm")
    expected = json.loads((folder / "params_extra.json").read_text())["coord_lpm"]
    assert {k: list(v.shape) for k, v in model.state_dict().items()} == expected
    fill(model, fixture["seed"])
    image, center = still(settings["image_size"], fixture["seed"])
    with torch.inference_mode(), np.load(folder / "forward_extra.npz") as data:
        heat, coordinates = model(image[:, None], center, steps=settings["T"])[1]
        np.testing.assert_allclose(heat, data["coord_lpm_heat"], rtol=0, atol=1e-5)
        np.testing.assert_allclose(coordinates, data["coord_lpm_coords"], rtol=0, atol=1e-5)


def test_official(folder, fixture):
    """Against OpenCV's Caffe importer on the authors' prototxts: 1e-4 of the largest value, float16 states 1e-3."""
    model = build_model("lpm_official")
    fill(model, fixture["seed"], gate_bias=model.GATE_BIAS)
    with torch.inference_mode(), np.load(folder / "official_lpm_opencv.npz") as data:
        count, size = data["h"].shape[1], data["center"].shape[-1]
        frames = draw("input.frames", fixture["seed"]).standard_normal((1, count, 3, size, size)).astype(np.float32)
        frames, center = torch.from_numpy(frames), torch.from_numpy(data["center"])
        beliefs = model(frames, center)[1]
        limit = 1e-4 * np.abs(data["beliefs"]).max()
        np.testing.assert_allclose(beliefs, data["beliefs"], rtol=0, atol=limit)
        np.testing.assert_allclose(
            model.pooled_centre(center, beliefs.shape[-2:]), data["pool_center"], rtol=0, atol=1e-6
        )
        state = model.init_state(frames[:, 0], center)
        for t in range(count):
            maps, state = model.step(frames[:, t], center, state)
            np.testing.assert_allclose(maps, data["beliefs"][:, t + 1], rtol=0, atol=limit)
            for found, key in ((state.hidden, "h"), (state.cell, "cell")):
                expected = data[key][:, t].astype(np.float32)
                np.testing.assert_allclose(found, expected, rtol=0, atol=1e-3 * max(1, np.abs(expected).max()))


@pytest.mark.exact
def test_official_layer_shapes(folder):
    expected = json.loads((folder / "params_official.json").read_text())
    own = {k: list(v.shape) for k, v in build_model("lpm_official").state_dict().items()}
    for layer, (weight, bias) in expected.items():
        assert own.pop(f"{layer}.bias") == bias
        if not layer.startswith("scale_"):  # the weight is fixed to 1
            assert own.pop(f"{layer}.weight") == weight
    assert not own
