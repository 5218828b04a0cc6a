"""Where a prediction goes wrong, joint by joint, and for whom.

Kinds of errors: Ronchi and Perona, "Benchmarking and Error Diagnosis in Multi-Instance Pose Estimation", ICCV 2017. With
the keypoint similarity s = exp(-d^2 / (2 (2 sigma)^2 A)) of COCO, d the distance of the predicted joint to a true one, A
the person's area (0.53 x the joints' box where the data set has none), sigma that of COCO for a joint of this name:
right s >= 0.85, jitter 0.5 <= s < 0.85; else inversion where the person's own joint of the other side has s >= 0.5, else
swap where this joint, or that of the other side, of another person in the picture has s >= 0.5; else miss, which is
also a joint that was not predicted.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from scipy.optimize import linear_sum_assignment

from common import datasets
from common.images import image_sizes
from common.intervals import Draws, Samples
from common.metrics import Result
from common.metrics.coco import final_people
from common.metrics.oks import oks, sigmas_of
from common.poses import PoseSet, box_of_joints
from common.predictions import Predictions
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

    @cached_property
    def truth(self) -> np.ndarray:
        """(P,J,2)."""
        return self.pose_set.joints[self.rows]

    @cached_property
    def labelled(self) -> np.ndarray:
        """(P,J) bool."""
        return self.pose_set.visible[self.rows] > 0


@dataclass
class Judged:
    """One prediction file, person by person."""

    path: Path
    name: str
    predictions: Predictions
    results: dict[str, Result]
    samples: dict[str, Samples | None]  # protocol -> figures of the draws
    joints: np.ndarray  # (P,J,2) of the person, NaN where none was found
    score: np.ndarray  # (P,J)
    similarity: np.ndarray  # (P,J) to the true joint; 0: not predicted
    kind: np.ndarray  # (P,J) index into KINDS, -1: not labelled
    right: np.ndarray  # (P,) what counts as right of the person by the main protocol
    counted: np.ndarray  # (P,) of how much
    extra: int  # predicted persons that are none of the annotated

    @property
    def share(self) -> np.ndarray:
        """(P,) percent right; NaN where nothing is counted."""
        return 100 * self.right / np.where(self.counted > 0, self.counted, np.nan)

    def draws(self, protocol: str, entry: str = "total") -> np.ndarray | None:
        """(B,) figures of the draws; None where there are none."""
        return (self.samples.get(protocol) or {}).get(entry)

    @property
    def unfound(self) -> int:
        """How many persons have no joint."""
        return int(np.isnan(self.joints).all((1, 2)).sum())

    def failures(self) -> list[tuple[str, int, np.ndarray]]:
        """Labelled joints and the percent of them of each kind: of all joints, then of each."""
        counts = np.stack([(self.kind == code).sum(0) for code in range(len(KINDS))], 1)
        table = np.concatenate([counts.sum(0, keepdims=True), counts])
        shares = 100 * table / np.maximum(table.sum(1, keepdims=True), 1)
        names = ("all joints", *(joint.replace("_", " ") for joint in self.predictions.skeleton.joints))
        return list(zip(names, table.sum(1).tolist(), shares))


def persons_of(pose_set: PoseSet) -> Persons:
    """The persons that metrics count, with their sizes, areas and groups."""
    rows = np.flatnonzero((pose_set.visible > 0).any(1) & pose_set.counted)
    tight, stated = box_of_joints(pose_set.joints[rows]), np.zeros(len(rows))
    if pose_set.area is not None:
        stated = np.nan_to_num(pose_set.area[rows])
    area = np.where(stated > 0, stated, 0.53 * np.maximum(tight[:, 2] * tight[:, 3], 1.0))
    sigmas = sigmas_of(pose_set)
    sigmas, size = _sigmas_by_name(pose_set) if sigmas is None else sigmas, tight[:, 2:].max(1)
    rotation = _rotation(pose_set, rows)
    groups = _groups(pose_set, rows, tight, size, rotation) if len(rows) else {}
    return Persons(pose_set, rows, area, sigmas, size, rotation, groups)


def _sigmas_by_name(pose_set: PoseSet) -> np.ndarray:
    known: dict[str, float] = {}
    for record in (datasets.record(name) for name in ("crowdpose", "coco")):
        assert record.skeleton and record.sigmas
        known |= dict(zip(map(group_name, record.skeleton.joints), record.sigmas))
    return np.array([known.get(group_name(joint), _OTHER_SIGMA) for joint in pose_set.skeleton.joints])


def _rotation(pose_set: PoseSet, rows: np.ndarray) -> np.ndarray:
    """(P,) degrees that the trunk, from the hips to the shoulders, is turned away from upright."""
    skeleton, ends = pose_set.skeleton, []
    for choices in ("right_hip left_hip", "pelvis", "spine"), ("right_shoulder left_shoulder", "thorax", "neck"):
        names = next((names for c in choices if set(names := c.split()) <= set(skeleton.joints)), None)
        middle = pose_set.joints[rows][:, skeleton.indices(names)].mean(1) if names else np.full((len(rows), 2), np.nan)
        ends.append(middle)
    x, y = (ends[1] - ends[0]).T
    return np.abs(np.degrees(np.arctan2(x, -y)))


def _groups(pose_set: PoseSet, rows, tight, size, rotation) -> dict[str, dict[str, np.ndarray]]:
    edges = np.unique(np.round(np.percentile(size, [25, 50, 75])))
    between = [f"{a:g} to {b:g}" for a, b in zip(edges, edges[1:])]
    names = (f"below {edges[0]:g}", *between, f"{edges[-1]:g} and more")
    turned = ("not known", "upright (below 30)", "leaning (30 to 60)", "lying (60 to 120)", "upside down (above 120)")
    found = {
        "size of the person (joints' box, pixels)": _cut(size, edges, names),
        "rotation of the trunk (degrees)": _cut(np.nan_to_num(rotation, nan=-1), [0, 30, 60, 120], turned),
    }
    few = ("none", "1 to 3", "4 and more")
    for name, flag in (("joints marked as occluded", 1), ("joints without a label", 0)):
        found[name] = _cut((pose_set.visible[rows] == flag).sum(1), [1, 4], few)
    sizes = pose_set.image_size
    sizes = image_sizes([pose_set.images[row] for row in rows]) if sizes is None else sizes[rows].astype(np.float64)
    if np.isfinite(sizes).any():
        at = ((tight[:, :2] < 0.01 * sizes) | (tight[:, :2] + tight[:, 2:] > 0.99 * sizes)).any(1)
        found["truncation (a joint at the picture's border)"] = _cut(at, [1], ("inside", "at the border"))
    _, place, count = np.unique(pose_set.image_id[rows], return_inverse=True, return_counts=True)
    found["persons in the picture"] = _cut(count[place], [2, 4], ("1", "2 or 3", "4 and more"))
    return {name: group for name, group in found.items() if len(group) > 1}


def _cut(values: np.ndarray, edges, names: Sequence[str]) -> dict[str, np.ndarray]:
    place = np.digitize(values, edges)
    return {name: place == i for i, name in enumerate(names) if (place == i).any()}


def judge(
    path: Path, persons: Persons, predictions: Predictions, results: dict[str, Result], draws: Draws | None = None
) -> Judged:
    """A prediction file, in the PoseSet's skeleton, person by person."""
    rows, by_image, extra = persons.rows, datasets.record(persons.pose_set.name).by_image, 0
    if by_image:
        joints, score, extra = _matched(persons, predictions)
    else:
        joints, score = predictions.joints[rows].astype(np.float64), predictions.score[rows].astype(np.float64)
    similarity = _similarity(joints, persons.truth, persons)
    kind = np.where(persons.labelled, _kinds(persons, joints, similarity), -1)
    tallies = (r.tally for r in results.values() if r.tally and len(r.tally.hits) == len(persons.pose_set))
    if by_image or (tally := next(tallies, None)) is None:
        right, counted = oks(persons.truth, persons.labelled, persons.area, joints, persons.sigmas), np.ones(len(rows))
    else:
        right, counted = (np.sum(part[rows], 1, float) for part in (tally.hits * tally.counted, tally.counted))
    samples = {name: draws.of(name, r, predictions) for name, r in results.items()} if draws else {}
    found = (joints, score, similarity, kind, right, counted, extra)
    return Judged(path, path.stem, predictions, results, samples, *found)


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


def _similarity(joints: np.ndarray, truth: np.ndarray, persons: Persons, rows=slice(None)) -> np.ndarray:
    squared = ((joints - truth) ** 2).sum(-1)
    return np.nan_to_num(np.exp(-squared / (8 * persons.sigmas**2 * persons.area[rows, None])))


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
                swapped[row] |= (_similarity(joints[row], there, persons, [row]) >= NEAR).any(0)
    kind[swapped] = code["swap"]
    own = _similarity(joints, truth[:, mirror], persons) >= NEAR
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
    means = (np.array([values[part].mean() for part in parts]) for values in (score, good))
    return *means, np.array([len(part) for part in parts])  # type: ignore[return-value]


def dispute(persons: Persons, judged: list[Judged]) -> np.ndarray:
    """(P,) largest mean distance between the joints of two files, in square roots of the person's area."""
    worst = np.zeros(len(persons.rows))
    for first, second in itertools.combinations(judged, 2):
        distance = np.linalg.norm(first.joints - second.joints, axis=-1)
        mean = np.nansum(distance, 1) / np.maximum(np.isfinite(distance).sum(1), 1)
        worst = np.maximum(worst, mean / np.sqrt(persons.area))
    return worst
