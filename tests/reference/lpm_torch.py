"""CPM and LPM as a plain eager loop over frames: one frame at a time, a convolution a layer and gate, nothing
shared."""

from __future__ import annotations

import torch
import torch.nn.functional as F


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
