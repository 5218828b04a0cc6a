"""`python -m common.datasets check NAME ROOT`, `pack NAME ROOT`, and `browse NAME ROOT --out PNG`."""

from __future__ import annotations

import argparse
import sys
from importlib import import_module
from pathlib import Path

from common.datasets import NAMES
from common.runs.process import exit_code


def main(arguments: list[str] | None = None) -> int:
    """0 fine, 1 problems found, 2 invalid use or no such data."""
    parser = argparse.ArgumentParser(prog="python -m common.datasets", description="Look into a data set on disk.")
    commands = parser.add_subparsers(dest="command", required=True)
    check = commands.add_parser("check", help="counts, unreadable images, impossible values (then: exit code 1)")
    browse = commands.add_parser("browse", help="contact sheet of persons with their skeletons")
    pack = commands.add_parser("pack", help="all pictures into ROOT/images.lmdb, read from there ever after")
    for command in (check, browse, pack):
        command.add_argument("name", metavar="NAME", choices=NAMES, help=", ".join(NAMES))
        command.add_argument("root", metavar="ROOT", type=Path, help="folder of the data set")
        command.add_argument("--category", help="COCO's layout: the persons' category, where several have keypoints")
    for command in (check, browse):
        command.add_argument("--split", help="only this split (default: all that are there)")
    check.add_argument("--limit", type=int, help="open at most this many images a split, 0 for none (default: all)")
    browse.add_argument("--out", type=Path, required=True, metavar="PNG", help="picture to write")
    browse.add_argument("--count", type=int, default=24, help="how many persons (default %(default)s)")
    browse.add_argument("--seed", type=int, default=0, help="another seed shows other persons (default %(default)s)")
    given = vars(parser.parse_args(arguments))
    if (given.get("limit") or 0) < 0 or given.get("count", 1) < 1:
        parser.error("--limit is 0 or more, --count at least 1")
    command, category = given.pop("command"), given.pop("category")
    problems, module = list[str](), "pack" if command == "pack" else "check"

    def work() -> None:
        options = given | ({"category": category} if category else {})
        lines, problems[:] = getattr(import_module(f"common.datasets.{module}"), command)(**options)
        print("\n".join(lines))
        if command == "check":
            print("\n".join(f"PROBLEM {line}" for line in problems) or "no problem found")

    return exit_code(work) or int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
