"""A trained network as an `Estimator`: joints in pictures, of the persons of a data set, and DT's figures for these.

from deeppose_tf import Estimator
people = Estimator("best.npz").predict("photo.jpg", [[40, 20, 180, 360]])     # people.joints: (1, J, 2) pixels

A box is the crop that the network sees: give boxes with a margin like that of training.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from common.errors import DataError, DataWarning, named
from common.geometry import checked_boxes, touching
from common.poses import PoseSet
from common.predictions import People, Predictions, predictions_for
from common.runs import scoring, shelf
from common.runs.converting import check_numbers
from common.runs.process import Process, keras_devices
from common.runs.settings import resolve
from common.skeletons import Skeleton, from_card, joint_order
from deeppose_tf import weight_files
from deeppose_tf.config import CSV_SKELETONS, HOUSE, IM_SIZE, OUTPUT_LIMIT, Config, multiplier_of, presets
from deeppose_tf.data import Crops, Persons, half_pixel, names_of, pixel_box, unproject
from deeppose_tf.report import Evaluation


class Estimator:
    """A network and what it answers. `weights`: see `weight_files.find`; `mode` of crops: the checkpoint's by default.

    `random_weights`: fresh ones instead of the file's, or of the paper's network. `shared_joints`: persons of another
    skeleton pass by the joints that both have by name. DataError when the file is missing, foreign or does not fit.
    """

    def __init__(self, weights: str | Path | None = None, *, mode: str | None = None, random_weights=False,
                 shared_joints=False, flip_test: bool | None = None, amp: str = "off", device: str | None = None,
                 threads: int = 0, batch_size: int = 128):  # fmt: skip
        place = weight_files.find(weights)
        self._variables: dict[str, np.ndarray] = {}
        if place:
            self._variables, config, self.skeleton, self.step = read_network(place, mode)
        elif random_weights:
            config = resolve(Config, presets()["paper"], {"mode": mode or "correct"})
            self.skeleton, self.step = CSV_SKELETONS["lsp"], 0
        else:
            raise shelf.missing_weights(HOUSE, (weight_files.SUFFIX,))
        flip = config.flip_test if flip_test is None else flip_test
        self.place = None if random_weights else place
        self.config = replace(config, batch_size=batch_size, flip_test=flip, amp=amp).checked()
        self.shared_joints, self._device, self._threads = shared_joints, device, threads

    @classmethod
    def of(cls, model, config: Config, skeleton: Skeleton, process: Process | None = None) -> Estimator:
        """Around the network of a training, in each of its processes."""
        self = cls.__new__(cls)
        self.config = replace(config, batch_size=min(config.batch_size, 128))
        self.model, self.skeleton, self.step, self.place, self.shared_joints = model, skeleton, 0, None, False
        return self

    @cached_property
    def model(self):
        """The network, which is built, and its framework imported, when it is first used."""
        keras_devices(self._device, self._threads)
        from deeppose_tf.model import network_for

        model = network_for(self.config, len(self.skeleton))
        if self.place:
            fill(model, self._variables, str(self.place))
        return model

    @cached_property
    def _call(self):
        return forward(self.model)

    @property
    def meta(self) -> dict:
        """What a prediction file says about the network."""
        import keras

        config = self.config
        about = {"mode": config.mode, "seed": config.seed, "backend": keras.backend.backend(), "step": self.step}
        model = "alexnet_imagenet" if config.weights else "alexnet_scratch"
        model += "" if self.place or self.step else "_step0"  # untrained
        return scoring.describe(HOUSE, model, self.place, asdict(config), flip_test=config.flip_test, **about)

    @property
    def extension(self) -> float:
        """By which the annotated joints' box is extended for scoring: the largest of training (DT)."""
        return self.config.extension[1] if self.config.extension else 1.0

    def predict(self, image, boxes=None) -> People:
        """The persons in `boxes` (n,4) x, y, w, h (None: one, who fills it) of a picture, path or (H,W,3) uint8 BGR.

        The network states no confidence: scores are 1. A person whose box does not touch the picture is not found.
        DataError for boxes that are none.
        """
        return self.predict_many([(image, boxes)])[0]

    def predict_many(self, views: Sequence[tuple]) -> list[People]:
        """As `predict` for each pair of a picture and its boxes, all persons together."""
        import cv2

        from common.images import picture_of

        given, touch, cut, crops = [], [], [], []
        for image, boxes in views:
            image = picture_of(image)
            height, width = image.shape[:2]
            given.append((image, checked_boxes(boxes, image)))
            touch.append(touching(given[-1][1], width, height))
            for box in given[-1][1][touch[-1]]:
                x, y, w, h = part = pixel_box(box, np.array([width, height]), self.config.mode)
                cut.append(part)
                crops.append(cv2.resize(image[y : y + h, x : x + w], (IM_SIZE, IM_SIZE)))
        touched = np.concatenate([np.zeros(0, bool), *touch])
        joints = np.full((len(touched), len(self.skeleton), 2), np.nan)
        if cut:
            shares, places = self.shares(np.stack(crops)), np.array(cut)
            joints[touched] = to_picture(shares, places, np.ones(len(cut)), self.config.mode)
        return People.by_picture(joints, None, given)

    def predict_pose_set(self, pose_set: PoseSet) -> Predictions:
        """The persons of a data set in its skeleton, from crops around their annotated joints."""
        return self.evaluate(pose_set)[1]

    def evaluate(self, pose_set: PoseSet, extension=None, height: int | None = None) -> tuple[Evaluation, Predictions]:
        """DT's figures and the predictions; who cannot be cropped is NaN, said on standard error. Crops are the
        annotated joints' box x `extension`, in pictures reduced to `height` (0: as they are); None: as in training.

        Mode correct compares with the annotation; compat, as DT does, in the reduced pictures with the truth as it was
        cut for the network.
        """
        mode, extension = self.config.mode, extension or self.extension
        order = joint_order(self.skeleton, pose_set.skeleton, self.shared_joints)
        own = self._in_own_joints(pose_set, order)
        persons = Persons(own, mode, height=self.config.height if height is None else height)
        if persons.left_out:
            warnings.warn(f"left out of {own.root}: {persons.left_out}", DataWarning, stacklevel=2)
        shares, targets, valid, boxes, which = self._pass(persons, Crops(mode, (extension, extension)))
        rows, factor = persons.rows[which], persons.factor[which]
        joints = to_picture(shares, boxes, factor, mode)
        if mode == "compat":
            truth = unproject(targets, boxes, mode)
            compared = unproject(np.clip(shares, -OUTPUT_LIMIT, OUTPUT_LIMIT), boxes, mode)
        else:
            truth, compared = own.joints[rows], joints
        error = (np.square(shares - targets) * valid[..., None]).sum((1, 2)) / np.maximum(valid.sum(1), 1)
        figures = Evaluation(truth, compared, valid, float(error.mean()), self.skeleton)

        found = np.full((len(pose_set), len(pose_set.skeleton), 2), np.nan, np.float32)
        found[np.ix_(rows, order >= 0)] = joints[:, order[order >= 0]]
        cut = np.full((len(pose_set), 4), np.nan)
        cut[rows] = boxes * factor[:, None]
        meta = {**self.meta, "boxes": f"oracle (tight box of the annotated joints x {extension})"}
        meta |= {"missing_rows": len(pose_set) - len(rows)} if len(pose_set) > len(rows) else {}
        score = np.isfinite(found[..., 0]).astype(np.float32)
        return figures, predictions_for(pose_set, found, score, meta, box=cut)

    def _pass(self, persons: Persons, crops: Crops) -> tuple[np.ndarray, ...]:
        """Outputs, targets, validity, crop boxes, and which persons these are: those whose pictures can be read."""
        from deeppose_tf.loader import in_order

        rows = [(self.shares(images), *rest) for images, *rest in in_order(persons, crops, self.config.batch_size)]
        if not rows:
            raise DataError(f"not one picture can be read: {names_of(persons.paths)}")
        columns = tuple(np.concatenate(column) for column in zip(*rows))
        unread = [persons.paths[row] for row in np.delete(persons.rows, columns[-1])]
        if unread:
            text = f"{len(unread)} persons are in pictures that cannot be read: {names_of(unread)}"
            warnings.warn(text, DataWarning, stacklevel=3)
        return columns

    def shares(self, crops: np.ndarray) -> np.ndarray:
        """The network's (n,J,2) outputs, shares of crops (n,227,227,3) uint8 BGR; with `flip_test` the middle of these
        and of the mirrored crops'. DataError when one is not finite."""
        found = self._call(crops)
        if self.config.flip_test:
            axis = 0.0 if self.config.mode == "correct" else 1 / IM_SIZE  # as `mirror_targets`
            mirrored = self._call(crops[:, :, ::-1])[:, self.skeleton.mirror]
            found = (found + mirrored * np.float32([-1, 1]) - np.float32([axis, 0])) / 2
        if not np.isfinite(found).all():  # of a file, or of a training
            raise (DataError if self.place else FloatingPointError)(f"{self.place or 'the network'} answers NaN")
        return found

    def _in_own_joints(self, pose_set: PoseSet, order: np.ndarray) -> PoseSet:
        """The persons in the network's skeleton; `order`: the place there of each of their joints, -1 for none."""
        if pose_set.skeleton.joints == self.skeleton.joints:
            return pose_set
        joints, known = np.full((len(pose_set), len(self.skeleton), 2), np.nan), order >= 0
        visible = np.zeros(joints.shape[:2], np.int8)
        joints[:, order[known]], visible[:, order[known]] = pose_set.joints[:, known], pose_set.visible[:, known]
        return replace(pose_set, skeleton=self.skeleton, joints=joints, visible=visible)


def to_picture(shares: np.ndarray, boxes: np.ndarray, factor: np.ndarray, mode: str) -> np.ndarray:
    """(n,J,2) outputs for crops (n,4) -> pixels of the pictures, reduced by `factor` (n,); compat cuts them first."""
    if mode == "compat":
        shares = np.clip(shares, -OUTPUT_LIMIT, OUTPUT_LIMIT)
    pixels, shift = unproject(shares, boxes, mode).astype(np.float64), half_pixel(mode)
    return ((pixels + shift) * factor[:, None, None] - shift).astype(np.float32)


def read_network(place: Path, mode: str | None = None) -> tuple[dict, Config, Skeleton, int]:
    """(variables, settings, skeleton, step) of a trained network. Files that hold no settings get those of DT's
    examples, in mode compat; files that hold no joint names the joints of LSP (14) or MPII (16), in DT's order.

    DataError when it has no joints, so many as neither, or when a checkpoint of ours has another `mode`.
    """
    state = weight_files.load_state(place)
    variables, about = weight_files.variables_of(state), state["about"]
    if "fc_regression/bias" not in variables or "fc7/bias" not in variables:
        why = "it regresses no joints (ImageNet weights?); give a trained network, or train from it"
        raise DataError(f"{place} has no fc_regression: {why}")
    if about:
        with named(place):
            config = resolve(Config, {k: v for k, v in state["config"].items() if k in Config.__dataclass_fields__})
        if mode not in (None, config.mode):
            raise DataError(f"{place} was trained in mode {config.mode}, not {mode}; leave --mode out")
        return variables, config, from_card(about.get("skeleton"), f"{place}: field about.skeleton"), state["step"]
    joints = len(variables["fc_regression/bias"]) // 2
    dataset = next((name for name, skeleton in CSV_SKELETONS.items() if len(skeleton) == joints), None)
    if dataset is None:
        raise DataError(f"{place} regresses {joints} joints and does not name them; known are 14 (lsp) and 16 (mpii)")
    channels = multiplier_of(len(variables["fc7/bias"]))
    norm = "batch" if "conv1_bn/scale" in variables else "lrn"
    config = Config(dataset, gcn=True, norm=norm, channels=channels, bbox_extension_min=1.2, bbox_extension_max=1.2)
    return variables, replace(config, mode=mode or "compat"), CSV_SKELETONS[dataset], state["step"]


def fill(model, variables: dict[str, np.ndarray], source: str) -> None:
    """Give a network all of its weights. DataError when one is missing or has another shape."""
    from deeppose_tf.model import get_weights, set_weights

    chosen, missing, mismatched = weight_files.fitting(variables, get_weights(model))
    check_numbers(chosen, source)
    problems = missing + mismatched
    if problems:
        shown = names_of(problems, 3)
        raise DataError(f"{source} does not fit this network: {shown}; use its own settings (--channels, --dataset)")
    set_weights(model, chosen)


def forward(model):
    """The network without dropout as a function (N,227,227,3) -> (N,J,2) float32, compiled where that can be."""
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
