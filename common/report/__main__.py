"""A page about one or several prediction files, for people to look at.

    python -m common.report --dataset lspet --data_root data/lspet --split 4001-5000 --predictions A.npz B.npz --out report.html

One file, which works offline: figures with 95 % intervals, paired differences between the files, curves, kinds of
errors, who is hard, calibration, best, worst and most disputed pictures, a table of all persons, and where everything
comes from. Exit code 2 when the data or a prediction file is not valid.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from pathlib import Path


def parse_arguments(argv=None) -> argparse.Namespace:
    """The command line; argparse exits with code 2 on a bad one."""
    from common.datasets import NAMES

    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="python -m common.report", description=__doc__, formatter_class=form)
    add = parser.add_argument
    add("--dataset", required=True, choices=NAMES)
    add("--data_root", required=True, help="folder of the data set; pictures are shown where they are there")
    add("--split", required=True)
    add("--predictions", required=True, nargs="+", metavar="FILE", help="whatever common.evaluate reads")
    add("--protocol", action="extend", nargs="+", metavar="NAME", help="default: all that apply")
    add("--category", help="COCO's layout: id or name of the persons' category")
    add("--out", default="report.html", metavar="FILE", help="default: report.html")
    add("--json", type=Path, metavar="FILE", help="the paired differences as a file of figures for a README")
    add("--pictures", type=int, default=24, metavar="N", help="pictures on the page (default: 24)")
    add("--bootstrap", type=int, default=1000, metavar="N", help="draws for the intervals (default: 1000)")
    add("--seed", type=int, default=0, help="of the draws")
    return parser.parse_args(argv)


def main(argv=None) -> int:
    """Entry point; returns the exit code."""
    args = parse_arguments(argv)
    from common import datasets
    from common.errors import DataError
    from common.files import write_json, write_text
    from common.importers import load_any
    from common.report.page import differences, page

    options = {} if args.category is None else {"category": args.category}
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            pose_set = datasets.load(args.dataset, args.data_root, args.split, **options)
            files = [(Path(path), load_any(path, pose_set)) for path in args.predictions]
            text = page(pose_set, files, args.protocol, max(args.bootstrap, 2), args.seed, args.pictures)
        write_text(args.out, text)
        if args.json:
            found = differences(pose_set, files, args.protocol, max(args.bootstrap, 2), args.seed)
            names = " ".join(Path(name).name for name in args.predictions)
            command = f"python -m common.report --dataset {args.dataset} --data_root DIR --split {args.split} --predictions {names}"
            write_json(args.json, {**found, "command": command, "note": f"{len(pose_set)} persons, bootstrap by image"})
    except (DataError, OSError) as error:
        print(f"report: {error}", file=sys.stderr)
        return 2
    for note in dict.fromkeys(str(w.message) for w in caught):
        print(f"note: {note}", file=sys.stderr)
    print(f"{args.out}: {len(text.encode()) / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
