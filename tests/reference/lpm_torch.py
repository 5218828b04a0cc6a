"""CPM and LPM as a plain eager loop over frames: one frame at a time, a convolution a layer and gate, nothing shared; and the authors'
network under its Caffe names."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from lpm_torch.config import Config
from lpm_torch.model import build_network


def build_model(name, joints=14, width=1.0, T=5, **settings):
    """A network by its name and what a test changes of it."""
    return build_network(Config(model=name, channels=width, t=T, **settings), joints)


def direct(layer, x):
    """The layer as PyTorch's own convolution."""
    return F.conv2d(x, layer.weight, layer.bias, padding=layer.padding)


def plain_cpm(model, frames, centers):
    """CPM's stage-6 maps (B,T,maps,g,g), frame by frame, layer by layer."""
    outputs = []
    for t in range(frames.shape[1]):
        x = frames[:, t]
        centre = F.avg_pool2d(centers, 9, stride=8, padding=1)
        belief = x
        for k in (1, 2, 3):
            belief = F.max_pool2d(F.relu(direct(getattr(model, f"conv{k}_stage1"), belief)), 3, stride=2, padding=1)
        for k in (4, 5, 6):
            belief = F.relu(direct(getattr(model, f"conv{k}_stage1"), belief))
        belief = direct(model.conv7_stage1, belief)
        for k in (1, 2, 3):
            x = F.max_pool2d(F.relu(direct(getattr(model, f"conv{k}_stage2"), x)), 3, stride=2, padding=1)
        for s in range(2, 7):
            own = model.conv4_stage2 if s == 2 else getattr(model, f"conv1_stage{s}")
            y = torch.cat([F.relu(direct(own, x)), belief, centre], dim=1)
            for m in (1, 2, 3, 4):
                y = F.relu(direct(getattr(model, f"Mconv{m}_stage{s}"), y))
            belief = direct(getattr(model, f"Mconv5_stage{s}"), y)
        outputs.append(direct(model.final_layer, belief))
    return torch.stack(outputs, dim=1)


def plain_lpm(model, frames, centers):
    """LPM's maps (B,T+1,maps,g,g), frame by frame, gate by gate; dropout as in training when the model is in that
    mode."""

    def encode(x, stage):
        for k in (1, 2, 3):
            x = F.max_pool2d(F.relu(direct(getattr(model, f"conv{k}_stage{stage}"), x)), 3, stride=2)
        return F.relu(direct(getattr(model, f"conv4_stage{stage}"), x))

    x = encode(frames[:, 0], 1)
    for layer in (model.conv5_stage1, model.conv6_stage1):
        x = F.dropout2d(F.relu(direct(layer, x)), model.dropout, model.training)
    belief = F.relu(direct(model.conv7_stage1, x))
    maps, hidden, cell = [belief], None, None
    for t in range(frames.shape[1]):
        centre = F.avg_pool2d(centers, 9, stride=8)
        x = torch.cat([encode(frames[:, t], 6), belief, centre], dim=1)
        if hidden is None:
            hidden, cell = torch.zeros_like(x), torch.zeros_like(x)
        gate = {}
        for q in "gfio":
            pre = direct(getattr(model, f"{q}_x_stage6"), x) + direct(getattr(model, f"{q}_h_stage6"), hidden)
            gate[q] = getattr(model, f"{q}_stage6")(torch.sigmoid(pre))
        cell = gate["i"] * gate["g"] + gate["f"] * cell
        belief = hidden = gate["o"] * torch.tanh(cell)
        for m in (1, 2, 3, 4, 5):
            belief = F.relu(direct(getattr(model, f"Mres{m}_stage6"), belief))
        maps.append(belief)
    return torch.stack(maps, dim=1)


def caffe_forward(blobs, frames, center):
    """The authors' network walked layer by layer under its Caffe names: (T,3,S,S) frames, (1,1,S,S) centre map -> (T+1,15,g,g) belief maps.

    Independent of our networks' code. A stage that the file lacks (deploy pair, pre-model) uses the last before it.
    """

    def layer(pattern, t):
        name = pattern.format(t + 2)
        if name not in blobs:
            copies = [s for s in range(2, 100) if pattern.format(s) in blobs]
            name = pattern.format(max([s for s in copies if s < t + 2], default=copies[0]))
        return [torch.from_numpy(b).float() for b in blobs[name]]

    def conv(x, pattern, t, relu=True):
        weight, bias = layer(pattern, t)
        x = F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2)
        return F.relu(x) if relu else x

    def encode(x, t):
        suffix = "1" if t < 0 else "{}"
        for k in range(1, 4):
            x = F.max_pool2d(conv(x, f"conv{k}_stage{suffix}", t), 3, 2, ceil_mode=True)
        return conv(x, f"conv4_stage{suffix}", t)

    x = encode(frames[:1], -1)
    for k in (5, 6):
        x = conv(x, f"conv{k}_stage1", -1)
    maps = [conv(x, "conv7_stage1", -1, relu=False)]
    pooled = F.avg_pool2d(center, 9, 8, ceil_mode=True)
    hidden = cell = torch.zeros(())
    for t in range(len(frames)):
        x = torch.cat([encode(frames[t : t + 1], t), maps[-1], pooled], 1)
        gate = {}
        for q in "gfio" if t else "gio":
            pre = conv(x, f"{q}_x_stage{{}}", t, relu=False)
            if t:
                pre = pre + conv(hidden, f"{q}_h_stage{{}}", t, relu=False)
            scale, shift = layer(f"{q}_stage{{}}", t)
            pre = pre * scale.reshape(-1, 1, 1) + shift.reshape(-1, 1, 1)
            gate[q] = torch.tanh(pre) if q == "g" else torch.sigmoid(pre)
        cell = gate["g"] * gate["i"] + (gate["f"] * cell if t else 0)
        x = hidden = gate["o"] * torch.tanh(cell)
        pattern = "Mconv{}_stage{{}}" if t == 0 and "Mconv1_stage2" in blobs else "Mres{}_stage{{}}"
        for m in range(1, 6):
            x = conv(x, pattern.format(m), t, relu=m < 5)
        maps.append(x)
    return torch.cat(maps)
