"""Losses of a training log -> loss.data and a plot (the original's draw_loss).

python deeppose_caffe_port/draw_loss.py LOG [--out FOLDER]          # train.log of this programme, or a log of Caffe
itself
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from common.errors import DataError
from common.runs.options import Parser
from common.runs.process import exit_code

_NUMBER = r"([-+]?(?:\d+\.?\d*(?:e[-+]?\d+)?|nan|inf))"
_TRAIN = re.compile(rf"Iteration (\d+)(?: \([^)]*\))?, loss = {_NUMBER}")
_TESTING = re.compile(r"Iteration (\d+), Testing net")
_TEST = re.compile(rf"Test net output #\d+: loss = {_NUMBER}")


def read_losses(path: Path) -> tuple[list[tuple[int, float]], list[tuple[int, float]]]:
    """(iteration, loss) of training and of testing. DataError when the log has none."""
    if not path.is_file():
        raise DataError(f"log {path} does not exist")
    train, test, now = [], [], 0
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        if match := _TRAIN.search(line):
            train.append((int(match[1]), float(match[2])))
        elif match := _TESTING.search(line):
            now = int(match[1])
        elif match := _TEST.search(line):
            test.append((now, float(match[1])))
    if not train:
        raise DataError(f"log {path} has no line `Iteration N ..., loss = L`; give the log of a training")
    return train, test


def draw(log: Path, out: str | None) -> Path:
    """Write loss.data (iteration and loss, a line each) and loss.png into a folder (default: the log's); returns it."""
    from common.files import atomic_write

    (train, test), folder = read_losses(log), Path(out) if out else log.parent
    folder.mkdir(parents=True, exist_ok=True)
    text = "".join(f"{iteration} {loss:g}\n" for iteration, loss in train)
    atomic_write(folder / "loss.data", lambda temporary: temporary.write_text(text, encoding="utf-8"))
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 5))
    for name, points in (("train", train), ("test", test)):
        if points:
            axes.plot(*zip(*points), label=name, linewidth=1 if name == "train" else 2)
    axes.set(xlabel="iteration", ylabel="loss", yscale="log")
    axes.legend()
    atomic_write(folder / "loss.png", lambda temporary: figure.savefig(temporary, dpi=120, format="png"))
    pyplot.close(figure)
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
