"""Charts as SVG that takes its colours from the page: text in the page's, series in `--c0`, `--c1` ..., grid in `--line`."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

# colours that stand for the page's until the file is written
_INK, _GRID, _SERIES = "#010203", "#040506", [f"#0700{i:02x}" for i in range(8)]
_DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 2)), (0, (8, 2)), (0, (3, 3)))


Chart = tuple[str, Markup]  # title, drawing


def curves(series: Sequence[tuple[str, Any, Any]], x: str, y: str, title: str, diagonal: bool = False) -> Chart:
    """Lines (label, x values, y values) over one pair of axes; marks where there are at most a dozen values."""

    def draw(axes) -> None:
        if diagonal:
            axes.plot([0, 1], [0, 1], color=_GRID, linewidth=1)
        for i, (label, xs, ys) in enumerate(series):
            mark = {"marker": "osD^vP*X"[i % 8], "markersize": 4} if len(xs) <= 12 else {}
            axes.plot(xs, ys, label=label, color=_SERIES[i % 8], linestyle=_DASHES[i % 8], linewidth=1.8, **mark)
        axes.set(xlabel=x, ylabel=y)
        axes.set_ylim(bottom=0)
        if len(series) > 1:
            axes.legend(frameon=False, labelcolor=_INK, fontsize=9)

    return _svg(draw, (5.2, 3.4), title)


def whiskers(names: Sequence[str], series: Sequence[tuple[str, np.ndarray, np.ndarray]], x: str, title: str) -> Chart:
    """One row a name: points (label, (K,) values, (K,2) intervals), file under file."""

    def draw(axes) -> None:
        for i, (label, values, between) in enumerate(series):
            rows = np.arange(len(names)) + (i - (len(series) - 1) / 2) * 0.7 / max(len(series), 1)
            off = np.abs(between - values[:, None]).T
            form = {"fmt": "osD^vP*X"[i % 8], "markersize": 4, "elinewidth": 1.4, "color": _SERIES[i % 8]}
            axes.errorbar(values, rows, xerr=off, label=label, **form)
        axes.set_yticks(np.arange(len(names)), names)
        axes.invert_yaxis()
        axes.set_xlabel(x)
        if len(series) > 1:
            axes.legend(frameon=False, labelcolor=_INK, fontsize=9, loc="lower left", bbox_to_anchor=(0, 1), ncols=3)

    size = (6.4, 0.9 + (0.15 + 0.1 * len(series)) * len(names))
    return _svg(draw, size, title)


def _svg(draw, size: tuple[float, float], title: str) -> Chart:
    import matplotlib
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    axes = figure.add_subplot()
    draw(axes)
    axes.grid(color=_GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(colors=_INK, labelsize=9)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set(color=_INK, fontsize=9)
    for spine in axes.spines.values():
        spine.set(color=_GRID)
    file = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": title}):
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    text = file.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(
        r'<svg [^>]*?viewBox="([^"]*)"[^>]*>', rf'<svg viewBox="\1" role="img" aria-label="{title}">', text, count=1
    )
    text = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", text)
    for i, color in enumerate(_SERIES):
        text = text.replace(color, f"var(--c{i})")
    return title, Markup(text.replace(_INK, "currentColor").replace(_GRID, "var(--line)"))
