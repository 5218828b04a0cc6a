"""Named protocols: which persons, joints, normaliser, threshold and aggregation make a figure that papers report under one name.

A name ends in `:compat` where an original counted differently from what its name says; the protocol then counts as the original did, as far
as joints in image pixels allow (its heat-map rounding is not repeated), and its aggregation sentence says how.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from common.errors import DataError
from common.metrics import mobilepose, pck, pckh, pcp, pdj
from common.metrics.counting import Result
from common.poses import PoseSet
from common.predictions import Predictions
from common.skeletons import COCO17, LPM14, MPII14, skeleton_map

# data set -> (split that published figures are on, boxes that the person crops of published figures come from)
SETTINGS = {
    "lsp": ("test", "none given: one person an image"),
    "lspet": ("train", "none given: one person an image"),
    "mpii": ("valid", "annotated centre and scale"),
    "coco": ("val2017", "detector or annotated: the prediction file says which"),
    "penn_action": ("test", "annotated person box of each frame"),
    "jhmdb": ("test", "box of the annotated puppet mask of each frame"),
    "k2hpd": ("test", "none: whole images"),
    "ai_challenger": ("valid", "detector or annotated: the prediction file says which"),
    "json": ("", "as the file gives them"),
}


@dataclass(frozen=True)
class Protocol:
    """One row of the registry. `score` takes the PoseSet and the predicted joints (N,J,2) in its skeleton and row order, NaN where there is
    no prediction; with `whole_file` it takes the PoseSet and the Predictions themselves, because persons are matched by overlap."""

    name: str
    visibility: str  # which annotated joints count: labelled (occluded ones too), visible, all
    normaliser: str
    threshold: float | None
    score: Callable[[PoseSet, np.ndarray], Result]
    needs: tuple[str, ...] = ()  # joint names, or PoseSet fields written as `.field`
    whole_file: bool = False

    @property
    def mode(self) -> str:
        """`compat` where an original counts differently, else `correct`; the name tells."""
        return "compat" if self.name.endswith(":compat") else "correct"

    def lacking(self, pose_set: PoseSet) -> list[str]:
        """What the protocol needs and `pose_set` does not have: joint names and fields."""
        have = set(pose_set.skeleton.joints)
        return [
            n
            for n in self.needs
            if (getattr(pose_set, n[1:]) is None if n.startswith(".") else not set(n.split("|")) & have)
        ]


_ARMS_AND_LEGS = tuple(
    f"{side}_{part}" for side in ("right", "left") for part in ("shoulder", "elbow", "wrist", "hip", "knee", "ankle")
)
_HEAD = ("head_top", "neck|upper_neck")


def _labelled(pose_set: PoseSet) -> np.ndarray:
    return _counted_rows(pose_set)[:, None] & (pose_set.visible > 0)


def _visible(pose_set: PoseSet) -> np.ndarray:
    return _counted_rows(pose_set)[:, None] & (pose_set.visible == 2)


def _counted_rows(pose_set: PoseSet) -> np.ndarray:
    return np.ones(len(pose_set), bool) if pose_set.ignore is None else ~pose_set.ignore.astype(bool)


def _pck_torso(threshold: float) -> Protocol:
    ends = ("left_shoulder", "right_hip")

    def score(pose_set: PoseSet, predicted: np.ndarray) -> Result:
        size = pck.length_between(pose_set.joints, pose_set.skeleton, *ends)
        how = f"hit: distance <= {threshold:g} x (left shoulder to right hip)"
        return pck.pck(pose_set.joints, predicted, _labelled(pose_set), size, threshold, pose_set.skeleton, how=how)

    return Protocol(f"pck_torso@{threshold:g}", "labelled", "left shoulder to right hip", threshold, score, ends)


def _auc_torso() -> Protocol:
    ends = ("left_shoulder", "right_hip")

    def score(pose_set: PoseSet, predicted: np.ndarray) -> Result:
        size = pck.length_between(pose_set.joints, pose_set.skeleton, *ends)
        return pck.auc(pose_set.joints, predicted, _labelled(pose_set), size, pose_set.skeleton)

    return Protocol("auc_torso", "labelled", "left shoulder to right hip", None, score, ends)


def _penn_torso(threshold: float) -> Protocol:
    def score(pose_set: PoseSet, predicted: np.ndarray) -> Result:
        size = pck.official_penn_torso(pose_set.joints, predicted, pose_set.skeleton)
        how = f"hit: distance <= {threshold:g} x (right shoulder to left hip; the prediction's own where that is under 1 px)"
        return pck.pck(pose_set.joints, predicted, _visible(pose_set), size, threshold, pose_set.skeleton, how=how)

    return Protocol(
        f"pck_torso@{threshold:g}",
        "visible",
        "right shoulder to left hip",
        threshold,
        score,
        ("right_shoulder", "left_hip"),
    )


def _pck_box(threshold: float, visibility: str) -> Protocol:
    def score(pose_set: PoseSet, predicted: np.ndarray) -> Result:
        size = pck.longer_side(pose_set.box)
        counted = _visible(pose_set) if visibility == "visible" else _labelled(pose_set)
        how = f"hit: distance <= {threshold:g} x longer side of the person box"
        return pck.pck(pose_set.joints, predicted, counted, size, threshold, pose_set.skeleton, how=how)

    return Protocol(f"pck_box@{threshold:g}", visibility, "longer side of the person box", threshold, score)


def _eval_pck(threshold: float) -> Protocol:
    """pose-tensorflow's script: 14 joints, the box is the one around a person's annotated joints, every joint has the same weight."""

    def score(pose_set: PoseSet, predicted: np.ndarray) -> Result:
        to_14 = skeleton_map(pose_set.skeleton, MPII14)
        truth, seen = to_14.apply(pose_set.joints, _labelled(pose_set))
        how = f"hit: distance <= {threshold:g} x longer side of the box around the annotated joints"
        return pck.pck(truth, to_14.apply(predicted), seen > 0, pck.extent(truth), threshold, MPII14, "unweighted", how)

    return Protocol(
        f"pck_box@{threshold:g}",
        "labelled, without pelvis and thorax",
        "longer side of the box around the joints",
        threshold,
        score,
    )


def _pckh(threshold: float, name: str = "") -> Protocol:
    compat = name.endswith(":compat")

    def score(pose_set: PoseSet, predicted: np.ndarray) -> Result:
        return pckh.pckh(
            pose_set.joints, predicted, _labelled(pose_set), pose_set.head_size, threshold, pose_set.skeleton, compat
        )

    return Protocol(
        name or f"pckh@{threshold:g}", "labelled", "0.6 x diagonal of the head box", threshold, score, (".head_size",)
    )


def _pckh_neck(threshold: float, symmetric: bool = False) -> Protocol:
    def score(pose_set: PoseSet, predicted: np.ndarray) -> Result:
        return pckh.pckh_neck(pose_set.joints, predicted, _labelled(pose_set), threshold, pose_set.skeleton, symmetric)

    name = f"pckh_neck{'_symmetric' if symmetric else ''}@{threshold:g}"
    return Protocol(name, "labelled, head top and neck too", "head top to neck", threshold, score, _HEAD)


def _pcp(
    threshold: float, relaxed: bool = False, total: str = "parts", needs: tuple[str, ...] = _HEAD + _ARMS_AND_LEGS
) -> Protocol:
    def score(pose_set: PoseSet, predicted: np.ndarray) -> Result:
        return pcp.pcp(pose_set.joints, predicted, _labelled(pose_set), pose_set.skeleton, threshold, relaxed, total)

    return Protocol(
        f"pcp_{'relaxed' if relaxed else 'strict'}@{threshold:g}",
        "labelled at both ends",
        "length of the stick",
        threshold,
        score,
        needs,
    )


def _pdj(threshold: float, diameter: tuple[str, str]) -> Protocol:
    def score(pose_set: PoseSet, predicted: np.ndarray) -> Result:
        return pdj.pdj(pose_set.joints, predicted, _labelled(pose_set), pose_set.skeleton, threshold, diameter)

    return Protocol(
        f"pdj@{threshold:g}",
        "labelled",
        f"{diameter[0]} to {diameter[1]}".replace("_", " "),
        threshold,
        score,
        diameter,
    )


def _pdj_torso(threshold: float) -> Protocol:
    def score(pose_set: PoseSet, predicted: np.ndarray) -> Result:
        return pdj.pdj_neck_to_hips(pose_set.joints, predicted, _labelled(pose_set), pose_set.skeleton, threshold)

    needs = ("neck", "right_hip", "left_hip")
    return Protocol(f"pdj_torso@{threshold:g}", "labelled", "neck to middle of hips", threshold, score, needs)


def _k2hpd(name: str, figure) -> Protocol:
    def score(pose_set: PoseSet, predicted: np.ndarray) -> Result:
        return figure(pose_set.joints, predicted, pose_set.skeleton)

    return Protocol(name, "all", "stick length and right shoulder to left hip", None, score)


def _as_mobilepose_reads(pose_set: PoseSet) -> np.ndarray:
    """(N,J,2) joints, on Penn Action with the file's placeholders of hidden joints, which stretch MobilePose's crop to the picture's corner.

    The annotation tool left them at about (1, 1), counted from 1; the loader drops them, so each is put back at the corner itself.
    """
    return np.nan_to_num(pose_set.joints, nan=0.0) if pose_set.name == "penn_action" else pose_set.joints


def _extent(threshold: float, needs: tuple[str, ...] = _HEAD + _ARMS_AND_LEGS) -> Protocol:
    """MobilePose's training accuracy, on its own 14 joints and crops, in image pixels."""

    def score(pose_set: PoseSet, predicted: np.ndarray) -> Result:
        batch = mobilepose.BATCH
        if pose_set.sequence is not None:  # a video is scored in whole clips, a batch has four of them
            rows = mobilepose.whole_clips(pose_set.sequence, pose_set.frame)
            pose_set, predicted, batch = pose_set.select(rows), predicted[rows], batch * mobilepose.CLIP_LENGTH
        to_lpm = skeleton_map(pose_set.skeleton, LPM14)
        truth, visible = to_lpm.apply(
            _as_mobilepose_reads(pose_set), np.where(_labelled(pose_set), pose_set.visible, 0)
        )
        box = mobilepose.crop_box(truth, pose_set.image_size, pose_set.box if pose_set.name == "mpii" else None)
        # it drops what LSP flags as occluded and Penn Action as not visible
        seen = visible == 2 if pose_set.name in ("lsp", "penn_action") else visible > 0
        size = mobilepose.extent_from_origin(truth, box)
        result = mobilepose.extent_accuracy(truth, to_lpm.apply(predicted), seen, size, threshold, LPM14, batch)
        how = f"{result.aggregation}; size = extent of the joints from the origin of the crop"
        unknown = " (not cut at the image border: its size is unknown)" if pose_set.image_size is None else ""
        return replace(result, aggregation=how + unknown)

    name = f"pck_extent@{threshold:g}:compat"
    return Protocol(name, "visible, without the neck", "extent from the crop's origin", threshold, score, needs)


def _penn_mobilepose(threshold: float) -> Protocol:
    """MobilePose's Penn Action table, mislabelled columns included; expects predictions in a skeleton with Penn Action's joints."""

    def score(pose_set: PoseSet, predicted: np.ndarray) -> Result:
        rows = mobilepose.whole_clips(pose_set.sequence, pose_set.frame)
        truth, seen = mobilepose.with_penn_neck(_as_mobilepose_reads(pose_set)[rows], pose_set.visible[rows] == 2)
        guess, _ = mobilepose.with_penn_neck(predicted[rows], pose_set.visible[rows] == 2)
        size = None if pose_set.image_size is None else pose_set.image_size[rows]
        side = pck.longer_side(mobilepose.crop_box(truth, size))
        result = mobilepose.penn_table(truth, guess, seen, side, threshold)
        return replace(
            result, aggregation=f"{result.aggregation}; the neck of a prediction is made from its head and shoulders"
        )

    name = f"penn_mobilepose@{threshold:g}:compat"
    return Protocol(
        name,
        "visible, whole clips of five frames",
        "longer side of the crop around the joints",
        threshold,
        score,
        ("head", ".sequence"),
    )


def _oks_ap() -> Protocol:
    def score(pose_set: PoseSet, predictions: Predictions) -> Result:
        from common.metrics.coco import oks_ap

        figures = oks_ap(pose_set, predictions)
        how = "fractions; total = AP, the mean over OKS 0.50 to 0.95 in steps of 0.05 (pycocotools)"
        return Result(figures["AP"], figures, how, int(_countable_persons(pose_set)), kind="part")

    return Protocol(
        "oks_ap",
        "labelled",
        "square root of the person's area, by joint constants",
        None,
        score,
        (*COCO17.joints, ".area"),
        whole_file=True,
    )


def _aic_map() -> Protocol:
    def score(pose_set: PoseSet, predictions: Predictions) -> Result:
        from common.metrics.ai_challenger import THRESHOLDS, aic_map

        figures = aic_map(pose_set, predictions)
        by_threshold = {f"AP@{t:.2f}": ap for t, ap in zip(THRESHOLDS, figures["ap"])}
        ap = "AP = predictions above / sum of max(persons, predictions) of the images"
        how = f"fractions; total = mean AP over OKS 0.50 to 0.95 in steps of 0.05; {ap}"
        counts = {"images_without_prediction": figures["images_missing"]}
        return Result(figures["score"], by_threshold, how, figures["count"], kind="part", counts=counts)

    return Protocol(
        "aic_map",
        "visible",
        "square root of the person box's area, by joint constants",
        None,
        score,
        ("head_top", "neck"),
        whole_file=True,
    )


def _countable_persons(pose_set: PoseSet) -> int:
    return (_counted_rows(pose_set) & (pose_set.visible > 0).any(1)).sum()


def _named(*protocols: Protocol) -> dict[str, Protocol]:
    return {protocol.name: protocol for protocol in protocols}


_LSP = _named(
    _pck_torso(0.2),
    _auc_torso(),
    _pcp(0.5),
    _pcp(0.5, relaxed=True),
    _pckh_neck(0.5),
    _pckh_neck(0.5, symmetric=True),
    _pdj(0.2, pdj.LSP_DIAMETER),
    _extent(0.2),
)
_K2HPD_NEEDS = ("head", "neck", "spine", "right_hand", "left_hand", "right_foot", "left_foot")

PROTOCOLS: dict[str, dict[str, Protocol]] = {
    "lsp": _LSP,
    "lspet": _LSP,
    "mpii": _named(
        _pckh(0.5),
        _pckh(0.1),
        # the original reads entry 11 of a grid of hundredths and calls it 0.1
        _pckh(0.11, "mean@0.1:compat"),
        _pckh_neck(0.5),
        _pckh_neck(0.5, symmetric=True),
        _pcp(0.5),
        _eval_pck(0.2),
        _extent(0.2),
    ),
    "coco": _named(_oks_ap()),
    "penn_action": _named(
        _pck_box(0.2, "visible"), _penn_torso(0.2), _penn_mobilepose(0.2), _extent(0.2, needs=("head", ".sequence"))
    ),
    "jhmdb": _named(_pck_box(0.2, "labelled"), _pck_torso(0.2)),
    "k2hpd": _named(
        *[_pdj(step * 5 / 100, pdj.K2HPD_DIAMETER) for step in range(1, 11)],
        *[_pdj_torso(step * 5 / 100) for step in range(1, 5)],
        _pcp(0.5, total="weighted", needs=_K2HPD_NEEDS),
        _k2hpd("accuracy:compat", pdj.k2hpd_accuracy),
        _k2hpd("loss:compat", pdj.euclidean_loss),
    ),
    "ai_challenger": _named(_aic_map()),
    # a user's own data: whatever its joints and fields allow
    "json": _named(
        _pck_torso(0.2),
        _auc_torso(),
        _pck_box(0.2, "labelled"),
        _pckh(0.5),
        _pckh(0.1),
        _pckh_neck(0.5),
        _pckh_neck(0.5, symmetric=True),
        _pcp(0.5),
        _pcp(0.5, relaxed=True),
        _pdj(0.2, pdj.LSP_DIAMETER),
        _oks_ap(),
    ),
}


def protocols_for(pose_set: PoseSet, names=None) -> list[Protocol]:
    """The protocols of the data set that `pose_set` allows, in the order of the registry, or those `names` (duplicates once).

    DataError for a name that the data set does not have, or for one that needs joints or fields that `pose_set` lacks.
    """
    known = PROTOCOLS.get(pose_set.name)
    if known is None:
        raise DataError(f"no protocols for data set {pose_set.name!r}; known: {', '.join(PROTOCOLS)}")
    if not names:
        return [protocol for protocol in known.values() if not protocol.lacking(pose_set)]
    chosen = []
    for name in dict.fromkeys(names):
        if name not in known:
            raise DataError(f"data set {pose_set.name} has no protocol {name!r}; it has {', '.join(known)}")
        lacking = [item.lstrip(".") for item in known[name].lacking(pose_set)]
        if lacking:
            raise DataError(
                f"protocol {name} needs {', '.join(lacking)}, which {pose_set.name}/{pose_set.split} in {pose_set.root or 'memory'} "
                "does not have"
            )
        chosen.append(known[name])
    return chosen
