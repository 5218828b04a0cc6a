"""How often crossing persons change their numbers: `--track` against OKS without expected movement, and box overlap.

    python tests/bench/tracking.py switches [--films N] [--json OUT]

Drawn films of four persons alike who walk through each other, are hidden behind those in front and missed now and then.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import numpy as np

from tests.bench.harness import options, run

FRAMES, FPS, PERSONS = 75, 25.0, 4


def film(seed: int) -> list[tuple[float, np.ndarray, np.ndarray]]:
    """Frames (seconds, who is seen (P,), their joints (P,14,2)) in pixels, persons in random order."""
    rng = np.random.default_rng(seed)
    pose, swing = rng.uniform(-1, 1, (14, 2)) * [20, 60], rng.uniform(0, 6.28, (PERSONS, 14, 2))
    start, speed = rng.uniform(60, 580, PERSONS), rng.uniform(40, 220, PERSONS) * rng.choice([-1, 1], PERSONS)
    depth, frames = rng.permutation(PERSONS), []
    for time in np.arange(FRAMES) / FPS:
        middle = np.stack([start + speed * time, 200 + 6.0 * depth], 1)
        behind = (np.abs(middle[:, None, 0] - middle[None, :, 0]) < 26) & (depth[:, None] < depth[None])
        seen = rng.permutation(np.flatnonzero(~behind.any(1) & (rng.random(PERSONS) > 0.05)))
        joints = pose + middle[:, None] + 8 * np.sin(6 * time + swing)
        frames.append((float(time), seen, joints[seen] + rng.normal(0, 3, (len(seen), 14, 2))))
    return frames


def switches(tracker, frames) -> int:
    """How often a person has another number than when last seen."""
    from common.predictions import People

    number: dict[int, int] = {}
    count = 0
    for time, seen, joints in frames:
        for person, given in zip(seen.tolist(), tracker(People.of(joints), time).id.tolist()):
            count += number.get(person, given) != given
            number[person] = given
    return count


def bench_switches(args: Namespace) -> dict:
    """Switches over all films."""
    from common import tracking

    class Standing(tracking.Tracker):
        def __call__(self, people, time):
            for known in self._known.values():
                known.speed = None
            return super().__call__(people, time)

    class Boxes(Standing):
        @staticmethod
        def _likeness(people, row, known):
            return tracking.box_overlap(people.box[row], known.box)

    sides = {"--track": tracking.Tracker, "OKS, nobody moves on": Standing, "box overlap": Boxes}
    films = [film(seed) for seed in range(args.films)]
    rows = [[name, args.films, sum(switches(make(), one) for one in films)] for name, make in sides.items()]
    note = f"{PERSONS} persons alike, {FRAMES} frames at {FPS:g} a second, hidden behind each other"
    return {"columns": ["who is who by", "films", "switched numbers"], "rows": rows, "note": note}


def main(argv: list[str] | None = None) -> int:
    """Entry point."""
    words = sys.argv[1:] if argv is None else argv
    parser = options(__doc__, ("switches",), runs=1)
    parser.add_argument("--films", type=int, default=40)
    return run(parser.parse_args(words), {"switches": bench_switches}, words, __file__)


if __name__ == "__main__":
    sys.exit(main())
