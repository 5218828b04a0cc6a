"""A trained network for pictures: everything that predicts, scores or checks goes through `Estimator`."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from common.errors import DataError
from common.images import read_image
from common.poses import PoseSet, box_of_joints
from common.predictions import People, Predictions, predictions_for
from common.runs.process import device_numbers
from common.runs.scoring import describe
from common.skeletons import Skeleton, from_card, joint_order, skeleton_map
from deepercut_tf.config import Config, house_path, make_config, require
from deepercut_tf.data import resize
from deepercut_tf.detections import Maps, argmax_pose, detect, unpack_maps
from deepercut_tf.items import Item, items_of
from deepercut_tf.joints import SCORED_AS, skeleton_of_settings, with_joints
from deepercut_tf.pair_statistics import PairStatistics, load_statistics
from deepercut_tf.pairwise import assemble, load_spatial_model, solve_detections
from deepercut_tf.weight_files import find_snapshot, read_weights

# what a network was trained to answer; settings that say otherwise do not fit its weights
MEANING = ("net_type", "num_joints", "location_refinement", "pairwise_predict", "locref_stdev", "channels")
MARGIN = 0.15  # of the longer side, seen around a box
PEOPLE = ("auto", "one", "all")


class Estimator:
    """Joints of one person, or of all, in a picture.

        from deepercut_tf import Estimator
        people = Estimator("output/deepercut_tf/smoke").predict("photo.jpg")

    `weights`: as `weight_files.find_snapshot`. `options`: settings by their keys (`config.Config`), above those that
    the weights bring; the originals' weights bring none, give those of their pose_cfg.yaml: `Estimator(weights,
    **load_config("demo"))`. `people`: `one`, `all` (needs pairwise terms), `auto`: all where the settings have what it
    takes. `random_weights`: fresh ones instead (a baseline). `skeleton` of the network, where neither weights nor
    settings say it.

    DataError when weights are missing or of another network than the options, or a file of the pairwise terms is
    missing.
    """

    def __init__(self, weights: str | Path | None = None, *, people: str = "auto", random_weights: bool = False,
                 skeleton: Skeleton | None = None, device: str | None = None, threads: int | None = None, **options):  # fmt: skip
        use_device(device, threads)
        given = weights or options.get("weights") or options.get("init_weights")
        self.path = None if random_weights else find_snapshot(given)
        values, stored = ({}, {}) if self.path is None else read_weights(self.path)
        self.about = stored.get("about", {})
        config = make_config(stored.get("config", {}), options, source=self.path or "settings")
        _check_meaning(config, stored.get("config", {}), self.path)
        skeleton = skeleton_of_weights(stored, config, self.path) if stored or skeleton is None else skeleton
        self._set_up(with_joints(config, skeleton), skeleton, people)
        model = fresh_model(self.config)
        if self.path is not None:
            from deepercut_tf.model import load_variables

            load_variables(model, values, str(self.path))
        self._network = Predictor(model, self.config, self.statistics)

    @classmethod
    def of(cls, model, config: Config, skeleton: Skeleton, people: str = "one") -> Estimator:
        """Around a network that is being trained."""
        made = cls.__new__(cls)
        made.path, made.about = None, {}
        made._set_up(config, skeleton, people)
        made._network = Predictor(model, config, made.statistics)
        return made

    def _set_up(self, config: Config, skeleton: Skeleton, people: str) -> None:
        if people not in PEOPLE:
            raise DataError(f"people is {people!r}; choose {', '.join(PEOPLE)}")
        self.config, self.skeleton = config, skeleton
        self.statistics: PairStatistics | None = None
        self.spatial = None
        terms = config.pairwise_predict and config.pairwise_model_dir
        self.together = bool(terms) if people == "auto" else people == "all"
        if config.pairwise_predict:
            path, joints = house_path(config.pairwise_stats_fn), len(skeleton)
            self.statistics = load_statistics(path, joints, config.global_scale, config.tensorflow_pairwise_order)
        if not self.together:
            return
        if not config.pairwise_predict:
            raise DataError("several persons need a network with pairwise_predict: true; see --people one")
        require(config, "pairwise_model_dir", why="finding several persons")
        folder = house_path(config.pairwise_model_dir or "")
        self.spatial = load_spatial_model(folder, len(skeleton), config.sparse_graph)

    @property
    def meta(self) -> dict:
        """What a prediction file says about the network."""
        config = self.config
        more = {"mode": config.mode, "flip_test": False, "seed": config.seed, "preset": Path(config.out or "").name}
        return describe("deepercut_tf", config.net_type, self.path, asdict(config), **more)

    # ---- pictures ----------------------------------------------------------------------------------------------------

    def predict(self, image: str | Path | np.ndarray, boxes: np.ndarray | None = None) -> People:
        """The persons of a picture, a path or (H,W,3) uint8 BGR: one in each of `boxes` (n,4) x, y, w, h, which is
        looked at by itself at its own size; without boxes all persons, the surest first, or the one of the whole
        picture. Coordinates are the picture's.
        """
        bgr = read_image(image, whole=True, upright=True) if isinstance(image, (str, Path)) else image
        rgb = np.ascontiguousarray(bgr[..., ::-1])
        if boxes is not None:
            poses = np.array([self._in_box(rgb, box) for box in boxes]).reshape(-1, len(self.skeleton), 3)
            return People.of(poses[..., :2], poses[..., 2], boxes)
        if self.together:
            return self.people_of(*self.maps(rgb))
        pose = self.single(rgb)
        return People.of(pose[None, :, :2], pose[None, :, 2], [[0, 0, rgb.shape[1], rgb.shape[0]]])

    def maps(self, image: np.ndarray) -> tuple[Maps, float]:
        """Maps of an (H,W,3) RGB picture and the scale that their pixels have to its own; averaged over
        `test_scales`."""
        first, *others = (self.config.global_scale * scale for scale in self.config.test_scales)
        maps = self._network.maps(resize(image, first))
        if not others:
            return maps, first
        shape = maps.score.shape[0], maps.score.shape[1]
        every = [maps, *(resample(self._network.maps(resize(image, s)), shape, s / first) for s in others)]
        offsets = [m.pairwise for m in every if m.pairwise is not None]
        pairwise = np.mean(offsets, axis=0) if offsets else None
        return Maps(
            np.mean([m.score for m in every], axis=0), np.mean([m.locref for m in every], axis=0), pairwise
        ), first

    def single(self, image: np.ndarray) -> np.ndarray:
        """(J,3) rows x, y, probability: the best cell of each joint in an (H,W,3) RGB picture."""
        maps, scale = self.maps(image)
        pose = argmax_pose(maps)
        pose[:, :2] /= scale
        return pose

    def people_of(self, maps: Maps, scale: float) -> People:
        """All persons in a picture's maps at `scale`. Their score: mean of the joints found times their share."""
        config, joints = self.config, len(self.skeleton)
        assert self.spatial is not None
        found = detect(maps, config.nms_radius, config.det_min_score)
        labels = solve_detections(found, joints, self.spatial, config.sparse_graph)
        places, score = assemble(found, labels, joints, config.mode)
        count = (score > 0).sum(1)
        if config.mode == "correct":
            keep = count >= min(config.min_person_joints, joints)
            places, score, count = places[keep], score[keep], count[keep]
        person_score = score.sum(1) / np.maximum(count, 1) * count / max(joints, 1)
        order = np.argsort(-person_score, kind="stable")
        return People.of(places[order] / scale, score[order], person_score=person_score[order])

    def _in_box(self, image: np.ndarray, box: np.ndarray) -> np.ndarray:
        """(J,3) the one person of the part of the picture around a box; NaN where the box lies outside."""
        x, y, w, h = (float(v) for v in box)
        grow = MARGIN * max(w, h)
        left, top = max(int(x - grow), 0), max(int(y - grow), 0)
        right, bottom = max(int(np.ceil(x + w + grow)), left + 16), max(int(np.ceil(y + h + grow)), top + 16)
        part = image[top:bottom, left:right]
        if not part.size:
            return np.full((len(self.skeleton), 3), np.nan)
        return self.single(np.ascontiguousarray(part)) + np.array([left, top, 0])

    # ---- data sets ---------------------------------------------------------------------------------------------------

    def predict_pose_set(self, pose_set: PoseSet, boxes: str | Callable = "whole", shared_joints=False) -> Predictions:
        """Predictions in the PoseSet's skeleton, by joint name. `boxes` `whole`: all persons of every picture, or its
        one person in every row; `annotated`: one person in each row's box; a `common.boxes.Boxes`: one person in each
        box that it has for a picture. A picture that cannot be read is warned of and has no answer.

        DataError for another skeleton, unless `shared_joints` are enough.
        """
        by_image = callable(boxes) or (self.together and boxes == "whole")
        items = [item for item in items_of(pose_set, pose_set.skeleton).items if item.rows or by_image]
        people = [self._look(item, pose_set, boxes) for item in _bar(items)]
        how = {"whole": "none", "annotated": "oracle (annotated boxes)"}.get(str(boxes), "detections")
        meta = self.meta | {"boxes": how, "synthetic": pose_set.synthetic}
        if by_image:
            return self._by_image(pose_set, items, people, meta | {"final": True}, shared_joints)
        joints = np.full((len(pose_set), len(self.skeleton), 2), np.nan)
        score = np.zeros(joints.shape[:2])
        for item, found in zip(items, people):
            if len(found):
                joints[list(item.rows)], score[list(item.rows)] = found.joints, np.nan_to_num(found.score)
        joints, score = self._as_annotated(joints, score, pose_set.skeleton, shared_joints)
        return predictions_for(pose_set, joints, score, meta)

    def _look(self, item: Item, pose_set: PoseSet, boxes: str | Callable) -> People:
        try:
            image = read_image(item.image)
        except DataError as error:
            warnings.warn(f"left out: {error}", stacklevel=2)
            return People.of(np.zeros((0, len(self.skeleton), 2)))
        if not callable(boxes):
            return self.predict(image, pose_set.box[list(item.rows)] if boxes == "annotated" else None)
        places, sure = boxes(Path(item.image).name, image.shape[1::-1])
        people = self.predict(image, places)
        return replace(people, person_score=(people.person_score * sure).astype(np.float32))

    def _by_image(self, pose_set: PoseSet, items, people: list[People], meta: dict, shared_joints: bool) -> Predictions:
        """Any number of persons a picture."""
        people = [People.of(np.zeros((0, len(self.skeleton), 2))), *people]
        parts = [np.concatenate([getattr(p, name) for p in people]) for name in ("joints", "score", "person_score")]
        joints, score = self._as_annotated(parts[0], parts[1], pose_set.skeleton, shared_joints)
        ids, box = np.repeat([i.image_id for i in items], [len(p) for p in people[1:]]), box_of_joints(joints)
        return Predictions(
            skeleton=pose_set.skeleton, joints=joints.astype(np.float32), score=score.astype(np.float32), box=box,
            person_score=parts[2], box_score=parts[2], area=box[:, 2] * box[:, 3], person_id=np.full(len(ids), -1),
            image_id=ids.astype(pose_set.image_id.dtype), frame=np.full(len(ids), -1), dataset=pose_set.name,
            split=pose_set.split, meta=meta,
        )  # fmt: skip

    def _as_annotated(self, joints: np.ndarray, score: np.ndarray, target: Skeleton, shared_joints: bool):
        """(N,J,2) joints and (N,J) scores of the network's joints in the annotations' skeleton; score 0: none."""
        ours = self.skeleton
        if SCORED_AS.get(ours.name) == target.name:
            mapped = skeleton_map(ours, target)
            parts = [score[:, list(s)].mean(-1) if s else np.zeros(len(score)) for s in mapped.sources]
            return mapped.apply(joints), np.stack(parts, axis=-1)
        order = joint_order(ours, target, shared_joints)
        missing = order < 0
        joints, score = joints[:, order], score[:, order]
        joints[:, missing], score[:, missing] = np.nan, 0
        return joints, score


def skeleton_of_weights(stored: dict, config: Config, path: Path | None) -> Skeleton:
    """The skeleton that weights bring (`weight_files.read_weights`); of files without names, that of the settings."""
    about = stored.get("about", {})
    return from_card(about["skeleton"], f"{path}: field skeleton") if about else skeleton_of_settings(config)


def _check_meaning(config: Config, stored: dict, path: Path | None) -> None:
    differing = [key for key in MEANING if key in stored and stored[key] != getattr(config, key)]
    if differing:
        key = differing[0]
        raise DataError(f"{path} was trained with {key}: {stored[key]}, not {getattr(config, key)}; leave it out")


def fresh_model(config: Config):
    """The network with random weights and moving statistics, as prediction uses it."""
    import keras

    from deepercut_tf.model import build_model

    keras.utils.set_random_seed(config.seed)
    return build_model(replace(config, bn_mode="frozen"))


def _bar(images: list):
    from tqdm import tqdm

    return tqdm(images, desc="val", unit="image", disable=None)


class Predictor:
    """Score maps and offsets of images by a trained network. Normalisation is folded into the kernels."""

    def __init__(self, model, config: Config, statistics: PairStatistics | None = None):
        """`model` from `model.build_model`; `statistics` are needed with `pairwise_predict`."""
        import keras

        from deepercut_tf.model import build_model, folded_variables, load_variables

        self.config, self.statistics = config, statistics
        self.network = build_model(config, folded=True)
        load_variables(self.network, folded_variables(model), "the network")
        self._call = self._outputs
        if keras.backend.backend() == "tensorflow":
            import tensorflow as tf

            signature = [tf.TensorSpec((None, None, None, 3), tf.uint8)]
            self._call = tf.function(self._outputs, input_signature=signature)

    def _outputs(self, images):
        from keras import ops

        outputs = self.network(images, training=False)
        return {**outputs, "part_prob": ops.sigmoid(outputs["part_pred"])}

    def outputs(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """(B,H,W,3) uint8 RGB -> part_pred, part_prob, locref, pairwise_pred as arrays."""
        from keras import ops

        return {name: ops.convert_to_numpy(value) for name, value in self._call(np.ascontiguousarray(images)).items()}

    def maps(self, image: np.ndarray) -> Maps:
        """(H,W,3) uint8 RGB -> maps in pixels of this image."""
        return unpack_maps(self.outputs(image[None]), self.config, self.statistics)


def resample(maps: Maps, shape: tuple[int, int], scale: float) -> Maps:
    """Maps of a picture enlarged by `scale` on the grid (h,w) of the picture itself; offsets in the latter's pixels."""
    import cv2

    x = ((np.arange(shape[1]) * 8 + 4) * scale - 4) / 8
    y = ((np.arange(shape[0]) * 8 + 4) * scale - 4) / 8
    grid = [g.astype(np.float32) for g in np.meshgrid(x, y)]

    def sampled(array: np.ndarray) -> np.ndarray:
        flat = array.reshape(*array.shape[:2], -1).astype(np.float32)
        # OpenCV handles a few channels at a time
        cuts = [flat[..., k : k + 4] for k in range(0, flat.shape[2], 4)]
        parts = [cv2.remap(cut, grid[0], grid[1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE) for cut in cuts]
        return np.concatenate([p.reshape(*shape, -1) for p in parts], axis=-1).reshape(*shape, *array.shape[2:])

    pairwise = None if maps.pairwise is None else sampled(maps.pairwise) / scale
    return Maps(sampled(maps.score), sampled(maps.locref) / scale, pairwise)


def use_device(device: str | None, threads: int | None) -> int:
    """Show Keras's backend the GPUs of `--device` alone, set CPU threads; the number of these GPUs. Call it first."""
    if os.environ.get("KERAS_BACKEND", "tensorflow") != "tensorflow":
        # PyTorch reads these when it is imported
        if device:
            os.environ["KERAS_TORCH_DEVICE"] = device
        if threads:
            os.environ["OMP_NUM_THREADS"] = str(threads)
        return 0
    from deepercut_tf.weight_files import tensorflow

    tf = tensorflow()
    gpus = tf.config.list_physical_devices("GPU")
    chosen = device_numbers(device, len(gpus)) or []
    try:
        tf.config.set_visible_devices([gpus[i] for i in chosen], "GPU")
        if threads:
            tf.config.threading.set_intra_op_parallelism_threads(threads)
    except RuntimeError:  # TensorFlow is at work already, with what an earlier call chose
        pass
    return len(chosen)
