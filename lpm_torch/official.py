"""Inference as in the LPM authors' benchmark: whole sequences, state carried, seven scales, given boxes.

Every scale is a sequence of its own with its own state; all go through the network as one batch. At each frame and
scale the picture is resized, a square of the network's input size is cut around the box's centre (zero outside, after
normalisation), and the belief maps are enlarged, put back at their place in the resized frame (zero elsewhere), resized
to the frame and summed; the highest pixel is the joint. Source: LSTM_Pose_Machines, run_benchmark. Resizing is bicubic
with a = -0.5 and antialiasing, as Matlab's imresize; within two pixels of a border the two differ, because weights
outside are dropped here and mirrored there.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from common.codecs import gaussian_maps
from common.errors import DataError
from common.geometry import box_center
from common.images import read_image
from common.poses import PoseSet
from common.predictions import Predictions, predictions_for
from common.skeletons import CPM14, LPM14, joint_order
from lpm_torch.config import Config, half_pixel
from lpm_torch.data import CENTER_SIGMA, center_map, normalisation
from lpm_torch.estimator import Estimator, autocast, run_network

SCALES = {"penn_action": tuple(s / 10 for s in range(8, 15)), "jhmdb": tuple(s / 10 for s in range(12, 19))}
FIT = 1.05  # a person larger than the input is scaled to 1 / FIT of it


def scale_of(wanted: float, box: np.ndarray, side: int) -> float:
    """The factor of a frame: `wanted`, or what makes the longer side of `box` (x, y, w, h) fit into the input."""
    longest = max(float(box[2:].max()), 1.0)
    return wanted if wanted * longest <= side else side / longest / FIT


def resize(maps: Tensor, height: int, width: int) -> Tensor:
    """(C,h,w) -> (C,height,width), bicubic (a = -0.5), reduced with antialiasing."""
    return F.interpolate(maps[None], size=(height, width), mode="bicubic", antialias=True, align_corners=False)[0]


def overlap(corner: np.ndarray, side: int, width: int, height: int) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """(rows, columns) of a picture that a square of `side` at `corner` (x, y) covers, and the same in the square."""
    low, high = np.maximum(corner, 0), np.minimum(corner + side, (width, height))
    high = np.maximum(low, high)
    picture = slice(int(low[1]), int(high[1])), slice(int(low[0]), int(high[0]))
    rows, columns = (slice(s.start - int(c), s.stop - int(c)) for s, c in zip(picture, corner[::-1]))
    return picture, (rows, columns)


def enlarge(maps: Tensor, side: int, half: bool) -> Tensor:
    """Belief maps (C,g,g) -> (C,side,side); a cell is the middle of its square (`half`) or pixel i * side / g (MP)."""
    if half:
        return resize(maps, side, side)
    cells = torch.arange(side, device=maps.device) * (maps.shape[-1] / side)
    place = (2 * cells + 1) / maps.shape[-1] - 1
    grid = torch.stack(torch.meshgrid(place, place, indexing="xy"), -1)
    return F.grid_sample(maps[None], grid[None], mode="bicubic", padding_mode="border", align_corners=False)[0]


class Benchmark:
    """Follows one sequence after another; `reset` before each."""

    def __init__(self, model, config: Config, device: torch.device, scales: tuple[float, ...]):
        if config.model in ("lpm_raw", "coord_lpm"):
            usable = "lpm, lpm_official, cpm or hourglass"
            raise DataError(f"--model={config.model} cannot be run over whole sequences; use {usable}")
        self.model, self.config, self.device, self.scales = model.eval(), config, device, scales
        self.side = config.input_width
        self.mean, self.std, self.bgr = normalisation(config)
        self.center = self._center().to(device).expand(len(scales), -1, -1, -1)
        self.state = None

    def reset(self) -> None:
        """Forget the sequence."""
        self.state = None

    def _center(self) -> Tensor:
        """(1,1,S,S): the authors' map peaks a pixel before the middle, without a threshold; MP's is its training's."""
        if self.config.model == "lpm_official":
            middle, size = np.full((1, 2), self.side / 2 - 1), (self.side, self.side)
            return torch.from_numpy(gaussian_maps(middle, np.ones(1, bool), size, CENTER_SIGMA, threshold=0.0))[None]
        return torch.from_numpy(center_map(np.full((1, 1, 2), (self.side - 1) / 2), self.side, transposed=False))[None]

    @torch.inference_mode()
    def __call__(self, image: np.ndarray, box: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(H,W,3) uint8 BGR, box x, y, w, h -> joints (J,2) whole pixels, score (J,), the scales' mean belief."""
        height, width = image.shape[:2]
        ordered = np.ascontiguousarray(image if self.bgr else image[..., ::-1])
        pixels = torch.from_numpy(ordered).to(self.device).permute(2, 0, 1).float()
        views = [self._view(pixels, scale_of(s, box, self.side), box) for s in self.scales]
        maps = self._step(torch.stack([crop for crop, _, _ in views]))[:, :-1]
        total = torch.zeros(maps.shape[1], height, width, device=self.device)
        for belief, (_, corner, (w, h)) in zip(maps, views):
            canvas = torch.zeros(maps.shape[1], h, w, device=self.device)
            (rows, columns), (own_rows, own_columns) = overlap(corner, self.side, w, h)
            large = enlarge(belief, self.side, half_pixel(self.config))
            canvas[:, rows, columns] = large[:, own_rows, own_columns]
            total += resize(canvas, height, width)
        peak, index = total.flatten(1).max(1)
        index = index.cpu().numpy()
        return np.stack([index % width, index // width], 1).astype(np.float64), (peak / len(self.scales)).cpu().numpy()

    def _view(self, pixels: Tensor, factor: float, box: np.ndarray) -> tuple[Tensor, np.ndarray, tuple[int, int]]:
        """(normalised crop (3,S,S), its corner x, y in the resized frame, size of the resized frame)."""
        height, width = (int(np.ceil(factor * n - 1e-9)) for n in pixels.shape[1:])
        resized = resize(pixels, height, width).round().clamp(0, 255) / 255
        mean, std = (resized.new_tensor(values).view(3, 1, 1) for values in (self.mean, self.std))
        resized = (resized - mean) / (std + 1e-8)
        corner = np.round(box_center(box) * factor).astype(int) - self.side // 2
        crop = resized.new_zeros(3, self.side, self.side)
        (rows, columns), (own_rows, own_columns) = overlap(corner, self.side, width, height)
        crop[:, own_rows, own_columns] = resized[:, rows, columns]
        return crop, corner, (width, height)

    def _step(self, frames: Tensor) -> Tensor:
        """(K,3,S,S) -> belief maps (K,maps,g,g)."""
        if not hasattr(self.model, "step"):
            batch = {"frames": frames[:, None], "center": self.center}
            return run_network(self.model, batch, self.config)[0][:, -1].float()
        with autocast(self.device, self.config.amp):
            if self.state is None:
                self.state = self.model.init_state(frames, self.center)
            maps, self.state = self.model.step(frames, self.center, self.state)
        return maps.float()


def sequences(pose_set: PoseSet) -> Iterator[np.ndarray]:
    """Rows of each video in the order of its frames, videos in the order of their numbers."""
    assert pose_set.sequence is not None and pose_set.frame is not None
    for sequence in np.unique(pose_set.sequence):
        rows = np.flatnonzero(pose_set.sequence == sequence)
        yield rows[np.argsort(pose_set.frame[rows], kind="stable")]


def predict_official(estimator: Estimator, pose_set: PoseSet) -> Predictions:
    """Predictions of every frame of a video data set, in the order of videos and frames.

    The authors' weights (skeleton cpm14) for Penn Action exchange left and right against the data set's naming.
    DataError for still images and frames without a box.
    """
    if pose_set.sequence is None or pose_set.name not in SCALES:
        raise DataError(
            f"the official protocol is for videos of {', '.join(SCALES)}, not for {pose_set.name}; use val.py"
        )
    if estimator.network_skeleton not in (LPM14, CPM14):
        joint_order(estimator.skeleton, pose_set.skeleton)
    benchmark, done = Benchmark(estimator.model, estimator.config, estimator.device, SCALES[pose_set.name]), []
    joints, score = [], []
    for rows in tqdm(list(sequences(pose_set)), desc="sequences", dynamic_ncols=True, mininterval=2, disable=None):
        benchmark.reset()
        for row in rows:
            if not np.isfinite(pose_set.box[row]).all():
                raise DataError(
                    f"{pose_set.images[row]} has no person box, which the official protocol crops by; repair the labels"
                )
            found, confidence = benchmark(read_image(pose_set.images[row]), pose_set.box[row])
            joints.append(found)
            score.append(confidence)
        done.extend(rows.tolist())
    places, scores, order = np.stack(joints), np.stack(score), estimator.network_skeleton
    if order == CPM14 and pose_set.name == "penn_action":
        places, scores = places[:, CPM14.mirror], scores[:, CPM14.mirror]
    about = {"boxes": "oracle (annotated box of each frame)", "flip_test": False, "scales": SCALES[pose_set.name]}
    about |= {"inference": "whole sequences, state carried", "joint_order": order.name}
    if pose_set.name == "jhmdb":
        about["stand_ins"] = ["belly"]  # the network has none; common.evaluate puts it where the benchmark does
    places, scores = estimator.named_as(pose_set.skeleton, places, scores)
    kept = pose_set.select(done)
    return predictions_for(kept, places, scores, {**estimator.meta, **about}, box=kept.box)
