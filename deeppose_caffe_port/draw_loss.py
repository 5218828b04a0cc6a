"""Losses of a training log -> loss.data and loss.png beside it (the original's draw_loss).

python deeppose_caffe_port/draw_loss.py LOG      # train.log of this programme, or a log of Caffe
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from common.errors import DataError
from common.files import atomic_write, write_text
from common.runs.options import Parser
from common.runs.process import exit_code

_NUMBER = r"([-+]?(?:\d+\.?\d*(?:e[-+]?\d+)?|nan|inf))"
_LINE = re.compile(rf"Iteration (\d+)(?: \([^)]*\))?, loss = {_NUMBER}")


def draw(log: Path) -> Path:
    """Write loss.data (iteration and loss, a line each) and loss.png; returns their folder."""
    found = _LINE.findall(log.read_text(encoding="utf-8", errors="replace"))
    if not found:
        raise DataError(f"log {log} has no line `Iteration N ..., loss = L`; give the log of a training")
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 5))
    axes.plot([int(at) for at, _ in found], [float(loss) for _, loss in found])
    axes.set(xlabel="iteration", ylabel="loss", yscale="log")
    write_text(log.parent / "loss.data", "".join(f"{at} {float(loss):g}\n" for at, loss in found))
    atomic_write(log.parent / "loss.png", lambda temporary: figure.savefig(temporary, dpi=120, format="png"))
    return log.parent


def main(argv=None) -> int:
    """Exit code 0, or 2 with a message on bad input."""
    parser = Parser(__doc__)
    parser.add_argument("log", help="log file", metavar="LOG", type=Path)
    args = parser.parse_args(argv)
    return exit_code(lambda: draw(args.log), "loss.data and loss.png are in {}")


if __name__ == "__main__":
    sys.exit(main())
