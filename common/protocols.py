"""Named protocols: which persons, joints, normaliser, threshold and aggregation make a figure that papers report under one name.

A data set's record lists its protocols (`common.datasets.about`); here are the rules that count them. A name ends in `:compat` where an
original counted differently from what its name says; the protocol then counts as the original did, as far as joints in image pixels allow
(its heat-map rounding is not repeated), and its aggregation sentence says how.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from common import datasets
from common.errors import DataError
from common.metrics import mobilepose, oks, pck, pckh, pcp, pdj
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
    visibility: str  # which annotated joints count: labelled (occluded ones too), visible, all
    normaliser: str
    needs: tuple[str, ...]  # joint names (`a|b`: either), or PoseSet fields written as `.field`
    count: Count
    threshold: float  # NaN: the rule has none

    @property
    def mode(self) -> str:
        """`compat` where an original counts differently, else `correct`; the name tells."""
        return "compat" if self.name.endswith(":compat") else "correct"

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


_RULES: dict[str, tuple] = {}


def _rule(name: str, visibility: str, normaliser: str, needs: tuple[str, ...] = (), by: str = "row"):
    """Register a function (PoseSet, Predictions, threshold) -> Result as the rule `name`."""

    def register(count: Count) -> Count:
        _RULES[name] = (by, visibility, normaliser, needs, count)
        return count

    return register


@functools.cache
def protocols_of(dataset: str) -> dict[str, Protocol]:
    """Name -> protocol of a data set, in the order of its record; DataError for an unknown data set."""
    found = {}
    for name, rule in datasets.record(dataset).protocols.items():
        measure, _, mode = rule.partition(":")
        family, _, threshold = measure.partition("@")
        by, visibility, normaliser, needs, count = _RULES[f"{family}:{mode}" if mode else family]
        found[name] = Protocol(name, by, visibility, normaliser, needs, count, float(threshold or "nan"))
    return found


def protocols_for(pose_set: PoseSet, names=None) -> list[Protocol]:
    """The protocols of the data set that `pose_set` allows, in the order of its record, or those `names` (duplicates once).

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


def _counted_rows(pose_set: PoseSet) -> np.ndarray:
    return np.ones(len(pose_set), bool) if pose_set.ignore is None else ~pose_set.ignore.astype(bool)


def _labelled(pose_set: PoseSet) -> np.ndarray:
    return _counted_rows(pose_set)[:, None] & (pose_set.visible > 0)


def _visible(pose_set: PoseSet) -> np.ndarray:
    return _counted_rows(pose_set)[:, None] & (pose_set.visible == 2)


# ---- PCK ----------------------------------------------------------------------------------------------------------------------

_TORSO = ("left_shoulder", "right_hip")
_OTHER_TORSO = ("right_shoulder", "left_hip")


@_rule("pck_torso", "labelled", "left shoulder to right hip", _TORSO)
def _pck_torso(pose_set: PoseSet, predictions: Predictions, threshold: float) -> Result:
    size = pck.length_between(pose_set.joints, pose_set.skeleton, *_TORSO)
    how = f"hit: distance <= {threshold:g} x (left shoulder to right hip)"
    labelled = _labelled(pose_set)
    return pck.pck(pose_set.joints, predictions.joints, labelled, size, threshold, pose_set.skeleton, how=how)


@_rule("auc_torso", "labelled", "left shoulder to right hip", _TORSO)
def _auc_torso(pose_set: PoseSet, predictions: Predictions, _: float) -> Result:
    size = pck.length_between(pose_set.joints, pose_set.skeleton, *_TORSO)
    return pck.auc(pose_set.joints, predictions.joints, _labelled(pose_set), size, pose_set.skeleton)


@_rule("penn_torso", "visible", "right shoulder to left hip", _OTHER_TORSO)
def _penn_torso(pose_set: PoseSet, predictions: Predictions, threshold: float) -> Result:
    size = pck.official_penn_torso(pose_set.joints, predictions.joints, pose_set.skeleton)
    torso = "right shoulder to left hip; the prediction's own where that is under 1 px"
    how = f"hit: distance <= {threshold:g} x ({torso})"
    visible = _visible(pose_set)
    return pck.pck(pose_set.joints, predictions.joints, visible, size, threshold, pose_set.skeleton, how=how)


def _box_pck(counted: Callable[[PoseSet], np.ndarray]) -> Count:
    def count(pose_set: PoseSet, predictions: Predictions, threshold: float) -> Result:
        size, rows = pck.longer_side(pose_set.box), counted(pose_set)
        how = f"hit: distance <= {threshold:g} x longer side of the person box"
        return pck.pck(pose_set.joints, predictions.joints, rows, size, threshold, pose_set.skeleton, how=how)

    return count


_rule("pck_box", "labelled", "longer side of the person box")(_box_pck(_labelled))
_rule("pck_box_visible", "visible", "longer side of the person box")(_box_pck(_visible))


@_rule("eval_pck", "labelled, without pelvis and thorax", "longer side of the box around the joints")
def _eval_pck(pose_set: PoseSet, predictions: Predictions, threshold: float) -> Result:
    """pose-tensorflow's script: 14 joints, the box is the one around a person's annotated joints, joints weigh the same."""
    to_14 = skeleton_map(pose_set.skeleton, MPII14)
    truth, seen = to_14.apply(pose_set.joints, _labelled(pose_set))
    how = f"hit: distance <= {threshold:g} x longer side of the box around the annotated joints"
    guess, size = to_14.apply(predictions.joints), pck.extent(truth)
    return pck.pck(truth, guess, seen > 0, size, threshold, MPII14, "unweighted", how)


# ---- PCKh, PCP, PDJ -----------------------------------------------------------------------------------------------------------

_ARMS_AND_LEGS = tuple(
    f"{side}_{part}" for side in ("right", "left") for part in ("shoulder", "elbow", "wrist", "hip", "knee", "ankle")
)
_HEAD = ("head_top", "neck|upper_neck")
_K2HPD_NEEDS = ("head", "neck", "spine", "right_hand", "left_hand", "right_foot", "left_foot")


def _head_box(empty_joint_is_nan: bool) -> Count:
    def count(pose_set: PoseSet, predictions: Predictions, threshold: float) -> Result:
        labelled, skeleton = _labelled(pose_set), pose_set.skeleton
        size = pose_set.head_size
        return pckh.pckh(pose_set.joints, predictions.joints, labelled, size, threshold, skeleton, empty_joint_is_nan)

    return count


_rule("pckh", "labelled", "0.6 x diagonal of the head box", (".head_size",))(_head_box(False))
# Simple Baselines' mean at a tenth reads entry 11 of a grid of hundredths; a joint nowhere labelled makes it NaN
_rule("pckh_nan", "labelled", "0.6 x diagonal of the head box", (".head_size",))(_head_box(True))


def _head_neck(symmetric: bool) -> Count:
    def count(pose_set: PoseSet, predictions: Predictions, threshold: float) -> Result:
        labelled, skeleton = _labelled(pose_set), pose_set.skeleton
        return pckh.pckh_neck(pose_set.joints, predictions.joints, labelled, threshold, skeleton, symmetric)

    return count


_rule("pckh_neck", "labelled, head top and neck too", "head top to neck", _HEAD)(_head_neck(False))
_rule("pckh_neck_symmetric", "labelled, head top and neck too", "head top to neck", _HEAD)(_head_neck(True))


def _parts(relaxed: bool = False, total: str = "parts") -> Count:
    def count(pose_set: PoseSet, predictions: Predictions, threshold: float) -> Result:
        labelled, skeleton = _labelled(pose_set), pose_set.skeleton
        return pcp.pcp(pose_set.joints, predictions.joints, labelled, skeleton, threshold, relaxed, total)

    return count


_rule("pcp_strict", "labelled at both ends", "length of the stick", _HEAD + _ARMS_AND_LEGS)(_parts())
_rule("pcp_relaxed", "labelled at both ends", "length of the stick", _HEAD + _ARMS_AND_LEGS)(_parts(relaxed=True))
_rule("k2hpd_pcp", "labelled at both ends", "length of the stick", _K2HPD_NEEDS)(_parts(total="weighted"))


def _detected(diameter: tuple[str, str]) -> Count:
    def count(pose_set: PoseSet, predictions: Predictions, threshold: float) -> Result:
        labelled, skeleton = _labelled(pose_set), pose_set.skeleton
        return pdj.pdj(pose_set.joints, predictions.joints, labelled, skeleton, threshold, diameter)

    return count


_rule("pdj", "labelled", "left shoulder to right hip", _TORSO)(_detected(pdj.LSP_DIAMETER))
_rule("k2hpd_pdj", "labelled", "right shoulder to left hip", _OTHER_TORSO)(_detected(pdj.K2HPD_DIAMETER))


@_rule("pdj_torso", "labelled", "neck to middle of hips", ("neck", "right_hip", "left_hip"))
def _pdj_torso(pose_set: PoseSet, predictions: Predictions, threshold: float) -> Result:
    labelled, skeleton = _labelled(pose_set), pose_set.skeleton
    return pdj.pdj_neck_to_hips(pose_set.joints, predictions.joints, labelled, skeleton, threshold)


@_rule("k2hpd_accuracy", "all", "stick length and right shoulder to left hip")
def _k2hpd_accuracy(pose_set: PoseSet, predictions: Predictions, _: float) -> Result:
    return pdj.k2hpd_accuracy(pose_set.joints, predictions.joints, pose_set.skeleton)


@_rule("k2hpd_loss", "all", "none")
def _k2hpd_loss(pose_set: PoseSet, predictions: Predictions, _: float) -> Result:
    return pdj.euclidean_loss(pose_set.joints, predictions.joints, pose_set.skeleton)


# ---- as MobilePose counts -----------------------------------------------------------------------------------------------------


def _as_mobilepose_reads(pose_set: PoseSet) -> np.ndarray:
    """(N,J,2) joints, on Penn Action with the file's placeholders of hidden joints, which stretch MobilePose's crop to the picture's corner.

    The annotation tool left them at about (1, 1), counted from 1; the loader drops them, so each is put back at the corner itself.
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


_EXTENT = ("visible, without the neck", "extent from the crop's origin")
_rule("pck_extent:compat", *_EXTENT, _HEAD + _ARMS_AND_LEGS)(_extent)
_rule("penn_extent", *_EXTENT, ("head", ".sequence"))(_extent)


@_rule(
    "penn_mobilepose:compat",
    "visible, whole clips of five frames",
    "longer side of the crop around the joints",
    ("head", ".sequence"),
)
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


# ---- by image: object keypoint similarity -------------------------------------------------------------------------------------

_BY_AREA = "square root of the person's area, by joint constants"


@_rule("oks_ap", "labelled", _BY_AREA, (".area", ".sigmas"), by="image")
def _oks_ap(pose_set: PoseSet, predictions: Predictions, _: float) -> Result:
    from common.metrics.coco import oks_ap

    figures = oks_ap(pose_set, predictions)
    how = "fractions; total = AP, the mean over OKS 0.50 to 0.95 in steps of 0.05 (pycocotools)"
    return Result(figures["AP"], figures, how, int(_labelled(pose_set).any(1).sum()), kind="part")


def _aic(best_of: str) -> Count:
    def count(pose_set: PoseSet, predictions: Predictions, _: float) -> Result:
        from common.metrics.ai_challenger import THRESHOLDS, aic_map

        figures = aic_map(pose_set, predictions, best_of)
        by_threshold = {f"AP@{t:.2f}": ap for t, ap in zip(THRESHOLDS, figures["ap"])}
        ap = f"AP = {best_of}s whose best OKS is above / sum of max(persons, predictions) of the images"
        how = f"fractions; total = mean AP over OKS 0.50 to 0.95 in steps of 0.05; {ap}"
        counts = {"images_without_prediction": figures["images_missing"], "unknown_images": figures["unknown"]}
        if figures["unknown"]:
            what = f"{figures['unknown']} image ids of the predictions are not in {pose_set.name}/{pose_set.split}"
            warnings.warn(f"{what} and are left out, as the official evaluator does", stacklevel=2)
        return Result(figures["score"], by_threshold, how, figures["count"], kind="part", counts=counts)

    return count


_rule("aic_map", "visible", _BY_AREA, ("head_top", "neck"), by="image")(_aic("person"))
_rule("aic_map:compat", "visible", _BY_AREA, ("head_top", "neck"), by="image")(_aic("prediction"))
