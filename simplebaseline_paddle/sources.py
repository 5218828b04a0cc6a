"""Which files stand behind `--dataset` and `--data_root` (no framework is imported here, so that missing data is said at once)."""

from __future__ import annotations

from common import datasets
from common.poses import PoseSet
from simplebaseline_paddle.config import data_root

# `train` and `valid` where a data set calls them otherwise
_SPLITS = {("lsp", "valid"): "test", ("penn_action", "valid"): "test", ("jhmdb", "valid"): "test"}


def load_pose_set(dataset: str, root: str | None, split: str) -> PoseSet:
    """The PoseSet of a split; DataMissing or DataError as the loaders raise them."""
    return datasets.load(dataset, data_root(root, dataset), _SPLITS.get((dataset, split), split))
