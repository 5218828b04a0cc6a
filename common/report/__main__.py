"""A page about one or several prediction files, for people to look at.

    python -m common.report --dataset lspet --data_root data/lspet --split 4001-5000 --predictions A.npz B.npz --out report.html

One file, which works offline: figures with 95 % intervals, paired differences between the files, curves, kinds of
errors, who is hard, calibration, best, worst and most disputed pictures, a table of all persons, and where everything
comes from. Exit code 2 when the data or a prediction file is not valid.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from common.evaluate import notes, parser, pose_set_of
from common.files import write_json, write_text
from common.importers import load_any
from common.runs.process import exit_code


def _run(args: argparse.Namespace) -> str:
    from common.report.page import differences, judge_all, page

    with notes():
        pose_set = pose_set_of(args)
        files = [(Path(path), load_any(path, pose_set)) for path in args.predictions]
        persons, draws, judged = judge_all(pose_set, files, args.protocol, max(args.bootstrap, 2), args.seed)
        text = page(persons, draws, judged, args.pictures)
    write_text(args.out, text)
    if args.json:
        names = " ".join(Path(name).name for name in args.predictions)
        what = f"--dataset {args.dataset} --data_root DIR --split {args.split} --predictions {names}"
        table = {"columns": ["protocol", "A", "B", "B - A [95 %]", "better"], "rows": list(differences(judged))}
        about = {"command": f"python -m common.report {what}", "note": f"{len(pose_set)} persons, bootstrap by image"}
        write_json(args.json, table | about)
    return f"{args.out}: {len(text.encode()) / 1e6:.1f} MB"


def main(argv=None) -> int:
    """Entry point; returns the exit code."""
    asked = parser("common.report", __doc__)
    add = asked.add_argument
    add("--predictions", required=True, nargs="+", metavar="FILE", help="whatever common.evaluate reads")
    add("--out", default="report.html", metavar="FILE", help="default: report.html")
    add("--pictures", type=int, default=24, metavar="N", help="pictures on the page (default: 24)")
    return exit_code(lambda: _run(asked.parse_args(argv)), "{}")


if __name__ == "__main__":
    sys.exit(main())
