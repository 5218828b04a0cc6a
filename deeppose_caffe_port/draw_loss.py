"""Losses of a training log -> loss.data and a plot (the original's draw_loss).

python deeppose_caffe_port/draw_loss.py LOG [--out FOLDER]      # train.log of this programme, or a log of Caffe
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from common.errors import DataError
from common.files import atomic_write
from common.runs.options import Parser
from common.runs.process import exit_code

_NUMBER = r"([-+]?(?:\d+\.?\d*(?:e[-+]?\d+)?|nan|inf))"
_LINES = re.compile(
    rf"Iteration (?P<at>\d+)(?: \([^)]*\))?, (?:loss = (?P<train>{_NUMBER})|Testing net)"
    rf"|Test net output #\d+: loss = (?P<test>{_NUMBER})"
)


def draw(log: Path, out: str | None) -> Path:
    """Write loss.data (iteration and loss, a line each) and loss.png into a folder (default: the log's); returns it."""
    losses, now, folder = {"train": [], "test": []}, 0, Path(out) if out else log.parent  # type: ignore[var-annotated]
    for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
        if match := _LINES.search(line):
            now = int(match["at"] or now)
            for kind, points in losses.items():
                points += [(now, float(match[kind]))] if match[kind] else []
    if not losses["train"]:
        raise DataError(f"log {log} has no line `Iteration N ..., loss = L`; give the log of a training")
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 5))
    for name, points in losses.items():
        axes.plot([at for at, _ in points], [loss for _, loss in points], label=name)
    axes.set(xlabel="iteration", ylabel="loss", yscale="log")
    axes.legend()
    folder.mkdir(parents=True, exist_ok=True)
    text = "".join(f"{iteration} {loss:g}\n" for iteration, loss in losses["train"])
    atomic_write(folder / "loss.data", lambda temporary: temporary.write_text(text, encoding="utf-8"))
    atomic_write(folder / "loss.png", lambda temporary: figure.savefig(temporary, dpi=120, format="png"))
    return folder


def main(argv=None) -> int:
    """Exit code 0, or 2 with a message on bad input."""
    parser = Parser(__doc__)
    parser.source("log", "log file", metavar="LOG", type=Path)
    parser.options("out")
    args = parser.parse_args(argv)
    return exit_code(lambda: draw(args.log, args.out), "loss.data and loss.png are in {}")


if __name__ == "__main__":
    sys.exit(main())
