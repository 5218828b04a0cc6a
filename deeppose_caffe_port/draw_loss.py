"""Losses of a training log -> loss.data and a plot (the original's draw_loss).

python deeppose_caffe_port/draw_loss.py LOG [--out FOLDER]          # log of this program, or of Caffe itself
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)

from common.errors import DataError  # noqa: E402

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


def main(argv=None) -> int:
    """Exit code 0, or 2 with a message on bad input."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("log", type=Path, help="log file")
    parser.add_argument("--out", type=Path, help="folder for loss.data and loss.png (default: the log's)")
    args = parser.parse_args(argv)
    try:
        train, test = read_losses(args.log)
        folder = args.out or args.log.parent
        folder.mkdir(parents=True, exist_ok=True)
        write(folder, train, test)
    except (DataError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"written: {folder / 'loss.data'}, {folder / 'loss.png'}")
    return 0


def write(folder: Path, train: list, test: list) -> None:
    """loss.data (iteration and loss, a line each) and loss.png."""
    from common.files import atomic_write

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


if __name__ == "__main__":
    sys.exit(main())
