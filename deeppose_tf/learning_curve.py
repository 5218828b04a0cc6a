"""Draw a run's log: accuracy and spread of the test persons, and both losses, over the steps.

python deeppose_tf/learning_curve.py out/mine                    # -> out/mine/learning_curve.png
python deeppose_tf/learning_curve.py out/mine --out curve.png
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)

from common.errors import DataError  # noqa: E402
from common.runs.first.process import exit_code  # noqa: E402

# (title of the axis, factor, {entry of log.jsonl: label}) from top to bottom
PANELS = (
    (
        "percent",
        100.0,
        {
            "test/mPCP": "PCP@0.5, mean of the parts",
            "test/PCKh": "PCKh@0.5, head stick",
            "test/spread": "spread, of the truth's",
        },
    ),
    ("pose loss", 1.0, {"loss": "training batch", "test/pose_loss": "test persons"}),
)


def series(entries: list[dict], name: str, factor: float = 1.0) -> tuple[list[int], list[float]]:
    """Steps and values of one entry of a log (`common.runs.runlog.read_log`), where it was written and is a number."""
    found = [(e["step"], e[name] * factor) for e in entries if isinstance(e.get(name), (int, float))]
    return [step for step, _ in found], [value for _, value in found]


def draw(entries: list[dict], path: str | Path, title: str = "") -> None:
    """Write the PNG. DataError when the log holds none of the entries."""
    from matplotlib.figure import Figure

    from common.files import atomic_write

    if not any(series(entries, name)[0] for _, _, names in PANELS for name in names):
        raise DataError("the log holds no losses and no scores yet")
    figure = Figure(figsize=(7, 6), layout="constrained")
    for axes, (label, factor, names) in zip(figure.subplots(len(PANELS), 1, sharex=True), PANELS):
        for name, legend in names.items():
            steps, values = series(entries, name, factor)
            axes.plot(
                steps, values, label=legend, linewidth=1, marker="o" if name.startswith("test/") else None, markersize=3
            )
        axes.set_ylabel(label)
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        axes.legend()
    axes.set_xlabel("step")
    figure.suptitle(title)
    atomic_write(path, lambda temporary: figure.savefig(temporary, dpi=110, format="png"))


def draw_run(run: Path, out: Path | None = None, title: str = "") -> Path:
    """Draw the log of a run's folder; the picture's path. DataError when there is no log."""
    from common.runs.runlog import read_log

    log, out = run / "log.jsonl", out or run / "learning_curve.png"
    if not log.is_file():
        raise DataError(f"{log} does not exist; give the folder that training wrote to (--o_dir)")
    draw(read_log(log), out, title)
    return out


def main(argv=None) -> int:
    """Exit code 0, or 2 with a message on bad input."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the run's folder (--o_dir of training)")
    parser.add_argument("--out", type=Path, help="the picture (default: RUN/learning_curve.png)")
    parser.add_argument("--title", default="", help="a line above it")
    args = parser.parse_args(argv)
    return exit_code(lambda: draw_run(args.run, args.out, args.title), "learning curve: {}")


if __name__ == "__main__":
    sys.exit(main())
