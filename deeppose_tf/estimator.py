"""A trained network as an `Estimator`: joints of persons in pictures, of the persons of a data set, and DT's figures
for these.

from deeppose_tf import Estimator
people = Estimator("best.npz").predict("photo.jpg", [[40, 20, 180, 360]])     # people.joints: (1, J, 2) pixels

A box is the crop that the network sees. It was trained on the joints' own box with some margin: give boxes with a like
margin.
"""

from __future__ import annotations

import os
from contextlib import nullcontext, suppress
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from common.errors import DataError
from common.poses import PoseSet
from common.predictions import People, Predictions, predictions_for
from common.runs import scoring, shelf
from common.runs.process import Process
from common.runs.settings import resolve
from common.skeletons import Skeleton, from_card, joint_order
from deeppose_tf import weight_files
from deeppose_tf.config import CSV_SKELETONS, HOUSE, IM_SIZE, OUTPUT_LIMIT, Config, multiplier_of, presets
from deeppose_tf.data import Crops, Persons, pixel_box, to_stored, unproject
from deeppose_tf.report import Evaluation, spread

TRAINED = "trained"  # an extension or height: as the network was trained


class Estimator:
    """A network and what it answers. `weights`: see `weight_files.find`; `mode` that of crops (default: the
    checkpoint's).

    `random_weights`: fresh ones instead of the file's, or without any file those of the paper's network.
    `shared_joints`: score and predict persons of another skeleton by the joints that both have by name. DataError when
    the file is missing, foreign or does not fit.
    """

    def __init__(self, weights: str | Path | None = None, *, mode: str | None = None, random_weights: bool = False,
                 shared_joints: bool = False, device: str | None = None, threads: int = 0, batch_size: int = 128):  # fmt: skip
        place = weight_files.find(weights)
        self._variables: dict[str, np.ndarray] = {}
        if place:
            self._variables, config, self.skeleton, self.step = read_network(place, mode)
        elif random_weights:
            config = resolve(Config, presets()["paper"], {"mode": mode or "correct"})
            self.skeleton, self.step = CSV_SKELETONS["lsp"], 0
        else:
            raise shelf.missing_weights(HOUSE, (weight_files.SUFFIX,))
        self.place, self.config = None if random_weights else place, replace(config, batch_size=batch_size)
        self.shared_joints, self._device_name, self._threads = shared_joints, device, threads

    @classmethod
    def of(cls, model, config: Config, skeleton: Skeleton, process: Process | None = None) -> Estimator:
        """Around the network of a training, in each of its processes."""
        self = cls.__new__(cls)
        self.config = replace(config, batch_size=min(config.batch_size, 128))
        self.model, self.skeleton, self.step, self.place, self.shared_joints = model, skeleton, 0, None, False
        self._device_name = None
        return self

    @cached_property
    def model(self):
        """The network, which is built, and its framework imported, when it is first used."""
        set_up(self._threads)
        from deeppose_tf.model import network_for

        with self._device():
            model = network_for(replace(self.config, amp="off"), len(self.skeleton))
            if self.place:
                fill(model, self._variables, str(self.place))
        return model

    @cached_property
    def _call(self):
        return forward(self.model)

    @cached_property
    def _device(self):
        return _keras_device(self._device_name)

    @cached_property
    def _persons(self) -> dict[tuple, tuple[PoseSet, Persons]]:
        return {}

    @property
    def meta(self) -> dict:
        """What a prediction file says about the network."""
        import keras

        model = "alexnet_imagenet" if self.config.weights else "alexnet_scratch"
        about = {
            "mode": self.config.mode,
            "seed": self.config.seed,
            "backend": keras.backend.backend(),
            "step": self.step,
        }
        return scoring.describe(HOUSE, model, self.place, asdict(self.config), flip_test=False, **about)

    @property
    def extension(self) -> float | None:
        """By which the annotated joints' box is extended for scoring: the largest of training (DT)."""
        return self.config.bbox_extension_max if self.config.extension else None

    def predict(self, image, boxes=None) -> People:
        """The persons in `boxes` (n,4) x, y, w, h of a picture: a path, or (H,W,3) uint8 BGR; None: one person, who
        fills it.

        The network states no confidence: scores are 1. DataError for boxes that do not touch the picture.
        """
        import cv2

        if isinstance(image, (str, Path)):
            from common.images import read_image

            image = read_image(image, whole=True, upright=True)
        height, width = image.shape[:2]
        boxes = np.array([[0, 0, width, height]] if boxes is None else boxes, float).reshape(-1, 4)
        if not len(boxes):
            return People.of(np.zeros((0, len(self.skeleton), 2)), box=boxes)
        mode, size = self.config.mode, np.array([width, height])
        touch = np.isfinite(boxes).all(1) & (boxes[:, 2:] > 0).all(1)
        touch &= ((boxes[:, :2] < size) & (boxes[:, :2] + boxes[:, 2:] > 0)).all(1)
        if not touch.all():
            where = f"box {boxes[~touch][0].tolist()} does not touch the picture of {width} x {height} pixels"
            raise DataError(f"{where}; give x,y,w,h in its pixels")
        cut = np.array([pixel_box(box, size, mode) for box in boxes])
        crops = np.stack([cv2.resize(image[y : y + h, x : x + w], (IM_SIZE, IM_SIZE)) for x, y, w, h in cut])
        return People.of(to_picture(self.shares(crops), cut, np.ones(len(cut)), mode), box=boxes)

    def predict_pose_set(self, pose_set: PoseSet) -> Predictions:
        """The persons of a data set in its skeleton, from crops around their annotated joints."""
        return self.evaluate(pose_set)[1]

    def evaluate(self, pose_set: PoseSet, extension=TRAINED, height=TRAINED) -> tuple[Evaluation, Predictions]:
        """DT's figures and the predictions; who cannot be cropped is NaN. Crops are the annotated joints' box x
        `extension` (None: 1), in pictures reduced to `height` (None: not reduced).

        Mode correct compares with the annotation; compat, as DT does, in the reduced pictures with the truth as it was
        cut for the network.
        """
        config, mode = self.config, self.config.mode
        extension = self.extension if extension == TRAINED else extension
        own = self._in_own_joints(pose_set)
        persons = self._usable(own, pose_set, config.height if height == TRAINED else height)
        crops = Crops.for_scoring(mode, extension)
        shares, targets, valid, boxes = self._pass(persons, crops)
        joints = to_picture(shares, boxes, persons.factor, mode)
        if mode == "compat":
            truth = unproject(targets, boxes, mode)
            compared = unproject(np.clip(shares, -OUTPUT_LIMIT, OUTPUT_LIMIT), boxes, mode)
        else:
            truth, compared = own.joints[persons.rows], joints
        error = (np.square(shares - targets) * valid[..., None]).sum((1, 2)) / np.maximum(valid.sum(1), 1)
        varied = spread(shares, targets, valid)
        figures = Evaluation(truth, compared, valid, float(error.mean()), varied, self.skeleton)
        return figures, self._predictions(pose_set, persons, joints, boxes, extension)

    def _usable(self, own: PoseSet, pose_set: PoseSet, height: int | None) -> Persons:
        """Kept, because a training scores the same persons again and again, val.py at several extensions."""
        key = (id(pose_set), height)
        if key not in self._persons:
            persons = Persons(own, self.config.mode, height=height, cache_mb=self.config.cache_mb)
            if persons.dropped:
                print(f"left out of {own.root}: {persons.dropped_text()}")
            self._persons[key] = pose_set, persons
        return self._persons[key][1]

    def _pass(self, persons: Persons, crops: Crops) -> tuple[np.ndarray, ...]:
        from deeppose_tf.loader import in_order

        rows: list[tuple[np.ndarray, ...]] = []
        for images, *rest in in_order(persons, crops, self.config.batch_size):
            rows.append((self.shares(images), *rest))
        return tuple(np.concatenate(column) for column in zip(*rows))

    def shares(self, crops: np.ndarray) -> np.ndarray:
        """The network's (n,J,2) outputs, shares of crops (n,227,227,3) uint8 BGR."""
        call = self._call
        with self._device():
            return call(crops)

    def _in_own_joints(self, pose_set: PoseSet) -> PoseSet:
        """The persons in the network's skeleton, by joint name."""
        order = joint_order(self.skeleton, pose_set.skeleton, self.shared_joints)
        if pose_set.skeleton.joints == self.skeleton.joints:
            return pose_set
        joints, known = np.full((len(pose_set), len(self.skeleton), 2), np.nan), order >= 0
        visible = np.zeros(joints.shape[:2], np.int8)
        joints[:, order[known]], visible[:, order[known]] = pose_set.joints[:, known], pose_set.visible[:, known]
        return replace(pose_set, skeleton=self.skeleton, joints=joints, visible=visible)

    def _predictions(self, pose_set: PoseSet, persons: Persons, joints: np.ndarray, boxes: np.ndarray, extension):
        found = np.full((len(pose_set), len(pose_set.skeleton), 2), np.nan, np.float32)
        order = joint_order(self.skeleton, pose_set.skeleton, self.shared_joints)
        found[np.ix_(persons.rows, order >= 0)] = joints[:, order[order >= 0]]
        cut = np.full((len(pose_set), 4), np.nan)
        cut[persons.rows] = boxes * persons.factor[:, None]
        meta = {**self.meta, "boxes": f"oracle (tight box of the annotated joints x {extension or 1})"}
        if len(pose_set) > len(persons):
            meta["missing_rows"] = len(pose_set) - len(persons)
        return predictions_for(pose_set, found, np.isfinite(found[..., 0]).astype(np.float32), meta, box=cut)


def to_picture(shares: np.ndarray, boxes: np.ndarray, factor: np.ndarray, mode: str) -> np.ndarray:
    """(n,J,2) network outputs of crops (n,4) -> pixels of the stored pictures, which were reduced by `factor` (n,);
    compat cuts outputs first."""
    if mode == "compat":
        shares = np.clip(shares, -OUTPUT_LIMIT, OUTPUT_LIMIT)
    return to_stored(unproject(shares, boxes, mode).astype(np.float64), factor, mode).astype(np.float32)


def read_network(place: Path, mode: str | None = None) -> tuple[dict, Config, Skeleton, int]:
    """(variables, settings, skeleton, step) of a trained network. Files that hold no settings get those of DT's
    examples, in mode compat; files that hold no joint names the joints of LSP (14) or MPII (16), in DT's order.

    DataError when it has no joints, so many as neither, or when a checkpoint of ours has another `mode`.
    """
    state = weight_files.load_state(place) if place.suffix == weight_files.SUFFIX else None
    variables = weight_files.variables_of(state) if state else weight_files.read_weights(place)
    if "fc_regression/bias" not in variables or "fc7/bias" not in variables:
        why = "it regresses no joints (ImageNet weights?); give a trained network, or train from it"
        raise DataError(f"{place} has no fc_regression: {why}")
    step = int(variables.get("global_iter_counter", 0))
    if state:
        if "about" not in state:
            raise DataError(f"{place} was written by this project's first form, which held no joint names; train again")
        config = resolve(Config, {k: v for k, v in state["config"].items() if k in Config.__dataclass_fields__})
        if mode not in (None, config.mode):
            raise DataError(f"{place} was trained in mode {config.mode}, not {mode}; leave --mode out")
        return variables, config, from_card(state["about"]["skeleton"], f"{place}: field about.skeleton"), step
    joints = len(variables["fc_regression/bias"]) // 2
    dataset = next((name for name, skeleton in CSV_SKELETONS.items() if len(skeleton) == joints), None)
    if dataset is None:
        raise DataError(f"{place} regresses {joints} joints and does not name them; known are 14 (lsp) and 16 (mpii)")
    channels = multiplier_of(len(variables["fc7/bias"]))
    config = Config(dataset, gcn=True, channels=channels, bbox_extension_min=1.2, bbox_extension_max=1.2)
    return variables, replace(config, mode=mode or "compat"), CSV_SKELETONS[dataset], step


def fill(model, variables: dict[str, np.ndarray], source: str) -> None:
    """Give a network all of its weights. DataError when one is missing or has another shape."""
    from deeppose_tf.model import get_weights, set_weights

    chosen, missing, mismatched = weight_files.fit(variables, get_weights(model))
    problems = missing + mismatched
    if problems:
        shown = ", ".join(problems[:3]) + (" ..." if len(problems) > 3 else "")
        raise DataError(f"{source} does not fit this network: {shown}; use its own settings (--channels, --dataset)")
    set_weights(model, chosen)


def forward(model):
    """The network without dropout as a function of (N,227,227,3) that returns (N,J,2) float32 NumPy arrays, compiled
    where that can be."""
    import keras

    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        call = tf.function(lambda images: model(images, training=False), reduce_retracing=True)
    else:
        call = model.predict_on_batch

    def run(images: np.ndarray) -> np.ndarray:
        shares = keras.ops.convert_to_numpy(call(images)).astype(np.float32)
        return shares.reshape(len(shares), -1, 2)

    return run


def set_up(threads: int) -> None:
    """Quiet frameworks, and so many of TensorFlow's threads where they are not running yet."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import keras

    if threads and keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        with suppress(RuntimeError):
            tf.config.threading.set_intra_op_parallelism_threads(threads)
            tf.config.threading.set_inter_op_parallelism_threads(max(1, threads // 2))


def _keras_device(device: str | None):
    """A function that returns the context of a device's tensors; the backend's choice for None."""
    import keras

    if device is None:
        return nullcontext
    kind, _, number = device.partition(":")
    if kind not in ("cpu", "cuda") or number and not number.isdigit():
        raise DataError(f"--device {device} is not one device; write cpu, cuda or cuda:N")
    gpu = "cuda" if keras.backend.backend() == "torch" else "gpu"
    return lambda: keras.device("cpu:0" if kind == "cpu" else f"{gpu}:{number or 0}")
