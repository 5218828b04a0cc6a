"""Joint sets as the original's settings name them, from and to skeletons. A pair lists the right joint first."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from common.errors import DataError
from common.skeletons import COCO17, MPII14, PENN13, SKELETONS, Skeleton
from deepercut_tf.config import Config, require

# AI Challenger's joints in the places of COCO's, as the fork's converter has them (ai2coco_art_neckhead_json.py)
AIC17 = Skeleton("aic17", ("neck", "head_top", "unused_1", "unused_2", "unused_3", *COCO17.joints[5:]))
# what networks of a data set answer, where that is not the data set's own skeleton
NETWORK_SKELETONS = {"mpii": MPII14, "aic": AIC17}
SCORED_AS = {MPII14.name: "mpii16", AIC17.name: "aic14"}  # and the annotations' skeletons that they are scored in
# of the originals' weights, which hold no names
_KNOWN = {"coco": COCO17, "penn_action": PENN13, **NETWORK_SKELETONS}
# the original's words for the groups of two data sets; all others are called as in the skeleton
_WORDS = {"mpii": {"upper_neck": "chin", "head_top": "forehead"}, "coco": {"wrist": "hand", "ankle": "foot"}}


def joint_groups(skeleton: Skeleton, dataset: str = "") -> tuple[list[list[int]], list[str]]:
    """(all_joints, all_joints_names): a pair of joints, right one first, or one joint a group, in skeleton order."""
    words = _WORDS.get(dataset, {})
    right_first = [sorted(g, key=lambda i: skeleton.joints[i], reverse=True) for g in skeleton.groups.values()]
    return right_first, [words.get(group, group) for group in skeleton.groups]


def symmetric_order(all_joints: list[list[int]], count: int) -> np.ndarray:
    """(J,) the joint that each joint becomes in a mirrored image; groups of two are left-right pairs."""
    order = np.arange(count)
    for group in all_joints:
        order[group] = group[::-1]
    return order


def mirror_joints(joints: np.ndarray, width: float, order: np.ndarray, shift: float = -1) -> np.ndarray:
    """(n,3) rows (id, x, y) in the mirrored image of `width` pixels: x' = width - x + shift, ids exchanged by `order`.

    `shift`: -1 for coordinates from 0; the original has 0 for MPII (wrong by one either way), +1 for Penn Action.
    """
    mirrored = joints.copy()
    mirrored[:, 0] = order[joints[:, 0].astype(int)]
    mirrored[:, 1] = width - joints[:, 1] + shift
    return mirrored


def skeleton_of_settings(config: Config) -> Skeleton:
    """The data set's skeleton, else that of all_joints (right one first, as in all files of the originals) and
    all_joints_names. DataError when these are incomplete."""
    if config.dataset in _KNOWN:
        return _KNOWN[config.dataset]
    require(config, "num_joints", "all_joints", "all_joints_names", why="a joint set of one's own")
    groups, words = config.all_joints, config.all_joints_names
    if sorted(j for group in groups for j in group) != list(range(config.num_joints)) or len(words) != len(groups):
        raise DataError(f"all_joints {groups} must hold joints 0 to num_joints - 1 once, a group each of {words}")
    names = [""] * config.num_joints
    for group, word in zip(groups, words):
        if len(group) > 2:
            raise DataError(f"all_joints: group {group} ({word}) must be a joint, or a right and a left one")
        for joint, side in zip(group, ("right_", "left_") if len(group) == 2 else ("",)):
            names[joint] = f"{side}{word}"
    for dataset, known in (("mpii", MPII14), ("coco", COCO17), *(("", s) for s in SKELETONS.values())):
        own, own_words = joint_groups(known, dataset)
        if [sorted(g) for g in own] == [sorted(g) for g in groups] and own_words == words:
            return known
    try:
        return Skeleton("settings_" + "_".join(names), tuple(names))
    except ValueError as error:
        raise DataError(f"all_joints_names {words}: {error}") from error


def with_joints(config: Config, skeleton: Skeleton) -> Config:
    """The settings with the joint set of a skeleton; says so where they had another (the original did it silently)."""
    groups, names = joint_groups(skeleton, config.dataset)
    if config.num_joints not in (0, len(skeleton)):
        what = f"num_joints is {config.num_joints} in the settings, data set {config.dataset} has {len(skeleton)}"
        print(f"warning: {what} and overrides it; use dataset_type: default for a joint set of your own")
    return replace(config, num_joints=len(skeleton), all_joints=groups, all_joints_names=names)
