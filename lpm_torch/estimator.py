"""A trained network as one object: pictures or a labelled set in, joints in image pixels out.

people = Estimator("best.pth.tar").predict("photo.jpg")
stream = Estimator().stream()        # a video: carries the LSTM's state from picture to picture
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from common.codecs import decode_maps
from common.errors import DataError
from common.geometry import (
    apply_affine,
    box_center,
    box_with_aspect,
    checked_boxes,
    crop_affine,
    invert_affine,
    pad_box,
    warp,
)
from common.images import picture_of
from common.poses import PoseSet
from common.predictions import People, Predictions, predictions_for
from common.runs.process import Process, autocast, place, torch_device
from common.runs.scoring import describe
from common.runs.settings import resolve
from common.runs.shelf import missing_weights
from common.skeletons import CPM14, LPM14, Skeleton, joint_order, skeleton_map
from lpm_torch.config import HOUSE, RECURRENT, SUFFIXES, Config, half_pixel, network_skeleton, weights_path
from lpm_torch.data import ClipDataset, crop_boxes, make_clips, make_loader, prepare, say_unread
from lpm_torch.hourglass import expected_coordinates
from lpm_torch.model import build_network
from lpm_torch.weight_files import config_of, load_weights, read_checkpoint, skeleton_of

# what a user of a trained network may ask for against its settings
OVERRIDES = ("t", "input_width", "batch_size", "workers", "threads", "amp", "flip_test", "device", "gpus")


class Estimator:
    """A network with its settings: `skeleton` that it answers with, `config`, `meta` for prediction files.

    `weights`: a checkpoint of ours or of MobilePose, converted weights with their card, a run's folder, a shipped name;
    None: the newest best of this house. `skeleton`: of weights that name no joints, as the originals'. `random_weights`:
    the same network untrained. `options`: settings of `OVERRIDES`, and those that the weights leave open.
    """

    def __init__(self, weights: str | Path | None = None, *, skeleton: Skeleton = LPM14, random_weights: bool = False,
                 raw_weights: bool = False, shared_joints: bool = False, **options: Any):  # fmt: skip
        path = weights_path(None if weights is None else str(weights), options.get("model"))
        if path is None and not random_weights:
            raise missing_weights(HOUSE, SUFFIXES)
        found = read_checkpoint(path) if path else {}
        stored = skeleton_of(found, path) if path else skeleton
        config = config_of(found, path, options)
        asked = {k: v for k, v in options.items() if k in OVERRIDES and v is not None}
        config = resolve(Config, asdict(config), asked).checked()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            model = build_network(config, len(network_skeleton(stored or skeleton)))
        if path and not random_weights:
            load_weights(model, found, path, raw_weights)
        self._take(model, config, stored or skeleton, torch_device(torch, config.device, config.threads))
        self.named, self.shared_joints = stored is not None, shared_joints
        trained = None if random_weights else path
        self.meta = describe(HOUSE, config.model, trained, asdict(self.config), mode=config.mode,
                             flip_test=config.flip_test, seed=config.seed)  # fmt: skip

    @classmethod
    def of(cls, model: nn.Module, config: Config, skeleton: Skeleton, process: Process) -> Estimator:
        """Around a live network on the device of `process`, for the validation of its training."""
        made = cls.__new__(cls)
        made._take(model, config, skeleton, getattr(process, "device", torch.device("cpu")))
        made.named, made.shared_joints, made.meta = True, False, {}
        return made

    def _take(self, model: nn.Module, config: Config, skeleton: Skeleton, device: torch.device) -> None:
        self.config, self.skeleton, self.network_skeleton = config, skeleton, network_skeleton(skeleton)
        self.model, self.device = place(torch, model, device, self.config.amp).eval(), device

    # ---- pictures ----------------------------------------------------------------------------------------------------

    def predict(self, image: str | Path | np.ndarray, boxes: np.ndarray | None = None) -> People:
        """The persons in `boxes` (n,4) x, y, w, h of a path or (H,W,3) uint8 BGR; None: one, anywhere in it. The margin
        of the training is added, but not to a box that covers the whole picture."""
        return self.predict_many([(image, boxes)])[0]

    def predict_many(self, views: Sequence[tuple]) -> list[People]:
        """As `predict` for each pair of a picture and its boxes, in one batch."""
        views, batch, to_image = self._crops(views)
        if not len(to_image):
            return People.by_picture(np.zeros((0, len(self.skeleton), 2)), None, views)
        with torch.inference_mode():
            maps = belief_maps(self.model, batch, self.config, self.network_skeleton)[:, -1]
        return self._people(maps, views, to_image)

    def stream(self) -> Stream:
        """Something to show a video's pictures to, one after another."""
        return Stream(self)

    def _crops(self, views: Sequence[tuple]) -> tuple[list[tuple], dict[str, Tensor], np.ndarray]:
        """(each picture and its boxes (n,4), prepared batch of all as still images, their (N,2,3) crop -> image)."""
        self.check_order()
        size, every, matrices, frames = self.config.input_width, [], [np.zeros((0, 2, 3))], []
        for image, boxes in views:
            image = picture_of(image)
            (height, width), given = image.shape[:2], checked_boxes(boxes, image)
            whole = (given[:, :2] <= 1).all(1) & (given[:, :2] + given[:, 2:] >= (width - 1, height - 1)).all(1)
            padded = pad_box(given, self.config.pad_pixels, self.config.pad_ratio)
            every.append((image, given))
            for box in np.where(whole[:, None], given, padded):
                matrices.append(crop_affine(box_center(box), max(box[2:].max(), 1.0), (size, size))[None])
                frames.append(cv2.cvtColor(warp(image, matrices[-1][0], (size, size)), cv2.COLOR_BGR2RGB))
        pixels = np.array(frames, np.uint8).reshape(-1, 1, size, size, 3)
        raw = {"frames": torch.from_numpy(pixels), "center": torch.full((len(frames), 2), (size - 1) / 2)}
        return every, prepare(raw, self.device, self.config), invert_affine(np.concatenate(matrices))

    def _people(self, maps: Tensor, views: list[tuple], to_image: np.ndarray) -> list[People]:
        crop, score = decode(maps, self.config)
        return People.by_picture(*self.named_as(self.skeleton, apply_affine(to_image, crop), score), views)

    # ---- labelled sets -----------------------------------------------------------------------------------------------

    def scored(self, pose_set: PoseSet) -> PoseSet:
        """The persons that `predict_pose_set` looks at: in mode compat those of a video's whole clips, as MP does."""
        if self.config.mode == "correct":
            return pose_set
        return pose_set.select(np.unique(make_clips(pose_set, self.config.t)))

    def predict_pose_set(self, pose_set: PoseSet) -> Predictions:
        """Predictions for every row of `scored(pose_set)`, in its skeleton, from crops about the annotated boxes; NaN
        where a picture cannot be read. DataError for data with other joints, unless the shared ones were asked for."""
        self.check_order()
        config, pose_set = self.config, self.scored(pose_set)
        # weights that name no joints answer any data set whose joints MP puts into the network's order
        any_set = not self.named and network_skeleton(pose_set.skeleton) == self.network_skeleton
        answers = pose_set.skeleton if any_set else self.skeleton
        order = joint_order(answers, pose_set.skeleton, self.shared_joints)
        joints = np.full((len(pose_set), len(self.network_skeleton), 2), np.nan)
        score = np.zeros(joints.shape[:2], np.float32)
        unread: set[int] = set()
        for raw, batch in self.batches(pose_set, every_frame=config.mode == "correct"):
            with torch.inference_mode():
                maps = belief_maps(self.model, batch, config, self.network_skeleton)
            crop, found = decode(maps, config)
            rows = raw["rows"].numpy()
            joints[rows], score[rows] = apply_affine(raw["to_image"].numpy().astype(np.float64), crop), found
            unread |= set(raw["unread"].flatten().tolist()) - {-1}
        say_unread(pose_set, unread)
        joints[list(unread)], score[list(unread)] = np.nan, 0
        joints, score = self.named_as(answers, joints, score)
        joints = np.where((order >= 0)[:, None], joints[:, order], np.nan)
        score = np.where(order >= 0, score[:, order], 0)
        box = box_with_aspect(pad_box(crop_boxes(pose_set), config.pad_pixels, config.pad_ratio), 1.0)
        return predictions_for(pose_set, joints, score, {**self.meta, "boxes": "oracle (annotated boxes)"}, box=box)

    def batches(self, pose_set: PoseSet, every_frame: bool = False) -> Iterator[tuple[dict, dict]]:
        """Its clips as the loader gives them, and prepared for the network. DataError when there is none."""
        grid = self.model.output_size(self.config.input_width)
        dataset = ClipDataset(pose_set, self.config, grid, every_frame=every_frame)
        for raw in tqdm(make_loader(dataset, self.config, shuffle=False), "predict", leave=False, disable=None):
            yield raw, prepare(raw, self.device, self.config)

    def named_as(self, skeleton: Skeleton, joints: np.ndarray, score: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(N,J,2) joints and (N,J) scores of the network as those of a data set's skeleton."""
        to_own = skeleton_map(self.network_skeleton, skeleton)
        columns = [score[:, list(s)].mean(-1) if s else np.zeros(len(score), np.float32) for s in to_own.sources]
        return to_own.apply(joints).astype(np.float32), np.stack(columns, axis=-1)

    def check_order(self) -> None:
        """DataError for the authors' weights, whose left and right mean two things."""
        if self.skeleton == CPM14:
            remedy = "convert them with `convert.py --reorder`, or score them with `test.py --protocol=official`"
            raise DataError(f"these weights answer in the joint order cpm14 of the authors' models; {remedy}")


class Stream:
    """A video's pictures, one by one: recurrent networks carry their state, the others look at each alone."""

    def __init__(self, estimator: Estimator):
        self.estimator, self.state, self.count = estimator, None, 0

    def predict(self, image: str | Path | np.ndarray, boxes: np.ndarray | None = None) -> People:
        """As `Estimator.predict`; row i of `boxes` is one person all along; another number of rows starts anew."""
        own = self.estimator
        if own.config.model not in RECURRENT or (boxes is not None and not len(boxes)):
            return own.predict(image, boxes)
        given, batch, to_image = own._crops([(image, boxes)])
        frame, center = batch["frames"][:, 0], batch["center"]
        with torch.inference_mode(), autocast(torch, own.device, own.config.amp):
            if self.state is None or self.count != len(to_image):
                self.state, self.count = own.model.init_state(frame, center), len(to_image)
            maps, self.state = own.model.step(frame, center, self.state)
        return own._people(maps, given, to_image)[0]

    def predict_many(self, views: Sequence[tuple]) -> list[People]:
        """As `predict` of one picture after the other."""
        return [self.predict(*view) for view in views]


# ---- network -> joints -----------------------------------------------------------------------------------------------


def run_network(model: nn.Module, batch: dict[str, Tensor], config: Config):
    """(out, out_loss) of a prepared batch; recurrent networks read a still image `config.t` times."""
    frames = batch["frames"]
    with autocast(torch, frames.device, config.amp):
        return model(frames, batch["center"], steps=config.t if frames.shape[1] == 1 else None)


def belief_maps(model: nn.Module, batch: dict[str, Tensor], config: Config, skeleton: Skeleton) -> Tensor:
    """(B,T,maps,g,g) float32 maps of a prepared batch, of still images (T = 1) the last, averaged with the mirrored ones
    if asked. `skeleton`: the network's."""
    maps = run_network(model, batch, config)[0].float()
    if config.flip_test:
        axis = -2 if config.center_map == "compat" else -1  # a transposed centre map is mirrored along its other axis
        mirrored = {"frames": batch["frames"].flip(-1), "center": batch["center"].flip(axis)}
        maps = (maps + unflip_maps(run_network(model, mirrored, config)[0].float(), config, skeleton)) / 2
    return maps[:, -1:] if batch["frames"].shape[1] == 1 else maps


def unflip_maps(maps: Tensor, config: Config, skeleton: Skeleton = LPM14) -> Tensor:
    """Belief maps (...,maps,g,g) of the mirrored image, back in the frame of the image; where cells count from the
    crop's edge they lie one cell too far left."""
    order = [*skeleton.mirror.tolist(), *range(len(skeleton), maps.shape[-3])]
    maps = maps[..., order, :, :].flip(-1)
    return maps if half_pixel(config) else torch.cat([maps[..., :1], maps[..., :-1]], dim=-1)


def decode(maps: Tensor, config: Config) -> tuple[np.ndarray, np.ndarray]:
    """Belief maps (...,maps,g,g) -> joints (...,J,2) in crop pixels and their scores (...,J), the maps' peaks."""
    if config.model == "coord_lpm":  # has no background
        points = expected_coordinates(maps).cpu().numpy().astype(np.float64)
        return ((points + 1) * config.input_width - 1) / 2, maps.amax((-2, -1)).cpu().numpy()
    cells, score = decode_maps(maps[..., :-1, :, :].float().cpu().numpy())
    shift = 0.5 if half_pixel(config) else 0.0
    return (cells + shift) * (config.input_width / maps.shape[-1]) - shift, score
