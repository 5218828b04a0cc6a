"""A trained network with everything that prediction needs: pictures in, joints or persons in image pixels out."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from common.errors import DataError
from deepercut_tf.config import Config, house_path, require
from deepercut_tf.data import resize
from deepercut_tf.detections import Maps, argmax_pose, detect
from deepercut_tf.people import People, find_people

# What a network was trained to answer; a weights file that says otherwise does not fit the settings.
MEANING = ("net_type", "num_joints", "location_refinement", "pairwise_predict", "locref_stdev", "width")


class PoseFinder:
    """Finds one person or all in a picture. Pictures are (H,W,3) uint8 RGB, results in their pixels."""

    def __init__(self, config: Config, weights: str | Path | None = None, random_weights: bool = False):
        """Weights: `weights`, else the key init_weights. `random_weights`: fresh ones instead (a baseline).

        DataError when the weights are missing or of another network, or a file of the pairwise terms is missing.
        """
        require(config, "net_type", "num_joints", why="prediction")
        self.config, self.path = config, None
        self.statistics = self.spatial = None
        if config.pairwise_predict:
            from deepercut_tf.pair_statistics import load_statistics
            from deepercut_tf.pairwise import load_spatial_model

            path = house_path(config.pairwise_stats_fn)
            self.statistics = load_statistics(
                path, config.num_joints, config.global_scale, config.tensorflow_pairwise_order
            )
            if config.pairwise_model_dir:
                self.spatial = load_spatial_model(
                    house_path(config.pairwise_model_dir), config.num_joints, config.sparse_graph
                )
        self.predictor = self._network(weights, random_weights)

    def _network(self, weights, random_weights: bool):
        from deepercut_tf.weight_files import find_snapshot, read_weights

        if not random_weights:
            require(self.config, *(() if weights else ("init_weights",)), why="prediction (or --weights FILE)")
            self.path = find_snapshot(weights or self.config.init_weights)
            values, trained = read_weights(self.path)
            differing = [k for k in MEANING if k in trained and trained[k] != getattr(self.config, k)]
            if differing:
                k = differing[0]
                raise DataError(
                    f"{self.path} was trained with {k}: {trained[k]}, the settings have {getattr(self.config, k)}; use those of the training"
                )
        import keras

        from deepercut_tf.engine import Predictor
        from deepercut_tf.model import build_model, load_variables

        keras.utils.set_random_seed(self.config.seed)
        model = build_model(replace(self.config, bn_mode="frozen"))
        if not random_weights:
            load_variables(model, values, str(self.path))
        return Predictor(model, self.config, self.statistics)

    def maps(self, image: np.ndarray) -> tuple[Maps, float]:
        """Maps of a picture and the scale that their pixels have to its own; averaged over `test_scales`."""
        base = self.config.global_scale
        first = self.predictor.maps(resize(image, base * self.config.test_scales[0]))
        if len(self.config.test_scales) == 1:
            return first, base * self.config.test_scales[0]
        scales = [s / self.config.test_scales[0] for s in self.config.test_scales]
        others = [self.predictor.maps(resize(image, base * s)) for s in self.config.test_scales[1:]]
        resampled = [first] + [resample(maps, first.score.shape[:2], s) for maps, s in zip(others, scales[1:])]
        pairwise = None if first.pairwise is None else np.mean([m.pairwise for m in resampled], axis=0)
        mean = Maps(
            np.mean([m.score for m in resampled], axis=0), np.mean([m.locref for m in resampled], axis=0), pairwise
        )
        return mean, base * self.config.test_scales[0]

    def single(self, image: np.ndarray) -> np.ndarray:
        """(J,3) rows x, y, probability: the best cell of each joint."""
        maps, scale = self.maps(image)
        pose = argmax_pose(maps)
        pose[:, :2] /= scale
        return pose

    def people(self, image: np.ndarray) -> People:
        """All persons, sorted by score; needs pairwise_predict, pairwise_model_dir, nms_radius and det_min_score."""
        return self.people_of(*self.maps(image))

    def people_of(self, maps: Maps, scale: float) -> People:
        """All persons in the maps of a picture at `scale`."""
        if not self.config.pairwise_predict:
            raise DataError(
                "several persons need a network with pairwise_predict: true; this one finds one person (test.py, demo/singleperson.py)"
            )
        require(self.config, "pairwise_model_dir", "nms_radius", "det_min_score", why="finding several persons")
        found = detect(maps, self.config.nms_radius, self.config.det_min_score)
        people = find_people(found, self.config.num_joints, self.spatial, self.config.sparse_graph, self.config.mode)
        if self.config.mode == "correct":
            people = people.with_joints(min(self.config.min_person_joints, self.config.num_joints))
        order = np.argsort(-people.person_score, kind="stable")
        return People(people.joints[order] / scale, people.score[order])

    def meta(self) -> dict:
        """What a prediction file says about the network."""
        from common.files import sha256_of, versions

        settings = {
            "model": self.config.net_type,
            "house": "deepercut_tf",
            "flip_test": False,
            "settings": asdict(self.config),
            "versions": versions(),
        }
        path = self.path
        if path is None:
            return settings | {"weights": "random"}
        data = path if path.is_file() else Path(f"{path}.data-00000-of-00001")
        return settings | {"weights": str(path), "weights_hash": sha256_of(data)}


def resample(maps: Maps, shape: tuple[int, int], scale: float) -> Maps:
    """Maps of a picture enlarged by `scale` on the grid (h,w) of the picture itself; offsets in the latter's pixels."""
    import cv2

    x = ((np.arange(shape[1]) * 8 + 4) * scale - 4) / 8
    y = ((np.arange(shape[0]) * 8 + 4) * scale - 4) / 8
    grid = [g.astype(np.float32) for g in np.meshgrid(x, y)]

    def sampled(array: np.ndarray) -> np.ndarray:
        flat = array.reshape(*array.shape[:2], -1).astype(np.float32)
        # OpenCV handles a few channels at a time
        parts = [
            cv2.remap(flat[..., k : k + 4], *grid, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
            for k in range(0, flat.shape[2], 4)
        ]
        return np.concatenate([p.reshape(*shape, -1) for p in parts], axis=-1).reshape(*shape, *array.shape[2:])

    return Maps(
        sampled(maps.score),
        sampled(maps.locref) / scale,
        None if maps.pairwise is None else sampled(maps.pairwise) / scale,
    )
