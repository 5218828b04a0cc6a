"""Named protocols: which persons, joints, normaliser, threshold, aggregation make a figure that papers report.

A data set's record lists its protocols (`common.datasets`); here are the rules that count them. A name ends in
`:compat` where an original counted differently from what its name says; the protocol then counts as the original did,
as far as joints in image pixels allow (its heat-map rounding is not repeated), and its aggregation sentence says how.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from common import datasets
from common.errors import DataError
from common.metrics import mobilepose, oks, pck, pcp
from common.metrics.counting import Result
from common.poses import PoseSet
from common.predictions import Predictions
from common.skeletons import LPM14, MPII14, skeleton_map

Count = Callable[[PoseSet, Predictions, float], Result]


@dataclass(frozen=True)
class Protocol:
    """One figure of a data set. Predictions are in the PoseSet's skeleton, NaN where there is none."""

    name: str
    by: str  # row: predictions are in the PoseSet's rows, every person has one; image: persons are matched by overlap
    needs: tuple[str, ...]  # joint names (`a|b`: either), or PoseSet fields written as `.field`
    count: Count
    threshold: float  # NaN: the rule has none

    def score(self, pose_set: PoseSet, predictions: Predictions) -> Result:
        """The figure; DataError where the predictions cannot be scored so."""
        return self.count(pose_set, predictions, self.threshold)

    def lacking(self, pose_set: PoseSet) -> list[str]:
        """What the protocol needs and `pose_set` does not have: joint names and fields."""
        return [need.lstrip(".") for need in self.needs if not _has(pose_set, need)]


def _has(pose_set: PoseSet, need: str) -> bool:
    if need == ".sigmas":
        return oks.sigmas_of(pose_set) is not None
    if need.startswith("."):
        return getattr(pose_set, need[1:]) is not None
    return bool(set(need.split("|")) & set(pose_set.skeleton.joints))


@functools.cache
def protocols_of(dataset: str) -> dict[str, Protocol]:
    """Name -> protocol of a data set, in the order of its record; DataError for an unknown data set."""
    found = {}
    for name, rule in datasets.record(dataset).protocols.items():
        measure, _, mode = rule.partition(":")
        family, _, threshold = measure.partition("@")
        family = f"{family}:{mode}" if mode else family
        by = "image" if family in _BY_IMAGE else "row"
        needs, count = (_BY_ROW | _BY_IMAGE)[family]
        found[name] = Protocol(name, by, needs, count, float(threshold or "nan"))
    return found


def protocols_for(pose_set: PoseSet, names=None) -> list[Protocol]:
    """The protocols of the data set that `pose_set` allows, in the order of its record, or `names`.

    DataError for a name that the data set does not have, or for one that needs joints or fields that `pose_set` lacks.
    """
    known = protocols_of(pose_set.name)
    if not names:
        return [protocol for protocol in known.values() if not protocol.lacking(pose_set)]
    chosen = []
    for name in dict.fromkeys(names):
        if name not in known:
            raise DataError(f"data set {pose_set.name} has no protocol {name!r}; it has {', '.join(known)}")
        if lacking := known[name].lacking(pose_set):
            where = f"{pose_set.name}/{pose_set.split} in {pose_set.root or 'memory'}"
            raise DataError(f"protocol {name} needs {', '.join(lacking)}, which {where} does not have")
        chosen.append(known[name])
    return chosen


def _labelled(pose_set: PoseSet) -> np.ndarray:
    return pose_set.counted[:, None] & (pose_set.visible > 0)


def _visible(pose_set: PoseSet) -> np.ndarray:
    return pose_set.counted[:, None] & (pose_set.visible == 2)


# ---- distances -------------------------------------------------------------------------------------------------------

_TORSO = ("left_shoulder", "right_hip")
_HEAD = ("head_top", "neck|upper_neck")
_PARTS = ("shoulder", "elbow", "wrist", "hip", "knee", "ankle")
_ARMS_AND_LEGS = tuple(f"{side}_{part}" for side in ("right", "left") for part in _PARTS)
_K2HPD_NEEDS = ("head", "neck", "spine", "right_hand", "left_hand", "right_foot", "left_foot")


def _plain(metric, **options) -> Count:
    """A metric of `common.metrics` that takes joints, which of them count, skeleton and threshold."""

    def count(pose_set: PoseSet, predictions: Predictions, threshold: float) -> Result:
        more = options if np.isnan(threshold) else options | {"threshold": threshold}
        return metric(pose_set.joints, predictions.joints, _labelled(pose_set), skeleton=pose_set.skeleton, **more)

    return count


def _pck(size_of: Callable, what: str, counted: Callable[[PoseSet], np.ndarray] = _labelled) -> Count:
    """PCK in units of `size_of(PoseSet, Predictions)` (N,), which is called `what`."""

    def count(pose_set: PoseSet, predictions: Predictions, threshold: float) -> Result:
        size, skeleton = size_of(pose_set, predictions), pose_set.skeleton
        rows = counted(pose_set)
        return pck.pck(pose_set.joints, predictions.joints, rows, size, threshold, skeleton, how=what)

    return count


def _torso(data: PoseSet, _=None) -> np.ndarray:
    return pck.length_between(data.joints, data.skeleton, *_TORSO)


def _eval_pck(pose_set: PoseSet, predictions: Predictions, threshold: float) -> Result:
    """pose-tensorflow's script: 14 joints, the box around the annotated ones, joints weigh the same."""
    to_14 = skeleton_map(pose_set.skeleton, MPII14)
    truth, seen = to_14.apply(pose_set.joints, _labelled(pose_set))
    guess, how = to_14.apply(predictions.joints), "longer side of the box around the annotated joints"
    return pck.pck(truth, guess, seen > 0, pck.extent(truth), threshold, MPII14, "unweighted", how)


def _pckh(pose_set: PoseSet, predictions: Predictions, threshold: float, **options) -> Result:
    return _plain(pck.pckh, head_size=pose_set.head_size, **options)(pose_set, predictions, threshold)


# ---- as MobilePose counts --------------------------------------------------------------------------------------------


def _as_mobilepose_reads(pose_set: PoseSet) -> np.ndarray:
    """(N,J,2) joints, on Penn Action with its placeholders of hidden joints, which stretch the crop to the corner.

    The annotation tool left them at about (1, 1), counted from 1; the loader drops them, so each is put at the corner.
    """
    return np.nan_to_num(pose_set.joints, nan=0.0) if pose_set.name == "penn_action" else pose_set.joints


def _extent(pose_set: PoseSet, predictions: Predictions, threshold: float) -> Result:
    """MobilePose's training accuracy, on its own 14 joints and crops, in image pixels."""
    predicted, batch = predictions.joints, mobilepose.BATCH
    if pose_set.sequence is not None:  # a video is scored in whole clips, a batch has four of them
        rows = mobilepose.whole_clips(pose_set.sequence, pose_set.frame)
        pose_set, predicted, batch = pose_set.select(rows), predicted[rows], batch * mobilepose.CLIP_LENGTH
    to_lpm = skeleton_map(pose_set.skeleton, LPM14)
    labelled = np.where(_labelled(pose_set), pose_set.visible, 0)
    truth, visible = to_lpm.apply(_as_mobilepose_reads(pose_set), labelled)
    box = mobilepose.crop_box(truth, pose_set.image_size, pose_set.box if pose_set.name == "mpii" else None)
    # it drops what LSP flags as occluded and Penn Action as not visible
    seen = visible == 2 if pose_set.name in ("lsp", "penn_action") else visible > 0
    size = mobilepose.extent_from_origin(truth, box)
    result = mobilepose.extent_accuracy(truth, to_lpm.apply(predicted), seen, size, threshold, LPM14, batch)
    how = f"{result.aggregation}; size = extent of the joints from the origin of the crop"
    unknown = " (not cut at the image border: its size is unknown)" if pose_set.image_size is None else ""
    return replace(result, aggregation=how + unknown)


def _penn_mobilepose(pose_set: PoseSet, predictions: Predictions, threshold: float) -> Result:
    """MobilePose's Penn Action table, mislabelled columns included; expects a skeleton with Penn Action's joints."""
    rows = mobilepose.whole_clips(pose_set.sequence, pose_set.frame)
    visible = pose_set.visible[rows] == 2
    truth, seen = mobilepose.with_penn_neck(_as_mobilepose_reads(pose_set)[rows], visible)
    guess, _ = mobilepose.with_penn_neck(predictions.joints[rows], visible)
    size = None if pose_set.image_size is None else pose_set.image_size[rows]
    side = pck.longer_side(mobilepose.crop_box(truth, size))
    result = mobilepose.penn_table(truth, guess, seen, side, threshold)
    how = f"{result.aggregation}; the neck of a prediction is made from its head and shoulders"
    return replace(result, aggregation=how)


_EITHER = "(left shoulder to right hip)"
_OTHER = "(right shoulder to left hip; the prediction's own where that is under 1 px)"
_LONGER = (lambda data, _: pck.longer_side(data.box)), "longer side of the person box"

# rule -> what it needs, how it counts. Labelled joints count, occluded ones too, where nothing else is said.
_BY_ROW: dict[str, tuple[tuple[str, ...], Count]] = {
    "pck_torso": (_TORSO, _pck(_torso, _EITHER)),
    "auc_torso": (_TORSO, lambda s, p, _: pck.auc(s.joints, p.joints, _labelled(s), _torso(s), s.skeleton)),
    "penn_torso": (
        pcp.K2HPD_DIAMETER,
        _pck(lambda s, p: pck.official_penn_torso(s.joints, p.joints, s.skeleton), _OTHER, _visible),
    ),
    "pck_box": ((), _pck(*_LONGER)),
    "pck_box_visible": ((), _pck(*_LONGER, _visible)),
    "eval_pck": ((), _eval_pck),
    "pckh": ((".head_size",), _pckh),
    # Simple Baselines' mean at a tenth reads entry 11 of a grid of hundredths; a joint nowhere labelled makes it NaN
    "pckh_nan": ((".head_size",), functools.partial(_pckh, empty_joint_is_nan=True)),
    "pckh_neck": (_HEAD, _plain(pck.pckh_neck)),
    "pckh_neck_symmetric": (_HEAD, _plain(pck.pckh_neck, symmetric=True)),
    "pcp_strict": (_HEAD + _ARMS_AND_LEGS, _plain(pcp.pcp)),
    "pcp_relaxed": (_HEAD + _ARMS_AND_LEGS, _plain(pcp.pcp, relaxed=True)),
    "k2hpd_pcp": (_K2HPD_NEEDS, _plain(pcp.pcp, total="weighted")),
    "pdj": (_TORSO, _plain(pck.pdj, diameter=_TORSO)),
    "k2hpd_pdj": (pcp.K2HPD_DIAMETER, _plain(pck.pdj, diameter=pcp.K2HPD_DIAMETER)),
    "k2hpd_accuracy": ((), lambda s, p, _: pcp.k2hpd_accuracy(s.joints, p.joints, s.skeleton)),
    "k2hpd_loss": ((), lambda s, p, _: pcp.k2hpd_loss(s.joints, p.joints, s.skeleton)),
    "pck_extent:compat": (_HEAD + _ARMS_AND_LEGS, _extent),
    "penn_extent": (("head", ".sequence"), _extent),
    "penn_mobilepose:compat": (("head", ".sequence"), _penn_mobilepose),
}


# ---- by image: object keypoint similarity ----------------------------------------------------------------------------


def _oks_ap(pose_set: PoseSet, predictions: Predictions, _: float) -> Result:
    from common.metrics.coco import oks_ap

    figures = oks_ap(pose_set, predictions)
    how = "fractions; total = AP, the mean over OKS 0.50 to 0.95 in steps of 0.05 (pycocotools)"
    return Result(figures["AP"], figures, how, int(_labelled(pose_set).any(1).sum()), kind="part")


def _aic(pose_set: PoseSet, predictions: Predictions, _: float, best_of: str = "person") -> Result:
    figures = oks.aic_map(pose_set, predictions, best_of)
    by_threshold = {f"AP@{t:.2f}": ap for t, ap in zip(oks.AIC_THRESHOLDS, figures["ap"])}
    ap = f"AP = {best_of}s whose best OKS is above / sum of max(persons, predictions) of the images"
    how = f"fractions; total = mean AP over OKS 0.50 to 0.95 in steps of 0.05; {ap}"
    counts = {"images_without_prediction": figures["images_missing"], "unknown_images": figures["unknown"]}
    if figures["unknown"]:
        what = f"{figures['unknown']} image ids of the predictions are not in {pose_set.name}/{pose_set.split}"
        warnings.warn(f"{what} and are left out, as the official evaluator does", stacklevel=2)
    return Result(figures["score"], by_threshold, how, figures["count"], kind="part", counts=counts)


_BY_IMAGE: dict[str, tuple[tuple[str, ...], Count]] = {
    "oks_ap": ((".area", ".sigmas"), _oks_ap),
    "aic_map": (("head_top", "neck"), _aic),
    "aic_map:compat": (("head_top", "neck"), functools.partial(_aic, best_of="prediction")),
}
