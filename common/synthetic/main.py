"""Synthetic stand-ins for the data sets: `python -m common.datasets.synthetic NAME ROOT [--count N] [--seed S]`.

Draws articulated, clothed people and writes them under ROOT in the official file layout of the data set NAME, so that
every loader, training and evaluation command runs without the real data. The same arguments give the same bytes. A file
`SYNTHETIC` marks the folder; a folder that holds anything else is never written to.

What a network can reach: labels come from the same projection as the picture, exact to a fraction of a pixel before the
file format rounds them, so the upper bound is 100 % of the visible joints. What remains is the guess at hidden ones,
which the files mark where their format can. Colours say little: skin, clothes and background are drawn anew for
everybody, and the clutter holds skin-coloured, shaded tubes.
"""

from __future__ import annotations

import argparse
import sys
from importlib import import_module
from pathlib import Path

from common.datasets import NAMES
from common.errors import DataError

# pictures (videos) when --count is not given
_COUNTS = {"lsp": 2000, "lspet": 1000, "mpii": 600, "coco": 400, "crowdpose": 400, "penn_action": 24, "jhmdb": 12}
_COUNTS |= {"k2hpd": 1000, "ai_challenger": 400, "json": 200}
_MODULES = {
    **dict.fromkeys(("lsp", "lspet", "k2hpd"), "write_one"),
    "penn_action": "write_video",
    "jhmdb": "write_video",
}


def make(name: str, root: str | Path, count: int | None = None, seed: int = 0) -> bool:
    """Draw the data set `name` under `root`; False when it was there already with the same arguments.

    `count` is the number of pictures (videos for penn_action and jhmdb) over all splits, at least 2; None takes the
    data set's default. DataError for a bad argument, or when `root` holds anything that was not drawn here.
    """
    from common.synthetic import folder

    if name not in NAMES:
        raise DataError(f"unknown data set {name!r}; known: {', '.join(NAMES)}")
    number = _COUNTS[name] if count is None else count
    if number < 2 or seed < 0:
        raise DataError(
            f"--count {number}, --seed {seed}: at least 2, one to train and one to test on; a seed is 0 or more"
        )
    write = getattr(import_module(f"common.synthetic.{_MODULES.get(name, 'write_many')}"), f"write_{name}")
    arguments = {"dataset": name, "count": number, "seed": seed}
    return folder.build(Path(root), arguments, lambda fresh: write(fresh, number, seed))


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code (2 for bad input)."""
    about = "Synthetic stand-ins for data sets."
    parser = argparse.ArgumentParser(prog="python -m common.datasets.synthetic", description=about)
    default = ", ".join(f"{name} {count}" for name, count in _COUNTS.items())
    parser.add_argument("name", metavar="NAME", choices=NAMES, help="data set: " + ", ".join(NAMES))
    parser.add_argument("root", metavar="ROOT", type=Path, help="folder to make: new, empty, or one that was made here")
    parser.add_argument("--count", type=int, help=f"pictures, or videos, over all splits (default: {default})")
    parser.add_argument("--seed", type=int, default=0, help="another seed draws other people (default: 0)")
    options = parser.parse_args(arguments)
    try:
        fresh = make(options.name, options.root, options.count, options.seed)
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    state = "is drawn" if fresh else "was drawn already with these arguments"
    print(f"synthetic {options.name} {state}: {options.root}")
    return 0
