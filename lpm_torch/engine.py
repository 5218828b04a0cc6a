"""Two functions: `train_one_epoch` and `predict`. Everything else about a run is in train.py and val.py."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext

import numpy as np
import torch
from tqdm import tqdm

from common.codecs import decode_maps
from common.geometry import apply_affine
from common.metrics import pck
from common.runs.runlog import check_finite
from common.skeletons import LPM14
from lpm_torch.config import Config, half_pixel
from lpm_torch.data import prepare
from lpm_torch.hourglass import expected_coordinates
from lpm_torch.losses import MSESequenceLoss, coordinate_loss

JOINTS = 14  # channel 14 of the maps is background


def autocast(device: torch.device, amp: str):
    """The mixed-precision context of `--amp`."""
    if amp == "off":
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16 if amp == "bf16" else torch.float16)


def run_network(model, batch: dict[str, torch.Tensor], config: Config):
    """(out, out_loss) of a prepared batch; a still image (one frame) is read `config.t` times by the recurrent networks."""
    frames = batch["frames"]
    return model(frames, batch["center"], steps=config.t if frames.shape[1] == 1 else None)


def train_one_epoch(
    model,
    loader,
    optimizer,
    scheduler,
    device: torch.device,
    config: Config,
    *,
    scaler=None,
    ema=None,
    first: int = 0,
    on_step: Callable | None = None,
) -> dict[str, float]:
    """Train over the loader's batches, the first of which is number `first` of the epoch. Returns the mean `loss`.

    `on_step(batch_index, values, batch, out)` is called after every batch. Raises FloatingPointError on a loss that is not finite, before
    the weights are touched.
    """
    model.train()
    total = {"loss": 0.0, "count": 0}
    bar = tqdm(
        loader,
        initial=first,
        total=first + len(loader),
        desc=f"epoch {loader.sampler.epoch + 1}",
        dynamic_ncols=True,
        mininterval=2,
    )
    optimizer.zero_grad(set_to_none=True)
    for i, raw in enumerate(bar, start=first):
        batch = prepare(raw, device, config)
        with autocast(device, config.amp):
            out, out_loss = run_network(model, batch, config)
        loss = loss_of(out_loss, batch, config)
        value = check_finite("loss", loss.item())
        loss = loss / config.accumulate
        (scaler.scale(loss) if scaler else loss).backward()
        if (i + 1) % config.accumulate == 0:
            _step(model, optimizer, scheduler, scaler, config)
            if ema is not None:
                ema.update()
        total["loss"] += value
        total["count"] += 1
        bar.set_postfix(loss=f"{total['loss'] / total['count']:.3g}", refresh=False)
        if on_step:
            on_step(i, {"loss": value, "lr": scheduler.get_last_lr()[0]}, batch, out)
    return {"loss": total["loss"] / max(total["count"], 1)}


def loss_of(out_loss, batch: dict[str, torch.Tensor], config: Config) -> torch.Tensor:
    """The training loss of a network's second output; coordinates have a loss of their own."""
    if config.model == "coord_lpm":
        return coordinate_loss(out_loss, batch["joints"], config.resolution, batch["visible"])
    return MSESequenceLoss(config.loss_norm)(
        out_loss.float(), batch["labels"], batch["visible"] if config.masked_loss else None
    )


def _step(model, optimizer, scheduler, scaler, config: Config) -> None:
    if scaler:
        scaler.unscale_(optimizer)
    if config.clip:
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip)
    if scaler:
        scaler.step(optimizer)
        scaler.update()
    else:
        optimizer.step()
    scheduler.step()
    optimizer.zero_grad(set_to_none=True)


def flip_batch(batch: dict[str, torch.Tensor], config: Config) -> dict[str, torch.Tensor]:
    """The mirrored network input; a transposed centre map is mirrored along its other axis."""
    axis = -2 if config.center_map == "compat" else -1
    return {**batch, "frames": batch["frames"].flip(-1), "center": batch["center"].flip(axis)}


def unflip_maps(maps: torch.Tensor, config: Config) -> torch.Tensor:
    """Belief maps (...,15,g,g) of the mirrored image, back in the frame of the image.

    Where cells count from the crop's edge without a half-pixel shift, mirrored maps lie one cell too far left; they are moved back.
    """
    order = [*LPM14.mirror.tolist(), *range(JOINTS, maps.shape[-3])]
    maps = maps[..., order, :, :].flip(-1)
    return maps if half_pixel(config) else torch.cat([maps[..., :1], maps[..., :-1]], dim=-1)


def decode(maps: torch.Tensor, config: Config) -> tuple[np.ndarray, np.ndarray]:
    """Belief maps (...,15,g,g) -> joints (...,14,2) in crop pixels and their scores (...,14), the maps' peaks."""
    if config.model == "coord_lpm":
        points = expected_coordinates(maps[..., :JOINTS, :, :]).cpu().numpy().astype(np.float64)
        return ((points + 1) * config.resolution - 1) / 2, maps[..., :JOINTS, :, :].amax((-2, -1)).cpu().numpy()
    cells, score = decode_maps(maps[..., :JOINTS, :, :].float().cpu().numpy())
    shift = 0.5 if half_pixel(config) else 0.0
    return (cells + shift) * (config.resolution / maps.shape[-1]) - shift, score


def accuracy(maps: torch.Tensor, batch: dict[str, torch.Tensor], config: Config) -> float:
    """Percent of the batch's labelled joints within `pck_r` x the extent of the person's joints; NaN when none is labelled."""
    found = decode(maps.detach(), config)[0]
    truth = np.broadcast_to(batch["joints"].cpu().numpy().astype(np.float64), found.shape).reshape(-1, JOINTS, 2)
    seen = np.broadcast_to(batch["visible"].cpu().numpy() > 0, found.shape[:-1]).reshape(-1, JOINTS)
    return pck.pck(truth, found.reshape(truth.shape), seen, pck.extent(truth), config.pck_r, LPM14).total


@torch.inference_mode()
def predict(
    model, loader, device: torch.device, config: Config, progress: bool = True, losses: list | None = None
) -> Iterator[tuple]:
    """Yield (rows, joints, score) a batch: rows (n,) of the PoseSet, joints (n,14,2) float32 image pixels in LPM14 order, score (n,14).

    A still image is answered by the last stage, a video frame by its own. With `config.flip_test` maps are averaged with the mirrored image's.
    The loss of each batch, before that, goes into `losses`.
    """
    model.eval()
    for raw in tqdm(loader, desc="predict", disable=not progress, dynamic_ncols=True, mininterval=2):
        maps = belief_maps(model, prepare(raw, device, config), device, config, losses)
        crop, score = decode(maps, config)
        joints = apply_affine(raw["to_image"].numpy().astype(np.float64), crop)
        yield raw["rows"].numpy().ravel(), joints.reshape(-1, JOINTS, 2).astype(np.float32), score.reshape(-1, JOINTS)


def belief_maps(
    model, batch: dict[str, torch.Tensor], device: torch.device, config: Config, losses: list | None = None
) -> torch.Tensor:
    """(B,T,15,g,g) float32 maps of a prepared batch, of still images (T = 1) those of the last stage, averaged with the mirrored ones if asked."""
    with autocast(device, config.amp):
        out, out_loss = run_network(model, batch, config)
        maps = out.float()
        if config.flip_test:
            maps = (maps + unflip_maps(run_network(model, flip_batch(batch, config), config)[0].float(), config)) / 2
    if losses is not None:
        losses.append(loss_of(out_loss, batch, config).item())
    return maps[:, -1:] if batch["frames"].shape[1] == 1 else maps
