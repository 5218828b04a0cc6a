"""A trained network for pictures: everything that predicts, scores or checks goes through `Estimator`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from common.errors import DataError
from common.geometry import checked_boxes
from common.images import picture_of
from common.poses import PoseSet, box_of_joints
from common.predictions import People, Predictions, predictions_for
from common.runs.process import keras_devices
from common.runs.scoring import describe
from common.skeletons import Skeleton, from_card, joint_order, skeleton_map
from deepercut_tf.config import Config, house_path, make_config, require
from deepercut_tf.data import resize
from deepercut_tf.detections import Maps, argmax_pose, detect, unpack_maps, with_mirrored
from deepercut_tf.items import Item, ItemSet, items_of
from deepercut_tf.joints import SCORED_AS, skeleton_of_settings, symmetric_order, with_joints
from deepercut_tf.pairwise import assemble, load_spatial_model, solve_detections
from deepercut_tf.pairwise_stats import load_statistics
from deepercut_tf.weight_files import find_snapshot, read_weights

# what a network was trained to answer; settings that say otherwise do not fit its weights
MEANING = ("net_type", "num_joints", "location_refinement", "pairwise_predict", "locref_stdev", "channels")
MARGIN = 0.15  # of the longer side, seen around a box
PEOPLE = ("auto", "one", "all")


class Estimator:
    """Joints of one person, or of all, in a picture.

    `weights`: as `weight_files.find_snapshot`. `options`: settings by their keys (`config.Config`), above those that
    the weights bring; the originals' bring none: `Estimator(weights, **load_config("demo"))`. `people`: `one`, `all`
    (needs pairwise terms), `auto`: all where the settings have what it takes. `random_weights`: fresh ones instead (a
    baseline), of `skeleton` where the settings do not say it.

    DataError when weights are missing or of another network, or a file of the pairwise terms is missing.
    """

    def __init__(
        self, weights=None, *, people="auto", random_weights=False, skeleton=None, device=None, threads=None, **options
    ):
        keras_devices(device, threads)
        given = weights or options.get("weights") or options.get("init_weights")
        self.path = None if random_weights else find_snapshot(given)
        values, stored = ({}, {}) if self.path is None else read_weights(self.path)
        self.about, trained = stored.get("about", {}), stored.get("config", {})
        config = make_config(trained, {"amp": "off"}, options, source=self.path or "settings")
        for key in MEANING:
            if trained.get(key, getattr(config, key)) != getattr(config, key):
                what = f"{key}: {trained[key]}, not {getattr(config, key)}"
                remedy = "leave out the option or settings file that says so (a demo has its own: use predict.py)"
                raise DataError(f"{self.path} was trained with {what}; {remedy}")
        skeleton = skeleton_of_weights(stored, config, self.path) if stored or skeleton is None else skeleton
        self._set_up(with_joints(config, skeleton), skeleton, people)
        from deepercut_tf.model import Predictor, fresh_model, load_variables

        self.model = fresh_model(self.config, self.config.amp)
        if self.path is not None:
            load_variables(self.model, values, str(self.path))
        self._network = Predictor(self.model)

    @classmethod
    def of(cls, model, config: Config, skeleton: Skeleton) -> Estimator:
        """Around a network that is being trained, as it is now; one person a picture."""
        from deepercut_tf.model import Predictor, build_model, load_variables, named_variables

        made = cls.__new__(cls)
        made.path, made.about = None, {}
        made._set_up(config, skeleton, "one")
        network = build_model(config)  # in float32, on one device
        load_variables(network, named_variables(model), "the network")
        made._network = Predictor(network)
        return made

    def _set_up(self, config: Config, skeleton: Skeleton, people: str) -> None:
        if people not in PEOPLE:
            raise DataError(f"people is {people!r}; choose {', '.join(PEOPLE)}")
        self.config, self.skeleton = config, skeleton
        self.statistics, self.spatial = None, None
        terms = config.pairwise_predict and config.pairwise_model_dir
        self.together = bool(terms) if people == "auto" else people == "all"
        if config.pairwise_predict:
            self.statistics = load_statistics(house_path(config.pairwise_stats_fn), len(skeleton), config.global_scale)
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
        more = {"mode": config.mode, "flip_test": config.flip_test, "seed": config.seed}
        preset = Path(config.out or "").name
        return describe("deepercut_tf", config.net_type, self.path, asdict(config), **more, preset=preset)

    # ---- pictures ----------------------------------------------------------------------------------------------------

    def predict(self, image: str | Path | np.ndarray, boxes: np.ndarray | None = None) -> People:
        """The persons of a picture, a path or (H,W,3) uint8 BGR: one in each of `boxes` (n,4) x, y, w, h, which is
        looked at by itself, at its own size or that of `person_size`; without boxes all persons, the surest first, or
        the one of the whole picture. Coordinates are the picture's."""
        image = picture_of(image)
        places = checked_boxes(boxes, image)
        if boxes is not None:
            return self._in_boxes(image, places)
        if self.together:
            return self.people_of(*self.maps(image))
        pose = self.single(image)
        return People.of(pose[None, :, :2], pose[None, :, 2], places)

    def predict_many(self, views: Sequence[tuple]) -> list[People]:
        """As `predict` for each pair of a picture and its boxes, one after another: they keep their own sizes."""
        return [self.predict(*view) for view in views]

    def maps(self, image: np.ndarray, zoom: float = 1.0) -> tuple[Maps, float]:
        """Maps of an (H,W,3) BGR picture resized by `zoom`, and the scale that their pixels have to its own; with
        `flip_test` the middle of these and of the mirrored picture's."""
        config, scale = self.config, self.config.global_scale * zoom
        rgb = cv2.cvtColor(resize(image, scale), cv2.COLOR_BGR2RGB)
        if not config.flip_test:
            return unpack_maps(self._network(rgb[None]), config, self.statistics), scale
        edge = rgb.shape[1] - (image.shape[1] - 1) * scale  # training mirrors joints before they are scaled
        # to whole cells of the coarsest map, so that those of both pictures lie on each other
        rgb = cv2.copyMakeBorder(rgb, 0, 0, 0, -rgb.shape[1] % 16, cv2.BORDER_CONSTANT, value=config.mean_pixel)
        own, other = (unpack_maps(self._network(x[None]), config, self.statistics) for x in (rgb, cv2.flip(rgb, 1)))
        return with_mirrored(own, other, symmetric_order(config.all_joints, config.num_joints), edge), scale

    def single(self, image: np.ndarray, zoom: float = 1.0) -> np.ndarray:
        """(J,3) rows x, y, probability: the best cell of each joint in an (H,W,3) BGR picture resized by `zoom`."""
        maps, scale = self.maps(image, zoom)
        return argmax_pose(maps) / [scale, scale, 1]

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

    def _in_boxes(self, image: np.ndarray, boxes: np.ndarray) -> People:
        poses = np.array([self._in_box(image, box) for box in boxes]).reshape(-1, len(self.skeleton), 3)
        return People.by_picture(poses[..., :2], np.nan_to_num(poses[..., 2]), [(image, boxes)])[0]

    def _in_box(self, image: np.ndarray, box: np.ndarray) -> np.ndarray:
        """(J,3) the one person of the part of the picture around a box; NaN where nothing of the picture is there."""
        x, y, w, h = (float(v) for v in box)
        grow = MARGIN * max(w, h)
        left, top = max(int(x - grow), 0), max(int(y - grow), 0)
        right, bottom = max(int(np.ceil(x + w + grow)), left + 16), max(int(np.ceil(y + h + grow)), top + 16)
        part = image[top:bottom, left:right]
        if not part.size:
            return np.full((len(self.skeleton), 3), np.nan)
        zoom = self.config.person_size / max(w, h, 1.0) if self.config.person_size else 1.0
        return self.single(part, zoom) + np.array([left, top, 0])

    # ---- data sets ---------------------------------------------------------------------------------------------------

    def predict_pose_set(self, pose_set: PoseSet, boxes: str | Callable = "whole", shared_joints=False) -> Predictions:
        """Predictions in the PoseSet's skeleton, by joint name. `boxes` `whole`: all persons of every picture, or its
        one person in every row; `annotated`: one person in each row's box; a `common.boxes.Boxes`: one person in each
        box that it has for a picture. DataError for another skeleton, unless `shared_joints` are enough."""
        by_image = callable(boxes) or (self.together and boxes == "whole")
        item_set = items_of(pose_set, pose_set.skeleton)
        items = [item for item in item_set.items if item.rows or by_image]
        people = [self._look(item_set, item, boxes) for item in tqdm(items, desc="val", unit="image", disable=None)]
        item_set.say_unreadable()
        how = {"whole": "none", "annotated": "oracle (annotated boxes)"}.get(str(boxes), "detections")
        meta = self.meta | {"boxes": how, "synthetic": pose_set.synthetic}
        if by_image:
            return self._by_image(pose_set, items, people, meta | {"final": True}, shared_joints)
        joints = np.full((len(pose_set), len(self.skeleton), 2), np.nan)
        score = np.zeros(joints.shape[:2])
        for item, found in zip(items, people):
            if len(found):
                joints[list(item.rows)], score[list(item.rows)] = found.joints, found.score
        joints, score = self._as_annotated(joints, score, pose_set.skeleton, shared_joints)
        return predictions_for(pose_set, joints, score, meta)

    def _look(self, item_set: ItemSet, item: Item, boxes: str | Callable) -> People:
        image = item_set.read(item)
        if image is None:
            return People.of(np.zeros((0, len(self.skeleton), 2)))
        if not callable(boxes):
            given = item_set.pose_set if boxes == "annotated" else None
            return self._in_boxes(image, given.box[list(item.rows)]) if given else self.predict(image)
        places, sure = boxes(Path(item.image).name, image.shape[1::-1])
        people = self._in_boxes(image, places)
        return replace(people, person_score=(people.person_score * sure).astype(np.float32))

    def _by_image(self, pose_set: PoseSet, items, people: list[People], meta: dict, shared_joints: bool) -> Predictions:
        """Any number of persons a picture."""
        people = [People.of(np.zeros((0, len(self.skeleton), 2))), *people]
        parts = [np.concatenate([getattr(p, name) for p in people]) for name in ("joints", "score", "person_score")]
        joints, score = self._as_annotated(parts[0], parts[1], pose_set.skeleton, shared_joints)
        ids, box = np.repeat([i.image_id for i in items], [len(p) for p in people[1:]]), box_of_joints(joints)
        rows = {"person_score": parts[2], "box": box, "box_score": parts[2], "area": box[:, 2] * box[:, 3]}
        rows |= dict.fromkeys(("person_id", "frame"), np.full(len(ids), -1))
        rows["image_id"] = ids.astype(pose_set.image_id.dtype)
        return predictions_for(pose_set, joints, score, meta, **rows)

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
