"""How sure a figure is: 95 % intervals by the bootstrap (Efron 1979), of single figures and of paired differences.

Images are drawn with replacement as often as there are (videos where the data set has them, as their frames resemble
each other), all persons of an image together; a figure's interval runs from the 2.5th to the 97.5th percentile of the
draws. Two prediction files are compared on the same draws, so that images that are hard for both cancel out.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property

import numpy as np

from common.metrics import Result
from common.metrics.coco import RECALL, curve, match
from common.metrics.oks import aic_map
from common.poses import PoseSet
from common.predictions import Predictions
from common.protocols import protocols_of

Samples = dict[str, np.ndarray]  # "total" and the entries of `Result.values` -> (B,) figures of the draws


class Draws:
    """`number` draws of the images of a PoseSet, the same for every figure and file; `what` is drawn."""

    def __init__(self, pose_set: PoseSet, number: int = 1000, seed: int = 0):
        self.pose_set, self.number, self.seed = pose_set, number, seed
        ids = pose_set.image_id if pose_set.sequence is None else pose_set.sequence
        self.what = "images" if pose_set.sequence is None else "videos"
        listed = dict.fromkeys([*ids.tolist(), *((pose_set.regions or ()) if pose_set.sequence is None else ())])
        self.unit = {one: i for i, one in enumerate(listed)}
        self._tables: dict[int, PrecisionRecall] = {}
        self.row_unit = np.array([self.unit[one] for one in ids.tolist()], np.int64)

    @cached_property
    def times(self) -> np.ndarray:
        """(B,U) how often each image is in each draw."""
        rng, count = np.random.default_rng(self.seed), len(self.unit)
        draws = range(self.number if count else 0)
        drawn = [np.bincount(rng.integers(0, count, count), minlength=count) for _ in draws]
        return np.array(drawn, np.float32).reshape(-1, count)

    def sums(self, rows: np.ndarray) -> np.ndarray:
        """(N,K) numbers of the PoseSet's rows -> (B,K) their sums in each draw."""
        by_unit = np.zeros((len(self.unit), rows.shape[1]))
        np.add.at(by_unit, self.row_unit, rows)
        return (self.times @ by_unit.astype(np.float32)).astype(np.float64)

    def ratio(self, part: np.ndarray, whole: np.ndarray) -> np.ndarray:
        """(N,) and (N,) -> (B,) sum of `part` / sum of `whole`, NaN where nothing is counted."""
        above, below = self.sums(np.stack([part, whole], 1)).T
        return np.divide(above, below, out=np.full(len(below), np.nan), where=below > 0)

    def of(self, name: str, result: Result, predictions: Predictions) -> Samples | None:
        """Figures of the draws of one protocol's `result`; None where it is no sum over rows or images."""
        if protocols_of(self.pose_set.name)[name].by == "image":
            return self._by_image(name, predictions)
        tally = result.tally
        if tally is None or not len(self.unit) or len(tally.hits) != len(self.row_unit):
            return None
        hits = self.sums(np.where(tally.counted, tally.hits, 0).astype(np.float64))
        counted = self.sums(tally.counted.astype(np.float64))
        by_column = 100 * np.divide(hits, counted, out=np.full(hits.shape, np.nan), where=counted > 0)
        values = {name: _mean(by_column[:, columns]) for name, columns in tally.columns.items()}
        total = _mean(np.stack(list(values.values()), 1)) if values else np.full(self.number, np.nan)
        if tally.pooled is not None:
            below = counted[:, tally.pooled].sum(1)
            above = 100 * hits[:, tally.pooled].sum(1)
            total = np.divide(above, below, out=np.full(len(below), np.nan), where=below > 0)
        return values | {"total": total}

    def precision_recall(self, predictions: Predictions) -> PrecisionRecall:
        """Made once a file."""
        key = id(predictions.joints)
        if key not in self._tables:
            self._tables[key] = PrecisionRecall(self.pose_set, predictions, self)
        return self._tables[key]

    def _by_image(self, name: str, predictions: Predictions) -> Samples | None:
        if name == "oks_ap":
            return {"total": self.precision_recall(predictions).samples}
        best_of = "prediction" if name.endswith(":compat") else "person"
        found = np.array([self.unit.get(image, -1) for image in predictions.image_id.tolist()], np.int64)
        table = np.zeros((len(self.unit), 2))
        for image, number in self.unit.items():
            here = replace(self.pose_set.select(self.row_unit == number), regions={image: None})
            one = aic_map(here, predictions.select(found == number), best_of)
            table[number] = np.nan_to_num(one["score"]) * one["count"], one["count"]
        above, below = (self.times @ table.astype(np.float32)).T
        return {"total": above / np.maximum(below, 1)}


def _mean(values: np.ndarray) -> np.ndarray:
    """(B,K) -> (B,) mean of the entries that are not NaN."""
    known = np.isfinite(values)
    count = known.sum(1)
    return np.divide(np.where(known, values, 0).sum(1), count, out=np.full(len(count), np.nan), where=count > 0)


class PrecisionRecall:
    """COCO's AP over draws, and its precision over recall, from matches that are made once, image by image."""

    def __init__(self, pose_set: PoseSet, predictions: Predictions, draws: Draws):
        matches = match(pose_set, predictions)
        self.draws, self.recall = draws, RECALL
        unit = np.array([draws.unit.get(image, -1) for image in matches.images], np.int64)
        order = np.argsort(-matches.score, kind="stable")
        order = order[unit[matches.image[order]] >= 0]
        self._unit = unit[matches.image[order]]
        self._right, self._wrong = matches.right[0][:, order], matches.wrong[0][:, order]
        self._persons = np.zeros(len(draws.unit))
        self._persons[unit[unit >= 0]] = matches.persons[0][unit >= 0]

    def precision(self, times: np.ndarray) -> np.ndarray:
        """(10,101) precision at OKS 0.5 to 0.95 and recall 0 to 1, of images that occur `times` (U,)."""
        weight, total = times[self._unit], float(times @ self._persons)
        if total <= 0:
            return np.full((10, 101), np.nan)
        sums = (np.cumsum(weight * found, axis=1) for found in (self._right, self._wrong))
        return np.array([curve(right, wrong, total)[0] for right, wrong in zip(*sums)])

    @cached_property
    def samples(self) -> np.ndarray:
        """(B,) AP of the draws."""
        return np.array([self.precision(times).mean() for times in self.draws.times.astype(np.float64)])


def interval(samples: np.ndarray | None) -> tuple[float, float] | None:
    """From the 2.5th to the 97.5th percentile; None where there is no figure in the draws."""
    known = samples[np.isfinite(samples)] if samples is not None else np.zeros(0)
    if not len(known):
        return None
    low, high = np.percentile(known, [2.5, 97.5])
    return float(low), float(high)


def with_intervals(results: dict[str, Result], predictions: Predictions, draws: Draws) -> dict[str, Result]:
    """The results with the intervals of their totals, where they have any."""
    found = {name: draws.of(name, result, predictions) for name, result in results.items()}
    return {n: replace(r, interval=interval(s["total"] if (s := found[n]) else None)) for n, r in results.items()}
