"""Inference as in the LPM authors' benchmark: whole sequences, state carried, seven scales, given boxes.

Every scale is a sequence with its own state. At each frame and scale the picture is resized, a square of the network's
input size is cut around the box's centre, and the belief maps are enlarged, put back at their place in the resized
frame, resized to the frame and summed; the highest pixel is the joint. Source: LSTM_Pose_Machines, run_benchmark.
Resizing is as Matlab's imresize, bicubic with a = -0.5 and antialiasing, but within two pixels of a border.
"""

from __future__ import annotations

import warnings

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from common.codecs import gaussian_maps
from common.errors import DataError, DataWarning
from common.geometry import box_center
from common.images import read_image
from common.poses import PoseSet
from common.predictions import Predictions, predictions_for
from common.runs.process import autocast
from common.skeletons import CPM14
from lpm_torch.config import Config
from lpm_torch.data import CENTER_SIGMA, by_channel, crop_boxes, make_clips, normalisation, say_unread
from lpm_torch.estimator import Estimator

SCALES = {"penn_action": tuple(s / 10 for s in range(8, 15)), "jhmdb": tuple(s / 10 for s in range(12, 19))}
FIT = 1.05  # a person larger than the input is scaled to 1 / FIT of it


def scale_of(wanted: float, box: np.ndarray, side: int) -> float:
    """The factor of a frame: `wanted`, or what makes the longer side of `box` (x, y, w, h) fit into the input."""
    longest = max(float(box[2:].max()), 1.0)
    return wanted if wanted * longest <= side else side / longest / FIT


def resize(maps: Tensor, height: int, width: int) -> Tensor:
    """(C,h,w) -> (C,height,width), bicubic (a = -0.5), reduced with antialiasing."""
    return F.interpolate(maps[None], size=(height, width), mode="bicubic", antialias=True, align_corners=False)[0]


class Benchmark:
    """Follows one sequence after another; `state` is set to None before each."""

    def __init__(self, model, config: Config, device: torch.device, scales: tuple[float, ...]):
        self.model, self.config, self.device, self.scales = model, config, device, scales
        self.side, self.state = config.input_width, None
        # peaks a pixel before the middle; no threshold, as at the authors' test
        middle, size = np.full((1, 2), self.side / 2 - 1), (self.side, self.side)
        center = torch.from_numpy(gaussian_maps(middle, np.ones(1, bool), size, CENTER_SIGMA, threshold=0.0))
        self.center = center[None].to(device).expand(len(scales), -1, -1, -1)

    @torch.inference_mode()
    def __call__(self, image: np.ndarray, box: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(H,W,3) uint8 BGR, box x, y, w, h -> joints (J,2) whole pixels, score (J,), the scales' mean belief."""
        height, width = image.shape[:2]
        pixels = torch.from_numpy(np.ascontiguousarray(image)).to(self.device).permute(2, 0, 1).float()
        views = [self._view(pixels, scale_of(s, box, self.side), box) for s in self.scales]
        frames = torch.stack([crop for crop, _, _ in views])
        with autocast(torch, self.device, self.config.amp):
            if self.state is None:
                self.state = self.model.init_state(frames, self.center)
            maps, self.state = self.model.step(frames, self.center, self.state)
        maps = maps[:, :-1].float()
        total = torch.zeros(maps.shape[1], height, width, device=self.device)
        for belief, (_, corner, (w, h)) in zip(maps, views):
            s, (x, y) = self.side, corner
            canvas = torch.zeros(maps.shape[1], h + 2 * s, w + 2 * s, device=self.device)
            canvas[:, y + s : y + 2 * s, x + s : x + 2 * s] = resize(belief, s, s)
            total += resize(canvas[:, s:-s, s:-s], height, width)
        peak, index = total.flatten(1).max(1)
        index = index.cpu().numpy()
        return np.stack([index % width, index // width], 1).astype(np.float64), (peak / len(self.scales)).cpu().numpy()

    def _view(self, pixels: Tensor, factor: float, box: np.ndarray) -> tuple[Tensor, np.ndarray, tuple[int, int]]:
        """(normalised crop (3,S,S), its corner x, y in the resized frame, size of the resized frame)."""
        height, width = (int(np.ceil(factor * n - 1e-9)) for n in pixels.shape[1:])
        resized = resize(pixels, height, width).round().clamp(0, 255) / 255
        mean, std = (by_channel(values, self.device) for values in normalisation(self.config)[:2])
        resized = (resized - mean) / (std + 1e-8)
        s = self.side
        x, y = corner = np.clip(np.round(box_center(box) * factor).astype(int) - s // 2, -s, (width, height))
        crop = F.pad(resized, (s, s, s, s))[:, y + s : y + 2 * s, x + s : x + 2 * s]
        return crop, corner, (width, height)


def predict_official(estimator: Estimator, pose_set: PoseSet) -> Predictions:
    """Predictions of every frame of a video data set, in order. The authors' weights (skeleton cpm14) for Penn Action
    exchange left and right. DataError for other networks and for still images."""
    if estimator.config.model != "lpm_official":
        raise DataError(f"--protocol=official is lpm_official's; score {estimator.config.model} with val.py")
    if pose_set.name not in SCALES:
        raise DataError(f"--protocol=official is for {', '.join(SCALES)}, not for {pose_set.name}; use val.py")
    benchmark = Benchmark(estimator.model, estimator.config, estimator.device, SCALES[pose_set.name])
    rows, boxes = make_clips(pose_set, 1)[:, 0], crop_boxes(pose_set)
    assert pose_set.sequence is not None
    count, found, before, unread = len(estimator.network_skeleton), [], None, set()
    for row in tqdm(rows, desc="frames", dynamic_ncols=True, mininterval=2, disable=None):
        if pose_set.sequence[row] != before:
            benchmark.state = None
        before = pose_set.sequence[row]
        try:
            found.append(benchmark(read_image(pose_set.images[row]), boxes[row]))
        except DataError as error:
            warnings.warn(str(error), DataWarning, stacklevel=1)
            unread.add(int(row))
            found.append((np.full((count, 2), np.nan), np.zeros(count)))
    say_unread(pose_set, unread)
    places, scores = (np.stack(part) for part in zip(*found))
    order = estimator.network_skeleton
    if order == CPM14 and pose_set.name == "penn_action":
        places, scores = places[:, CPM14.mirror], scores[:, CPM14.mirror]
    about = {"boxes": "oracle (annotated box of each frame)", "flip_test": False, "scales": SCALES[pose_set.name]}
    about |= {"inference": "whole sequences, state carried", "joint_order": order.name}
    # the network has no belly; common.evaluate puts it where the benchmark does
    about |= {"stand_ins": ["belly"]} if pose_set.name == "jhmdb" else {}
    places, scores = estimator.named_as(pose_set.skeleton, places, scores)
    kept = pose_set.select(rows)
    return predictions_for(kept, places, scores, {**estimator.meta, **about}, box=kept.box)
