"""The stages of a project as one estimator: pictures -> joints, in batches.

mode correct: the training transform (OpenCV resize, mean image, the prototxt's scale). mode compat: what the test
scripts did instead (caffe.io's resize, the mean image's channel averages, 1/255).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from common.datasets import record
from common.errors import DataError
from common.geometry import apply_affine, box_center, checked_boxes, crop_affine, invert_affine, pad_box, warp
from common.poses import PoseSet
from common.predictions import People, Predictions, predictions_for
from common.runs.process import autocast, place, torch_device
from common.runs.scoring import describe
from common.skeletons import Skeleton, card, joint_order
from common.weights.caffe import read_blob
from common.weights.caffe_text import parse_text, read_text
from deeppose_caffe_port.config import HOUSE, PATCH_UNIT, STAGES, Config, settle
from deeppose_caffe_port.images import Pictures, Unread, as_picture, caffe_io_input, patch, read_picture, resize
from deeppose_caffe_port.model import TEST, CaffeNet
from deeppose_caffe_port.prototxts import project_files
from deeppose_caffe_port.random_stream import CaffeRandom
from deeppose_caffe_port.weight_files import as_packed, find_project, load_whole, missing_project, opened, pick_snapshot


class Regressor:
    """A deploy net with its weights and its mean image: pictures (h,w,3) uint8 BGR of any size -> outputs (N,K).
    `weights` None: random ones, without a project the preset's net. `folder` holds the prototxts and the mean."""

    def __init__(self, config: Config, stage: int, weights: Path | None, folder: Path | None = None):
        folder, name = folder or config.model_folder(stage), f"models/{STAGES[stage]}/deploy.prototxt"
        self.config, self.stage, deploy = config, stage, folder / "deploy.prototxt"
        made = weights is None and not deploy.exists()
        text = parse_text(project_files(config)[name], "NetParameter") if made else read_text(deploy, "NetParameter")
        self.net = CaffeNet(text, TEST, random=CaffeRandom(config.seed or 0))
        if weights is not None:
            load_whole(self.net, weights)
        self.input, self.output = next(iter(self.net.shapes)), self.net.outputs[-1]
        self.outputs, shape = self.net.shapes[self.output][-1], self.net.shapes[self.input][1:]
        if self.outputs != config.outputs(stage):
            wanted = f"stage {stage} of skeleton {config.joints.name} needs {config.outputs(stage)}"
            raise DataError(f"{text.name} has {self.outputs} outputs, {wanted}; check --dataset and --joint_outputs")
        mean = np.full(shape, 127, np.float32) if made else read_blob(folder / "train_mean.binaryproto")
        mean = mean.reshape(-1, *mean.shape[-2:])
        if mean.shape != shape:
            raise DataError(f"{folder / 'train_mean.binaryproto'} has shape {mean.shape}, {text.name} takes {shape}")
        self.channel_mean, self.side = mean.reshape(len(mean), -1).mean(1), shape[-1]
        trained = folder / "train_test.prototxt"
        layers = read_text(trained, "NetParameter").message.layer if trained.exists() else ()
        self.scale = next((layer.transform_param.scale for layer in layers if layer.type == "Data"), 1 / 256)
        self.device = torch_device(torch, config.device, config.threads)
        self.mean = torch.from_numpy(mean).to(self.device)
        place(torch, self.net, self.device, config.amp)

    def prepare(self, picture: np.ndarray) -> np.ndarray:
        """(3,S,S): uint8 in mode correct (the mean comes off on the device), finished float32 in mode compat."""
        if self.config.mode == "compat":
            return caffe_io_input(picture, self.side, self.channel_mean)
        return np.ascontiguousarray(resize(picture, self.side).transpose(2, 0, 1))

    @as_packed()
    @torch.inference_mode()
    def __call__(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        """(N,K) float64 outputs of N pictures, in batches of `batch_size` persons."""
        limit, results = self.config.batch_size * (len(self.config.joints) if self.stage > 1 else 1), []
        with ThreadPoolExecutor(max(self.config.workers or 1, 1)) as pool:
            for start in range(0, len(pictures), limit):
                batch = torch.from_numpy(np.stack(list(pool.map(self.prepare, pictures[start : start + limit]))))
                batch = batch.to(self.device, non_blocking=True)
                if batch.dtype == torch.uint8:
                    batch = (batch.float() - self.mean) * self.scale
                with autocast(torch, self.device, self.config.amp):
                    out = self.net({self.input: batch})[0][self.output]
                results.append(out.double().cpu().numpy())
                if not np.isfinite(results[-1]).all():
                    raise DataError(f"{self.net.file}: answers are not finite; the weights are damaged, or diverged")
        return np.concatenate(results) if results else np.zeros((0, self.outputs))

    def moves(self, pictures: Sequence[np.ndarray], joints: np.ndarray) -> np.ndarray:
        """What a later stage would move joints (N,J,2) by, in picture pixels, seen in patches around them."""
        side, count = self.config.sides(joints), joints.shape[1]
        patches = [patch(picture, center, s) for picture, points, s in zip(pictures, joints, side) for center in points]
        found = self(patches)
        if self.config.joint_outputs:  # of each patch those that belong to its joint
            found = found.reshape(-1, count, count, 2)[:, np.arange(count), np.arange(count)]
        return found.reshape(joints.shape) / PATCH_UNIT * side[:, None, None]


class Estimator:
    """A project's stages up to `stage` (default: all that it has weights of).

    `weights`: a project folder, a snapshot in one, or a `.caffemodel` of stage 1 with deploy.prototxt and
    train_mean.binaryproto beside it, whose joints are those of `dataset`; None: this house's newest project.
    `options` are settings (config.Config). DataError when files are missing or do not fit.
    """

    @as_packed()
    def __init__(self, weights: str | Path | None = None, *, stage: int | None = None, random_weights: bool = False,
                 **options):  # fmt: skip
        options, weights = {name: value for name, value in options.items() if value is not None}, opened(weights)
        project, file, folder = find_project(weights), Path(weights or ""), None
        options |= {"out": str(project)} if project else {}
        if file.is_file():
            number = next((s for s, name in STAGES.items() if file.absolute().parent.parent.name == name), 1)
            options[f"snapshot{number}"], stage = str(file), stage or number
        if file.is_file() and not project:
            places = (file.parent, file.parent.parent)
            folder = next((f for f in places if (f / "deploy.prototxt").is_file()), file.parent)
            known = record(options.get("dataset", "k2hpd")).skeleton
            options = {"preset": "paper", **options, "skeleton": card(known) if known else None}
        elif not project and not random_weights:
            raise missing_project()
        self.config = config = settle(options)
        last = stage
        if stage is None:
            trained = [s for s in STAGES if any((config.model_folder(s) / "snapshot").glob("*.caffemodel"))]
            last = max(STAGES) if random_weights else max(trained, default=1)
        if last not in STAGES:
            raise DataError(f"there is no stage {last}; give --stage 1, or 2 for both")
        self.files = [] if random_weights else [pick_snapshot(config, s) for s in range(1, last + 1)]
        every: list[Path | None] = [*self.files] or [None] * last
        self.regressors = [Regressor(config, s, file, folder) for s, file in enumerate(every, 1)]

    @property
    def skeleton(self) -> Skeleton:
        """Joints of the answers."""
        return self.config.joints

    @cached_property
    def meta(self) -> dict:
        """What a prediction file says about the network."""
        c, file = self.config, self.files[-1] if self.files else None
        boxes = "none (whole images)" if c.whole_images else "annotated (around the joints)"
        more = {"boxes": boxes, "flip_test": c.flip_test, "mode": c.mode, "preset": c.preset}
        return describe(HOUSE, STAGES[len(self.regressors)], file, {"amp": c.amp}, **more)

    def joints(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        """Joints (N,J,2), in pixels of prepared pictures (height,width,3) uint8 BGR, after all stages; with `flip_test`
        the middle of these and of the mirrored pictures'."""
        found = self._joints(pictures)
        if self.config.flip_test:
            mirrored = self._joints([picture[:, ::-1] for picture in pictures])[:, self.skeleton.mirror]
            width = self.config.size[0] - (self.config.mode == "correct")  # as `prepare.mirrored`
            found = (found + (width, 0) + mirrored * (-1, 1)) / 2
        return found

    def _joints(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        first, *later = self.regressors
        found = first(pictures).reshape(len(pictures), -1, 2) + np.array(self.config.size) / 2
        for regressor in later:
            found = found + regressor.moves(pictures, found)
        return found

    def predict(self, image: str | Path | np.ndarray, boxes: np.ndarray | None = None) -> People:
        """The persons of a picture: a path, (H,W,3) uint8 BGR, or a depth image (H,W), in `boxes` (n,4) x, y, w, h;
        None: the whole picture shows one person."""
        return self.predict_many([(image, boxes)])[0]

    def predict_many(self, views: Sequence[tuple]) -> list[People]:
        """As `predict` for each pair of a picture and its boxes, all persons together."""
        leave, given, matrices, seen = self.config.allow_16bit, [], [np.zeros((0, 2, 3))], []
        for image, boxes in views:
            picture = as_picture(image, "image", leave) if isinstance(image, np.ndarray) else read_picture(image, leave)
            height, width = picture.shape[:2]
            given.append((picture, checked_boxes(boxes, picture)))
            for box in given[-1][1]:
                m = self._view(box, (width, height))
                matrices.append(m[None])
                seen.append(picture if np.array_equal(m, np.eye(2, 3)) else warp(picture, m, self.config.size))
        joints = self.joints(seen) if seen else np.zeros((0, len(self.skeleton), 2))
        return People.by_picture(apply_affine(invert_affine(np.concatenate(matrices)), joints), None, given)

    def _view(self, box: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """(2,3) map from a picture of `size` (w, h) to what the network sees of a box: stretched or a padded square."""
        stretched = self.config.whole_images
        if np.array_equal(box, (0, 0, *size)):
            if stretched and size == self.config.size:
                return np.eye(2, 3)
            box = box - (0.5, 0.5, 0, 0)
        elif not stretched:
            box = pad_box(box, ratio=self.config.pad)
        side = box[2:] if stretched else max(box[2:].max(), 1.0)
        return crop_affine(box_center(box), side, self.config.size)

    def predict_pose_set(self, pose_set: PoseSet, shared_joints: bool = False) -> Predictions:
        """Predictions of all persons, in the data's skeleton, NaN where a picture cannot be read. DataError when its
        joints are others, unless `shared_joints`."""
        order = joint_order(self.skeleton, pose_set.skeleton, shared_joints)
        pictures, found, rows_unread, unread = Pictures(pose_set, self.config), [], [], Unread()

        def read(row: int) -> np.ndarray:
            with unread:
                return pictures.image(row)
            rows_unread.append(row)
            return np.zeros((*self.config.size[::-1], 3), np.uint8)

        starts = range(0, len(pictures), self.config.batch_size)
        with ThreadPoolExecutor(max(self.config.workers or 1, 1)) as pool:
            for start in tqdm(starts, "predict", disable=not sys.stderr.isatty(), dynamic_ncols=True):
                rows = range(start, min(start + self.config.batch_size, len(pictures)))
                back = invert_affine(np.stack([pictures.matrix(row) for row in rows]))
                found.append(apply_affine(back, self.joints(list(pool.map(read, rows)))))
        unread.report(len(pictures))
        joints = np.concatenate(found) if found else np.zeros((0, len(self.skeleton), 2))
        joints = np.where(order[:, None] >= 0, joints[:, order], np.nan)
        joints[rows_unread] = np.nan
        score = np.where(np.isfinite(joints).all(-1), 1.0, 0.0)
        return predictions_for(pose_set, joints, score, meta=self.meta)
