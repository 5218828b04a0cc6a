"""Where a prediction goes wrong, joint by joint, and for whom.

Kinds of errors: Ronchi and Perona, "Benchmarking and Error Diagnosis in Multi-Instance Pose Estimation", ICCV 2017. With
the keypoint similarity s = exp(-d^2 / (2 (2 sigma)^2 A)) of COCO, d the distance of the predicted joint to a true one, A
the person's area (0.53 x the joints' box where the data set has none), sigma that of COCO for a joint of this name:
right s >= 0.85, jitter 0.5 <= s < 0.85; else inversion where the person's own joint of the other side has s >= 0.5, else
swap where this joint, or that of the other side, of another person in the picture has s >= 0.5; else miss, which is
also a joint that was not predicted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from scipy.optimize import linear_sum_assignment

from common import datasets
from common.metrics import Result
from common.metrics.coco import final_people
from common.metrics.oks import oks, sigmas_of
from common.poses import PoseSet, box_of_joints
from common.predictions import Predictions
from common.protocols import protocols_of
from common.skeletons import group_name

KINDS = ("right", "jitter", "inversion", "swap", "miss")
RIGHT, NEAR = 0.85, 0.5  # similarity from which a joint is right, and from which it is that joint at all
SAME = 0.1  # least OKS of a predicted and an annotated person that belong together
_OTHER_SIGMA = 0.079  # CrowdPose's of head and neck, for names that no data set has constants for


@dataclass
class Persons:
    """The counted persons of a PoseSet and what is known of them before any prediction."""

    pose_set: PoseSet
    rows: np.ndarray  # (P,) of the PoseSet
    area: np.ndarray  # (P,)
    sigmas: np.ndarray  # (J,)
    size: np.ndarray  # (P,) longer side of the joints' box, pixels
    rotation: np.ndarray  # (P,) degrees between trunk and upright, 0 to 180; NaN not known
    groups: dict[str, dict[str, np.ndarray]]  # what persons are grouped by -> label -> (P,) bool

    @property
    def truth(self) -> np.ndarray:
        """(P,J,2)."""
        return self.pose_set.joints[self.rows]

    @property
    def labelled(self) -> np.ndarray:
        """(P,J) bool."""
        return self.pose_set.visible[self.rows] > 0


@dataclass
class Judged:
    """One prediction file, person by person."""

    name: str
    predictions: Predictions
    results: dict[str, Result]
    joints: np.ndarray  # (P,J,2) of the person, NaN where none was found
    score: np.ndarray  # (P,J)
    similarity: np.ndarray  # (P,J) to the true joint; 0: not predicted
    kind: np.ndarray  # (P,J) index into KINDS, -1: not labelled
    right: np.ndarray  # (P,) what counts as right of the person by the main protocol
    counted: np.ndarray  # (P,) of how much
    extra: int = 0  # predicted persons that are none of the annotated
    samples: dict = field(default_factory=dict)  # protocol -> figures of the draws

    @property
    def share(self) -> np.ndarray:
        """(P,) percent right; NaN where nothing is counted."""
        whole = np.where(self.counted > 0, self.counted, np.nan)
        return 100 * self.right / whole


def persons_of(pose_set: PoseSet) -> Persons:
    """The persons that metrics count, with their sizes, areas and groups."""
    counted = (pose_set.visible > 0).any(1)
    rows = np.flatnonzero(counted if pose_set.ignore is None else counted & ~pose_set.ignore)
    tight = box_of_joints(pose_set.joints[rows])
    stated = np.full(len(rows), np.nan) if pose_set.area is None else pose_set.area[rows]
    area = np.where(np.nan_to_num(stated) > 0, stated, 0.53 * np.maximum(tight[:, 2] * tight[:, 3], 1.0))
    own = sigmas_of(pose_set)
    sigmas = _sigmas_by_name(pose_set) if own is None else own
    made = Persons(pose_set, rows, area, sigmas, tight[:, 2:].max(1), _turned(pose_set, rows), {})
    made.groups = _groups(made, tight)
    return made


def _sigmas_by_name(pose_set: PoseSet) -> np.ndarray:
    known: dict[str, float] = {}
    for record in (datasets.record(name) for name in ("crowdpose", "coco")):
        assert record.skeleton and record.sigmas
        known |= {group_name(joint): sigma for joint, sigma in zip(record.skeleton.joints, record.sigmas)}
    return np.array([known.get(group_name(joint), _OTHER_SIGMA) for joint in pose_set.skeleton.joints])


def _turned(pose_set: PoseSet, rows: np.ndarray) -> np.ndarray:
    """(P,) degrees that the trunk, from the hips to the shoulders, is turned away from upright."""
    names, joints = pose_set.skeleton.joints, pose_set.joints[rows]

    def middle(*choices: tuple[str, ...]) -> np.ndarray:
        chosen = next((c for c in choices if set(c) <= set(names)), None)
        return joints[:, pose_set.skeleton.indices(chosen)].mean(1) if chosen else np.full((len(rows), 2), np.nan)

    low = middle(("right_hip", "left_hip"), ("pelvis",), ("spine",))
    axis = middle(("right_shoulder", "left_shoulder"), ("thorax",), ("neck",)) - low
    return np.abs(np.degrees(np.arctan2(axis[:, 0], -axis[:, 1])))


def _groups(persons: Persons, tight: np.ndarray) -> dict[str, dict[str, np.ndarray]]:
    pose_set, rows, size = persons.pose_set, persons.rows, persons.size
    edges = np.unique(np.round(np.percentile(size, [25, 50, 75])))
    marks = [f"{edge:g}" for edge in edges]
    names = [f"below {marks[0]}", *(f"{a} to {b}" for a, b in zip(marks, marks[1:])), f"{marks[-1]} and more"]
    found = {"size of the person (joints' box, pixels)": _cut(size, edges, names)}
    turned = {
        "upright (below 30)": (0, 30),
        "leaning (30 to 60)": (30, 60),
        "lying (60 to 120)": (60, 120),
        "upside down (above 120)": (120, 181),
    }
    found["rotation of the trunk (degrees)"] = {
        n: (persons.rotation >= a) & (persons.rotation < b) for n, (a, b) in turned.items()
    }
    few = ("none", "1 to 3", "4 and more")
    for name, flag in (("joints marked as occluded", 1), ("joints without a label", 0)):
        found[name] = _cut((pose_set.visible[rows] == flag).sum(1), [1, 4], few)
    sizes = image_sizes(pose_set, rows)
    if np.isfinite(sizes).any():
        at = ((tight[:, :2] < 0.01 * sizes) | (tight[:, :2] + tight[:, 2:] > 0.99 * sizes)).any(1)
        found["truncation (a joint at the picture's border)"] = {"inside": ~at, "at the border": at}
    _, place, count = np.unique(pose_set.image_id[rows], return_inverse=True, return_counts=True)
    found["persons in the picture"] = _cut(count[place], [2, 4], ("1", "2 or 3", "4 and more"))
    return {name: cut for name, group in found.items() if len(cut := {n: m for n, m in group.items() if m.any()}) > 1}


def _cut(values: np.ndarray, edges, names: Sequence[str]) -> dict[str, np.ndarray]:
    place = np.digitize(values, edges)
    return {name: place == i for i, name in enumerate(names)}


def image_sizes(pose_set: PoseSet, rows: np.ndarray) -> np.ndarray:
    """(P,2) width and height, from the data set or the heads of the files; NaN where there is none."""
    if pose_set.image_size is not None:
        return pose_set.image_size[rows].astype(np.float64)
    from PIL import Image

    known: dict[str, tuple[float, float]] = {}
    for path in {pose_set.images[row] for row in rows}:
        try:
            with Image.open(path) as image:
                known[path] = image.size
        except OSError:
            known[path] = np.nan, np.nan
    return np.array([known[pose_set.images[row]] for row in rows], np.float64).reshape(-1, 2)


def judge(name: str, persons: Persons, predictions: Predictions, results: dict[str, Result]) -> Judged:
    """A prediction file, in the PoseSet's skeleton, person by person."""
    pose_set, rows, extra = persons.pose_set, persons.rows, 0
    if datasets.record(pose_set.name).by_image:
        joints, score, extra = _matched(persons, predictions)
    else:
        joints, score = predictions.joints[rows].astype(np.float64), predictions.score[rows].astype(np.float64)
    similarity = np.nan_to_num(_similarity(joints, persons.truth, persons))
    kind = np.where(persons.labelled, _kinds(persons, joints, similarity), -1)
    main = next((n for n, r in results.items() if r.tally is not None and len(r.tally.hits) == len(pose_set)), None)
    if main is None or protocols_of(pose_set.name)[next(iter(results))].by == "image":
        right, counted = oks(persons.truth, persons.labelled, persons.area, joints, persons.sigmas), np.ones(len(rows))
    else:
        tally = results[main].tally
        assert tally is not None
        right, counted = (
            (part[rows]).sum(1).astype(np.float64) for part in (tally.hits * tally.counted, tally.counted)
        )
    return Judged(name, predictions, results, joints, score, similarity, kind, right, counted, extra)


def _matched(persons: Persons, predictions: Predictions) -> tuple[np.ndarray, np.ndarray, int]:
    """Every annotated person's prediction: pairs of largest OKS together, of at least SAME."""
    joints = np.full(persons.truth.shape, np.nan)
    score, kept = np.zeros(joints.shape[:2]), final_people(predictions, sigmas=persons.sigmas)[0]
    by_image: dict = {}
    for row in kept.tolist():
        by_image.setdefault(predictions.image_id[row], []).append(row)
    here: dict = {}
    for person, image in enumerate(persons.pose_set.image_id[persons.rows].tolist()):
        here.setdefault(image, []).append(person)
    extra = len(kept)
    for image in here.keys() & by_image.keys():
        mine, found = here[image], by_image[image]
        guess = predictions.joints[found].astype(np.float64)
        truth, seen, area = persons.truth[mine], persons.labelled[mine], persons.area[mine]
        alike = oks(truth[:, None], seen[:, None], area[:, None], guess[None], persons.sigmas)
        for a, b in zip(*linear_sum_assignment(-alike)):
            if alike[a, b] >= SAME:
                joints[mine[a]], score[mine[a]] = guess[b], predictions.score[found[b]]
                extra -= 1
    return joints, score, extra


def _similarity(joints: np.ndarray, truth: np.ndarray, persons: Persons, rows=slice(None), sigmas=None) -> np.ndarray:
    squared = ((joints - truth) ** 2).sum(-1)
    return np.exp(-squared / (8 * (persons.sigmas if sigmas is None else sigmas) ** 2 * persons.area[rows, None]))


def _kinds(persons: Persons, joints: np.ndarray, similarity: np.ndarray) -> np.ndarray:
    mirror, truth = persons.pose_set.skeleton.mirror, persons.truth
    code = {name: i for i, name in enumerate(KINDS)}
    kind = np.full(similarity.shape, code["miss"])
    swapped = np.zeros(similarity.shape, bool)
    _, place = np.unique(persons.pose_set.image_id[persons.rows], return_inverse=True)
    order = np.argsort(place, kind="stable")
    for group in np.split(order, np.flatnonzero(np.diff(place[order])) + 1):
        for row in group if len(group) > 1 else ():
            others = truth[group[group != row]]
            for there in (others, others[:, mirror]):
                swapped[row] |= (np.nan_to_num(_similarity(joints[row], there, persons, [row])) >= NEAR).any(0)
    kind[swapped] = code["swap"]
    own = np.nan_to_num(_similarity(joints, truth[:, mirror], persons)) >= NEAR
    kind[own & (mirror != np.arange(len(mirror)))] = code["inversion"]
    kind[similarity >= NEAR] = code["jitter"]
    kind[similarity >= RIGHT] = code["right"]
    return kind


def calibration(judged: Judged, persons: Persons, bins: int = 10) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Mean score, share of joints right or jittered, and count, in bins of equally many joints; None without scores."""
    seen = persons.labelled & np.isfinite(judged.joints).all(-1) & np.isfinite(judged.score)
    score, good = judged.score[seen], judged.similarity[seen] >= NEAR
    if len(score) < 5 * bins or np.ptp(score) < 1e-6:
        return None
    parts = np.array_split(np.argsort(score, kind="stable"), bins)
    return (
        np.array([score[p].mean() for p in parts]),
        np.array([good[p].mean() for p in parts]),
        np.array(list(map(len, parts))),
    )


def dispute(persons: Persons, judged: list[Judged]) -> np.ndarray:
    """(P,) largest mean distance between the joints of two files, in square roots of the person's area."""
    worst = np.zeros(len(persons.rows))
    for i, first in enumerate(judged):
        for second in judged[i + 1 :]:
            distance = np.linalg.norm(first.joints - second.joints, axis=-1)
            known = np.isfinite(distance)
            mean = np.where(known, distance, 0).sum(1) / np.maximum(known.sum(1), 1)
            worst = np.maximum(worst, mean / np.sqrt(persons.area))
    return worst


def file_label(path: Path, taken: list[str]) -> str:
    """A short name that no other file has."""
    names = [path.stem, f"{path.absolute().parent.name}/{path.stem}", f"{path.stem} {len(taken) + 1}"]
    return next(name for name in names if name not in taken)
