"""Joint sets of the data sets as the original's settings name them (all_joints, all_joints_names), derived from the skeletons' names."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from common.errors import DataError
from common.skeletons import COCO17, LSP14, MPII14, PENN13, SKELETONS, Skeleton
from deepercut_tf.config import Config

# The original's words for the groups of two data sets; all others are called as in the skeleton.
_ORIGINAL_NAMES = {"mpii": {"upper_neck": "chin", "head_top": "forehead"}, "coco": {"wrist": "hand", "ankle": "foot"}}


def joint_groups(skeleton: Skeleton, dataset_type: str = "") -> tuple[list[list[int]], list[str]]:
    """(all_joints, all_joints_names): a pair of joints, or one, per group, in skeleton order."""
    names = _ORIGINAL_NAMES.get(dataset_type, {})
    return [list(members) for members in skeleton.groups.values()], [
        names.get(group, group) for group in skeleton.groups
    ]


def symmetric_order(all_joints: list[list[int]], count: int) -> np.ndarray:
    """(J,) the joint that each joint becomes in a mirrored image; groups of two are left-right pairs."""
    order = np.arange(count)
    for group in all_joints:
        if len(group) == 2:
            order[group[0]], order[group[1]] = group[1], group[0]
    return order


def mirror_joints(joints: np.ndarray, width: float, order: np.ndarray, shift: float = -1) -> np.ndarray:
    """(n,3) rows (id, x, y) in the mirrored image of `width` pixels: x' = width - x + shift, ids exchanged by `order`.

    `shift` is -1 for coordinates counted from 0 and +1 for those counted from 1. The original has -1 for `default` and COCO, 0 for MPII
    (wrong by one either way), +1 for Penn Action.
    """
    mirrored = joints.copy()
    mirrored[:, 0] = order[joints[:, 0].astype(int)]
    mirrored[:, 1] = width - joints[:, 1] + shift
    return mirrored


def skeleton_of_settings(config: Config) -> Skeleton:
    """The skeleton of a `default` data set: names from all_joints_names; a pair gets the sides right, left in the order of its ids.

    Joint sets that equal a known skeleton's groups (MPII's 14, LSP's) get that skeleton.
    """
    names = [""] * config.num_joints
    for group, name in zip(config.all_joints, config.all_joints_names):
        sides = ("right_", "left_") if len(group) == 2 else ("",)
        for joint, side in zip(group, sides):
            names[joint] = side + name
    for known, dataset_type in ((MPII14, "mpii"), (COCO17, "coco"), (LSP14, ""), (PENN13, "")):
        groups, words = joint_groups(known, dataset_type)
        if [sorted(g) for g in config.all_joints] == [sorted(g) for g in groups] and list(
            config.all_joints_names
        ) == words:
            return known
    skeleton = Skeleton("settings_" + "_".join(names), tuple(names))
    return SKELETONS.setdefault(skeleton.name, skeleton)


def check_joint_set(config: Config) -> None:
    """DataError when all_joints does not hold every joint 0..J-1 exactly once, or its names are of another number."""
    ids = sorted(j for group in config.all_joints or [] for j in group)
    if ids != list(range(config.num_joints or 0)) or len(config.all_joints_names or []) != len(config.all_joints or []):
        raise DataError(
            f"all_joints {config.all_joints} must hold each of the {config.num_joints} joints once, with one entry of all_joints_names a group"
        )


def with_joints(config: Config, skeleton: Skeleton, announce=print) -> Config:
    """The settings with the joint set of a data set's skeleton; says so where the file had another (the original did it silently)."""
    groups, names = joint_groups(skeleton, config.dataset_type)
    if config.num_joints not in (None, len(skeleton)):
        announce(
            f"warning: num_joints is {config.num_joints} in the settings, data set {config.dataset_type} has {len(skeleton)} joints and"
            " overrides it; use dataset_type: default for a joint set of your own"
        )
    return replace(config, num_joints=len(skeleton), all_joints=groups, all_joints_names=names)
