"""sub-JHMDB: the joint that pose networks of 14 joints do not have (LSTM Pose Machines' evaluation)."""

from __future__ import annotations

import numpy as np

from common.skeletons import JHMDB15

# Of the way from the middle of the shoulders to the middle of the hips: half in x, 0.65 in y.
_BELLY = np.array([0.5, 0.65])


def with_belly(joints: np.ndarray) -> np.ndarray:
    """(N,15,2) joints in sub-JHMDB's order -> the same with the belly where the official evaluation puts it, between shoulders and hips."""
    shoulders, hips = (
        joints[:, JHMDB15.indices((f"right_{part}", f"left_{part}"))].mean(1) for part in ("shoulder", "hip")
    )
    joints = np.array(joints, np.float64)
    joints[:, JHMDB15.index("belly")] = shoulders + _BELLY * (hips - shoulders)
    return joints
