"""Pictures of score maps and persons."""

from __future__ import annotations

import numpy as np

from common.draw import draw_pose
from common.skeletons import Skeleton


def score_picture(image: np.ndarray, score: np.ndarray, alpha: float = 0.5) -> np.ndarray:
    """(H,W,3) uint8 BGR: the RGB `image` (H,W,3) under a (h,w) score map in jet colours, 0 blue to 1 red."""
    import cv2

    large = cv2.resize(
        np.clip(score, 0, 1).astype(np.float32), (score.shape[1] * 8, score.shape[0] * 8), interpolation=cv2.INTER_CUBIC
    )
    colors = cv2.applyColorMap((np.clip(large, 0, 1) * 255).astype(np.uint8), cv2.COLORMAP_JET)
    height, width = image.shape[:2]
    colors = colors[:height, :width]
    return cv2.addWeighted(
        np.ascontiguousarray(image[: colors.shape[0], : colors.shape[1], ::-1]), 1 - alpha, colors, alpha, 0
    )


def person_color(number: int) -> tuple[int, int, int]:
    """BGR of a person: hues far apart, bright and darker in turn."""
    import cv2

    hue = number * 67 % 180
    bright = 255 if number % 2 == 0 else 190
    return tuple(int(v) for v in cv2.cvtColor(np.uint8([[[hue, 230, bright]]]), cv2.COLOR_HSV2BGR)[0, 0])


def draw_people(
    image: np.ndarray, joints: np.ndarray, skeleton: Skeleton, colors: list[int] | None = None
) -> np.ndarray:
    """A copy of the BGR image with persons (P,J,2) (NaN: absent), each in a colour of its own; `colors` are their numbers."""
    for p, person in enumerate(joints):
        image = draw_pose(image, person, skeleton, color=person_color(p if colors is None else colors[p]))
    return image


class ColorTracker:
    """Keeps a person's colour from frame to frame: Hungarian matching of the means of the joints found, under 200 pixels."""

    REACH = 200.0

    def __init__(self):
        self.points, self.numbers = np.zeros((0, 2)), []

    def __call__(self, joints: np.ndarray) -> list[int]:
        """Colour numbers of the persons (P,J,2) of the next frame; a person without joints gets a new one."""
        from scipy.optimize import linear_sum_assignment

        present = np.isfinite(joints).all(-1)
        points = np.array(
            [person[seen].mean(0) if seen.any() else (np.inf, np.inf) for person, seen in zip(joints, present)]
        ).reshape(-1, 2)
        numbers: list[int | None] = [None] * len(points)
        with np.errstate(invalid="ignore"):
            distance = np.linalg.norm(points[:, None] - self.points[None], axis=-1)
        distance = np.where(np.isfinite(distance), distance, 1e9)
        for now, before in zip(*linear_sum_assignment(distance)):
            if distance[now, before] < self.REACH:
                numbers[now] = self.numbers[before]
        free = (n for n in range(10**9) if n not in numbers and n not in self.numbers)
        numbers = [next(free) if n is None else n for n in numbers]
        known = np.isfinite(points).all(1)
        self.points, self.numbers = points[known], [n for n, ok in zip(numbers, known) if ok]
        return numbers
