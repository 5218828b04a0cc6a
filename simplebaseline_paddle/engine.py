"""Two functions: `train_one_epoch` and `predict`. Everything else about a run is in train.py and val.py."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext

import numpy as np
import paddle
from tqdm import tqdm

from common.codecs import decode_maps
from common.runs.runlog import check_finite
from common.skeletons import Skeleton
from simplebaseline_paddle.config import Config
from simplebaseline_paddle.losses import heatmap_loss
from simplebaseline_paddle.records import Records
from simplebaseline_paddle.transforms import flip_back, normalise, to_image

AMP_TYPES = {"bf16": "bfloat16", "fp16": "float16"}


def autocast(amp: str):
    """The mixed-precision context of `--amp`; loss, targets and peaks stay float32."""
    return nullcontext() if amp == "off" else paddle.amp.auto_cast(level="O1", dtype=AMP_TYPES[amp])


def training_mode(model, freeze_bn: bool) -> None:
    """Switch a network to training, its batch norms to their stored statistics if frozen."""
    model.train()
    if freeze_bn:
        for layer in model.sublayers():
            if isinstance(layer, paddle.nn.BatchNorm2D):
                layer.eval()


def train_one_epoch(
    network,
    loader,
    optimizer,
    config: Config,
    *,
    scaler=None,
    ema=None,
    first: int = 0,
    on_step: Callable | None = None,
    progress: bool = True,
) -> dict[str, float]:
    """Train over the loader's batches, the first of which is number `first` of the epoch. Returns the mean `loss`.

    `on_step(batch_index, values, batch, maps)` is called after every batch. Raises FloatingPointError on a loss that is not finite, before
    the weights are touched.
    """
    training_mode(network, config.freeze_bn)
    optimizer.clear_grad()  # of the last epoch's batches that were too few for an update
    losses = []
    bar = tqdm(
        loader, initial=first, total=first + len(loader), disable=not progress, dynamic_ncols=True, mininterval=2
    )
    for i, batch in enumerate(bar, start=first):
        with autocast(config.amp):
            maps = network(normalise(batch["image"], config.colour))
        loss = heatmap_loss(maps, batch["target"], batch["weight"] if config.target_weight else None)
        losses.append(check_finite("loss", float(loss)))
        share = loss / config.accumulate
        (scaler.scale(share) if scaler else share).backward()
        if (i + 1) % config.accumulate == 0:
            update(optimizer, scaler)
            if ema is not None:
                ema.update()
        bar.set_postfix(loss=f"{np.mean(losses[-50:]):.3g}", refresh=False)
        if on_step:
            on_step(i, {"loss": losses[-1], "lr": optimizer.get_lr()}, batch, maps)
    return {"loss": float(np.mean(losses)) if losses else float("nan")}


def update(optimizer, scaler=None) -> None:
    """One step of optimiser and schedule; gradients are cleared."""
    if scaler:
        scaler.step(optimizer)
        scaler.update()
    else:
        optimizer.step()
    optimizer.clear_grad()
    if isinstance(optimizer._learning_rate, paddle.optimizer.lr.LRScheduler):
        optimizer._learning_rate.step()


def maps_of(forward: Callable, images: np.ndarray, mirror: np.ndarray, config: Config) -> np.ndarray:
    """Heat-maps (N,K,h,w) float32 of (N,H,W,3) uint8 BGR crops, averaged with the mirrored ones if `config.flip_test`.

    `forward` takes (N,3,H,W) float32 arrays and gives arrays (simplebaseline_paddle/infer.py).
    """
    inputs = normalise(images, config.colour)
    maps = forward(inputs)
    if config.flip_test:
        maps = (maps + flip_back(forward(inputs[..., ::-1]), mirror, config.shift_heatmap)) * 0.5
    return maps


def predict(
    forward: Callable, loader, records: Records, config: Config, skeleton: Skeleton, progress: bool = True
) -> Iterator[tuple]:
    """Yield (index, joints, score, batch, maps) a batch: index (n,) into `records`, joints (n,K,2) image pixels, score (n,K) the maps' peaks."""
    width, height = config.map_size
    offset = 0.25 if config.post_process else 0.0
    for batch in tqdm(loader, desc="predict", disable=not progress, dynamic_ncols=True, mininterval=2):
        index, images = batch["index"].numpy(), batch["image"].numpy()
        maps = maps_of(forward, images, skeleton.mirror, config)
        if maps.shape[1:] != (len(skeleton), height, width):
            raise ValueError(
                f"the network gives maps of shape {maps.shape[1:]}, {(len(skeleton), height, width)} was expected"
            )
        cells, score = decode_maps(maps, offset)
        yield index, to_image(cells, records.center[index], records.scale[index], (width, height)), score, images, maps
