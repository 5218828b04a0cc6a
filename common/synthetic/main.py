"""Synthetic stand-ins for the data sets: `python -m common.datasets.synthetic NAME ROOT [--count N] [--seed S]`.

Draws articulated, clothed people and writes them under ROOT in the official file layout of the data set NAME, so that every loader,
training and evaluation command runs without the real data. The same arguments give the same bytes. A file `SYNTHETIC` marks the folder; a
folder that holds anything else is never written to.

What a network can reach: labels come from the same projection as the picture, exact to a fraction of a pixel before the file format
rounds them, and none is wrong, so the upper bound is 100 % of the visible joints. What remains is the guess at hidden ones, which the
files mark where their format can: 14 % of the joints in lsp, 23 % in coco, 10 % in penn_action. lspet, k2hpd and jhmdb hold hidden joints
without a mark, as the originals do. What scores without looking: the mean pose in each person's own joint box gets 11 % PCK@0.2 of the
torso in lsp, 6 % in lspet, 15 % in mpii, 12 % in coco, 23 % in penn_action, 11 % in k2hpd (measured on 300, 300, 100, 100 pictures, 12
videos, 150 pictures). Colours say little: skin, clothes and background are drawn anew for everybody, and the clutter holds skin-coloured,
shaded tubes.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

# Data set -> (module of common.synthetic, function, pictures (videos) when --count is not given)
_WRITERS = {
    "lsp": ("write_lsp", "write_lsp", 2000),
    "lspet": ("write_lsp", "write_lspet", 1000),
    "mpii": ("write_mpii", "write_mpii", 600),
    "coco": ("write_coco", "write_coco", 400),
    "penn_action": ("write_video", "write_penn", 24),
    "jhmdb": ("write_video", "write_jhmdb", 12),
    "k2hpd": ("write_k2hpd", "write_k2hpd", 1000),
    "ai_challenger": ("write_groups", "write_ai_challenger", 400),
    "json": ("write_groups", "write_json_format", 200),
}
NAMES = tuple(_WRITERS)


def make(name: str, root: str | Path, count: int | None = None, seed: int = 0) -> bool:
    """Draw the data set `name` under `root`; False when it was there already with the same arguments.

    `count` is the number of pictures (videos for penn_action and jhmdb) over all splits, at least 2; None takes the data set's default.
    Raises common.errors.DataError for a bad argument, or when `root` holds anything that was not drawn here.
    """
    from importlib import import_module

    from common.errors import DataError
    from common.synthetic import folder

    if name not in _WRITERS:
        raise DataError(f"unknown data set {name!r}; known: {', '.join(NAMES)}")
    module, function, default = _WRITERS[name]
    count = default if count is None else count
    if count < 2:
        raise DataError(f"--count {count}: at least 2, one to train and one to test on")
    if seed < 0:
        raise DataError(f"--seed {seed}: a seed is 0 or more")
    write = getattr(import_module(f"common.synthetic.{module}"), function)
    return folder.build(
        Path(root), {"dataset": name, "count": count, "seed": seed}, lambda fresh: write(fresh, count, seed)
    )


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code (2 for bad input)."""
    parser = argparse.ArgumentParser(prog="python -m common.datasets.synthetic", description=__doc__.split("\n")[0])
    defaults = ", ".join(f"{name} {default}" for name, (_, _, default) in _WRITERS.items())
    parser.add_argument("name", metavar="NAME", choices=NAMES, help="data set: " + ", ".join(NAMES))
    parser.add_argument(
        "root", metavar="ROOT", type=Path, help="folder to make; must not exist, be empty, or be one that was made here"
    )
    parser.add_argument("--count", type=int, help=f"pictures, or videos, over all splits (default: {defaults})")
    parser.add_argument("--seed", type=int, default=0, help="another seed draws other people (default: 0)")
    options = parser.parse_args(arguments)

    from common.errors import DataError

    try:
        fresh = make(options.name, options.root, options.count, options.seed)
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    state = "is drawn" if fresh else "was drawn already with these arguments"
    print(f"synthetic {options.name} {state}: {options.root}")
    return 0
