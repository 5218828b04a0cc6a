"""Several people on one ground, some of them in front of others."""

from __future__ import annotations

import numpy as np

from common.synthetic.compose import Picture, Posing, add_occluder, make_stage, render, sample_figure
from common.synthetic.figure import Figure
from common.synthetic.shapes import Camera

_APART = 0.5  # metres between the pelvises of two people, so that bodies do not run through each other
_CROWD = Posing(postures=("stand", "walk", "sit", "hands_on_hips"), looseness=0.6, any_roll=0.0)


def draw_group(
    rng: np.random.Generator,
    posing: Posing,
    width: int,
    height: int,
    count: int,
    share: tuple[float, float],
    occluded: float,
) -> Picture:
    """A picture of `count` people; the first has a stature of `share` of the picture's height and is near the middle.

    About half of the others stand close to somebody, so that people hide each other.
    `occluded` is the chance of each of two things in front.
    """
    figures, camera = _arrange(rng, posing, width, height, count, share)
    return _picture(rng, figures, camera, width, height, occluded)


def draw_group_and_crowd(
    rng: np.random.Generator, posing: Posing, width: int, height: int, count: int, share: tuple[float, float]
) -> Picture:
    """The same with a crowd of 6 to 14 people far behind; these are the last in `people`."""
    figures, camera = _arrange(rng, posing, width, height, count, share)
    nearest = figures[0].joints["pelvis"][2]
    ground = max(f.points()[:, 1].max() for f in figures)
    x0, z0 = rng.uniform(-0.3, 0.3) * width, nearest * rng.uniform(2.5, 4.0)
    for _ in range(rng.integers(6, 15)):
        z = z0 * rng.uniform(0.9, 1.25)
        x = (x0 + rng.normal(0, 0.13) * width) * z / camera.focal
        figures.append(_stand(sample_figure(rng, _CROWD), x, ground, z))
    return _picture(rng, figures, camera, width, height, 0.1)


def _picture(
    rng: np.random.Generator, figures: list[Figure], camera: Camera, width: int, height: int, occluded: float
) -> Picture:
    stage = make_stage(rng, width, height, camera, clutter=(3, 14))
    for _ in range(2):
        if rng.random() < occluded:
            add_occluder(rng, stage, (0.08, 0.3), 0.5)
    return render(rng, stage, figures)


def _arrange(
    rng: np.random.Generator, posing: Posing, width: int, height: int, count: int, share: tuple[float, float]
) -> tuple[list[Figure], Camera]:
    focal = 1.1 * max(width, height)
    ground = rng.uniform(0.9, 1.9)  # metres below the camera
    first = sample_figure(rng, posing)
    z = focal * first.build.stature / (rng.uniform(*share) * height)
    places = [(0.0, z)]
    for _ in range(count - 1):
        places.append(_free_place(rng, places, z, width * z / focal))
    figures = [_stand(first, 0.0, ground, z)] + [
        _stand(sample_figure(rng, posing), x, ground, depth) for x, depth in places[1:]
    ]
    middle = focal * np.array([f[:2] / f[2] for f in figures[0].points()])
    aim = np.array([width * rng.uniform(0.25, 0.75), height * np.clip(rng.normal(0.52, 0.08), 0.35, 0.7)])
    return figures, Camera(focal, *(aim - (middle.min(0) + middle.max(0)) / 2))


def _free_place(
    rng: np.random.Generator, places: list[tuple[float, float]], z: float, span: float
) -> tuple[float, float]:
    """x and depth of the next person: close to one who is there already, or anywhere in view; not inside anybody."""
    for _ in range(20):
        if rng.random() < 0.5:
            near = places[rng.integers(len(places))]
            place = near[0] + rng.normal(0, 0.5), max(near[1] + rng.normal(0, 0.8), 1.2)
        else:
            depth = z * rng.uniform(0.8, 2.2)
            place = rng.uniform(-0.5, 0.5) * span * depth / z, depth
        if min(np.hypot(place[0] - x, place[1] - d) for x, d in places) > _APART:
            break
    return place


def _stand(figure: Figure, x: float, ground: float, z: float) -> Figure:
    """The figure with its lowest point on the ground."""
    return figure.moved(np.array([x, ground - figure.points()[:, 1].max(), z]))
