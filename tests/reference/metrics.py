"""Metrics and loaders as loops over persons and joints, the way the originals write them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np


def loop_pck(truth: np.ndarray, predicted: np.ndarray, first: int, second: int, threshold: float) -> list[float]:
    """PCK by joint in percent, one person and one joint at a time; normaliser = distance between joints `first` and
    `second`."""
    hits = [0] * truth.shape[1]
    for i in range(len(truth)):
        size = np.linalg.norm(truth[i, first] - truth[i, second])
        for j in range(truth.shape[1]):
            if np.linalg.norm(truth[i, j] - predicted[i, j]) <= threshold * size:
                hits[j] += 1
    return [100.0 * h / len(truth) for h in hits]


def loop_pcp(
    truth: np.ndarray, predicted: np.ndarray, ends: list[tuple[list[int], list[int]]], threshold: float
) -> list[float]:
    """Strict PCP by stick in percent, one person and one stick at a time; a stick's end is the middle of the joints
    listed for it."""
    hits = [0] * len(ends)
    for i in range(len(truth)):
        for k, (first, second) in enumerate(ends):
            a, b = truth[i][first].mean(0), truth[i][second].mean(0)
            length = np.linalg.norm(a - b)
            off_a = np.linalg.norm(a - predicted[i][first].mean(0)) / length
            off_b = np.linalg.norm(b - predicted[i][second].mean(0)) / length
            if off_a <= threshold and off_b <= threshold:
                hits[k] += 1
    return [100.0 * h / len(truth) for h in hits]


def loop_nms(
    joints: np.ndarray, score: np.ndarray, area: np.ndarray, threshold: float, sigmas: np.ndarray
) -> list[int]:
    """OKS-NMS one pair at a time."""
    order, keep = list(np.argsort(score, kind="stable")[::-1]), []
    while order:
        best = order.pop(0)
        keep.append(best)
        rest = []
        for other in order:
            squared = ((joints[best] - joints[other]) ** 2).sum(-1)
            overlap = np.exp(
                -squared / ((2 * sigmas) ** 2 * ((area[best] + area[other]) / 2 + np.spacing(1)) * 2)
            ).sum() / len(sigmas)
            if overlap <= threshold:
                rest.append(other)
        order = rest
    return keep


def loop_mpii(path: Path) -> np.ndarray:
    """(N,16,2) joints counted from 0, one value at a time."""
    out = []
    for person in json.loads(path.read_text(encoding="utf-8")):
        row = np.zeros((16, 2))
        for j in range(16):
            row[j] = (
                [np.nan, np.nan]
                if not person["joints_vis"][j]
                else [person["joints"][j][0] - 1, person["joints"][j][1] - 1]
            )
        out.append(row)
    return np.array(out)


def loop_lspet(path: Path) -> np.ndarray:
    """(N,14,2) joints, unusable ones NaN, one value at a time."""
    import scipy.io

    stored = scipy.io.loadmat(path)["joints"]
    out = []
    for i in range(stored.shape[2]):
        row = np.zeros((14, 2))
        for j in range(14):
            row[j] = [stored[j, 0, i], stored[j, 1, i]] if stored[j, 2, i] == 1 else [np.nan, np.nan]
        out.append(row)
    return np.array(out)
