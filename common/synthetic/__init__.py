"""Synthetic stand-ins for the data sets: `python -m common.datasets.synthetic NAME ROOT [--count N] [--seed S]`.

Draws articulated, clothed people and writes them under ROOT in the official file layout of the data set NAME, so that
every loader, training and evaluation command runs without the real data. The same arguments give the same bytes. A file
`SYNTHETIC` marks the folder; a folder that holds anything else is never written to.

Labels come from the same projection as the picture, exact to a fraction of a pixel before the file format rounds them.
What remains is the guess at hidden joints, which the files mark where their format can. Colours say little: skin,
clothes and background are drawn anew for everybody, and the clutter holds skin-coloured, shaded tubes.
"""

from __future__ import annotations

import argparse
from importlib import import_module
from pathlib import Path

from common.datasets import NAMES, record
from common.errors import DataError
from common.runs.process import exit_code

_ONE = ("lsp", "lspet", "k2hpd", "penn_action", "jhmdb")


def make(name: str, root: str | Path, count: int | None = None, seed: int = 0) -> bool:
    """Draw the data set `name` under `root`; False when it was there already with the same arguments.

    `count` is the number of pictures (videos for penn_action and jhmdb) over all splits, at least 2; None takes the
    data set's default, or what is drawn there. DataError for a bad argument, or when `root` holds anything else.
    """
    from common.synthetic import folder

    number = record(name).drawn if count is None else count
    if number < 2 or seed < 0:
        raise DataError(f"--count {number}, --seed {seed}: at least 2, to train and to test on; a seed is 0 or more")
    module = import_module(f"common.synthetic.write_{'one' if name in _ONE else 'many'}")
    write, arguments = getattr(module, f"write_{name}"), {"dataset": name, "count": number, "seed": seed}
    return folder.build(Path(root), arguments, lambda fresh: write(fresh, number, seed), count is None and not seed)


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code (2 for bad input)."""
    parser = argparse.ArgumentParser(prog="python -m common.datasets.synthetic", description="Data sets, drawn")
    default = ", ".join(f"{name} {record(name).drawn}" for name in NAMES)
    parser.add_argument("name", metavar="NAME", choices=NAMES, help="data set: " + ", ".join(NAMES))
    parser.add_argument("root", metavar="ROOT", type=Path, help="folder to make: new, empty, or one that was made here")
    parser.add_argument("--count", type=int, help=f"pictures, or videos, over all splits (default: {default})")
    parser.add_argument("--seed", type=int, default=0, help="another seed draws other people (default: 0)")
    given = parser.parse_args(arguments)

    def draw() -> str:
        fresh, mark = make(**vars(given)), given.root.expanduser() / "SYNTHETIC"
        return "is drawn" if fresh else f"was drawn already ({', '.join(mark.read_text().splitlines()[-2:])})"

    return exit_code(draw, f"synthetic {given.name} {{}}: {given.root}")
