"""Who is who from one picture to the next: numbers by Munkres' algorithm, as in the original's demo.

Likeness is OKS where two poses share joints, else the overlap of their boxes; each known person is expected to have
moved on as fast as last seen, so that crossing persons keep their numbers, as do those found again within a second.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import numpy as np

from common.predictions import People

SIGMA = 0.08  # of every joint: the mean of COCO's
ALIKE = 0.1  # least likeness of the same person in two pictures
MEMORY = 1.0  # seconds
_INERTIA = 0.7  # share of the old speed in the new one


@dataclass
class Known:
    """A person as last seen."""

    time: float
    joints: np.ndarray  # (J,2)
    box: np.ndarray  # (4,)
    speed: np.ndarray | None = None  # (2,) pixels a second; None: seen once

    def at(self, time: float) -> Known:
        """Where the person should be now."""
        moved = np.zeros(2) if self.speed is None else self.speed * (time - self.time)
        return replace(self, joints=self.joints + moved, box=self.box + [*moved, 0, 0])


class Tracker:
    """Call it with the `People` of one picture after another and the seconds; returns them with numbers."""

    def __init__(self) -> None:
        self._known: dict[int, Known] = {}
        self._fresh = itertools.count()

    def __call__(self, people: People, time: float) -> People:
        """The same persons, `id` (P,) filled in: of the most alike person of the last second, else a new one."""
        self._known = {n: k for n, k in self._known.items() if time - k.time <= MEMORY}
        numbers = self._match(people, {n: k.at(time) for n, k in self._known.items()})
        for row, number in enumerate(numbers):
            seen = Known(time, people.joints[row], people.box[row])
            if (before := self._known.get(number)) and time > before.time:
                seen.speed = _speed(before, seen)
            self._known[number] = seen
        return replace(people, id=np.array(numbers, np.int64))

    def _match(self, people: People, expected: dict[int, Known]) -> list[int]:
        before = list(expected)
        found: list[int | None] = [None] * len(people)
        if before and len(people):
            rows = range(len(people))
            alike = np.array([[self._likeness(people, row, expected[n]) for n in before] for row in rows])
            for row, column in assign(1.0 - alike):
                if alike[row, column] >= ALIKE:
                    found[row] = before[column]
        return [next(self._fresh) if number is None else number for number in found]

    @staticmethod
    def _likeness(people: People, row: int, known: Known) -> float:
        distance = np.linalg.norm(people.joints[row] - known.joints, axis=-1)
        shared = np.isfinite(distance)
        if shared.sum() < 3:
            return box_overlap(people.box[row], known.box)
        area = max(float(np.prod(known.box[2:])), 1.0)
        # twice the deviation of labels: persons move between two pictures
        return float(np.exp(-(distance[shared] ** 2) / (2 * area * (4 * SIGMA) ** 2)).mean())


def _speed(before: Known, now: Known) -> np.ndarray:
    moved = (now.joints - before.joints)[np.isfinite(now.joints - before.joints).all(-1)]
    middles = now.box[:2] + now.box[2:] / 2 - before.box[:2] - before.box[2:] / 2
    speed = (moved.mean(0) if len(moved) else middles) / (now.time - before.time)
    return speed if before.speed is None else _INERTIA * before.speed + (1 - _INERTIA) * speed


def assign(cost: np.ndarray) -> list[tuple[int, int]]:
    """Pairs (row, column) of least total cost, each row and column at most once."""
    from munkres import Munkres

    return Munkres().compute(cost.tolist())


def box_overlap(first: np.ndarray, second: np.ndarray) -> float:
    """Intersection over union of two boxes x, y, w, h."""
    low = np.maximum(first[:2], second[:2])
    high = np.minimum(first[:2] + first[2:], second[:2] + second[2:])
    shared = float(np.prod(np.maximum(high - low, 0)))
    total = float(np.prod(first[2:]) + np.prod(second[2:])) - shared
    return shared / total if total > 0 else 0.0
