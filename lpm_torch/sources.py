"""Which files stand behind `--dataset` and `--data_dir` (no framework is imported here, so that missing data is said at once)."""

from __future__ import annotations

import functools

from common import datasets
from common.poses import PoseSet
from lpm_torch.config import data_root

LOADERS = {"PennAction": "penn_action", "MPII": "mpii", "JHMDB": "jhmdb"}


@functools.cache  # a run asks for the same split again and again
def load_pose_set(dataset: str, data_dir: str, split: str) -> PoseSet:
    """The PoseSet behind `--dataset NAME --data_dir DIR --split S`; LSP stands for LSP, LSPET or both, whichever DIR holds.

    The split `valid` of Penn Action is its test split, as in MP. DataMissing or DataError as the loaders raise them.
    """
    root = data_root(data_dir, dataset)
    if dataset == "LSP":
        from common.datasets.lsp import which

        return datasets.load(which(root), root, split)
    return datasets.load(LOADERS[dataset], root, "test" if (dataset, split) == ("PennAction", "valid") else split)
