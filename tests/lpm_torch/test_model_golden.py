"""Networks, losses and one training step against arrays that the original programs gave."""

import json
import zlib

import numpy as np
import pytest
import torch

from common.runs.process import place
from lpm_torch.losses import sequence_loss
from tests.reference.lpm_torch import build_model
from tests.tolerance import MARGIN, close, rounding, stored

pytestmark = [pytest.mark.golden, pytest.mark.gpu]

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


def with_weights(filled, device, **options):
    name, state = filled
    model = build_model(name, **options)
    model.load_state_dict(state)
    return place(torch, model, device, "off").eval()


def clip(batch, size, frames, seed, device):
    images = draw("input.frames", seed).standard_normal((batch, frames, 3, size, size)).astype(np.float32)
    r = draw("input.center", seed)
    cx, cy = r.uniform(0.3 * size, 0.7 * size, batch), r.uniform(0.3 * size, 0.7 * size, batch)
    y, x = np.mgrid[:size, :size]
    center = np.exp(-((x - cx[:, None, None]) ** 2 + (y - cy[:, None, None]) ** 2) / (2 * 21**2))
    return torch.from_numpy(images).to(device), torch.from_numpy(center[:, None].astype(np.float32)).to(device)


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


def depth(model) -> int:
    return sum(isinstance(layer, torch.nn.Conv2d) for layer in model.modules())


def allowed(expected, layers: int, largest: float | None = None):
    """The recipe keeps a layer's sums as large as the root of their terms' squares: one rounding of the largest value a
    layer.
    """
    return stored(expected) + rounding(largest or np.abs(expected.astype(np.float64)).max(), steps=layers)


class Undecided(torch.autograd.Function):
    """ReLU whose slope within `near` of 0, where rounding decides, is 0 or 1 as `open` says when the pass goes back."""

    open, near = False, 0.0

    @staticmethod
    def forward(context, x):
        context.save_for_backward(x)
        return x.clamp_min(0)

    @staticmethod
    def backward(context, upper):
        (x,) = context.saved_tensors
        edge = Undecided.near * x.abs().max()
        return upper * (x > (-edge if Undecided.open else edge))


def gradients(model, frames, center, labels, criterion) -> list[list[np.ndarray]]:
    """Gradients by parameter, with all undecided ReLUs closed and with all open."""
    Undecided.near = rounding(1, steps=depth(model))
    loss = criterion(model(frames, center)[1], labels)
    found = []
    for Undecided.open in (False, True):
        parts = torch.autograd.grad(loss, list(model.parameters()), retain_graph=True, allow_unused=True)
        found.append([np.zeros(1) if g is None else g.double().cpu().numpy() for g in parts])
    return found


def adam_step(gradient, weight, settings):
    """What the first step takes from a weight: hardly more than the gradient's sign."""
    g = gradient + settings["weight_decay"] * weight
    return settings["lr"] * g / (np.abs(g) + 1e-8)


def unsure(closed, opened, layers: int):
    """How far each gradient of a parameter may be off: its rounding, and what undecided ReLUs change in it."""
    return rounding(np.sqrt(np.mean(closed**2)), steps=2 * layers) + np.abs(opened - closed)


def check_sums(sums, expected, weights, closed, opened, settings, layers: int) -> None:
    """Sums of the weights after one step. Allowed: the rounding of the stored weights, three times what undecided ReLUs
    change in the sum, and what their and the rounding's changes of each gradient can make of its step.
    """
    limits = []
    for weight, a, b in zip(weights, closed, opened):
        change = unsure(a, b, layers)
        steps = adam_step(a + change, weight, settings) - adam_step(a - change, weight, settings)
        limits.append(
            rounding(np.sqrt(np.mean(weight**2)), weight.size)
            + 3 * abs(adam_step(a, weight, settings).sum() - adam_step(b, weight, settings).sum())
            + MARGIN * np.sqrt(np.sum(steps**2))
        )
    close(sums, expected, np.array(limits), "sums after Adam")


def test_forward(folder, fixture, filled, device):
    """To the rounding of the layers, and of the fixture where it is float16."""
    name, model = filled[0], with_weights(filled, device)
    with np.load(folder / f"forward_{name}.npz") as data:
        for key, batch, size in cases(data):
            with torch.inference_mode():
                found = model(*clip(batch, size, fixture["forward"]["T"], fixture["seed"], device))
            for array, expected in zip(found, (data[key], data["loss_" + key])):
                assert array.shape == expected.shape and array.shape[-1] == model.output_size(size)
                close(array, expected, allowed(expected, depth(model)), f"{name} {key}")


def test_train_step(folder, fixture, filled, device, monkeypatch):
    """Everything to the rounding of the layers. At these random weights rounding also decides single ReLUs, on one
    processor so and on another so: lpm's gradient norms in the fixture lie up to 3e-3 from float64's. What that may
    change is found by opening and closing those ReLUs. With direct convolutions, as the original.
    """
    monkeypatch.setattr("lpm_torch.layers.worthwhile", lambda x, weight: False)
    settings, seed, name = fixture["forward"]["train"], fixture["seed"], filled[0]
    order = json.loads((folder / f"params_{name}.json").read_text())
    model = with_weights(filled, device, dropout=settings["dropout"]).train()
    frames, center = clip(settings["batch"], settings["size"], fixture["forward"]["T"], seed, device)
    grid = model.output_size(settings["size"])
    labels = (
        draw("input.labels", seed)
        .uniform(0, 1, (settings["batch"], fixture["forward"]["T"], 15, grid, grid))
        .astype(np.float32)
    )
    labels = torch.from_numpy(labels).to(device)
    criterion = sequence_loss
    how = {"lr": settings["lr"], "weight_decay": settings["weight_decay"], "fused": device.type == "cuda"}
    optimizer = torch.optim.Adam(model.parameters(), **how)
    layers, start = depth(model), {k: v.clone() for k, v in model.state_dict().items()}
    with monkeypatch.context() as patched:
        patched.setattr(torch.nn.functional, "relu", lambda x, inplace=False: Undecided.apply(x))
        closed, opened = gradients(model, frames, center, labels, criterion)
    model.load_state_dict(start)  # the statistics of that pass go
    with np.load(folder / f"forward_{name}.npz") as data:
        maps = model(frames, center)[1]
        loss = criterion(maps, labels)
        loss.backward()
        close(loss.item(), data["train_loss"], rounding(loss.item(), steps=layers), "loss")
        close(maps.detach(), data["train_out"], allowed(data["train_out"], layers), "maps")
        norms = [-1.0 if p.grad is None else p.grad.double().norm().item() for p in model.parameters()]
        # each ReLU changes a gradient in a direction of its own: no part of them changes it further than all do
        undecided = np.array([np.linalg.norm(b - a) for a, b in zip(closed, opened)])
        close(norms, data["grad_norms"], rounding(np.abs(norms), steps=2 * layers) + undecided, "gradient norms")
        weights = [p.detach().double().cpu().numpy() for p in model.parameters()]
        optimizer.step()
        sums = np.array([p.detach().double().sum().item() for p in model.parameters()])
        check_sums(sums, data["param_sum_after_adam"], weights, closed, opened, settings, layers)
        if order["bn_buffers"]:
            buffers = np.stack([model.state_dict()[k].cpu() for k in order["bn_buffers"]])
            limit = rounding(np.abs(data["bn_running_after"]).max(), steps=layers)
            close(buffers, data["bn_running_after"], limit, "running statistics")
        with torch.no_grad():
            after = criterion(model.eval()(frames, center)[1], labels).item()
            # four of many ways in which single steps can fall
            off = [unsure(a, b, layers) * (-1.0) ** np.arange(a.size).reshape(a.shape) for a, b in zip(closed, opened)]
            either = [[a + sign * o for a, o in zip(closed, off)] for sign in (1, -1)]
            ways = []
            for found in (closed, opened, *either):
                for parameter, weight, gradient in zip(model.parameters(), weights, found):
                    stepped = weight - adam_step(gradient, weight, settings)
                    parameter.data.copy_(torch.from_numpy(stepped))
                ways.append(criterion(model(frames, center)[1], labels).item())
        limit = rounding(after, steps=layers) + MARGIN * np.ptp(ways)
        close(after, data["loss_after_adam_eval"], limit, "loss after Adam")


def still(size, seed, device):
    y, x = np.mgrid[:size, :size]
    center = np.exp(-((x - size / 2) ** 2 + (y - size / 2) ** 2) / (2 * 21**2)).astype(np.float32)
    image = draw("input.image", seed).standard_normal((1, 3, size, size)).astype(np.float32)
    return torch.from_numpy(image).to(device), torch.from_numpy(center[None, None]).to(device)


@pytest.mark.parametrize("block", ("conv", "res", "inv"))
def test_hourglass(folder, fixture, block, device):
    """The fixture stores float16."""
    settings, key = fixture["forward_extra"]["hourglass"], f"hourglass_{block}"
    model = build_model("hourglass", T=settings["T"], depth=settings["depth"], block=block)
    expected = json.loads((folder / "params_extra.json").read_text())[key]
    assert {k: list(v.shape) for k, v in model.state_dict().items()} == expected
    model = place(torch, fill(model, fixture["seed"]), device, "off")
    with torch.inference_mode(), np.load(folder / "forward_extra.npz") as data:
        found = model.image_maps(*still(settings["image_size"], fixture["seed"], device))
        close(found, data[key], allowed(data[key], depth(model), float(data[f"{key}_absmax"])), key)


def test_coord_lpm(folder, fixture, device):
    """A soft-max map is off by its own share of its logits' error; logits are as large as the logarithms' span. A
    coordinate adds the map's errors up, each by a place in (-1, 1).
    """
    settings = fixture["forward_extra"]["coord_lpm"]
    model = build_model("coord_lpm")
    expected = json.loads((folder / "params_extra.json").read_text())["coord_lpm"]
    assert {k: list(v.shape) for k, v in model.state_dict().items()} == expected
    model = place(torch, fill(model, fixture["seed"]), device, "off")
    image, center = still(settings["image_size"], fixture["seed"], device)
    with torch.inference_mode(), np.load(folder / "forward_extra.npz") as data:
        heat, coordinates = model(image[:, None], center, steps=settings["T"])[1]
        logits = np.log(heat.amax() / heat.amin()).item()
        error = rounding(logits, steps=depth(model) * settings["T"])
        expected = data["coord_lpm_heat"]
        close(heat, expected, expected * error, "maps")
        close(coordinates, data["coord_lpm_coords"], error, "coordinates")


def test_official(folder, fixture, device):
    """Against OpenCV's Caffe importer on the authors' prototxts; the states are stored as float16."""
    model = build_model("lpm_official")
    model = place(torch, fill(model, fixture["seed"], gate_bias=model.GATE_BIAS), device, "off")
    with torch.inference_mode(), np.load(folder / "official_lpm_opencv.npz") as data:
        count, size = data["h"].shape[1], data["center"].shape[-1]
        frames = draw("input.frames", fixture["seed"]).standard_normal((1, count, 3, size, size)).astype(np.float32)
        frames, center = torch.from_numpy(frames).to(device), torch.from_numpy(data["center"]).to(device)
        beliefs = model(frames, center)[1]
        layers = depth(model) * count
        close(beliefs, data["beliefs"], allowed(data["beliefs"], layers), "maps")
        pooled = model.pooled_centre(center, beliefs.shape[-2:])
        close(pooled, data["pool_center"], rounding(1, steps=np.log2(81)), "pooled centre map")
        state = model.init_state(frames[:, 0], center)
        for t in range(count):
            maps, state = model.step(frames[:, t], center, state)
            close(maps, data["beliefs"][:, t + 1], allowed(data["beliefs"], layers), f"maps {t}")
            for found, key in ((state.hidden, "h"), (state.cell, "cell")):
                # the fixture's steps are those of the largest value
                close(found, data[key][:, t], allowed(np.abs(data[key][:, t]).max(), layers), f"{key} {t}")


@pytest.mark.exact
def test_official_layer_shapes(folder):
    expected = json.loads((folder / "params_official.json").read_text())
    own = {k: list(v.shape) for k, v in build_model("lpm_official").state_dict().items()}
    for layer, (weight, bias) in expected.items():
        assert own.pop(f"{layer}.bias") == bias
        if not layer.startswith("scale_"):  # the weight is fixed to 1
            assert own.pop(f"{layer}.weight") == weight
    assert not own
